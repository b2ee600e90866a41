"""What goes into a packed workflow: the workflow, its lock, and its small files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WorkflowInvalid
from ..jobs.forecast import prepared_for_check
from ..media.files import storage_errors
from ..secrets import redact
from ..types import JsonValue
from ..units import size_text
from ..workflow.change.prepare import Changes
from ..workflow.files import FileSearch, every_file_use
from ..workflow.load import LoadedWorkflow
from ..workflow.packed import LARGEST_INPUTS, MOST_INPUTS, can_be_packed, write_packed
from ..workflow.schema import Schemas
from .lock import Lock

__all__ = ["Packing", "inputs_to_pack", "pack_workflow"]


@dataclass(frozen=True, slots=True)
class Packing:
    """The input files that are packed.

    Attributes:
        files: By the names that the workflow calls them.
        left_out: Why others are not, a sentence each.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def inputs_to_pack(
    loaded: LoadedWorkflow, workflow: Path, given: Sequence[Path] = (), *, largest: int
) -> Packing:
    """The files that a workflow loads, as far as they are here and small enough. Blocking.

    Args:
        workflow: Its file: files are looked for beside it, and in the current folder.
        given: Files that the user names for it.
        largest: Bytes of one file.
    """
    search = FileSearch.beside(workflow.absolute().parent, given)
    schemas = Schemas.bundled()
    prompt = prepared_for_check(loaded, Changes(), schemas).prompt
    files: dict[str, Path] = {}
    left_out: list[str] = []
    total = 0
    for name in dict.fromkeys(use.name for use in every_file_use(prompt, schemas)):
        path = search.find(name)
        if path is None:
            left_out.append(f"The input file {name} is not packed: it was not found here.")
            continue
        with storage_errors(path):
            size = path.stat().st_size
        relative = name.replace("\\", "/")
        same = any(one.casefold() == relative.casefold() for one in files)
        if same or not can_be_packed(relative) or len(files) == MOST_INPUTS:
            left_out.append(
                f"The input file {name!r} is not packed: not every system has such a name, or "
                "there are too many."
            )
            continue
        if size > largest or total + size > LARGEST_INPUTS:
            left_out.append(f"The input file {name} is not packed: it has {size_text(size)}.")
            continue
        total += size
        files[relative] = path
    return Packing(files, tuple(left_out))


def pack_workflow(path: Path, loaded: LoadedWorkflow, lock: Lock, packing: Packing) -> int:
    """Write the file; returns its size. Blocking.

    Raises:
        WorkflowInvalid: The workflow has a secret of this machine in it.
        LocalStorageError: It cannot be written.
    """
    text = json.dumps(_document(loaded), ensure_ascii=False, indent=1)
    locked = lock.to_toml()
    if redact(text) != text or redact(locked) != locked:
        raise WorkflowInvalid(
            f"{loaded.source} is not packed: a secret of yours is in it.",
            advice="Take the key or token out of the workflow, and save it again.",
        )
    return write_packed(path, text.encode(), locked, packing.files)


def _document(loaded: LoadedWorkflow) -> JsonValue:
    """What ComfyUI's page and `parse_workflow` read; both formats where there are both."""
    if loaded.prompt is None:
        return loaded.workflow
    prompt: JsonValue = json.loads(json.dumps(loaded.prompt))
    if loaded.workflow is None:
        return prompt
    return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": loaded.workflow}}}
