"""What a cap on spending allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..advice import Advice, Hint
from ..errors import SpendingCap
from ..events import DidItRun
from ..types import JsonValue
from ..units import dollars
from .money import Charge

__all__ = ["Cap", "OnCap", "Span", "check"]

Span: TypeAlias = Literal["job", "day", "month", "batch"]
"""What a cap is on: each job, all of a day or of a month (by the local calendar), a batch."""

OnCap: TypeAlias = Literal["warn", "cancel"]
"""What happens to a job that runs so long that it would go over a cap."""

_ROUNDING = 1e-9
_SPENT = {"day": "today", "month": "this month", "batch": "for this batch"}
_SPANS = {"job": "a run", "day": "a day", "month": "a month", "batch": "for the batch"}


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that may be spent.

    Attributes:
        dollars: US dollars.
        target: The target whose jobs it is for; ``None`` for those of all targets together.
        where: Where it is set, for people: ``cap_per_day in /home/ann/…/comfy-remote.toml``.
    """

    dollars: float
    span: Span
    target: str | None = None
    where: str = "the cap of this run"

    def __str__(self) -> str:
        """``$1.00 a day``, ``$1.00 a day on gpu``."""
        on = "" if self.target is None else f" on {self.target}"
        return f"{dollars(self.dollars)} {_SPANS[self.span]}{on}"


def check(charge: Charge, caps: Iterable[Cap], spent: Callable[[Cap], float]) -> None:
    """See that a job fits under every cap that applies to it.

    Args:
        spent: US dollars that are spent or reserved already under a cap; not asked of one on each
            job.

    Raises:
        SpendingCap: It does not, or its price is not known. ``details`` say which cap, in US
            dollars, and what is spent and would be reserved.
    """
    for cap in () if charge.by_hour or charge.over_cap else caps:
        if charge.reserved is None:
            raise _refusal(
                f"There is a cap of {cap}, and the price of an hour of {charge.target} is not known"
                f"{f': {charge.unpriced}' if charge.unpriced else ''}.",
                Hint.SET_PRICE(target=charge.target),
                {"target": charge.target, "cap": cap.dollars, "span": cap.span},
            )
        used = 0.0 if cap.span == "job" else spent(cap)
        if charge.reserved <= 0 or charge.reserved + used <= cap.dollars + _ROUNDING:
            continue
        raise _refusal(
            f"{charge.what} may cost {_up(charge.reserved)} on {charge.target}{_because(charge)}"
            f"{_with(cap, used)} is over the cap of {cap}.",
            Hint.RAISE_CAP(where=cap.where),
            {
                "target": charge.target,
                "cap": cap.dollars,
                "span": cap.span,
                "spent": round(used, 6),
                "reserved": round(charge.reserved, 6),
            },
        )


def _refusal(message: str, advice: Advice, details: dict[str, JsonValue]) -> SpendingCap:
    error = SpendingCap(message, advice=advice, details=details)
    DidItRun.NEVER_ACCEPTED.noted_in(error)
    return error


def _because(charge: Charge) -> str:
    return f" ({charge.why})" if charge.why else ""


def _with(cap: Cap, used: float) -> str:
    if used <= 0:
        return ", which"
    return f". With {dollars(used)} spent or reserved {_SPENT[cap.span]}, that"


def _up(amount: float) -> str:
    """Rounded up to a cent: ``$1.00`` is not over a cap of $1.00."""
    return dollars(math.ceil(amount * 100 - _ROUNDING) / 100)
