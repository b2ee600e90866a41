"""All benchmarks, or those named: ``python benchmarks/run.py [NAME …]``. See README.md."""

from __future__ import annotations

import sys

from conversion import bench_conversion
from lane import bench_lane
from large_download import bench_download
from offload import bench_offload
from overhead import bench_overhead
from startup import bench_command, bench_help
from terminal import bench_terminal
from through_gateway import bench_gateway
from values import bench_values
from worker import bench_worker

BENCHMARKS = {
    "help": bench_help,
    "command": bench_command,
    "overhead": bench_overhead,
    "terminal": bench_terminal,
    "gateway": bench_gateway,
    "worker": bench_worker,
    "lane": bench_lane,
    "download": bench_download,
    "conversion": bench_conversion,
    "values": bench_values,
    "offload": bench_offload,
}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            raise SystemExit(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
