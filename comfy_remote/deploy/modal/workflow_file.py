"""From a workflow file to its project: read, converted, searched for what it needs, written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ...advice import Hint
from ...config.folders import home
from ...config.trust import TrustStore, not_trusted
from ...media.files import safe_relative_path, storage_errors
from ...ready.lock import read_lock
from ...ready.pins import named_pin
from ...workflow.change.prepare import Changes, prepare
from ...workflow.files import FileSearch, file_uses
from ...workflow.interface import REMOTE_OUTPUT
from ...workflow.load import LoadedWorkflow, load_workflow
from ...workflow.prompt import Prompt
from ...workflow.repo_list import without_repo_list
from ...workflow.schema import Schemas
from .config import CONFIG_FILE, ModalConfig
from .packing import Packing, pack
from .pinning import pinned
from .project import INPUT_FOLDER, Project, input_files, project_folder, write_project
from .usual import gpu_for

__all__ = ["make_project"]


def make_project(
    workflow: Path,
    given: Mapping[str, object],
    *,
    parent: Path | None = None,
    schemas: Callable[[LoadedWorkflow], Schemas] = lambda _loaded: Schemas.bundled(),
    force: bool = False,
    clean: bool = False,
    deploys: bool = False,
    by_owner: bool = True,
    choose_gpu: bool = False,
    lock_file: Path | None = None,
) -> Project:
    """Make the project of a workflow file, or bring it up to date. Blocking.

    Args:
        workflow: Whatever holds one: JSON in API or UI format, a picture that ComfyUI saved.
        given: Fields of `ModalConfig` that are set; custom nodes as `pinned` takes them.
        parent: Where the project's folder is made; beside the workflow by default.
        force: Whether files that a person has edited are replaced.
        clean: Whether what is in the project's files is forgotten.
        deploys: Whether it will be deployed: then its owner has to trust what the folder has
            brought along, and the workflow's node packs if there are Secrets.
        by_owner: Whether ``given`` is the owner's word, and not a node's in some workflow.
        choose_gpu: Whether a new project gets the GPU that the workflow needs, unless one is given.
        lock_file: Its lock: node packs, ComfyUI and models come from there as far as it names them.

    Raises:
        WorkflowInvalid: The file has no workflow, or it cannot be converted.
        ConfigurationError: A value cannot be used.
        LocalStorageError: The project cannot be written.
        NotTrusted: It was written, but may not be deployed: what it names is not trusted.
    """
    loaded: LoadedWorkflow = load_workflow(workflow)
    known = schemas(loaded)
    prepared = prepare(loaded, Changes(), known)
    nodes = given.get("custom_nodes")
    if isinstance(nodes, list):
        given = {**given, "custom_nodes": [pinned(str(line)) for line in nodes]}
    config = ModalConfig.checked(dict(given))
    lock = read_lock(lock_file) if lock_file is not None else None
    found = pack(prepared.prompt, prepared.workflow, known, volume=config.models_volume, lock=lock)
    prompt = without_repo_list(prepared.prompt)
    folder = project_folder(workflow, config.app_name, parent)
    chosen: list[str] = []
    if choose_gpu and "gpu_type" not in given and (clean or not (folder / CONFIG_FILE).exists()):
        gpu, why = gpu_for(prompt, known)
        given = {**given, "gpu_type": gpu}
        chosen = [f"GPU: {gpu or 'none'}, since {why}. {CONFIG_FILE} has it as gpu_type."]
    project = write_project(
        *(folder, prompt, found, given),
        force=force,
        clean=clean,
        by_owner=by_owner,
        agreed=_agreed(lock_file, found),
    )
    _check_trust(project, deploys=deploys)
    input_files(folder)  # before anything is copied through a link
    notes = _copy_inputs(prompt, known, workflow.absolute().parent, folder / INPUT_FOLDER)
    doubts = [doubt.sentence for doubt in prepared.doubts]
    return replace(project, notes=(*chosen, *project.notes, *doubts, *notes))


def _agreed(lock_file: Path | None, found: Packing) -> list[str]:
    """The lock's node packs that the owner has agreed to, for this or for a sync."""
    if lock_file is None:
        return []
    missing = TrustStore(home()).missing(lock_file, map(named_pin, found.locked))
    return [line for line in found.locked if named_pin(line) not in missing]


def _check_trust(project: Project, *, deploys: bool) -> None:
    """Check that what was brought along is trusted, and trust what is written now."""
    path, store = project.folder / CONFIG_FILE, TrustStore(home())
    missing = store.missing(path, project.brought)
    if not missing:
        if store.missing(path, project.named):
            store.trust(path, project.named)
    elif deploys:
        raise not_trusted(
            path, missing, "What would be deployed", store, Hint.TRUST_PROJECT(path=str(path))
        )


def _copy_inputs(prompt: Prompt, schemas: Schemas, base: Path, folder: Path) -> Iterator[str]:
    """The files that the workflow loads, where it has an API of its own whose calls need them.

    A stranger's workflow could name any file of this machine, to be fetched from the app later. So
    only files that `run` would send are copied, and a note names them.
    """
    if not any(node["class_type"] == REMOTE_OUTPUT for node in prompt.values()):
        return
    search = FileSearch.beside(base)
    copied = []
    for use in file_uses(prompt, schemas):
        here = search.find(use.name)
        copy = folder / safe_relative_path(use.name)
        if here is None and copy.is_file():
            continue  # a person has put it there
        if here is None:
            why = search.refusal(use.name) or "which is not beside it"
            yield (
                f"The workflow loads {use.name}, {why}: put it into {folder}, or "
                "give its node a Remote Input."
            )
            continue
        with storage_errors(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here, copy)
        copied.append(str(here))
    if copied:
        yield f"Files that the workflow loads are deployed with it: {', '.join(copied)}."
