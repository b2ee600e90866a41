"""The engines of one process, and a worker for each: one engine, several, or one for each GPU."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..advice import Hint
from ..errors import ComfyRemoteError, ConfigurationError, EngineCrashed
from ..media.files import storage_errors
from ..media.temporary import ProcessLock
from .actions import models_of
from .choice import EngineChoice, OneOfSeveral, choose_engine, free_port, is_url
from .engine import NOT_STARTED, Engine
from .gpus import Gpu, choose_gpus, find_gpus, parse_gpus
from .handler import JobHandler
from .settings import KEEP_OUTPUTS, WorkerSettings, is_true

__all__ = ["Engines", "WorkerEngine"]

_ONE = "local"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerEngine:
    """One engine, and the id of the worker that drives it.

    Attributes:
        id: ``gpu0`` for a GPU's, ``engine1`` for one of several, ``local`` for the only one.
        gpu: The GPU that it was given; ``None`` for what it finds itself.
        attached: Whether somebody else has started it, so that it goes on when this process ends.
    """

    id: str
    engine: Engine
    gpu: Gpu | None = None
    attached: bool = False

    def handler(self, settings: WorkerSettings) -> JobHandler:
        """What runs this engine's jobs. ``settings.worker`` is its id if it is ``None``."""
        settings = replace(settings, worker=settings.worker or self.id)
        return JobHandler(self.engine, settings, models=models_of(self.engine, settings))


class Engines(Iterable[WorkerEngine]):
    """The engines of one process: started on entering, all stopped on leaving.

    ::

        engines = await Engines.choose(["auto"], gpus="all", folder=home() / "engines" / "local")
        with engines:
            await engines.ready()
            for one in engines:
                gateway.add_local_worker(one.handler(settings), worker_id=one.id)

    Args:
        lock: Of the folder that they have for themselves; released when they have stopped.
    """

    def __init__(self, engines: Sequence[WorkerEngine], lock: ProcessLock | None = None) -> None:
        self._engines = tuple(engines)
        self._lock = lock

    @classmethod
    async def choose(
        cls,
        choices: Sequence[str] = (),
        *,
        gpus: str | None = None,
        folder: Path,
        environ: Mapping[str, str] = os.environ,
    ) -> Engines:
        """The engines that somebody asked for; none is started yet.

        Args:
            choices: Each as in `choose_engine`; ``auto`` if there is none.
            gpus: ``all`` or numbers as in ``0,2``: that ComfyUI is started once for each.
            folder: For what several engines of one ComfyUI have for themselves; made when
                needed. Another process may not use it at the same time.
            environ: The worker's environment; the engines get it without its secrets.

        Raises:
            ConfigurationError: These do not go together, or there is no such GPU or engine.
            LocalStorageError: The folder cannot be made.
        """
        if gpus is not None:
            return await cls._by_gpu(choices, parse_gpus(gpus), folder, environ)
        choices = choices or ["auto"]
        if len(choices) == 1:
            only = Engine.named(choices[0], environ)
            return cls([WorkerEngine(_ONE, only, attached=is_url(choices[0]))])
        _check_several(choices)
        engines = []
        for number, choice in enumerate(choices, start=1):
            label = f"engine{number}"
            engine = Engine.named(choice, environ, label=label)
            engines.append(WorkerEngine(label, engine, attached=is_url(choice)))
        return cls(engines)

    @classmethod
    async def _by_gpu(
        cls,
        choices: Sequence[str],
        wanted: Sequence[int] | None,
        folder: Path,
        environ: Mapping[str, str],
    ) -> Engines:
        comfyui = _comfyui_for_gpus(choices, environ)
        gpus = choose_gpus(wanted, await find_gpus(comfyui.gpu_python, environ))
        output = "kept" if is_true(environ, KEEP_OUTPUTS) else "output"
        ports = _DistinctPorts()
        engines = []
        for gpu in gpus:
            own = OneOfSeveral(
                name=gpu.id,
                folder=folder / gpu.id,
                output=folder / gpu.id / output,
                free_port=partial(ports.take, gpu.id),
            )
            choose = partial(choose_engine, str(comfyui.cwd), environ, own)
            choose()  # what is wrong with COMFYUI_ARGS
            seen = {**environ, **gpu.environ}
            engines.append(WorkerEngine(gpu.id, Engine(choose, environ=seen, label=gpu.id), gpu))
        lock = await asyncio.to_thread(_own_folders, folder, [gpu.id for gpu in gpus], output)
        return cls(engines, lock)

    def __iter__(self) -> Iterator[WorkerEngine]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def __str__(self) -> str:
        names = [str(one.gpu) if one.gpu else _name(one) for one in self._engines]
        return ", ".join(names)

    def __enter__(self) -> Engines:
        """Start them, without waiting for any.

        Raises:
            ConfigurationError: One cannot be started at all. None runs then.
        """
        try:
            for one in self._engines:
                one.engine.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    async def ready(self) -> None:
        """Wait until one of them can take a job; the others are tried again by their workers.

        Raises:
            ConfigurationError: A setting is wrong.
            ComfyRemoteError: None of them could be started, and why, for each.
        """
        starting = {asyncio.create_task(one.engine.ready()): one for one in self._engines}
        failures: dict[str, ComfyRemoteError] = {}
        waiting = set(starting)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        task.result()
                    except ConfigurationError:
                        raise
                    except ComfyRemoteError as error:
                        failures[starting[task].id] = error
                        if len(self._engines) > 1:
                            _log.error("%s could not be started: %s", starting[task].id, error)
                    else:
                        return
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        raise _none_started(failures)

    def _stop(self) -> None:
        # Each may take seconds to end.
        with ThreadPoolExecutor(max_workers=max(1, len(self._engines))) as threads:
            list(threads.map(lambda one: one.engine.stop(), self._engines))
        if self._lock is not None:
            self._lock.close()


