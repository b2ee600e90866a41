"""RunPod Serverless endpoints, and gateways of ours that speak its API, as a kind of target."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from ...config.folders import home
from ...config.target_settings import TargetSettings
from ...data_class import dataclass
from ...errors import ConfigurationError, TargetNotFound
from ...net.address import base_address, host_list, is_loopback
from ...secrets import secret
from ...types import JsonValue
from ..kinds import Billing, Can, Choose, Kind

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from pydantic import SecretStr

    from ...net.bucket import BucketSettings
    from ...schedule.bill import Billed, Running
    from ...schedule.money import Price
    from ..base import Target

__all__ = [
    "API_KEY_VARIABLE",
    "API_URL",
    "API_VARIABLE",
    "DEFAULT_BASE_URL",
    "ENDPOINT_VARIABLE",
    "RESULTS_KEPT",
    "EndpointKind",
    "EndpointOptions",
    "RunPodKind",
    "account_url",
]

DEFAULT_BASE_URL = "https://api.runpod.ai/v2"
ENDPOINT_VARIABLE = "RUNPOD_ENDPOINT_ID"
"""The variable with the endpoint that ``runpod:`` alone means."""

RESULTS_KEPT = "RunPod keeps results for 30 minutes after a job has ended."

API_KEY_VARIABLE = "RUNPOD_API_KEY"
API_URL = "https://api.runpod.io"
"""Of RunPod's REST API, which is asked about the account."""
API_VARIABLE = "RUNPOD_API_BASE_URL"
"""Where that API is instead: the name that RunPod's own SDK knows."""

# What RunPod shows: the URL of a request (…/v2/ID/run), and the console's page of the endpoint.
_COPIED = re.compile(
    r"runpod:(?P<id>[^/?#]+)"
    r"|(?:https?://)?api\.runpod\.ai(?::443)?/v2/(?P<api>[^/?#]+)"
    r"|(?:https?://)?(?:www\.|console\.)?runpod\.io/(?:console/)?serverless/user/endpoint/"
    r"(?P<console>[^/?#]+)",
    re.IGNORECASE,
)
_CONSOLE = "https://console.runpod.io/serverless"


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What may be set for an endpoint, besides where it is and what opens it.

    Attributes:
        keep_stored: Whether outputs that a worker put into storage stay there.
        memory: The folder to remember in what its workers have installed.
        bucket: Where input files go that do not fit the request.
        policy: RunPod's ``policy``, sent with every job; keys that only a gateway of ours knows
            are sent to one alone.
        storage_hosts: ``HOST`` or ``HOST:PORT`` in a private network that outputs may be stored
            on. The bucket's is added to it.
        tls: Which certificates are trusted; those that the system trusts when ``None``.
        home: The user's data folder, for the name of this installation.
        account_url: Of RunPod's REST API, which sets how long idle workers wait; ``None`` for an
            endpoint that is not RunPod's.
    """

    keep_stored: bool = False
    memory: Path | None = None
    bucket: BucketSettings | None = None
    policy: Mapping[str, JsonValue] | None = None
    storage_hosts: Collection[str] = ()
    home: Path | None = None
    tls: ssl.SSLContext | None = None
    account_url: str | None = None

    @classmethod
    def of(
        cls, name: str, settings: TargetSettings, environment: Mapping[str, str]
    ) -> EndpointOptions:
        """From the configuration of a target.

        Raises:
            ConfigurationError: The bucket, or the list of hosts, cannot be used.
        """
        from ...net.bucket import BucketSettings
        from ...net.tls import trusting

        try:
            bucket = BucketSettings.from_environ(environment, address=settings.bucket or "")
        except ConfigurationError as error:
            raise ConfigurationError(
                f"The bucket of the target {name!r} cannot be used. {error.message}",
                advice=error.advice,
            ) from None
        return cls(
            settings.keep_stored,
            home(environment) / "endpoints",
            bucket,
            settings.policy,
            host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
            home(environment),
            trusting(settings.ca_file),
        )


class EndpointKind(Kind):
    """A kind that speaks RunPod's endpoint API: what `RunPodTarget` has to know of it.

    Attributes:
        provider: Who runs its endpoints, for people.
        results_kept: For how long, a sentence.
        no_worker: Why no worker may come, and what to do.
        only_ours: Whether its workers are certainly Comfy Remote's.
        delay_means_begun: Whether only a job that has begun has a ``delayTime``.
        idle_time: Seconds that idle workers wait for a job, where ``/health`` does not say it;
            ``None`` where that is not known.
    """

    speaks = "runpod"
    can = frozenset({Can.KEEP_INPUTS, Can.FETCH_MODELS, Can.RELEASE})
    provider: ClassVar[str]
    results_kept: ClassVar[str]
    no_worker: ClassVar[str]
    only_ours: ClassVar[bool] = False
    delay_means_begun: ClassVar[bool] = False
    idle_time: ClassVar[float | None] = None

    def check(self, endpoint: str) -> None:
        """See that this can be an endpoint's id.

        Raises:
            ConfigurationError: It cannot.
        """
        raise NotImplementedError

    @property
    def body_limit(self) -> int:
        """Bytes that a request may have."""
        raise NotImplementedError

    def result_limit(self, base_url: str) -> int | None:
        """Bytes that a result may have; ``None`` if large outputs are stored elsewhere."""
        return None

    def may_be_own_gateway(self, base_url: str) -> bool:
        """Whether a gateway of ours may be at that address: it is asked then, once."""
        return False

    def no_worker_at(self, base_url: str) -> str:
        """Why no worker may come there, and what to do."""
        return self.no_worker

    def results_kept_at(self, base_url: str) -> str:
        """For how long the server at that address keeps results."""
        return self.results_kept

    def missing(self, endpoint: str, base_url: str) -> TargetNotFound:
        """The error for an endpoint that does not exist."""
        raise NotImplementedError

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The ``endpoint`` and ``base_url`` in the details."""
        # RunPod's own say no kind.
        if "endpoint" not in details or details.get("kind", "runpod") != self.name:
            return None
        return TargetSettings(f"{self.prefix}{details['endpoint']}", details["base_url"])


