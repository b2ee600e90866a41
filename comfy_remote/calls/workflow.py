"""A workflow that is ready to be called: read, with the types of its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import TargetError, WorkflowInvalid
from ..jobs.client import Client
from ..media.remote_values import value_file_name
from ..types import JsonValue
from ..workflow.change.prepare import Changes, prepare
from ..workflow.interface import Interface, ValueFileName
from ..workflow.load import LoadedWorkflow, load_workflow
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .values import Argument, ValueFile

__all__ = ["CallableWorkflow"]


@dataclass(frozen=True)
class CallableWorkflow:
    """A prompt with Remote Input and Remote Output nodes.

    Attributes:
        name: What it is called; for people, and in the record of jobs.
        prompt: API format.
        interface: Its keys.
        schemas: Those that the types of the keys are from.
        workflow: In UI format, to embed in saved images; ``None`` if there is none.
        base: Folder in which files that it loads are looked for; ``None`` for the current one.
        files: Files that it loads from elsewhere.
        only_base: Whether it may load no others: see `Client.submit`.
        notes: What a caller should know, a sentence each.
    """

    name: str
    prompt: Prompt
    interface: Interface
    schemas: Schemas
    workflow: Mapping[str, JsonValue] | None
    base: Path | None = None
    files: tuple[Path, ...] = ()
    only_base: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of_prompt(cls, prompt: Prompt, schemas: Schemas | None = None) -> CallableWorkflow:
        """A prompt to be called as it is.

        Args:
            schemas: For the types of the keys; those that come with the package by default.

        Raises:
            WorkflowInvalid: Its keys cannot be used.
        """
        schemas = schemas or Schemas.bundled()
        return cls("call", prompt, Interface.of(prompt, schemas), schemas, None)

    @classmethod
    async def load(
        cls,
        path: Path,
        client: Client,
        *,
        name: str | None = None,
        changes: Changes | None = None,
        files: tuple[Path, ...] = (),
    ) -> CallableWorkflow:
        """Read a workflow file, in API or UI format, with the schemas of the target.

        Where the target cannot be asked for them, those that come with the package are used, and
        `notes` says so.

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
    ) -> CallableWorkflow:
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
                f"{name} has no Remote Output, so a call would return nothing.",
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

    def with_arguments(self, arguments: Mapping[str, Argument]) -> Prompt:
        """The prompt to run for a call.

        Args:
            arguments: By key.

        Raises:
            WorkflowInvalid: A key is unknown, missing, or its value does not fit.
        """
        return self.interface.with_values(
            self.prompt,
            {
                key: ValueFileName(value_file_name(value.sha256))
                if isinstance(value, ValueFile)
                else value
                for key, value in arguments.items()
            },
        )


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "workflow"
