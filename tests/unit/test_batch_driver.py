"""A batch is driven: every run once, through whatever happens to it, its target and its driver."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_target import FakeTarget, output
from helpers import until
from owner import configure
from PIL import Image

import comfy_remote
from comfy_remote.batch.capacity import Capacity
from comfy_remote.batch.draft import BatchOptions, draft
from comfy_remote.batch.driver import DriverTimes
from comfy_remote.batch.events import BatchEvent, GoesOn, Noted, RunBegan, RunEnded, Stopped, Waits
from comfy_remote.batch.manifest import MANIFEST, RunLine, read_manifest
from comfy_remote.batch.one_run import job_id_of
from comfy_remote.batch.plan import Variation
from comfy_remote.batch.store import (
    driving,
    is_driven,
    make,
    remove,
    retry_failed,
    start_background,
)
from comfy_remote.batch.watching import watched
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    JobCancelled,
    JobNotFound,
    LocalStorageError,
    RateLimited,
    SpendingCap,
    SubmissionUnknown,
    TargetUnreachable,
)
from comfy_remote.events import DidItRun, Event, Finished, JobState, Started
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import BatchEntry, BatchState, Record, RunState, Wanted
from comfy_remote.schedule.caps import Cap
from comfy_remote.targets.base import Health, RemoteRef, RunRequest
from comfy_remote.workflow.prompt import Prompt

TIMES = DriverTimes(wanted=0.02, health=0.05, full=0.02, gone=0.02, longest=0.05, patience=5.0)


def _picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(made, "PNG")
    return made.getvalue()


PICTURE = _picture()


class Farm(FakeTarget):
    """A target with workers, which counts the runs of each colour.

    Attributes:
        ran: How often each colour has run.
        breaks: Errors of submissions, one each.
        fails: Colours whose jobs fail, and how often.
        gate: Jobs end while it is set.
        gone: Whether it cannot be reached.
    """

    stays_silent = False

    def __init__(self, workers: int = 2) -> None:
        super().__init__(files={"a.png": PICTURE})
        self.workers = workers
        self.ran: Counter[int] = Counter()
        self.breaks: list[ComfyRemoteError] = []
        self.fails: Counter[int] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.gone = False
        self.jobs: dict[str, RunRequest] = {}
        self.taken: list[RunRequest] = []
        self.most = self.running = 0
        self.stopped: set[str] = set()

    def colour(self, prompt: Prompt) -> int:
        return int(str(prompt["1"]["inputs"]["color"]))

    def _reached(self) -> None:
        if self.gone:
            error = TargetUnreachable("fake is not there.")
            DidItRun.NEVER_ACCEPTED.noted_in(error)
            raise error

    async def submit(self, request: RunRequest) -> RemoteRef:
        self._reached()
        if self.breaks:
            raise self.breaks.pop(0)
        self.ran[self.colour(request.prompt)] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.jobs[request.job_id] = request
        self.taken.append(request)
        return RemoteRef(request.job_id, request.job_id, {"where": "there"})

    async def find(self, job_id: str) -> RemoteRef | None:
        self._reached()
        return RemoteRef(job_id, job_id, {"where": "there"}) if job_id in self.jobs else None

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        self._reached()
        yield Started()
        while not (self.gate.is_set() or ref.job_id in self.stopped or self.gone):
            await asyncio.sleep(0.005)
        self._reached()
        if self.jobs.pop(ref.job_id, None) is not None:
            self.running -= 1
        colour = self.colour(prompt)
        if ref.job_id in self.stopped:
            stopped = JobCancelled("The job was cancelled.")
            yield Finished(JobState.CANCELLED, stopped, did_it_run=DidItRun.STOPPED)
        elif self.fails[colour] > 0:
            self.fails[colour] -= 1
            yield Finished(JobState.FAILED, ExecutionFailed(f"Colour {colour} fails."))
        else:
            yield Finished(JobState.SUCCEEDED, outputs=(output("a.png"),))

    async def cancel(self, ref: RemoteRef) -> None:
        self.stopped.add(ref.job_id)

    async def health(self) -> Health:
        self._reached()
        return Health(max(0, self.workers - self.running), min(self.running, self.workers), 0)


WORKFLOW: Prompt = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    return tmp_path


@pytest.fixture
async def farm() -> Farm:
    return Farm()


@asynccontextmanager
async def opened(farm: Farm, here: Path) -> AsyncIterator[Client]:
    with Record(here / "home") as record:
        async with Client(farm, record=record, on_interrupt=None) as client:
            yield client


async def made(
    client: Client,
    vary: str = "1.color=0..9",
    options: BatchOptions = BatchOptions(),  # noqa: B008 - frozen
    workflow: Path = Path("w.json"),
    **inputs: list[Path],
) -> BatchEntry:
    drafted = await draft(
        client, workflow, Variation(vary=[vary]), target=None, options=options, **inputs
    )
    return await make(drafted, client)


async def drive(
    client: Client,
    entry: BatchEntry,
    leave_at: Callable[[BatchEvent], bool] = lambda _: False,
    *,
    by_hand: bool = True,
) -> list[BatchEvent]:
    """Drive it to its end, or leave it, as a kill does, at an event."""
    events = []
    async with (
        driving(entry, client.record, client=client, by_hand=by_hand, times=TIMES) as driver,
        aclosing(aiter(driver)) as following,
    ):
        async for event in following:
            events.append(event)
            if leave_at(event):
                break
    return events


def lines(entry: BatchEntry) -> dict[int, RunLine]:
    texts = (entry.folder / MANIFEST).read_text().splitlines()
    found = read_manifest(entry.folder / MANIFEST)
    assert len(texts) == len(found), "one line for each run"
    return found


def now(client: Client, entry: BatchEntry) -> BatchEntry:
    return client.record.batches.get(entry.id)


async def test_each_run_once_in_a_folder_of_its_own(farm: Farm, here: Path) -> None:
    async with opened(farm, here) as client:
        entry = await made(client)
        events = await drive(client, entry)
        ended = now(client, entry)
    assert isinstance(events[-1], Stopped) and events[-1].entry == ended
    assert (ended.state, ended.succeeded, ended.left) == (BatchState.ENDED, 10, 0)
    assert farm.ran == dict.fromkeys(range(10), 1)
    assert farm.most <= 3
    for row, line in lines(entry).items():
        assert line.values == {"1.color": row}
        assert (line.state, line.attempt) == ("succeeded", 1)
        [made_one] = line.outputs
        assert (entry.folder / made_one["file"]).read_bytes() == PICTURE
        assert made_one["file"].split("/")[0] == line.run
    assert not [*entry.folder.glob(".comfy-remote*")]


async def test_as_many_at_a_time_as_there_are_workers_and_one(farm: Farm, here: Path) -> None:
    farm.workers = 4
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)
        driven = asyncio.create_task(drive(client, entry))
        await until(lambda: farm.running == 5)
        await asyncio.sleep(0.1)  # no sixth begins
        assert farm.most == 5
        farm.gate.set()
        await driven
        assert farm.most == 5
        one = await made(client, options=BatchOptions(at_most=1, folder=here / "one"))
        farm.most = 0
        await drive(client, one)
        assert farm.most == 1


def test_a_target_that_boasts_gets_no_flood() -> None:
    capacity = Capacity()
    capacity.seen(Health(ready=10**12, running=-5, queued=0))
    assert capacity.limit == 201
    capacity.seen(Health(ready=-(10**12), running=3, queued=0))
    assert capacity.limit == 2


async def test_what_fails_is_a_line_and_is_run_again_alone(farm: Farm, here: Path) -> None:
    farm.fails[3] = 1
    async with opened(farm, here) as client:
        entry = await made(client)
        await drive(client, entry)
        failed = lines(entry)[3]
        assert failed.state == "failed"
        assert failed.error is not None and failed.error["message"] == "Colour 3 fails."
        assert (now(client, entry).failed, now(client, entry).succeeded) == (1, 9)
        assert client.record.batches.retry_failed(entry.id) == 1
        await drive(client, entry)
        ended = now(client, entry)
    assert (ended.failed, ended.succeeded) == (0, 10)
    assert farm.ran == {**dict.fromkeys(range(10), 1), 3: 2}
    assert (lines(entry)[3].state, lines(entry)[3].attempt) == ("succeeded", 2)


@pytest.mark.parametrize("killed_at", [RunBegan, RunEnded])
async def test_a_driver_that_was_killed_leaves_nothing_to_run_twice(
    farm: Farm, here: Path, killed_at: type[BatchEvent]
) -> None:
    async with opened(farm, here) as client:
        entry = await made(client)
    for _ in range(10):
        async with opened(farm, here) as client:
            events = await drive(client, entry, lambda event: isinstance(event, killed_at))
    async with opened(farm, here) as client:
        events = await drive(client, entry)
        assert isinstance(events[-1], Stopped)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)
    assert sorted(lines(entry)) == list(range(10))


async def test_a_run_whose_line_is_written_has_ended(farm: Farm, here: Path) -> None:
    """Its driver was killed before the record said so."""
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=0..2")
        await drive(client, entry)
        client.record.batches.run(entry.id, 1, 1, RunState.BEGUN)
        events = await drive(client, entry)
        assert not [event for event in events if isinstance(event, RunBegan)]
        assert now(client, entry).succeeded == 3


@pytest.mark.parametrize("cut", [1, 7, 40, 4000])
async def test_a_manifest_that_was_cut_off_gets_its_lines_back(
    farm: Farm, here: Path, cut: int
) -> None:
    async with opened(farm, here) as client:
        entry = await made(client)
        await drive(client, entry, lambda event: isinstance(event, RunEnded) and farm.ran[5] > 0)
        path = entry.folder / MANIFEST
        path.write_bytes(path.read_bytes()[:-cut])
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)
    for line in lines(entry).values():
        assert line.state == "succeeded"
        assert (entry.folder / line.outputs[0]["file"]).is_file()
    assert sorted(lines(entry)) == list(range(10))


async def test_paused_it_lets_running_ones_end_and_goes_on_later(farm: Farm, here: Path) -> None:
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)

        def pause(event: BatchEvent) -> bool:
            if isinstance(event, RunBegan):
                client.record.batches.want(entry.id, Wanted.PAUSE)
                asyncio.get_running_loop().call_later(0.2, farm.gate.set)
            return False

        await drive(client, entry, pause)
        paused = now(client, entry)
        assert (paused.state, paused.begun) == (BatchState.PAUSED, 0)
        assert 1 <= paused.succeeded < 10
        client.record.batches.want(entry.id, Wanted.RUN)
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)


async def test_resumed_before_its_last_run_has_ended_it_goes_on(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)
        looks: list[Wanted] = []
        look = client.record.batches.wanted

        def seen(batch_id: str) -> Wanted:
            looks.append(look(batch_id))
            return looks[-1]

        monkeypatch.setattr(client.record.batches, "wanted", seen)
        driven = asyncio.create_task(drive(client, entry))
        await until(lambda: farm.running == 3)
        client.record.batches.want(entry.id, Wanted.PAUSE)
        await until(lambda: looks.count(Wanted.PAUSE) > 1)  # the first is acted upon
        farm.stopped.add(next(iter(farm.jobs)))  # no other takes its place
        await until(lambda: now(client, entry).cancelled == 1)
        await asyncio.sleep(0.1)
        assert farm.running == 2
        client.record.batches.want(entry.id, Wanted.RUN)
        await until(lambda: farm.running == 3)
        farm.gate.set()
        await driven
        ended = now(client, entry)
    assert (ended.state, ended.succeeded, ended.cancelled) == (BatchState.ENDED, 9, 1)


async def test_cancelled_it_stops_what_runs(farm: Farm, here: Path) -> None:
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)

        def cancel(event: BatchEvent) -> bool:
            if isinstance(event, RunBegan):
                client.record.batches.want(entry.id, Wanted.CANCEL)
            return False

        await drive(client, entry, cancel)
        cancelled = now(client, entry)
    assert (cancelled.state, cancelled.begun, cancelled.succeeded) == (BatchState.CANCELLED, 0, 0)
    # One that had not been sent yet is not sent any more.
    assert cancelled.cancelled >= len(farm.ran) == len(farm.stopped)
    assert {line.state for line in lines(entry).values()} == {"cancelled"}


async def test_a_run_whose_cancel_fails_is_cancelled_again(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran on to its end, at the batch's cost."""
    asked: Counter[str] = Counter()
    stop = farm.cancel

    async def cancel(ref: RemoteRef) -> None:
        asked[ref.job_id] += 1
        if asked[ref.job_id] < 3:
            raise TargetUnreachable("fake does not answer.")
        await stop(ref)

    monkeypatch.setattr(farm, "cancel", cancel)
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)
        driven = asyncio.create_task(drive(client, entry))
        await until(lambda: farm.running == 3)
        client.record.batches.want(entry.id, Wanted.CANCEL)
        await driven
        assert now(client, entry).state is BatchState.CANCELLED
    assert [*asked.values()] == [3, 3, 3]


