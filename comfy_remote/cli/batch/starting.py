"""Starts a batch: reads, checks and estimates it, asks where it is large, makes and drives it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ...batch.checking import ValueProblem, check_plan
from ...batch.draft import BatchOptions, Draft, draft
from ...batch.forecast import BatchForecast, forecast
from ...batch.store import make, start_background
from ...config.folders import CONFIG_VARIABLE
from ...errors import ConfigurationError, WorkflowInvalid
from ...events import Log
from ...jobs.client import Client
from ...targets.opening import open_target
from ...units import counted, dollars
from ...workflow.change.prepare import Changes
from ...workflow.files import FileSearch
from ..advice import for_terminal
from ..asking import can_ask
from ..dry_run import use_what_is_known
from ..errors import check_named_files
from ..follow import chosen_target
from ..held import hold_to, lock_in, warn_of_others
from ..options import typed_name
from .driving import drive, supervise
from .ending import Notified
from .reporter import BatchReporter, Planned, make_reporter
from .words import axes_lines, heading

if TYPE_CHECKING:
    from ...batch.events import Stopped
    from ...batch.plan import Variation
    from ...jobs.record import Record
    from ...workflow.prompt import Prompt

__all__ = ["Wanted", "start_batch"]

_MOST_RUNS = 200
_MOST_DOLLARS = 10.0
"""More than this is asked about."""
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        on: Name or address of the target; ``None`` for the configured one.
        dry: Whether only to say what it would be.
        wait: Whether to drive it here; else another process does.
        agreed: Whether it may be as large as it is.
        lock_file: The lock that the target is held to before it starts; ``None`` for none.
    """

    workflow: Path
    variation: Variation
    on: str | None
    changes: Changes
    inputs: tuple[Path, ...]
    options: BatchOptions
    schemas: Path | str | None
    dry: bool
    wait: bool
    agreed: bool
    lock_file: Path | None = None


class _Asks(Exception):
    """It is so large that its user has to agree."""

    def __init__(self, draft: Draft, forecast: BatchForecast, why: str) -> None:
        super().__init__(why)
        self.draft = draft
        self.forecast = forecast


def start_batch(wanted: Wanted, *, json_lines: bool, quiet: bool, notify: Sequence[str]) -> None:
    """Do it, and report each step. If it ends badly, the reporter says so, and it exits.

    Raises:
        ConfigurationError: A value of ``notify`` cannot work.
    """
    check_named_files("--input", wanted.inputs)
    notified = Notified(notify)
    reporter = make_reporter(json_lines=json_lines, quiet=quiet)
    try:
        supervise(lambda record: _whole(wanted, record, reporter), reporter, notified)
    except _Asks as asks:
        if not click.confirm(f"{asks} Start it?", default=False, err=True):
            raise click.Abort from None
        drafted = asks.draft, asks.forecast
        again = make_reporter(json_lines=json_lines, quiet=quiet)
        supervise(lambda record: _whole(wanted, record, again, drafted), again, notified)


async def _whole(
    wanted: Wanted,
    record: Record,
    reporter: BatchReporter,
    drafted: tuple[Draft, BatchForecast] | None = None,
) -> Stopped | None:
    """All of it; ``None`` where nothing is driven here.

    Args:
        drafted: What its user has agreed to.
    """
    lock = None if wanted.lock_file is None else await lock_in(wanted.lock_file)
    chosen, configuration = chosen_target(wanted.on, reporter)
    target = open_target(chosen, configuration, choose=reporter.choose)
    reporter.connecting(target.name)
    client = Client(target, record=record, schemas=wanted.schemas, on_interrupt=None)
    async with client:
        if lock is not None:
            await hold_to(lock, str(wanted.lock_file), client, reporter)
        if drafted is None:
            if wanted.dry:
                await use_what_is_known(client, configuration.address_of(chosen), reporter)
            made = await _drafted(wanted, client, chosen)
            if lock is not None:
                prompt = cast("Prompt", made.frozen.prompt)
                await warn_of_others(lock, prompt, made.frozen.workflow, reporter)
            expected = await forecast(made, client, configuration)
            await _check(wanted, made, expected, client, reporter)
            if wanted.dry:
                reporter.note("Nothing was sent.")
                return None
            _agree(wanted, made, expected)
        else:
            made, expected = drafted
        entry = await make(made, client, on_file=reporter.reading)
        if wanted.wait:
            return await drive(
                entry, record, reporter, client=client, by_hand=False, expected=expected.seconds
            )
    await asyncio.to_thread(start_background, entry, record.path.parent)
    reporter.in_background(entry)
    return None


