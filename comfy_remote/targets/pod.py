"""RunPod's pods as a kind of target: each is a ComfyUI behind RunPod's proxy.

A pod is found by its id alone (``https://ID-8188.proxy.runpod.net``), or by asking RunPod which
pods the account has: its REST API where there is a key, else ``runpodctl``, which has a key of its
own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..advice import Hint
from ..config.environment import withheld
from ..config.target_settings import TargetSettings
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    TargetError,
    TargetUnreachable,
)
from ..net.address import COMFYUI_PORT, POD_PROXY, base_address, pod_proxy_url
from ..secrets import secret
from ..units import dollars
from .comfyui.kind import ComfyUIKind
from .kinds import Billing, Choose, ProviderSays, kind_of

if TYPE_CHECKING:
    import subprocess

    from pydantic import SecretStr

    from ..wire.runpod_pods import CtlPod, RestPod
    from .base import Target

__all__ = [
    "Pod",
    "PodKind",
    "account_pods",
    "chosen_pod_address",
    "find_pod",
    "is_pod_id",
]

# Nothing is ever sent there: the name is reserved for that (RFC 6761).
_NOT_FOUND_YET = "https://pod.invalid"
_AUTO = "pod:auto"
_BY_ID = re.compile(r"^pod:([a-z0-9]+)$", re.IGNORECASE)
_PROXY = re.compile(r"^(https://)?[a-z0-9]+-\d+\.proxy\.runpod\.net(/.*)?$", re.IGNORECASE)
_PROXY_HOST = re.compile(r"(?:https://)?[a-z0-9]+-\d+\.proxy\.runpod\.net(?=[/?#])", re.I)
_POD_ID = re.compile(r"[a-z0-9]{10,32}", re.IGNORECASE)
_POD_ADDRESS = re.compile(
    r"pod:([a-z0-9]+)$|(?:https?://)?([a-z0-9]+)-\d+\.proxy\.runpod\.net(?:/|$)", re.IGNORECASE
)
_RUNPODCTL_PATIENCE = 30.0
_UNKNOWN_COMMAND = re.compile(rb"unknown (?:command|flag|shorthand)")
_CONSOLE = "RunPod's console (https://console.runpod.io/pods)"


class PodKind(ComfyUIKind):
    """``pod:ID``, ``ID-8188.proxy.runpod.net``, or ``pod:auto`` for the account's running pod."""

    name = "pod"
    title = "a RunPod pod"
    forms = ("pod:ID", _AUTO)
    ready = (_AUTO,)
    speaks = "comfyui"

    def matches(self, address: str) -> bool:
        """Whether it is a pod's id, or where RunPod's proxy has it."""
        return _BY_ID.match(address) is not None or _PROXY.match(address) is not None

    def address_in(self, typed: str) -> str | None:
        """Of a URL at RunPod's proxy, its host alone: the proxy has a ComfyUI at the root."""
        host = _PROXY_HOST.match(typed)
        return super().address_in(host[0] if host else typed)

    def hint(self, text: str) -> str:
        """A bare id."""
        return f"If it is a pod's id, write pod:{text}." if _BY_ID.match(f"pod:{text}") else ""

    def url(self, address: str) -> str:
        """The URL of the pod's ComfyUI, through RunPod's proxy."""
        pod = _BY_ID.match(address)
        return pod_proxy_url(pod[1]) if pod else f"https://{address.removeprefix('https://')}"

    def public_url(self, address: str) -> str | None:
        """A pod's URL: by its id it may be anybody's. ``pod:auto`` is of the owner's account."""
        return None if address == _AUTO else self.url(address)

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By the hour, whether it is used or not."""
        return "by hour"

    def same_server(
        self, today: TargetSettings, sent: TargetSettings, environment: Mapping[str, str]
    ) -> bool:
        """Of ``pod:auto``, any pod."""
        if today.target != _AUTO:
            return super().same_server(today, sent, environment)
        there = kind_of(sent.target)
        url = there.server(sent, environment) if there is not None else None
        return url is not None and (base_address(url).host or "").endswith(POD_PROXY)

    async def provider_says(
        self, settings: TargetSettings, environment: Mapping[str, str]
    ) -> ProviderSays | None:
        """Whether RunPod lists the pod, and whether it runs and exposes ComfyUI's port."""
        pod_id = _pod_of(settings.target)
        if pod_id is None:
            return None
        try:
            pods = {pod.id: pod for pod in await account_pods(environment)}
        except ComfyRemoteError as error:
            return ProviderSays("skipped", f"RunPod was not asked about it. {error.message}")
        pod = pods.get(pod_id)
        if pod is None:
            return ProviderSays(
                "warning",
                f"RunPod does not list the pod {pod_id} as running, or it is another account's.",
                f"Look for it in {_CONSOLE}.",
            )
        if not pod.running:
            why = f"The pod is not running: {pod}."
            return ProviderSays("problem", why, f"Start it in {_CONSOLE}.")
        if pod.url is None:
            return ProviderSays(
                "problem",
                f"The pod {pod} does not expose port {COMFYUI_PORT}.",
                f"Add {COMFYUI_PORT}/http to its exposed ports in RunPod's console, and start "
                "ComfyUI with --listen.",
            )
        return ProviderSays("ok", f"{pod} runs.")

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        if settings.target != _AUTO:
            return super().open(name, settings, environment)

        async def find() -> tuple[str, str]:
            pod = await find_pod(environment, choose)
            if pod.url is None:
                raise ConfigurationError(f"The pod {pod} has no port that a ComfyUI could be at.")
            # A job that is resumed must find this pod, whichever runs then.
            return (f"pod:{pod.id}" if name == _AUTO else name), pod.url

        return self.comfyui_at(name, settings, environment, _NOT_FOUND_YET, find)

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """None: a job's pod is found by its URL."""
        return None


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the account.

    Attributes:
        status: ``RUNNING``, ``EXITED`` and so on.
        ports: What it exposes, for example ``8188/http``; ``None`` when that is not known.
        gpu: Name of the GPU, with its number if there are several; empty for none.
        cost: US dollars an hour; ``None`` when it is not known.
        direct: By port in the container, ``HOST:PORT`` that leads there without the proxy.
    """

    id: str
    name: str = ""
    status: str = "RUNNING"
    ports: tuple[str, ...] | None = None
    gpu: str = ""
    cost: float | None = None
    direct: Mapping[int, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether its container runs."""
        return self.status.upper() == "RUNNING"

    @property
    def url(self) -> str | None:
        """Where its ComfyUI should be.

        Port 8188 through the proxy, or without it; else the only other port that the proxy
        leads to; ``None`` if it has none of these.
        """
        if self.ports is None or f"{COMFYUI_PORT}/http" in self.ports:
            return pod_proxy_url(self.id)
        if COMFYUI_PORT in self.direct:
            return f"http://{self.direct[COMFYUI_PORT]}"
        http = [port.partition("/")[0] for port in self.ports if port.endswith("/http")]
        return pod_proxy_url(self.id, int(http[0])) if len(http) == 1 else None

    def __str__(self) -> str:
        """For people: ``abc123xyz (training, RTX 4090, $0.44 an hour)``."""
        cost = None if not self.cost else f"{dollars(self.cost)} an hour"
        status = None if self.running else self.status.lower()
        facts = [fact for fact in (self.name, self.gpu, cost, status) if fact]
        return f"{self.id} ({', '.join(facts)})" if facts else self.id


