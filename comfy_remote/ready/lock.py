"""``comfy-remote.lock``: what it takes to run some workflows, exactly.

The file is TOML, like ``comfy-remote.toml``: an entry is a block of lines, so a diff shows which
model or pack has changed, and people can read it and write in it. Entries are in a stable order,
and nothing in the file is a time or a path of this machine. Locked again, nothing changes unless
what is needed has.

A lock may be somebody else's. Its names stay below a folder, its addresses are of kinds that run
nothing here, and its size is bounded; whoever fetches from an address asks its owner first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from ..errors import ConfigurationError
from ..json_text import problems_in
from ..media.files import storage_errors, write_whole
from ..types import JsonValue, as_list, mappings
from ..wire.installed import LARGEST_SIZE
from ..worker.models.folders import is_model_folder
from ..workflow.load import is_packed
from ..workflow.packed import packed_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from tomlkit.items import Array, Table
    from typing_extensions import Self

__all__ = [
    "LOCK_NAME",
    "MOST_ADDRESSES",
    "MOST_ENTRIES",
    "Address",
    "Lock",
    "LockedComfyUI",
    "LockedModel",
    "LockedPack",
    "read_lock",
    "safe_name",
]

LOCK_NAME = "comfy-remote.lock"

_FOUND = frozenset({"workflow", "civitai", "bucket", "target"})
_LARGEST = 4 * 1024 * 1024  # bytes of a lock
MOST_ENTRIES = 5000
"""Of each kind."""
MOST_ADDRESSES = 50
"""Of a model."""
_HEAD = (
    "# What it takes to run these workflows, exactly. Made by Comfy Remote; it can be edited.\n\n"
)

# No transport of git's that runs a command (`ext::`), no folder of this machine, no option.
_REPOSITORY = re.compile(
    r"https?://[^\s/?#@\\]+(/\S*)?|(ssh|git)://([A-Za-z0-9._-]+@)?[^\s/?#@\\]+(/\S*)?|git@[A-Za-z0-9.-]+:[A-Za-z0-9][A-Za-z0-9._/-]*"
)
# No login in front of the host.
_MODEL_LINK = re.compile(r"https?://[^\s/?#@\\]+([/?#]\S*)?|(hf|r2):\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_RELEASE = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+)")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Said = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


def safe_name(name: str) -> str:
    """A relative name, ``/`` between its parts, that stays below the folder it is in.

    Raises:
        ValueError: It is absolute, leads out, or has characters that no file's name has.
    """
    parts = name.split("/")
    if "\\" in name or _CONTROL.search(name) or _DRIVE.match(name):
        raise ValueError("it is not a name with / between its parts")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("it leads out of its folder")
    return name


class _Entry(BaseModel):
    """Keys that a later version adds are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Address(_Entry):
    """Where a model can be had.

    Attributes:
        by: Who says so: the ``workflow`` itself, ``civitai`` by its hash, the user's ``bucket``, or
            the ``target`` that fetched it. Any other word was written by hand.
        url: ``https://…``, ``hf:ORG/REPO/PATH@REVISION``, or ``r2:FOLDER/NAME`` in the bucket of
            whoever fetches it. No login, no token.
    """

    by: Text
    url: Said

    @field_validator("url")
    @classmethod
    def _is_a_link(cls, url: str) -> str:
        if _MODEL_LINK.fullmatch(url) is None:
            raise ValueError("it is not the address of a model")
        return url

    @property
    def shown(self) -> str:
        """For people: without its query, which may have a token in it."""
        return self.url.partition("?")[0].partition("#")[0]


class LockedComfyUI(_Entry):
    """The ComfyUI.

    Attributes:
        version: ``0.33.0``; ``None`` if it is not known.
        commit: That is checked out, as far as it is known.
        unknown: Why something of it is not known, for people.
    """

    version: Text | None = None
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$")] | None = None
    unknown: Said | None = None

    @property
    def release(self) -> str | None:
        """``0.33.0``, if the version is a release's."""
        found = _RELEASE.fullmatch(self.version or "")
        return found[1] if found is not None else None


class LockedPack(_Entry):
    """One node pack that the workflows use.

    Attributes:
        id: In the Comfy Registry.
        version: In the registry, or as the pack says itself.
        url: Of its git repository, without a login.
        commit: That is checked out: 7 to 64 hex digits.
        folder: In ``custom_nodes``.
        content: SHA-256 of its Python files (`wire.installed.InstalledPack.content`), where neither
            version nor commit says which one it is.
        classes: Those of its node classes that the workflows use.
        unknown: Why something of it is not known, for people; with none of ``id``, ``url`` and
            ``folder``, it is not known which pack has the classes.
    """

    id: Text | None = None
    version: Text | None = None
    url: Said | None = None
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$")] | None = None
    folder: Text | None = None
    content: Sha256 | None = None
    classes: tuple[Text, ...] = Field(default=(), max_length=MOST_ENTRIES)
    unknown: Said | None = None

    @field_validator("url")
    @classmethod
    def _is_a_repository(cls, url: str | None) -> str | None:
        if url is not None and _REPOSITORY.fullmatch(url) is None:
            raise ValueError("it is not the address of a git repository")
        return url

    @field_validator("id", "folder")
    @classmethod
    def _is_one_name(cls, name: str | None) -> str | None:
        if name is not None and "/" in safe_name(name):
            raise ValueError("it has more than one part")
        return name

    @property
    def is_known(self) -> bool:
        """Whether it is known which pack it is."""
        return any((self.id, self.url, self.folder))

    @property
    def name(self) -> str:
        """For people: its id, else its repository, else its folder, else its first class."""
        repository = self.url and re.sub(r"^(\w+://|git@)|(\.git)?/?$", "", self.url)
        known = self.id or repository or self.folder
        return known or f"the pack of {', '.join(self.classes[:3]) or 'unknown nodes'}"


