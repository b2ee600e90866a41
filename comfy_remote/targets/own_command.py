"""What to type for ``comfy-remote`` here, where perhaps only the node pack is installed."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from .launch import PACKAGE_PARENT

__all__ = ["as_typed_here", "command_of", "own_command"]

_NAME = "comfy-remote"
_COMMAND = re.compile(rf"(?<![\w./\\-]){_NAME} (?=[a-z])")


@functools.cache
def own_command() -> str:
    """``comfy-remote`` if it is installed here, else how this Python runs it."""
    return command_of(Path(sys.executable), PACKAGE_PARENT)


def as_typed_here(text: str) -> str:
    """A text in which each command can be typed as it stands."""
    return _COMMAND.sub(lambda _: f"{own_command()} ", text)


def command_of(
    python: Path, parent: Path, *, path: str | None = None, windows: bool = os.name == "nt"
) -> str:
    """How one Python runs one copy of the package.

    Args:
        python: The interpreter.
        parent: The folder that the package is in. With our ``__main__.py`` in it, it is the node
            pack's; such a folder is run as a program, since the portable ComfyUI's Python is
            isolated and finds no module by ``-m`` there.
        path: Where commands are looked for; ``PATH`` by default.
        windows: For PowerShell, which needs ``&`` before a program in quotation marks.
    """
    beside = python.parent / (f"{_NAME}.exe" if windows else _NAME)
    if beside.is_file() or shutil.which(_NAME, path=path):
        return _NAME
    words = [str(python), *([str(parent)] if (parent / "__main__.py").is_file() else _AS_MODULE)]
    if not windows:
        return shlex.join(words)
    command = subprocess.list2cmdline(words)
    return f"& {command}" if command.startswith('"') else command


_AS_MODULE = ["-m", "comfy_remote"]
