"""``comfy-remote spend``: what the runs sent from this machine have cost."""

from __future__ import annotations

import operator
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .jobs.options import since as moment
from .jobs.options import to_target_option
from .options import json_option, json_schema_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Column

    from ..config.settings import Configuration
    from ..jobs.record.ledger import By, Ledger, Spent
    from ..schedule.caps import Cap
    from ..types import JsonValue

__all__ = ["spend"]

_NO_BATCH = "(no batch)"


@click.command()
@click.option(
    "--by",
    type=click.Choice(["target", "day", "workflow", "batch"]),
    default="target",
    show_default=True,
    help="What a line is.",
)
@click.option(
    "--since",
    metavar="WHEN",
    callback=moment,
    help="What was sent since then: 12h, 3d, today, 2026-11-30. Default: since the month began.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Ask the providers what they have billed, and show it beside what was estimated.",
)
@to_target_option
@json_option
@json_schema_option
def spend(by: By, since: float | None, check: bool, on: str | None, json_lines: bool) -> None:
    """Show what the runs sent from this machine have cost.

    All amounts are estimates: the price of an hour, by the seconds that the target reports for a
    run, and by the start of its worker if that was seen. A run counts on the day it was sent.
    Amounts reserved for runs that have not ended are included. Targets that are billed by the hour,
    used or not, are listed separately.

    A provider bills a target by the hour, never a run: --check compares hours, or days. It also
    lists what costs money now, used or not: your RunPod account's pods and active workers.

    \b
    Examples:
      comfy-remote spend
      comfy-remote spend --by day --since 14d
      comfy-remote spend --by workflow --on gpu
      comfy-remote spend --check --since 12h
    """
    from ..config.settings import Configuration
    from ..jobs.record import Record

    configuration = Configuration.load()
    with Record() as record:
        ledger = record.ledger
        begin = ledger.this_month() if since is None else since
        target = None if on is None else _booked_as(on, configuration)
        if check:
            from .spend_check import check_spending

            check_spending(record, configuration, begin, on=target, json_lines=json_lines)
            return
        groups = ledger.spent(begin, by, target=target)
        hourly = ledger.spent(begin, "target", target=target, by_hour=True)
        caps = _caps(ledger, configuration, target)
        cached = record.results.taken_since(begin, target)
    total = reduce(operator.add, groups) if groups else None
    if json_lines:
        _print_json(by, begin, groups, total, hourly, caps, cached)
    else:
        _print(by, begin, groups, total, hourly, caps, cached, on)


def _booked_as(name: str, configuration: Configuration) -> str:
    """What the ledger calls a target.

    Raises:
        ConfigurationError: It is a route.
    """
    from ..config.target_settings import TargetSettings
    from ..errors import ConfigurationError
    from ..targets.kinds import members_of

    settings = configuration.targets.get(name) or TargetSettings(name)
    if members := members_of(settings):
        raise ConfigurationError(
            f"{name} is a route: what its runs cost is counted at the target each was sent to.",
            advice=f"Name one of them: {', '.join(members)}.",
        )
    return configuration.booked_as(name)


def _caps(
    ledger: Ledger, configuration: Configuration, target: str | None
) -> list[tuple[Cap, float]]:
    """The caps on days and months, and what is spent or reserved under each."""
    wanted = [cap for cap in configuration.caps if cap.span in ("day", "month")]
    if target is not None:
        wanted = [cap for cap in wanted if cap.target in (None, target)]
    return [(cap, ledger.used(cap)) for cap in wanted]


def _print(
    by: By,
    begin: float,
    groups: Sequence[Spent],
    total: Spent | None,
    hourly: Sequence[Spent],
    caps: Sequence[tuple[Cap, float]],
    cached: tuple[int, float],
    on: str | None,
) -> None:
    from ..units import about_dollars, about_text, counted, dollars
    from .console import print_table, say

    if total is None:
        where = "" if on is None else f" to {on}"
        say(f"Nothing that is billed by the run was sent{where} since {_since(begin)}.")
    else:
        print_table(*_table(by, groups))
        for sentence in _sentences(begin, total):
            print(sentence)
    if cached[0]:
        saved = f", {about_dollars(cached[1])} saved" if cached[1] else ""
        print(f"{counted(cached[0], 'run')} came from the cache{saved}.")
    for cap, used in caps:
        left = max(0.0, cap.dollars - used)
        print(f"The cap of {cap}: {dollars(used)} is used, {dollars(left)} is left.")
    for one in hourly:
        cost = f", about {dollars(one.amount)} of its cost" if one.amount else ""
        print(
            f"Billed by the hour: {counted(one.runs, 'run')} on {one.name}, "
            f"{about_text(one.seconds)}{cost}. It costs money as long as it exists."
        )


