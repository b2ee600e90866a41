"""Whose addresses and variables are used: what the owner of this machine has trusted.

A ``comfy-remote.toml`` or ``.env`` in the current folder, or above it, may have come with
somebody else's workflow. Nothing that it names (addresses, variables that hold secrets) is used
before the owner has trusted it; until then it may only choose one of the owner's own targets by
name. Trust is for what is named, not for the file: a changed price does not ask again, a changed
address does.

Trusted without asking is what the owner says themselves: the files in `folders.owner_folders`,
flags, the environment, and an explicit ``--config FILE``. All else is in the `TrustStore`, put
there by ``comfy-remote trust`` or confirmed in ComfyUI's page.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yarl import URL

from ..advice import Advice
from ..clean import one_line
from ..database import transaction
from ..errors import LocalStorageError, NotTrusted
from ..net.address import base_address
from ..targets.kinds import kinds, members_of, secret_variables
from .target_settings import TargetSettings

if TYPE_CHECKING:
    from .config_file import TargetTable

__all__ = [
    "TrustStore",
    "named_default",
    "named_target",
    "named_variable",
    "not_trusted",
    "origin_of",
]

_LOCK_PATIENCE = 30.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS files "
    "(path TEXT, named TEXT, since REAL, PRIMARY KEY (path, named))",
    "CREATE TABLE IF NOT EXISTS addresses (origin TEXT PRIMARY KEY, since REAL)",
)


class TrustStore:
    """What the owner has trusted: one file in their data folder, which only they may change.

    It is read when it is asked. A store that is broken, or that others may write to, counts as
    empty: `problem` says why, and nothing can be added until it is removed. Several processes may
    use it at a time. What changes it raises `LocalStorageError` if it cannot be written.

    Args:
        home: The folder that holds it, as `folders.home` gives it; made when something is trusted.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "trust.sqlite3"

    # Files

    def missing(self, path: Path, named: Iterable[str]) -> list[str]:
        """Which of the things that a file names are not trusted yet.

        Args:
            named: As `named_target`, `named_default` and `named_variable` give them.
        """
        known = {row[0] for row in self._rows("SELECT named FROM files WHERE path = ?", key(path))}
        return [one for one in dict.fromkeys(named) if one not in known]

    def trust(self, path: Path, named: Iterable[str]) -> None:
        """Trust what a file names.

        Call it only where a person has seen all of that and agreed.
        """
        rows = [(key(path), one, time.time()) for one in named]
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    def forget(self, path: Path) -> bool:
        """Stop trusting a file, which need not exist any more; whether it was trusted."""
        return self._delete("DELETE FROM files WHERE path = ?", key(path))

    def files(self) -> dict[Path, list[str]]:
        """Every trusted file, and what it named."""
        found: dict[Path, list[str]] = {}
        for path, named in self._rows("SELECT path, named FROM files ORDER BY path, rowid"):
            found.setdefault(Path(path), []).append(named)
        return found

    # Addresses

    def allows_address(self, url: str | URL) -> bool:
        """Whether the owner has confirmed the origin of an http(s) address: scheme, host, port.

        Only what was confirmed (in ComfyUI's page). `Configuration.allows_address` asks for
        everything the owner has named, this included.
        """
        origin = origin_of(url)
        return origin is not None and bool(
            self._rows("SELECT 1 FROM addresses WHERE origin = ?", origin)
        )

    def confirm_address(self, url: str | URL) -> str:
        """Trust the origin of an http(s) address, and return that origin.

        Call it only where a person has confirmed it.

        Raises:
            ConfigurationError: It is no http(s) address.
        """
        origin = origin_of(url) or str(base_address(str(url)).origin())
        with self._writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO addresses VALUES (?, ?)", (origin, time.time())
            )
        return origin

    def forget_address(self, url: str | URL) -> bool:
        """Stop trusting the origin of an address; whether it was trusted."""
        return self._delete("DELETE FROM addresses WHERE origin = ?", origin_of(url) or "")

    def addresses(self) -> list[str]:
        """Every trusted origin."""
        return [row[0] for row in self._rows("SELECT origin FROM addresses ORDER BY origin")]

    # The file

    def problem(self) -> str:
        """Why the store cannot be used, as a sentence; empty where it can."""
        try:
            self._read("SELECT path, named FROM files")
            self._read("SELECT origin FROM addresses")
        except (sqlite3.Error, OSError) as error:
            return f"{self.path} cannot be used: {error}. Remove it, and trust again what you need."
        return ""

    def _rows(self, query: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return self._read(query, *values)
        except (sqlite3.Error, OSError):
            return []  # an error that follows from this also has `problem`

    def _read(self, query: str, *values: str) -> list[tuple[str, ...]]:
        if not self.path.exists():
            return []
        self._check_owner()
        with contextlib.closing(self._connect()) as connection:
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            self._check_owner()
            with contextlib.closing(self._connect()) as connection, transaction(connection):
                for statement in _TABLES:
                    connection.execute(statement)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise LocalStorageError(
                f"What you trust could not be stored: {self.path}: {error}.",
                advice="Check that folder's permissions and space. If the file is damaged, remove "
                "it, and trust again what you need.",
                details={"path": str(self.path)},
            ) from error

    def _delete(self, statement: str, value: str) -> bool:
        if not self.path.exists():
            return False
        with self._writing() as connection:
            return connection.execute(statement, (value,)).rowcount > 0

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_LOCK_PATIENCE, isolation_level=None)

    def _check_owner(self) -> None:
        if not hasattr(os, "getuid"):
            return
        found = self.path.stat()
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError("others than you may write to it")


