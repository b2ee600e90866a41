"""Checks that run side by side, each with a time limit, and what they find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..aio import Deadline, within
from ..errors import ComfyRemoteError, TargetUnreachable

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Checks", "Finding", "FindingStatus", "problem_of"]

FindingStatus = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at: ``installation``, ``configuration``, ``trust``, ``record``,
            ``target``, ``key``, ``pod``, ``connection``, ``comfyui``, ``device``, ``latency``,
            ``socket``, ``workers``, ``queue`` or ``workflow``.
        status: A ``problem`` keeps jobs from running, a ``warning`` may; a ``skipped`` check could
            not be made.
        advice: Empty if there is nothing to do.
        exit_status: Of the command, if this is its first problem.
        details: JSON-able facts.
    """

    check: str
    status: FindingStatus
    message: str
    advice: str = ""
    exit_status: int = 0
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """All fields."""
        return {
            "check": self.check,
            "status": self.status,
            "message": self.message,
            "advice": self.advice,
            "details": dict(self.details),
        }


def problem_of(check: str, error: ComfyRemoteError) -> Finding:
    """What an error means for a check."""
    return Finding(
        check, "problem", error.message, error.advice, error.exit_status, {"code": error.code}
    )


_Look: TypeAlias = Coroutine[object, object, Sequence[Finding]]


class Checks:
    """Runs checks, each with a time limit; gives their findings in the order they were begun."""

    def __init__(self, deadline: Deadline, seconds: float) -> None:
        self._deadline = deadline
        self._seconds = seconds
        self._begun: list[asyncio.Task[list[Finding]]] = []

    def begin(self, name: str, look: _Look, seconds: float | None = None) -> None:
        """Begin a check. `findings` gives what it finds; an error becomes a finding."""
        self._begun.append(asyncio.create_task(self.look(name, look, seconds)))

    async def look(self, name: str, look: _Look, seconds: float | None = None) -> list[Finding]:
        """Run one, and return its findings."""
        seconds = self._deadline.at_most(self._seconds if seconds is None else seconds)
        try:
            return list(await within(look, seconds))
        except asyncio.TimeoutError:
            return [
                Finding(
                    name,
                    "problem",
                    f"This check was stopped after {seconds:.0f} s.",
                    "The target, or the way to it, is stuck or very slow: look at its log, and "
                    "try again.",
                    TargetUnreachable.exit_status,
                )
            ]
        except ComfyRemoteError as error:
            return [problem_of(name, error)]

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """The findings of all checks that have begun."""
        while self._begun:
            found = await self._begun[0]
            del self._begun[0]
            for finding in found:
                yield finding

    async def stop(self) -> None:
        """Cancel those that still run."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
