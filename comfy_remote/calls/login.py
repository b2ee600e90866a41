"""The login of a service, found by its host: never in a workflow, never in an input of a node."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from yarl import URL

from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..secrets import secret
from ..targets.kinds import Kind, kind_of, secret_variables

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["service_headers", "token_variable"]

_PREFIX = "COMFY_REMOTE_TOKEN_"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def service_headers(
    url: URL, configuration: Configuration, environment: Mapping[str, str] = os.environ
) -> dict[str, SecretStr]:
    """What to send to a service so that it lets us in; empty where nothing is set for it.

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
    """The environment variable with a host's token; ``None`` for what is no host's name.

    ``.`` becomes ``_`` and ``-`` becomes ``__``: no two hosts have the same one, so that nobody
    gets another's token by a name that looks alike.

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
