"""The tokens of joined workers: ``NAME.SECRET``. A gateway stores their SHA-256 only."""

from __future__ import annotations

import hashlib
import re
import secrets

from ..errors import ConfigurationError

__all__ = ["check_name", "name_of_token", "new_token", "sha256_of_token"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
_OWN = re.compile(r"local|(gpu|engine)[0-9]+", re.IGNORECASE)


def check_name(name: str) -> None:
    """Refuse (`ConfigurationError`) what cannot be a token's name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a worker.",
            advice="Use 1 to 48 letters, digits, - and _.",
        )
    if _OWN.fullmatch(name):
        raise ConfigurationError(
            f"{name} is what a gateway calls a worker of its own.",
            advice="Choose another name.",
        )


def new_token(name: str) -> str:
    """A token for workers ``NAME`` and ``NAME.SUFFIX``."""
    check_name(name)
    return f"{name}.{secrets.token_urlsafe(32)}"


def name_of_token(worker_id: str) -> str:
    """The name of the token that a worker joins with."""
    return worker_id.partition(".")[0]


def sha256_of_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
