"""From a name or an address to a target that can be opened; what names mean is in `config`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config.environment import withheld
from ..config.login import login_headers, secret_missing
from ..config.places import CONFIG_NAME, home
from ..config.settings import Configuration
from ..config.target_settings import (
    MODAL_PROXY_HEADERS,
    POD,
    TargetSettings,
    comfyui_url,
    is_address,
    modal_front,
)
from ..errors import ConfigurationError, NotTrusted
from ..net.address import POD_PROXY, base_address, host_list, is_loopback, shown
from ..secrets import secret
from ..workflow.change.values import did_you_mean
from .base import RemoteRef, Target

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from ..net.bucket import BucketSettings
    from .runpod.pods import ChoosePod

__all__ = [
    "CONFIG_NAME",
    "MODAL_PROXY_HEADERS",
    "Configuration",
    "TargetSettings",
    "home",
    "modal_front",
    "modal_headers",
    "needs_key",
    "open_target",
    "reopen",
]

_MODAL_HOSTS = ".modal.run"
_ADDRESSES = (
    "runpod:ENDPOINT, modal:APP, pod:ID, pod:auto, a ComfyUI URL such as http://127.0.0.1:8188, "
    "or sandbox"
)


def open_target(
    wanted: str,
    configuration: Configuration | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    choose_pod: ChoosePod | None = None,
) -> Target:
    """The target that a name or an address means. Nothing is sent yet.

    Args:
        wanted: The name or address.
        configuration: What the names mean; read from the files by default.
        environment: Where the secrets are.
        choose_pod: Asked which pod ``pod:auto`` is, if several run.

    Raises:
        ConfigurationError: It means nothing, or a key is missing.
        NotTrusted: It, or the key, is named by a folder's file that is not trusted.
    """
    configuration = configuration or Configuration.load()
    settings = configuration.settings_of(wanted)
    if settings is None and is_address(wanted):
        settings = TargetSettings(target=wanted)
    if settings is not None:
        if refused := _withheld(settings, environment):
            raise refused
        return _make(wanted, settings, environment, choose_pod)
    known = ", ".join(sorted(configuration.targets)) or "none"
    near = did_you_mean(wanted, configuration.targets)
    pod = f"If it is a pod's id, write pod:{wanted}. " if POD.match(f"pod:{wanted}") else ""
    raise ConfigurationError(
        f"There is no target {shown(wanted)!r} in {CONFIG_NAME}. Configured: {known}.{near}",
        advice=f"{pod}Name it in {CONFIG_NAME}, or use {_ADDRESSES}.",
    )


def needs_key(settings: TargetSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a target is of no use without its key: all but a gateway on this machine is.

    Raises:
        ConfigurationError: Its address is none.
    """
    if settings.target.startswith("modal:"):
        return not _on_this_machine(settings.base_url)
    if not settings.target.startswith("runpod:"):
        return bool(settings.secret_variables)
    return settings.key_env is not None or not is_loopback(
        base_address(_server(settings, environment)).host
    )


def _withheld(settings: TargetSettings, environment: Mapping[str, str]) -> NotTrusted | None:
    """The error if what a target lacks is set in a ``.env`` that is not trusted."""
    lacking = []
    if settings.target == "runpod:" and not environment.get("RUNPOD_ENDPOINT_ID"):
        lacking.append("RUNPOD_ENDPOINT_ID")
    if settings.secret_variables and needs_key(settings, environment):
        lacking += [one for one in settings.secret_variables if secret(one, environment) is None]
    return withheld(lacking, environment) if lacking else None


