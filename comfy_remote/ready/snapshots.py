"""What ComfyUI-Manager and Comfy Desktop have written down of an installation.

Source of facts: ``get_current_snapshot`` in ``glob/manager_core.py`` of ComfyUI-Manager 3;
``snapshots/types.ts``, ``store.ts`` and ``exportImport.ts`` of Comfy Desktop. Manager keeps its
snapshots in ``user/__manager/snapshots``, earlier in ``user/default/ComfyUI-Manager/snapshots``,
and still earlier in its own folder; Desktop in ``.launcher/snapshots`` beside ``ComfyUI``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import ConfigurationError
from ..types import JsonValue, mapping, mappings
from ..wire.installed import InstalledPack
from ..worker.packs import public_repository
from .local import LocalComfyUI
from .lock import LockedComfyUI

__all__ = ["Snapshot", "newest_snapshot", "read_snapshot"]

_LARGEST = 8 * 1024 * 1024  # bytes
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_RELEASE = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+)")
_DESKTOPS = ".launcher/snapshots"
_MANAGERS = (
    "user/__manager/snapshots",
    "user/default/ComfyUI-Manager/snapshots",
    "custom_nodes/ComfyUI-Manager/snapshots",
    "custom_nodes/comfyui-manager/snapshots",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An installation as it was.

    Attributes:
        packs: Those that were switched on, in the order of their names.
        source: Its file, for people.
    """

    comfyui: LockedComfyUI
    packs: tuple[InstalledPack, ...]
    source: str


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file: Manager's, Desktop's, or one that Desktop has exported. Blocking.

    Of an export with several, the newest counts.

    Raises:
        ConfigurationError: It is not one of them.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        document: JsonValue = json.loads(data.decode("utf-8-sig")) if len(data) <= _LARGEST else 0
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError):
        advice = "Of ComfyUI-Manager's snapshots, give the .json."
        raise _unusable(path, "it is not JSON", advice) from None
    whole = mapping(document)
    if whole.get("type") == "comfyui-desktop-2-snapshot":
        all_of_them = mappings(whole.get("snapshots"))
        whole = max(all_of_them, key=lambda one: str(one.get("createdAt")), default={})
    if isinstance(whole.get("customNodes"), list):
        return _of_desktop(whole, str(path))
    if isinstance(whole.get("git_custom_nodes"), dict):
        return _of_manager(whole, str(path))
    raise _unusable(path, "it has no list of node packs")


def newest_snapshot(comfyui: LocalComfyUI) -> Snapshot | None:
    """The newest one of a ComfyUI; ``None`` if there is none that can be read. Blocking."""
    folders = [comfyui.base / name for name in _MANAGERS]
    if comfyui.source is not None:
        folders.append(comfyui.source.parent / _DESKTOPS)
    files = [path for folder in folders for path in folder.glob("*.json")]
    for path in sorted(files, key=_changed, reverse=True)[:5]:
        try:
            return read_snapshot(path)
        except ConfigurationError:  # Desktop's manifest.json, or one that was cut off
            continue
    return None


def _of_manager(document: Mapping[str, JsonValue], source: str) -> Snapshot:
    packs = [
        InstalledPack(name=pack_id, registry_id=pack_id, version=version)
        for pack_id, version in mapping(document.get("cnr_custom_nodes")).items()
        if isinstance(version, str)
    ]
    for url, said in mapping(document.get("git_custom_nodes")).items():
        about = mapping(said)
        if about.get("disabled") is not True:
            packs.append(
                InstalledPack(
                    name=_last_part(url),
                    url=public_repository(url),
                    commit=_commit(about.get("hash")),
                )
            )
    for one in mappings(document.get("file_custom_nodes")):
        name = one.get("filename")
        if isinstance(name, str) and one.get("disabled") is not True:
            packs.append(InstalledPack(name=name.removesuffix(".py")))
    commit = _commit(document.get("comfyui"))
    unknown = "Manager's snapshot has ComfyUI's commit, and not its version" if commit else None
    return _snapshot(
        LockedComfyUI(commit=commit, unknown=unknown or "the snapshot does not say it"),
        packs,
        source,
    )


def _of_desktop(document: Mapping[str, JsonValue], source: str) -> Snapshot:
    about = mapping(document.get("comfyui"))
    names = [about.get("baseTag"), about.get("ref")]
    releases = [_RELEASE.fullmatch(name) for name in names if isinstance(name, str)]
    version = next((found[1] for found in releases if found), None)
    if about.get("commitsAhead"):
        version = None  # the tag is not what is checked out
    unknown = None if version else "Desktop's snapshot has ComfyUI's commit, and not its version"
    comfyui = LockedComfyUI(version=version, commit=_commit(about.get("commit")), unknown=unknown)
    return _snapshot(comfyui, list(_packs_of_desktop(document)), source)


def _packs_of_desktop(document: Mapping[str, JsonValue]) -> Iterator[InstalledPack]:
    for one in mappings(document.get("customNodes")):
        pack_id, kind = one.get("id"), one.get("type")
        name = one.get("dirName") or pack_id
        if not isinstance(name, str) or one.get("enabled") is False:
            continue
        version, url = one.get("version"), one.get("url")
        yield InstalledPack(
            name=name.removesuffix(".py"),
            registry_id=pack_id if kind == "cnr" and isinstance(pack_id, str) else None,
            version=version if isinstance(version, str) else None,
            url=public_repository(url) if isinstance(url, str) else None,
            commit=_commit(one.get("commit")),
        )


def _snapshot(comfyui: LockedComfyUI, packs: list[InstalledPack], source: str) -> Snapshot:
    return Snapshot(comfyui, tuple(sorted(packs, key=lambda one: one.name.casefold())), source)


def _commit(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and _COMMIT.fullmatch(value) else None


def _last_part(url: str) -> str:
    return PurePosixPath(re.sub(r"(\.git)?/*$", "", url.replace("\\", "/"))).name or url


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _unusable(path: Path, why: str, advice: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be read as a snapshot of ComfyUI-Manager or Comfy Desktop: {why}.",
        advice=advice or "Check the path.",
    )
