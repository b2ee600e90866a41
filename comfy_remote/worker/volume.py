"""What is on the network volume, in words, for ``NETWORK_VOLUME_DEBUG``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..units import size_text
from .models.folders import MODEL_SUFFIXES

__all__ = ["volume_report"]

_LAYOUTS = ("models", "ComfyUI/models")
_MOST_FILES = 20


def volume_report(volume: Path) -> Iterator[str]:
    """Lines that say which models ComfyUI can find there, and what it would not take for one."""
    if not volume.is_dir():
        yield f"no network volume is mounted at {volume}"
        return
    usage = shutil.disk_usage(volume)
    yield f"{volume}: {size_text(usage.free)} of {size_text(usage.total)} are free"
    roots = [volume / layout for layout in _LAYOUTS if (volume / layout).is_dir()]
    if not roots:
        yield f"it has neither {' nor '.join(_LAYOUTS)}: ComfyUI finds no models on it"
    for root in roots:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            yield from _folder(folder)


def _folder(folder: Path) -> Iterator[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    models = [path for path in files if path.suffix.lower() in MODEL_SUFFIXES]
    yield f"{folder}: {len(models)} models"
    for path in models[:_MOST_FILES]:
        yield f"  {path.relative_to(folder)} ({size_text(path.stat().st_size)})"
    if len(models) > _MOST_FILES:
        yield f"  and {len(models) - _MOST_FILES} more"
    if others := [path.name for path in files if path not in models and path.suffix != ".part"]:
        yield f"  {len(others)} files are no models, by their names: {', '.join(others[:5])}"
