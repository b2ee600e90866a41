"""Apps on Modal as a kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ..config.places import CONFIG_NAME, home
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError
from ..net.address import base_address, host_list, is_loopback
from ..secrets import secret
from .kinds import Billing, Can, Choose, Kind
from .runpod.kind import bucket_of

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .base import Target

__all__ = ["ModalKind"]

_HEADERS = {"Modal-Key": "MODAL_PROXY_TOKEN_ID", "Modal-Secret": "MODAL_PROXY_TOKEN_SECRET"}
"""Modal's proxy authentication."""
_WHERE = "it is half of a token from https://modal.com/settings/proxy-auth-tokens."


class ModalKind(Kind):
    """``modal:APP``."""

    name = "modal"
    title = "an app on Modal"
    forms = ("modal:APP",)
    speaks = "runpod"
    can = frozenset({Can.KEEP_INPUTS, Can.FETCH_MODELS, Can.RELEASE})
    default_headers: ClassVar[Mapping[str, str]] = _HEADERS
    own_secrets: ClassVar[Mapping[str, str]] = dict.fromkeys(_HEADERS.values(), _WHERE)
    own_domain = (
        "If that is your app's own domain, put the token into variables of other names, and name "
        f"them in {CONFIG_NAME} with headers_env (Modal-Key, Modal-Secret)."
    )

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By run."""
        del environment
        return None if _here(settings) else "by run"

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Always, but for a front on this machine."""
        del environment
        return not _here(settings)

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The configured address of the app's front; otherwise, Modal says it."""
        del environment
        url = (settings.base_url or "").rstrip("/").removesuffix("/v2")
        return url.rstrip("/") or None

    def same_server(
        self, today: TargetSettings, sent: TargetSettings, environment: Mapping[str, str]
    ) -> bool:
        """The same app: without an address of its own, it is where Modal says, and was so then."""
        there = self.server(today, environment)
        return today.target == sent.target and there in (None, self.server(sent, environment))

    def is_own_server(self, server: str, environment: Mapping[str, str]) -> bool:
        """Modal's hosts, and this machine."""
        del environment
        host = base_address(server).host or ""
        return host.endswith(".modal.run") or is_loopback(host)

    def service_url(self, settings: TargetSettings) -> str:
        """The configured address of the app's front; the target where Modal has to be asked."""
        front = self.server(settings, {})
        return f"{front}/" if front else settings.target

    def login(
        self, name: str, settings: TargetSettings, environment: Mapping[str, str]
    ) -> dict[str, SecretStr]:
        """The two halves of a proxy token."""
        if settings.key_env or settings.user or settings.password_env:
            raise ConfigurationError(
                f"The target {name!r} is a Modal app, which takes a proxy token and no other "
                "login.",
                advice="Remove key_env, user and password_env.",
            )
        headers = settings.headers_env or self.default_headers
        given = {field: secret(variable, environment) for field, variable in headers.items()}
        found = {field: value for field, value in given.items() if value is not None}
        if len(found) < len(given) and (found or self.needs_key(settings, environment)):
            missing = [variable for field, variable in headers.items() if field not in found]
            raise ConfigurationError(
                f"The target {name!r} takes a proxy token, and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set.",
                advice="Make a token at https://modal.com/settings/proxy-auth-tokens, and set "
                f"{' and '.join(headers.values())}.",
            )
        return found

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """See `Kind.open`."""
        from .modal import ModalTarget

        del choose
        return ModalTarget(
            settings.target.removeprefix(self.prefix),
            self.login(name, settings, environment),
            url=settings.base_url,
            name=name,
            keep_stored=settings.keep_stored,
            memory=home(environment) / "endpoints",
            bucket=bucket_of(name, settings, environment),
            storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
        )

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The ``endpoint`` and ``base_url`` in the details."""
        if "endpoint" not in details or details.get("kind") != self.name:
            return None
        return TargetSettings(f"{self.prefix}{details['endpoint']}", details["base_url"])


def _here(settings: TargetSettings) -> bool:
    return settings.base_url is not None and is_loopback(base_address(settings.base_url).host)
