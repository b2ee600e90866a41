"""``modal:APP``: a workflow that was deployed on Modal, as a kind of target.

Its front speaks RunPod's endpoint API, so the target is a `RunPodTarget`. What differs is where it
is found, what opens it, and how much a request may hold.

Facts: modal.com/docs/guide/webhook-proxy-auth (the two headers), modal.com/docs/guide/webhooks
(a request of up to 4 GiB), and the SDK, 1.6.4 (`Function.from_name`, `get_web_url`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from ..advice import Hint
from ..config.folders import CONFIG_NAME
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError, TargetNotFound, TargetUnreachable
from ..net.address import base_address, is_loopback
from ..secrets import secret
from .kinds import Billing, Choose
from .runpod.kind import EndpointKind, EndpointOptions

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..schedule.bill import Billed
    from ..schedule.money import Price
    from .base import Target
    from .runpod.target import RunPodTarget

__all__ = ["BODY_LIMIT", "FRONT", "ModalKind", "find_front", "first_line", "modal_target"]

FRONT = "front"
"""What the web function of a deployed app is called."""

BODY_LIMIT = 100 * 2**20
"""The most bytes of a request: the front holds all of it in memory."""

# Nothing is ever sent there: the name is reserved for that (RFC 6761).
_NOT_FOUND_YET = "https://modal.invalid"
_PATH = "/v2"

_HEADERS = {"Modal-Key": "MODAL_PROXY_TOKEN_ID", "Modal-Secret": "MODAL_PROXY_TOKEN_SECRET"}
"""Modal's proxy authentication."""
_WHERE = "it is half of a token from https://modal.com/settings/proxy-auth-tokens."


class ModalKind(EndpointKind):
    """``modal:APP``."""

    name = "modal"
    title = "an app on Modal"
    forms = ("modal:APP",)
    default_headers: ClassVar[Mapping[str, str]] = _HEADERS
    own_secrets: ClassVar[Mapping[str, str]] = dict.fromkeys(_HEADERS.values(), _WHERE)
    own_domain = (
        "If that is your app's own domain, put the token into variables of other names, and name "
        f"them in {CONFIG_NAME} with headers_env (Modal-Key, Modal-Secret)."
    )

    provider = "Modal"
    results_kept = "Modal keeps results for seven days at the most."
    no_worker = (
        "A job starts one, which can take minutes. "
        "If jobs wait for ever, no GPU of that type is available at the moment, or the workspace's "
        "limit is reached: https://modal.com/apps shows the app's containers."
    )
    only_ours = True
    delay_means_begun = True
    idle_time = 60.0  # `scaledown_window` of the projects that we make

    @property
    def body_limit(self) -> int:
        """Bytes that a request may have."""
        return BODY_LIMIT

    def check(self, endpoint: str) -> None:
        if not endpoint.strip(".") or quote(endpoint, safe="") != endpoint:
            raise ConfigurationError(
                f"{endpoint!r} is not the name of an app on Modal.",
                advice="`modal app list` shows what is deployed: modal:NAME is the target.",
            )

    def missing(self, endpoint: str, base_url: str = "") -> TargetNotFound:
        return TargetNotFound(
            f"There is no app {endpoint!r} of Comfy Remote on Modal.",
            advice=Hint.DEPLOY_APP(app=endpoint),
        )

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By run."""
        return None if _here(settings) else "by run"

    def priced_as(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The app at its address; without one, in the workspace that Modal's SDK has."""
        if self.billing(settings, environment) is None:
            return None
        names = ("MODAL_PROFILE", "MODAL_ENVIRONMENT", "MODAL_TOKEN_ID")
        where = self.server(settings, environment) or [environment.get(name) for name in names]
        return f"{settings.target} at {where}"

    async def price(self, settings: TargetSettings, environment: Mapping[str, str]) -> Price | None:
        """By what the app says of its containers; one that was deployed long ago says nothing."""
        import asyncio

        from pydantic import ValidationError

        from ..net.http import HttpClient, HttpLimits
        from ..net.tls import trusting
        from ..wire.modal import Hardware
        from .modal_prices import container_price, workspace_rates

        if self.priced_as(settings, environment) is None:
            return None
        if await asyncio.to_thread(self.lacking, settings, environment):
            return None
        app = settings.target.removeprefix(self.prefix)
        self.check(app)
        url = settings.base_url or str(await asyncio.to_thread(find_front, app))
        http = HttpClient(
            f"{_api(url)}/{app}",
            name=settings.target,
            headers=self.login(settings.target, settings, environment),
            limits=HttpLimits(patience=20.0, answer=100_000),
            tls=trusting(settings.ca_file),
        )
        async with http:
            said = await http.get_json("health")
        try:
            hardware = Hardware.model_validate(
                said.get("hardware") if isinstance(said, dict) else None
            )
        except ValidationError:
            return None
        return container_price(hardware, await asyncio.to_thread(workspace_rates))

    async def billed(
        self,
        settings: TargetSettings,
        environment: Mapping[str, str],
        since: float,
        until: float,
    ) -> Sequence[Billed] | None:
        """Of the app, its front included, as Modal's SDK tells it."""
        import asyncio

        from .modal_prices import billed_app

        if self.priced_as(settings, environment) is None:
            return None
        app = settings.target.removeprefix(self.prefix)
        return await asyncio.to_thread(billed_app, app, since, until)

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Unless the front is on this machine."""
        return not _here(settings)

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The configured address of the app's front; otherwise, Modal says it."""
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
        return modal_target(
            settings.target.removeprefix(self.prefix),
            self.login(name, settings, environment),
            url=settings.base_url,
            name=name,
            options=EndpointOptions.of(name, settings, environment),
        )


