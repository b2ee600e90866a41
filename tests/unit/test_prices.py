"""Prices: what the user has set, what a provider says, and how long that is used."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from comfy_remote.aio import Background
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import AuthenticationError, TargetError
from comfy_remote.jobs import prices
from comfy_remote.jobs.prices import PriceTimes, asked_price, known_price, remembered_price
from comfy_remote.schedule.money import Price
from comfy_remote.targets.kinds import Kind, kind_of

DAY = 24 * 3600.0
NOW = 1_800_000_000.0


@dataclass
class Provider:
    """A kind's provider: what it answers, and how often it was asked."""

    answer: Price | Exception | None = None
    asked: list[str] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()


class PricedKind(Kind):
    """``priced:NAME``."""

    name = "priced"
    title = "a target with a price"
    forms: ClassVar[tuple[str, ...]] = ("priced:NAME",)

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def priced_as(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        return settings.target

    async def price(self, settings: TargetSettings, environment: Mapping[str, str]) -> Price | None:
        self._provider.asked.append(settings.target)
        await self._provider.free.wait()
        if isinstance(self._provider.answer, Exception):
            raise self._provider.answer
        return self._provider.answer


@dataclass
class Desk:
    """Who asks for prices."""

    provider: Provider
    environment: dict[str, str]
    configuration: Configuration = field(
        default_factory=lambda: Configuration(
            None,
            {
                "gpu": TargetSettings("priced:gpu"),
                "other": TargetSettings("priced:other"),
                "set": TargetSettings("priced:gpu", price_per_hour=0.5),
            },
        )
    )

    async def known(
        self,
        name: str = "gpu",
        *,
        needed: bool = False,
        background: Background | None = None,
        now: float = NOW,
    ) -> Price | None:
        times = PriceTimes(patience=0.05)
        return await known_price(
            name,
            self.configuration,
            self.environment,
            needed=needed,
            background=background,
            times=times,
            now=now,
        )

    def remembered(self, name: str = "gpu", now: float = NOW) -> prices.Quote:
        return remembered_price(name, self.configuration, self.environment, now=now)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    provider = Provider()
    kind = PricedKind(provider)
    monkeypatch.setattr(prices, "kind_of", lambda address: kind if ":" in address else None)
    return Desk(provider, {"COMFY_REMOTE_HOME": str(tmp_path)})


async def test_a_price_is_asked_for_once_a_day_and_dated(desk: Desk) -> None:
    desk.provider.answer = Price(1.1, "RunPod", lowest=0.7, standing=2.2)

    first = await desk.known()
    assert first == Price(1.1, "RunPod", NOW, 0.7, 2.2)
    assert await desk.known(now=NOW + DAY - 1) == first
    assert desk.remembered(now=NOW + DAY - 1).price == first
    assert desk.provider.asked == ["priced:gpu"]


async def test_an_old_price_is_used_and_renewed_beside(desk: Desk) -> None:
    desk.provider.answer = Price(1.1, "RunPod")
    await desk.known()
    desk.provider.answer = Price(1.3, "RunPod")
    desk.provider.free.clear()
    background, later = Background(), NOW + DAY + 1

    # The provider does not answer, and no run waits for it; nor does a second one ask.
    for _ in range(2):
        old = await desk.known(background=background, now=later)
        assert old == Price(1.1, "RunPod", NOW)
    assert len(background) == 1

    desk.provider.free.set()
    await background.wait(180)
    assert await desk.known(now=later) == Price(1.3, "RunPod", later)
    assert desk.provider.asked == ["priced:gpu"] * 2


async def test_a_price_that_could_not_be_renewed_is_unknown_after_a_month(desk: Desk) -> None:
    desk.provider.answer = Price(1.1, "RunPod")
    await desk.known()
    desk.provider.answer = TargetError("RunPod is down.")

    background = Background()
    assert await desk.known(background=background, now=NOW + 2 * DAY) == Price(1.1, "RunPod", NOW)
    await background.wait(180)
    assert desk.remembered(now=NOW + 29 * DAY).price == Price(1.1, "RunPod", NOW)
    price, why = desk.remembered(now=NOW + 31 * DAY)
    assert price is None
    assert "RunPod is down" in why
    # A clock that was put back proves nothing.
    assert desk.remembered(now=NOW - 1).price is None


async def test_what_the_user_has_set_counts_and_nobody_is_asked(desk: Desk) -> None:
    desk.provider.answer = Price(9.0, "RunPod")
    assert await desk.known("set", needed=True) == Price(0.5, "your settings")
    assert desk.remembered("set").price == Price(0.5, "your settings")
    assert desk.provider.asked == []


async def test_two_targets_never_share_a_price(desk: Desk) -> None:
    desk.provider.answer = Price(1.0, "RunPod")
    await desk.known("gpu")
    assert desk.remembered("other").price is None
    desk.provider.answer = Price(2.0, "RunPod")
    await desk.known("other")
    assert desk.remembered("gpu").price == Price(1.0, "RunPod", NOW)
    # An address is the same target as its name.
    assert desk.remembered("priced:gpu").price == Price(1.0, "RunPod", NOW)


async def test_a_silent_provider_is_waited_for_once(desk: Desk) -> None:
    desk.provider.answer = Price(1.0, "RunPod")
    desk.provider.free.clear()
    assert await desk.known() is None
    assert "did not answer" in desk.remembered().why

    assert await desk.known(now=NOW + 1) is None
    assert len(desk.provider.asked) == 1
    # Where a cap needs the price, it is asked again, and what is known then is known to all.
    desk.provider.free.set()
    assert await desk.known(needed=True, now=NOW + 2) == Price(1.0, "RunPod", NOW + 2)
    assert await desk.known(now=NOW + 3) == Price(1.0, "RunPod", NOW + 2)


async def test_a_refused_key_is_said_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.provider.answer = AuthenticationError("RunPod refused the key.")
    caplog.set_level(logging.WARNING)
    background = Background()
    for hour in range(3):
        assert await desk.known(background=background, now=NOW + hour * 3600) is None
        await background.wait(180)
    assert len(desk.provider.asked) == 3
    assert caplog.text.count("RunPod refused the key") == 1
    assert "RunPod refused the key" in desk.remembered().why


async def test_a_wrong_address_has_no_price(desk: Desk) -> None:
    wrong = Configuration(None, {"bad": TargetSettings("runpod:x", base_url="http://[")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prices, "kind_of", kind_of)
        assert await known_price("bad", wrong, desk.environment) is None
        assert remembered_price("bad", wrong, desk.environment).price is None


async def test_a_provider_that_does_not_say_it(desk: Desk) -> None:
    assert await desk.known() is None
    assert "does not say" in desk.remembered().why
    quote = await asked_price("gpu", desk.configuration, desk.environment, now=NOW)
    assert quote == desk.remembered()
    desk.provider.answer = Price(0.8, "RunPod")
    quote = await asked_price("gpu", desk.configuration, desk.environment, now=NOW)
    assert quote.price == Price(0.8, "RunPod", NOW)


async def test_a_target_without_a_provider(desk: Desk) -> None:
    assert await desk.known("nothing") is None
    assert "price_per_hour" in desk.remembered("nothing").why


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b"{", b""),
        (b'"price": {', b'"price": {"more": 1, '),
        (b'"per_hour": 1.0', b'"per_hour": -1.0'),
        (b'"per_hour": 1.0', b'"per_hour": NaN'),
        (b'"per_hour": 1.0', b'"per_hour": "1.0"'),
        (b'"per_hour": 1.0', b'"per_hour": null'),
        (b'"lowest": null', b'"lowest": Infinity'),
        (b'"tried": ', b'"tried": -'),
        (b'"why": ""', b'"why": "' + b"x" * 100_000 + b'"'),
    ],
)
async def test_a_damaged_file_is_no_price(desk: Desk, was: bytes, now: bytes) -> None:
    desk.provider.answer = Price(1.0, "RunPod")
    await desk.known()
    (stored,) = (Path(desk.environment["COMFY_REMOTE_HOME"]) / "prices").iterdir()
    content = stored.read_bytes()
    assert was in content
    stored.write_bytes(content.replace(was, now, 1))
    assert desk.remembered().price is None
    assert await desk.known() == Price(1.0, "RunPod", NOW)


async def test_prices_that_nobody_asks_for_are_removed(desk: Desk) -> None:
    desk.provider.answer = Price(1.0, "RunPod")
    folder = Path(desk.environment["COMFY_REMOTE_HOME"]) / "prices"
    await desk.known("other")
    (old,) = folder.iterdir()
    now = time.time()
    os.utime(old, (now - 61 * DAY, now - 61 * DAY))
    await desk.known("gpu", now=now)
    assert old not in folder.iterdir()
    assert desk.remembered("gpu", now=now).price is not None
