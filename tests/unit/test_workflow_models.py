"""Which models a prompt names, and in which folders."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_remote.workflow.models import ModelSource, find_models, model_sources, model_uses


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def found(class_type: str, **inputs: Any) -> list[tuple[str, str | None]]:
    return [(use.name, use.folder) for use in model_uses({"1": node(class_type, **inputs)})]


@pytest.mark.parametrize(
    ("class_type", "key", "folder"),
    [
        ("AudioEncoderLoader", "audio_encoder_name", "audio_encoders"),
        ("CLIPLoader", "clip_name", "text_encoders"),
        ("CLIPVisionLoader", "clip_name", "clip_vision"),
        ("CheckpointLoaderSimple", "ckpt_name", "checkpoints"),
        ("ControlNetLoader", "control_net_name", "controlnet"),
        ("FrameInterpolationModelLoader", "model_name", "frame_interpolation"),
        ("GLIGENLoader", "gligen_name", "gligen"),
        ("HypernetworkLoader", "hypernetwork_name", "hypernetworks"),
        ("LTXAVTextEncoderLoader", "text_encoder", "text_encoders"),
        ("LatentUpscaleModelLoader", "model_name", "latent_upscale_models"),
        ("LoadBackgroundRemovalModel", "bg_removal_name", "background_removal"),
        ("LoadMoGeModel", "model_name", "geometry_estimation"),
        ("LoraLoader", "lora_name", "loras"),
        ("ModelPatchLoader", "name", "model_patches"),
        ("OpticalFlowLoader", "model_name", "optical_flow"),
        ("PhotoMakerLoader", "photomaker_model_name", "photomaker"),
        ("QuadrupleCLIPLoader", "clip_name4", "text_encoders"),
        ("StyleModelLoader", "style_model_name", "style_models"),
        ("UNETLoader", "unet_name", "diffusion_models"),
        ("UpscaleModelLoader", "model_name", "upscale_models"),
        ("VAELoader", "vae_name", "vae"),
        ("SomePackLoader", "ckpt_name", "checkpoints"),
        ("SomePackLoader", "weights", None),
    ],
)
def test_folders(class_type: str, key: str, folder: str | None) -> None:
    assert found(class_type, **{key: "SD/one.safetensors"}) == [("SD/one.safetensors", folder)]


@pytest.mark.parametrize(
    "suffix", ["safetensors", "CKPT", "pt", "pth", "bin", "gguf", "sft", "onnx"]
)
def test_a_pack_s_model_is_known_by_its_ending(suffix: str) -> None:
    assert found("PackLoader", file=f"sub\\one.{suffix}") == [(f"sub\\one.{suffix}", None)]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("LoadImage", {"image": "one.png"}),
        ("CLIPTextEncode", {"text": "a model,\nlike one.safetensors"}),
        ("VAELoader", {"vae_name": "pixel_space"}),
        ("VAELoader", {"vae_name": "taesd"}),
        ("TrainLoraNode", {"existing_lora": "[None]"}),
        ("LoraLoader", {"lora_name": ["4", 0], "strength_model": 1.0}),
        ("PackLoader", {"lora_name": "None"}),
    ],
)
def test_no_model(class_type: str, inputs: dict[str, Any]) -> None:
    assert found(class_type, **inputs) == []


def test_tiny_autoencoders_are_in_a_folder_of_their_own() -> None:
    assert found("VAELoader", vae_name="taehv.safetensors") == [("taehv.safetensors", "vae_approx")]


def test_embeddings_in_texts() -> None:
    text = "embedding:bad-hands, (embedding:sub/easy.pt:1.2) notembedding:x\nembedding:bad-hands"
    assert found("CLIPTextEncode", text=text) == [
        ("bad-hands", "embeddings"),
        ("sub/easy.pt", "embeddings"),
    ]


def test_lists_of_loras() -> None:
    assert found(
        "Power Lora Loader (rgthree)",
        lora_1={"on": True, "lora": "one.safetensors", "strength": 1},
        lora_2={"on": False, "lora": "off.safetensors", "strength": 1},
        more={"__value__": ["two.safetensors"]},
    ) == [("one.safetensors", None), ("two.safetensors", None)]


def test_a_model_is_listed_once_with_its_source() -> None:
    prompt = {
        "1": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "2": node("LTXVAudioVAELoader", ckpt_name="a.safetensors"),
        "3": node("PackLoader", file="b.gguf"),
        "4": node("LoraLoader", lora_name="a.safetensors"),
    }
    models = [
        {"name": "a.safetensors", "directory": "checkpoints", "url": "https://example.com/a"},
        {"name": "b.gguf", "directory": "unet", "url": "https://example.com/b", "hash": "12"},
        {"name": "never", "directory": 5, "url": None},
        "nonsense",
    ]
    inner = {"nodes": [{"id": 5, "type": "X", "properties": {"models": models[1:]}}]}
    workflow: dict[str, Any] = {
        "nodes": [{"id": 1, "type": "X", "properties": {"models": models[:1]}}, None],
        "definitions": {"subgraphs": [inner]},
    }
    a, b, lora = find_models(prompt, workflow)
    assert a.places == (("1", "ckpt_name"), ("2", "ckpt_name"))
    assert a.source == ModelSource("a.safetensors", "checkpoints", "https://example.com/a")
    assert (b.folder, b.source) == (
        "unet",
        ModelSource("b.gguf", "unet", "https://example.com/b", "12"),
    )
    assert (lora.name, lora.folder, lora.source) == ("a.safetensors", "loras", None)
    assert a.to_json()["places"] == ["1.ckpt_name", "2.ckpt_name"]
    assert find_models(prompt)[1].folder is None


@pytest.mark.parametrize("odd", [{}, {"nodes": 5}, {"nodes": [{"properties": 3}], "models": {}}])
def test_odd_documents_have_no_sources(odd: dict[str, Any]) -> None:
    assert model_sources(odd) == []
