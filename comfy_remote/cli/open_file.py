"""Opening an output with the program that the desktop has for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..jobs.record import SavedOutput
from ..outputs import kind_of

__all__ = ["open_first", "open_path"]

# No texts or other files: what a remote made (a page, a script) must not run here.
_KINDS = frozenset({"image", "video", "audio", "3d"})
_NEVER = frozenset({".svg", ".svgz"})


def open_first(
    outputs: Sequence[SavedOutput], opened: Callable[[Path], str | None] | None = None
) -> str | None:
    """Open the first picture, video, sound or model, by `open_path` by default; gives why not."""
    # By its name, as the desktop does: a worker may call anything a picture.
    can_be = [
        output.path
        for output in outputs
        if kind_of(output.path.name) in _KINDS and output.path.suffix.lower() not in _NEVER
    ]
    if not can_be:
        return "--open: there is no picture, video, sound or model among the outputs."
    try:
        return (opened or open_path)(can_be[0])
    except OSError as error:
        return f"--open: {can_be[0]} could not be opened: {error.strerror or error}."


def open_path(path: Path) -> str | None:
    """Open a file with the desktop's program for it; gives why not."""
    if sys.platform == "win32":
        os.startfile(path)  # noqa: S606  # what Explorer does; never a script, see above
        return None
    name = "open" if sys.platform == "darwin" else "xdg-open"
    program = shutil.which(name)
    if program is None:
        return f"--open: there is no {name} on this machine."
    subprocess.Popen(
        [program, str(path.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return None
