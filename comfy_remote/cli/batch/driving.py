"""Driving and watching a batch from a command: to its end, a pause, or Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import click

from ...batch.events import BatchEvent, Stopped
from ...batch.manifest import MANIFEST, read_manifest
from ...batch.store import driving, is_driven
from ...batch.watching import watched
from ...errors import ComfyRemoteError, ConfigurationError, JobCancelled, NotTrusted
from ...jobs.record import BatchEntry, Record, Wanted
from ..asking import can_ask
from ..follow import reported
from ..interrupt import run_interruptible
from .tally import Tally
from .words import batch_command, exit_status, failed_of

if TYPE_CHECKING:
    from ...jobs.client import Client
    from .ending import Notified
    from .reporter import BatchReporter

__all__ = ["drive", "drive_or_watch", "report_end", "supervise", "watch"]


def supervise(
    work: Callable[[Record], Coroutine[object, object, Stopped | None]],
    reporter: BatchReporter,
    notified: Notified,
) -> None:
    """Do what drives or watches a batch; say how it ended, and exit with the status of that.

    Args:
        work: Gives the batch's end; ``None`` where another process drives it, or nobody does.
    """
    stopped, error = _outcome(work, reporter)
    if error is not None:
        notified.failed(error)
        raise click.exceptions.Exit(error.exit_status)
    if stopped is not None:
        notified.stopped(stopped)
        if status := exit_status(stopped):
            raise click.exceptions.Exit(status)


def _outcome(
    work: Callable[[Record], Coroutine[object, object, Stopped | None]], reporter: BatchReporter
) -> tuple[Stopped | None, ComfyRemoteError | None]:
    with reporter:
        try:
            with Record() as record:
                return run_interruptible(reported(work(record), reporter)), None
        except ComfyRemoteError as caught:
            if isinstance(caught, NotTrusted) and caught.asks_for and can_ask():
                raise  # to ask, and to begin again: see `trust.asks_for_trust`
            error = caught
        except asyncio.CancelledError:
            error = JobCancelled("Stopped. Nothing was sent.")
        except KeyboardInterrupt:
            error = JobCancelled(
                "Stopped at once. Runs that had begun continue on the target.",
                advice="`comfy-remote batch list` shows your batches; `comfy-remote batch resume` "
                "goes on with one.",
            )
        reporter.failed(error, None, resumable=False)
        return None, error


async def drive(
    entry: BatchEntry,
    record: Record,
    reporter: BatchReporter,
    *,
    client: Client | None = None,
    by_hand: bool = True,
    expected: float | None = None,
) -> Stopped:
    """Drive a batch until it has ended or is paused, and report that.

    Args:
        client, by_hand: As for `store.driving`.
        expected: Seconds that it takes, as far as that is known.

    Raises:
        JobCancelled: Ctrl-C: what runs continues on the target, and resuming fetches it.
        ConfigurationError: Another program drives it.
    """
    if client is None:
        reporter.connecting(entry.target)
    under_way = 0
    try:
        async with driving(entry, record, client=client, by_hand=by_hand) as driver:
            entry = await record.read(record.batches.get, entry.id)
            async with (
                _reporting(entry, reporter, expected) as tally,
                aclosing(aiter(driver)) as events,
            ):
                try:
                    return await _to_its_end(events, tally, reporter)
                except asyncio.CancelledError:
                    under_way = len(tally.running)
                    raise
    except asyncio.CancelledError:
        runs = (
            ""
            if not under_way
            else (f" {under_way} that had begun continue on the target, and are fetched then.")
        )
        raise JobCancelled(
            f"Stopped. No more runs of {entry.name} begin.{runs}",
            advice=f"Go on with it: {batch_command('resume', entry)}",
        ) from None


async def watch(entry: BatchEntry, record: Record, reporter: BatchReporter) -> Stopped:
    """Report what another process does with a batch, until that has ended or is gone.

    Raises:
        JobCancelled: Ctrl-C: the batch goes on.
    """
    try:
        async with (
            _reporting(entry, reporter, None) as tally,
            aclosing(watched(entry, record)) as events,
        ):
            return await _to_its_end(events, tally, reporter)
    except asyncio.CancelledError:
        raise JobCancelled(
            "Stopped watching. The batch goes on.",
            advice=f"To pause it: {batch_command('pause', entry)}",
        ) from None


async def drive_or_watch(entry: BatchEntry, record: Record, reporter: BatchReporter) -> Stopped:
    """Go on with a batch that its user wants to run, here or where a living process has it."""
    await record.write(record.batches.want, entry.id, Wanted.RUN)
    folder = record.path.parent
    if not await asyncio.to_thread(is_driven, folder, entry.id):
        try:
            return await drive(entry, record, reporter)
        except ConfigurationError:
            if not await asyncio.to_thread(is_driven, folder, entry.id):
                raise  # it is something else
    reporter.note("Another process runs it; this command watches.")
    return await watch(entry, record, reporter)


async def report_end(entry: BatchEntry, reporter: BatchReporter) -> Stopped:
    """Report a batch that had ended before."""
    async with _reporting(entry, reporter, None):
        stopped = Stopped(entry)
        reporter.stopped(stopped, await asyncio.to_thread(failed_of, entry))
        return stopped


@asynccontextmanager
async def _reporting(
    entry: BatchEntry, reporter: BatchReporter, expected: float | None
) -> AsyncIterator[Tally]:
    lines = await asyncio.to_thread(read_manifest, entry.folder / MANIFEST)
    tally = Tally(entry, lines.values(), expected)
    reporter.begins(tally)
    yield tally


async def _to_its_end(
    events: AsyncGenerator[BatchEvent, None], tally: Tally, reporter: BatchReporter
) -> Stopped:
    async for event in events:
        tally.note(event)
        reporter.happened(event)
        if isinstance(event, Stopped):
            failed = await asyncio.to_thread(failed_of, event.entry)
            reporter.stopped(event, failed)
            return event
    raise AssertionError("unreachable: a batch's last event is Stopped")
