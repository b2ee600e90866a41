"""Open connections to the targets in use, and what is known of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ..jobs.client import Client
from ..jobs.record import Record
from ..schemas.memory import Memory
from ..targets.base import Capabilities, DescribesByJob, MayChange, Target
from ..targets.kinds import typed_target
from ..types import JsonValue
from ..workflow.schema import Schemas
from .trusted_targets import check_target

__all__ = ["TargetPool"]

_CAPABILITIES_AGE = 300.0


@dataclass
class _Entry:
    client: Client
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    capabilities: Capabilities | None = None
    schemas: Schemas | None = None
    asked: float = 0.0


class TargetPool:
    """One open `Client` a target, shared by all who use it, on one event loop."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._entries: dict[str, _Entry] = {}
        self._opening = asyncio.Lock()
        self._kept: list[Client] = []
        self.before_close: list[Callable[[], Awaitable[None]]] = []
        """What has to end before the connections do."""

    async def client(self, target: str) -> Client:
        """The client of a target: a configured name, or an address.

        Raises:
            NotTrusted: It is an address that the owner has neither named nor confirmed.
            ConfigurationError: It means nothing, or its key is missing.
            TargetError: It cannot be reached.
        """
        return (await self._entry(target)).client

    async def capabilities(self, target: str, *, renew: bool = False) -> Capabilities:
        """What the target has installed, at most five minutes old.

        Args:
            renew: Ask the target again now.
        """
        return await self._known(await self._entry(target), renew)

    async def schemas(self, target: str) -> Schemas | None:
        """The target's node schemas, at most five minutes old; ``None`` if it lists none."""
        entry = await self._entry(target)
        await self._known(entry, renew=False)
        return entry.schemas

    def ask_again(self, target: str) -> None:
        """What is known of a target is out of date: who asks next has it asked."""
        entry = self._entries.get(typed_target(target))
        if entry is not None:
            entry.capabilities = entry.schemas = None

    def renew(self) -> None:
        """Open all targets again for who asks next: addresses or keys have changed.

        Jobs that run have the connections that they began with; these close with the pool.
        """
        self._kept.extend(entry.client for entry in self._entries.values())
        self._entries = {}

    async def keep(self, client: Client) -> None:
        """Open a client for a job of an earlier start, and close it with the others."""
        await client.__aenter__()
        self._kept.append(client)

    async def close(self) -> None:
        """Close all connections."""
        for end in self.before_close:
            await end()
        clients = [*(entry.client for entry in self._entries.values()), *self._kept]
        self._entries, self._kept = {}, []
        for client in clients:
            await client.__aexit__(None, None, None)

    async def _entry(self, target: str) -> _Entry:
        # Here, where all of the page's connections are opened, so that none is forgotten; and each
        # time, since trust can be taken back.
        target = typed_target(target)
        await asyncio.to_thread(check_target, target)
        async with self._opening:
            known = self._entries.get(target)
            if known is not None and _has_changed(known.client.target):
                self._kept.append(self._entries.pop(target).client)
            if target not in self._entries:
                # In a thread: the configuration is read.
                client = await asyncio.to_thread(
                    Client, target, record=self.record, on_interrupt=None
                )
                self._entries[target] = _Entry(await client.__aenter__())
            return self._entries[target]

    async def _known(self, entry: _Entry, renew: bool) -> Capabilities:
        # The lock: who comes while the target is being asked waits for the same answer.
        async with entry.lock:
            fresh = time.monotonic() - entry.asked < _CAPABILITIES_AGE
            if entry.capabilities is None or renew or not fresh:
                target = entry.client.target
                if renew and isinstance(target, DescribesByJob):
                    found = await target.describe_again()
                else:
                    found = await target.describe()
                entry.capabilities = found
                if found.nodes is not None:
                    memory = Memory(self.record.path.parent)
                    await asyncio.to_thread(memory.keep, entry.client.address, found.nodes)
                entry.schemas = (
                    None
                    if found.nodes is None
                    else Schemas(_entries(found.nodes), entry.client.target.name)
                )
                entry.asked = time.monotonic()
            return entry.capabilities


def _has_changed(target: Target) -> bool:
    return isinstance(target, MayChange) and target.has_changed


def _entries(nodes: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The entries that describe a class; invalid ones are left out."""
    return {name: node for name, node in nodes.items() if isinstance(node, dict)}
