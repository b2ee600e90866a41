"""The ComfyUI at a typed address."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...aio import in_thread
from ..base import Health, RemoteRef, RunRequest
from ..comfyui.target import ComfyUITarget
from .memory import AddressMemory, AddressWatch
from .probe import what_speaks

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

    from ..base import Target

__all__ = ["TypedComfyUI"]

_log = logging.getLogger(__name__)


class TypedComfyUI(ComfyUITarget):
    """The ComfyUI at an address. If it has a Comfy API, opening this gives that one's target.

    Args:
        url, name, headers, tls, sync_token: As for `ComfyUITarget`.
        memory: Of that address.
        known: Whether a ComfyUI was found there before: then nothing is asked.
        instead: Makes the target of the Comfy API.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        headers: Mapping[str, SecretStr],
        tls: ssl.SSLContext | None,
        memory: AddressMemory,
        known: bool,
        instead: Callable[[], Target],
        sync_token: SecretStr | None = None,
    ) -> None:
        super().__init__(url, name=name, headers=headers, tls=tls, sync_token=sync_token)
        self._memory = memory
        self._watch = AddressWatch(memory)
        self._known = known
        self._instead = instead
        self._opened: Target | None = None  # in place of this one

    # Opened, it may be another target: the supertype promises itself.
    async def __aenter__(self) -> Target:  # type: ignore[override]
        await super().__aenter__()
        if self._known:
            return self
        try:
            speaks = await what_speaks(self._http, self.url)
            if speaks is not None:
                await in_thread(self._memory.write, speaks)
            if speaks != "comfy":
                return self
            instead = self._instead()
        except BaseException:
            await super().__aexit__()
            raise
        await super().__aexit__()
        _log.info("%s is a Comfy API, and no ComfyUI.", self.url)
        self._opened = await instead.__aenter__()
        return self._opened

    async def __aexit__(self, *exc_info: object) -> None:
        if (opened := self._opened) is not None:
            self._opened = None
            await opened.__aexit__(*exc_info)
            return
        try:
            await self._watch.look_again(self._http, exc_info[1] if exc_info else None)
        finally:
            await super().__aexit__(*exc_info)

    @property
    def has_changed(self) -> bool:
        """See `MayChange`."""
        return self._watch.changed

    async def submit(self, request: RunRequest) -> RemoteRef:
        async with self._watch.over(self._http):
            return await super().submit(request)

    async def health(self) -> Health:
        async with self._watch.over(self._http):
            return await super().health()
