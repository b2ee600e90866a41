"""Marked nodes run on a server with Comfy's API: our own front, before an engine with our pack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lane_page import Page, page
from offload_kit import new_seed, node, parts_of, pixels, run
from pack import PackServer, sandbox_with_pack

from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetStore
from comfy_remote.api.event_routes import event_routes
from comfy_remote.api.job_routes import job_routes
from comfy_remote.api.jobs import ApiJobs
from comfy_remote.api.server import ApiServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record


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


@pytest.fixture
async def ours(there: PackServer, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of our own front, before the engine that has the pack."""
    with Record(tmp_path) as record:
        async with (
            Client(there.url, record=record, on_interrupt=None) as client,
            AssetStore(tmp_path / "assets") as assets,
            ApiJobs(client, assets, "test") as jobs,
            ApiServer(
                [*job_routes(jobs), *asset_routes(assets), *event_routes(jobs.live)]
            ) as server,
        ):
            yield server.url.rstrip("/")


async def test_a_cut_gives_what_the_whole_gives(here: PackServer, shown: Page, ours: str) -> None:
    prompt = {
        "1": node("EmptyImage", width=48, height=32, batch_size=2, color=new_seed()),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("SaveImage", images=("2", 0), filename_prefix="cut"),
    }
    whole = pixels(here, await run(shown, prompt))
    for target in (f"comfy:{ours}", ours):
        entry = await run(shown, prompt, {"2": target})
        assert len(parts_of(entry)) == 1
        assert pixels(here, entry) == whole
