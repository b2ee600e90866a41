"""The positive and the negative text: followed back from the samplers to the text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import WorkflowInvalid
from .edit import Place, find_node
from .prompt import Node, Prompt
from .sources import linked_node, only_way_back, text_place

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Side", "find_texts"]

Side = Literal["positive", "negative"]

# What text encoders call their text. Where one has several, they are for its several models.
_TEXTS = (
    *("text", "text_g", "text_l", "prompt", "user_prompt", "caption", "tags"),
    *("clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "qwen25_7b"),
)
_CONDITIONING = ("conditioning", "cond")
_ZERO = "ConditioningZeroOut"


def find_texts(prompt: Prompt, side: Side, nodes: Sequence[str] = ()) -> list[Place]:
    """Where the positive or negative text is.

    From each sampler's (or guider's) ``positive`` or ``negative`` link back, through nodes that
    combine or change conditionings, to the text encoders, and from their text on to the node
    that it is linked to, if any.

    Args:
        prompt: Where to look.
        side: Which of the two.
        nodes: Ids, titles or classes of the nodes that have the text, when the user says so.

    Raises:
        WorkflowInvalid: There is none; or there are several with different texts, which are
            named.
    """
    if nodes:
        encoders = {node_id: _texts_of(prompt, find_node(prompt, node_id)) for node_id in nodes}
    else:
        encoders = dict(_encoders(prompt, side)) or dict(_services(prompt, side))
        if side == "negative":
            _refuse_shared(prompt, encoders)
    if not encoders:
        raise _not_found(prompt, side)
    places = {
        node_id: [text_place(prompt, place) or place for place in found]
        for node_id, found in encoders.items()
    }
    texts = {
        node_id: frozenset(str(prompt[node]["inputs"].get(key)) for node, key in found)
        for node_id, found in places.items()
    }
    if not nodes and len(set(texts.values())) > 1:
        raise _several(prompt, side, {node_id: min(found) for node_id, found in texts.items()})
    return list(dict.fromkeys(place for found in places.values() for place in found))


def _encoders(prompt: Prompt, side: Side) -> Iterator[tuple[str, list[Place]]]:
    """The encoders behind all samplers, each with the inputs that hold its text."""
    waiting: list[JsonValue] = []
    for node_id, node in prompt.items():
        inputs = node["inputs"]
        if side not in inputs:
            if side == "positive" and "Guider" in node["class_type"]:
                waiting += [inputs[key] for key in ("conditioning", "cond1") if key in inputs]
        elif isinstance(inputs[side], str):  # a loader or sampler that encodes by itself
            yield node_id, [(node_id, side)]
        else:
            waiting.append(inputs[side])
    seen: set[tuple[str, int]] = set()
    while waiting:
        link = linked_node(prompt, waiting.pop(0))
        if link is None or link in seen:
            continue
        seen.add(link)
        node_id, output = link
        node = prompt[node_id]
        if node["class_type"] == _ZERO:
            continue  # its text has no effect
        onward = _before(prompt, node, output)
        if onward:
            waiting += onward
        elif found := _own_texts(prompt, node_id, side, output):
            yield node_id, found
        else:
            waiting.append(only_way_back(prompt, node))


def _before(prompt: Prompt, node: Node, output: int) -> list[JsonValue]:
    """The conditionings that a node makes its output of."""
    inputs = node["inputs"]
    pair: Side = "positive" if output == 0 else "negative"
    if linked_node(prompt, inputs.get("positive")) or linked_node(prompt, inputs.get("negative")):
        return [inputs[pair]] if linked_node(prompt, inputs.get(pair)) else []
    return [
        value
        for key, value in inputs.items()
        if key.startswith(_CONDITIONING) and linked_node(prompt, value)
    ]


def _own_texts(prompt: Prompt, node_id: str, side: Side, output: int) -> list[Place]:
    inputs = prompt[node_id]["inputs"]
    if side == "negative" and output == 1 and "negative_prompt" in inputs:
        return [(node_id, "negative_prompt")]
    return [
        (node_id, key)
        for key in _TEXTS
        if isinstance(inputs.get(key), str) or linked_node(prompt, inputs.get(key))
    ]


def _services(prompt: Prompt, side: Side) -> Iterator[tuple[str, list[Place]]]:
    """Nodes that send a text to a service and get a picture: they have no sampler."""
    names = {
        "positive": ("prompt", "positive_prompt", "text_prompt"),
        "negative": ("negative_prompt",),
    }[side]
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if key.rpartition(".")[2] in names and (
                isinstance(value, str) or linked_node(prompt, value)
            ):
                yield node_id, [(node_id, key)]


def _texts_of(prompt: Prompt, node_id: str) -> list[Place]:
    """The texts of a node that the user named."""
    inputs = prompt[node_id]["inputs"]
    found = _own_texts(prompt, node_id, "positive", 0)
    if not found:
        found = [(node_id, key) for key, value in inputs.items() if isinstance(value, str)]
        if len(found) > 1:
            found = [place for place in found if place[1] in ("value", "string", "positive")]
    if not found:
        raise WorkflowInvalid(
            f"Node {node_id} ({prompt[node_id]['class_type']}) has no text to set, or several.",
            advice="Set its input by name: --set NODE.input=TEXT.",
            details={"node_id": node_id},
        )
    return found


def _refuse_shared(prompt: Prompt, encoders: dict[str, list[Place]]) -> None:
    """One encoder for both sides would make the picture be of what is not wanted."""
    positive = {place for _, found in _encoders(prompt, "positive") for place in found}
    for node_id, found in encoders.items():
        if positive.intersection(found):
            raise WorkflowInvalid(
                f"Positive and negative come from the same node {node_id} "
                f"({prompt[node_id]['class_type']}), so there is no negative text to set.",
                advice="Give the sampler a text encoder of its own for the negative.",
                details={"node_id": node_id},
            )


def _not_found(prompt: Prompt, side: Side) -> WorkflowInvalid:
    zeroed = side == "negative" and any(n["class_type"] == _ZERO for n in prompt.values())
    return WorkflowInvalid(
        f"No {side} text was found: no sampler's {side} input leads to a text encoder."
        + (" The negative is zeroed out in this workflow." if zeroed else ""),
        advice="Name the node that has it with --prompt-node, or set its input: "
        "--set NODE.input=TEXT."
        if side == "positive"
        else "Set the input of the node that has it: --set NODE.input=TEXT.",
    )


def _several(prompt: Prompt, side: Side, texts: dict[str, str]) -> WorkflowInvalid:
    named = "; ".join(
        f"node {node_id} ({prompt[node_id]['class_type']}): {_short(text)}"
        for node_id, text in texts.items()
    )
    return WorkflowInvalid(
        f"The workflow has several {side} texts: {named}.",
        advice="Say which: --prompt-node ID."
        if side == "positive"
        else "Set the one you mean: --set NODE.text=TEXT.",
        details={"nodes": list(texts)},
    )


def _short(text: str, longest: int = 40) -> str:
    return repr(text if len(text) <= longest else f"{text[:longest]}…")
