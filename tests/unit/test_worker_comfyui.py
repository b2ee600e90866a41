"""The public worker-comfyui: what it returns and of which node, refuses, and does not stop."""

from __future__ import annotations

import json

import pytest

from comfy_remote.errors import ExecutionFailed, OutputLost, WorkflowInvalid, node_problems
from comfy_remote.events import Log
from comfy_remote.targets.runpod.result import read_result, worker_error
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.targets.runpod.worker_comfyui import nodes_of_files, not_returned
from comfy_remote.wire.runpod import JobStatus, RunPodState
from comfy_remote.workflow.prompt import Prompt


def _prompt(**classes: tuple[str, dict[str, object]]) -> Prompt:
    return {
        key.removeprefix("n"): {"class_type": class_type, "inputs": inputs}  # type: ignore[typeddict-item]
        for key, (class_type, inputs) in classes.items()
    }


def _saver(prefix: object = "x", class_type: str = "SaveImage") -> tuple[str, dict[str, object]]:
    return class_type, {"images": ["1", 0], "filename_prefix": prefix}


SOURCE = ("EmptyImage", {"width": 8})


@pytest.mark.parametrize(
    ("savers", "files", "nodes"),
    [
        ([_saver("a"), _saver("b")], ["b_00001_.png", "a_00007_.png"], ["3", "2"]),
        # The same name, of two folders or of one: nobody can tell.
        ([_saver("colA/x"), _saver("colB/x")], ["x_00001_.png"] * 2, [None, None]),
        ([_saver("x"), _saver("x")], ["x_00001_.png", "x_00002_.png"], [None, None]),
        # With its subfolder, one can.
        ([_saver("colA/x"), _saver("colB/x")], ["colB/x_00001_.png"], ["3"]),
        # One prefix begins like the other.
        ([_saver("x"), _saver("x_00001")], ["x_00001_00001_.png", "x_00001_.png"], ["3", "2"]),
        # Windows compares so, and Windows' separator.
        ([_saver("A\\Pic"), _saver("other")], ["pic_00001_.png"], ["2"]),
        # Tokens that the engine replaces.
        ([_saver("%year%-%month%"), _saver("y")], ["2026-11_00001_.png"], ["2"]),
        ([_saver("%a%x"), _saver("x")], ["x_00001_.png"], [None]),
        # A linked prefix may be anything.
        ([_saver(["1", 0]), _saver("x")], ["x_00001_.png"], [None]),
        # The ending tells.
        ([_saver("x"), _saver("video/x", "SaveVideo")], ["x_00001_.mp4"], ["3"]),
        # Sound is not returned, so a file of that prefix is not its.
        ([_saver("x"), _saver("x", "SaveAudio")], ["x_00001_.png"], ["2"]),
        # Another way of naming files: certain if only one node saves at all.
        ([_saver("x", "PackSaver")], ["20261129.png"], ["2"]),
        ([_saver("x", "PackSaver"), _saver("y")], ["20261129.png"], [None]),
        ([("PackSaver", {"images": ["1", 0]})], ["20261129.png"], ["2"]),
    ],
)
def test_a_file_is_its_node_s_only_if_that_is_certain(
    savers: list[tuple[str, dict[str, object]]], files: list[str], nodes: list[str | None]
) -> None:
    numbered = {f"n{number}": saver for number, saver in enumerate(savers, 2)}
    assert nodes_of_files(_prompt(n1=SOURCE, **numbered), files) == nodes


def test_what_is_not_returned() -> None:
    linked = {"images": ["1", 0]}
    prompt = _prompt(
        n1=SOURCE,
        n2=_saver(),
        n3=("PreviewImage", linked),
        n4=("SaveAudio", {"audio": ["3", 0]}),  # what it takes passes through a preview
        n5=("VHS_VideoCombine", linked),
        n6=("PackShowsText", linked),
        n7=("PackInTheMiddle", linked),
        n8=("SaveVideo", {"video": ["7", 0]}),
    )
    assert [str(node) for node in not_returned(prompt)] == [
        "3 (PreviewImage: previews)",
        "4 (SaveAudio: sound)",
        "5 (VHS_VideoCombine: videos listed as gifs)",
        "6 (PackShowsText)",
    ]


def _refused(*lines: str) -> str:
    return "Workflow validation failed:\n" + "\n".join(f"• {line}" for line in lines)


