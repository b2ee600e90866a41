"""What ComfyUI says, decoded: messages, progress, history, queue. Nothing here raises."""

from __future__ import annotations

import json
import struct
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_remote.errors import ExecutionFailed, JobCancelled, OutOfMemory, WorkflowInvalid
from comfy_remote.events import JobState, Progress
from comfy_remote.json_text import parse_json
from comfy_remote.targets.comfyui.history import (
    finished_from_history,
    outputs_of_node,
    shown_by_node,
)
from comfy_remote.targets.comfyui.messages import (
    NodeTextMessage,
    PreviewMessage,
    TextMessage,
    decode_binary,
    decode_text,
)
from comfy_remote.targets.comfyui.progress import ProgressTracker
from comfy_remote.targets.comfyui.queue import QueueItem, queue_items, refusal, skipped_nodes
from comfy_remote.types import JsonValue
from comfy_remote.workflow.check.structure import no_output
from comfy_remote.workflow.files import rename_files
from comfy_remote.workflow.graph import needed_nodes
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "Sampler", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
KEYS = st.sampled_from(
    [
        "1",
        "2",
        "status",
        "status_str",
        "messages",
        "outputs",
        "meta",
        "images",
        "gifs",
        "text",
        "filename",
        "subfolder",
        "type",
        "node",
        "node_id",
        "display_node",
        "value",
        "max",
        "state",
        "nodes",
        "exception_message",
        "traceback",
        "error",
        "node_errors",
        "errors",
        "details",
        "extra_info",
        "class_type",
        "message",
    ]
)
WORDS = st.sampled_from(["error", "running", "finished", "execution_error", "1", "x.png", "\ud800"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(max_size=4)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


def _entry(outputs: object = None, messages: object = None, **more: object) -> dict:
    status = {"status_str": "success", "completed": True, "messages": messages or []}
    return {"outputs": outputs or {}, "status": status, **more}


def _file(name: str, subfolder: str = "", kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": kind}


# --- JSON -------------------------------------------------------------------------------


def test_json_that_only_python_writes_is_read() -> None:
    assert parse_json('{"a": NaN, "b": [-Infinity]}') == {"a": None, "b": [None]}
    assert parse_json('"\\ud83d\\ude00 \\ud800"') == "😀 ?"
    assert parse_json(b'\xef\xbb\xbf"\xff"') == "\ufffd"
    assert parse_json(f"[1e999, {'1' * 400}, {'1' * 5000}, 7]") == [None, None, None, 7]


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, b"\x00", b"<html>"])
def test_other_text_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@given(st.binary() | st.text())
def test_any_text_is_json_that_can_be_written_or_an_error(text: str | bytes) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False).encode()


# --- messages ---------------------------------------------------------------------------


def test_a_text_message_has_a_type_and_data() -> None:
    message = decode_text('{"type": "executing", "data": {"node": "3", "n": 1}}')
    assert message == TextMessage("executing", {"node": "3", "n": 1})
    assert message.text("node") == "3"
    assert message.text("n") is None
    assert decode_text('{"type": "status"}') == TextMessage("status", {})


def test_an_old_preview_says_only_what_it_is() -> None:
    assert decode_binary(struct.pack(">II", 1, 1) + b"JPEG") == PreviewMessage(
        "image/jpeg", b"JPEG"
    )
    assert decode_binary(struct.pack(">II", 1, 2) + b"PNG") == PreviewMessage("image/png", b"PNG")


def test_a_new_preview_names_its_prompt_and_the_node_that_was_drawn() -> None:
    metadata = json.dumps(
        {
            "node_id": "5.0.1",
            "display_node_id": "5",
            "prompt_id": "p",
            "image_type": "image/webp",
        }
    ).encode()
    frame = struct.pack(">II", 4, len(metadata)) + metadata + b"WEBP"
    assert decode_binary(frame) == PreviewMessage("image/webp", b"WEBP", "5", "p")


@given(st.text() | JSON.map(json.dumps))
def test_any_text_frame_is_a_message_or_nothing(text: str) -> None:
    assert isinstance(decode_text(text), TextMessage | None)


