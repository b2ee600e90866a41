"""The name and the folders that one worker of a fleet has on its machine.

Actors come and go, and what they leave stays: so a worker takes the first free slot of its machine.
First of all one whose worker was killed: who comes back with its name proves to the gateway that it
is dead, and delivers the results that wait there.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, LocalStorageError
from ..media.file_changes import discard
from ..media.files import OWN_DATA, storage_errors
from ..media.temporary import ProcessLock

__all__ = ["MOST_SLOTS", "Slot", "take_slot"]

MOST_SLOTS = 64
"""Workers of one fleet on one machine."""
_PORTS = range(20_000, 60_000)
_ID = re.compile(r"[0-9a-f]{4}")
_LONGEST_HOST = 16


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that was taken.

    Attributes:
        number: From 1.
        name: At the gateway: ``TOKEN.HOST-ab12-1``.
        spool: Where results wait.
        engine: What its engine has for itself.
    """

    number: int
    name: str
    spool: Path
    engine: Path
    lock: ProcessLock

    def free_port(self) -> int:
        """A port of this machine that no worker of another slot takes, though all look at once.

        Not one that the system chooses: Linux gives those of one parity only.

        Raises:
            LocalStorageError: All are in use.
        """
        own = [port for port in _PORTS if port % MOST_SLOTS == self.number % MOST_SLOTS]
        for port in random.sample(own, len(own)):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise LocalStorageError(
            f"None of the {len(own)} ports of this worker is free.",
            advice="Look at what listens on this machine.",
        )

    def release(self) -> None:
        """Let another worker have it: this one ends in order."""
        discard(_in_use(self.spool.parent))
        self.lock.close()


def take_slot(folder: Path, token_name: str, *, host: str | None = None) -> Slot:
    """Take the first free slot; first those whose worker was killed, or left results. Blocking.

    Args:
        folder: Of the fleet's workers on this machine; made when missing.
        token_name: The name of the worker's token.
        host: Of this machine.

    Raises:
        ConfigurationError: All are taken.
        LocalStorageError: The folder cannot be made.
    """
    with storage_errors(folder, denied=OWN_DATA):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        prefix = f"{token_name}.{_short(host or socket.gethostname())}-{_own_id(folder)}"
    own_folders = {number: folder / str(number) for number in range(1, MOST_SLOTS + 1)}
    for number, own in sorted(own_folders.items(), key=lambda one: (_order(one[1]), one[0])):
        with storage_errors(own, denied=OWN_DATA):
            own.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = ProcessLock(own / ".lock")
        except sqlite3.Error:
            continue
        with storage_errors(own, denied=OWN_DATA):
            _in_use(own).touch()
        return Slot(number, f"{prefix}-{number}", own / "spool", own / "engine", lock)
    raise ConfigurationError(
        f"{MOST_SLOTS} workers of this fleet run on this machine, or files cannot be locked in "
        f"{folder}.",
        advice="Set COMFY_REMOTE_HOME, where `ray start` runs, to a folder on a disk of its own.",
    )


def _in_use(own: Path) -> Path:
    """Is there while a slot is taken, and afterwards if its worker was killed."""
    return own / "in-use"


def _order(own: Path) -> int:
    """Whether a worker was killed there; else whether results wait. Lower comes first."""
    if _in_use(own).exists():
        return 0
    return 1 if next(iter((own / "spool" / "results").glob("*/*")), None) is not None else 2


def _short(host: str) -> str:
    """A host's name as part of a worker's."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", host.partition(".")[0])
    return plain[:_LONGEST_HOST].strip("-") or "box"


def _own_id(folder: Path) -> str:
    """Four hex digits: two containers may have one host name."""
    path = folder / "id"
    try:
        with path.open("x", encoding="ascii") as file:
            made = uuid.uuid4().hex[:4]
            file.write(made)
            return made
    except FileExistsError:
        for _ in range(100):  # whoever makes it has not written it yet
            if _ID.fullmatch(found := path.read_text(encoding="ascii", errors="replace")):
                return found
            time.sleep(0.01)
        raise ConfigurationError(
            f"{path} should hold four hex digits.", advice="Delete it, and start Ray again."
        ) from None
