"""The link in a line of a repo_list, and where its file is fetched from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pydantic import JsonValue, SecretStr
from yarl import URL

from ...errors import ModelUnavailable

__all__ = ["JsonGetter", "Link", "Location", "unavailable"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where to GET a model.

    Attributes:
        shown: What to call it in messages. No secret is in it, unlike in ``url``.
        url: May hold a signature. Never shown, never stored.
        headers: Sent to the origin of ``url``, and to no other that it redirects to.
        name: The file's name; ``None`` where only the answer says.
        sha256: 64 lower-case hex digits, where known.
        etag_is_sha256: Whether an entity tag of 64 hex digits is the file's SHA-256.
        denied: What to do about a 401, a 403 or a login page.
        missing: What to do about a 404.
    """

    shown: str
    url: URL = field(repr=False)
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    name: str | None = None
    sha256: str | None = None
    etag_is_sha256: bool = False
    denied: str = "The server wants a login that this worker does not have."
    missing: str = "Check the link in a browser."


JsonGetter: TypeAlias = Callable[[Location], Awaitable[JsonValue]]
"""Asks an API; see `http.ModelHttp.json`."""


class Link(Protocol):
    """One link of a repo_list. Made without asking anybody."""

    @property
    def identity(self) -> str:
        """Identifies the model at its publisher. Holds no secret."""

    @property
    def name(self) -> str | None:
        """The file's own name, if the link has it."""

    async def folder(self, get_json: JsonGetter) -> str | None:
        """The folder below ``models`` for it, as the link or its publisher says.

        Raises:
            ModelUnavailable: The publisher could not be asked, or has no such model.
        """

    async def locate(self, get_json: JsonGetter) -> Location:
        """Where the file is.

        Raises:
            ModelUnavailable: There is no such model, or it may not be had.
        """


def unavailable(what: str, advice: str, **details: JsonValue) -> ModelUnavailable:
    """The error of a model that cannot be had."""
    return ModelUnavailable(what, advice=advice, details=details)
