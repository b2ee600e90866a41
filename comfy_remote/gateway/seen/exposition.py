"""Numbers in Prometheus' text format, version 0.0.4.

The format is small and has been the same since 2014, so it is written here: the package
``prometheus_client`` would be one more in every ComfyUI that has our node pack, and it does not
bound the number of label values, which is what a server for strangers' jobs has to do.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["CONTENT_TYPE", "Counter", "Family", "Histogram", "Labels", "exposition", "gauge"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of labels."""

OTHER = "other"
_MOST_SERIES = 256


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, and a sample for each set of labels.

    Attributes:
        samples: What follows the name (``_bucket``), labels, value.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[tuple[str, Labels, float]]


def exposition(families: Iterable[Family]) -> bytes:
    """The metrics as a scrape gets them."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            lines.append(f"{family.name}{suffix}{_braces(labels)} {_number(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def gauge(name: str, help: str, value: float | Mapping[Labels, float]) -> Family:  # noqa: A002
    """A number that goes up and down, or one for each set of labels."""
    values = value if isinstance(value, Mapping) else {(): value}
    return Family(name, "gauge", help, [("", labels, each) for labels, each in values.items()])


@dataclass(slots=True)
class Counter:
    """Numbers that only grow, by the values of some labels.

    Attributes:
        most: How many sets of labels there are at most; what exceeds them is counted under
            ``other``.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    most: int = _MOST_SERIES
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count under these values of the labels."""
        if values not in self.values and len(self.values) >= self.most:
            values = (OTHER,) * len(self.labels)
        self.values[values] = self.values.get(values, 0.0) + amount

    def family(self, more: Mapping[tuple[str, ...], float] | None = None) -> Family:
        """The numbers, and ``more`` that is not counted for good yet."""
        totals = dict(self.values) if self.labels else {(): 0.0, **self.values}
        for values, amount in (more or {}).items():
            if values not in totals and len(totals) >= self.most:
                values = (OTHER,) * len(self.labels)
            totals[values] = totals.get(values, 0.0) + amount
        samples = [
            ("", tuple(zip(self.labels, values, strict=True)), total)
            for values, total in totals.items()
        ]
        return Family(self.name, "counter", self.help, samples)


@dataclass(slots=True)
class Histogram:
    """How many values were at most so large, for some sizes.

    Attributes:
        bounds: The sizes, in order.
    """

    name: str
    help: str
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def family(self) -> Family:
        """The counts, each with those below it."""
        samples: list[tuple[str, Labels, float]] = []
        count = 0
        for bound, more in zip((*self.bounds, math.inf), self.counts, strict=True):
            count += more
            samples.append(("_bucket", (("le", _number(bound)),), count))
        samples += [("_sum", (), self.total), ("_count", (), count)]
        return Family(self.name, "histogram", self.help, samples)


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels)
    return f"{{{inside}}}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
