"""A target's refusal, and what the workflow says about what is missing there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.refusals import (
    at_target,
    lacks_something,
    refusal_body,
    refusal_event,
)
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.comfyui.queue import refusal, refusal_of
from comfy_remote.types import JsonValue
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

JOB = "0" * 8 + "-0000-4000-8000-" + "0" * 12
PROMPT: Prompt = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl/base.safetensors"}},
    "7": {
        "class_type": "FancyUpscale",
        "inputs": {"image": ["4", 0]},
        "_meta": {"title": "Upscale it"},
    },
}
NODES: Any = [
    {
        "id": 4,
        "type": "CheckpointLoaderSimple",
        "properties": {
            "models": [
                {
                    "name": "sdxl/base.safetensors",
                    "directory": "checkpoints",
                    "url": "https://huggingface.co/org/repo/resolve/main/base.safetensors?token=s3",
                }
            ]
        },
    },
    {"id": 7, "type": "FancyUpscale", "properties": {"cnr_id": "fancy-pack", "ver": "1.2.0"}},
]
# As ComfyUI 0.33.0 answers.
NO_CLASS = {
    "error": {
        "type": "missing_node_type",
        "message": "Node 'Upscale it' not found. The custom node may not be installed.",
        "details": "Node ID '#7'",
        "extra_info": {"node_id": "7", "class_type": "FancyUpscale", "node_title": "Upscale it"},
    },
    "node_errors": {},
}
NO_MODEL = {
    "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed"},
    "node_errors": {
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "errors": [
                {
                    "type": "value_not_in_list",
                    "message": "Value not in list",
                    "details": "ckpt_name: 'sdxl/base.safetensors' not in []",
                    "extra_info": {"received_value": "sdxl/base.safetensors"},
                }
            ],
        }
    },
}


async def refused(
    answer: Any, tmp_path: Path, workflow: Any, repo_list: str = ""
) -> WorkflowInvalid:
    target = FakeTarget()
    target.refuses = refusal(json.dumps(answer).encode())
    request = RunRequest(JOB, PROMPT, workflow=workflow, repo_list=repo_list)
    with Record(tmp_path) as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            with pytest.raises(WorkflowInvalid) as caught:
                await client.send(request, source="x")
        await record.written()
        recorded = record.get(JOB).error
    assert recorded is not None
    assert str(recorded) == str(caught.value)
    return caught.value


async def test_a_missing_node_is_named_by_its_class_and_its_pack(tmp_path: Path) -> None:
    error = await refused(NO_CLASS, tmp_path, {"nodes": NODES, "links": []})
    assert error.message == (
        "ComfyUI refused the workflow: it has no node class FancyUpscale (node 7, called "
        '"Upscale it" in the workflow). It comes from the node pack fancy-pack (saved with 1.2.0).'
    )
    assert error.advice.startswith("Install it on the target, and start ComfyUI again")


async def test_a_node_of_comfyuis_own_may_be_missing_since_the_target_is_the_sandbox(
    tmp_path: Path,
) -> None:
    extra = {"node_id": "4", "class_type": "CheckpointLoaderSimple", "node_title": "Load it"}
    missing = {"error": {**NO_CLASS["error"], "extra_info": extra}, "node_errors": {}}
    error = await refused(missing, tmp_path, None)
    assert error.advice.startswith("Update ComfyUI on the target")
    assert error.advice.endswith("another target (the sandbox has only a few nodes).")


async def test_without_a_word_of_the_workflow_the_refusal_stands_alone(tmp_path: Path) -> None:
    error = await refused(NO_CLASS, tmp_path, None)
    assert error.message.endswith('(node 7, called "Upscale it" in the workflow).')
    assert "install the node pack that has it" in error.advice
    error = await refused(NO_MODEL, tmp_path / "other", None)
    assert "'sdxl/base.safetensors' not in []" in error.message
    assert "https" not in error.message


async def test_a_missing_model_is_said_with_its_address_and_its_folder(tmp_path: Path) -> None:
    error = await refused(NO_MODEL, tmp_path, {"nodes": NODES, "links": []})
    assert error.message.endswith(
        "The workflow says where to get what is missing: checkpoints/sdxl/base.safetensors from "
        "https://huggingface.co/org/repo/resolve/main/base.safetensors."
    )
    assert "download checkpoints/sdxl/base.safetensors into ComfyUI's models folder" in error.advice
    assert error.details["missing_models"] == ["checkpoints/sdxl/base.safetensors"]
    assert "4" in error.details["node_errors"]  # type: ignore[operator]


@pytest.mark.parametrize("name", ["", " name=sdxl/base.safetensors"])
async def test_a_repo_list_has_addresses_too(tmp_path: Path, name: str) -> None:
    file = "base.safetensors" if not name else "v1.safetensors"
    line = f"ckpt https://huggingface.co/org/repo/resolve/main/{file}?token=s3{name}"
    error = await refused(NO_MODEL, tmp_path, None, f"# mine\n{line}\n")
    assert f"from https://huggingface.co/org/repo/resolve/main/{file}." in error.message
    assert "s3" not in str(error)


@pytest.mark.parametrize("odd", [None, 7, "x", [], ["x"], {"input_name": ["x"]}, {"x": {}}])
def test_a_refusal_of_any_shape_is_told(odd: JsonValue) -> None:
    prompt: Prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    one = {"type": odd, "message": odd, "details": odd, "extra_info": odd}
    answer: JsonValue = {"error": odd, "node_errors": {"1": {"errors": [one], "class_type": odd}}}
    error = at_target(refusal_of(answer), "gpu", prompt, None, Schemas.bundled())
    body = json.loads(json.dumps(refusal_body(error, "gpu")))
    assert isinstance(body["error"]["message"], str)
    assert refusal_event(error, "gpu")["target"] == "gpu"


@pytest.mark.parametrize("answer", [NO_CLASS, NO_MODEL], ids=["node", "model"])
async def test_what_a_target_lacks_can_be_brought_there(answer: Any, tmp_path: Path) -> None:
    error = await refused(answer, tmp_path, {"nodes": NODES, "links": []})
    assert lacks_something(error)
    marked = at_target(error, "gpu", PROMPT, {"nodes": NODES, "links": []}, None)
    assert lacks_something(marked)
    assert refusal_event(marked, "gpu")["lacks"] is True


def test_a_choice_that_is_no_model_is_nothing_to_bring() -> None:
    problem = {**NO_MODEL["node_errors"]["4"]["errors"][0]}
    problem["extra_info"] = {"received_value": "euler_b"}
    errors: Any = {"4": {"class_type": "KSampler", "errors": [problem]}}
    error = WorkflowInvalid("It cannot run.", details={"node_errors": errors})
    assert not lacks_something(error)
    assert not lacks_something(WorkflowInvalid("It cannot run."))
    assert not lacks_something(None)
    of_part = WorkflowInvalid("No.", details={"lacking": "gpu", "node_errors": {"7": {}}})
    said = refusal_event(of_part, "gpu")
    assert (said["lacks"], said["nodes"]) == (True, ["7"])
