"""The names by which this machine's own servers may be asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping

from .address import POD_PROXY, ip_in, is_loopback

__all__ = ["allowed_by_environment", "is_named", "is_own_name"]

# Nobody on the internet can own a name below these.
_LOCAL = (".local", ".internal", ".home.arpa")


def is_own_name(host: str | None, allowed: Collection[str] = ()) -> bool:
    """Whether no other site's page can be served under this host name.

    That is so for the names of the owner's servers, and for IP addresses. ``evil.example`` can make
    its name resolve to this machine, but a browser that opens it still asks for ``evil.example``.

    Args:
        host: Without a port; in lower case.
        allowed: Names that the owner has listed: ``comfy.example.org``, or ``*.example.ts.net``
            for all below.
    """
    if not host:
        return False
    host = host.removesuffix(".")
    if is_loopback(host) or host.endswith(".localhost") or ip_in(host) is not None:
        return True
    if host.endswith(POD_PROXY):  # RunPod alone says where these lead
        return True
    whole = socket.gethostname().lower()
    own = {whole, whole.partition(".")[0]} - {""}
    local = {name + end for name in own for end in _LOCAL}
    return host in own or host in local or is_named(host, allowed)


def is_named(host: str | None, allowed: Collection[str]) -> bool:
    """Whether a host name is one of a list, or below one of its ``*.example.org``."""
    if not host:
        return False
    host = host.removesuffix(".")
    for entry in allowed:
        name = entry.strip().lower()
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def allowed_by_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names in ``COMFY_REMOTE_ALLOWED_HOSTS``, separated by commas."""
    names = environment.get("COMFY_REMOTE_ALLOWED_HOSTS", "").split(",")
    return tuple(name.strip() for name in names if name.strip())