@given(
    st.binary(max_size=40)
    | st.builds(
        lambda kind, length, rest: struct.pack(">II", kind, length) + rest,
        st.integers(0, 5),
        st.integers(0, 20),
        st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_binary_frame_is_a_preview_or_a_text_or_nothing(frame: bytes) -> None:
    assert isinstance(decode_binary(frame), PreviewMessage | NodeTextMessage | None)


def test_a_text_that_a_running_node_shows() -> None:
    # As `PromptServer.send_progress_text` packs it.
    frame = struct.pack(">II", 3, 4) + b"12:3" + "step 1\nöäü".encode()
    assert decode_binary(frame) == NodeTextMessage("12:3", "step 1\nöäü")
    assert decode_binary(struct.pack(">II", 3, 99) + b"12:3") is None


CAMERA = {"position": {"x": 1.5, "y": 0, "z": -2}, "zoom": None}
GIF = {
    "filename": "a_00001.mp4",
    "subfolder": "",
    "type": "output",
    "format": "video/h264-mp4",
    "frame_rate": 8.0,
    "workflow": "a_00001.png",
    "fullpath": "/workspace/output/a_00001.mp4",
}
PLAIN = {"filename": "x.png", "subfolder": "", "type": "output"}


@pytest.mark.parametrize(
    ("ui", "values"),
    [
        # Told by the node's outputs alone.
        ({"images": [PLAIN]}, {}),
        ({"text": ["a", "b"], "images": [PLAIN, {**PLAIN, "filename": "y.png"}]}, {}),
        ({"result": ["mesh/a.glb"]}, {}),
        ({}, {}),
        (None, {}),
        ([], {}),
        # Not told.
        ({"images": [PLAIN], "animated": [False]}, {"images": None, "animated": [False]}),
        ({"value": [1.5], "on": [True], "all": [{"a": [None]}]},) * 2,
        ({"result": ["a.glb", CAMERA, None]},) * 2,
        ({"gifs": [GIF]},) * 2,
        ({"images": []},) * 2,
        ({"text": ["a", 1]},) * 2,
        # The same file twice is one output: the second key would be empty.
        ({"images": [PLAIN], "again": [PLAIN]}, {"images": None, "again": [PLAIN]}),
        ({"status": ["saved"]},) * 2,
    ],
)
def test_what_a_node_shows_besides_its_outputs(ui: Any, values: Any) -> None:
    assert shown_by_node(ui) == values
    entry: Any = {"status": {"status_str": "success"}, "outputs": {"7": ui}}
    assert finished_from_history(entry, {}).shown == ({"7": values} if values else {})


@given(JSON)
@example({"text": ["\ud800"]})
def test_whatever_a_node_shows_is_survived(ui: Any) -> None:
    assert isinstance(shown_by_node(ui), dict)
    entry: Any = {"status": {"status_str": "success"}, "outputs": {"7": ui}}
    finished_from_history(entry, {})


# --- progress ---------------------------------------------------------------------------


def test_progress_from_start_to_end() -> None:
    tracker = ProgressTracker(PROMPT)
    tracker.wanted(["3"])
    assert tracker.snapshot() == Progress(0, 3)
    tracker.cached(["1", "unknown", 7])
    assert tracker.snapshot() == Progress(1, 3)
    tracker.executing("2")
    tracker.progress("2", 1, 4)
    snapshot = tracker.snapshot()
    assert snapshot == Progress(1, 3, "2", "Sampler", 1.0, 4.0)
    assert snapshot.fraction == pytest.approx(1.25 / 3)
    tracker.executing("3")
    assert tracker.snapshot() == Progress(2, 3, "3", "SaveImage")
    tracker.executed("3")
    tracker.finished()
    assert tracker.snapshot() == Progress(3, 3)
    assert tracker.snapshot().fraction == 1.0


def test_the_nodes_that_run_are_the_outputs_and_what_they_need() -> None:
    assert set(needed_nodes(PROMPT, ["3"])) == {"1", "2", "3"}
    assert set(needed_nodes(PROMPT, ["9"])) == {"1", "9"}
    assert set(needed_nodes(PROMPT, ["nowhere"])) == set()
    loop: Prompt = {"1": {"class_type": "A", "inputs": {"a": ["1", 0]}}}
    assert set(needed_nodes(loop, ["1"])) == {"1"}


def test_a_node_made_at_run_time_counts_as_the_one_that_was_drawn() -> None:
    tracker = ProgressTracker(PROMPT)
    tracker.state(
        {
            "2.0.1": {
                "node_id": "2.0.1",
                "display_node_id": "2",
                "state": "running",
                "value": 3,
                "max": 9,
            },
            "1": {"node_id": "1", "display_node_id": "1", "state": "finished"},
            "2.0.0": {"node_id": "2.0.0", "display_node_id": "2", "state": "finished"},
        }
    )
    assert tracker.snapshot() == Progress(1, 4, "2", "Sampler", 3.0, 9.0)


@given(
    st.lists(st.tuples(st.sampled_from(["cached", "progress", "state"]), JSON, JSON), max_size=8)
)
def test_any_progress_gives_a_possible_snapshot(messages: list[tuple[str, object, object]]) -> None:
    tracker = ProgressTracker(PROMPT)
    for kind, first, second in messages:
        if kind == "cached":
            tracker.cached(first)  # type: ignore[arg-type]
        elif kind == "state":
            tracker.state(first)  # type: ignore[arg-type]
        else:
            tracker.progress("2", first, second)  # type: ignore[arg-type]
        snapshot = tracker.snapshot()
        assert 0 <= snapshot.nodes_done <= snapshot.nodes_total
        assert 0.0 <= snapshot.fraction <= 1.0
        if snapshot.steps is not None:
            assert 0.0 <= (snapshot.step or 0.0) <= snapshot.steps


# --- history ----------------------------------------------------------------------------


def test_outputs_in_the_order_of_the_prompt_then_of_the_nodes_own_list() -> None:
    entry = _entry(
        {
            "9": {"images": [_file("p.png", kind="temp")]},
            "7.0.1": {"images": [_file("unknown.png")]},
            "3": {"images": [_file("b.png"), _file("a.png", "sub")], "animated": [False]},
        }
    )
    finished = finished_from_history(entry, PROMPT)
    assert finished.state is JobState.SUCCEEDED
    assert [(o.node_id, o.subfolder, o.filename, o.folder) for o in finished.outputs] == [
        ("3", "", "b.png", "output"),
        ("3", "sub", "a.png", "output"),
        ("9", "", "p.png", "temp"),
        ("7.0.1", "", "unknown.png", "output"),
    ]


def test_an_expanded_nodes_output_stands_where_the_drawn_node_stands() -> None:
    entry = _entry(
        {"9": {"images": [_file("p.png")]}, "2.0.1": {"images": [_file("e.png")]}},
        meta={"2.0.1": {"node_id": "2.0.1", "display_node": "2"}},
    )
    outputs = finished_from_history(entry, PROMPT).outputs
    assert [output.node_id for output in outputs] == ["2.0.1", "9"]


def test_files_under_any_key_and_texts_under_text() -> None:
    ui = {
        "gifs": [_file("v.mp4") | {"format": "video/h264-mp4", "frame_rate": 8.0}],
        "audio": [_file("a.flac", "audio")],
        "3d": [_file("m.glb", "3d")],
        "result": ["3d/m.glb", None],
        "images": [_file("v.mp4")],
        "text": ["Hello", 3],
        "animated": [True],
    }
    outputs = list(outputs_of_node("5", ui))  # type: ignore[arg-type]
    assert [(o.kind, o.filename) for o in outputs] == [
        ("video", "v.mp4"),
        ("audio", "a.flac"),
        ("3d", "m.glb"),
        ("text", "5_text_0.txt"),
    ]
    assert [o.key for o in outputs] == ["gifs", "audio", "3d", "text"]
    assert outputs[3].text == "Hello"
    assert outputs[3].size == 5


@pytest.mark.parametrize("name", ["t_00001.txt", "t_00001.md", "t_00001.json", "t_00001.csv"])
def test_a_text_that_a_node_has_saved_arrives_once_and_is_shown(name: str) -> None:
    """`SaveText` of ComfyUI lists the text, and the file that it has written."""
    ui: dict[str, Any] = {"text": ["a cat"], "files": [_file(name, "notes")]}
    [output] = outputs_of_node("5", ui)
    assert (output.filename, output.subfolder, output.text) == (name, "notes", None)
    assert shown_by_node(ui)["text"] == ["a cat"]


@pytest.mark.parametrize(
    ("ui", "names"),
    [
        # More than was saved.
        (
            {"text": ["a", "b"], "files": [_file("t.txt")]},
            ["5_text_0.txt", "5_text_1.txt", "t.txt"],
        ),
        ({"text": ["a"], "files": [_file("t.safetensors")]}, ["5_text_0.txt", "t.safetensors"]),
        ({"text": ["a"], "files": [_file("t.txt", kind="temp")]}, ["5_text_0.txt", "t.txt"]),
        ({"text": ["a"], "images": [_file("t.png")]}, ["5_text_0.txt", "t.png"]),
        ({"text": ["a"], "files": [5]}, ["5_text_0.txt"]),
    ],
)
def test_a_text_that_may_not_be_in_a_file_is_an_output(ui: Any, names: list[str]) -> None:
    assert [output.filename for output in outputs_of_node("5", ui)] == names


def test_a_model_that_is_only_shown_is_an_output() -> None:
    (output,) = outputs_of_node("5", {"result": ["sub\\m.glb", {"position": 1}, "temp/bg.png"]})
    assert (output.kind, output.subfolder, output.filename) == ("3d", "sub", "m.glb")
    assert output.key == "result"


def test_an_output_of_a_windows_machine_is_asked_for_as_it_was_named() -> None:
    (output,) = outputs_of_node("3", {"images": [_file("ä b.png", "a\\b")]})  # type: ignore[list-item]
    assert output.subfolder == "a/b"
    assert output.source
    assert output.source.path
    query = parse_qs(output.source.path.partition("?")[2])
    assert query == {"filename": ["ä b.png"], "subfolder": ["a\\b"], "type": ["output"]}


def test_an_error_names_node_and_reason() -> None:
    data = {
        "node_id": "2",
        "node_type": "Sampler",
        "exception_type": "ValueError",
        "exception_message": "wrong size\n",
        "traceback": ["a\n", "b\n"],
    }
    finished = finished_from_history(_entry(messages=[["execution_error", data]]), PROMPT)
    assert finished.state is JobState.FAILED
    assert type(finished.error) is ExecutionFailed
    assert finished.error.message == "Sampler (node 2) failed: wrong size"
    assert finished.error.details == {
        "node_id": "2",
        "node_class": "Sampler",
        "exception_type": "ValueError",
        "traceback": "a\nb\n",
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "Allocation on device"),
        ("torch.cuda.OutOfMemoryError", "CUDA out of memory."),
        ("MemoryError", ""),
        ("RuntimeError", "Allocation on device 0 would exceed allowed memory."),
    ],
)
def test_out_of_memory_is_recognised(kind: str, message: str) -> None:
    data = {"exception_type": kind, "exception_message": message}
    finished = finished_from_history(_entry(messages=[["execution_error", data]]), PROMPT)
    assert isinstance(finished.error, OutOfMemory)
    assert "smaller" in finished.error.advice


