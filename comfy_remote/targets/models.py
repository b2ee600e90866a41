"""Models on a target: listed on every ComfyUI, fetched and pruned by workers of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..advice import Hint
from ..errors import ConfigurationError, TargetError
from ..types import JsonValue
from ..wire.models import (
    CheckAnswer,
    EnsureAnswer,
    ModelsAnswer,
    ModelsRequest,
    PlaceAnswer,
    PlaceRequest,
    PruneAnswer,
)
from .base import Acts, InputFile, ListsModels, MayTake, StoresFiles, Target

__all__ = [
    "check_models",
    "ensure_models",
    "list_models",
    "place_model",
    "prune_models",
    "send_model",
]

Say = Callable[[str], None]


async def list_models(target: Target) -> ModelsAnswer:
    """The models that are there. A ComfyUI gives their names only.

    Raises:
        ConfigurationError: That kind of target does not list models.
    """
    if isinstance(target, ListsModels):
        return ModelsAnswer.of_names(await target.models())
    return await _ask(target, ModelsRequest(action="models"), ModelsAnswer, None)


async def ensure_models(
    target: Target, repo_list: str, say: Say, *, prune: bool | None = None, list_name: str = ""
) -> EnsureAnswer:
    """Have a worker fetch what is missing of a list.

    Cancelled, it cancels that; what was fetched so far stays for the next time.

    Args:
        repo_list: See `wire.repo_list.parse_repo_list`.
        prune: Whether the worker removes what it had fetched and is not listed; ``None`` for
            what its owner has set.
        list_name: See `ModelsRequest`.

    Raises:
        WorkflowInvalid: A line cannot be read.
        ModelUnavailable: A model cannot be had.
        LocalStorageError: The worker's disk is full.
        ConfigurationError: The target is no worker of ours.
    """
    request = ModelsRequest(action="ensure", repo_list=repo_list, prune=prune, list_name=list_name)
    return await _ask(target, request, EnsureAnswer, say)


async def check_models(
    target: Target, repo_list: str, *, prune: bool = True, list_name: str = ""
) -> CheckAnswer:
    """What `ensure_models` would do. Nothing is changed."""
    request = ModelsRequest(action="check", repo_list=repo_list, prune=prune, list_name=list_name)
    return await _ask(target, request, CheckAnswer, None)


async def prune_models(
    target: Target, repo_list: str, say: Say, *, everything: bool = False, list_name: str = ""
) -> PruneAnswer:
    """Have a worker remove what it had fetched itself and is neither listed nor pinned.

    What another list has asked for in the last seven days stays.

    Args:
        everything: Whether an empty list means that nothing is wanted.
    """
    request = ModelsRequest(
        action="prune", repo_list=repo_list, everything=everything, list_name=list_name
    )
    return await _ask(target, request, PruneAnswer, say)


async def place_model(target: Target, request: PlaceRequest, say: Say) -> PlaceAnswer:
    """Have a worker link a model, or receive it from the gateway's store; see `PlaceRequest`.

    Raises:
        ModelUnavailable: It cannot be had there, or its owner does not allow it.
        LocalStorageError: The worker's disk is full.
        ConfigurationError: The target is no worker of ours.
    """
    return await _ask(target, request, PlaceAnswer, say)


async def send_model(
    target: Target,
    request: PlaceRequest,
    parts: Sequence[InputFile],
    say: Say,
    on_sent: Callable[[int, int], None],
) -> PlaceAnswer:
    """Have a model there that is on this machine: by a gateway's store, or directly.

    Args:
        request: Names the parts.
        on_sent: Called with the number of bytes that are there, and of all.

    Raises:
        ConfigurationError: Nothing can be sent to it.
    """
    if isinstance(target, MayTake):
        payload = request.model_dump(mode="json", exclude_none=True)
        return _read(target, await target.send_model(payload, parts, say, on_sent), PlaceAnswer)
    if not isinstance(target, StoresFiles):
        raise ConfigurationError(f"Nothing can be sent to {target.name}.")
    await target.store_files(parts, on_sent)
    return await place_model(target, request, say)


_Answer = TypeVar("_Answer", bound=BaseModel)


async def _ask(
    target: Target,
    request: ModelsRequest | PlaceRequest,
    answer: type[_Answer],
    say: Say | None,
) -> _Answer:
    if not isinstance(target, Acts):
        listing = isinstance(target, ListsModels)
        raise ConfigurationError(
            f"{target.name} cannot fetch or remove models: only a worker of Comfy Remote can."
            if listing
            else f"{target.name} has no models.",
            advice=Hint.WORKER_TARGET() if listing else Hint.OTHER_TARGET(),
        )
    output = await target.act(request.model_dump(mode="json", exclude_none=True), say)
    return _read(target, output, answer)


def _read(target: Target, output: JsonValue, answer: type[_Answer]) -> _Answer:
    try:
        return answer.model_validate(output)
    except ValidationError as error:
        raise TargetError(
            f"{target.name} did not answer with a list of models.",
            advice="Update the worker: it may be another program, or an older Comfy Remote.",
        ) from error