async def test_what_a_driver_has_left_is_paused_and_can_be_cancelled(
    farm: Farm, here: Path
) -> None:
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)
        driving_it = asyncio.create_task(drive(client, entry))
        await until(lambda: len(farm.jobs) == 3)
        driving_it.cancel()
        await asyncio.gather(driving_it, return_exceptions=True)
        left = now(client, entry)
        assert (left.state, left.why, left.begun) == (BatchState.PAUSED, "It was stopped.", 3)
        client.record.batches.want(entry.id, Wanted.CANCEL)
        await drive(client, entry)
        cancelled = now(client, entry)
    assert (cancelled.state, cancelled.begun) == (BatchState.CANCELLED, 0)
    assert len(farm.stopped) == len(farm.ran) == 3, "they are cancelled at the target"
    assert [line.state for line in lines(entry).values()] == ["cancelled"] * 3


async def test_another_process_sees_what_happens_to_it(farm: Farm, here: Path) -> None:
    farm.fails[7] = 1
    seen: list[BatchEvent] = []

    async def watch(record: Record, entry: BatchEntry) -> None:
        async for event in watched(entry, record, every=0.01, patience=60.0):
            seen.append(event)
            if len(seen) == 1:
                farm.gate.set()

    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)
        watching = asyncio.create_task(watch(client.record, entry))
        await drive(client, entry)
        await asyncio.wait_for(watching, 60)
        assert seen[-1] == Stopped(now(client, entry))
        again = [event async for event in watched(entry, client.record, every=0.01)]
    assert isinstance(seen[0], RunBegan)
    assert {e.line.row: e.line for e in seen if isinstance(e, RunEnded)} == lines(entry)
    assert [type(event) for event in again] == [Stopped], "what is over is not told again"


