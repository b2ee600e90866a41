"""What the owner of this ComfyUI allows others to bring to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from ...net.signed import SHORTEST_TOKEN
from ...secrets import secret
from ...worker.nodes.at_start import nodes_folder

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ...worker.models.settings import ModelSettings
    from ...worker.nodes.settings import NodeSettings

__all__ = ["TOKEN_VARIABLE", "ReceivingSettings"]

TOKEN_VARIABLE = "COMFY_REMOTE_SYNC_TOKEN"  # noqa: S105 - the name of a variable
_ALLOW = ("ACCEPT_MODELS", "ALLOW_NODE_INSTALL")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReceivingSettings:
    """Nothing, unless they say so.

    Attributes:
        token: What requests are signed with. Without it, nothing is taken.
        models: Where models come from and go; ``None`` where none are taken.
        nodes: Where node packs come from and go; likewise.
    """

    token: SecretStr | None = None
    models: ModelSettings | None = None
    nodes: NodeSettings | None = None

    @classmethod
    def from_environ(
        cls, models_folder: Path, base: Path, environ: Mapping[str, str] = os.environ
    ) -> ReceivingSettings:
        """Read ``COMFY_REMOTE_SYNC_TOKEN``, ``ACCEPT_MODELS``, ``ALLOW_NODE_INSTALL`` and the other
        variables of a worker's models and nodes. What is wrong with them is logged, and then
        nothing is taken.

        Args:
            models_folder: ComfyUI's own.
            base: ComfyUI's own folder.
        """
        if not any(environ.get(name, "").strip() for name in _ALLOW):
            return cls()
        try:
            return cls._read(models_folder, base, environ)
        except ConfigurationError as error:
            _log.warning("Nothing is taken from other machines. %s", error)
            return cls()

    @classmethod
    def _read(
        cls, models_folder: Path, base: Path, environ: Mapping[str, str]
    ) -> ReceivingSettings:
        from ...worker.models.settings import ModelSettings
        from ...worker.nodes.settings import NodeSettings

        models = ModelSettings.of_comfyui(models_folder, environ)
        nodes = NodeSettings.from_environ(nodes_folder(base, environ).parent, environ)
        if not (models.accept or nodes.allow):
            return cls()
        token = secret(TOKEN_VARIABLE, environ)
        if token is None:
            raise ConfigurationError(
                f"{' or '.join(_ALLOW)} is set, but {TOKEN_VARIABLE} is not.",
                advice="Set it to a long random text, and give that to those who may bring "
                "something.",
            )
        if len(token.get_secret_value()) < SHORTEST_TOKEN:
            raise ConfigurationError(
                f"{TOKEN_VARIABLE} has fewer than {SHORTEST_TOKEN} characters: it could be guessed."
            )
        return cls(token, models if models.accept else None, nodes if nodes.allow else None)