def test_its_refusal_is_comfyuis() -> None:
    problem = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "ckpt_name: 'a\\'b.safetensors' not in []",
        "extra_info": {"input_name": "ckpt_name", "received_value": None, "input_config": [1.5]},
    }
    said = _refused(
        f"Node 4 (errors): {[problem]}",
        "Node 4 (dependent_outputs): ['9']",
        "Node 4 (class_type): CheckpointLoaderSimple",
        f"Node 5:2 (errors): {[problem, problem]}",
        "Node 5:2 (class_type): CheckpointLoaderSimple",
    )
    said += "\n\nNo checkpoint models appear to be available. Please check your model installation."
    error = worker_error(said)
    assert isinstance(error, WorkflowInvalid)
    lines = error.message.removeprefix("ComfyUI refused the workflow: ").split("; ")
    assert len(lines) == 3
    assert lines[0].startswith("node 4 (CheckpointLoaderSimple): Value not in list: ckpt_name: ")
    assert "install the models" in error.advice
    assert (error.details["node_id"], error.details["node_class"]) == (
        "4",
        "CheckpointLoaderSimple",
    )
    assert [node for node, _, _ in node_problems(error)] == ["4", "5:2", "5:2"]


def test_its_refusal_of_a_class_is_comfyuis() -> None:
    answer = {
        "error": {
            "type": "missing_node_type",
            "message": "Node 'X' not found. The custom node may not be installed.",
            "details": "Node ID '#2'",
            "extra_info": {"node_id": "2", "class_type": "X"},
        },
        "node_errors": {},
    }
    error = worker_error(f"{answer['error']['message']}. Raw response: {json.dumps(answer)}")
    assert isinstance(error, WorkflowInvalid)
    assert "install the node pack" in error.advice


@pytest.mark.parametrize(
    "said",
    [
        _refused("Node 4 (errors): [" + "[" * 5000),
        _refused("Node 4 (errors): __import__('os')"),
        _refused("Node 4 (errors): " + "-" * 60_000 + "1"),
        _refused("Node 4 (errors): {1: b'x'}"),
        _refused("Node 4 (errors): {[]: 1}"),
        _refused(f"Node 4 (errors): {'[0], ' * 40_000}"),
        "Oh. Raw response: {not JSON}",
        "Oh. Raw response: {}",
    ],
)
def test_what_is_written_otherwise_is_an_error_without_nodes(said: str) -> None:
    error = worker_error(said)
    assert list(node_problems(error)) == []
    assert error.message


def test_an_error_of_another_kind_stays_the_workers() -> None:
    error = worker_error("Missing 'workflow' parameter")
    assert "Missing 'workflow' parameter" in error.message
    assert isinstance(error, ExecutionFailed)


@pytest.mark.parametrize(
    ("before", "reported", "said"),
    [
        (None, False, "Whether the worker stops is not known"),
        (False, False, "The endpoint's worker is not Comfy Remote's, and may not stop"),
        (None, True, ""),  # only ours reports its progress
        (True, False, ""),
    ],
)
def test_a_job_that_may_run_on_is_said_to(before: bool | None, reported: bool, said: str) -> None:
    reader = StatusReader({}, answered_before=before)
    progress = {"format": "comfy-remote/1 progress", "sequence": 1} if reported else None
    running = JobStatus(id="j", status=RunPodState.IN_PROGRESS, output=progress)
    events = [*reader.events(running)]
    ended = JobStatus(id="j", status=RunPodState.CANCELLED, executionTime=5)
    events += reader.events(ended)
    notes = [event.message for event in events if isinstance(event, Log)]
    assert len(notes) == bool(said)
    if said:
        assert notes[0].startswith(said)
        assert "the next job waits until then" in notes[0]


def test_a_job_that_was_cancelled_in_the_queue_ran_nowhere() -> None:
    reader = StatusReader({})
    states = (RunPodState.IN_QUEUE, RunPodState.CANCELLED)
    events = [e for state in states for e in reader.events(JobStatus(id="j", status=state))]
    assert not [event for event in events if isinstance(event, Log)]


def test_a_result_that_was_too_large_says_how_to_return_it() -> None:
    with pytest.raises(OutputLost) as caught:
        read_result(None, {})
    for name in ("BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"):
        assert name in caught.value.advice
    assert "10 MB" in caught.value.advice
