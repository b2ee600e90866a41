"""A ComfyUI on this machine, as it is started: what node packs are installed for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...targets.engine_arguments import path_after
from ...types import mapping

__all__ = ["ComfyUIProgram", "node_folders"]

_MORE_PATHS = "--extra-model-paths-config"
_LARGEST_CONFIG = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class ComfyUIProgram:
    """How a ComfyUI is started.

    Attributes:
        folder: That has its ``main.py``.
        python: The Python that runs it.
        arguments: What it is started with, besides its address and what we add.
        cwd: The folder that it is started in, which paths in its arguments start from; ``None`` for
            its own.
    """

    folder: Path
    python: str
    arguments: tuple[str, ...] = ()
    cwd: Path | None = None

    def node_folders(self) -> list[Path]:
        """The folders that it has its own packs in. Blocking."""
        return node_folders(self.folder, self.arguments, self.cwd)


def node_folders(folder: Path, arguments: Sequence[str], cwd: Path | None = None) -> list[Path]:
    """The folders that a ComfyUI imports node packs from, those that exist. Blocking.

    They are its own ``custom_nodes`` and those that files of search paths name: the one beside its
    ``main.py``, and those of ``--extra-model-paths-config`` (ComfyUI 0.33.0, ``main.py`` and
    ``utils/extra_config.py``).

    Args:
        cwd: See `ComfyUIProgram`.
    """
    start = cwd or folder
    named = path_after(arguments, "--base-directory")
    base = start / named if named else folder
    found = [base / "custom_nodes", *_named_in(folder / "extra_model_paths.yaml")]
    for config in _configs(arguments):
        found += _named_in(start / config)
    return [one for one in dict.fromkeys(found) if one.is_dir()]


def _configs(arguments: Sequence[str]) -> list[str]:
    """The files after each ``--extra-model-paths-config``, which takes one or more."""
    found, takes = list[str](), False
    for word in arguments:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            takes = flag == _MORE_PATHS
            found += [value] if takes and value else []
        elif takes:
            found.append(word)
    return found


def _named_in(config: Path) -> list[Path]:
    """The folders of ``custom_nodes`` in a file of search paths, as ComfyUI reads it."""
    if not config.is_file():
        return []
    import yaml  # here: few have such a file, and it takes long to import

    try:
        with config.open("rb") as file:
            sections = mapping(yaml.safe_load(file.read(_LARGEST_CONFIG)))
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return []
    found = []
    for section in sections.values():
        said = mapping(section)
        base, names = said.get("base_path"), said.get("custom_nodes")
        start = config.parent
        if isinstance(base, str):
            start = start / os.path.expandvars(Path(base).expanduser())
        lines = names.split("\n") if isinstance(names, str) else []
        found += [Path(os.path.normpath(start / line)) for line in lines if line]
    return found
