"""What was billed beside what the ledger says: RunPod's REST API is played by a server of ours.

The shape is that of the example in RunPod's OpenAPI document ("Get serverless billing history").
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError
from comfy_remote.events import JobState
from comfy_remote.jobs.bills import check_bills
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.bill import HOUR, Billed, Compared, Usage, by_span, compared
from comfy_remote.schedule.money import Charge, Price
from comfy_remote.targets.kinds import kind_of
from comfy_remote.targets.modal_prices import billed_app

KEY = "planted-key-51d7e08b42"
PATH = "GET /v2/billing/serverless"
# 2026-06-01T10:00:00Z
TEN = datetime(2026, 6, 1, 10, tzinfo=timezone.utc).timestamp()


def bill(hour: int, amount: Any, endpoint: str = "4m7x2k9q", **more: Any) -> dict[str, Any]:
    return {
        "startTime": f"2026-06-01T{hour:02}:00:00Z",
        "endTime": f"2026-06-01T{hour + 1:02}:00:00Z",
        "serverlessId": endpoint,
        "totalAmount": amount,
        "gpuAmount": amount,
        "cpuAmount": 0,
        "diskAmount": 0.0,
        "feeAmount": 0.0,
        **more,
    }


def answer(*records: Any) -> Answer:
    return Answer({"records": list(records), "metadata": {"recordCount": len(records)}})


# --- the comparison -----------------------------------------------------------------------


def test_an_hour_is_what_ran_in_it_and_what_was_billed() -> None:
    hours = compared(
        [Billed(TEN, TEN + HOUR, 0.5), Billed(TEN + HOUR, TEN + 2 * HOUR, 0.0)],
        [
            Usage("gpu", TEN + 60, TEN + 120, 0.2),
            # From 11:45 to 12:15: half in each hour.
            Usage("gpu", TEN + 1.75 * HOUR, TEN + 2.25 * HOUR, 0.4),
            Usage("gpu", TEN + 2.1 * HOUR, TEN + 2.1 * HOUR, None),
        ],
    )
    assert hours == [
        Compared(TEN, 1, 0, 0.2, 0.5),
        Compared(TEN + HOUR, 1, 0, 0.2, 0.0),
        Compared(TEN + 2 * HOUR, 2, 1, 0.2, 0.0),
    ]
    assert hours[0].difference == pytest.approx(0.3)


_TIMES = st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 100))


@given(st.lists(_TIMES, max_size=5), st.lists(_TIMES, max_size=5))
def test_nothing_is_lost_between_hours(bills: list[Any], usages: list[Any]) -> None:
    hours = compared(
        [Billed(start, start + took, amount) for start, took, amount in bills],
        [Usage("x", start, start + took, amount) for start, took, amount in usages],
    )
    assert sum(hour.billed for hour in hours) == pytest.approx(sum(one[2] for one in bills))
    assert sum(hour.estimated for hour in hours) == pytest.approx(sum(one[2] for one in usages))
    assert [hour.start for hour in hours] == sorted({hour.start for hour in hours})
    days = by_span(hours, lambda moment: moment - moment % 86400)
    assert sum(day.billed for day in days) == pytest.approx(sum(one[2] for one in bills))
    assert sum(day.runs for day in days) == sum(hour.runs for hour in hours)


# --- the providers ------------------------------------------------------------------------


class Clock:
    """What the record takes for now."""

    now = TEN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(tmp_path: Path, clock: Clock) -> Iterator[Record]:
    with Record(tmp_path, now=clock) as made:
        yield made


def environment(server: ScriptedServer) -> dict[str, str]:
    return {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url}


async def test_runpod_is_asked_for_whole_hours_of_one_endpoint() -> None:
    kind = kind_of("runpod:x")
    assert kind is not None
    queries = []

    async def asked(request: Any) -> Any:
        queries.append(dict(request.query))
        return answer(bill(10, 0.9), bill(11, 0.1), bill(10, 7.0, "another")).response()

    async with ScriptedServer() as server:
        server.on(PATH, asked)
        settings = TargetSettings("runpod:4m7x2k9q")
        bills = await kind.billed(settings, environment(server), TEN, TEN + 2 * HOUR)
        assert bills == [
            Billed(TEN, TEN + HOUR, 0.9),
            Billed(TEN + HOUR, TEN + 2 * HOUR, 0.1),
        ]
        assert await kind.billed(settings, {}, TEN, TEN + HOUR) is None, "no key"
        own = TargetSettings("runpod:4m7x2k9q", base_url="https://box.local/v2")
        assert await kind.billed(own, environment(server), TEN, TEN + HOUR) is None
    assert queries == [
        {
            "serverlessId": "4m7x2k9q",
            "startTime": "2026-06-01T10:00:00Z",
            "endTime": "2026-06-01T12:00:00Z",
            "bucketSize": "hour",
        }
    ]


async def test_a_pods_bill() -> None:
    kind = kind_of("pod:x")
    assert kind is not None
    async with ScriptedServer() as server:
        own = {**bill(10, 0.44), "podId": "7h9k2m4n6pxx"}
        del own["serverlessId"]
        server.on("GET /v2/billing/pods", answer(own, {**own, "podId": "another"}))
        settings = TargetSettings("pod:7h9k2m4n6pxx")
        bills = await kind.billed(settings, environment(server), TEN, TEN + HOUR)
        assert bills == [Billed(TEN, TEN + HOUR, 0.44)]


def test_modals_sdk_tells_what_an_app_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    modal = pytest.importorskip("modal")
    asked: dict[str, Any] = {}

    def report(**words: Any) -> list[Any]:
        asked.update(words)
        began = datetime(2026, 6, 1, 10, tzinfo=timezone.utc)
        return [
            SimpleNamespace(description="portraits", interval_start=began, cost=Decimal("0.25")),
            SimpleNamespace(description="another", interval_start=began, cost=Decimal("9")),
        ]

    workspace = SimpleNamespace(billing=SimpleNamespace(report=report))
    monkeypatch.setattr(modal.Workspace, "from_context", lambda: workspace)
    assert billed_app("portraits", TEN, TEN + HOUR) == [Billed(TEN, TEN + HOUR, 0.25)]
    assert (asked["resolution"], asked["start"].isoformat()) == ("h", "2026-06-01T10:00:00+00:00")

    def not_logged_in() -> None:
        raise modal.exception.AuthError("no token")

    monkeypatch.setattr(modal.Workspace, "from_context", not_logged_in)
    with pytest.raises(ConfigurationError, match="not logged in"):
        billed_app("portraits", TEN, TEN + HOUR)


# --- with the ledger ----------------------------------------------------------------------


def ran(record: Record, clock: Clock, target: str, began: float, amount: float) -> None:
    """A job that was sent, ran from then on for a minute, and cost so much by its price."""
    job_id = f"job-{len(record.newest(1000))}"
    clock.now = began - 100
    record.add(
        job_id,
        target=target,
        source="w.json",
        folder=None,
        prompt={"1": {"class_type": "A", "inputs": {}}},
        charge=Charge(target, Price(amount * 60, "RunPod"), 60.0),
    )
    record.state(job_id, JobState.RUNNING, at=began)
    record.state(job_id, JobState.SUCCEEDED, run_seconds=60.0, billed=60.0)


async def test_two_names_of_one_endpoint_are_one_bill(record: Record, clock: Clock) -> None:
    configuration = Configuration(
        None,
        {
            "gpu": TargetSettings("runpod:4m7x2k9q"),
            "same": TargetSettings("runpod:4m7x2k9q", price_per_hour=2.0),
            "lan": TargetSettings("http://192.168.1.20:8188"),
            "unused": TargetSettings("runpod:unused"),
        },
    )
    ran(record, clock, "gpu", TEN + 600, 0.1)
    # It was sent before ten, and ran after: it belongs to the hour in which it ran.
    ran(record, clock, "same", TEN + 20, 0.3)
    ran(record, clock, "lan", TEN + 20, 0.3)
    async with ScriptedServer() as server:
        server.on(PATH, answer(bill(10, 0.55)))
        gpu, unused = await check_bills(
            record, configuration, TEN + 30, TEN + 2.5 * HOUR, environment(server)
        )
    assert gpu.names == ("gpu", "same")
    assert gpu.hours == (Compared(TEN, 2, 0, pytest.approx(0.4), 0.55),)
    assert (unused.names, unused.hours, unused.why) == (("unused",), (), "")


async def test_who_cannot_be_asked_is_said(record: Record) -> None:
    configuration = Configuration(None, {"gpu": TargetSettings("runpod:4m7x2k9q")})
    async with ScriptedServer() as server:
        keys = environment(server)
        [found] = await check_bills(record, configuration, TEN, TEN + HOUR, {})
        assert found.why == "RUNPOD_API_KEY is not set."
        for wrong, says in (
            (Answer({"detail": KEY}, 403), "refused the key"),
            (Answer(b"<html>"), "web page"),
            (answer(bill(10, -1)), "not understood"),
            (answer(bill(10, "0.5")), "not understood"),
            (answer({**bill(10, 1), "startTime": "yesterday"}), "not understood"),
            (Answer(b'{"records": "' + b"x" * 10 * 2**20 + b'"}'), "larger than 8 MiB"),
        ):
            server.on(PATH, wrong)
            [found] = await check_bills(record, configuration, TEN, TEN + HOUR, keys)
            assert says in found.why, found.why
            assert KEY not in found.why
            assert found.hours == ()
