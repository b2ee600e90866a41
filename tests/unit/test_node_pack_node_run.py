"""RunPod Remote Execute on a target: what is told, and what is called off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_target import FakeTarget, output
from helpers import until
from owner import configure

from comfy_remote import Client
from comfy_remote.errors import ExecutionFailed, JobCancelled, JobTimedOut, TargetUnreachable
from comfy_remote.events import Event, Finished, JobState, Log, Preview, Progress, Queued, Started
from comfy_remote.jobs.output import Output
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.nodes.remote_run import RemoteRun, films_of, pictures_of
from comfy_remote.outputs import OutputKind
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {"1": {"class_type": "EmptyImage", "inputs": {}}}
REQUEST = RunRequest("6f1c1f0e-3c9e-4b43-8b8e-0d9c1f3f7a11", PROMPT)


class Interrupted(BaseException):
    """ComfyUI's own is no `Exception`, either."""


@dataclass
class Page:
    """A `Watcher` that keeps what it is told, and interrupts at some text."""

    interrupt_at: str = "never"
    texts: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    bars: list[tuple[float, float]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.texts.append(text)

    def log(self, message: str, level: str) -> None:
        self.logs.append(f"{level}: {message}")

    async def progress(self, done: float, total: float) -> None:
        self.bars.append((done, total))

    async def preview(self, preview: Preview) -> None:
        self.previews.append(preview.data)

    def check(self) -> None:
        if any(self.interrupt_at in text for text in self.texts):
            raise Interrupted


class Cancellable(FakeTarget):
    """Its jobs end when they are cancelled; `slow_submit` seconds pass before they begin.

    Attributes:
        submitting: Set once one is being sent.
    """

    slow_submit = 0.0

    def __init__(self, events: list[Event]) -> None:
        super().__init__(events)
        self.cancel_came = asyncio.Event()
        self.submitting = asyncio.Event()
        self.cancel_fails = False

    async def submit(self, request: RunRequest) -> RemoteRef:
        self.submitting.set()
        await asyncio.sleep(self.slow_submit)
        return await super().submit(request)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        for event in self.events:
            yield event
        await self.cancel_came.wait()
        yield Finished(JobState.CANCELLED, JobCancelled("Cancelled."))

    async def cancel(self, ref: RemoteRef) -> None:
        await super().cancel(ref)
        if self.cancel_fails:
            raise TargetUnreachable("It does not answer.")
        self.cancel_came.set()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Record(tmp_path / "home") as made:
        yield made


async def run(
    target: FakeTarget, page: Page, record: Record, timeout: float | None = None
) -> list[Output]:
    async with Client(target, record=record) as client:
        return await RemoteRun("gpu", page, timeout).outputs(client, REQUEST)


async def test_all_is_told(record: Record, tmp_path: Path) -> None:
    made = FakeTarget.making(a_txt=b"picture")
    details = Finished(JobState.SUCCEEDED, outputs=(output("a.txt"),), details={"run_seconds": 9.5})
    made.events = [
        Queued(position=2),
        Started(),
        Log("a notice", "warning"),
        Progress(1, 4, "1", "KSampler", 5, 20),
        Preview("1", "image/png", b"preview"),
        details,
    ]
    settings = '[targets.gpu]\ntarget = "runpod:x"\nprice_per_hour = 3.6\n'
    configure(tmp_path / "home", settings)
    page = Page()
    outputs = await run(made, page, record)
    assert [one.bytes() for one in outputs] == [b"picture"]
    assert page.bars == [(1.25, 4)]
    assert page.previews == [b"preview"]
    assert "warning: a notice" in page.logs
    assert page.texts[0].startswith("Sending to gpu")
    words = r"Done on gpu in \d+ s, 9\.5 s of it on the GPU: < \$0\.01"
    assert re.fullmatch(words, page.texts[-1])
    assert record.get(REQUEST.job_id).source == "RunPod Remote Execute"


async def test_a_running_job_shows_its_node_and_step(record: Record) -> None:
    target = Cancellable([Started(), Progress(1, 4, "1", "KSampler", 5, 20, "warm")])
    page = Page(interrupt_at="KSampler")
    with pytest.raises(Interrupted):
        await run(target, page, record)
    assert any("Running on gpu: 1 of 4 nodes, KSampler 5/20, warm" in text for text in page.texts)


async def test_an_interrupt_cancels_the_job_there(record: Record) -> None:
    target = Cancellable([Queued(0), Started()])
    page = Page(interrupt_at="Running")
    with pytest.raises(Interrupted):
        await run(target, page, record)
    assert target.log.count("cancel") == 1
    assert target.log[-1] == "close"
    assert page.texts[-1] == "Cancelled on gpu"
    assert record.get(REQUEST.job_id).state is JobState.CANCELLED


async def test_an_interrupt_while_sending_waits_for_the_id_and_cancels(record: Record) -> None:
    target = Cancellable([Started()])
    target.slow_submit = 0.6
    with pytest.raises(Interrupted):
        await run(target, Page(interrupt_at="Sending"), record)
    assert target.log.count("submit") == target.log.count("cancel") == 1


async def test_a_prompt_that_ends_otherwise_cancels_the_job_too(record: Record) -> None:
    target = Cancellable([Started()])
    page = Page()
    task = asyncio.ensure_future(run(target, page, record))
    await until(lambda: any("Running" in text for text in page.texts))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "cancel" in target.log


async def test_too_late(record: Record) -> None:
    target = Cancellable([Started()])
    with pytest.raises(JobTimedOut, match=r"within 1\.5 s\. It was cancelled there"):
        await run(target, Page(), record, timeout=1.5)
    assert "cancel" in target.log


async def test_the_endpoints_own_limit_keeps_its_words(record: Record) -> None:
    error = JobTimedOut("The job ran for longer than the endpoint allows.")
    target = FakeTarget([Started(), Finished(JobState.FAILED, error)])
    with pytest.raises(JobTimedOut, match="than the endpoint allows"):
        await run(target, Page(), record, timeout=60)
    assert "cancel" not in target.log


async def test_a_cancel_that_fails_says_how_to_try_again(record: Record) -> None:
    target = Cancellable([Started()])
    target.cancel_fails = True
    page = Page(interrupt_at="Running")
    with pytest.raises(Interrupted):
        await run(target, page, record)
    assert any(f"jobs cancel {REQUEST.job_id}" in line for line in page.logs)


async def test_a_failed_job_is_not_cancelled(record: Record) -> None:
    target = FakeTarget([Started(), Finished(JobState.FAILED, ExecutionFailed("It failed."))])
    with pytest.raises(ExecutionFailed, match=r"It failed\."):
        await run(target, Page(), record)
    assert "cancel" not in target.log


async def test_what_a_failed_job_had_saved_can_be_fetched(record: Record) -> None:
    error = ExecutionFailed("It failed.")
    end = Finished(JobState.FAILED, error, outputs=(output("a.txt"), output("b.txt")))
    page = Page()
    with pytest.raises(ExecutionFailed):
        await run(FakeTarget([Started(), end], {"a.txt": b"a"}), page, record)
    assert any(
        "had saved 2" in line and f"jobs resume {REQUEST.job_id}" in line for line in page.logs
    )


async def test_an_output_that_is_gone_is_told_and_costs_no_other(record: Record) -> None:
    made = FakeTarget.making(a_txt=b"a", b_txt=b"b")
    del made.files["b.txt"]
    page = Page()
    outputs = await run(made, page, record)
    assert [one.bytes() for one in outputs] == [b"a"]
    assert "warning: Node 2: b.txt: It is gone." in page.logs


def local(node_id: str | None, filename: str, kind: OutputKind, folder: str = "output") -> Output:
    return Output(node_id, kind, filename, "", folder, "", 0, "", Path(filename), None)


def test_saved_pictures_in_the_order_of_the_prompt() -> None:
    prompt: Prompt = {"2": PROMPT["1"], "10": PROMPT["1"]}
    outputs = [
        local(None, "unknown.png", "image"),
        local("10", "b0.png", "image"),
        local("2", "preview.png", "image", "temp"),
        local("10", "b1.png", "image"),
        local("2", "film.mp4", "video"),
        local("2", "a.png", "image"),
    ]
    names = [one.filename for one in pictures_of(outputs, prompt)]
    assert names == ["a.png", "b0.png", "b1.png", "unknown.png"]
    only_previews = [one for one in outputs if one.folder == "temp"]
    assert pictures_of(only_previews, prompt) == only_previews
    film = next(one for one in outputs if one.kind == "video")
    assert films_of(outputs, prompt) == [film]
    assert pictures_of([film, *only_previews], prompt) == []
