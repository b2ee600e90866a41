"""``comfy-remote deploy modal --lock``: what a lock names goes into the project, after a yes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from comfy_remote.cli.main import cli
from comfy_remote.config.folders import home
from comfy_remote.config.trust import TrustStore
from comfy_remote.deploy.modal.project import Project, named_in_folder
from comfy_remote.deploy.modal.workflow_file import make_project
from comfy_remote.errors import NotTrusted
from comfy_remote.ready.lock import Address, Lock, LockedComfyUI, LockedModel, LockedPack

COMMIT, OTHER = "ab" * 20, "cd" * 20
URL = "https://github.com/o/Thing"
VAE = "https://models.example/vae.safetensors"
LOCK = Lock(
    comfyui=LockedComfyUI(version="0.34.1", commit=OTHER),
    packs=(
        LockedPack(url=URL, commit=COMMIT, classes=("Thing",)),
        LockedPack(id="other", version="1.0.0"),
        LockedPack(id="comfy-remote", version="9.0.0"),
        LockedPack(id="unpinned"),
    ),
    models=(
        LockedModel(
            folder="vae",
            name="v.safetensors",
            sha256="1" * 64,
            addresses=(Address(by="x", url=VAE),),
        ),
        LockedModel(folder="loras", name="mine.safetensors"),
    ),
)
PACKS = [f"{URL}@{COMMIT}", "other@1.0.0"]
LINE = f'vae {VAE} name="v.safetensors" sha256={"1" * 64}'
WORKFLOW = {
    "1": {"class_type": "VAELoader", "inputs": {"vae_name": "v.safetensors"}},
    "2": {"class_type": "Thing", "inputs": {"vae": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("l.lock").write_text(LOCK.to_toml())
    path = tmp_path / "picture.json"
    path.write_text(json.dumps(WORKFLOW))
    return path


def made(workflow: Path, *, deploys: bool = False, **given: object) -> Project:
    return make_project(workflow, given, lock_file=Path("l.lock"), deploys=deploys)


def test_what_the_lock_names_is_in_the_config(workflow: Path) -> None:
    project = made(workflow)
    config = project.config
    assert config.custom_nodes == PACKS
    assert config.comfyui_version == "0.34.1"
    assert config.models == [LINE]
    notes = "\n".join(project.notes)
    assert "unpinned is not in it: the lock does not say its version" in notes
    assert "Thing is of" not in notes
    assert "where to get v.safetensors" not in notes


def test_a_persons_word_goes_before_the_locks_and_that_before_the_files(workflow: Path) -> None:
    newer = f"{URL}@{OTHER}"
    config = made(workflow, custom_nodes=[newer], comfyui_version="0.33.0").config
    assert config.custom_nodes == [newer, "other@1.0.0"]
    assert config.comfyui_version == "0.33.0"
    assert set(made(workflow).config.custom_nodes) == set(PACKS)
    assert made(workflow).config.comfyui_version == "0.34.1"


def test_nothing_is_deployed_before_a_yes_to_the_packs(workflow: Path) -> None:
    with pytest.raises(NotTrusted) as raised:
        made(workflow, deploys=True)
    assert raised.value.details["names"] == [f'custom_nodes: "{one}"' for one in PACKS]
    assert raised.value.asks_for is not None
    path, names = raised.value.asks_for
    TrustStore(home()).trust(path, [*names, *named_in_folder(path.parent)])
    assert made(workflow, deploys=True).config.custom_nodes == PACKS


def test_a_yes_to_the_lock_or_to_each_pack_is_enough(workflow: Path) -> None:
    named = {"custom_nodes": PACKS, "app_name": "first"}
    assert made(workflow, deploys=True, **named).brought == ()
    TrustStore(home()).trust(Path("l.lock"), LOCK.named)
    assert made(workflow, deploys=True, app_name="second").brought == ()


def test_the_command(workflow: Path) -> None:
    arguments = ["deploy", "modal", str(workflow), "--app", "p", "--no-deploy", "--lock", "l.lock"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    written = json.loads(Path("modal_p/modal_config.json").read_text())
    assert written["custom_nodes"] == PACKS
    hostile = LOCK.to_toml().replace('"1.0.0"', "\"1.0.0'; id; '\"")
    Path("l.lock").write_text(hostile)
    done = CliRunner().invoke(cli, [*arguments[:3], "--app", "q", *arguments[5:]])
    assert done.exit_code == 0, done.output
    assert re.search("other is not in it: what the lock says of it cannot be", done.output)
    assert json.loads(Path("modal_q/modal_config.json").read_text())["custom_nodes"] == PACKS[:1]
