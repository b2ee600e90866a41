"""The engine a worker drives: a ComfyUI (or the sandbox) that it owns, or one at a URL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import aiohttp

from ..advice import Hint
from ..aio import within
from ..config.engine_environment import engine_environment
from ..errors import ComfyRemoteError, EngineCrashed, LocalStorageError, TargetUnreachable
from .choice import EngineChoice, choose_engine
from .gpu import check_gpu
from .nodes.sets import NodeSets
from .nodes.using import with_current_set
from .process import ChildProcess

__all__ = ["NOT_STARTED", "Engine", "needs_fresh_engine"]

_ASK_EVERY = 0.05
_ASK_TIMEOUT = 5.0
_ATTACH_PATIENCE = 30.0
# The first start of a ComfyUI with many custom nodes takes minutes.
_START_PATIENCE = 900.0
_LINES_IN_ERRORS = 30
_KILLED = -9
# How Python says that ComfyUI's thread for prompts has ended: it answers on, and runs nothing.
_NO_PROMPT_THREAD = re.compile(r"Exception in thread .*\(prompt_worker\)")
# For the traceback, which comes after that line.
_TRACEBACK_PATIENCE = 1.0

_log = logging.getLogger(__name__)
NOT_STARTED = "engine_not_started"
"""In the details of an error: the engine ended before it was ready."""
# After any of these the process's CUDA context is lost: every later call fails the same way
# (NVIDIA, CUDA Runtime API, cudaError_t: "process must be terminated and relaunched"), or the
# GPU itself is.
_LOST_CONTEXT = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address"
    r"|illegal instruction was encountered|hardware stack error|invalid program counter"
    r"|launch timed out and was terminated|uncorrectable (?:ECC|NVLink) error"
    r"|No CUDA GPUs are available|CUDA unknown error|CUDA driver error: unknown error"
    r"|GPU is lost|has fallen off the bus|CUDA error: unknown error",
    re.IGNORECASE,
)


class Engine:
    """One engine, which runs one prompt at a time.

    `start` and `stop` need no event loop, so that the process can start before the worker's
    loop does and be ended after it. A process that has died is started again by the next
    `ready`.

    Args:
        choose: Gives the engine to use; asked again at every start, for a fresh port.
        environ: The worker's environment; the engine gets it without its secrets.
        label: What its lines in the log begin with.
        after: Another of the same ComfyUI. This one starts once that one has, or could not.
        after_patience: Seconds after which it starts in any case: a GPU that hangs must not hold up
            those that don't.
        nodes: The node packs that jobs bring: a ComfyUI that is started here gets those.
    """

    def __init__(
        self,
        choose: Callable[[], EngineChoice],
        *,
        environ: Mapping[str, str] = os.environ,
        label: str = "engine",
        after: Engine | None = None,
        after_patience: float = 120.0,
        nodes: NodeSets | None = None,
    ) -> None:
        self._choose = choose
        self._label = label
        self._after = after
        self._after_patience = after_patience
        self._tried = asyncio.Event()
        self._environ = environ
        self._nodes = nodes
        self._started_with: str | None = None
        self._choice: EngineChoice | None = None
        self._process: ChildProcess | None = None
        self._started: float | None = None
        self._printed_url: str | None = None
        self._was_ready = False
        self._why_ended = ""
        self._lock = threading.Lock()

    @classmethod
    def named(
        cls,
        choice: str,
        environ: Mapping[str, str] = os.environ,
        *,
        label: str = "engine",
        nodes: NodeSets | None = None,
    ) -> Engine:
        """The engine for ``auto``, ``sandbox``, a ComfyUI folder or a URL."""
        choose = partial(choose_engine, choice, environ)
        return cls(choose, environ=environ, label=label, nodes=nodes)

    @property
    def name(self) -> str:
        """For people: "ComfyUI in /opt/ComfyUI", "the sandbox", or the URL."""
        return self._choice.name if self._choice else "the engine"

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return self._process.pid if self._process else None

    @property
    def started(self) -> float | None:
        """When its process was started, in seconds since the epoch, if there is one."""
        return self._started if self._process else None

    @property
    def models_folder(self) -> Path | None:
        """Its own ``models`` folder; ``None`` before it was started, and where there is none."""
        return self._choice.models if self._choice else None

    @property
    def choice(self) -> EngineChoice | None:
        """What was chosen when it was started; ``None`` while it does not run."""
        return self._choice

    @property
    def nodes(self) -> NodeSets | None:
        """The node packs that jobs bring."""
        return self._nodes

    def has_old_nodes(self) -> bool:
        """Whether it runs with another set of node packs than the current one. Blocking.

        While the volume cannot be read, it is not known to be another.
        """
        choice = self._choice
        if self._nodes is None or choice is None or choice.program is None:
            return False
        self._nodes.folder.in_use.still_used()
        try:
            current = self._nodes.for_engine()
        except LocalStorageError as error:
            _log.warning("which node packs are current is not known: %s", error)
            return False
        return (current.id if current is not None else None) != choice.node_set

    async def check_gpu(self) -> None:
        """See `gpu.check_gpu`; nothing for an engine that is to run without a GPU."""
        self.start()
        if self._choice is not None and self._choice.gpu_python is not None:
            await check_gpu(self._choice.gpu_python, self._engine_environment())

    @property
    def alive(self) -> bool:
        """Whether there is any use in asking it something."""
        return self._process is None or self._process.alive

    def start(self) -> None:
        """Start the process, unless it runs. Returns at once: `ready` waits for it.

        Raises:
            ConfigurationError: There is no such engine, or its program cannot be started.
        """
        with self._lock:
            if self._choice is not None and (self._process is None or self._process.alive):
                return
            if self._process is not None:
                self._process.stop()  # it has ended; what it started may not have
            choice = self._choose()
            if self._nodes is not None:
                choice = with_current_set(choice, self._nodes)
            self._started_with = choice.node_set
            _log.info("%s: %s", self._label, "; ".join((choice.name, *choice.notes)))
            self._choice = choice
            self._was_ready = False
            self._printed_url = None
            self._why_ended = ""
            self._process = None
            if choice.command:
                self._started = time.time()
                self._process = ChildProcess(
                    "engine",
                    choice.command,
                    environ=self._engine_environment(),
                    on_line=self._on_line,
                    cwd=choice.cwd,
                )

    async def ready(self, *, as_it_is: bool = False) -> str:
        """Wait until the engine answers, starting it if it doesn't run; its base URL.

        Where it cannot be started with the current set of node packs, it is started with the one
        before.

        Args:
            as_it_is: Whether that is an error instead.

        Raises:
            ConfigurationError: See `start`.
            EngineCrashed: The process ended before it listened.
            TargetUnreachable: No process of ours, and nobody answers at the URL for 30 s; or
                our process does not answer for 15 minutes.
        """
        if self._after is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._after._tried.wait(), self._after_patience)
        try:
            while True:
                try:
                    return await self._ready()
                except (EngineCrashed, TargetUnreachable) as error:
                    tried, self._started_with = self._started_with, None
                    if as_it_is or self._nodes is None or tried is None:
                        raise
                    _log.error("it cannot be started with the node set %s: %s", tried, error)
                    self._nodes.could_not_start(tried)
                    await asyncio.to_thread(self.stop)
        finally:
            self._tried.set()

    async def _ready(self) -> str:
        url = self._url()
        alive = self._process is not None and self._process.alive
        if self._was_ready and alive and url is not None:
            return url  # it has answered before; if it hangs, the job's own requests notice
        if self._process is not None and not self._process.alive and self._was_ready:
            status = self._process.exit_status
            _log.warning("%s has ended (%s): starting it again", self.name, status)
        if self._process is None or self._process.alive or self._was_ready:
            self.start()
        process = self._process
        begun = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                url = self._url()
                if process is not None and not process.alive:
                    raise self._failed_to_start(process, await process.wait())
                if url is not None and await _answers(session, url):
                    self._was_ready = True
                    return url
                if process is None and time.monotonic() - begun > _ATTACH_PATIENCE:
                    raise TargetUnreachable(
                        f"No ComfyUI answers at {url}.", advice=Hint.START_ENGINE()
                    )
                if time.monotonic() - begun > _START_PATIENCE:
                    raise TargetUnreachable(
                        f"The engine ({self.name}) runs, but has not answered for "
                        f"{_START_PATIENCE / 60:.0f} minutes.",
                        advice="Look at its log: a custom node may be waiting for something.",
                    )
                await asyncio.sleep(_ASK_EVERY)

    async def died(self) -> EngineCrashed:
        """Wait until the process has ended, and say how. Never returns without a process."""
        process = self._process
        if process is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        status = await process.wait()
        what = self._why_ended or f"The engine ({self.name}) ended while the job ran"
        return _crash(what, process, status)

    def log_mark(self) -> int:
        """How many lines the process has written."""
        return self._process.line_count if self._process else 0

    def log_since(self, mark: int) -> list[str]:
        """The last lines that it has written since, 30 at most."""
        if self._process is None:
            return []
        new = self._process.line_count - mark
        return self._process.last_lines(min(new, _LINES_IN_ERRORS)) if new > 0 else []

    def stop(self) -> None:
        """End the process and all it has started. An engine that we did not start stays."""
        with self._lock:
            if self._process is not None:
                self._process.stop()
                self._process = None
            if self._nodes is not None:
                self._nodes.folder.in_use.use(None)
            self._choice = None

    def _url(self) -> str | None:
        return (self._choice.url if self._choice else None) or self._printed_url

    def _engine_environment(self) -> dict[str, str]:
        environ = engine_environment(self._environ)
        # Lines reach the log when they are written, and no Windows code page garbles them.
        environ.update(PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
        environ.update(self._choice.environ if self._choice is not None else {})
        return environ

    def _on_line(self, line: str) -> None:
        """A line of its output; the sandbox says where it listens in one of them."""
        _log.info("%s | %s", self._label, line)
        if _NO_PROMPT_THREAD.search(line) and self._process is not None:
            self._why_ended = (
                f"The engine ({self.name}) lost the thread that runs prompts and was ended"
            )
            threading.Timer(_TRACEBACK_PATIENCE, self._process.stop).start()
        known = self._printed_url is not None or (self._choice and self._choice.url)
        if known or not line.startswith("{"):
            return
        try:
            announced = json.loads(line)
        except ValueError:
            return
        if isinstance(announced, dict) and isinstance(announced.get("url"), str):
            self._printed_url = announced["url"].rstrip("/")

    def _failed_to_start(self, process: ChildProcess, status: int) -> EngineCrashed:
        # The next job starts it again: the reason may have gone (a port, a full disk).
        name = self.name
        self.stop()
        error = _crash(f"The engine ({name}) ended before it was ready", process, status)
        error.details[NOT_STARTED] = True
        return error


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/system_stats", allow_redirects=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return False


def _crash(what: str, process: ChildProcess, status: int) -> EngineCrashed:
    lines = process.last_lines(_LINES_IN_ERRORS)
    last = next((line for line in reversed(lines) if line.strip()), "")
    if status == _KILLED:
        advice = (
            "It was killed from outside, most often because the machine ran out of memory: use "
            "a smaller size or batch, a smaller (quantised) model, or a machine with more."
        )
    elif last.startswith(("ModuleNotFoundError", "ImportError")):
        advice = (
            "Name the Python that has what this ComfyUI needs: COMFYUI_PYTHON, for example "
            "COMFYUI_PYTHON=~/ComfyUI/venv/bin/python. The log's last lines are in the error's "
            "details."
        )
    else:
        advice = "The last lines of its log are in the error's details."
    said = f" Last line of its log: {last}" if last else ""
    return EngineCrashed(
        f"{what} (exit status {status}).{said}",
        advice=advice,
        details={"exit_status": status, "engine_log": "\n".join(lines)},
    )


def needs_fresh_engine(error: ComfyRemoteError) -> bool:
    """Whether the error says that the engine cannot be started, or has lost its CUDA context.

    The latter is read from what the node raised, not from the engine's log, which may hold
    older ones.
    """
    if error.details.get(NOT_STARTED):
        return True
    said = f"{error.message}\n{error.details.get('traceback', '')}"
    return _LOST_CONTEXT.search(said) is not None