async def _drafted(wanted: Wanted, client: Client, chosen: str) -> Draft:
    config = os.environ.get(CONFIG_VARIABLE)
    return await draft(
        client,
        wanted.workflow,
        wanted.variation,
        target=chosen,
        changes=wanted.changes,
        inputs=wanted.inputs,
        options=wanted.options,
        config=Path(config) if config else None,
        source=typed_name(wanted.workflow),
    )


async def _check(
    wanted: Wanted,
    made: Draft,
    expected: BatchForecast,
    client: Client,
    reporter: BatchReporter,
) -> None:
    """Say what it would be, and what would be refused.

    Raises:
        WorkflowInvalid: Something would be.
    """
    plan, frozen = made.plan, made.frozen
    search = await asyncio.to_thread(FileSearch.beside, made.base, made.inputs)
    problems = await check_plan(plan, cast("Prompt", frozen.prompt), client, search=search)
    errors = [one for one in problems if one.problem.severity == "error"]
    target = client.target.name
    lines = [
        heading(plan.count, plan.axes, target, plan.combinations, plan.repeat),
        *axes_lines(plan.axes),
        expected.sentence(),
    ]
    if frozen.cache == "use":
        stored = await client.record.read(client.record.results.count_of, frozen.source)
        if stored:
            known = counted(stored, "result")
            lines.append(
                f"The cache has {known} of this workflow: runs that are the same cost nothing."
            )
    for note in made.notes:
        reporter.note(note)
    reporter.planned(
        Planned(
            lines,
            {
                "target": target,
                "source": frozen.source,
                "count": plan.count,
                "combinations": plan.combinations,
                "repeat": plan.repeat,
                "sample_seed": plan.sample_seed,
                "axes": [{"names": list(axis.names), "count": axis.count} for axis in plan.axes],
                "estimate": expected.to_json(),
                "problems": [one.to_json() for one in problems],
            },
            wanted.dry,
        )
    )
    cap = wanted.options.cap
    if cap is not None and expected.price is not None and expected.price > cap:
        costs = f"These runs may cost {dollars(expected.price)}"
        reporter.event(
            Log(f"{costs}, and the batch pauses at its cap of {dollars(cap)}.", "warning")
        )
    for one in problems[:_MOST_PROBLEMS]:
        reporter.event(Log(_sentence(one), one.problem.severity))
    if len(problems) > _MOST_PROBLEMS:
        reporter.note(f"… and {len(problems) - _MOST_PROBLEMS} more.")
    if errors:
        which = "all of these runs" if any(not one.name for one in errors) else "some of these runs"
        raise WorkflowInvalid(
            f"{target} would refuse {which}: {counted(len(errors), 'problem')}, see above. "
            "Nothing was sent.",
            details={"problems": [one.to_json() for one in errors]},
        )


def _sentence(one: ValueProblem) -> str:
    return f"{one.message} {for_terminal(one.problem.advice)}".rstrip()


def _agree(wanted: Wanted, made: Draft, expected: BatchForecast) -> None:
    """Have its user agree to a large batch.

    Raises:
        _Asks: They can be asked.
        ConfigurationError: Nobody can.
    """
    price = expected.price or 0.0
    why = [f"These are {made.plan.count:,} runs"] if made.plan.count > _MOST_RUNS else []
    if price > _MOST_DOLLARS:
        why.append(f"{'' if why else 'This is '}about {dollars(price)}")
    if wanted.agreed or not why:
        return
    said = f"{', for '.join(why)}."
    if can_ask():
        raise _Asks(made, expected, said)
    raise ConfigurationError(
        f"{said} Nobody can be asked whether that is meant.",
        advice="If it is, add --yes. --dry-run says what it would do, and sends nothing.",
    )
