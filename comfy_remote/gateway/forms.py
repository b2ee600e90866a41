"""Forms that arrive as multipart/form-data, part by part: nothing of them is stored here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ..aio import within
from ..errors import WorkflowInvalid
from .body import body_chunks

__all__ = ["form_parts", "part_chunks"]

_PAUSE = 30.0


async def form_parts(
    request: web.Request, pause: float = _PAUSE
) -> AsyncIterator[tuple[str, BodyPartReader]]:
    """The parts of a form, each with its name, as they arrive.

    Each is to be read to its end (`part_chunks`) before the next is asked for. The end comes only
    after the form's own end: one that was cut is refused.

    Args:
        pause: Seconds that may pass before the next part begins.

    Raises:
        WorkflowInvalid: It is no form, is cut or malformed, or came too slowly.
    """
    with _readable_form():
        form = await request.multipart()
    while (part := await _next_part(form, pause)) is not None:
        if not isinstance(part, BodyPartReader) or not part.name:
            raise WorkflowInvalid("The form has a part without a name.")
        yield part.name, part


async def part_chunks(part: BodyPartReader, pause: float = _PAUSE) -> AsyncIterator[bytes]:
    """The content of a part as it arrives; see `body_chunks`.

    Raises:
        WorkflowInvalid: The form is cut or malformed, or came too slowly.
    """
    with _readable_form():
        async for chunk in body_chunks(part.read_chunk, pause):
            yield chunk


async def _next_part(
    form: MultipartReader, pause: float
) -> MultipartReader | BodyPartReader | None:
    try:
        with _readable_form():
            return await within(form.next(), pause)
    except asyncio.TimeoutError:
        raise WorkflowInvalid("The form arrived too slowly.") from None


@contextlib.contextmanager
def _readable_form() -> Iterator[None]:
    """Refuse a form that aiohttp cannot read: no boundary, an early end, too many headers."""
    try:
        yield
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError, web.RequestPayloadError):
        raise WorkflowInvalid(
            "The form cannot be read.", advice="Send multipart/form-data as `curl -F` does."
        ) from None
