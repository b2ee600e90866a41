"""Which kind of link a line of a repo_list has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from yarl import URL

from ...wire.repo_list import ModelLine
from .bucket import BucketLink
from .civitai import CivitaiLink
from .folders import MODEL_SUFFIXES, folder_of
from .huggingface import HuggingFaceLink
from .link import JsonGetter, Link, Location, unavailable
from .settings import ModelSettings

__all__ = ["PlainLink", "understand"]


@dataclass(frozen=True, slots=True)
class PlainLink:
    """A file at any other address."""

    url: URL

    @property
    def identity(self) -> str:
        """Origin and path. The query, which may be a signature, only as a fingerprint."""
        bare = str(self.url.with_user(None).with_query(None).with_fragment(None))
        query = self.url.raw_query_string
        return f"{bare}?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else bare

    @property
    def name(self) -> str | None:
        """The path's last part, if it is a model's name."""
        name = PurePosixPath(self.url.path).name
        return name if PurePosixPath(name).suffix.lower() in MODEL_SUFFIXES else None

    async def locate(self, get_json: JsonGetter) -> Location:
        """See `Link`. Nothing is asked."""
        del get_json
        return Location(
            shown=self.identity.partition("?")[0],
            url=self.url.with_fragment(None),
            name=self.name,
        )


def understand(line: ModelLine, settings: ModelSettings) -> Link:
    """The link of a line. Asks nobody.

    Raises:
        ModelUnavailable: It leads to a place we know, but to no model.
        ConfigurationError: It is in a bucket, and there is none.
    """
    text = line.url
    if not text.startswith(("hf:", "r2:")):
        try:
            address = URL(text, encoded=text.isascii())
            usable = bool(address.host) and address.port is not None and URL(text).host
        except ValueError:
            usable = False
        if not usable:
            raise unavailable(f"{line.shown} has no usable address.", "Copy it from a browser.")
    return (
        BucketLink.parse(text, folder_of(line.kind), settings)
        or (HuggingFaceLink.parse(text, settings))
        or CivitaiLink.parse(text, settings)
        or PlainLink(address)
    )
