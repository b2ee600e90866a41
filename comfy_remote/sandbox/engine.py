"""The parts of a running sandbox, as its routes see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from aiohttp import web
from pydantic import JsonValue

from .folders import Folders
from .prompt_queue import PromptQueue
from .report import RunReport
from .sockets import SocketHub

__all__ = ["ENGINE", "Engine", "Hooks", "PartContext", "PartRunner", "ShownByNode"]

ShownByNode: TypeAlias = "Mapping[str, Mapping[str, JsonValue]]"
"""What nodes show (``{"images": […]}``), by their id."""


class PartContext(Protocol):
    """The node that stands for a part, while it runs."""

    node_id: str
    extra_pnginfo: Mapping[str, JsonValue]
    report: RunReport

    def sleep(self, seconds: float) -> None:
        """Wait; raises `Interrupted` if the prompt is interrupted."""


class PartRunner(Protocol):
    """Runs a part of a prompt elsewhere, in the calling thread."""

    def __call__(
        self, context: PartContext, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], ShownByNode]:
        """The items of each of its outputs, and what its nodes show.

        Args:
            part: JSON text: see `workflow.cut.plan.part_node`.
            values: The items of each of its inputs.
        """


@dataclass(slots=True)
class Hooks:
    """What has been added to a sandbox.

    Attributes:
        prompts: Each may change what is posted to ``/prompt``.
        run_part: Runs what `ComfyRemotePart` stands for.
    """

    prompts: list[Callable[[dict[str, JsonValue]], dict[str, JsonValue]]] = field(
        default_factory=list
    )
    run_part: PartRunner | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What the routes need.

    Attributes:
        stop: Set when the sandbox is to end.
        settings_lock: Held by whoever changes the user's settings.
    """

    folders: Folders
    hooks: Hooks
    queue: PromptQueue
    sockets: SocketHub
    stop: asyncio.Event
    settings_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


ENGINE = web.AppKey("engine", Engine)
