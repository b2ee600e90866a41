"""What an engine on this machine was started with, as its ``/system_stats`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..types import JsonValue, as_list, mapping

__all__ = ["arguments_of", "lasting_arguments", "path_after"]

# Differ from one start to the next, or between machines, and change no result.
_PASSING = {
    *("--listen", "--port", "--disable-auto-launch", "--auto-launch", "--verbose", "--log-stdout"),
    *("--base-directory", "--input-directory", "--output-directory", "--temp-directory"),
    *("--user-directory", "--models-directory", "--extra-model-paths-config", "--database-url"),
    *("--preview-method", "--preview-size", "--dont-print-server", "--max-upload-size"),
    *("--front-end-version", "--front-end-root", "--tls-keyfile", "--tls-certfile"),
    *("--enable-cors-header", "--windows-standalone-build"),
}


def arguments_of(stats: Mapping[str, JsonValue]) -> list[str]:
    """The ``argv`` in an engine's ``/system_stats``: its program, then the arguments."""
    return [str(word) for word in as_list(mapping(stats.get("system")).get("argv"))]


def path_after(argv: Sequence[str], flag: str) -> Path | None:
    """The path of an argument, ``--flag PATH`` or ``--flag=PATH``."""
    given = [part for word in argv for part in word.split("=", 1)]
    named = given[given.index(flag) + 1 :][:1] if flag in given else []
    return Path(named[0]) if named else None


def lasting_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments except addresses and folders, in their order.

    Of a path, as a node pack's own argument may be, the last part.
    """
    lasting: list[str] = []
    skips = False
    for word in argv[1:]:
        if word.startswith("--"):
            skips = word.partition("=")[0] in _PASSING
        if not skips:
            lasting.append(_without_folder(word))
    return lasting


def _without_folder(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
        value = PureWindowsPath(value).name
    return f"{flag}{equals}{value}"
