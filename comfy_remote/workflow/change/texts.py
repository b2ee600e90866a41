"""The positive and the negative text: followed back from the samplers to the text encoders."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from ...advice import Hint
from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..graph import linked_node
from ..prompt import Node, Place, Prompt
from .settings import find_node
from .sources import Sources, only_way_back

__all__ = ["Side", "find_texts", "has_texts"]

Side = Literal["positive", "negative"]

# What text encoders call their text. Where one has several, they are for its several models.
_TEXTS = (
    *("text", "text_g", "text_l", "prompt", "user_prompt", "caption", "tags"),
    *("clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "qwen25_7b"),
)
_CONDITIONING = ("conditioning", "cond")
_ZERO = "ConditioningZeroOut"
_OTHER: dict[Side, Side] = {"positive": "negative", "negative": "positive"}
# Words in the names of inputs that hold a text; and of settings that are about it.
_WORD = re.compile(r"[^\W\d_]+")
_TEXT_WORDS = frozenset({"prompt", "text", "lyrics", "dialogue"})
_NO_PROMPT = frozenset({"system", "template", "mode", "normalization", "encoder"})
_MOST_NAMED = 6


def find_texts(prompt: Prompt, side: Side, nodes: Sequence[str] = ()) -> list[Place]:
    """Where the positive or negative text is.

    From each sampler's (or guider's) ``positive`` or ``negative`` link back, through nodes that
    combine or change conditionings, to the text encoders, and from their text on to the node
    that it is linked to, if any.

    Args:
        nodes: Ids, titles or classes of the nodes that have the text, if the user names them.

    Raises:
        WorkflowInvalid: There is none; or there are several that differ, which are named.
    """
    sources = Sources(prompt)
    if nodes:
        inputs = {
            node_id: _texts_of(prompt, node_id)
            for node_id in (find_node(prompt, name) for name in nodes)
        }
        shared: set[Place | None] = set()
    else:
        inputs, other = _inputs(prompt, side), _inputs(prompt, _OTHER[side])
        own = {place for found in inputs.values() for place in found}
        if side == "negative":
            _refuse_shared(prompt, inputs, other)
        # A language model may write both texts: its own prompt is then neither.
        others = {place for found in other.values() for place in found} - own
        shared = {sources.text(place) for place in others}
    if not inputs:
        raise _not_found(prompt, side)
    places = {
        node_id: [
            place if (behind := sources.text(place)) is None or behind in shared else behind
            for place in found
        ]
        for node_id, found in inputs.items()
    }
    texts = {
        frozenset(str(prompt[node]["inputs"].get(key)) for node, key in found)
        for found in places.values()
    }
    if not nodes and len(texts) > 1:
        raise _several(side, prompt, places)
    return list(dict.fromkeys(place for found in places.values() for place in found))


def has_texts(prompt: Prompt, side: Side) -> bool:
    """Whether a node takes one: the text of that side, or one that only the user can name."""
    return bool(_inputs(prompt, side)) or any(True for _ in _other_texts(prompt, side))


def _inputs(prompt: Prompt, side: Side) -> dict[str, list[Place]]:
    """The inputs that take the text of one side, by node: of encoders, else of services."""
    return dict(_encoders(prompt, side)) or dict(_services(prompt, side))


def _encoders(prompt: Prompt, side: Side) -> Iterator[tuple[str, list[Place]]]:
    """The encoders behind all samplers, each with the inputs that hold its text."""
    waiting: deque[JsonValue] = deque()
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
        link = linked_node(prompt, waiting.popleft())
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
    # ComfyUI's nodes for both sides give the positive first; those with a model, after the model.
    first = 1 if "model" in inputs else 0
    pair: Side = "positive" if output == first else "negative"
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
            advice=Hint.SET_TEXT_BY_NAME(),
            details={"node_id": node_id},
        )
    return found


def _refuse_shared(
    prompt: Prompt, inputs: dict[str, list[Place]], other: dict[str, list[Place]]
) -> None:
    """With one encoder for both sides, the negative text would become the positive one."""
    positive = {place for found in other.values() for place in found}
    for node_id, found in inputs.items():
        if positive.intersection(found):
            raise WorkflowInvalid(
                f"Positive and negative come from the same node {node_id} "
                f"({prompt[node_id]['class_type']}), so there is no negative text to set.",
                advice="Give the sampler a text encoder of its own for the negative.",
                details={"node_id": node_id},
            )


def _not_found(prompt: Prompt, side: Side) -> WorkflowInvalid:
    zeroed = side == "negative" and any(n["class_type"] == _ZERO for n in prompt.values())
    name = "prompt" if side == "positive" else "negative_prompt"
    others = list(islice(_other_texts(prompt, side), _MOST_NAMED))
    if others:
        advice = Hint.SET_ONE_TEXT(inputs=", ".join(others))
    elif side == "positive":
        advice = Hint.NAME_PROMPT_NODE()
    else:
        advice = Hint.NO_NEGATIVE()
    return WorkflowInvalid(
        f"No {side} text was found: no sampler's {side} input leads to a text encoder, and no "
        f"node has an input named {name}."
        + (" The negative is zeroed out in this workflow." if zeroed else ""),
        advice=advice,
    )


def _other_texts(prompt: Prompt, side: Side) -> Iterator[str]:
    """Other inputs that hold texts, by their names: dialogue, lyrics."""
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            words = set(_WORD.findall(key.rpartition(".")[2].casefold()))
            if (
                isinstance(value, str)
                and words & _TEXT_WORDS
                and not words & _NO_PROMPT
                and ("negative" in words) == (side == "negative")
            ):
                yield f"{node_id}.{key}=TEXT ({node['class_type']})"


def _several(side: Side, prompt: Prompt, places: dict[str, list[Place]]) -> WorkflowInvalid:
    named = "; ".join(
        f"node {node_id} ({prompt[node_id]['class_type']}): {_shown(prompt, found[0])}"
        for node_id, found in places.items()
    )
    return WorkflowInvalid(
        f"The workflow has several {side} texts: {named}.",
        advice=Hint.WHICH_PROMPT_NODE() if side == "positive" else Hint.WHICH_NEGATIVE(),
        details={"nodes": list(places)},
    )


def _shown(prompt: Prompt, place: Place, longest: int = 40) -> str:
    """A text for people, in quotes; or which node it comes from."""
    value = prompt[place[0]]["inputs"].get(place[1])
    if (link := linked_node(prompt, value)) is not None:
        return f"(from node {link[0]})"
    text = str(value)
    return repr(text if len(text) <= longest else f"{text[:longest]}…")
