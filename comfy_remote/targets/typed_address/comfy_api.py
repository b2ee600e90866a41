"""The Comfy API at a typed address."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..base import Health, RemoteRef, RunRequest
from ..comfy_api.target import ComfyApiTarget
from .memory import AddressMemory, AddressWatch

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = ["TypedComfyApi"]


class TypedComfyApi(ComfyApiTarget):
    """A Comfy API at an address that may have a ComfyUI later. Arguments: `ComfyApiTarget`."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        headers: Mapping[str, SecretStr],
        storage_hosts: Collection[str],
        tls: ssl.SSLContext | None,
        memory: AddressMemory,
    ) -> None:
        super().__init__(url, name=name, headers=headers, storage_hosts=storage_hosts, tls=tls)
        self._watch = AddressWatch(memory)

    async def __aexit__(self, *exc_info: object) -> None:
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
