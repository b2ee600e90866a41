"""A Modal project: what is in it, what a person's edits come to, and what is deployed."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import git

from comfy_remote.cli.advice import for_terminal
from comfy_remote.cli.main import cli
from comfy_remote.config.folders import home
from comfy_remote.config.trust import TrustStore
from comfy_remote.deploy.modal.config import CONFIG_FILE, ModalConfig, package_list
from comfy_remote.deploy.modal.deployment import deploy
from comfy_remote.deploy.modal.packing import Packing, pack
from comfy_remote.deploy.modal.pinning import pinned
from comfy_remote.deploy.modal.project import (
    PROMPT_FILE,
    WORKFLOW_FILE,
    Project,
    named_in_folder,
    project_folder,
    write_project,
)
from comfy_remote.deploy.modal.usual import app_named_after, gpu_for
from comfy_remote.deploy.modal.workflow_file import make_project
from comfy_remote.errors import (
    ConfigurationError,
    DeploymentFailed,
    NotTrusted,
    TargetNotFound,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.workflow.schema import Schemas

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPT: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    path = tmp_path / "picture.json"
    path.write_text(json.dumps(PROMPT))
    return path


# --- the folder ---------------------------------------------------------------------------


def test_a_new_project_has_three_files(workflow: Path) -> None:
    project = make_project(workflow, {"app_name": "portraits", "gpu_type": "L40S"})
    assert project.folder == workflow.parent / "modal_portraits"
    assert {path.name for path in project.folder.iterdir()} == {
        PROMPT_FILE,
        CONFIG_FILE,
        WORKFLOW_FILE,
    }
    assert json.loads((project.folder / PROMPT_FILE).read_text()) == PROMPT
    said = json.loads((project.folder / CONFIG_FILE).read_text())
    assert (said["app_name"], said["gpu_type"]) == ("portraits", "L40S")
    assert said["comfyui_version"] == ModalConfig().comfyui_version
    assert project.edited == ()


@pytest.mark.parametrize("place", ["input", "input/deep/.ssh"])
def test_links_of_a_folder_from_elsewhere_are_not_deployed(
    workflow: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "private").mkdir()
    link = tmp_path / "modal_portraits" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "private")
    with pytest.raises(ConfigurationError, match="leads out of the project"):
        make_project(workflow, {"app_name": "portraits"})
    assert list((tmp_path / "private").iterdir()) == []
    link.unlink()
    assert make_project(workflow, {"app_name": "portraits"}).config.app_name == "portraits"


@pytest.mark.parametrize("name", [PROMPT_FILE, CONFIG_FILE, WORKFLOW_FILE])
def test_a_projects_files_are_not_read_through_links_that_lead_out(
    workflow: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "private").write_text("{}")
    link = tmp_path / "modal_portraits" / name
    link.parent.mkdir()
    link.symlink_to(tmp_path / "private")
    with pytest.raises(ConfigurationError, match="leads out of the project"):
        make_project(workflow, {"app_name": "portraits"})
    assert [path.name for path in link.parent.iterdir()] == [name]


def test_a_project_that_is_a_link_out_has_to_be_named(
    workflow: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (workflow.parent / "modal_portraits").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="leads out"):
        make_project(workflow, {"app_name": "portraits"})
    assert list(outside.iterdir()) == []


def test_where_it_is_can_be_chosen(tmp_path: Path) -> None:
    flow = tmp_path / "a" / "b.json"
    assert project_folder(flow, "x") == tmp_path / "a" / "modal_x"
    assert project_folder(flow, "x", tmp_path / "built") == tmp_path / "built" / "x"


def test_the_default_gpu_is_an_h100(workflow: Path) -> None:
    assert make_project(workflow, {}).config.gpu_type == "H100"


def test_what_nobody_has_edited_follows_the_workflow(workflow: Path) -> None:
    folder = make_project(workflow, {}).folder
    changed = json.loads(json.dumps(PROMPT))
    changed["1"]["inputs"]["width"] = 16
    workflow.write_text(json.dumps(changed))
    (folder / WORKFLOW_FILE).write_bytes(
        (folder / WORKFLOW_FILE).read_bytes().replace(b"\n", b"\r\n")
    )
    project = make_project(workflow, {})
    assert project.edited == ()
    assert json.loads((folder / PROMPT_FILE).read_text()) == changed


def test_what_was_edited_stays_and_the_difference_is_shown(workflow: Path) -> None:
    folder = make_project(workflow, {}).folder
    mine = (folder / WORKFLOW_FILE).read_text().replace("PORT = 8000", "PORT = 8001")
    (folder / WORKFLOW_FILE).write_text(mine)
    edited = json.loads((folder / PROMPT_FILE).read_text())
    edited["1"]["inputs"]["color"] = 255
    (folder / PROMPT_FILE).write_text(json.dumps(edited))
    for _ in range(2):  # also the second time: what is kept does not become ours
        project = make_project(workflow, {})
        assert set(project.edited) == {PROMPT_FILE, WORKFLOW_FILE}
    assert (folder / WORKFLOW_FILE).read_text() == mine
    assert json.loads((folder / PROMPT_FILE).read_text()) == edited
    note = next(one for one in project.notes if WORKFLOW_FILE in one)
    assert "-PORT = 8001" in note and "+PORT = 8000" in note and "--force" in for_terminal(note)
    forced = make_project(workflow, {}, force=True)
    assert forced.edited == ()
    assert json.loads((folder / PROMPT_FILE).read_text()) == PROMPT
    assert "PORT = 8000" in (folder / WORKFLOW_FILE).read_text()


def test_a_file_that_we_never_wrote_is_not_replaced(workflow: Path) -> None:
    folder = workflow.parent / "modal_mine"
    folder.mkdir()
    (folder / WORKFLOW_FILE).write_text("print('mine')\n")
    project = make_project(workflow, {"app_name": "mine"})
    assert project.edited == (WORKFLOW_FILE,)
    assert (folder / WORKFLOW_FILE).read_text() == "print('mine')\n"


# --- whose word counts --------------------------------------------------------------------


def _planted(workflow: Path) -> Path:
    """A project that was in the folder when the workflow was cloned."""
    folder = workflow.parent / "modal_comfy-remote"
    folder.mkdir()
    (folder / WORKFLOW_FILE).write_text("print('not ours')\n")
    (folder / CONFIG_FILE).write_text(
        json.dumps({"secrets": ["aws"], "extra_pip_packages": ["evil"], "timeout": 60})
    )
    return folder


def test_a_project_that_came_with_a_folder_is_not_deployed_before_a_yes(workflow: Path) -> None:
    folder = _planted(workflow)
    with pytest.raises(NotTrusted) as caught:
        make_project(workflow, {}, deploys=True)
    path = folder / CONFIG_FILE
    assert f"comfy-remote trust {path}" in for_terminal(caught.value.advice)
    names = caught.value.details["names"]
    assert names[:2] == ['secrets: "aws"', 'extra_pip_packages: "evil"']
    assert "workflow.py, which runs on this machine" in names[2]
    assert len(names) == 3
    # Written it may be: nothing of it runs.
    assert make_project(workflow, {}).edited == (WORKFLOW_FILE,)
    with pytest.raises(NotTrusted):
        make_project(workflow, {}, deploys=True)
    TrustStore(home()).trust(path, names)
    assert make_project(workflow, {}, deploys=True).edited == (WORKFLOW_FILE,)
    (folder / WORKFLOW_FILE).write_text("print('not ours either')\n")
    with pytest.raises(NotTrusted) as again:
        make_project(workflow, {}, deploys=True)
    assert len(again.value.details["names"]) == 1


def test_it_cannot_pass_for_one_that_was_written_here(workflow: Path) -> None:
    folder = _planted(workflow)
    said = json.loads((folder / CONFIG_FILE).read_text())
    digest = hashlib.sha256((folder / WORKFLOW_FILE).read_bytes()).hexdigest()
    said["generated"] = {WORKFLOW_FILE: digest}
    (folder / CONFIG_FILE).write_text(json.dumps(said))
    with pytest.raises(NotTrusted):
        make_project(workflow, {}, deploys=True)
    assert "not ours" not in (folder / WORKFLOW_FILE).read_text()  # replaced by ours


@pytest.mark.parametrize("how", [{"clean": True}, {"clean": True, "force": True}])
def test_what_is_written_anew_needs_no_yes(workflow: Path, how: dict[str, bool]) -> None:
    _planted(workflow)
    project = make_project(workflow, {"secrets": ["mine"]}, deploys=True, **how)
    assert (project.edited, project.config.secrets) == ((), ["mine"])


def test_what_was_given_here_needs_no_yes_and_what_is_added_by_hand_does(workflow: Path) -> None:
    given = {"secrets": ["mine"], "extra_pip_packages": ["einops"]}
    folder = make_project(workflow, given, deploys=True).folder
    assert make_project(workflow, {}, deploys=True).config.secrets == ["mine"]
    path = folder / CONFIG_FILE
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "scaledown_window": 90}))
    assert make_project(workflow, {}, deploys=True).config.scaledown_window == 90
    path.write_text(json.dumps({**said, "secrets": ["mine", "another"]}))
    with pytest.raises(NotTrusted) as caught:
        make_project(workflow, {}, deploys=True)
    assert caught.value.details["names"] == ['secrets: "another"']
    with_it = {"secrets": ["mine", "another"]}
    assert make_project(workflow, with_it, deploys=True).config.secrets == ["mine", "another"]


def test_code_of_a_workflow_runs_beside_secrets_only_after_a_yes(tmp_path: Path) -> None:
    """A stranger's workflow is deployed to a project that is trusted."""
    pack = f"https://github.com/evil/pack@{COMMIT}"
    properties = {"aux_id": "evil/pack", "ver": COMMIT}
    node = {"id": 1, "type": "Theirs", "outputs": [], "inputs": [], "properties": properties}
    known = Schemas(
        {"Theirs": {"input": {}, "output": [], "output_node": True, "name": "Theirs"}}, "test"
    )

    def deployed(workflow: Path, given: dict[str, object]) -> Project:
        return make_project(workflow, given, schemas=lambda _: known, deploys=True)

    mine, stranger = tmp_path / "mine.json", tmp_path / "stranger.json"
    mine.write_text(json.dumps(PROMPT))
    stranger.write_text(json.dumps({"nodes": [node], "links": [], "version": 0.4}))
    path = make_project(mine, {"secrets": ["hf"]}, deploys=True).folder / CONFIG_FILE
    for _ in range(2):  # refused, it has been written: that is no yes
        with pytest.raises(NotTrusted) as caught:
            deployed(stranger, {})
        assert caught.value.details["names"] == [f'custom_nodes: "{pack}"']
        assert f"comfy-remote trust {path}" in for_terminal(caught.value.advice)
    with pytest.raises(NotTrusted):  # a first deployment with a Secret
        deployed(stranger, {"app_name": "first", "secrets": ["hf"]})
    asked_for = {"app_name": "asked", "secrets": ["hf"], "custom_nodes": [pack]}
    assert deployed(stranger, asked_for).config.custom_nodes == [pack]
    without = deployed(stranger, {"app_name": "without"})
    assert without.config.custom_nodes == [pack]
    TrustStore(home()).trust(path, named_in_folder(path.parent))
    assert deployed(stranger, {}).config.custom_nodes == [pack]


