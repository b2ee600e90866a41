"""Servers that speak Comfy API v2, as a kind of target: Comfy's cloud and deployments, and others.

Facts: development/api-development/ of github.com/Comfy-Org/docs (the three surfaces, their base
URLs and keys; ``COMFY_BASE_URL`` and ``COMFY_API_KEY``, as comfy-sdk 0.5.0 reads them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...config.login import login_headers
from ...config.target_settings import TargetSettings
from ...errors import ConfigurationError
from ...net.address import base_address, host_list, is_loopback, shown
from ...secrets import secret
from ..kinds import Billing, Can, Choose, Kind
from .own_servers import CLOUD_HOST, DEPLOYMENTS, is_comfys

if TYPE_CHECKING:
    from pydantic import SecretStr
    from yarl import URL

    from ..base import Target

__all__ = [
    "BASE_URL_VARIABLE",
    "KEY_VARIABLE",
    "SERVER_DETAIL",
    "ComfyApiKind",
]

KEY_VARIABLE = "COMFY_API_KEY"
"""The variable with the key of the account, as Comfy's own SDK knows it."""
BASE_URL_VARIABLE = "COMFY_BASE_URL"
"""The variable with the address of a server, likewise."""
SERVER_DETAIL = "comfy_api"
"""In the details of a job's reference: the URL of the server that has it."""