def is_pod_id(text: str) -> bool:
    """Whether a word must be a pod's id, such as ``xedezhzb9la3ye``: nobody writes such a word.

    Of a hundred ids, about one has no digit, and is taken for a name: ``pod:ID`` says it.
    """
    return _POD_ID.fullmatch(text) is not None and any(c.isdigit() for c in text)


def _pod_of(address: str) -> str | None:
    """The id of the pod that an address leads to; ``None`` if it is no pod's."""
    match = _POD_ADDRESS.match(address)
    return match[1] or match[2] if match is not None and match[1] != "auto" else None


def chosen_pod_address(
    given: str | None, configured: Collection[str] = (), environment: Mapping[str, str] = os.environ
) -> str:
    """What to open for ``--pod-url``: that, else ``RUNPOD_POD_URL``, else ``pod:auto``.

    A bare pod id becomes ``pod:ID``; anything else is left to `config.open_target`, also a
    word that is nearly the name of a target.

    Args:
        configured: The names of targets; one of them, or nearly one, is no pod id.
    """
    wanted = (given or environment.get("RUNPOD_POD_URL", "")).strip()
    if not wanted:
        return _AUTO
    from ..workflow.change.values import did_you_mean

    if not is_pod_id(wanted) or did_you_mean(wanted, configured):
        return wanted
    return f"pod:{wanted}"


async def find_pod(
    environment: Mapping[str, str] = os.environ, choose: Choose | None = None
) -> Pod:
    """The account's running pod; the one that the person chooses, if several run.

    Raises:
        ConfigurationError: None runs, or several do and nobody can be asked; or there is
            neither a key nor ``runpodctl``.
        TargetError: RunPod could not be asked.
    """
    pods = await account_pods(environment)
    running = [pod for pod in pods if pod.running and pod.url is not None]
    if not running:
        raise _none_runs(pods)
    if len(running) == 1:
        return running[0]
    chosen = None
    if choose is not None:
        chosen = choose("Several pods run. Which one?", [str(pod) for pod in running])
    if chosen is None:
        raise ConfigurationError(
            f"{len(running)} pods run: {'; '.join(map(str, running))}.",
            advice=Hint.WHICH_POD(pod=running[0].id),
            details={"pods": [pod.id for pod in running]},
        )
    return running[chosen]