def key(path: Path) -> str:
    """What a file is stored under: its real path, links and ``..`` resolved."""
    return os.path.normcase(os.path.realpath(path))


def origin_of(url: str | URL) -> str | None:
    """``https://HOST[:PORT]`` of an http(s) address, in one spelling; ``None`` for others."""
    try:
        address = URL(str(url))
        if address.scheme not in ("http", "https") or not address.host or address.user:
            return None
        return str(address.origin())
    except ValueError:
        return None


def named_target(name: str, table: TargetTable) -> str:
    """What a ``[targets.NAME]`` table names, in one line: its addresses, variables and login.

    >>> from .config_file import TargetTable
    >>> table = TargetTable(target="runpod:abc", user="ann", price_per_hour=0.69)
    >>> named_target("gpu", table)
    '[targets.gpu] target = "runpod:abc", user = "ann" (sends RUNPOD_API_KEY)'
    """
    said = table.model_dump(exclude={*table.names_nothing}, exclude_defaults=True)
    pairs = [f"{field} = {json.dumps(value, sort_keys=True)}" for field, value in said.items()]
    title = name if name.isidentifier() and name.isascii() else json.dumps(name)
    return f"[targets.{title}] {', '.join(pairs)}{_sends(table.to_settings())}"


def named_default(address: str) -> str:
    """What ``default`` names where it is an address, in one line."""
    return f"default = {json.dumps(address)}{_sends(TargetSettings(address))}"


def named_variable(variable: str, value: str) -> str:
    """What a line of a ``.env`` names: whose account a run would use.

    An address is shown, with the key that a server which may be anybody's would get. The value of a
    secret is shown as four digits of its hash: enough to notice another one, too few to find it.
    """
    for kind in kinds():
        if variable == kind.address_variable:
            address = kind.configured_address({variable: value})
            anybodys = address is not None and kind.public_url(address) is not None
            sends = f" (sends {kind.default_key})" if anybodys and kind.default_key else ""
            return f"{variable} = {json.dumps(value)}{sends}"
    digits = hashlib.sha256(f"{variable}={value}".encode()).hexdigest()[:4]
    return f"{variable} = (hidden, {digits})"


def not_trusted(
    path: Path, named: Sequence[str], what: str, store: TrustStore, advice: Advice
) -> NotTrusted:
    """The error for something that a file names and the owner has not trusted.

    Args:
        what: What was wanted of it, as the beginning of a sentence: ``The target 'gpu'``.
        advice: How to trust it, and what to do without a terminal or page to ask in.
    """
    problem = store.problem()
    message = (
        f"{what} is named by {path}, which may have come with somebody else's files, and you have "
        f"not trusted it. {problem}"
    )
    error = NotTrusted(
        one_line(message).strip(),
        advice=advice.mapped(one_line),
        details={"path": str(path), "names": list(named)},
    )
    error.asks_for = (path, tuple(named))
    return error


def _sends(settings: TargetSettings) -> str:
    each = [settings, *map(TargetSettings, members_of(settings))]
    variables = [*dict.fromkeys(one for named in each for one in secret_variables(named))]
    if settings.bucket is not None:
        variables.append("BUCKET_ACCESS_KEY_ID")  # the other key only signs
    if settings.volume is not None:
        variables.append("RUNPOD_S3_ACCESS_KEY_ID")
    return f" (sends {', '.join(variables)})" if variables else ""
