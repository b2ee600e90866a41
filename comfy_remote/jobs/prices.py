"""What an hour costs on a target: what the user has set, else what its provider says.

A provider's answer is stored, with its date, and used for a day. After that it is still used, and
asked for again beside the run; a month later it counts as unknown. What a provider did not say is
not asked for again at once, so no run waits for it twice.

Nothing here guesses: a price that nobody has set or said is unknown, with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..aio import in_thread, within
from ..clean import one_line
from ..config.folders import home
from ..config.target_settings import TargetSettings
from ..errors import AuthenticationError, ComfyRemoteError, ConfigurationError
from ..media.file_changes import discard
from ..media.files import write_whole
from ..schedule.money import Price
from ..targets.kinds import kind_of
from ..types import JsonValue

if TYPE_CHECKING:
    from ..aio import Background
    from ..config.settings import Configuration
    from ..targets.kinds import Kind

__all__ = [
    "PRICE_TIMES",
    "PriceTimes",
    "Quote",
    "asked_price",
    "hour_to_json",
    "hour_words",
    "known_price",
    "remembered_price",
]

_UNSET = "no price_per_hour is set for it"
_LARGEST = 16 * 1024  # bytes of a file
_MOST_FILES = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PriceTimes:
    """For how long prices are used, and providers waited for; all in seconds.

    Attributes:
        fresh: Before a provider is asked again.
        usable: Before a price that could not be renewed is unknown.
        again: After a question that brought no price, before it is repeated.
        patience: Of a run whose price nobody has asked for yet.
        thorough: Of a run that cannot go on without, and of a command that is about prices.
    """

    fresh: float = 24 * 3600.0
    usable: float = 30 * 24 * 3600.0
    again: float = 600.0
    patience: float = 3.0
    thorough: float = 20.0


PRICE_TIMES = PriceTimes()


class Quote(NamedTuple):
    """A price; where it is not known, why, as a part of a sentence for people."""

    price: Price | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A file: what was said last, and when it was asked.

    Attributes:
        of: SHA-256 of `Kind.priced_as`.
        price: The last that was said; ``None`` if none was.
        said: When that was.
        tried: When it was asked last, in seconds since the epoch.
        asking: Whether that question may still be under way.
        why: Why the one before brought no price; empty if it did.
    """

    of: str
    tried: float
    price: Price | None = None
    said: float = 0.0
    asking: bool = False
    why: str = ""

    @classmethod
    def parsed(cls, content: bytes) -> _Stored:
        """From a file.

        Raises:
            ValueError: It is not one that `content` has made.
        """
        try:
            fields: dict[str, Any] = json.loads(content)
            price = fields.pop("price")
            stored = cls(**fields, price=None if price is None else Price(**price))
            amounts = [stored.tried, stored.said]
            if stored.price is not None:
                known = stored.price
                amounts += [known.per_hour, known.standing, known.at or 0.0, known.lowest or 0.0]
            if not all(math.isfinite(one) and one >= 0 for one in amounts):
                raise ValueError("an amount cannot be")
        except (TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError("it is damaged") from error
        return stored

    def content(self) -> bytes:
        """For a file."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class _Priced:
    """A target, and where its price is stored.

    Attributes:
        of: SHA-256 of `Kind.priced_as`; ``None`` where no provider is asked.
    """

    name: str
    settings: TargetSettings
    environment: Mapping[str, str]
    kind: Kind | None
    of: str | None
    times: PriceTimes
    now: float

    @classmethod
    def named(
        cls,
        name: str,
        configuration: Configuration,
        environment: Mapping[str, str],
        times: PriceTimes,
        now: float | None,
    ) -> _Priced:
        settings = configuration.targets.get(name) or TargetSettings(name)
        kind = kind_of(settings.target)
        of = None
        if kind is not None and settings.price_per_hour is None:
            with suppress(ConfigurationError):  # the address is wrong: opening it says so
                of = kind.priced_as(settings, environment)
            of = of and hashlib.sha256(of.encode()).hexdigest()
        now = time.time() if now is None else now
        return cls(name, settings, environment, kind, of, times, now)

    @property
    def set_price(self) -> Price | None:
        """What the user has set."""
        set_price = self.settings.price_per_hour
        return None if set_price is None else Price(set_price, "your settings")

    @property
    def _path(self) -> Path:
        return _folder(self.environment) / f"{(self.of or '')[:32]}.json"

    def read(self) -> _Stored | None:
        """What is stored; ``None`` if nothing is, or nothing that can be used. Blocking."""
        if self.of is None:
            return None
        try:
            with self._path.open("rb") as file:
                stored = _Stored.parsed(file.read(_LARGEST))
        except (OSError, ValueError):
            return None
        return stored if stored.of == self.of else None

    def write(self, stored: _Stored) -> None:
        """Store it, and remove what nobody has asked for in months. Blocking."""
        folder = _folder(self.environment)
        try:
            write_whole(self._path, stored.content())
            _tidy(folder, self.now - 2 * self.times.usable)
        except OSError as error:
            _log.warning("The price of %s could not be stored: %s", self.name, error)

    def quote(self, stored: _Stored | None) -> Quote:
        """What is known by what is stored."""
        if self.set_price is not None:
            return Quote(self.set_price)
        if self.of is None:
            why = "" if self.kind is None else self.kind.no_price
            billed = why and self.kind and self.kind.billing(self.settings, self.environment)
            return Quote(None, f"{_UNSET}, and {why}" if billed else _UNSET)
        if stored is None:
            return Quote(None, f"{_UNSET}, and its provider has not been asked")
        price = stored.price
        if price is not None and 0 <= self.now - stored.said < self.times.usable:
            return Quote(price)
        return Quote(None, stored.why or _UNSET)

    def is_due(self, stored: _Stored | None) -> bool:
        """Whether the provider is to be asked (again)."""
        if self.of is None:
            return False
        if stored is None:
            return True
        said = stored.price is not None and not stored.why and not stored.asking
        return not 0 <= self.now - stored.tried < (self.times.fresh if said else self.times.again)

    async def ask(self, stored: _Stored | None, patience: float) -> Quote:
        """Ask the provider, store what it says, and return what is known then."""
        assert self.kind is not None and self.of is not None  # noqa: S101 - see `is_due`
        price, why = None, f"{_UNSET}, and its provider does not say what it costs"
        level = logging.INFO
        if lacking := await in_thread(self.kind.lacking, self.settings, self.environment):
            why = f"{_UNSET}, and {lacking[0]}, by which its provider is asked, is not set"
        try:
            price = await within(self.kind.price(self.settings, self.environment), patience)
        except asyncio.TimeoutError:
            why = f"{_UNSET}, and its provider did not answer within {patience:g} s"
        except ComfyRemoteError as error:
            why = f"{_UNSET}, and its provider could not be asked: {one_line(error.message)}"
            if isinstance(error, AuthenticationError):
                level = logging.WARNING
        if price is not None:
            price = replace(price, at=self.now if price.at is None else price.at)
            stored = _Stored(self.of, self.now, price, self.now)
        else:
            before = stored or _Stored(self.of, self.now)
            if before.why == why:
                level = logging.INFO  # it was said
            _log.log(level, "What %s costs now is not known: %s.", self.name, why.rstrip("."))
            stored = replace(before, tried=self.now, asking=False, why=why)
        await in_thread(self.write, stored)
        return self.quote(stored)


async def known_price(
    name: str,
    configuration: Configuration,
    environment: Mapping[str, str] = os.environ,
    *,
    needed: bool = False,
    background: Background | None = None,
    times: PriceTimes = PRICE_TIMES,
    now: float | None = None,
) -> Price | None:
    """What an hour costs on a target; ``None`` where it is not known, or where it is owned.

    Its provider is waited for once, `PriceTimes.patience` at the most, if it was never asked.

    Args:
        name: Its name, or its address.
        needed: Whether nothing can go on without the price: then a provider that did not say it
            the last time is asked again, and waited for.
        background: Where an old price is renewed. Without it, it stays until a `needed` one.
        now: Seconds since the epoch.
    """
    priced = _Priced.named(name, configuration, environment, times, now)
    if priced.set_price is not None or priced.of is None:
        return priced.set_price
    stored = await in_thread(priced.read)
    known = priced.quote(stored).price
    if stored is None or (known is None and needed):
        patience = times.thorough if needed else times.patience
        return (await priced.ask(stored, patience)).price
    if background is not None and priced.is_due(stored):
        asking = replace(stored, tried=priced.now, asking=True)
        await in_thread(priced.write, asking)  # so that no other run asks as well
        background.start(priced.ask(asking, times.thorough))
    return known


def remembered_price(
    name: str,
    configuration: Configuration,
    environment: Mapping[str, str] = os.environ,
    *,
    times: PriceTimes = PRICE_TIMES,
    now: float | None = None,
) -> Quote:
    """What is known of a target's price. Nobody is asked: one small file is read."""
    priced = _Priced.named(name, configuration, environment, times, now)
    return priced.quote(priced.read())


async def asked_price(
    name: str,
    configuration: Configuration,
    environment: Mapping[str, str] = os.environ,
    *,
    times: PriceTimes = PRICE_TIMES,
    now: float | None = None,
) -> Quote:
    """What a target's provider says now, for commands that are about it."""
    priced = _Priced.named(name, configuration, environment, times, now)
    if priced.set_price is not None or priced.of is None:
        return priced.quote(None)
    return await priced.ask(await in_thread(priced.read), times.thorough)


def hour_to_json(price: Price | None) -> dict[str, JsonValue]:
    """What an hour costs, as our answers say it: the number, who says so, and when it was said."""
    return {
        "price_per_hour": None if price is None else price.per_hour,
        "price_source": None if price is None else price.source,
        "price_at": None if price is None else price.at,
    }


def hour_words(price: Price) -> str:
    """For people: ``$0.68 to $1.10 an hour (RunPod's list of prices, 2026-11-30)``."""
    when = "" if price.at is None else f", {datetime.fromtimestamp(price.at).astimezone():%Y-%m-%d}"
    return f"{price.words(3600.0)} an hour ({price.source}{when})"


def _folder(environment: Mapping[str, str]) -> Path:
    return home(environment) / "prices"


def _tidy(folder: Path, before: float) -> None:
    """Remove what is older than that, and what is above the largest number of files."""
    found = []
    for path in folder.glob("*.json"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    found.sort(reverse=True)
    for number, (written, path) in enumerate(found):
        if written < before or number >= _MOST_FILES:
            discard(path, seconds=0)
