"""Why members of a route do not get a job: clauses whose subject is the member, and errors."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    RateLimited,
    SpendingCap,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
    WorkflowInvalid,
)
from ...schedule.choose import Ranked
from ...types import JsonValue
from .journal import Step, StepState

__all__ = [
    "ABOUT_A_MEMBER",
    "clause_of",
    "no_member",
    "refusal_clause",
    "step_clause",
    "to_json",
]

ABOUT_A_MEMBER = (TargetUnreachable, AuthenticationError, TargetNotFound, RateLimited)
"""Errors that are about a member, and not about what was sent to it: it cools down."""


def clause_of(error: ComfyRemoteError) -> str:
    """Why a member cannot be used."""
    if isinstance(error, TargetUnreachable):
        return "cannot be reached"
    if isinstance(error, AuthenticationError):
        return "does not accept the key"
    if isinstance(error, RateLimited):
        return "takes no more jobs for now"
    return f"cannot be used ({error.message.rstrip('.')})"


def refusal_clause(error: ComfyRemoteError) -> str:
    """Why a member did not take a job."""
    if isinstance(error, ABOUT_A_MEMBER):
        return clause_of(error)
    return f"did not take it ({error.message.rstrip('.')})"


def step_clause(step: Step) -> str:
    """Why a job surely did not run at the member of a step."""
    if step.state is StepState.WITHDRAWN:
        return "gave it up before it began"
    return "did not take it"


def to_json(ranked: Ranked, *, chosen: bool = False) -> dict[str, JsonValue]:
    """A judged member, as it is printed and recorded."""
    return {
        "member": ranked.name,
        "able": ranked.able,
        "chosen": chosen,
        "why": [*ranked.why],
        "cost": None if ranked.cost is None else round(ranked.cost, 6),
        "seconds": None if ranked.seconds is None else round(ranked.seconds, 2),
    }


def no_member(
    route: str, ranked: Sequence[Ranked], errors: Sequence[ComfyRemoteError]
) -> ComfyRemoteError:
    """The error where no member of a route can take a job.

    Args:
        ranked: The members, as they were judged last.
        errors: Of those that were tried. If all say the same, theirs is the error.
    """
    details: dict[str, JsonValue] = {"route": [to_json(one) for one in ranked]}
    over_cap = next((one for one in errors if isinstance(one, SpendingCap)), None)
    if over_cap is not None:
        over_cap.details.update(details)
        return over_cap
    alike = len({one.code for one in errors}) == 1
    if alike and (len(ranked) == len(errors) or isinstance(errors[0], WorkflowInvalid)):
        return errors[0]
    said = "; ".join(f"{one.name} {', and '.join(one.why)}" for one in ranked)
    if any(one.full for one in ranked) or any(isinstance(one, RateLimited) for one in errors):
        return RateLimited(
            f"No target of the route {route} takes more jobs for now: {said}.",
            advice="Try again when a job has ended, or raise at_most.",
            details=details,
        )
    return TargetError(
        f"No target of the route {route} can take the job: {said}.",
        advice="Correct what keeps them from taking it, or name another target.",
        details=details,
    )
