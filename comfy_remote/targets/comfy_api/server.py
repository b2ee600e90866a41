"""Requests to one server: its paths, and its refusals as our errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ComfyRemoteError
from ...net.answers import REFUSALS, Response
from ...net.http import HttpClient
from ...workflow.prompt import Prompt
from .links import Links
from .own_servers import is_comfys
from .refusals import api_error, no_api, refused

__all__ = ["ApiServer"]

_REFUSALS = tuple(REFUSALS)
# A ComfyUI's answer to a POST to an address that it does not know: it may be GET for a page.
_NOT_ALLOWED = 405
# Bytes. A job is asked for again and again.
_LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ApiServer:
    """One server.

    Attributes:
        http: To its origin; open.
        name: As the user calls it.
        where: That and its address, for errors.
        keyed: Whether requests have a key.
    """

    http: HttpClient
    links: Links
    name: str
    where: str
    keyed: bool

    async def get(self, path: str) -> Response:
        """GET once, for callers that ask again anyway.

        Raises:
            ComfyRemoteError: It refused, or did not answer.
        """
        answer = await self.http.get_once(path, accept=_REFUSALS, limit=_LARGEST)
        if answer.status >= 400:
            raise self.refused(answer)
        return answer

    async def post(self, *parts: str, body: bytes) -> Response:
        """POST once; a refusal (4xx) is returned."""
        return await self.http.post_once(self.links.path(*parts), body, accept=_REFUSALS)

    async def submit(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a job; a refusal (4xx) is returned. Raises as `HttpClient.submit`."""
        return await self.http.submit(self.links.path("jobs"), body, headers, accept=_REFUSALS)

    async def submit_again(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a job that was sent before under the same key, once; a refusal is returned."""
        return await self.http.post_once(self.links.path("jobs"), body, headers, accept=_REFUSALS)

    def refused(self, answer: Response, prompt: Prompt | None = None) -> ComfyRemoteError:
        """The error behind a refusal."""
        if answer.status == _NOT_ALLOWED and api_error(answer) is None:
            url = f"{self.links.origin}{self.links.mount}"
            return no_api(self.name, url, answer.status)
        return refused(
            answer,
            self.name,
            self.where,
            keyed=self.keyed,
            comfys=is_comfys(self.links.origin),
            prompt=prompt,
        )
