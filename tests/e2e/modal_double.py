"""Modal, as far as a deployed project uses it, in this process.

Only what crosses between containers is stood in for: a call that is spawned, asked for and
cancelled, a Dict, a Volume. The project's own code runs, and the decorators are Modal's.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import modal

CALL: contextvars.ContextVar[str | None] = contextvars.ContextVar("call", default=None)


class Aio:
    """A method of Modal's: called through ``aio``."""

    def __init__(self, function: Any) -> None:
        self.aio = function


class FakeDict:
    """A `modal.Dict` of text."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.get = Aio(self._get)
        self.put = Aio(self._put)

    async def _get(self, key: str, default: str | None = None) -> str | None:
        await asyncio.sleep(0.001)
        return self.entries.get(key, default)

    async def _put(self, key: str, value: str, *, skip_if_exists: bool = False) -> bool:
        await asyncio.sleep(0.001)
        assert isinstance(key, str) and isinstance(value, str), "only text crosses"
        if skip_if_exists and key in self.entries:
            return False
        self.entries[key] = value
        return True


class FakeVolume:
    """A `modal.Volume`: what is committed can be read."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.committed: dict[str, bytes] = {}
        self.commits = 0
        self.reloads = 0
        self.commit = Aio(self._commit)
        self.reload = Aio(self._reload)
        self.read_file = Aio(self._read_file)

    async def _commit(self) -> None:
        self.commits += 1
        for path in self.mount.rglob("*"):
            if path.is_file():
                self.committed[path.relative_to(self.mount).as_posix()] = path.read_bytes()

    async def _reload(self) -> None:
        self.reloads += 1
        raise RuntimeError("there are open files preventing the operation")

    async def _read_file(self, path: str) -> AsyncIterator[bytes]:
        if path not in self.committed:
            raise FileNotFoundError(path)
        data = self.committed[path]
        for start in range(0, len(data), 8 * 2**20):
            yield data[start : start + 8 * 2**20]


class FakeModal:
    """The calls of one class: one container, so one at a time, in the order they come."""

    def __init__(self, workflow: Any) -> None:
        self._instance = workflow()
        self._calls: dict[str, asyncio.Task[str]] = {}
        self._numbers = itertools.count(1)
        self._container = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self.spawned = self.started = self.lost = 0
        self._running: asyncio.Future[str] | None = None
        self._ending = False
        self.up = True

    def __call__(self) -> Any:
        """As the class is called."""
        run = SimpleNamespace(spawn=Aio(self._spawn), get_current_stats=Aio(self._stats))
        return SimpleNamespace(run=run)

    def from_id(self, call_id: str) -> Any:
        """As `modal.FunctionCall.from_id`."""
        return SimpleNamespace(
            get=Aio(lambda timeout: self._here(self._get(call_id, timeout))),
            cancel=Aio(lambda: self._here(self._cancel(call_id))),
        )

    async def _spawn(self, payload: str) -> Any:
        assert isinstance(payload, str), "only text crosses"
        return await self._here(self._begin(payload))

    async def _here(self, work: Any) -> Any:
        # The front has a loop of its own, as it has a container of its own.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _begin(self, payload: str) -> Any:
        if not self.up:
            raise modal.exception.ConnectionError("Modal is not there")
        self.spawned += 1
        call_id = f"fc-{next(self._numbers):04}"
        self._calls[call_id] = asyncio.create_task(self._run(call_id, payload))
        return SimpleNamespace(object_id=call_id)

    async def _run(self, call_id: str, payload: str) -> str:
        async with self._container:
            CALL.set(call_id)
            while True:
                self.started += 1
                self._running = asyncio.ensure_future(self._instance.run.local(payload))
                try:
                    answer = await self._running
                except asyncio.CancelledError:
                    if not self._ending:
                        raise  # the call was cancelled
                    self._ending = False
                    continue  # in another container
                assert isinstance(answer, str), "only text crosses"
                return answer

    def container_ends(self) -> None:
        """The machine is gone while a call runs: Modal starts it again elsewhere."""
        assert self._running is not None
        self.lost, self._ending = self.lost + 1, True
        self._running.cancel()

    async def _get(self, call_id: str, timeout: float) -> str:
        assert timeout == 0
        if not self.up:
            raise modal.exception.ConnectionError("Modal is not there")
        call = self._calls.get(call_id)
        if call is None:
            raise modal.exception.NotFoundError(call_id)
        if not call.done():
            raise TimeoutError
        if call.cancelled():
            raise modal.exception.RemoteError("Input was cancelled by user")
        return call.result()

    async def _cancel(self, call_id: str) -> None:
        self._calls[call_id].cancel()

    async def _stats(self) -> Any:
        waiting = [call for call in self._calls.values() if not call.done()]
        running = int(self._container.locked())
        return SimpleNamespace(
            backlog=len(waiting) - running, num_running_inputs=running, num_total_runners=1
        )

    async def ended(self) -> None:
        """Wait for all calls."""
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
