"""What earlier jobs have seen of how long workers take to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from record_sql import sql

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.starts import learned_starts
from comfy_remote.workflow.prompt import Prompt


def prompt(steps: int) -> Prompt:
    return {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
        "2": {"class_type": "KSampler", "inputs": {"latent_image": ["1", 0], "steps": steps}},
    }


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "home") as made:
        yield made


class Past:
    """Jobs of before, each after the end of the last one."""

    def __init__(self, record: Record) -> None:
        self.record, self.now, self.count = record, 1000.0, 0

    def ran(self, waited: float, seconds: float, *, steps: int = 20, target: str = "gpu") -> None:
        self.count += 1
        job = f"job-{self.count}"
        self.record.add(job, target=target, source="x", folder=None, prompt=prompt(steps))
        self.record.state(job, JobState.SUCCEEDED)
        ended = self.now + waited + seconds
        sql(
            self.record.path,
            "UPDATE jobs SET created = ?, started = ?, updated = ?, run_seconds = ? WHERE id = ?",
            *(self.now, self.now + waited, ended, seconds, job),
        )
        self.now = ended + 1


def test_nothing_is_known_before_a_job_had_to_wait(record: Record) -> None:
    assert learned_starts(record, "gpu") is None
    Past(record).ran(0.5, 10)
    assert learned_starts(record, "gpu") is None


def test_one_start_alone(record: Record) -> None:
    Past(record).ran(42, 60)
    found = learned_starts(record, "gpu")
    assert found is not None
    assert found.sentence("gpu") == (
        "A worker of gpu took 42 s to start, the one time that a job saw it."
    )
    assert found.to_json() == {
        "usual": 42.0,
        "shortest": 42.0,
        "longest": 42.0,
        "count": 1,
        "first_run_longer": None,
    }


def test_several_starts_and_what_the_first_run_took_longer(record: Record) -> None:
    past = Past(record)
    past.ran(90, 45)
    past.ran(0.3, 10)
    past.ran(0.3, 20, steps=40)  # twice the work
    past.ran(40, 55)
    past.ran(70, 70, steps=40)
    past.ran(300, 999, target="other")
    found = learned_starts(record, "gpu")
    assert found is not None
    assert found.waited == (70, 40, 90)
    assert found.longer == pytest.approx(45, abs=2)  # of 50, 45 and 35
    assert found.sentence("gpu") == (
        "A worker of gpu takes about 70 s to start (40 s to 90 s, the last 3 times); its first run "
        "takes about 45 s longer than others, in which ComfyUI starts and models are loaded."
    )


def test_only_the_last_ten_count(record: Record) -> None:
    past = Past(record)
    past.ran(500, 10)
    for _ in range(10):
        past.ran(20, 10)
    found = learned_starts(record, "gpu")
    assert found is not None
    assert set(found.waited) == {20}
