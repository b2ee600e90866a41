"""The one guard for addresses that somebody else names: where they may lead.

A worker's answer, a job's request, a redirect and a webhook name addresses that the owner of
this machine has not seen. They may lead to public servers by https, and to what the owner has
named; never to this machine or its network, where they would reach what strangers must not.
`Guard.check` looks at an address as it is written, `GuardedResolver` at what its name resolves
to: a connection is made only to an IP address that has been looked at, so a name that resolves
differently the second time gains nothing.
"""

from __future__ import annotations

import socket
import urllib.request
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ..data_class import dataclass
from ..errors import ConfigurationError, TargetError
from .address import base_address, ip_in, is_loopback

__all__ = ["Guard", "GuardedResolver", "PrivateAddress", "is_public", "proxy_for"]

_LEADS_AWAY = "{} leads to a private address, and nothing is sent there or fetched from it"
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Azure's own services for a machine (keys among them) have a public address.
_AZURE_HOST = IPv4Address("168.63.129.16")
# IETF protocol assignments, and Oracle's own services for a machine (192.0.0.192). Python before
# 3.12.4 takes most of them for public ones.
_PROTOCOLS = IPv4Network("192.0.0.0/24")


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an IP address is one of the public internet.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4) is judged by that one.
    """
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:
            return is_public(IPv4Address(int(ip) & 0xFFFF_FFFF))
        if (inner := ip.ipv4_mapped or ip.sixtofour) is not None:
            return is_public(inner)
        return ip in _GLOBAL_UNICAST and ip.is_global
    if ip == _AZURE_HOST or ip in _PROTOCOLS:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment (on Windows and macOS, the system) wants for a URL.

    Never one for this machine's own servers. Not aiohttp's ``trust_env``: that would also
    send the passwords of ``~/.netrc``.
    """
    host = url.host
    if host is None or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(url.scheme)


@dataclass(frozen=True, slots=True)
class Guard:
    """Which addresses that somebody else names may be used.

    Attributes:
        allowed: ``HOST`` or ``HOST:PORT`` that the owner of this machine has named: may be
            private.
        named_http: Whether those may be plain http, too; on this machine itself they always may.
        origin: The address of the server that names them, if the owner has named that server: its
            own scheme, host and port are allowed as well.
        advice: For errors: what to do about an address that is refused.
    """

    allowed: frozenset[str] = frozenset()
    named_http: bool = True
    origin: URL | None = None
    advice: str = ""

    def check(self, url: str | URL, what: str, *, plain_http: bool = False) -> URL:
        """An address as it may be asked, judged by what is written in it.

        Args:
            url: Its query stays, and is never shown: it may be a signature.
            what: What to call it in errors, for example ``The address of a.png``.
            plain_http: Whether a public one may be plain http.

        Raises:
            TargetError: It may not be used.
        """
        try:
            address = base_address(str(url).partition("?")[0].partition("#")[0])
            whole = url if isinstance(url, URL) else URL(url)
        except (ConfigurationError, ValueError) as error:
            why = error.message if isinstance(error, ConfigurationError) else "It is not a URL."
            raise TargetError(f"{what} cannot be used. {why}", advice=self.advice) from None
        host = address.raw_host or ""
        if address.origin() == self._origin:
            return whole
        named = self.names(host, address.port)
        plain_http = plain_http or (named and (self.named_http or is_loopback(host)))
        if address.scheme != "https" and not plain_http:
            raise TargetError(f"{what} is not https: {address}.", advice=self.advice)
        ip = ip_in(host)
        if named:
            return whole
        # Only an address of this machine's own network has a zone.
        if is_loopback(host) or (ip is not None and (not is_public(ip) or "%" in host)):
            raise self.private(host, what)
        return whole

    def names(self, host: str, port: int | None) -> bool:
        """Whether the owner has named this host."""
        host = host.removesuffix(".").lower()
        spellings = [host, f"[{host}]"] if ":" in host else [host]
        return any(name in self.allowed or f"{name}:{port}" in self.allowed for name in spellings)

    def permits(self, host: str, port: int | None, address: str) -> bool:
        """Whether a connection to ``host`` may go to this IP address, which it resolved to."""
        own = self._origin
        if self.names(host, port) or (own and (own.raw_host, own.port) == (host, port)):
            return True
        ip = ip_in(address)
        return ip is not None and is_public(ip)

    def resolved(self, host: str, port: int) -> list[str]:
        """The IP addresses that a connection to ``host`` may go to. Blocking.

        Raises:
            PrivateAddress: There is none.
            OSError: The name cannot be resolved.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        permitted = [one for one in addresses if self.permits(host, port, one)]
        if not permitted:
            raise PrivateAddress(_LEADS_AWAY.format(host))
        return permitted

    def refuse_private(self, url: URL) -> None:
        """Raise `PrivateAddress` for a host that leads into a private network, if known. Blocking.

        For requests by way of a proxy, which resolves names itself, also those unknown here.
        """
        try:
            self.resolved(url.raw_host or "", url.port or 443)
        except PrivateAddress:
            raise
        except OSError:
            return

    def private(self, host: str, what: str) -> TargetError:
        """The error for an address that leads into a private network."""
        return TargetError(f"{what} leads into a private network: {host}.", advice=self.advice)

    @property
    def _origin(self) -> URL | None:
        return self.origin.origin() if self.origin is not None else None


class PrivateAddress(OSError):
    """A name leads into a private network."""


class GuardedResolver(AbstractResolver):
    """Resolves names to the addresses that a guard permits, for aiohttp's connections.

    Args:
        guard: Whose named hosts may have any address; all others public ones only.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The permitted addresses of ``host``; see `Guard.resolved`."""
        found = await self._inner.resolve(host, port, family)
        permitted = [one for one in found if self._guard.permits(host, port, one["host"])]
        if not permitted:
            raise PrivateAddress(_LEADS_AWAY.format(host))
        return permitted

    async def close(self) -> None:
        """Nothing to release."""
        await self._inner.close()
