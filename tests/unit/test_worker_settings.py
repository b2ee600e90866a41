"""What the worker reads from its environment, and what the engine may."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.choice import choose_engine
from comfy_remote.worker.settings import WorkerSettings


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def test_settings_from_the_environment() -> None:
    settings = WorkerSettings.from_environ(
        {
            "COMFY_REMOTE_RESULT_LIMIT": "5000000",
            "COMFY_REMOTE_JOB_TIMEOUT": "90.5",
            "COMFY_REMOTE_STORE_URL": "http://127.0.0.1:1/v2/ep/files",
            "RUNPOD_AI_API_KEY": "k",
            "RUNPOD_POD_ID": "w",
        }
    )
    assert (settings.result_limit, settings.job_timeout, settings.worker) == (5_000_000, 90.5, "w")
    assert settings.store_key.get_secret_value() == "k"
    assert "'k'" not in repr(settings)


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="COMFY_REMOTE_RESULT_LIMIT"):
        WorkerSettings.from_environ({"COMFY_REMOTE_RESULT_LIMIT": value})


def test_a_form_of_answers_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="COMFY_REMOTE_FORMAT is 'base64'") as caught:
        WorkerSettings.from_environ({"COMFY_REMOTE_FORMAT": "base64"})
    assert "plain" in caught.value.advice


def test_the_key_goes_nowhere_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="https"):
        WorkerSettings.from_environ({"COMFY_REMOTE_STORE_URL": "http://gateway.example/files"})


@pytest.mark.parametrize(("value", "off"), [("false", True), ("true", False), ("", False)])
def test_metadata_is_off_where_the_owner_says_so(comfyui: Path, value: str, off: bool) -> None:
    environ = {"COMFYUI_DIR": str(comfyui), "COMFY_REMOTE_METADATA": value, "COMFYUI_ARGS": "--cpu"}
    assert ("--disable-metadata" in choose_engine("auto", environ).command) is off
    with pytest.raises(ConfigurationError, match="neither true nor false: 'no'"):
        choose_engine("auto", {**environ, "COMFY_REMOTE_METADATA": "no"})


def test_a_url_is_an_engine_that_runs_already() -> None:
    choice = choose_engine("http://127.0.0.1:8188/", {})
    assert (choice.url, choice.command) == ("http://127.0.0.1:8188", ())


def test_auto_prefers_comfyui_dir_and_starts_it_with_its_own_python(comfyui: Path) -> None:
    inside = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    python = comfyui / ".venv" / inside[0] / inside[1]
    python.parent.mkdir(parents=True)
    python.touch()
    environ = {"COMFYUI_DIR": str(comfyui), "COMFYUI_ARGS": "--cpu --base-directory '/a b'"}
    choice = choose_engine("auto", environ)
    assert choice.command[0] == str(python)
    arguments = list(choice.command[choice.command.index(str(comfyui / "main.py")) + 1 :])
    assert arguments[:3] == ["--listen", "127.0.0.1", "--port"]
    assert choice.url == f"http://127.0.0.1:{arguments[3]}"
    assert arguments[-3:] == ["--cpu", "--base-directory", "/a b"]
    assert arguments.count("--cpu") == 1
    assert choose_engine("auto", {**environ, "COMFYUI_PYTHON": "py"}).command[0] == "py"


def test_auto_finds_a_comfyui_at_home_else_takes_the_sandbox(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: comfyui.parent)
    assert choose_engine("auto", {}).name == f"ComfyUI in {comfyui}"
    monkeypatch.setattr(Path, "home", lambda: comfyui.parent / "nobody")
    choice = choose_engine("auto", {})
    assert choice.name == "the sandbox"
    assert "COMFYUI_DIR" in choice.notes[0]
    assert choice.command[-3:] == ("comfy_remote.sandbox", "--port", "0")


def test_without_a_gpu_comfyui_computes_on_the_cpu(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpu in (True, False):
        monkeypatch.setattr("comfy_remote.worker.choice.has_gpu", lambda _python, gpu=gpu: gpu)
        choice = choose_engine(str(comfyui), {})
        assert ("--cpu" in choice.command) is not gpu
        assert any("--cpu" in note for note in choice.notes) is not gpu
        assert "--cpu" not in choose_engine(str(comfyui), {"COMFYUI_ARGS": "--lowvram"}).command
        assert not any("ZLUDA" in note for note in choice.notes)
    (comfyui / "zluda").mkdir()
    (comfyui / "zluda" / "zluda.exe").touch()
    assert any("ZLUDA" in note for note in choose_engine(str(comfyui), {}).notes)


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a ComfyUI"):
        choose_engine(str(tmp_path), {})
    with pytest.raises(ConfigurationError, match="is not a ComfyUI"):
        choose_engine("auto", {"COMFYUI_DIR": str(tmp_path)})
