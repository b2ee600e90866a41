"""``pod:auto``: the ComfyUI of the account's running pod, found when the target is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from .comfyui.target import ComfyUITarget
from .runpod.pods import find_pod

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .kinds import Choose

__all__ = ["PodTarget"]

# Nothing is ever sent there: the name is reserved for that (RFC 6761).
_NOT_FOUND_YET = "https://pod.invalid"


class PodTarget(ComfyUITarget):
    """A `ComfyUITarget` whose address is looked for.

    Args:
        name: What to call it; ``pod:auto`` is called by the pod's id once that is known.
        headers: As for `ComfyUITarget`.
        environment: Where the key to the account is.
        choose: Asks which, if several run.
    """

    def __init__(
        self,
        name: str,
        headers: Mapping[str, SecretStr],
        environment: Mapping[str, str] = os.environ,
        choose: Choose | None = None,
    ) -> None:
        super().__init__(_NOT_FOUND_YET, name=name, headers=headers)
        self._environment = environment
        self._choose = choose

    async def __aenter__(self) -> PodTarget:
        pod = await find_pod(self._environment, self._choose)
        if pod.url is None:
            raise ConfigurationError(f"The pod {pod} has no port that a ComfyUI could be at.")
        if self._name == "pod:auto":
            # A job that is resumed must find this pod, whichever runs then.
            self._name = f"pod:{pod.id}"
        self._use(pod.url)
        await super().__aenter__()
        return self
