"""Use Everywhere: links that its script makes when a workflow is queued."""

from __future__ import annotations

from typing import Any

import pytest
from saved_workflow import saved, subgraph, workflow

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert as convert_with_doubts
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

LOADER = saved(
    1, "CheckpointLoaderSimple", ["m.safetensors"], outputs={"MODEL": [1], "CLIP": [2], "VAE": [3]}
)


def sampler(**more: Any) -> dict[str, Any]:
    sockets = {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING"}
    return saved(
        5,
        "KSampler",
        [7, "fixed", 20, 8.0, "euler", "normal", 1.0],
        inputs={name: (kind, None) for name, kind in sockets.items()},
        **more,
    )


def encoder(node_id: int, text: str, **more: Any) -> dict[str, Any]:
    inputs = {"clip": ("CLIP", None)}
    outputs = {"CONDITIONING": [node_id * 10]}
    return saved(node_id, "CLIPTextEncode", [text], inputs=inputs, outputs=outputs, **more)


def everywhere(node_id: int, kind: str, sent: dict[str, int], **more: Any) -> dict[str, Any]:
    return saved(node_id, kind, inputs={name: ("*", link) for name, link in sent.items()}, **more)


def convert(*nodes: dict[str, Any], links: list[list[Any]], **more: Any) -> Prompt:
    return convert_workflow({**workflow(*nodes, links=links), **more}, Schemas.bundled())


def test_links_that_the_file_notes_are_made() -> None:
    image = saved(1, "EmptyImage", [64, 64, 1, 0], outputs={"IMAGE": [1]})
    preview = saved(3, "PreviewImage", inputs={"images": ("IMAGE", None)})
    noted = {"downstream": 3, "downstream_slot": 0, "upstream": "1", "upstream_slot": 0}
    prompt = convert(
        image,
        everywhere(2, "Anything Everywhere", {"anything": 1}),
        preview,
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
        extra={"ue_links": [{**noted, "controller": 2, "type": "IMAGE"}]},
    )
    assert prompt["3"]["inputs"]["images"] == ["1", 0]
    assert "2" not in prompt, "it does nothing where it runs"


@pytest.mark.parametrize(
    ("place", "kind", "width", "doubts"),
    [(0, "INT", ["4", 0], 0), (0, "FLOAT", 64, 1), (9, "INT", 64, 1)],
)
def test_a_noted_place_may_be_that_of_a_widget_the_file_does_not_list(
    place: int, kind: str, width: Any, doubts: int
) -> None:
    noted = {"downstream": 1, "downstream_slot": place, "upstream": "4", "upstream_slot": 0}
    document = workflow(
        saved(1, "EmptyImage", [64, 64, 1, 0]), saved(4, "PrimitiveInt", [96, "fixed"])
    )
    document["extra"] = {"ue_links": [{**noted, "controller": 2, "type": kind}]}
    converted = convert_with_doubts(document, Schemas.bundled())
    assert converted.prompt["1"]["inputs"]["width"] == width
    assert len(converted.doubts) == doubts
    assert all("Use Everywhere" in doubt.message for doubt in converted.doubts)


def test_a_server_with_the_pack_gets_its_nodes_as_the_page_sends_them() -> None:
    info = {
        "Anything Everywhere": {"input": {"optional": {"anything": ["*", {}]}}, "output": []},
        "EmptyImage": {"input": {}, "output": ["IMAGE"]},
    }
    document = workflow(
        saved(1, "EmptyImage", outputs={"IMAGE": [1]}),
        everywhere(2, "Anything Everywhere", {"anything": 1}),
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
    )
    assert convert_workflow(document, Schemas(info, "a test"))["2"]["inputs"] == {
        "anything": ["1", 0]
    }


def test_noted_links_in_a_subgraph_are_made() -> None:
    inner = [
        saved(11, "EmptyImage", [8, 8, 1, 0], outputs={"IMAGE": []}),
        saved(12, "PreviewImage", inputs={"images": ("IMAGE", None)}),
    ]
    noted = {"downstream": 12, "downstream_slot": 0, "upstream": "11", "upstream_slot": 0}
    definition = {**subgraph("S", inner, []), "extra": {"ue_links": [noted]}}
    prompt = convert_workflow(workflow(saved(2, "S"), subgraphs=[definition]), Schemas.bundled())
    assert prompt["2:12"]["inputs"]["images"] == ["2:11", 0]


def test_an_older_file_is_linked_by_type() -> None:
    prompt = convert(
        LOADER,
        everywhere(2, "Anything Everywhere3", {"anything": 1, "anything2": 2}),
        encoder(4, "a"),
        sampler(),
        links=[[1, 1, 0, 2, 0, "MODEL"], [2, 1, 1, 2, 1, "CLIP"]],
    )
    assert prompt["4"]["inputs"]["clip"] == ["1", 1]
    assert prompt["5"]["inputs"]["model"] == ["1", 0]
    assert "positive" not in prompt["5"]["inputs"]


def test_prompts_everywhere_goes_by_the_names_of_inputs() -> None:
    prompt = convert(
        encoder(3, "good"),
        encoder(4, "bad"),
        everywhere(2, "Prompts Everywhere", {"CONDITIONING": 30, "anything": 40}),
        sampler(),
        links=[[30, 3, 0, 2, 0, "CONDITIONING"], [40, 4, 0, 2, 1, "CONDITIONING"]],
    )
    assert prompt["5"]["inputs"]["positive"] == ["3", 0]
    assert prompt["5"]["inputs"]["negative"] == ["4", 0]


def test_a_pattern_for_titles_and_inputs_goes_before_a_plain_sender() -> None:
    second = saved(6, "CLIPLoader", ["c", "sdxl"], outputs={"CLIP": [6]})
    prompt = convert(
        LOADER,
        everywhere(2, "Anything Everywhere", {"anything": 2}),
        second,
        everywhere(
            7, "Anything Everywhere?", {"anything": 6}, widgets_values=["Neg", "clip", ".*"]
        ),
        encoder(3, "good"),
        encoder(4, "bad", title="Negative"),
        links=[[2, 1, 1, 2, 0, "CLIP"], [6, 6, 0, 7, 0, "CLIP"]],
    )
    assert prompt["3"]["inputs"]["clip"] == ["1", 1]
    assert prompt["4"]["inputs"]["clip"] == ["6", 0]


def test_two_senders_of_equal_rank_make_no_link() -> None:
    second = saved(6, "CLIPLoader", ["c", "sdxl"], outputs={"CLIP": [6]})
    prompt = convert(
        LOADER,
        everywhere(2, "Anything Everywhere", {"anything": 2}),
        second,
        everywhere(7, "Anything Everywhere", {"anything": 6}),
        encoder(3, "good"),
        links=[[2, 1, 1, 2, 0, "CLIP"], [6, 6, 0, 7, 0, "CLIP"]],
    )
    assert "clip" not in prompt["3"]["inputs"]


def test_a_muted_sender_sends_nothing_and_a_linked_input_stays_linked() -> None:
    linked = encoder(3, "good")
    linked["inputs"][0]["link"] = 9
    prompt = convert(
        LOADER,
        saved(6, "CLIPLoader", ["c", "sdxl"], outputs={"CLIP": [9]}),
        everywhere(2, "Anything Everywhere", {"anything": 2}),
        everywhere(8, "Anything Everywhere", {"anything": 1}, mode=2),
        linked,
        encoder(4, "other"),
        sampler(),
        links=[[1, 1, 0, 8, 0, "MODEL"], [2, 1, 1, 2, 0, "CLIP"], [9, 6, 0, 3, 0, "CLIP"]],
    )
    assert prompt["3"]["inputs"]["clip"] == ["6", 0]
    assert prompt["4"]["inputs"]["clip"] == ["1", 1]
    assert "model" not in prompt["5"]["inputs"]


def test_a_seed_goes_to_seeds_that_were_made_inputs() -> None:
    info = {**{name: Schemas.bundled().document(name) for name in ("KSampler", "RandomNoise")}}
    info["Seed Everywhere"] = {"input": {"required": {"seed": ["INT", {}]}}, "output": ["INT"]}
    node = sampler(widgets={"seed": None})
    node["inputs"][-1]["type"] = "INT"
    sender = saved(2, "Seed Everywhere", [3, "fixed"], outputs={"INT": []})
    own = saved(9, "RandomNoise", [4, "fixed"])
    document = workflow(sender, node, own)
    prompt = convert_workflow(document, Schemas(info, "a test"))  # type: ignore[arg-type]
    assert prompt["5"]["inputs"]["seed"] == ["2", 0]
    assert prompt["9"]["inputs"]["noise_seed"] == 4


@pytest.mark.parametrize(
    "properties",
    [
        {"group_restricted": True},
        {"ue_properties": {"version": "7.0", "color_restricted": 2}},
        {"ue_properties": {"version": "7.0", "group_regex": "Upscale"}},
        {"ue_properties": {"version": "7.0", "title_regex": "(a+)+$"}},
        {"ue_properties": {"version": "7.0", "title_regex": "("}},
    ],
)
def test_what_the_file_does_not_tell_is_refused_with_advice_that_works(
    properties: dict[str, Any],
) -> None:
    sender = everywhere(2, "Anything Everywhere", {"anything": 2}, properties=properties)
    with pytest.raises(WorkflowInvalid, match=r"node 2 \(Anything Everywhere\)") as caught:
        convert(LOADER, sender, encoder(3, "x"), links=[[2, 1, 1, 2, 0, "CLIP"]])
    assert "Convert all UEs to real links" in caught.value.advice
    assert "leaves these links out" in caught.value.advice
