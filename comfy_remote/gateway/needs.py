"""What a job needs of its worker, from what a client sends; what a worker offers, from its report.

Both name things alike: nodes by class, models by folder and name (``checkpoints/a.safetensors``). A
model whose folder only its node's pack knows is ``?/NAME`` on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote

from pydantic import JsonValue
from pydantic_core import from_json

from ..errors import WorkflowInvalid
from ..json_text import has_more_values
from ..types import mapping, mappings
from ..wire.joined import Report
from ..wire.repo_list import ModelLine, parse_repo_list
from ..worker.models.folders import MODEL_SUFFIXES, folder_of
from ..workflow.convert.virtual import VIRTUAL
from ..workflow.json_document import graphs_in, is_ui_format
from ..workflow.models import model_sources, model_uses
from ..workflow.paid_nodes import any_paid_known
from ..workflow.prompt import Node, Prompt
from .offers import Needs, Offer

__all__ = ["needs_of", "offer_of"]

_MOST_NODES = 10_000
_MOST_VALUES = 500_000
_LARGEST = 32 * 1024  # characters of all names: what waits is in memory
_LONGEST_NAME = 300
_LONGEST_LIST = 1000
_SOMEWHERE = "?"
_NOT_RUN = (2, 4)  # a node's mode in UI format: muted, bypassed
_FREE = frozenset({"embeddings"})  # an engine runs without them, and prompts omit their endings


def needs_of(payload: JsonValue) -> Needs:
    """What a job needs, from its ``input``; nothing if it runs no workflow, or cannot be read.

    Never raises. Only what the prompt itself says is known, without schemas, so this decides which
    worker is better, never that a job is refused.

    ``may_cost`` is true if the request brings a key of Comfy.org; if the prompt has one of
    ComfyUI's own API nodes (a worker may have a key of its own); and for a prompt of more than
    10,000 nodes, which is not read. What other nodes buy, only workers know: see `Offer.may_cost`.
    """
    request = _request_in(payload)
    workflow = request.get("workflow")
    if workflow is None and isinstance(request.get("prompt"), dict):
        workflow = request["prompt"]
    if request.get("action", "run") != "run" or not isinstance(workflow, dict):
        return Needs()
    pays = bool(request.get("comfy_org_api_key"))
    try:
        prompt = _saved_nodes(workflow) if is_ui_format(workflow) else _nodes(workflow)
        if len(prompt) > _MOST_NODES:
            return Needs(may_cost=True)
        pays = pays or any_paid_known(prompt)
        return _of_prompt(_overridden(prompt, mapping(request.get("overrides"))), request, pays)
    except RecursionError:
        return Needs(may_cost=True)


def offer_of(report: Report) -> Offer:
    """What a worker offers, from what it reports."""
    models = None
    if report.models is not None:
        named = {_model(*_parted(name)) for name in report.models}
        models = frozenset(named | {_model(None, _parted(name)[1]) for name in report.models})
    return Offer(
        nodes=None if report.nodes is None else frozenset(report.nodes),
        models=models,
        memory=report.memory,
        labels=frozenset(report.labels),
        fetches_models=report.fetches_models,
        paid=frozenset(report.paid),
    )


def _request_in(payload: JsonValue) -> Mapping[str, JsonValue]:
    """The request; some clients send it as JSON in a string, as a worker accepts it."""
    if isinstance(payload, str) and not has_more_values(payload, _MOST_VALUES):
        try:
            payload = from_json(payload)
        except ValueError:
            return {}
    return {k: v for k, v in payload.items() if v is not None} if isinstance(payload, dict) else {}


def _nodes(workflow: Mapping[str, JsonValue]) -> Prompt:
    """The nodes of a prompt that can be read."""
    found: Prompt = {}
    for node_id, node in workflow.items():
        if isinstance(node, dict) and isinstance(kind := node.get("class_type"), str):
            inputs = mapping(node.get("inputs"))
            short = {name: value for name, value in inputs.items() if _may_name_models(value)}
            found[node_id] = Node(class_type=kind, inputs=short)
    return found


def _may_name_models(value: JsonValue) -> bool:
    """Whether to look into a value: not into prompts, masks and tables, which may be megabytes."""
    limit = _LONGEST_NAME if isinstance(value, str) else _LONGEST_LIST
    return isinstance(value, str | list | dict) and len(value) <= limit


def _saved_nodes(workflow: Mapping[str, JsonValue]) -> Prompt:
    """The nodes of a workflow in UI format as far as they can be read without schemas: the names
    of their inputs cannot.
    """
    found: Prompt = {}
    graphs = list(graphs_in(workflow))
    inner = {graph.get("id") for graph in graphs[1:] if isinstance(graph.get("id"), str)}
    for graph in graphs:
        for node in mappings(graph.get("nodes")):
            kind = node.get("type")
            if not isinstance(kind, str) or node.get("mode") in _NOT_RUN or kind in VIRTUAL:
                continue
            # An instance of a subgraph or of a group node is no class of the engine's.
            is_class = kind not in inner and not kind.startswith(("workflow>", "workflow/"))
            widgets = node.get("widgets_values")
            values = {"": widgets} if _may_name_models(widgets) else {}
            found[str(len(found))] = Node(class_type=kind if is_class else "", inputs=values)
    return found


def _overridden(prompt: Prompt, overrides: Mapping[str, JsonValue]) -> Prompt:
    changed = dict(prompt)
    for node_id, given in overrides.items():
        if (node := changed.get(node_id)) is not None:
            values = {k: v if _may_name_models(v) else None for k, v in mapping(given).items()}
            changed[node_id] = Node(
                class_type=node["class_type"], inputs={**node["inputs"], **values}
            )
    return changed


def _of_prompt(prompt: Prompt, request: Mapping[str, JsonValue], pays: bool) -> Needs:
    lines = _lines(request)
    sent = {(line.kind, line.name) for line in lines if line.name}
    folders = dict(reversed([(name, folder) for folder, name in sent if folder]))
    folders |= _folders_said(request.get("workflow"))
    models = {_needed(line.kind, line.name) for line in lines if line.name and line.number}
    fetchable = {_needed(folder, name) for folder, name in sent}
    nameless = {line.kind for line in lines if not line.name}
    anywhere = {line.name for line in lines if not line.kind}
    for use in model_uses(prompt):
        name = _posix(use.name)
        folder = use.folder or folders.get(name)
        if folder not in _FREE:
            models.add(_needed(folder, name))
            if folder in nameless or "" in nameless or name in anywhere:
                fetchable.add(_needed(folder, name))
    needed = _within_limits(models)
    return Needs(
        nodes=_within_limits({node["class_type"] for node in prompt.values()}),
        models=needed,
        fetchable=needed & fetchable,
        may_cost=pays,
    )


def _lines(request: Mapping[str, JsonValue]) -> list[ModelLine]:
    """Models with an address: ``models`` as lines without a number, then ``repo_list``. Their kinds
    are folders, ``""`` if it is not said; a name is ``None`` if only the site knows it.
    """
    found = [
        ModelLine(0, folder_of(folder), "", _posix(name))
        for one in mappings(request.get("models"))
        if isinstance(name := one.get("name"), str)
        and isinstance(folder := one.get("directory"), str)
    ]
    text = request.get("repo_list")
    texts = [one for one in text if isinstance(one, str)] if isinstance(text, list) else text
    if not isinstance(texts, str | list) or not texts:
        return found
    try:
        listed = parse_repo_list(texts)
    except WorkflowInvalid:
        return found  # the worker says what is wrong with it
    return found + [
        ModelLine(line.number, folder_of(line.kind), line.url, line.name or _name_in(line.url))
        for line in listed
    ]


def _name_in(url: str) -> str | None:
    path = url.partition("?")[0].partition("#")[0]
    path = path.partition("@")[0] if path.startswith("hf:") else unquote(path)
    name = PurePosixPath(path).name
    return name if PurePosixPath(name).suffix.lower() in MODEL_SUFFIXES else None


def _folders_said(workflow: JsonValue) -> dict[str, str]:
    """Folders by the names of models, as a workflow in UI format says them."""
    if not is_ui_format(workflow):
        return {}
    return {_posix(one.name): folder_of(one.folder) for one in model_sources(workflow)}


def _within_limits(names: Iterable[str]) -> frozenset[str]:
    """The names; none if they are too much to have in memory for each job that waits."""
    found = frozenset(_short(names))
    return found if sum(map(len, found)) <= _LARGEST else frozenset()


def _short(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if 0 < len(name) <= _LONGEST_NAME)


def _needed(folder: str | None, name: str) -> str:
    # The pack that loads such files lists them in folders of its own ("unet_gguf").
    return _model(None if name.lower().endswith(".gguf") else folder, name)


def _model(folder: str | None, name: str) -> str:
    return f"{folder or _SOMEWHERE}/{name}"


def _parted(model: str) -> tuple[str, str]:
    folder, _, name = _posix(model).partition("/")
    return folder_of(folder), name


def _posix(name: str) -> str:
    return name.replace("\\", "/")
