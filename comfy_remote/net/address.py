"""Base URLs of targets: checked, and shown without their secrets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from yarl import URL

from ..advice import Hint
from ..errors import ConfigurationError

__all__ = [
    "COMFYUI_PORT",
    "POD_PROXY",
    "base_address",
    "check_key_is_safe",
    "host_list",
    "ip_in",
    "is_loopback",
    "pod_proxy_url",
    "shown",
]

POD_PROXY = ".proxy.runpod.net"
"""How the names of hosts end that RunPod's proxy gives to the ports of pods."""
COMFYUI_PORT = 8188

_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?|[0-9a-f:]+")


# What a resolver takes for an IPv4 address in an unusual form: its last part is a number
# (2130706433, 127.1, 0177.0.0.1, 0x7f.1). No name in the DNS ends like that.
_ENDS_IN_A_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=//)[^/,\s]*@|[^/:,@\s]+:[^/:,@\s]+@")
_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.IGNORECASE)


def ip_in(host: str | None) -> IPv4Address | IPv6Address | None:
    """The IP address that a URL's host is, without brackets and zone; ``None`` for a name.

    ``::ffff:10.0.0.1`` is ``10.0.0.1``.
    """
    try:
        ip = ipaddress.ip_address((host or "").strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host and host.removesuffix(".").lower() == "localhost":
        return True
    ip = ip_in(host)
    return ip is not None and ip.is_loopback


def host_list(environ: Mapping[str, str], variable: str) -> frozenset[str]:
    """The ``HOST`` and ``HOST:PORT`` in a variable, which commas or spaces separate.

    Raises:
        ConfigurationError: An entry is neither, and so would never match.
    """
    entries = frozenset(environ.get(variable, "").replace(",", " ").lower().split())
    for entry in sorted(entries):
        if not _HOST_AND_PORT.fullmatch(entry):
            raise ConfigurationError(
                f"{variable} has {shown(entry)!r}, which is not a host.",
                advice="Write hosts like nas.local or nas.local:9000, without http:// and paths, "
                "separated by commas.",
            )
    return entries


def base_address(url: str) -> URL:
    """The base URL of a target, checked.

    Raises:
        ConfigurationError: It is not an ``http`` or ``https`` URL, its host is an IP address in an
            unusual form (``127.1``), or it holds more than a host and a path. A name and
            password in it would end in the record and in messages.
    """
    try:
        address = URL(url)
        (address.host or "").encode("idna")  # as a resolver will
    except ValueError:
        address = URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError(
            f"{shown(url)} is not an http or https address.",
            advice="Write it like https://HOST or http://HOST:PORT.",
        )
    _check_host(address)
    if address.user or address.password:
        raise ConfigurationError(
            f"The address {shown(url)} holds a user name or a password.",
            advice="Put the password into an environment variable, and name the user and that "
            "variable in comfy-remote.toml (user, password_env; or key_env for a bearer token).",
        )
    if address.query_string or address.fragment:
        raise ConfigurationError(
            f"The address {shown(url)} has more than a host and a path.",
            advice="Remove the part that begins with ? or #.",
        )
    return address


def _check_host(address: URL) -> None:
    """Refuse hosts that one library takes for a name, and another for an IP address."""
    host = address.raw_host or ""
    if ip_in(host) is not None:
        return
    if _ENDS_IN_A_NUMBER.search(host):
        raise ConfigurationError(
            f"The host {host} is an IP address in an unusual form.",
            advice="Write it as four numbers with dots, like 192.168.1.20.",
        )
    if not _HOST_NAME.fullmatch(host):
        raise ConfigurationError(
            f"{shown(str(address))} has characters in its host that no name may have.",
            advice="Write it like https://HOST or http://HOST:PORT.",
        )


def check_key_is_safe(address: URL) -> None:
    """Refuse (`ConfigurationError`) an address that is neither ``https`` nor on this machine."""
    if address.scheme != "https" and not is_loopback(address.host):
        raise ConfigurationError(
            f"The address {address} is not https, and the key would travel in the clear.",
            advice=Hint.HTTPS_OR_TUNNEL(),
        )


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and query; also one behind ``KIND:``."""
    try:
        address = URL(url)
    except ValueError:
        return "an address that is not a URL"
    if not address.absolute:
        return _LOGIN.sub("", url.split("?")[0])
    return str(address.with_user(None).with_query(None).with_fragment(None))


def pod_proxy_url(pod_id: str, port: int = COMFYUI_PORT) -> str:
    """The address of a pod's port at RunPod's proxy."""
    return f"https://{pod_id}-{port}{POD_PROXY}"
