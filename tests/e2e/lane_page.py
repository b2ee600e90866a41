"""A page as the tests see it: one client id, one WebSocket, and what arrives there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PATIENCE = 90.0
JOB_EVENT = "comfy_remote.job"


@dataclass
class Answer:
    """Of an HTTP request."""

    status: int
    body: Any


@dataclass
class Page:
    """Attributes:
    messages: ``(type, data)`` in the order they came; binary ones as ``("preview", bytes)``.
    """

    url: str
    client_id: str
    session: aiohttp.ClientSession
    messages: list[tuple[str, Any]] = field(default_factory=list)
    _confirmed: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def queue(
        self, prompt: Mapping[str, Any], target: str | None = None, **body: Any
    ) -> Answer:
        """Post a prompt, as the page does; to this machine without a target."""
        extra = dict(body.pop("extra_data", {}))
        if target is not None:
            extra["comfy_remote"] = {"target": target}
            if target not in self._confirmed:
                await self.confirm(target)
                self._confirmed.add(target)
        return await self.post(
            "/prompt",
            {"prompt": prompt, "client_id": self.client_id, "extra_data": extra, **body},
        )

    async def confirm(self, target: str) -> None:
        """Say yes to a target's address, as somebody does in the page's dialog."""
        async with self.session.post(
            f"{self.url}/remote/addresses", json={"target": target}, headers={"Origin": self.url}
        ) as response:
            assert response.status == 200, await response.text()

    async def post(self, path: str, body: Any = None) -> Answer:
        async with self.session.post(f"{self.url}/api{path}", json=body) as response:
            return Answer(response.status, _parsed(await response.text()))

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.url}/api{path}") as response:
            return _parsed(await response.text())

    async def running(self) -> list[str]:
        """The ids that the queue shows as running."""
        return [item[1] for item in (await self.get("/queue"))["queue_running"]]

    async def pending(self) -> list[str]:
        """The ids that the queue shows as waiting."""
        return [item[1] for item in (await self.get("/queue"))["queue_pending"]]

    async def unfinished(self) -> list[str]:
        """All ids in the queue."""
        return [*await self.running(), *await self.pending()]

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """The history's entry, once there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            entry = (await self.get(f"/history/{prompt_id}")).get(prompt_id)
            if entry is not None:
                return dict(entry)
            await asyncio.sleep(0.05)
        raise AssertionError(f"{prompt_id} did not end; {self.of(prompt_id)[-3:]}")

    async def heard(self, kind: str, prompt_id: str | None = None, **facts: Any) -> Any:
        """The first message of that kind (about that prompt, with those facts)."""
        deadline = time.monotonic() + PATIENCE
        seen: list[tuple[str, Any]] = []
        while time.monotonic() < deadline:
            self._news.clear()
            before, seen = seen, [*self.messages]
            cleared = seen[: len(before)] != before
            for name, data in seen if cleared else seen[len(before) :]:
                ours = prompt_id is None or data.get("prompt_id") == prompt_id
                if name == kind and ours and facts.items() <= data.items():
                    return data
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
        raise AssertionError(f"no {kind} {facts}; heard {[name for name, _ in self.messages]}")

    async def listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Note what arrives."""
        async for frame in socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                message = json.loads(frame.data)
                self.messages.append((message["type"], message.get("data", {})))
            elif frame.type is aiohttp.WSMsgType.BINARY:
                self.messages.append(("preview", {"bytes": frame.data}))
            self._news.set()

    def of(self, prompt_id: str, *, own: bool = False) -> list[tuple[str, Any]]:
        """What was heard of one prompt: ComfyUI's own messages, or ours as well."""
        return [
            (name, data)
            for name, data in self.messages
            if isinstance(data, dict)
            and data.get("prompt_id") == prompt_id
            and (own or name != JOB_EVENT)
        ]


@asynccontextmanager
async def page(
    url: str, client_id: str | None = None, user_agent: str = "test"
) -> AsyncIterator[Page]:
    """A page that listens.

    Args:
        client_id: To come back as the one that was there before.
        user_agent: To be another browser.
    """
    client_id = client_id or uuid.uuid4().hex
    async with aiohttp.ClientSession(headers={"User-Agent": user_agent}) as session:
        shown = Page(url, client_id, session)
        async with session.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as socket:
            flags = {"supports_preview_metadata": True}
            await socket.send_str(json.dumps({"type": "feature_flags", "data": flags}))
            reader = asyncio.create_task(shown.listen(socket))
            try:
                await shown.heard("feature_flags")
                yield shown
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
