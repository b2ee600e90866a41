"""A ComfyUI on this machine, read from its folders: it need not run.

Found are: a checkout; ComfyUI's portable release for Windows, whose ``ComfyUI`` folder is one;
Comfy Desktop's installations, whose ``ComfyUI`` folder is one; and the base folder of the earlier
Desktop, which has all but ComfyUI's source.

Source of facts: ``folder_paths.py`` and ``utils/extra_config.py`` of ComfyUI 0.33.0;
``desktopDetect.ts`` and ``installations.ts`` of Comfy Desktop, ``comfyServerConfig.ts`` of the
earlier one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigurationError
from ..targets.launch import PACKAGE_PARENT
from ..types import JsonValue, mapping, mappings
from ..wire.installed import InstalledPack
from ..worker.models.folders import folder_of
from ..worker.packs import classes_in, commit_of, installed_packs, packs_in
from .lock import LockedComfyUI

__all__ = ["LocalComfyUI", "find_local", "local_at"]

_LARGEST_NOTE = 1024 * 1024  # bytes of a configuration
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"'\s]{1,100})["']""", re.MULTILINE)
_EXTRA = "extra_model_paths.yaml"
_DESKTOP, _OLD_DESKTOP = "comfyui-desktop-2", "ComfyUI"  # their names for folders of settings


