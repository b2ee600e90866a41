"""A job's outputs on their way into the store: each as soon as it is ready, all at its end."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..advice import Hint
from ..aio import Background, in_thread
from ..errors import ComfyRemoteError, ConfigurationError, OutputError, OutputTooLarge
from ..jobs.served import is_job_id
from ..media.file_changes import discard
from ..media.files import safe_relative_path, storage_errors, write_whole
from ..media.temporary import ProcessLock
from ..outputs import RemoteOutput
from ..targets.base import Target
from ..targets.download import download
from ..units import size_text
from ..wire.comfy_api import OutputType
from ..workflow.prompt import Prompt
from .assets import AssetStore
from .stored import StoredAsset

__all__ = ["Arrivals", "ArrivingOutputs"]

_LARGE = 64 * 2**20
_LOCK = "lock"

_A_NODE = 10**13
"""Positions that each node of a prompt has for its outputs: a thousand for each millisecond since
the job began, so that another process of the front never takes one again."""

_TYPES = {
    "image": OutputType.IMAGE,
    "video": OutputType.VIDEO,
    "audio": OutputType.AUDIO,
    "text": OutputType.TEXT,
}


def _output_type(output: RemoteOutput) -> OutputType:
    """What the API calls an output of that kind."""
    if output.filename.endswith(".latent"):
        return OutputType.LATENT
    return _TYPES.get(output.kind, OutputType.FILE)


class _Slots:
    """How many outputs of all jobs arrive at a time; large ones leave room for the others.

    Args:
        most: All of them.
        large: Those that are known to have more than 64 MiB.
    """

    def __init__(self, *, most: int = 8, large: int = 4) -> None:
        self._free = asyncio.Semaphore(most)
        self._free_for_large = asyncio.Semaphore(large)

    @asynccontextmanager
    async def one(self, size: int | None) -> AsyncIterator[None]:
        """Wait for a free one, and have it.

        Args:
            size: Bytes; ``None`` where that is not known.
        """
        async with AsyncExitStack() as held:
            if size is not None and size > _LARGE:
                await held.enter_async_context(self._free_for_large)
            await held.enter_async_context(self._free)
            yield


class ArrivingOutputs:
    """The outputs of one job, each fetched and stored once, also after a restart.

    Args:
        created: When the job began, in seconds since the epoch.
        folder: For what is arriving, of all jobs; there. What a killed process left is continued:
            the name of a file begins with its job's id and a point.
        slots: Shared by all jobs of the front.
        stored: Called with each that this process stores.
    """

    def __init__(
        self,
        store: AssetStore,
        job_id: str,
        prompt: Prompt,
        created: float,
        folder: Path,
        slots: _Slots,
        stored: Callable[[StoredAsset], None],
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._order = {node_id: number for number, node_id in enumerate(prompt)}
        self._created = created
        self._folder = folder
        self._slots = slots
        self._stored = stored
        self._arriving: dict[tuple[object, ...], asyncio.Future[StoredAsset]] = {}
        self._before: dict[tuple[str, str], list[StoredAsset]] = {}
        self._last = 0
        self._background = Background()

    def found(self, assets: Iterable[StoredAsset]) -> None:
        """Take what an earlier process has stored already."""
        for asset in assets:
            self._before.setdefault((asset.node_id or "", asset.file_path), []).append(asset)

    def begin(self, target: Target, output: RemoteOutput) -> None:
        """Fetch an output while its job runs; `complete` says how that went."""
        self._task(target, output)

    async def complete(
        self, target: Target, outputs: Sequence[RemoteOutput]
    ) -> list[StoredAsset | OutputError]:
        """All of a job's outputs, once it has ended; why not, of one that there will never be.

        Raises:
            ComfyRemoteError: One could not be fetched or stored now. The others are here.
        """
        tasks = [self._task(target, output) for output in outputs]
        results: list[StoredAsset | OutputError] = []
        later: ComfyRemoteError | None = None
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, StoredAsset | OutputError):
                results.append(result)
            elif isinstance(result, ComfyRemoteError):
                later = later or result
            else:
                raise result
        if later is not None:
            raise later
        return results

    async def stop(self) -> None:
        """Leave what is arriving as it is, for the next process."""
        await self._background.stop()

    def _task(self, target: Target, output: RemoteOutput) -> asyncio.Future[StoredAsset]:
        identity = _identity(output)
        task = self._arriving.get(identity)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            name = str(safe_relative_path(output.filename, output.subfolder))
            before = self._before.get((output.drawn_node, name))
            if before:
                task = asyncio.get_running_loop().create_future()
                task.set_result(before.pop(0))
            else:
                position = self._next_position(output)
                task = self._background.start(self._fetched(target, output, name, position))
            self._arriving[identity] = task
        return task

    def _next_position(self, output: RemoteOutput) -> int:
        """In the order of the prompt's nodes, then as they came."""
        since = max(0, round((time.time() - self._created) * 1000)) * 1000
        self._last = max(self._last + 1, since)
        node = self._order.get(output.drawn_node, len(self._order))
        return node * _A_NODE + self._last % _A_NODE

    async def _fetched(
        self, target: Target, output: RemoteOutput, name: str, position: int
    ) -> StoredAsset:
        most = self._store.limits.store_bytes
        if (output.size or 0) > most:  # there will never be room for it
            raise OutputTooLarge(
                f"{output.filename} has {size_text(output.size or 0)}, and all files of this "
                f"server together may have {size_text(most)}.",
                advice="Make it smaller.",
            )
        async with self._slots.one(output.size):
            await self._store.check_room(output.size or 1)
            digest = hashlib.sha256(repr(_identity(output)).encode()).hexdigest()
            path = self._folder / f"{self._job_id}.{digest[:32]}"
            if output.text is None:
                await download(target, output, path)
            else:  # it came with the answer, and may be empty
                await in_thread(write_whole, path, output.text.encode("utf-8", "replace"))
            asset = await self._store.add_output(
                path,
                job_id=self._job_id,
                position=position,
                node_id=output.drawn_node,
                name=name,
                kind=_output_type(output),
                content_type=output.media_type,
            )
        self._stored(asset)
        return asset


