"""Whole processes against comfy-cli's: ``--help``, and one small run."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from common import comfy_cli, comfyui, command, in_turn, our_command, prompt, report, size


def bench_help() -> None:
    """``comfy-remote --help`` against ``comfy --help``."""
    ours, comfy = our_command("comfy-remote"), comfy_cli()
    times = in_turn(
        lambda _: command(ours, "--help"), lambda _: command(comfy, "--help"), size(9, 1)
    )
    report("help", *times, "comfy --help")


def bench_command() -> None:
    """``comfy-remote run`` against ``comfy run --wait``."""
    ours, comfy = our_command("comfy-remote"), comfy_cli()
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        host, port = urlsplit(url).hostname or "", str(urlsplit(url).port)
        first = random.randrange(1 << 20)

        def workflow(index: int, who: int) -> str:
            path = Path(folder) / f"{who}_{index}.json"
            path.write_text(json.dumps(prompt(first + 2 * index + who)))
            return str(path)

        def run_ours(index: int) -> None:
            command(
                ours, "run", workflow(index, 0), "--on", url, "-o", folder,
                environment={"COMFY_REMOTE_HOME": folder},
            )  # fmt: skip

        def run_theirs(index: int) -> None:
            command(
                comfy, "--skip-prompt", "run", "--workflow", workflow(index, 1), "--wait",
                "--host", host, "--port", port,
            )  # fmt: skip

        report("command", *in_turn(run_ours, run_theirs, size(9, 1)), "comfy run --wait")
