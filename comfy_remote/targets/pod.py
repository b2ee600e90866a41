"""RunPod's pods as a kind of target: each is a ComfyUI behind RunPod's proxy.

A pod is found by its id alone (``https://ID-8188.proxy.runpod.net``), or by asking RunPod which
pods the account has (`runpod.pods`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..advice import Hint
from ..config.target_settings import TargetSettings
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
)
from ..net.address import COMFYUI_PORT, POD_PROXY, base_address, pod_proxy_url
from ..secrets import secret
from .comfyui.kind import ComfyUIKind
from .kinds import Billing, Choose, ProviderSays, kind_of

if TYPE_CHECKING:
    from ..schedule.bill import Billed, Running
    from ..schedule.money import Price
    from .base import Target
    from .runpod.pods import Pod

__all__ = [
    "PodKind",
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

    def priced_as(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """Its address in RunPod's REST API; ``pod:auto`` may be another one tomorrow."""
        from .runpod.kind import account_url

        pod = _pod_of(settings.target)
        return f"{account_url(environment)}/v2/pods/{pod}" if pod is not None else None

    async def price(self, settings: TargetSettings, environment: Mapping[str, str]) -> Price | None:
        """What the pod is billed at, whether it is used or not; ``None`` without a key."""
        import asyncio

        from .runpod.kind import API_KEY_VARIABLE
        from .runpod.prices import pod_price

        pod = _pod_of(settings.target)
        key = await asyncio.to_thread(secret, API_KEY_VARIABLE, environment)
        return None if pod is None or key is None else await pod_price(key, environment, pod)

    async def billed(
        self,
        settings: TargetSettings,
        environment: Mapping[str, str],
        since: float,
        until: float,
    ) -> Sequence[Billed] | None:
        """Of the pod, used or not; ``None`` without a key."""
        import asyncio

        from .runpod.billing import billed_pod
        from .runpod.kind import API_KEY_VARIABLE

        pod = _pod_of(settings.target)
        key = await asyncio.to_thread(secret, API_KEY_VARIABLE, environment)
        if pod is None or key is None:
            return None
        return await billed_pod(key, environment, pod, since, until)

    async def running(self, environment: Mapping[str, str]) -> Sequence[Running] | None:
        """The account's pods that run; ``None`` without a key."""
        import asyncio

        from ..schedule.bill import Running
        from .runpod.kind import API_KEY_VARIABLE
        from .runpod.pods import account_pods

        if await asyncio.to_thread(secret, API_KEY_VARIABLE, environment) is None:
            return None
        return [
            Running(
                f"pod:{pod.id}",
                ", ".join(one for one in (pod.name, pod.gpu) if one),
                pod.cost or None,
                pod.started,
            )
            for pod in await account_pods(environment)
            if pod.running
        ]

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
        from .runpod.pods import account_pods

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
    from .runpod.pods import account_pods  # here: what an address means is asked often

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
