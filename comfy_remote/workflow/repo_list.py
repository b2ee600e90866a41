"""``repo_list``: the Text node whose lines list the models that the worker needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import WorkflowInvalid
from ..types import JsonValue
from .change.sources import Sources
from .prompt import Prompt

if TYPE_CHECKING:
    from .convert.document import SavedNode

__all__ = ["find_repo_list"]

_TITLE = "repo_list"
_TEXTS = ("text", "string", "value")


def find_repo_list(prompt: Prompt, workflow: Mapping[str, JsonValue] | None = None) -> str:
    """The text of the node titled ``repo_list`` (in any case); empty if there is none.

    The node may be of any class: its text is an input ``text``, ``string`` or ``value``, or in a
    workflow the first widget that holds one. The texts of several are joined by line breaks.
    Muted and bypassed nodes are omitted, also in subgraphs.

    Args:
        prompt: API format, where ``_meta`` has the titles; used if the workflow has no such node.
        workflow: UI format: nodes that only show a text (notes) are in no prompt.
    """
    return "\n".join(_in_workflow(workflow) if workflow else ()) or "\n".join(_in_prompt(prompt))


def _in_workflow(workflow: Mapping[str, JsonValue]) -> Iterator[str]:
    from .convert.document import BYPASSED, MUTED, read_document  # here: a prompt needs none of it

    try:
        document = read_document(workflow)
    except WorkflowInvalid:
        return  # it is only embedded in the pictures; the prompt is what runs
    for graph in (document.root, *document.subgraphs.values()):
        for node in graph.nodes:
            if _is_titled(node.title) and node.mode not in (MUTED, BYPASSED):
                yield from _text_of(node)


def _text_of(node: SavedNode) -> Iterator[str]:
    values = node.values.values() if isinstance(node.values, dict) else node.values or ()
    texts = [value for value in values if isinstance(value, str)]
    yield from texts[:1]


def _in_prompt(prompt: Prompt) -> Iterator[str]:
    sources = Sources(prompt)
    for node_id, node in prompt.items():
        if not _is_titled(node.get("_meta", {}).get("title")):
            continue
        for name in _TEXTS:
            place = sources.text((node_id, name)) if name in node["inputs"] else None
            text = prompt[place[0]]["inputs"].get(place[1]) if place else None
            if isinstance(text, str):
                yield text
                break


def _is_titled(title: str | None) -> bool:
    return title is not None and title.casefold() == _TITLE
