"""Credentials from .env files: which are taken, from where, and what wins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_remote.cli.advice import for_terminal
from comfy_remote.config import folders
from comfy_remote.config.environment import env_files, load_env_files, read_env_file, withheld
from comfy_remote.config.trust import TrustStore, named_variable
from comfy_remote.errors import ConfigurationError

KEY = "planted-key-1234567890"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".env"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def loaded(**already: str) -> dict[str, str]:
    """What the environment has after the files were read, without what names our folders."""
    environment = {**already, "COMFY_REMOTE_HOME": os.environ["COMFY_REMOTE_HOME"]}
    load_env_files(environment)
    del environment["COMFY_REMOTE_HOME"]
    return environment


def say_yes(path: Path, **variables: str) -> None:
    """As the owner does with `comfy-remote trust`."""
    named = [named_variable(name, value) for name, value in variables.items()]
    TrustStore(folders.home()).trust(path, named)


# The owner's own


def test_credentials_are_taken_and_nothing_else(tmp_path: Path) -> None:
    path = write(
        tmp_path / "home",
        f"# mine\nexport RUNPOD_API_KEY='{KEY}'\nRUNPOD_ENDPOINT_ID = abc # the small one\n"
        "PATH=/evil\nRUNPOD_ENDPOINT_BASE_URL=https://evil.example\nHF_TOKEN=x\n",
    )
    found = {"COMFY_REMOTE_HOME": str(tmp_path / "home")}
    assert load_env_files(found) == [path]
    assert found == {
        "COMFY_REMOTE_HOME": str(tmp_path / "home"),
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_ENDPOINT_ID": "abc",
    }


def test_the_environment_wins_even_where_it_is_empty(tmp_path: Path) -> None:
    write(tmp_path / "home", f"RUNPOD_API_KEY={KEY}\nRUNPOD_ENDPOINT_ID=abc\n")
    own = {"RUNPOD_API_KEY": "own", "RUNPOD_ENDPOINT_ID": ""}
    assert loaded(**own) == own


def test_the_first_file_counts_and_the_others_add(tmp_path: Path) -> None:
    write(tmp_path / "home", "RUNPOD_API_KEY=a\n")
    write(tmp_path / "config" / "comfy-remote", "RUNPOD_API_KEY=b\nRUNPOD_ENDPOINT_ID=b\n")
    assert loaded() == {"RUNPOD_API_KEY": "a", "RUNPOD_ENDPOINT_ID": "b"}


def test_the_variables_that_targets_name_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "home", f"BOX_TOKEN={KEY}\nOTHER_TOKEN=x\n")
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        '[targets.box]\ntarget = "https://box.example"\nkey_env = "BOX_TOKEN"\n'
    )
    assert loaded() == {"BOX_TOKEN": KEY}


def test_a_broken_configuration_does_not_hide_the_key(tmp_path: Path) -> None:
    write(tmp_path / "home", f"RUNPOD_API_KEY={KEY}\n")
    (tmp_path / "home" / "comfy-remote.toml").write_text("[[[")
    assert loaded() == {"RUNPOD_API_KEY": KEY}


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffRUNPOD_API_KEY={KEY}\r\n",
        f'RUNPOD_API_KEY="{KEY}"',
        f"RUNPOD_API_KEY={KEY}\nthis is no line of it",
        f"RUNPOD_API_KEY={KEY}\r\n".encode("utf-16"),  # `>` in Windows PowerShell
        f"RUNPOD_API_KEY={KEY}\r\n".encode("utf-16-le"),
        f"# für daheim\r\nRUNPOD_API_KEY={KEY}\r\nNAME=Müller".encode("cp1252"),
    ],
)
def test_files_as_windows_and_people_write_them(tmp_path: Path, text: str | bytes) -> None:
    write(tmp_path / "home", text)
    assert loaded() == {"RUNPOD_API_KEY": KEY}


@pytest.mark.parametrize("text", ["", "RUNPOD_API_KEY=\n", "RUNPOD_API_KEY\n"])
def test_nothing_in_it_is_nothing_taken(tmp_path: Path, text: str) -> None:
    write(tmp_path / "home", text)
    assert loaded() == {}


def test_a_key_is_taken_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF", "expanded")
    write(tmp_path / "home", "RUNPOD_API_KEY=a${HOME_OF}b$c\n")
    assert loaded() == {"RUNPOD_API_KEY": "a${HOME_OF}b$c"}


def test_one_that_is_no_text_is_named_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "home", b"RUNPOD_API_KEY=secret\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        loaded()
    assert str(path) in caught.value.message
    assert "secret" not in str(caught.value)
    assert "Save the file as UTF-8" in caught.value.advice


def test_a_folder_of_that_name_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "home" / ".env").mkdir(parents=True)
    assert loaded() == {}


def test_the_folders_of_an_installed_pack_are_the_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui = tmp_path / "ComfyUI"
    pack = comfyui / "custom_nodes" / "any name"
    monkeypatch.setattr(folders, "__file__", str(pack / "comfy_remote" / "config" / "places.py"))
    write(pack, "RUNPOD_API_KEY=pack\nRUNPOD_ENDPOINT_ID=pack\n")
    assert loaded() == {"RUNPOD_API_KEY": "pack", "RUNPOD_ENDPOINT_ID": "pack"}
    write(comfyui, "RUNPOD_API_KEY=comfyui\n")
    assert loaded() == {"RUNPOD_API_KEY": "comfyui", "RUNPOD_ENDPOINT_ID": "pack"}
    # Other packs, and whatever else lies in there, are not.
    write(comfyui / "custom_nodes" / "other", "RUNPOD_API_KEY=other\n")
    monkeypatch.chdir(comfyui / "custom_nodes" / "other")
    assert loaded()["RUNPOD_API_KEY"] == "comfyui"


# A folder's


def test_one_that_came_with_a_folder_sets_nothing_before_a_yes(tmp_path: Path) -> None:
    path = write(tmp_path / "project", f"RUNPOD_API_KEY={KEY}\nRUNPOD_ENDPOINT_ID=theirs\n")
    assert loaded() == {}
    say_yes(path, RUNPOD_API_KEY=KEY, RUNPOD_ENDPOINT_ID="theirs")
    assert loaded() == {"RUNPOD_API_KEY": KEY, "RUNPOD_ENDPOINT_ID": "theirs"}
    # Somebody else's key: somebody else's account gets the pictures.
    write(tmp_path / "project", "RUNPOD_API_KEY=another\nRUNPOD_ENDPOINT_ID=theirs\nX=1\n")
    assert loaded() == {"RUNPOD_ENDPOINT_ID": "theirs"}


def test_it_does_not_stand_in_for_the_owners_own(tmp_path: Path) -> None:
    path = write(tmp_path / "project", "RUNPOD_API_KEY=theirs\n")
    write(tmp_path / "home", f"RUNPOD_API_KEY={KEY}\n")
    assert loaded() == {"RUNPOD_API_KEY": KEY}
    say_yes(path, RUNPOD_API_KEY="theirs")
    assert loaded() == {"RUNPOD_API_KEY": "theirs"}  # the nearest goes before


def test_what_is_withheld_is_said_with_the_command_that_says_yes(tmp_path: Path) -> None:
    path = write(tmp_path / "project", f"RUNPOD_API_KEY={KEY}\n")
    assert withheld(["RUNPOD_ENDPOINT_ID"]) is None
    error = withheld(["RUNPOD_ENDPOINT_ID", "RUNPOD_API_KEY"])
    assert error is not None
    assert f"comfy-remote trust {path}" in for_terminal(error.advice)
    assert str(tmp_path / "home" / ".env") in error.advice
    assert error.details == {
        "path": str(path),
        "names": [named_variable("RUNPOD_API_KEY", KEY)],
    }
    assert KEY not in str(error.to_json())
    say_yes(path, RUNPOD_API_KEY=KEY)
    assert withheld(["RUNPOD_API_KEY"]) is None


def test_comfyui_logs_which_files_lack_a_yes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_remote.node_pack.pack import load_credentials

    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    path = write(tmp_path / "project", f"RUNPOD_API_KEY={KEY}\n")
    configuration = tmp_path / "project" / "comfy-remote.toml"
    configuration.write_text('[targets.x]\ntarget = "runpod:x"\n')
    load_credentials()
    assert "RUNPOD_API_KEY" not in os.environ
    for unused in (path, configuration):
        assert f"comfy-remote trust {unused}" in caplog.text
    assert KEY not in caplog.text


def test_the_nearest_folder_upward_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    top = write(tmp_path / "project", "")
    monkeypatch.chdir(deep)
    assert env_files() == [top]
    near = write(tmp_path / "project" / "a", "")
    assert env_files() == [near]
    monkeypatch.setenv("COMFY_REMOTE_CONFIG", str(tmp_path / "mine.toml"))
    assert env_files() == []  # the owner has named what counts


def test_a_large_one_is_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "home", "X=1\n" * 100_000 + f"RUNPOD_API_KEY={KEY}\n")
    assert read_env_file(path) == {}


def test_the_command_reads_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "comfy_remote", "targets", "--json"]

    def key_is_set() -> bool:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert KEY not in run.stdout + run.stderr
        return '"key_set": true' in run.stdout

    path = write(tmp_path / "project", f"BOX_TOKEN_OF_TEST={KEY}\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        '[targets.box]\ntarget = "https://box.example"\nkey_env = "BOX_TOKEN_OF_TEST"\n'
    )
    assert not key_is_set()
    say_yes(path, BOX_TOKEN_OF_TEST=KEY)
    assert key_is_set()
