"""The folder of node sets: what is in it, which set is current, and which ones go.

::

    current.json            which set the engine starts with, and which one was before it
    sets/ID/custom_nodes/   each pack, by its name
    sets/ID/site/           the Python packages that the packs require
    sets/ID/scripts/        what their ``install.py`` have installed
    sets/ID/paths.yaml      what ComfyUI is given to find them
    sets/ID/set.json        what the set is made of; written last: a set without it is unfinished
    in_use/TOKEN.json       a worker whose engine runs with a set

Everything is relative to the set, since a volume has other addresses in a pod and on an endpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, StringConstraints, ValidationError

from ...errors import LocalStorageError
from ...media.file_changes import discard
from ...media.files import storage_errors, write_whole
from ...wire.installed import InstalledPack
from ...wire.nodes import PackWanted
from .at_start import sites
from .in_use import SetsInUse

__all__ = ["NodeSet", "SetPack", "SetsFolder"]

_log = logging.getLogger(__name__)


class SetPack(PackWanted):
    """A pack of a set: the request for it, and what is there.

    Attributes:
        installed: What it says of itself.
    """

    installed: InstalledPack


class NodeSet(BaseModel):
    """One set of packs.

    Attributes:
        packs: In the order of their names.
        requirements: Versions of the Python packages in it, by name.
        python: What its Python packages are for: ``cpython-312-x86_64-linux-gnu``.
        engine: The ComfyUI that it was tried with, for people.
        made: In s since 1970.
        made_by: The worker that made it.
        before: The set that was current before; empty for none of ours.
    """

    id: str
    packs: list[SetPack]
    requirements: dict[str, str] = {}
    python: str = ""
    engine: str | None = None
    made: float
    made_by: str
    before: str


class _Current(BaseModel):
    """The set to use, and the one to use where that was removed by hand; empty for none."""

    set: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]*$")] = ""
    before: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]*$")] = ""


class SetsFolder:
    """Reads and changes the folder. Blocking; a change is made by one worker at a time.

    Args:
        root: Made when it is first written to.
        worker: What other workers on the same volume call this one.
    """

    def __init__(self, root: Path, worker: str) -> None:
        self.root = root
        self.worker = worker
        self._pointer = root / "current.json"
        self._sets = root / "sets"
        self.in_use = SetsInUse(root / "in_use", worker)

    def path(self, set_id: str) -> Path:
        """A set's folder."""
        return self._sets / set_id

    def custom_nodes(self, set_id: str) -> Path:
        """The folder of its packs."""
        return self.path(set_id) / "custom_nodes"

    def site(self, set_id: str) -> Path:
        """The folder of the Python packages that its packs require."""
        return self.path(set_id) / "site"

    def scripts(self, set_id: str) -> Path:
        """Where ``install.py`` of its packs install Python packages, as a prefix."""
        return self.path(set_id) / "scripts"

    def search_paths(self, set_id: str) -> Path:
        """The file for ComfyUI's ``--extra-model-paths-config``."""
        return self.path(set_id) / "paths.yaml"

    def sites(self, set_id: str) -> list[Path]:
        """The folders that a Python needs on its path for the set."""
        return sites(self.path(set_id))

    def read(self, set_id: str) -> NodeSet | None:
        """A set that is whole and there.

        Raises:
            LocalStorageError: That cannot be seen now.
        """
        content = _content(self.path(set_id) / "set.json")
        try:
            found = NodeSet.model_validate_json(content or b"")
        except ValidationError:
            return None
        folders = [self.custom_nodes(set_id), *([self.site(set_id)] if found.requirements else [])]
        return found if all(folder.is_dir() for folder in folders) else None

    def current(self) -> NodeSet | None:
        """The set to use: the current one or, where that was removed by hand, the one before.

        Raises:
            LocalStorageError: The volume cannot be read now: what it has is not known, and nothing
                that it has may be replaced.
        """
        pointer = self._read_pointer()
        for set_id in (pointer.set, pointer.before):
            if set_id and (found := self.read(set_id)) is not None:
                return found
            if set_id:
                _log.warning("the node set %s is not there any more: %s", set_id, self.path(set_id))
        return None

    def earlier(self) -> tuple[NodeSet | None, bool]:
        """The set before the current one, and whether there is such a state at all.

        ``(None, True)`` is the ComfyUI without a set of ours.
        """
        current = self.current()
        if current is None:
            return None, False
        found = self.read(current.before) if current.before else None
        return found, found is not None or not current.before

    def new(self) -> str:
        """A new set's id, and its folder with the file for ComfyUI."""
        set_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self.custom_nodes(set_id).mkdir(parents=True)
        self.site(set_id).mkdir()
        paths = {"comfy_remote_nodes": {"custom_nodes": "custom_nodes"}}
        self.search_paths(set_id).write_text(json.dumps(paths), encoding="utf-8")  # which is YAML
        return set_id

    def finish(self, made: NodeSet) -> None:
        """Write down what a new set is made of: it is whole now."""
        content = made.model_dump_json(indent=1).encode()
        write_whole(self.path(made.id) / "set.json", content, durable=True, mode=0o644)

    def switch(self, made: NodeSet) -> None:
        """Make a set current, in one step."""
        self._write_pointer(_Current(set=made.id, before=made.before))

    def go_back(self) -> None:
        """Make the state before the current set current; `earlier` has said that there is one."""
        found, _ = self.earlier()
        pointer = _Current(set=found.id, before=found.before) if found is not None else _Current()
        self._write_pointer(pointer)

    def remove_old(self) -> list[str]:
        """Remove the sets that are neither current, nor before it, nor used by any engine, and what
        killed builders have left; returns the ids of those that were whole."""
        pointer = self._read_pointer()
        stay = {pointer.set, pointer.before, *self.in_use.sets()}
        removed = []
        with contextlib.suppress(OSError):
            for path in sorted(self._sets.iterdir()):
                if path.name not in stay:
                    whole = (path / "set.json").is_file()
                    discard(path / "set.json")  # first: half of a set must not look like one
                    discard(path)
                    removed += [path.name] if whole else []
        return removed

    def _read_pointer(self) -> _Current:
        """What is current. Where the file is damaged, the newest set that is whole counts."""
        content = _content(self._pointer)
        if content is None:
            return _Current()
        try:
            return _Current.model_validate_json(content)
        except ValidationError:
            _log.error("%s is damaged: the newest node set counts", self._pointer)
        try:
            ids = [path.name for path in self._sets.iterdir()]
        except OSError as error:
            raise _unreadable(self._sets, error) from error
        whole = [found for one in ids if (found := self.read(one)) is not None]
        newest = max(whole, key=lambda one: one.made, default=None)
        return _Current(set=newest.id, before=newest.before) if newest is not None else _Current()

    def _write_pointer(self, pointer: _Current) -> None:
        with storage_errors(self._pointer, full="Make room on the volume."):
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(self._pointer, pointer.model_dump_json().encode(), durable=True, mode=0o644)


def _content(path: Path) -> bytes | None:
    """A file's content; ``None`` if there is none, which is not the same as one that cannot be
    read: a network volume may be away for a moment."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LocalStorageError:
    return LocalStorageError(
        f"{path} cannot be read: {error.strerror or error}.",
        advice="Check the worker's volume. No node pack was changed.",
        details={"path": str(path)},
    )
