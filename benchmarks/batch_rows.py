"""A batch of 10,000 and of 100,000 rows, read from a table: until its first run could be sent."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, size

from comfy_remote.batch.checking import check_values
from comfy_remote.batch.plan import Plan, Variation, plan_of
from comfy_remote.workflow.files import FileSearch
from comfy_remote.workflow.load import load_workflow
from comfy_remote.workflow.schema import Schemas

_WORKFLOW = ROOT / "comfy_remote/workflow/data/text_to_image.json"
_COUNTS = (size(10_000, 100), size(100_000, 1_000))


def bench_batch_rows() -> None:
    """Processor time and peak memory, each count in a process of its own."""
    for count in _COUNTS:
        subprocess.run([sys.executable, __file__, str(count)], check=True, timeout=600)


def _table(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "seed", "KSampler.cfg"])
        for number in range(count):
            text = f"picture {number}: a lighthouse at dawn, fog, long exposure, 35 mm"
            rows.writerow([text, number, 4 + number % 8 / 2])


def _ready(table: Path, folder: Path) -> Plan:
    """Read, checked, frozen, and its first and last rows known."""
    schemas = Schemas.bundled()
    prompt = load_workflow(_WORKFLOW).prompt
    assert prompt is not None
    plan = plan_of(Variation(rows=table), prompt, folder=table.parent, schemas=schemas)
    assert not check_values(plan, prompt, schemas, FileSearch())
    plan.save(folder)
    plan = Plan.load(folder)
    plan.changes(0)
    plan.changes(plan.count - 1)
    return plan


def main() -> None:
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.csv"
        _table(table, count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        plan = _ready(table, Path(folder) / "plan")
        seconds = time.process_time() - began
        assert plan.count == count
        began = time.process_time()
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                json.dumps(row)
        bare = time.process_time() - began
        plan.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    more, peak_mib = (peak - before) / 1024, peak / 1024  # KiB on Linux
    print(
        f"batch-rows, {count:,}: {seconds:.2f} s of processor time until the first run could be "
        f"sent (csv and json alone {bare:.2f} s), {more:.0f} MiB more memory, {peak_mib:.0f} in all"
    )


if __name__ == "__main__":
    main()
