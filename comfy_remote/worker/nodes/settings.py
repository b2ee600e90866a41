"""What the node packs part of a worker reads from its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from ...errors import ConfigurationError
from ...net.address import base_address, check_key_is_safe, host_list
from ...net.guard import Guard
from ..models.settings import yes_or_no
from .at_start import NODES_FOLDER
from .install_custom_nodes import REGISTRY

__all__ = ["NodeSettings", "Patience"]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that the steps of an installation may take.

    Attributes:
        fetch: One pack from its repository or the registry.
        requirements: Resolving or installing the Python packages of all.
        script: One pack's ``install.py``.
        trial: ComfyUI's start with the new set. Packs download models when they are imported.
    """

    fetch: float = 900.0
    requirements: float = 1800.0
    script: float = 900.0
    trial: float = 900.0


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Whether jobs may bring node packs to a worker, from where, and where they are.

    Attributes:
        folder: Where the sets are, on the volume if there is one: workers that share it share them.
        allow: Whether jobs may install packs. A pack is code that runs in ComfyUI.
        why_not: Why they may not although the owner allows it, for people.
        registry: The Comfy Registry's API, or a stand-in for it.
        hosts: ``HOST`` or ``HOST:PORT`` in a private network (or on this machine) that packs may
            come from nevertheless.
    """

    folder: Path
    allow: bool = False
    why_not: str = ""
    registry: str = REGISTRY
    hosts: frozenset[str] = frozenset()
    patience: Patience = Patience()

    @classmethod
    def from_environ(cls, folder: Path, environ: Mapping[str, str] = os.environ) -> NodeSettings:
        """Read ``ALLOW_NODE_INSTALL``, ``COMFY_REMOTE_NODES_DIR``, ``COMFY_REMOTE_NODE_REGISTRY``
        and ``COMFY_REMOTE_NODE_HOSTS``.

        Args:
            folder: The worker's own, in which the sets are if no other is named.

        Raises:
            ConfigurationError: One of them is not what it should be.
        """
        named = environ.get(NODES_FOLDER, "").strip()
        allow = environ.get("ALLOW_NODE_INSTALL", "").strip()
        return cls(
            folder=Path(named).expanduser().absolute() if named else folder / "nodes",
            allow=yes_or_no("ALLOW_NODE_INSTALL", allow) or False,
            registry=_registry(environ.get("COMFY_REMOTE_NODE_REGISTRY", "").strip() or REGISTRY),
            hosts=host_list(environ, "COMFY_REMOTE_NODE_HOSTS"),
        )

    @property
    def guard(self) -> Guard:
        """Where packs may come from."""
        registry = URL(self.registry)
        return Guard(
            allowed=self.hosts | {f"{registry.raw_host}:{registry.port}"},
            advice="Packs come from public https addresses, and from the hosts that the worker's "
            "owner names in COMFY_REMOTE_NODE_HOSTS.",
        )


def _registry(address: str) -> str:
    try:
        url = base_address(address.rstrip("/"))
        check_key_is_safe(url)  # what runs here must not be changed on the way
    except ConfigurationError as error:
        raise ConfigurationError(
            f"COMFY_REMOTE_NODE_REGISTRY cannot be used. {error.message}",
            advice="Give an https address; only a server on this machine may be plain http.",
        ) from None
    return str(url).rstrip("/")
