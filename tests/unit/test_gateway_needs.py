"""What a job needs of its worker, and what a worker offers: `comfy_remote.gateway.needs`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from comfy_remote.gateway.needs import needs_of, offer_of
from comfy_remote.gateway.offers import Needs, Offer
from comfy_remote.wire.joined import Report

PROMPT: dict[str, JsonValue] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl\\a.safetensors"}},
    "2": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "b.safetensors", "model": ["1", 0], "strength_model": 1.0},
    },
    "3": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "a cat, embedding:bad", "clip": ["1", 1]},
    },
    "4": {"class_type": "PackLoader", "inputs": {"file": "c.gguf"}},
}
NODES = frozenset({"CheckpointLoaderSimple", "LoraLoader", "CLIPTextEncode", "PackLoader"})
MODELS = frozenset({"checkpoints/xl/a.safetensors", "loras/b.safetensors", "?/c.gguf"})


def test_a_prompt_needs_its_nodes_and_models() -> None:
    assert needs_of({"workflow": PROMPT}) == Needs(NODES, MODELS)
    assert needs_of({"prompt": PROMPT}) == Needs(NODES, MODELS)
    assert needs_of({"workflow": PROMPT, "prompt": "a dog", "action": "run"}) == Needs(
        NODES, MODELS
    )


def test_a_request_in_a_string_is_read_as_a_worker_reads_it() -> None:
    assert needs_of(json.dumps({"workflow": PROMPT, "action": None})) == Needs(NODES, MODELS)
    assert needs_of('{"workflow": {') == Needs()


@pytest.mark.parametrize(
    "payload",
    [
        {"action": "describe"},
        {"action": "ensure", "repo_list": "ckpt https://example.com/a.safetensors"},
        {"action": "other", "workflow": PROMPT},
        {"value": 1},
        {},
        None,
        [PROMPT],
    ],
)
def test_what_runs_no_workflow_needs_nothing(payload: JsonValue) -> None:
    assert needs_of(payload) == Needs()


def test_an_override_changes_what_is_needed() -> None:
    needs = needs_of(
        {
            "workflow": PROMPT,
            "overrides": {"1": {"ckpt_name": "other.ckpt"}, "99": {"x": 1}, "2": "no object"},
        }
    )
    assert needs.models == {"checkpoints/other.ckpt", "loras/b.safetensors", "?/c.gguf"}


def test_models_with_an_address_can_be_fetched() -> None:
    workflow: JsonValue = {**PROMPT, "4": {"class_type": "X", "inputs": {"file": "c.bin"}}}
    needs = needs_of(
        {
            "workflow": workflow,
            "models": [
                {"name": "b.safetensors", "url": "https://x.org/b", "directory": "loras"},
                {"name": "c.bin", "url": "https://x.org/c", "directory": "unet"},
                {"name": "unused.pt", "url": "https://x.org/u", "directory": "vae"},
                "no object",
                {"name": 5, "directory": None},
            ],
        }
    )
    assert needs.models == {
        "checkpoints/xl/a.safetensors",
        "loras/b.safetensors",
        "diffusion_models/c.bin",
    }, "the request says in which folder c.bin is"
    assert needs.fetchable == {"loras/b.safetensors", "diffusion_models/c.bin"}


def test_a_gguf_file_may_be_in_any_folder() -> None:
    loads: JsonValue = {"1": {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": "a.gguf"}}}
    source = {"name": "a.gguf", "url": "https://x.org/a", "directory": "diffusion_models"}
    needs = needs_of({"workflow": loads, "models": [source]})
    assert needs.models == needs.fetchable == {"?/a.gguf"}
    offer = offer_of(Report(models=["unet_gguf/a.gguf"]))
    assert not offer.lacks(needs)


def test_models_of_a_repo_list_must_be_there_and_can_be_fetched() -> None:
    needs = needs_of(
        {
            "workflow": {"1": PROMPT["1"]},
            "repo_list": [
                "vae hf:org/repo/vae/ae.safetensors@main",
                "lora https://huggingface.co/o/r/resolve/main/my%20lora.safetensors?download=1",
                "upscale r2:4x.pth name=sub/x4.pth",
                "ckpt https://civitai.com/api/download/models/1",
                5,
            ],
        }
    )
    assert needs.fetchable == needs.models
    assert needs.models == {
        "checkpoints/xl/a.safetensors",  # only the site knows what it fetches, maybe this one
        "vae/ae.safetensors",
        "loras/my lora.safetensors",
        "upscale_models/sub/x4.pth",
    }
    assert needs_of({"workflow": PROMPT, "repo_list": "what is this?"}) == Needs(NODES, MODELS)


@pytest.mark.parametrize(
    ("line", "fetchable"),
    [
        ("https://x.example/xl/a.safetensors name=xl/a.safetensors", True),
        ("https://civitai.com/models/4384", True),  # only the site knows which file and kind it is
        ("https://x.example/another.safetensors", False),
    ],
)
def test_a_line_without_a_kind_may_bring_a_model_of_any(line: str, fetchable: bool) -> None:
    needs = needs_of({"workflow": {"1": PROMPT["1"]}, "repo_list": line})
    assert "checkpoints/xl/a.safetensors" in needs.models
    assert ("checkpoints/xl/a.safetensors" in needs.fetchable) is fetchable


def test_a_workflow_in_ui_format_needs_what_can_be_read_without_schemas() -> None:
    inner = {"id": "11111111-2222-3333-4444-555555555555", "nodes": [{"type": "Inner"}]}
    workflow: JsonValue = {
        "nodes": [
            {
                "type": "UNETLoader",
                "widgets_values": ["a.safetensors", "default"],
                "properties": {
                    "models": [{"name": "a.safetensors", "url": "https://x", "directory": "unet"}]
                },
            },
            {"type": "VAELoader", "widgets_values": {"vae_name": "b.safetensors"}},
            {"type": "Muted", "mode": 2, "widgets_values": ["muted.safetensors"]},
            {"type": "Bypassed", "mode": 4},
            {"type": "Note", "widgets_values": ["see a.ckpt\nfor more"]},
            {"type": inner["id"]},
            {"type": "workflow>my group", "widgets_values": ["c.pt"]},
            {"type": 7},
            None,
        ],
        "definitions": {"subgraphs": [inner, "none"]},
    }
    needs = needs_of({"workflow": workflow})
    assert needs.nodes == {"UNETLoader", "VAELoader", "Inner"}
    assert needs.models == {
        "diffusion_models/a.safetensors",
        "?/b.safetensors",
        "?/c.pt",
    }


@pytest.mark.parametrize(
    ("payload", "may_cost"),
    [
        ({"workflow": PROMPT}, False),
        ({"workflow": PROMPT, "comfy_org_api_key": "key"}, True),
        ({"workflow": PROMPT, "comfy_org_api_key": ""}, False),
        ({"workflow": {"1": {"class_type": "FluxProUltraImageNode", "inputs": {}}}}, True),
        ({"workflow": {"nodes": [{"type": "FluxProUltraImageNode"}]}}, True),
    ],
)
def test_what_may_cost(payload: JsonValue, may_cost: bool) -> None:
    assert needs_of(payload).may_cost is may_cost


def test_a_huge_prompt_is_not_read() -> None:
    node: JsonValue = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.pt"}}
    huge: dict[str, JsonValue] = {str(n): node for n in range(10_001)}
    assert needs_of({"workflow": huge}) == Needs(may_cost=True)
    del huge["0"]
    assert needs_of({"workflow": huge}).models == {"checkpoints/a.pt"}


def test_names_in_memory_are_limited() -> None:
    many: JsonValue = {
        str(n): {"class_type": f"Node{n}" * 10, "inputs": {"ckpt_name": f"{n % 9}.pt"}}
        for n in range(2000)
    }
    needs = needs_of({"workflow": many})
    assert needs.nodes == frozenset(), "too much for what may be one of 500 jobs"
    assert len(needs.models) == 9
    assert needs_of({"workflow": {"1": {"class_type": "x" * 301}}}) == Needs()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("class_type", "inputs", "nodes", "type", "mode", "widgets_values", "properties"),
        *("models", "definitions", "subgraphs", "ckpt_name", "name", "directory", "url", "id"),
    ]
)
DOCUMENTS = st.recursive(
    JSON | st.just("a.ckpt"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.just("1"), inner),
    max_leaves=20,
)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {"workflow": DOCUMENTS},
        optional={
            "prompt": DOCUMENTS,
            "models": DOCUMENTS,
            "repo_list": JSON,
            "overrides": st.dictionaries(st.just("1"), DOCUMENTS),
            "action": st.just("run") | JSON,
        },
    )
)
def test_nothing_that_is_sent_raises(payload: dict[str, JsonValue]) -> None:
    needs = needs_of(payload)
    assert needs.fetchable <= needs.models


def test_deep_nesting_raises_nothing() -> None:
    deep: JsonValue = "a.ckpt"
    for _ in range(100_000):
        deep = [deep]
    assert needs_of({"workflow": {"1": {"class_type": "X", "inputs": {"x": deep}}}}).may_cost


def test_a_workers_offer_names_things_as_needs_do() -> None:
    report = Report(
        nodes=["A", "B"],
        models=["checkpoints/xl\\a.safetensors", "clip/t5.safetensors"],
        memory=5,
        labels=["x"],
        fetches_models=True,
        paid=["B"],
    )
    offer = offer_of(report)
    assert offer == Offer(
        nodes=frozenset({"A", "B"}),
        models=frozenset(
            {
                "checkpoints/xl/a.safetensors",
                "?/xl/a.safetensors",
                "text_encoders/t5.safetensors",
                "?/t5.safetensors",
            }
        ),
        memory=5,
        labels=frozenset({"x"}),
        fetches_models=True,
        paid=frozenset({"B"}),
    )
    assert offer_of(Report()) == Offer()
    assert not offer.lacks(needs_of({"workflow": {"1": PROMPT["1"]}})) - {"CheckpointLoaderSimple"}
