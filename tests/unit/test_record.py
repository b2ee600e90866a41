"""The record: written before anything is sent, shared by processes, never silently wrong."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from comfy_remote.errors import JobExpired, JobNotFound, LocalStorageError, OutOfMemory
from comfy_remote.events import JobState
from comfy_remote.jobs.record import JobEntry, Record, SavedOutput
from comfy_remote.targets.base import RemoteRef
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {"1": {"class_type": "Größe", "inputs": {"a": ["2", 0]}}}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "home") as made:
        yield made


def _add(record: Record, job_id: str, folder: Path | None = None) -> JobEntry:
    record.add(job_id, target="gpu", source="x.json", folder=folder, prompt=PROMPT)
    return record.get(job_id)


def test_a_job_from_its_submission_to_its_outputs(record: Record, tmp_path: Path) -> None:
    job = _add(record, "job-1", tmp_path)
    assert (job.target, job.source, job.folder, job.prompt) == ("gpu", "x.json", tmp_path, PROMPT)
    assert (job.state, job.ref, job.progress, job.error) == (JobState.QUEUED, None, None, None)
    assert job.outputs == ()
    ref = RemoteRef("job-1", "abc-e1", {"endpoint": "ep"})
    saved = SavedOutput(tmp_path / "x.png", "1", "image", "x.png", "0" * 64, 3)
    record.submitted(ref)
    record.progress("job-1", {"nodes_done": 1})
    record.state("job-1", JobState.FAILED, OutOfMemory("Full.", details={"node_id": "1"}))
    record.saved("job-1", [saved])
    job = record.get("job-1")
    assert (job.ref, job.progress, job.outputs) == (ref, {"nodes_done": 1}, (saved,))
    assert job.state is JobState.FAILED
    assert isinstance(job.error, OutOfMemory)
    assert job.error.details == {"node_id": "1"}
    assert job.updated >= job.created
    record.state("job-1", JobState.SUCCEEDED)
    assert record.get("job-1").error is None


def test_the_beginning_of_an_id_is_enough_where_it_is_clear(record: Record) -> None:
    for job_id in ("abcd-1", "abcd-2", "ab%d-3", "abcde_4"):
        _add(record, job_id)
    assert record.get("abcd-1").id == "abcd-1"
    assert record.get("abcde").id == "abcde_4"
    assert record.get("ab%d").id == "ab%d-3"
    with pytest.raises(JobNotFound, match="3 jobs begin with 'abcd'"):
        record.get("abcd")
    for unknown in ("", "abc", "%%%%", "____", "zzzz", "abcd_1", "' OR 1=1"):
        with pytest.raises(JobNotFound, match="knows no job"):
            record.get(unknown)


def test_the_newest_come_first(record: Record) -> None:
    for number in range(5):
        _add(record, f"job-{number}")
    assert [job.id for job in record.newest(3)] == ["job-4", "job-3", "job-2"]


def test_it_is_there_again_after_it_was_closed(tmp_path: Path) -> None:
    with Record(tmp_path) as record:
        _add(record, "job-1")
    with Record(tmp_path) as record:
        assert record.get("job-1").prompt == PROMPT


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_only_its_owner_may_read_it(record: Record) -> None:
    _add(record, "job-1")
    assert stat.S_IMODE(record.path.parent.stat().st_mode) == 0o700
    for path in record.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with Record(tmp_path) as record:  # all of them make the file
            for _ in range(5):
                job_id = str(uuid.uuid4())
                _add(record, job_id)
                record.state(job_id, JobState.RUNNING)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    with Record(tmp_path) as record:
        assert [job.state for job in record.newest(100)] == [JobState.RUNNING] * 40


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from comfy_remote.jobs.record import Record\n"
        "record = Record(pathlib.Path(sys.argv[1]))\n"
        "for n in range(20):\n"
        "    record.add(f'{sys.argv[2]}-{n}', target='t', source='s', folder=None, prompt={})\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "new")]
    running = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [process.wait(30) for process in running] == [0, 0]
    with Record(tmp_path / "new") as record:
        assert len(record.newest(100)) == 40


@pytest.mark.parametrize("content", [b"no database" * 200, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(content)
    with pytest.raises(LocalStorageError, match="cannot be used") as caught:
        Record(tmp_path)
    assert str(path) in caught.value.message
    assert "COMFY_REMOTE_HOME" in caught.value.advice
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        "state = 'odd'",
        "prompt = '{'",
        "outputs = '[{}]'",
        "outputs = '3'",
        "remote_id = 'x', details = NULL",
        "error = '3'",
        "progress = '{'",
    ],
)
def test_a_row_that_somebody_changed_is_an_error_of_ours(record: Record, change: str) -> None:
    _add(record, "job-1")
    other = sqlite3.connect(record.path)
    other.execute(f"UPDATE jobs SET {change}")
    other.commit()
    other.close()
    for read in (record.newest, lambda: record.get("job-1")):
        with pytest.raises(LocalStorageError, match="cannot be used"):
            read()


def test_a_newer_record_is_refused(tmp_path: Path) -> None:
    Record(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "jobs.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LocalStorageError, match="newer Comfy Remote"):
        Record(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalStorageError, match="cannot be used"):
        Record(tmp_path / "file")


def test_an_id_is_recorded_once(record: Record) -> None:
    _add(record, "job-1")
    with pytest.raises(LocalStorageError):
        _add(record, "job-1")


def test_a_success_is_not_lost_when_the_target_has_forgotten_the_job(tmp_path: Path) -> None:
    with Record(tmp_path) as record:
        record.add("12345678", target="sandbox", source="x.json", folder=None, prompt={})
        record.state("12345678", JobState.SUCCEEDED)
        record.state("12345678", JobState.EXPIRED, JobExpired("forgotten"))
        assert record.get("12345678").state is JobState.SUCCEEDED


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    (tmp_path / "jobs.sqlite3").touch()
    old = sqlite3.connect(tmp_path / "jobs.sqlite3")
    old.executescript(
        """
        CREATE TABLE jobs (
            id TEXT PRIMARY KEY, created REAL NOT NULL, updated REAL NOT NULL,
            target TEXT NOT NULL, source TEXT NOT NULL, folder TEXT, prompt TEXT NOT NULL,
            state TEXT NOT NULL, remote_id TEXT, details TEXT, progress TEXT, error TEXT,
            outputs TEXT
        );
        INSERT INTO jobs (id, created, updated, target, source, prompt, state)
            VALUES ('old-job-1', 1.0, 2.0, 'gpu', 'x.json', '{}', 'succeeded');
        """
    )
    if version == 2:
        old.execute("ALTER TABLE jobs ADD COLUMN page TEXT")
    old.execute(f"PRAGMA user_version = {version}")
    old.commit()
    old.close()
    with ThreadPoolExecutor(4) as threads:  # several programs may do so at once
        records = [threads.submit(Record, tmp_path) for _ in range(4)]
        for opened in records:
            opened.result()
    with Record(tmp_path) as record:
        assert record.get("old-job-1").state is JobState.SUCCEEDED
        assert record.get("old-job-1").page is None
        record.add("new-job-1", target="a", source="b", folder=None, prompt={}, page={"x": 1})
        assert record.get("new-job-1").page == {"x": 1}
        # How long the old one ran was not kept: it is no measure for others.
        assert record.get("old-job-1").run_seconds is None
        assert record.past_runs("gpu") == []


def test_jobs_of_pages_are_known_until_they_were_shown(record: Record) -> None:
    _add(record, "job-0")
    for number in (1, 2):
        page = {"number": number}
        record.add(f"job-{number}", target="a", source="b", folder=None, prompt={}, page=page)
    record.state("job-1", JobState.SUCCEEDED)
    assert [(e.id, e.page) for e in record.unserved()] == [
        ("job-1", {"number": 1}),
        ("job-2", {"number": 2}),
    ]
    record.page_served("job-1")
    assert [entry.id for entry in record.unserved()] == ["job-2"]
