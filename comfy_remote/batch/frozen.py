"""What a batch was when it was made: kept on the disk, so that nothing changes it later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..config.cache_settings import CacheMode
from ..config.folders import home
from ..errors import InputFileMissing, LocalStorageError
from ..media.files import sha256_of, storage_errors, write_whole
from ..targets.base import input_errors
from ..workflow.change.prepare import Changes
from ..workflow.load import LoadedWorkflow, filled_workflow
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

__all__ = [
    "Frozen",
    "FrozenFile",
    "batch_folder",
    "described_file",
    "frozen_changes",
    "schemas_of",
]

_FILE = "frozen.json"


def batch_folder(record_folder: Path | None, batch_id: str) -> Path:
    """Where a batch is kept: ``batches/ID`` beside the record.

    Args:
        record_folder: Of the record; the user's own by default.
    """
    return (record_folder or home()) / "batches" / batch_id


class FrozenFile(BaseModel):
    """A file that runs of the batch load, as it was.

    Attributes:
        modified: Nanoseconds since the epoch: with the same size and time, it is the same file.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    size: int
    modified: int
    sha256: str

    def checked(self) -> tuple[int, str]:
        """Its size and SHA-256, if it is still the same. Blocking.

        Raises:
            InputFileMissing: It has changed since, or is gone.
        """
        with input_errors(self.path):
            now = self.path.stat()
        if (now.st_size, now.st_mtime_ns) == (self.size, self.modified):
            return self.size, self.sha256
        if now.st_size == self.size and described_file(self.path).sha256 == self.sha256:
            return self.size, self.sha256
        raise InputFileMissing(
            f"{self.path} has changed since the batch was made.",
            advice="Put it back as it was and retry the failed runs, or make a new batch.",
            details={"path": str(self.path)},
        )


def described_file(path: Path) -> FrozenFile:
    """A file as it is now. Blocking.

    Raises:
        InputFileMissing: It cannot be read.
    """
    with input_errors(path):
        path = path.absolute()
        now = path.stat()
        return FrozenFile(
            path=path, size=now.st_size, modified=now.st_mtime_ns, sha256=sha256_of(path)
        )


class Frozen(BaseModel):
    """All that a batch is, but for what varies (see `plan`).

    Attributes:
        source: The workflow's file, or a word for it.
        target: Its name or address, as the user gave it.
        config: The ``comfy-remote.toml`` that the user named; ``None`` for the usual ones.
        server: What the target's name meant then: see `targets.base.server_of`.
        folder: The current folder when it was made: names of targets mean what they mean there.
        text: The workflow's file, if it has variables (``${PROMPT}``) that are filled in for each
            run; else the prompt is.
        prompt: In API format, converted and changed.
        workflow: In UI format, to embed in saved images.
        changes: What is changed in all runs.
        schemas: Of the prompt's classes, as ComfyUI's ``/object_info`` gives them.
        files: What the runs load.
        at_most: How many at a time; ``None`` for as many as the target has workers for.
        stop_after: Pause after so many failed runs; ``None`` for never.
        pattern: How outputs are named, all in one folder; ``None`` for a folder for each run.
        timeout: Seconds for each run; ``None`` for no limit.
        start, until: Seconds since the epoch; see `Hours`.
        embed: Whether the sheet has all thumbnails inside.
        cache: As for `Client.submit`; a batch of an earlier version used none.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    source: str
    target: str | None
    config: Path | None = None
    server: dict[str, str] = {}
    folder: Path
    text: str | None = None
    prompt: dict[str, JsonValue]
    workflow: dict[str, JsonValue] | None = None
    changes: dict[str, JsonValue] = {}
    schemas: dict[str, JsonValue] = {}
    files: list[FrozenFile] = []
    repo_list: str | None = None
    retry_lost: bool = True
    at_most: Annotated[int, Field(ge=1)] | None = None
    stop_after: Annotated[int, Field(ge=1)] | None = None
    pattern: str | None = None
    timeout: float | None = None
    start: float | None = None
    until: float | None = None
    embed: bool = False
    cache: CacheMode = "off"

    def base(self) -> Changes:
        """What is changed in all runs."""
        return Changes(**self.changes)  # type: ignore[arg-type]

    def loaded(self, changes: Changes) -> LoadedWorkflow:
        """The workflow, for a run with these changes.

        Raises:
            WorkflowInvalid: A variable of its file has no value.
        """
        if self.text is None:
            prompt = cast("Prompt", self.prompt)
            return LoadedWorkflow(self.source, "workflow in API format", prompt, self.workflow)
        return filled_workflow(self.text, changes.variables(), self.source)

    def known_schemas(self) -> Schemas:
        """The schemas that its values were checked by."""
        return Schemas(self.schemas, "the batch")

    def save(self, folder: Path) -> None:
        """Write it into the batch's folder. Blocking.

        Raises:
            LocalStorageError: It cannot be written.
        """
        write_whole(folder / _FILE, self.model_dump_json().encode(), durable=True)

    @classmethod
    def load(cls, folder: Path) -> Frozen:
        """Read it. Blocking.

        Raises:
            LocalStorageError: It is gone, or damaged.
        """
        path = folder / _FILE
        with storage_errors(path):
            content = path.read_bytes()
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise LocalStorageError(
                f"{path} is damaged, so this batch cannot go on.",
                advice="What it has made is still in its folder. Make a new batch for the rest.",
                details={"path": str(path)},
            ) from error


def frozen_changes(changes: Changes) -> dict[str, JsonValue]:
    """Changes as JSON."""
    said = {
        **asdict(changes),
        "settings": dict(changes.settings)
        if isinstance(changes.settings, Mapping)
        else list(changes.settings),
        "prompt_nodes": list(changes.prompt_nodes),
        "given": dict(changes.given),
    }
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


def schemas_of(classes: Iterable[str], schemas: Schemas) -> dict[str, JsonValue]:
    """The documents of some classes, as far as they are known."""
    known = {name: schemas.document(name) for name in sorted(set(classes))}
    return {name: dict(document) for name, document in known.items() if document is not None}
