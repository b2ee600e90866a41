"""A trial: ComfyUI is started with a set on the CPU, at another port, with folders of its own.

It shows whether ComfyUI starts at all, whether it can import each pack of the set, and whether it
knows the classes that were asked for. ComfyUI goes on when a pack cannot be imported, and says so
in its log (``nodes.py`` and ``main.py`` of 0.3.64 and 0.33.0): after all imports,
``0.0 seconds (IMPORT FAILED): PATH``; after the scripts that packs run before,
``0.0 seconds (PRESTARTUP FAILED): PATH``.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...aio import first_of, in_thread, within
from ...errors import ComfyRemoteError, TargetUnreachable
from ...media.temporary import TemporaryFolder
from ...targets.comfyui.target import ComfyUITarget, engine_of
from ...types import mapping
from ..choice import OneOfSeveral, free_port, trial_command
from ..process import ChildProcess
from .program import ComfyUIProgram
from .steps import failed

__all__ = ["Trial"]

_FAILED = re.compile(r"\((?:IMPORT|PRESTARTUP) FAILED\): (.+)$")
_ASK_EVERY = 0.1  # seconds
_LINES = 40  # in an error
_MOST_NAMES = 10
_MOST_LINES = 5000


class Trial:
    """One start of a ComfyUI, to look at what it says.

    Args:
        environ: Of its process, without secrets.
        patience: Seconds that it may take.
    """

    def __init__(
        self, program: ComfyUIProgram, environ: Mapping[str, str], patience: float
    ) -> None:
        self._program = program
        self._environ = environ
        self._patience = patience
        self._lines = deque[str](maxlen=_MOST_LINES)

    async def run(
        self, search_paths: Path, packs: Sequence[Path], classes: Mapping[str, str]
    ) -> str | None:
        """Start it, look, and end it.

        Args:
            search_paths: The file that leads it to the set.
            packs: The folders of the set's packs.
            classes: The classes that it has to know, each with the name of its pack.

        Returns:
            Its name and version.

        Raises:
            NodesUnavailable: It ended or did not answer, could not import a pack, or lacks a class.
        """
        with TemporaryFolder("trial") as folder:
            own = _folders_of_its_own(Path(folder))
            command, url = trial_command(self._program, own, search_paths)
            process = await in_thread(
                lambda: ChildProcess(
                    "trial",
                    command,
                    environ=self._environ,
                    on_line=self._lines.append,
                    cwd=self._program.cwd or self._program.folder,
                )
            )
            try:
                name, known = await self._asked(process, url)
            finally:
                await in_thread(process.stop)
        self._check_imports(packs)
        self._check_whose(classes, known)
        if missing := [one for one in classes if one not in known]:
            pack = classes[missing[0]]
            raise failed(
                "classes",
                f"ComfyUI imported {pack}, but does not know {_listed(missing)}.",
                pack=pack,
                advice="Take the pack and version that have it. The packs that were there before "
                "still run.",
            )
        return name

    def _check_whose(self, classes: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Raise for the first class that ComfyUI has from another pack."""
        for one, pack in classes.items():
            _, of_a_pack, other = known.get(one, "").partition("custom_nodes.")
            if of_a_pack and other != pack:
                raise failed(
                    "classes",
                    f"ComfyUI has {one} from {other}, not from {pack}.",
                    pack=pack,
                    advice="Where two packs have one class, ComfyUI uses only one of them: do "
                    "without the other. The packs that were there before still run.",
                )

    async def _asked(self, process: ChildProcess, url: str) -> tuple[str | None, Mapping[str, str]]:
        """Its name, and the classes that it knows, each with the module that it is from."""
        try:
            async with first_of(within(self._answers(url), self._patience), process.wait()) as (
                asked,
                _,
            ):
                if asked.done():
                    name, known = asked.result()
                    return name, known
        except asyncio.TimeoutError:
            message = f"ComfyUI did not answer within {self._patience:.0f} s with the new packs."
            raise self._did_not_start(message) from None
        except ComfyRemoteError as error:  # not one of the target that the client asks
            message = f"ComfyUI started with the new packs, but said no nodes: {error.message}"
            raise self._did_not_start(message) from error
        status = process.exit_status
        message = f"ComfyUI ended with the new packs before it was ready (exit status {status})."
        raise self._did_not_start(message)

    async def _answers(self, url: str) -> tuple[str | None, Mapping[str, str]]:
        async with ComfyUITarget(url) as target:
            while True:
                try:
                    stats = await target.system()
                    break
                except TargetUnreachable:
                    await asyncio.sleep(_ASK_EVERY)
            described = await target.describe()
        nodes = described.nodes or {}
        modules = {one: str(mapping(said).get("python_module", "")) for one, said in nodes.items()}
        return engine_of(stats), modules

    def _check_imports(self, packs: Sequence[Path]) -> None:
        """Raise for the first pack of the set that could not be imported."""
        broken = [found[1].strip() for line in self._lines if (found := _FAILED.search(line))]
        for pack in packs:
            real = os.path.realpath(pack)
            if any(os.path.realpath(one) == real for one in broken):
                raise failed(
                    "import",
                    f"ComfyUI cannot import {pack.name}.",
                    pack=pack.name,
                    lines=self._about(pack),
                    environ=self._environ,
                )

    def _about(self, pack: Path) -> list[str]:
        """The lines before the one that says why a pack was not imported: the traceback."""
        lines = [*self._lines]
        for number, line in enumerate(lines):
            said = "Cannot import" in line or "Failed to execute" in line or "Error while" in line
            if said and str(pack) in line:
                return lines[max(0, number - _LINES) : number + 1]
        return [line for line in lines if str(pack) in line][-_LINES:]

    def _did_not_start(self, message: str) -> ComfyRemoteError:
        lines, blamed = self._last(), self._blamed()
        return failed("start", message, pack=blamed, lines=lines, environ=self._environ)

    def _blamed(self) -> str | None:
        """The pack whose files are in the last lines: of the traceback, if there is one."""
        for line in reversed(self._last()):
            if found := re.search(
                r"[/\\]sets[/\\][0-9a-f-]+[/\\]custom_nodes[/\\]([^/\\\"']+)", line
            ):
                return found[1]
        return None

    def _last(self) -> list[str]:
        return [*self._lines][-_LINES:]


def _folders_of_its_own(folder: Path) -> OneOfSeveral:
    for name in ("input", "temp", "user", "output"):
        (folder / name).mkdir()
    return OneOfSeveral("trial", folder, folder / "output", free_port)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
