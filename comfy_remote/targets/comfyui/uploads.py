"""Input files on their way into a ComfyUI.

A ComfyUI with our node pack (and the sandbox) takes a file of any size as a stream, and checks
it. Any other takes it by ComfyUI's own upload, which holds it in memory and has a limit
(``--max-upload-size``, 100 MB by default), unless its input folder is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import aiohttp

from ...errors import RequestTooLarge, TargetError, TargetNotFound
from ...media.files import subfolder_of
from ...media.receive import file_chunks
from ...media.received_inputs import InputFolder
from ...media.remote_values import sha256_in_name, value_file_name
from ...net.answers import BY_PROXY
from ...net.http import HttpClient
from ...units import size_text
from ..base import InputFile, input_errors
from ..upload_progress import UploadProgress, opened_input

if TYPE_CHECKING:
    from ...media.values import EncodedValue

__all__ = ["Uploads", "has_content", "has_input"]

# Below that, ComfyUI's own upload is as good, and takes one request.
_STREAMED_FROM = 16 * 2**20
_SENT_AT_ONCE = 0.5
"""Seconds in which a value is sent to a server on the same machine, as a rule. What takes longer
goes through a tunnel, and may be there already."""


async def has_input(http: HttpClient, name: str) -> bool:
    """Whether ComfyUI's ``input`` folder has a file of that name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return False  # ComfyUI refuses these with 403, as if the key were wrong
    query = urlencode({"filename": path.name, "subfolder": subfolder_of(path), "type": "input"})
    return await http.exists(f"view?{query}")


async def has_content(http: HttpClient, name: str, sha256: str) -> bool | None:
    """Whether its ``input`` folder has that file; ``None`` for a ComfyUI without our pack."""
    try:
        found = await http.get_json(_path(name, sha256))
    except TargetNotFound:
        return None
    match found:
        case {"there": bool(there)}:
            return there
    return None


