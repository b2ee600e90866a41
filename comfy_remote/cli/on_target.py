"""One question to a target, or one job there that runs no workflow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

import click

from .console import say

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..targets.base import Target

__all__ = ["on_target"]

_T = TypeVar("_T")


def on_target(
    on: str | None,
    work: Callable[[Target], Coroutine[object, object, _T]],
    configuration: Configuration | None = None,
) -> _T:
    """What some work with a target gives; Ctrl-C ends it with exit status 130.

    Args:
        on: Its name or address; ``None`` for the usual one.
        configuration: Loaded if it is ``None``.
    """
    import asyncio

    from ..config.settings import Configuration
    from ..targets.opening import open_target
    from .interrupt import run_interruptible

    configuration = configuration or Configuration.load()
    target = open_target(configuration.choose(on), configuration)
    if configuration.untrusted is not None:
        say(configuration.untrusted.sentence())
    if on is None:
        say(configuration.usual_sentence())

    async def whole() -> _T:
        async with target as opened:
            return await work(opened)

    try:
        return run_interruptible(whole())
    except asyncio.CancelledError:
        say("Stopped.")
        raise click.exceptions.Exit(130) from None
