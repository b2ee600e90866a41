"""Credentials from .env files: which are taken, from where, and what wins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.targets import environment as environment_module
from comfy_remote.targets.environment import load_env_files, nearest_folder, pack_folders

KEY = "planted-key-1234567890"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".env"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def loaded(*folders: Path, **already: str) -> dict[str, str]:
    load_env_files(folders, already)
    return already


def test_credentials_are_taken_and_nothing_else(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"# mine\nexport RUNPOD_API_KEY='{KEY}'\nRUNPOD_ENDPOINT_ID = abc # the small one\n"
        "PATH=/evil\nRUNPOD_ENDPOINT_BASE_URL=https://evil.example\nHF_TOKEN=x\n",
    )
    found: dict[str, str] = {}
    assert load_env_files([tmp_path], found) == [path]
    assert found == {"RUNPOD_API_KEY": KEY, "RUNPOD_ENDPOINT_ID": "abc"}


def test_the_environment_wins_even_where_it_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path, f"RUNPOD_API_KEY={KEY}\nRUNPOD_ENDPOINT_ID=abc\n")
    assert loaded(tmp_path, RUNPOD_API_KEY="own", RUNPOD_ENDPOINT_ID="") == {
        "RUNPOD_API_KEY": "own",
        "RUNPOD_ENDPOINT_ID": "",
    }
    assert load_env_files([tmp_path], {"RUNPOD_API_KEY": "a", "RUNPOD_ENDPOINT_ID": "b"}) == []
    assert path.read_text().startswith("RUNPOD")


def test_the_first_folder_counts_and_the_others_add(tmp_path: Path) -> None:
    write(tmp_path / "a", "RUNPOD_API_KEY=a\n")
    write(tmp_path / "b", "RUNPOD_API_KEY=b\nRUNPOD_ENDPOINT_ID=b\n")
    found = loaded(tmp_path / "none", tmp_path / "a", tmp_path / "b")
    assert found == {"RUNPOD_API_KEY": "a", "RUNPOD_ENDPOINT_ID": "b"}


def test_the_variables_that_targets_name_are_taken(tmp_path: Path) -> None:
    (tmp_path / "comfy-remote.toml").write_text(
        '[targets.box]\ntarget = "https://box.example"\nkey_env = "BOX_TOKEN"\n'
    )
    write(tmp_path, f"BOX_TOKEN={KEY}\nOTHER_TOKEN=x\n")
    assert loaded(tmp_path) == {"BOX_TOKEN": KEY}


def test_a_broken_configuration_does_not_hide_the_key(tmp_path: Path) -> None:
    (tmp_path / "comfy-remote.toml").write_text("[[[")
    write(tmp_path, f"RUNPOD_API_KEY={KEY}\n")
    assert loaded(tmp_path) == {"RUNPOD_API_KEY": KEY}


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffRUNPOD_API_KEY={KEY}\r\n",
        f'RUNPOD_API_KEY="{KEY}"',
        f"RUNPOD_API_KEY={KEY}\nthis is no line of it",
    ],
)
def test_files_as_windows_and_people_write_them(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert loaded(tmp_path) == {"RUNPOD_API_KEY": KEY}


@pytest.mark.parametrize("text", ["", "RUNPOD_API_KEY=\n", "RUNPOD_API_KEY\n"])
def test_nothing_in_it_is_nothing_taken(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert loaded(tmp_path) == {}


def test_a_key_is_taken_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF", "expanded")
    write(tmp_path, "RUNPOD_API_KEY=a${HOME_OF}b$c\n")
    assert loaded(tmp_path) == {"RUNPOD_API_KEY": "a${HOME_OF}b$c"}


def test_one_that_is_no_text_is_named_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, b"RUNPOD_API_KEY=secret\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        loaded(tmp_path)
    assert str(path) in caught.value.message
    assert "secret" not in str(caught.value)


def test_a_folder_of_that_name_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert loaded(tmp_path) == {}


def test_the_nearest_folder_upward(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    write(tmp_path, "")
    assert nearest_folder(deep) == [tmp_path]
    write(tmp_path / "a", "")
    assert nearest_folder(deep) == [tmp_path / "a"]


def test_where_the_pack_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack_folders() == [tmp_path]
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "any name"
    module = pack / "comfy_remote" / "targets" / "environment.py"
    monkeypatch.setattr(environment_module, "__file__", str(module))
    assert pack_folders() == [pack, tmp_path / "ComfyUI", tmp_path]


def test_the_command_reads_it(tmp_path: Path) -> None:
    (tmp_path / "comfy-remote.toml").write_text(
        '[targets.box]\ntarget = "https://box.example"\nkey_env = "BOX_TOKEN_OF_TEST"\n'
    )
    command = [sys.executable, "-m", "comfy_remote", "targets", "--json"]

    def key_is_set() -> bool:
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert KEY not in run.stdout + run.stderr
        return '"key_set": true' in run.stdout

    assert not key_is_set()
    write(tmp_path, f"BOX_TOKEN_OF_TEST={KEY}\n")
    assert key_is_set()
