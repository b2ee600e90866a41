"""What ``-i key=value`` and ``-i key=@file`` say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, InputFileMissing

__all__ = ["Given", "parse_inputs"]


@dataclass(frozen=True, slots=True)
class Given:
    """One input of a call.

    Attributes:
        text: As it was typed; ``""`` for a file.
        path: The file; ``None`` for a text.
    """

    key: str
    text: str = ""
    path: Path | None = None


def parse_inputs(texts: Sequence[str]) -> list[Given]:
    """Read the options.

    Raises:
        ConfigurationError: One has no key, or a key comes twice.
        InputFileMissing: A file is not there.
    """
    found: dict[str, Given] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigurationError(
                f"-i {text} has no key.", advice="Write -i KEY=VALUE, or -i KEY=@FILE."
            )
        if key in found:
            raise ConfigurationError(f"-i {key} is there twice.", advice="Give each key once.")
        if not value.startswith("@"):
            found[key] = Given(key, text=value)
            continue
        path = Path(value[1:]).expanduser()
        if not path.is_file():
            raise InputFileMissing(
                f"-i {key}=@{path}: there is no such file.", advice="Check its name."
            )
        found[key] = Given(key, path=path)
    return list(found.values())
