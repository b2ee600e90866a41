"""What an endpoint's workers have installed, remembered on this machine.

Only a job can ask a worker, and a job on an endpoint that sleeps starts a GPU and costs money.
So an answer is kept, and asked for again only while a worker is awake anyway.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...wire.actions import DescribeAnswer

__all__ = ["Description", "DescriptionCache"]

_FRESH_SECONDS = 3600.0

_log = logging.getLogger(__name__)


class _Worker(BaseModel):
    ours: bool


class Description(BaseModel):
    """An answer, and when it came.

    Attributes:
        asked: Seconds since the epoch.
        answer: With its node schemas; ``None`` when the workers are not ours and cannot say.
    """

    model_config = ConfigDict(extra="ignore")

    asked: float
    answer: DescribeAnswer | None = None

    @property
    def fresh(self) -> bool:
        """Whether there is no need to ask again: within an hour."""
        return 0 <= time.time() - self.asked < _FRESH_SECONDS


class DescriptionCache:
    """One file an endpoint, readable by you alone.

    Args:
        folder: Where; ``None`` to remember nothing.
        endpoint: Its full address.
    """

    def __init__(self, folder: Path | None, endpoint: str) -> None:
        name = hashlib.sha256(endpoint.encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"{name}.json"
        self._worker_path = None if folder is None else folder / f"{name}.worker.json"

    def read(self) -> Description | None:
        """What is remembered; ``None`` if that is nothing, or cannot be read."""
        if self._path is None:
            return None
        try:
            return Description.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, answer: DescribeAnswer | None) -> Description:
        """Remember an answer. That it cannot be written costs only the memory."""
        description = Description(asked=time.time(), answer=answer)
        _write(self._path, description)
        return description

    @property
    def worker_is_ours(self) -> bool | None:
        """Whether the worker that answered last was Comfy Remote's; ``None`` if none has yet."""
        if self._worker_path is None:
            return None
        try:
            return _Worker.model_validate_json(self._worker_path.read_bytes()).ours
        except (OSError, ValidationError):
            description = self.read()
            return True if description is not None and description.answer is not None else None

    def saw_worker(self, *, ours: bool) -> None:
        """Remember whose worker has just answered."""
        if ours is not self.worker_is_ours:
            _write(self._worker_path, _Worker(ours=ours))


def _write(path: Path | None, content: BaseModel) -> None:
    if path is None:
        return
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.write_text(content.model_dump_json(), encoding="utf-8")
        beside.chmod(0o600)
        beside.replace(path)
    except OSError as error:
        _log.warning("what the endpoint has could not be remembered: %s", error)
        beside.unlink(missing_ok=True)
