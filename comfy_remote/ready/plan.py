"""What is needed compared with what is there: a plan of what would have to change. Pure.

A plan says what is there, missing, different, only there, or not known; nothing is carried
out here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from ..types import JsonValue
from ..units import size_text
from ..wire.installed import COMFYUIS_OWN, InstalledPack, ModelFile
from ..worker.models.folders import folder_of
from .lock import Lock, LockedComfyUI, LockedModel, LockedPack

__all__ = [
    "Item",
    "Plan",
    "Standing",
    "There",
    "compare",
    "model_like",
    "models_by_name",
    "pack_like",
]

Kind: TypeAlias = Literal["comfyui", "pack", "model"]
Needed: TypeAlias = LockedComfyUI | LockedPack | LockedModel

_ENDINGS = ("", ".safetensors", ".pt", ".bin")  # of an embedding, which a prompt names without one
_SHOWN_COMMIT = 10


class Standing(str, Enum):
    """How what is needed and what is there stand to each other."""

    THERE = "there"
    MISSING = "missing"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """The target, or the lock, does not say enough: no reason to refuse, one to warn."""
    ONLY_THERE = "only_there"
    """On the target, and not needed by this lock."""


@dataclass(frozen=True, slots=True)
class There:
    """What a target has, as far as it says. What it does not say is ``None``.

    Attributes:
        name: The target's.
        comfyui: Its ComfyUI's version.
        engine: What runs the prompts, for people: "ComfyUI 0.33.0", "the sandbox".
        packs: Some may be known by their names alone.
        models: By folder; of some, only the name may be known.
        classes: Those of the lock's node classes that it has, each with the folder of its pack in
            ``custom_nodes``; empty where that is not known.
        fetches_models: Whether it fetches models that a job needs; see `targets.base.Capabilities`.
        takes_models: How it may get models by a job of their own; likewise.
        takes_nodes: How it may get node packs; likewise.
        no_nodes: Why it takes none, for people.
        ours: The folders of packs that such a job has installed there, and may replace.
    """

    name: str
    comfyui: str | None = None
    engine: str | None = None
    packs: Sequence[InstalledPack] | None = None
    models: Mapping[str, Sequence[ModelFile]] | None = None
    classes: Mapping[str, str] | None = None
    fetches_models: bool | None = None
    takes_models: frozenset[str] | None = None
    takes_nodes: frozenset[str] | None = None
    no_nodes: str = ""
    ours: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is needed, or is only there.

    Attributes:
        name: For people: ``loras/style.safetensors``.
        why: A clause, without its full stop: "version 1.0 is there". Empty where there is nothing
            to add.
        needed: ``None`` for what is only there.
        found: What the target has of it.
        size: Bytes of a model, as far as they are known.
        same_as: ``FOLDER/NAME`` of a model there with the content that is missing under its name:
            it can be linked, and need not be sent.
    """

    kind: Kind
    name: str
    standing: Standing
    why: str = ""
    needed: Needed | None = None
    found: InstalledPack | ModelFile | None = None
    size: int | None = None
    same_as: str | None = None

    @property
    def keeps_from_running(self) -> bool:
        """Whether the target is not what the lock says."""
        return self.standing in (Standing.MISSING, Standing.DIFFERENT)

    @property
    def sentence(self) -> str:
        """What stands where, for people: "loras/style.safetensors is missing: …"."""
        words = {Standing.UNKNOWN: "not known", Standing.ONLY_THERE: "only there"}
        standing = words.get(self.standing, self.standing.value)
        return f"{self.name} is {standing}{f': {self.why}' if self.why else ''}."

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs; what is needed and found has the keys of lock and answer."""
        return {
            "kind": self.kind,
            "name": self.name,
            "standing": self.standing.value,
            "why": self.why,
            "size": self.size,
            "same_as": self.same_as,
            "needed": _described(self.needed),
            "found": _described(self.found),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A lock and a target, compared.

    Attributes:
        target: The target's name.
        items: ComfyUI, then packs, then models, each in the lock's order; what is only there comes
            behind what is needed.
        fetches_models: As `There.fetches_models`.
    """

    target: str
    items: tuple[Item, ...]
    fetches_models: bool | None = None

    def of(self, *standings: Standing) -> list[Item]:
        """The items with one of these standings."""
        return [one for one in self.items if one.standing in standings]

    @property
    def problems(self) -> list[Item]:
        """What is missing or different."""
        return [one for one in self.items if one.keeps_from_running]

    @property
    def fits(self) -> bool:
        """Whether nothing is missing or different. Some of it may be unknown."""
        return not self.problems

    @property
    def bytes_missing(self) -> int:
        """The size of the models that have to come there, as far as it is known."""
        return sum(one.size or 0 for one in self.problems if one.same_as is None)

    def counts(self) -> dict[str, int]:
        """How many items have each standing."""
        found = Counter(one.standing.value for one in self.items)
        return {standing.value: found[standing.value] for standing in Standing}

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {
            "target": self.target,
            "fits": self.fits,
            "bytes_missing": self.bytes_missing,
            "counts": dict(self.counts()),
            "items": [one.to_json() for one in self.items],
        }


