"""The models of one worker: ensure, check, prune, list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from ...advice import Hint
from ...aio import in_thread
from ...errors import ComfyRemoteError, LocalStorageError, ModelUnavailable
from ...media.files import storage_errors
from ...wire.models import (
    CheckAnswer,
    EnsureAnswer,
    ModelFile,
    ModelsAnswer,
    PlaceAnswer,
    PlaceRequest,
    PruneAnswer,
)
from ...wire.repo_list import ModelLine
from .downloads import Downloads, Say
from .folders import ModelFolders, ever_fetched, folder_of, safe_model_name
from .hashes import IdleHashing, ModelHashes
from .http import ModelHttp
from .link import Link
from .manifest import ASKED_FOR_DAYS, Asked, Manifest, list_key
from .parts import PartLimits
from .placing import FetchPart, Placing
from .plan import (
    Missing,
    Planner,
    Present,
    Problem,
    bytes_to_fetch,
    check_space,
    fits,
    free_bytes,
    part_key,
)
from .presence import Busy, Presence
from .prune import PrunePlan, plan_prune, prune, verify
from .settings import ModelSettings
from .sources import understand

__all__ = ["ModelLibrary"]

_WORKER_FETCHES_NONE = (
    "This worker has DOWNLOAD_MODELS=false: put the model on its volume, or change that setting."
)
_NO_FOLDER = (
    "No model was fetched: this worker knows no models folder. Set COMFY_REMOTE_MODELS_DIR on it "
    "to the models folder of its ComfyUI, or put the models there yourself."
)
_log = logging.getLogger(__name__)


class ModelLibrary:
    """The models of one worker.

    Its methods raise `ConfigurationError` where there is no folder for models, and
    `LocalStorageError` where it cannot be written to.

    Args:
        settings: Where from, where to, how much.
        engine_folder: The engine's own ``models`` folder, if it is known; asked each time, as
            an engine may only be chosen when it starts.
        worker: What other workers on the same volume call this one.
        part_limits: How large models are divided while they are fetched.
    """

    def __init__(
        self,
        settings: ModelSettings,
        engine_folder: Callable[[], Path | None] = lambda: None,
        *,
        worker: str = "another worker",
        part_limits: PartLimits | None = None,
    ) -> None:
        self._settings = settings
        self._engine_folder = engine_folder
        self._worker = worker
        self._part_limits = part_limits or PartLimits()
        self._presences: dict[Path, Presence] = {}
        self._hashes = ModelHashes()
        self._hashing = IdleHashing(self._hashes, self._to_hash, wanted=self._hashes_wanted)

    async def ensure(
        self,
        lines: Sequence[ModelLine],
        say: Say,
        *,
        prune_others: bool | None = None,
        name: str = "",
    ) -> EnsureAnswer:
        """Have every model of the list, then remove what is not listed, if that is wanted.

        Where the disk is too small for both, what is not listed goes first.

        Args:
            prune_others: Whether to prune; ``None`` for what the worker's owner has set. An
                empty list prunes nothing.
            name: The list's, if it has one; see `manifest.list_key`.

        Raises:
            ModelUnavailable: A model cannot be had; says which, and why. Nothing was pruned.
            LocalStorageError: The disk is full, or cannot be written to.
        """
        refuse = _WORKER_FETCHES_NONE if self._settings.download is False else None
        prunes = self._prunes(prune_others)
        return await self._ensure(lines, say, refuse, prune_others=prunes, name=name)

    async def ensure_for_run(self, lines: Sequence[ModelLine], say: Say) -> EnsureAnswer:
        """Have every model that a workflow's list names; nothing is pruned.

        A file that is there under the name is taken for the model: the publisher is not asked
        before each run. Where no models folder is known (an engine at a URL, for example), nothing
        is fetched, and ``notes`` says so.

        Raises:
            ModelUnavailable: As `ensure`; or a model is missing, and the worker does not fetch
                while a workflow runs (``DOWNLOAD_MODELS``).
        """
        if not self._folders().roots:
            return EnsureAnswer(ensured=[], notes=[_NO_FOLDER])
        refuse = None if self._settings.download else Hint.FETCH_MODEL_FIRST()
        return await self._ensure(lines, say, refuse, names_suffice=True)

    async def check(
        self, lines: Sequence[ModelLine], *, prune_others: bool | None = None, name: str = ""
    ) -> CheckAnswer:
        """What `ensure` would do. Changes nothing, and fetches nothing."""
        folders = self._folders()
        manifest = Manifest(folders.root)
        refuse = _WORKER_FETCHES_NONE if self._settings.download is False else None
        async with ModelHttp(self._settings) as http:
            planner = Planner(http, self._settings, folders, manifest, self._hashes, refuse=refuse)
            planned = await planner.plan(lines)
        present = _only(Present, planned)
        missing = _only(Missing, planned)
        listed = [folders.shown(one.path) for one in present]
        wanted = {*listed, *(folders.shown(one.path) for one in missing)}
        asked = Asked(folders.root).by_others(list_key(name, lines), manifest.entries())
        pruning = await asyncio.to_thread(plan_prune, manifest, wanted, asked)
        unlisted = [entry.path for entry in pruning.remove]
        # A line that could not be understood may be the one that wants a model.
        problems = _only(Problem, planned)
        wants = self._prunes(prune_others)
        prunes = wants and bool(lines) and not problems
        stay = [entry.path for entry in (*pruning.keep, *pruning.asked)]
        kept = [*listed, *stay, *([] if prunes else unlisted)]
        notes = _notes_on_pruning(lines, prune_others=wants)
        if prunes:
            notes += _notes_on_asked(pruning, asked)
        elif unlisted and lines and not problems:
            notes.append(f"With prune, these would be removed: {', '.join(unlisted)}.")
        return CheckAnswer(
            would_keep=list(dict.fromkeys(kept)),
            would_remove=unlisted if prunes else [],
            would_fetch=[folders.shown(one.path) for one in missing],
            fetch_bytes=bytes_to_fetch(missing, folders.root),
            free_bytes=free_bytes(folders.root),
            problems=[str(problem) for problem in problems],
            notes=notes,
        )

    async def prune(
        self, lines: Sequence[ModelLine], say: Say, *, everything: bool = False, name: str = ""
    ) -> PruneAnswer:
        """Remove what we had fetched and is neither listed nor pinned.

        What another list has asked for in the last seven days stays.

        Args:
            everything: Whether an empty list means that nothing is wanted.

        Raises:
            LocalStorageError: A file could not be removed.
        """
        folders = self._folders()
        if not lines and not everything:
            return PruneAnswer(
                pruned=[], notes=["The list is empty: nothing was pruned. `everything` would."]
            )
        key = list_key(name, lines)
        if ever_fetched(folders.root):
            manifest = Manifest(folders.root)
            links = [(line, understand(line, self._settings)) for line in lines]
            await asyncio.to_thread(
                Asked(folders.root).note, key, _wanted(links, folders, manifest)
            )
        pruned, kept, notes = await self._prune(folders, lines, say, key)
        return PruneAnswer(pruned=pruned, kept=kept, notes=notes)

    @property
    def takes(self) -> list[str]:
        """How models may come here by a job of their own: see `wire.actions.DescribeAnswer`."""
        if not self.has_folder or self._settings.download is False:
            fetches: list[str] = []
        else:
            fetches = ["fetch", "link", "exact_folders"]
        receives = self.has_folder and self._settings.accept
        return [*fetches, *(["receive"] if receives else [])]

    async def place(self, request: PlaceRequest, fetch: FetchPart, say: Say) -> PlaceAnswer:
        """Have a model under a name, whose content the client has; see `PlaceRequest`.

        Args:
            fetch: Puts a part of it, by its SHA-256, at a path; whether the store has it.

        Raises:
            WorkflowInvalid: That is no name of a model.
            ModelUnavailable: Another file has that name; or it may not be sent here, or has not
                come as it should.
            LocalStorageError: The disk is full, or cannot be written to.
        """
        folders = self._folders()
        placing = Placing(
            folders, self._hashes, self._settings, self._presence(folders.root), fetch, say
        )
        return await placing.place(request)

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder for models."""
        return bool(self._folders().roots)

    async def models(self) -> ModelsAnswer:
        """All models that are there, by folder."""
        return await asyncio.to_thread(self._models)

    async def details(self, listed: Mapping[str, Sequence[str]]) -> dict[str, list[ModelFile]]:
        """What is known of the models that an engine lists, by its own folders and names."""
        return await asyncio.to_thread(self._details, listed)

    def hashing_paused(self) -> AbstractContextManager[None]:
        """While inside, no model is read for its hash; when no job runs, they are."""
        return self._hashing.paused()

    def _hashes_wanted(self) -> bool:
        return self._settings.hash_models and bool(self._folders().roots)

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """While inside, no other worker prunes. Costs nothing where nothing was ever fetched."""
        try:
            root = self._folders().root
            used = ever_fetched(root)
        except ComfyRemoteError:
            used = False
        async with contextlib.AsyncExitStack() as stack:
            if used:
                try:
                    await stack.enter_async_context(self._presence(root).using())
                except LocalStorageError as error:
                    # A volume that cannot be written to cannot be pruned by us; by others it may.
                    _log.warning("other workers cannot see that models are in use: %s", error)
            yield

    async def _ensure(
        self,
        lines: Sequence[ModelLine],
        say: Say,
        refuse: str | None,
        *,
        names_suffice: bool = False,
        prune_others: bool = False,
        name: str = "",
    ) -> EnsureAnswer:
        folders, key = self._folders(), list_key(name, lines)
        prunes = prune_others and bool(lines)
        notes = _notes_on_pruning(lines, prune_others=prune_others)
        pruned: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(ModelHttp(self._settings))
            manifest = Manifest(folders.root)
            planner = Planner(
                http,
                self._settings,
                folders,
                manifest,
                self._hashes,
                names_suffice=names_suffice,
                refuse=refuse,
            )
            planned = await planner.plan(lines)
            _raise_problems(_only(Problem, planned))
            missing = _only(Missing, planned)
            there = [one for one in planned if not isinstance(one, Problem)]
            if missing or ever_fetched(folders.root):
                paths = [folders.shown(one.path) for one in there]
                await self._note_asked(folders.root, key, paths, needed=bool(missing))
            if missing:
                presence = self._presence(folders.root)
                await stack.enter_async_context(
                    presence.using(lambda owner: say(f"Waiting for {owner}, which prunes"))
                )
                if prunes and not fits(missing, folders.root):
                    lines = [one.line for one in there]
                    pruned, _, busy = await self._prune(folders, lines, say, key)
                    notes += busy
                check_space(missing, folders.root)
                downloads = Downloads(
                    http, self._settings, manifest, presence, say, key, self._part_limits
                )
                await downloads.fetch(missing)
        if prunes and not pruned:
            lines = [one.line for one in there]  # with the kinds that they did not say
            pruned, _, busy = await self._prune(folders, lines, say, key)
            notes += busy
        return EnsureAnswer(
            ensured=list(dict.fromkeys(folders.shown(one.path) for one in there)),
            fetched=[folders.shown(one.path) for one in missing],
            pruned=pruned,
            notes=list(dict.fromkeys(notes)),
        )

    def _prunes(self, wanted: bool | None) -> bool:
        return self._settings.prune if wanted is None else wanted

    async def _note_asked(
        self, root: Path, key: str, paths: Sequence[str], *, needed: bool
    ) -> None:
        try:
            await asyncio.to_thread(Asked(root).note, key, paths)
        except LocalStorageError as error:
            if needed:
                raise
            # A volume that cannot be written to cannot be pruned by us; by others it may.
            _log.warning("other workers cannot see which models are wanted: %s", error)

    async def _prune(
        self, folders: ModelFolders, lines: Sequence[ModelLine], say: Say, key: str
    ) -> tuple[list[str], list[str], list[str]]:
        """What was removed, what stays, and why nothing was removed, if so."""
        links = [(line, understand(line, self._settings)) for line in lines]
        if not ever_fetched(folders.root):
            return [], [], []  # nothing was ever fetched
        say("Pruning models")

        def planned() -> tuple[Manifest, set[str], dict[str, float]]:
            manifest = Manifest(folders.root)
            asked = Asked(folders.root).by_others(key, manifest.entries())
            return manifest, _wanted(links, folders, manifest), asked

        def verified() -> dict[str, bool]:
            manifest, wanted, asked = planned()
            return verify(manifest, plan_prune(manifest, wanted, asked))

        def pruned(known: dict[str, bool]) -> tuple[PrunePlan, dict[str, float]]:
            manifest, wanted, asked = planned()
            parts = {part_key(line, link) for line, link in links}
            return prune(manifest, wanted, asked, parts, known), asked

        try:
            known = await asyncio.to_thread(verified)
            async with self._presence(folders.root).alone():
                # Not left by a cancel while the thread goes on: others would come in.
                done, asked = await in_thread(lambda: pruned(known))
        except Busy as busy:
            return [], [], [f"Nothing was pruned: {busy} is using this volume."]
        changed = [entry.path for entry in done.lost if (folders.root / entry.path).exists()]
        notes = [f"{path} was changed since it was fetched, and stays." for path in changed]
        notes += _notes_on_asked(done, asked)
        kept = [entry.path for entry in (*done.keep, *done.asked)]
        return [entry.path for entry in done.remove], kept, notes

    def _models(self) -> ModelsAnswer:
        folders = self._folders()
        manifest = Manifest(folders.root)
        models: dict[str, list[ModelFile]] = {}
        with storage_errors(folders.root):
            for folder, name, path in folders.models():
                models.setdefault(folder, []).append(
                    self._file(folders, manifest, folder, name, path)
                )
        return ModelsAnswer(models=models)

    def _details(self, listed: Mapping[str, Sequence[str]]) -> dict[str, list[ModelFile]]:
        folders = self._folders()
        manifest = Manifest(folders.root) if folders.roots else None

        def file(folder: str, name: str) -> ModelFile:
            try:
                path = folders.find(folder, name)
                if path is not None and manifest is not None:
                    return self._file(folders, manifest, folder, name, path)
            except OSError:  # it went meanwhile, or no file here can be called that
                pass
            return ModelFile(name=name)

        return {folder: [file(folder, name) for name in names] for folder, names in listed.items()}

    def _file(
        self, folders: ModelFolders, manifest: Manifest, folder: str, name: str, path: Path
    ) -> ModelFile:
        entry, root, status = manifest.entry_of(path), folders.root_of(path), path.stat()
        known = self._hashes.known(root, path) if root is not None else None
        return ModelFile(
            name=name,
            size=status.st_size,
            modified=status.st_mtime,
            changed=status.st_ctime,
            sha256=entry.sha256 if entry else known,
            fetched_from=entry.identity if entry else None,
            pinned=manifest.pinned(f"{folder}/{name}"),
        )

    def _to_hash(self) -> list[tuple[Path, Path]]:
        """The models whose hash is not on record: models folder and path of each."""
        folders = self._folders()
        manifest = Manifest(folders.root)
        found = [(folders.root_of(path), path) for _, _, path in folders.models()]
        return [
            (root, path)
            for root, path in found
            if root is not None and manifest.entry_of(path) is None
        ]

    def _folders(self) -> ModelFolders:
        return ModelFolders.of_worker(
            chosen=self._settings.folder, volume=self._settings.volume, engine=self._engine_folder()
        )

    def _presence(self, root: Path) -> Presence:
        return self._presences.setdefault(root, Presence(root, self._worker))


