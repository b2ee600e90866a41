"""A front is opened once, by whoever asks first, and again if that failed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fake_target import FakeTarget
from helpers import settled

from comfy_remote.api.front import ApiFront, front_name
from comfy_remote.errors import ConfigurationError, TargetUnreachable
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record


class Slow(FakeTarget):
    """A target that opens when it is let, and not the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.opened = self.closed = 0
        self.fails = False

    async def __aenter__(self) -> Slow:
        self.opened += 1
        await self.let.wait()
        if self.fails:
            raise TargetUnreachable("Nobody is there.")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.closed += 1


async def test_who_asks_first_may_hang_up(tmp_path: Path) -> None:
    target = Slow()
    with Record(tmp_path / "home") as record:
        client = Client(target, record=record, on_interrupt=None)
        front = ApiFront(client, "desk", tmp_path / "desk")
        assert not front.used_before
        first, second = asyncio.ensure_future(front.open()), asyncio.ensure_future(front.open())
        await settled()
        first.cancel()
        target.let.set()
        await second
        await front.open()
        assert target.opened == 1
        await front.close()
        assert target.closed == 1
        assert ApiFront(client, "desk", tmp_path / "desk").used_before


async def test_what_could_not_be_opened_is_opened_by_the_next(tmp_path: Path) -> None:
    target = Slow()
    target.fails = True
    target.let.set()
    with Record(tmp_path / "home") as record:
        client = Client(target, record=record, on_interrupt=None)
        front = ApiFront(client, "desk", tmp_path / "desk")
        with pytest.raises(TargetUnreachable):
            await front.open()
        target.fails = False
        await front.open()
        assert target.opened == 2
        await front.close()
    await front.close()  # nothing is open


async def test_what_was_never_opened_is_not_closed(tmp_path: Path) -> None:
    target = Slow()
    with Record(tmp_path / "home") as record:
        client = Client(target, record=record, on_interrupt=None)
        await ApiFront(client, "desk", tmp_path / "desk").close()
    assert not (tmp_path / "desk").exists()
    assert (target.opened, target.closed) == (0, 0)


@pytest.mark.parametrize(
    ("target", "given", "name"),
    [
        ("runpod:abc123", None, "runpod-abc123"),
        ("http://192.168.1.20:8188", None, "http-192.168.1.20-8188"),
        ("desk", None, "desk"),
        ("désk", None, "d-sk"),
        ("desk", "shop.2", "shop.2"),
    ],
)
def test_a_front_is_named_after_its_target(target: str, given: str | None, name: str) -> None:
    assert front_name(target, given) == name


@pytest.mark.parametrize("given", ["../desk", "a b", ".hidden", "x" * 65, "C:desk", "-x"])
def test_a_name_that_is_no_folders_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a front"):
        front_name("desk", given)
