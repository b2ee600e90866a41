"""--open: the first thing to look at, and nothing that could run."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from comfy_remote.cli.open_file import open_first
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.outputs import kind_of


def outputs(folder: Path, *names: str) -> list[SavedOutput]:
    for name in names:
        (folder / name).write_bytes(b"x")
    return [SavedOutput(folder / name, "1", kind_of(name), name, "0", 1) for name in names]


@pytest.mark.parametrize("name", ["page.html", "run.bat", "tool.exe", "drawing.svg", "a.txt"])
def test_what_could_run_is_not_opened(tmp_path: Path, name: str) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    assert "--open" in str(open_first(outputs(tmp_path, name), refuse))
    # Whatever its worker calls it.
    [one] = outputs(tmp_path, name)
    assert "--open" in str(open_first([replace(one, kind="image")], refuse))
    assert open_first([], refuse) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="opens by itself")
def test_the_first_that_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    for name in ("xdg-open", "open"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$1" > "{told}"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert open_first(outputs(tmp_path, "a.txt", "-b.png", "c.png")) is None
    deadline = time.monotonic() + 60
    while not told.exists() or not told.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert told.read_text() == f"{tmp_path / '-b.png'}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="opens by itself")
def test_no_such_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "on this machine" in str(open_first(outputs(tmp_path, "a.png")))
