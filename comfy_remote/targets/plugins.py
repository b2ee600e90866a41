"""The kinds of target that installed packages add: see ``docs/targets-plugin.md``.

A package names a `Kind` by an entry point in the group ``comfy_remote.targets``. Its code runs in
this process, as all code that the owner of this machine has installed does. No file of a folder,
no workflow and no page can name one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TypeVar

__all__ = ["GROUP", "loaded_plugins"]

GROUP = "comfy_remote.targets"

_PUBLIC = "comfy_remote"
_OURS = (__package__ or _PUBLIC).rpartition(".")[0]
_log = logging.getLogger(__name__)
_Plugin = TypeVar("_Plugin")


def loaded_plugins(checked: Callable[[object, Sequence[_Plugin]], _Plugin]) -> list[_Plugin]:
    """What the entry points name. One that cannot be used is left out, with a warning.

    Args:
        checked: Gives the plug-in that a loaded object is, or raises. Called with those before it.
    """
    entries = metadata.entry_points(group=GROUP)
    if entries and _OURS != _PUBLIC and not any(isinstance(one, _Alias) for one in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
    found: list[_Plugin] = []
    for entry in entries:
        try:
            found.append(checked(_loaded(entry), found))
        # Whatever is wrong there, also that it exits, the others work.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            _log.warning(
                "The kind of target %r of the package %s is not used: %s: %s.",
                entry.name,
                entry.dist.name if entry.dist is not None else entry.value,
                type(error).__name__,
                error,
            )
    return found


def _loaded(entry: metadata.EntryPoint) -> object:
    """What an entry point names.

    Raises:
        ImportError: It is in the current folder, which may have come from somebody: Python looks
            there for packages with ``python -m``, and in a notebook.
    """
    here = False
    if entry.dist is not None:
        with suppress(OSError):  # the folder was deleted: nothing is loaded from it
            here = Path(str(entry.dist.locate_file(""))).samefile(Path.cwd())
    if here:
        raise ImportError("it is in the current folder, and not installed")
    return entry.load()


class _Alias(MetaPathFinder, Loader):
    """Gives ``comfy_remote`` as this copy of the package: inside ComfyUI it has another name."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _PUBLIC:
            return None
        return spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_OURS + spec.name.removeprefix(_PUBLIC))
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run before, under its own name; the import system has replaced its spec.
        assert module.__spec__ is not None  # noqa: S101  # it was just set
        module.__spec__ = self._specs.pop(module.__spec__.name)
