"""All benchmarks, or those named: ``python benchmarks/run.py [NAME …]``. See README.md."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from common import Skipped

BENCHMARKS = {
    "help": "startup:bench_help",
    "command": "startup:bench_command",
    "overhead": "overhead:bench_overhead",
    "terminal": "terminal:bench_terminal",
    "gateway": "through_gateway:bench_gateway",
    "gateway-jobs": "gateway_queue:bench_jobs",
    "gateway-submit": "gateway_queue:bench_submit",
    "gateway-stored": "gateway_queue:bench_stored",
    "gateway-results": "gateway_queue:bench_results",
    "gateway-growth": "gateway_queue:bench_growth",
    "gateway-start": "fleet:bench_start",
    "fleet": "fleet:bench_fleet",
    "ray-fleet": "ray_fleet:bench_ray_fleet",
    "ray-scale": "ray_fleet:bench_ray_scale",
    "gateway-joined": "joined:bench_joined",
    "estimate": "estimate:bench_estimate",
    "worker": "worker:bench_worker",
    "sdk-jobs": "sdk_jobs:bench_sdk_jobs",
    "models": "models:bench_models",
    "sync": "sync:bench_sync",
    "lane": "lane:bench_lane",
    "download": "large_download:bench_download",
    "conversion": "conversion:bench_conversion",
    "values": "values:bench_values",
    "offload": "offload:bench_offload",
    "page-load": "page_load:bench_page_load",
    "page-cost": "page_cost:bench_page_cost",
    "page-typing": "page_typing:bench_page_typing",
    "batch": "batch:bench_batch",
    "sheet": "sheet:bench_sheet",
    "batch-rows": "batch_rows:bench_batch_rows",
    "spend": "spend:bench_spend",
    "route": "route:bench_route",
    "cache": "cache:bench_cache",
    "api-jobs": "comfy_api:bench_jobs",
    "api-latency": "comfy_api:bench_latency",
    "api-upload": "comfy_api:bench_upload",
    "api-events": "comfy_api:bench_events",
}
"""The function of each, as ``module:function``."""


def main() -> None:
    names = sys.argv[1:] or [*BENCHMARKS]
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SystemExit(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    if len(names) == 1:
        run(names[0])
        return
    # Each in a process of its own: none is measured in what another has left behind, and one
    # that fails does not keep the others from running.
    failed = [name for name in names if subprocess.run([sys.executable, __file__, name]).returncode]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(name: str) -> None:
    """One benchmark, in this process."""
    module, function = BENCHMARKS[name].split(":")
    try:
        getattr(import_module(module), function)()
    except Skipped as why:
        print(f"{name}: skipped, {why}")


if __name__ == "__main__":
    main()
