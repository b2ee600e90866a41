"""Small workflows with one difficulty each, against what ComfyUI's own editor makes of them.

``data/tricky_workflows.json`` has the workflows, and the prompts that ``graphToPrompt`` of
frontend 1.49.6 gave for them in a browser.
"""

from __future__ import annotations

import copy
import gc
import json
from pathlib import Path
from typing import Any

import pytest
from official_templates import differences
from saved_workflow import saved, workflow

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.convert.graph import Graph
from comfy_remote.workflow.schema import Schemas

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data/tricky_workflows.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_the_editors(name: str) -> None:
    case = copy.deepcopy(CASES[name])
    prompt = convert_workflow(case["workflow"], Schemas.bundled(), keep_unknown=True)
    assert list(prompt) == list(case["prompt"])
    for node_id, theirs in case["prompt"].items():
        ours = prompt[node_id]
        assert ours["inputs"].keys() == theirs["inputs"].keys()
        info = {ours["class_type"]: {"input": {"required": theirs["inputs"]}}}
        assert differences({"1": theirs}, {"1": dict(ours)}, info) == []


def test_a_node_changes_nothing_that_others_of_its_class_begin_with() -> None:
    """Each is a copy of what its class gives, which is worked out once."""
    schemas = Schemas.bundled()
    first = {
        name: convert_workflow(case["workflow"], schemas, keep_unknown=True)
        for name, case in CASES.items()
    }
    for name, case in reversed(CASES.items()):
        assert convert_workflow(case["workflow"], schemas, keep_unknown=True) == first[name]


def test_a_conversion_leaves_nothing_for_the_search_for_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        for case in CASES.values():
            convert_workflow(case["workflow"], Schemas.bundled(), keep_unknown=True)
        assert not [one for one in gc.get_objects() if isinstance(one, Graph)]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"links": []}, "the link of its input 'images' is not in the file"),
        ({"links": [[1, 77, 0, 2, 0, "IMAGE"]]}, "linked to node 77, which is not there"),
    ],
)
def test_a_broken_link_is_refused_as_the_editor_does(change: dict[str, Any], words: str) -> None:
    document = workflow(
        saved(1, "EmptyImage", [8, 8, 1, 0], outputs={"IMAGE": [1]}),
        saved(2, "SaveImage", ["x"], inputs={"images": ("IMAGE", 1)}),
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
    )
    with pytest.raises(WorkflowInvalid, match=words) as caught:
        convert_workflow({**document, **change}, Schemas.bundled())
    assert caught.value.details["node_id"] == "2"


def test_a_subgraph_without_its_definition_is_refused() -> None:
    document = workflow(saved(7, "11111111-1111-4111-8111-111111111111", [1]))
    with pytest.raises(WorkflowInvalid, match=r"node 7 .*does not say what is in it"):
        convert_workflow(document, Schemas.bundled(), keep_unknown=True)


def test_positions_that_were_written_as_names() -> None:
    document = workflow(saved(1, "EmptyImage", {"0": 8, "1": 9, "2": 1, "3": 5}))
    prompt = convert_workflow(document, Schemas.bundled())
    assert prompt["1"]["inputs"] == {"width": 8, "height": 9, "batch_size": 1, "color": 5}


def test_a_seed_has_the_digits_that_are_left_of_it_in_a_browser() -> None:
    values = [2**63, "fixed", 1, 1, "euler", "normal", 1]
    prompt = convert_workflow(workflow(saved(1, "KSampler", values)), Schemas.bundled())
    assert prompt["1"]["inputs"]["seed"] == 9223372036854776000
    values[0] = 10**400
    with pytest.raises(WorkflowInvalid, match="too large"):
        convert_workflow(workflow(saved(1, "KSampler", values)), Schemas.bundled())
