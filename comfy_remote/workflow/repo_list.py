"""``repo_list``: the Text node whose lines list the models that the worker needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import WorkflowInvalid
from ..types import JsonValue
from .change.sources import Sources
from .prompt import Node, Prompt, is_link

__all__ = ["find_repo_list", "is_repo_list", "without_repo_list"]

_TITLE = "repo_list"
_TEXTS = ("text", "string", "value")


def find_repo_list(prompt: Prompt, workflow: Mapping[str, JsonValue] | None = None) -> str:
    """The text of the node titled ``repo_list`` (in any case); empty if there is none.

    The node may be of any class: its text is an input ``text``, ``string`` or ``value``, or in a
    workflow the first widget that holds one. The texts of several are joined by line breaks.
    Muted and bypassed nodes are omitted, also in subgraphs.

    Args:
        prompt: API format, where ``_meta`` has the titles. Its texts are those that run: changed,
            and followed to the node that they are linked to.
        workflow: UI format. Of a node that is in the prompt, too, the prompt's text counts; notes
            are in no prompt.
    """
    texts = [*filter(None, _in_prompt(prompt))]
    if workflow:
        texts += filter(None, _in_workflow(workflow, only_notes=bool(texts)))
    return "\n".join(texts)


def without_repo_list(prompt: Prompt) -> Prompt:
    """The prompt without its nodes titled ``repo_list`` that nothing is linked from, and without
    those that only they are linked to.

    They are for the list, which travels by itself. The engine may not have their class, and would
    refuse the whole prompt.
    """
    users: dict[str, set[str]] = {}
    for node_id, node in prompt.items():
        for value in node["inputs"].values():
            if is_link(value):
                users.setdefault(str(value[0]), set()).add(node_id)
    lists = (node_id for node_id, node in prompt.items() if _titled(node))
    waiting = [node_id for node_id in lists if node_id not in users]
    omitted = set(waiting)
    while waiting:
        for value in prompt[waiting.pop()]["inputs"].values():
            source = str(value[0]) if is_link(value) else ""
            if source in prompt and source not in omitted and users[source] <= omitted:
                omitted.add(source)
                waiting.append(source)
    if not omitted:
        return prompt
    return {node_id: node for node_id, node in prompt.items() if node_id not in omitted}


def is_repo_list(title: str | None) -> bool:
    """Whether a node with that title holds the list."""
    return title is not None and title.casefold() == _TITLE


def _titled(node: Node) -> bool:
    return is_repo_list(node.get("_meta", {}).get("title"))


def _in_workflow(workflow: Mapping[str, JsonValue], *, only_notes: bool) -> Iterator[str]:
    from .convert.document import BYPASSED, MUTED, read_document  # here: a prompt needs none of it
    from .convert.virtual import VIRTUAL

    try:
        document = read_document(workflow)
    except WorkflowInvalid:
        return  # it is only embedded in the pictures; the prompt is what runs
    for graph in (document.root, *document.subgraphs.values()):
        for node in graph.nodes:
            off = node.mode in (MUTED, BYPASSED) or (only_notes and node.type not in VIRTUAL)
            if is_repo_list(node.title) and not off:
                yield node.first_text or ""


def _in_prompt(prompt: Prompt) -> Iterator[str]:
    sources = Sources(prompt)
    for node_id, node in prompt.items():
        if not _titled(node):
            continue
        for name in _TEXTS:
            place = sources.text((node_id, name)) if name in node["inputs"] else None
            text = prompt[place[0]]["inputs"].get(place[1]) if place else None
            if isinstance(text, str):
                yield text
                break
