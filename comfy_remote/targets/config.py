"""Which target a name or an address means.

Names stand in ``comfy-remote.toml``: first the one in the current folder or the nearest
folder above it, then the user's. Secrets never stand in that file: it names the environment
variable that holds the key.

```toml
default = "gpu"

[targets.gpu]
target = "runpod:abc123xyz"

[targets.box]
target = "runpod:workshop"
base_url = "https://box.local:8000/v2"
key_env = "BOX_TOKEN"
price_per_hour = 0.69

[targets.lan]
target = "http://192.168.1.20:8188"

[targets.cloud]
target = "modal:portraits"
base_url = "https://ann--portraits-front.modal.run"

[targets.studio]
target = "https://comfy.example.org"
user = "ann"
password_env = "STUDIO_PASSWORD"
```
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.places import CONFIG_NAME, home
from ..config.secrets import secret
from ..errors import ConfigurationError
from ..net.address import POD_PROXY, base_address, host_list, is_loopback, shown
from ..workflow.values import did_you_mean
from .base import RemoteRef, Target
from .login import login_headers, secret_missing

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .bucket import BucketSettings
    from .pods import ChoosePod

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

MODAL_PROXY_HEADERS = {
    "Modal-Key": "MODAL_PROXY_TOKEN_ID",
    "Modal-Secret": "MODAL_PROXY_TOKEN_SECRET",
}
"""The headers of Modal's proxy authentication, each with the variable that holds its value."""

_MODAL_HOSTS = ".modal.run"
_PROXY = re.compile(r"^[a-z0-9]+-\d+\.proxy\.runpod\.net(/.*)?$", re.IGNORECASE)
_POD = re.compile(r"^pod:([a-z0-9]+)$", re.IGNORECASE)
_ADDRESSES = (
    "runpod:ENDPOINT, modal:APP, pod:ID, pod:auto, a ComfyUI URL such as http://127.0.0.1:8188, "
    "or sandbox"
)
_HOST_AND_PORT = re.compile(r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+):\d{1,5}/?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How to reach one target: a ``[targets.NAME]`` table, or what was typed after ``--on``.

    Attributes:
        target: ``runpod:ENDPOINT``, ``modal:APP``, ``pod:ID``, ``pod:auto``, ``sandbox`` or a
            ComfyUI URL.
        base_url: For ``runpod:``, another server that speaks RunPod's API. For ``modal:``, the
            address of the app's front, which Modal's SDK is asked for otherwise.
        key_env: Name of the environment variable with the key; ``RUNPOD_API_KEY`` for
            ``runpod:``. A ComfyUI URL gets it as a bearer token, if the variable is named.
        price_per_hour: US dollars for an hour of its GPU, to tell about what a run costs.
        user: For a ComfyUI behind a login by name and password.
        password_env: Name of the variable with that password.
        headers_env: For a ComfyUI behind something else: the headers to send, each with the
            name of the variable that holds its value. For ``modal:``, ``Modal-Key`` and
            ``Modal-Secret`` by default, from ``MODAL_PROXY_TOKEN_ID`` and ``…_SECRET``.
        keep_stored: For ``runpod:``, whether outputs that a worker had put into storage stay
            there once they have been fetched.
        bucket: For ``runpod:``, the address of the S3-compatible bucket that input files go
            by which do not fit a request; ``BUCKET_ENDPOINT_URL`` by default. Its keys are
            ``BUCKET_ACCESS_KEY_ID`` and ``BUCKET_SECRET_ACCESS_KEY`` in the environment.
        policy: For ``runpod:``, RunPod's own ``policy`` of every request: ``executionTimeout``
            and ``ttl`` in milliseconds, ``lowPriority``.
    """

    target: str
    base_url: str | None = None
    key_env: str | None = None
    price_per_hour: float | None = None
    user: str | None = None
    password_env: str | None = None
    headers_env: Mapping[str, str] = field(default_factory=dict)
    keep_stored: bool = False
    bucket: str | None = None
    policy: Mapping[str, int | bool] | None = None

    @property
    def key_variable(self) -> str | None:
        """The environment variable that its key is read from; ``None`` where it takes none."""
        if self.key_env is None and self.target.startswith("runpod:"):
            return "RUNPOD_API_KEY"
        return self.key_env

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """All the variables that its secrets are read from."""
        headers = self.headers_env
        if self.target.startswith("modal:") and not headers:
            headers = MODAL_PROXY_HEADERS
        named = (self.key_variable, self.password_env, *headers.values())
        return tuple(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True)
class Configuration:
    """What the configuration files say, the project's before the user's.

    Attributes:
        default: Name or address of the target to use when none is given.
        targets: Settings by name.
        origins: The file that each name was read from.
    """

    default: str | None
    targets: Mapping[str, TargetSettings]
    origins: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | None = None) -> Configuration:
        """Read the files that exist.

        Args:
            folder: Where to begin to look; the current folder by default.

        Raises:
            ConfigurationError: A file cannot be read, or says something unknown.
        """
        default: str | None = None
        targets: dict[str, TargetSettings] = {}
        origins: dict[str, Path] = {}
        for path in reversed(_files(folder or Path.cwd())):
            from ..config.config_file import read_config

            file = read_config(path)
            default = file.default or default
            origins.update(dict.fromkeys(file.targets, path))
            targets.update(
                (name, TargetSettings(**table.model_dump(exclude_none=True)))
                for name, table in file.targets.items()
            )
        return cls(default, targets, origins)

    def address_of(self, name: str) -> str:
        """What a name means; an address means itself."""
        settings = self.targets.get(name)
        return name if settings is None else settings.target

    def service_of(self, name: str) -> str:
        """The address that calls of a name go to: like `address_of`, and an app's on Modal."""
        settings = self.targets.get(name)
        if settings is None or not settings.target.startswith("modal:"):
            return self.address_of(name)
        return modal_front(settings) or settings.target

    def price_per_hour(self, name: str) -> float | None:
        """US dollars for an hour of a target's GPU; ``None`` where it is not configured."""
        settings = self.targets.get(name)
        return None if settings is None else settings.price_per_hour

    def choose(self, wanted: str | None) -> str:
        """The name or address to use: the one wanted, the default, else ``sandbox``."""
        return wanted or self.default or "sandbox"


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
    """
    configuration = configuration or Configuration.load()
    settings = configuration.targets.get(wanted)
    if settings is not None:
        return _make(wanted, settings, environment, choose_pod)
    if _looks_like_target(wanted):
        return _make(wanted, TargetSettings(target=wanted), environment, choose_pod)
    known = ", ".join(sorted(configuration.targets)) or "none"
    near = did_you_mean(wanted, configuration.targets)
    pod = f"If it is a pod's id, write pod:{wanted}. " if _POD.match(f"pod:{wanted}") else ""
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


def reopen(
    wanted: str,
    ref: RemoteRef | None,
    environment: Mapping[str, str] = os.environ,
) -> Target:
    """The target of a job in the record: where it was sent, whatever the name means today.

    The key that a name has today goes only to the address that the name has today.
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
    today = Configuration.load().targets.get(wanted) or TargetSettings(target=wanted)
    if "endpoint" in details:
        kind = details.get("kind", "runpod")
        sent = TargetSettings(f"{kind}:{details['endpoint']}", details["base_url"])
    elif "url" in details:
        sent = TargetSettings(details["url"])
    else:
        sent = today
    if today.secret_variables and _same_server(today, sent, environment):
        sent = replace(today, target=sent.target, base_url=sent.base_url)
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
    return _url(settings.target).rstrip("/")


