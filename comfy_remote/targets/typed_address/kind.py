"""Addresses without the name of a kind before them: ``http://HOST:8188``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...config.folders import home
from ...config.target_settings import TargetSettings
from ...net.address import host_list
from ..comfy_api.kind import ComfyApiKind
from ..comfyui.kind import ComfyUIKind, sync_token
from ..kinds import Choose

if TYPE_CHECKING:
    from ..base import Target

__all__ = ["TypedAddressKind"]


class TypedAddressKind(ComfyUIKind):
    """An http(s) address: a ComfyUI, unless a Comfy API turns out to be there."""

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        from ...net.tls import trusting
        from .memory import AddressMemory

        url = self.url(settings.target).rstrip("/")
        memory = AddressMemory(home(environment), url)

        def api() -> Target:
            from .comfy_api import TypedComfyApi

            kind = ComfyApiKind()
            as_api = replace(settings, target=f"{kind.prefix}{url}")
            return TypedComfyApi(
                url,
                name=name,
                headers=kind.login(name, as_api, environment),
                storage_hosts=host_list(environment, "COMFY_REMOTE_OUTPUT_HOSTS"),
                tls=trusting(settings.ca_file),
                memory=memory,
            )

        known = memory.read()
        if known == "comfy":
            return api()
        from .comfyui import TypedComfyUI

        return TypedComfyUI(
            url,
            name=name,
            headers=self.login(name, settings, environment),
            tls=trusting(settings.ca_file),
            memory=memory,
            known=known == "comfyui",
            sync_token=sync_token(settings, environment),
            instead=api,
        )