def compare(lock: Lock, there: There) -> Plan:
    """Compare what a lock needs with what a target has."""
    items = [_comfyui(lock.comfyui, there)]
    items += _packs(lock.packs, there)
    items += _models(lock.models, there)
    return Plan(there.name, tuple(items), there.fetches_models)


def _comfyui(needed: LockedComfyUI, there: There) -> Item:
    def item(standing: Standing, why: str) -> Item:
        name = f"ComfyUI {needed.version}" if needed.version else "ComfyUI"
        return Item("comfyui", name, standing, why, needed)

    if needed.version is None:
        return item(Standing.UNKNOWN, "the lock does not say which version")
    if there.comfyui is not None:
        if _version(there.comfyui) == _version(needed.version):
            return item(Standing.THERE, "")
        return item(Standing.DIFFERENT, f"{there.comfyui} is there")
    if there.engine:
        return item(Standing.DIFFERENT, f"{there.engine} is there")
    return item(Standing.UNKNOWN, "it does not say its version")


# Packs


def _packs(needed: Sequence[LockedPack], there: There) -> Iterator[Item]:
    found_there = _PacksThere(there.packs or ())
    for pack in needed:
        found = found_there.take(pack)
        standing, why = _pack_standing(pack, found, there)
        yield Item("pack", pack.name, standing, why, pack, found)
    for other in sorted(found_there.left, key=lambda one: one.name.casefold()):
        if other.name not in COMFYUIS_OWN:
            yield Item("pack", other.registry_id or other.name, Standing.ONLY_THERE, found=other)


def pack_like(needed: LockedPack, packs: Sequence[InstalledPack]) -> InstalledPack | None:
    """The pack there that is meant, whatever its version: by id, by repository, by folder."""
    return _PacksThere(packs).take(needed)


class _PacksThere:
    """The packs of a target, found by each of their names: a lock may have thousands."""

    def __init__(self, packs: Sequence[InstalledPack]) -> None:
        self._packs = dict(enumerate(packs))
        self._urls = [_repository(one.url) for one in packs]
        self._by_id: dict[str, list[int]] = {}
        self._by_url: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for number, one in enumerate(packs):
            self._by_id.setdefault(_folded(one.registry_id), []).append(number)
            self._by_url.setdefault(self._urls[number], []).append(number)
            self._by_name.setdefault(_folded(one.name), []).append(number)

    @property
    def left(self) -> list[InstalledPack]:
        """Those that were not taken."""
        return list(self._packs.values())

    def take(self, needed: LockedPack) -> InstalledPack | None:
        """As `pack_like`; it is not found again."""
        for number in self._candidates(needed):
            if number in self._packs:
                return self._packs.pop(number)
        return None

    def _candidates(self, needed: LockedPack) -> Iterator[int]:
        url, names = _repository(needed.url), {_folded(needed.folder), _folded(needed.id)}
        if needed.id:
            yield from self._by_id.get(_folded(needed.id), ())
        if url:
            yield from self._by_url.get(url, ())
            names.add(url.rpartition("/")[2])
        same = sorted(n for name in names - {""} for n in self._by_name.get(name, ()))
        # Of two packs with one name, a repository that is known decides.
        yield from (n for n in same if not url or self._urls[n] in ("", url))


def _pack_standing(
    needed: LockedPack, found: InstalledPack | None, there: There
) -> tuple[Standing, str]:
    classes = None
    if there.classes is not None:
        classes = [one for one in needed.classes if one not in there.classes]
    if found is None:
        if classes:
            return Standing.MISSING, f"there is no {_listed(classes)}"
        if needed.classes and classes is not None:
            return Standing.UNKNOWN, "its nodes are there, but its version is not known"
        if there.packs is None or not needed.is_known:
            return Standing.UNKNOWN, "it does not say which packs it has"
        return Standing.MISSING, ""
    if classes:
        return Standing.DIFFERENT, f"the one there has no {_listed(classes)}"
    if needed.commit and found.commit:
        if _same_commit(needed.commit, found.commit):
            return Standing.THERE, ""
        return Standing.DIFFERENT, f"commit {found.commit[:_SHOWN_COMMIT]} is there"
    if needed.version and found.version:
        if _version(needed.version) == _version(found.version):
            return Standing.THERE, ""
        return Standing.DIFFERENT, f"version {found.version} is there"
    if needed.content and found.content:
        if needed.content == found.content:
            return Standing.THERE, ""
        return Standing.DIFFERENT, "the one there has other Python files"
    if not (needed.version or needed.commit or needed.content):
        return Standing.UNKNOWN, "it is there, but the lock does not say which version is needed"
    return Standing.UNKNOWN, "it is there, but its version is not known"


