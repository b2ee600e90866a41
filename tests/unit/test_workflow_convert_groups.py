"""Group nodes, against what ComfyUI's own editor makes of them.

The files in ``data/group_nodes.json`` were made by grouping nodes in the editor of frontend
1.27.10, and the prompts are what its ``graphToPrompt`` gives for them. In older files, the inputs
of a node list a widget only if it was turned into an input.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data/group_nodes.json").read_text(encoding="utf-8")
)

# Where that editor loses a link, and ComfyUI then misses an input, or runs what is muted.
WHAT_IS_DRAWN: dict[str, dict[str, dict[str, Any] | None]] = {
    "bypassed_inside": {"9:1": {"clip": ["1", 1]}, "9:2": {"model": ["1", 0]}},
    "reroute_inside": {"9:2": {"samples": ["9:0", 0]}},
    "reroute_edge": {"9:1": {"clip": ["1", 1]}, "9:2": {"clip": ["1", 1]}},
    "primitive_outside": {"9:0": {"width": 768}},
    "group_muted": {"6": {"samples": None}, "8:0": None, "8:1": None},
    "group_bypassed": {"5:0": None, "5:1": None},
}


def converted(workflow: dict[str, Any]) -> dict[str, Any]:
    prompt = convert_workflow(copy.deepcopy(workflow), Schemas.bundled())
    return {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in prompt.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_the_editors(name: str) -> None:
    expected = copy.deepcopy(CASES[name]["prompt"])
    for node_id, inputs in WHAT_IS_DRAWN.get(name, {}).items():
        if inputs is None:
            del expected[node_id]
            continue
        node = expected[node_id]["inputs"]
        assert all(node.get(key) != value for key, value in inputs.items()), "no longer needed"
        node.update(inputs)
        expected[node_id]["inputs"] = {k: v for k, v in node.items() if v is not None}
    assert converted(CASES[name]["workflow"]) == expected


def changed(name: str, **group: Any) -> dict[str, Any]:
    workflow = copy.deepcopy(CASES[name]["workflow"])
    next(iter(workflow["extra"]["groupNodes"].values())).update(group)
    return workflow


def test_the_oldest_files_have_another_separator() -> None:
    workflow = copy.deepcopy(CASES["sampling"]["workflow"])
    for node in workflow["nodes"]:
        node["type"] = node["type"].replace("workflow>", "workflow/")
    assert converted(workflow) == CASES["sampling"]["prompt"]


def test_a_primitive_outside_gives_its_value() -> None:
    workflow = copy.deepcopy(CASES["primitive_outside"]["workflow"])
    primitive = next(n for n in workflow["nodes"] if n["type"] == "PrimitiveNode")
    primitive["widgets_values"][0] = 320
    assert converted(workflow)["9:0"]["inputs"]["width"] == 320


def test_an_output_of_the_group_that_was_renamed_or_hidden() -> None:
    """Hiding an output moves those after it, as the instance's own list of outputs does."""
    workflow = changed("image", config={"0": {"output": {"1": {"visible": False}}}})
    group = next(n for n in workflow["nodes"] if n["type"].startswith("workflow>"))
    del group["outputs"][0]
    for link in workflow["links"]:
        if link[1] == group["id"]:
            link[2] -= 1
    assert converted(workflow) == CASES["image"]["prompt"]


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"nodes": None}, "does not say what is in"),
        ({"nodes": [{"type": "Unheard"}]}, r"node 0 \(Unheard\)"),
        ({"nodes": ["text"]}, r"nodes\[0\] of the group node 'g sampling' is not an object"),
        ({"links": [[0, 0, 1, 77, 1, "LATENT"]]}, "leads to no input"),
        ({"nodes": [{"type": "workflow>g sampling"}]}, "group node in a group node"),
        (
            {"nodes": [{"type": "EmptyImage"}] * 10_001, "links": []},
            "more than 10000 nodes",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(group: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkflowInvalid, match=words):
        converted(changed("sampling", **group))


def test_a_group_node_without_its_definition_is_refused() -> None:
    workflow = copy.deepcopy(CASES["sampling"]["workflow"])
    del workflow["extra"]
    with pytest.raises(WorkflowInvalid, match=r"node 8 \(workflow>g sampling"):
        converted(workflow)


@pytest.mark.parametrize(("instances", "inside"), [(4_900, 1), (1, 9_900), (99, 99)])
def test_many_group_nodes_take_no_time(instances: int, inside: int) -> None:
    """Files of up to 5 MB; a quadratic step would take minutes."""
    inner = [{"type": "ImageInvert", "inputs": [{"name": "image", "type": "IMAGE"}]}] * inside
    links = [[i, 0, i + 1, 0, 1, "IMAGE"] for i in range(inside - 1)]
    nodes = [{"id": i, "type": "workflow>many", "widgets_values": []} for i in range(instances)]
    notes = [{"id": instances + i, "type": "Note", "title": "x" * 400} for i in range(5_000)]
    document = {
        "nodes": [*nodes, *notes],
        "links": [],
        "extra": {"groupNodes": {"many": {"nodes": inner, "links": links}}},
    }
    began = time.process_time()
    assert len(converted(document)) == instances * inside
    assert time.process_time() - began < 10