def test_packages_of_a_node_run_beside_secrets_only_after_a_yes(workflow: Path) -> None:
    folder = make_project(workflow, {"secrets": ["hf"]}, deploys=True).folder
    given = {"extra_pip_packages": ["evil"], "extra_system_packages": ["ffmpeg"]}
    for _ in range(2):
        with pytest.raises(NotTrusted) as caught:
            make_project(workflow, given, deploys=True, by_owner=False)
        names = ['extra_pip_packages: "evil"', 'extra_system_packages: "ffmpeg"']
        assert caught.value.details["names"] == names
    assert make_project(workflow, given, deploys=True).folder == folder
    assert make_project(workflow, given, deploys=True, by_owner=False).folder == folder
    without = {**given, "app_name": "without"}
    assert make_project(workflow, without, deploys=True, by_owner=False).notes == ()


def test_the_command_shows_what_a_project_names(workflow: Path) -> None:
    folder = _planted(workflow)
    done = CliRunner().invoke(cli, ["trust", str(folder)])
    assert done.exit_code != 0
    assert 'secrets: "aws"' in done.output
    assert "workflow.py, which runs on this machine" in done.output


def test_the_config_keeps_what_a_person_wrote(workflow: Path) -> None:
    folder = make_project(workflow, {"gpu_type": "T4"}).folder
    said = json.loads((folder / CONFIG_FILE).read_text())
    said.update(timeout=600, models=["lora https://example.com/a.safetensors"], gpu_type="A10")
    (folder / CONFIG_FILE).write_text(json.dumps(said))
    config = make_project(workflow, {"comfyui_version": "0.34.1"}).config
    assert (config.timeout, config.gpu_type, config.comfyui_version) == (600, "A10", "0.34.1")
    assert config.models == ["lora https://example.com/a.safetensors"]
    assert make_project(workflow, {}, clean=True).config.timeout == ModalConfig().timeout


