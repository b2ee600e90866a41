"""A clone by git for Windows, which changes line ends, has the files that were committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(*arguments: str, cwd: Path) -> str:
    whole = ["git", "-c", "core.autocrlf=true", "-c", "safe.directory=*", *arguments]
    return subprocess.run(
        whole, cwd=cwd, check=True, capture_output=True, encoding="utf-8", timeout=100
    ).stdout


def test_a_clone_on_windows_has_the_same_line_ends(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone = tmp_path / "clone"
    git("clone", "--quiet", "--no-local", str(ROOT), str(clone), cwd=tmp_path)
    assert b"\r" not in (clone / "docker/start.sh").read_bytes()
    ends = [line.split() for line in git("ls-files", "--eol", cwd=clone).splitlines()]
    assert ["i/lf", "w/lf"] in [line[:2] for line in ends]
    assert [line for line in ends if line[0][2:] != line[1][2:]] == []
