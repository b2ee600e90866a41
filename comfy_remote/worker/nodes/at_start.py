"""Adds the node packs that were brought here to a ComfyUI that starts, before it imports any.

ComfyUI runs `prestartup_script.py` of this repository, which runs this file by itself: so it uses
the standard library only, and reads what `folder` has written.

ComfyUI was tried with each set of packs before that became current. Should it not start with one
nevertheless (a GPU's driver, say), it does so without that set after three tries.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

__all__ = [
    "NODES_FOLDER",
    "NODE_SITE",
    "RUNNING_SET",
    "add_packs",
    "nodes_folder",
    "sites",
    "started",
]

NODES_FOLDER = "COMFY_REMOTE_NODES_DIR"
RUNNING_SET = "COMFY_REMOTE_NODE_SET"
"""In the environment of this process: the set that it has started with."""
NODE_SITE = "COMFY_REMOTE_NODE_SITE"
"""Names, in an engine's environment, the folders that `guard` adds to Python's path. Where it is
set, a worker or a trial has given this ComfyUI a set of its own."""
_NO_START = "--quick-test-for-ci"
_TRIES = 3
_ID = re.compile(r"[0-9a-f-]+")
_LARGEST = 64 * 1024 * 1024  # bytes of a note: a set's names all classes that were asked for
_log = logging.getLogger("comfy_remote")


def nodes_folder(base: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the sets are: the folder that the owner names, else one below ComfyUI's own."""
    named = environ.get(NODES_FOLDER, "").strip()
    return Path(named).expanduser().absolute() if named else base / ".comfy-remote" / "nodes"


def add_packs(
    base: Path, add_folder: Callable[[str], object], environ: MutableMapping[str, str] = os.environ
) -> str | None:
    """Have ComfyUI import the packs of the current set; the id of the set, if there is one.

    Args:
        base: ComfyUI's folder.
        add_folder: Adds a folder to those that it imports packs from.
    """
    environ.pop(RUNNING_SET, None)  # a ComfyUI that starts itself again has left it
    if NODE_SITE in environ:
        return None
    folder = nodes_folder(base, environ)
    environ[NODES_FOLDER] = str(folder)  # what a .env says later would be another one
    set_id = _to_use(folder)
    if set_id is None:
        return None
    packs = folder / "sets" / set_id / "custom_nodes"
    for one in sites(folder / "sets" / set_id):
        # Behind ComfyUI's own packages, which stay those that are used.
        site.addsitedir(str(one))  # type: ignore[attr-defined]  # mypy finds tools/site.py
    add_folder(str(packs))
    environ[RUNNING_SET] = set_id
    for pack in sorted(packs.iterdir()):
        _run(pack / "prestartup_script.py")
    return set_id


def started(environ: MutableMapping[str, str] = os.environ) -> None:
    """Note that ComfyUI has started with the set that it was given."""
    named, set_id = environ.get(NODES_FOLDER), environ.get(RUNNING_SET)
    if named and set_id:
        path = Path(named) / "starting.json"
        if _read(path).get("set") == set_id:
            _write(path, {})


def sites(a_set: Path) -> list[Path]:
    """The folders that a Python needs on its path for a set, which is in the folder ``a_set``."""
    patterns = ("lib*/python*/*-packages", "local/lib/python*/*-packages", "Lib/site-packages")
    by_scripts = [found for each in patterns for found in (a_set / "scripts").glob(each)]
    return [a_set / "site", *dict.fromkeys(by_scripts)]


def _to_use(folder: Path) -> str | None:
    """The current set; the one before, or none, where ComfyUI has not started with it."""
    there = [one for named in _named(folder) if (one := _whole(folder, named))]
    if not there:
        return None
    set_id, note = there[0], folder / "starting.json"
    before = _read(note)
    said = before.get("tries") if before.get("set") == set_id else 0
    tries = said if isinstance(said, int) else 0
    if tries >= _TRIES:
        instead = there[1] if len(there) > 1 else None
        _log.error(
            "Comfy Remote: ComfyUI did not start with the node packs that were brought here (%s). "
            "It starts %s. To try again: remove %s",
            *(set_id, "with those before" if instead else "without them", note),
        )
        return instead
    if _NO_START not in sys.argv:
        _write(note, {"set": set_id, "tries": tries + 1, "at": time.time()})
    return set_id


def _named(folder: Path) -> list[object]:
    """The current set and the one before. Where the file that says it is damaged, the newest ones
    count."""
    path = folder / "current.json"
    pointer = _read(path)
    named = [pointer.get("set"), pointer.get("before", "")]
    if all(isinstance(one, str) and (not one or _ID.fullmatch(one)) for one in named):
        return named
    if not path.is_file():
        return []
    _log.error("Comfy Remote: %s is damaged: the newest node packs count", path)
    try:
        made = {
            one.name: _read(one / "set.json").get("made") for one in (folder / "sets").iterdir()
        }
    except OSError:
        return []
    times = {name: at for name, at in made.items() if isinstance(at, float)}
    return [*sorted(times, key=lambda name: -times[name])]


def _whole(folder: Path, set_id: object) -> str | None:
    """An id, if that set is whole and made for this Python."""
    if not isinstance(set_id, str) or not _ID.fullmatch(set_id):
        return None
    said = _read(folder / "sets" / set_id / "set.json")
    needed = ["custom_nodes", *(["site"] if said.get("requirements") else [])]
    if not said or not all((folder / "sets" / set_id / one).is_dir() for one in needed):
        return None
    made_for = said.get("python")
    own = sysconfig.get_config_var("SOABI") or sysconfig.get_platform()
    if said.get("requirements") and made_for != own:
        _log.error(
            "Comfy Remote: the node packs that were brought here (%s) are for another Python (%s): "
            "bring them again.",
            *(set_id, made_for),
        )
        return None
    return set_id


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _write(path: Path, said: Mapping[str, object]) -> None:
    try:
        path.write_text(json.dumps(said), encoding="utf-8")
    except OSError as error:
        _log.warning("Comfy Remote: %s cannot be written: %s", path, error)


def _run(script: Path) -> None:
    """Run a pack's script, as ComfyUI does for those in its own folder."""
    if not script.is_file():
        return
    try:
        spec = importlib.util.spec_from_file_location(script.parent.name, script)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # noqa: BLE001 - it is a pack's, and ComfyUI starts all the same
        _log.error("Comfy Remote: %s failed: %s", script, error)
