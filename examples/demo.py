"""The whole way on this machine: command → gateway → RunPod SDK worker → engine → picture.

What RunPod does in its data centre, the gateway does here; the worker is the one that runs
there, on the real SDK in production mode. The engine is a ComfyUI if there is one
(``COMFYUI_DIR``, ``~/ComfyUI``), else the sandbox.

With ``--page``, ComfyUI's own page instead, with the Remote switch in its top bar: served by
the sandbox, with two workers behind an endpoint to send prompts to. Until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from comfy_remote import node_pack
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.sdk_worker import worker_command
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.pack import install
from comfy_remote.sandbox.server import SandboxServer

EXAMPLES = Path(__file__).resolve().parent
PACKAGE = Path(node_pack.__file__).parents[1]
OUTPUT = Path("demo-output")
START = 90.0


async def main() -> int:
    """Run the demo. Returns the command's exit status."""
    parser = argparse.ArgumentParser(description="The whole way, on this machine.")
    parser.add_argument("engine", nargs="?", default="auto", help="the workers': sandbox, URL, …")
    parser.add_argument("--page", action="store_true", help="ComfyUI's page, with Remote in it")
    parser.add_argument("--port", type=int, default=8190, help="the page's")
    options = parser.parse_args()
    if find_spec("runpod") is None:
        print('The demo needs the RunPod SDK: pip install -e ".[worker]"', file=sys.stderr)
        return 2
    token = SecretStr(secrets.token_urlsafe(32))
    async with GatewayServer(endpoint_id="demo", token=token) as gateway:
        print(f"Gateway   {gateway.url} (a RunPod endpoint on this machine)")
        workers = 2 if options.page else 1
        for _ in range(workers):
            gateway.add_sdk_worker(worker_command("--engine", options.engine))
        if not await gateway.wait_until_ready(START):
            print("The worker did not start; run again with DEBUG=1.", file=sys.stderr)
            return 1
        print(f"Workers   {workers}, on the RunPod SDK in production mode")
        if options.page:
            return await serve_page(gateway, token, options.port)
        return await run_command(gateway, token)


async def serve_page(gateway: GatewayServer, token: SecretStr, port: int) -> int:
    """ComfyUI's page until it is stopped."""
    if find_spec("comfyui_frontend_package") is None:
        print("The page is missing: pip install comfyui-frontend-package", file=sys.stderr)
        return 2
    sys.path.append(str(EXAMPLES.parent / "tools"))
    from sandbox_page import with_page  # here: not part of the package
    from sandbox_page.host import SandboxHost

    # What somebody with a RunPod account has in the environment that ComfyUI starts in.
    os.environ["RUNPOD_ENDPOINT_BASE_URL"] = gateway.url
    os.environ["RUNPOD_API_KEY"] = token.get_secret_value()
    os.environ["RUNPOD_ENDPOINT_ID"] = gateway.endpoint_id
    folder = OUTPUT / "page"
    (folder / "input").mkdir(parents=True, exist_ok=True)
    shutil.copy2(PACKAGE / "examples" / "input" / "lighthouse.png", folder / "input")
    settings = folder / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))
    async with SandboxServer(
        port=port,
        directory=folder,
        extend=with_page(
            web_directories={"comfy-remote": Path(node_pack.__file__).parent / "web"},
            templates={"comfy-remote": EXAMPLES / "page"},
            extend=lambda app: install(SandboxHost(app), Record(folder)),
        ),
    ) as server:
        print(
            f"Page      {server.url}/?template=slow&source=comfy-remote\n\n"
            "Open it, click “Remote OFF” in the top bar, and press Run. Ctrl-C ends it.",
            flush=True,
        )
        await server.wait_stopped()
    return 0


async def run_command(gateway: GatewayServer, token: SecretStr) -> int:
    """The command as anybody would type it, in a process of its own, on this terminal."""
    print(
        "\n$ RUNPOD_ENDPOINT_BASE_URL=… RUNPOD_API_KEY=… \\\n"
        f"    comfy-remote run example:collage --on runpod:demo -o {OUTPUT}\n",
        flush=True,
    )
    environment = {
        **os.environ,
        "RUNPOD_ENDPOINT_BASE_URL": gateway.url,
        "RUNPOD_API_KEY": token.get_secret_value(),
    }
    command = [
        *(sys.executable, "-m", "comfy_remote", "run", "example:collage"),
        *("--on", "runpod:demo", "-o", str(OUTPUT)),
    ]
    process = await asyncio.to_thread(subprocess.Popen, command, env=environment)
    try:
        return await asyncio.to_thread(process.wait)
    except asyncio.CancelledError:
        # Ctrl-C has reached it, too: it cancels its job, for which the gateway must live on.
        await asyncio.to_thread(process.wait)
        raise


if __name__ == "__main__":
    if os.environ.get("DEBUG", "") not in ("", "0"):
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        logging.disable(logging.ERROR)
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
