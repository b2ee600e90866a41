"""A target as somebody fills it in in the page, and the settings that it becomes.

Scripts of other packs share the page's origin, so no form may be able to send a stored key
to another server than its own. So a form names no variable: that of a key follows from its server
(`stored_secrets.variable_of_server`), or is the provider's, which `opening` sends to the provider
alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from yarl import URL

from ..config.own_file import name_from
from ..config.stored_secrets import variable_of_server
from ..config.target_settings import TargetSettings
from ..config.trust import origin_of
from ..errors import ConfigurationError
from ..net.address import base_address
from ..schedule.prefer import Prefer
from ..targets.kinds import kind_of, members_of, secret_variables
from ..targets.runpod.kind import API_KEY_VARIABLE as ACCOUNT_KEY
from ..targets.typed_settings import (
    comfy_api_settings,
    comfyui_settings,
    gateway_settings,
    runpod_settings,
    settings_of_address,
    with_own_key,
)
from ..types import JsonValue

__all__ = ["ACCOUNT_KEY", "FilledIn", "TargetForm", "form_of"]

_Word = Annotated[str, Field(max_length=500)]
_Key = Annotated[SecretStr, Field(max_length=8192)]
_FRONT = re.compile(r"[^.]*?--(?P<app>[^.]+)-front\.modal\.run")
_HEADERS = {"Modal-Key": "ID", "Modal-Secret": "SECRET"}


class TargetForm(BaseModel):
    """What the page's form sends.

    Attributes:
        kind: What was chosen; what the address means counts, except for ``gateway``.
        endpoint: Of a gateway.
        prefer: Of a route, whose address lists its members: ``route:lan,gpu``.
        key: What opens it: an API key, a token, the first half of Modal's.
        secret: The other half.
        replaces: The name of the target that is being changed.
        test: Whether it is tried before it is written.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["runpod", "comfyui", "gateway", "modal", "comfy", "route"]
    name: _Word = ""
    address: _Word
    endpoint: _Word = ""
    price_per_hour: Annotated[float, Field(ge=0, le=1000)] | None = None
    prefer: Prefer | None = None
    key: _Key | None = None
    secret: _Key | None = None
    replaces: _Word | None = None
    test: bool = True


@dataclass(frozen=True, slots=True)
class FilledIn:
    """What a form means.

    Attributes:
        keys: To be stored, by variable.
    """

    name: str
    settings: TargetSettings
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, form: TargetForm, before: TargetSettings | None = None) -> FilledIn:
        """Read a form.

        Args:
            before: What the target was, if it is being changed. Its login, and what else the form
                does not show, stay as long as its server does; else they are dropped.

        Raises:
            ConfigurationError: The address means nothing, or a key cannot be used for it.
        """
        settings = _SETTINGS[form.kind](form.address.strip(), form)
        if before is not None and _server(before) == _server(settings):
            settings = _with_login(settings, before)
        settings = replace(settings, price_per_hour=form.price_per_hour)
        # A pod takes no key; the account that has it does.
        variables = secret_variables(settings) or ((ACCOUNT_KEY,) if form.kind == "runpod" else ())
        given = [one.get_secret_value().strip() for one in (form.key, form.secret) if one]
        given = [one for one in given if one]
        if given and len(given) != len(variables):
            raise ConfigurationError(
                f"{settings.target} takes {len(variables) or 'no'} key"
                f"{'' if len(variables) == 1 else 's'}, and {len(given)} "
                f"{'was' if len(given) == 1 else 'were'} given.",
                advice="Fill in both halves of the token." if form.kind == "modal" else "",
            )
        name = form.name.strip() or _name_for(settings)
        return cls(name, settings, dict(zip(variables, given, strict=False)))


