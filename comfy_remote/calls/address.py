"""Where a service may be, and its login: by its host, never in a workflow or a node's input."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from yarl import URL

from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError
from ..net.address import base_address, ip_in, is_loopback
from ..secrets import secret
from ..targets.kinds import Kind, kind_of, secret_variables

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["call_address", "service_headers", "token_variable"]

_PREFIX = "COMFY_REMOTE_TOKEN_"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def call_address(url: str) -> URL:
    """The address of a service, checked.

    ``https`` anywhere; ``http`` only to this machine and to the private network, where nobody
    between can read along. Not to link-local addresses, where clouds keep their keys.

    Raises:
        ConfigurationError: It may not be called.
    """
    address = base_address(url)
    ip = ip_in(address.host)
    if ip is not None and (ip.is_link_local or ip.is_multicast or ip.is_unspecified):
        raise ConfigurationError(
            f"{address.host} cannot be the address of a service.", advice="Check the address."
        )
    near = is_loopback(address.host) or (
        ip.is_private if ip is not None else _is_local_name(address.host or "")
    )
    if address.scheme != "https" and not near:
        raise ConfigurationError(
            f"The address {address} is not https, and the values would travel in the clear.",
            advice="Use https, or reach the machine through a tunnel: "
            "`ssh -L 8000:127.0.0.1:8000 MACHINE`.",
        )
    return address


def service_headers(
    url: URL, configuration: Configuration, environment: Mapping[str, str] = os.environ
) -> dict[str, SecretStr]:
    """The login of a service as HTTP headers; empty where none is set.

    The login of a target in ``comfy-remote.toml`` whose address has the same origin (an app on
    Modal that is not named there gets no proxy token), else the bearer token in the environment
    variable (or key ring) that `token_variable` names.

    Raises:
        ConfigurationError: The target's login cannot be used.
    """
    for name, settings in configuration.targets.items():
        kind = kind_of(settings.target)
        if kind is not None and secret_variables(settings) and _has_origin(kind, settings, url):
            return kind.login(name, settings, environment)
    variable = token_variable(url.host or "")
    token = secret(variable, environment) if variable else None
    if token is None:
        return {}
    from pydantic import SecretStr

    return {"Authorization": SecretStr(f"Bearer {token.get_secret_value()}")}


def token_variable(host: str) -> str | None:
    """The environment variable with a host's token; ``None`` where that is not a host's name.

    ``.`` becomes ``_`` and ``-`` becomes ``__``: no two hosts share a variable, so a similar
    name cannot get another's token.

    >>> token_variable("api.my-company.example")
    'COMFY_REMOTE_TOKEN_API_MY__COMPANY_EXAMPLE'
    """
    labels = host.lower().split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return _PREFIX + "_".join(label.replace("-", "__") for label in labels).upper()


def _has_origin(kind: Kind, settings: TargetSettings, url: URL) -> bool:
    try:
        return URL(kind.service_url(settings)).origin() == url.origin()
    except ValueError:
        return False  # `runpod:…`, `sandbox`


def _is_local_name(host: str) -> bool:
    return "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))
