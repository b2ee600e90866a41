"""Which kind of link a line of a repo_list has; and the plain kinds: any address, a bucket.

A bucket (Cloudflare R2, S3) is laid out like ComfyUI's ``models`` folder. Each file is asked for by
a signed address, so that it comes here the same way as all others, and the key is never sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from yarl import URL

from ...errors import ConfigurationError
from ...net.bucket import Bucket, BucketSettings
from ...wire.repo_list import ModelLine
from .civitai import CivitaiLink
from .folders import MODEL_SUFFIXES, folder_of
from .huggingface import HuggingFaceLink
from .kinds import folder_on_way
from .link import JsonGetter, Link, Location, unavailable
from .settings import ModelSettings

__all__ = ["understand"]

# Long enough for the largest model on a slow line.
_VALID_SECONDS = 12 * 3600


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

    async def folder(self, get_json: JsonGetter) -> None:
        """Not known: only the file can say."""
        del get_json

    async def locate(self, get_json: JsonGetter) -> Location:
        """See `Link`. Nothing is asked."""
        del get_json
        return Location(
            shown=self.identity.partition("?")[0], url=self.url.with_fragment(None), name=self.name
        )


def understand(line: ModelLine, settings: ModelSettings) -> Link:
    """The link of a line. Asks nobody.

    Raises:
        ModelUnavailable: It leads to a publisher we know, but to no model.
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


@dataclass(frozen=True, slots=True)
class BucketLink:
    """One object of the bucket.

    Attributes:
        key: Of the object, below the bucket's prefix: ``loras/style.safetensors``.
    """

    settings: BucketSettings
    key: str

    @classmethod
    def parse(cls, url: str, folder: str, settings: ModelSettings) -> BucketLink | None:
        """The link, if it is ``r2:PATH`` or an address below the bucket's endpoint.

        In both, ``%20`` is a space, which would end the link.

        Args:
            folder: The model's folder, which ``r2:PATH`` may omit; ``""`` if it is not known.

        Raises:
            ConfigurationError: There is no bucket.
            ModelUnavailable: It is another bucket of that endpoint.
        """
        bucket = settings.bucket
        if url.startswith("r2:"):
            if bucket is None:
                raise ConfigurationError(
                    f"{url} is in a bucket, and this worker has none.",
                    advice="Set R2_ENDPOINT, R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY.",
                )
            path = unquote(url.removeprefix("r2:")).lstrip("/")
            whole = not folder or path.startswith(f"{folder}/")
            return cls(bucket, path if whole else f"{folder}/{path}").checked()
        if bucket is None or not url.startswith("http"):
            return None
        key = bucket.name_at(URL(url))
        if key == "":
            ours = bucket.key("").rstrip("/")
            raise unavailable(
                f"The link {url.partition('?')[0]} does not lead into this worker's bucket, "
                f"{bucket.bucket}{'/' * bool(ours)}{ours}.",
                "Use r2:FILE, or an address below R2_ENDPOINT/R2_BUCKET.",
            )
        return None if key is None else cls(bucket, key).checked()

    def checked(self) -> BucketLink:
        """Itself.

        Raises:
            ModelUnavailable: Its path has ``..``: some services follow that out of the prefix, and
                out of the bucket.
        """
        if {".", ".."} & set(self.key.split("/")):
            raise unavailable(
                f"The link to {self.identity} leads out of the bucket's folder.",
                "Write the path from there: r2:loras/FILE.",
            )
        return self

    @property
    def identity(self) -> str:
        """``r2:BUCKET/KEY``."""
        return f"r2:{self.settings.bucket}/{self.settings.key(self.key)}"

    @property
    def name(self) -> str:
        """The key's last part."""
        return PurePosixPath(self.key).name

    async def folder(self, get_json: JsonGetter) -> str | None:
        """See `Link`. By the key: a bucket is laid out like ``models``."""
        del get_json
        return folder_on_way(self.key)

    async def locate(self, get_json: JsonGetter) -> Location:
        """See `Link`. The signature is made here."""
        del get_json
        signed = await Bucket(self.settings).sign("GET", self.key, _VALID_SECONDS)
        return Location(
            shown=self.identity,
            url=URL(signed, encoded=True),
            name=self.name,
            denied="Check R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, that they may read this "
            "bucket, and this machine's clock.",
            missing=f"The bucket has no {self.settings.key(self.key)}. It is laid out like "
            "ComfyUI's models folder: checkpoints/…, loras/….",
        )
