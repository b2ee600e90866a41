"""Batches for programs: `Client.batch` makes one, `Client.open_batch` goes on with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.events import BatchEvent, Stopped
from ..batch.manifest import MANIFEST, RunLine, read_manifest
from ..batch.store import driving, remove, retry_failed
from ..jobs.record import BatchEntry, Wanted

if TYPE_CHECKING:
    from ..jobs.client import Client

__all__ = ["Batch"]


class Batch:
    """Many runs of one workflow as one thing that lasts.

    It is on the disk: after a program that ended, however that was, another one goes on with it, or
    ``comfy-remote batch resume`` does. Iterate over it to have it run::

        async with Client("gpu") as client:
            batch = await client.batch("workflow.json", vary={"seed": "1..8"})
            async for event in batch:
                ...
            for line in await batch.lines():
                print(line.values, line.state, [output["file"] for output in line.outputs])

    Attributes:
        id: A lower-case UUID.
        name: As its user calls it.
        folder: Where its outputs are, a folder for each run, and ``manifest.jsonl``.
    """

    def __init__(self, client: Client, entry: BatchEntry) -> None:
        self._client = client
        self.id = entry.id
        self.name = entry.name
        self.folder: Path = entry.folder

    def __repr__(self) -> str:
        return f"Batch({self.name!r})"

    async def __aiter__(self) -> AsyncGenerator[BatchEvent, None]:
        """Run what is left of it; the last event is `Stopped`. A run that fails raises nothing.

        Left early, its running jobs go on at the target.

        Raises:
            ConfigurationError: Another program runs it.
            LocalStorageError: Its folder, or the record, cannot be used.
        """
        entry = await self.entry()
        await self._want(Wanted.RUN)
        client = self._client.leaving_jobs()
        async with (
            driving(entry, client.record, client=client) as driver,
            aclosing(aiter(driver)) as events,
        ):
            async for event in events:
                yield event

    async def run(self, on_event: Callable[[BatchEvent], object] | None = None) -> BatchEntry:
        """Run what is left of it; what is known of it then.

        Raises:
            ComfyRemoteError: As iterating over it does.
        """
        async for event in self:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Stopped):
                return event.entry
        return await self.entry()

    async def entry(self) -> BatchEntry:
        """What is known of it now: its state, and how many runs have ended how."""
        record = self._client.record
        return await record.read(record.batches.get, self.id)

    async def lines(self) -> list[RunLine]:
        """Its runs that have ended, in order of their rows."""
        lines = await asyncio.to_thread(read_manifest, self.folder / MANIFEST)
        return [lines[row] for row in sorted(lines)]

    async def pause(self) -> None:
        """Have it begin no more runs, whichever program runs it; those that run end."""
        await self._want(Wanted.PAUSE)

    async def cancel(self) -> None:
        """Have it stop, whichever program runs it; what runs is cancelled."""
        await self._want(Wanted.CANCEL)

    async def retry(self) -> int:
        """Let its failed and cancelled runs begin once more, when it is run again; how many.

        Raises:
            ConfigurationError: A program runs it.
        """
        return await retry_failed(await self.entry(), self._client.record)

    async def remove(self) -> None:
        """Forget it. The files in its folder stay.

        Raises:
            ConfigurationError: A program runs it.
        """
        await remove(await self.entry(), self._client.record)

    async def _want(self, wanted: Wanted) -> None:
        record = self._client.record
        await record.write(record.batches.want, self.id, wanted)
