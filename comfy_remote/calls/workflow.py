"""The workflow that a service runs, ready to be called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TargetError, WorkflowInvalid
from ..jobs.client import Client
from ..workflow.change.prepare import Changes, prepare
from ..workflow.interface import Interface
from ..workflow.load import LoadedWorkflow, load_workflow
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["ServedWorkflow"]


@dataclass(frozen=True)
class ServedWorkflow:
    """A prompt with Remote Input and Remote Output nodes.

    Attributes:
        name: What it is called; for people, and in the record of jobs.
        prompt: API format.
        interface: Its keys.
        schemas: Tell the types.
        workflow: In UI format, to embed in saved images; ``None`` if there is none.
        base: Folder in which files that it loads are looked for.
        files: Files that it loads from elsewhere.
    """

    name: str
    prompt: Prompt
    interface: Interface
    schemas: Schemas
    workflow: Mapping[str, JsonValue] | None
    base: Path
    files: tuple[Path, ...] = ()
    notes: list[str] = field(default_factory=list)

    @classmethod
    async def load(
        cls,
        path: Path,
        client: Client,
        *,
        name: str | None = None,
        changes: Changes | None = None,
        files: tuple[Path, ...] = (),
    ) -> ServedWorkflow:
        """Read a workflow file, in API or UI format, with the schemas of the target.

        Where the target cannot be asked for them, those that come with the package tell the
        types, and `notes` says so.

        Args:
            client: Of the target.
            name: The file's, without its ending, by default.
            changes: To be made to it, once for all calls.
            files: As ``inputs`` of `Client.submit`: for its Load nodes.

        Raises:
            WorkflowInvalid: It cannot be read, or has no Remote Output.
        """
        served = await cls.of(
            load_workflow(path),
            client,
            name=name or _name(path),
            base=path.absolute().parent,
            changes=changes,
        )
        return replace(served, files=files)

    @classmethod
    async def of(
        cls,
        loaded: LoadedWorkflow,
        client: Client,
        *,
        name: str,
        base: Path,
        changes: Changes | None = None,
    ) -> ServedWorkflow:
        """As `load`, from a workflow that has been read."""
        notes: list[str] = []
        try:
            found = await client.schemas_for(loaded)
            schemas, notes = found.schemas, [*found.notes]
        except TargetError as error:
            schemas = Schemas.bundled()
            notes.append(f"The types of its keys are those of ComfyUI's own nodes: {error}")
        prepared = prepare(loaded, changes or Changes(), schemas, fill_names=False)
        notes += [doubt.sentence for doubt in prepared.doubts]
        interface = Interface.of(prepared.prompt, schemas)
        if not interface.outputs:
            raise WorkflowInvalid(
                f"{name} has no Remote Output, so a call would give nothing back.",
                advice="Connect a Remote Output node (utils/remote) to each result.",
            )
        return cls(
            name=name,
            prompt=prepared.prompt,
            interface=interface,
            schemas=schemas,
            workflow=prepared.workflow,
            base=base,
            notes=notes,
        )


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "workflow"