def reopen(
    wanted: str,
    ref: RemoteRef | None,
    environment: Mapping[str, str] = os.environ,
    *,
    config: Path | str | None = None,
) -> Target:
    """The target of a job in the record: where it was sent, whatever the name means today.

    The key that a name has today goes only to the address that the name has today.

    Args:
        wanted: The name or address it was sent to.
        ref: What the target said of it; ``None`` if it said nothing.
        environment: Where the secrets are.
        config: As for `Configuration.load`.
    """
    details = ref.details if ref is not None else {}
    if wanted == "sandbox":
        if "url" not in details:
            raise ConfigurationError(
                "The job was never sent: the sandbox did not take it.",
                advice="Run the workflow again.",
            )
        from .sandbox import SandboxTarget

        return SandboxTarget(details["url"])
    known = Configuration.load(file=config).settings_of(wanted)
    today = known or TargetSettings(target=wanted)
    if "endpoint" in details:
        kind = details.get("kind", "runpod")
        sent = TargetSettings(f"{kind}:{details['endpoint']}", details["base_url"])
    elif "url" in details:
        sent = TargetSettings(details["url"])
    else:
        sent = today
    if today.secret_variables and _same_server(today, sent, environment):
        sent = replace(today, target=sent.target, base_url=sent.base_url)
    if refused := _withheld(sent, environment):
        raise refused
    return _make(wanted, sent, environment)


def _same_server(
    today: TargetSettings, sent: TargetSettings, environment: Mapping[str, str]
) -> bool:
    if today.target.startswith("modal:"):
        # Without an address of its own, the app is where Modal says, and so was it then.
        there = today.base_url is None or _server(today, environment) == _server(sent, environment)
        return today.target == sent.target and there
    if today.target == "pod:auto":
        return (base_address(sent.target).host or "").endswith(POD_PROXY)
    return _server(today, environment) == _server(sent, environment)


def _server(settings: TargetSettings, environment: Mapping[str, str]) -> str:
    """Where requests go: what a key must not leave."""
    if settings.target.startswith("modal:"):
        return (modal_front(settings) or "").rstrip("/")
    if settings.target.startswith("runpod:"):
        return (settings.base_url or _runpod_base_url(environment)).rstrip("/")
    return comfyui_url(settings.target).rstrip("/")


def _runpod_base_url(environment: Mapping[str, str]) -> str:
    from .runpod.target import DEFAULT_BASE_URL

    return environment.get("RUNPOD_ENDPOINT_BASE_URL") or DEFAULT_BASE_URL


def _make(
    name: str,
    settings: TargetSettings,
    environment: Mapping[str, str],
    choose_pod: ChoosePod | None = None,
) -> Target:
    # Each kind where it is made: what a name means is asked more often than a target is opened,
    # and these need an HTTP stack, which takes long to import.
    address = settings.target
    if address == "sandbox":
        from .sandbox import SandboxTarget

        return SandboxTarget()
    if address.startswith("runpod:"):
        return _runpod(name, settings, environment)
    if address.startswith("modal:"):
        return _modal(name, settings, environment)
    if not is_address(address):
        raise ConfigurationError(
            f"The target {name!r} points to {address!r}, which is no kind of target.",
            advice=f"Use {_ADDRESSES}.",
        )
    for variable in settings.secret_variables:
        _refuse_key_elsewhere(name, settings, variable, environment)
    headers = login_headers(name, settings, environment)
    if address == "pod:auto":
        from .pod import PodTarget

        return PodTarget(name, headers, environment, choose_pod)
    from .comfyui.target import ComfyUITarget

    return ComfyUITarget(comfyui_url(address), name=name, headers=headers)


def _runpod(name: str, settings: TargetSettings, environment: Mapping[str, str]) -> Target:
    # Here, since only this kind of target needs pydantic, which takes long to import.
    from .runpod.target import RunPodTarget

    variable = settings.key_env or "RUNPOD_API_KEY"
    key = secret(variable, environment)
    if settings.key_env and key is None:
        raise secret_missing(name, settings.key_env)
    if settings.user or settings.password_env or settings.headers_env:
        raise ConfigurationError(
            f"The target {name!r} is a RunPod endpoint, which takes a key and no other login.",
            advice="Name the variable with its key with key_env, and omit user, password_env and "
            "headers_env.",
        )
    if key is not None:
        _refuse_key_elsewhere(name, settings, variable, environment)
    endpoint = settings.target.removeprefix("runpod:") or environment.get("RUNPOD_ENDPOINT_ID", "")
    return RunPodTarget(
        endpoint,
        key,
        base_url=settings.base_url or _runpod_base_url(environment),
        name=name,
        keep_stored=settings.keep_stored,
        memory=home(environment) / "endpoints",
        bucket=_bucket(name, settings, environment),
        storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
        policy=settings.policy,
    )


