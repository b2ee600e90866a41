"""The parts of the remote lane, one by one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_target import FakeTarget
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comfy_remote.errors import (
    ConfigurationError,
    ExecutionFailed,
    InputFileMissing,
    OutputLost,
    OutputTooLarge,
    WorkflowInvalid,
)
from comfy_remote.events import JobState, NodeText, Preview, Progress
from comfy_remote.node_pack.comfyui_host import ComfyUIHost
from comfy_remote.node_pack.host import LocalPrompt, QueueEntry
from comfy_remote.node_pack.input_files import InputFiles
from comfy_remote.node_pack.lane_job import LaneJob
from comfy_remote.node_pack.page_messages import JOB_EVENT, PageMessages
from comfy_remote.node_pack.posted_prompt import (
    PagePrompt,
    Posted,
    check,
)
from comfy_remote.node_pack.refusals import refusal_body
from comfy_remote.node_pack.saved_outputs import NO_NODE, Deliveries, OutputSaver
from comfy_remote.outputs import RemoteOutput, media_type_of
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

ID = "0b2a5c1e-1111-4222-8333-444455556666"
PROMPT: Prompt = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x/one"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "two"}},
}


class FakeHost:
    """Folders and an ear; what the tests do not call is not there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sent: list[tuple[str, dict[str, Any], str | None]] = []
        self.previews: list[tuple[bytes, str, dict[str, Any], str | None]] = []
        self.texts: list[tuple[str, str, str | None]] = []
        self.local: LocalPrompt | None = None
        self.assets: dict[str, Path] = {}
        for name in ("input", "output", "temp"):
            (base / name).mkdir()

    def folder(self, kind: str) -> Path:
        return self.base / kind

    def asset(self, reference: str) -> Path | None:
        return self.assets.get(reference)

    def register(self, shown: dict[str, Any], prompt_id: str) -> dict[str, Any]:
        assert prompt_id == ID
        return shown

    def local_prompt(self) -> LocalPrompt | None:
        return self.local

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        self.sent.append((event, data, client_id))

    def send_preview(
        self, picture: bytes, media_type: str, metadata: dict[str, Any], client_id: str | None
    ) -> None:
        self.previews.append((picture, media_type, metadata, client_id))

    def send_text(self, text: str, node_id: str, client_id: str | None) -> None:
        self.texts.append((text, node_id, client_id))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def _picture(frames: int = 1, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pictures = [Image.new("RGB", (4, 4), (40 * n, 0, 0)) for n in range(frames)]
    pictures[0].save(buffer, kind, save_all=frames > 1, append_images=pictures[1:])
    return buffer.getvalue()


def _output(filename: str, **more: Any) -> RemoteOutput:
    facts = {"node_id": "2", "kind": "image", "media_type": media_type_of(filename)} | more
    return RemoteOutput(filename=filename, **facts)


# --- what a page posts


def _submission(**body: Any) -> PagePrompt:
    return PagePrompt.parse({"prompt": PROMPT, **body}, "gpu")


def test_a_submission_is_read() -> None:
    workflow = {"id": "w"}
    found = _submission(
        prompt_id=ID,
        client_id="c",
        front=True,
        extra_data={"extra_pnginfo": {"workflow": workflow}, "api_key_comfy_org": "secret"},
    )
    assert (found.prompt_id, found.front, found.number) == (ID, True, None)
    assert found.workflow == workflow
    assert found.extra_data["client_id"] == "c"
    assert found.extra_data["comfy_remote"] == {"target": "gpu"}
    assert isinstance(found.extra_data["create_time"], int)
    assert "secret" not in str(found)
    assert _submission(number="3.5").number == 3.5
    assert _submission().prompt_id != _submission().prompt_id


@pytest.mark.parametrize(
    "body",
    [
        {"prompt_id": ID.upper()},
        {"prompt_id": "1"},
        {"prompt_id": 7},
        {"number": "first"},
        {"number": "nan"},
        {"number": 1e999},
        {"prompt": []},
        {"prompt": {}},
        {"prompt": {"1": {"inputs": {}}}},
    ],
)
def test_a_submission_that_is_none_is_refused_in_comfyuis_form(body: dict[str, Any]) -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        _submission(**body)
    refused = refusal_body(caught.value)
    error = refused["error"]
    assert isinstance(error, dict)
    assert set(error) == {"type", "message", "details", "extra_info"}
    assert error["message"]
    assert refused["node_errors"] == {}


@given(
    st.dictionaries(
        st.sampled_from(["extra_data", "client_id", "partial_execution_targets", "front"]),
        st.none() | st.booleans() | st.text() | st.lists(st.text()) | st.dictionaries(
            st.text(), st.none() | st.text() | st.dictionaries(st.text(), st.text())
        ),
    )
)  # fmt: skip
def test_whatever_else_a_page_sends_is_survived(body: dict[str, Any]) -> None:
    found = _submission(**body)
    assert found.workflow is None or isinstance(found.workflow, dict)
    assert Posted(body).choice  # no error


def test_the_prompt_itself_may_say_where_it_runs() -> None:
    def said(choice: Any) -> tuple[bool, str | None]:
        return Posted({"extra_data": {"comfy_remote": choice}}).choice

    assert said({"target": "gpu"}) == (True, "gpu")
    assert said({"target": None}) == (True, None)
    assert said({"target": 5}) == (True, None)
    assert said({}) == said("gpu") == Posted({}).choice == (False, None)


def test_without_schemas_the_wanted_part_is_still_found() -> None:
    checked = check(_submission(partial_execution_targets=["3", "nowhere"]), None)
    assert (list(checked.prompt), checked.outputs) == (["1", "3"], ["3"])
    assert check(_submission(), None).outputs == ["2", "3"]
    with pytest.raises(WorkflowInvalid) as caught:
        check(_submission(partial_execution_targets=["nowhere"]), None)
    _is_told_to_save(caught.value)
    with pytest.raises(WorkflowInvalid) as caught:
        check(PagePrompt.parse({"prompt": {"1": PROMPT["1"]}}, "gpu"), Schemas.bundled())
    _is_told_to_save(caught.value)


def _is_told_to_save(error: WorkflowInvalid) -> None:
    told: Any = refusal_body(error)["error"]
    assert told["type"] == "prompt_no_outputs"
    assert told["details"] == "Add a Save Image node, or another that saves."


def test_by_the_schemas_only_what_is_right_runs() -> None:
    prompt: Any = {**PROMPT, "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    checked = check(PagePrompt.parse({"prompt": prompt}, "gpu"), Schemas.bundled())
    assert checked.outputs == ["2", "3"]
    assert list(checked.prompt) == ["1", "2", "3"]
    assert set(checked.node_errors) == {"4"}


def test_the_node_of_a_repo_list_is_read_and_neither_checked_nor_sent() -> None:
    text = {"class_type": "NotThere", "inputs": {"text": "lora https://x/y"}}
    prompt: Any = {**PROMPT, "4": {**text, "_meta": {"title": "repo_list"}}}
    wanted = PagePrompt.parse({"prompt": prompt}, "gpu")
    checked = check(wanted, Schemas.bundled())
    assert (list(checked.prompt), checked.node_errors) == (["1", "2", "3"], {})
    assert wanted.repo_list == "lora https://x/y"
    assert PagePrompt.parse({"prompt": prompt}, "gpu", with_repo_list=False).repo_list == ""
    assert list(check(wanted, None).prompt) == ["1", "2", "3"]


# --- what a page is told


def _messages(host: FakeHost, client_id: str | None = "c") -> PageMessages:
    extra: dict[str, Any] = {} if client_id is None else {"client_id": client_id}
    return PageMessages(host, QueueEntry(0, ID, PROMPT, extra), "gpu")  # type: ignore[arg-type]


def test_a_job_without_a_page_tells_everybody_only_what_comfyui_would(host: FakeHost) -> None:
    messages = _messages(host, None)
    messages.moved(Progress(0, 3, "1", "LoadImage", 1, 2))
    messages.executed("2", {"images": []})
    messages.interrupted()
    messages.ended()
    assert {name for name, _, _ in host.sent} == {
        "progress",
        "progress_state",
        "execution_interrupted",
    }
    assert {client for _, _, client in host.sent} == {None}
    assert [name for name, _ in messages.history] == [
        "execution_start",
        "execution_cached",
        "execution_interrupted",
    ]


def test_a_failure_names_a_node_only_if_it_is_one_s(host: FakeHost) -> None:
    messages = _messages(host)
    messages.moved(Progress(0, 3, "1", "LoadImage"))
    messages.failed(OutputTooLarge("Too much.", advice="Save less."))
    (_, error) = messages.history[-1]
    assert (error["node_id"], error["exception_type"]) == ("", "Remote job")
    assert error["exception_message"] == "On gpu: Too much. Save less."
    failure = ExecutionFailed(
        "Broken.",
        details={
            "node_id": "2",
            "node_class": "SaveImage",
            "exception_type": "ValueError",
            "traceback": "a\nb\n",
        },
    )
    messages = _messages(host)
    messages.failed(failure)
    (_, error) = messages.history[-1]
    assert (error["node_id"], error["node_type"]) == ("2", "SaveImage")
    assert (error["exception_type"], error["traceback"]) == ("ValueError", ["a\n", "b\n"])
    assert error["exception_message"] == "On gpu: Broken."


def test_a_job_that_waits_once_more_has_no_progress(host: FakeHost) -> None:
    messages = _messages(host)
    messages.moved(Progress(2, 3, "2", "SaveImage", estimated=True))
    messages.waits_again()
    messages.job(JobState.QUEUED)
    (state, job) = [data for _, data, _ in host.sent][-2:]
    assert state["nodes"] == {}
    assert (job["state"], job["fraction"], job["estimated"]) == ("queued", 0, False)


def test_nodes_that_were_too_quick_to_be_seen_have_run_for_the_page(host: FakeHost) -> None:
    entry = QueueEntry(0, ID, PROMPT, {"client_id": "c"}, ["2"])
    messages = PageMessages(host, entry, "gpu")  # type: ignore[arg-type]
    messages.all_ran()
    messages.succeeded()
    states = [data["nodes"] for name, data, _ in host.sent if name == "progress_state"]
    # A page removes an old preview from a node that it sees running, and from no other.
    assert {n: one["state"] for n, one in states[0].items()} == {"1": "running", "2": "running"}
    assert {n: one["state"] for n, one in states[-1].items()} == {"1": "finished", "2": "finished"}


def test_progress_is_told_once_and_says_when_it_is_a_guess(host: FakeHost) -> None:
    messages = _messages(host)
    for _ in range(2):
        messages.moved(Progress(1, 3, "1", "LoadImage", 2.0, 4.0, "about 3 s", estimated=True))
    steps = [data for name, data, _ in host.sent if name == "progress"]
    assert steps == [{"value": 2, "max": 4, "prompt_id": ID, "node": "1"}]
    ours = [data for name, data, _ in host.sent if name == JOB_EVENT]
    assert ours[-1] == {
        "prompt_id": ID,
        "target": "gpu",
        "state": "running",
        "fraction": 0.5,
        "estimated": True,
        "phase": None,
        "message": "about 3 s",
        "problems": [],
    }


def test_what_a_running_node_takes_counts_as_done(host: FakeHost) -> None:
    def cached() -> list[list[str]]:
        return [data["nodes"] for name, data, _ in host.sent if name == "execution_cached"]

    messages = _messages(host)
    messages.moved(Progress(1, 3, "2", "SaveImage"))
    messages.moved(Progress(2, 3, "3", "SaveImage"))
    assert cached() == [[], ["1"]]
    assert [data["nodes"] for name, data in messages.history if "cached" in name] == [[]]
    messages.repeat()
    assert cached()[2:] == [[], ["1"]]
    # What was seen to run is told by its own messages.
    host.sent.clear()
    messages = _messages(host)
    messages.moved(Progress(0, 3, "1", "LoadImage"))
    messages.moved(Progress(1, 3, "2", "SaveImage"))
    assert cached() == [[]]


def test_a_preview_of_an_unnamed_node_is_of_the_one_that_runs(host: FakeHost) -> None:
    messages = _messages(host)
    messages.preview(Preview(None, "image/jpeg", b"x"))
    assert host.previews == []
    messages.moved(Progress(0, 3, "1"))
    messages.preview(Preview(None, "image/jpeg", b"x"))
    ((picture, _, metadata, client),) = host.previews
    assert (picture, metadata["node_id"], client) == (b"x", "1", "c")


def test_nothing_is_repeated_before_the_job_has_begun(host: FakeHost) -> None:
    messages = _messages(host)
    messages.job(JobState.QUEUED)
    host.sent.clear()
    messages.repeat()
    assert host.sent == []


# --- where outputs go


async def test_outputs_take_the_next_free_numbers(host: FakeHost) -> None:
    folder = host.base / "output" / "sub"
    folder.mkdir()
    for name in ("pic_00003_.png", "PIC_00009_.png", "pic_x_00020_.png", "pic_12.txt"):
        (folder / name).write_bytes(b"old")
    target = FakeTarget((), {f"pic_0000{n}_.png": _picture() for n in (1, 2)})
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    shown = await saver.bring(
        "2", [_output(f"pic_0000{n}_.png", subfolder="sub", key="images") for n in (1, 2)]
    )
    names = [entry["filename"] for entry in shown["images"]]  # type: ignore[union-attr,index,call-overload]
    assert sorted(names) == ["pic_00013_.png", "pic_00014_.png"]
    assert sorted(saved.path.name for saved in saver.saved) == sorted(names)
    assert (folder / "pic_00003_.png").read_bytes() == b"old"


async def test_beside_a_local_prompt_names_are_ones_it_cannot_choose(host: FakeHost) -> None:
    host.local = LocalPrompt("other", None)
    target = FakeTarget((), {"pic_00001_.png": _picture(), "plain.png": _picture()})
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    shown = await saver.bring("2", [_output("pic_00001_.png"), _output("plain.png")])
    names = [entry["filename"] for entry in shown["images"]]  # type: ignore[union-attr,index,call-overload]
    assert names == ["pic_00001_remote_.png", "plain_00001_remote_.png"]
    host.local = None
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    shown = await saver.bring("2", [_output("pic_00001_.png")])
    assert shown["images"][0]["filename"] == "pic_00002_.png"  # type: ignore[index,call-overload]


async def test_every_kind_is_shown_under_its_own_key(host: FakeHost) -> None:
    files = {
        "still.webp": _picture(1, "WEBP"),
        "moves.webp": _picture(3, "WEBP"),
        "v.mp4": b"v",
        "a.flac": b"a",
        "m.glb": b"m",
        "2_text_1.txt": "grüß".encode(),
    }
    target = FakeTarget((), files)
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]

    async def bring(*outputs: RemoteOutput) -> Any:
        return await saver.bring("2", outputs)

    def entry(name: str) -> dict[str, str]:
        return {"filename": name, "subfolder": "", "type": "output"}

    assert await bring(_output("still.webp", key="images")) == {"images": [entry("still.webp")]}
    assert await bring(_output("moves.webp", key="images")) == {
        "images": [entry("moves.webp")],
        "animated": [True],
    }

    def sha(name: str) -> str:  # announced, so that nothing looks at the formats
        return hashlib.sha256(files[name]).hexdigest()

    video: Any = {"kind": "video", "media_type": "video/mp4", "sha256": sha("v.mp4")}
    assert await bring(_output("v.mp4", key="gifs", **video)) == {
        "gifs": [{**entry("v.mp4"), "format": "video/mp4"}]
    }
    # The same file again (by a worker that gives no keys) is not fetched again.
    assert await bring(_output("v.mp4", **video)) == {
        "images": [entry("v.mp4")],
        "animated": [True],
    }
    assert target.files_read.count("v.mp4") == 1
    audio: Any = {"kind": "audio", "sha256": sha("a.flac")}
    assert await bring(_output("a.flac", **audio)) == {"audio": [entry("a.flac")]}
    model: Any = {"kind": "3d", "sha256": sha("m.glb")}
    assert await bring(_output("m.glb", key="3d", **model)) == {"3d": [entry("m.glb")]}
    assert await bring(_output("m.glb", key="result", **model)) == {"result": ["m.glb"]}
    text = _output("2_text_0.txt", kind="text", text="Hello", key="text")
    assert await bring(text) == {"text": ["Hello"]}
    # One that was too long for the worker's answer comes as a file, and is shown as a text.
    long: Any = {"kind": "text", "key": "text", "sha256": sha("2_text_1.txt")}
    assert await bring(_output("2_text_1.txt", **long)) == {
        "text": [files["2_text_1.txt"].decode()]
    }
    assert not list(host.base.rglob("2_text_1*"))


async def test_a_node_shows_what_it_shows_there(host: FakeHost) -> None:
    """All of its `ui`, in its order; only the names of files are those they have here."""
    (host.base / "output" / "clip_00001.mp4").write_bytes(b"old")
    files = {"clip_00001.mp4": b"v", "m.glb": b"m", "x.png": _picture()}

    def file(name: str, **more: Any) -> RemoteOutput:  # announced, so that nobody looks inside
        return _output(name, sha256=hashlib.sha256(files[name]).hexdigest(), **more)

    saver = OutputSaver(host, FakeTarget((), files), ID)  # type: ignore[arg-type]
    there = {"filename": "clip_00001.mp4", "subfolder": "", "type": "output"}
    gif = {"format": "video/h264-mp4", "frame_rate": 8.0, "workflow": "clip_00001.png"}
    values: Any = {
        "count": [3],
        "gifs": [{**there, **gif, "fullpath": "/workspace/output/clip_00001.mp4"}],
        "images": None,
        "on": [True, None, {"a": 1}],
    }
    made = [
        file("clip_00001.mp4", key="gifs", kind="video", media_type="video/mp4"),
        file("x.png", key="images"),
    ]
    shown: Any = await saver.bring("2", made, values)
    assert [*shown] == ["count", "gifs", "images", "on"]
    assert shown["count"] == [3]
    assert shown["on"] == [True, None, {"a": 1}]
    assert shown["images"] == [{"filename": "x.png", "subfolder": "", "type": "output"}]
    (told,) = shown["gifs"]
    assert told["filename"] != "clip_00001.mp4"
    assert {key: told[key] for key in gif} == gif
    assert Path(told["fullpath"]).read_bytes() == b"v"

    camera = {"position": {"x": 1}}
    model = file("m.glb", key="result", kind="3d", subfolder="mesh")
    shown = await saver.bring("3", [model], {"result": ["mesh/m.glb", camera, None]})
    assert shown == {"result": ["mesh/m.glb", camera, None]}
    # Values alone; and the plain word that there is nothing besides.
    assert await saver.bring("4", [], {"value": [1.5]}) == {"value": [1.5]}
    assert await saver.bring("5", [file("x.png", key="images")], {}) == {
        "images": [{"filename": "x.png", "subfolder": "", "type": "output"}]
    }
    assert saver.shown["4"] == {"value": [1.5]}


async def test_a_target_names_no_file_of_this_machine(host: FakeHost) -> None:
    """What did not arrive as an output is no file for the page either."""
    saver = OutputSaver(host, FakeTarget(), ID)  # type: ignore[arg-type]
    secret = {"filename": "secret.png", "subfolder": "..", "type": "input"}
    assert await saver.bring("2", [], {"images": [secret], "n": [1]}) == {"images": [], "n": [1]}


def test_a_text_is_shown_on_its_node_while_it_runs(host: FakeHost) -> None:
    _messages(host).text(NodeText("2", "loading"))
    assert host.texts == [("loading", "2", "c")]


def test_what_a_node_expanded_into_is_shown_on_that_node(host: FakeHost) -> None:
    messages = _messages(host)
    messages.executed("2.0.0.1", {"n": [1]})
    assert host.sent[-2][1]["display_node"] == "2"
    assert host.sent[-2][1]["node"] == "2.0.0.1"


async def test_a_hostile_name_stays_in_the_folder(host: FakeHost) -> None:
    names = ["../../up.png", "/abs.png", "..", "C:\\x.png"]
    target = FakeTarget((), dict.fromkeys(names, _picture()))
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    for name in names:
        await saver.bring("2", [_output(name, subfolder="../..", folder="anything")])
    for saved in saver.saved:
        assert saved.path.resolve().is_relative_to((host.base / "temp").resolve())
        if os.name == "posix":
            assert saved.path.stat().st_mode & 0o777 == 0o600


async def test_an_output_that_is_gone_is_an_error_and_leaves_nothing(host: FakeHost) -> None:
    saver = OutputSaver(host, FakeTarget(), ID)  # type: ignore[arg-type]
    assert await saver.bring("2", [_output("gone.png")]) == {}
    assert isinstance(saver.failure, OutputLost)
    assert saver.failure.details["node_id"] == "2"
    await saver.stop()
    assert saver.shown == {}
    assert list((host.base / "output").rglob("*")) == []
    assert list((host.base / "temp").rglob("*")) == []


async def test_an_output_that_is_gone_costs_no_other(host: FakeHost) -> None:
    target = FakeTarget((), {"here.png": _picture()})
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    shown = await saver.bring("2", [_output("gone.png"), _output("here.png")])
    assert shown == {"images": [{"filename": "here.png", "subfolder": "", "type": "output"}]}
    assert saver.shown == {"2": shown}
    assert [saved.filename for saved in saver.saved] == ["here.png"]
    assert isinstance(saver.failure, OutputLost)


async def test_a_batch_is_numbered_in_its_own_order(host: FakeHost) -> None:
    names = [f"pic_0000{n}_.png" for n in range(1, 7)]
    first_is_slow = dict(zip(names, (0.2, 0.1, 0, 0.1, 0, 0), strict=True))
    target = FakeTarget((), dict.fromkeys(names, _picture()))
    target.delays = first_is_slow
    (host.base / "output" / "pic_00004_.png").write_bytes(b"old")
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    shown = await saver.bring("2", [_output(name) for name in names])
    entries: Any = shown["images"]
    assert [entry["filename"] for entry in entries] == [
        f"pic_{n:05}_.png" for n in range(5, 5 + len(names))
    ]


async def test_files_of_one_name_are_told_apart(host: FakeHost) -> None:
    one = _output("x_00001_.png", node_id=None, number=0)
    delivered: list[Any] = []

    async def deliver(node_id: str | None, made: Any, values: Any) -> None:
        assert values is None
        delivered.append((node_id, made))

    gathered = Deliveries(deliver)
    for output in (one, replace(one, number=1), one):
        gathered.add(output)
    await gathered.done()
    assert delivered == [(None, [one, replace(one, number=1)])]
    target = FakeTarget()
    target.files = {"x_00001_.png": _picture()}
    saver = OutputSaver(host, target, ID)  # type: ignore[arg-type]
    await saver.bring(None, delivered[0][1])
    assert target.files_read == ["x_00001_.png"] * 2
    assert len({saved.path for saved in saver.saved}) == 2
    assert list(saver.shown) == [NO_NODE]


# --- what is loaded


async def test_files_are_found_in_comfyuis_folders_only(host: FakeHost, tmp_path: Path) -> None:
    (host.base / "input" / "a.png").write_bytes(b"in")
    (host.base / "output" / "a.png").write_bytes(b"out")
    (host.base / "outside.png").write_bytes(b"outside")
    host.assets["blake3:abc"] = host.base / "input" / "a.png"
    inputs = InputFiles(host)  # type: ignore[arg-type]

    def loading(*names: str) -> Prompt:
        return {
            str(n): {"class_type": "LoadImage", "inputs": {"image": name}}
            for n, name in enumerate(names)
        }

    target = FakeTarget()
    target.inputs = {"there.png"}
    prompt, files = await inputs.collect(
        loading("a.png", "a.png [output]", "a.png [input]", "blake3:abc", "there.png"),
        target,  # type: ignore[arg-type]
        None,
    )
    assert sorted(file.path.read_bytes() for file in files) == [b"in", b"out"]
    sent = {file.name: file.path.read_bytes() for file in files}
    names = [str(node["inputs"]["image"]) for node in prompt.values()]
    assert [sent.get(name) for name in names] == [b"in", b"out", b"in", b"in", None]
    assert names[4] == "there.png"
    outside = str(host.base / "outside.png")
    for name in (outside, "../outside.png", "no.png", "no.png [temp]", "blake3:no", "x\0y"):
        with pytest.raises(InputFileMissing):
            await inputs.collect(loading(name), FakeTarget(), None)  # type: ignore[arg-type]


async def test_a_custom_nodes_upload_travels_too(host: FakeHost) -> None:
    (host.base / "input" / "mask.png").write_bytes(b"mask")
    options = {"image_upload": True}
    schemas = Schemas(
        {
            "MyLoader": {
                "input": {"required": {"file": [["mask.png", "none"], options], "mode": [["a"]]}},
                "output": ["IMAGE"],
            }
        },
        "test",
    )
    inputs = InputFiles(host)  # type: ignore[arg-type]
    for name, count in (("mask.png", 1), ("none", 0)):
        prompt: Prompt = {"1": {"class_type": "MyLoader", "inputs": {"file": name, "mode": "a"}}}
        sent, files = await inputs.collect(prompt, FakeTarget(), schemas)  # type: ignore[arg-type]
        assert len(files) == count
        assert sent["1"]["inputs"]["file"] == name


def test_a_windows_name_passes_the_check_as_the_target_spells_it() -> None:
    nodes = {
        "Loader": {"input": {"required": {"model_name": [["sub/up.pth"]]}}, "output": ["IMAGE"]},
        "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    }
    prompt = {
        "1": {"class_type": "Loader", "inputs": {"model_name": "sub\\up.pth"}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
    }
    submission = PagePrompt.parse({"prompt": prompt}, "gpu")
    checked = check(submission, Schemas(nodes, "test"))
    assert checked.node_errors == {}
    assert checked.prompt["1"]["inputs"]["model_name"] == "sub/up.pth"
    assert submission.prompt["1"]["inputs"]["model_name"] == "sub\\up.pth"


def test_a_comfyui_that_is_built_differently_is_left_alone() -> None:
    with pytest.raises(ConfigurationError, match="Remote is not available"):
        ComfyUIHost(SimpleNamespace(app=None, prompt_queue=SimpleNamespace()))


async def test_a_switch_that_nobody_uses_costs_nothing() -> None:
    from comfy_remote.node_pack.switch import Switch

    switch = Switch()
    assert not switch.in_use
    switch.set("c", "gpu")
    assert switch.in_use
    switch.set("c", None)
    assert not switch.in_use
    await asyncio.sleep(0)


def test_the_page_sees_how_much_of_the_input_files_is_there(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.node_pack.lane_job._SENT_EVERY", 0.0)
    entry = QueueEntry(0, ID, PROMPT, {"client_id": "page"})
    job = LaneJob(host, entry, "gpu", cast(Any, None))  # type: ignore[arg-type]
    job.sending(500_000, 2_000_000)
    [(event, data, _)] = host.sent
    assert event == JOB_EVENT
    assert (data["state"], data["message"]) == ("queued", "Sending input files: 500 kB of 2.0 MB")
    monkeypatch.setattr("comfy_remote.node_pack.lane_job._SENT_EVERY", 60.0)
    job.sending(600_000, 2_000_000)
    assert len(host.sent) == 1