class LockedModel(_Entry):
    """One model that the workflows name.

    Attributes:
        folder: Of ComfyUI's ``models``; ``None`` if only the node's pack knows it.
        name: Below that folder, ``/`` between its parts: what the workflow calls it.
        size: Bytes.
        addresses: Where it can be had, what is surest first. None: only where the lock was made.
        unknown: Why something of it is not known, for people.
    """

    folder: Text | None = None
    name: Text
    size: int | None = Field(default=None, ge=0, le=LARGEST_SIZE)
    sha256: Sha256 | None = None
    addresses: tuple[Address, ...] = Field(default=(), max_length=MOST_ADDRESSES)
    unknown: Said | None = None

    @field_validator("folder", "name")
    @classmethod
    def _stays_below(cls, name: str | None) -> str | None:
        return None if name is None else safe_name(name)

    @field_validator("folder")
    @classmethod
    def _is_of_models(cls, folder: str | None) -> str | None:
        if folder is not None and not is_model_folder(folder):
            raise ValueError("it is not a folder for models")
        return folder

    @property
    def path(self) -> str:
        """For people: ``loras/style.safetensors``; the name alone where the folder is unknown."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    def named(self, address: Address) -> str:
        """One of its addresses, as an owner is asked to trust it."""
        return f"model {self.path}: {address.url}"


class Lock(_Entry):
    """What it takes to run some workflows.

    Attributes:
        version: Of the file's format.
        workflows: The names of their files.
    """

    version: Literal[1] = 1
    workflows: tuple[Text, ...] = Field(default=(), max_length=MOST_ENTRIES)
    comfyui: LockedComfyUI = LockedComfyUI()
    packs: tuple[LockedPack, ...] = Field(default=(), max_length=MOST_ENTRIES)
    models: tuple[LockedModel, ...] = Field(default=(), max_length=MOST_ENTRIES)

    @classmethod
    def of_all(cls, locks: Sequence[Lock]) -> Self:
        """What all of some locks need together; of ComfyUI, what the first that knows it says."""
        comfyuis = [one.comfyui for one in locks if one.comfyui.version is not None]
        models: dict[tuple[str, str | None], LockedModel] = {}
        for model in (each for one in locks for each in one.models):
            # Two of one name with other contents are both needed, and cannot both be there.
            known = models.get((model.path, model.sha256))
            models[model.path, model.sha256] = model if known is None else _with(known, model)
        return cls(
            workflows=tuple(name for one in locks for name in one.workflows),
            comfyui=next(iter(comfyuis), LockedComfyUI()),
            packs=tuple(dict.fromkeys(each for one in locks for each in one.packs)),
            models=tuple(models.values()),
        ).sorted()

    def sorted(self) -> Self:
        """The same in the file's order: by name, whatever the case."""
        packs = [one.model_copy(update={"classes": _in_order(one.classes)}) for one in self.packs]
        return self.model_copy(
            update={
                "workflows": _in_order(self.workflows),
                "packs": tuple(sorted(packs, key=lambda one: (one.name.casefold(), one.name))),
                "models": tuple(
                    sorted(
                        self.models,
                        key=lambda one: (one.folder or "", one.name.casefold(), one.name),
                    )
                ),
            }
        )

    @property
    def named(self) -> list[str]:
        """The addresses and the code in it, a line each, as an owner is asked to trust them."""
        from .pins import Unpinned, named_pin, pin_of  # above: it reads what is defined here

        names = [one.named(each) for one in self.models for each in one.addresses]
        for pack in self.packs:
            try:
                names.append(named_pin(pin_of(pack)))
            except Unpinned:
                names += [f"pack {pack.url}"] if pack.url else []
        return names

    @property
    def unknown(self) -> list[str]:
        """What is not known, a sentence each, in the file's order."""
        named = [
            ("ComfyUI", self.comfyui.unknown),
            *((one.name, one.unknown) for one in self.packs),
            *((one.path, one.unknown) for one in self.models),
        ]
        return [f"{name}: {why}" for name, why in named if why]

    def keeping_from(self, older: Lock) -> Self:
        """With what somebody has written into an older lock by hand: addresses of models, and whose
        the nodes are of which no pack is known.

        A model keeps them as long as it is not known to be another file.
        """
        by_path = {one.path: one for one in older.models}
        models = tuple(_keeping(one, by_path.get(one.path)) for one in self.models)
        packs = tuple(_with_written(self.packs, older.packs))
        return self.model_copy(update={"models": models, "packs": packs}).sorted()

    def to_json(self) -> dict[str, JsonValue]:
        """The same keys and values as in the file."""
        document: dict[str, JsonValue] = self.model_dump(mode="json", exclude_none=True)
        return document

    def to_toml(self) -> str:
        """The file's text, in its order."""
        import tomlkit

        whole = self.sorted().to_json()
        document = tomlkit.document()
        for key, value in whole.items():
            if key == "workflows":
                document.add(key, _array(as_list(value)))
            elif isinstance(value, list):
                tables = tomlkit.aot()
                for entry in mappings(value):
                    tables.append(_table(entry))
                if value:
                    document.append(key, tables)
            elif isinstance(value, dict):
                document.append(key, _table(value))
            else:
                document.add(key, value)
        return _HEAD + tomlkit.dumps(document)

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """The lock in a file's text; ``name`` begins messages.

        Raises:
            ConfigurationError: It is not a lock, or of a later version.
        """
        if len(text) > _LARGEST:
            raise _unusable(name, "it is larger than any lock")
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _unusable(name, f"it is not TOML: {error}") from None
        version = document.get("version")
        if isinstance(version, int) and version > 1:
            raise ConfigurationError(
                f"{name} is a lock of version {version}, and this Comfy Remote reads version 1.",
                advice="Update Comfy Remote.",
            )
        try:
            return cls.model_validate(document).sorted()
        except ValidationError as error:
            raise _unusable(name, problems_in(error, "the file")) from None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            LocalStorageError: It cannot be written.
        """
        with storage_errors(path):
            write_whole(path, self.to_toml().encode())


def read_lock(path: Path) -> Lock:
    """The lock in a file, also in a packed workflow. Blocking.

    Raises:
        ConfigurationError: There is no such file, or it is not a lock.
        WorkflowInvalid: It is a packed workflow that is not to be believed.
    """
    if path.is_file() and is_packed(path):
        with path.open("rb") as packed:
            inside = packed_files(packed, str(path)).lock
        if inside is None:
            raise _unusable(str(path), "it is a packed workflow without one")
        return Lock.parse(inside, str(path))
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no lock {path}.",
            advice="Check the path, or make one of the workflow.",
        ) from None
    except UnicodeDecodeError:
        raise _unusable(str(path), "it is not UTF-8 text") from None
    except OSError as error:
        raise _unusable(str(path), error.strerror or str(error)) from error
    return Lock.parse(text, str(path))


def _with(model: LockedModel, other: LockedModel) -> LockedModel:
    """A model with the addresses of another entry for it."""
    known = {one.url for one in model.addresses}
    more = [one for one in other.addresses if one.url not in known]
    addresses = (*model.addresses, *more)[:MOST_ADDRESSES]
    return model.model_copy(update={"addresses": addresses})


def _with_written(packs: Sequence[LockedPack], older: Sequence[LockedPack]) -> list[LockedPack]:
    """The packs, where the unknown ones are those that an older lock names for their nodes."""
    known = [one for one in packs if one.is_known]
    taken = {name for one in known for name in (one.id, one.url, one.folder) if name}
    usable = [
        one for one in older if one.is_known and taken.isdisjoint((one.id, one.url, one.folder))
    ]
    found: dict[int, list[str]] = {}
    for pack in packs:
        if not pack.is_known:
            fits = (n for n, one in enumerate(usable) if {*pack.classes} <= {*one.classes})
            if (number := next(fits, None)) is None:
                known.append(pack)
            else:
                found.setdefault(number, []).extend(pack.classes)
    kept = [usable[n].model_copy(update={"classes": tuple(names)}) for n, names in found.items()]
    return [*known, *kept]


def _keeping(model: LockedModel, older: LockedModel | None) -> LockedModel:
    if older is None or (older.sha256 and model.sha256 and older.sha256 != model.sha256):
        return model
    known = {one.url for one in model.addresses}
    by_hand = [one for one in older.addresses if one.by not in _FOUND and one.url not in known]
    addresses = (*model.addresses[: MOST_ADDRESSES - len(by_hand)], *by_hand)
    return model.model_copy(update={"addresses": addresses}) if by_hand else model


def _unusable(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} cannot be used as a lock: {why}.",
        advice="Correct it, or remove it and make it again.",
    )


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(names), key=lambda name: (name.casefold(), name)))


def _table(entry: Mapping[str, JsonValue]) -> Table:
    import tomlkit

    table = tomlkit.table()
    for key, value in entry.items():
        if value != []:
            table.add(key, _array(value) if isinstance(value, list) else value)
    return table


def _array(values: Sequence[JsonValue]) -> Array:
    import tomlkit

    array = tomlkit.array()
    for one in values:
        if isinstance(one, dict):
            inline = tomlkit.inline_table()
            inline.update(one)
            array.append(inline)
        else:
            array.append(one)
    return array.multiline(len(values) > 1 or any(isinstance(one, dict) for one in values))
