"""The parts of a running sandbox, as its routes see them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from .folders import Folders
from .hooks import Hooks
from .prompt_queue import PromptQueue
from .sockets import SocketHub

__all__ = ["ENGINE", "Engine"]


@dataclass(frozen=True, slots=True)
class Engine:
    """What the routes need.

    Attributes:
        stop: Set when the sandbox shall end.
    """

    folders: Folders
    hooks: Hooks
    queue: PromptQueue
    sockets: SocketHub
    stop: asyncio.Event


ENGINE = web.AppKey("engine", Engine)
