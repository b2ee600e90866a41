"""Outputs on their way here, gathered by the node that made them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ..events import ShownValues
from ..outputs import RemoteOutput

__all__ = ["Deliver", "Deliveries"]

Deliver: TypeAlias = Callable[
    ["str | None", Sequence[RemoteOutput], "ShownValues | None"], Awaitable[None]
]
"""Brings what one node made and shows; ``None`` where the target does not say what that is."""


class Deliveries:
    """Brings outputs here node by node, beside whatever else goes on.

    A target tells of a node's outputs one after the other; the page is told of all at once.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._gathered: dict[str | None, list[RemoteOutput]] = {}
        self._shown: dict[str | None, ShownValues] = {}
        self._under_way: list[asyncio.Future[None]] = []
        self._known: set[tuple[object, ...]] = set()

    def add(self, output: RemoteOutput) -> None:
        """One output exists. The same one may be told of twice."""
        identity = (output.node_id, *output.file)
        if identity not in self._known:
            self._known.add(identity)
            self._gathered.setdefault(output.node_id, []).append(output)

    def show(self, node_id: str, values: ShownValues) -> None:
        """What a node shows besides its outputs, which come next."""
        self._shown[node_id] = values
        if values:
            self._gathered.setdefault(node_id, [])

    def flush(self) -> None:
        """Something else was told: these nodes have no more."""
        gathered, self._gathered = self._gathered, {}
        for node_id, outputs in gathered.items():
            self._under_way.append(
                asyncio.ensure_future(self._deliver(node_id, outputs, self._shown.get(node_id)))
            )

    async def done(self) -> None:
        """Wait until all are here that can be brought."""
        self.flush()
        await asyncio.gather(*self._under_way)

    async def stop(self) -> None:
        """Give up what is still under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