def test_a_config_with_unknown_keys_says_which_there_are(workflow: Path) -> None:
    folder = make_project(workflow, {}).folder
    (folder / CONFIG_FILE).write_text('{"gpu": "H100"}')
    with pytest.raises(ConfigurationError, match="gpu") as refused:
        make_project(workflow, {})
    assert "gpu_type" in refused.value.advice


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app_name", "../elsewhere"),
        ("app_name", "a b"),
        ("app_name", "a" * 57),  # APP-outputs would be longer than Modal takes
        ("gpu_type", "H100; rm -rf /"),
        ("comfyui_version", "master"),
        ("custom_nodes", ["http://github.com/a/b@main"]),
        ("custom_nodes", ["https://github.com/a/$(id)@main"]),
        ("custom_nodes", [f"https://github.com/a/$(id)@{COMMIT}"]),
        ("custom_nodes", ["a-pack@newest"]),
        ("custom_nodes", [f"https://github.com/a/..@{COMMIT}"]),
        ("models", ["nonsense"]),
        ("extra_pip_packages", ["--index-url=https://evil.example"]),
        ("extra_system_packages", ["git && id"]),
        ("secrets", ["a/b"]),
        ("timeout", 0),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_their_name(
    workflow: Path, name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=name):
        make_project(workflow, {name: value})
    assert not list(workflow.parent.glob("modal_*"))


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("gpu_type", "None", None),
        ("gpu_type", "B200+", "B200+"),
        ("gpu_type", "H100!:2", "H100!:2"),
        ("comfyui_version", "v0.33.0", "0.33.0"),
        ("app_name", "a" * 56, "a" * 56),
    ],
)
def test_values_may_be_written_as_people_write_them(
    workflow: Path, name: str, value: str, meant: str | None
) -> None:
    assert getattr(make_project(workflow, {name: value}).config, name) == meant


