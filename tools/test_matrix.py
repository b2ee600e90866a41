"""Runs the tests on every Python from 3.10 to 3.13 that the path or pyenv has: `make test-matrix`.

Each Python gets a virtual environment of its own, `.venvs/3.X`. Arguments go to pytest. The last
lines say what passed, what failed, and which Python was not found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
PYTEST = ("-m", "pytest", "-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")


def main() -> int:
    """The exit status: 1 if the tests failed on a Python."""
    results = {version: _test_on(version) for version in VERSIONS}
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return int("failed" in results.values())


def _test_on(version: str) -> str:
    python = _find(version)
    if python is None:
        return "skipped: neither on the path nor in pyenv"
    print(f"Python {version}: {python}", flush=True)
    inside = _set_up(python, ROOT / ".venvs" / version)
    done = subprocess.run([inside, *PYTEST, *sys.argv[1:]], cwd=ROOT, check=False)
    return "passed" if done.returncode == 0 else "failed"


def _find(version: str) -> str | None:
    """A Python that runs; one of pyenv's shims may not."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = sorted(versions.glob(f"{version}.*/bin/python"), reverse=True)
    for python in (shutil.which(f"python{version}"), *map(str, of_pyenv)):
        if python and _says(python) == version:
            return python
    return None


def _says(python: str) -> str:
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _set_up(python: str, folder: Path) -> str:
    """The environment's Python, with the package installed as pyproject.toml has it now."""
    inside = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    installed = folder / "installed"
    if (
        not installed.exists()
        or installed.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime
    ):
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-e", ".[dev,worker]"], cwd=ROOT, check=True)
        installed.touch()
    return str(inside)


if __name__ == "__main__":
    sys.exit(main())
