"""The files that came with a job: decoded, fetched, remembered or taken from a gateway's store,
checked, and put where the engine's client finds them.

Nothing here trusts a name: files lie on disk under numbers, and a name that would not stay
below a folder is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from yarl import URL

from ..errors import InputFileMissing, RequestTooLarge, TargetError, WorkflowInvalid
from ..media.disk_space import make_room
from ..media.file_changes import discard
from ..media.files import CHUNK_SIZE, copy_whole, safe_relative_path, sha256_of, storage_errors
from ..media.receive import Received, receive_file
from ..net.fetch import NETWORK_ERRORS, GuardedHttp, arriving
from ..net.guard import Guard
from ..net.retry import Backoff, TryAgain, retried
from ..targets.base import InputFile
from ..wire.request import InputFileSent, JobRequest
from .settings import WorkerSettings
from .storage import InputStore

__all__ = ["InputCache", "InputReceiver"]

_ASCII_SPACE = str.maketrans("", "", " \t\r\n")
_BACKOFF = Backoff(attempts=4)
_MOST_REDIRECTS = 5
_ADVICE = (
    "Inputs come from public https addresses. Whoever runs the worker may name others in "
    "COMFY_REMOTE_INPUT_HOSTS."
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _sent_files(request: JobRequest) -> list[InputFileSent]:
    """What a request sends, in both of its forms, as one list with checked names."""
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
        store: Has files that a request names by their SHA-256 and that are not remembered.
    """

    def __init__(self, settings: WorkerSettings, store: InputStore | None = None) -> None:
        self._store = store
        self._cache = InputCache(settings.folder / "inputs", limit=settings.input_limit)
        self._guard = Guard(settings.input_hosts, advice=_ADVICE)
        self._limit = settings.input_size

    async def receive(self, request: JobRequest, folder: Path, job_id: str) -> list[InputFile]:
        """Put each file into ``folder``: decoded, fetched, from the cache or from the store.

        A file sent twice under one name is taken once.

        Args:
            folder: Exists, and is private to the job.
            job_id: The queue's, for the store.

        Raises:
            WorkflowInvalid: A name is unsafe, a file is not base64, is empty, cannot be
                fetched, or does not match its SHA-256, or two different files have one name.
            InputFileMissing: Some were named by their SHA-256 only, and are not here:
                ``details["missing_inputs"]`` has the names.
            TargetError: The store could not be asked.
            LocalStorageError: The disk is full.
        """
        files: dict[str, InputFile] = {}
        missing: list[str] = []
        for number, sent in enumerate(_sent_files(request)):
            file = await self._receive(sent, folder / f"input-{number}", job_id)
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
                f"This worker does not have these files: {', '.join(missing)}.",
                advice="Run the workflow again, or send them with their data.",
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
        """DELETE what the client had put into storage for this request; why that failed, if so."""
        problems = []
        async with GuardedHttp(self._guard) as http:
            for url in [file.delete_url for file in request.files if file.delete_url]:
                try:
                    async with http.request("DELETE", url, what="a delete_url") as answer:
                        response = answer.response
                        if response.status >= 300 and response.status != 404:
                            problems.append(
                                f"{response.url.host} answered HTTP {response.status} to DELETE"
                            )
                except TargetError as error:
                    problems.append(error.message)
                except NETWORK_ERRORS as error:
                    # Not its text, which may have the whole address.
                    problems.append(f"it could not be reached: {type(error).__name__}")
        return problems

    async def _receive(self, sent: InputFileSent, path: Path, job_id: str) -> InputFile | None:
        if sent.url is not None and sent.data is None:
            if sent.sha256 is not None and (found := await self._from_cache(sent, path)):
                return found
            file = await self._fetch(sent, sent.url, path)
        elif sent.data is not None:
            # Megabytes of base64 would hold up the gateway, or the SDK, that shares our loop.
            file = await asyncio.to_thread(_decode, sent, sent.data, path)
        elif found := await self._from_cache(sent, path):
            return found
        elif not (stored := await self._from_store(sent, path, job_id)):
            return None
        else:
            file = stored
        await asyncio.to_thread(self._cache.add, file.sha256, path)
        return file

    async def _from_cache(self, sent: InputFileSent, path: Path) -> InputFile | None:
        wanted = sent.sha256 or ""
        if not await asyncio.to_thread(self._cache.take, wanted, path):
            return None
        # A disk, or another who writes to the volume, may have changed it.
        if await asyncio.to_thread(sha256_of, path) != wanted:
            await asyncio.to_thread(discard, path)
            return None
        return InputFile(name=sent.name, path=path, size=path.stat().st_size, sha256=wanted)

    async def _from_store(self, sent: InputFileSent, path: Path, job_id: str) -> InputFile | None:
        sha256 = sent.sha256 or ""
        if self._store is None or not await self._store.fetch(job_id, sha256, path):
            return None
        return InputFile(name=sent.name, path=path, size=path.stat().st_size, sha256=sha256)

    async def _fetch(self, sent: InputFileSent, url: str, path: Path) -> InputFile:
        """Stream a file to ``path``.

        Raises:
            WorkflowInvalid: The address may not be fetched or does not answer, or what came is too
                large, empty, or does not match the SHA-256.
        """
        try:
            received = await retried(
                lambda: self._fetch_once(sent, URL(url), path), _BACKOFF, TryAgain
            )
        except TryAgain as error:
            raise _refused(sent, f"{error}, tried {_BACKOFF.attempts} times") from error
        if sent.sha256 not in (None, received.sha256):
            raise _refused(
                sent, f"its SHA-256 is {received.sha256}, and {sent.sha256} was announced"
            )
        if not received.size:
            raise _refused(sent, "it is empty")
        return InputFile(name=sent.name, path=path, size=received.size, sha256=received.sha256)

    async def _fetch_once(self, sent: InputFileSent, url: URL, path: Path) -> Received:
        what = f"The address of {sent.name}"
        try:
            async with (
                GuardedHttp(self._guard) as http,
                http.request("GET", url, what=what, redirects=_MOST_REDIRECTS) as answer,
            ):
                status, host = answer.response.status, answer.response.url.host
                if status == 429 or status >= 500:
                    raise TryAgain(f"{host} answered HTTP {status}")
                if status != 200:
                    raise _refused(sent, f"{host} answered HTTP {status}")
                chunks = arriving(answer.response.content.iter_chunked(CHUNK_SIZE))
                return await receive_file(chunks, path, limit=self._limit)
        except NETWORK_ERRORS as error:
            raise TryAgain(f"{url.host} could not be reached: {type(error).__name__}") from error
        except RequestTooLarge:
            limit = f"the {self._limit} bytes this worker takes"
            raise _refused(sent, f"it is larger than {limit}") from None
        except TargetError as error:
            raise WorkflowInvalid(error.message, advice=error.advice) from None


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


