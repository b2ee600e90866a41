"""What a repo_list means for this worker: which models are there, which must be fetched, and
whether they fit the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...advice import Hint
from ...aio import concurrent_map
from ...errors import ComfyRemoteError, LocalStorageError, ModelUnavailable, WorkflowInvalid
from ...net.retry import Backoff, TryAgain, retried
from ...units import size_text
from ...wire.repo_list import ModelLine
from .folders import ModelFolders, PartFile, folder_of, is_model_folder, safe_model_name
from .hashes import ModelHashes
from .http import Answer, ModelHttp
from .kinds import folder_of_file
from .link import Link, Location, unavailable
from .manifest import Manifest
from .settings import ModelSettings
from .sources import understand

__all__ = [
    "RESERVE",
    "Missing",
    "Planner",
    "Present",
    "Problem",
    "bytes_to_fetch",
    "check_space",
    "fits",
    "free_bytes",
    "part_key",
    "too_large",
]

_BACKOFF = Backoff(attempts=3, first=0.5, longest_asked=20.0)
RESERVE = 64 * 1024 * 1024
"""What the rest of the system needs of a disk that is not a volume of its own."""


@dataclass(frozen=True, slots=True)
class Present:
    """A model that is there."""

    line: ModelLine
    path: Path


@dataclass(frozen=True, slots=True)
class Missing:
    """A model that is to be fetched.

    Attributes:
        link: Where from.
        location: The same, ready to be asked.
        found: What the server said of it; with the line's own SHA-256, if it has one.
        replaces: Whether an older one that we had fetched is there, to be replaced.
    """

    line: ModelLine
    link: Link
    location: Location
    found: Answer
    path: Path
    replaces: bool = False

    def part(self, root: Path) -> PartFile:
        """Its unfinished file."""
        return PartFile(root, folder_of(self.line.kind), part_key(self.line, self.link))


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that cannot be had, and why."""

    line: ModelLine
    error: ComfyRemoteError

    def __str__(self) -> str:
        return f"{self.line.shown}: {self.error}"


def part_key(line: ModelLine, link: Link) -> str:
    """The name of a line's unfinished file: the same in every worker."""
    text = f"{folder_of(line.kind)}\n{line.name or ''}\n{link.identity}\n{line.sha256 or ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(eq=False)
