"""Where links lead when a UI-format workflow is converted: modes, reroutes, subgraphs."""

from __future__ import annotations

from typing import Any

import pytest
from saved_workflow import saved, subgraph, workflow

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

SAMPLER = [7, "fixed", 20, 8.0, "euler", "normal", 1.0]


def convert(*nodes: Any, links: list[list[Any]], **more: Any) -> Prompt:
    return convert_workflow(workflow(*nodes, links=links, **more), Schemas.bundled())


def image(node_id: int, links: list[int], **more: Any) -> dict[str, Any]:
    return saved(node_id, "EmptyImage", [8, 8, 1, 0], outputs={"IMAGE": links}, **more)


def preview(node_id: int, link: int) -> dict[str, Any]:
    return saved(node_id, "PreviewImage", inputs={"images": ("IMAGE", link)})


def invert(node_id: int, link: int | None, out: list[int], **more: Any) -> dict[str, Any]:
    return saved(
        node_id, "ImageInvert", inputs={"image": ("IMAGE", link)}, outputs={"IMAGE": out}, **more
    )


def test_a_link_is_the_id_of_a_node_and_the_index_of_its_output() -> None:
    prompt = convert(image(1, [5]), preview(2, 5), links=[[5, 1, 0, 2, 0, "IMAGE"]])
    assert prompt["2"]["inputs"] == {"images": ["1", 0]}


def test_a_link_to_a_widgets_input_takes_the_place_of_its_value() -> None:
    number = saved(1, "PrimitiveInt", [42, "fixed"], outputs={"INT": [5]})
    sampler = saved(2, "KSampler", SAMPLER, widgets={"steps": 5})
    prompt = convert(number, sampler, links=[[5, 1, 0, 2, 0, "INT"]])
    assert prompt["2"]["inputs"]["steps"] == ["1", 0]
    assert prompt["2"]["inputs"]["cfg"] == 8.0


def test_muted_nodes_are_left_out_and_so_are_the_links_to_them() -> None:
    prompt = convert(image(1, [5], mode=2), preview(2, 5), links=[[5, 1, 0, 2, 0, "IMAGE"]])
    assert prompt == {"2": {"class_type": "PreviewImage", "inputs": {}, "_meta": _title(prompt)}}


def _title(prompt: Prompt) -> Any:
    return prompt["2"]["_meta"]


def test_bypassed_nodes_pass_on_the_input_of_the_same_type() -> None:
    scale = saved(
        2,
        "ImageScaleBy",
        ["lanczos", 2.0],
        inputs={"image": ("IMAGE", 5)},
        outputs={"IMAGE": [6]},
        mode=4,
    )
    links = [[5, 1, 0, 2, 0, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]]
    prompt = convert(image(1, [5]), scale, preview(3, 6), links=links)
    assert prompt.keys() == {"1", "3"}
    assert prompt["3"]["inputs"]["images"] == ["1", 0]


def test_a_bypassed_node_without_such_an_input_passes_nothing() -> None:
    prompt = convert(image(1, [5], mode=4), preview(2, 5), links=[[5, 1, 0, 2, 0, "IMAGE"]])
    assert prompt["2"]["inputs"] == {}


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)"])
def test_reroutes_are_followed(kind: str) -> None:
    reroutes = [saved(n, kind, inputs={"": ("*", n + 3)}, outputs={"": [n + 4]}) for n in (2, 3)]
    links = [[5, 1, 0, 2, 0, "*"], [6, 2, 0, 3, 0, "*"], [7, 3, 0, 4, 0, "IMAGE"]]
    prompt = convert(image(1, [5]), *reroutes, preview(4, 7), links=links)
    assert prompt["4"]["inputs"] == {"images": ["1", 0]}
    assert prompt.keys() == {"1", "4"}


def test_notes_are_left_out() -> None:
    notes = [saved(1, "Note", ["x"]), saved(2, "MarkdownNote", ["y"])]
    assert convert(*notes, links=[]) == {}