def _listed(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - 3} more" if len(classes) > 3 else ""
    return ", ".join(classes[:3]) + more


def _same_commit(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _repository(url: str | None) -> str:
    """``github.com/owner/name`` of any spelling of a repository's address."""
    if url is None:
        return ""
    bare = re.sub(r"^\w+://([^/@]*@)?|^git@", "", url.strip())
    bare = re.sub(r"(\.git)?/*$", "", bare)
    return re.sub(r"^([^/:]+):", r"\1/", bare).removeprefix("www.").casefold()


def _folded(name: str | None) -> str:
    return (name or "").casefold()


def _version(text: str) -> str:
    """``1.2.0`` of ``v1.2``, as ComfyUI-Manager writes the versions of packs."""
    numbers = text.strip().removeprefix("v")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", numbers):
        return numbers
    return ".".join([*map(str, map(int, numbers.split("."))), "0", "0"][:3])


# Models


def _models(needed: Sequence[LockedModel], there: There) -> Iterator[Item]:
    known = _with_folders(there.models or {})
    by_name = models_by_name(there.models or {})
    by_hash: dict[str, tuple[str, int | None]] = {}
    for folder, one in known:
        if one.sha256:
            by_hash.setdefault(one.sha256, (f"{folder}/{one.name}", one.size))
    used: set[tuple[str, str]] = set()
    for model in needed:
        found = model_like(model, by_name)
        if found is not None:
            used.add((found[0], found[1].name))
        file = found[1] if found else None
        standing, why = _model_standing(model, file, there)
        same_as, size = None, None
        if standing is not Standing.THERE:
            same_as, size = by_hash.get(model.sha256 or "", (None, None))
        yield Item(
            "model",
            model.path,
            standing,
            why
            if same_as is None
            else "; ".join(filter(None, [why, f"{same_as} there is the same file"])),
            model,
            file,
            model.size if model.size is not None else size,
            same_as,
        )
    for folder, one in sorted(known, key=lambda each: (each[0], each[1].name)):
        if (folder, one.name) not in used:
            name = f"{folder}/{one.name}"
            yield Item("model", name, Standing.ONLY_THERE, found=one, size=one.size)


def _with_folders(models: Mapping[str, Sequence[ModelFile]]) -> list[tuple[str, ModelFile]]:
    return [(folder_of(folder), one) for folder, files in models.items() for one in files]


def models_by_name(
    models: Mapping[str, Sequence[ModelFile]],
) -> dict[str, list[tuple[str, ModelFile]]]:
    """The models of some folders, for `model_like`."""
    found: dict[str, list[tuple[str, ModelFile]]] = {}
    for folder, one in _with_folders(models):
        found.setdefault(one.name, []).append((folder, one))
    return found


def model_like(
    needed: LockedModel, by_name: Mapping[str, Sequence[tuple[str, ModelFile]]]
) -> tuple[str, ModelFile] | None:
    """The file there that a workflow means by a model's name, and its folder."""
    folder = folder_of(needed.folder) if needed.folder else None
    for ending in _ENDINGS if folder == "embeddings" else ("",):
        for there, one in by_name.get(needed.name + ending, ()):
            if folder is None or folder == there:
                return there, one
    return None


def _model_standing(
    needed: LockedModel, found: ModelFile | None, there: There
) -> tuple[Standing, str]:
    if found is None:
        if there.models is None:
            return Standing.UNKNOWN, "it does not say which models it has"
        return Standing.MISSING, ""
    if needed.size is not None and found.size is not None and needed.size != found.size:
        # In bytes, where both round to the same.
        sizes = [size_text(found.size), size_text(needed.size)]
        if sizes[0] == sizes[1]:
            sizes = [f"{found.size:,} bytes", f"{needed.size:,} bytes"]
        return Standing.DIFFERENT, f"the file there has {sizes[0]} instead of {sizes[1]}"
    if needed.sha256 is None:
        return Standing.UNKNOWN, "a file of that name is there, but the lock has no SHA-256 for it"
    if found.sha256 is None:
        size = " and size" if needed.size is not None and found.size is not None else ""
        return Standing.UNKNOWN, f"a file of that name{size} is there, but its SHA-256 is not known"
    if needed.sha256 != found.sha256:
        return Standing.DIFFERENT, "the file of that name there has another content"
    return Standing.THERE, ""


def _described(value: Needed | InstalledPack | ModelFile | None) -> JsonValue:
    if value is None:
        return None
    if isinstance(value, LockedModel):
        shown = [one.model_copy(update={"url": one.shown}) for one in value.addresses]
        value = value.model_copy(update={"addresses": tuple(shown)})
    document: JsonValue = value.model_dump(mode="json", exclude_none=True)
    return document
