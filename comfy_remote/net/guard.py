"""Addresses that came from elsewhere: where we may follow them, and through which proxy."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ..errors import ConfigurationError, TargetError
from .address import base_address, is_loopback

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

__all__ = ["PrivateAddress", "PublicResolver", "checked", "proxy_for"]


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment (on Windows and macOS, the system) wants for a URL.

    Never one for this machine's own servers. Not aiohttp's ``trust_env``: that would also
    send the passwords of ``~/.netrc``.
    """
    host = url.host
    if host is None or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(url.scheme)


def checked(
    url: str,
    *,
    target_is_here: bool,
    what: str = "An output's address",
    advice: str = "Configure the worker's storage with a public https address.",
) -> URL:
    """An address that came from elsewhere, if it is one that may be fetched.

    Args:
        url: As the target gave it.
        target_is_here: Whether the target itself is on loopback. Only then may it name this
            machine's own servers, also by plain http; another's answer could make us call them.
        what: What to call it in errors.
        advice: What to do about one that may not be fetched.

    Raises:
        TargetError: It is not https, or leads into a private network.
    """
    try:
        # The query is a signature, which opens the output to whoever reads it: not shown.
        address = base_address(url.partition("?")[0])
    except ConfigurationError as error:
        raise TargetError(f"{what} cannot be used. {error.message}") from None
    if is_loopback(address.host) and target_is_here:
        return URL(url)
    if address.scheme != "https":
        raise TargetError(f"{what} is not https: {address}.", advice=advice)
    literal = _literal(address.host or "")
    if is_loopback(address.host) or (literal is not None and not literal.is_global):
        raise TargetError(f"{what} leads into a private network: {address.host}.", advice=advice)
    return URL(url)


class PrivateAddress(OSError):
    """A name leads into a private network."""


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only.

    A worker's answer names the host of an output; without this, a hostile one could make us
    fetch from the user's own network.
    """

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Public addresses of ``host``.

        Raises:
            PrivateAddress: There is none.
        """
        found = await self._inner.resolve(host, port, family)
        public = [one for one in found if (ip := _literal(one["host"])) and ip.is_global]
        if not public:
            raise PrivateAddress(
                f"{host} leads to a private address, and nothing is fetched from there"
            )
        return public

    async def close(self) -> None:
        """Nothing to release."""
        await self._inner.close()


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    # ::ffff:10.0.0.1 is 10.0.0.1 by another name.
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
