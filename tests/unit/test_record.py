"""The record: written before anything is sent, shared by processes, never silently wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from pydantic import JsonValue
from record_sql import locked, sql

from comfy_remote.errors import JobExpired, JobNotFound, LocalStorageError, OutOfMemory
from comfy_remote.events import JobState
from comfy_remote.jobs.record import JobEntry, Record, SavedOutput
from comfy_remote.jobs.record.schema import MIGRATIONS
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
        with pytest.raises(JobNotFound, match="has no job"):
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
    assert [process.wait(180) for process in running] == [0, 0]
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
        "jobs SET state = 'odd'",
        "jobs SET prompt_number = 7",
        "jobs SET prompt_values = '{'",
        """jobs SET prompt_values = '{"9": {"a": 1}}'""",
        "prompts SET prompt = '{'",
        "jobs SET outputs = '[{}]'",
        "jobs SET outputs = '3'",
        "jobs SET remote_id = 'x', details = NULL",
        "jobs SET error = '3'",
        "jobs SET progress = '{'",
    ],
)
def test_a_row_that_somebody_changed_is_an_error_of_ours(record: Record, change: str) -> None:
    _add(record, "job-1")
    sql(record.path, f"UPDATE {change}")
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


DATA = Path(__file__).parents[1] / "data" / "record"


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """A folder whose record the version before wrote: a job in each state, and one of a page."""
    old = sqlite3.connect(tmp_path / "jobs.sqlite3")
    old.executescript((DATA / "record_v4.sql").read_text(encoding="utf-8"))
    old.close()
    return tmp_path


def _everything(entry: JobEntry) -> dict[str, JsonValue]:
    """As record_v4.json has it, which the version before wrote as well."""
    ref = entry.ref
    return {
        "id": entry.id,
        "created": entry.created,
        "updated": entry.updated,
        "target": entry.target,
        "source": entry.source,
        "folder": str(entry.folder) if entry.folder else None,
        "prompt": cast("JsonValue", entry.prompt),
        "state": entry.state.value,
        "ref": None if ref is None else [ref.job_id, ref.remote_id, dict(ref.details)],
        "progress": entry.progress,
        "error": entry.error.to_json() if entry.error else None,
        "outputs": [output.to_json() for output in entry.outputs],
        "page": entry.page,
        "started": entry.started,
        "run_seconds": entry.run_seconds,
    }


def test_a_record_of_the_version_before_loses_nothing(old_folder: Path) -> None:
    with Record(old_folder) as record:
        entries = record.newest(100)
        known = json.loads((DATA / "record_v4.json").read_text(encoding="utf-8"))
        # As text: the order of nodes and inputs counts, and 1 is not 1.0.
        assert [json.dumps(_everything(entry)) for entry in entries] == [
            json.dumps(entry) for entry in known
        ]
        assert {entry.batch for entry in entries} == {None}
        assert {record.ledger.of(entry.id) for entry in entries} == {None}
        running = entries[5]
        assert running.ref is not None
        assert json.loads(record.claim_request(running.ref) or "")["known_inputs"] == ["cd" * 32]
        assert record.kept_inputs("there/ep", since=0.0) == {"cd" * 32}
        [past] = record.past_runs("gpu")
        assert (past.seconds, past.prompt) == (12.25, entries[4].prompt)
        assert [entry.source for entry in record.unshown()] == ["page.json"]
    # Eight jobs, one workflow.
    assert len(sql(old_folder / "jobs.sqlite3", "SELECT * FROM prompts")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of a file's size")
def test_a_disk_that_is_full_leaves_an_old_record_as_it_is_and_says_why(old_folder: Path) -> None:
    large = json.dumps({"1": {"class_type": "A", "inputs": {"x": [["y" * 1000] * 20]}}})
    for number in range(200):
        row = (f"{number}", 0.0, 0.0, "t", "s", "queued", large.replace("A", f"A{number}"))
        columns = "(id, created, updated, target, source, state, prompt)"
        sql(
            old_folder / "jobs.sqlite3",
            f"INSERT INTO jobs {columns} VALUES (?, ?, ?, ?, ?, ?, ?)",
            *row,
        )
    script = (
        "import pathlib, resource, sys; from comfy_remote.jobs.record import Record\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "Record(pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(old_folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert re.search("LocalStorageError: .*(I/O error|is full)", ended.stderr), ended.stderr
    [version] = sql(old_folder / "jobs.sqlite3", "PRAGMA user_version")
    assert version[0] == 4
    with Record(old_folder) as record:
        assert len(record.newest(300)) == 208


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_a_forked_process_it_says_so_instead_of_waiting_for_ever(record: Record) -> None:
    _add(record, "job-1")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.alarm(10)  # else it would wait for a thread that it does not have
            try:
                _add(record, "job-2")
            except LocalStorageError as error:
                os._exit(7 if "forked" in error.message else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(record.newest()) == 1


def test_several_programs_take_an_old_record_over_at_once(old_folder: Path) -> None:
    script = (
        "import sys, pathlib; from comfy_remote.jobs.record import Record\n"
        "record = Record(pathlib.Path(sys.argv[1]))\n"
        "record.add(sys.argv[2], target='t', source='s', folder=None, prompt={})\n"
    )
    command = [sys.executable, "-c", script, str(old_folder)]
    running = [subprocess.Popen([*command, f"new-{number}"]) for number in range(3)]
    with ThreadPoolExecutor(4) as threads:
        for opened in [threads.submit(Record, old_folder) for _ in range(4)]:
            opened.result().close()
    assert [process.wait(180) for process in running] == [0, 0, 0]
    with Record(old_folder) as record:
        assert len(record.newest(100)) == 8 + 3


def test_a_program_of_the_version_before_that_runs_on_adds_nothing_and_loses_nothing(
    old_folder: Path,
) -> None:
    """It has the file open. What it sent is recorded to its end; what is new it does not send."""
    old = sqlite3.connect(old_folder / "jobs.sqlite3", isolation_level=None)
    running = "00000003-0000-4000-8000-000000000000"
    assert old.execute("SELECT state FROM jobs WHERE id = ?", (running,)).fetchone()
    with Record(old_folder) as record:
        # The statements of that version, by which it says: "The record of jobs … cannot be used".
        with pytest.raises(sqlite3.OperationalError, match="no column named prompt"):
            old.execute(
                "INSERT INTO jobs (id, created, updated, target, source, folder, prompt, state, "
                "page, shape, work) VALUES ('n', 1, 1, 't', 's', NULL, '{}', 'queued', NULL, '', 1)"
            )
        old.execute("UPDATE jobs SET updated = 5, progress = '{}' WHERE id = ?", (running,))
        old.execute(
            "UPDATE jobs SET updated = 9, state = 'succeeded', error = NULL, "
            "started = COALESCE(started, NULL), run_seconds = COALESCE(3.5, run_seconds) "
            "WHERE id = ? AND NOT (state = 'succeeded' AND 'succeeded' = 'expired')",
            (running,),
        )
        old.execute("UPDATE jobs SET page = NULL WHERE id = 'x'")
        entry = record.get(running)
        assert (entry.state, entry.run_seconds) == (JobState.SUCCEEDED, 3.5)
        assert len(record.newest(100)) == 8
    [version] = old.execute("PRAGMA user_version").fetchone()
    assert version == len(MIGRATIONS) > 4  # a new start of it is refused
    old.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_of_an_early_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
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
            VALUES ('old-job-1', 1.0, 2.0, 'gpu', 'x.json', '{}', 'succeeded'),
                   ('old-job-2', 1.0, 2.0, 'gpu', 'x.json', '{', 'succeeded');
        """
    )
    if version == 2:
        old.execute("ALTER TABLE jobs ADD COLUMN page TEXT")
    old.execute(f"PRAGMA user_version = {version}")
    old.commit()
    old.close()
    with Record(tmp_path) as record:
        assert record.get("old-job-1").state is JobState.SUCCEEDED
        assert record.get("old-job-1").page is None
        record.add("new-job-1", target="a", source="b", folder=None, prompt={}, page={"x": 1})
        assert record.get("new-job-1").page == {"x": 1}
        # How long the old one ran was not kept: it is no measure for others.
        assert record.get("old-job-1").run_seconds is None
        assert record.past_runs("gpu") == []
        # Somebody had changed that one. It is what it was.
        with pytest.raises(LocalStorageError, match="cannot be used"):
            record.get("old-job-2")
    [row] = sql(record.path, "SELECT prompt FROM prompts WHERE prompt NOT LIKE '{}'")
    assert row["prompt"] == "{"


