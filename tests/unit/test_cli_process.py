"""The installed commands end at once, and leave nothing undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What runs at the end of a process says so, in a file.
PROGRAM = """
import atexit, sys, tempfile, threading
from pathlib import Path
import comfy_remote.cli.main
from comfy_remote.cli import process

def main():
    global folder
    folder = tempfile.TemporaryDirectory(dir=sys.argv[1])
    atexit.register(Path(sys.argv[1], "ended").touch)
    go_on = threading.Event()
    def work():
        go_on.wait()
        Path(sys.argv[1], "worked").touch()
    threading.Thread(target=work).start()
    sys.stdout.write("x" * 1_000_000)
    go_on.set()
    {last}

comfy_remote.cli.main.main = main
process.comfy_remote()
"""


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("pass", 0),
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("sys.exit('why')", 1),
        ("raise KeyboardInterrupt", 130),
        ("raise RuntimeError('why')", 1),
    ],
)
def test_all_that_is_due_at_the_end_is_done(tmp_path: Path, last: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{last}", last), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "x" * 1_000_000
    assert ("why" in done.stderr) == ("why" in last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ended", "worked"]


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "no-such-command"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 2
    assert "No such command 'no-such-command'" in done.stderr
