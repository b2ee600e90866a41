"""The result of a cut: the prompt that runs here, those that run elsewhere, what crosses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import CutImpossible
from ...types import JsonValue
from ..check.rules import node_error
from ..files import file_uses
from ..interface import MOST_PART_VALUES, REMOTE_PART, REMOTE_SHOWN
from ..prompt import Node, Place, Prompt

if TYPE_CHECKING:
    from ...media.values import ImageFormat

__all__ = ["Crossing", "Cut", "Part", "at", "impossible", "listed", "part_node", "shown_node"]

_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Crossing:
    """One value that crosses the boundary of a part.

    Attributes:
        key: Its name at the boundary, ``NODE.OUTPUT``.
        node_id, output: Its source in the original prompt; outputs count from 0.
        type: ``IMAGE``, ``LATENT``, …
        to: The inputs beyond the boundary that take it.
        size: About how many bytes; ``None`` if the graph does not tell.
    """

    key: str
    node_id: str
    output: int
    type: str
    to: tuple[Place, ...]
    size: int | None

    def to_json(self) -> dict[str, JsonValue]:
        """``{"key", "node_id", "output", "type", "to": [{"node_id", "input"}], "size"}``."""
        return {
            "key": self.key,
            "node_id": self.node_id,
            "output": self.output,
            "type": self.type,
            "to": [{"node_id": node_id, "input": name} for node_id, name in self.to],
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """What runs elsewhere as one job.

    Attributes:
        name: The target's name in the marks.
        node_id: The id of its last node, and of the local node that stands for it.
        prompt: Runs there. Its nodes have their ids; a `ComfyRemoteInput` and a
            `ComfyRemoteOutput` are added for each value that goes in or comes out.
        nodes: Those that run there instead of here.
        copies: Those that are copied because their objects (models and the like) cannot travel.
        inputs: In the order of the local node's ``value_0``, ``value_1``, …
        outputs: In the order of the local node's outputs.
        saves: Its output nodes (Save Image and the like). All but the last have a local node each,
            which shows what they show there.
    """

    name: str
    node_id: str
    prompt: Prompt
    nodes: tuple[str, ...]
    copies: tuple[str, ...]
    inputs: tuple[Crossing, ...]
    outputs: tuple[Crossing, ...]
    saves: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the input folder that it loads: they travel with it."""
        return tuple(dict.fromkeys(use.name for use in file_uses(self.prompt)))

    def to_json(self) -> dict[str, JsonValue]:
        """For people and programs that look at the cut; without the prompt."""
        return {
            "name": self.name,
            "node_id": self.node_id,
            "nodes": [*self.nodes],
            "copies": [*self.copies],
            "inputs": [crossing.to_json() for crossing in self.inputs],
            "outputs": [crossing.to_json() for crossing in self.outputs],
            "saves": [*self.saves],
            "files": [*self.files],
        }


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt in several places.

    Attributes:
        local: Runs here; without nodes that feed no output.
        targets: The nodes of ``local`` to run it for (``partial_execution_targets``).
        notes: Decisions that the marks do not say, in sentences for people.
        images: How pictures cross; see `media.values.encode`.
    """

    local: Prompt
    targets: tuple[str, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    images: ImageFormat = "exact"

    def with_files(self, hashes: Mapping[str, Mapping[str, str]]) -> Prompt:
        """The local prompt with the files' hashes, ``{part's node_id: {file name: SHA-256}}``.

        So a part runs again if a file has changed, and only then.
        """
        changed: Prompt = {}
        for part in self.parts:
            node = part_node(part, self.images, hashes.get(part.node_id))
            links = self.local[part.node_id]["inputs"]
            node["inputs"] = {**links, **node["inputs"]}
            changed[part.node_id] = node
        return {**self.local, **changed}

    def to_json(self) -> dict[str, JsonValue]:
        """``{"here": [node id], "parts": [...], "targets", "notes", "images"}``."""
        stands_for = {n for part in self.parts for n in (part.node_id, *part.saves)}
        return {
            "here": [node_id for node_id in self.local if node_id not in stands_for],
            "parts": [part.to_json() for part in self.parts],
            "targets": [*self.targets],
            "images": self.images,
            "notes": [*self.notes],
        }


def part_node(
    part: Part, images: ImageFormat = "exact", file_hashes: Mapping[str, str] | None = None
) -> Node:
    """The node that stands for a part in the local prompt, without its links.

    Its input ``part`` is JSON text: ``{"name", "prompt", "inputs": [{"key", "type"}],
    "outputs": [{"key", "type"}], "files": {name: SHA-256}, "images"}``. The same part gives the
    same text, so that ComfyUI finds it in its cache.
    """
    document: dict[str, object] = {
        "name": part.name,
        "prompt": part.prompt,
        "inputs": [{"key": one.key, "type": one.type} for one in part.inputs],
        "outputs": [{"key": one.key, "type": one.type} for one in part.outputs],
        "files": dict(sorted((file_hashes or {}).items())),
        "images": images,
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    title = f"Remote part ({part.name})" if part.name else "Remote part"
    return {"class_type": REMOTE_PART, "inputs": {"part": text}, "_meta": {"title": title}}


def shown_node(part: Part, node_id: str) -> Node:
    """The node that stands for an output node within a part, other than its last one."""
    shown: JsonValue = [part.node_id, MOST_PART_VALUES]
    # Two nodes with the same inputs would be one for ComfyUI's cache.
    return {"class_type": REMOTE_SHOWN, "inputs": {"node_id": node_id, "shown": shown}}


def listed(prompt: Prompt, nodes: Iterable[str]) -> str:
    """``3 (KSampler), 8 (VAE Decode)``; the first few of many."""
    shown = []
    for node_id in nodes:
        node = prompt[node_id]
        shown.append(f"{node_id} ({node.get('_meta', {}).get('title') or node['class_type']})")
    more = len(shown) - _MOST_SHOWN
    return ", ".join(shown[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def at(name: str) -> str:
    """``on NAME``; a target without a name is the one that the Remote switch has."""
    return f"on {name}" if name else "on the target"


def impossible(
    prompt: Prompt,
    message: str,
    advice: str,
    nodes: Iterable[str],
    reason: str,
    lacking: str | None = None,
) -> CutImpossible:
    """The error for nodes that cannot run as marked; the page shows ``reason`` at each node.

    Args:
        lacking: The target that does not have them, if that is why: ``lacking`` in ``details``.
    """
    node_errors: dict[str, JsonValue] = {
        node_id: {
            "class_type": prompt[node_id]["class_type"],
            # Of ComfyUI's own kinds, the one whose details pages show.
            "errors": [
                node_error("exception_during_validation", "It cannot run as marked", reason)
            ],
            "dependent_outputs": [],
        }
        for node_id in nodes
    }
    details: dict[str, JsonValue] = {"node_errors": node_errors}
    if lacking is not None:
        details["lacking"] = lacking
    return CutImpossible(message, advice=advice, details=details)
