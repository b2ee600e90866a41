"""Real workflows with parts removed or swapped: a prompt, or an error that names the place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_templates import templates

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

DATA = Path(__file__).parents[1] / "data"
JUNK: list[Any] = [None, True, 0, -1, "", [], {}, "x", 1e308, [None], {"a": 1}, -10, 10**30, "*"]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["remove", "swap", "replace", "repeat"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=12,
)
WHOLE = "This is not a workflow in UI format"


def _documents() -> list[str]:
    small = [
        case["workflow"]
        for name in ("group_nodes", "tricky_workflows")
        for case in json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")).values()
    ]
    return [json.dumps(workflow) for workflow in (*templates("0.33.0").values(), *small)]


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return _documents()


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if _is_list(value) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _change(document: Any, how: str, first: int, second: int) -> None:
    places = _places(document)
    if not places:
        return
    container, key = places[first % len(places)]
    other, other_key = places[second % len(places)]
    if how == "remove":
        del container[key]
    elif how == "replace":
        container[key] = copy.deepcopy(JUNK[second % len(JUNK)])
    elif how == "repeat" and _is_list(container):
        container.append(copy.deepcopy(container[key]))
    else:
        one, two = copy.deepcopy(container[key]), copy.deepcopy(other[other_key])
        other[other_key] = one
        container[key] = two


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(number=st.integers(0, 10**6), changes=CHANGES, keep=st.booleans())
def test_a_result_or_an_error_that_names_the_place(
    documents: list[str], number: int, changes: list[tuple[str, int, int]], keep: bool
) -> None:
    document = json.loads(documents[number % len(documents)])
    for change in changes:
        _change(document, *change)
    try:
        prompt = convert_workflow(document, Schemas.bundled(), keep_unknown=keep)
    except WorkflowInvalid as error:
        named = "node" in error.message or "subgraph" in error.message
        assert named or error.message.startswith(WHOLE), error.message
    else:
        json.dumps(prompt, allow_nan=False)
        links = (v for node in prompt.values() for v in node["inputs"].values() if _is_list(v))
        assert all(origin in prompt for origin, _ in links)