def _sampling(seed: JsonValue, text: str = "a lighthouse") -> Prompt:
    inputs: dict[str, JsonValue] = {"seed": seed, "text": text, "steps": 20, "model": ["4", 0]}
    return {"3": {"class_type": "KSampler", "inputs": inputs}}


def test_prompts_that_differ_in_values_are_stored_once(record: Record) -> None:
    prompts = [
        *(_sampling(seed) for seed in (7, 7, 8, 7.0, True, None, "7")),
        _sampling(9, "x" * 100),
        {"3": {**_sampling(7)["3"], "class_type": "Other"}},
        {name: {"class_type": "A", "inputs": {}} for name in "ab"},
        {name: {"class_type": "A", "inputs": {}} for name in "ba"},
    ]
    for number, prompt in enumerate(prompts):
        record.add(f"job-{number:02}", target="t", source="s", folder=None, prompt=prompt)
    kept = [record.get(f"job-{number:02}").prompt for number in range(len(prompts))]
    assert [json.dumps(prompt) for prompt in kept] == [json.dumps(prompt) for prompt in prompts]
    rows = sql(record.path, "SELECT prompt_number, prompt_values FROM jobs ORDER BY id")
    assert [row["prompt_number"] for row in rows] == [1] * 8 + [2, 3, 4]
    assert [row["prompt_values"] for row in rows[:3]] == [None, None, '{"3": {"seed": 8}}']


