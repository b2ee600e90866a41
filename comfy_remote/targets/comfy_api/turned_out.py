"""A Comfy API at an address that was typed without ``comfy:``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from .target import ComfyApiTarget
from .typed_address import Memory, look_again

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = ["TurnedOutApi"]


class TurnedOutApi(ComfyApiTarget):
    """The target of a Comfy API where a ComfyUI may be again later. Arguments: `ComfyApiTarget`."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        headers: Mapping[str, SecretStr],
        storage_hosts: Collection[str],
        tls: ssl.SSLContext | None,
        memory: Memory,
    ) -> None:
        super().__init__(url, name=name, headers=headers, storage_hosts=storage_hosts, tls=tls)
        self._memory = memory

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await look_again(self._http, self._memory, exc_info[1] if exc_info else None)
        finally:
            await super().__aexit__(*exc_info)
