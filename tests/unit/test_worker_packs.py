"""What a worker says of the node packs in its ComfyUI."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers import git

from comfy_remote.targets.engine_arguments import arguments_of, lasting_arguments
from comfy_remote.types import JsonValue
from comfy_remote.wire.installed import InstalledPack
from comfy_remote.worker.packs import custom_node_folders, installed_packs


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A clone as people have them."""
    folder = tmp_path / "custom_nodes" / "ComfyUI-Thing"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "comfyui-thing"\nversion = "1.2.3"\n')
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "remote", "add", "origin", "https://me:planted@github.com/o/ComfyUI-Thing.git")
    return folder


def said(pack: Path) -> InstalledPack:
    [found] = installed_packs([pack.name], [pack.parent])
    return found


def test_a_clone_has_version_commit_and_address(pack: Path) -> None:
    found = said(pack)
    assert (found.registry_id, found.version) == ("comfyui-thing", "1.2.3")
    assert found.commit == git(pack, "rev-parse", "HEAD")
    assert found.url == "https://github.com/o/ComfyUI-Thing.git"
    assert found.content is not None


def test_the_commit_is_found_however_git_keeps_it(pack: Path, tmp_path: Path) -> None:
    commit = git(pack, "rev-parse", "HEAD")
    git(pack, "pack-refs", "--all")
    assert said(pack).commit == commit
    git(pack, "checkout", "--quiet", "--detach")
    assert said(pack).commit == commit
    # As in a submodule: .git is a file that names the folder.
    (pack / ".git").rename(tmp_path / "modules")
    (pack / ".git").write_text(f"gitdir: {tmp_path / 'modules'}\n")
    assert said(pack).commit == commit
    (tmp_path / "modules" / "HEAD").write_text("ref: refs/../../../etc/passwd\n")
    assert said(pack).commit is None


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("git@github.com:o/ComfyUI-Thing.git", "git@github.com:o/ComfyUI-Thing.git"),
        ("ssh://git@github.com/o/n", "ssh://github.com/o/n"),
        ("https://token@github.com/o/n?key=planted#x", "https://github.com/o/n"),
        ("/home/ann/src/thing", None),
        ("../thing", None),
        ("file:///home/ann/src/thing", None),
        ("C:\\Users\\ann\\thing", None),
        ("planted@host:o/n", None),
    ],
)
def test_an_address_has_no_login_and_no_folder_of_its_machine(
    pack: Path, origin: str, url: str | None
) -> None:
    git(pack, "config", "remote.origin.url", "X")
    config = pack / ".git" / "config"
    config.write_text(config.read_text().replace("url = X", f"url = {origin}"))
    assert said(pack).url == url


def test_a_pack_that_somebody_has_changed_differs(pack: Path) -> None:
    before = said(pack)
    (pack / "nodes.py").write_text("x = 1\n")
    after = said(pack)
    assert (after.commit, after.version) == (before.commit, before.version)
    assert after.content != before.content
    # What Python writes by itself is not a change.
    (pack / "__pycache__").mkdir()
    (pack / "__pycache__" / "nodes.py").write_text("y = 2\n")
    assert said(pack).content == after.content


def test_the_content_does_not_depend_on_where_it_is(pack: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "ComfyUI-Thing"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    assert said(copy).content == said(pack).content
    assert said(copy).commit is said(copy).version is None


def test_a_pack_of_one_file_and_one_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "custom_nodes"
    folder.mkdir()
    (folder / "single.py").write_text("x = 1\n")
    gone, single = installed_packs({"single", "gone"}, [tmp_path / "none", folder])
    assert gone == InstalledPack(name="gone")
    assert single.content is not None
    assert single.version is single.commit is single.url is None


@pytest.mark.parametrize("text", ["", "[project", "project = 3", '[project]\nversion = ["1"]'])
def test_a_pack_that_says_nothing_of_use_is_listed(pack: Path, text: str) -> None:
    (pack / "pyproject.toml").write_text(text)
    assert said(pack).version is None
    assert said(pack).commit is not None


@pytest.mark.skipif(sys.platform == "win32", reason="has neither")
@pytest.mark.parametrize("place", ["nodes.py", "pyproject.toml", ".git/HEAD"])
def test_a_pipe_is_not_waited_for(pack: Path, place: str) -> None:
    (pack / place).unlink(missing_ok=True)
    os.mkfifo(pack / place)
    assert said(pack).content is not None


def test_what_git_and_the_disk_have_of_a_pack_may_be_odd(pack: Path) -> None:
    (pack / ".git" / "HEAD").write_text("ref: refs/heads/\0\n")
    with (pack / "huge.py").open("wb") as file:
        file.truncate(50 * 1024**3)  # takes no room, but would take memory
    assert said(pack).commit is said(pack).content is None
    (pack / "huge.py").unlink()
    if sys.platform == "linux":
        before = said(pack).content
        Path(os.fsdecode(os.fsencode(pack) + b"/caf\xe9.py")).write_text("x = 1\n")
        assert said(pack).content not in (None, before)


def stats(*argv: str) -> dict[str, JsonValue]:
    return {"system": {"argv": [*argv]}}


def test_packs_are_looked_for_where_the_engine_has_them(tmp_path: Path) -> None:
    for folder in ("ComfyUI/custom_nodes", "base/custom_nodes", "volume/ComfyUI/custom_nodes"):
        (tmp_path / folder).mkdir(parents=True)
    main, volume = f"{tmp_path}/ComfyUI/main.py", tmp_path / "volume"
    on_volume = volume / "ComfyUI" / "custom_nodes"
    assert custom_node_folders(stats(main), volume) == [
        tmp_path / "ComfyUI" / "custom_nodes",
        on_volume,
    ]
    with_base = stats(main, "--base-directory", f"{tmp_path}/base")
    assert custom_node_folders(with_base, volume) == [tmp_path / "base" / "custom_nodes", on_volume]
    assert custom_node_folders({}, tmp_path / "none") == []


def test_arguments_that_change_no_result_are_left_out() -> None:
    given = stats(
        *("/ComfyUI/main.py", "--listen", "127.0.0.1", "--port", "4711", "--cpu"),
        *("--disable-auto-launch", "--preview-method", "auto", "--base-directory=/tmp/x"),
        *("--fp8_e4m3fn-unet", "--reserve-vram", "2.5", "--fast", "fp16_accumulation", "autotune"),
    )
    assert lasting_arguments(arguments_of(given)) == [
        *("--cpu", "--fp8_e4m3fn-unet", "--reserve-vram", "2.5"),
        *("--fast", "fp16_accumulation", "autotune"),
    ]
    assert lasting_arguments(arguments_of({})) == []
    paths = ("--front-end-root", "/home/ann/page", "--a-packs-file=/home/ann/a.txt", "--cpu")
    assert lasting_arguments(arguments_of(stats("main.py", *paths))) == [
        "--a-packs-file=a.txt",
        "--cpu",
    ]
    windows = stats("main.py", "--a-packs-file", "C:\\Users\\ann\\a.txt", "--b", "a/b")
    assert lasting_arguments(arguments_of(windows)) == ["--a-packs-file", "a.txt", "--b", "a/b"]
