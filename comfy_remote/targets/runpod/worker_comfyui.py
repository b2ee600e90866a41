"""Facts about workers that return saved pictures only, with a file's name and nothing else.

The public worker-comfyui is one: of what a node lists in ComfyUI's history it returns the files
under ``images`` that are not temporary (see its ``handler.py`` and its README, 5.0 to 5.8). From
the prompt alone follows, for many nodes, whether that is all they make, and which node a returned
file came from.
What each class makes is in `workflow.output_nodes`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...errors import OutputLost
from ...media.files import subfolder_of
from ...outputs import RemoteOutput
from ...workflow.graph import output_nodes
from ...workflow.output_nodes import OUTPUT_NODES, OutputNode
from ...workflow.prompt import Node, Prompt

__all__ = [
    "NotReturned",
    "nodes_of_files",
    "not_returned",
    "not_returned_before",
    "not_returned_sentence",
    "not_stopped",
    "nothing_returned",
]

_WHAT_IT_RETURNS = "The public worker-comfyui returns only saved files that a node lists as images"
_USE_OURS = (
    "Run it on an endpoint with Comfy Remote's own worker (docs/worker.md), on a pod or on another "
    "ComfyUI: these return outputs of every kind."
)

# Inputs that say what a node's files are called: `filename_prefix` in core and most packs.
_NAMING = re.compile("prefix|file_?name", re.IGNORECASE)
_TOKEN = re.compile(r"%[^%]*%")


@dataclass(frozen=True, slots=True)
class NotReturned:
    """A node whose outputs do not come back.

    Attributes:
        what: What it makes, for people; ``None`` for a class we do not know: it may come back.
    """

    node_id: str
    node_class: str
    what: str | None

    def __str__(self) -> str:
        """``5 (SaveAudio: sound)``."""
        what = "" if self.what is None else f": {self.what}"
        return f"{self.node_id} ({self.node_class}{what})"


def not_returned(prompt: Prompt) -> list[NotReturned]:
    """The nodes whose outputs such a worker cannot return, or may not, in the prompt's order."""
    ends = set(output_nodes(prompt))
    return [
        NotReturned(node_id, node["class_type"], _known(node).other or None)
        for node_id, node in prompt.items()
        if _known(node).other or (node_id in ends and not _known(node).endings)
    ]


def not_returned_sentence(prompt: Prompt, outputs: Sequence[RemoteOutput] | None = None) -> str:
    """Which nodes' outputs the public worker-comfyui does not return; ``""`` if it returns all.

    Args:
        outputs: What it returned, once it has.
    """
    here = {output.node_id for output in outputs or ()}
    nodes = [node for node in not_returned(prompt) if node.node_id not in here]
    never = [str(node) for node in nodes if node.what is not None]
    perhaps = [str(node) for node in nodes if node.what is None]
    did_not, may_not = "does not return", "may not return"
    if outputs is not None:
        did_not, may_not = "did not return", "may not have returned"
    parts = [f"it {did_not} the outputs of {_nodes(never)}"] if never else []
    if perhaps:
        outputs_of = "those of" if never else "the outputs of"
        parts.append(f"it {may_not} {outputs_of} {_nodes(perhaps)}")
    return f"{_WHAT_IT_RETURNS}: {', and '.join(parts)}." if parts else ""


def not_returned_before(prompt: Prompt, *, known: bool) -> str:
    """`not_returned_sentence` before the prompt is sent, with what to do.

    Args:
        known: Whether the endpoint is known to run that worker. Where it is not, nothing is said
            of previews alone.
    """
    sentence = not_returned_sentence(prompt)
    if not sentence or known:
        return f"{sentence} {_USE_OURS}" if sentence else ""
    if all(node.what in ("previews", None) for node in not_returned(prompt)):
        return ""
    return (
        "Which worker the endpoint runs is not known yet. "
        f"{sentence} Comfy Remote's own worker returns outputs of every kind."
    )


