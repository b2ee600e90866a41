"""From a workflow file to its project: read, converted, looked through, written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...workflow.load import LoadedWorkflow, load_workflow
from ...workflow.prepare import Changes, prepare
from ...workflow.schema import Schemas
from .config import ModalConfig
from .packing import pack
from .project import Project, project_folder, write_project

__all__ = ["make_project"]


def make_project(
    workflow: Path,
    given: Mapping[str, object],
    *,
    parent: Path | None = None,
    schemas: Callable[[], Schemas] = Schemas.bundled,
    force: bool = False,
    clean: bool = False,
) -> Project:
    """Make the project of a workflow file, or bring it up to date. Blocking.

    Args:
        workflow: Whatever holds one: JSON in API or UI format, a picture that ComfyUI saved.
        given: Fields of `ModalConfig` that a person has set.
        parent: Where the project's folder is made; beside the workflow by default.
        schemas: Asked for where the workflow is in UI format, or names packs.
        force: Whether files that a person has edited are replaced.
        clean: Whether what is in the project's files is forgotten.

    Raises:
        WorkflowInvalid: The file has no workflow, or it cannot be converted.
        ConfigurationError: A value cannot be used.
        LocalStorageError: The project cannot be written.
    """
    loaded: LoadedWorkflow = load_workflow(workflow)
    known = schemas()
    prepared = prepare(loaded, Changes(), known)
    config = ModalConfig.checked(dict(given))
    found = pack(prepared.prompt, prepared.workflow, known, volume=config.models_volume)
    folder = project_folder(workflow, config.app_name, parent)
    return write_project(folder, prepared.prompt, found, given, force=force, clean=clean)
