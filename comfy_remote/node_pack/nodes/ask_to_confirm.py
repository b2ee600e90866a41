"""The address that a running node names, checked; its page is sent what it can ask its user."""

from __future__ import annotations

import asyncio

from server import PromptServer

from ...errors import NotTrusted
from ..trusted_targets import CONFIRM_EVENT, NamedAddress, check_addresses

__all__ = ["check_address"]


async def check_address(name: str, node_id: str, title: str) -> None:
    """See that the owner has named or confirmed where a node sends to.

    Prompts of the page are checked before they are queued; what is linked to the node's input is
    known only now.

    Args:
        name: Of a target or a service, or its address.
        node_id: The node's.
        title: What the page calls the node.

    Raises:
        NotTrusted: They have not.
    """
    try:
        await asyncio.to_thread(check_addresses, [NamedAddress(name, node_id, title)])
    except NotTrusted as error:
        server = PromptServer.instance
        if error.page_asks is not None and server.client_id is not None:
            server.send_sync(CONFIRM_EVENT, error.page_asks, server.client_id)
        raise
