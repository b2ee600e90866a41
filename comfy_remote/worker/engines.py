"""The engines of one process, and a worker for each: one engine, several, or one for each GPU."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from yarl import URL

from ..advice import Hint
from ..aio import within
from ..errors import ComfyRemoteError, ConfigurationError, EngineCrashed
from ..media.file_changes import discard
from ..media.files import OWN_DATA, storage_errors
from ..media.temporary import ProcessLock
from ..net.address import is_loopback
from ..targets.comfyui.target import ComfyUITarget
from ..targets.engine_files import folders_in
from .choice import EngineChoice, OneOfSeveral, choose_engine, free_port, is_url
from .engine import NOT_STARTED, Engine
from .gpus import Gpu, choose_gpus, find_gpus, parse_gpus
from .handler import JobHandler
from .model_actions import models_of
from .node_actions import nodes_of
from .report import EngineReport
from .settings import KEEP_OUTPUTS, WorkerSettings, is_true
from .storage import InputStore, Store

__all__ = ["Engines", "WorkerEngine"]

_ONE = "local"
_ANSWER_PATIENCE = 3.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerEngine:
    """One engine, and the id of the worker that drives it.

    Attributes:
        id: ``gpu0`` for a GPU's, ``engine1`` for one of several, ``local`` for the only one.
        choice: What was asked for, as in `choose_engine`.
        gpu: The GPU that it was given; ``None`` for what it finds itself.
    """

    id: str
    engine: Engine
    choice: str
    gpu: Gpu | None = None

    @property
    def attached(self) -> bool:
        """Whether somebody else has started it, so that it goes on when this process ends."""
        return is_url(self.choice)

    def __str__(self) -> str:
        if self.gpu is not None:
            return str(self.gpu)
        return self.engine.name if self.id == _ONE else f"{self.id} ({self.choice})"

    def handler(
        self,
        settings: WorkerSettings,
        *,
        store: Store | None = None,
        inputs: InputStore | None = None,
    ) -> JobHandler:
        """What runs this engine's jobs. ``settings.worker`` is its id if it is ``None``.

        Args:
            store: As for `JobHandler`, like ``inputs``.
        """
        settings = replace(settings, worker=settings.worker or self.id)
        models = models_of(self.engine, settings)
        return JobHandler(self.engine, settings, models=models, store=store, inputs=inputs)

    def report(self, settings: WorkerSettings, labels: Sequence[str] = ()) -> EngineReport:
        """What asks this engine what it has."""
        return EngineReport(self.engine, labels, fetches_models=settings.models.download is True)


class Engines(Iterable[WorkerEngine]):
    """The engines of one process, all stopped on leaving.

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
        settings = WorkerSettings.from_environ(environ)
        if gpus is not None:
            return await cls._by_gpu(choices, parse_gpus(gpus), folder, environ, settings)
        choices = choices or ["auto"]
        if len(choices) == 1:
            engine = Engine.named(choices[0], environ, nodes=nodes_of(settings, environ))
            return cls([WorkerEngine(_ONE, engine, choices[0])])
        _check_several(choices)
        await _check_output_folders(filter(is_url, choices))
        named = {f"engine{number}": choice for number, choice in enumerate(choices, start=1)}
        return cls(
            [
                WorkerEngine(label, Engine.named(choice, environ, label=label), choice)
                for label, choice in named.items()
            ]
        )

    @classmethod
    async def one_of_several(
        cls,
        choice: str,
        *,
        name: str,
        folder: Path,
        take_port: Callable[[], int],
        environ: Mapping[str, str] = os.environ,
    ) -> Engines:
        """The engine of one process of several on this machine, which may share one ComfyUI.

        Args:
            choice: As in `choose_engine`.
            name: For people, and for the log.
            folder: For what it has for itself, as in `choose`.
            take_port: Gives a port that none of the others takes.

        Raises:
            ConfigurationError: There is no such engine, or another process uses the folder.
            LocalStorageError: The folder cannot be made.
        """
        output = "kept" if is_true(environ, KEEP_OUTPUTS) else "output"
        own = OneOfSeveral(name, folder / name, folder / name / output, take_port)
        choose = partial(choose_engine, choice, environ, own)
        choose()  # what is wrong with COMFYUI_ARGS
        lock = await asyncio.to_thread(_own_folders, folder, [name], output)
        return cls([WorkerEngine(_ONE, Engine(choose, environ=environ, label=name), choice)], lock)

    @classmethod
    async def _by_gpu(
        cls,
        choices: Sequence[str],
        wanted: Sequence[int] | None,
        folder: Path,
        environ: Mapping[str, str],
        settings: WorkerSettings,
    ) -> Engines:
        comfyui = _comfyui_for_gpus(choices, environ)
        gpus = choose_gpus(wanted, await find_gpus(comfyui.gpu_python, environ))
        output = "kept" if is_true(environ, KEEP_OUTPUTS) else "output"
        ports = _DistinctPorts()
        engines = list[WorkerEngine]()
        for gpu in gpus:
            own = OneOfSeveral(
                name=gpu.id,
                folder=folder / gpu.id,
                output=folder / gpu.id / output,
                free_port=partial(ports.take, gpu.id),
            )
            choose = partial(choose_engine, str(comfyui.cwd), environ, own)
            choose()  # what is wrong with COMFYUI_ARGS
            engine = Engine(
                choose,
                environ={**environ, **gpu.environ},
                label=gpu.id,
                # The first one by itself: custom nodes may install or download something then.
                after=engines[0].engine if engines else None,
                nodes=nodes_of(settings, environ, gpu.id),
            )
            engines.append(WorkerEngine(gpu.id, engine, str(comfyui.cwd), gpu))
        lock = await asyncio.to_thread(_own_folders, folder, [gpu.id for gpu in gpus], output)
        return cls(engines, lock)

    def __iter__(self) -> Iterator[WorkerEngine]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def __str__(self) -> str:
        return ", ".join(map(str, self._engines))

    @property
    def attached(self) -> bool:
        """Whether somebody else has started all of them."""
        return all(one.attached for one in self._engines)

    def __enter__(self) -> Engines:
        """Start the first one, without waiting for it. The others are started by their `ready`.

        Raises:
            ConfigurationError: It cannot be started at all.
        """
        try:
            self._engines[0].engine.start()
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