def not_stopped(*, known: bool) -> str:
    """Why a job that was cancelled may run on: that worker's handler is not asynchronous.

    Args:
        known: Whether the endpoint's worker is known not to be Comfy Remote's.
    """
    who = (
        "The endpoint's worker is not Comfy Remote's, and may not stop"
        if known
        else "Whether the worker stops is not known"
    )
    return (
        f"{who}: the public worker-comfyui runs a job that was cancelled to its end, and the next "
        "job waits until then."
    )


def nothing_returned(prompt: Prompt) -> OutputLost:
    """The error of a workflow that ran, and of which it returned nothing."""
    missing = not_returned_sentence(prompt, ())
    if not missing:
        return OutputLost(
            "The workflow ran, and the worker returned no file.",
            advice=f"{_WHAT_IT_RETURNS}: add a Save Image node, or look at the worker's log.",
        )
    return OutputLost(
        f"The workflow ran, but nothing of what it made came back. {missing}", advice=_USE_OURS
    )


def _nodes(nodes: Sequence[str]) -> str:
    return f"node{'s' * (len(nodes) != 1)} {', '.join(nodes)}"


def nodes_of_files(prompt: Prompt, filenames: Sequence[str]) -> list[str | None]:
    """The node that saved each file, as far as its name tells; else ``None``.

    A file is a node's if its name is what only that node's file name prefix leads to. The order
    of the files says nothing more: ComfyUI runs independent output nodes in any order.

    Args:
        filenames: Without folders, or with the subfolder before (``films/x_00001_.webm``).
    """
    named, unnamed = _savers(prompt)
    return [_node_of(filename, named, unnamed) for filename in filenames]


def _savers(prompt: Prompt) -> tuple[dict[str, list[_Naming]], list[str]]:
    """The nodes that may save pictures: those with inputs that name the files, and the others."""
    ends = set(output_nodes(prompt))
    named: dict[str, list[_Naming]] = {}
    unnamed: list[str] = []
    for node_id, node in prompt.items():
        if _known(node).other:
            continue
        if names := _namings(node):
            if node_id in ends or _known(node).endings or "filename_prefix" in names:
                named[node_id] = list(names.values())
        elif node_id in ends:
            unnamed.append(node_id)
    return named, unnamed


def _known(node: Node) -> OutputNode:
    return OUTPUT_NODES.get(node["class_type"], OutputNode())


@dataclass(frozen=True, slots=True)
class _Naming:
    """How a node names its files: a folder and a name, tokens in both as patterns.

    A prefix that is linked may be anything.
    """

    folder: str = ".*"
    name: str = ".*"
    ending: str = "[^.]+"

    def fits(self, subfolder: str, filename: str) -> bool:
        """Whether ComfyUI would have given this name, with its counter after the prefix."""
        if subfolder and not re.fullmatch(self.folder, subfolder, re.IGNORECASE | re.DOTALL):
            return False
        numbered = rf"{self.name}_\d+_?\.({self.ending})"
        return re.fullmatch(numbered, filename, re.IGNORECASE | re.DOTALL) is not None


def _namings(node: Node) -> dict[str, _Naming]:
    found: dict[str, _Naming] = {}
    ending = _known(node).endings or "[^.]+"
    for key, value in node["inputs"].items():
        if _NAMING.search(key) is None:
            continue
        if isinstance(value, str):
            folder, _, name = value.replace("\\", "/").rpartition("/")
            found[key] = _Naming(_pattern(folder), _pattern(name), ending)
        elif isinstance(value, list):
            found[key] = _Naming(ending=ending)
    return found


def _pattern(words: str) -> str:
    """Of text with ``%tokens%``, which ComfyUI replaces with a date, a size or a number."""
    return ".*".join(re.escape(part) for part in _TOKEN.split(words))


def _node_of(
    filename: str, named: Mapping[str, Collection[_Naming]], unnamed: Sequence[str]
) -> str | None:
    path = PurePosixPath(filename.replace("\\", "/"))
    subfolder = subfolder_of(path)
    fitting = [
        node_id
        for node_id, namings in named.items()
        if any(naming.fits(subfolder, path.name) for naming in namings)
    ]
    if len(fitting) == 1:
        [only] = fitting
        return only
    if not fitting and len(named) + len(unnamed) == 1:
        # Its own way of naming files, and nobody else can have made them.
        return next(iter([*named, *unnamed]))
    return None
