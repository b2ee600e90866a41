"""Modal Deployment: the part of the node that knows nothing of ComfyUI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import until
from lookups import record_lookups

from comfy_remote.config.folders import home
from comfy_remote.deploy.modal.workflow_file import make_project
from comfy_remote.errors import ConfigurationError, NotTrusted, WorkflowInvalid
from comfy_remote.node_pack.nodes import modal_run
from comfy_remote.node_pack.nodes.modal_run import (
    DeploymentSettings,
    run_deployment,
    workflow_at,
)
from comfy_remote.workflow.schema import Schemas

PROMPT = {"1": {"class_type": "PreviewImage", "inputs": {}}}
OFF = DeploymentSettings(app_name="portraits", deploy=False)


class Interrupted(BaseException):
    """As ComfyUI's own."""


class Page:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.logged: list[str] = []
        self.bar: list[float] = []
        self.interrupt = False

    def say(self, text: str) -> None:
        self.said.append(text)

    def log(self, message: str, level: str) -> None:
        self.logged.append(f"{level}: {message}")

    async def progress(self, done: float, total: float) -> None:
        self.bar.append(done / total)

    def check(self) -> None:
        if self.interrupt:
            raise Interrupted


def allow(folder: Path) -> None:
    """What the owner does to let workflows name another folder than ComfyUI's own."""
    home().mkdir(parents=True, exist_ok=True)
    (home() / "comfy-remote.toml").write_text(f"allowed_folders = ['{folder}']\n")


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "picture.json"
    path.write_text(json.dumps(PROMPT))
    return path


async def test_without_deploying_there_is_no_address(workflow: Path) -> None:
    page = Page()
    done = await run_deployment(workflow, OFF, page, Schemas.bundled)
    folder = workflow.parent / "modal_portraits"
    assert done.url == ""
    assert str(folder) in done.text
    assert (folder / "workflow.py").is_file()
    assert page.bar == sorted(page.bar)


async def test_inputs_become_the_config(workflow: Path, tmp_path: Path) -> None:
    allow(tmp_path / "built")
    settings = DeploymentSettings(
        app_name="portraits",
        working_directory=str(tmp_path / "built"),
        extra_pip_requirements="scipy, einops\nsageattention",
        extra_system_packages="ffmpeg",
        gpu_type="none",
        rebuild_modal_app=True,
        deploy=False,
    )
    await run_deployment(workflow, settings, Page(), Schemas.bundled)
    said = json.loads((tmp_path / "built" / "portraits" / "modal_config.json").read_text())
    assert said["extra_pip_packages"] == ["scipy", "einops", "sageattention"]
    assert said["extra_system_packages"] == ["ffmpeg"]
    assert said["gpu_type"] is None
    nonce = said["build_nonce"]
    await run_deployment(workflow, settings, Page(), Schemas.bundled)
    said = json.loads((tmp_path / "built" / "portraits" / "modal_config.json").read_text())
    assert said["build_nonce"] != nonce, "another image each time"


async def test_the_address_is_what_the_sdk_says(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}

    async def deploy(folder: Path, say: Callable[[str], None], **options: object) -> str:
        told.update(options, folder=folder)
        say("Building image im-123")
        await until(lambda: "Deploying: Building image im-123" in page.said)
        return "https://ann--portraits-front.modal.run"

    monkeypatch.setattr(modal_run, "deploy", deploy)
    page = Page()
    settings = DeploymentSettings(app_name="portraits", delete_modal_app=True)
    done = await run_deployment(workflow, settings, page, Schemas.bundled)
    assert done.url == "https://ann--portraits-front.modal.run"
    assert told["stop_first"] is True and told["rebuild"] is False
    assert "Deploying: Building image im-123" in page.said
    assert "modal:portraits" in page.said[-1]
    assert page.bar[-1] == 1.0


@pytest.mark.parametrize(("inside", "only_ours"), [(True, True), (False, False)])
async def test_where_others_may_write_only_our_own_code_is_run(
    workflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool, only_ours: bool
) -> None:
    told: dict[str, object] = {}

    async def deploy(folder: Path, say: Callable[[str], None], **options: object) -> str:
        told.update(options)
        return "https://ann--portraits-front.modal.run"

    monkeypatch.setattr(modal_run, "deploy", deploy)
    settings = DeploymentSettings(app_name="portraits")
    folders = [tmp_path / "elsewhere", tmp_path] if inside else [tmp_path / "elsewhere"]
    await run_deployment(workflow, settings, Page(), Schemas.bundled, folders)
    assert told["only_ours"] is only_ours


