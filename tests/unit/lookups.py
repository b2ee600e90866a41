"""Which paths the file system is asked about."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

__all__ = ["record_lookups"]


def record_lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the file system is asked about from now on."""
    asked: list[str] = []
    for module, names in (
        (os, ("stat", "lstat", "readlink", "open", "scandir")),
        (os.path, ("realpath", "exists", "isfile", "islink")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, _recording(getattr(module, name), asked))
    return asked


def _recording(function: Callable[..., object], asked: list[str]) -> Callable[..., object]:
    def recorded(path: object, *args: object, **named: object) -> object:
        asked.append(os.fspath(path) if isinstance(path, str | os.PathLike) else str(path))
        return function(path, *args, **named)

    return recorded
