"""What a target has and this ComfyUI lacks: node classes, and choices such as models."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from ..errors import WorkflowInvalid
from ..types import JsonValue, as_list, mapping
from ..workflow.models import find_models
from ..workflow.prompt import Prompt
from ..workflow.repo_list import find_repo_list
from ..workflow.schema import NodeSchema, Schemas

__all__ = ["choices_there", "could_be_fetched", "nodes_there", "with_fetched_models"]


def nodes_there(here: Schemas, there: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The definitions of the classes that only the target has, each complete.

    A pack may leave fields out of its ``/object_info`` entry, or put something else there; pages
    expect all of them as ComfyUI's own server writes them, and stop at the first that differs.
    So a field that is missing or of another type gets ComfyUI's default.
    """
    return {
        name: _complete(name, node)
        for name, node in there.items()
        if name and name not in here and isinstance(node, dict)
    }


def _complete(name: str, node: Mapping[str, JsonValue]) -> JsonValue:
    outputs: list[JsonValue] = [
        one if isinstance(one, str | list) else "*" for one in as_list(node.get("output"))
    ]
    lists, names = as_list(node.get("output_is_list")), as_list(node.get("output_name"))
    groups = {
        group: _specifications(mapping(node.get("input")).get(group))
        for group in ("required", "optional", "hidden")
    }
    return {
        **node,
        "input": {group: specs for group, specs in groups.items() if specs or group == "required"},
        "input_order": {
            group: _in_order(specs, mapping(node.get("input_order")).get(group))
            for group, specs in groups.items()
            if specs
        },
        "output": outputs,
        "output_is_list": [
            bool(lists[number]) if number < len(lists) else False for number in range(len(outputs))
        ],
        "output_name": [
            _text(names[number] if number < len(names) else None, str(output))
            for number, output in enumerate(outputs)
        ],
        "name": name,
        "display_name": _text(node.get("display_name"), name),
        "description": _text(node.get("description"), ""),
        "python_module": _text(node.get("python_module"), "custom_nodes.unknown"),
        "category": _text(node.get("category"), "remote"),
        "output_node": node.get("output_node") is True,
    }


def _specifications(group: JsonValue) -> dict[str, JsonValue]:
    """Inputs by name, each ``[type]`` or ``[type, options]``; a hidden one may be its type."""
    found: dict[str, JsonValue] = {}
    for name, spec in mapping(group).items():
        match spec:
            case str() | [str() | [*_]] | [str() | [*_], dict()]:
                found[name] = spec
            case [str() | [*_] as kind, *_]:
                found[name] = [kind, {}]
    return found


def _in_order(specs: Mapping[str, JsonValue], order: JsonValue) -> list[JsonValue]:
    named = [name for name in as_list(order) if isinstance(name, str) and name in specs]
    return [*dict.fromkeys([*named, *specs])]


def _text(value: JsonValue, default: str) -> str:
    return value if isinstance(value, str) and value else default


def choices_there(here: Schemas, there: Schemas) -> dict[str, JsonValue]:
    """``{class: {input: [values]}}``: the choices that only the target has.

    Lists of uploaded files are left out: files that a workflow loads are taken from here.
    """
    found: dict[str, JsonValue] = {}
    for name in there:
        ours, theirs = here.get(name), there.get(name)
        if ours is not None and theirs is not None:
            inputs = _more_choices(ours, theirs)
            if inputs:
                found[name] = inputs
    return found


def _more_choices(ours: NodeSchema, theirs: NodeSchema) -> dict[str, JsonValue]:
    known = {spec.name: spec for spec in ours.inputs}
    more: dict[str, JsonValue] = {}
    for spec in theirs.inputs:
        mine = known.get(spec.name)
        if mine is None or not spec.choices or spec.lists_uploads:
            continue
        added = [value for value in spec.choices if value not in mine.choices]
        if added:
            more[spec.name] = added
    return more


def with_fetched_models(
    schemas: Schemas, prompt: Prompt, workflow: Mapping[str, JsonValue] | None
) -> Schemas:
    """The schemas of a target that fetches models, as they will be when the prompt runs.

    Models whose source the workflow gives count as installed; so do all models that the prompt
    names if it has a ``repo_list``, whose links need not contain the files' names. Should one
    be missing after all, the target says so.
    """
    listed = bool(find_repo_list(prompt, workflow))
    coming: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for model in find_models(prompt, workflow):
        if model.source is None and not listed:
            continue
        for node_id, name in model.places:
            value = prompt[node_id]["inputs"][name]
            if isinstance(value, str):
                coming[prompt[node_id]["class_type"], name].add(value)
    return schemas.with_choices(coming) if coming else schemas


def could_be_fetched(
    refusal: WorkflowInvalid, prompt: Prompt, workflow: Mapping[str, JsonValue] | None
) -> WorkflowInvalid:
    """The refusal of a prompt; with advice, if such models are what it lacks."""
    said, error = json.dumps(refusal.details), refusal.details.get("error")
    lacking = [
        model
        for model in find_models(prompt, workflow)
        if model.source is not None and _in_json(model.name) in said
    ]
    if not lacking or not isinstance(error, dict):
        return refusal
    named = ", ".join(f"{model.folder}/{model.name}" for model in lacking)
    advice = (
        f"The workflow says where to get {named}. With DOWNLOAD_MODELS=true the "
        "worker fetches what it lacks during the run. Or bring it there first: the button is in "
        "the Remote panel."
    )

    def longer(one: JsonValue) -> dict[str, JsonValue]:
        problem = mapping(one)
        if not any(_in_json(model.name) in json.dumps(problem) for model in lacking):
            return problem
        return {**problem, "details": f"{problem.get('details') or ''}\n{advice}".strip()}

    node_errors: dict[str, JsonValue] = {
        node_id: {**mapping(node), "errors": [*map(longer, as_list(mapping(node).get("errors")))]}
        for node_id, node in mapping(refusal.details.get("node_errors")).items()
    }
    more: JsonValue = {**error, "details": f"{error.get('details') or ''}\n{advice}".strip()}
    details: dict[str, JsonValue] = {**refusal.details, "error": more, "node_errors": node_errors}
    return WorkflowInvalid(refusal.message, advice=advice, details=details)


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]
