"""Deploying a project, from any program: Modal's SDK runs in a process of its own.

So its event loop, its output and what a person has written into workflow.py stay out of ours
(a ComfyUI, perhaps), and cancelling ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ...errors import ComfyRemoteError, ConfigurationError, DeploymentFailed, error_from_json
from ...media.temporary import TemporaryFolder
from ...targets.launch import PACKAGE_PARENT, own_module
from ...worker.choice import guarded
from ...worker.process import ChildProcess

__all__ = ["deploy"]

_LOG_LINES = 30


async def deploy(
    folder: Path,
    say: Callable[[str], None],
    *,
    rebuild: bool = False,
    stop_first: bool = False,
    only_ours: bool = False,
    python: str = sys.executable,
) -> str:
    """Deploy a project; a few minutes the first time, while the image is built.

    Cancelled, it ends the process: what Modal has built so far stays in its cache.

    Args:
        say: Called with each line of Modal's output, in another thread.
        rebuild: Whether the image is built again, whatever Modal has in its cache.
        stop_first: Whether the app that is deployed now is stopped first.
        only_ours: Whether an edited workflow.py is refused: deploying runs it, and where others may
            write to the folder it may be theirs.

    Returns:
        The front's address, ``https://…modal.run``, as Modal's SDK reports it.

    Raises:
        ConfigurationError: Modal's SDK is not here, or not logged in; or see ``only_ours``.
        DeploymentFailed: ``details["log"]`` has the last lines.
    """
    if python == sys.executable and find_spec("modal") is None:
        raise ConfigurationError(
            "Modal's SDK is not installed.",
            advice=f'Install it with: "{python}" -m pip install modal; then log in once with '
            f'"{python}" -m modal setup.',
        )
    environ = dict(os.environ)
    if rebuild:
        environ["MODAL_IGNORE_CACHE"] = "1"
    with TemporaryFolder("deploy") as name:
        result = Path(name) / "result.json"
        arguments = [str(folder.absolute()), str(result)]
        arguments += ["--stop-first"] if stop_first else []
        arguments += ["--only-ours"] if only_ours else []
        # Not by the environment, nor by the working folder alone: ComfyUI's portable Python looks
        # at neither.
        program = guarded(python, *own_module("deploy.modal"), *arguments)
        process = ChildProcess(
            "deployment",
            [program[0], "-u", "-X", "utf8", *program[1:]],
            environ=environ,
            on_line=say,
            cwd=PACKAGE_PARENT,
        )
        try:
            status = await process.wait()
        finally:
            await asyncio.shield(asyncio.to_thread(process.stop))
        return _url_in(result, status, process.last_lines(_LOG_LINES))


def _url_in(result: Path, status: int, log: list[str]) -> str:
    try:
        answer = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        answer = {}
    if isinstance(answer, dict) and isinstance(answer.get("url"), str):
        return str(answer["url"])
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        error: ComfyRemoteError = error_from_json(answer["error"])
    else:
        error = DeploymentFailed(
            f"The deployment ended with status {status}.", advice="Its log says why."
        )
    if isinstance(error, DeploymentFailed):
        error.details.setdefault("log", "\n".join(log))
    raise error
