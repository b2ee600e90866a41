"""The tokens of joined workers: ``NAME.SECRET``. A gateway stores their SHA-256 only."""

from __future__ import annotations

import hashlib
import re
import secrets

from ..errors import ConfigurationError
from .worker_list import WorkerNotes

__all__ = ["WorkerTokens", "check_name", "name_of_token", "new_token", "sha256_of_token"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
_OWN = re.compile(r"local|(gpu|engine)[0-9]+", re.IGNORECASE)
_LONGEST_TOKEN = 4096


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


class WorkerTokens:
    """What the owner says of joined workers, as it was read last."""

    def __init__(self) -> None:
        self._notes = WorkerNotes()
        self._names: dict[str, str] = {}

    def update(self, notes: WorkerNotes) -> None:
        """Go by these from now on."""
        self._notes = notes
        self._names = {token.sha256: token.name for token in notes.tokens}

    @property
    def any_expected(self) -> bool:
        """Whether a worker may come whose owner has not said that it is gone or gets no jobs."""
        away = self._notes.gone.keys() | self._notes.draining.keys()
        return not away.issuperset(self._names.values())

    def admits(self, token: str, worker_id: str) -> bool:
        """Whether the token lets this worker in.

        It is looked up by its SHA-256, so the time that this takes says nothing of the token.
        """
        if len(token) > _LONGEST_TOKEN:
            return False
        name = self._names.get(sha256_of_token(token))
        return name is not None and name == name_of_token(worker_id)

    def knows(self, worker_id: str) -> bool:
        """Whether there is still a token for this worker."""
        return name_of_token(worker_id) in self._names.values()

    def is_draining(self, worker_id: str) -> bool:
        """Whether the owner has said that it gets no more jobs."""
        return _said_of(worker_id, self._notes.draining)

    def is_gone(self, worker_id: str) -> bool:
        """Whether the owner has said that it will not come back."""
        return _said_of(worker_id, self._notes.gone)

    @property
    def gone(self) -> frozenset[str]:
        """Names of which that was said."""
        return frozenset(self._notes.gone)


def _said_of(worker_id: str, words: dict[str, str]) -> bool:
    """Whether something was said of a worker, or of all workers of its token."""
    return worker_id in words or name_of_token(worker_id) in words
