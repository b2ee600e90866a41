"""What ComfyUI loads."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

__all__ = ["RemoteExtension", "load"]

_log = logging.getLogger(__name__)


class RemoteExtension(ComfyExtension):
    """The nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them; called once, at the start."""
        from .expansion_nodes import CollectImages, TakeImage
        from .remote_execute import RunPodRemoteExecute

        return [RunPodRemoteExecute, TakeImage, CollectImages]


def load() -> ComfyExtension:
    """Put the page's side into the server, and give the nodes.

    Here and not in `ComfyExtension.on_load`, which ComfyUI calls from 0.3.76 on only.
    """
    try:
        from ...targets.environment import load_env_files, pack_folders
        from ..comfyui_host import ComfyUIHost
        from ..pack import install

        load_env_files(pack_folders())
        install(ComfyUIHost())
    except ModuleNotFoundError as error:
        _log.error(
            "Comfy Remote cannot start: %s. Install what it needs into ComfyUI's Python: "
            "python -m pip install -r requirements.txt (in the pack's folder).",
            error,
        )
        raise
    except Exception as error:  # noqa: BLE001  ComfyUI and its other packs have to start all the same
        _log.warning("Comfy Remote: no Remote switch in this ComfyUI's page: %s", error)
    return RemoteExtension()
