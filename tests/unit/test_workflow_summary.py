"""What a workflow is: inputs, models, files, packs, outputs, size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from saved_workflow import saved, workflow

from comfy_remote.targets.base import InputFile, RunRequest
from comfy_remote.targets.runpod.request import request_body
from comfy_remote.workflow.fingerprint import fingerprint
from comfy_remote.workflow.graph import execution_order, output_nodes
from comfy_remote.workflow.schema import Schemas
from comfy_remote.workflow.summary import LocalFile, Summary, summarize

SCHEMAS = Schemas.bundled()


def node(class_type: str, title: str | None = None, **inputs: Any) -> Any:
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return made if title is None else {**made, "_meta": {"title": title}}


def text_to_image() -> Any:
    return {
        "3": node(
            "KSampler",
            seed=5,
            steps=20,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            denoise=1,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=["11", 0], batch_size=1),
        "6": node("CLIPTextEncode", "What to paint", text="a cat", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="dogs", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="cats/cat"),
        "10": node("LoraLoader", lora_name="idle.safetensors", model=["4", 0], clip=["4", 1]),
        "11": node("PrimitiveInt", value=640),
    }


def look(prompt: Any, **more: Any) -> Summary:
    return summarize(prompt, **{"schemas": SCHEMAS, **more})


def test_inputs_and_the_options_that_set_them() -> None:
    inputs = {one.setting: one for one in look(text_to_image()).inputs}
    roles = {setting: one.role for setting, one in inputs.items() if one.role}
    assert roles == {
        "3.seed": "seed",
        "5.width": "width",
        "11.value": "height",
        "5.batch_size": "batch_size",
        "6.text": "positive",
        "7.text": "negative",
    }
    assert "3.model" not in inputs
    steps = inputs["3.steps"]
    assert (steps.type, steps.value, steps.minimum, steps.maximum) == ("INT", 20, 1, 10000)
    sampler = inputs["3.sampler_name"]
    assert sampler.type == "COMBO"
    assert sampler.choices is not None
    assert sampler.choices > 20
    assert inputs["4.ckpt_name"].choices is None  # the snapshot knows nobody's models
    assert inputs["6.text"].title == "What to paint"


def test_several_texts_are_marked_and_told() -> None:
    prompt = text_to_image()
    prompt["20"] = {**prompt["3"], "inputs": {**prompt["3"]["inputs"], "positive": ["21", 0]}}
    prompt["21"] = node("CLIPTextEncode", text="a bird", clip=["4", 1])
    prompt["22"] = node("PreviewImage", images=["20", 0])
    summary = look(prompt)
    assert [i.setting for i in summary.inputs if i.role == "positive"] == ["6.text", "21.text"]
    (problem,) = summary.problems
    assert "several positive texts" in problem
    assert "Name the node that you mean" in problem


def test_a_linked_text_that_an_option_replaces_is_listed() -> None:
    prompt = text_to_image()
    prompt["6"]["inputs"]["text"] = ["30", 0]
    prompt["30"] = node("StringConcatenate", string_a="a", string_b="b", delimiter=" ")
    (text,) = (one for one in look(prompt).inputs if one.role == "positive")
    assert (text.setting, text.value) == ("6.text", ["30", 0])


def test_nodes_that_feed_no_output_need_nothing() -> None:
    summary = look(text_to_image())
    assert (summary.nodes, summary.idle) == (9, ("10",))
    assert [(m.name, m.folder) for m in summary.models] == [("v1-5.safetensors", "checkpoints")]
    assert summary.fingerprint == fingerprint(text_to_image(), schemas=SCHEMAS)


def test_the_order_of_the_nodes_that_run() -> None:
    prompt = text_to_image()
    order = execution_order(prompt, output_nodes(prompt, SCHEMAS))
    assert set(order) == prompt.keys() - {"10"}
    at = {node_id: index for index, node_id in enumerate(order)}
    for node_id in order:
        for value in prompt[node_id]["inputs"].values():
            if isinstance(value, list):
                assert at[value[0]] < at[node_id]


@pytest.mark.parametrize(
    ("class_type", "kind", "kept"),
    [
        ("SaveImage", "image", "saved"),
        ("PreviewImage", "image", "preview"),
        ("SaveVideo", "video", "saved"),
        ("SaveWEBM", "video", "saved"),
        ("SaveAnimatedWEBP", "image", "saved"),
        ("SaveAudioMP3", "audio", "saved"),
        ("SaveGLB", "3d", "saved"),
        ("Preview3D", "3d", "preview"),
        ("PreviewAny", "text", "preview"),
        ("SaveLatent", "file", "saved"),
        ("PackSave", "file", "saved"),
        ("VHS_VideoCombine", "video", "saved"),
        ("TripoTextToModelNode", "3d", "saved"),
    ],
)
def test_kinds_of_outputs(class_type: str, kind: str, kept: str) -> None:
    prompt = {"1": node(class_type, "Mine", filename_prefix="x")}
    (made,) = look(prompt).outputs
    assert (made.kind, made.kept, made.title, made.prefix) == (kind, kept, "Mine", "x")


@pytest.mark.parametrize(
    ("class_type", "inputs", "kept"),
    [
        ("ImageCompare", {}, "preview"),
        ("PackSaver", {}, "saved"),
        ("VHS_VideoCombine", {"filename_prefix": "x", "save_output": False}, "preview"),
        ("VHS_VideoCombine", {"filename_prefix": "x", "save_output": True}, "saved"),
    ],
)
def test_what_is_kept(class_type: str, inputs: dict[str, Any], kept: str) -> None:
    (made,) = look({"1": node(class_type, **inputs)}).outputs
    assert made.kept == kept


def test_files_and_the_size_of_the_request(tmp_path: Path) -> None:
    here = tmp_path / "cat.png"
    here.write_bytes(bytes(100_001))
    digest = hashlib.sha256(here.read_bytes()).hexdigest()
    prompt: Any = {
        "1": node("LoadImage", image="cat.png"),
        "2": node("LoadImage", image="dog.png"),
        "3": node("ImageBlend", image1=["1", 0], image2=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }
    ui = workflow(saved(1, "LoadImage", ["cat.png"]))
    file = LocalFile(here, 100_001, digest)
    summary = look(prompt, files={"cat.png": file}, workflow=ui)
    assert [(one.name, one.file) for one in summary.files] == [("cat.png", file), ("dog.png", None)]
    assert summary.files[1].to_json()["size"] is None
    sent = RunRequest(
        "id", prompt, files=[InputFile("cat.png", here, 100_001, digest)], workflow=ui
    )
    assert abs(len(request_body(sent, {}, {})) - summary.payload) < 300
    assert summary.fingerprint == fingerprint(
        prompt, file_hashes={"cat.png": digest}, schemas=SCHEMAS
    )


def test_packs() -> None:
    ui = workflow(
        saved(1, "SaveImage", properties={"cnr_id": "comfy-core", "ver": "0.3.64"}),
        saved(2, "Resize", properties={"cnr_id": "comfyui-kjnodes", "ver": "1.2.0"}),
        saved(3, "Grain", properties={"aux_id": "somebody/grain", "ver": "a1b2c3"}),
    )
    prompt = {
        str(number): node(kind)
        for number, kind in enumerate(["SaveImage", "Resize", "Grain", "Elsewhere", "Unheard"])
    }
    target = Schemas({"Elsewhere": {"python_module": "custom_nodes.comfyui-else.nodes"}}, "x")
    packs = look(prompt, schemas=target, workflow=ui).packs
    assert [(pack.name, pack.version, pack.classes) for pack in packs] == [
        ("comfy-core", None, ("SaveImage",)),
        ("comfyui-kjnodes", "1.2.0", ("Resize",)),
        ("somebody/grain", "a1b2c3", ("Grain",)),
        ("comfyui-else", None, ("Elsewhere",)),
        (None, None, ("Unheard",)),
    ]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"1": node("EmptyImage", width=8)}, "No node of the workflow is an output"),
        ({"1": node("PreviewImage", images=["1", 0])}, "cycle"),
        ({}, "No node of the workflow is an output"),
    ],
)
def test_what_cannot_run_is_shown_all_the_same(prompt: Any, words: str) -> None:
    summary = look(prompt)
    assert summary.fingerprint is None
    assert words in summary.problems[0]
    assert summary.nodes == len(prompt)
    json.dumps(summary.to_json(), allow_nan=False)
