"""The sandbox as a target: our own small engine, in a process of its own.

A process, not a thread of the client: a client that is killed leaves it running, so the job
can still be resumed; it ends by itself when nothing has happened for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

import aiohttp

from ...aio import within
from ...config.engine_environment import engine_environment
from ...errors import ComfyRemoteError, TargetUnreachable
from ...events import Event, Finished, JobState, Log, OutputReady, Progress, Started
from ...net.retry import Polling
from ...outputs import OutputSource, RemoteOutput
from ...workflow.prompt import Prompt
from ..base import Capabilities, Health, RemoteRef, RunRequest
from ..comfyui.follow import FollowTimes
from ..comfyui.history import began_at, silent_savers
from ..comfyui.target import ComfyUITarget
from ..engine_facts import installed_of
from ..engine_files import NodeTimes, folders_in, with_unlisted
from ..launch import PACKAGE_PARENT, detached, own_program

__all__ = ["SandboxTarget", "launch_sandbox"]

_START_TIMEOUT = 30.0
_IDLE_EXIT = 1800.0  # as long as RunPod keeps a result
_STOP_PATIENCE = 2.0
_MOST_LISTED = 1000  # of the latest outputs, which are not taken for those of another job


class SandboxTarget:
    """Starts a sandbox, or finds the one that an earlier client left running.

    Args:
        url: Of a running sandbox, to resume a job there; ``None`` starts one.
    """

    def __init__(
        self, url: str | None = None, *, launch: Callable[[], subprocess.Popen[bytes]] | None = None
    ) -> None:
        self._url = url
        self._launch = launch or launch_sandbox
        self._inner: ComfyUITarget | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reviving = asyncio.Lock()
        self._unfinished: set[str] = set()
        self._owed: dict[str, set[OutputSource]] = {}
        """By job: the outputs of those that succeeded which have not been brought here yet."""
        self._listed: deque[RemoteOutput] = deque(maxlen=_MOST_LISTED)

    @property
    def name(self) -> str:
        """``sandbox``."""
        return "sandbox"

    async def __aenter__(self) -> SandboxTarget:
        url = self._url or await self._start()
        times = FollowTimes(polling=Polling(patience=3.0))
        self._inner = ComfyUITarget(url, name=self.name, times=times)
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        failed = any(exc_info)
        if self._inner is None:
            return
        # A job that goes on (the caller gave up waiting) keeps its sandbox, and so do outputs
        # that have not been brought here (the disk was full): both can be resumed.
        needed = self._unfinished or (failed and any(self._owed.values()))
        if self._process is None:
            await self._inner.__aexit__()  # its WebSocket counts as somebody who follows
            if not needed:
                await self._stop(self._inner.url)
            return
        try:
            if not needed:
                await self._stop(self._inner.url)
        finally:
            await self._inner.__aexit__()

    async def has_input(self, name: str) -> bool:
        await self._revive()
        return await self._engine.has_input(name)

    async def submit(self, request: RunRequest) -> RemoteRef:
        await self._revive()
        self._unfinished.add(request.job_id)
        try:
            return await self._engine.submit(request)
        except BaseException:
            self._unfinished.discard(request.job_id)
            raise

    async def find(self, job_id: str) -> RemoteRef | None:
        return await self._engine.find(job_id)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        self._unfinished.add(ref.job_id)
        try:
            times, began = NodeTimes(), time.time()
            async with aclosing(self._engine.follow(ref, prompt)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        began = time.time()
                    elif isinstance(event, Progress):
                        times.running(event.node_id, time.time())
                    elif isinstance(event, OutputReady):
                        self._listed.append(event.output)
                    elif isinstance(event, Finished):
                        event = await self._with_unlisted(event, ref, began, prompt, times)
                        self._unfinished.discard(ref.job_id)
                        if event.state is JobState.SUCCEEDED:
                            made = {one.source for one in event.outputs if one.source}
                            self._owed[ref.job_id] = made
                    yield event
        except TargetUnreachable:
            if self._ended():
                self._unfinished.discard(ref.job_id)
            raise

    async def _with_unlisted(
        self, finished: Finished, ref: RemoteRef, heard: float, prompt: Prompt, times: NodeTimes
    ) -> Finished:
        """The end of a job, with the new files in the sandbox's own folders that no node listed.

        Only for a node that lists none: other jobs write into the same folder meanwhile, and what
        they list may be reported later than this end.

        Args:
            heard: When it was heard that the job began. On a busy machine, a quick one has written
                its files by then, so the engine's own word counts.
        """
        if not silent_savers(prompt, finished.outputs):
            return finished
        try:
            folders = folders_in(await self._engine.system())
            entry = await self._engine.history_entry(ref.remote_id)
        except ComfyRemoteError:
            return finished
        if folders is None:
            return finished
        listed, began = tuple(self._listed), began_at(entry or {})
        since = heard if began is None else began
        return await with_unlisted(finished, folders.output, since, prompt, times, listed)

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        for owed in self._owed.values():
            owed.difference_update([one.source for one in outputs if one.source])
        await self._engine.release(outputs)

    @property
    def local(self) -> bool:
        """Always."""
        return True

    def if_unfollowed(self, prompt: Prompt) -> Log:
        """The sandbox itself."""
        return Log(
            "The sandbox is a process on this machine. It ends with the machine, or half an hour "
            "after its last job, and the outputs go with it."
        )

    async def cancel(self, ref: RemoteRef) -> None:
        await self._engine.cancel(ref)
        self._unfinished.discard(ref.job_id)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._engine.read(output, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        await self._revive()
        return await self._engine.describe(classes)

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        """See `base.TellsWhatRuns`: its version says all; it has no packs and no models."""
        del folders
        await self._revive()
        described, stats = await asyncio.gather(
            self._engine.describe(classes), self._engine.system()
        )
        return replace(described, installed=installed_of(stats))

    async def still_runs(self, job_id: str) -> bool:
        """Never asked for: nothing in it can be replaced while its version stays."""
        return await self._engine.still_runs(job_id)

    async def health(self) -> Health:
        await self._revive()
        return await self._engine.health()

    @property
    def _engine(self) -> ComfyUITarget:
        if self._inner is None:
            raise RuntimeError("the target is used outside of `async with`")
        return self._inner

    async def _revive(self) -> None:
        """Start another one, if ours ended by itself: nobody had used it for long."""
        async with self._reviving:
            if self._ended() and not self._unfinished:
                await self._engine.__aexit__()
                await self.__aenter__()

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def _stop(self, url: str) -> None:
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
            timeout = aiohttp.ClientTimeout(total=_STOP_PATIENCE)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                # Whoever started it may still follow the job that was cancelled from here, and has
                # to hear of that: it ends its sandbox itself.
                unless = "?unless_followed=1" if self._process is None else ""
                await session.post(f"{url}/sandbox/stop{unless}")
        if self._process is None:
            return  # an earlier client's: it has been asked, and ends by itself otherwise
        try:
            await asyncio.to_thread(self._process.wait, _STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            _kill(self._process)

    async def _start(self) -> str:
        self._process = process = self._launch()
        try:
            line = await within(asyncio.to_thread(_first_line, process), _START_TIMEOUT)
            return str(json.loads(line)["url"])
        except (asyncio.TimeoutError, ValueError, KeyError, TypeError) as error:
            _kill(process)
            raise _not_started() from error
        except BaseException:
            _kill(process)
            raise


def launch_sandbox(idle_exit: float = _IDLE_EXIT) -> subprocess.Popen[bytes]:
    """Start a sandbox, which writes its address as its first line.

    Args:
        idle_exit: Seconds without a job or request after which it ends.
    """
    options = ("--port", "0", "--idle-exit", str(idle_exit))
    command = [sys.executable, *own_program("sandbox"), *options]
    try:
        # Not asyncio's, which ends with its loop: this one may go on after it.
        return subprocess.Popen(
            command,
            cwd=PACKAGE_PARENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # It may outlive us, and has no use for a key.
            env=engine_environment(os.environ),
            **detached(),
        )
    except OSError as error:
        raise _not_started() from error


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None  # noqa: S101  # PIPE was asked for
    with process.stdout as output:
        return output.readline()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _not_started() -> TargetUnreachable:
    return TargetUnreachable(
        "The sandbox did not start.",
        advice="Run `python -m comfy_remote.sandbox` to see why.",
    )