async def _check_output_folders(urls: Iterable[str]) -> None:
    """Refuse two ComfyUIs of this machine that save to one folder.

    Each numbers its files by those that it finds, so both would write ``ComfyUI_00001_.png``, one
    over the other's. Of those that do not answer yet, nothing is known.
    """
    local = [url for url in urls if is_loopback(URL(url).host)]
    folders: dict[Path, str] = {}
    for url, folder in zip(local, await asyncio.gather(*map(_output_folder, local)), strict=True):
        other = folders.setdefault(folder, url) if folder is not None else url
        if other != url:
            raise ConfigurationError(
                f"The ComfyUIs at {other} and {url} save to one folder, {folder}: they would write "
                "over each other's files.",
                advice="Start each with --output-directory and a folder of its own.",
            )


async def _output_folder(url: str) -> Path | None:
    try:
        async with ComfyUITarget(url) as target:
            found = folders_in(await within(target.system(), _ANSWER_PATIENCE))
    except (ComfyRemoteError, asyncio.TimeoutError):
        return None
    return found.output if found is not None else None


def _comfyui_for_gpus(choices: Sequence[str], environ: Mapping[str, str]) -> EngineChoice:
    """The ComfyUI to start for each GPU.

    Raises:
        ConfigurationError: It is not one that can be started here.
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
    with storage_errors(folder, denied=OWN_DATA):
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
                discard(folder / name / left)
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
