"""A ComfyUI that listens somewhere, as a kind of target."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from ...config.target_settings import TargetSettings
from ...secrets import secret
from ..kinds import Can, Choose, Kind

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..base import Target

__all__ = ["ComfyUIKind", "sync_token"]

_HOST_AND_PORT = re.compile(r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+):\d{1,5}/?$", re.IGNORECASE)


class ComfyUIKind(Kind):
    """``http://HOST:8188``, ``https://HOST`` or ``HOST:PORT``."""

    name = "comfyui"
    title = "a ComfyUI"
    forms: ClassVar[tuple[str, ...]] = ("http://HOST:8188",)
    can = frozenset({Can.DESCRIBE, Can.RECALL, Can.FRONT})

    def matches(self, address: str) -> bool:
        """Whether it is an http(s) URL, or a host with a port."""
        return (
            address.startswith(("http://", "https://")) or _HOST_AND_PORT.match(address) is not None
        )

    def address_in(self, typed: str) -> str | None:
        """Without ``?…`` and ``#…``, which a browser shows behind an address, and a last ``/``."""
        url = typed.partition("#")[0].partition("?")[0].rstrip("/")
        return super().address_in(url) or super().address_in(typed)

    def url(self, address: str) -> str:
        """The ComfyUI's URL."""
        return address if "://" in address else f"http://{address}"

    def public_url(self, address: str) -> str | None:
        """Its URL: this machine's own ports have other servers than ours, too."""
        return self.url(address)

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The ComfyUI's URL."""
        return self.url(settings.target).rstrip("/")

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        return self.comfyui_at(name, settings, environment, self.url(settings.target))

    def comfyui_at(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        url: str,
        find: Callable[[], Awaitable[tuple[str, str]]] | None = None,
    ) -> Target:
        """The target of the ComfyUI at a URL, with what the settings say of it."""
        from ...net.tls import trusting
        from .target import ComfyUITarget

        headers = self.login(name, settings, environment)
        tls = trusting(settings.ca_file)
        token = sync_token(settings, environment)
        return ComfyUITarget(url, name=name, headers=headers, find=find, tls=tls, sync_token=token)

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The ``url`` in the details."""
        url = details.get("url")
        return TargetSettings(url) if url and "kind" not in details else None


def sync_token(settings: TargetSettings, environment: Mapping[str, str]) -> SecretStr | None:
    """The token by which models may be brought to a ComfyUI; ``None`` where none is set: runs need
    none.
    """
    variable = settings.sync_token_env
    return secret(variable, environment) if variable else None
