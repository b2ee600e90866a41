"""The folder on the target, and the workflow that runs when none is given."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.check import check_prompt
from comfy_remote.workflow.load import LoadedWorkflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas
from comfy_remote.workflow.text_to_image import loaders, text_to_image


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
    assert prefixes(below(prompt, "/workspace/ComfyUI/output/out")) == [
        "out/a/b",
        "out/film",
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


@pytest.mark.parametrize(
    ("folder", "below_it"),
    [
        ("films/a", "films/a"),
        ("/workspace/ComfyUI/output/films", "films"),
        ("/workspace/ComfyUI/output/", "."),
        ("/data/output/x/ComfyUI/output/films/", "films"),
        ("/workspace/output/films", "films"),
        ("C:\\ComfyUI\\output\\films\\new", "films/new"),
        ("~/ComfyUI/output/films", "films"),
    ],
)
def test_a_whole_path_is_made_one_below_the_output_folder(folder: str, below_it: str) -> None:
    assert Changes(output_folder=folder).output_folder == below_it
    assert Changes(output_folder=folder).variables().get("OUTPUT_FOLDER") == below_it


def test_the_output_folder_itself_changes_no_name() -> None:
    prompt: Prompt = {"1": node("SaveImage", filename_prefix="a")}
    assert below(prompt, "/workspace/ComfyUI/output") == prompt


@pytest.mark.parametrize("folder", ["/workspace/films", "..", "films/../../x", "D:\\films"])
def test_a_folder_elsewhere_is_refused_before_anything_is_sent(folder: str) -> None:
    with pytest.raises(WorkflowInvalid, match="not below ComfyUI's output folder"):
        Changes(output_folder=folder)


def test_what_has_nowhere_to_go_is_noted_where_that_was_asked_for() -> None:
    prompt: Prompt = {"1": node("SaveImage", filename_prefix="a")}
    loaded = LoadedWorkflow("x.json", "a workflow", prompt, None)
    prepared = prepare(loaded, Changes(prompt="a cat", seed=3, where_possible=True))
    assert prepared.prompt == prompt
    assert prepared.ignored == (
        "The positive text is not used: no node of the workflow takes one.",
        "The seed is not used: no node of the workflow has one.",
    )
    for changes in (Changes(prompt="a cat"), Changes(seed=3)):
        with pytest.raises(WorkflowInvalid):
            prepare(loaded, changes)
    # What could be meant by several is an error all the same.
    prompt["2"] = node("CLIPTextEncode", text="linked to no sampler")
    with pytest.raises(WorkflowInvalid):
        prepare(loaded, Changes(prompt="a cat", where_possible=True))


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
    schemas = checkpoints("sdxl.safetensors")
    report = check_prompt(text_to_image(schemas).prompt or {}, schemas)
    assert not report.errors


@pytest.mark.parametrize("schemas", [Schemas.bundled(), checkpoints()])
def test_text_to_image_without_a_checkpoint(schemas: Schemas) -> None:
    with pytest.raises(WorkflowInvalid, match="checkpoint") as caught:
        text_to_image(schemas)
    assert "--workflow" in for_terminal(caught.value.advice)


FLUX = {
    ("UNETLoader", "unet_name"): ["wan2.1.safetensors", "flux1-dev-fp8.safetensors"],
    ("DualCLIPLoader", "clip_name1"): ["t5xxl_fp16.safetensors", "clip_l.safetensors"],
    ("DualCLIPLoader", "clip_name2"): ["t5xxl_fp16.safetensors", "clip_l.safetensors"],
    ("VAELoader", "vae_name"): ["wan_vae.safetensors", "FLUX1/ae.safetensors"],
}
Z_IMAGE = {
    ("UNETLoader", "unet_name"): ["z_image_turbo_bf16.safetensors"],
    ("CLIPLoader", "clip_name"): ["qwen_3_4b.safetensors"],
    ("VAELoader", "vae_name"): ["ae.safetensors"],
}
QWEN = {
    ("UNETLoader", "unet_name"): [
        "qwen_image_edit.safetensors",
        "qwen_image_fp8.safetensors",
    ],
    ("CLIPLoader", "clip_name"): ["qwen_2.5_vl_7b_fp8_scaled.safetensors"],
    ("VAELoader", "vae_name"): ["qwen_image_vae.safetensors"],
}


def having(models: Mapping[tuple[str, str], list[str]]) -> Schemas:
    """ComfyUI's classes, and these models."""
    bundled = Schemas.bundled()
    classes = {name: copy.deepcopy(bundled.document(name) or {}) for name in bundled}
    for (kind, key), names in {("CheckpointLoaderSimple", "ckpt_name"): [], **models}.items():
        classes[kind]["input"]["required"][key] = [names, {}]
    return Schemas(classes, "http://pod.test")


@pytest.mark.parametrize(
    ("models", "chosen", "steps", "cfg"),
    [
        (
            FLUX,
            ["flux1-dev-fp8.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors"],
            20,
            1,
        ),
        (Z_IMAGE, ["z_image_turbo_bf16.safetensors", "qwen_3_4b.safetensors"], 8, 1),
        (QWEN, ["qwen_image_fp8.safetensors", "qwen_image_vae.safetensors"], 20, 4),
        ({("CheckpointLoaderSimple", "ckpt_name"): ["flux1-schnell-fp8.safetensors"]}, [], 4, 1),
        (
            {
                **FLUX,
                ("CheckpointLoaderSimple", "ckpt_name"): ["svd.safetensors", "xl.safetensors"],
            },
            ["xl.safetensors"],
            25,
            6,
        ),
    ],
    ids=["flux", "z-image", "qwen", "flux checkpoint", "a checkpoint first"],
)
def test_text_to_image_takes_what_the_target_has(
    models: Mapping[tuple[str, str], list[str]], chosen: list[str], steps: int, cfg: float
) -> None:
    schemas = having(models)
    prepared = prepare(text_to_image(schemas), Changes(prompt="a cat", seed=7), schemas)
    assert not check_prompt(prepared.prompt, schemas).errors
    values = [value for n in prepared.prompt.values() for value in n["inputs"].values()]
    assert all(name in values for name in chosen)
    (sampler,) = [n for n in prepared.prompt.values() if n["class_type"] == "KSampler"]
    assert (sampler["inputs"]["steps"], sampler["inputs"]["cfg"]) == (steps, cfg)
    assert sampler["inputs"]["seed"] == 7
    assert "a cat" in values


def test_every_loader_of_these_workflows_is_asked_about() -> None:
    assert {kind for kind, _ in {**FLUX, **Z_IMAGE}} <= set(loaders())
    assert "CheckpointLoaderSimple" in loaders()
