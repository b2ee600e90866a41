"""RunPod's pods as a kind of target: each is a ComfyUI behind RunPod's proxy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config.target_settings import TargetSettings
from ..net.address import POD_PROXY, base_address, pod_proxy_url
from .comfyui.kind import ComfyUIKind
from .kinds import Billing, Choose, kind_of

if TYPE_CHECKING:
    from .base import Target

__all__ = ["PodKind"]

_AUTO = "pod:auto"
_POD = re.compile(r"^pod:([a-z0-9]+)$", re.IGNORECASE)
_PROXY = re.compile(r"^[a-z0-9]+-\d+\.proxy\.runpod\.net(/.*)?$", re.IGNORECASE)


class PodKind(ComfyUIKind):
    """``pod:ID``, ``ID-8188.proxy.runpod.net``, or ``pod:auto`` for the account's running pod."""

    name = "pod"
    title = "a RunPod pod"
    forms = ("pod:ID", _AUTO)
    ready = (_AUTO,)
    speaks = "comfyui"

    def matches(self, address: str) -> bool:
        """Whether it is a pod's id, or its host without a scheme."""
        return _POD.match(address) is not None or _PROXY.match(address) is not None

    def hint(self, text: str) -> str:
        """A bare id."""
        return f"If it is a pod's id, write pod:{text}." if _POD.match(f"pod:{text}") else ""

    def url(self, address: str) -> str:
        """The URL of the pod's ComfyUI, through RunPod's proxy."""
        pod = _POD.match(address)
        return pod_proxy_url(pod[1]) if pod else f"https://{address}"

    def public_url(self, address: str) -> str | None:
        """A pod's URL: by its id it may be anybody's. ``pod:auto`` is of the owner's account."""
        return None if address == _AUTO else self.url(address)

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """By the hour, whether it is used or not."""
        del settings, environment
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

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """See `Kind.open`."""
        if settings.target != _AUTO:
            return super().open(name, settings, environment)
        from .pod import PodTarget

        return PodTarget(name, self.login(name, settings, environment), environment, choose)

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """None: a job's pod is found by its URL."""
        del details
        return None
