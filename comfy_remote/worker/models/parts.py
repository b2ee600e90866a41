"""A large file whose parts are fetched at once, over several connections, and given in order.

In order, because what is on the disk is then always the file's beginning: it is hashed while it is
written, and what was begun is continued after a kill, as where a file comes in one stream. Only
servers that give the parts of one version of a file are asked like that; any that does not is left
to the one stream of `download`, which knows what to do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from ...errors import ModelUnavailable
from ...media.files import CHUNK_SIZE
from ...net.retry import Backoff, Retries, TryAgain
from .http import Answer, ModelHttp
from .link import Location

__all__ = ["NotInParts", "PartLimits", "PartedFile", "Parts"]

_BACKOFF = Backoff(attempts=6, first=0.5, longest=60.0)


class NotInParts(Exception):
    """The server does not give the parts of one version of the file; says why."""


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How a file is divided.

    Attributes:
        size: Bytes of one part; so many of each are in memory at most.
        at_once: Parts of one file that are fetched at once.
        in_all: Parts of all files together.
    """

    size: int = 4 * 1024 * 1024
    at_once: int = 8
    in_all: int = 14


@dataclass(frozen=True, slots=True)
class PartedFile:
    """The version of a file whose parts are wanted.

    Attributes:
        etag: A strong entity tag, if the server gives one.
        hashed: Whether its SHA-256 is known: then that says in the end whether it is this version.
    """

    location: Location
    size: int
    etag: str | None
    hashed: bool


class Parts:
    """Fetches files in parts.

    Args:
        http: Asks the servers.
    """

    def __init__(self, http: ModelHttp, limits: PartLimits) -> None:
        self._http = http
        self._limits = limits
        self._free = asyncio.Semaphore(self._limits.in_all)

    def help_with(self, left: int) -> bool:
        """Whether so many bytes are enough for parts to be quicker than one stream."""
        return left >= 3 * self._limits.size

    async def read(self, file: PartedFile, start: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file from an offset to its end, in order.

        A part whose connection breaks is continued where it broke, up to six times in a row
        without a byte.

        Raises:
            NotInParts: The server gives something else than the parts of this version.
            TryAgain: A connection kept breaking.
        """
        source = _Source(file)
        waiting: deque[_Fetch] = deque()
        at = start
        try:
            while at < file.size or waiting:
                while at < file.size and len(waiting) < self._limits.at_once:
                    end = min(at + self._limits.size, file.size)
                    waiting.append(_Fetch(self._part(source, at, end)))
                    at = end
                async with aclosing(waiting[0].chunks()) as chunks:
                    async for chunk in chunks:
                        yield chunk
                waiting.popleft()
        finally:
            await asyncio.gather(*(fetch.stop() for fetch in waiting))

    async def _part(self, source: _Source, at: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``at`` to ``end``."""
        retries = Retries(_BACKOFF)
        while at < end:
            asked = source.location
            wanted, etag = f"bytes={at}-{end - 1}", source.file.etag
            try:
                async with self._free, self._http.get(asked, wanted, etag) as answer:
                    source.check(answer, at)
                    async for chunk in answer.chunks(CHUNK_SIZE):
                        at += len(chunk)
                        if at > end:
                            raise NotInParts("more came than was asked for")
                        retries.progressed()
                        yield chunk
                reason = TryAgain("the connection was cut")
            except TryAgain as error:
                reason = error
            except ModelUnavailable as error:
                if not source.expired(asked):
                    raise NotInParts(error.message) from error
                continue
            if at < end:
                await retries.wait_after(reason)


class _Source:
    """Where the parts of one file are asked for.

    A site redirects to its storage, at an address that is valid for a while. The next part is asked
    for there: a model has thousands of parts, and sites count requests.
    """

    def __init__(self, file: PartedFile) -> None:
        self.file = file
        self.location = file.location

    def check(self, answer: Answer, at: int) -> None:
        """Note where an answer came from, if it is the part that was asked for.

        Raises:
            NotInParts: It is not.
        """
        if not answer.partial or answer.start != at:
            raise NotInParts("another part came than was asked for")
        if answer.size != self.file.size:
            raise NotInParts("the file has another size")
        same = answer.etag == self.file.etag or (self.file.hashed and answer.etag is None)
        if self.file.etag and not same:
            raise NotInParts("the file has changed, or nothing says that it has not")
        if answer.url is not None and answer.url != self.location.url:
            # The login was for the site, and is not sent to others.
            self.location = replace(self.location, url=answer.url, headers={})

    def expired(self, asked: Location) -> bool:
        """Whether a refusal there may mean only that the storage's address is no longer valid: then
        the site is asked again.
        """
        if asked is self.file.location:
            return False
        if self.location is asked:
            self.location = self.file.location
        return True


class _Fetch:
    """One part on its way here, as far as it has come."""

    def __init__(self, part: AsyncGenerator[bytes, None]) -> None:
        self._part = part
        self._here: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """What has come, joined to larger pieces, and what still comes."""
        while (chunk := await self._here.get()) is not None:
            joined, size = [chunk], len(chunk)
            ended = False
            while size < CHUNK_SIZE and not self._here.empty():
                chunk = self._here.get_nowait()
                if chunk is None:
                    ended = True
                    break
                joined.append(chunk)
                size += len(chunk)
            yield joined[0] if len(joined) == 1 else b"".join(joined)
            if ended:
                break
        await self._task  # raises what ended it

    async def stop(self) -> None:
        """End it, whatever has come."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with aclosing(self._part) as part:
                async for chunk in part:
                    self._here.put_nowait(chunk)
        finally:
            self._here.put_nowait(None)
