"""Base URLs of targets: checked, and shown without their secrets."""

from __future__ import annotations

import ipaddress

from yarl import URL

from ..errors import ConfigurationError

__all__ = ["POD_PROXY", "base_address", "check_key_is_safe", "is_loopback", "shown"]

POD_PROXY = ".proxy.runpod.net"
"""How the hosts end under which RunPod's proxy has the ports of pods."""


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address can only mean this machine."""
    if not host:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def base_address(url: str) -> URL:
    """The base URL of a target, checked.

    Raises:
        ConfigurationError: It is no ``http`` or ``https`` URL, or it holds more than a host
            and a path. A name and password in it would end in the record and in messages.
    """
    try:
        address = URL(url)
        (address.host or "").encode("idna")  # as whoever resolves it will
    except ValueError:
        address = URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError(
            f"{shown(url)} is not an http or https address.",
            advice="Write it like https://HOST or http://HOST:PORT.",
        )
    if address.user or address.password:
        raise ConfigurationError(
            f"The address {shown(url)} holds a user name or a password.",
            advice="Put the password into an environment variable, and name the user and that "
            "variable in comfy-remote.toml (user, password_env; or key_env for a bearer token).",
        )
    if address.query_string or address.fragment:
        raise ConfigurationError(
            f"The address {shown(url)} has more than a host and a path.",
            advice="Leave away what begins with ? or #.",
        )
    return address


def check_key_is_safe(address: URL) -> None:
    """Refuse an address to which a key would travel readable by everybody on the way.

    Raises:
        ConfigurationError: It is neither ``https`` nor on this machine.
    """
    if address.scheme != "https" and not is_loopback(address.host):
        raise ConfigurationError(
            f"The address {address} is not https, and the key would travel in the clear.",
            advice="Use https (`comfy-remote serve --certfile … --keyfile …`), or reach the "
            "machine through a tunnel: `ssh -L 8000:127.0.0.1:8000 MACHINE`.",
        )


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    try:
        address = URL(url)
    except ValueError:
        return "an address that is not a URL"
    if not address.absolute:
        return url.split("?")[0]
    return str(address.with_user(None).with_query(None).with_fragment(None))
