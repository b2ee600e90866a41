"""The sandbox as a kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...config.target_settings import TargetSettings
from ...errors import ConfigurationError
from ..kinds import Can, Choose, Kind

if TYPE_CHECKING:
    from ..base import Target

__all__ = ["SandboxKind"]


class SandboxKind(Kind):
    """``sandbox``."""

    name = "sandbox"
    title = "the sandbox"
    forms = ("sandbox",)
    ready = ("sandbox",)
    can = frozenset({Can.DESCRIBE, Can.FRONT})
    on_this_machine = True

    def matches(self, address: str) -> bool:
        """Whether it is ``sandbox``."""
        return address == self.name

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """One that is started when the target is opened."""
        from .target import SandboxTarget

        return SandboxTarget()

    def reopen(self, name: str, details: Mapping[str, str], *, look: bool) -> Target | None:
        """The sandbox that has the job."""
        if "url" not in details:
            raise ConfigurationError(
                "The job was never sent: the sandbox did not take it.",
                advice="Run the workflow again.",
            )
        if look:
            # A `SandboxTarget` ends the sandbox when it closes: outputs may be there.
            from ..comfyui.target import ComfyUITarget

            return ComfyUITarget(details["url"], name=self.name)
        from .target import SandboxTarget

        return SandboxTarget(details["url"])
