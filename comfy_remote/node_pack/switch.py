"""Which browser clients have Remote switched on, and to which target."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Switch"]

_MOST_CLIENTS = 1000


class Switch:
    """The state of the Remote switch, by ComfyUI's ``client_id`` (one for each browser tab).

    Kept in memory: a page says it again when it connects to a server that was restarted.
    The clients that were heard of longest ago are forgotten first.
    """

    def __init__(self) -> None:
        self._targets: OrderedDict[str, str] = OrderedDict()

    @property
    def in_use(self) -> bool:
        """Whether any client has it on."""
        return bool(self._targets)

    def target_of(self, client_id: str | None) -> str | None:
        """The name or address of the client's target; ``None`` while it works locally."""
        return None if client_id is None else self._targets.get(client_id)

    def set(self, client_id: str, target: str | None) -> None:
        """Switch a client to a target, or off."""
        self._targets.pop(client_id, None)
        if target is not None:
            self._targets[client_id] = target
            while len(self._targets) > _MOST_CLIENTS:
                self._targets.popitem(last=False)
