"""RunPod Serverless endpoints, and gateways of ours that speak its API, as a kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ...config.places import home
from ...config.target_settings import TargetSettings
from ...errors import ConfigurationError
from ...net.address import base_address, host_list, is_loopback
from ...secrets import secret
from ..kinds import Billing, Can, Choose, Kind, secret_variables

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ...net.bucket import BucketSettings
    from ..base import Target

__all__ = ["DEFAULT_BASE_URL", "ENDPOINT_VARIABLE", "RunPodKind", "bucket_of"]

DEFAULT_BASE_URL = "https://api.runpod.ai/v2"
ENDPOINT_VARIABLE = "RUNPOD_ENDPOINT_ID"
"""The variable with the endpoint that ``runpod:`` alone means."""

_KEY = "RUNPOD_API_KEY"


class RunPodKind(Kind):
    """``runpod:ENDPOINT``; ``runpod:`` alone takes the endpoint from ``RUNPOD_ENDPOINT_ID``."""

    name = "runpod"
    title = "a RunPod endpoint"
    forms = ("runpod:ENDPOINT",)
    can = frozenset({Can.KEEP_INPUTS, Can.FETCH_MODELS, Can.RELEASE})
    default_key = _KEY
    own_secrets: ClassVar[Mapping[str, str]] = {
        _KEY: "RunPod's console has it under Settings > API Keys.",
    }
    own_domain = (
        "Give that server a key of its own: put it into another environment variable, and name "
        "the variable in comfy-remote.toml with key_env."
    )

    def configured_address(self, environment: Mapping[str, str]) -> str | None:
        """The endpoint in ``RUNPOD_ENDPOINT_ID``."""
        endpoint = environment.get(ENDPOINT_VARIABLE, "").strip()
        return f"{self.prefix}{endpoint}" if endpoint else None

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By run, unless the server is another's: then it is the user's own gateway."""
        own = self.is_own_server(self.server(settings, environment), {})
        return "by run" if own and not _here(settings, environment) else None

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Always, but for a gateway on this machine."""
        return settings.key_env is not None or not _here(settings, environment)

    def lacking(self, settings: TargetSettings, environment: Mapping[str, str]) -> list[str]:
        """See `Kind.lacking`."""
        lacking = super().lacking(settings, environment)
        if settings.target == self.prefix and not environment.get(ENDPOINT_VARIABLE):
            return [ENDPOINT_VARIABLE, *lacking]
        return lacking

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str:
        """The base URL of the API."""
        return _base_url(settings, environment)

    def is_own_server(self, server: str, environment: Mapping[str, str]) -> bool:
        """RunPod's API, the one in ``RUNPOD_ENDPOINT_BASE_URL``, and this machine."""
        owned = {DEFAULT_BASE_URL, _base_url(TargetSettings(self.prefix), environment)}
        return server in owned or is_loopback(base_address(server).host)

    def login(
        self, name: str, settings: TargetSettings, environment: Mapping[str, str]
    ) -> dict[str, SecretStr]:
        """The key as a bearer token; empty where there is none."""
        if settings.user or settings.password_env or settings.headers_env:
            raise ConfigurationError(
                f"The target {name!r} is a RunPod endpoint, which takes a key and no other login.",
                advice="Name the variable with its key with key_env, and omit user, password_env "
                "and headers_env.",
            )
        if settings.key_env is None and secret(_KEY, environment) is None:
            return {}
        [variable] = secret_variables(settings)
        from dataclasses import replace

        return super().login(name, replace(settings, key_env=variable), environment)

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """See `Kind.open`."""
        from .target import RunPodTarget

        del choose
        endpoint = settings.target.removeprefix(self.prefix)
        return RunPodTarget(
            endpoint or environment.get(ENDPOINT_VARIABLE, ""),
            None,
            base_url=_base_url(settings, environment),
            headers=self.login(name, settings, environment),
            name=name,
            keep_stored=settings.keep_stored,
            memory=home(environment) / "endpoints",
            bucket=bucket_of(name, settings, environment),
            storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
            policy=settings.policy,
        )

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The ``endpoint`` and ``base_url`` in the details."""
        if "endpoint" not in details or details.get("kind", self.name) != self.name:
            return None
        return TargetSettings(f"{self.prefix}{details['endpoint']}", details["base_url"])


def bucket_of(
    name: str, settings: TargetSettings, environment: Mapping[str, str]
) -> BucketSettings | None:
    """The bucket for input files that do not fit a request.

    Raises:
        ConfigurationError: It cannot be used.
    """
    from ...net.bucket import BucketSettings

    try:
        return BucketSettings.from_environ(environment, address=settings.bucket or "")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The bucket of the target {name!r} cannot be used. {error.message}",
            advice=error.advice,
        ) from None


def _base_url(settings: TargetSettings, environment: Mapping[str, str]) -> str:
    elsewhere = settings.base_url or environment.get("RUNPOD_ENDPOINT_BASE_URL")
    return (elsewhere or DEFAULT_BASE_URL).rstrip("/")


def _here(settings: TargetSettings, environment: Mapping[str, str]) -> bool:
    return is_loopback(base_address(_base_url(settings, environment)).host)
