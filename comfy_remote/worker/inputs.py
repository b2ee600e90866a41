"""The files that came with a job: decoded, checked, and put where the engine's client finds them.

Nothing here trusts a name: files lie on disk under numbers, and a name that would not stay
below a folder is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import JsonValue

from ..errors import InputFileMissing, WorkflowInvalid
from ..media.files import safe_relative_path, sha256_of, storage_errors
from ..targets.base import InputFile
from ..wire.request import InputFileSent, JobRequest
from .input_cache import InputCache
from .input_urls import delete_urls, fetch_input

__all__ = ["InputReceiver", "sent_files"]

_ASCII_SPACE = str.maketrans("", "", " \t\r\n")


def sent_files(request: JobRequest) -> list[InputFileSent]:
    """What a request sends, in both of its forms, as one list.

    Raises:
        WorkflowInvalid: A name would not stay below a folder.
    """
    images = [
        InputFileSent(name=image.name, data=image.image, sha256=image.sha256)
        for image in request.images
    ]
    return [
        file.model_copy(update={"name": _checked_name(file.name)})
        for file in [*images, *request.files]
    ]


class InputReceiver:
    """Brings a request's files here, and remembers them for the next request.

    Args:
        cache: Where they are remembered.
        hosts: See `fetch_input`.
        limit: Bytes that one which is fetched may have.
    """

    def __init__(self, cache: InputCache, *, hosts: Collection[str], limit: int) -> None:
        self._cache = cache
        self._hosts = hosts
        self._limit = limit

    async def receive(self, request: JobRequest, folder: Path) -> list[InputFile]:
        """Put each file into ``folder``: decoded, fetched, or from the cache.

        A file sent twice under one name is taken once.

        Args:
            folder: Exists, and is private to the job.

        Raises:
            WorkflowInvalid: A name is unsafe, a file is not base64, is empty, cannot be
                fetched, or does not match its SHA-256, or two different files have one name.
            InputFileMissing: Some were named by their SHA-256 only, and are not here:
                ``details["missing_inputs"]`` has the names.
            LocalStorageError: The disk is full.
        """
        files: dict[str, InputFile] = {}
        missing: list[str] = []
        for number, sent in enumerate(sent_files(request)):
            file = await self._receive(sent, folder / f"input-{number}")
            if file is None:
                missing.append(sent.name)
                continue
            known = files.setdefault(file.name, file)
            if known.sha256 != file.sha256:
                raise WorkflowInvalid(
                    f"Two different files are named {file.name}.",
                    advice="Give each file a name of its own.",
                    details={"name": file.name},
                )
        if missing:
            raise InputFileMissing(
                f"This worker has not seen these files before: {', '.join(missing)}.",
                advice="Send them with their data.",
                details={"missing_inputs": list[JsonValue](missing)},
            )
        return list(files.values())

    async def kept(self, files: Iterable[InputFile]) -> list[str]:
        """The SHA-256 of those files that are remembered."""
        known = dict.fromkeys(file.sha256 for file in files)
        if not known:
            return []
        return await asyncio.to_thread(lambda: [one for one in known if self._cache.has(one)])

    async def delete_stored(self, request: JobRequest) -> list[str]:
        """Clear away what the client had put into storage for this request.

        Returns:
            Why it did not work, where it did not.
        """
        urls = [file.delete_url for file in request.files if file.delete_url]
        return await delete_urls(urls, hosts=self._hosts) if urls else []

    async def _receive(self, sent: InputFileSent, path: Path) -> InputFile | None:
        if sent.url is not None and sent.data is None:
            if sent.sha256 is not None and (found := await self._from_cache(sent, path)):
                return found
            file = await fetch_input(sent, path, hosts=self._hosts, limit=self._limit)
        elif sent.data is not None:
            # Megabytes of base64 would hold up the gateway, or the SDK, that shares our loop.
            file = await asyncio.to_thread(_decode, sent, sent.data, path)
        else:
            return await self._from_cache(sent, path)
        await asyncio.to_thread(self._cache.add, file.sha256, path)
        return file

    async def _from_cache(self, sent: InputFileSent, path: Path) -> InputFile | None:
        wanted = sent.sha256 or ""
        if not await asyncio.to_thread(self._cache.take, wanted, path):
            return None
        # A disk, or another who writes to the volume, may have changed it.
        if await asyncio.to_thread(sha256_of, path) != wanted:
            path.unlink()
            return None
        return InputFile(name=sent.name, path=path, size=path.stat().st_size, sha256=wanted)


def _decode(sent: InputFileSent, data: str, path: Path) -> InputFile:
    content = _decoded(sent.name, data)
    sha256 = hashlib.sha256(content).hexdigest()
    if sent.sha256 is not None and sent.sha256 != sha256:
        raise WorkflowInvalid(
            f"The file {sent.name} arrived damaged: its SHA-256 is {sha256}, and {sent.sha256} "
            "was announced.",
            advice="Send it again.",
            details={"name": sent.name},
        )
    with storage_errors(path):
        path.write_bytes(content)
    return InputFile(name=sent.name, path=path, size=len(content), sha256=sha256)


def _checked_name(name: str) -> str:
    plain = name.replace("\\", "/")
    if str(safe_relative_path(plain)) != plain:
        raise WorkflowInvalid(
            f"{name!r} cannot be the name of an input file.",
            advice="Use a plain file name, or a relative path with / in it.",
            details={"name": name},
        )
    return plain


def _decoded(name: str, text: str) -> bytes:
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise _not_base64(name, "its data: URI is not base64")
    try:
        content = base64.b64decode(text.translate(_ASCII_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_base64(name, str(error)) from None
    if not content:
        raise _not_base64(name, "it is empty")
    return content


def _not_base64(name: str, reason: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The file {name} could not be decoded: {reason}.",
        advice='Send its bytes as base64, with or without "data:image/png;base64," before them.',
        details={"name": name},
    )