def _refused(sent: InputFileSent, why: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The file {sent.name} could not be fetched: {why}.",
        advice="Check its url, or send the file itself as data.",
        details={"name": sent.name},
    )


@dataclass(frozen=True, slots=True)
class InputCache:
    """Files by SHA-256 in a folder that several workers may share. All methods block.

    It only ever saves time: what cannot be read or written is as if it were not there.

    Attributes:
        folder: On the volume, if there is one.
        limit: Bytes of all of them together.
    """

    folder: Path
    limit: int

    def take(self, sha256: str, path: Path) -> bool:
        """Put the file at ``path``, if it is here."""
        if not _SHA256.fullmatch(sha256):
            return False
        here = self.folder / sha256
        try:
            shutil.copyfile(here, path)
            os.utime(here)
        except OSError:
            return False
        return True

    def has(self, sha256: str) -> bool:
        """Whether a file is here now."""
        return _SHA256.fullmatch(sha256) is not None and (self.folder / sha256).is_file()

    def add(self, sha256: str, path: Path) -> None:
        """Keep a copy of a file, if it fits."""
        here = self.folder / sha256
        size = path.stat().st_size
        if size > self.limit or not _SHA256.fullmatch(sha256):
            return
        with contextlib.suppress(OSError):
            if here.is_file():
                os.utime(here)
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_room(self.folder.glob("*"), limit=self.limit, needed=size)
            copy_whole(path, here)
