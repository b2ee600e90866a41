"""The node schemas that a command reads a workflow by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .console import say
from .interrupt import run_interruptible

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..workflow.prompt import Prompt
    from ..workflow.schema import Schemas

__all__ = ["schemas_from", "schemas_of"]


def schemas_of(on: str | None, prompt: Prompt | None = None) -> Schemas:
    """Those of the target; the bundled ones without a target, or if it cannot say.

    Args:
        on: What was given as ``--on``.
        prompt: Asks for the schemas of its nodes only, which is much quicker.

    Raises:
        ConfigurationError: The target means nothing, or its key is missing.
        TargetError: It cannot be reached or used.
    """
    from ..targets.config import open_target
    from ..workflow.schema import Schemas

    if on is None:
        return Schemas.bundled()
    target = open_target(on)
    classes = None if prompt is None else {node["class_type"] for node in prompt.values()}

    async def ask() -> Mapping[str, JsonValue] | None:
        async with target:
            return (await target.describe(classes)).nodes

    nodes = run_interruptible(ask())
    if nodes is None:
        say(f"{target.name} cannot be asked about its nodes; ComfyUI's own are known.")
        return Schemas.bundled()
    return Schemas(nodes, target.name)


def schemas_from(file: Path | None, on: str | None) -> Schemas:
    """Those of a file that was saved from ComfyUI, else as `schemas_of`.

    Raises:
        ConfigurationError: The file has none, or as `schemas_of`.
        TargetError: As `schemas_of`.
    """
    import json

    from ..errors import ConfigurationError, WorkflowInvalid
    from ..workflow.schema import Schemas

    if file is None:
        return schemas_of(on)
    try:
        return Schemas(json.loads(file.read_bytes()), str(file))
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{error}."
    except WorkflowInvalid as error:
        reason = error.message
    raise ConfigurationError(
        f"The node schemas in {file} cannot be read: {reason}",
        advice="Save them from a running ComfyUI: its address followed by /object_info.",
    )
