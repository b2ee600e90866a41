"""`comfy_remote.ready.local` and `snapshots`: a ComfyUI on this machine, and notes of one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import git

from comfy_remote.errors import ConfigurationError
from comfy_remote.ready.hashing import LocalModel, hash_models, known_hash
from comfy_remote.ready.local import find_local, local_at
from comfy_remote.ready.needs import Needs
from comfy_remote.ready.snapshots import newest_snapshot, read_snapshot
from comfy_remote.ready.there import local_there
from comfy_remote.wire.installed import InstalledPack
from comfy_remote.worker.models.hashes import ModelHashes

COMMIT = "ab" * 20


def make_comfyui(folder: Path) -> Path:
    """The files by which a ComfyUI is known."""
    for name in ("comfy", "custom_nodes", "models/loras", "user"):
        (folder / name).mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text('# generated\n__version__ = "0.33.0"\n')
    return folder


def make_pack(comfyui: Path, name: str, source: str, project: str = "") -> Path:
    """A pack in ``custom_nodes``."""
    folder = comfyui / "custom_nodes" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(source)
    if project:
        (folder / "pyproject.toml").write_text(project)
    return folder


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    return make_comfyui(tmp_path / "ComfyUI")


def found(home: Path, **more: Any) -> tuple[Path, str] | None:
    """Base and words of what is found, on a machine with this home folder and nothing else."""
    elsewhere = home.parent / "not" / "here" / "at" / "all"
    environ = {"HOME": str(home), **more.pop("environ", {})}
    known = {"current": elsewhere, "package": home, "platform": "linux", **more}
    one = find_local(None, environ, **known)
    return None if one is None else (one.base, one.found_by)


def test_where_a_comfyui_is_found(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert found(home) is None
    desktop = make_comfyui(tmp_path / "installs" / "one" / "ComfyUI")
    other = make_comfyui(tmp_path / "installs" / "two" / "ComfyUI")
    notes = home / ".local" / "share" / "comfyui-desktop-2"
    notes.mkdir(parents=True)
    (notes / "installations.json").write_text(
        json.dumps(
            [
                {"installPath": str(other.parent), "lastLaunchedAt": 1},
                {"installPath": str(desktop.parent), "lastLaunchedAt": 2},
                {"sourceId": "cloud"},
            ]
        )
    )
    assert found(home) == (desktop, "Comfy Desktop")
    homes = make_comfyui(home / "ComfyUI")
    assert found(home) == (homes, "the home folder")
    clis = make_comfyui(home / "comfy" / "ComfyUI")
    assert found(home) == (clis, "comfy-cli's folder")
    portable = make_comfyui(tmp_path / "portable" / "ComfyUI")
    assert found(home, current=portable.parent) == (portable, "the current folder")
    assert found(home, current=portable / "user") == (portable, "the current folder")
    ours = homes / "custom_nodes" / "comfy-remote"
    assert found(home, package=ours) == (homes, "the one that this pack is installed in")
    named = {"COMFYUI_DIR": str(portable.parent)}
    assert found(home, package=ours, environ=named) == (portable, "COMFYUI_DIR")


def test_desktops_folder_has_no_source(tmp_path: Path) -> None:
    base, app_data = tmp_path / "docs" / "ComfyUI", tmp_path / "roaming"
    for name in ("models/vae", "user", "custom_nodes"):
        (base / name).mkdir(parents=True)
    (app_data / "ComfyUI").mkdir(parents=True)
    (app_data / "ComfyUI" / "config.json").write_text(json.dumps({"basePath": str(base)}))
    shared = tmp_path / "shared" / "loras"
    shared.mkdir(parents=True)
    (app_data / "ComfyUI" / "extra_models_config.yaml").write_text(
        f"comfyui_desktop:\n  is_default: true\n  base_path: {shared.parent}\n  loras: loras/\n"
    )
    environ = {"APPDATA": str(app_data), "USERPROFILE": str(tmp_path / "home")}
    one = find_local(None, environ, current=tmp_path, package=tmp_path, platform="win32")
    assert one is not None
    assert (one.base, one.source, one.found_by) == (base, None, "ComfyUI Desktop")
    assert one.comfyui().version is None
    assert "Desktop keeps" in str(one.comfyui().unknown)
    assert one.models() == {"vae": [base / "models" / "vae"], "loras": [shared]}
    # A folder of somebody's project that happens to have the two is none.
    assert local_at(base, "", base=False) is None


def test_a_folder_that_is_named_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a ComfyUI"):
        find_local(tmp_path)


def test_its_version_and_commit(comfyui: Path) -> None:
    git(comfyui, "init", "--quiet")
    git(comfyui, "add", ".")
    git(comfyui, "commit", "--quiet", "-m", "one")
    one = find_local(comfyui)
    assert one is not None
    said = one.comfyui()
    assert (said.version, said.commit) == ("0.33.0", git(comfyui, "rev-parse", "HEAD"))


def test_the_folders_of_extra_model_paths(comfyui: Path, tmp_path: Path) -> None:
    for name in ("a/Lora", "a/lycoris", "nodes"):
        (tmp_path / name).mkdir(parents=True)
    (comfyui / "extra_model_paths.yaml").write_text(
        f"a111:\n  base_path: ../a\n  loras: |\n    Lora\n    lycoris\n  unet: none\n"
        f"other:\n  custom_nodes: {tmp_path / 'nodes'}\nempty:\n"
    )
    one = local_at(comfyui, "")
    assert one is not None
    assert one.models()["loras"] == [
        comfyui / "models" / "loras",
        tmp_path / "a" / "Lora",
        tmp_path / "a" / "lycoris",
    ]
    assert one.custom_nodes() == [comfyui / "custom_nodes", tmp_path / "nodes"]
    assert one.problems == []


def test_extra_model_paths_that_cannot_be_read_are_said(comfyui: Path) -> None:
    (comfyui / "extra_model_paths.yaml").write_text("a: [b\n")
    one = local_at(comfyui, "")
    assert one is not None
    assert one.models() == {"loras": [comfyui / "models" / "loras"]}
    assert len(one.problems) == 1
    assert "is no YAML" in one.problems[0]


def test_the_pack_of_a_class_is_found_in_its_text(comfyui: Path) -> None:
    make_pack(comfyui, "one", 'NODE_CLASS_MAPPINGS = {"My Node": A, "Shared": B}\n')
    make_pack(comfyui, "two", 'Schema(node_id="New|v3")\nX = {"Shared": 1}\nsay("My Node")\n')
    one = local_at(comfyui, "")
    assert one is not None
    wanted = ["My Node", "New|v3", "Shared", "Nobody's"]
    assert one.classes(wanted) == {"My Node": "one", "New|v3": "two"}


def test_what_the_tests_of_a_pack_name_is_not_its_own(comfyui: Path) -> None:
    make_pack(comfyui, "one", 'NODE_CLASS_MAPPINGS = {"My Node": A}\n')
    make_pack(comfyui, "two", "")
    tests = comfyui / "custom_nodes" / "two" / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text('NODES = {"My Node": 1}\n')
    one = local_at(comfyui, "")
    assert one is not None
    assert one.classes(["My Node"]) == {"My Node": "one"}


async def test_the_hash_of_a_model_is_computed_once(comfyui: Path) -> None:
    folder = comfyui / "models" / "loras"
    (folder / "a.safetensors").write_bytes(b"x" * 10)
    model = LocalModel("loras", "a.safetensors", folder, 10)
    seen: list[tuple[int, int]] = []
    hashed = await hash_models(
        [model], ModelHashes(), lambda done, total: seen.append((done, total))
    )
    assert hashed == {model: hashlib.sha256(b"x" * 10).hexdigest()}
    assert known_hash(model, ModelHashes()) == hashed[model]
    assert seen == [(10, 10)]
    # Noted where a worker on this folder looks for it.
    assert ModelHashes().known(comfyui / "models", folder / "a.safetensors") is not None
    (folder / "a.safetensors").write_bytes(b"y" * 11)
    assert known_hash(model, ModelHashes()) is None


async def test_a_model_that_cannot_be_read_has_no_hash(comfyui: Path) -> None:
    gone = LocalModel("loras", "gone.safetensors", comfyui / "models" / "loras", 10)
    assert await hash_models([gone], ModelHashes()) == {}


async def test_what_a_comfyui_here_has(comfyui: Path) -> None:
    make_pack(comfyui, "one", 'M = {"My Node": A}\n', '[project]\nname="one-id"\nversion="1.0"\n')
    make_pack(comfyui, "bare", "M = {}\n")
    (comfyui / "models" / "loras" / "sub").mkdir()
    (comfyui / "models" / "loras" / "sub" / "a.safetensors").write_bytes(b"x")
    (comfyui / "models" / "embeddings").mkdir()
    (comfyui / "models" / "embeddings" / "easy.pt").write_bytes(b"y")
    one = local_at(comfyui, "")
    assert one is not None
    needs = Needs(
        classes={"My Node": None},
        models={
            ("sub/a.safetensors", "loras"): [],
            ("easy", "embeddings"): [],
            ("none.safetensors", None): [],
            ("../../main.py", "loras"): [],
        },
    )
    there = await local_there(one, needs)
    assert there.comfyui == "0.33.0"
    assert there.classes == {"My Node": "one"}
    assert {
        name: [file.name for file in files] for name, files in (there.models or {}).items()
    } == {
        "loras": ["sub/a.safetensors"],
        "embeddings": ["easy.pt"],
    }
    assert all(file.sha256 for files in (there.models or {}).values() for file in files)
    assert [(pack.name, pack.version) for pack in there.packs or ()] == [
        ("bare", None),
        ("one", "1.0"),
    ]


async def test_hashes_can_be_left_out(comfyui: Path) -> None:
    (comfyui / "models" / "loras" / "a.safetensors").write_bytes(b"x")
    one = local_at(comfyui, "")
    assert one is not None
    needs = Needs(models={("a.safetensors", "loras"): []})
    there = await local_there(one, needs, compute_hashes=False)
    [file] = (there.models or {})["loras"]
    assert (file.size, file.sha256) == (1, None)
    await local_there(one, needs)
    there = await local_there(one, needs, compute_hashes=False)  # it is noted now
    assert (there.models or {})["loras"][0].sha256 is not None


MANAGERS: dict[str, Any] = {
    "comfyui": COMMIT,
    "git_custom_nodes": {
        "https://github.com/o/Git-Pack.git": {"hash": COMMIT, "disabled": False},
        "https://me:planted@github.com/o/Off": {"hash": COMMIT, "disabled": True},
    },
    "cnr_custom_nodes": {"cnr-pack": "1.2.3"},
    "file_custom_nodes": [
        {"filename": "one_file.py", "disabled": False},
        {"filename": "off.py.disabled", "disabled": True},
    ],
    "pips": {"torch==2.11.0": ""},
}
DESKTOPS: dict[str, Any] = {
    "version": 2,
    "createdAt": "2026-11-30T10:00:00.000Z",
    "trigger": "boot",
    "label": None,
    "comfyui": {"ref": "v0.33.0", "commit": COMMIT, "releaseTag": "v1", "variant": "win-nvidia"},
    "customNodes": [
        {
            "id": "cnr-pack",
            "type": "cnr",
            "dirName": "cnr-pack",
            "enabled": True,
            "version": "1.2.3",
        },
        {
            "id": "Git-Pack",
            "type": "git",
            "dirName": "Git-Pack",
            "enabled": True,
            "url": "https://github.com/o/Git-Pack.git",
            "commit": COMMIT,
        },
        {"id": "off", "type": "git", "dirName": "off", "enabled": False},
        {"id": "one_file.py", "type": "file", "dirName": "one_file.py", "enabled": True},
    ],
    "pipPackages": {},
}
PACKS = (
    InstalledPack(name="cnr-pack", registry_id="cnr-pack", version="1.2.3"),
    InstalledPack(name="Git-Pack", url="https://github.com/o/Git-Pack.git", commit=COMMIT),
    InstalledPack(name="one_file"),
)


def test_managers_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-30_10-00-00_snapshot.json"
    path.write_text(json.dumps(MANAGERS, indent=4))
    snapshot = read_snapshot(path)
    assert snapshot.packs == PACKS
    assert (snapshot.comfyui.version, snapshot.comfyui.commit) == (None, COMMIT)
    assert "not its version" in str(snapshot.comfyui.unknown)


@pytest.mark.parametrize("exported", [False, True])
def test_desktops_snapshot(tmp_path: Path, exported: bool) -> None:
    document: Any = DESKTOPS
    if exported:
        older = {**DESKTOPS, "createdAt": "2026-01-01T00:00:00.000Z", "customNodes": []}
        document = {
            "type": "comfyui-desktop-2-snapshot",
            "version": 2,
            "snapshots": [older, DESKTOPS],
        }
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(document))
    snapshot = read_snapshot(path)
    assert snapshot.packs == PACKS
    assert (snapshot.comfyui.version, snapshot.comfyui.commit) == ("0.33.0", COMMIT)


def test_a_desktop_that_is_ahead_of_a_release_says_no_version(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    ahead = {"ref": "v0.33.0", "commit": COMMIT, "baseTag": "v0.33.0", "commitsAhead": 3}
    path.write_text(json.dumps({**DESKTOPS, "comfyui": ahead}))
    assert read_snapshot(path).comfyui.version is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "custom_nodes:\n  comfyui: x\n", '{"a": 1}'])
def test_what_is_no_snapshot_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "snapshot.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be read as a snapshot"):
        read_snapshot(path)


async def test_the_newest_snapshot_completes_what_a_pack_does_not_say(comfyui: Path) -> None:
    make_pack(comfyui, "Git-Pack", "M = {}\n")
    one = local_at(comfyui, "")
    assert one is not None
    assert newest_snapshot(one) is None
    managers = comfyui / "user" / "__manager" / "snapshots"
    desktops = comfyui.parent / ".launcher" / "snapshots"
    for folder, name, document, at in (
        (managers, "old.json", MANAGERS, 1_000_000),
        (desktops, "new.json", DESKTOPS, 2_000_000),
        (desktops, "manifest.json", {"a": 1}, 3_000_000),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
        os.utime(folder / name, (at, at))
    newest = newest_snapshot(one)
    assert newest is not None
    assert newest.source == str(desktops / "new.json")
    there = await local_there(one, Needs(), newest)
    assert [(pack.commit, pack.url) for pack in there.packs or ()] == [
        (COMMIT, "https://github.com/o/Git-Pack.git")
    ]
