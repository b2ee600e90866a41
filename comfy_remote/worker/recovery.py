"""Making an engine ready for the next job, after one that did not end well.

A cancel is a request: a node that sleeps, a process that was stopped, or a library that hangs
ignores it. An engine that continues a job that was given up is ended and started again.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ..aio import within
from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    SubmissionUnknown,
    TargetError,
    TargetStalled,
    TargetUnreachable,
)
from ..targets.comfyui.target import ComfyUITarget
from .connection import Connect
from .engine import Engine
from .settings import WorkerSettings

__all__ = ["end_if_hung", "settle"]

_ASK_EVERY = 0.25

_log = logging.getLogger(__name__)


async def settle(
    engine: Engine,
    connect: Connect,
    prompt_id: str,
    settings: WorkerSettings,
) -> bool:
    """Wait until the engine has stopped a cancelled prompt, or start the engine again.

    Args:
        settings: With ``cancel_grace``: after that a process of ours is ended and started again;
            of an engine that somebody else has started, the log says what it does.

    Returns:
        Whether the prompt has ended.
    """
    if not engine.alive:
        return True
    grace = settings.cancel_grace
    deadline = time.monotonic() + grace
    async with connect(await engine.ready()) as target:
        while (what := await _occupation(target, prompt_id, settings.engine_patience)) is not None:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_ASK_EVERY)
    if what is None or not engine.alive:
        return True
    if engine.pid is None:
        _log.error("%s %s; it was not started here, so it is left alone", engine.name, what)
        return False
    _log.error("%s %s %.0f s after the cancel: it is restarted", engine.name, what, grace)
    await asyncio.to_thread(engine.stop)
    await engine.ready()
    return True


async def _occupation(target: ComfyUITarget, prompt_id: str, patience: float) -> str | None:
    """What keeps the engine from the next job; ``None`` if nothing does."""
    try:
        held = await within(target.holds(prompt_id), patience)
    except (ComfyRemoteError, asyncio.TimeoutError):
        return "does not answer"
    return "still has the job" if held else None


async def end_if_hung(engine: Engine, error: TargetError) -> EngineCrashed | None:
    """End an engine of ours that no longer answers, or no longer runs anything.

    Returns:
        How it ended: another run may succeed. ``None`` if the error says nothing of that kind,
        or somebody else has started the engine.
    """
    answered = "http_status" in error.details
    hung = isinstance(error, TargetStalled | SubmissionUnknown) or (
        isinstance(error, TargetUnreachable) and not answered
    )
    if not hung or engine.pid is None or not engine.alive:
        return None
    _log.error("%s hangs: %s It is restarted", engine.name, error.message)
    await asyncio.to_thread(engine.stop)
    return EngineCrashed(
        f"The engine hung and was ended. {error.message}",
        advice="Its log says what it was doing. A node that blocks ComfyUI as a whole is one "
        "reason, a machine without free memory another.",
        details=error.details,
    )
