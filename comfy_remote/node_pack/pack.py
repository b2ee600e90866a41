"""Builds the pack of its parts, and installs it into a server."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass

from aiohttp import web

from ..aio import Background
from ..config.environment import load_env_files, unused_files
from ..config.log import clean_handlers
from ..errors import ComfyRemoteError, ConfigurationError
from ..jobs.keep_warm import left_behind, put_back
from ..jobs.record import Record
from ..secrets import SECRETS
from ..worker.nodes import at_start
from .advice import for_page
from .batches import PageBatches
from .bringing import Bringing
from .host import Host
from .lane import RemoteLane
from .middleware import LaneRouter
from .offload import Offload
from .receiving.routes import Receiving
from .receiving.settings import ReceivingSettings
from .routes import routes
from .switch import Switch
from .target_pool import TargetPool

__all__ = ["Pack", "install", "load_credentials"]

_log = logging.getLogger(__name__)

# A server whose port is taken ends right after its start. Until that is clear, it takes up no jobs,
# which the server that has the port follows.
_SETTLED_AFTER = 0.5


@dataclass(frozen=True)
class Pack:
    """The parts of an installed pack."""

    host: Host
    switch: Switch
    pool: TargetPool
    lane: RemoteLane


def install(host: Host, record: Record | None = None) -> Pack:
    """Put the switch, the lane and our routes into a server that has not started.

    Args:
        record: Where jobs are recorded; the user's own by default. Closed with the server.

    Raises:
        LocalStorageError: The record cannot be opened.
    """
    SECRETS.add_environment(os.environ)
    clean_handlers(__name__.rpartition(".node_pack")[0])  # ComfyUI's own handlers; our records
    record = record or Record()
    switch, pool = Switch(), TargetPool(record)
    lane = RemoteLane(host, pool)
    pack = Pack(host, switch, pool, lane)
    offload = Offload(host, switch, pool)
    host.app.middlewares.append(LaneRouter(host, switch, lane, offload).middleware)
    batches = PageBatches(host, pool)
    bringing = Bringing(host, pool)
    table = routes(host, switch, pool, lane, offload, batches, bringing)
    received = ReceivingSettings.from_environ(host.models_folder(), host.base_folder())
    receiving = Receiving(host, received)
    receiving.add_routes(table)
    host.add_routes(table)
    background = Background()

    async def start(_app: web.Application) -> None:
        await asyncio.to_thread(at_start.started)
        background.start(_take_up(lane, batches, bringing))
        background.start(_put_back())

    async def stop(_app: web.Application) -> None:
        await background.stop()
        await receiving.close()
        await lane.close()
        await pool.close()
        await asyncio.to_thread(record.close)

    host.app.on_startup.append(start)
    host.app.on_cleanup.append(stop)
    return pack


def load_credentials() -> None:
    """Read what the environment lacks from ``.env`` files; log which files are not trusted."""
    try:
        for path in load_env_files():
            _log.info("Credentials are taken from %s", path)
        for sentence in unused_files():
            _log.warning("%s", for_page(sentence))
    except ConfigurationError as error:
        _log.warning("%s", error)


async def _put_back() -> None:
    """What the last start changed at endpoints to keep workers, if it was killed."""
    await asyncio.sleep(_SETTLED_AFTER)
    if notes := await asyncio.to_thread(left_behind):
        for sentence in await put_back(notes):
            _log.warning("%s", sentence)


async def _take_up(lane: RemoteLane, batches: PageBatches, bringing: Bringing) -> None:
    await asyncio.sleep(_SETTLED_AFTER)
    await bringing.take_up()
    try:
        await lane.take_up()
        await batches.take_up()
    except ComfyRemoteError as error:
        _log.warning("The remote jobs of the last start are not followed: %s", error)
