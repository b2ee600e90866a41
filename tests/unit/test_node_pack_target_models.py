"""What a target has and this ComfyUI has not, however odd the target's words are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.node_pack.target_models import choices_there, nodes_there
from comfy_remote.sandbox.folders import Folders
from comfy_remote.sandbox.nodes import NODES
from comfy_remote.workflow.schema import Schemas

NOTHING = Schemas({}, "this ComfyUI")

FIELDS = st.sampled_from(
    [
        *("input", "required", "optional", "output", "output_is_list", "output_name", "name"),
        *("display_name", "description", "python_module", "category", "output_node"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(), inner),
    max_leaves=12,
)


def test_what_comfyui_writes_stays_as_it_is(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.create()
    there = {name: node.schema.to_json(folders) for name, node in NODES.items()}
    assert nodes_there(NOTHING, there) == there


@pytest.mark.parametrize(
    ("entry", "facts"),
    [
        ({}, {"python_module": "custom_nodes.unknown", "display_name": "Odd", "output": []}),
        ({"python_module": None}, {"python_module": "custom_nodes.unknown"}),
        ({"python_module": 3, "category": None}, {"category": "remote", "description": ""}),
        ({"input": None}, {"input": {"required": {}}, "input_order": {}}),
        (
            {"output": ["IMAGE", None, ["a", "b"]], "output_name": ["picture"]},
            {
                "output": ["IMAGE", "*", ["a", "b"]],
                "output_is_list": [False] * 3,
                "output_name": ["picture", "*", "['a', 'b']"],
            },
        ),
        (
            {
                "input": {
                    "required": {"a": ["INT"], "b": None, "c": ["INT", "no options"], "d": []},
                    "optional": [],
                },
                "input_order": {"required": ["c", "gone", 1, "a"], "optional": 2},
            },
            {
                "input": {"required": {"a": ["INT"], "c": ["INT", {}]}},
                "input_order": {"required": ["c", "a"]},
            },
        ),
    ],
)
def test_what_a_pack_leaves_out_gets_comfyuis_default(entry: Any, facts: dict[str, Any]) -> None:
    found: Any = nodes_there(NOTHING, {"Odd": entry})["Odd"]
    assert {key: found[key] for key in facts} == facts
    assert found["name"] == "Odd"


def test_one_that_is_no_description_costs_no_other() -> None:
    there: dict[str, Any] = {"a": None, "b": [], "c": "x", "d": {}}
    assert [*nodes_there(NOTHING, there)] == ["d"]


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_any_answer_gives_definitions_that_a_page_can_read(there: Any) -> None:
    for name, node in nodes_there(NOTHING, there).items():
        assert isinstance(node, dict)
        assert node["name"] == name
        texts = [node[key] for key in ("display_name", "python_module", "category")]
        assert all(isinstance(text, str) and text for text in texts)
        outputs: Any = [node[key] for key in ("output", "output_is_list", "output_name")]
        assert len({len(one) for one in outputs}) == 1
        groups: Any = node["input"]
        for specs in groups.values():
            assert all(isinstance(spec, str) or spec for spec in specs.values())
    mappings = {name: node for name, node in there.items() if isinstance(node, dict)}
    both = Schemas(mappings, "x")
    assert choices_there(both, both) == {}