async def account_pods(environment: Mapping[str, str] = os.environ) -> list[Pod]:
    """The pods of the account, as far as they can be listed: ``runpodctl`` lists running ones.

    Raises:
        ConfigurationError: There is neither a key nor ``runpodctl``.
        AuthenticationError: RunPod refuses the key.
        TargetError: RunPod could not be asked, or its answer is not understood.
    """
    import asyncio
    import shutil

    key = secret("RUNPOD_API_KEY", environment)
    if key is not None:
        return await _from_rest(key, environment)
    program = shutil.which("runpodctl", path=environment.get("PATH"))
    if program is not None:
        return await asyncio.to_thread(_from_runpodctl, program, environment)
    if refused := withheld(["RUNPOD_API_KEY"], environment):
        raise refused
    raise ConfigurationError(
        "No pod is named, and there is no way to look for one: RUNPOD_API_KEY is not set, and "
        "runpodctl is not installed.",
        advice=Hint.NAME_A_POD(first=""),
    )


async def _from_rest(key: SecretStr, environment: Mapping[str, str]) -> list[Pod]:
    from ..wire.runpod_pods import RestPodList
    from .runpod.account import API_VARIABLE, ask_account

    try:
        answer = await ask_account(key, environment, "v2/pods", RestPodList)
    except AuthenticationError as error:
        raise AuthenticationError(
            "RunPod refused RUNPOD_API_KEY when it was asked for the account's pods.",
            advice=Hint.NAME_A_POD(
                first="Check the key in RunPod's console (Settings > API Keys): it must be allowed "
                "to read pods. Without it:"
            ),
            details=error.details,
        ) from error
    except TargetError as error:
        # What the client says of addresses in general (an endpoint's id) helps nobody here.
        changed = f"Check {API_VARIABLE}." if environment.get(API_VARIABLE) else "Try again later."
        error.advice = Hint.NAME_A_POD(first=changed)
        raise
    return [_rest_pod(pod) for pod in answer.pods]


def _from_runpodctl(program: str, environment: Mapping[str, str]) -> list[Pod]:
    from pydantic import ValidationError

    from ..wire.runpod_pods import ctl_pods, pods_in_table

    command: tuple[str, ...] = ("pod", "list", "--output", "json")
    done = _run(program, command, environment)
    if old := done.returncode != 0 and _UNKNOWN_COMMAND.search(done.stderr) is not None:
        command = ("get", "pod")  # of version 1
        done = _run(program, command, environment)
    name = f"runpodctl {' '.join(command[:2])}"
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise TargetError(
            f"{name} failed (status {done.returncode}){f': {said}' if said else ''}.",
            advice=Hint.NAME_A_POD(first="`runpodctl doctor` helps to set it up."),
        )
    try:
        if old:
            pods = pods_in_table(done.stdout.decode("utf-8", "replace"))
        else:
            pods = ctl_pods.validate_json(done.stdout) or []
    except (ValidationError, ValueError):
        raise TargetError(
            f"What {name} printed is not understood.",
            advice=Hint.NAME_A_POD(first="Update runpodctl (2.1 or later)."),
        ) from None
    return [_ctl_pod(pod) for pod in pods]


def _run(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    import subprocess  # here, as in all of this module: what an address means is asked often

    try:
        return subprocess.run(
            [program, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RUNPODCTL_PATIENCE,
            check=False,
            # No window of its own on Windows.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetUnreachable(
            f"runpodctl could not be asked for the account's pods: {error}.",
            advice=Hint.NAME_A_POD(first=""),
        ) from error


def _rest_pod(pod: RestPod) -> Pod:
    mapped = pod.runtime.ports if pod.runtime is not None else []
    return Pod(
        pod.id,
        pod.name,
        pod.status,
        None if pod.ports is None else tuple(pod.ports),
        _gpu(pod.gpu.id, pod.gpu.count) if pod.gpu is not None else "",
        pod.cost,
        {one.private: f"{one.ip}:{one.public}" for one in mapped if one.private and one.public},
    )


def _ctl_pod(pod: CtlPod) -> Pod:
    return Pod(
        pod.id,
        pod.name,
        pod.desired_status,
        None,
        _gpu(pod.gpu_id, pod.gpu_count) if pod.gpu_id else "",
        pod.cost_per_hr,
    )


def _gpu(name: str, count: int) -> str:
    short = name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return f"{count} x {short}" if count > 1 else short


def _none_runs(pods: Sequence[Pod]) -> ConfigurationError:
    there = "; ".join(map(str, pods))
    running = [pod for pod in pods if pod.running]
    if running:
        why = f"No running pod exposes port {COMFYUI_PORT}: {there}."
        what = f"Add {COMFYUI_PORT}/http to its exposed ports in RunPod's console."
    elif pods:
        why = f"No pod of the account runs: {there}."
        what = f"Start it in {_CONSOLE}."
    else:
        why = "No pod of the account runs."
        what = f"Start one in {_CONSOLE}."
    return ConfigurationError(why, advice=Hint.NAME_A_POD(first=what))
