"""Which targets a workflow may name: nobody else's workflow decides where pictures are sent."""

from __future__ import annotations

from aiohttp import web
from yarl import URL

from ..errors import ConfigurationError
from ..net.address import is_loopback, shown
from ..targets.config import Configuration

__all__ = ["CHOSEN", "refuse_stranger"]

CHOSEN = web.AppKey("comfy_remote_chosen_targets", set[str])
"""Addresses that somebody at this server's page has chosen, and that parts were cut for."""

_OWN = ("runpod:", "modal:")
"""Reached with the keys of whoever runs this server, so only what is theirs."""


def refuse_stranger(name: str) -> None:
    """See that a target that stands in a workflow is one of this machine's owner.

    Args:
        name: A name from comfy-remote.toml, ``runpod:ENDPOINT``, ``modal:APP``, ``pod:auto``,
            ``sandbox``, or an address of this machine. A pod by its id may be anybody's.

    Raises:
        ConfigurationError: It is none of these.
    """
    if name in ("sandbox", "pod:auto") or name.startswith(_OWN) or _is_this_machine(name):
        return
    if name in Configuration.load().targets:
        return
    raise ConfigurationError(
        f"The workflow says that a part of it shall run on {shown(name)}, an address that you "
        "have not named.",
        advice="Give it a name in comfy-remote.toml and mark the nodes with that, or choose it in "
        "the Remote switch and mark them for the switch's target. So nobody else's workflow can "
        "choose where your pictures are sent.",
    )


def _is_this_machine(name: str) -> bool:
    try:
        return is_loopback(URL(name if "://" in name else f"http://{name}").host)
    except ValueError:
        return False