def test_an_interrupted_prompt_is_cancelled() -> None:
    messages = [["execution_start", {}], ["execution_interrupted", {"node_id": "2"}]]
    finished = finished_from_history(_entry(messages=messages), PROMPT)
    assert finished.state is JobState.CANCELLED
    assert isinstance(finished.error, JobCancelled)


def test_a_failure_without_a_message_is_a_failure() -> None:
    finished = finished_from_history({"status": {"status_str": "error"}}, PROMPT)
    assert finished.state is JobState.FAILED


@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_history_is_an_end(entry: dict) -> None:
    finished = finished_from_history(parse_json(json.dumps(entry)), PROMPT)  # type: ignore[arg-type]
    assert finished.state.final
    assert (finished.error is None) is (finished.state is JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("/workspace/ComfyUI/output/films/a", "films/a"),
        ("/workspace/ComfyUI/output", ""),
        ("C:\\ComfyUI\\output\\films", "films"),
        ("/data/films", "films"),
        ("films/a", "films/a"),
    ],
)
def test_a_whole_path_on_the_target_is_not_made_here(there: str, here: str) -> None:
    (output,) = outputs_of_node("9", {"images": [_file("x.png", there)]})
    assert output.subfolder == here
    assert output.source is not None
    assert output.source.path is not None
    assert parse_qs(output.source.path.partition("?")[2], keep_blank_values=True)["subfolder"] == [
        there
    ]


