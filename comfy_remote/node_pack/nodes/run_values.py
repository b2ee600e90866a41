"""Payloads that a program in ComfyUI's own process hands to a node, or takes from it.

Knows nothing of ComfyUI. Runs at the same time do not mix, where their prompt ids are known.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RunValues"]


@dataclass(frozen=True, slots=True)
class _Stored:
    payload: dict[str, object]
    number: int


class RunValues:
    """Payloads by node and run, until they are taken. Safe to use from several threads.

    Args:
        of_a_node: Payloads of one node at most; the oldest go first.
        in_all: Payloads of all nodes at most.
        unasked: As `of_a_node`, until a payload has been taken: perhaps none ever is.
    """

    def __init__(self, *, of_a_node: int = 4, in_all: int = 64, unasked: int | None = None) -> None:
        self._of_a_node = of_a_node
        self._at_most = of_a_node if unasked is None else unasked
        self._in_all = in_all
        self._payloads: OrderedDict[tuple[str, str | None], _Stored] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def put(self, node_id: str, payload: Mapping[str, object], prompt_id: str | None) -> None:
        """Store a payload for one run of a node; for its next one, where there is no prompt id."""
        with self._lock:
            key = (str(node_id), prompt_id)
            self._payloads.pop(key, None)
            self._payloads[key] = _Stored(dict(payload), next(self._numbers))
            same = [other for other in self._payloads if other[0] == key[0]]
            for old in same[: -self._at_most]:
                del self._payloads[old]
            while len(self._payloads) > self._in_all:
                self._payloads.popitem(last=False)

    def number(self, node_id: str, prompt_id: str | None) -> int:
        """A different number for each payload; 0 where that run has none."""
        with self._lock:
            key = self._key(node_id, prompt_id)
            return self._payloads[key].number if key is not None else 0

    def take(self, node_id: str, prompt_id: str | None) -> dict[str, object] | None:
        """Remove and return the payload of a run: its own, or one for any run."""
        with self._lock:
            self._at_most = self._of_a_node
            key = self._key(node_id, prompt_id)
            return self._payloads.pop(key).payload if key is not None else None

    def take_newest(self, node_id: str) -> dict[str, object] | None:
        """Remove and return the last payload for any run of the node."""
        with self._lock:
            self._at_most = self._of_a_node
            for key in reversed(self._payloads):
                if key[0] == str(node_id):
                    return self._payloads.pop(key).payload
            return None

    def _key(self, node_id: str, prompt_id: str | None) -> tuple[str, str | None] | None:
        for key in ((str(node_id), prompt_id), (str(node_id), None)):
            if key in self._payloads:
                return key
        return None
