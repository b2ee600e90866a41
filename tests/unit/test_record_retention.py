"""Which jobs the record forgets, and never those whose outputs are still owed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from record_sql import sql

from comfy_remote.errors import ExecutionFailed
from comfy_remote.events import JobState
from comfy_remote.jobs.record import SAVED_BEFORE, JobFilter, Record, Retention, SavedOutput
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {"1": {"class_type": "A", "inputs": {"seed": 1}}}
DAY = 86400.0
NONE = Retention(seconds=0, jobs=0)
MANY = 64  # jobs, after which some are forgotten


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "home") as made:
        yield made


def add(
    record: Record, job_id: str, state: JobState, *, saved: bool = False, age: float = 0
) -> str:
    """A job for the folder ``/out`` in a state; its age in days."""
    record.add(job_id, target="gpu", source="x.json", folder=Path("/out"), prompt=PROMPT)
    record.state(job_id, state)
    if saved:
        path = Path("/out/x.png")
        record.saved(job_id, [SavedOutput(path, "1", "image", "x.png", "0" * 64, 3)])
    then = time.time() - age * DAY
    sql(record.path, "UPDATE jobs SET created = ?, updated = ? WHERE id = ?", then, then, job_id)
    return job_id


def left(record: Record) -> set[str]:
    return {entry.id for entry in record.newest(100_000)}


def test_what_is_owed_stays_whatever_its_age(record: Record) -> None:
    stays = {
        add(record, "waits", JobState.QUEUED, age=999),
        add(record, "runs", JobState.RUNNING, age=999),
        add(record, "to-be-fetched", JobState.SUCCEEDED, age=999),
        add(record, "failed-with-some", JobState.QUEUED, age=999),
        add(record, "for-a-page", JobState.CANCELLED, age=999),
    }
    error = ExecutionFailed("It failed.", details={SAVED_BEFORE: 2})
    record.state("failed-with-some", JobState.FAILED, error, at=0)
    sql(record.path, "UPDATE jobs SET page = '{}' WHERE id = 'for-a-page'")
    goes = {
        add(record, "fetched", JobState.SUCCEEDED, saved=True, age=999),
        add(record, "failed", JobState.FAILED, age=999),
        add(record, "cancelled", JobState.CANCELLED, age=999),
        add(record, "expired", JobState.EXPIRED, age=999),
    }
    assert {entry.id for entry in record.due(NONE)} == goes
    owed = {entry.id for entry in record.newest(100) if entry.owed}
    assert owed == stays - {"for-a-page"}
    assert record.forget(NONE) == len(goes)
    assert left(record) == stays


def test_what_the_caller_took_is_not_owed(record: Record) -> None:
    record.add("library", target="gpu", source="library", folder=None, prompt=PROMPT)
    record.state("library", JobState.SUCCEEDED)
    assert not record.get("library").owed
    assert record.forget(NONE) == 1


def test_the_old_and_the_many_go(record: Record) -> None:
    for age in range(10):
        add(record, f"{age}-days", JobState.SUCCEEDED, saved=True, age=age)
    assert record.forget(Retention(seconds=7.5 * DAY, jobs=100)) == 2
    assert record.forget(Retention(seconds=float("inf"), jobs=3)) == 5
    assert left(record) == {"0-days", "1-days", "2-days"}
    assert sql(record.path, "SELECT COUNT(*) AS count FROM prompts")[0]["count"] == 1
    assert record.forget(NONE) == 3
    assert sql(record.path, "SELECT COUNT(*) AS count FROM prompts")[0]["count"] == 0


def test_ten_thousand_go_while_one_is_owed(record: Record) -> None:
    add(record, "owed", JobState.SUCCEEDED, age=400)
    with sqlite3.connect(record.path) as database:
        database.executemany(
            "INSERT INTO jobs (id, created, updated, target, source, folder, state, outputs, "
            "prompt_number) VALUES (?, ?, ?, 'gpu', 'x.json', '/out', 'succeeded', '[{}]', 1)",
            [(f"job-{n}", n, n) for n in range(10_000)],
        )
    assert record.forget(Retention()) == 10_000
    assert left(record) == {"owed"}


def test_they_go_by_themselves_when_others_are_added(tmp_path: Path) -> None:
    with Record(tmp_path, retention=Retention(seconds=DAY)) as record:
        for number in range(10):
            add(record, f"old-{number}", JobState.SUCCEEDED, saved=True, age=2)
        for number in range(64):
            add(record, f"new-{number}", JobState.SUCCEEDED, saved=True)
        assert len(left(record)) == 64


def test_attempts_are_numbered_whichever_was_run_again(record: Record) -> None:
    record.add("one", target="gpu", source="x.json", folder=None, prompt=PROMPT, sent="{}")
    for job_id, again in (("two", "one"), ("three", "two"), ("four", "one")):
        record.add(job_id, target="b", source="x", folder=None, prompt=PROMPT, again=again)
    record.add("other", target="gpu", source="x.json", folder=None, prompt=PROMPT)
    assert [(e.id, e.attempt, e.first) for e in record.attempts("one")] == [
        ("one", 1, "one"),
        ("two", 2, "one"),
        ("three", 3, "one"),
        ("four", 4, "one"),
    ]
    assert (record.get("other").attempt, record.get("other").first) == (1, "other")
    assert (record.sent("one"), record.sent("two"), record.sent("none")) == ("{}", None, None)
    record.remove(["one"])
    record.add("five", target="b", source="x", folder=None, prompt=PROMPT, again="four")
    assert (record.get("five").attempt, record.get("five").first) == (5, "one")


def test_of_many_warnings_the_last_stay(record: Record) -> None:
    add(record, "job-1", JobState.RUNNING)
    for number in range(30):
        record.warned("job-1", f"warning {number} " + "x" * 2000, at=float(number))
    said = record.get("job-1").said
    assert [one.at for one in said] == [float(number) for number in range(10, 30)]
    assert all(len(one.message) <= 500 for one in said)
    record.warned("none", "of a job that is not there", at=0.0)


def test_a_filter_takes_text_as_it_is(record: Record) -> None:
    add(record, "a%b_c", JobState.FAILED)
    record.state("a%b_c", JobState.FAILED, ExecutionFailed("Node 3 FAILED: 100%"))
    add(record, "other", JobState.SUCCEEDED)
    add(record, "third", JobState.FAILED)
    record.state("third", JobState.FAILED, ExecutionFailed('No "Größe" at C:\\x'))
    for text in ("größe", "GRößE", '"Größe"', "C:\\x"):
        assert [one.id for one in record.newest(9, JobFilter(text=text))] == ["third"], text
    record.remove(["third"])
    for text, found in (("100%", 1), ("failed: 1", 1), ("%", 1), ("x.json", 2), ("' OR 1", 0)):
        assert len(record.newest(9, JobFilter(text=text))) == found, text


def test_large_prompts_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Somebody else may send them, through an API of ours."""
    with Record(tmp_path / "home", retention=Retention(size=4_000_000)) as record:
        add(record, "owed", JobState.SUCCEEDED, age=1)
        for number in range(3 * MANY):
            text = f"{number:03}" * 20_000
            prompt: Prompt = {str(number): {"class_type": "A", "inputs": {"text": text}}}
            record.add(f"job-{number}", target="gpu", source="api desk", folder=None, prompt=prompt)
            record.state(f"job-{number}", JobState.FAILED)
        stay = left(record)
        assert {"owed", f"job-{3 * MANY - 1}"} <= stay
        assert "job-0" not in stay
        assert len(stay) <= 2 * MANY
