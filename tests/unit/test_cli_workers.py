"""`comfy-remote workers`: what it makes, and what it refuses."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from comfy_remote.cli.main import main
from comfy_remote.gateway.schema import DATABASE
from comfy_remote.gateway.tokens import sha256_of_token
from comfy_remote.gateway.worker_states import WorkerRow, WorkerStates


@dataclass
class Said:
    """How a command ended, and all that it has written."""

    exit_code: int
    output: str


Workers = Callable[..., Said]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workers:
    def call(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["comfy-remote", "workers", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, "".join(capsys.readouterr()))

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_token_is_in_its_file_only(workers: Workers, home: Path, tmp_path: Path) -> None:
    said = workers("add", "attic")
    assert said.exit_code == 0, said.output
    file = tmp_path / "attic.token"
    token = file.read_text().strip()
    assert token.partition(".")[2] not in said.output
    for path in home.rglob("*"):
        assert not path.is_file() or token.partition(".")[2].encode() not in path.read_bytes()
    with closing(sqlite3.connect(home / "gateway" / "local" / DATABASE)) as connection:
        stored = connection.execute("SELECT name, sha256 FROM tokens").fetchall()
    assert stored == [("attic", sha256_of_token(token))]
    if os.name != "nt":
        folder = home / "gateway" / "local"
        modes = {
            path.name: path.stat().st_mode & 0o777 for path in (file, folder, folder / DATABASE)
        }
        assert modes == {"attic.token": 0o600, "local": 0o700, DATABASE: 0o600}


def test_a_token_goes_into_no_file_that_is_there(
    workers: Workers, home: Path, tmp_path: Path
) -> None:
    (there := tmp_path / "there").write_text("mine")
    said = workers("add", "attic", "-o", "there")
    assert said.exit_code == 2
    assert there.read_text() == "mine"
    assert "There are no workers" in workers("list").output


@pytest.mark.parametrize("word", ["drain", "gone", "remove"])
@pytest.mark.parametrize("name", ["cellar", "../x", "attic.\x1b[2J", "attic.a.b", "attic/x", ""])
def test_what_is_no_worker_is_refused(workers: Workers, home: Path, word: str, name: str) -> None:
    workers("add", "attic")
    before = workers("list", "--json").output
    said = workers(word, name)
    assert said.exit_code == 2
    assert "has no worker" in said.output
    assert "\x1b" not in said.output
    assert workers("list", "--json").output == before


@pytest.mark.parametrize("word", ["drain", "gone", "remove", "list"])
def test_an_endpoint_that_is_not_there_is_not_made(workers: Workers, home: Path, word: str) -> None:
    workers(word, *(["attic"] if word != "list" else []), "--endpoint", "nowhere")
    assert not (home / "gateway").exists()


@pytest.mark.parametrize("endpoint", ["", "..", "a/b", "x" * 65, "ä"])
def test_what_is_no_endpoint_is_refused(workers: Workers, home: Path, endpoint: str) -> None:
    said = workers("add", "attic", "--endpoint", endpoint)
    assert said.exit_code == 2
    assert "cannot be the id of an endpoint" in said.output
    assert not home.exists()


def test_of_a_worker_that_is_removed_no_word_stays(
    workers: Workers, home: Path, tmp_path: Path
) -> None:
    workers("add", "attic")
    workers("add", "attic-2")
    for name in ("attic", "attic.gpu0", "attic-2", "attic-2.gpu0"):
        assert workers("drain", name).exit_code == 0
    assert workers("remove", "attic").exit_code == 0
    with closing(sqlite3.connect(home / "gateway" / "local" / DATABASE)) as connection:
        left = connection.execute("SELECT worker FROM owners_words ORDER BY worker").fetchall()
    assert left == [("attic-2",), ("attic-2.gpu0",)]


def test_a_database_of_a_newer_version_stays_as_it_is(
    workers: Workers, home: Path, tmp_path: Path
) -> None:
    workers("add", "attic")
    database = home / "gateway" / "local" / DATABASE
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for arguments in (["list"], ["add", "cellar"], ["drain", "attic"], ["remove", "attic"]):
        said = workers(*arguments)
        assert said.exit_code == 7, said.output
        assert "was written by a newer Comfy Remote" in said.output
    assert not (tmp_path / "cellar.token").exists()


def test_states_that_somebody_else_has_written_are_shown_clean(
    workers: Workers, home: Path
) -> None:
    workers("add", "attic")
    (home / "gateway" / "local" / "workers.json").write_text(
        json.dumps(
            {
                "written_at": "x",
                "workers": [{"id": "\x1b[2Ja", "state": "\x1b]0;b\x07", "about": "c\nd"}],
            }
        )
    )
    said = workers("list")
    assert said.exit_code == 0
    assert "\x1b" not in said.output
    assert "\x07" not in said.output


def test_a_token_that_was_made_says_what_the_other_machine_needs(
    workers: Workers, home: Path
) -> None:
    said = workers("add", "attic", "--endpoint", "shop").output
    assert "--endpoint shop" in said
    assert "--ca-file" in said
    said = workers("list", "--endpoint", "shop").output
    assert "not connected" in said
    assert "No gateway runs here for endpoint shop." in said


def test_advice_names_the_endpoint_that_was_asked_for(workers: Workers, home: Path) -> None:
    said = workers("list", "--endpoint", "shop").output
    assert "comfy-remote workers add NAME --endpoint shop" in said
    said = workers("drain", "attic", "--endpoint", "shop").output
    assert "comfy-remote workers list --endpoint shop" in said


@pytest.mark.parametrize("word", ["drain", "gone", "remove"])
def test_a_worker_of_the_gateway_itself_is_not_called_unknown(
    workers: Workers, home: Path, word: str
) -> None:
    workers("add", "attic")
    seen = datetime(2026, 11, 30, 3, 4, 5, tzinfo=timezone.utc).isoformat(timespec="seconds")
    row = WorkerRow(name="local", state="idle", seen_at=seen)
    states = WorkerStates(written_at=datetime.now(timezone.utc).isoformat(), workers=[row])
    states.write(home / "gateway" / "local")
    said = workers(word, "local")
    assert said.exit_code == 2
    assert "one of the gateway's own workers" in said.output
    assert "2026-11-30 03:04:05 " in workers("list").output


def test_a_data_folder_that_cannot_be_made_is_named_by_its_variable(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "file").write_text("")
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(file / "home"))
    said = workers("add", "attic")
    assert said.exit_code == 7
    assert "set COMFY_REMOTE_HOME" in said.output
    assert "--local-output" not in said.output