_CLOUD = "cloud"
# Facts of these two: openapi-cloud.yaml of the same repository.
_OBJECT_INFO = "api/object_info"
_CLOUD_KEY = "X-API-Key"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMED = re.compile(rf"{_LABEL}|https?://\S+")
# Where a browser or a script has Comfy's servers; what follows the host is cut off.
_COPIED = re.compile(
    rf"(?:comfy:)?(?:https?://)?(?:cloud\.comfy\.org|(?P<label>{_LABEL})\.run\.comfy\.app)(?::0*443)?"
    r"(?=[/?#]|$)",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:comfy:)?(?P<scheme>https?://)(?P<host>[^/?#]*)(?P<path>[^?#]*)", re.I)
_HOST_AND_PORT = re.compile(r"comfy:(?=[^/?#\s]+:\d{1,5}(?:[/?#]|$))", re.IGNORECASE)
_HOST_AND_API = re.compile(r"(?:localhost|[^\s/?#@:]+\.[^\s/?#@:]+):\d{1,5}/api/v2(?:/|$)", re.I)
_API = re.compile(r"/api/v2(?:/.*)?$", re.DOTALL)


class ComfyApiKind(Kind):
    """``comfy:cloud``, ``comfy:DEPLOYMENT``, or ``comfy:`` and the URL of any other server.

    The URL is that below which ``/api/v2`` is.
    """

    name = "comfy"
    title = "a Comfy API"
    forms = ("comfy:cloud", "comfy:DEPLOYMENT", "comfy:http://HOST:8189")
    ready = ("comfy:cloud",)
    can = frozenset({Can.RECALL})
    address_variable = BASE_URL_VARIABLE
    default_key = KEY_VARIABLE
    own_secrets: ClassVar[Mapping[str, str]] = {
        KEY_VARIABLE: "https://platform.comfy.org/profile/api-keys makes one.",
    }
    no_price = "Comfy bills in credits, and has no API that says what a run costs"
    own_domain = (
        "Give that server a key of its own: put it into another environment variable, and name "
        "the variable in comfy-remote.toml with key_env (for its partner nodes: partner_key_env)."
    )

    # Addresses

    def matches(self, address: str) -> bool:
        """Whether it is such an address; a host called ``comfy`` may have a port."""
        named = address.removeprefix(self.prefix)
        return named != address and _NAMED.fullmatch(named) is not None and not named.isdecimal()

    def address_in(self, typed: str) -> str | None:
        """Also a URL of Comfy's servers, and any that ends in ``/api/v2`` or goes on behind it."""
        if copied := _COPIED.match(_in_ascii(typed)):
            label = (copied["label"] or _CLOUD).lower()
            if copied["label"] and (label == _CLOUD or label.isdecimal()):
                return f"{self.prefix}https://{label}{DEPLOYMENTS}"
            return f"{self.prefix}{label}"
        begins = typed[: len(self.prefix)].lower() == self.prefix
        if _HOST_AND_API.match(typed):
            begins, typed = True, f"{self.prefix}{typed}"
        if host := _HOST_AND_PORT.match(typed):
            typed = f"{self.prefix}http://{typed[host.end() :]}"
        if (url := _URL.match(typed)) and (begins or _API.search(url["path"])):
            # A password in it stays as it is: opening the address refuses it.
            scheme, host_name = url["scheme"].lower(), url["host"]
            if "@" not in host_name:
                host_name = _one_spelling(scheme, host_name)
            path = _API.sub("", url["path"]).rstrip("/")
            return f"{self.prefix}{scheme}{host_name}{path}"
        typed = typed.lower()
        return typed if self.matches(typed) else None

    def hint(self, text: str) -> str:
        """The ways to write one."""
        if not text.lower().startswith(self.prefix):
            return ""
        return (
            "Write comfy:cloud for Comfy Cloud, comfy:DEPLOYMENT for a deployment (the part of its "
            "address before .run.comfy.app), or comfy:http://HOST:8189 for another server."
        )

    def url(self, address: str) -> str:
        """The URL of the server, without ``/api/v2``."""
        named = address.removeprefix(self.prefix)
        if "://" in named:
            return named
        return f"https://{CLOUD_HOST}" if named == _CLOUD else f"https://{named}{DEPLOYMENTS}"

    def configured_address(self, environment: Mapping[str, str]) -> str | None:
        """The server in ``COMFY_BASE_URL``."""
        typed = environment.get(BASE_URL_VARIABLE, "").strip()
        if not typed:
            return None
        address = f"{self.prefix}{typed}"
        return self.address_in(address) or address  # opening an invalid one says so

    def public_url(self, address: str) -> str | None:
        """The server's URL: a deployment may be anybody's. The cloud is of the owner's account."""
        return None if self._is_cloud(address) else self.url(address)

    def service_url(self, settings: TargetSettings) -> str:
        """The server's URL."""
        return self.url(settings.target)

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The `SERVER_DETAIL` in the details."""
        url = details.get(SERVER_DETAIL)
        address = None if url is None else self.address_in(f"{self.prefix}{url}")
        return None if address is None else TargetSettings(address)

    # Money

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By run at Comfy, in credits; other servers are somebody's own."""
        return "by run" if self._is_comfys(settings.target) else None

    # Secrets

    def key_variable(self, settings: TargetSettings) -> str | None:
        """``COMFY_API_KEY`` for Comfy's own servers; others have the one that is named, if any."""
        default = KEY_VARIABLE if self._is_comfys(settings.target) else None
        return settings.key_env or default

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The server's URL."""
        return self.url(settings.target)

    def is_own_server(self, server: str, environment: Mapping[str, str]) -> bool:
        """Comfy's servers, the one in ``COMFY_BASE_URL``, and this machine."""
        url = base_address(server)
        return is_comfys(url) or is_loopback(url.host) or self._is_configured(url, environment)

    def login(
        self, name: str, settings: TargetSettings, environment: Mapping[str, str]
    ) -> dict[str, SecretStr]:
        """The key as a bearer token; empty for a server that takes none.

        A server that only ``COMFY_BASE_URL`` names gets ``COMFY_API_KEY``, if that is set: so
        Comfy's own SDK reads the two.
        """
        variable = self.key_variable(settings)
        if variable is None and not (settings.user or settings.headers_env):
            url = base_address(self.url(settings.target))
            if self._is_configured(url, environment) and secret(KEY_VARIABLE, environment):
                variable = KEY_VARIABLE
        if variable == KEY_VARIABLE and secret(KEY_VARIABLE, environment) is None:
            raise ConfigurationError(
                f"There is no key for {shown(settings.target)}: {KEY_VARIABLE} is not set.",
                advice="Make one at https://platform.comfy.org/profile/api-keys (it comes with a "
                f"paid subscription) and set the environment variable {KEY_VARIABLE}.",
            )
        headers = login_headers(name, replace(settings, key_env=variable), environment)
        key = None if variable is None else secret(variable, environment)
        if key is not None and self._is_cloud(settings.target):
            headers[_CLOUD_KEY] = key  # so the cloud's other API takes it, which lists the nodes
        return headers

    # Targets

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        from ...net.tls import trusting
        from .target import ComfyApiTarget

        return ComfyApiTarget(
            self.url(settings.target),
            name=name,
            headers=self.login(name, settings, environment),
            partner_key=_partner_key(name, settings, environment),
            object_info=_OBJECT_INFO if self._is_cloud(settings.target) else None,
            storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
            tls=trusting(settings.ca_file),
        )

    def _is_cloud(self, address: str) -> bool:
        return address == f"{self.prefix}{_CLOUD}"

    def _is_comfys(self, address: str) -> bool:
        """Whether Comfy runs the server; not so of an address that is invalid."""
        try:
            return is_comfys(base_address(self.url(address)))
        except ConfigurationError:
            return False

    def _is_configured(self, url: URL, environment: Mapping[str, str]) -> bool:
        """Whether a server is the one in ``COMFY_BASE_URL``: its scheme, host and port."""
        address = self.configured_address(environment)
        try:
            return address is not None and base_address(self.url(address)).origin() == url.origin()
        except ConfigurationError:
            return False


def _in_ascii(typed: str) -> str:
    """A URL with its host as the network has it: ``。`` may stand for a dot."""
    url = None if typed.isascii() else _URL.match(typed)
    if url is None:
        return typed
    from yarl import URL  # here: hardly anybody types one

    with suppress(ValueError):
        return str(URL(f"{url['scheme']}{url['host']}").with_path(url["path"]))
    return typed


def _one_spelling(scheme: str, host: str) -> str:
    """Host and port: caps and what has been confirmed are looked up by it."""
    name, _, port = host.lower().rpartition(":")
    if not name or not (port.isdecimal() or not port):
        return host.lower()
    number = port.lstrip("0")
    usual = number in ("", "443" if scheme == "https://" else "80")
    return name if usual else f"{name}:{number}"


def _partner_key(
    name: str, settings: TargetSettings, environment: Mapping[str, str]
) -> SecretStr | None:
    """What partner nodes log in with, if the settings say so."""
    variable = settings.partner_key_env
    if variable is None:
        return None
    found = secret(variable, environment)
    if found is None:
        raise ConfigurationError(
            f"The target {name!r} takes the login of its partner nodes from the environment "
            f"variable {variable}, which is not set.",
            advice=f"Set {variable}, or remove partner_key_env.",
        )
    return found
