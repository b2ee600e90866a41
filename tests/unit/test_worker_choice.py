"""How a ComfyUI is started: what the worker's environment says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.choice import choose_engine, engine_arguments, has_gpu


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("")
    return tmp_path


def level_of(command: tuple[str, ...]) -> str | None:
    return command[command.index("--verbose") + 1] if "--verbose" in command else None


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, None),
        ({"COMFY_LOG_LEVEL": " "}, None),
        ({"COMFY_LOG_LEVEL": "DEBUG"}, "DEBUG"),
        ({"COMFY_LOG_LEVEL": "warning"}, "WARNING"),
        # What somebody says to ComfyUI itself goes before it.
        ({"COMFY_LOG_LEVEL": "DEBUG", "COMFYUI_ARGS": "--verbose ERROR"}, "ERROR"),
    ],
)
def test_comfy_log_level(comfyui: Path, environ: dict[str, str], level: str | None) -> None:
    command = choose_engine(str(comfyui), environ).command
    assert level_of(command) == level
    assert command.count("--verbose") <= 1


def test_a_level_that_is_none_is_refused_before_comfyui_is_started(comfyui: Path) -> None:
    with pytest.raises(ConfigurationError, match="which is not one of DEBUG, INFO"):
        choose_engine(str(comfyui), {"COMFY_LOG_LEVEL": "LOUD"})


@pytest.mark.parametrize(
    ("text", "windows", "arguments"),
    [
        (r"--base-directory D:\ComfyUI\new", True, ["--base-directory", r"D:\ComfyUI\new"]),
        (r'--output-directory "D:\my files\"', True, ["--output-directory", "D:\\my files\\"]),
        (r"--output-directory '\\nas\my share' --cpu", True, None),
        (r"--base-directory /a\ b # c", False, ["--base-directory", "/a b", "#", "c"]),
        ("--cpu --base-directory '/a b'", False, ["--cpu", "--base-directory", "/a b"]),
        ("", True, []),
    ],
)
def test_arguments_are_split_as_people_write_them(
    text: str, windows: bool, arguments: list[str] | None
) -> None:
    wanted = arguments or (["--output-directory", r"\\nas\my share", "--cpu"] if text else [])
    assert engine_arguments(text, windows=windows) == wanted


def test_a_quotation_mark_without_a_partner_is_said() -> None:
    with pytest.raises(ConfigurationError, match="COMFYUI_ARGS cannot be split"):
        engine_arguments('--output-directory "D:\\my files', windows=True)


VERSION = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip']
__version__ = '2.7.1{build}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'e2d141dbde55c2a4370fac5165b0561b6af4798b'
hip: Optional[str] = {hip}
xpu: Optional[str] = {xpu}
"""


@pytest.mark.parametrize("folder", ["python_embeded", "venv/Scripts"])
@pytest.mark.parametrize(
    ("build", "found"),
    [
        ({"build": "+rocm6.4", "hip": "'6.4.43482'"}, True),
        ({"build": "+xpu", "xpu": "'20250101'"}, True),
        ({"build": "+cu128", "cuda": "'12.8'"}, False),  # NVIDIA's driver would bring nvidia-smi
        ({"build": "+cpu"}, False),
        (None, False),
    ],
)
def test_on_windows_torch_says_whether_there_is_another_makers_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    build: dict[str, str] | None,
    found: bool,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(Path, "exists", lambda _path: False)  # this machine's devices
    python = tmp_path / folder / "python.exe"
    python.parent.mkdir(parents=True)
    if build is not None:
        torch = tmp_path / Path(folder).parts[0] / "Lib/site-packages/torch"
        torch.mkdir(parents=True)
        values = {"cuda": "None", "hip": "None", "xpu": "None", **build}
        (torch / "version.py").write_text(VERSION.format(**values))
    assert has_gpu(str(python), "win32") is found
    assert has_gpu(str(python), "linux") is False
    assert has_gpu(str(python), "darwin") is True
