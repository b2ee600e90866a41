"""The lines of a repo_list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.wire.repo_list import ModelLine, parse_repo_list
from comfy_remote.worker.models.folders import folder_of, is_model_folder, safe_model_name

SHA = "ab" * 32


def test_lines_comments_names_and_hashes_are_read() -> None:
    text = f"""
    # what this needs
    ckpt https://huggingface.co/o/r/blob/main/a.safetensors
    LoRA\thttps://civitai.com/models/1?modelVersionId=2   # the old version

    vae  hf:o/r/ae.safetensors@v1 name="my vae.safetensors" sha256={SHA.upper()}
    upscale r2:4x.pth sha256={SHA} name=sub/4x.pth
    https://civitai.com/models/3
    hf:o/r/loras/b.safetensors\tname=b2.safetensors # no kind
    """
    assert [(m.kind, m.url, m.name, m.sha256) for m in parse_repo_list(text)] == [
        ("ckpt", "https://huggingface.co/o/r/blob/main/a.safetensors", None, None),
        ("LoRA", "https://civitai.com/models/1?modelVersionId=2", None, None),
        ("vae", "hf:o/r/ae.safetensors@v1", "my vae.safetensors", SHA),
        ("upscale", "r2:4x.pth", "sub/4x.pth", SHA),
        ("", "https://civitai.com/models/3", None, None),
        ("", "hf:o/r/loras/b.safetensors", "b2.safetensors", None),
    ]


def test_a_list_of_strings_is_taken_and_a_repeated_line_counts_once() -> None:
    line = "lora https://x.example/a.safetensors"
    assert parse_repo_list([line, "", f"  {line}"]) == [
        ModelLine(1, "lora", "https://x.example/a.safetensors")
    ]
    assert parse_repo_list("") == []


def test_every_bad_line_is_named_with_its_reason_and_no_token() -> None:
    text = "\n".join(
        [
            "ckpt https://x.example/a.safetensors",
            "/models/a.safetensors",
            "lora",
            "lora ftp://x.example/a",
            "lora https://x.example/a sha256=abc",
            "lora https://x.example/a name=",
            "lora https://x.example/a?token=planted-secret colour=red",
            "lora https://x.example/a b.safetensors",
        ]
    )
    with pytest.raises(WorkflowInvalid) as caught:
        parse_repo_list(text)
    lines = caught.value.details["lines"]
    assert isinstance(lines, dict)
    assert set(lines) == {"2", "3", "4", "5", "6", "7", "8"}
    for number in lines:
        assert f"line {number}:" in caught.value.message
    assert "planted-secret" not in str(caught.value)


def test_a_line_is_shown_without_what_may_be_a_secret() -> None:
    line = ModelLine(3, "lora", "https://me:password@x.example/a?token=planted#there")
    assert line.shown == "line 3 (lora https://x.example/a)"
    assert ModelLine(3, "", line.url).shown == "line 3 (https://x.example/a)"


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    try:
        for line in parse_repo_list(text):
            assert line.url
    except WorkflowInvalid:
        pass


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("ckpt", "checkpoints"),
        ("lora", "loras"),
        ("vae", "vae"),
        ("controlnet", "controlnet"),
        ("upscale", "upscale_models"),
        ("clip_vision", "clip_vision"),
        ("text_encoder", "text_encoders"),
        ("clip", "text_encoders"),
        ("unet", "diffusion_models"),
        ("diffusion_model", "diffusion_models"),
        ("embedding", "embeddings"),
        ("loras", "loras"),
        ("ultralytics", "ultralytics"),
        ("LoRA", "loras"),
        ("Photomaker", "photomaker"),
        ("LLM", "LLM"),
        ("RMBG", "RMBG"),
        ("BiRefNet", "BiRefNet"),
    ],
)
def test_kinds_lead_to_comfyuis_folders(kind: str, folder: str) -> None:
    assert folder_of(kind) == folder
    assert is_model_folder(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".comfy-remote", "..", "a/b", "a\\b", "C:", "custom_nodes", "Custom_Nodes", "nodes"),
        *("custom_nodes.", "loras.", "con", "NUL", "com1", "aux.x"),  # on Windows
    ],
)
def test_what_is_no_folder_of_models(name: str) -> None:
    assert not is_model_folder(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.safetensors", "a.safetensors"),
        ("flux/a.gguf", "flux/a.gguf"),
        ("../../etc/a.safetensors", "etc/a.safetensors"),
        ("C:\\models\\a.ckpt", "C_/models/a.ckpt"),
        (".hidden.pth", "_.hidden.pth"),
    ],
)
def test_names_stay_below_their_folder(name: str, safe: str) -> None:
    assert safe_model_name(name) == safe


@pytest.mark.parametrize("name", ["a.exe", "a.py", "a.pkl", "a", "a.safetensors.sh", ".."])
def test_what_is_not_named_like_a_model_is_refused(name: str) -> None:
    with pytest.raises(WorkflowInvalid, match="not the name of a model"):
        safe_model_name(name)