def modal_target(
    app: str,
    headers: Mapping[str, SecretStr],
    *,
    url: str | None = None,
    name: str | None = None,
    options: EndpointOptions = EndpointOptions(),  # noqa: B008 - frozen
) -> RunPodTarget:
    """The target of one app.

    Args:
        url: Where its front is (``https://WORKSPACE--APP-front.modal.run``); ``None`` asks Modal
            when the target is opened, for which the package ``modal`` has to be installed and
            logged in.
        name: What to call it; ``modal:APP`` by default.
    """
    from .runpod.target import RunPodTarget

    async def find() -> str:
        import asyncio  # here: what an address means is asked more often than a target is opened

        return _api(await asyncio.to_thread(find_front, app))

    return RunPodTarget(
        app,
        kind=ModalKind(),
        base_url=_api(url or _NOT_FOUND_YET),
        name=name,
        headers=headers,
        options=options,
        find=find if url is None else None,
    )


def find_front(app: str) -> str:
    """Where the front of a deployed app is. Blocking: Modal is asked.

    Raises:
        ConfigurationError: The package ``modal`` is not here, or not logged in.
        TargetNotFound: There is no such app, or it is not one of ours.
        TargetUnreachable: Modal does not answer.
    """
    from importlib.util import find_spec

    if find_spec("modal") is None:
        raise ConfigurationError(
            f"The address of modal:{app} is not known.",
            advice=f"Install Modal's SDK (`pip install modal`, then `modal "
            f"setup`), or write its address into comfy-remote.toml: base_url, beside target = "
            f'"modal:{app}".',
        )
    import modal

    try:
        url = modal.Function.from_name(app, FRONT).get_web_url()
    except modal.exception.NotFoundError as error:
        raise ModalKind().missing(app) from error
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            f"Modal cannot be asked where modal:{app} is: {first_line(error)}",
            advice="Log in with `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from error
    except (modal.exception.Error, OSError) as error:
        raise TargetUnreachable(
            f"Modal could not be asked where modal:{app} is: {first_line(error)}",
            advice="Check the network, and https://status.modal.com.",
        ) from error
    if url is None:
        raise ModalKind().missing(app)
    return url


def _api(url: str) -> str:
    return url.rstrip("/").removesuffix(_PATH) + _PATH


def first_line(error: BaseException) -> str:
    """The first line of an error of Modal's, for people."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _here(settings: TargetSettings) -> bool:
    return settings.base_url is not None and is_loopback(base_address(settings.base_url).host)
