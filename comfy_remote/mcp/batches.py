"""Many runs as one batch, driven by this server, within its bounds.

The server's caps hold while it drives a batch. When it ends, the batch rests: jobs that run go on,
and no further one begins until `Batches.resume`, or the user's own command.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, cast

from ..aio import Background
from ..batch.draft import BatchOptions, draft
from ..batch.frozen import Frozen, batch_folder
from ..batch.plan import Variation
from ..batch.store import driving, is_driven, make
from ..errors import ComfyRemoteError, ConfigurationError, SpendingCap
from ..jobs.record import BatchEntry, BatchState, Wanted
from ..library.batch import Batch
from ..library.client import Client
from ..workflow.paid_nodes import any_paid, any_paid_known
from .desk import Desk
from .desk import Wanted as WantedRun

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..batch.draft import Draft
    from ..workflow.prompt import Prompt

__all__ = ["Batches", "Varied"]

_log = logging.getLogger(__name__)

Varied: TypeAlias = "Mapping[str, str | Sequence[str | int | float | bool]]"
"""By input: a range (``1..8``) or the values. Never the name of a file of values."""

_RANGE = re.compile(r"-?[0-9.]+\.\.-?[0-9.]+(:[0-9.]+)?")
_MOST_RUNS = 1_000
_MOST_DRIVEN = 4


class Batches:
    """Batches of this machine's record, for agents."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._driven = Background()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._driven.stop()  # jobs that run go on

    async def start(
        self, wanted: WantedRun, vary: Varied, *, name: str | None, at_most: int | None
    ) -> BatchEntry:
        """Make a batch, and begin to drive it.

        Raises:
            ComfyRemoteError: It was not made.
        """
        _check(vary)
        below = await asyncio.to_thread(self._desk.bounds.folder, wanted.folder)
        options = BatchOptions(name=name, below=below, at_most=at_most)

        async def made(client: Client) -> BatchEntry:
            workflow, inputs = await self._desk.ready(client, wanted)
            drafted = await draft(
                client,
                workflow,
                Variation(vary),
                target=client.named,
                changes=wanted.changes,
                inputs=inputs,
                options=options,
                folder=self._desk.bounds.folders[0],
            )
            await asyncio.to_thread(self._check_draft, drafted)
            return await make(drafted, client)

        return await self._begin(wanted.target, made)

    async def resume(self, batch: str) -> BatchEntry:
        """Drive a batch that rests.

        Raises:
            SpendingCap: It may go over every cap, or buys something from a service.
        """
        entry = await self.get(batch)
        if await self._is_driven(entry) or entry.state.final:
            return entry

        async def known(_: Client) -> BatchEntry:
            kept = batch_folder(self._desk.record.path.parent, entry.id)
            frozen = await asyncio.to_thread(Frozen.load, kept)
            prompt = cast("Prompt", frozen.prompt)
            paid = any_paid_known(prompt) or any_paid(prompt, frozen.known_schemas())
            if entry.over_cap or paid:
                raise SpendingCap(
                    f"No limit holds the batch {entry.name}: it may go over every cap, or has "
                    "nodes that buy something from a service.",
                    advice=f"No tool runs it. A person can: comfy-remote batch resume {entry.name}",
                )
            return entry

        return await self._begin(entry.target, known)

    async def get(self, batch: str) -> BatchEntry:
        """By its name, its id or the beginning of that."""
        record = self._desk.record
        return await record.read(record.batches.get, batch)

    async def newest(self, limit: int) -> list[BatchEntry]:
        """The newest batches."""
        record = self._desk.record
        return await record.read(record.batches.all, limit)

    async def pause(self, batch: str) -> BatchEntry:
        """Have it begin no more runs."""
        entry = await self.get(batch)
        record = self._desk.record
        await record.write(record.batches.want, entry.id, Wanted.PAUSE)
        return await self.get(entry.id)

    async def cancel(self, batch: str) -> BatchEntry:
        """Have it end; what runs is cancelled, whoever drives it."""
        entry = await self.get(batch)
        record = self._desk.record
        if entry.state.final:
            return entry
        await record.write(record.batches.want, entry.id, Wanted.CANCEL)
        if not await self._is_driven(entry):
            if entry.begun:
                async with driving(entry, record) as driver:
                    async for _ in driver:
                        pass
            else:
                await record.write(record.batches.state, entry.id, BatchState.CANCELLED)
        return await self.get(entry.id)

    async def _is_driven(self, entry: BatchEntry) -> bool:
        return await asyncio.to_thread(is_driven, self._desk.record.path.parent, entry.id)

    async def _begin(
        self,
        target: str | None,
        prepared: Callable[[Client], Coroutine[object, object, BatchEntry]],
    ) -> BatchEntry:
        """Open the target, have the batch, and drive it in the background."""
        if len(self._driven) >= _MOST_DRIVEN:
            raise ConfigurationError(
                f"{_MOST_DRIVEN} batches are driven here.", advice="Wait for one, or cancel one."
            )
        begun: asyncio.Future[BatchEntry] = asyncio.get_running_loop().create_future()

        async def drive() -> None:
            try:
                async with self._desk.client(target) as client:
                    entry = await prepared(client)
                    begun.set_result(entry)
                    await Batch(client, entry).run()
            except ComfyRemoteError as error:
                if begun.done():  # why it rests is in the record
                    _log.info("A batch is no longer driven: %s", error.message)
                else:
                    begun.set_exception(error)
            finally:
                if not begun.done():
                    begun.cancel()

        self._driven.start(drive())
        return await asyncio.shield(begun)

    def _check_draft(self, drafted: Draft) -> None:
        """See that it is not too large, and that all its files may be used. Blocking."""
        if drafted.plan.count > _MOST_RUNS:
            raise ConfigurationError(
                f"{drafted.plan.count} runs are more than a tool may start.",
                advice=f"Give fewer values: {_MOST_RUNS} runs at most.",
            )
        for path in {*drafted.plan.all_files(), *map(Path, drafted.inputs)}:
            if not self._desk.bounds.may_read(path):
                raise ConfigurationError(
                    f"{path} is outside of the folders that this server may use, or hidden."
                )


def _check(vary: Varied) -> None:
    """See that no text in it is read as the name of a file."""
    for name, values in vary.items():
        if isinstance(values, str) and not _RANGE.fullmatch(values):
            raise ConfigurationError(
                f"{name}: {values!r} is no range.", advice="Give a range (1..8), or a list."
            )