async def test_a_target_that_goes_for_a_while_is_waited_for(farm: Farm, here: Path) -> None:
    farm.gate.clear()
    async with opened(farm, here) as client:
        entry = await made(client)

        def go(event: BatchEvent) -> bool:
            if isinstance(event, RunBegan) and event.row == 2:
                farm.gone = True
            if isinstance(event, Waits):
                assert now(client, entry).state is BatchState.PAUSED
                farm.gate.set()
                asyncio.get_running_loop().call_later(0.1, setattr, farm, "gone", False)
            return False

        events = await drive(client, entry, go)
        assert now(client, entry).succeeded == 10
    kinds = [type(event) for event in events]
    assert Waits in kinds and GoesOn in kinds
    assert farm.ran == dict.fromkeys(range(10), 1)


async def test_a_target_that_stays_away_pauses_it(farm: Farm, here: Path) -> None:
    farm.gone = True
    times = replace(TIMES, patience=0.1)
    async with opened(farm, here) as client:
        farm.gone = False
        entry = await made(client)
        farm.gone = True
        async with driving(entry, client.record, client=client, times=times) as driver:
            [*_, last] = [event async for event in driver]
        assert isinstance(last, Stopped)
        assert last.entry.state is BatchState.PAUSED
        assert "fake is not there." in str(last.entry.why)
        farm.gone = False
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)


