"""``comfy-remote targets warm``."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import click

from ..options import complete_target, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...jobs.client import Client
    from ...schedule.money import Price

__all__ = ["moment", "warm"]


def moment(
    _context: click.Context | None,
    _option: click.Parameter | None,
    value: str | None,
    now: Callable[[], float] = time.time,
) -> float | None:
    """An option's callback: a moment that comes, in seconds since the epoch.

    Args:
        value: ``18:00``, tomorrow's if it has passed today; or a length of time from now.
    """
    from ...jobs.keep_warm import LONGEST
    from ..jobs.options import length_of_time

    if value is None:
        return None
    if (seconds := length_of_time(value)) is None:
        at = _local(now())
        try:
            clock = time.strptime(value, "%H:%M")
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is neither a time of day (18:00) nor a length of time (90m, 2h)."
            ) from None
        then = at.replace(hour=clock.tm_hour, minute=clock.tm_min, second=0, microsecond=0)
        seconds = (then + timedelta(days=then <= at)).timestamp() - now()
    if not 0 < seconds <= LONGEST:
        raise click.BadParameter(f"Give at most {LONGEST / 3600:.0f} hours.")
    return now() + seconds


@click.command()
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_target)
@click.option(
    "--until",
    metavar="WHEN",
    callback=moment,
    help="Keep a worker waiting until then: 18:00, or 90m, 2h from now.",
)
@click.option(
    "--over-cap", is_flag=True, help="Go over every cap on spending, this once (with --until)."
)
@json_option
def warm(name: str | None, until: float | None, over_cap: bool, json_lines: bool) -> None:
    """Start a worker ahead, so that the next run need not wait for one.

    NAME is a RunPod endpoint or an app on Modal; the default target, if none is named. With
    --until, a worker is kept waiting until then, as long as this command runs; it costs what a
    worker costs. For that, RunPod's idle timeout of the endpoint is made ten minutes, and put back
    at the end, at Ctrl-C, or, if this command is killed, by the next one.

    \b
    Examples:
      comfy-remote targets warm gpu
      comfy-remote targets warm gpu --until 18:00
    """
    from ...config.settings import Configuration
    from ...errors import ConfigurationError
    from ...jobs.client import Client
    from ...jobs.keep_warm import can_keep_warm
    from ...jobs.prices import known_price
    from ..interrupt import run_interruptible

    configuration = Configuration.load()
    target = configuration.choose(name)

    async def work() -> None:
        async with Client(target, on_interrupt=None) as client:
            if not can_keep_warm(client.target):
                raise ConfigurationError(
                    f"{target} has no workers that could be started ahead: RunPod's endpoints and "
                    "apps on Modal have."
                )
            price = await known_price(target, configuration)
            await _warm(client, target, until, price, over_cap=over_cap, json_lines=json_lines)

    import asyncio

    try:
        run_interruptible(work())
    except asyncio.CancelledError:
        raise click.exceptions.Exit(130) from None


async def _warm(
    client: Client,
    name: str,
    until: float | None,
    price: Price | None,
    *,
    over_cap: bool,
    json_lines: bool,
) -> None:
    from ...jobs.keep_warm import start_worker
    from ...jobs.kept_ready import keep_ready
    from ...units import dollars, seconds_text
    from ..console import print_json, say

    began = time.time()
    if until is not None and not json_lines:
        cost = (
            "It is billed like any time of a worker (price_per_hour is not set)."
            if price is None
            else f"About {dollars(price.of(until - began))}, at {dollars(price.per_hour)} an hour."
        )
        say(f"Keeping a worker of {name} until {_clock(until)}. {cost} Ctrl-C ends it.")

    def warmed() -> None:
        took = time.time() - began
        if json_lines:
            print_json({"event": "warm", "target": name, "seconds": round(took, 1), "until": until})
        else:
            say(f"A worker of {name} is ready, after {seconds_text(took)}.")

    if until is None:
        say(f"Starting a worker of {name} …")
        await start_worker(client.target)
        warmed()
        return
    await keep_ready(client, lambda: until, over_cap=over_cap, on_warm=warmed)
    if json_lines:
        print_json({"event": "ended", "target": name})
    else:
        say(f"{_clock(until)}: workers of {name} stop again when they are idle.")


def _clock(moment: float) -> str:
    return _local(moment).strftime("%H:%M")


def _local(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, timezone.utc).astimezone()