def test_what_is_wrong_with_a_value_is_said_in_words() -> None:
    with pytest.raises(ConfigurationError, match=r"app_name: '\.\./elsewhere' is not 1 to 56"):
        ModalConfig.checked({"app_name": "../elsewhere"})


def test_lists_of_packages() -> None:
    assert package_list(" numpy==2.0,\r\n scipy \n\n") == ["numpy==2.0", "scipy"]
    assert package_list(None) == []


def test_a_workflow_in_ui_format_is_converted(tmp_path: Path) -> None:
    ui = {
        "nodes": [
            {
                "id": 1,
                "type": "EmptyImage",
                "inputs": [],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
                "widgets_values": [64, 32, 1, 0],
            },
            {
                "id": 2,
                "type": "PreviewImage",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "outputs": [],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "version": 0.4,
    }
    path = tmp_path / "ui.json"
    path.write_text(json.dumps(ui))
    project = make_project(path, {})
    prompt = json.loads((project.folder / PROMPT_FILE).read_text())
    assert prompt["1"]["inputs"]["width"] == 64
    assert prompt["2"]["inputs"]["images"] == ["1", 0]


# --- what a workflow needs ----------------------------------------------------------------


def _loads(**names: str) -> Any:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": names["checkpoint"]}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": names["vae"]}},
    }


def test_models_with_an_address_are_listed_and_the_others_told() -> None:
    workflow: Any = {
        "nodes": [
            {
                "id": 1,
                "type": "CheckpointLoaderSimple",
                "properties": {
                    "models": [
                        {
                            "name": "big.safetensors",
                            "url": "https://huggingface.co/a/b/resolve/main/big.safetensors",
                            "directory": "checkpoints",
                            "hash": "ab" * 32,
                            "hash_type": "SHA256",
                        }
                    ]
                },
            }
        ],
        "links": [],
    }
    prompt = _loads(checkpoint="big.safetensors", vae="rare.safetensors")
    found = pack(prompt, workflow, Schemas.bundled(), volume="comfyui-models")
    assert found.models == (
        "checkpoints https://huggingface.co/a/b/resolve/main/big.safetensors "
        f'name="big.safetensors" sha256={"ab" * 32}',
    )
    (note,) = found.notes
    assert 'modal volume put comfyui-models "rare.safetensors" "/vae/rare.safetensors"' in note


def test_node_packs_that_a_workflow_names_with_a_version_are_pinned_and_the_others_said() -> None:
    said = {
        "A": {"aux_id": "ann/pack", "ver": COMMIT},
        "B": {"cnr_id": "other", "ver": "1.2.3"},
        "C": {"cnr_id": "third", "ver": "b" * 40},
        "D": {"cnr_id": "nightly", "ver": "nightly"},
        "E": {"cnr_id": "../out", "ver": "1.0.0"},
        "F": {"aux_id": "ann/pack; id", "ver": COMMIT},
        "G": {"cnr_id": "nothing\n#", "ver": "1.0.0"},
    }
    prompt: Any = {kind: {"class_type": kind, "inputs": {}} for kind in said}
    prompt["3"] = {"class_type": "ComfyRemoteInput", "inputs": {"key": "a"}}
    nodes = [{"id": 1, "type": kind, "properties": one} for kind, one in said.items()]
    workflow: Any = {"nodes": nodes, "links": []}
    found = pack(prompt, workflow, Schemas.bundled(), volume="v")
    assert found.custom_nodes == (
        f"https://github.com/ann/pack@{COMMIT}",
        "other@1.2.3",
        f"third@{'b' * 40}",
    )
    assert [note[0] for note in found.notes] == ["D", "E", "F", "G"]
    assert "D is of the node pack nightly (saved with nightly)" in found.notes[0]
    ModalConfig(custom_nodes=[*found.custom_nodes])


