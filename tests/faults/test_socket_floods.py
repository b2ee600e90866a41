"""What waits on a WebSocket is bounded in bytes, on both sides."""

from __future__ import annotations

import asyncio
import json
import struct

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from comfy_remote.net.http import HttpClient
from comfy_remote.net.retry import Backoff
from comfy_remote.sandbox.sockets import SocketHub
from comfy_remote.targets.comfyui.messages import PreviewMessage, TextMessage, decode_text
from comfy_remote.targets.comfyui.socket import ComfyUISocket

MIB = 1024 * 1024


async def test_a_client_holds_the_newest_previews_up_to_a_size() -> None:
    sent = asyncio.Event()

    async def flood(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        for _ in range(40):
            await socket.send_bytes(struct.pack(">II", 1, 1) + b"x" * MIB)
        ended = {"type": "executing", "data": {"node": None, "prompt_id": "p"}}
        await socket.send_str(json.dumps(ended))
        await socket.ping()
        # With the pong, the client has read all that came before.
        while (await socket.receive()).type is not WSMsgType.PONG:
            pass
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
        socket = ComfyUISocket(http, "c", Backoff(), most_bytes=10 * MIB)
        await socket.start()
        try:
            await asyncio.wait_for(sent.wait(), 60)
            messages = []
            while (message := await socket.next(1.0)) is not None:
                messages.append(message)
        finally:
            await socket.stop()
            await runner.cleanup()
    assert isinstance(messages[-1], TextMessage), "the newest stay"
    assert 5 < sum(isinstance(one, PreviewMessage) for one in messages) <= 10


async def test_a_socket_that_was_lost_does_not_give_the_last_prompts_pictures_to_the_next() -> None:
    """They do not say whose they are, and the next may be somebody else's."""
    open_sockets: list[web.WebSocketResponse] = []

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        open_sockets.append(socket)
        if len(open_sockets) == 1:
            await socket.send_bytes(struct.pack(">II", 1, 1) + b"a picture")
            return socket  # closed: the client opens another only after a minute
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/ws", serve)
    async with TestServer(app) as server, HttpClient(str(server.make_url("")), name="it") as http:
        socket = ComfyUISocket(http, "c", Backoff(first=60.0, longest=60.0))
        await socket.start()
        deadline = asyncio.get_running_loop().time() + 60
        while socket.connected:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        await socket.start()
        assert socket.connected
        assert await socket.next(0.05) is None
        await socket.stop()


def test_a_message_of_too_many_values_is_not_parsed() -> None:
    assert decode_text('{"type":"executed","data":{"x":[' + "[]," * 400_000 + "1]}}") is None
    assert decode_text('{"type":"executed","data":{"x":"' + "[]," * 400_000 + '"}}') is not None


async def test_the_sandbox_leaves_out_previews_for_a_client_that_does_not_read() -> None:
    hub = SocketHub(dict, most_waiting=4 * MIB, patience=0.5)
    app = web.Application()
    app.router.add_get("/ws", hub.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = server.make_url("/ws")
        async with session.ws_connect(url % {"clientId": "lazy"}, max_msg_size=0):
            for _ in range(100):
                hub.send_encoded_preview(b"x" * MIB, "image/png", {}, "lazy")
            await asyncio.sleep(0)
            assert hub.waiting <= 5 * MIB
            async with session.ws_connect(url % {"clientId": "quick"}) as quick:
                # Its own messages do not wait for the other for ever.
                found = await asyncio.wait_for(quick.receive(), 60)
                assert "status" in found.data
