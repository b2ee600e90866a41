"""A lock from what workflows need and from what is installed somewhere. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from yarl import URL

from ..errors import ConfigurationError
from ..schemas.registry import RegisteredPack
from ..wire.installed import InstalledPack, ModelFile
from ..worker.models.folders import is_model_folder
from ..workflow.models import ModelSource
from .lock import (
    MOST_ADDRESSES,
    MOST_ENTRIES,
    Address,
    Lock,
    LockedComfyUI,
    LockedModel,
    LockedPack,
)
from .needs import Needs
from .plan import There, model_like, models_by_name, pack_like

__all__ = ["Made", "make_lock", "unresolved_classes"]

_Entry = TypeVar("_Entry", bound=BaseModel)

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_VERSION = re.compile(r"v?[0-9]+(\.[0-9]+)*([-+.][0-9A-Za-z.]+)?")
_ON_GITHUB = re.compile(r"[A-Za-z0-9-]+/(?!\.)[A-Za-z0-9._-]+")
_SECRET = re.compile(r"token|key|secret|signature|credential|password|auth", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Made:
    """A lock that was made.

    Attributes:
        notes: What its maker should know beside what it says is unknown, a sentence each.
        where: What was read for it, for people; empty if only the workflows were.
    """

    lock: Lock
    notes: tuple[str, ...] = ()
    where: str = ""


def unresolved_classes(needs: Needs, there: There | None) -> list[str]:
    """The classes that neither a workflow nor an installation names a pack for."""
    known = {**needs.folders, **((there.classes if there is not None else None) or {})}
    return [name for name, said in needs.classes.items() if said is None and not known.get(name)]


def make_lock(
    needs: Needs,
    there: There | None,
    *,
    comfyui: LockedComfyUI | None = None,
    registry: Mapping[str, RegisteredPack] | None = None,
) -> Made:
    """The lock.

    Args:
        there: What is installed where the workflows run now: versions, sizes and hashes are its.
            ``None`` if that is not known; then what the workflows say is all.
        comfyui: Its ComfyUI; what ``there`` says by default.
        registry: The packs that the Comfy Registry names for classes.

    Raises:
        ConfigurationError: It would be larger than a lock may be.
    """
    if max(len(needs.workflows), len(needs.classes), len(needs.models)) > MOST_ENTRIES:
        raise ConfigurationError(
            f"More than {MOST_ENTRIES} workflows, node classes or models are more than a lock has.",
            advice="Take fewer workflows at a time.",
        )
    notes: list[str] = []
    if comfyui is None:
        comfyui = _comfyui(there)
    packs = _packs(needs, there, registry or {}, notes)
    models = _models(needs, there, notes)
    lock = Lock(
        workflows=tuple(needs.workflows), comfyui=comfyui, packs=tuple(packs), models=tuple(models)
    )
    return Made(lock.sorted(), tuple(notes), there.name if there else "")


def _comfyui(there: There | None) -> LockedComfyUI:
    if there is None:
        return LockedComfyUI(unknown="no ComfyUI was found to read its version from")
    if there.comfyui is None:
        runs = f"runs {there.engine}" if there.engine else "does not say its version"
        return LockedComfyUI(unknown=f"{there.name} {runs}")
    return LockedComfyUI(version=there.comfyui)


# Packs


def _packs(
    needs: Needs, there: There | None, registry: Mapping[str, RegisteredPack], notes: list[str]
) -> list[LockedPack]:
    found: dict[str, tuple[LockedPack, list[str]]] = {}
    for name, said in needs.classes.items():
        if not _valid(LockedPack, classes=[name]).classes:
            notes.append(f"{name[:100]!r} is omitted: it is not the name of a node class.")
            continue
        folder = _folder_of(name, needs, there)
        pack = _pack_of(said, folder, there, registry.get(name))
        # One pack may be named in several ways; what is installed decides that it is one.
        key = pack.folder or pack.id or pack.url or f"unknown: {name}"
        found.setdefault(key.casefold(), (pack, []))[1].append(name)
    return [pack.model_copy(update={"classes": tuple(names)}) for pack, names in found.values()]


def _folder_of(name: str, needs: Needs, there: There | None) -> str | None:
    """Where the pack of a class is in ``custom_nodes``: a ComfyUI that has loaded it knows, what
    its files say is a guess.
    """
    loaded = needs.folders.get(name)
    read = there.classes.get(name) if there is not None and there.classes else None
    installed = {one.name for one in there.packs or ()} if there is not None else set()
    return loaded if read is None or loaded in installed else read


def _pack_of(
    said: tuple[str, str | None] | None,
    folder: str | None,
    there: There | None,
    registered: RegisteredPack | None,
) -> LockedPack:
    """The pack of one class, without its classes.

    Args:
        folder: In ``custom_nodes``, if it is known.
    """
    wanted = _as_said(said) if said else _valid(LockedPack, folder=folder)
    installed = None
    if there is not None:
        same = (one for one in there.packs or () if one.name == folder)
        installed = pack_like(wanted, there.packs or ()) or next(same, None)
    if installed is not None:
        return _installed(installed, wanted, there)
    if not wanted.is_known and registered is not None:
        return _valid(
            LockedPack,
            id=registered.id,
            version=registered.version,
            url=registered.repository,
            unknown="neither the workflow nor an installation names its version: this is the "
            "registry's newest",
        )
    if not wanted.is_known:
        return LockedPack(unknown="it is not known which pack has this")
    if not (wanted.version or wanted.commit):
        where = f"it is not installed in {there.name}" if there else "no ComfyUI was found"
        why = f"{where}, and the workflow does not say its version"
        return wanted.model_copy(update={"unknown": why})
    return wanted


def _as_said(said: tuple[str, str | None]) -> LockedPack:
    """A pack as a workflow names it: ``cnr_id`` or ``aux_id``, and ``ver``."""
    name, ver = said
    identity = {"id": name}
    if "/" in name:
        identity = {"url": f"https://github.com/{name}"} if _ON_GITHUB.fullmatch(name) else {}
    version: dict[str, str] = {}
    if ver and _COMMIT.fullmatch(ver):
        version = {"commit": ver}
    elif ver and _VERSION.fullmatch(ver):
        version = {"version": ver}
    return _valid(LockedPack, **identity, **version)


def _installed(one: InstalledPack, wanted: LockedPack, there: There | None) -> LockedPack:
    version, commit, content = one.version, one.commit, None
    if not (version or commit):
        content = one.content
    if not (version or commit or content):
        version, commit = wanted.version, wanted.commit
    unknown = None
    if not (version or commit or content):
        unknown = f"{there.name if there else 'the target'} does not say which version it has"
    return _valid(
        LockedPack,
        id=wanted.id or one.registry_id,
        version=version,
        url=one.url or wanted.url,
        commit=commit,
        folder=one.name,
        content=content,
        unknown=unknown,
    )


# Models


def _models(needs: Needs, there: There | None, notes: list[str]) -> list[LockedModel]:
    by_name = models_by_name((there.models if there else None) or {})
    found: dict[tuple[str | None, str], LockedModel] = {}
    for (name, folder), sources in needs.models.items():
        try:
            needed = LockedModel(folder=_model_folder(folder), name=name)
        except ValidationError:
            notes.append(
                f"{name[:100]!r} is omitted: it is not the name of a file below a models folder."
            )
            continue
        there_is = model_like(needed, by_name)
        model = _model(needed, there_is, sources, there, notes)
        known = found.get((model.folder, model.name))
        if known is not None:  # once with a folder and once without
            model = model.model_copy(update={"addresses": _each(known.addresses, model.addresses)})
        found[model.folder, model.name] = model
    return list(found.values())


def _model(
    needed: LockedModel,
    found: tuple[str, ModelFile] | None,
    sources: Sequence[ModelSource],
    there: There | None,
    notes: list[str],
) -> LockedModel:
    size = sha256 = None
    name, folder, addresses = needed.name, needed.folder, []
    if found is not None:
        there_folder, file = found
        # An embedding gets the ending that the prompt leaves out: the file is what is brought.
        name, size, sha256 = file.name, file.size, file.sha256
        folder = folder or _model_folder(there_folder)
        if (address := _fetched_from(file)) is not None:
            addresses.append(address)
    for source in sources:
        said = source.hash.lower() if source.hash and source.hash_type == "SHA256" else None
        said = said if said and re.fullmatch("[0-9a-f]{64}", said) else None
        if said and sha256 and said != sha256:
            notes.append(
                f"{needed.path}: the file in {there.name if there else 'the ComfyUI'} is another "
                "one than the workflow names by its SHA-256; the address in the workflow is left "
                "out."
            )
            continue
        sha256 = sha256 or said
        if (address := _address("workflow", source.url)) is not None:
            addresses.append(address)
    unknown = _why_unknown(found, sha256, there)
    return LockedModel(
        folder=folder,
        name=name,
        size=size,
        sha256=sha256,
        addresses=_each(addresses),
        unknown=unknown,
    )


def _model_folder(name: str | None) -> str | None:
    """A folder that a lock may have: a workflow may say any, and a disk may have any."""
    return name if name is not None and is_model_folder(name) else None


def _why_unknown(
    found: tuple[str, ModelFile] | None, sha256: str | None, there: There | None
) -> str | None:
    if sha256 is not None:
        return None
    if there is None or there.models is None:
        return "no ComfyUI was found that has it, so its SHA-256 is not known"
    if found is None:
        return f"it is not in {there.name}, so its SHA-256 is not known"
    return f"its SHA-256 in {there.name} is not known"


def _address(by: str, url: str) -> Address | None:
    """An address without what may be a login; ``None`` if it cannot be one."""
    if url.startswith(("https://", "http://")):
        try:
            parsed = URL(url, encoded=url.isascii())
            secret = [key for key in parsed.query if _SECRET.search(key)]
            if secret or parsed.user or parsed.password:
                parsed = parsed.with_user(None).without_query_params(*secret)
            url = str(parsed.with_fragment(None))
        except ValueError:
            return None
    try:
        return Address(by=by, url=url)
    except ValidationError:
        return None


def _fetched_from(file: ModelFile) -> Address | None:
    """Where a worker has fetched it from, if its note of that is an address for others, too.

    One with a query, or in a bucket, is not: the note has a fingerprint of it, or the bucket's
    own name.
    """
    noted = file.fetched_from or ""
    if match := re.fullmatch(r"civitai:([0-9]+)", noted):
        return _address("target", f"https://civitai.com/api/download/models/{match[1]}")
    return None if "?" in noted or noted.startswith("r2:") else _address("target", noted)


def _each(*addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Each address once, in their order; no more than a lock has."""
    found = {one.url: one for some in reversed(addresses) for one in reversed(some)}
    order = [one.url for some in addresses for one in some]
    return tuple(found[url] for url in dict.fromkeys(order))[:MOST_ADDRESSES]


def _valid(model: type[_Entry], **fields: str | list[str] | None) -> _Entry:
    """An entry without those fields that are not what they should be."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
        return model.model_validate({k: v for k, v in fields.items() if k not in wrong})
