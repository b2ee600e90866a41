"""Servers with the node pack in them: the sandbox always, a real ComfyUI where there is one.

::

    with sandbox_with_pack(tmp_path) as server:
        ...  # server.url: pages, ComfyUI's routes, and /remote/*

Both have folders of their own below the path given, and a record of their own there (`home`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from sandbox_page import with_page
from sandbox_page.host import SandboxHost

from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.pack import Pack, install
from comfy_remote.sandbox.server import SandboxServer

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30


@dataclass
class PackServer:
    """A server that runs.

    Attributes:
        url: Without a final ``/``.
        directory: Holds ``input``, ``output`` and ``temp``.
        home: Holds the record of jobs.
        log: What a ComfyUI prints; ``None`` for the sandbox.
        process: A ComfyUI's; ``None`` for the sandbox.
        pack: The parts of the pack, for the sandbox, whose event loop is in another thread.
    """

    url: str
    directory: Path
    home: Path
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    pack: Pack | None = None


@contextmanager
def sandbox_with_pack(
    base: Path, *, port: int = 0, frontend: Path | str | None = None
) -> Iterator[PackServer]:
    """The sandbox and the pack, in a thread of this process.

    Args:
        base: Its folders and its record are made there; those that are there are used.
        port: 0 for one that is free.
        frontend: See `sandbox_page.with_page`; ``None`` for no page.
    """
    home, directory = base / "home", base / "sandbox"
    directory.mkdir(parents=True, exist_ok=True)
    running: list[PackServer] = []
    failures: list[Exception] = []
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        packs: list[Pack] = []

        def extend(app: web.Application) -> None:
            packs.append(install(SandboxHost(app), Record(home)))

        web_folder = ROOT / "comfy_remote" / "node_pack" / "web"
        async with SandboxServer(
            port=port,
            directory=directory,
            extend=extend
            if frontend is None
            else with_page(frontend, web_directories={"comfy-remote": web_folder}, extend=extend),
        ) as server:
            running.append(PackServer(server.url, directory, home, pack=packs[0]))
            loops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="sandbox-with-pack", daemon=True)
    thread.start()
    ready.wait(START_SECONDS)
    if not running:
        raise RuntimeError("the sandbox did not start") from (failures or [None])[0]
    try:
        # What is confirmed in its page stays out of the user's own folder.
        with pytest.MonkeyPatch.context() as environment:
            if "COMFY_REMOTE_HOME" not in os.environ:
                environment.setenv("COMFY_REMOTE_HOME", str(home))
            yield running[0]
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_SECONDS)
        if failures:
            raise failures[0]


@contextmanager
def comfyui_with_pack(
    base: Path,
    *arguments: str,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    folder_name: str = "comfy-remote",
    wait: bool = True,
) -> Iterator[PackServer]:
    """A real ComfyUI on the CPU, with a copy of the pack in its ``custom_nodes``.

    The test is skipped where there is none.

    Args:
        base: Its base directory, and the record's; what is there is used again.
        arguments: More for its command line.
        port: One that is free by default.
        environment: Beside this process's own, for keys and the like.
        folder_name: What the pack's folder is called.
        wait: Return only when it answers.
    """
    from helpers import COMFYUI_PYTHON, free_port, real_comfyui, stop, wait_until_up

    comfyui = real_comfyui()
    install_pack(base, folder_name)
    port = port or free_port()
    home = base / "home"
    log = base / "comfyui.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                COMFYUI_PYTHON,
                "main.py",
                "--cpu",
                "--disable-auto-launch",
                f"--port={port}",
                f"--base-directory={base}",
                f"--database-url=sqlite:///{base / 'comfyui.db'}",
                *arguments,
            ],
            cwd=comfyui,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COMFY_REMOTE_HOME": str(home), **(environment or {})},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        if wait:
            wait_until_up(url, process, log)
        yield PackServer(url, base, home, log, process)
    finally:
        stop(process)


def install_pack(base: Path, folder_name: str = "comfy-remote") -> Path:
    """Copy the pack into ``custom_nodes``, as a clone of the repository would be there."""
    pack = base / "custom_nodes" / folder_name
    shutil.rmtree(pack, ignore_errors=True)
    unneeded = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in ("comfy_remote", "locales", "example_workflows"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, pack / name, ignore=unneeded)
    for name in ("__init__.py", "prestartup_script.py", "pyproject.toml", "requirements.txt"):
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, pack / name)
    return pack
