"""Reading requests' bodies within limits of size and time, and writing JSON quickly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from aiohttp import web
from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ..aio import within
from ..errors import RateLimited, RequestTooLarge, WorkflowInvalid
from ..json_text import check_json_values
from ..net.throughput import Throughput

__all__ = ["Bodies", "body_chunks", "json_answer", "json_bytes", "number_in_query"]

# Seconds that a body may have without a byte, unless the server says otherwise.
_LONGEST_PAUSE = 30.0
_CHUNK = 256 * 1024
_SLOWEST = 8 * 1024  # bytes a second
_PARSED_AT_A_TIME = 8
_BUSY_AGAIN_AFTER = 5
_QUICKLY_PARSED = 16 * 1024  # bytes: a thread would take longer to begin

_T = TypeVar("_T")


class Bodies:
    """Reads the bodies of one server's requests, within limits for all of them together.

    Args:
        room: Bytes of all bodies in memory at a time.
        values: Values that JSON may hold; see `check_json_values`.
        pause: Seconds without a byte that a body may have; see `body_chunks`.
    """

    def __init__(self, room: int, values: int, pause: float = _LONGEST_PAUSE) -> None:
        self._pause = pause
        self._room = room
        self._values = values
        self._held = 0
        self._parsing = asyncio.Semaphore(_PARSED_AT_A_TIME)

    @asynccontextmanager
    async def receive(self, request: web.Request, limit: int) -> AsyncIterator[bytes]:
        """The body, which counts as long as the context lasts.

        Raises:
            RequestTooLarge: It has more than ``limit`` bytes.
            RateLimited: There is no room for it now.
            WorkflowInvalid: It came too slowly.
        """
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        with self.counting(limit) as count:
            parts: list[bytes] = []
            if request.content.is_eof():  # it is here already, as small ones are
                parts.append(request.content.read_nowait(-1))
                count(len(parts[0]))
            else:
                async for chunk in body_chunks(request.content.read, self._pause):
                    count(len(chunk))
                    parts.append(chunk)
            yield b"".join(parts)

    @contextmanager
    def counting(self, limit: int) -> Iterator[Callable[[int], None]]:
        """Count bytes as they arrive, so a client that announces many and sends none takes no room.

        Args:
            limit: How many this one may have.

        Yields:
            A function to call with the number of bytes that have arrived.

        Raises:
            RequestTooLarge: They are more than ``limit``.
            RateLimited: There is no room for them now.
        """
        size = 0

        def count(more: int) -> None:
            nonlocal size
            size += more
            self._held += more
            if size > limit:
                raise _too_large(limit)
            if self._held > self._room:
                raise RateLimited(
                    "Too many large requests are arriving at the same time.",
                    advice="Send it again in a moment.",
                    details={"retry_after": _BUSY_AGAIN_AFTER},
                )

        try:
            yield count
        finally:
            self._held -= size

    @asynccontextmanager
    async def parsed(self, body: bytes, parse: Callable[[bytes], _T]) -> AsyncIterator[_T]:
        """What ``parse`` makes of a body, without blocking the event loop.

        Parsed, JSON takes many times its size: so only a few contexts of this last at a time. Small
        bodies do not count: what is made of them may wait for the disk, and does so together.
        """
        if len(body) <= _QUICKLY_PARSED:
            yield parse(body)
            return
        async with self._parsing:
            yield await asyncio.to_thread(parse, body)

    def json_object(self, body: bytes) -> dict[str, JsonValue]:
        """A body as a JSON object. Python's ``NaN`` and ``Infinity`` are taken, too.

        Raises:
            RequestTooLarge: It has too many values.
            WorkflowInvalid: It is no JSON object.
        """
        check_json_values(body, self._values)
        try:
            value = from_json(body)
        except ValueError as error:
            raise WorkflowInvalid(f"The request's body is not JSON: {error}.") from None
        if not isinstance(value, dict):
            raise WorkflowInvalid("The request's body is not a JSON object.")
        return value


async def body_chunks(
    read: Callable[[int], Awaitable[bytes]], pause: float = _LONGEST_PAUSE
) -> AsyncIterator[bytes]:
    """A body as it arrives; a client that sends too slowly is given up.

    Args:
        read: Gives the next bytes, of so many at most; none at the end.
        pause: Seconds that may pass without a byte.

    Raises:
        WorkflowInvalid: Nothing came for so long, or less than 8 KiB a second meanwhile.
    """
    throughput = Throughput(round(_SLOWEST * pause), pause)

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await within(read(_CHUNK), pause):
            yield chunk

    try:
        async for chunk in throughput.watched(chunks()):
            yield chunk
    except asyncio.TimeoutError:
        raise _too_slow() from None


def number_in_query(
    request: web.Request, name: str, otherwise: int, *, least: int, most: int
) -> int:
    """A whole number in a request's query.

    Raises:
        WorkflowInvalid: It is not a whole number, or out of range.
    """
    given = request.query.get(name)
    if given is None:
        return otherwise
    # The length first: a number of thousands of digits is neither read nor counted with.
    if given.isascii() and given.isdecimal() and len(given) <= len(str(most)):
        number = int(given)
        if least <= number <= most:
            return number
    raise WorkflowInvalid(f"?{name}= must be a whole number from {least} to {most}.")


def json_bytes(value: JsonValue) -> bytes:
    """``value`` as JSON; ``NaN`` and ``Infinity``, which JSON lacks, become null."""
    return to_json(value, inf_nan_mode="null")


def json_answer(value: JsonValue, *, status: int = 200) -> web.Response:
    """``value`` as an answer."""
    return web.Response(body=json_bytes(value), status=status, content_type="application/json")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request's body is larger than the {limit} bytes ({limit / 2**20:g} MiB) accepted.",
        advice="Send large files by URL, or make them smaller.",
        details={"limit": limit},
    )


def _too_slow() -> WorkflowInvalid:
    return WorkflowInvalid(
        "The request's body arrived too slowly.",
        advice=f"Send at least {_SLOWEST // 1024} KiB a second.",
    )