async def test_an_interrupt_ends_the_deployment(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def deploy(folder: Path, say: Callable[[str], None], **options: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(modal_run, "deploy", deploy)
    page = Page()
    settings = DeploymentSettings(app_name="portraits")
    work = asyncio.create_task(run_deployment(workflow, settings, page, Schemas.bundled))
    while not any(text.startswith("Deploying") for text in page.said):
        await asyncio.sleep(0.02)
    page.interrupt = True
    with pytest.raises(Interrupted):
        await asyncio.wait_for(work, 60)
    assert ended.is_set()


async def test_modals_own_words_reach_the_node(
    workflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("modal")
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    settings = DeploymentSettings(app_name="portraits")
    with pytest.raises(ConfigurationError, match="Modal does not know who you are"):
        await run_deployment(workflow, settings, Page(), Schemas.bundled)


@pytest.mark.parametrize("path", ["//evilhost/share", "\\\\evilhost\\share"])
async def test_paths_of_other_machines_are_not_looked_up(
    workflow: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """They may have come with the workflow that the node stands in."""
    asked = record_lookups(monkeypatch)
    with pytest.raises(WorkflowInvalid):
        workflow_at(f"{path}/w.json", (workflow.parent,))
    settings = DeploymentSettings(app_name="p", working_directory=path, deploy=False)
    with pytest.raises(ConfigurationError, match="on another machine"):
        await run_deployment(workflow, settings, Page(), Schemas.bundled)
    assert not [one for one in asked if "evilhost" in one]


def test_where_workflows_are_looked_for(workflow: Path, tmp_path: Path) -> None:
    folders = (tmp_path / "nothing", tmp_path)
    assert workflow_at(str(workflow), folders) == workflow
    assert workflow_at(f' "{workflow}" ', folders) == workflow
    assert workflow_at("picture.json", folders) == workflow
    with pytest.raises(WorkflowInvalid, match="no workflow file"):
        workflow_at("../picture.json", (tmp_path / "nothing",))
    with pytest.raises(WorkflowInvalid, match="no workflow to deploy"):
        workflow_at("  ", folders)


def test_a_workflow_elsewhere_is_not_read_before_the_owner_allows_its_folder(
    workflow: Path, tmp_path: Path
) -> None:
    own = tmp_path / "comfyui"
    own.mkdir()
    (own / "link.json").symlink_to(workflow)
    ways = (workflow, own / ".." / workflow.name, own / "link.json", tmp_path / "missing.json")
    for path in map(str, ways):
        with pytest.raises(NotTrusted, match=r"allowed_folders = .*comfy-remote\.toml"):
            workflow_at(path, (own / "workflows",), (own,))
    allow(tmp_path)
    assert workflow_at(str(workflow), (own / "workflows",), (own,)) == workflow


async def test_a_project_elsewhere_is_not_touched_before_the_owner_allows_its_folder(
    workflow: Path, tmp_path: Path
) -> None:
    own, project = tmp_path / "output", tmp_path / "elsewhere" / "portraits"
    own.mkdir()
    project.mkdir(parents=True)
    (project / "workflow.py").write_text("# mine")
    (own / "link").symlink_to(project.parent)
    (own / "portraits").symlink_to(project)

    async def run(parent: Path) -> None:
        settings = DeploymentSettings("portraits", str(parent), deploy=False, clean_build=True)
        await run_deployment(workflow, settings, Page(), Schemas.bundled, own_folders=(own,))

    for parent in (project.parent, own / ".." / "elsewhere", own / "link", own):
        with pytest.raises(NotTrusted, match=r"allowed_folders = .*comfy-remote\.toml"):
            await run(parent)
    assert [path.name for path in project.iterdir()] == ["workflow.py"]
    assert (project / "workflow.py").read_text() == "# mine"
    await run(own / "built")
    assert (own / "built" / "portraits" / "prompt.json").is_file()
    allow(project.parent)
    await run(project.parent)
    assert (project / "workflow.py").read_text() != "# mine"


async def test_packages_that_the_node_names_run_beside_secrets_only_after_a_yes(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deploy(folder: Path, say: Callable[[str], None], **options: object) -> str:
        return "https://ann--portraits-front.modal.run"

    monkeypatch.setattr(modal_run, "deploy", deploy)
    make_project(workflow, {"app_name": "portraits", "secrets": ["hf"]}, deploys=True)
    adding = DeploymentSettings(app_name="portraits", extra_pip_requirements="evil")
    with pytest.raises(NotTrusted, match="trust it"):
        await run_deployment(workflow, adding, Page(), Schemas.bundled)
    without = DeploymentSettings(app_name="without", extra_pip_requirements="evil")
    assert (await run_deployment(workflow, without, Page(), Schemas.bundled)).url
