"""A ComfyUI that runs nothing: the test moves the prompt along, and says what is sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from scripted_server import Answer, ScriptedServer

from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


class FakeComfyUI(ScriptedServer):
    """Queue, history, sockets. What `on` was told goes before."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Any] = []
        self.pending: list[Any] = []
        self.history: dict[str, Any] = {}
        self.sockets: list[web.WebSocketResponse] = []
        self._transports: list[asyncio.Transport] = []
        self.on("POST /prompt", self._prompt)
        self.on("GET /queue", self._queue)
        self.on("POST /queue", self._delete)
        self.on("POST /interrupt", Answer(None))
        self.on("GET /ws", self._socket)

    def wait_in_queue(self, prompt_id: str, number: float = 5) -> None:
        self.pending.append([number, prompt_id, PROMPT, {}, ["2"]])

    def start(self, prompt_id: str) -> None:
        self.pending = [item for item in self.pending if item[1] != prompt_id]
        self.running = [[5, prompt_id, PROMPT, {}, ["2"]]]

    def finish(self, prompt_id: str, outputs: Any = None, messages: Any = ()) -> None:
        self.running = []
        self.pending = [item for item in self.pending if item[1] != prompt_id]
        names = outputs if outputs is not None else {"2": {"images": [{"filename": "x.png"}]}}
        status = {"status_str": "success", "completed": True, "messages": list(messages)}
        self.history[prompt_id] = {"outputs": names, "status": status}

    async def say(self, kind: str, **data: Any) -> None:
        for socket in self.sockets:
            await socket.send_str(json.dumps({"type": kind, "data": data}))

    async def cut_sockets(self) -> None:
        for transport in self._transports:
            transport.abort()
        while self.sockets:
            await asyncio.sleep(0)
        self._transports.clear()

    async def say_bytes(self, frame: bytes) -> None:
        for socket in self.sockets:
            await socket.send_bytes(frame)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        prefix, _, prompt_id = request.path.rpartition("/")
        if prefix == "/history" and f"GET {request.path}" not in self._answers:
            found = self.history.get(prompt_id)
            return web.json_response({prompt_id: found} if found is not None else {})
        return await super()._answer(request)

    async def _prompt(self, request: web.Request) -> web.StreamResponse:
        prompt_id = (await request.json())["prompt_id"]
        self.wait_in_queue(prompt_id)
        return web.json_response({"prompt_id": prompt_id, "number": 5, "node_errors": {}})

    async def _queue(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"queue_running": self.running, "queue_pending": self.pending})

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        gone = (await request.json())["delete"]
        self.pending = [item for item in self.pending if item[1] not in gone]
        return web.Response()

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        assert request.transport is not None
        self._transports.append(request.transport)
        async for _ in socket:
            pass
        self.sockets.remove(socket)
        return socket
