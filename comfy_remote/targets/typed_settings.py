"""The settings of the target that a person means: for ``comfy-remote init`` and the page's form."""

from __future__ import annotations

import re
from dataclasses import replace

from ..config.stored_secrets import variable_of_server
from ..config.target_settings import TargetSettings
from ..config.trust import origin_of
from ..errors import ConfigurationError
from ..net.address import COMFYUI_PORT, base_address, is_loopback
from .kinds import forms, kind_of, typed_target

__all__ = [
    "comfy_api_settings",
    "comfyui_settings",
    "gateway_settings",
    "runpod_settings",
    "settings_of_address",
    "with_own_key",
]

_V2 = re.compile(r"/v2(?:/([^/]*).*)?$")


def settings_of_address(typed: str) -> TargetSettings:
    """Those of an address of any kind, in its one spelling: see `kinds.typed_target`.

    Raises:
        ConfigurationError: It is no address.
    """
    address = typed_target(typed)
    kind = kind_of(address)
    if kind is None:
        raise ConfigurationError(
            f"{address!r} is no target's address.", advice=f"Use one of: {forms()}."
        )
    if (url := kind.public_url(address)) is not None:
        base_address(url)  # one whose host or port cannot be is no address either
    return TargetSettings(address)


def runpod_settings(typed: str) -> TargetSettings:
    """Those of an endpoint or a pod; also by an endpoint's id alone.

    Raises:
        ConfigurationError: It is no address.
    """
    is_id = re.fullmatch(r"[A-Za-z0-9-]+", typed.strip())
    return settings_of_address(f"runpod:{is_id[0]}" if is_id else typed)


def comfyui_settings(typed: str) -> TargetSettings:
    """Those of a ComfyUI; also by its host alone, with http and ComfyUI's own port on the LAN.

    Raises:
        ConfigurationError: It is no address.
    """
    address = typed_target(typed)
    return settings_of_address(address if kind_of(address) is not None else _url_for(address))


def comfy_api_settings(typed: str) -> TargetSettings:
    """Those of a server with Comfy's API; also by ``cloud``, a deployment's name or a URL alone.

    Raises:
        ConfigurationError: It is no address.
    """
    typed = typed.strip()
    named = typed.lower().startswith("comfy:")
    return settings_of_address(typed if named else f"comfy:{typed}")


def gateway_settings(typed: str, endpoint: str = "") -> TargetSettings:
    """Those of a gateway of ours, without a key.

    Args:
        typed: Its address, with ``/v2/ENDPOINT`` or without; https unless it is this machine.
        endpoint: That of the address by default, else ``local``.

    Raises:
        ConfigurationError: It is no http or https address.
    """
    if "://" not in typed:
        here = is_loopback(typed.partition("/")[0].rpartition(":")[0].strip("[]") or typed)
        typed = f"{'http' if here else 'https'}://{typed}"
    url = base_address(typed.partition("#")[0].partition("?")[0])
    named = _V2.search(url.path)
    path = url.path[: named.start()] if named else url.path
    return TargetSettings(
        f"runpod:{endpoint or (named and named[1]) or 'local'}",
        base_url=str(url.with_path(path.rstrip("/") + "/v2")),
    )


def with_own_key(settings: TargetSettings) -> TargetSettings:
    """The settings with a variable for the key of their server, which no other server's key has.

    They stay as they are if they name a variable, if their kind takes a token of two halves, or if
    its key has a variable already and goes to the provider.
    """
    kind = kind_of(settings.target)
    if kind is None or settings.key_env or kind.default_headers:
        return settings
    if kind.key_variable(settings) and settings.base_url is None:
        return settings
    url = settings.base_url or kind.public_url(settings.target)
    origin = None if url is None else origin_of(url)
    return settings if origin is None else replace(settings, key_env=variable_of_server(origin))


def _url_for(host: str) -> str:
    host = host.rstrip("/")
    if not re.fullmatch(r"[A-Za-z0-9.-]+", host):
        return host
    on_lan = "." not in host or host.endswith((".local", ".lan")) or host.replace(".", "").isdigit()
    return f"http://{host}:{COMFYUI_PORT}" if on_lan else f"https://{host}"
