"""The whole way on this machine: command → gateway → RunPod SDK worker → engine → picture.

What RunPod does in its data centre, the gateway does here; the worker is the one that runs
there, on the real SDK in production mode. The engine is a ComfyUI if there is one
(``COMFYUI_DIR``, ``~/ComfyUI``), else the sandbox.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.sdk_worker import worker_command

EXAMPLES = Path(__file__).resolve().parent
OUTPUT = Path("demo-output")
START = 90.0


async def main() -> int:
    """Run the demo. Returns the command's exit status."""
    if find_spec("runpod") is None:
        print("The demo needs the RunPod SDK: pip install 'comfy-remote[worker]'", file=sys.stderr)
        return 2
    engine = sys.argv[1] if len(sys.argv) > 1 else "auto"
    token = SecretStr(secrets.token_urlsafe(32))
    async with GatewayServer(endpoint_id="demo", token=token) as gateway:
        print(f"Gateway   {gateway.url} (a RunPod endpoint on this machine)")
        gateway.add_sdk_worker(worker_command("--engine", engine))
        if not await gateway.wait_until_ready(START):
            print("The worker did not start; run again with DEBUG=1.", file=sys.stderr)
            return 1
        print("Worker    RunPod SDK, production mode")
        return await run_command(gateway, token)


async def run_command(gateway: GatewayServer, token: SecretStr) -> int:
    """The command as anybody would type it, in a process of its own, on this terminal."""
    workflow = EXAMPLES / "collage.json"
    print(
        "\n$ RUNPOD_ENDPOINT_BASE_URL=… RUNPOD_API_KEY=… \\\n"
        f"    comfy-remote run examples/{workflow.name} --on runpod:demo -o {OUTPUT}\n",
        flush=True,
    )
    environment = {
        **os.environ,
        "RUNPOD_ENDPOINT_BASE_URL": gateway.url,
        "RUNPOD_API_KEY": token.get_secret_value(),
    }
    command = [
        *(sys.executable, "-m", "comfy_remote", "run", str(workflow)),
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
