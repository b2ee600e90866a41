"""What the panel is told of jobs: those in progress, those that have ended, what each made."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from owner import configure

from comfy_remote.errors import ExecutionFailed, JobNotFound
from comfy_remote.events import JobState, Progress, event_to_json
from comfy_remote.jobs.record import BatchEntry, BatchState, Record, SavedOutput, Wanted
from comfy_remote.node_pack.host import FolderKind
from comfy_remote.node_pack.lane import RemoteLane
from comfy_remote.node_pack.panel_jobs import PanelJobs, remaining
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.schedule.money import Charge, Price
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {"1": {"class_type": "Slow", "inputs": {"steps": 3}}}


class Server:
    """As much of a `Host` as the list uses."""

    def __init__(self, root: Path, *, several_users: bool = False) -> None:
        self.root = root
        self.several_users = several_users

    def folder(self, kind: FolderKind) -> Path:
        return self.root / kind


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    home = tmp_path / "home"
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    configure(home, '[targets.gpu]\ntarget = "runpod:abc123"\nprice_per_hour = 0.72\n')
    with Record(home) as record:
        yield record


def listing(record: Record, root: Path, *, several_users: bool = False) -> PanelJobs:
    host: Any = Server(root, several_users=several_users)
    pool = TargetPool(record)
    return PanelJobs(host, pool, RemoteLane(host, pool))


def sent(record: Record, source: str = "ComfyUI", folder: Path | None = Path("output")) -> str:
    job_id = str(uuid.uuid4())
    record.add(job_id, target="gpu", source=source, folder=folder, prompt=PROMPT)
    return job_id


async def jobs_of(panel: PanelJobs, limit: int = 10) -> list[dict[str, Any]]:
    answer: Any = await panel.recent(limit)
    assert answer["now"] == pytest.approx(time.time(), abs=10)
    return list(answer["jobs"])


async def test_a_job_that_ended_has_its_time_its_price_and_how_many_files(
    record: Record, tmp_path: Path
) -> None:
    job_id = sent(record, "/somewhere/portrait.json")
    record.state(job_id, JobState.RUNNING)
    record.state(job_id, JobState.SUCCEEDED, run_seconds=100.0)
    record.saved(job_id, [SavedOutput(tmp_path / "a.png", "9", "image", "a.png", "0" * 64, 10)])

    [job] = await jobs_of(listing(record, tmp_path))

    assert job["prompt_id"] == job_id
    assert (job["kind"], job["name"], job["state"]) == ("job", "portrait.json", "succeeded")
    assert job["ended"] is not None
    assert job["run_seconds"] == 100
    assert job["cost"] == {"dollars": 0.02, "estimated": False, "at_most": False}
    assert (job["outputs"], job["again"], job["followed"]) == (1, True, False)


async def test_what_was_expected_stands_beside_what_it_was_and_today_s_total_above(
    record: Record, tmp_path: Path
) -> None:
    configure(tmp_path / "home", "cap_per_day = 5\n")

    def charged() -> str:
        job_id, price = str(uuid.uuid4()), Price(3600.0, "your settings")
        charge = Charge("gpu", price, bound=4.0, expected=1.5)
        record.add(job_id, target="gpu", source="x", folder=None, prompt=PROMPT, charge=charge)
        return job_id

    ran, unknown = charged(), charged()
    record.state(ran, JobState.SUCCEEDED, run_seconds=2.0, billed=2.0)
    record.state(unknown, JobState.FAILED, ExecutionFailed("It broke."))

    answer: Any = await listing(record, tmp_path).recent(10)

    assert answer["today"] == {"spent": 6.0, "cap": 5.0}
    jobs = {job["prompt_id"]: job for job in answer["jobs"]}
    assert jobs[ran]["cost"] == {"dollars": 2.0, "estimated": False, "at_most": False}
    assert jobs[ran]["expected"] == {"seconds": 1.5, "dollars": 1.5}
    assert jobs[unknown]["cost"] == {"dollars": 4.0, "estimated": False, "at_most": True}


async def test_what_is_in_progress_is_listed_however_much_has_ended_since(
    record: Record, tmp_path: Path
) -> None:
    part = sent(record, "remote part", folder=None)
    record.state(part, JobState.RUNNING)
    record.progress(part, event_to_json(Progress(nodes_done=1, nodes_total=4)))
    for _ in range(5):
        record.state(sent(record), JobState.CANCELLED)

    panel = listing(record, tmp_path)
    jobs = await jobs_of(panel, limit=3)

    assert [job["prompt_id"] for job in jobs if job["ended"] is None] == [part]
    assert (jobs[0]["kind"], jobs[0]["fraction"], jobs[0]["again"]) == ("part", 0.25, False)
    assert [job["state"] for job in jobs[1:]] == ["cancelled"] * 3
    assert (await panel.recent(3))["more"] is True  # type: ignore[index, call-overload]
    assert (await panel.recent(5))["more"] is False  # type: ignore[index, call-overload]


async def test_a_failure_is_listed_with_its_first_words_and_has_its_advice_on_request(
    record: Record, tmp_path: Path
) -> None:
    job_id = sent(record)
    failure = ExecutionFailed("Out of memory. " * 100, advice="Make the picture smaller.")
    record.state(job_id, JobState.FAILED, failure)
    record.warned(job_id, "The worker is old.", at=5.0)
    panel = listing(record, tmp_path)

    [job] = await jobs_of(panel)
    assert job["error"].startswith("Out of memory.")
    assert len(job["error"]) == 300
    details: Any = await panel.details(job_id)
    assert details["error"]["advice"] == "Make the picture smaller."
    assert details["said"] == [{"at": 5.0, "message": "The worker is old."}]


async def test_files_in_comfyui_s_folders_can_be_shown_and_others_have_their_path(
    record: Record, tmp_path: Path
) -> None:
    inside = tmp_path / "output" / "sub" / "a.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere.png"
    job_id = sent(record)
    record.saved(
        job_id,
        [SavedOutput(path, "9", "image", path.name, "0" * 64, 1) for path in (inside, elsewhere)],
    )

    details: Any = await listing(record, tmp_path).details(job_id)

    here, gone = details["outputs"]
    assert here["view"] == {"filename": "a.png", "subfolder": "sub", "type": "output"}
    assert (here["there"], gone["there"]) == (True, False)
    assert (gone["view"], gone["path"]) == (None, str(elsewhere))


async def test_where_people_share_a_comfyui_the_owner_s_record_is_not_shown(
    record: Record, tmp_path: Path
) -> None:
    job_id = sent(record)
    record.state(job_id, JobState.SUCCEEDED)
    panel = listing(record, tmp_path, several_users=True)
    assert await jobs_of(panel) == []
    with pytest.raises(JobNotFound):
        await panel.details(job_id)
    with pytest.raises(JobNotFound):
        await panel.run_again(job_id, "tab", None)


async def test_a_name_replaces_the_word_for_a_page_s_job_and_no_other_name(
    record: Record, tmp_path: Path
) -> None:
    unnamed, named = sent(record), sent(record, "poster.json")
    for job_id in (unnamed, named):
        record.named(job_id, "portrait", instead_of="ComfyUI")
    assert record.get(unnamed).source == "portrait"
    assert record.get(named).source == "poster.json"


@pytest.mark.parametrize(
    ("started", "fraction", "seconds", "expected"),
    [
        (None, None, None, None),
        (None, None, 40.0, 40.0),  # it waits: the whole run
        (90.0, None, 40.0, 30.0),
        (90.0, None, 5.0, None),  # later than any before: nobody knows
        (90.0, 0.5, None, 10.0),
        (90.0, 0.5, 40.0, 20.0),  # half of each
        (90.0, 0.01, 40.0, 30.0),  # too early for its own speed
    ],
)
def test_how_long_a_job_still_takes(
    started: float | None, fraction: float | None, seconds: float | None, expected: float | None
) -> None:
    assert remaining(100.0, started, fraction, seconds) == expected


async def test_a_run_of_a_batch_has_its_name(record: Record, tmp_path: Path) -> None:
    made = str(uuid.uuid4()), "night", time.time(), time.time(), "gpu", "portrait.json"
    state = BatchState.RUNNING, None, Wanted.RUN
    record.batches.add(BatchEntry(*made, tmp_path, 3, *state))
    run, alone = str(uuid.uuid4()), sent(record)
    record.add(run, target="gpu", source="portrait.json", folder=None, prompt=PROMPT, batch=made[0])
    jobs = await jobs_of(listing(record, tmp_path))
    assert {job["prompt_id"]: job["batch"] for job in jobs} == {run: "night", alone: None}
    record.state(run, JobState.SUCCEEDED)
    jobs = await jobs_of(listing(record, tmp_path))
    assert [job["prompt_id"] for job in jobs] == [alone], "its batch has it, among the batches"
