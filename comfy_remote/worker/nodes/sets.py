"""The sets of node packs of one worker: built, tried, made current, and left again.

A set is made beside the current one, out of its packs and those that are asked for, and becomes
current only after ComfyUI has started with it. So whatever fails, and whenever this process is
killed, the last good set stays, and the next builder removes what was left.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ...aio import in_thread
from ...config.engine_environment import engine_environment
from ...errors import ComfyRemoteError, ConfigurationError, LocalStorageError, NodesUnavailable
from ...media.file_changes import discard
from ...types import JsonValue
from ...units import size_text
from ...wire.installed import InstalledPack
from ...wire.nodes import NodesAnswer, PackWanted
from ..models.plan import RESERVE, free_bytes
from ..models.presence import Presence
from ..packs import installed_packs, is_pack, packs_in, same_source
from .at_start import NODE_SITE
from .building import Building
from .folder import NodeSet, SetsFolder
from .program import ComfyUIProgram
from .requirements import Requirements
from .settings import NodeSettings
from .steps import MAKE_ROOM, Say, stored

__all__ = ["Built", "NodeSets", "Say", "Start"]

Start = Callable[[], Awaitable[object]]
"""Starts the engine again; raises `ComfyRemoteError` if it does not start."""

_CLAIM = "build"
_ROOM = 4 * RESERVE  # bytes: for one pack; what more is needed is not known before


@dataclass(frozen=True, slots=True)
class Built:
    """What has come of a request.

    Attributes:
        current: The set that is current now; ``None`` for none of ours.
        installed: Names of packs that are new in it.
        there: Names of packs that were there already.
        removed: Older sets that were removed.
    """

    current: NodeSet | None
    installed: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class NodeSets:
    """The node packs that jobs have brought to one ComfyUI of this machine.

    Args:
        settings: Whether they may, where the sets are, and where packs may come from.
        worker: What other workers on the same volume call this one.
        environ: The worker's environment; nothing that runs here gets its secrets.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        worker: str = "another worker",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = settings
        self.folder = SetsFolder(settings.folder, worker)
        self._environ = environ
        self._presence = Presence(settings.folder, worker)
        self._busy = asyncio.Lock()
        self._unusable: set[str] = set()

    def for_engine(self) -> NodeSet | None:
        """The set that an engine is to start with. Blocking.

        It is the current one; the one before, if an engine of this worker could not be started with
        it.

        Raises:
            LocalStorageError: The volume cannot be read now.
        """
        current = self.folder.current()
        if current is None or current.id not in self._unusable:
            return current
        earlier = self.folder.read(current.before) if current.before else None
        return earlier if earlier is not None and earlier.id not in self._unusable else None

    def engine_environ(self, used: NodeSet) -> dict[str, str]:
        """What an engine's environment needs for a set. Blocking."""
        return {NODE_SITE: os.pathsep.join(map(str, self.folder.sites(used.id)))}

    def could_not_start(self, set_id: str) -> None:
        """An engine of this worker could not be started with a set: the one before is used."""
        self._unusable.add(set_id)

    async def build(
        self, packs: Sequence[PackWanted], program: ComfyUIProgram, say: Say, start: Start
    ) -> Built:
        """Bring packs there.

        Args:
            program: The ComfyUI that they are for.
            say: Called with a line for people, again and again.
            start: Called when the new set has become current. If it fails, that is undone.

        Raises:
            ConfigurationError: The worker's owner does not allow it.
            NodesUnavailable: A pack cannot be had, or ComfyUI does not work with it: says which,
                and at which step.
            LocalStorageError: The disk is full, or cannot be written to.
        """
        self._check_allowed()
        async with self._alone(say):
            removed = await in_thread(self.folder.remove_old)
            current = await in_thread(self.folder.current)
            environ, patience = self.programs_environ(), self.settings.patience.requirements
            requirements = Requirements(program.python, environ, patience)
            abi = await requirements.abi(program.folder)
            same = current if current is not None and current.python == abi else None
            there = await in_thread(self._there, packs, program, same)
            new = [one for one in packs if one.name not in there]
            if not new:
                return Built(current, there=there, removed=removed)
            free = await in_thread(free_bytes, self.settings.folder)
            if free is not None and free < _ROOM:
                raise LocalStorageError(
                    f"The worker's disk is full: node packs need at least {size_text(_ROOM)} in "
                    f"{self.settings.folder}, which has {size_text(free)}.",
                    advice=MAKE_ROOM,
                    details={"step": "request"},
                )
            with stored(self.settings.folder, "request"):
                set_id = await in_thread(self.folder.new)
            try:
                building = Building(
                    self.folder,
                    set_id,
                    base=current,
                    new=new,
                    program=program,
                    requirements=requirements,
                    settings=self.settings,
                    environ=environ,
                    say=say,
                )
                made = await building.run(abi)
                await in_thread(self._switch, made, current)
            except BaseException:
                await in_thread(discard, self.folder.path(set_id))
                raise
            try:
                await start()
            except BaseException as error:
                await in_thread(self.folder.go_back)
                await in_thread(self.folder.remove_old)
                if isinstance(error, ComfyRemoteError):
                    raise _did_not_start(error) from error
                raise
            removed += await in_thread(self.folder.remove_old)
        return Built(made, [one.name for one in new], there, removed)

    async def roll_back(self, say: Say, start: Start) -> Built:
        """Go back to the state before the current set.

        Raises:
            ConfigurationError: The worker's owner does not allow it.
            NodesUnavailable: There is no such state, or ComfyUI does not start with it any more:
                then the current set stays.
        """
        self._check_allowed()
        async with self._alone(say):
            current = await in_thread(self.folder.current)
            earlier, is_there = await in_thread(self.folder.earlier)
            if current is None or not is_there:
                stays = "The current one stays. Install other versions of its packs instead."
                none = "No sync has installed packs here, or all of them were taken back."
                raise NodesUnavailable(
                    "There is no earlier set of node packs to go back to.",
                    advice=none if current is None else stays,
                    details={"step": "request"},
                )
            await in_thread(self.folder.go_back)
            unusable, self._unusable = self._unusable, set()
            try:
                await start()
            except BaseException as error:
                self._unusable = unusable
                await in_thread(self.folder.switch, current)
                if isinstance(error, ComfyRemoteError):
                    raise _did_not_go_back(error) from error
                raise
            removed = await in_thread(self.folder.remove_old)
        return Built(earlier, removed=removed)

    def answer(self, built: Built | None = None) -> NodesAnswer:
        """What a client is answered. Blocking."""
        current = built.current if built is not None else self.folder.current()
        _, can_go_back = self.folder.earlier()
        answer = NodesAnswer(can_go_back=current is not None and can_go_back)
        if current is not None:
            answer.set, answer.made, answer.made_by = current.id, current.made, current.made_by
            answer.packs = [one.installed for one in current.packs]
            answer.requirements = current.requirements
        if built is not None:
            answer.installed, answer.there = built.installed, built.there
            answer.removed = built.removed
        return answer

    def programs_environ(self) -> dict[str, str]:
        """The environment of what is run here for a set."""
        return engine_environment(self._environ)

    @asynccontextmanager
    async def _alone(self, say: Say) -> AsyncIterator[None]:
        """While inside, no other worker of the volume, and no other job of this one, changes its
        sets. Waits for one that does."""
        if self._busy.locked():
            say("Waiting for another job, which installs")
        async with (
            self._busy,
            self._presence.using(),
            self._presence.claim(_CLAIM, lambda who: say(f"Waiting for {who}, which installs")),
        ):
            yield

    def _check_allowed(self) -> None:
        if not self.settings.allow:
            raise ConfigurationError(
                "This worker's owner has not allowed node packs to be installed: a pack is code.",
                advice="Its owner sets ALLOW_NODE_INSTALL=true on the worker.",
            )

    def _there(
        self, packs: Sequence[PackWanted], program: ComfyUIProgram, current: NodeSet | None
    ) -> list[str]:
        """The names of the packs that are there already.

        Raises:
            NodesUnavailable: One is there in another version, and is not ours to replace.
        """
        folders = program.node_folders()
        theirs = installed_packs(packs_in(folders), folders)
        there = []
        for pack in packs:
            for other in theirs:
                if is_pack(pack, other):
                    _check_same(pack, other)
                    there.append(pack.name)
            for ours in current.packs if current is not None else ():
                exact = same_source(ours.source, pack.source) and ours.version == pack.version
                if exact and (self.folder.custom_nodes(_id(current)) / ours.name).is_dir():
                    there.append(pack.name)
        return list(dict.fromkeys(there))

    def _switch(self, made: NodeSet, current: NodeSet | None) -> None:
        """Make a finished set current, unless this worker has lost its lease meanwhile."""
        now, there = self.folder.current(), self.folder.custom_nodes(made.id).is_dir()
        changed = (now and now.id) != (current and current.id)
        if changed or not there or not self._presence.holds(_CLAIM):
            raise NodesUnavailable(
                "This worker stood still for so long that another one of its volume installs node "
                "packs now, or has done so.",
                advice="Ask for the packs again.",
                details={"step": "request"},
            )
        with stored(self.settings.folder, "request"):
            self.folder.finish(made)
        self.folder.switch(made)