@dataclass(frozen=True, slots=True)
class LocalComfyUI:
    """A ComfyUI on this machine.

    Attributes:
        base: The folder with ``custom_nodes``, ``models`` and ``user``.
        source: The folder with ``main.py``; ``None`` where it is inside Desktop's program.
        found_by: For people: "COMFYUI_DIR", "Comfy Desktop", …; empty if the user named it.
        settings: Files in the form of ``extra_model_paths.yaml`` that name further folders.
        more_models: Further folders that are laid out like ``models``.
        folders: Its folders by ComfyUI's names for them, where a ComfyUI that runs has said them;
            then no other is looked for.
        problems: What could not be read of it, a sentence each.
    """

    base: Path
    source: Path | None
    found_by: str
    settings: tuple[Path, ...] = ()
    more_models: tuple[Path, ...] = ()
    folders: Mapping[str, tuple[Path, ...]] = field(default_factory=dict, compare=False)
    problems: list[str] = field(default_factory=list, compare=False)

    def comfyui(self) -> LockedComfyUI:
        """Its version, and the commit that is checked out."""
        if self.source is None:
            return LockedComfyUI(unknown="Desktop keeps ComfyUI's source inside its program")
        found = _VERSION.search(_text(self.source / "comfyui_version.py"))
        version = found[1] if found else None
        unknown = None if version else f"{self.source} does not say its version"
        return LockedComfyUI(version=version, commit=commit_of(self.source), unknown=unknown)

    def custom_nodes(self) -> list[Path]:
        """The folders that it imports packs from."""
        folders = [*self.folders.get("custom_nodes", ())]
        if not self.folders:
            folders = [self.base / "custom_nodes", *self._extra().get("custom_nodes", ())]
        return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]

    def packs(self) -> list[InstalledPack]:
        """The packs that it imports, in the order of their names. Blocking."""
        folders = self.custom_nodes()
        return installed_packs(packs_in(folders), folders)

    def classes(self, wanted: Collection[str]) -> dict[str, str]:
        """Which of its packs has each of these node classes, by its folder. Blocking.

        Its packs are read, not run: the one is taken whose Python files have the class as a key
        or as a node's id. A class that several have, or none, is left out.
        """
        found: dict[str, set[str]] = {}
        for folder in self.custom_nodes() if wanted else ():
            for name in packs_in([folder]):
                for one in classes_in(folder / name, wanted):
                    found.setdefault(one, set()).add(name)
        return {one: min(names) for one, names in found.items() if len(names) == 1}

    def models(self) -> dict[str, list[Path]]:
        """The folders of its models, by ComfyUI's names for them, in the order of its search."""
        found: dict[str, list[Path]] = {}
        for root in (*(() if self.folders else (self.base / "models",)), *self.more_models):
            for folder in _folders_in(root):
                found.setdefault(folder_of(folder.name), []).append(folder)
        for name, folders in (self.folders or self._extra()).items():
            if name != "custom_nodes":
                found.setdefault(folder_of(name), []).extend(one for one in folders if one.is_dir())
        return {name: list(dict.fromkeys(folders)) for name, folders in found.items()}

    def _extra(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        beside = [] if self.source is None else [self.source / _EXTRA]
        for path in dict.fromkeys([*beside, *self.settings]):
            for name, folders in self._extra_paths(path).items():
                found.setdefault(name, []).extend(folders)
        return found

    def _extra_paths(self, path: Path) -> dict[str, list[Path]]:
        """The folders that an ``extra_model_paths.yaml`` names, read as ComfyUI reads it."""
        text = _text(path)
        if not text:
            return {}
        import yaml

        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            problem = f"{path} is no YAML, so the folders that it names are not looked through."
            if problem not in self.problems:
                self.problems.append(problem)
            return {}
        found: dict[str, list[Path]] = {}
        for section in mapping(document).values():
            named = mapping(section)
            base = named.get("base_path")
            root = path.parent.absolute()
            if isinstance(base, str):
                root = root / Path(os.path.expandvars(base)).expanduser()
            for name, folders in named.items():
                if name not in ("base_path", "is_default") and isinstance(folders, str):
                    lines = [line for line in folders.split("\n") if line]
                    found.setdefault(name, []).extend(
                        Path(os.path.normpath(root / line)) for line in lines
                    )
        return found


def local_at(folder: Path, found_by: str, *, base: bool = True) -> LocalComfyUI | None:
    """The ComfyUI in a folder; ``None`` if there is none.

    Args:
        base: Whether it may be Desktop's folder, which has no source.
    """
    for source in (folder, folder / "ComfyUI"):
        if (source / "main.py").is_file() and (source / "comfy").is_dir():
            return LocalComfyUI(source, source, found_by)
    if base and (folder / "models").is_dir() and (folder / "user").is_dir():
        return LocalComfyUI(folder, None, found_by)
    return None


def find_local(
    named: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    current: Path | None = None,
    package: Path = PACKAGE_PARENT,
    platform: str = sys.platform,
) -> LocalComfyUI | None:
    """The ComfyUI that the user means; ``None`` if none is found. Blocking.

    Args:
        named: The folder that the user named; then no other is looked at.
        environ: ``COMFYUI_DIR``; then no other is looked at, either. And where homes and settings
            of programs are.
        current: The current folder: it or one above it may be a ComfyUI.
        package: The folder with this package, which may be in ``custom_nodes``.

    Raises:
        ConfigurationError: The folder that is named is not a ComfyUI.
    """
    if folder := named or environ.get("COMFYUI_DIR"):
        by = "" if named else "COMFYUI_DIR"
        path = Path(os.path.normpath(Path(folder).expanduser().absolute()))
        found = local_at(path, by)
        if found is None:
            raise ConfigurationError(
                f"{path} is not a ComfyUI: it has no main.py beside a folder comfy, and is not "
                "Desktop's folder of models and user files.",
                advice="Name the folder that holds ComfyUI's main.py.",
            )
        return _with_settings(found, environ, platform)
    for path, by in _candidates(environ, current or Path.cwd(), package, platform):
        if (found := local_at(path, by, base="Desktop" in by)) is not None:
            return _with_settings(found, environ, platform)
    return None


def _candidates(
    environ: Mapping[str, str], current: Path, package: Path, platform: str
) -> Iterator[tuple[Path, str]]:
    if package.parent.name == "custom_nodes":
        yield package.parent.parent, "the one that this pack is installed in"
    for folder in (current, *list(current.parents)[:3]):
        yield folder, "the current folder"
    home = _home(environ, platform)
    yield home / "comfy" / "ComfyUI", "comfy-cli's folder"
    yield home / "ComfyUI", "the home folder"
    for folder in _desktops(environ, platform):
        yield folder, "Comfy Desktop"
    old = _app_data(environ, platform) / _OLD_DESKTOP
    base = mapping(_json(old / "config.json")).get("basePath")
    if isinstance(base, str) and base:
        yield old / base, "ComfyUI Desktop"


def _desktops(environ: Mapping[str, str], platform: str) -> list[Path]:
    """Comfy Desktop's installations, the one that was started last first."""
    folder = _app_data(environ, platform) / _DESKTOP
    if platform.startswith("linux"):
        shared = environ.get("XDG_DATA_HOME")
        home = Path(shared) if shared else _home(environ, platform) / ".local" / "share"
        folder = home / _DESKTOP
    known = mappings(_json(folder / "installations.json"))
    ours = [one for one in known if isinstance(one.get("installPath"), str)]
    ours.sort(key=_launched, reverse=True)
    return [Path(path) for one in ours if (path := str(one["installPath"]))]


def _launched(installation: Mapping[str, JsonValue]) -> float:
    at = installation.get("lastLaunchedAt")
    return float(at) if isinstance(at, int | float) else 0.0


def _with_settings(found: LocalComfyUI, environ: Mapping[str, str], platform: str) -> LocalComfyUI:
    """With the files that Desktop gives its ComfyUI as ``--extra-model-paths-config``."""
    app_data = _app_data(environ, platform)
    if found.source is None:
        settings = [app_data / _OLD_DESKTOP / "extra_models_config.yaml"]
    elif (found.source.parent / ".launcher").is_dir():
        settings = [app_data / _DESKTOP / "shared_model_paths.yaml"]
        if platform.startswith("linux"):
            home = Path(environ.get("XDG_DATA_HOME") or _home(environ, platform) / ".local/share")
            settings = [home / _DESKTOP / "shared_model_paths.yaml"]
    else:
        settings = []
    there = tuple(path for path in settings if path.is_file())
    return LocalComfyUI(found.base, found.source, found.found_by, there)


def _home(environ: Mapping[str, str], platform: str) -> Path:
    named = environ.get("USERPROFILE" if platform == "win32" else "HOME")
    return Path(named) if named else Path.home()


def _app_data(environ: Mapping[str, str], platform: str) -> Path:
    """Where Electron's programs have their settings."""
    home = _home(environ, platform)
    if platform == "win32":
        return Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    if platform == "darwin":
        return home / "Library" / "Application Support"
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config")


def _folders_in(root: Path) -> list[Path]:
    try:
        return sorted(one for one in root.iterdir() if one.is_dir() and one.name[0] != ".")
    except OSError:
        return []


def _json(path: Path) -> JsonValue:
    try:
        document: JsonValue = json.loads(_text(path))
    except (ValueError, RecursionError):
        return None
    return document


def _text(path: Path) -> str:
    """A small text; empty if it is not there or cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_LARGEST_NOTE).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return ""
