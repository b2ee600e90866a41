"""A target held to a lock before anything is sent: for ``run --locked`` and ``batch --locked``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ..events import Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..jobs.client import Client
    from ..ready.lock import Lock
    from ..types import JsonValue
    from ..workflow.prompt import Prompt
    from .reporter import Reporter

__all__ = ["hold_to", "lock_in", "warn_of_others"]


async def lock_in(path: Path) -> Lock:
    """The lock in a file.

    Raises:
        ConfigurationError: It is not a lock.
    """
    from ..ready.lock import read_lock

    return await asyncio.to_thread(read_lock, path)


async def hold_to(lock: Lock, name: str, client: Client, reporter: Reporter) -> None:
    """Hold the client's target to a lock. What the target does not say is a warning.

    Args:
        name: Of the lock's file.

    Raises:
        LockNotMet: It is not what the lock says.
    """
    from ..ready.holding import hold

    held = await hold(lock, client.target)
    for sentence in held.doubts:
        reporter.event(Log(sentence, "warning"))
    held.refuse(name)
    known = ", as far as it is known" if held.doubts else ""
    reporter.note(f"{client.target.name} is what {name} says{known}.")


async def warn_of_others(
    lock: Lock, prompt: Prompt, workflow: Mapping[str, JsonValue] | None, reporter: Reporter
) -> None:
    """Say what the workflow uses and the lock does not name."""
    from ..ready.holding import not_in_lock
    from ..workflow.schema import Schemas

    schemas = await asyncio.to_thread(Schemas.bundled)
    if others := not_in_lock(lock, prompt, schemas=schemas, workflow=workflow):
        sentence = f"The lock does not name what the workflow uses: {', '.join(others)}."
        reporter.event(Log(sentence, "warning"))
