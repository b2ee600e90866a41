"""When something is tried again, and how long the waits are."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from pydantic import JsonValue

from comfy_remote.errors import RateLimited
from comfy_remote.net.retry import (
    Backoff,
    Outage,
    Polling,
    Retries,
    TryAgain,
    retried,
    retries_said,
    retry_after,
)

QUICK = Backoff(attempts=3, first=0.0, longest=0.0, longest_asked=0.0, jitter=0.0)


def test_waits_grow_up_to_the_longest() -> None:
    backoff = Backoff(first=0.5, longest=3.0, jitter=0.0)
    assert [backoff.seconds(n) for n in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_server_may_ask_for_more_within_reason() -> None:
    backoff = Backoff(first=0.5, longest_asked=60.0)
    assert [backoff.seconds(1, asked) for asked in (0.0, 7.0, 9999.0)] == [0.5, 7.0, 60.0]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        (2.5, 2.5),
        ("-3", 0.0),
        ("inf", None),
        ("soon", None),
        (True, None),
        (None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("99 Foo 99999999 99:99", None),
    ],
)
def test_retry_after(said: float | str | None, seconds: float | None) -> None:
    assert retry_after(said) == seconds


def test_a_date_says_how_long_too() -> None:
    wait = retry_after(formatdate(time.time() + 90, usegmt=True))
    assert wait is not None and 80 < wait <= 91


async def test_the_last_error_is_raised_and_others_at_once() -> None:
    tries: list[int] = []

    async def attempt() -> None:
        tries.append(1)
        raise TryAgain("busy") if len(tries) < 4 else RateLimited("later")

    with pytest.raises(TryAgain, match="busy"):
        await retried(attempt, QUICK, TryAgain)
    assert len(tries) == 3
    with pytest.raises(RateLimited):
        await retried(attempt, QUICK, TryAgain)
    assert len(tries) == 4


async def test_progress_begins_the_count_again() -> None:
    retries = Retries(QUICK)
    for _ in range(5):
        await retries.wait_after(TryAgain("cut"))
        await retries.wait_after(TryAgain("cut"))
        retries.progressed()
    await retries.wait_after(TryAgain("cut"))
    await retries.wait_after(TryAgain("cut"))
    with pytest.raises(TryAgain):
        await retries.wait_after(TryAgain("cut"))


@pytest.mark.parametrize("said", [10**400, "never", -1, float("nan"), [], True])
async def test_what_a_server_put_into_an_error_s_details_breaks_no_wait(said: JsonValue) -> None:
    retries = Retries(Backoff(attempts=2, first=0.0, longest=0.0, jitter=0.0))
    began = time.monotonic()
    await retries.wait_after(RateLimited("Too many.", details={"retry_after": said}))
    assert time.monotonic() - began < 30


def test_an_outage_is_said_once_and_then_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("comfy_remote.net.retry.time.monotonic", lambda: now)
    outage = Outage(Polling(patience=60.0, backoff=Backoff(first=0.5, longest=2.0, jitter=0.0)))
    said = []
    for _ in range(200):
        wait = outage.failed(OSError())
        if wait is None:
            break
        if line := outage.said_of("The box could not be reached: refused.", wait):
            said.append(line)
        now += wait
    # 31 questions: at first each was a line.
    assert said == [
        "The box could not be reached: refused. Trying again in 0.5 s.",
        *(
            f"The box could not be reached: refused. That was try {tries} in {seconds} s. Trying "
            "for 60 s in all."
            for tries, seconds in ((10, 16), (18, 32), (26, 48))
        ),
    ]
    outage.answered()
    outage.failed(OSError())
    assert outage.said_of("The box could not be reached: refused.", 0.5).endswith("in 0.5 s.")
    # Another failure is another line, at once.
    assert outage.said_of("The box is failing (HTTP 502).", 0.5).startswith("The box is failing")


async def test_each_try_that_fails_is_said_to_who_asked_for_it() -> None:
    said: list[str] = []

    async def attempt() -> str:
        if len(said) < 2:
            raise RateLimited("The server is busy.")
        return "done"

    with retries_said(said.append):
        assert await retried(attempt, QUICK, RateLimited) == "done"
    assert said == [f"The server is busy. Try {n} of 3 in 0.0 s." for n in (2, 3)]
