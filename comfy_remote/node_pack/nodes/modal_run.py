"""A deployment on Modal, for a node: written, deployed, shown, and stopped if need be."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config.folders import CONFIG_NAME, owner_folders
from ...config.settings import Configuration
from ...deploy.modal.config import ModalConfig, package_list
from ...deploy.modal.deployment import deploy
from ...deploy.modal.project import Project
from ...deploy.modal.workflow_file import make_project
from ...errors import ConfigurationError, NotTrusted, WorkflowInvalid
from ...media.files import leads_out
from ...workflow.files import names_another_machine
from ...workflow.schema import Schemas
from .watched import Watcher, watched
from .workflow_choice import file_in

__all__ = ["Deployed", "DeploymentSettings", "run_deployment", "workflow_at"]

_LONGEST_LINE = 120


@dataclass(frozen=True, slots=True)
class DeploymentSettings:
    """The node's inputs; empty ones are left to the project's modal_config.json."""

    app_name: str = ""
    working_directory: str = ""
    extra_pip_requirements: str = ""
    extra_system_packages: str = ""
    gpu_type: str = ""
    deploy: bool = True
    clean_build: bool = False
    rebuild_modal_app: bool = False
    delete_modal_app: bool = False

    def given(self) -> dict[str, object]:
        """As fields of `ModalConfig`."""
        values: dict[str, object] = {
            "app_name": self.app_name.strip(),
            "extra_pip_packages": package_list(self.extra_pip_requirements),
            "extra_system_packages": package_list(self.extra_system_packages),
            "gpu_type": self.gpu_type.strip(),
            "build_nonce": uuid.uuid4().hex if self.rebuild_modal_app else "",
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Deployed:
    """What came of it."""

    url: str
    text: str


async def run_deployment(
    workflow: Path,
    settings: DeploymentSettings,
    watcher: Watcher,
    schemas: Callable[[], Schemas],
    open_folders: Sequence[Path] = (),
    own_folders: Sequence[Path] = (),
) -> Deployed:
    """Write the project, and deploy it if that is wanted.

    Args:
        open_folders: Where whoever reaches ComfyUI may write. A workflow.py below them is run
            only if it is ours: else a request to ComfyUI would be enough to run code here.
        own_folders: ComfyUI's own. Elsewhere, the project is written only to the owner's
            ``allowed_folders``.

    Raises:
        NotTrusted: The project's folder lies in none of these.
    """
    parent = settings.working_directory.strip()
    if names_another_machine(parent):
        raise ConfigurationError(
            f"The project cannot be written to {parent}: that is on another machine.",
            advice="Choose a folder of this machine as working_directory.",
        )
    if parent:
        name = ModalConfig.checked(settings.given()).app_name
        _check_place(Path(parent).expanduser().absolute() / name, "working_directory", own_folders)
    await watcher.progress(0.05, 1.0)
    watcher.say("Writing the project")
    project = await asyncio.to_thread(
        make_project,
        workflow,
        settings.given(),
        parent=Path(parent) if parent else None,
        schemas=lambda _loaded: schemas(),
        clean=settings.clean_build,
        deploys=settings.deploy,
        by_owner=False,
    )
    for note in project.notes:
        watcher.log(note, "warning")
    await watcher.progress(0.25, 1.0)
    if not settings.deploy:
        return _done(watcher, "", project, f"Not deployed. The project is in {project.folder}.")
    only_ours = any(_is_below(project.folder, folder) for folder in open_folders)
    url = await _deployed(project, settings, watcher, only_ours=only_ours)
    await watcher.progress(1.0, 1.0)
    name = project.config.app_name
    return _done(watcher, url, project, f"Deployed at {url}; its target is modal:{name}.")


async def _deployed(
    project: Project, settings: DeploymentSettings, watcher: Watcher, *, only_ours: bool
) -> str:
    lines: list[str] = []
    logged = 0

    def newest() -> str:
        nonlocal logged
        for line in lines[logged:]:
            watcher.log(line, "info")
        logged = len(lines)
        line = next((line for line in reversed(lines) if line.strip()), "")
        return f"Deploying: {line[:_LONGEST_LINE]}"

    await watcher.progress(0.4, 1.0)
    deploying = deploy(
        project.folder,
        lines.append,
        rebuild=settings.rebuild_modal_app,
        stop_first=settings.delete_modal_app,
        only_ours=only_ours,
    )
    return await watched(deploying, watcher, newest)


def _is_below(folder: Path, other: Path) -> bool:
    return folder.resolve().is_relative_to(other.resolve())


def _check_place(path: Path, named_by: str, own_folders: Sequence[Path]) -> None:
    """Check that the node, which may stand in a stranger's workflow, may name a path.

    Args:
        own_folders: Those that it may always name something in.

    Raises:
        NotTrusted: The path, or what it leads to by ``..`` or links, is elsewhere.
    """
    allowed = (*own_folders, *Configuration.load().allowed_folders)
    if any(not leads_out(path, folder) for folder in allowed):
        return
    raise NotTrusted(
        f"{named_by} leads to {path}, which is not in one of ComfyUI's own folders (user, input, "
        "output). It was left alone: a workflow may come from somebody else.",
        advice=f"Use a path in one of those. To allow another folder, write allowed_folders = "
        f'["FOLDER"] into {owner_folders()[0] / CONFIG_NAME}, above its tables.',
    )


def _done(watcher: Watcher, url: str, project: Project, words: str) -> Deployed:
    watcher.say(words)
    return Deployed(url, "\n".join([words, *project.notes]))


def workflow_at(path: str, folders: Sequence[Path], own_folders: Sequence[Path] = ()) -> Path:
    """The workflow file of a path.

    Args:
        path: Absolute, or below one of ``folders``.
        folders: Where relative paths are looked for.
        own_folders: ComfyUI's own: an absolute path is in one of both, or in one of the owner's
            ``allowed_folders``.

    Raises:
        NotTrusted: It is an absolute path to elsewhere. Nothing was looked up there.
        WorkflowInvalid: There is none.
    """
    wanted = path.strip().strip('"')
    if not wanted:
        raise WorkflowInvalid(
            "There is no workflow to deploy.", advice="Give the path of a workflow's JSON file."
        )
    # The path may have come with the workflow that the node stands in.
    given = None if names_another_machine(wanted) else Path(wanted).expanduser()
    if given is not None and given.is_absolute():
        _check_place(given, "workflow_path", (*folders, *own_folders))
        found = given if given.is_file() else None
    else:
        found = file_in(folders, wanted)
    if found is None:
        raise WorkflowInvalid(
            f"There is no workflow file {wanted}.",
            advice=f"Give its whole path, or its name in {' or '.join(map(str, folders))}.",
        )
    return found
