"""What waits on a WebSocket is bounded in bytes, on both sides."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from comfy_remote.net.http import HttpClient
from comfy_remote.net.retry import Backoff
from comfy_remote.sandbox import sockets
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.comfyui import socket as comfyui_socket
from comfy_remote.targets.comfyui.messages import PreviewMessage, TextMessage, decode_text
from comfy_remote.targets.comfyui.socket import ComfyUISocket

MIB = 1024 * 1024


async def test_a_client_holds_the_newest_previews_up_to_a_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comfyui_socket, "_KEPT_BYTES", 10 * MIB)
    sent = asyncio.Event()

    async def flood(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for _ in range(40):
            await socket.send_bytes(struct.pack(">II", 1, 1) + b"x" * MIB)
        await socket.send_str(json.dumps({"type": "executing", "data": {"node": None}}))
        sent.set()
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/ws", flood)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with HttpClient(f"http://127.0.0.1:{port}", name="it") as http:
        socket = ComfyUISocket(http, "c", Backoff())
        await socket.start()
        try:
            await asyncio.wait_for(sent.wait(), 20)
            while not socket._messages or isinstance(socket._messages[-1][0], PreviewMessage):
                await asyncio.sleep(0.01)
            messages = []
            while (message := await socket.next(0.3)) is not None:
                messages.append(message)
        finally:
            await socket.stop()
            await runner.cleanup()
    assert isinstance(messages[-1], TextMessage), "the newest stay"
    assert 5 < sum(isinstance(one, PreviewMessage) for one in messages) <= 10


def test_a_message_of_too_many_values_is_not_parsed() -> None:
    assert decode_text('{"type":"executed","data":{"x":[' + "[]," * 400_000 + "1]}}") is None
    assert decode_text('{"type":"executed","data":{"x":"' + "[]," * 400_000 + '"}}') is not None


async def test_the_sandbox_leaves_out_previews_for_a_client_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_WAITING_BYTES", 4 * MIB)
    monkeypatch.setattr(sockets, "_PATIENCE", 0.5)
    async with SandboxServer(directory=tmp_path) as server, aiohttp.ClientSession() as session:
        hub = server._engine.sockets
        async with session.ws_connect(f"{server.url}/ws?clientId=lazy", max_msg_size=0):
            for _ in range(100):
                hub.send_encoded_preview(b"x" * MIB, "image/png", {}, "lazy")
            await asyncio.sleep(0)
            assert hub._waiting <= 5 * MIB
            async with session.ws_connect(f"{server.url}/ws?clientId=quick") as quick:
                # Its own messages do not wait for the other for ever.
                found = await asyncio.wait_for(quick.receive(), 10)
                assert "status" in found.data
