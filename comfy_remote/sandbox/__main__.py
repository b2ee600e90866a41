"""``python -m comfy_remote.sandbox``: a sandbox engine in a process of its own.

Writes one line to standard output once it listens, ``{"url": "http://127.0.0.1:41234"}``,
for the program that started it; everything else is logged to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from ..config.log import log_to_stderr
from .server import SandboxServer


def main(arguments: list[str] | None = None) -> int:
    """Run until it is stopped. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m comfy_remote.sandbox",
        description="A ComfyUI-compatible engine for nodes that need no model.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument(
        "--directory",
        type=Path,
        help="holds input/, output/ and temp/ (default: a temporary directory)",
    )
    parser.add_argument(
        "--idle-exit",
        type=float,
        metavar="SECONDS",
        help="exit after this long without a request or a prompt",
    )
    options = parser.parse_args(arguments)
    log_to_stderr(logging.INFO, "%(asctime)s %(name)s: %(message)s")
    # A polite kill cleans up like Ctrl-C does. (Windows never delivers it.)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_serve(options))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        logging.getLogger(__name__).error("The sandbox could not start: %s", error)  # noqa: TRY400
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    server = SandboxServer(
        host=options.host,
        port=options.port,
        directory=options.directory,
        idle_exit=options.idle_exit,
        own_process=True,
    )
    async with server:
        sys.stdout.write(json.dumps({"url": server.url}) + "\n")
        sys.stdout.flush()
        await server.wait_stopped()


if __name__ == "__main__":
    sys.exit(main())
