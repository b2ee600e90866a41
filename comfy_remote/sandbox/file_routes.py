"""HTTP: files that come in and files that go out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import IO, TypeAlias

from aiohttp import web
from aiohttp.web_request import FileField

from ..clean import one_line
from ..config.folders import shared_values
from ..errors import ComfyRemoteError
from ..media.received_inputs import InputFolder
from ..media.shared_values import SharedValues
from ..outputs import media_type_of
from .body import Trouble
from .engine import ENGINE
from .folders import Folders, PathOutsideFolder
from .shown_picture import alpha_picture, colour_picture, preview_picture, save_with_alpha

__all__ = ["routes"]

# A browser would run what these may hold, as a page of the engine's own origin.
_ACTIVE_TYPES = frozenset(
    {
        "application/javascript",
        "application/xhtml+xml",
        "application/xml",
        "image/svg+xml",
        "text/css",
        "text/html",
        "text/javascript",
        "text/xml",
    }
)

Form: TypeAlias = "Mapping[str, str | bytes | bytearray | FileField]"

routes = web.RouteTableDef()


@routes.get("/view")
async def view(request: web.Request) -> web.StreamResponse:
    """A file of one of the folders; ``Range`` is understood."""
    folders = request.app[ENGINE].folders
    if "filename" not in request.query:
        return web.Response(status=404)
    filename, folder_type = folders.split_annotation(
        request.query["filename"], request.query.get("type", "output")
    )
    folder = folders.by_type(folder_type)
    if not filename or filename.startswith("/") or ".." in filename or folder is None:
        return web.Response(status=400)
    try:
        path = folders.inside(folder, request.query.get("subfolder", ""), PurePath(filename).name)
    except PathOutsideFolder:
        return web.Response(status=403)
    if not await asyncio.to_thread(path.is_file):
        return web.Response(status=404)
    channel, preview = request.query.get("channel", "rgba"), request.query.get("preview")
    if preview is not None or channel in ("rgb", "a"):
        return await _view_picture(path, channel, preview)
    content_type = media_type_of(path.name)
    # A header holds no control characters; a name of a workflow's may.
    name = one_line(path.name).replace("\\", "\\\\").replace('"', '\\"')
    disposition = f'filename="{name}"'
    if content_type in _ACTIVE_TYPES:
        content_type, disposition = "application/octet-stream", f"attachment; {disposition}"
    return web.FileResponse(
        path,
        headers={
            "Content-Disposition": disposition,
            "Content-Type": content_type,
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _view_picture(path: Path, channel: str, preview: str | None) -> web.Response:
    media_type = "image/png"
    try:
        if preview is not None:
            body, media_type = await asyncio.to_thread(
                preview_picture, path, preview, opaque=channel == "rgb"
            )
        else:
            draw = colour_picture if channel == "rgb" else alpha_picture
            body = await asyncio.to_thread(draw, path)
    except OSError as error:
        return web.Response(status=400, text=f"{path.name} cannot be shown: {error}")
    return web.Response(body=body, content_type=media_type)


@routes.post("/upload/image")
async def upload_image(request: web.Request) -> web.Response:
    """Save a file into one of the folders, and say under which name.

    A file of that name with other content stays, and the new one is called ``name (1).png``;
    with the same content nothing is written. ``overwrite`` replaces it. Like in ComfyUI, the name
    may have folders in it, as long as they are there; ``subfolder`` is made.
    """

    def write(image: FileField, path: Path) -> None:
        image.file.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(image.file, file, 1 << 20)

    return await _upload(request, await request.post(), write)


@routes.post("/upload/mask")
async def upload_mask(request: web.Request) -> web.Response:
    """As `upload_image`, but what is saved is the picture that ``original_ref`` names, with the
    alpha of the one that is sent. Of a picture that is not there, nothing is saved.
    """
    form = await request.post()
    folders = request.app[ENGINE].folders

    def write(image: FileField, path: Path) -> None:
        original = _original(folders, json.loads(str(form["original_ref"])))
        if original is not None:
            save_with_alpha(original, image.file, path)

    return await _upload(request, form, write)


async def _upload(
    request: web.Request, form: Form, write: Callable[[FileField, Path], None]
) -> web.Response:
    folders = request.app[ENGINE].folders
    image = form.get("image")
    folder_type = str(form.get("type", "input"))
    subfolder = str(form.get("subfolder", ""))
    folder = folders.by_type(folder_type)
    if folder is None or (image and not isinstance(image, FileField)):
        raise Trouble
    if not isinstance(image, FileField):
        return web.Response(status=400)
    overwrite = form.get("overwrite") in ("true", "1")

    def save() -> Path:
        folders.inside(folder, subfolder).mkdir(parents=True, exist_ok=True)
        place, is_there = (path, False) if overwrite else _place(path, image.file)
        if not is_there:
            write(image, place)
        return place

    try:
        path = folders.inside(folder, subfolder, image.filename)
        saved = await asyncio.to_thread(save)
    except PathOutsideFolder:
        return web.Response(status=400)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Trouble from error
    name = str(PurePath(image.filename).with_name(saved.name)).replace("\\", "/")
    return web.json_response({"name": name, "subfolder": subfolder, "type": folder_type})


def _place(path: Path, source: IO[bytes]) -> tuple[Path, bool]:
    """The first of ``name.png``, ``name (1).png`` … that is free or has the content; whether it
    has.
    """
    place, number, digest = path, 0, _digest(source)
    while place.exists():
        with place.open("rb") as file:
            if _digest(file) == digest:
                return place, True
        number += 1
        place = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return place, False


def _original(folders: Folders, reference: Mapping[str, str]) -> Path | None:
    """The picture that a mask is for; ``None`` if it is not there, or outside."""
    name, folder_type = folders.split_annotation(
        reference["filename"], reference.get("type", "output")
    )
    folder = folders.by_type(folder_type)
    if not name or name.startswith("/") or ".." in name or folder is None:
        return None
    try:
        path = folders.inside(folder, reference.get("subfolder", ""), name)
    except PathOutsideFolder:
        return None
    return path if path.is_file() else None


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


# Input files of any size, streamed: a ComfyUI has these routes with our node pack in it.


@routes.get("/remote/inputs/{name:.+}")
async def has_input(request: web.Request) -> web.Response:
    """``{"there": …}``: whether that file is there, with that content."""
    name, sha256 = request.match_info["name"], request.query.get("sha256", "")
    try:
        there = await _input_folder(request).has(name, sha256)
    except ComfyRemoteError as error:
        return _refusal(error)
    return web.json_response({"there": there})


@routes.put("/remote/inputs/{name:.+}")
async def put_input(request: web.Request) -> web.Response:
    """Write the body into the input folder; ``{"name": …}`` is what it is called there."""
    name, sha256 = request.match_info["name"], request.query.get("sha256", "")
    try:
        placed = await _input_folder(request).receive(name, sha256, request.content.iter_any())
    except ComfyRemoteError as error:
        return _refusal(error)
    return web.json_response({"name": placed})


@routes.put("/remote/values")
async def put_value(request: web.Request) -> web.Response:
    """Write a value file into the input folder; ``{"name": …}``, by its content."""
    try:
        placed = await _input_folder(request).receive_value(request.content.iter_any())
    except ComfyRemoteError as error:
        return _refusal(error)
    return web.json_response({"name": placed})


@routes.get("/remote/values/{stem}")
async def has_value(request: web.Request) -> web.Response:
    """``{"there": …}``: whether that value file is there, or is linked there now."""
    there = await _input_folder(request).has_value(request.match_info["stem"])
    return web.json_response({"there": there})


@routes.post("/remote/values/{stem}")
async def share_value(request: web.Request) -> web.Response:
    """``{"there": …}``: whether a value file of the temp folder is now where its user's programs
    find it.
    """
    stem, temp = request.match_info["stem"], request.app[ENGINE].folders.root / "temp"
    there = await asyncio.to_thread(SharedValues(shared_values()).offer, stem, temp)
    return web.json_response({"there": there})


def _input_folder(request: web.Request) -> InputFolder:
    folder = request.app[ENGINE].folders.root / "input"
    return InputFolder(folder, SharedValues(shared_values()))


def _refusal(error: ComfyRemoteError) -> web.Response:
    return web.json_response({"error": error.to_json()}, status=error.http_status)
