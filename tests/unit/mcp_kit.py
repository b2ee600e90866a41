"""A server of tools for agents, and the official SDK's client, in one process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.session import ElicitationFnT
from mcp_types import CallToolResult, TextContent

from comfy_remote.mcp.batches import Batches
from comfy_remote.mcp.bounds import Bounds
from comfy_remote.mcp.desk import Desk
from comfy_remote.mcp.server import make_server

SIZE = {"width": 8, "height": 8, "batch_size": 1}
PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {**SIZE, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}},
}


@asynccontextmanager
async def agent(
    *folders: Path, elicits: ElicitationFnT | None = None, mode: str = "auto", **bounds: Any
) -> AsyncIterator[Client]:
    """A client of a server with these bounds."""
    async with (
        Desk(Bounds.of(folders, **bounds)) as desk,
        Batches(desk) as batches,
        Client(make_server(desk, batches), elicitation_callback=elicits, mode=mode) as client,
    ):
        yield client


async def ask(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """What a tool answers, structured."""
    if tool in ("run", "wait", "resume"):
        arguments = {"seconds": 200, **arguments}  # a busy machine is slow, not wrong
    answer = await client.call_tool(tool, arguments)
    assert isinstance(answer, CallToolResult)
    assert not answer.is_error, answer.content
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


async def refusal(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """The error of a tool that refuses."""
    answer = await client.call_tool(tool, arguments)
    assert isinstance(answer, CallToolResult)
    assert answer.is_error, answer.structured_content
    [text] = answer.content
    assert isinstance(text, TextContent)
    said: dict[str, Any] = json.loads(text.text[text.text.index("{") :])
    return said


def owner_file(folder: Path, text: str) -> Path:
    """A configuration of the owner's, for ``COMFY_REMOTE_CONFIG``."""
    path = folder / "owner.toml"
    path.write_text(text, encoding="utf-8")
    return path
