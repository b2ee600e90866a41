"""How a ComfyUI is started: what the worker's environment says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.choice import choose_engine


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
