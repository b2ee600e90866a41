"""The bytes of an asset over HTTP: ranges, and a form in which no browser runs them."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from .errors import ApiRefusal
from .stored import StoredAsset

__all__ = ["asset_content", "byte_range", "safe_headers"]

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
# Browsers show these and run nothing of them. Everything else is for saving: HTML and SVG, which
# are pages with scripts, and whatever a browser may take for one some day.
_SHOWN = re.compile(r"image/(?!svg)[a-z0-9.-]+|audio/[a-z0-9.-]+|video/[a-z0-9.-]+|text/plain")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+-]")
_FOR_SAVING = "application/octet-stream"
_NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


async def asset_content(request: web.Request, asset: StoredAsset) -> web.StreamResponse:
    """The answer with an asset's bytes, or with the range of them that is asked for.

    Raises:
        ApiRefusal: ``not_found``: the file is gone, or has lost something in a power cut.
    """
    if not await asyncio.to_thread(asset.is_whole):
        raise ApiRefusal("not_found", "The bytes of the asset are not here any more.")
    wanted = byte_range(request.headers.get(hdrs.RANGE), asset.size)
    if wanted is not None and not wanted and request.method == hdrs.METH_GET:
        refusal = ApiRefusal("range_not_satisfiable", f"The file has {asset.size} bytes.").answer()
        refusal.headers[hdrs.CONTENT_RANGE] = f"bytes */{asset.size}"
        return refusal
    ranged = bool(wanted) and request.method == hdrs.METH_GET
    return _File(asset, ranged=ranged)


def byte_range(header: str | None, size: int) -> range | None:
    """The bytes of a file that a ``Range`` header asks for (RFC 9110, 14.2).

    Returns:
        ``None`` if the whole file is to be sent: there is no header, or one that is malformed, in
        another unit than bytes, or for several ranges. Empty if the file has no such bytes.
    """
    found = None if header is None else _RANGE.fullmatch(header)
    if found is None or found.group(0).endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(min(int(first), size), min(int(last) + 1, size) if last else size)


def safe_headers(content_type: str, name: str) -> dict[str, str]:
    """The headers with which a file may be opened in a browser, whatever it is.

    Args:
        content_type: What whoever sent it says it is.
        name: For saving it.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    shown = _SHOWN.fullmatch(media_type) is not None
    disposition = "inline" if shown else "attachment"
    return {
        hdrs.CONTENT_TYPE: media_type if shown else _FOR_SAVING,
        hdrs.CONTENT_DISPOSITION: f"{disposition}; {_named(name)}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _NO_SCRIPTS,
        hdrs.CACHE_CONTROL: "private",
    }


def _named(name: str) -> str:
    """A name in ``Content-Disposition``; also a plain one, since curl reads no other."""
    plain = _NOT_PLAIN.sub("_", name)
    more = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'filename="{plain}"{more}'


class _File(web.FileResponse):
    """aiohttp's own answer with a file, which takes one range and knows no other header's.

    Args:
        ranged: Whether it is to see the request's range.
    """

    def __init__(self, asset: StoredAsset, *, ranged: bool) -> None:
        name = asset.file_path.rpartition("/")[2]
        super().__init__(asset.path, headers=safe_headers(asset.content_type, name))
        self._ranged = ranged

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """See `aiohttp.web.StreamResponse.prepare`."""
        if hdrs.RANGE in request.headers and not self._ranged:
            headers = request.headers.copy()
            headers.popall(hdrs.RANGE)
            request = request.clone(headers=headers)
        return await super().prepare(request)
