"""What is to be typed where only the node pack is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from comfy_remote.targets import own_command
from comfy_remote.targets.own_command import as_typed_here, command_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """As ComfyUI's Manager puts it there."""
    folder = tmp_path / "ComfyUI" / "custom_nodes" / "comfy-remote"
    folder.mkdir(parents=True)
    (folder / "__main__.py").touch()
    return folder


def test_where_the_command_is_installed_it_is_that(tmp_path: Path, pack: Path) -> None:
    for name, windows in (("comfy-remote", False), ("comfy-remote.exe", True)):
        scripts = tmp_path / name / "Scripts"
        scripts.mkdir(parents=True)
        (scripts / name).touch(mode=0o755)
        python = scripts / "python"
        assert command_of(python, pack, path="", windows=windows) == "comfy-remote"
    on_path = tmp_path / "comfy-remote" / "Scripts"
    assert command_of(Path("/usr/bin/python3"), pack, path=str(on_path)) == "comfy-remote"


def test_with_the_node_pack_alone_its_folder_is_run(pack: Path, tmp_path: Path) -> None:
    python = tmp_path / "python_embeded" / "python.exe"
    assert command_of(python, pack, path="", windows=True) == f"{python} {pack}"
    assert command_of(python, pack, path="", windows=False) == f"{python} {pack}"


def test_in_powershell_a_program_in_quotation_marks_is_called(tmp_path: Path, pack: Path) -> None:
    python = tmp_path / "My Files" / "python.exe"
    assert command_of(python, pack, path="", windows=True) == f'& "{python}" {pack}'
    assert command_of(python, pack, path="", windows=False) == f"'{python}' {pack}"


def test_a_package_without_its_command_on_the_path_is_a_module(tmp_path: Path) -> None:
    python = tmp_path / "python"
    site_packages = tmp_path / "site-packages"
    assert command_of(python, site_packages, path="") == f"{python} -m comfy_remote"


def test_the_folder_runs_in_an_isolated_python(tmp_path: Path) -> None:
    """As the portable ComfyUI's Python is: it finds nothing in the folder it is started in."""
    command = [sys.executable, "-I", str(ROOT), "--version"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert ended.stdout.startswith("comfy-remote "), ended.stderr


def test_only_commands_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_command, "own_command", lambda: r"C:\py.exe C:\pack\1")
    text = "Run `comfy-remote jobs resume x`, or comfy-remote trust a. See /opt/comfy-remote too."
    assert as_typed_here(text) == (
        r"Run `C:\py.exe C:\pack\1 jobs resume x`, or C:\py.exe C:\pack\1 trust a. "
        "See /opt/comfy-remote too."
    )
    for other in ("pip install comfy-remote", "comfy-remote: no such", "comfy-run-remote --help"):
        assert as_typed_here(other) == other