def test_the_pack_of_a_repo_list_is_not_asked_for() -> None:
    prompt: Any = {
        "1": {
            "class_type": "SomePacksText",
            "inputs": {"text": "vae hf:org/repo/vae/ae.safetensors"},
            "_meta": {"title": "repo_list"},
        }
    }
    found = pack(prompt, None, Schemas.bundled(), volume="v")
    assert found == Packing(("vae hf:org/repo/vae/ae.safetensors",), (), ())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What https://packs.example/ComfyUI-Thing is. Its install.py puts a model into ComfyUI's
    folder, and asks where its clone comes from, as the Impact Pack's does.
    """
    folder = tmp_path / "packs" / "ComfyUI-Thing"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "install.py").write_text(
        "import os, subprocess\n"
        "os.makedirs('../../models/sams', exist_ok=True)\n"
        "open('../../models/sams/sam.pth', 'w').write('weights')\n"
        "ask = ['git', 'config', '--get', 'remote.origin.url']\n"
        "said = subprocess.check_output(ask, text=True)\n"
        "open('origin.txt', 'w').write(said.strip())\n"
    )
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1.0")
    git(folder, "tag", "-m", "a tag that has a text", "v1.1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{folder.parent.as_uri()}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://packs.example/")
    return folder


def test_a_tag_or_branch_is_pinned_to_its_commit(repository: Path, workflow: Path) -> None:
    url, commit = "https://packs.example/ComfyUI-Thing", git(repository, "rev-parse", "HEAD")
    for named in (url, f"{url}@v1.0", f"{url}@v1.1", f"{url}@main", f"{url}@{commit}"):
        assert pinned(named) == f"{url}@{commit}"
    made = make_project(workflow, {"custom_nodes": [f"{url}@v1.0"]})
    assert made.config.custom_nodes == [f"{url}@{commit}"]
    with pytest.raises(ConfigurationError, match="has no tag or branch v9"):
        pinned(f"{url}@v9")
    with pytest.raises(TargetUnreachable, match="cannot be asked"):
        pinned("https://packs.example/nothing")


def test_what_is_no_pack_is_refused_before_anything_is_asked(workflow: Path) -> None:
    for line in ("--upload-pack=id@main", "http://packs.example/a@main", "ann/pack@v1", "a@b@c"):
        with pytest.raises(ConfigurationError):
            make_project(workflow, {"custom_nodes": [line]})


def test_the_images_lines_install_a_pack_and_leave_the_models_path_empty(
    repository: Path, workflow: Path, tmp_path: Path
) -> None:
    """The very lines that Modal would run, with other paths."""
    pytest.importorskip("modal")
    commit = git(repository, "rev-parse", "HEAD")
    project = make_project(
        workflow, {"custom_nodes": [f"https://packs.example/ComfyUI-Thing@{commit}"]}
    )
    comfyui = tmp_path / "comfyui"
    (comfyui / "models" / "vae").mkdir(parents=True)
    lines = _commands_of(project.folder)
    lines = lines[next(n for n, line in enumerate(lines) if "install_custom_nodes" in line) :]
    installer = ROOT / "comfy_remote" / "worker" / "nodes" / "install_custom_nodes.py"
    for line in lines:
        if line.startswith(("printf", "rm")):
            line = line.replace("/opt/install_custom_nodes.py", str(installer))
            line = line.replace("/comfyui/.venv/bin/python", sys.executable)
            line = re.sub(r"(?<= )/comfyui", str(comfyui), line)
            subprocess.run(["sh", "-c", line], check=True)
    pack = comfyui / "custom_nodes" / "ComfyUI-Thing"
    assert (pack / "origin.txt").read_text() == "https://packs.example/ComfyUI-Thing"
    assert not (comfyui / "models").exists()
    # Nothing is installed in it afterwards; the worker's own packages come last.
    assert lines.index("rm -rf /comfyui/models") > lines.index("boto3>=1.36")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpu_type": "H1000"}, "'H1000' is not one of Modal's GPUs: T4, L4"),
        ({"gpu_type": "H100:9"}, "'H100:9' is not"),
        ({"gpu_type": "H100,B20"}, "'B20' is not"),
        ({"extra_pip_packages": ["torch==2.3.0"]}, "the image's PyTorch"),
        ({"extra_pip_packages": ["TorchVision"]}, "the image's PyTorch"),
        ({"memory": 1}, "memory"),
        ({"region": "us east"}, "region"),
    ],
)
def test_what_modal_would_refuse_after_minutes_is_refused_at_once(
    workflow: Path, given: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        make_project(workflow, given)


def test_gpus_that_will_do_are_a_list(workflow: Path) -> None:
    given = {"gpu_type": "l40s, A100-80GB:2", "cpu": 4, "memory": 32768, "region": "eu"}
    project = make_project(workflow, given)
    assert project.config.gpu_type == ["l40s", "A100-80GB:2"]
    assert ModalConfig(gpu_type=["none"]).gpu_type is None
    pytest.importorskip("modal")
    assert _commands_of(project.folder), "Modal's SDK takes them"


def test_a_persons_commit_goes_before_the_workflows(tmp_path: Path) -> None:
    mine = f"https://github.com/Ann/pack.git@{'f' * 40}"
    said = Packing((), (f"https://github.com/ann/pack@{COMMIT}",), ())
    write_project(tmp_path, PROMPT, Packing((), (), ()), {"custom_nodes": [mine]})
    assert write_project(tmp_path, PROMPT, said, {}).config.custom_nodes == [mine]
    other = write_project(tmp_path / "other", PROMPT, said, {})
    assert other.config.custom_nodes == [f"https://github.com/ann/pack@{COMMIT}"]
    (note,) = other.notes  # code that the workflow brings along is told, once
    assert f"https://github.com/ann/pack@{COMMIT}" in note
    assert write_project(tmp_path / "other", PROMPT, said, {}).notes == ()


def test_custom_nodes_that_are_asked_for_are_added(workflow: Path) -> None:
    first, second = f"https://github.com/a/b@{COMMIT}", f"https://github.com/c/d@{COMMIT}"
    make_project(workflow, {"custom_nodes": [first]})
    assert make_project(workflow, {"custom_nodes": [second]}).config.custom_nodes == [
        second,
        first,
    ]
    newer = f"https://github.com/a/b.git@{'f' * 40}"
    assert set(make_project(workflow, {"custom_nodes": [newer]}).config.custom_nodes) == {
        newer,
        second,
    }


# --- what is deployed ---------------------------------------------------------------------


def test_the_template_is_what_ours_is_elsewhere() -> None:
    image = pytest.importorskip("comfy_remote.deploy.modal.image")
    torch = (ROOT / "docker" / "requirements-torch.txt").read_text().splitlines()
    assert list(image.TORCH) == [line for line in torch if line and not line.startswith("#")]
    wanted = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#") and "python_version" not in line
    ]
    assert list(image.PACK_PACKAGES) == wanted
    entry = ROOT / "comfy_remote" / "deploy" / "modal" / "template" / "pack_entry.txt"
    assert entry.read_bytes() == (ROOT / "__init__.py").read_bytes()
    dockerfile = (ROOT / "Dockerfile").read_text()
    version = re.search(r"# ComfyUI (\S+), by its commit", dockerfile)
    assert version is not None and version[1] == ModalConfig().comfyui_version


def test_the_image_is_built_of_pinned_parts(workflow: Path) -> None:
    """What Modal would run, as its SDK has it."""
    pytest.importorskip("modal")
    node = f"https://github.com/ann/pack@{COMMIT}"
    project = make_project(
        workflow,
        {
            "custom_nodes": [node],
            "extra_pip_packages": ["sage attention; id"],
            "extra_system_packages": ["ffmpeg"],
            "snapshot": "gpu",
        },
    )
    commands = "\n".join(_commands_of(project.folder))
    assert "git clone --quiet --depth 1 --branch v0.33.0" in commands
    assert f"printf '%s\\n' {node} | /comfyui/.venv/bin/python" in commands
    assert "'sage attention; id'" in commands, "quoted, whatever a person wrote"
    assert "torch==2.11.0" in commands
    assert "ffmpeg" in commands


def _commands_of(folder: Path) -> list[str]:
    """The Dockerfile commands of the project's image, from a process of its own."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import modal\n"
        "said = []\n"
        "def record(name):\n"
        "    original = getattr(modal.Image, name)\n"
        "    def method(self, *words, **options):\n"
        "        said.extend(str(word) for word in words)\n"
        "        return original(self, *words, **options)\n"
        "    setattr(modal.Image, name, method)\n"
        "for name in ('run_commands', 'apt_install', 'pip_install'): record(name)\n"
        "import workflow\n"
        "print(json.dumps(said))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return words


