"""How processes are started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from comfy_remote.targets.launch import own_module, own_program


def run_isolated(arguments: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """In a Python that looks in no working folder, as ComfyUI's portable one does not."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{PATHS}\n{arguments[1]}", *arguments[2:], "--help"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


# What is installed beside us, but not we ourselves: here the package may be installed.
PATHS = f"import sys; sys.path += {[p for p in sys.path if 'site-packages' in p]!r}"


def test_a_program_of_ours_runs_in_an_isolated_python(tmp_path: Path) -> None:
    done = run_isolated(own_program("sandbox"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--idle-exit" in done.stdout  # its arguments are its own


def test_dash_m_would_not_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", *own_module("sandbox"), "--help"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode != 0
