"""``pod:auto``: the ComfyUI of the account's running pod, found when the target is opened."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from ..events import Event
from ..outputs import RemoteOutput
from ..workflow.prompt import Prompt
from .base import Capabilities, Health, RemoteRef, RunRequest
from .comfyui import ComfyUITarget
from .pods import ChoosePod, find_pod

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["PodTarget"]


class PodTarget:
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
        choose: ChoosePod | None = None,
    ) -> None:
        self._name = name
        self._headers = headers
        self._environment = environment
        self._choose = choose
        self._inner: ComfyUITarget | None = None

    @property
    def name(self) -> str:
        """``pod:auto``, then ``pod:ID``; or the name it was given."""
        return self._name

    async def __aenter__(self) -> PodTarget:
        pod = await find_pod(self._environment, self._choose)
        if self._name == "pod:auto":
            # A job that is resumed must find this pod, whichever runs then.
            self._name = f"pod:{pod.id}"
        inner = ComfyUITarget(pod.url or "", name=self._name, headers=self._headers)
        self._inner = await inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(*exc_info)

    @property
    def comfyui(self) -> ComfyUITarget:
        """The ComfyUI in it; only inside ``async with``."""
        if self._inner is None:
            raise RuntimeError("the target is used outside of `async with`")
        return self._inner

    async def has_input(self, name: str) -> bool:
        """See `Target.has_input`."""
        return await self.comfyui.has_input(name)

    async def submit(self, request: RunRequest) -> RemoteRef:
        """See `Target.submit`."""
        return await self.comfyui.submit(request)

    async def find(self, job_id: str) -> RemoteRef | None:
        """See `Target.find`."""
        return await self.comfyui.find(job_id)

    async def recall(self, remote_id: str) -> tuple[RemoteRef, Prompt] | None:
        """See `Recalls.recall`."""
        return await self.comfyui.recall(remote_id)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Target.follow`."""
        async with aclosing(self.comfyui.follow(ref, prompt)) as events:
            async for event in events:
                yield event

    async def cancel(self, ref: RemoteRef) -> None:
        """See `Target.cancel`."""
        await self.comfyui.cancel(ref)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Target.read`."""
        async with aclosing(self.comfyui.read(output, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """See `Target.describe`."""
        return await self.comfyui.describe(classes)

    async def health(self) -> Health:
        """See `Target.health`."""
        return await self.comfyui.health()
