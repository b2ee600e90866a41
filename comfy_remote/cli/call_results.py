"""The results of a call: plain values are printed, everything else is saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ..jobs.record import SavedOutput
from ..media.files import place_below, private_folder, safe_relative_path, storage_errors
from ..media.values import DecodedValue, encode
from ..media.values.plain_files import PlainFile, files_of
from ..outputs import kind_of
from .console import print_json, printable, printable_line
from .reporter import LINES_VERSION

__all__ = ["show_results"]

_PLAIN = (str, int, float, bool, type(None))


def show_results(
    results: Mapping[str, DecodedValue],
    folder: Path,
    *,
    job_id: str | None,
    exact: bool,
    json_lines: bool,
) -> list[SavedOutput]:
    """Print the plain values, ``KEY: VALUE`` a line, and save the others, which are returned.

    Args:
        results: By key, with NumPy's tensors.
        exact: Save value files, which lose nothing, instead of PNG, WAV and the like.
        json_lines: Print ``{"event": "value", "key", "type", "value"}`` instead.
        job_id: For these lines.
    """
    saved: list[SavedOutput] = []
    for key, decoded in results.items():
        items = decoded.value if decoded.is_list else [decoded.value]
        plain = isinstance(items, list) and all(isinstance(item, _PLAIN) for item in items)
        if plain and isinstance(items, list):
            value = items[0] if len(items) == 1 else items
            if json_lines:
                line = {"event": "value", "key": key, "type": decoded.type, "value": value}
                print_json({**line, "job_id": job_id, "version": LINES_VERSION})
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                print(f"{printable_line(key)}: {printable(text)}", flush=True)
            continue
        files = None if exact else files_of(decoded)
        if not files:
            saved.append(_saved_exactly(key, decoded, folder))
            continue
        saved += [
            _saved(key if len(files) == 1 else f"{key}_{number:05}", file, folder)
            for number, file in enumerate(files, start=1)
        ]
    return saved


def _saved_exactly(key: str, decoded: DecodedValue, folder: Path) -> SavedOutput:
    """As a value file, which is not put together in memory."""
    encoded = encode(decoded.value, decoded.type, as_list=decoded.is_list)
    return _placed(f"{key}.safetensors", encoded.size, encoded.write, folder)


def _saved(name: str, file: PlainFile, folder: Path) -> SavedOutput:
    def write(path: Path) -> str:
        with storage_errors(path):
            path.write_bytes(file.data)
        return hashlib.sha256(file.data).hexdigest()

    return _placed(name + file.suffix, len(file.data), write, folder)


def _placed(name: str, size: int, write: Callable[[Path], str], folder: Path) -> SavedOutput:
    """A file below ``folder``, written whole or not at all; ``write`` gives its SHA-256."""
    relative = safe_relative_path(name)
    with private_folder(folder) as beside:
        path = beside / "file"
        sha256 = write(path)
        placed = place_below(path, folder, relative, sha256)
    return SavedOutput(placed, None, kind_of(str(relative)), str(relative), sha256, size)
