"""Whether RunPod can load an image, and how large it is: asked of its registry, without a login.

Source of facts: the OCI distribution specification (``GET /v2/NAME/manifests/REFERENCE``) and the
token protocol of Docker's registry (``WWW-Authenticate: Bearer realm=…,service=…,scope=…``), which
Docker Hub and GitHub's registry speak.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

from ...aio import within
from ...errors import ComfyRemoteError
from ...json_text import parse_json
from ...net.address import is_loopback
from ...net.fetch import NETWORK_ERRORS, GuardedHttp
from ...net.guard import Guard
from ...types import JsonValue, mapping, mappings

__all__ = ["ImageFacts", "image_facts"]

_SECONDS = 10.0
_LARGEST = 1024 * 1024  # bytes of a manifest
_MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
_REFERENCE = re.compile(
    r"(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PART = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What its registry says of an image.

    Attributes:
        state: ``public``; ``not public`` if it does not exist or wants a login, which registries
            do not tell apart; ``unknown`` if the registry did not answer.
        size: Bytes of its layers, compressed, as they are loaded; ``None`` if that is not known.
    """

    state: Literal["public", "not public", "unknown"]
    size: int | None = None


async def image_facts(
    image: str, *, guard: Guard | None = None, seconds: float = _SECONDS
) -> ImageFacts:
    """What is known of an image, such as ``ghcr.io/owner/name:tag``. Raises nothing.

    Args:
        guard: Which addresses may be asked; those of the public internet by default.
        seconds: For all of it.
    """
    host, _, rest = image.partition("/")
    if not rest or not ("." in host or ":" in host):
        host, rest = "registry-1.docker.io", image if "/" in image else f"library/{image}"
    elif host in ("docker.io", "index.docker.io"):
        host = "registry-1.docker.io"
    named = _REFERENCE.fullmatch(rest)
    if named is None:
        return ImageFacts("unknown")
    try:
        async with GuardedHttp(guard or Guard(), patience=seconds) as http:
            asking = _Asking(http, host, named["path"])
            return await within(asking.ask(named["digest"] or named["tag"] or "latest"), seconds)
    except (ComfyRemoteError, asyncio.TimeoutError, ValueError, *NETWORK_ERRORS):
        return ImageFacts("unknown")


class _Asking:
    """Questions about one image."""

    def __init__(self, http: GuardedHttp, host: str, path: str) -> None:
        self._http, self._path = http, path
        # As Docker does it: one on this machine has no certificate.
        scheme = "http" if is_loopback(host.rpartition(":")[0] or host) else "https"
        self._base = f"{scheme}://{host}/v2/{path}/manifests/"
        self._login: dict[str, str] = {}

    async def ask(self, reference: str) -> ImageFacts:
        manifest = await self._manifest(reference)
        if isinstance(manifest, ImageFacts):
            return manifest
        if isinstance(manifest.get("manifests"), list):
            digest = next(filter(None, map(_for_linux, mappings(manifest["manifests"]))), None)
            if digest is None:
                return ImageFacts("public")
            manifest = await self._manifest(digest)
            if isinstance(manifest, ImageFacts):
                return ImageFacts("public")
        sizes = [layer.get("size") for layer in mappings(manifest.get("layers"))]
        known = [size for size in sizes if isinstance(size, int) and size >= 0]
        return ImageFacts("public", sum(known) if known else None)

    async def _manifest(self, reference: str) -> dict[str, JsonValue] | ImageFacts:
        """A manifest; or why there is none to see."""
        for _ in range(2):
            status, asks, body = await self._get(self._base + reference, login=self._login)
            if status == 401 and not self._login and (token := await self._token(asks)):
                self._login = {"Authorization": f"Bearer {token}"}
                continue
            break
        if status == 200:
            return dict(mapping(parse_json(body)))
        return ImageFacts("not public" if status in (401, 403, 404) else "unknown")

    async def _token(self, asks: str) -> str | None:
        """The token for whoever has no login, from where the registry says."""
        said = dict(_PART.findall(asks))
        if not asks.lower().startswith("bearer ") or "realm" not in said:
            return None
        query = {"service": said.get("service", ""), "scope": f"repository:{self._path}:pull"}
        status, _, body = await self._get(f"{said['realm']}?{urlencode(query)}")
        answer = mapping(parse_json(body)) if status == 200 else {}
        token = answer.get("token") or answer.get("access_token")
        return token if isinstance(token, str) and token.isascii() and token.isprintable() else None

    async def _get(self, url: str, login: dict[str, str] | None = None) -> tuple[int, str, bytes]:
        """Status, what login it asks for, and the beginning of the body."""
        async with self._http.request(
            "GET",
            url,
            what="The image's registry",
            headers={"Accept": _MANIFESTS if login is not None else "application/json"},
            login=login,
            redirects=3,
        ) as answer:
            response = answer.response
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LARGEST:
                    raise ValueError("no manifest is that large")
            return response.status, response.headers.get("WWW-Authenticate", ""), bytes(body)


def _for_linux(manifest: dict[str, JsonValue]) -> str | None:
    """The digest of an index's entry, if it is what RunPod's hosts run."""
    platform = mapping(manifest.get("platform"))
    if (platform.get("os"), platform.get("architecture")) != ("linux", "amd64"):
        return None
    digest = manifest.get("digest")
    return digest if isinstance(digest, str) and digest.startswith("sha256:") else None