def _runpod_base_url(environment: Mapping[str, str]) -> str:
    from .runpod import DEFAULT_BASE_URL

    return environment.get("RUNPOD_ENDPOINT_BASE_URL") or DEFAULT_BASE_URL


def _looks_like_target(wanted: str) -> bool:
    return (
        wanted == "sandbox"
        or wanted.startswith(("runpod:", "modal:", "http://", "https://"))
        or _PROXY.match(wanted) is not None
        or _POD.match(wanted) is not None
        or _HOST_AND_PORT.match(wanted) is not None
    )


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
    if not _looks_like_target(address):
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
    from .comfyui import ComfyUITarget

    return ComfyUITarget(_url(address), name=name, headers=headers)


def _runpod(name: str, settings: TargetSettings, environment: Mapping[str, str]) -> Target:
    # Here, since only this kind of target needs pydantic, which takes long to import.
    from .runpod import RunPodTarget

    variable = settings.key_env or "RUNPOD_API_KEY"
    key = secret(variable, environment)
    if settings.key_env and key is None:
        raise secret_missing(name, settings.key_env)
    if settings.user or settings.password_env or settings.headers_env:
        raise ConfigurationError(
            f"The target {name!r} is a RunPod endpoint, which takes a key and no other login.",
            advice="Name the variable with its key with key_env, and leave user, password_env and "
            "headers_env away.",
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
        storage_hosts=host_list(environment.get("COMFY_REMOTE_OUTPUT_HOSTS", "")),
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
        storage_hosts=host_list(environment.get("COMFY_REMOTE_OUTPUT_HOSTS", "")),
    )


def modal_front(settings: TargetSettings) -> str | None:
    """The configured address of a Modal app's front; ``None`` where Modal has to be asked."""
    url = (settings.base_url or "").rstrip("/").removesuffix("/v2")
    return f"{url}/" if url else None


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
            advice="Leave key_env, user and password_env away.",
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

    from .runpod import DEFAULT_BASE_URL

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
    from .bucket import BucketSettings

    try:
        return BucketSettings.from_environ(environment, address=settings.bucket or "")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The bucket of the target {name!r} cannot be used. {error.message}",
            advice=error.advice,
        ) from None


def _url(address: str) -> str:
    if "://" in address:
        return address
    if pod := _POD.match(address):
        from .pods import pod_proxy_url

        return pod_proxy_url(pod[1])
    return f"https://{address}" if _PROXY.match(address) else f"http://{address}"


def _files(folder: Path) -> list[Path]:
    """The files that count, the nearest first."""
    import platformdirs

    near = [parent / CONFIG_NAME for parent in [folder, *folder.parents]]
    project = next((path for path in near if path.is_file()), None)
    users = [
        home() / CONFIG_NAME,
        platformdirs.user_config_path("comfy-remote", appauthor=False) / CONFIG_NAME,
    ]
    user = next((path for path in users if path.is_file()), None)
    return [path for path in (project, user) if path is not None]