@pytest.fixture
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modal")
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))


@pytest.mark.usefixtures("_nobody")
async def test_without_an_account_deploying_says_what_to_do(workflow: Path) -> None:
    project = make_project(workflow, {})
    with pytest.raises(ConfigurationError) as refused:
        await deploy(project.folder, lambda line: None)
    assert "modal setup" in refused.value.advice


@pytest.mark.usefixtures("_nobody")
async def test_an_edit_that_breaks_it_is_shown(workflow: Path) -> None:
    project = make_project(workflow, {})
    (project.folder / WORKFLOW_FILE).write_text("import nothing_of_that_name\n")
    lines: list[str] = []
    with pytest.raises(DeploymentFailed, match="nothing_of_that_name") as failed:
        await deploy(project.folder, lines.append)
    assert "Traceback" in str(failed.value.details["log"])
    assert any("Traceback" in line for line in lines)
    (project.folder / WORKFLOW_FILE).write_text("app = front = None\n")
    with pytest.raises(DeploymentFailed, match="no app or no front"):
        await deploy(project.folder, lines.append)


@pytest.mark.usefixtures("_nobody")
async def test_an_sdk_that_is_too_old_is_told(
    workflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import modal\nmodal.__version__ = '1.6.3.dev2'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with pytest.raises(
        ConfigurationError, match=r"is 1\.6\.3.*; 1\.6\.4 or later is needed"
    ) as refused:
        await deploy(make_project(workflow, {}).folder, lambda line: None)
    assert "--upgrade modal" in refused.value.advice
    assert (ROOT / "pyproject.toml").read_text().count('"modal>=1.6.4,<2"') == 2


@pytest.mark.usefixtures("_nobody")
async def test_code_that_may_be_a_strangers_is_not_run(workflow: Path, tmp_path: Path) -> None:
    """Neither an edited workflow.py, nor what lies about to be found by an import."""
    ran = tmp_path / "ran"
    stranger = f"open({str(ran)!r}, 'w').close()\n"
    project = make_project(workflow, {})
    path = project.folder / WORKFLOW_FILE
    ours = path.read_text()
    for name in ("cbor2", "toml", "fastapi", "json", "modal"):
        (project.folder / f"{name}.py").write_text(stranger)
    compiled = Path(importlib.util.cache_from_source(str(path)))
    compiled.parent.mkdir()
    code = importlib._bootstrap_external._code_to_hash_pyc(  # type: ignore[attr-defined]
        compile(stranger, str(path), "exec"), b"01234567", checked=False
    )
    compiled.write_bytes(code)
    with pytest.raises(ConfigurationError, match="who you are"):
        await deploy(project.folder, lambda line: None, only_ours=True)
    path.write_text(ours + stranger)
    with pytest.raises(ConfigurationError, match="was edited") as refused:
        await deploy(project.folder, lambda line: None, only_ours=True)
    assert "modal deploy" in refused.value.advice
    assert not ran.exists()
    with pytest.raises(ConfigurationError, match="who you are"):
        await deploy(project.folder, lambda line: None)
    assert ran.exists(), "one's own edits are run"


@pytest.mark.usefixtures("_nobody")
async def test_cancelling_ends_the_process(workflow: Path, tmp_path: Path) -> None:
    project = make_project(workflow, {})
    (project.folder / WORKFLOW_FILE).write_text(
        "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    lines: list[str] = []
    work = asyncio.create_task(deploy(project.folder, lines.append))
    while not lines:
        await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(work, 60)
    if Path("/proc").is_dir():
        assert not Path(f"/proc/{lines[0].split()[1]}").exists()


async def test_without_the_sdk_it_says_how_to_get_it(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_remote.deploy.modal import deployment

    monkeypatch.setattr(deployment, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="not installed") as refused:
        await deploy(workflow.parent, lambda line: None)
    assert "pip install modal" in refused.value.advice


def test_making_a_project_needs_no_sdk(workflow: Path) -> None:
    code = (
        "import sys; sys.modules['modal'] = None\n"
        "from pathlib import Path\n"
        "from comfy_remote.deploy.modal.workflow_file import make_project\n"
        "make_project(Path(sys.argv[1]), {})"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(workflow)], cwd=ROOT, check=True, env={**os.environ}
    )
    assert (workflow.parent / "modal_comfy-remote" / WORKFLOW_FILE).is_file()


def test_files_that_calls_need_come_along_but_only_those_beside_the_workflow(
    tmp_path: Path,
) -> None:
    mine, private = tmp_path / "mine", tmp_path / "private.png"
    (mine / "input" / "sub").mkdir(parents=True)
    (mine / "input" / "sub" / "a.png").write_bytes(b"a")
    (mine / "b.png").write_bytes(b"b")
    private.write_bytes(b"private")
    names = ["sub/a.png", "b.png", "../private.png", str(private)]
    prompt: Any = {
        str(number): {"class_type": "LoadImage", "inputs": {"image": name}}
        for number, name in enumerate(names)
    }
    prompt["9"] = {
        "class_type": "ComfyRemoteOutput",
        "inputs": {"value": ["0", 0], "key": "result"},
    }
    flow = mine / "flow.json"
    flow.write_text(json.dumps(prompt))
    project = make_project(flow, {})
    copied = [path for path in (project.folder / "input").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in copied) == [b"a", b"b"]
    assert len([note for note in project.notes if "private.png" in note]) == 2
    (told,) = [note for note in project.notes if "deployed with it" in note]
    assert str(mine / "b.png") in told
    (project.folder / "input" / "private.png").write_bytes(b"put there by hand")
    again = make_project(flow, {})
    assert [note for note in again.notes if note.startswith("../private.png")] == []


def _with_model(key: str, name: str, kind: str) -> Any:
    return {"1": {"class_type": kind, "inputs": {key: name}}}


@pytest.mark.parametrize(
    ("prompt", "gpu", "why"),
    [
        ({"1": {"class_type": "ImageScale", "inputs": {}}}, None, "no models"),
        (_with_model("ckpt_name", "sd_xl.safetensors", "CheckpointLoaderSimple"), "A10", "sd_xl"),
        (_with_model("model_name", "4x.pth", "UpscaleModelLoader"), "A10", "4x.pth"),
        (_with_model("unet_name", "flux1-dev.safetensors", "UNETLoader"), "L40S", "flux1-dev"),
        (_with_model("unet_name", "wan2.2_14B_fp16.safetensors", "UNETLoader"), "H100", "14B"),
        (_with_model("unet_name", "wan_14B_fp8_scaled.safetensors", "UNETLoader"), "L40S", "fp8"),
        (_with_model("unet_name", "wan2.1_1.3B_fp16.safetensors", "UNETLoader"), "L40S", "1.3B"),
        ({"1": {"class_type": "Theirs", "inputs": {}}}, "A10", "Theirs"),
    ],
)
def test_the_command_takes_the_gpu_that_the_models_need(
    prompt: Any, gpu: str | None, why: str
) -> None:
    chosen = gpu_for(prompt, Schemas.bundled())
    assert chosen.gpu == gpu
    assert why in chosen.why


def test_a_deployment_without_an_app_is_called_by_its_file_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def front(app: str) -> str:
        asked.append(app)
        if app == "night":
            return "https://ann--night-front.modal.run"
        raise TargetNotFound("none")

    deployed: list[Path] = []

    async def deploying(folder: Path, *_: object, **__: object) -> str:
        deployed.append(folder)
        return "https://x.modal.run"

    monkeypatch.setattr("comfy_remote.deploy.modal.usual.find_front", front)
    monkeypatch.setattr("comfy_remote.deploy.modal.deployment.deploy", deploying)
    for name in ("day", "night"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"1": {"class_type": "ImageScale", "inputs": {}}})
        )
    ran = CliRunner().invoke(cli, ["deploy", "modal", str(tmp_path / "day.json")])
    assert ran.exception is None, ran.output
    assert deployed == [tmp_path / "modal_day"]
    config = ModalConfig.read(tmp_path / "modal_day" / CONFIG_FILE)
    assert (config.app_name, config.gpu_type) == ("day", None)
    assert "GPU: none, since it loads no models" in ran.output
    # It was deployed from there, so it is updated without a question; its GPU is what the file has.
    CliRunner().invoke(cli, ["deploy", "modal", str(tmp_path / "day.json")])
    assert (deployed, asked) == ([tmp_path / "modal_day"] * 2, ["day"])

    refused = CliRunner().invoke(cli, ["deploy", "modal", str(tmp_path / "night.json")])
    assert isinstance(refused.exception, ConfigurationError)
    assert "There is an app night at https://ann--night-front.modal.run" in str(refused.exception)
    assert not (tmp_path / "modal_night").exists()
    CliRunner().invoke(cli, ["deploy", "modal", str(tmp_path / "night.json"), "--app", "night"])
    assert deployed[-1] == tmp_path / "modal_night"
    assert app_named_after(Path("Ann's portraits (2).png")) == "Ann-s-portraits-2"
    with pytest.raises(ConfigurationError, match="named after"):
        app_named_after(Path("夜.json"))


