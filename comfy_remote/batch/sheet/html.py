"""``sheet.html``: one file that opens offline, with style, script and data inside.

Its content policy allows the one script and the one style of ours, by their hashes, and no address
but files beside it. What varies, errors and names are data: JSON that the script shows as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

from ...media.files import leads_out, storage_errors, written_whole
from ...types import JsonValue
from ...units import counted
from .page_data import OPENED, as_script
from .reading import Batch, Output
from .thumbnails import FOLDER, Thumbnails

__all__ = ["EMBEDDED", "SHEET", "page_policy", "page_text", "write_page"]

SHEET = "sheet.html"
EMBEDDED = 50 * 1024 * 1024
"""Bytes of thumbnails, as base64, up to which they are inside of the page."""
LARGEST_EMBEDDED = 200 * 1024 * 1024
"""Bytes of larger pictures, video and sound that are inside of one with everything inside."""
_LARGEST_FILE = 32 * 1024 * 1024  # of those

# In this order they are one script: each imports only from those before it.
_SCRIPTS = (
    *("words", "quoting", "batch", "files", "keeps"),
    *("arrange", "grid", "stage", "viewer", "main"),
)
_IMPORT = re.compile(r"^import\b[^;\n]*?from '\./[a-z_]+\.js'$\n?", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let)\b)", re.MULTILINE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


@lru_cache(maxsize=1)
def _parts() -> dict[str, str]:
    """Template, style and script, as they are in each sheet."""
    folder = files(__package__) / "page"
    read = {name: (folder / name).read_text("utf-8") for name in ("sheet.html", "sheet.css")}
    scripts = [(folder / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", one)) for one in scripts)
    return {
        "template": read["sheet.html"],
        "style": f"\n{read['sheet.css']}",
        "script": f"\n'use strict'\n{script}",
    }


def page_policy() -> str:
    """The page's content policy."""
    parts = _parts()
    script, style = (_hash(parts[name]) for name in ("script", "style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; "
        "img-src 'self' file: data: blob:; media-src 'self' file: data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def page_text(
    data: dict[str, JsonValue], *, inside: Iterator[str] | None = None, mark: str = ""
) -> Iterator[str]:
    """The page, in pieces.

    Args:
        data: What it shows.
        inside: Elements with pictures, behind the data.
        mark: What it begins with, as a comment.
    """
    parts = _parts()
    fields = {
        "policy": html.escape(page_policy()),
        "title": html.escape(str(data["name"])),
        "style": parts["style"],
        "script": parts["script"],
        "data": as_script(data),
        "mark": mark,
    }
    template = parts["template"]
    at = 0
    for field in _FIELD.finditer(template):
        yield template[at : field.start()]
        at = field.end()
        if field[1] == "inside":
            yield from inside or ()
        else:
            yield fields[field[1]]
    yield template[at:]


def write_page(
    batch: Batch,
    data: dict[str, JsonValue],
    folder: Path,
    thumbnails: Thumbnails,
    previews: Thumbnails | None = None,
) -> list[str]:
    """Write ``sheet.html``, if anything has changed since.

    Args:
        previews: The larger pictures, for a page with everything inside.

    Returns:
        What is not inside of a page that should have everything, as sentences.

    Raises:
        LocalStorageError: It cannot be written.
    """
    shown = [one for run in batch.runs for one in run.outputs]
    small = {
        f"{FOLDER}/{made.name}": thumbnails.folder / made.name
        for one in shown
        if (made := thumbnails.of(one))
    }
    inside = previews is not None or sum(map(_size, small.values())) * 4 // 3 <= EMBEDDED
    contents = [(name, "image/webp", path) for name, path in small.items()] if inside else []
    notes = []
    if previews is not None:
        large, left_out = _large(shown, folder, previews)
        contents += large
        if left_out:
            notes.append(f"{counted(left_out, 'file')} linked, not inside of {SHEET}: too large.")
    mark = hashlib.sha256(page_policy().encode() + as_script(data).encode())
    mark.update(repr([name for name, *_ in contents]).encode())
    path = folder / SHEET
    with storage_errors(path):
        if _begins_with(path, f"<!doctype html>\n<!-- {mark.hexdigest()} -->\n"):
            return notes
        with (
            written_whole(path) as beside,
            beside.open("w", encoding="utf-8", newline="\n") as file,
        ):
            elements = (_element(*content) for content in contents)
            file.writelines(page_text(data, inside=elements, mark=mark.hexdigest()))
    return notes


def _begins_with(path: Path, text: str) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(text)) == text.encode()
    except OSError:
        return False


def _size(path: Path) -> int:
    """Bytes; 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _large(
    outputs: list[Output], folder: Path, previews: Thumbnails
) -> tuple[list[tuple[str, str, Path]], int]:
    """What large views show: name, media type, file; and how many files there is no room for."""
    left, left_out = LARGEST_EMBEDDED, 0
    found: dict[str, tuple[str, str, Path]] = {}
    for output in outputs:
        kind = OPENED.get(PurePosixPath(output.file).suffix.lower(), "")
        if preview := previews.of(output):
            content = (output.file, "image/webp", previews.folder / preview.name)
        elif kind.startswith(("video/", "audio/")) and not leads_out(folder / output.file, folder):
            content = (output.file, kind, folder / output.file)
        else:
            continue
        size = _size(content[2])
        if output.file in found or not size:
            continue
        if size > min(left, _LARGEST_FILE):
            left_out += 1
            continue
        left -= size
        found[output.file] = content
    return list(found.values()), left_out


def _element(name: str, kind: str, path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    text = base64.b64encode(content).decode()
    shown = html.escape(name, quote=True)
    return f'<script type="text/plain" data-kind="{kind}" data-file="{shown}">{text}</script>\n'