def form_of(settings: TargetSettings) -> dict[str, JsonValue] | None:
    """The fields of the form that shows a target; ``None`` for a kind that has no form."""
    kind = kind_of(settings.target)
    if kind is None or kind.name not in ("runpod", "modal", "pod", "comfyui", "comfy", "route"):
        return None
    form = {"pod": "runpod"}.get(kind.name, kind.name)
    address, endpoint = settings.target, ""
    if kind.name == "comfy":
        address = settings.target.removeprefix(kind.prefix)
    if settings.base_url and kind.name == "runpod":
        form, address, endpoint = (
            "gateway",
            settings.base_url,
            settings.target.removeprefix("runpod:"),
        )
    elif settings.base_url:
        address = settings.base_url
    return {
        "kind": form,
        "address": address,
        "endpoint": endpoint,
        "price_per_hour": settings.price_per_hour,
        **({"prefer": settings.prefer} if form == "route" else {}),
    }


def _runpod(address: str, _form: TargetForm) -> TargetSettings:
    return runpod_settings(address)


def _comfyui(address: str, form: TargetForm) -> TargetSettings:
    return _with_typed_key(comfyui_settings(address), form)


def _comfy(address: str, form: TargetForm) -> TargetSettings:
    return _with_typed_key(comfy_api_settings(address), form)


def _with_typed_key(settings: TargetSettings, form: TargetForm) -> TargetSettings:
    """With a variable for the server's key, if one was typed."""
    if form.key is None or not form.key.get_secret_value().strip():
        return settings
    return with_own_key(settings)


def _gateway(address: str, form: TargetForm) -> TargetSettings:
    # Never without one: the provider's own key would be sent to a server on this machine.
    return with_own_key(gateway_settings(address, form.endpoint.strip()))


def _modal(address: str, form: TargetForm) -> TargetSettings:
    if "://" not in address and not address.endswith(".modal.run"):
        return settings_of_address(f"modal:{address.removeprefix('modal:')}")
    url = base_address(address if "://" in address else f"https://{address}")
    front = _FRONT.fullmatch(url.host or "")
    origin = _origin(str(url))
    # Not Modal's own variables: with them, any app on Modal would get the owner's token.
    headers = {field: variable_of_server(origin, part) for field, part in _HEADERS.items()}
    app = form.endpoint.strip() or (front["app"] if front else "")
    if not app:
        raise ConfigurationError(
            f"{origin} does not show which app it is.", advice="Give the app's name instead."
        )
    return TargetSettings(f"modal:{app}", base_url=origin, headers_env=headers)


def _route(address: str, form: TargetForm) -> TargetSettings:
    settings = TargetSettings(address, prefer=form.prefer)
    if not members_of(settings):
        raise ConfigurationError("The route has no members.", advice="Choose its targets.")
    return settings


_SETTINGS = {
    "runpod": _runpod,
    "comfyui": _comfyui,
    "gateway": _gateway,
    "modal": _modal,
    "comfy": _comfy,
    "route": _route,
}


def _origin(url: str) -> str:
    origin = origin_of(url)
    if origin is None:
        raise ConfigurationError(f"{url!r} is no http or https address.")
    return origin


def _server(settings: TargetSettings) -> tuple[str, str | None]:
    """What its secrets belong to: the provider, or the origin of a server."""
    kind = kind_of(settings.target)
    if kind is None:
        return "", None
    url = settings.base_url or kind.public_url(settings.target)
    return kind.name, None if url is None else origin_of(url)


def _with_login(settings: TargetSettings, before: TargetSettings) -> TargetSettings:
    login = ("key_env", "user", "password_env", "headers_env")
    others = (
        "ca_file",
        "partner_key_env",
        "keep_stored",
        "bucket",
        "volume",
        "sync_token_env",
        "policy",
        "patience",
        "at_most",
    )
    stays = (*login, *others) if any(getattr(before, name) for name in login) else others
    return replace(settings, **{name: getattr(before, name) for name in stays})


def _name_for(settings: TargetSettings) -> str:
    """A name, where none was given."""
    if settings.base_url:
        host = URL(settings.base_url).host or ""
        words = settings.target.partition(":")[2] if settings.target.startswith("modal") else host
    else:
        kind = kind_of(settings.target)
        url = kind.public_url(settings.target) if kind is not None else None
        words = settings.target.partition(":")[2]
        if url and not (kind is not None and kind.name == "comfy" and "://" not in words):
            words = URL(url).host or ""
    return name_from(words.removesuffix(".local"))
