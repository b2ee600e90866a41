"""Whatever a UI-format document holds, the converter gives a prompt or an error of ours."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_workflow import saved, subgraph, workflow

from comfy_remote.errors import ComfyRemoteError
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

KINDS = ["KSampler", "Reroute", "PrimitiveNode", "SaveVideo", "BatchImagesNode", "CustomCombo",
         "GetNode", "SetNode", "Inner", "Outer", "LoadImage", "Foreign", "SaveImage"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 10**6) | st.floats(allow_nan=False)
    | st.sampled_from(["", "-1", "-10", "*", "INT", "IMAGE", "{a|b", "%a.b%", *KINDS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


def _documents() -> dict[str, Any]:
    inner = subgraph(
        "Inner",
        [saved(11, "KSampler", [7, "fixed", 20, 8.0, "euler", "normal", 1.0],
               widgets={"steps": 1, "cfg": None}),
         saved(12, "PrimitiveNode", [3], outputs={"INT": [3]})],
        [[1, -10, 0, 11, 0, "INT"], [2, 11, 0, -20, 0, "LATENT"], [3, 12, 0, 11, 1, "FLOAT"]],
        inputs={"steps": ("INT", [1])},
        outputs={"latent": ("LATENT", [2])},
    )  # fmt: skip
    outer = subgraph("Outer", [saved(21, "Inner", [4])], [])
    names = {"proxyWidgets": [["11", "cfg"], ["12", "value"], ["-1", "steps"]]}
    return workflow(
        saved(1, "Inner", [5, 6, 7], properties=names, outputs={"latent": [5]}),
        saved(2, "Outer"),
        saved(3, "Reroute", inputs={"": ("*", 5)}, outputs={"": [6]}),
        saved(4, "SaveVideo", ["%Inner.steps%", "auto", "auto"]),
        saved(5, "BatchImagesNode", inputs={"images.image0": ("IMAGE", 6)}, mode=4),
        saved(6, "CustomCombo", ["a", 0, "a", "b", ""]),
        links=[[5, 1, 0, 3, 0, "LATENT"], [6, 3, 0, 5, 0, "LATENT"]],
        subgraphs=[inner, outer],
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if _is_list(value) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 10**4), st.none() | st.tuples(JSON)), max_size=12))
def test_documents_with_parts_removed_or_swapped(changes: list[tuple[int, Any]]) -> None:
    document = _documents()
    for number, replacement in changes:
        places = _places(document)
        if not places:
            break
        container, key = places[number % len(places)]
        if replacement is None:
            del container[key]
        else:
            container[key] = copy.deepcopy(replacement[0])
    try:
        prompt = convert_workflow(document, Schemas.bundled())
    except ComfyRemoteError as error:
        assert error.message
    else:
        json.dumps(prompt, allow_nan=False)
        assert all(node["class_type"] for node in prompt.values())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["nodes", "links", "definitions", "extra"]), JSON))
def test_documents_of_anything(document: Any) -> None:
    try:
        assert isinstance(convert_workflow(document, Schemas.bundled()), dict)
    except ComfyRemoteError as error:
        assert error.message
