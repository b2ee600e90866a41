"""Prompts whose nodes are marked, and the pictures that come of them."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from lane_page import Answer, Page, page
from pack import PackServer, sandbox_with_pack
from PIL import Image

Prompt = dict[str, Any]

_seeds = itertools.count(int(time.time()) % 0xFFFF)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackServer]:
    with sandbox_with_pack(tmp_path_factory.mktemp("here")) as server:
        yield server


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackServer]:
    with sandbox_with_pack(tmp_path_factory.mktemp("there")) as server:
        yield server


@pytest.fixture
async def shown(here: PackServer) -> AsyncIterator[Page]:
    async with page(here.url) as one:
        yield one


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {
        "class_type": class_type,
        "inputs": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in inputs.items()
        },
    }


def new_seed() -> int:
    """One that nothing has in its cache."""
    return next(_seeds)


def marked(prompt: Prompt, marks: Mapping[str, str], **extra: Any) -> dict[str, Any]:
    """What a page sends beside its prompt when nodes of its workflow are marked."""
    nodes = [
        {
            "id": int(node_id),
            "type": one["class_type"],
            "properties": {"comfy_remote": {"part": marks[node_id]}} if node_id in marks else {},
        }
        for node_id, one in prompt.items()
    ]
    return {"extra_pnginfo": {"workflow": {"nodes": nodes, "links": [], **extra}}}


async def queue(
    page: Page, prompt: Prompt, marks: Mapping[str, str] | None = None, **body: Any
) -> Answer:
    for target in {*(marks or {}).values()} - {""}:
        await page.confirm(target)
    return await page.queue(prompt, extra_data=marked(prompt, marks or {}), **body)


async def run(
    page: Page, prompt: Prompt, marks: Mapping[str, str] | None = None, **body: Any
) -> dict[str, Any]:
    """The history's entry; it succeeded."""
    answer = await queue(page, prompt, marks, **body)
    assert answer.status == 200, answer.body
    entry = await page.ended(answer.body["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return entry


def pixels(server: PackServer, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """By node, the hash of each picture that it saved."""
    found: dict[str, list[str]] = {}
    for node_id, shown in entry["outputs"].items():
        for one in shown.get("images", ()):
            path = server.directory / one["type"] / one["subfolder"] / one["filename"]
            with Image.open(path) as picture:
                bits = hashlib.sha256(picture.tobytes()).hexdigest()
            found.setdefault(node_id, []).append(bits)
    return dict(sorted(found.items()))


def parts_of(entry: Mapping[str, Any]) -> list[str]:
    """The nodes that stood for parts in the prompt that ran here."""
    prompt = entry["prompt"][2]
    return [node_id for node_id, one in prompt.items() if one["class_type"] == "ComfyRemotePart"]
