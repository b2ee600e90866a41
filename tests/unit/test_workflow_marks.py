"""Which nodes a workflow marks to run elsewhere."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.workflow.cut import marks_in


def node(node_id: int, x: float = 0, y: float = 0, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "KSampler", "pos": [x, y], "size": [200, 100], **more}


def mark(part: str | None) -> dict[str, Any]:
    return {"comfy_remote": {"part": part}}


def box(x: float, y: float, w: float, h: float, part: str | None) -> dict[str, Any]:
    return {"bounding": [x, y, w, h], "flags": mark(part)}


def test_a_node_is_marked_by_its_properties() -> None:
    workflow = {"nodes": [node(3, properties=mark("gpu")), node(4, properties=mark("")), node(5)]}
    assert marks_in(workflow) == {"3": "gpu", "4": ""}


def test_a_group_marks_the_nodes_whose_centre_is_inside() -> None:
    nodes = [node(1, 10, 40), node(2, 250, 40), node(3, 290, 40), node(4, 10, 400)]
    # Node 2 is half inside: its centre is at 350.
    workflow = {"nodes": nodes, "groups": [box(0, 0, 360, 300, "gpu"), {"bounding": [0, 0, 9, 9]}]}
    assert marks_in(workflow) == {"1": "gpu", "2": "gpu"}


def test_the_title_bar_belongs_to_the_box_and_a_collapsed_node_is_small() -> None:
    # Centre at y = 20 + (100 - 30) / 2 = 55, collapsed at 20 - 15 = 5.
    open_, collapsed = node(1, 0, 20), node(2, 0, 20, flags={"collapsed": True})
    assert marks_in({"nodes": [open_, collapsed], "groups": [box(0, 0, 300, 50, "a")]}) == {
        "2": "a"
    }


def test_what_is_further_inside_goes_first_and_null_is_here() -> None:
    workflow = {
        "nodes": [
            node(1, 10, 40),
            node(2, 510, 40),
            node(3, 10, 40, properties=mark("own")),
            node(4, 10, 40, properties=mark(None)),
        ],
        "groups": [box(0, 0, 1000, 300, "outer"), box(0, 0, 400, 200, "inner")],
    }
    assert marks_in(workflow) == {"1": "inner", "2": "outer", "3": "own"}


def test_an_instance_of_a_subgraph_marks_all_inside() -> None:
    inner = {"id": "uuid-2", "nodes": [node(7), node(8, properties=mark(None))]}
    outer = {
        "id": "uuid-1",
        "nodes": [node(5, properties=mark("x")), {**node(6, 900, 900), "type": "uuid-2"}],
        "groups": [box(800, 800, 400, 400, "grouped")],
        "definitions": {"subgraphs": [inner]},
    }
    workflow = {
        "nodes": [
            {**node(12), "type": "uuid-1", "properties": mark("gpu")},
            {**node(13), "type": "uuid-1"},
        ],
        "definitions": {"subgraphs": [outer]},
    }
    assert marks_in(workflow) == {
        "12:5": "x",
        "12:6:7": "grouped",
        "13:5": "x",
        "13:6:7": "grouped",
    }


def test_a_subgraph_inside_of_itself_ends() -> None:
    loop = {"id": "u", "nodes": [{**node(1), "type": "u"}, node(2, properties=mark("a"))]}
    workflow = {"nodes": [{**node(3), "type": "u"}], "definitions": {"subgraphs": [loop]}}
    assert marks_in(workflow)["3:2"] == "a"


KEYS = ["id", "nodes", "groups", "flags", "properties", "comfy_remote", "part", "bounding"]
KEYS += ["pos", "size", "type", "definitions", "subgraphs"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "nodes",
                    "groups",
                    "flags",
                    "properties",
                    "comfy_remote",
                    "part",
                    "bounding",
                    "pos",
                    "size",
                    "type",
                    "definitions",
                    "subgraphs",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["nodes", "groups", "definitions"]), JSON))
def test_what_is_malformed_is_no_mark(workflow: dict[str, Any]) -> None:
    assert all(isinstance(name, str) for name in marks_in(workflow).values())


def test_subgraphs_that_contain_themselves_are_soon_looked_through() -> None:
    inside = {"id": "x", "nodes": [{"id": 1, "type": "x"}, {"id": 2, "type": "x"}]}
    hostile = {"nodes": [{"id": 1, "type": "x"}], "definitions": {"subgraphs": [inside]}}
    began = time.process_time()
    assert marks_in(hostile) == {}
    assert time.process_time() - began < 10