def test_a_prompt_goes_with_the_last_job_that_has_it(record: Record) -> None:
    for number, seed in enumerate((7, 8, 9)):
        record.add(f"job-{number}", target="t", source="s", folder=None, prompt=_sampling(seed))
    for number in range(3):
        assert len(sql(record.path, "SELECT * FROM prompts")) == 1
        sql(record.path, f"DELETE FROM jobs WHERE id = 'job-{number}'")
    assert sql(record.path, "SELECT * FROM prompts") == []


def test_a_thousand_runs_take_little_room(record: Record) -> None:
    prompt = _sampling(0)
    prompt.update({str(n): {"class_type": "Note", "inputs": {"text": "x" * 90}} for n in range(30)})
    for seed in range(1000):
        prompt["3"]["inputs"]["seed"] = seed
        record.add(str(uuid.uuid4()), target="t", source="s", folder=None, prompt=prompt)
    [row] = sql(
        record.path,
        "SELECT page_count * page_size AS size FROM pragma_page_count, pragma_page_size",
    )
    assert row["size"] < 500 * 1000 < 1000 * len(json.dumps(prompt)) / 5


def test_a_job_belongs_to_a_batch(record: Record) -> None:
    record.add("job-1", target="t", source="s", folder=None, prompt={}, batch="b1")
    assert record.get("job-1").batch == "b1"


# While another process holds the lock


async def test_a_lock_that_another_process_holds_does_not_stall_the_loop(record: Record) -> None:
    _add(record, "job-1")
    with locked(record.path) as unlock:
        adding = asyncio.ensure_future(
            record.write(record.add, "job-2", target="t", source="s", folder=None, prompt=PROMPT)
        )
        record.post(lambda error: None, record.state, "job-1", JobState.RUNNING)
        # Past runs are read beside it; what reads what was written waits its turn.
        assert await record.read_at_once(record.past_runs, "gpu") == []
        assert record.waiting == 2
        reading = asyncio.ensure_future(record.read(record.get, "job-1"))
        await asyncio.sleep(0.2)
        assert not (adding.done() or reading.done())
        unlock()
        entry = await reading
        await adding
    assert entry.state is JobState.RUNNING
    assert (await record.read(record.get, "job-2")).prompt == PROMPT


async def test_what_is_given_to_the_writer_is_written_also_where_the_await_is_cancelled(
    record: Record,
) -> None:
    with locked(record.path):
        adding = record.write(
            record.add, "job-1", target="t", source="s", folder=None, prompt=PROMPT
        )
        adding.cancel()
    assert (await record.read(record.get, "job-1")).id == "job-1"


async def test_a_lock_that_is_held_for_too_long_is_an_error_of_ours(tmp_path: Path) -> None:
    with Record(tmp_path, lock_patience=0.2) as record:
        failed: list[LocalStorageError] = []
        with locked(record.path):
            record.post(failed.append, record.state, "job-1", JobState.RUNNING)
            with pytest.raises(LocalStorageError, match="locked"):
                await record.write(record.mark_shown, "job-1")
        assert len(failed) == 1
    with pytest.raises(LocalStorageError, match="closed"):
        record.mark_shown("job-1")


def test_jobs_of_pages_are_known_until_they_were_shown(record: Record) -> None:
    _add(record, "job-0")
    for number in (1, 2):
        page = {"number": number}
        record.add(f"job-{number}", target="a", source="b", folder=None, prompt={}, page=page)
    record.state("job-1", JobState.SUCCEEDED)
    assert [(e.id, e.page) for e in record.unshown()] == [
        ("job-1", {"number": 1}),
        ("job-2", {"number": 2}),
    ]
    record.mark_shown("job-1")
    assert [entry.id for entry in record.unshown()] == ["job-2"]


def test_a_start_is_of_a_job_that_had_the_target_to_itself(record: Record) -> None:
    def ran(job_id: str, target: str, created: float, waited: float, ended: float) -> None:
        record.add(job_id, target=target, source="x.json", folder=None, prompt=PROMPT)
        sql(
            record.path,
            "UPDATE jobs SET created = ?, started = ?, updated = ? WHERE id = ?",
            *(created, created + waited, ended, job_id),
        )

    assert record.last_start("gpu") is None
    ran("awake", "gpu", 100.0, 1.0, 110.0)
    assert record.last_start("gpu") is None, "nothing had to start"
    ran("alone", "gpu", 200.0, 42.0, 260.0)
    ran("elsewhere", "other", 290.0, 9.0, 999.0)
    ran("long", "gpu", 300.0, 2.0, 900.0)
    ran("behind it", "gpu", 400.0, 70.0, 480.0)
    ran("behind it, too", "gpu", 500.0, 80.0, 590.0)
    assert record.last_start("gpu") == 42.0
    ran("alone again", "gpu", 900.0, 30.0, 950.0)
    assert record.last_start("gpu") == 30.0
    assert record.last_start("gpu", longer_than=35.0) == 42.0
