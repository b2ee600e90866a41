"""The sandbox as a target: our own small engine, in a process of its own.

A process, not a thread of the client: a client that is killed leaves it running, so the job
can still be resumed; it ends by itself when nothing has happened for a while.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import TargetUnreachable
from ..events import Event, Finished
from ..outputs import RemoteOutput
from ..workflow.prompt import Prompt
from .base import Capabilities, Health, RemoteRef, RunRequest
from .comfyui import ComfyUITarget
from .detach import detached

__all__ = ["SandboxTarget"]

_START_TIMEOUT = 30.0
_IDLE_EXIT = 300


class SandboxTarget:
    """Starts a sandbox, or finds the one that an earlier client left running.

    Args:
        url: Of a running sandbox, to resume a job there; ``None`` starts one.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._inner: ComfyUITarget | None = None
        self._process: Process | None = None
        self._unfinished: set[str] = set()

    @property
    def name(self) -> str:
        """``sandbox``."""
        return "sandbox"

    async def __aenter__(self) -> SandboxTarget:
        url = self._url or await self._start()
        self._inner = ComfyUITarget(url, name="sandbox", patience=3.0)
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._inner is not None:
            await self._inner.__aexit__()
        # A job that goes on (the caller gave up waiting) keeps its sandbox.
        if self._process is not None and not self._unfinished:
            if self._process.returncode is None:
                self._process.terminate()
            await self._process.wait()

    async def has_input(self, name: str) -> bool:
        """See `Target.has_input`."""
        return await self._engine.has_input(name)

    async def submit(self, request: RunRequest) -> RemoteRef:
        """See `Target.submit`."""
        self._unfinished.add(request.job_id)
        try:
            return await self._engine.submit(request)
        except BaseException:
            self._unfinished.discard(request.job_id)
            raise

    async def find(self, job_id: str) -> RemoteRef | None:
        """See `Target.find`."""
        return await self._engine.find(job_id)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Target.follow`."""
        async with aclosing(self._engine.follow(ref, prompt)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    self._unfinished.discard(ref.job_id)
                yield event

    async def cancel(self, ref: RemoteRef) -> None:
        """See `Target.cancel`."""
        await self._engine.cancel(ref)
        self._unfinished.discard(ref.job_id)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Target.read`."""
        async with aclosing(self._engine.read(output, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def describe(self) -> Capabilities:
        """See `Target.describe`."""
        return await self._engine.describe()

    async def health(self) -> Health:
        """See `Target.health`."""
        return await self._engine.health()

    @property
    def _engine(self) -> ComfyUITarget:
        if self._inner is None:
            raise RuntimeError("the target is used outside of `async with`")
        return self._inner

    async def _start(self) -> str:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"{__package__.rpartition('.')[0]}.sandbox",
            "--port",
            "0",
            "--idle-exit",
            str(_IDLE_EXIT),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            **detached(),
        )
        assert self._process.stdout is not None  # noqa: S101  # PIPE was asked for
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _START_TIMEOUT)
            return str(json.loads(line)["url"])
        except (asyncio.TimeoutError, ValueError, KeyError, TypeError) as error:
            if self._process.returncode is None:
                self._process.kill()
            raise TargetUnreachable(
                "The sandbox did not start.",
                advice="Run `python -m comfy_remote.sandbox` to see why.",
            ) from error