# --- queue and refusals -----------------------------------------------------------------


def test_queue_items_of_old_and_new_versions() -> None:
    items = [
        [1, "a", {}, {}, ["3"]],
        [2.5, "b", {}, {}, ["3", "9"], {}],
        [3, "short"],
        "x",
        [None, "c", {}, {}, []],
    ]
    assert queue_items(items) == [QueueItem(1, "a", ("3",)), QueueItem(2.5, "b", ("3", "9"))]  # type: ignore[arg-type]
    assert queue_items(None) == []


def test_a_refusal_names_each_node_and_input() -> None:
    body = {
        "error": {
            "type": "prompt_outputs_failed_validation",
            "message": "Prompt outputs failed validation",
            "details": "",
            "extra_info": {},
        },
        "node_errors": {
            "2": {
                "class_type": "Sampler",
                "dependent_outputs": ["3"],
                "errors": [
                    {
                        "type": "value_not_in_list",
                        "message": "Value not in list",
                        "details": "sampler: 'x' not in ['euler']",
                        "extra_info": {"input_name": "sampler", "input_config": [["euler"] * 9999]},
                    }
                ],
            }
        },
    }
    error = refusal(json.dumps(body).encode())
    assert error.message == (
        "ComfyUI refused the workflow: node 2 (Sampler): Value not in list: "
        "sampler: 'x' not in ['euler']."
    )
    assert len(json.dumps(error.details)) < 2000
    assert error.details["node_errors"]["2"]["errors"][0]["type"] == "value_not_in_list"  # type: ignore