def _modal(name: str, settings: TargetSettings, environment: Mapping[str, str]) -> Target:
    from .modal import ModalTarget

    return ModalTarget(
        settings.target.removeprefix("modal:"),
        modal_headers(name, settings, environment),
        url=settings.base_url,
        name=name,
        keep_stored=settings.keep_stored,
        memory=home(environment) / "endpoints",
        bucket=_bucket(name, settings, environment),
        storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
    )


def modal_headers(
    name: str, settings: TargetSettings, environment: Mapping[str, str] = os.environ
) -> dict[str, SecretStr]:
    """What opens a Modal app's front.

    Raises:
        ConfigurationError: A variable is not set, or its value would go to a stranger.
    """
    if settings.key_env or settings.user or settings.password_env:
        raise ConfigurationError(
            f"The target {name!r} is a Modal app, which takes a proxy token and no other login.",
            advice="Remove key_env, user and password_env.",
        )
    for variable in settings.secret_variables:
        _refuse_key_elsewhere(name, settings, variable, environment)
    headers = settings.headers_env or MODAL_PROXY_HEADERS
    given = {field: secret(variable, environment) for field, variable in headers.items()}
    found = {field: value for field, value in given.items() if value is not None}
    if len(found) < len(given) and (found or not _on_this_machine(settings.base_url)):
        missing = [variable for field, variable in headers.items() if field not in found]
        raise ConfigurationError(
            f"The target {name!r} takes a proxy token, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set.",
            advice="Make a token at https://modal.com/settings/proxy-auth-tokens, and set "
            f"{' and '.join(headers.values())}.",
        )
    return found


def _on_this_machine(url: str | None) -> bool:
    return url is not None and is_loopback(base_address(url).host)


def _refuse_key_elsewhere(
    name: str, settings: TargetSettings, variable: str, environment: Mapping[str, str]
) -> None:
    """A configuration file (it may be a stranger's) does not send RunPod's key to others.

    Nor Modal's proxy token to a host that is not Modal's.

    Raises:
        ConfigurationError: It would.
    """
    if variable in MODAL_PROXY_HEADERS.values():
        if settings.target.startswith("modal:") and settings.base_url is None:
            return  # where Modal itself says
        host = base_address(_server(settings, environment)).host or ""
        if not host.endswith(_MODAL_HOSTS) and not is_loopback(host):
            raise ConfigurationError(
                f"The target {name!r} would send {variable} to {host}.",
                advice="If that is your app's own domain, put the token into variables of other "
                f"names, and name them in {CONFIG_NAME} with headers_env (Modal-Key, "
                "Modal-Secret).",
            )
        return
    if variable != "RUNPOD_API_KEY":
        return
    from yarl import URL

    from .runpod.target import DEFAULT_BASE_URL

    server = _server(settings, environment)
    runpods = {DEFAULT_BASE_URL, _runpod_base_url(environment).rstrip("/")}
    if server not in runpods and not is_loopback(URL(server).host):
        raise ConfigurationError(
            f"The target {name!r} would send RUNPOD_API_KEY to {URL(server).host}.",
            advice="Give that server a key of its own: put it into another environment variable, "
            f"and name the variable in {CONFIG_NAME} with key_env.",
        )


def _bucket(
    name: str, settings: TargetSettings, environment: Mapping[str, str]
) -> BucketSettings | None:
    from ..net.bucket import BucketSettings

    try:
        return BucketSettings.from_environ(environment, address=settings.bucket or "")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The bucket of the target {name!r} cannot be used. {error.message}",
            advice=error.advice,
        ) from None
