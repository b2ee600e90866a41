"""A ledger of 10,000 runs: what `spend` takes, and what reserving adds to recording a job."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from common import our_command, size

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.caps import Cap
from comfy_remote.schedule.money import Charge, Price
from comfy_remote.workflow.prompt import Prompt

_COUNT = size(10_000, 200)
_ROUNDS = size(200, 10)
_PROMPT: Prompt = {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1}}}
_CHARGE = Charge("gpu", Price(0.69, "your settings"), 600.0, expected=30.0)
_CAPS = [Cap(1e9, "job"), Cap(1e9, "day"), Cap(1e9, "month"), Cap(1e9, "day", "gpu")]


def bench_spend() -> None:
    """The whole command, and one job recorded with and without a charge, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        with Record(Path(folder)) as record:
            for number in range(_COUNT):
                _add(record, _CHARGE, number)
            took: dict[bool, list[float]] = {True: [], False: []}
            for number in range(_ROUNDS):
                for charged in (True, False):
                    began = time.perf_counter()
                    _add(record, _CHARGE if charged else None, number, end=False)
                    took[charged].append((time.perf_counter() - began) * 1000)
        environment = {**os.environ, "COMFY_REMOTE_HOME": folder}
        command = [our_command("comfy-remote"), "spend"]
        for by in ("target", "day", "workflow", "batch"):
            print(f"spend, {_COUNT:,} runs, by {by}: {_best(command, by, environment):.2f} s")
        floor = _best([our_command("comfy-remote"), "jobs", "list", "--offline"], "", environment)
        print(f"spend: `jobs list` of 20 of them takes {floor:.2f} s")
    plain, charged = statistics.median(took[False]), statistics.median(took[True])
    print(
        f"spend: a job is recorded in {plain:.2f} ms, under four caps in {charged:.2f} ms: "
        f"{charged - plain:+.2f} ms"
    )


def _add(record: Record, charge: Charge | None, number: int, *, end: bool = True) -> None:
    job, source = str(uuid.uuid4()), f"portrait{number % 20}.json"
    record.add(
        job, target="gpu", source=source, folder=None, prompt=_PROMPT, charge=charge, caps=_CAPS
    )
    if end:
        record.state(job, JobState.SUCCEEDED, billed=31.0)


def _best(command: list[str], by: str, environment: dict[str, str]) -> float:
    """Seconds of the quickest of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        more = ["--by", by] if by else []
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, env=environment)
        times.append(time.perf_counter() - began)
    return min(times)