def _wanted(
    links: Sequence[tuple[ModelLine, Link]], folders: ModelFolders, manifest: Manifest
) -> set[str]:
    """Paths of ours that the lines are for: by where they were fetched from, and by name."""
    wanted: set[str] = set()
    for line, link in links:
        folder = folder_of(line.kind)
        name = line.name or link.name
        if not folder:  # wherever it is
            ending = f"/{safe_model_name(name)}" if name is not None else None
            wanted |= {
                entry.path
                for entry in manifest.entries()
                if entry.identity == link.identity or (ending and entry.path.endswith(ending))
            }
            continue
        if name is not None:
            found = folders.find(folder, safe_model_name(name))
            wanted.add(folders.shown(found) if found else f"{folder}/{safe_model_name(name)}")
        wanted |= {
            entry.path
            for entry in manifest.entries()
            if name is None
            and entry.identity == link.identity
            and entry.path.startswith(f"{folder}/")
        }
    return wanted


_T = TypeVar("_T")


def _only(kind: type[_T], planned: Sequence[object]) -> list[_T]:
    return [one for one in planned if isinstance(one, kind)]


def _raise_problems(problems: Sequence[Problem]) -> None:
    if len(problems) == 1:
        raise problems[0].error
    if problems:
        raise ModelUnavailable(
            f"{len(problems)} models of the list are not available. "
            + " ".join(f"{problem.line.shown}: {problem.error.message}" for problem in problems),
            advice=problems[0].error.advice,
            details={"problems": [str(problem) for problem in problems]},
        )


def _notes_on_pruning(lines: Sequence[ModelLine], *, prune_others: bool) -> list[str]:
    return ["The list is empty: nothing is pruned."] if prune_others and not lines else []


def _notes_on_asked(plan: PrunePlan, asked: Mapping[str, float]) -> list[str]:
    """Why these stay, though the list does not name them."""
    now = time.time()
    notes = []
    for entry in plan.asked:
        days = int(max(0.0, now - asked[entry.path]) // 86400)
        when = "today" if days == 0 else f"{days} day{'' if days == 1 else 's'} ago"
        notes.append(
            f"{entry.path} stays: another list asked for it {when}, and models stay for "
            f"{ASKED_FOR_DAYS} days."
        )
    return notes
