"""The folder on the target, and the workflow that runs when none is given."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.load import LoadedWorkflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas
from comfy_remote.workflow.text_to_image import text_to_image


def node(class_type: str, **inputs: object) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def below(prompt: Prompt, folder: str, *, filled_in: bool = False) -> Prompt:
    variables = frozenset({"OUTPUT_FOLDER"} if filled_in else ())
    loaded = LoadedWorkflow("x.json", "workflow in API format", prompt, None, variables)
    return prepare(loaded, Changes(output_folder=folder)).prompt


def prefixes(prompt: Prompt) -> list[object]:
    return [node["inputs"].get("filename_prefix") for node in prompt.values()]


def test_every_node_that_saves() -> None:
    prompt: Prompt = {
        "1": node("SaveImage", filename_prefix="a/b"),
        "2": node("VHS_VideoCombine", filename_prefix="film", save_output=True),
        "3": node("PreviewImage"),
    }
    assert prefixes(below(prompt, "take\\3/")) == ["take/3/a/b", "take/3/film", None]
    assert prefixes(below(prompt, "/workspace/out")) == [
        "/workspace/out/a/b",
        "/workspace/out/film",
        None,
    ]


def test_a_shared_prefix_is_set_once() -> None:
    prompt: Prompt = {
        "1": node("SaveImage", filename_prefix=["3", 0]),
        "2": node("SaveVideo", filename_prefix=["3", 0]),
        "3": node("PrimitiveString", value="x"),
    }
    assert below(prompt, "f")["3"]["inputs"]["value"] == "f/x"


def test_where_the_file_itself_says_it() -> None:
    prompt: Prompt = {"1": node("SaveImage", filename_prefix="f/x")}
    assert below(prompt, "f", filled_in=True) == prompt


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ({"1": node("PreviewImage")}, "No node of the workflow says where it saves"),
        (
            {
                "1": node("SaveImage", filename_prefix=["2", 0]),
                "2": node("StringConcatenate", string_a="a", string_b="b", delimiter=""),
            },
            "Other nodes compute the file name",
        ),
    ],
)
def test_where_it_cannot_be_set(prompt: Prompt, says: str) -> None:
    with pytest.raises(WorkflowInvalid, match=says) as caught:
        below(prompt, "f")
    assert "OUTPUT_FOLDER" in caught.value.advice


def checkpoints(*names: str) -> Schemas:
    loader = {
        "input": {"required": {"ckpt_name": [list(names), {}]}},
        "output": ["MODEL", "CLIP", "VAE"],
    }
    classes = {name: Schemas.bundled().document(name) or {} for name in Schemas.bundled()}
    return Schemas({**classes, "CheckpointLoaderSimple": loader}, "http://pod.test")


def test_text_to_image_takes_the_first_checkpoint() -> None:
    schemas = checkpoints("sdxl.safetensors", "other.safetensors")
    loaded = text_to_image(schemas)
    prepared = prepare(loaded, Changes(prompt="a cat", seed=7, batch=2), schemas)
    classes = {node["class_type"]: node["inputs"] for node in prepared.prompt.values()}
    assert classes["CheckpointLoaderSimple"]["ckpt_name"] == "sdxl.safetensors"
    assert classes["KSampler"]["seed"] == 7
    assert classes["EmptyLatentImage"]["batch_size"] == 2
    assert prepared.prompt["2"]["inputs"]["text"] == "a cat"
    assert prepared.prompt["3"]["inputs"]["text"] == ""
    assert "with sdxl.safetensors" in prepared.notes[0]


def test_text_to_image_is_valid_for_comfyui() -> None:
    from comfy_remote.workflow.check import check_prompt

    schemas = checkpoints("sdxl.safetensors")
    report = check_prompt(text_to_image(schemas).prompt or {}, schemas)
    assert not report.errors


@pytest.mark.parametrize("schemas", [Schemas.bundled(), checkpoints()])
def test_text_to_image_without_a_checkpoint(schemas: Schemas) -> None:
    with pytest.raises(WorkflowInvalid, match="checkpoint") as caught:
        text_to_image(schemas)
    assert "--workflow" in for_terminal(caught.value.advice)
