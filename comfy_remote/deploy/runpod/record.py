"""What was made from this machine, or was about to be: ``deployments.json`` in the data folder.

What is to be made is written down first, so that an answer that got lost is found again. No key
and no address is in it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ...errors import LocalStorageError
from ...media.files import OWN_DATA, storage_errors, write_whole
from ...media.temporary import ProcessLock

__all__ = ["DeploymentRecord", "Made"]

_MOST = 1000


class Made(BaseModel):
    """One deployment.

    Attributes:
        nonce: Of its mark.
        endpoint: Its id, once it is known.
        volume: The id of the volume that was made with it, once it is known.
        asked: What was filled in for it in ComfyUI's page, until it is made; never a secret.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    nonce: str
    endpoint: str | None = None
    volume: str | None = None
    asked: dict[str, JsonValue] | None = None


class _File(BaseModel):
    version: Literal[1] = 1
    deployments: list[Made] = []


class DeploymentRecord:
    """The file. Calls block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "deployments.json"

    def made(self, name: str) -> Made | None:
        """What was made under a name, if anything was.

        Raises:
            LocalStorageError: The file cannot be read.
        """
        return next((one for one in self._read().deployments if one.name == name), None)

    def all(self) -> list[Made]:
        """All of them, the last one that was changed at the end. Raises as `made`."""
        return self._read().deployments

    def finished(self, name: str) -> None:
        """Forget what was asked for: it is made, and a target.

        Raises:
            LocalStorageError: Another program deploys, or the file cannot be written.
        """
        with self.changing():
            made = self.made(name)
            if made is not None and made.asked is not None:
                self.put(made.model_copy(update={"asked": None}))

    def put(self, made: Made) -> None:
        """Write down a deployment as it is now; only inside `changing`."""
        others = [one for one in self._read().deployments if one.name != made.name]
        self._write([*others, made][-_MOST:])

    def forget(self, name: str) -> None:
        """Remove what was made under a name; only inside `changing`."""
        self._write([one for one in self._read().deployments if one.name != name])

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Be the only one on this machine who deploys to RunPod.

        Raises:
            LocalStorageError: Another program does already.
        """
        with storage_errors(self._path, denied=OWN_DATA):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock = ProcessLock(self._path.with_suffix(".lock"))
        except sqlite3.Error as error:
            raise LocalStorageError(
                f"Something else is being deployed to RunPod from this machine ({error}). Nothing "
                "was changed.",
                advice="Wait for it, then do this again.",
            ) from None
        try:
            yield
        finally:
            lock.close()

    def _read(self) -> _File:
        if not self._path.exists():
            return _File()
        try:
            with storage_errors(self._path, denied=OWN_DATA):
                return _File.model_validate_json(self._path.read_bytes())
        except ValidationError:
            raise LocalStorageError(
                f"{self._path} is not a record of this version.",
                advice="Update Comfy Remote, or move that file away: what was made carries a mark "
                "by which it is found all the same.",
            ) from None

    def _write(self, deployments: list[Made]) -> None:
        text = _File(deployments=deployments).model_dump_json(indent=1)
        with storage_errors(self._path, denied=OWN_DATA):
            write_whole(self._path, text.encode(), durable=True)
