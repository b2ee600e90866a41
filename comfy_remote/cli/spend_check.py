"""``comfy-remote spend --check``: what providers have billed, beside what was estimated."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from .console import print_json, print_table, say

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..jobs.bills import Checked
    from ..jobs.record import Record
    from ..schedule.bill import Compared, Running
    from ..types import JsonValue

__all__ = ["check_spending"]

_COMPLETE = "The current hour is not included."
_HOURS_SHOWN = 48 * 3600.0
"""Seconds: of a longer time, there is a line a day."""


def check_spending(
    record: Record,
    configuration: Configuration,
    since: float,
    *,
    on: str | None = None,
    json_lines: bool = False,
) -> None:
    """Ask the providers, and print what they say.

    Args:
        since: Seconds since the epoch.
        on: The name of the one target that is asked for; all by default.
    """
    from ..jobs.bills import check_bills, running_now
    from .interrupt import run_interruptible

    now = time.time()

    async def ask() -> tuple[list[Checked], list[Running], list[str]]:
        checked = await check_bills(record, configuration, since, now, only=on)
        running, problems = ([], []) if on is not None else await running_now()
        return checked, running, problems

    checked, running, problems = run_interruptible(ask())
    if json_lines:
        for one in checked:
            print_json(_line(one))
        for each in running:
            print_json(_running_line(each, now))
    else:
        _print(checked, since, now)
        for each in running:
            print(_sentence(each, now))
    for problem in problems:
        say(problem)
    asked = [one for one in checked if not one.why]
    if checked and not asked:
        from ..errors import TargetError

        raise click.exceptions.Exit(TargetError.exit_status)


def _print(checked: Sequence[Checked], since: float, now: float) -> None:
    from rich.table import Column

    from ..schedule.bill import by_span
    from ..schedule.days import day_start
    from ..units import dollars
    from .jobs.shown import when

    by_day = now - since > _HOURS_SHOWN
    rows: list[tuple[str, ...]] = []
    for one in checked:
        spans: Sequence[Compared] = one.hours
        if by_day:
            spans = by_span(spans, day_start)
        for number, span in enumerate(spans):
            rows.append(
                (
                    ", ".join(one.names) if number == 0 else "",
                    when(span.start)[: 10 if by_day else 16],
                    str(span.runs),
                    "by the hour" if one.by_hour else dollars(span.estimated),
                    dollars(span.billed),
                    "" if one.by_hour else _signed(span.difference),
                )
            )
        if len(spans) > 1:
            total = by_span(one.hours, lambda _: 0.0)[0]
            rows.append(
                (
                    "",
                    "in all",
                    "",
                    "" if one.by_hour else dollars(total.estimated),
                    dollars(total.billed),
                    "" if one.by_hour else _signed(total.difference),
                )
            )
    if rows:
        columns = [
            *("Target", "Day" if by_day else "Hour"),
            *(Column(one, justify="right") for one in ("Runs", "Estimated", "Billed")),
            Column("Difference", justify="right"),
        ]
        print_table(columns, rows)
        print(
            "Billed is all that a target cost, including the start and idle time of its workers, "
            f"its disks, and runs by others. {_COMPLETE}"
        )
    elif not any(one.why for one in checked):
        print(
            f"Nothing ran since then, and nothing was billed. {_COMPLETE}"
            if checked
            else "No target costs money at a provider that could be asked."
        )
    for one in checked:
        if one.why:
            say(f"{', '.join(one.names)} could not be checked. {one.why}")
        elif any(hour.unpriced for hour in one.hours):
            say(
                f"{', '.join(one.names)}: some runs had no known price; nothing is estimated there."
            )


def _sentence(running: Running, now: float) -> str:
    from ..units import about_text, dollars

    title = f" ({running.title})" if running.title else ""
    rate = "" if running.per_hour is None else f", at {dollars(running.per_hour)} an hour"
    since = ""
    cost = running.cost(now)
    if running.since is not None and cost is not None:
        since = f" for {about_text(now - running.since)}: about {dollars(cost)}"
    return f"{running.name}{title} runs{since}{rate}, whether it is used or not."


def _signed(amount: float) -> str:
    from ..units import dollars

    if abs(amount) < 0.005:
        return "$0"
    return f"{'+' if amount > 0 else '-'}{dollars(abs(amount))}"


def _line(one: Checked) -> Mapping[str, JsonValue]:
    """``{"event": "spent_billed", …}``; in json_lines.schema.json."""
    return {
        "event": "spent_billed",
        "targets": list(one.names),
        "by_hour": one.by_hour,
        "error": one.why or None,
        "estimated": round(sum(hour.estimated for hour in one.hours), 6),
        "billed": round(sum(hour.billed for hour in one.hours), 6),
        "hours": [
            {
                "start": hour.start,
                "runs": hour.runs,
                "unpriced": hour.unpriced,
                "estimated": round(hour.estimated, 6),
                "billed": round(hour.billed, 6),
            }
            for hour in one.hours
        ],
        "version": 1,
    }


def _running_line(one: Running, now: float) -> Mapping[str, JsonValue]:
    """``{"event": "spent_running", …}``; likewise."""
    cost = one.cost(now)
    return {
        "event": "spent_running",
        "target": one.name,
        "title": one.title,
        "price_per_hour": one.per_hour,
        "since": one.since,
        "dollars": None if cost is None else round(cost, 6),
        "version": 1,
    }
