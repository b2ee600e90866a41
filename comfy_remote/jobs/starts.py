"""How long a target's workers took to start, as earlier jobs there have seen it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import JsonValue
from ..units import about_text

if TYPE_CHECKING:
    from .record.record import Record

__all__ = ["LearnedStarts", "learned_starts"]

_LATELY = 10
_WORTH_SAYING = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class LearnedStarts:
    """Those of late.

    Attributes:
        waited: Seconds from a job's submission until it began, the newest first: the host loads the
            image, and the container starts.
        longer: Seconds that such a job then ran longer than others of its workflow, the median:
            ComfyUI starts, and models are loaded. ``None`` where no others were seen.
    """

    waited: tuple[float, ...]
    longer: float | None

    def sentence(self, name: str) -> str:
        """For people."""
        count, usual = len(self.waited), about_text(statistics.median(self.waited))
        if count == 1:
            words = f"A worker of {name} took {usual} to start, the one time that a job saw it"
        else:
            least, most = about_text(min(self.waited)), about_text(max(self.waited))
            words = (
                f"A worker of {name} takes about {usual} to start ({least} to {most}, the last "
                f"{count} times)"
            )
        if self.longer is not None and self.longer >= _WORTH_SAYING:
            words += (
                f"; its first run takes about {about_text(self.longer)} longer than others, in "
                "which ComfyUI starts and models are loaded"
            )
        return f"{words}."

    def to_json(self) -> dict[str, JsonValue]:
        """For programs; seconds."""
        return {
            "usual": round(statistics.median(self.waited), 1),
            "shortest": round(min(self.waited), 1),
            "longest": round(max(self.waited), 1),
            "count": len(self.waited),
            "first_run_longer": None if self.longer is None else round(self.longer, 1),
        }


def learned_starts(record: Record, target: str) -> LearnedStarts | None:
    """What jobs have seen of it; ``None`` if none had to wait for a worker. Blocking.

    Args:
        target: Its name, as jobs are recorded with it.
    """
    starts = record.starts(target, _LATELY)
    if not starts:
        return None
    longer = [one.longer for one in starts if one.longer is not None]
    waited = tuple(one.waited for one in starts)
    return LearnedStarts(waited, statistics.median(longer) if longer else None)