def _sentences(begin: float, total: Spent) -> Iterator[str]:
    """What it is in all, for people."""
    from ..units import about_dollars, counted, dollars

    amount = about_dollars(total.amount)
    amount = f"{amount[0].upper()}{amount[1:]}"
    yield f"{amount} for {counted(total.runs, 'run')} since {_since(begin)}."
    if total.reserved:
        yield f"Of that, {dollars(total.reserved)} is reserved for runs that have not ended."
    if total.uncertain:
        yield f"Up to {dollars(total.uncertain)} of it is for runs whose end is not known."
    if total.estimated:
        estimated, actual = dollars(total.estimated), dollars(total.compared)
        yield f"Runs with an estimate: {estimated} estimated, {actual} by the time they took."
    if total.unpriced:
        which = "1 run is" if total.unpriced == 1 else f"{total.unpriced:,} runs are"
        yield f"{which} not included, since no price was known: set price_per_hour for that target."


def _since(begin: float) -> str:
    from .jobs.shown import when

    return when(begin)[:16].removesuffix(" 00:00")


def _table(by: By, groups: Sequence[Spent]) -> tuple[list[Column | str], list[tuple[str, ...]]]:
    from rich.table import Column

    from ..units import about_text, dollars

    columns: list[Column | str] = [
        Column(by.capitalize()),
        Column("Runs", justify="right"),
        Column("Cost", justify="right"),
        Column("Estimated", justify="right"),
        Column("Actual", justify="right"),
        Column("Time", justify="right"),
    ]
    unpriced = any(one.unpriced for one in groups)
    if unpriced:
        columns.append(Column("No price", justify="right"))
    names = Counter(Path(one.name).name for one in groups)
    rows = []
    for one in groups:
        name = one.name
        if by == "workflow" and names[Path(name).name] == 1:
            name = Path(name).name
        compared = one.estimated > 0
        rows.append(
            (
                name or _NO_BATCH,
                f"{one.runs:,}",
                dollars(one.amount),
                dollars(one.estimated) if compared else "",
                dollars(one.compared) if compared else "",
                about_text(one.seconds) if one.seconds else "",
                *([str(one.unpriced or "")] if unpriced else []),
            )
        )
    return columns, rows


def _print_json(
    by: By,
    begin: float,
    groups: Sequence[Spent],
    total: Spent | None,
    hourly: Sequence[Spent],
    caps: Sequence[tuple[Cap, float]],
    cached: tuple[int, float],
) -> None:
    from .console import print_json

    for one in groups:
        print_json(_line(by, one))
    for one in hourly:
        print_json(_line("target", one, by_hour=True))
    print_json(
        {
            "event": "spent_total",
            "since": round(begin, 3),
            "runs": 0 if total is None else total.runs,
            "dollars": 0.0 if total is None else round(total.amount, 6),
            "unpriced": 0 if total is None else total.unpriced,
            "cached": cached[0],
            "saved": round(cached[1], 6),
            "caps": [
                {
                    "dollars": cap.dollars,
                    "span": cap.span,
                    "target": cap.target,
                    "used": round(used, 6),
                    "where": cap.where,
                }
                for cap, used in caps
            ],
            "version": 1,
        }
    )


def _line(by: By, one: Spent, *, by_hour: bool = False) -> dict[str, JsonValue]:
    """``{"event": "spent", …}``; in json_lines.schema.json."""
    return {
        "event": "spent",
        "by": by,
        "name": one.name,
        "by_hour": by_hour,
        "runs": one.runs,
        "dollars": round(one.amount, 6),
        "reserved": round(one.reserved, 6),
        "uncertain": round(one.uncertain, 6),
        "estimated": round(one.estimated, 6),
        "compared": round(one.compared, 6),
        "seconds": round(one.seconds, 3),
        "unpriced": one.unpriced,
        "version": 1,
    }