def test_an_output_is_only_said_to_wait_for_what_it_needs() -> None:
    """ComfyUI lists under each invalid node every output that failed after it."""
    picture: Prompt = {
        "5": {"class_type": "Loader", "inputs": {}},
        "6": {"class_type": "Upscale", "inputs": {"model": ["5", 0]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}},
        "3": {"class_type": "SaveFilm", "inputs": {"method": "nonsense"}},
    }
    wrong = [{"type": "value_not_in_list", "message": "Value not in list", "details": "it"}]
    errors: JsonValue = {
        "5": {"class_type": "Loader", "errors": wrong, "dependent_outputs": ["7", "3"]},
        "3": {"class_type": "SaveFilm", "errors": wrong, "dependent_outputs": ["3", "7"]},
    }
    assert [problem.reason for problem in skipped_nodes(errors, picture)] == [
        "it does not run: Value not in list: it. So there is no output of node 7",
        "it does not run: Value not in list: it",
    ]


def test_a_missing_node_pack_is_advised_of() -> None:
    message = "Cannot execute because node Foo does not exist."
    error = refusal(json.dumps({"error": {"type": "invalid_prompt", "message": message}}).encode())
    assert "node Foo does not exist" in error.message
    assert "install the node pack" in error.advice


def test_a_workflow_that_saves_nothing_is_told_what_check_tells() -> None:
    body = {"error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs"}}
    error = refusal(json.dumps(body).encode())
    told = no_output(Schemas.bundled(), unsure=False)
    assert error.advice == told.advice == "Add a Save Image node, or another that saves."
    assert (
        error.message
        == "No node of the workflow saves or shows anything: ComfyUI refused to run it."
    )


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_refusal_is_a_workflow_error(body: bytes) -> None:
    error = refusal(body)
    assert isinstance(error, WorkflowInvalid)
    json.dumps(error.to_json())


def test_files_that_got_another_name_are_renamed_in_the_prompt() -> None:
    prompt: Prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png", "n": 1}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "a.png [input]"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "a.png [output]"}},
        "4": {"class_type": "LoadImage", "inputs": {"image": "b.png"}},
    }
    renamed = rename_files(prompt, {"a.png": "a (1).png", "b.png": "a.png"})
    assert [node["inputs"]["image"] for node in renamed.values()] == [
        "a (1).png",
        "a (1).png",
        "a.png [output]",
        "a.png",
    ]
    assert prompt["1"]["inputs"]["image"] == "a.png"
