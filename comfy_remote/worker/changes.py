"""The prompt that a request means: converted if need be, with what the request sets in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pydantic import JsonValue

from ..errors import WorkflowInvalid
from ..wire.request import JobRequest
from ..workflow.change.numbers import SizeInput, find_seeds, find_sizes
from ..workflow.change.settings import apply_overrides, find_node, put
from ..workflow.change.sources import Sources
from ..workflow.change.texts import find_texts
from ..workflow.convert import convert as convert_workflow
from ..workflow.json_document import is_ui_format
from ..workflow.load import parse_prompt
from ..workflow.prompt import Place, Prompt
from ..workflow.schema import Schemas

__all__ = ["changed", "convert", "embedded_workflow", "needs_schemas", "plain_prompt"]

_log = logging.getLogger(__name__)

_PROMPT_NODE, _SEED_NODE, _SIZE_NODE = "6", "25", "27"
_SEEDS = ("seed", "noise_seed")


def needs_schemas(request: JobRequest) -> bool:
    """Whether the workflow is in UI format, which only the engine's schemas can convert."""
    return is_ui_format(request.workflow)


def plain_prompt(request: JobRequest) -> Prompt:
    """The prompt of a request in API format, not changed yet; else `WorkflowInvalid`."""
    with _field("workflow"):
        return parse_prompt(request.workflow)


def convert(request: JobRequest, schemas: Schemas) -> Prompt:
    """The prompt of a request in UI format, not changed yet.

    Raises:
        WorkflowInvalid: It cannot be converted; says which node is why.
    """
    with _field("workflow"):
        converted = convert_workflow(request.workflow, schemas)
        for doubt in converted.doubts:
            _log.warning("%s", doubt.sentence)
        prompt = converted.prompt
        if not prompt:
            raise WorkflowInvalid(
                "It has no node that runs.",
                advice="Open it in ComfyUI and see which nodes are muted or missing.",
            )
        return prompt


def embedded_workflow(request: JobRequest) -> dict[str, JsonValue] | None:
    """The UI-format workflow to embed in saved images."""
    if request.ui_workflow is None and needs_schemas(request):
        return request.workflow
    return request.ui_workflow


def changed(prompt: Prompt, request: JobRequest) -> Prompt:
    """The prompt with the text, seed, size and overrides that the request gives.

    Raises:
        WorkflowInvalid: Something does not fit the prompt; names the field.
    """
    settings: tuple[tuple[str, JsonValue, Callable[[Prompt, JobRequest], Sequence[Place]]], ...] = (
        ("prompt", request.prompt, _text_places),
        ("seed", request.seed, _seed_places),
        ("width", request.width, lambda p, r: _size_places(p, r, "width")),
        ("height", request.height, lambda p, r: _size_places(p, r, "height")),
    )
    for field, value, places_in in settings:
        if value is not None:
            with _field(field, f"Name the node with {_NODE_FIELD[field]}, or use overrides."):
                prompt = put(prompt, places_in(prompt, request), value)
    with _field("overrides"):
        return apply_overrides(prompt, request.overrides)


_NODE_FIELD = {
    "prompt": "prompt_node_id",
    "seed": "seed_node_id",
    "width": "size_node_id",
    "height": "size_node_id",
}


def _text_places(prompt: Prompt, request: JobRequest) -> Sequence[Place]:
    if request.prompt_node_id is not None:
        with _field("prompt_node_id"):
            return find_texts(prompt, "positive", [request.prompt_node_id])
    if _PROMPT_NODE in prompt and "Encode" in prompt[_PROMPT_NODE]["class_type"]:
        with suppress(WorkflowInvalid):  # an encoder of something else
            return find_texts(prompt, "positive", [_PROMPT_NODE])
    return find_texts(prompt, "positive")


def _seed_places(prompt: Prompt, request: JobRequest) -> Sequence[Place]:
    if request.seed_node_id is not None:
        with _field("seed_node_id"):
            return _inputs(prompt, request.seed_node_id, _SEEDS)
    if _SEED_NODE in prompt and not prompt[_SEED_NODE]["inputs"].keys().isdisjoint(_SEEDS):
        return _inputs(prompt, _SEED_NODE, _SEEDS)
    return find_seeds(prompt)


def _size_places(prompt: Prompt, request: JobRequest, name: SizeInput) -> Sequence[Place]:
    if request.size_node_id is not None:
        with _field("size_node_id"):
            return _inputs(prompt, request.size_node_id, (name,))
    if _SIZE_NODE in prompt and {"width", "height"} <= prompt[_SIZE_NODE]["inputs"].keys():
        return _inputs(prompt, _SIZE_NODE, (name,))
    return find_sizes(prompt, name)


def _inputs(prompt: Prompt, name: str, wanted: Sequence[str]) -> Sequence[Place]:
    """Those inputs of a node; where one is linked to a number, the input that holds it."""
    node_id = find_node(prompt, name)
    node = prompt[node_id]
    found = [(node_id, key) for key in wanted if key in node["inputs"]]
    if not found:
        raise WorkflowInvalid(
            f"Node {node_id} ({node['class_type']}) has no input {' or '.join(wanted)}.",
            advice=f"It has: {', '.join(node['inputs']) or 'none'}.",
        )
    sources = Sources(prompt)
    return [sources.number(place, unless_it_feeds=frozenset({"steps"})) or place for place in found]


@contextmanager
def _field(name: str, advice: str = "") -> Iterator[None]:
    """Put the field's name before what is wrong with it; the innermost field counts."""
    try:
        yield
    except WorkflowInvalid as error:
        if "field" in error.details:
            raise
        raise WorkflowInvalid(
            f"{name}: {error.message}",
            advice=advice or error.advice,
            details={**error.details, "field": name},
        ) from error
