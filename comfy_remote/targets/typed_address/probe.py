"""What a server speaks, found out by two requests."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

from yarl import URL

from ...aio import within
from ...errors import ComfyRemoteError
from ...json_text import parse_json

if TYPE_CHECKING:
    from ...net.http import HttpClient

__all__ = ["Speaks", "what_speaks"]

Speaks: TypeAlias = Literal["comfyui", "comfy"]
"""ComfyUI's own API (also of a server that has both), or Comfy API v2."""

_PATIENCE = 10.0  # seconds, for all questions
_LARGEST = 1024 * 1024  # bytes of an answer
_NO_JOB = "00000000-0000-0000-0000-000000000000"
_ANY_STATUS = tuple(range(300, 600))


async def what_speaks(http: HttpClient, url: str) -> Speaks | None:
    """Ask what is at a URL; ``None`` if the answers do not tell, or none comes within 10 seconds.

    Args:
        http: To the URL's origin, or to the URL itself.
    """
    below = URL(url).path.rstrip("/") if URL(http.base_url).path in ("", "/") else ""
    try:
        return await within(_asked(http, below), _PATIENCE)
    except (ComfyRemoteError, asyncio.TimeoutError):
        return None


async def _asked(http: HttpClient, below: str) -> Speaks | None:
    answer = await http.get_once(f"{below}/api/v2/jobs/{_NO_JOB}", _ANY_STATUS, _LARGEST)
    if answer.status not in (401, 403, 404):
        return None
    if not answer.body.lstrip().startswith(b"{") or not _is_refusal(answer.body):
        # A login in front of it answers by 401 or 403 for any server.
        return "comfyui" if answer.status == 404 else None
    stats = await http.get_once(f"{below}/system_stats", _ANY_STATUS, _LARGEST)
    with suppress(ValueError):
        said = parse_json(stats.body)
        if stats.status == 200 and isinstance(said, dict) and "system" in said:
            return "comfyui"
    return "comfy"


def _is_refusal(body: bytes) -> bool:
    """Whether it has the form of Comfy API's errors."""
    from pydantic import ValidationError  # here: a ComfyUI's answer is no JSON

    from ...wire.comfy_api import ErrorEnvelope

    try:
        ErrorEnvelope.model_validate_json(body)
    except ValidationError:
        return False
    return True
