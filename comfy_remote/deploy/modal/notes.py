"""What is noted about calls, for any front to read: in a Modal Dict, as JSON text.

Modal only says whether a call has ended. That it is a job of ours, that it runs, its progress, and
that somebody cancelled it are noted here. Modal deletes entries that are not used for seven days
(modal.com/docs/sdk/py/latest/Dict).

```
CALL        {"queued", "repeat_lost", "cancelled"?}           written by a front
CALL/run    {"worker", "attempt", "started", "finished"?, "progress"?}   written by the container
key/KEY     CALL, or "" while it is being submitted
```
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from pydantic import BaseModel, JsonValue

__all__ = ["CallNote", "Notes", "RunNote", "TextDict"]


class TextDict(Protocol):
    """What is used of a `modal.Dict`; keys and values are text."""

    # Modal's methods are objects that are called, and have the asynchronous call as `aio`.
    get: Any
    put: Any


class CallNote(BaseModel):
    """A front's note. Times are seconds since the epoch.

    Attributes:
        repeat_lost: Whether the job may be started once more when its container has ended.
    """

    queued: float
    repeat_lost: bool = True
    cancelled: float | None = None


class RunNote(BaseModel):
    """A container's note.

    Attributes:
        attempt: Which start of the job it is, from 1: Modal starts a call again whose container
            has ended.
        progress: The newest `wire.answer.ProgressSnapshot`.
    """

    worker: str | None = None
    attempt: int = 1
    started: float
    finished: float | None = None
    progress: dict[str, JsonValue] | None = None


class Notes:
    """The notes of one app."""

    def __init__(self, dictionary: TextDict) -> None:
        self._dict = dictionary

    async def queued(self, call_id: str, *, repeat_lost: bool) -> None:
        """A call was made. The container may have noted its start already, under another key."""
        await self._put(call_id, CallNote(queued=time.time(), repeat_lost=repeat_lost))

    async def cancelled(self, call_id: str, note: CallNote) -> None:
        """A call was cancelled."""
        await self._put(call_id, note.model_copy(update={"cancelled": time.time()}))

    async def begins(self, call_id: str, note: RunNote) -> RunNote | None:
        """A call starts. The note of the start before, if there was one: then this one is not
        noted.
        """
        key = f"{call_id}/run"
        text = note.model_dump_json(exclude_none=True)
        if await self._dict.put.aio(key, text, skip_if_exists=True):
            return None
        there = await self.of_run(call_id)
        return None if there == note else there  # the answer to an earlier try was lost

    async def runs(self, call_id: str, note: RunNote) -> None:
        """A call runs; with its progress."""
        await self._put(f"{call_id}/run", note)

    async def of_call(self, call_id: str) -> CallNote | None:
        """The front's note; ``None`` if it is not a job of ours, or no longer."""
        text = await self._dict.get.aio(call_id, None)
        return CallNote.model_validate_json(text) if isinstance(text, str) else None

    async def of_run(self, call_id: str) -> RunNote | None:
        """The container's note; ``None`` if it has not begun."""
        text = await self._dict.get.aio(f"{call_id}/run", None)
        return RunNote.model_validate_json(text) if isinstance(text, str) else None

    async def claim(self, key: str) -> bool:
        """Whether this key comes for the first time; then the caller submits the job."""
        return bool(await self._dict.put.aio(f"key/{key}", "", skip_if_exists=True))

    async def submitted(self, key: str, call_id: str) -> None:
        """The key's job is this call."""
        await self._dict.put.aio(f"key/{key}", call_id)

    async def by_key(self, key: str) -> str | None:
        """The call of a key; ``None`` while it is being submitted."""
        return await self._dict.get.aio(f"key/{key}", None) or None

    async def _put(self, key: str, note: BaseModel) -> None:
        await self._dict.put.aio(key, note.model_dump_json(exclude_none=True))
