"""Problems of the graph: missing classes, links that lead nowhere, cycles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...advice import Hint
from ..change.values import did_you_mean
from ..graph import cycles, links
from ..output_nodes import ADD_AN_OUTPUT, NO_OUTPUT
from ..packs import CORE, NodePack, pack_for_people
from ..prompt import Prompt
from ..schema import Schemas
from .report import Problem
from .rules import REPLACED_CLASSES

__all__ = ["broken_links", "dependency_cycles", "is_replaced", "missing_classes", "no_output"]

_RECONNECT = "Connect it again in ComfyUI and save the workflow again."


def is_replaced(class_type: str, schemas: Schemas) -> bool:
    """Whether ComfyUI puts another class of its own in its place."""
    return class_type not in schemas and REPLACED_CLASSES.get(class_type, "\0") in schemas


def missing_classes(
    prompt: Prompt, schemas: Schemas, packs: Sequence[NodePack]
) -> Iterator[Problem]:
    """Nodes whose class is not there, once a class; the pack it comes from, where known.

    The bundled snapshot has no custom nodes: a class it lacks is a warning.
    """
    by_class = {class_type: pack for pack in packs for class_type in pack.classes}
    missing: dict[str, list[str]] = {}
    for node_id, node in prompt.items():
        if node["class_type"] not in schemas and not is_replaced(node["class_type"], schemas):
            missing.setdefault(node["class_type"], []).append(node_id)
    for class_type, ids in missing.items():
        pack = by_class.get(class_type)
        others = f" (also node {', '.join(ids[1:])})" if len(ids) > 1 else ""
        # Only a slip of the hand: a class that is missing is mostly that of another pack.
        guess = not schemas.is_snapshot and not (pack and pack.name)
        near = did_you_mean(class_type, schemas, near_from=0.8) if guess else ""
        yield Problem(
            "missing_node_type",
            f"{_where(schemas)} has no node class {class_type}{others}.{near}",
            ids[0],
            class_type,
            severity="warning" if schemas.is_snapshot else "error",
            advice=_how_to_get(pack, schemas),
            details={
                "nodes": [*ids],
                "pack": pack.name if pack else None,
                "version": pack.version if pack else None,
            },
        )


def no_output(schemas: Schemas, *, unsure: bool) -> Problem:
    """The prompt has no node that an engine would start from."""
    where = _where(schemas)
    unknown = f" unless one of the nodes that {where} lacks is one" if unsure else ""
    return Problem(
        "prompt_no_outputs",
        f"{NO_OUTPUT}{unknown}: ComfyUI refuses to run it.",
        severity="warning" if unsure else "error",
        advice=ADD_AN_OUTPUT,
    )


def broken_links(prompt: Prompt, schemas: Schemas, live: Sequence[str]) -> Iterator[Problem]:
    """Links to a node, or to an output of a node, that is not there."""
    for node_id in live:
        node = prompt[node_id]
        for name, source, index in links(node):
            if source not in prompt:
                yield Problem(
                    "dangling_link",
                    f"It is linked to node {source}, which is not there.",
                    node_id,
                    node["class_type"],
                    name,
                    _RECONNECT,
                )
                continue
            schema = schemas.get(prompt[source]["class_type"])
            if schema is None or _is_output(index, len(schema.outputs)):
                continue
            has = ", ".join(schema.outputs) or "none"
            yield Problem(
                "no_such_output",
                f"It is linked to output {index} of node {source} ({schema.name}), whose outputs "
                f"are: {has}. They are counted from 0.",
                node_id,
                node["class_type"],
                name,
                _RECONNECT,
            )


def dependency_cycles(prompt: Prompt, live: Sequence[str]) -> Iterator[Problem]:
    """Nodes that need themselves."""
    for cycle in cycles(prompt, live):
        shown = " needs ".join(f"{n} ({prompt[n]['class_type']})" for n in [*cycle, cycle[0]][:12])
        yield Problem(
            "dependency_cycle",
            f"The links form a cycle: {shown}.",
            cycle[0],
            prompt[cycle[0]]["class_type"],
            advice="Cut one of these links in ComfyUI.",
            details={"nodes": [*cycle]},
        )


def _is_output(index: object, count: int) -> bool:
    # A negative index counts from the end, in ComfyUI too.
    return isinstance(index, int) and -count <= index < count


def _where(schemas: Schemas) -> str:
    return "The bundled snapshot" if schemas.is_snapshot else schemas.source


def _how_to_get(pack: NodePack | None, schemas: Schemas) -> str:
    if schemas.is_snapshot:
        named = pack is not None and pack.name and pack.name != CORE
        return Hint.ASK_A_TARGET(pack=f"It comes from {pack.name}." if pack and named else "")
    if pack is None or pack.name is None:
        return "Install its node pack there; ComfyUI-Manager finds it by the class."
    if pack.name == CORE:
        return (
            "It is one of ComfyUI's own: update ComfyUI there, or take another target (the sandbox "
            "has only a few)."
        )
    version = f" (the workflow was saved with {pack.version})" if pack.version else ""
    return f"Install {pack_for_people(pack.name)} there{version}."