@pytest.mark.parametrize(("setter", "getter"), [("SetNode", "GetNode")])
def test_get_nodes_take_what_the_set_node_of_their_name_has(setter: str, getter: str) -> None:
    links = [[5, 1, 0, 2, 0, "IMAGE"], [6, 3, 0, 4, 0, "IMAGE"]]
    nodes = [
        image(1, [5]),
        saved(2, setter, ["picture"], inputs={"IMAGE": ("IMAGE", 5)}),
        saved(3, getter, ["picture"], outputs={"IMAGE": [6]}),
        preview(4, 6),
    ]
    assert convert(*nodes, links=links)["4"]["inputs"] == {"images": ["1", 0]}
    nodes[1]["widgets_values"] = ["another"]
    with pytest.raises(WorkflowInvalid, match="no Set node named 'picture'"):
        convert(*nodes, links=links)


def test_a_primitives_value_goes_into_every_widget_it_is_linked_to() -> None:
    primitive = saved(1, "PrimitiveNode", [33.4, "fixed"], outputs={"INT": [5, 6]})
    samplers = [saved(n, "KSampler", SAMPLER, widgets={"steps": n + 3}) for n in (2, 3)]
    links = [[5, 1, 0, 2, 0, "INT"], [6, 1, 0, 3, 0, "INT"]]
    prompt = convert(primitive, *samplers, links=links)
    assert [prompt[n]["inputs"]["steps"] for n in ("2", "3")] == [33, 33]
    assert "1" not in prompt


def test_a_primitives_value_is_kept_within_the_limits_of_the_widget() -> None:
    primitive = saved(1, "PrimitiveNode", [99999, "fixed"], outputs={"INT": [5]})
    sampler = saved(2, "KSampler", SAMPLER, widgets={"steps": 5})
    prompt = convert(primitive, sampler, links=[[5, 1, 0, 2, 0, "INT"]])
    assert prompt["2"]["inputs"]["steps"] == 10000


