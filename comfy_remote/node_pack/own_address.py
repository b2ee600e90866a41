"""A server that waits for a job of its own: it runs one prompt at a time, and would for ever."""

from __future__ import annotations

from yarl import URL

from ..errors import ConfigurationError
from ..net.address import is_loopback
from ..targets.base import OneEngine, Target

__all__ = ["refuse_own_address"]


def refuse_own_address(target: Target, port: int | None) -> None:
    """See that a node does not wait for the very server that runs it.

    Args:
        target: Where the node wants something to run.
        port: That the server listens on; ``None`` if it is not known.

    Raises:
        ConfigurationError: The target is that server.
    """
    if not isinstance(target, OneEngine):
        return
    address = URL(target.url)
    if is_loopback(address.host) and address.port == port:
        raise ConfigurationError(
            f"{target.url} is this ComfyUI, which runs one prompt at a time: what should run there "
            "would wait for the node that waits for it.",
            advice="Name another target, or let those nodes run here.",
        )