class Arrivals:
    """The outputs of a front's jobs that are on their way: a folder, which one process has."""

    def __init__(self, store: AssetStore) -> None:
        self._store = store
        self._folder = store.folder / "outputs"
        self._slots = _Slots()
        self._lock: ProcessLock | None = None

    def open(self, source: str) -> None:
        """Take the folder; made when missing. Blocking.

        Args:
            source: What the front is called in errors.

        Raises:
            ConfigurationError: Another process has it.
            LocalStorageError: It cannot be made.
        """
        with storage_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock = ProcessLock(self._folder / _LOCK)
            except sqlite3.Error:
                raise ConfigurationError(
                    f"Another process serves {source!r} already.",
                    advice=Hint.OTHER_FRONT(),
                ) from None

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            self._lock.close()

    def of(
        self, job_id: str, prompt: Prompt, created: float, stored: Callable[[StoredAsset], None]
    ) -> ArrivingOutputs:
        """Those of one job; see `ArrivingOutputs`."""
        return ArrivingOutputs(
            self._store, job_id, prompt, created, self._folder, self._slots, stored
        )

    def remove_others(self, wanted: Callable[[str], bool]) -> None:
        """Remove what has arrived of jobs that are not wanted. Blocking.

        Args:
            wanted: Whether a job is, by its id; asked in this thread, for each file in turn.
        """
        with storage_errors(self._folder):
            for path in self._folder.iterdir():
                job_id = path.name.partition(".")[0]
                if is_job_id(job_id) and not wanted(job_id):
                    discard(path)


def _identity(output: RemoteOutput) -> tuple[object, ...]:
    """What tells one output from another: two nodes may name one file."""
    return (output.node_id, output.key, *output.file)
