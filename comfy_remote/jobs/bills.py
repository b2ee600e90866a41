"""What the ledger says that runs cost, beside what their providers have billed.

The ledger's amounts are estimates. A provider bills a target by the hour, never a job: with the
start of its workers, their waiting, its disks, and what others have run there.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..aio import concurrent_map, within
from ..config.target_settings import TargetSettings
from ..errors import ComfyRemoteError, ConfigurationError
from ..schedule.bill import Compared, Running, Usage, compared, hour_start
from ..targets.kinds import kind_of, kinds

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..targets.kinds import Kind
    from .record import Record

__all__ = ["Checked", "check_bills", "running_now"]

_PATIENCE = 60.0  # seconds, for one provider


@dataclass(frozen=True, slots=True)
class Checked:
    """One endpoint, app or pod: what was estimated, and what was billed.

    Attributes:
        names: What the ledger and the configuration call it.
        by_hour: Whether it costs money while it exists: then nothing was estimated.
        hours: Those in which something ran or was billed; empty if it could not be asked.
        why: Why it could not be asked, as a sentence.
    """

    names: tuple[str, ...]
    by_hour: bool
    hours: tuple[Compared, ...] = ()
    why: str = ""


@dataclass
class _Account:
    """What a provider knows by one name."""

    kind: Kind
    settings: TargetSettings
    by_hour: bool
    names: list[str] = field(default_factory=list)


async def check_bills(
    record: Record,
    configuration: Configuration,
    since: float,
    until: float,
    environment: Mapping[str, str] = os.environ,
    *,
    only: str | None = None,
) -> list[Checked]:
    """Ask the providers of all rented targets, those with jobs in the ledger and those configured.

    Args:
        since, until: Seconds since the epoch; whole hours are compared, from the one of ``since``
            to the last that has ended at ``until``.
        only: The name of the one target whose provider is asked.
    """
    since, until = hour_start(since), hour_start(until)
    usages: defaultdict[str, list[Usage]] = defaultdict(list)
    for usage in await record.read(record.ledger.usages, since, until):
        usages[usage.target].append(usage)
    accounts = _accounts([*configuration.targets, *usages], configuration, environment)
    if only is not None:
        accounts = [one for one in accounts if only in one.names]

    async def checked(account: _Account) -> Checked:
        names, own = tuple(account.names), [u for name in account.names for u in usages[name]]
        if until <= since:
            return Checked(names, account.by_hour)
        try:
            bills = await within(
                account.kind.billed(account.settings, environment, since, until), _PATIENCE
            )
        except asyncio.TimeoutError:
            return Checked(names, account.by_hour, why="Its provider did not answer in time.")
        except ComfyRemoteError as error:
            return Checked(names, account.by_hour, why=error.message)
        if bills is None:
            lacking = account.kind.lacking(account.settings, environment)
            why = f"{lacking[0]} is not set." if lacking else "Its provider cannot be asked."
            return Checked(names, account.by_hour, why=why)
        return Checked(names, account.by_hour, _in(compared(bills, own), since, until))

    return await concurrent_map(checked, accounts)


async def running_now(
    environment: Mapping[str, str] = os.environ,
) -> tuple[list[Running], list[str]]:
    """What costs money by the hour now, used or not; and why somebody could not be asked."""
    found: list[Running] = []
    problems: list[str] = []
    for kind in kinds():
        try:
            there = await within(kind.running(environment), _PATIENCE)
            found.extend(there or ())
        except asyncio.TimeoutError:
            problems.append(f"{kind.title}: its provider did not answer in time.")
        except ComfyRemoteError as error:
            problems.append(error.message)
    return found, problems


def _accounts(
    names: Iterable[str], configuration: Configuration, environment: Mapping[str, str]
) -> list[_Account]:
    """What costs money, by what its provider knows it by: two names may be one endpoint."""
    found: dict[str, _Account] = {}
    for name in dict.fromkeys(names):
        settings = configuration.targets.get(name) or TargetSettings(name)
        kind, billing = kind_of(settings.target), None
        with suppress(ConfigurationError):  # its address is wrong: nothing runs there
            billing = None if kind is None else kind.billing(settings, environment)
        if kind is None or billing is None:
            continue
        known_by = kind.priced_as(settings, environment) or settings.target
        account = found.setdefault(known_by, _Account(kind, settings, billing == "by hour"))
        account.names.append(name)
    return list(found.values())


def _in(hours: Sequence[Compared], since: float, until: float) -> tuple[Compared, ...]:
    return tuple(hour for hour in hours if since <= hour.start < until)