def test_custom_nodes_are_converted_by_a_file_of_schemas(tmp_path: Path) -> None:
    """What the error advises is what the command takes."""
    flow = tmp_path / "flow.json"
    nodes = [
        {"id": 1, "type": "Theirs", "outputs": [], "inputs": [], "widgets_values": ["a", 5]},
    ]
    flow.write_text(json.dumps({"nodes": nodes, "links": [], "version": 0.4}))
    arguments = ["deploy", "modal", str(flow), "--no-deploy", "--json"]
    ran = CliRunner().invoke(cli, arguments)
    assert isinstance(ran.exception, WorkflowInvalid)
    advice = for_terminal(ran.exception.advice)
    assert "--on TARGET" in advice and "--schemas" in advice
    widgets = {"text": ["STRING", {}], "count": ["INT", {}]}
    node = {"input": {"required": widgets}, "output": [], "output_node": True, "name": "Theirs"}
    known = tmp_path / "object_info.json"
    known.write_text(json.dumps({"Theirs": node}))
    ran = CliRunner().invoke(cli, [*arguments, "--schemas", str(known)])
    assert ran.exception is None, ran.output
    prompt = json.loads((tmp_path / "modal_flow" / PROMPT_FILE).read_text())
    assert prompt["1"]["inputs"] == {"text": "a", "count": 5}
    both = CliRunner().invoke(cli, [*arguments, "--schemas", str(known), "--on", "sandbox"])
    assert both.exit_code == 2


def test_something_that_is_no_workflow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.json"
    path.write_text("[1, 2]")
    with pytest.raises(WorkflowInvalid):
        make_project(path, {})


def test_gpus_that_are_paid_for_all_day_are_asked_about() -> None:
    config = ModalConfig(min_containers=3, scaledown_window=1200, max_containers=9)
    assert config.named() == ["min_containers = 3"]
    assert ModalConfig().named() == []
