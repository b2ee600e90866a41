"""The node schemas for a workflow: those that are given, else the target's, else what is known.

In this order:

1. a file or a ComfyUI that the user names;
2. what the target says now;
3. what it said the last time;
4. the snapshot in the package, with ComfyUI's own nodes.

For 3 and 4 the Comfy Registry is asked for the classes that are still missing, and only where the
workflow cannot be converted without them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.folders import home
from ..errors import ConfigurationError, WorkflowInvalid
from ..workflow.convert.unknown_classes import needs_schemas_of
from ..workflow.schema import Schemas
from .memory import Memory
from .registry import Registry

if TYPE_CHECKING:
    from ..targets.base import Target
    from ..workflow.load import LoadedWorkflow

__all__ = [
    "Found",
    "from_registry",
    "given_schemas",
    "known_without",
    "remembered_schemas",
    "target_schemas",
]


@dataclass(frozen=True, slots=True)
class Found:
    """Schemas, and where they come from.

    Attributes:
        notes: Sentences for people; empty if they are the target's own.
        final: Whether they are the target's own: then no other source is asked.
    """

    schemas: Schemas
    notes: tuple[str, ...] = ()
    final: bool = False


async def given_schemas(source: Path | str) -> Schemas:
    """The schemas of a file that was saved from ComfyUI's ``/object_info``, or of a ComfyUI.

    Args:
        source: The file's path, or an address (``http://127.0.0.1:8188``).

    Raises:
        ConfigurationError: There are none in it.
        TargetError: The ComfyUI cannot be reached.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        from ..targets.opening import open_target

        async with open_target(source) as target:
            nodes = (await target.describe()).nodes
        if nodes is None:
            raise ConfigurationError(f"{source} does not say which nodes it has.")
        return Schemas(nodes, source)
    try:
        text = await asyncio.to_thread(Path(source).read_bytes)
        schemas = Schemas(document := json.loads(text), str(source))
        if any("input" in node for node in document.values()):
            return schemas
        reason = "no node in it has inputs, as in what GET /object_info gives."
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{error}."
    except WorkflowInvalid as error:
        reason = error.message
    raise ConfigurationError(
        f"The node schemas in {source} cannot be read: {reason}",
        advice="Name a running ComfyUI (http://127.0.0.1:8188), or a file saved from its address "
        "followed by /object_info.",
    )


async def target_schemas(
    target: Target,
    address: str,
    classes: Collection[str] | None = None,
    *,
    folder: Path | None = None,
) -> Found:
    """What a target says about its nodes, else what it said the last time.

    Args:
        target: Open.
        address: What its name means: see `Memory`.
        classes: As for `Target.describe`.
        folder: The user's data folder by default.

    Raises:
        TargetError: It cannot be reached.
    """
    nodes = (await target.describe(classes)).nodes
    if nodes is None:
        why = f"{target.name} cannot be asked about its nodes"
        return await asyncio.to_thread(known_without, address, target.name, why, folder)
    if classes is None:
        await asyncio.to_thread(Memory(folder or home()).keep, address, nodes)
    return Found(Schemas(nodes, target.name), final=True)


def remembered_schemas(
    address: str, name: str, why: str, folder: Path | None = None
) -> Found | None:
    """What a target that cannot be asked said the last time; ``None`` if nothing is known of it.

    Args:
        address, folder: As for `target_schemas`.
        why: That it cannot be asked: a sentence without its full stop.
    """
    remembered = Memory(folder or home()).recall(address)
    if remembered is None:
        return None
    day = f"{remembered.at.astimezone():%Y-%m-%d %H:%M}"
    schemas = Schemas(remembered.document, f"{name}, as of {day}")
    return Found(schemas, (f"{why}; its schemas of {day} are used.",))


def known_without(address: str, name: str, why: str, folder: Path | None = None) -> Found:
    """`remembered_schemas`, else the bundled ones."""
    remembered = remembered_schemas(address, name, why, folder)
    if remembered is not None:
        return remembered
    return Found(Schemas.bundled(), (f"{why}; only ComfyUI's own nodes are known.",))


async def from_registry(
    found: Found, loaded: LoadedWorkflow, *, folder: Path | None = None
) -> Found:
    """The same schemas, completed with what the Comfy Registry knows of the classes needed.

    Args:
        found: Of a target that cannot be asked: with a note, or the snapshot.
        folder: As for `target_schemas`.
    """
    if found.final or loaded.workflow is None or loaded.prompt is not None:
        return found
    registry = Registry.of(folder or home())
    wanted = needs_schemas_of(loaded.workflow, found.schemas)
    if not wanted or registry is None:
        return found
    answer = await registry.classes(wanted)
    notes = list(found.notes)
    host = registry.address.partition("://")[2]
    if answer.classes:
        cached = "" if answer.asked else ", cached"
        classes = ", ".join(sorted(answer.classes))
        notes.append(f"From the Comfy Registry ({host}{cached}): the schemas of {classes}.")
    if answer.problem:
        notes.append(f"The Comfy Registry ({host}) could not be used: {answer.problem}.")
    source = f"{found.schemas.source} and the Comfy Registry"
    schemas = found.schemas.with_classes(answer.classes, source) if answer.classes else None
    return replace(found, schemas=schemas or found.schemas, notes=tuple(notes))