class Uploads:
    """Sends files, and remembers what they are called there.

    Attributes:
        folder: ComfyUI's input folder, if it is here and whoever uses this may write to it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.folder: Path | None = None
        self.names: dict[tuple[str, str], str] = {}
        """What ComfyUI calls the files sent to it: by name and SHA-256."""
        self._takes_streams = True

    async def send(
        self, http: HttpClient, file: InputFile, progress: UploadProgress | None = None
    ) -> str:
        """Have a file there, and return what it is called there.

        Raises:
            RequestTooLarge: ComfyUI takes no file of that size.
        """
        progress = progress or UploadProgress([file], None)
        name = await self._sent(http, file, progress)
        progress.note(file, file.size)
        return name

    async def _sent(self, http: HttpClient, file: InputFile, progress: UploadProgress) -> str:
        content = (file.name, file.sha256)
        streamed = file.size >= _STREAMED_FROM or sha256_in_name(file.name) is not None
        if streamed and self.folder is not None:
            self.names[content] = await _placed(InputFolder(self.folder), file)
            return self.names[content]
        if streamed and self._takes_streams:
            name = await self._stream(http, file, progress)
            if name is not None:
                self.names[content] = name
                return name
            self._takes_streams = False
        # A batch loads the same picture every time: sent once, as long as it is still there.
        known = self.names.get(content)
        if known is None or not await has_input(http, known):
            known = self.names[content] = await self._upload(http, file, progress)
        return known

    async def send_value(
        self, http: HttpClient, value: EncodedValue, at_once: float = _SENT_AT_ONCE
    ) -> str | None:
        """Have a value in a file there, and return what it is called: by its content.

        It is sent from memory before its hash is known; whoever receives it hashes it anyway.

        Args:
            at_once: Seconds after which it is hashed here as well, and not sent to its end if it is
                there already.

        Returns:
            ``None`` if it could not be sent like this: a ComfyUI without our pack, or an older one.
        """
        content = _chunks_of(value)
        sending = asyncio.ensure_future(http.put_once("remote/values", value.size, content))
        try:
            await asyncio.wait({sending}, timeout=at_once)
            if not sending.done():
                sha256 = await asyncio.to_thread(value.sha256)
                if await has_content(http, value_file_name(sha256), sha256):
                    return value_file_name(sha256)
            answer = (await sending).json()
        except TargetError:
            return None  # the other way, by a file, says what is wrong
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        match answer:
            case {"name": str(name)}:
                return name
        return None

    async def _stream(
        self, http: HttpClient, file: InputFile, progress: UploadProgress
    ) -> str | None:
        """What it is called there; ``None`` for a ComfyUI without our pack."""
        there = await has_content(http, file.name, file.sha256)
        if there is None or there:
            return file.name if there else None
        path = _path(file.name, file.sha256)
        match (await http.put(path, file.size, lambda: _chunks(file, progress))).json():
            case {"name": str(name)}:
                return name
        raise self._refused(file)

    async def _upload(self, http: HttpClient, file: InputFile, progress: UploadProgress) -> str:
        try:
            response = await http.post_form(
                "upload/image", lambda: _form(file, progress), file.size
            )
        except RequestTooLarge as error:
            if error.details.get(BY_PROXY):
                raise RequestTooLarge(
                    f"The file {file.name} ({size_text(file.size)}) did not get through. "
                    f"{error.message}",
                    advice=error.advice,
                    details={**error.details, "name": file.name, "size": file.size},
                ) from error
            raise RequestTooLarge(
                f"{self._name} does not take the file {file.name} ({size_text(file.size)}): "
                "it is larger than what this ComfyUI accepts (100 MB, unless set otherwise).",
                advice="Install the Comfy Remote node pack in that ComfyUI, which takes files of "
                "any size, or start it with a larger --max-upload-size (in MB).",
                details={**error.details, "name": file.name, "size": file.size},
            ) from error
        answer = response.json()
        if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
            raise self._refused(file)
        subfolder = str(answer.get("subfolder") or "").replace("\\", "/")
        return f"{subfolder}/{answer['name']}" if subfolder else str(answer["name"])

    def _refused(self, file: InputFile) -> TargetError:
        return TargetError(
            f"{self._name} did not take the file {file.name}.", advice="Check the address."
        )


def _path(name: str, sha256: str) -> str:
    return f"remote/inputs/{quote(name)}?{urlencode({'sha256': sha256})}"


async def _chunks_of(value: EncodedValue) -> AsyncGenerator[bytes | memoryview, None]:
    for chunk in value.chunks():
        yield chunk


async def _placed(folder: InputFolder, file: InputFile) -> str:
    if await folder.has(file.name, file.sha256):
        return file.name
    with input_errors(file.path):
        return await folder.receive(file.name, file.sha256, file_chunks(file.path))


async def _chunks(file: InputFile, progress: UploadProgress) -> AsyncGenerator[bytes, None]:
    sent = 0
    with input_errors(file.path):
        async with aclosing(file_chunks(file.path)) as chunks:
            async for chunk in chunks:
                yield chunk
                sent += len(chunk)
                progress.note(file, sent)


@contextmanager
def _form(file: InputFile, progress: UploadProgress) -> Iterator[aiohttp.FormData]:
    path = PurePosixPath(file.name)
    # No `overwrite`: ComfyUI keeps another file of that name and numbers ours, so that a
    # prompt already waiting there still gets the picture it was queued with. A file with the
    # same content is left, so that an upload may be repeated.
    # Unquoted, that is in UTF-8, as browsers send names: ComfyUI does not undo `%20`.
    form = aiohttp.FormData({"type": "input"}, quote_fields=False)
    if str(path.parent) != ".":
        form.add_field("subfolder", str(path.parent))
    with opened_input(file, progress) as content:
        form.add_field("image", content, filename=path.name)
        yield form