async def test_a_full_target_slows_it_and_fails_none(farm: Farm, here: Path) -> None:
    for _ in range(6):
        error = RateLimited("Too many jobs.")
        DidItRun.NEVER_ACCEPTED.noted_in(error)
        farm.breaks.append(error)
    async with opened(farm, here) as client:
        entry = await made(client)
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)
    assert {line.attempt for line in lines(entry).values()} == {1}


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("The key was withdrawn."),
        ConfigurationError("Its key is missing."),
        LocalStorageError("The disk is full."),
    ],
)
async def test_what_every_run_would_meet_pauses_it(
    farm: Farm, here: Path, error: ComfyRemoteError
) -> None:
    DidItRun.NEVER_ACCEPTED.noted_in(error)
    farm.breaks = [error]
    async with opened(farm, here) as client:
        entry = await made(client)
        await drive(client, entry)
        paused = now(client, entry)
        assert paused.state is BatchState.PAUSED
        assert str(error) in str(paused.why)
        assert paused.failed == 0
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)


async def test_a_full_disk_pauses_it_and_loses_nothing(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_remote.batch import driver as driver_module
    from comfy_remote.batch.manifest import ManifestWriter

    def full(self: ManifestWriter, line: RunLine) -> None:
        raise LocalStorageError("The disk is full.")

    async with opened(farm, here) as client:
        entry = await made(client)
        with monkeypatch.context() as patched:
            patched.setattr(driver_module.ManifestWriter, "add", full)
            await drive(client, entry)
        assert now(client, entry).state is BatchState.PAUSED
        assert not lines(entry)
        await drive(client, entry)
        assert now(client, entry).succeeded == 10
    assert farm.ran == dict.fromkeys(range(10), 1)
    assert len([*entry.folder.glob("*/a.png")]) == 10


async def test_a_folder_that_is_removed_meanwhile_pauses_it(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def removed(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "0000/a.png")

    async with opened(farm, here) as client:
        entry = await made(client, "1.color=1,2")
        with monkeypatch.context() as patched:
            patched.setattr("comfy_remote.jobs.job.Job.save_outputs", removed)
            [*_, last] = await drive(client, entry)
        assert isinstance(last, Stopped) and isinstance(last.error, LocalStorageError)
        assert "No such file" in (now(client, entry).why or "")
        await drive(client, entry)
        assert now(client, entry).succeeded == 2
    assert farm.ran == {1: 1, 2: 1}


async def test_a_sheet_that_cannot_be_drawn_costs_no_batch_its_end(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("comfy_remote.batch.sheet.make_sheet", broken)
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=0..2")
        events = await drive(client, entry)
        assert now(client, entry).state is BatchState.ENDED
    assert any(isinstance(event, Noted) and event.warning for event in events)


async def test_it_is_paused_after_so_many_failures(farm: Farm, here: Path) -> None:
    farm.fails.update(dict.fromkeys(range(10), 1))
    async with opened(farm, here) as client:
        entry = await made(client, options=BatchOptions(stop_after=2, at_most=1))
        await drive(client, entry)
        paused = now(client, entry)
    assert (paused.state, paused.failed) == (BatchState.PAUSED, 2)
    assert paused.why == "2 runs have failed. Colour 1 fails."


async def test_an_answer_that_was_lost_is_looked_for(farm: Farm, here: Path) -> None:
    lost = SubmissionUnknown("The answer was lost.")
    DidItRun.UNKNOWN.noted_in(lost)
    farm.breaks = [lost]
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=0..2")
        await drive(client, entry)
        assert now(client, entry).succeeded == 3
    assert farm.ran == {0: 1, 1: 1, 2: 1}


async def test_where_the_target_cannot_tell_a_run_is_not_sent_again(
    farm: Farm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = SubmissionUnknown("The answer was lost.")
    DidItRun.UNKNOWN.noted_in(lost)
    farm.breaks = [lost]

    async def cannot_tell(_: str) -> RemoteRef | None:
        raise lost

    monkeypatch.setattr(farm, "find", cannot_tell)
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=0..2")
        await drive(client, entry)
        # Of two that begin at once, either is sent first.
        [unknown] = [line for line in lines(entry).values() if line.state == "failed"]
        assert unknown.error is not None
        assert unknown.error["code"] == "submission_unknown"
    assert farm.ran == {color: 1 for color in range(3) if color != unknown.row}


async def test_a_changed_input_fails_its_run_and_says_so(farm: Farm, here: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (4, 4), "red").save(here / f"{name}.png")
    prompt: Prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png", "color": 0}},
        "2": WORKFLOW["2"],
    }
    (here / "load.json").write_text(json.dumps(prompt))
    async with opened(farm, here) as client:
        entry = await made(client, "1.image=*.png", workflow=Path("load.json"))
        (here / "b.png").write_bytes(b"another picture")
        await drive(client, entry)
    states = {line.values["1.image"]: line.state for line in lines(entry).values()}
    assert states == {"a.png": "succeeded", "b.png": "failed", "c.png": "succeeded"}
    [failed] = [line for line in lines(entry).values() if line.state == "failed"]
    assert failed.error is not None
    assert "b.png has changed since the batch was made" in str(failed.error["message"])


async def test_a_changed_workflow_changes_nothing(farm: Farm, here: Path) -> None:
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=5..7")
        (here / "w.json").write_text("{}")
        await drive(client, entry)
        assert now(client, entry).succeeded == 3
    assert farm.ran == {5: 1, 6: 1, 7: 1}


async def test_a_file_with_variables_is_filled_in_for_each_run(farm: Farm, here: Path) -> None:
    text = json.dumps(WORKFLOW).replace('"a"', '"${PROMPT}"')
    (here / "v.json").write_text(text)
    async with opened(farm, here) as client:
        with pytest.raises(ComfyRemoteError, match=r"\$\{PROMPT\}"):
            await made(client, workflow=Path("v.json"))
        entry = await made(client, "prompt=red,blue", workflow=Path("v.json"))
        (here / "v.json").unlink()
        await drive(client, entry)
        prefixes = [request.prompt["2"]["inputs"]["filename_prefix"] for request in farm.taken]
    assert sorted(map(str, prefixes)) == ["blue", "red"]


async def test_no_run_is_begun_that_would_not_end_in_time(farm: Farm, here: Path) -> None:
    async with opened(farm, here) as client:
        soon = time.strftime("%H:%M", time.localtime(time.time() + 3600))
        entry = await made(client, options=BatchOptions(until=soon, at_most=1))
        clock = time.time()
        async with driving(
            entry, client.record, client=client, times=TIMES, now=lambda: clock
        ) as driver:
            events = []
            async for event in driver:
                events.append(event)
                if isinstance(event, RunEnded) and event.line.row == 1:
                    clock += 2 * 3600
        paused = now(client, entry)
    assert paused.state is BatchState.PAUSED
    assert paused.succeeded in (2, 3)
    assert "would not end" in str(paused.why)


class Named(Farm):
    """A farm that a name leads to, and may later lead elsewhere than.

    Attributes:
        mute: Whether it takes jobs, and never says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where = "there"
        self.mute = False

    @property
    def server(self) -> dict[str, str]:
        return {"where": self.where}

    async def submit(self, request: RunRequest) -> RemoteRef:
        ref = await super().submit(request)
        if self.mute:
            await asyncio.Event().wait()
        return ref


@pytest.mark.parametrize(("mute", "moved"), [(False, False), (True, False), (True, True)])
async def test_runs_are_found_where_the_batch_was_made_or_not_sent_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, mute: bool, moved: bool
) -> None:
    farm = Named()
    farm.gate.clear()
    farm.mute = mute
    async with opened(farm, here) as client:
        variation = Variation(vary=["1.color=0,1"])
        entry = await make(await draft(client, Path("w.json"), variation, target="gpu"), client)
        killed = asyncio.create_task(drive(client, entry))
        jobs = [job_id_of(entry.id, row, 1) for row in (0, 1)]
        await until(lambda: farm.running == 2)
        await until(lambda: mute or all(client.record.get(job).ref for job in jobs))
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        # In another folder the name may mean another target, or nothing.
        (here / "elsewhere").mkdir()
        monkeypatch.chdir(here / "elsewhere")
        farm.gate.set()
        farm.mute = False
        if moved:
            farm.where = "elsewhere"
            farm.jobs.clear()
        await drive(client, entry)
        ended = now(client, entry)
    assert (ended.state, ended.left) == (BatchState.ENDED, 0)
    assert ended.failed == (2 if moved else 0)
    assert farm.ran == {0: 1, 1: 1}
    if moved:
        codes = {(line.error or {})["code"] for line in lines(entry).values()}
        assert codes == {SubmissionUnknown.code}


async def test_one_driver_at_a_time(farm: Farm, here: Path) -> None:
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=0..2")
        assert not is_driven(here / "home", entry.id)
        async with driving(entry, client.record, client=client, times=TIMES):
            assert is_driven(here / "home", entry.id)
            with pytest.raises(ConfigurationError, match="runs this batch already"):
                async with driving(entry, client.record, client=client, times=TIMES):
                    pass
            with pytest.raises(ConfigurationError, match="is running"):
                await remove(entry, client.record)
        await remove(entry, client.record)
        with pytest.raises(JobNotFound):
            now(client, entry)
        assert not (here / "home" / "batches" / entry.id).exists()
        assert entry.folder.is_dir()


async def test_who_looks_whether_it_is_driven_is_not_taken_for_its_driver(
    farm: Farm, here: Path
) -> None:
    farm.fails[1] = 1
    async with opened(farm, here) as client:
        entry = await made(client, "1.color=1,2")
        await drive(client, entry)
        lock = here / "home" / "batches" / entry.id / "driver.lock"
        with closing(sqlite3.connect(lock, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM sqlite_master").fetchall()
            assert not is_driven(here / "home", entry.id)
        async with driving(entry, client.record, client=client):
            assert is_driven(here / "home", entry.id)
            with pytest.raises(ConfigurationError, match="is running"):
                await retry_failed(entry, client.record)
        assert await retry_failed(entry, client.record) == 1


async def test_a_process_of_its_own_that_cannot_begin_says_why_in_the_record(
    farm: Farm, here: Path
) -> None:
    async with opened(farm, here) as client:
        variation = Variation(vary=["1.color=0,1"])
        entry = await make(await draft(client, Path("w.json"), variation, target="gpu"), client)
        start_background(entry, here / "home")
        await until(lambda: now(client, entry).state is BatchState.PAUSED, 60)
        assert "no target 'gpu'" in (now(client, entry).why or "")
        await until(lambda: not is_driven(here / "home", entry.id))
        shutil.rmtree(here / "home" / "batches" / entry.id)
        with pytest.raises(LocalStorageError, match="cannot go on"):
            await drive(client, entry)


async def test_two_batches_have_two_names_and_folders(farm: Farm, here: Path) -> None:
    async with opened(farm, here) as client:
        names = [(await made(client, "1.color=1,2")).name for _ in range(3)]
        assert names == ["w", "w-2", "w-3"]
        with pytest.raises(ConfigurationError, match="already"):
            await made(client, options=BatchOptions(name="w", folder=here / "other"))
        with pytest.raises(ConfigurationError, match="another batch"):
            await made(client, options=BatchOptions(folder=here / "outputs" / "w"))
        other = await made(client, options=BatchOptions(name="free", folder=here / "other"))
        assert json.loads((other.folder / "batch.json").read_text())["id"] == other.id
        await remove(other, client.record)
        assert client.record.batches.get("w-2").name == "w-2"
        assert [entry.name for entry in client.record.batches.all()] == ["w-3", "w-2", "w"]


async def test_many_made_at_once_have_names_and_folders_of_their_own(
    farm: Farm, here: Path
) -> None:
    async with opened(farm, here) as client:
        entries = await asyncio.gather(*(made(client, "1.color=1,2") for _ in range(6)))
        assert {entry.name for entry in entries} == {"w", "w-2", "w-3", "w-4", "w-5", "w-6"}
        same = BatchOptions(name="same", folder=here / "same")
        ends = await asyncio.gather(
            *(made(client, options=same) for _ in range(4)), return_exceptions=True
        )
        [one] = [end for end in ends if isinstance(end, BatchEntry)]
        assert all(isinstance(end, BatchEntry | ConfigurationError) for end in ends)
        entries = [*entries, one]
    for entry in entries:
        assert json.loads((entry.folder / "batch.json").read_text())["id"] == entry.id
    assert {path.name for path in (here / "home" / "batches").iterdir()} == {
        entry.id for entry in entries
    }


async def test_a_program_makes_one_goes_on_with_it_and_reads_it(farm: Farm, here: Path) -> None:
    farm.fails[2] = 1
    with Record(here / "home") as record:
        async with comfy_remote.Client(farm, record=record) as client:
            batch = await client.batch("w.json", vary={"1.color": [1, 2, 3]}, width=16)
            seen: list[BatchEvent] = []
            entry = await batch.run(seen.append)
            assert (entry.succeeded, entry.failed) == (2, 1)
            assert await batch.retry() == 1
            again = await client.open_batch(batch.name)
            assert (await again.run()).succeeded == 3
            assert [line.values["1.color"] for line in await again.lines()] == [1, 2, 3]
            await again.remove()
            assert not record.batches.all()
    assert {request.prompt["1"]["inputs"]["width"] for request in farm.taken} == {16}


async def test_a_program_that_is_interrupted_leaves_its_runs_to_the_next(
    farm: Farm, here: Path
) -> None:
    farm.gate.clear()
    with Record(here / "home") as record:
        with pytest.raises(ZeroDivisionError):
            async with comfy_remote.Client(farm, record=record) as client:
                batch = await client.batch("w.json", vary={"1.color": "1..4"})
                async with aclosing(aiter(batch)) as events:
                    async for event in events:
                        if isinstance(event, RunBegan):
                            await asyncio.sleep(0.05)
                            raise ZeroDivisionError
        assert not farm.stopped
        farm.gate.set()
        async with comfy_remote.Client(farm, record=record) as client:
            assert (await (await client.open_batch("w")).run()).succeeded == 4
    assert farm.ran == dict.fromkeys(range(1, 5), 1)


# Caps on spending


@pytest.fixture
def rented(here: Path, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """A farm where a second costs a tenth of a cent: ten minutes of a first run are $0.60."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(here / "home"))
    text = '[targets.gpu]\ntarget = "runpod:abc123xyz"\nprice_per_hour = 3.6\n'
    configure(here / "home", text)
    farm.name = "gpu"
    return farm


async def test_a_batch_at_its_cap_waits_for_what_others_give_back(rented: Farm, here: Path) -> None:
    rented.gate.clear()
    async with opened(rented, here) as client:
        entry = await made(client, options=BatchOptions(cap=1.3))

        def opened_when_it_waits(event: BatchEvent) -> bool:
            if isinstance(event, Waits) and not rented.gate.is_set():
                assert "over the cap of $1.30 for the batch" in event.why
                assert rented.most == 2  # room for two of $0.60, though there are workers for three
                rented.gate.set()
            return False

        await drive(client, entry, opened_when_it_waits)
        assert rented.gate.is_set() and now(client, entry).succeeded == 10
        cap = Cap(1.3, "batch")
        used = client.record.ledger.used(cap, entry.id)
        assert 0.0 < used < 1.3
        costs = [line.cost for line in lines(entry).values()]
        assert sum(cost or 0.0 for cost in costs) == pytest.approx(used, abs=1e-4)
    assert rented.ran == dict.fromkeys(range(10), 1)
    assert {line.state for line in lines(entry).values()} == {"succeeded"}


async def test_a_batch_that_meets_a_cap_pauses_and_fails_no_run(rented: Farm, here: Path) -> None:
    async with opened(rented, here) as client:
        entry = await made(client, "1.color=0..3", options=BatchOptions(cap=0.5))
        events = await drive(client, entry)
        paused = now(client, entry)
        assert (paused.state, paused.failed, paused.cap) == (BatchState.PAUSED, 0, 0.5)
        assert paused.why is not None
        assert "over the cap of $0.50 for the batch" in paused.why
        assert isinstance(events[-1], Stopped)
        assert isinstance(events[-1].error, SpendingCap)
        assert not rented.ran
        client.record.batches.allow(entry.id, None, over_cap=True)
        await drive(client, entry)
        assert now(client, entry).succeeded == 4
        text = (here / "home" / "comfy-remote.toml").read_text()
        configure(here / "home", f"cap_per_month = 0\n{text}")
        client.record.batches.allow(entry.id, 100.0, over_cap=False)
        other = await made(client, "1.color=4..5", options=BatchOptions(folder=here / "other"))
        await drive(client, other)
        assert "over the cap of $0 a month" in (now(client, other).why or "")
    assert rented.ran == dict.fromkeys(range(4), 1)
