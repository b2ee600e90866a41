"""Addresses below a server's origin, and the links that its answers give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from yarl import URL

from ...wire.comfy_api import API_PATH

__all__ = ["Links"]

_WRITTEN = re.compile(r"[!-~]{1,2000}")
"""What an address is written with: no spaces, and nothing that ends a line."""


@dataclass(frozen=True, slots=True)
class Links:
    """The paths of one server's API.

    Attributes:
        origin: Scheme, host and port: what the key belongs to.
        mount: Below which path its API is; empty, or with ``/`` before it.
    """

    origin: URL
    mount: str

    @classmethod
    def of(cls, url: str) -> Links:
        """Of the address that the user gave, without ``/api/v2``."""
        address = URL(url)
        return cls(address.origin(), address.raw_path.rstrip("/"))

    def path(self, *parts: str) -> str:
        """A path of the API, below the origin."""
        return f"{self.mount}{API_PATH}/" + "/".join(quote(one, safe="") for one in parts)

    def own(self, link: str) -> str | None:
        """Path and query of a link of this origin; ``None`` for one that leads elsewhere.

        Links are absolute, or relative to the origin.
        """
        if _WRITTEN.fullmatch(link) is None:
            return None
        try:
            address = self.origin.join(URL(link, encoded=True))
            return address.raw_path_qs if address.origin() == self.origin else None
        except ValueError:
            return None