class _DistinctPorts:
    """Free ports, of which no two engines have the same.

    Between two looks for a free port the first one is not yet listened on, so the system may give
    it twice; and an engine that answers at another's port would be taken for that one.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def take(self, name: str) -> int:
        """A port for an engine, in place of the one it had."""
        self._taken.pop(name, None)
        while (port := free_port()) in self._taken.values():
            pass
        self._taken[name] = port
        return port


def _name(one: WorkerEngine) -> str:
    return one.engine.name if one.id == _ONE else f"{one.id} ({one.engine.name})"


def _check_several(choices: Sequence[str]) -> None:
    """Refuse engines that would get into each other's way."""
    for choice in choices:
        if choice != "sandbox" and not is_url(choice):
            raise ConfigurationError(
                f"{choice} cannot be one of several engines.", advice=Hint.SEVERAL_ENGINES()
            )
        if is_url(choice) and [one.rstrip("/") for one in choices].count(choice.rstrip("/")) > 1:
            raise ConfigurationError(
                f"The engine {choice} is named twice.",
                advice="A ComfyUI runs one job at a time: name each once.",
            )


def _comfyui_for_gpus(choices: Sequence[str], environ: Mapping[str, str]) -> EngineChoice:
    """The ComfyUI to start for each GPU.

    Raises:
        ConfigurationError: That is none that can be started here.
    """
    if len(choices) > 1 or any(map(is_url, choices)):
        raise ConfigurationError(
            "A ComfyUI is started here for each GPU, and an engine that runs already has its own.",
            advice=Hint.GPUS_OR_ENGINES(),
        )
    found = choose_engine(choices[0] if choices else "auto", environ)
    if not found.is_comfyui:
        why = f" ({found.notes[0]})" if found.notes else ""
        raise ConfigurationError(
            f"A ComfyUI is started for each GPU, and {found.name} uses none{why}.",
            advice=Hint.GPUS_NEED_COMFYUI(),
        )
    return found


def _own_folders(folder: Path, names: Sequence[str], output: str) -> ProcessLock:
    """Make the folders of these engines, without what an earlier process has left there.

    Raises:
        ConfigurationError: Another process uses them.
        LocalStorageError: They cannot be made.
    """
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = ProcessLock(folder / ".lock")
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{folder} is in use, or files cannot be locked there: {error}.",
            advice="Stop the other process that has its engines there, or set COMFY_REMOTE_HOME "
            "to another folder.",
        ) from error
    with storage_errors(folder):
        for name in names:
            # "user" stays: nodes have their settings there. "kept" is its owner's to empty.
            for left in ("input", "temp", "output"):
                shutil.rmtree(folder / name / left, ignore_errors=True)
            for own in {"input", "temp", "user", output}:
                (folder / name / own).mkdir(mode=0o700, parents=True, exist_ok=True)
    return lock


def _none_started(failures: Mapping[str, ComfyRemoteError]) -> ComfyRemoteError:
    """Why no engine could be started: the only one's error, or one that tells of each."""
    first, *others = failures.values()
    if not others:
        return first
    each = " ".join(f"{name}: {error.message}" for name, error in failures.items())
    return EngineCrashed(
        f"None of the {len(failures)} engines could be started. {each}",
        advice=first.advice,
        details={NOT_STARTED: True, **first.details},
    )
