"""Who may read a file with keys, on Windows. Its own icacls is run there only."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from comfy_remote.media.owner_only import owner_only

ENVIRONMENT = {"USERNAME": "ann", "USERDOMAIN": "STUDIO", "SYSTEMROOT": r"C:\Windows"}


def test_on_windows_the_user_the_system_and_administrators_are_left(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        commands.append(command)
        return 0

    path = tmp_path / ".env"
    owner_only(path, ENVIRONMENT, platform="linux", run=run)
    assert commands == []
    owner_only(path, ENVIRONMENT, platform="win32", run=run)
    [[program, *rest]] = commands
    assert program.endswith("icacls.exe")
    assert rest == [
        *(str(path), "/inheritance:r", "/grant:r", r"STUDIO\ann:(F)"),
        *("/grant:r", "*S-1-5-18:(F)", "/grant:r", "*S-1-5-32-544:(F)"),
    ]


@pytest.mark.parametrize("failure", [5, OSError("no such program")])
def test_what_windows_refuses_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: int | OSError
) -> None:
    def run(_command: Sequence[str]) -> int:
        if isinstance(failure, OSError):
            raise failure
        return failure

    with caplog.at_level(logging.WARNING):
        owner_only(tmp_path / ".env", ENVIRONMENT, platform="win32", run=run)
        owner_only(tmp_path / ".env", {}, platform="win32", run=run)
    assert len(caplog.records) == 2


@pytest.mark.skipif(sys.platform != "win32", reason="skipped: only Windows has icacls")
def test_nothing_is_inherited_any_more(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("KEY='x'")
    owner_only(path)
    shown = subprocess.run(["icacls", str(path)], capture_output=True, text=True, check=True)
    assert "(I)" not in shown.stdout
    assert path.read_text() == "KEY='x'"
