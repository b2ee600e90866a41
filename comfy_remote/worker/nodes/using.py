"""An engine that starts with the current set of node packs."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace

from ...errors import LocalStorageError
from ..choice import EngineChoice
from .requirements import ABI
from .sets import NodeSets

__all__ = ["with_current_set"]

_PATIENCE = 60.0  # seconds
_log = logging.getLogger(__name__)


def with_current_set(choice: EngineChoice, sets: NodeSets) -> EngineChoice:
    """How to start an engine so that it has the packs of the current set. Blocking.

    A set with Python packages that were built for another Python is passed over: the image may have
    changed since. While the volume cannot be read, it starts without.
    """
    program = choice.program
    try:
        used = sets.for_engine() if program is not None else None
    except LocalStorageError as error:
        _log.error("the engine starts without the node packs of jobs: %s", error)
        used = None
    while program is not None and used is not None and used.requirements:
        abi = _abi(program.python)
        if abi == used.python:
            break
        _log.error(
            "the node set %s is for another Python (%s, not %s): install its packs again",
            *(used.id, used.python, abi),
        )
        sets.could_not_start(used.id)
        used = sets.for_engine()
    sets.folder.in_use.use(used.id if used is not None else None)
    if used is None:
        return choice
    names = ", ".join(one.name for one in used.packs)
    return replace(
        choice,
        command=(
            *choice.command,
            "--extra-model-paths-config",
            str(sets.folder.search_paths(used.id)),
        ),
        environ=sets.engine_environ(used),
        notes=(*choice.notes, f"node packs that jobs have brought: {names} ({used.id})"),
        node_set=used.id,
        node_packs={one.name: one.installed for one in used.packs},
        node_packages=used.requirements,
    )


def _abi(python: str) -> str:
    try:
        said = subprocess.run(
            [python, "-c", ABI], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return said.stdout.strip()