class Planner:
    """Finds out what each line of a list needs. Changes nothing.

    Attributes:
        hashes: Of the files that are there; added to.
        names_suffice: Whether a file that is there under the name is taken for the model, unless
            the line has a SHA-256. Then nobody is asked about it.
        refuse: Why nothing may be fetched, as an advice; ``None`` when it may. Then nobody is
            asked, but for the name of a file whose link does not tell it.
    """

    http: ModelHttp
    settings: ModelSettings
    folders: ModelFolders
    manifest: Manifest
    hashes: ModelHashes
    names_suffice: bool = False
    refuse: str | None = None

    async def plan(self, lines: Sequence[ModelLine]) -> list[Present | Missing | Problem]:
        """What each line needs, in their order.

        Raises:
            WorkflowInvalid: Two lines want different files under one name.
        """
        planned = await concurrent_map(self._line, lines)
        wanted: dict[Path, Missing] = {}
        for one in planned:
            if isinstance(one, Missing):
                other = wanted.setdefault(one.path, one)
                if other.link.identity != one.link.identity or other.line.sha256 != one.line.sha256:
                    raise WorkflowInvalid(
                        f"{other.line.shown} and {one.line.shown} would both be "
                        f"{self.folders.shown(one.path)}.",
                        advice="Give one of them another name with name=FILE.",
                    )
        # The same link, written in two ways, is fetched once.
        twice = [one for one in planned if isinstance(one, Missing) and wanted[one.path] is not one]
        return [Present(one.line, one.path) if one in twice else one for one in planned]

    async def _line(self, line: ModelLine) -> Present | Missing | Problem:
        try:
            return await self._find(line)
        except ComfyRemoteError as error:
            return Problem(line, error)

    async def _find(self, line: ModelLine) -> Present | Missing:
        if not line.kind:
            line = replace(line, kind=await self._folder(line, understand(line, self.settings)))
        link = understand(line, self.settings)
        folder = folder_of(line.kind)
        if not is_model_folder(folder):
            raise WorkflowInvalid(f"{line.shown}: {folder!r} is not a folder for models.")
        own_name = line.name or link.name
        name = safe_model_name(own_name) if own_name else None
        ours = await asyncio.to_thread(self.manifest.intact, link.identity, folder, name)
        if ours is not None and line.sha256 in (None, ours.sha256):
            return Present(line, self.manifest.file(ours))
        there = self.folders.find(folder, name) if name else None
        if there is not None and await self._suffices(line, there):
            return Present(line, there)
        if self.refuse is not None and name is not None:
            raise unavailable(f"{line.shown} is not on this worker.", self.refuse)
        try:
            location = await link.locate(self.http.json)
            if line.sha256 is not None:
                location = replace(location, sha256=line.sha256)
            found = await self._probe(location)
        except ModelUnavailable as error:
            if self.refuse is not None:
                raise unavailable(
                    f"Whether {line.shown} is on this worker is unknown: its name is not "
                    f"known. {error.message}",
                    f"Give it a name: URL name=FILE.safetensors. Or: {self.refuse}",
                ) from error
            if there is None or line.sha256:
                raise
            return Present(line, there)  # it is here, whatever became of where it came from
        found = replace(found, sha256=line.sha256 or found.sha256)
        if name is None:
            name = _name_of(line, location, found)
            there = self.folders.find(folder, name)
            if there is not None and await self._suffices(line, there):
                return Present(line, there)
        if self.refuse is not None:
            raise unavailable(f"{line.shown} is not on this worker.", self.refuse)
        if there is not None and await self._is_it(there, found):
            return Present(line, there)
        limit = self.settings.size_limit
        if limit is not None and found.size is not None and found.size > limit:
            raise too_large(location, found.size, limit)
        path = there or self.folders.root / folder / name
        return Missing(line, link, location, found, path, replaces=there is not None)

    async def _folder(self, line: ModelLine, link: Link) -> str:
        """The folder for a line that does not say it: as it is here, or as its publisher says it,
        or the file itself.
        """
        ours = [one for one in self.manifest.entries() if one.identity == link.identity]
        own_name = line.name or link.name
        name = safe_model_name(own_name) if own_name else None
        folders = {one.folder for one in ours}
        if not folders and name is not None and (self.names_suffice or self.refuse is not None):
            folders = self.folders.folders_with(name)
        if len(folders) == 1:
            return folders.pop()
        if self.refuse is not None and name is not None:
            raise unavailable(f"{line.shown} is not on this worker.", self.refuse)
        try:
            found = await link.folder(self.http.json)
        except ModelUnavailable:
            found = None  # that it is not there, the question for the file says better
        if found in (None, "checkpoints"):  # which people also say of a diffusion model alone
            location = await link.locate(self.http.json)
            asking = retried(lambda: folder_of_file(self.http, location), _BACKOFF, TryAgain)
            try:
                found = await asking or found
            except TryAgain as error:
                raise _not_now(location, error) from error
        if found is None:
            raise unavailable(
                f"What kind of model {line.shown} is, neither its publisher nor its file says.",
                f"Write its kind before the link: lora {line.url.partition('?')[0]}",
            )
        return found

    async def _suffices(self, line: ModelLine, there: Path) -> bool:
        """Whether a file that is there under the name is taken without asking about it."""
        if line.sha256 is None:
            return self.names_suffice or self.refuse is not None
        if self.manifest.entry_of(there) is not None:
            return False
        await self._check_hash(there, line.sha256)
        return True

    async def _is_it(self, there: Path, found: Answer) -> bool:
        """Whether a file that is there under the name is the one that the link is for."""
        entry = self.manifest.entry_of(there)
        if entry is not None:
            return entry.sha256 == found.sha256
        size = there.stat().st_size
        if found.size is not None and found.size != size:
            raise self._another_file(
                there, f"it has {size_text(size)}, and the link's {size_text(found.size)}"
            )
        return True

    async def _probe(self, location: Location) -> Answer:
        try:
            return await retried(lambda: self.http.probe(location), _BACKOFF, TryAgain)
        except TryAgain as error:
            raise _not_now(location, error) from error

    async def _check_hash(self, there: Path, sha256: str) -> None:
        root = self.folders.root_of(there) or there.parent
        if await asyncio.to_thread(self.hashes.of, root, there) != sha256:
            raise self._another_file(there, "its SHA-256 is not the one in the list")

    def _another_file(self, there: Path, why: str) -> ModelUnavailable:
        shown = self.folders.shown(there)
        return unavailable(
            f"There is another file {shown} already: {why}. This worker did not fetch it (or it "
            "was changed since), so it is not replaced.",
            "Give the new one another name with name=FILE, or remove the old one yourself.",
            model=shown,
        )


def _not_now(location: Location, error: TryAgain) -> ModelUnavailable:
    return unavailable(
        f"{location.shown} cannot be fetched at the moment: {error}.", "Try again later."
    )


def _name_of(line: ModelLine, location: Location, found: Answer) -> str:
    """The name that the publisher gives, of which only the last part counts."""
    name = location.name or found.filename
    if not name:
        raise unavailable(
            f"{line.shown} does not say what the model's file is called.",
            "Give it a name: URL name=FILE.safetensors.",
        )
    return safe_model_name(PurePosixPath(name.replace("\\", "/")).name)


def too_large(location: Location, size: int, limit: int) -> Exception:
    """The error of a model above the worker's limit."""
    return unavailable(
        f"{location.shown} is at least {size_text(size)} large; this worker accepts models of up "
        f"to {size_text(limit)}.",
        "Set COMFY_REMOTE_MODEL_SIZE_LIMIT higher on the worker.",
    )


def bytes_to_fetch(missing: Sequence[Missing], root: Path) -> int:
    """What must still come, as far as sizes are known."""
    return sum(max(0, one.found.size - one.part(root).size) for one in missing if one.found.size)


def free_bytes(root: Path) -> int | None:
    """Free space where the folder is, or will be."""
    for folder in (root, *root.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def fits(missing: Sequence[Missing], root: Path) -> bool:
    """Whether there is room for them. A quota that the volume does not report shows later."""
    free = free_bytes(root)
    return free is None or bytes_to_fetch(missing, root) + RESERVE <= free


def check_space(missing: Sequence[Missing], root: Path) -> None:
    """Refuse (`LocalStorageError`) what does not fit."""
    if fits(missing, root):
        return
    free = free_bytes(root) or 0
    needed = bytes_to_fetch(missing, root)
    named = ", ".join(f"{one.path.name} ({size_text(one.found.size or 0)})" for one in missing[:5])
    raise LocalStorageError(
        f"The models do not fit on the disk: {size_text(needed)} to fetch ({named}), "
        f"{size_text(free)} free in {root}.",
        advice=Hint.MODELS_DISK_FULL(),
        details={"needed": needed, "free": free, "path": str(root)},
    )
