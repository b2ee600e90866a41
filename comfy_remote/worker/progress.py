"""The progress of a job, sent to the queue about four times a second."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from pydantic import JsonValue

from ..aio import within
from ..clean import clean
from ..events import NodeText, Preview, Progress
from ..secrets import redact
from ..wire.answer import PreviewSnapshot, ProgressSnapshot

__all__ = ["ProgressReporter", "Report"]

Report: TypeAlias = Callable[[dict[str, JsonValue]], Awaitable[None]]
"""Sends one snapshot to the queue; may fail or hang."""

_PREVIEW_LIMIT = 64 * 1024
_LONGEST_TEXT = 4000
_MOST_TEXTS = 50

_log = logging.getLogger(__name__)


class ProgressReporter:
    """Sends the newest snapshot, about four times a second, one at a time.

    Used as an asynchronous context manager. When it is left, no report is under way any more:
    RunPod takes one that arrives after the result for the job's state.

    Args:
        report: Sends a snapshot. Its failures are logged, and cost the job nothing.
        previews: Whether preview pictures are wanted. At most one a second is sent, of at
            most 64 KiB.
        interval: Seconds between two reports.
        preview_interval: Seconds between two previews.
        patience: Seconds a report may take before it is given up.
    """

    def __init__(
        self,
        report: Report,
        *,
        previews: bool = False,
        interval: float = 0.25,
        preview_interval: float = 1.0,
        patience: float = 5.0,
    ) -> None:
        self._report = report
        self._previews = previews
        self._interval = interval
        self._preview_interval = preview_interval
        self._patience = patience
        self._progress = Progress()
        self._texts: dict[str, str] = {}
        self._preview: Preview | None = None
        self._preview_due = 0.0
        self._sequence = 0
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None]

    def say(self, words: str) -> None:
        """Send a line for people, as the message of the next snapshot."""
        self.progress(Progress(message=words))

    def progress(self, event: Progress) -> None:
        """Take note of a snapshot; an older one that was not sent yet is dropped."""
        self._progress = event
        self._news.set()

    def preview(self, event: Preview) -> None:
        """Take note of a preview, unless none is wanted or it is too large."""
        if self._previews and len(event.data) <= _PREVIEW_LIMIT:
            self._preview = event
            self._news.set()

    def text(self, event: NodeText) -> None:
        """Take note of a node's text: the newest of each of the last nodes is sent."""
        self._texts.pop(event.node_id, None)
        self._texts[event.node_id] = clean(redact(event.text[:_LONGEST_TEXT]))
        while len(self._texts) > _MOST_TEXTS:
            del self._texts[next(iter(self._texts))]
        self._news.set()

    async def __aenter__(self) -> ProgressReporter:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Send what is new and wait until it has landed; a stopped job sends nothing more."""
        self._closing.set()
        self._news.set()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        sent: Progress | None = None
        texts: dict[str, str] = {}
        while True:
            await self._news.wait()
            self._news.clear()
            preview = self._due_preview()
            moved = self._progress != sent and self._progress != Progress()
            if preview is not None or moved or self._texts != texts:
                sent, texts = self._progress, dict(self._texts)
                await self._send(sent, preview)
            if self._closing.is_set() and not self._news.is_set():
                return
            await self._pause(self._interval)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the job ends meanwhile."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._closing.wait(), seconds)

    def _due_preview(self) -> Preview | None:
        preview, now = self._preview, time.monotonic()
        if preview is None or now < self._preview_due:
            return None
        self._preview = None
        self._preview_due = now + self._preview_interval
        return preview

    async def _send(self, progress: Progress, preview: Preview | None) -> None:
        self._sequence += 1
        snapshot = ProgressSnapshot(
            sequence=self._sequence,
            nodes_done=progress.nodes_done,
            nodes_total=progress.nodes_total,
            node_id=progress.node_id,
            node_class=progress.node_class,
            step=progress.step,
            steps=progress.steps,
            message=clean(redact(progress.message)),
            texts=self._texts,
            preview=_snapshot(preview) if preview is not None else None,
        )
        try:
            await within(
                self._report(snapshot.model_dump(mode="json", exclude_none=True)), self._patience
            )
        except asyncio.TimeoutError:
            _log.warning("a progress report took longer than %g s: given up", self._patience)
        # Whatever fails in the sender, the job must not fail.
        except Exception as error:  # noqa: BLE001
            _log.warning("a progress report failed: %s: %s", type(error).__name__, error)


def _snapshot(preview: Preview) -> PreviewSnapshot:
    return PreviewSnapshot(
        node_id=preview.node_id,
        media_type=preview.media_type,
        data=base64.b64encode(preview.data).decode("ascii"),
    )