def test_a_cycle_of_reroutes_is_an_error() -> None:
    nodes = [saved(n, "Reroute", inputs={"": ("*", n)}, outputs={"": [3 - n, 3]}) for n in (1, 2)]
    links = [[1, 2, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"], [3, 2, 0, 3, 0, "*"]]
    with pytest.raises(WorkflowInvalid, match="cycle"):
        convert(*nodes, preview(3, 3), links=links)


def test_links_as_objects_are_schema_1_0() -> None:
    document = workflow(image(1, [5]), preview(2, 5))
    document["version"] = 1
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    document["links"] = [dict(zip(keys, (5, 1, 0, 2, 0), strict=True))]
    assert convert_workflow(document, Schemas.bundled())["2"]["inputs"] == {"images": ["1", 0]}


INVERTED = subgraph(
    "Inverted",
    [invert(11, 1, [2])],
    [[1, -10, 0, 11, 0, "IMAGE"], [2, 11, 0, -20, 0, "IMAGE"]],
    inputs={"picture": ("IMAGE", [1])},
    outputs={"result": ("IMAGE", [2])},
)


def inverted(node_id: int, link: int, out: list[int], **more: Any) -> dict[str, Any]:
    return saved(
        node_id, "Inverted", inputs={"picture": ("IMAGE", link)}, outputs={"result": out}, **more
    )


def test_a_subgraph_is_expanded_with_the_ids_of_its_instances() -> None:
    links = [[5, 1, 0, 2, 0, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"], [7, 3, 0, 4, 0, "IMAGE"]]
    nodes = [image(1, [5]), inverted(2, 5, [6]), inverted(3, 6, [7]), preview(4, 7)]
    prompt = convert(*nodes, links=links, subgraphs=[INVERTED])
    assert prompt["2:11"]["inputs"] == {"image": ["1", 0]}
    assert prompt["3:11"]["inputs"] == {"image": ["2:11", 0]}
    assert prompt["4"]["inputs"] == {"images": ["3:11", 0]}
    nodes[2]["mode"] = 4
    assert convert(*nodes, links=links, subgraphs=[INVERTED])["4"]["inputs"] == {
        "images": ["2:11", 0]
    }


def test_subgraphs_in_subgraphs_have_longer_ids() -> None:
    outer = subgraph(
        "Outer",
        [inverted(21, 1, [2])],
        [[1, -10, 0, 21, 0, "IMAGE"], [2, 21, 0, -20, 0, "IMAGE"]],
        inputs={"in": ("IMAGE", [1])},
        outputs={"out": ("IMAGE", [2])},
    )
    host = saved(2, "Outer", inputs={"in": ("IMAGE", 5)}, outputs={"out": [6]})
    links = [[5, 1, 0, 2, 0, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]]
    prompt = convert(image(1, [5]), host, preview(3, 6), links=links, subgraphs=[outer, INVERTED])
    assert prompt["2:21:11"]["inputs"] == {"image": ["1", 0]}
    assert prompt["3"]["inputs"] == {"images": ["2:21:11", 0]}


def test_a_definition_may_bring_along_those_it_uses() -> None:
    outer = {**subgraph("Outer", [saved(21, "Inverted")], [])}
    outer["definitions"] = {"subgraphs": [INVERTED]}
    assert convert(saved(2, "Outer"), links=[], subgraphs=[outer]).keys() == {"2:21:11"}


def sampling(promoted: bool) -> dict[str, Any]:
    sampler = saved(11, "KSampler", SAMPLER, widgets={"steps": 1 if promoted else None})
    if not promoted:
        return subgraph("Sampling", [sampler], [])
    return subgraph(
        "Sampling", [sampler], [[1, -10, 0, 11, 0, "INT"]], inputs={"steps": ("INT", [1])}
    )


def test_each_instance_gives_its_own_values_to_promoted_widgets() -> None:
    hosts = [saved(n, "Sampling", [steps]) for n, steps in ((1, 5), (2, 6))]
    hosts.append(saved(3, "Sampling"))
    prompt = convert(*hosts, links=[], subgraphs=[sampling(True)])
    assert {key: node["inputs"]["steps"] for key, node in prompt.items()} == {
        "1:11": 5,
        "2:11": 6,
        "3:11": 20,
    }


def test_widgets_promoted_by_name_get_the_instances_values_too() -> None:
    names = {"proxyWidgets": [["11", "cfg"], ["11", "steps"]]}
    hosts = [
        saved(1, "Sampling", [2.5, 5], properties=names),
        saved(2, "Sampling", [3.5, None], properties=names),
    ]
    prompt = convert(*hosts, links=[], subgraphs=[sampling(False)])
    values = {k: (n["inputs"]["cfg"], n["inputs"]["steps"]) for k, n in prompt.items()}
    assert values == {"1:11": (2.5, 5), "2:11": (3.5, 20)}


def test_a_link_to_a_promoted_widget_goes_inside() -> None:
    number = saved(1, "PrimitiveInt", [42, "fixed"], outputs={"INT": [5]})
    host = saved(2, "Sampling", [5], widgets={"steps": 5})
    links = [[5, 1, 0, 2, 0, "INT"]]
    prompt = convert(number, host, links=links, subgraphs=[sampling(True)])
    assert prompt["2:11"]["inputs"]["steps"] == ["1", 0]


def test_ids_that_a_subgraph_shares_with_the_workflow_are_renumbered() -> None:
    hosts = [saved(11, "Sampling"), saved(12, "EmptyImage", [8, 8, 1, 0])]
    prompt = convert(*hosts, links=[], subgraphs=[sampling(True)])
    assert prompt.keys() == {"11:13", "12"}


def test_subgraphs_that_contain_each_other_are_an_error() -> None:
    loops = [subgraph("A", [saved(11, "B")], []), subgraph("B", [saved(12, "A")], [])]
    with pytest.raises(WorkflowInvalid, match="contain each other"):
        convert(saved(1, "A"), links=[], subgraphs=loops)


def test_subgraphs_that_multiply_without_end_are_an_error() -> None:
    levels = [
        subgraph(f"L{n}", [saved(100 * n + k, f"L{n + 1}") for k in range(10)], [])
        for n in range(1, 9)
    ]
    with pytest.raises(WorkflowInvalid, match="more than"):
        convert(saved(1, "L1"), links=[], subgraphs=[*levels, subgraph("L9", [], [])])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("Random Unmuter (rgthree)", "picks the nodes that run"),
        ("workflow>My group", "group node"),
    ],
)
def test_what_only_the_editor_can_compute_is_refused(kind: str, why: str) -> None:
    with pytest.raises(WorkflowInvalid, match=why):
        convert(saved(1, kind), links=[])


@pytest.mark.parametrize("document", [{}, {"nodes": {}}, {"nodes": [3]}, {"nodes": [{"id": 1}]}])
def test_what_is_not_a_workflow_is_an_error(document: Any) -> None:
    with pytest.raises(WorkflowInvalid):
        convert_workflow(document, Schemas.bundled())
