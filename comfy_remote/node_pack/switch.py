"""Which browser clients have Remote switched on, and to which target."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TypeVar

from ..config.cache_settings import CacheMode

__all__ = ["Switch"]

_T = TypeVar("_T")

_MOST_CLIENTS = 1000
_YES_HOLDS = 60.0
"""Seconds in which a run that somebody has allowed must be sent."""


class Switch:
    """The state of the Remote switch, by ComfyUI's ``client_id`` (one for each browser tab).

    In memory only: a page sends its choice again when it connects to a restarted server. The
    clients that have been silent longest are dropped first.
    """

    def __init__(self) -> None:
        self._targets: OrderedDict[str, str] = OrderedDict()
        self._usual: OrderedDict[str, str] = OrderedDict()
        self._without_repo_list: OrderedDict[str, str] = OrderedDict()
        self._over_cap: OrderedDict[str, float] = OrderedDict()
        self._cache: OrderedDict[str, CacheMode] = OrderedDict()

    @property
    def in_use(self) -> bool:
        """Whether any client has it on."""
        return bool(self._targets)

    def target_of(self, client_id: str | None) -> str | None:
        """The name or address of the client's target; ``None`` while its switch is off."""
        return None if client_id is None else self._targets.get(client_id)

    def usual_target_of(self, client_id: str | None) -> str | None:
        """The target of the client's switch, on or off; ``None`` where unknown."""
        if client_id is None:
            return None
        return self._targets.get(client_id) or self._usual.get(client_id)

    def with_repo_list(self, client_id: str | None) -> bool:
        """Whether the client's jobs ask for the models of a node titled ``repo_list``."""
        return client_id is None or client_id not in self._without_repo_list

    def cache_of(self, client_id: str | None) -> CacheMode | None:
        """Whether a client's jobs use stored results; ``None`` for what is configured."""
        return None if client_id is None else self._cache.get(client_id)

    def let_over_cap(self, client_id: str) -> None:
        """Let the next job of a client, if it is sent soon, go over every cap on spending."""
        _put(self._over_cap, client_id, time.monotonic() + _YES_HOLDS)

    def take_over_cap(self, client_id: str | None) -> bool:
        """Whether its job may go over every cap. That is true once for each yes."""
        until = None if client_id is None else self._over_cap.pop(client_id, None)
        return until is not None and time.monotonic() < until

    def set(
        self,
        client_id: str,
        target: str | None,
        usual: str | None = None,
        *,
        with_repo_list: bool = True,
        cache: CacheMode | None = None,
    ) -> None:
        """Switch a client to a target, or off.

        Args:
            usual: Where it would switch to, for nodes that are marked to run elsewhere.
            with_repo_list: See the method of that name.
            cache: Whether its jobs use stored results; ``None`` for what is configured.
        """
        _put(self._cache, client_id, cache)
        _put(self._without_repo_list, client_id, None if with_repo_list else client_id)
        _put(self._targets, client_id, target)
        _put(self._usual, client_id, usual or target)


def _put(values: OrderedDict[str, _T], client_id: str, value: _T | None) -> None:
    values.pop(client_id, None)
    if value is not None:
        values[client_id] = value
        while len(values) > _MOST_CLIENTS:
            values.popitem(last=False)
