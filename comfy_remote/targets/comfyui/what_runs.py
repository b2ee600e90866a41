"""What computes a ComfyUI's results: versions, packs by their names, models with sizes and times.

Only the cache asks for it, and pydantic takes long to import: so `target` imports it when asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import replace
from urllib.parse import quote

from ...aio import concurrent_map
from ...errors import TargetError
from ...net.http import HttpClient
from ...types import JsonValue, mappings
from ...wire.installed import InstalledPack, ModelFile
from ..base import Capabilities
from ..engine_facts import imported_packs, imports_packs, installed_of, listed_models

__all__ = ["with_what_runs"]


async def with_what_runs(
    http: HttpClient,
    described: Awaitable[tuple[Capabilities, Mapping[str, JsonValue]]],
    folders: Collection[str],
) -> Capabilities:
    """See `base.TellsWhatRuns`: packs by their names alone, since ComfyUI says no more.

    Args:
        described: What it has, and its ``/system_stats``.
        folders: Of models.
    """
    wanted = sorted(folders)
    (capabilities, stats), packs, models = await asyncio.gather(
        described,
        _packs(http),
        concurrent_map(lambda folder: _model_files(http, folder), wanted),
    )
    if not imports_packs(stats):
        packs = []
    if packs is None:
        return capabilities
    found = {"packs": packs, "models": dict(zip(wanted, models, strict=True))}
    return replace(capabilities, installed=installed_of(stats).model_copy(update=found))


async def _packs(http: HttpClient) -> list[InstalledPack] | None:
    """The packs that are there, by their names in ``custom_nodes``.

    ComfyUI lists all files of that folder. ``None`` where it does not.
    """
    try:
        files = listed_models(await http.get_json("models/custom_nodes"))
    except TargetError:
        return None
    return [InstalledPack(name=name) for name in sorted(imported_packs(files))]


async def _model_files(http: HttpClient, folder: str) -> list[ModelFile]:
    """The models of a folder, with sizes and times; none where ComfyUI does not say these."""
    try:
        listed = await http.get_json(f"experiment/models/{quote(folder, safe='')}")
    except TargetError:
        return []
    return [
        ModelFile(name=name.replace("\\", "/"), size=size, modified=modified)
        for one in mappings(listed)
        if isinstance(name := one.get("name"), str)
        and isinstance(size := one.get("size"), int)
        and isinstance(modified := one.get("modified"), int | float)
    ]
