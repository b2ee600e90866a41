"""Whether a browser's request comes from another site's page, by ComfyUI's rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

__all__ = ["is_foreign"]


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin made the request with these headers.

    Browsers let any page post to 127.0.0.1, but they say which page it was. As in ComfyUI,
    the origin is compared only where the server is addressed as a loopback host.

    Args:
        headers: By name, in any case (aiohttp's).
    """
    if headers.get("Sec-Fetch-Site") == "cross-site":
        return True
    host, origin = headers.get("Host"), headers.get("Origin")
    if not host or not origin:
        return False
    try:
        return not _same_site(urlsplit(f"//{host.lower()}"), urlsplit(origin.lower()))
    except ValueError:  # no address, or no port
        return True


def _same_site(host: SplitResult, origin: SplitResult) -> bool:
    if not _is_loopback(host.hostname) or not host.hostname or not origin.hostname:
        return True
    ports = {host.port, origin.port}
    # Some clients leave the port out of one of the two; then it says nothing.
    return host.hostname == origin.hostname and (len(ports) == 1 or None in ports)


def _is_loopback(name: str | None) -> bool:
    if not name:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
