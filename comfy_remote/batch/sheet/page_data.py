"""What the page of a sheet gets: plain JSON, all of it by its own limits and names.

Only this module decides what a browser may open: a link leads to a file of the batch's folder,
and never to one that would run something (an SVG, an HTML page).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...clean import cleaned_text
from ...media.files import leads_out
from ...types import JsonValue
from .reading import Batch, Output, Run
from .thumbnails import FOLDER, Thumbnails

__all__ = ["OPENED", "default_view", "page_data"]

OPENED = {
    ".png": "image/png",
    ".apng": "image/apng",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".txt": "text/plain",
    ".json": "text/plain",
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".ply": "model/ply",
    ".stl": "model/stl",
}
"""What a link may open, by the ending of its name: nothing in these runs in a browser."""

_SHOWN_TEXT = 4000  # bytes of a text file
_MOST_COLUMNS = 40
_FULL_ENOUGH = 30  # percent of a table's cells, below which a grid says more


def page_data(
    batch: Batch,
    folder: Path,
    thumbnails: Thumbnails,
    *,
    served: bool = False,
    in_comfyui: bool = False,
) -> dict[str, JsonValue]:
    """The JSON that the page shows.

    Args:
        served: Whether the page may write keeps back.
        in_comfyui: Whether ComfyUI's page is open beside it, whose graph can take a run's values.
    """
    file = batch.file
    rows, columns = default_view(batch)
    titles: dict[str, JsonValue] = dict(_titles(file.prompt))
    return {
        "id": file.id,
        "name": file.name or folder.resolve().name,
        "workflow": file.workflow,
        "target": file.target,
        "created": file.created,
        "count": batch.count,
        "product": batch.product,
        "axes": [
            {"names": list(axis.names), "values": [list(value) for value in axis.values]}
            for axis in batch.axes
        ],
        "view": {"rows": rows, "columns": columns},
        "runs": [
            _run(run, place, folder, thumbnails)
            for run, place in zip(batch.runs, batch.places, strict=True)
        ],
        "prompt": file.prompt,
        "sets": {name: [list(one) for one in places] for name, places in file.sets.items()},
        "command": list(file.command),
        "titles": titles,
        "keeps": batch.keeps.to_json(),
        "notes": list(batch.notes),
        "served": served,
        "in_comfyui": in_comfyui,
    }


def default_view(batch: Batch) -> tuple[int | None, int | None]:
    """Which axes are rows and columns at first; ``None`` where a plain grid shows more.

    The last axis changes fastest, so its pictures are the most alike: they stand side by side.
    """
    varying = [n for n, axis in enumerate(batch.axes) if len(axis.values) > 1]
    if len(varying) < 2:
        return None, None
    columns = varying[-1]
    if len(batch.axes[columns].values) > _MOST_COLUMNS:
        columns = min(varying, key=lambda n: len(batch.axes[n].values))
    rows = next(n for n in varying if n != columns)
    cells = math.prod(len(batch.axes[n].values) for n in varying)
    if not batch.product and batch.count * 100 < _FULL_ENOUGH * cells:
        return None, None
    return rows, columns


def _titles(prompt: dict[str, JsonValue]) -> list[tuple[str, str]]:
    """What nodes are called: ``Save (SaveImage)``."""
    titles = []
    for node_id, node in prompt.items():
        if not isinstance(node, dict):
            continue
        kind, meta = node.get("class_type"), node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        words = [str(one) for one in (title, kind) if one]
        titles.append((node_id, cleaned_text(words[0] if words else node_id)))
    return titles


def _run(
    run: Run, place: Sequence[int], folder: Path, thumbnails: Thumbnails
) -> dict[str, JsonValue]:
    error = run.error
    texts: list[JsonValue] = [
        {"file": "", "node": one.node, "kind": "text", "text": one.text} for one in run.texts
    ]
    return {
        "row": run.row,
        "run": run.run,
        "state": run.state,
        "attempt": run.attempt,
        "at": list(place),
        "values": run.values,
        "seed": run.seed,
        "target": run.target,
        "job": run.job,
        "ended": run.ended,
        "seconds": run.seconds,
        "cost": run.cost,
        "outputs": [
            *(_output(one, folder, thumbnails) for one in run.outputs),
            *texts,
        ],
        "problems": list(run.problems),
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "advice": error.advice},
    }


def _output(output: Output, folder: Path, thumbnails: Thumbnails) -> dict[str, JsonValue]:
    shown: dict[str, JsonValue] = {
        "file": output.file,
        "node": output.node,
        "kind": output.kind,
        "size": output.size,
        "opens": PurePosixPath(output.file).suffix.lower() in OPENED,
    }
    if thumbnail := thumbnails.of(output):
        shown["thumbnail"] = f"{FOLDER}/{thumbnail.name}"
        shown["width"], shown["height"] = thumbnail.width, thumbnail.height
    elif why := thumbnails.refusal(output):
        shown["why"] = why
    if output.kind == "text":
        shown["text"] = _beginning(folder, output.file)
    return shown


def _beginning(folder: Path, file: str) -> str:
    path = folder / file
    try:
        if leads_out(path, folder):
            return ""
        with path.open("rb") as opened:
            content = opened.read(_SHOWN_TEXT + 1)
    except OSError:
        return ""
    text = content[:_SHOWN_TEXT].decode("utf-8", "replace")
    return f"{text} …" if len(content) > _SHOWN_TEXT else text


def as_script(value: JsonValue) -> str:
    """JSON that stands inside of a ``<script>``, whatever texts are in it.

    ``<``, ``>`` and ``&`` are written as ``\\uXXXX``, so neither ``</script>`` nor ``<!--`` occurs.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
