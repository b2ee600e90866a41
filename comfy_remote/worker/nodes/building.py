"""One new set of node packs: what is in the set before, and what is asked for, put together, and
tried before anybody uses it.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...aio import in_thread
from ...wire.installed import InstalledPack
from ...wire.nodes import PackWanted
from ..choice import guarded
from ..packs import installed_packs, is_pack, public_repository
from .at_start import NODE_SITE
from .fetching import PackFetcher
from .folder import NodeSet, SetPack, SetsFolder
from .program import ComfyUIProgram
from .requirements import CONSTRAINTS, Requirements
from .settings import NodeSettings
from .steps import Say, failed, run, stored
from .trying import Trial

__all__ = ["Building"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Building:
    """A new set, step by step.

    Attributes:
        sets: Where it is made.
        id: The new set's; its folder is there already.
        base: The current set, whose packs stay in the new one; ``None`` for none of ours.
        new: The packs that are asked for; those that are the same are replaced.
        program: The ComfyUI that it is for.
        requirements: Installs what the packs require.
        environ: Of the programs that are run, without secrets.
        say: Called with a line for people.
    """

    sets: SetsFolder
    id: str
    base: NodeSet | None
    new: Sequence[PackWanted]
    program: ComfyUIProgram
    requirements: Requirements
    settings: NodeSettings
    environ: Mapping[str, str]
    say: Say

    async def run(self, abi: str) -> NodeSet:
        """Build and try it.

        Args:
            abi: See `NodeSet.python`.

        Raises:
            NodesUnavailable: A step failed: says which, and for which pack.
            LocalStorageError: The disk is full.
        """
        kept = await self._copied()
        fetcher = PackFetcher(self.settings, self.environ)
        for pack in self.new:
            self.say(f"Fetching {pack}")
            await fetcher.fetch(pack, self._custom_nodes / pack.name)
        asked: list[PackWanted] = [*kept, *self.new]
        names = sorted(one.name for one in asked)
        folders = [self._custom_nodes / name for name in names]
        self.say(f"Installing what {_count(names)} require{'s' if len(names) == 1 else ''}")
        installed = await self.requirements.install(
            folders, [one.name for one in self.new], self._folder, self.sets.site(self.id)
        )
        if scripts := [one for one in folders if (one / "install.py").is_file()]:
            await self._run_scripts(scripts)
        classes = {one: pack.name for pack in asked for one in pack.classes}
        self.say("Trying it: ComfyUI starts with the new packs, on the CPU")
        trial = Trial(self.program, await in_thread(self._with_site), self.settings.patience.trial)
        engine = await trial.run(self.sets.search_paths(self.id), folders, classes)
        packs = await in_thread(self._described, asked)
        return NodeSet(
            id=self.id,
            packs=sorted(packs, key=lambda one: one.name),
            requirements=installed,
            python=abi,
            engine=engine,
            made=round(time.time(), 3),
            made_by=self.sets.worker,
            before=self.base.id if self.base is not None else "",
        )

    async def _copied(self) -> list[SetPack]:
        """The packs of the set before that are not replaced."""
        base = self.base
        if base is None:
            return []
        replaced = {
            one.name for one in base.packs for new in self.new if is_pack(new, one.installed)
        }
        kept = [one for one in base.packs if one.name not in replaced]

        def copy() -> list[SetPack]:
            there = []
            for pack in kept:
                source = self.sets.custom_nodes(base.id) / pack.name
                if not source.is_dir():
                    _log.warning("the pack %s is not in its set any more: %s", pack.name, source)
                    continue
                _copy(source, self._custom_nodes / pack.name)
                there.append(pack)
            return there

        with stored(self._folder, "request"):
            return await in_thread(copy)

    async def _run_scripts(self, packs: Sequence[Path]) -> None:
        """Run the ``install.py`` of packs. What they install goes into the set.

        Raises:
            NodesUnavailable: One failed, or has changed the engine's own packages.
        """
        before = await self.requirements.installed(self._folder)
        for pack in packs:
            self.say(f"Running install.py of {pack.name}")
            await run(
                *guarded(self.program.python, str(pack / "install.py")),
                step="install.py",
                what=f"{pack.name}: its install.py",
                cwd=pack,
                environ=await in_thread(self._for_scripts),
                patience=self.settings.patience.script,
                pack=pack.name,
            )
            after = await self.requirements.installed(self._folder)
            changed = {*before.items()} ^ {*after.items()}
            if changed:
                name = min(changed)[0]
                raise failed(
                    "install.py",
                    f"{pack.name}: its install.py has changed {name} of ComfyUI's own Python from "
                    f"{before.get(name, 'none')} to {after.get(name, 'none')}.",
                    pack=pack.name,
                    advice="That was not undone: start the worker in a new container, or install "
                    "that version again. The packs that were there before still run.",
                )

    def _with_site(self) -> dict[str, str]:
        sites = os.pathsep.join(map(str, self.sets.sites(self.id)))
        return {
            **self._pip(),
            NODE_SITE: sites,
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
        }

    def _for_scripts(self) -> dict[str, str]:
        sites = [*map(str, self.sets.sites(self.id)), self.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, sites))
        own = self.program.folder
        return {**self._pip(), "PYTHONPATH": path, "COMFYUI_PATH": str(own)}

    def _pip(self) -> dict[str, str]:
        """Leads what packs install by themselves with pip into the set."""
        return {
            **self.environ,
            "PIP_PREFIX": str(self.sets.scripts(self.id)),
            "PIP_CONSTRAINT": str(self._folder / CONSTRAINTS),
            "UV_CONSTRAINT": str(self._folder / CONSTRAINTS),
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _described(self, asked: Sequence[PackWanted]) -> list[SetPack]:
        said = installed_packs({one.name for one in asked}, [self._custom_nodes])
        by_name = {one.name: one for one in said}
        return [
            SetPack(
                source=one.source,
                version=one.version,
                classes=one.classes,
                installed=_known_as(one, by_name[one.name]),
            )
            for one in asked
        ]

    @property
    def _folder(self) -> Path:
        return self.sets.path(self.id)

    @property
    def _custom_nodes(self) -> Path:
        return self.sets.custom_nodes(self.id)


def _copy(source: Path, target: Path) -> None:
    """Copy a pack: with its links, and with what it has written into its own folder.

    It may run meanwhile, and remove some of that. Sockets and the like stay where they are.
    """
    target.mkdir()
    for one in os.scandir(source):
        copied = target / one.name
        try:
            if one.is_symlink():
                copied.symlink_to(Path(one.path).readlink(), target_is_directory=one.is_dir())
            elif one.is_dir():
                if one.name != "__pycache__":
                    _copy(Path(one.path), copied)
            elif one.is_file():
                shutil.copy2(one.path, copied)
        except FileNotFoundError:
            continue


def _known_as(asked: PackWanted, said: InstalledPack) -> InstalledPack:
    """What a pack says of itself, except where the request for it says more exactly."""
    source = (
        {"registry_id": asked.source}
        if asked.in_registry
        else {"url": public_repository(asked.source)}
    )
    version = {"commit" if asked.by_commit else "version": asked.version}
    known = {name: value for name, value in {**source, **version}.items() if value is not None}
    return said.model_copy(update=known)


def _count(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} packs"
