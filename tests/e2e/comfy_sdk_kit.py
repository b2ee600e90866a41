"""Comfy's own SDK, driven by tests: its synchronous and its asynchronous client by one code."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from typing import Any

from comfy_sdk import AsyncComfy, Comfy
from PIL import Image

_END = object()


class Sdk:
    """One of the two clients.

    ``await sdk(job.wait)`` calls what is a coroutine of one client and blocks in the other, which
    is then called in a thread: the server that it waits for may be in this process.
    """

    def __init__(self, way: str, **arguments: Any) -> None:
        self.is_async = way == "AsyncComfy"
        self.client: Any = AsyncComfy(**arguments) if self.is_async else Comfy(**arguments)

    async def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self.is_async:
            return await function(*arguments, **named)
        return await asyncio.to_thread(function, *arguments, **named)

    async def each(self, items: Any) -> AsyncIterator[Any]:
        """What an iterator of either kind gives."""
        if self.is_async:
            async for item in items:
                yield item
            return
        while (item := await asyncio.to_thread(next, items, _END)) is not _END:
            yield item

    async def close(self) -> None:
        await self(self.client.aclose if self.is_async else self.client.close)


def readme_example() -> str:
    """The first example of comfy-sdk's own README that runs a workflow, as it is installed."""
    readme = metadata.distribution("comfy-sdk").read_text("METADATA") or ""
    started = readme.partition("## Getting started")[2]
    return started.partition("```python\n")[2].partition("```")[0]


def picture(color: int = 200, size: int = 8) -> bytes:
    """A small PNG, whose content follows from the arguments."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (color % 256, color // 256 % 256, 7)).save(file, "PNG")
    return file.getvalue()


def inverting(photo: object) -> dict[str, Any]:
    """Loads a picture, by what stands for it, and saves it inverted: nodes 10 and 9, as in the
    README's example."""
    return {
        "10": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "8": {"class_type": "ImageInvert", "inputs": {"image": ["10", 0]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["8", 0], "filename_prefix": "inverted"},
        },
    }


def drawing(color: int, prefix: str = "drawn") -> dict[str, Any]:
    """One small picture, without any input file."""
    empty = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
        },
    }


def with_previews(steps: int = 10) -> dict[str, Any]:
    """Steps with previews, on the sandbox; they are run each time."""
    slow = {"image": ["1", 0], "steps": steps, "seconds_per_step": 0.1, "preview": True}
    slow["seed"] = random.randrange(1 << 48)
    return {
        **drawing(77),
        "3": {"class_type": "SandboxSlow", "inputs": slow},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "previewed"},
        },
    }
