"""Headers for a ComfyUI behind a login: a bearer token, a password, or whatever it asks for.

``comfy-remote.toml`` names the environment variables that hold the values, never the values.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..secrets import KEY_RING_SERVICE, SECRETS, secret

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .target_settings import TargetSettings

__all__ = ["login_headers"]

# RFC 9110: what a field's name may be made of.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


def login_headers(
    name: str, settings: TargetSettings, environment: Mapping[str, str] = os.environ
) -> dict[str, SecretStr]:
    """What to send with every request.

    Args:
        environment: Where they are; what it lacks may be in the key ring.

    Raises:
        ConfigurationError: A variable is not set, or the settings contradict each other.
    """
    if settings.user is None and settings.password_env is not None:
        raise ConfigurationError(
            f"The target {name!r} has a password_env, but no user.", advice="Add user."
        )
    if settings.user is not None and settings.password_env is None:
        raise ConfigurationError(
            f"The target {name!r} has a user, but no password_env.",
            advice="Add password_env, the name of the variable that holds the password.",
        )
    headers: dict[str, SecretStr] = {}
    for field, variable in settings.headers_env.items():
        if _FIELD_NAME.fullmatch(field) is None or field.lower() in _NOT_OURS:
            raise ConfigurationError(
                f"The target {name!r} has {field!r} in headers_env, which is no header that can "
                "be set.",
                advice="Give the header that the login asks for, such as X-Api-Key.",
            )
        headers[field] = _value(name, variable, environment)
    logins = [
        *(field for field in headers if field.lower() == "authorization"),
        *(["key_env"] if settings.key_env else []),
        *(["password_env"] if settings.password_env else []),
    ]
    if len(logins) > 1:
        raise ConfigurationError(
            f"The target {name!r} has several logins: {', '.join(logins)}.",
            advice="Keep one of them.",
        )
    if settings.key_env is not None:
        token = _value(name, settings.key_env, environment)
        headers["Authorization"] = _authorization("Bearer", token.get_secret_value())
    if settings.user is not None and settings.password_env is not None:
        password = _value(name, settings.password_env, environment)
        pair = f"{settings.user}:{password.get_secret_value()}"
        SECRETS.add("a login", pair)  # in base64 it is as good as the password
        coded = base64.b64encode(pair.encode()).decode("ascii")
        headers["Authorization"] = _authorization("Basic", coded)
    return headers


def _value(name: str, variable: str, environment: Mapping[str, str]) -> SecretStr:
    found = secret(variable, environment)
    if found is None:
        raise ConfigurationError(
            f"The target {name!r} takes a secret from the environment variable {variable}, which "
            "is not set.",
            advice=f"Set {variable}, or put it into the key ring (with the package keyring: "
            f"`keyring set {KEY_RING_SERVICE} {variable}`).",
        )
    return found


def _authorization(scheme: str, credentials: str) -> SecretStr:
    from pydantic import SecretStr

    return SecretStr(f"{scheme} {credentials}")
