"""Node packs on a target, brought and listed by workers of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import ValidationError

from ..advice import Hint
from ..errors import ConfigurationError, TargetError
from ..wire.nodes import NodesAnswer, NodesRequest, PackWanted
from .base import Acts, Target

__all__ = ["install_packs", "list_packs", "roll_back_packs"]

Say = Callable[[str], None]


async def install_packs(target: Target, packs: Iterable[PackWanted], say: Say) -> NodesAnswer:
    """Have a worker bring node packs, try them, and start its engine with them.

    What it had before stays as it is if anything fails. Cancelled, it cancels that.

    Args:
        say: Called with a line for people, again and again.

    Raises:
        NodesUnavailable: A pack cannot be had, or ComfyUI does not work with it; ``details`` have
            ``pack``, ``step`` and ``log``.
        LocalStorageError: The worker's disk is full.
        WorkflowInvalid: The request is not valid, or the worker is too old to know it.
        ConfigurationError: The target is no worker of ours, or its owner does not allow it.
    """
    return await _ask(target, NodesRequest(action="install_nodes", packs=tuple(packs)), say)


async def list_packs(target: Target) -> NodesAnswer:
    """The packs that `install_packs` has brought there."""
    return await _ask(target, NodesRequest(action="nodes"), None)


async def roll_back_packs(target: Target, say: Say) -> NodesAnswer:
    """Have a worker go back to the packs that it had before the last `install_packs`.

    Raises:
        NodesUnavailable: There is no earlier state.
    """
    return await _ask(target, NodesRequest(action="rollback_nodes"), say)


async def _ask(target: Target, request: NodesRequest, say: Say | None) -> NodesAnswer:
    if not isinstance(target, Acts):
        raise ConfigurationError(
            f"{target.name} cannot install node packs: only a worker of Comfy Remote can.",
            advice=Hint.WORKER_TARGET(),
        )
    output = await target.act(request.model_dump(mode="json", exclude_none=True), say)
    try:
        return NodesAnswer.model_validate(output)
    except ValidationError as error:
        raise TargetError(
            f"{target.name} did not answer with a list of node packs.",
            advice="Update the worker: it may be another program, or an older Comfy Remote.",
        ) from error
