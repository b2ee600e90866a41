"""What ComfyUI loads."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import nodes as comfyui_nodes
from comfy_api.latest import ComfyExtension, io

__all__ = ["RemoteExtension", "load"]

_log = logging.getLogger(__name__)
_PACK = Path(__file__).absolute().parents[3]
_NOT_IN_COMFYUI = ("dotenv", "platformdirs")
"""Those of our requirements that not every ComfyUI has. Some are imported only when they are used,
so that a missing one would be noticed late."""


class RemoteExtension(ComfyExtension):
    """The nodes of the pack.

    Args:
        complete: Whether all is installed that they need; without it, there are none.
    """

    def __init__(self, *, complete: bool) -> None:
        self._complete = complete

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them; called once, at the start."""
        if not self._complete:
            return []
        from .expansion_nodes import CollectImages, TakeImage
        from .modal_deployment import ComfyRemoteModalDeployment
        from .remote_api import ComfyRemoteNode
        from .remote_execute import RunPodRemoteExecute
        from .remote_input import ComfyRemoteInput
        from .remote_output import ComfyRemoteOutput
        from .remote_part import ComfyRemotePart, ComfyRemoteShown

        return [
            RunPodRemoteExecute,
            ComfyRemoteInput,
            ComfyRemoteOutput,
            ComfyRemoteNode,
            ComfyRemoteModalDeployment,
            ComfyRemotePart,
            ComfyRemoteShown,
            TakeImage,
            CollectImages,
        ]


def load() -> ComfyExtension:
    """Install the page's side into the server, and return the nodes.

    Here and not in `ComfyExtension.on_load`, which ComfyUI 0.3.64 does not call.
    """
    _serve_below_a_plain_name()
    if missing := [name for name in _NOT_IN_COMFYUI if find_spec(name) is None]:
        _log.error(
            "Comfy Remote cannot work yet: %s is missing. Stop ComfyUI and install what the pack "
            'needs into its Python: python -m pip install -r "%s"',
            ", ".join(missing),
            _PACK / "requirements.txt",
        )
        return RemoteExtension(complete=False)
    try:
        from ..comfyui_host import ComfyUIHost
        from ..pack import install, load_credentials

        load_credentials()  # first: the node needs them, even where the switch cannot be
        install(ComfyUIHost())
    except Exception as error:  # noqa: BLE001  ComfyUI and its other packs have to start all the same
        _log.warning("Comfy Remote: no Remote switch in this ComfyUI's page: %s", error)
    return RemoteExtension(complete=True)


def _serve_below_a_plain_name() -> None:
    """Serve our web files also if the pack's folder has a space or the like in its name.

    It takes the folder's name into the address as it is, where aiohttp never finds it.
    """
    folders = comfyui_nodes.EXTENSION_WEB_DIRS
    if quote(_PACK.name) != _PACK.name and _PACK.name in folders:
        folders["comfy-remote"] = folders.pop(_PACK.name)
