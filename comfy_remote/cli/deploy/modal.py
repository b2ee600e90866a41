"""``comfy-remote deploy modal``: a workflow as an app of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import print_json, say, say_lines
from ..options import is_example, lock_option, target_option, workflow_argument
from ..schemas import schemas_option

if TYPE_CHECKING:
    from ...deploy.modal.project import Project

__all__ = ["modal"]


@click.command(short_help="Deploy a workflow on Modal.")
@workflow_argument
@click.option(
    "--app", metavar="NAME", help="What it is called: modal:NAME. [default: the file's name]"
)
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the project is made, as DIR/NAME. Default: modal_NAME beside the workflow (for an "
    "example, NAME in the current folder).",
)
@click.option(
    "--gpu",
    metavar="TYPE",
    help="H100, L40S, A10, T4 and so on; several, with commas between, for the first that is free; "
    "none for no GPU. [default: by its models]",
)
@click.option(
    "--pip", "pip", multiple=True, metavar="PACKAGE", help="For ComfyUI. May be repeated."
)
@click.option("--apt", "apt", multiple=True, metavar="PACKAGE", help="Debian's. May be repeated.")
@click.option(
    "--custom-node",
    "custom_nodes",
    multiple=True,
    metavar="PACK",
    help="A node pack: NAME or NAME@VERSION of the Comfy Registry, URL@COMMIT, URL@TAG. May be "
    "repeated.",
)
@click.option("--comfyui", metavar="VERSION", help="A release of ComfyUI, such as 0.33.0.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A Secret of your Modal account, for HF_TOKEN and the like. May be repeated.",
)
@click.option(
    "--max-containers", type=click.IntRange(min=1), help="The most GPUs at a time. [default: 1]"
)
@click.option(
    "--snapshot",
    type=click.Choice(["none", "memory", "gpu"]),
    help="Start containers from a snapshot. [default: none]",
)
@lock_option(
    "--lock",
    "Take node packs, ComfyUI's version and models from this lock or packed workflow.",
)
@schemas_option
@target_option("Take the node schemas of this target instead.")
@click.option(
    "--deploy/--no-deploy", "deploys", default=True, help="Deploy it, or only write the project."
)
@click.option("--force", is_flag=True, help="Replace the project's files, even edited ones.")
@click.option("--clean", is_flag=True, help="Ignore what the project's files say, and start over.")
@click.option(
    "--rebuild", is_flag=True, help="Build the whole image again, whatever Modal has cached."
)
@click.option("--stop-first", is_flag=True, help="Stop the deployed app first.")
@click.option("--json", "json_lines", is_flag=True, help="Print the result as JSON.")
def modal(
    workflow: Path,
    app: str | None,
    folder: Path | None,
    gpu: str | None,
    pip: tuple[str, ...],
    apt: tuple[str, ...],
    custom_nodes: tuple[str, ...],
    comfyui: str | None,
    secrets: tuple[str, ...],
    max_containers: int | None,
    snapshot: str | None,
    lock_file: Path | None,
    schemas_source: Path | str | None,
    on: str | None,
    deploys: bool,
    force: bool,
    clean: bool,
    rebuild: bool,
    stop_first: bool,
    json_lines: bool,
) -> None:
    """Deploy a workflow on Modal: ComfyUI on a GPU that runs only while there are jobs.

    WORKFLOW is whatever `run` takes. A project is written (prompt.json, modal_config.json,
    workflow.py), which is yours to edit: a file that you have edited is left as it is, and what
    would change is shown. Then it is deployed, and its address is printed. Needs Modal's SDK and
    an account: pip install modal, then modal setup.

    \b
    Examples:
      comfy-remote deploy modal workflow.json --app portraits --gpu L40S
      comfy-remote deploy modal workflow.json --app portraits --lock comfy-remote.lock
      comfy-remote deploy modal workflow.json --app portraits --no-deploy
      comfy-remote run workflow.json --on modal:portraits
    """
    from ...deploy.modal.config import CONFIG_FILE
    from ...deploy.modal.project import project_folder
    from ...deploy.modal.usual import app_named_after, check_app_is_new
    from ...deploy.modal.workflow_file import make_project
    from ..schemas import completed, found_schemas

    if schemas_source is not None and on is not None:
        raise click.UsageError("--schemas and --on both say where the schemas come from.")
    if is_example(workflow) and folder is None:
        folder = Path()
    name = app or app_named_after(workflow)
    there = project_folder(workflow, name, folder)
    if app is None and deploys and not (there / CONFIG_FILE).is_file():
        check_app_is_new(name, there)
    given: dict[str, object] = {
        "app_name": name,
        "gpu_type": gpu,
        "comfyui_version": comfyui,
        "max_containers": max_containers,
        "snapshot": snapshot,
        "extra_pip_packages": list(pip) or None,
        "extra_system_packages": list(apt) or None,
        "custom_nodes": list(custom_nodes) or None,
        "secrets": list(secrets) or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if rebuild:
        import uuid

        given["build_nonce"] = uuid.uuid4().hex
    project = make_project(
        workflow,
        given,
        parent=folder,
        schemas=lambda loaded: completed(found_schemas(schemas_source, on), loaded),
        force=force,
        clean=clean,
        deploys=deploys,
        choose_gpu=True,
        lock_file=lock_file,
    )
    say(f"The project is in {project.folder}.")
    for note in project.notes:
        say_lines(note)
    url = None
    if deploys:
        url = _deployed(project, rebuild=rebuild, stop_first=stop_first)
    if json_lines:
        print_json(
            {
                "folder": str(project.folder),
                "target": f"modal:{project.config.app_name}",
                "url": url,
                "kept": list(project.edited),
                "notes": list(project.notes),
            }
        )
    elif url is not None:
        print(url)
    if url is None:
        say(f'Not deployed. To deploy it: modal deploy "{project.folder / "workflow.py"}"')
    else:
        _say_how_to_use(project, url)


def _deployed(project: Project, *, rebuild: bool, stop_first: bool) -> str:
    import asyncio

    from ...deploy.modal.deployment import deploy as deploy_project
    from ..interrupt import run_interruptible

    say("Deploying on Modal; the first time, its image takes some minutes …")
    work = deploy_project(
        project.folder,
        say,
        rebuild=rebuild,
        stop_first=stop_first,
    )
    try:
        return run_interruptible(work)
    except asyncio.CancelledError:
        say("Stopped. Modal may continue with what it has; `modal app list` shows it.")
        raise click.exceptions.Exit(130) from None


def _say_how_to_use(project: Project, url: str) -> None:
    name = project.config.app_name
    say(
        "Deployed. It takes a proxy token: make one at "
        "https://modal.com/settings/proxy-auth-tokens, and set MODAL_PROXY_TOKEN_ID and "
        "MODAL_PROXY_TOKEN_SECRET."
    )
    if project.config.models:
        say(f'Fetch its models once: modal run "{project.folder / "workflow.py"}::models"')
    say_lines(
        f"Run it: comfy-remote run WORKFLOW --on modal:{name}\n"
        "On machines without Modal's SDK, comfy-remote.toml has to say where it is:\n"
        f'  [targets.{name}]\n  target = "modal:{name}"\n  base_url = "{url}"'
    )
