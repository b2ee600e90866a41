"""Client and Job: recorded first, followed to the end, brought here whole."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fake_target import FakeTarget, output
from PIL import Image
from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer

from comfy_remote import Client, resume, run
from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import (
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    InputFileMissing,
    JobNotFound,
    JobTimedOut,
    OutputCorrupt,
    OutputLost,
    RateLimited,
    SubmissionUnknown,
    TargetError,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import Finished, JobState, Log, OutputReady, Progress, Queued, Started
from comfy_remote.jobs.record import JobEntry, Record
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.base import RemoteRef, RunRequest, Target
from comfy_remote.targets.runpod.target import RunPodTarget

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}}


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Record(tmp_path / "home") as made:
        yield made


def _newest(record: Record) -> JobEntry:
    return record.newest(1)[0]


def _png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


# --- submitting ---------------------------------------------------------------------------


async def test_a_job_is_recorded_before_it_is_sent(record: Record, tmp_path: Path) -> None:
    target = FakeTarget.making(x_png=_png())
    seen: list[JobEntry] = []
    target.on_submit = lambda request: seen.append(record.get(request.job_id))
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT, folder=Path("out"), source="a test")
    (before,) = seen
    assert before.id == job.id
    assert (before.state, before.ref) == (JobState.QUEUED, None)
    assert (before.target, before.source, before.prompt) == ("fake", "a test", PROMPT)
    assert before.folder == tmp_path / "out"
    assert record.get(job.id).ref == job.ref
    assert target.log == ["open", "submit", "close"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (WorkflowInvalid("No."), JobState.FAILED),
        (TargetUnreachable("Gone."), JobState.FAILED),
        (SubmissionUnknown("Perhaps."), JobState.QUEUED),
    ],
)
async def test_a_submission_that_fails_is_recorded_as_what_it_is(
    record: Record, error: Exception, state: JobState
) -> None:
    target = FakeTarget()
    target.refuses = error
    async with Client(target, record=record) as client:
        with pytest.raises(type(error)):
            await client.submit(PROMPT)
    job = _newest(record)
    assert job.state is state
    assert type(job.error) is type(error)


async def test_what_is_no_prompt_is_neither_recorded_nor_sent(
    record: Record, tmp_path: Path
) -> None:
    target = FakeTarget()
    async with Client(target, record=record) as client:
        for wrong in ({}, {"1": 3}, "nowhere.json", tmp_path):
            with pytest.raises(WorkflowInvalid):
                await client.submit(wrong)
    assert record.newest() == []
    assert target.requests == []


def _loads(*names: str) -> dict[str, object]:
    return {
        str(i): {"class_type": "LoadImage", "inputs": {"image": n}} for i, n in enumerate(names)
    }


async def _request(record: Record, target: FakeTarget, *args: object, **more: object) -> RunRequest:
    async with Client(target, record=record) as client:
        await client.submit(*args, **more)  # type: ignore[arg-type]
    return target.requests[-1]


async def test_a_saved_picture_is_submitted_with_its_workflow(record: Record) -> None:
    target = FakeTarget.making(x_png=_png())
    sent: list[RunRequest] = []
    target.on_submit = sent.append
    saved = Path(__file__).parents[1] / "data/saved/0.33.0.png"
    async with Client(target, record=record) as client:
        await client.submit(saved)
    assert sent[0].prompt["9"]["class_type"] == "SaveImage"
    assert sent[0].workflow is not None and sent[0].workflow["version"] == 0.4


async def test_a_workflow_in_ui_format_is_converted(record: Record) -> None:
    target = FakeTarget.making(x_png=_png())
    sent: list[RunRequest] = []
    target.on_submit = sent.append
    node = {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "outputs": []}
    ui = {"nodes": [{**node, "widgets_values": [8, 9, 1, 0]}], "links": [], "version": 0.4}
    async with Client(target, record=record) as client:
        await client.submit(ui)
    assert sent[0].prompt["1"]["inputs"] == {"width": 8, "height": 9, "batch_size": 1, "color": 0}
    assert sent[0].workflow == ui


async def test_files_are_found_beside_the_workflow(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    (folder / "input" / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "input" / "sub" / "b.png").write_bytes(b"bb")
    (folder / "w.json").write_text(json.dumps(_loads("a.png", "sub\\b.png [input]", "a.png")))
    request = await _request(record, FakeTarget(), folder / "w.json")
    assert [(f.name, f.size) for f in request.files] == [("a.png", 1), ("sub/b.png", 2)]
    assert request.files[0].sha256 == hashlib.sha256(b"a").hexdigest()
    names = [node["inputs"]["image"] for node in request.prompt.values()]
    assert names == ["a.png", "sub/b.png", "a.png"]
    assert _newest(record).source == str(folder / "w.json")


async def test_a_path_of_this_machine_is_not_told(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "x.png"
    path.parent.mkdir()
    path.write_bytes(b"1")
    request = await _request(record, FakeTarget(), _loads(str(path)), inputs=[path])
    assert [(file.name, file.path) for file in request.files] == [("x.png", path)]
    assert str(tmp_path) not in json.dumps(request.prompt)


@pytest.mark.parametrize("name", ["../secret.png", "//host/share/secret.png", "{secret}"])
async def test_what_lies_elsewhere_is_not_sent_unless_the_user_names_it(
    record: Record, tmp_path: Path, name: str
) -> None:
    secret, folder = tmp_path / "secret.png", tmp_path / "cloned"
    secret.write_bytes(b"secret")
    folder.mkdir()
    target = FakeTarget()
    target.inputs = {name.format(secret=secret)}  # the target isn't asked about it either
    (folder / "w.json").write_text(json.dumps(_loads(name.format(secret=secret))))
    with pytest.raises(InputFileMissing, match="not below the folder of the workflow") as caught:
        await _request(record, target, folder / "w.json")
    assert caught.value.advice == "Name it with inputs=[FILE]."
    assert record.newest() == []
    request = await _request(record, target, folder / "w.json", inputs=[secret])
    assert request.files[0].path == secret


async def test_a_file_may_be_there_or_given_or_nowhere(record: Record, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    given = tmp_path / "elsewhere" / "x.png"
    given.write_bytes(b"x")
    target = FakeTarget()
    with pytest.raises(InputFileMissing, match=r"LoadImage \(node 0\) loads 'x\.png'"):
        await _request(record, target, _loads("x.png"))
    assert record.newest() == []
    request = await _request(record, target, _loads("x.png"), inputs=[given])
    assert request.files[0].path == given
    target.inputs = {"x.png"}
    request = await _request(record, target, _loads("x.png"))
    assert request.files == []
    assert request.prompt["0"]["inputs"]["image"] == "x.png"


async def test_files_of_nodes_of_packs_travel(record: Record, tmp_path: Path) -> None:
    """What their schema says, which the target is asked for only where a file is here."""
    target = FakeTarget()
    target.nodes = {
        "Pack": {
            "input": {
                "required": {
                    "image": [["there.png"], {"image_upload": True}],
                    "several": [[], {"file_upload": True}],
                    "model": [["m.pth"]],
                }
            }
        }
    }
    inputs = {"image": "local.png", "several": ["a.glb"], "model": "m.pth", "text": "x.txt"}
    workflow = {"1": {"class_type": "Pack", "inputs": inputs}}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    request = await _request(record, target, tmp_path / "w.json")
    assert "describe" not in target.log
    assert request.files == []
    for name in ("local.png", "m.pth", "x.txt"):
        (tmp_path / name).write_bytes(b"content")
    with pytest.raises(InputFileMissing, match=r"Pack \(node 1\) loads 'a\.glb'"):
        await _request(record, target, tmp_path / "w.json")
    (tmp_path / "a.glb").write_bytes(b"3d")
    request = await _request(record, target, tmp_path / "w.json")
    assert [(file.name, file.places) for file in request.files] == [
        ("local.png", (("1", "image"),)),
        ("a.glb", (("1", "several"),)),
    ]
    target.nodes = None  # it cannot say: what the user names is sent
    request = await _request(record, target, tmp_path / "w.json")
    assert request.files == []
    request = await _request(record, target, tmp_path / "w.json", inputs=["local.png"])
    assert [file.name for file in request.files] == ["local.png"]
    target.nodes = {
        "Pack": {"input": {"required": {"image": [["there.png"], {"image_upload": True}]}}}
    }
    workflow["1"]["inputs"] |= {"image": "there.png", "several": []}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    assert (await _request(record, target, tmp_path / "w.json")).files == []


# --- following ----------------------------------------------------------------------------


async def test_each_state_is_recorded_as_it_comes(record: Record) -> None:
    finished = Finished(JobState.FAILED, ExecutionFailed("Broken."))
    told = [Queued(3), Log("x"), Started(), Progress(1, 2), Progress(2, 2), finished]
    target = FakeTarget(told)
    states = []
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        events = []
        async for event in job:
            events.append(event)
            states.append(record.get(job.id).state.value)
        assert [event async for event in job] == [finished]  # told again, not asked again
        with pytest.raises(ExecutionFailed, match="Broken"):
            await job.outputs()
    assert events == told
    assert states == ["queued", "queued", "running", "running", "running", "failed"]
    assert job.state is JobState.FAILED
    entry = record.get(job.id)
    assert entry.progress
    assert entry.progress["nodes_done"] == 1  # once a second is enough
    assert isinstance(entry.error, ExecutionFailed)
    assert target.log.count("follow") == 1


async def test_after_the_timeout_the_job_goes_on(record: Record) -> None:
    target = FakeTarget([Started()])
    async with Client(target, record=record) as client:
        # Within that, a busy machine follows it and is told that it runs.
        job = await client.submit(PROMPT, timeout=2.0)
        with pytest.raises(JobTimedOut, match=r"within 2 s") as caught:
            await job.outputs()
        assert f"jobs resume {job.id}" in for_terminal(caught.value.advice)
    assert "cancel" not in target.log
    assert record.get(job.id).state is JobState.RUNNING


async def test_cancel_is_passed_on(record: Record) -> None:
    target = FakeTarget()
    async with Client(target, record=record) as client:
        await (await client.submit(PROMPT)).cancel()
    assert target.log[-2:] == ["cancel", "close"]


# --- outputs ------------------------------------------------------------------------------


async def test_outputs_come_in_order_side_by_side_and_outlive_the_client(
    record: Record, tmp_path: Path
) -> None:
    names = {f"{name}_png": _png(i) for i, name in enumerate("hgfedcba")}
    target = FakeTarget.making(**names)
    pieces: list[int] = []
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        outputs = await job.outputs(pieces.append)
    assert [o.filename for o in outputs] == [f"{name}.png" for name in "hgfedcba"]
    assert 1 < target.most_reading <= 4
    assert sum(pieces) == sum(o.size for o in outputs)
    for o, content in zip(outputs, names.values(), strict=True):
        assert o.bytes() == content
        assert o.sha256 == hashlib.sha256(content).hexdigest()
    first = outputs[0]
    assert (first.node_id, first.kind, first.media_type) == ("2", "image", "image/png")
    assert first.image().size == (5, 3)
    assert first.array().shape == (1, 3, 5, 3)
    saved = first.save(tmp_path / "out")
    assert saved == tmp_path / "out" / "h.png"
    assert first.save(tmp_path / "out") == saved
    spool = first._path.parent
    del outputs, first, o
    assert not spool.exists()
    assert saved.read_bytes() == names["h_png"]


async def test_no_output_is_an_error_not_a_success(record: Record) -> None:
    async with Client(FakeTarget.making(), record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(OutputLost, match="made no output") as caught:
            await job.outputs()
    assert "Save Image" in caught.value.advice


async def test_one_output_that_the_target_does_not_have_does_not_lose_the_others(
    record: Record, tmp_path: Path
) -> None:
    target = FakeTarget.making(a_txt=b"a", b_txt=b"b", c_txt=b"c")
    target.files["b.txt"] = OutputLost("b is gone.")
    out = tmp_path / "out"
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        saved = await job.save_outputs(out)
        assert [one.filename for one in await job.outputs()] == ["a.txt", "c.txt"]
        assert [str(problem) for problem in job.problems] == ["Node 2: b.txt: b is gone."]
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "c.txt"]
    assert record.get(job.id).outputs == tuple(saved)


async def test_a_job_of_whose_outputs_none_is_there_fails(record: Record, tmp_path: Path) -> None:
    target = FakeTarget.making(a_txt=b"a", b_txt=b"b")
    target.files = {}
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(OutputLost):
            await job.save_outputs(tmp_path / "out")
        with pytest.raises(OutputLost):
            await job.outputs()


async def test_one_output_that_breaks_on_its_way_is_left_for_the_next_try(
    record: Record, tmp_path: Path
) -> None:
    target = FakeTarget.making(a_txt=b"a", b_png=b"\x89PNG\r\n\x1a\n cut off", c_txt=b"c")
    out = tmp_path / "out"
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(OutputCorrupt):
            await job.save_outputs(out)
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "c.txt"]
    assert record.get(job.id).outputs == ()  # all of them or none: `resume` brings the rest


async def test_what_a_failed_job_had_saved_is_there_for_who_asks(
    record: Record, tmp_path: Path
) -> None:
    error = ExecutionFailed("Node 9 failed.")
    end = Finished(JobState.FAILED, error, outputs=(output("a.txt"), output("b.txt")))
    target = FakeTarget([Started(), end], {"a.txt": b"a", "b.txt": b"b"})
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(ExecutionFailed):
            await job.outputs()
        made = await job.outputs(even_if_failed=True)
        assert [one.filename for one in made] == ["a.txt", "b.txt"]
        assert job.finished is not None
        assert job.finished.error is error
        saved = await job.save_outputs(tmp_path / "out", even_if_failed=True)
    entry = record.get(job.id)
    assert (entry.state, entry.outputs) == (JobState.FAILED, tuple(saved))
    assert entry.error is not None
    assert entry.error.details["outputs_saved"] == 2


@pytest.mark.usefixtures("quick_retries")
async def test_the_next_try_fetches_only_what_is_missing(record: Record, tmp_path: Path) -> None:
    class Counting(FakeTarget):
        async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
            self.log.append(output.filename)
            async for chunk in super().read(output, offset):
                yield chunk

    target = Counting.making(a_txt=b"a", b_txt=b"b")
    target.files["b.txt"] = RateLimited("Not so fast.")
    out = tmp_path / "out"
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(RateLimited):
            await job.save_outputs(out)
        assert "b.txt" not in [path.name for path in out.iterdir()]
        target.files["b.txt"] = b"b"
        target.log.clear()
        saved = await job.save_outputs(out)
    assert target.log.count("a.txt") == 0
    assert target.log.count("b.txt") == 1
    assert [one.path.read_bytes() for one in saved] == [b"a", b"b"]
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt"]


async def test_one_that_cannot_be_written_does_not_lose_the_others(
    record: Record, tmp_path: Path
) -> None:
    named = (output("a.txt"), output("x.txt", subfolder="a.txt"), output("c.txt"))
    target = FakeTarget([Finished(JobState.SUCCEEDED, outputs=named)], {
        "a.txt": b"a", "x.txt": b"x", "c.txt": b"c",
    })  # fmt: skip
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(Exception, match="could not be written"):
            await job.save_outputs(tmp_path / "out")
    kept = tmp_path / "out" / f".comfy-remote-{job.id}"  # for another try
    assert sorted((tmp_path / "out").iterdir()) == [
        kept,
        tmp_path / "out" / "a.txt",
        tmp_path / "out" / "c.txt",
    ]
    assert b"x" in [path.read_bytes() for path in kept.iterdir()]
    assert record.get(job.id).outputs == ()


async def test_outputs_are_saved_below_their_folder_whatever_their_name(
    record: Record, tmp_path: Path
) -> None:
    named = (output("../../x.txt"), output("y.txt", subfolder="../a"), output("y.txt"))
    files = {"../../x.txt": b"x", "y.txt": b"y"}
    target = FakeTarget([Finished(JobState.SUCCEEDED, outputs=named)], files)
    out = tmp_path / "deep" / "out"
    async with Client(target, record=record) as client:
        saved = await (await client.submit(PROMPT)).save_outputs(out)
    assert [s.path for s in record.get(_newest(record).id).outputs] == [s.path for s in saved]
    assert [s.path for s in saved] == [out / "x.txt", out / "a" / "y.txt", out / "y.txt"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]


async def test_a_text_is_an_output_too(record: Record) -> None:
    class Speaking(FakeTarget):
        async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
            yield (output.text or "").encode()[offset:]

    said = RemoteOutput("2", "text", "2_text_0.txt", text="Größe")
    async with Client(Speaking([Finished(JobState.SUCCEEDED, outputs=(said,))])) as client:
        (heard,) = await (await client.submit(PROMPT)).outputs()
    assert (heard.kind, heard.text()) == ("text", "Größe")
    for decode in (heard.image, heard.array):
        with pytest.raises(OutputCorrupt, match=r"2_text_0\.txt cannot be decoded"):
            decode()


async def test_a_tensor_needs_torch_and_says_so(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    async with Client(FakeTarget.making(x_png=_png()), record=record) as client:
        (picture,) = await (await client.submit(PROMPT)).outputs()
    with pytest.raises(ConfigurationError, match=r"needs PyTorch"):
        picture.tensor()


# --- resuming -----------------------------------------------------------------------------


async def _submitted(record: Record, refuses: BaseException | None = None) -> str:
    target = FakeTarget()
    target.refuses = refuses
    async with Client(target, record=record) as client:
        with contextlib.suppress(ComfyRemoteError, asyncio.CancelledError):
            await client.submit(PROMPT)
    return _newest(record).id


async def test_a_job_with_an_address_is_followed_without_asking(record: Record) -> None:
    job_id = await _submitted(record)
    target = FakeTarget.making(x_png=_png())
    async with resume(job_id[:8], record=record, target=target) as job:
        assert job.id == job_id
        assert [o.filename for o in await job.outputs()] == ["x.png"]
    assert target.log == ["open", "follow", "close"]
    assert record.get(job_id).state is JobState.SUCCEEDED


async def test_a_job_whose_answer_was_lost_is_looked_for(record: Record) -> None:
    job_id = await _submitted(record, SubmissionUnknown("Perhaps."))
    target = FakeTarget.making(x_png=_png())
    target.known = RemoteRef(job_id, "there", {})
    async with resume(job_id, target=target) as job:
        assert (await job.wait()).state is JobState.SUCCEEDED
    assert target.log == ["open", "find", "follow", "close"]
    assert record.get(job_id).ref == target.known


@pytest.mark.parametrize(
    ("known", "kind", "state"),
    [
        (None, OutputLost, "failed"),
        (SubmissionUnknown("Cannot tell."), SubmissionUnknown, "queued"),
    ],
)
async def test_a_job_that_is_not_found_is_not_sent_again(
    record: Record,
    known: SubmissionUnknown | None,
    kind: type[Exception],
    state: str,
) -> None:
    job_id = await _submitted(record, asyncio.CancelledError())  # killed while it was sent
    target = FakeTarget()
    target.known = known
    with pytest.raises(kind):
        async with resume(job_id, record=record, target=target):
            pass
    assert "submit" not in target.log
    assert record.get(job_id).state.value == state


async def test_a_job_that_was_refused_is_still_refused(record: Record) -> None:
    job_id = await _submitted(record, WorkflowInvalid("No such node."))
    with pytest.raises(WorkflowInvalid, match="No such node"):
        async with resume(job_id, record=record, target=FakeTarget()):
            pass
    assert isinstance(record.get(job_id).error, WorkflowInvalid)


async def test_a_job_that_nobody_knows(record: Record) -> None:
    with pytest.raises(JobNotFound):
        async with resume("nowhere"):
            pass


# --- the rest -----------------------------------------------------------------------------


def test_run_is_the_whole_of_it_for_scripts() -> None:
    events: list[object] = []
    target: Target = FakeTarget.making(x_png=_png())
    (picture,) = run(PROMPT, target, on_event=events.append)
    assert picture.bytes() == _png()
    assert [type(event) for event in events] == [Started, Finished]
    with pytest.raises(OutputLost):
        run(PROMPT, FakeTarget.making())


async def test_run_works_inside_a_running_loop_as_in_a_notebook() -> None:
    (picture,) = run(PROMPT, FakeTarget.making(x_png=_png()))
    assert picture.bytes() == _png()


async def test_a_target_that_cannot_be_opened_leaves_no_open_record() -> None:
    class Closed(FakeTarget):
        async def __aenter__(self) -> FakeTarget:
            raise TargetUnreachable("Closed.")

    client = Client(Closed())
    with pytest.raises(TargetUnreachable):
        async with client:
            pass
    with pytest.raises(Exception, match="closed"):
        client.record.newest()


async def test_output_events_are_passed_on(record: Record) -> None:
    made = output("x.png")
    target = FakeTarget([OutputReady(made), Finished(JobState.SUCCEEDED, outputs=(made,))])
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        assert OutputReady(made) in [event async for event in job]
        assert job.finished
        assert job.finished.outputs == (made,)


async def test_the_output_of_an_event_is_fetched_once(record: Record, tmp_path: Path) -> None:
    made, lost = output("x.txt"), output("lost.txt")
    target = FakeTarget([OutputReady(made), OutputReady(lost), 10.0], {"x.txt": b"early"})
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        ready = []
        async for event in job:
            match event:
                case OutputReady(found):
                    ready.append(found)
                    if len(ready) == 2:
                        break
        there, gone = ready
        out = tmp_path / "out"
        here, path = await asyncio.gather(there.fetch(), there.save(out))
        assert here.bytes() == path.read_bytes() == b"early"
        assert await there.save(str(out)) == path
        assert target.files_read.count("x.txt") == 1
        assert (await job.output(there)).bytes() == b"early"
        with pytest.raises(OutputLost):
            await gone.save(out)
        assert [one.name for one in out.iterdir()] == ["x.txt"]


async def test_the_output_of_an_event_is_a_description_like_any_other(record: Record) -> None:
    made = output("x.txt")
    target = FakeTarget([OutputReady(made), Finished(JobState.SUCCEEDED, outputs=(made,))])
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        [ready] = [event.output async for event in job if isinstance(event, OutputReady)]
    assert ready == made
    assert made == ready
    assert ready != output("y.txt")
    assert {ready} == {made}
    assert repr(ready) == f"Job{made!r}".replace("JobRemote", "Job")
    assert asdict(ready) == asdict(made)


async def test_the_key_is_in_no_file_and_no_error(
    record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "planted-key-0123456789"
    caplog.set_level("DEBUG")
    failed = {"id": "r", "status": "FAILED", "error": f"it said: Bearer {key}"}
    async with ScriptedServer() as server:
        server.on("POST /v2/ep/run", Answer({"id": "r", "status": "IN_QUEUE"}), Answer(key, 400))
        server.on("GET /v2/ep/status/r", Answer(failed))
        target = RunPodTarget("ep", SecretStr(key), base_url=f"{server.url}/v2")
        async with Client(target, record=record) as client:
            finished = await (await client.submit(PROMPT)).wait()
            with pytest.raises(TargetError) as caught:
                await client.submit(PROMPT)
    assert server.asked[0].headers["Authorization"] == f"Bearer {key}"
    assert isinstance(finished.error, ExecutionFailed)
    assert "it said: Bearer ***" in finished.error.message
    record.close()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"it said" in written
    shown = f"{caught.value!r} {caught.value.to_json()} {finished} {target!r} {caplog.text}"
    assert key not in shown
    assert key.encode() not in written


async def test_a_job_that_is_followed_again_does_not_start_again(record: Record) -> None:
    end = Finished(JobState.CANCELLED)
    target = FakeTarget([Queued(), Started(), Progress(), end])
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        async for event in job:
            if isinstance(event, Progress):
                break
        again = [event async for event in job]
    assert again == [Progress(), end]