class RunPodKind(EndpointKind):
    """``runpod:ENDPOINT``; ``runpod:`` alone takes the endpoint from ``RUNPOD_ENDPOINT_ID``."""

    name = "runpod"
    title = "a RunPod endpoint"
    forms = ("runpod:ENDPOINT",)
    address_variable = ENDPOINT_VARIABLE
    default_key = API_KEY_VARIABLE
    own_secrets: ClassVar[Mapping[str, str]] = {
        API_KEY_VARIABLE: "RunPod's console has it under Settings > API Keys.",
    }
    own_domain = (
        "Give that server a key of its own: put it into another environment variable, and name "
        "the variable in comfy-remote.toml with key_env."
    )
    provider = "RunPod"
    results_kept = RESULTS_KEPT
    no_worker = (
        "A job starts one, which can take minutes. "
        "RunPod sets the workers of an endpoint that was not used for 7 days to 0: then raise Max "
        "workers in its console. If jobs wait for ever, check the endpoint's GPU types there."
    )

    def address_in(self, typed: str) -> str | None:
        """Also from a URL of RunPod's API or console; the rest of a path, ``?…`` and ``#…`` go."""
        endpoint = _copied_endpoint(typed)
        return f"{self.prefix}{endpoint}" if endpoint else super().address_in(typed)

    def check(self, endpoint: str) -> None:
        if not endpoint:
            raise ConfigurationError(
                "runpod: alone takes the endpoint's id from RUNPOD_ENDPOINT_ID, which is not set.",
                advice=f"Write runpod:ENDPOINT, or set that variable. RunPod's console shows the "
                f"id: {_CONSOLE}.",
            )
        if quote(endpoint, safe="") != endpoint or not endpoint.strip("."):
            raise ConfigurationError(
                f"{endpoint!r} is not an endpoint's id.",
                advice=f"RunPod's console shows it: {_CONSOLE}.",
            )

    @property
    def body_limit(self) -> int:
        """Of ``/run``."""
        from ...wire.runpod import RUN_BODY_LIMIT

        return RUN_BODY_LIMIT

    def result_limit(self, base_url: str) -> int | None:
        """RunPod's own; another server with its API may store large outputs elsewhere."""
        from ...wire.runpod import RUN_RESULT_LIMIT

        return RUN_RESULT_LIMIT if base_url == DEFAULT_BASE_URL else None

    def may_be_own_gateway(self, base_url: str) -> bool:
        """Everywhere but at RunPod."""
        return base_url != DEFAULT_BASE_URL

    def no_worker_at(self, base_url: str) -> str:
        """RunPod starts workers; a gateway of one's own waits for them."""
        if not self.may_be_own_gateway(base_url):
            return self.no_worker
        return (
            "Jobs wait until one is ready: an engine that still starts, or a machine that joins. "
            "The gateway's page, at its address in a browser, shows its workers, and why each job "
            "waits."
        )

    def results_kept_at(self, base_url: str) -> str:
        """RunPod's own time, which a gateway of one's own has as well."""
        if self.may_be_own_gateway(base_url):
            return "The gateway keeps results for 30 minutes after a job has ended."
        return self.results_kept

    def missing(self, endpoint: str, base_url: str) -> TargetNotFound:
        advice = (
            f"Check its id in RunPod's console ({_CONSOLE}), and that the key belongs to the same "
            "account."
        )
        if self.may_be_own_gateway(base_url):
            advice = (
                "Give the id that the gateway was started with (local, if it was given none), and "
                "an address that ends in /v2."
            )
        return TargetNotFound(
            f"There is no endpoint {endpoint!r} at {base_address(base_url).host}.", advice=advice
        )

    def configured_address(self, environment: Mapping[str, str]) -> str | None:
        """The endpoint in ``RUNPOD_ENDPOINT_ID``."""
        endpoint = _endpoint_in(environment)
        return f"{self.prefix}{endpoint}" if endpoint else None

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By run, unless the server is the user's own gateway."""
        own = self.is_own_server(self.server(settings, environment), {})
        return "by run" if own and not _here(settings, environment) else None

    def priced_as(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """Its address in RunPod's REST API; a gateway has no prices."""
        endpoint = self._endpoint(settings, environment)
        if not endpoint or self.billing(settings, environment) != "by run":
            return None
        return f"{account_url(environment)}/v2/serverless/{endpoint}"

    async def price(self, settings: TargetSettings, environment: Mapping[str, str]) -> Price | None:
        """By the GPUs that its workers may get; ``None`` without a key."""
        from .prices import endpoint_price

        key = await self._key(settings, environment)
        if key is None or self.priced_as(settings, environment) is None:
            return None
        return await endpoint_price(key, environment, self._endpoint(settings, environment))

    async def billed(
        self,
        settings: TargetSettings,
        environment: Mapping[str, str],
        since: float,
        until: float,
    ) -> Sequence[Billed] | None:
        """Of the endpoint, whoever has used it; ``None`` without a key."""
        from .billing import billed_endpoint

        key = await self._key(settings, environment)
        if key is None or self.priced_as(settings, environment) is None:
            return None
        endpoint = self._endpoint(settings, environment)
        return await billed_endpoint(key, environment, endpoint, since, until)

    async def running(self, environment: Mapping[str, str]) -> Sequence[Running] | None:
        """The account's endpoints with active workers; ``None`` without a key."""
        from .prices import active_workers

        key = await self._key(TargetSettings(self.prefix), environment)
        return None if key is None else await active_workers(key, environment)

    async def _key(
        self, settings: TargetSettings, environment: Mapping[str, str]
    ) -> SecretStr | None:
        """The key of the account; looked for in a thread, since a key ring may take its time."""
        import asyncio  # here: what an address means is asked more often

        return await asyncio.to_thread(
            secret, self.key_variable(settings) or API_KEY_VARIABLE, environment
        )

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Unless it is a gateway on this machine, which may take none."""
        return not _here(settings, environment)

    def lacking(self, settings: TargetSettings, environment: Mapping[str, str]) -> list[str]:
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
        """The key as a bearer token; empty for a gateway on this machine that takes none."""
        if settings.user or settings.password_env or settings.headers_env:
            raise ConfigurationError(
                f"The target {name!r} is a RunPod endpoint, which takes a key and no other login.",
                advice="Name the variable with its key with key_env, and omit user, password_env "
                "and headers_env.",
            )
        known = secret(settings.key_env or API_KEY_VARIABLE, environment) is not None
        if not known and not self.needs_key(settings, environment):
            return {}
        if settings.key_env is None and not known:
            server = _base_url(settings, environment)
            if self.may_be_own_gateway(server):
                raise ConfigurationError(
                    f"There is no key for the gateway at {base_address(server).host}.",
                    advice=f"Set the environment variable {API_KEY_VARIABLE} to the token that the "
                    "gateway was started with.",
                )
            raise ConfigurationError(
                "There is no RunPod API key.",
                advice="Make one at https://console.runpod.io/user/settings and set the "
                f"environment variable {API_KEY_VARIABLE}.",
            )
        return super().login(name, settings, environment)

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        from .target import RunPodTarget

        endpoint = self._endpoint(settings, environment)
        self.check(endpoint)
        options = EndpointOptions.of(name, settings, environment)
        own = self.may_be_own_gateway(_base_url(settings, environment))
        if environment.get(API_VARIABLE) or not own:
            options = replace(options, account_url=account_url(environment))
        return RunPodTarget(
            endpoint,
            base_url=_base_url(settings, environment),
            name=name,
            headers=self.login(name, settings, environment),
            options=options,
        )

    def _endpoint(self, settings: TargetSettings, environment: Mapping[str, str]) -> str:
        return settings.target.removeprefix(self.prefix) or _endpoint_in(environment)


def account_url(environment: Mapping[str, str]) -> str:
    """Where RunPod's REST API is."""
    return (environment.get(API_VARIABLE) or API_URL).rstrip("/")


def _endpoint_in(environment: Mapping[str, str]) -> str:
    """The id in ``RUNPOD_ENDPOINT_ID``, which may hold a URL that RunPod shows."""
    typed = environment.get(ENDPOINT_VARIABLE, "").strip()
    return _copied_endpoint(typed) or typed


def _copied_endpoint(text: str) -> str | None:
    """The id in a text that RunPod shows; ``None`` in any other."""
    copied = _COPIED.match(text)
    return next(filter(None, copied.groups())) if copied else None


def _base_url(settings: TargetSettings, environment: Mapping[str, str]) -> str:
    elsewhere = settings.base_url or environment.get("RUNPOD_ENDPOINT_BASE_URL")
    return (elsewhere or DEFAULT_BASE_URL).rstrip("/")


def _here(settings: TargetSettings, environment: Mapping[str, str]) -> bool:
    return is_loopback(base_address(_base_url(settings, environment)).host)
