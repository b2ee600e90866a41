"""``echo:NAME``: a kind of target of another package. Its jobs run in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_remote.targets.kinds import Can, Kind

if TYPE_CHECKING:
    from comfy_remote.config.target_settings import TargetSettings
    from comfy_remote.targets.base import RemoteRef, RunRequest, Target
    from comfy_remote.targets.kinds import Billing, Choose


class EchoKind(Kind):
    """What an address that begins with ``echo:`` means."""

    name = "echo"
    title = "an echo"
    forms = ("echo:NAME",)
    ready = ("echo:here",)
    can = frozenset({Can.DESCRIBE, Can.FRONT})

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        return "by hour"

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        return echo_target(name, settings.target)

    def reopen(self, name: str, details: Mapping[str, str], *, look: bool) -> Target | None:
        """The sandbox that has the job: only its details say where that is."""
        if details.get("kind") != self.name:
            return None
        return echo_target(name, details["address"], details["url"])


def echo_target(name: str, address: str, url: str | None = None) -> Target:
    """A sandbox under another name, whose jobs remember that it is an echo."""
    from comfy_remote.targets.sandbox.target import SandboxTarget

    class EchoTarget(SandboxTarget):
        @property
        def name(self) -> str:
            return name

        async def submit(self, request: RunRequest) -> RemoteRef:
            ref = await super().submit(request)
            return replace(ref, details={**ref.details, "kind": "echo", "address": address})

    return EchoTarget(url)
