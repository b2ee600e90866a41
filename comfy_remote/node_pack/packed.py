"""Opens a packed workflow that the page posts: its files go into ComfyUI's input folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from pathlib import Path

from aiohttp import web

from ..jobs.unpacked import named_in_packed
from ..media.disk_space import DiskLimits
from ..media.files import place, private_folder, safe_relative_path, sha256_of
from ..media.receive import receive_file
from ..types import JsonValue, with_texts
from ..workflow.json_document import decode, parse_json
from ..workflow.load import parse_workflow
from ..workflow.packed import LARGEST_INPUTS, packed_files, without_addresses
from .host import Host
from .json_route import check_zip, json_route
from .setup_routes import check_owner

__all__ = ["add_packed_route"]

_NAME = "The packed workflow"


def add_packed_route(table: web.RouteTableDef, host: Host) -> None:
    """Add it to the table of the pack's routes."""

    @table.post("/remote/packed")
    @json_route
    async def opened(request: web.Request) -> JsonValue:
        check_owner(request, host)
        check_zip(request)
        return await _open(request.content.iter_any(), host.folder("input"))


async def _open(chunks: AsyncIterable[bytes], folder: Path) -> JsonValue:
    """The workflow, without addresses that nobody has trusted; its files are in ``folder`` then.

    Another file of a name stays; the new one gets another name, also in the workflow.
    """
    with private_folder(folder) as spool:
        room = await asyncio.to_thread(DiskLimits.of().room, spool)
        limit = LARGEST_INPUTS if room is None else min(room, LARGEST_INPUTS)
        received = await receive_file(chunks, spool / "packed.zip", limit=limit)
        return await asyncio.to_thread(_opened, received.path, spool / "input", folder)


def _opened(path: Path, spool: Path, folder: Path) -> JsonValue:
    with path.open("rb") as file:
        inside = packed_files(file, _NAME, spool)
    document = parse_json(decode(inside.workflow, _NAME), _NAME)
    parse_workflow(document, _NAME)  # before a file is put anywhere
    names: dict[str, str] = {}
    for name in inside.inputs:
        source = spool / name
        placed = place(source, folder / safe_relative_path(name), sha256_of(source))
        names[name] = placed.relative_to(folder).as_posix()
    loaded = parse_workflow(_renamed(without_addresses(document), names), _NAME)
    inputs: list[JsonValue] = list(names.values())
    left_out: list[JsonValue] = list(named_in_packed(path))
    return {
        "workflow": loaded.workflow,
        "prompt": None if loaded.prompt is None else dict(loaded.prompt),  # type: ignore[arg-type]
        "inputs": inputs,
        "left_out": left_out,
    }


def _renamed(document: JsonValue, names: Mapping[str, str]) -> JsonValue:
    changed = {old: new for old, new in names.items() if old != new}
    return with_texts(document, lambda text: changed.get(text, text)) if changed else document
