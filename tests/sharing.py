"""Windows' sharing violations, on any platform: names that cannot be changed for a moment."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

CHANGES = ("replace", "rename", "link", "unlink", "rmdir")
"""The functions of `os` that change names. Those of `pathlib` and `shutil` end in them."""

IN_USE = 32
"""ERROR_SHARING_VIOLATION: another program has the file open."""


def violation(winerror: int = IN_USE, path: object = "a file") -> PermissionError:
    """What Python raises on Windows for a file that is open elsewhere."""
    error = PermissionError(errno.EACCES, "The process cannot access the file", str(path))
    error.winerror = winerror  # type: ignore[attr-defined]
    return error


class Violations:
    """What was refused.

    Attributes:
        refused: By the function's name and the path.
        on_the_loop: Those of them that were asked for on an event loop.
    """

    def __init__(self) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self.on_the_loop: list[tuple[str, str]] = []

    def names(self, change: str) -> list[str]:
        """The last parts of the paths that one function was refused."""
        return [Path(path).name for name, path in self.refused if name == change]


@contextmanager
def sharing_violations(
    times: float, which: Callable[[str, Path], bool] = lambda change, path: True
) -> Iterator[Violations]:
    """Refuse each change of each name so many times before it is made.

    Args:
        times: ``math.inf`` for a file that is never let go.
        which: Of a change (see `CHANGES`) and the path that is named first.
    """
    seen = Violations()
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, _refusing(name, getattr(os, name), times, which, seen))
        yield seen


def _refusing(
    name: str,
    change: Callable[..., None],
    times: float,
    which: Callable[[str, Path], bool],
    seen: Violations,
) -> Callable[..., None]:
    def refusing(path: Any, *args: Any, **options: Any) -> None:
        whole = Path(os.fspath(path))
        if options.get("dir_fd") is not None:  # `shutil.rmtree` on POSIX
            with suppress(OSError):
                whole = Path(f"/proc/self/fd/{options['dir_fd']}").readlink() / whole
        there = os.path.lexists(whole)
        if there and which(name, whole) and seen.refused[name, str(whole)] < times:
            seen.refused[name, str(whole)] += 1
            with suppress(RuntimeError):
                asyncio.get_running_loop()
                seen.on_the_loop.append((name, str(whole)))
            raise violation(path=whole)
        change(path, *args, **options)

    return refusing
