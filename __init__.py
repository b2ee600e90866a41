"""ComfyUI's entry to the node pack, which is the folder `comfy_remote/node_pack`."""

WEB_DIRECTORY = "comfy_remote/node_pack/web"


async def comfy_entrypoint():
    from .comfy_remote.node_pack.nodes.extension import load

    return load()