def _check_same(pack: PackWanted, other: InstalledPack) -> None:
    there = other.commit if pack.by_commit else other.version
    if there == pack.version:
        return
    known = other.commit or other.version
    raise NodesUnavailable(
        f"ComfyUI has its own {other.name} there already, at {known or 'an unknown version'}. It "
        f"is not replaced by {pack}.",
        advice="Ask for that version, or have the worker's owner remove the pack.",
        details={"pack": pack.name, "step": "request"},
    )


def _did_not_start(error: ComfyRemoteError) -> NodesUnavailable:
    return NodesUnavailable(
        f"ComfyUI started with the new packs on the CPU, but not as this worker starts it: "
        f"{error.message}",
        advice="The packs that were there before run again.",
        details=_facts_of(error),
    )


def _did_not_go_back(error: ComfyRemoteError) -> NodesUnavailable:
    return NodesUnavailable(
        f"ComfyUI does not start with the earlier packs any more: {error.message}",
        advice="The packs that it had until now are used again.",
        details=_facts_of(error),
    )


def _facts_of(error: ComfyRemoteError) -> dict[str, JsonValue]:
    # Not what the handler reads there: the engine starts without these packs.
    said = error.details
    return {
        "exit_status": said.get("exit_status"),
        "step": "start",
        "log": said.get("engine_log", ""),
    }


def _id(current: NodeSet | None) -> str:
    return current.id if current is not None else ""
