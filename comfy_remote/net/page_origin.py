"""Whether a request may come from another site's page, through somebody's browser.

A page may send requests to any address that its browser reaches: this machine, its network. Two
things give it away. Browsers say which page a request comes from (``Origin``, ``Sec-Fetch-Site``);
and a site that points its own name at this machine, to look like this server's own page ("DNS
rebinding"), still asks for its own name (``Host``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import SplitResult, urlsplit

from ..errors import AuthenticationError
from .own_names import is_named, is_own_name

__all__ = ["from_another_page", "origin_refusal", "page_refusal"]

_PORTS = {"http": 80, "https": 443}
_FILE = "your own comfy-remote.toml"


def page_refusal(
    method: str, headers: Mapping[str, str], allowed: Collection[str] = (), *, file: str = _FILE
) -> AuthenticationError | None:
    """Why a request is refused; ``None`` for the server's own page, and for programs.

    A program that is not a browser is known by what it does not send: browsers say the origin of
    everything but ``GET`` and ``HEAD``. Of those two nothing tells it from a browser, so they are
    answered only under this server's own names.

    Args:
        allowed: Further names of this server, that its owner has listed: see `is_own_name`.
        file: Where they list them, for the advice.
    """
    if refused := origin_refusal(headers, allowed, file=file):
        return refused
    if "Origin" not in headers and method not in ("GET", "HEAD"):
        return None
    host = _parsed(f"//{headers.get('Host', '')}")
    origin = _parsed(headers.get("Origin", ""))
    if is_named(origin.hostname, allowed) or is_own_name(host.hostname, allowed):
        return None
    name = host.hostname
    if not name:
        return AuthenticationError("The request does not say which host it asks for.")
    return AuthenticationError(
        f"The request asks for {name}, a name that this server does not know as its own.",
        advice=f"Open the page by the machine's IP address. {_advice(name, file)}",
    )


def origin_refusal(
    headers: Mapping[str, str], allowed: Collection[str] = (), *, file: str = _FILE
) -> AuthenticationError | None:
    """Why a request is refused that another page has made, as its browser says; else ``None``."""
    if not from_another_page(headers, allowed):
        return None
    name = _parsed(headers.get("Origin", "")).hostname
    return AuthenticationError(
        f"The request comes from a page of {name or 'another site'}, which is not this server's "
        "own page.",
        advice="Use this server's own page, under the address that it was opened with."
        + (f" {_advice(name, file)}" if name else ""),
    )


def from_another_page(headers: Mapping[str, str], allowed: Collection[str] = ()) -> bool:
    """Whether a browser says that another page than this server's own made the request.

    Args:
        allowed: Names under which this server's own page is reached, whatever ``Host`` says: a
            proxy in front of it may have changed that.
    """
    origin = headers.get("Origin")
    if origin is not None and is_named(_parsed(origin).hostname, allowed):
        return False
    if headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin"):
        return True
    return origin is not None and not _same(_parsed(origin), headers.get("Host", ""))


def _same(origin: SplitResult, host: str) -> bool:
    """Whether an origin is what a browser calls the page of this host."""
    default = _PORTS.get(origin.scheme)
    if default is None or not origin.hostname:
        return False
    asked = _parsed(f"//{host}")
    return (origin.hostname, _port(origin, default)) == (asked.hostname, _port(asked, default))


def _port(address: SplitResult, default: int) -> int | None:
    try:
        return address.port or default
    except ValueError:
        return None


def _parsed(address: str) -> SplitResult:
    try:
        return urlsplit(address.lower())
    except ValueError:  # a bracket too few
        return urlsplit("")


def _advice(name: str, file: str) -> str:
    return (
        f'If {name} is a name of your own for this server, add the line allowed_hosts = ["{name}"] '
        f"at the top of {file}, or set COMFY_REMOTE_ALLOWED_HOSTS={name} in the environment that "
        "the server starts in."
    )
