"""A token that is in a file of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from ..advice import Advice
from ..errors import ConfigurationError
from ..secrets import SECRETS
from ..text_file import SAVE_AS_UTF8, NotText, text_of

__all__ = ["read_token_file"]

_LONGEST_TOKEN = 4096


def read_token_file(file: Path, name: str, *, advice: str | Advice = "") -> SecretStr:
    """The token in a file. Blocking.

    Args:
        name: What to call it where a log would show it.
        advice: What to do where it cannot be read.

    Raises:
        ConfigurationError: It cannot be read, or holds no token.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(2 * _LONGEST_TOKEN + 2)
        value = text_of(content).strip()
    except OSError as error:
        raise ConfigurationError(
            f"The token cannot be read from {file}: {error.strerror or error}.",
            advice=f"Check the path. {advice}",
        ) from error
    except NotText as error:
        raise ConfigurationError(
            f"The token cannot be read from {file}: {error}.", advice=SAVE_AS_UTF8
        ) from error
    if not value:
        raise ConfigurationError(f"{file} is empty: it should hold the token.")
    if len(value) > _LONGEST_TOKEN:
        raise ConfigurationError(
            f"{file} has more than {_LONGEST_TOKEN} bytes: it should hold only the token."
        )
    SECRETS.add(name, value)
    return SecretStr(value)
