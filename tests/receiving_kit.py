"""A ComfyUI with our node pack, as far as models and packs are brought to it, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from aiohttp import web
from models_kit import settings_for
from pydantic import SecretStr

from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff
from comfy_remote.node_pack.receiving.jobs import Times
from comfy_remote.node_pack.receiving.routes import Receiving
from comfy_remote.node_pack.receiving.settings import ReceivingSettings
from comfy_remote.sandbox.server import add_routes
from comfy_remote.targets.comfyui.follow import FollowTimes
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.worker.models.settings import ModelSettings
from comfy_remote.worker.nodes.settings import NodeSettings

Program: TypeAlias = "tuple[Path, str, tuple[str, ...]]"
TOKEN = SecretStr("a-token-for-the-tests-of-this")
QUICK = FollowTimes(requests=HttpLimits(backoff=Backoff(first=0.01, longest=0.02, jitter=0.0)))


class FolderHost:
    """As much of a `Host` as is needed."""

    def __init__(self, root: Path, program: Program | None = None) -> None:
        self.root = root
        self._program = program

    def models_folder(self) -> Path:
        return self.root / "models"

    def pack_folders(self) -> list[Path]:
        return [self.root / "custom_nodes"]

    def program(self) -> Program | None:
        return self._program


@dataclass
class OneComfyUI:
    """One that listens."""

    root: Path
    url: str
    receiving: Receiving
    asked: list[str] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.root / "models"

    def target(self, token: SecretStr | None = TOKEN, url: str | None = None) -> ComfyUITarget:
        return ComfyUITarget(url or self.url, name="box", sync_token=token, times=QUICK)


@asynccontextmanager
async def comfyui(
    root: Path,
    *,
    token: SecretStr | None = TOKEN,
    accept: bool = True,
    times: Times = Times(),  # noqa: B008 - frozen
    port: int = 0,
    nodes: NodeSettings | None = None,
    program: Program | None = None,
    **settings: object,
) -> AsyncIterator[OneComfyUI]:
    """One whose owner takes models, unless it is said otherwise."""
    host = FolderHost(root, program)
    for folder in ("models/loras", "models/checkpoints", "custom_nodes"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    models: ModelSettings = replace(
        settings_for(root / "models"), accept=accept, hash_models=False, **settings
    )
    owner = ReceivingSettings(token, models if accept else None, nodes)
    receiving = Receiving(host, owner, times)
    made = OneComfyUI(root, "", receiving)

    @web.middleware
    async def note(request: web.Request, handler: object) -> web.StreamResponse:
        made.asked.append(f"{request.method} {request.path}")
        return await handler(request)

    app = web.Application(middlewares=[note])
    table = web.RouteTableDef()
    receiving.add_routes(table)
    add_routes(app, table)
    app.add_routes(_as_comfyui(root))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await receiving.close()
        await runner.cleanup()


def _as_comfyui(root: Path) -> web.RouteTableDef:
    """The routes of its own by which it is described."""
    table = web.RouteTableDef()

    @table.get("/models")
    async def folders(_: web.Request) -> web.Response:
        names = [path.name for path in (root / "models").iterdir() if path.name[0] != "."]
        return web.json_response([*sorted(names), "custom_nodes"])

    @table.get("/models/{folder}")
    async def files(request: web.Request) -> web.Response:
        name = request.match_info["folder"]
        folder = root / "custom_nodes" if name == "custom_nodes" else root / "models" / name
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        shown = [path for path in found if name == "custom_nodes" or path.suffix != ".part"]
        return web.json_response([path.relative_to(folder).as_posix() for path in shown])

    @table.get("/experiment/models/{folder}")
    async def sizes(request: web.Request) -> web.Response:
        folder = root / "models" / request.match_info["folder"]
        found = sorted(folder.rglob("*.safetensors"))
        return web.json_response(
            [
                {
                    "name": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "modified": path.stat().st_mtime,
                }
                for path in found
            ]
        )

    @table.get("/object_info")
    async def nodes(_: web.Request) -> web.Response:
        return web.json_response({"X": {"input": {}, "python_module": "custom_nodes.a-pack"}})

    @table.get("/object_info/{name}")
    async def node(_: web.Request) -> web.Response:
        return web.json_response({})

    @table.get("/system_stats")
    async def stats(_: web.Request) -> web.Response:
        system = {"comfyui_version": "0.33.0", "argv": ["main.py"]}
        return web.json_response({"system": system, "devices": [{"name": "cpu"}]})

    return table


class CuttingProxy:
    """Between a client and a server; breaks the connection once so many bytes have gone up.

    Attributes:
        cuts: Bytes after which each of the next connections breaks.
    """

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port = port
        self.cuts = cuts
        self.url = ""
        self.sent = 0

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    async def _pass(self, up: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        there_up, there_down = await asyncio.open_connection("127.0.0.1", self._port)

        async def answers() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await there_up.read(65536):
                    down.write(data)
                    await down.drain()

        answering = asyncio.ensure_future(answers())
        gone = 0
        with contextlib.suppress(ConnectionError):
            while data := await up.read(65536):
                gone += len(data)
                self.sent += len(data)
                if self.cuts and gone > self.cuts[0]:
                    self.cuts.pop(0)
                    break
                there_down.write(data)
                await there_down.drain()
        answering.cancel()
        for writer in (down, there_down):
            writer.transport.abort()
