"""Which browser clients have Remote switched on, and to which target."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Switch"]

_MOST_CLIENTS = 1000


class Switch:
    """The state of the Remote switch, by ComfyUI's ``client_id`` (one for each browser tab).

    In memory only: a page sends its choice again when it connects to a restarted server. The
    clients that have been silent longest are dropped first.
    """

    def __init__(self) -> None:
        self._targets: OrderedDict[str, str] = OrderedDict()
        self._usual: OrderedDict[str, str] = OrderedDict()
        self._without_repo_list: OrderedDict[str, str] = OrderedDict()

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

    def set(
        self,
        client_id: str,
        target: str | None,
        usual: str | None = None,
        *,
        with_repo_list: bool = True,
    ) -> None:
        """Switch a client to a target, or off.

        Args:
            usual: Where it would switch to, for nodes that are marked to run elsewhere.
            with_repo_list: See the method of that name.
        """
        _put(self._without_repo_list, client_id, None if with_repo_list else client_id)
        _put(self._targets, client_id, target)
        _put(self._usual, client_id, usual or target)


def _put(targets: OrderedDict[str, str], client_id: str, target: str | None) -> None:
    targets.pop(client_id, None)
    if target is not None:
        targets[client_id] = target
        while len(targets) > _MOST_CLIENTS:
            targets.popitem(last=False)
