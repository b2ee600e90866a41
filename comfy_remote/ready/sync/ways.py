"""Which ways there are to bring models and node packs to a target, as it and the settings say."""

from __future__ import annotations

from ...errors import ComfyRemoteError
from ...targets.base import (
    Acts,
    ChoosesAmong,
    DescribesByJob,
    MayTake,
    OneEngine,
    StoresFiles,
    Takes,
    Target,
)
from ...targets.runpod.target import RunPodTarget
from ...targets.sandbox.target import SandboxTarget
from ..plan import There
from .packs import ByHand
from .steps import Ways

__all__ = ["by_hand_at", "ways_to"]

_NO_WORKER = "only a worker of Comfy Remote can do that"
_DENIED = "the target's owner has set DOWNLOAD_MODELS=false"
_NOT_ACCEPTED = (
    "the target's owner has not allowed models to be sent to it (ACCEPT_MODELS=true there)"
)
_NOT_INSTALLED = "the target's owner has not allowed it (ALLOW_NODE_INSTALL=true there)"
_OLD = "its worker is older than this Comfy Remote, or has not been asked yet"
_OTHER_FOLDER = (
    "its worker is older than this Comfy Remote, and would fetch it into a folder without capitals"
)


async def ways_to(target: Target, there: There, *, volume: str = "", bucket: str = "") -> Ways:
    """The ways to a target.

    Args:
        target: Open.
        there: What it says that it has.
        volume: The network volume that is set for it, for people.
        bucket: The user's bucket, for people.
    """
    if isinstance(target, MayTake):
        return _itself(await target.takes(), bucket)
    if isinstance(target, ChoosesAmong) or not isinstance(target, Acts):
        no = _NO_WORKER
        return Ways(fetch=no, link=no, send=no, install=no, volume=volume, bucket=bucket)
    takes = there.takes_models
    install = _why_not_installed(there)
    if takes is None:
        # Older workers fetch, too. One that was never asked may be any.
        fetch = "" if isinstance(target, DescribesByJob) else _NO_WORKER
        # Which folder it took is looked at then.
        return Ways(
            fetch=fetch,
            link=_OLD,
            send=_OLD,
            install=install,
            installs=there.takes_nodes or frozenset(),
            volume=volume,
            bucket=bucket,
        )
    return Ways(
        fetch="" if "fetch" in takes else _DENIED,
        link="" if "link" in takes else _DENIED,
        send=await _why_not_sent(target, takes),
        install=install,
        installs=there.takes_nodes or frozenset(),
        volume=volume,
        bucket=bucket,
        exact="" if "exact_folders" in takes else _OTHER_FOLDER,
    )


def _itself(takes: Takes, bucket: str) -> Ways:
    """Those to a ComfyUI that may take models and node packs itself."""
    none = takes.why or ("" if takes.models else _NOT_ACCEPTED)
    return Ways(
        fetch=none or ("" if "fetch" in takes.models else _DENIED),
        link=none or ("" if "link" in takes.models else _DENIED),
        send=none or ("" if "receive" in takes.models else _NOT_ACCEPTED),
        install=takes.why or ("" if takes.nodes else takes.no_nodes or _NOT_INSTALLED),
        installs=takes.nodes,
        bucket=bucket,
    )


async def _why_not_sent(target: Target, takes: frozenset[str]) -> str:
    if not isinstance(target, StoresFiles):
        return "nothing can be sent to it directly"
    try:
        stores = await target.stores_files()
    except ComfyRemoteError as error:
        return f"it could not be asked whether it takes files: {error.message.rstrip('.')}"
    if not stores:
        return (
            "it takes no files directly: set the network volume of a RunPod endpoint (volume), or "
            "a bucket"
        )
    if "receive" not in takes:
        return _NOT_ACCEPTED
    return ""


def _why_not_installed(there: There) -> str:
    if there.takes_nodes is None:
        return _OLD
    if there.takes_nodes:
        return ""
    said = there.no_nodes.strip().rstrip(".")
    return said or _NOT_INSTALLED


def by_hand_at(target: Target) -> ByHand:
    """What somebody who is to install packs at a target has before them."""
    if isinstance(target, SandboxTarget):
        return ByHand.SANDBOX
    if isinstance(target, OneEngine):
        return ByHand.COMFYUI
    if not isinstance(target, RunPodTarget):
        return ByHand.OTHER
    if target.kind.name == "modal":
        return ByHand.MODAL
    return ByHand.RUNPOD if target.is_the_providers else ByHand.WORKER
