"""The ledger: reserved before a job is sent, settled once, never over a cap by anybody together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_remote.errors import ExecutionFailed, JobCancelled, SpendingCap
from comfy_remote.events import DidItRun, JobState
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.record.ledger import Booked, LedgerRetention, Spent
from comfy_remote.schedule.caps import Cap
from comfy_remote.schedule.days import day_start, month_start
from comfy_remote.schedule.money import Charge, Price
from comfy_remote.targets.route.journal import Step, StepState

HERE = timezone(timedelta(hours=1))
needs_zones = pytest.mark.skipif(
    "Europe/Berlin" not in available_timezones(), reason="no time zones on this machine"
)
DOLLAR = Price(3600.0, "your settings")  # a second costs a dollar


class Clock:
    """Seconds since the epoch, as a test sets them."""

    def __init__(self, text: str, zone: tzinfo = HERE) -> None:
        self.zone = zone
        self.at(text)

    def __call__(self) -> float:
        return self.now

    def at(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=self.zone).timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-11-30 12:00")


@pytest.fixture
def record(tmp_path: Path, clock: Clock) -> Iterator[Record]:
    with Record(tmp_path / "home", now=clock, zone=HERE) as made:
        yield made


def charge(seconds: float, target: str = "gpu", price: Price | None = DOLLAR) -> Charge:
    return Charge(target, price, seconds, expected=seconds / 2, why="by a test")


def add(record: Record, one: Charge, *caps: Cap, batch: str | None = None) -> str:
    job_id = str(uuid.uuid4())
    record.add(
        *(job_id,),
        target=one.target,
        source="a.json",
        folder=None,
        prompt={},
        charge=one,
        caps=caps,
        batch=batch,
    )
    return job_id


def refused(grade: DidItRun) -> ExecutionFailed:
    error = ExecutionFailed("It failed.")
    grade.noted_in(error)
    return error


def spent_in_all(record: Record) -> float:
    return sum(one.amount for one in record.ledger.spent(0.0))


def test_a_job_is_reserved_and_settled_by_what_it_ran(record: Record) -> None:
    job = add(record, charge(10))
    booking = record.ledger.of(job)
    assert booking is not None
    assert (booking.booked, booking.amount, booking.estimated) == (Booked.HELD, 10.0, 5.0)
    assert (booking.price, booking.why, booking.seconds) == (DOLLAR, "by a test", None)
    record.state(job, JobState.RUNNING)
    record.state(job, JobState.SUCCEEDED, billed=4.0)
    settled = record.ledger.of(job)
    assert settled is not None
    assert (settled.booked, settled.amount, settled.seconds) == (Booked.SETTLED, 4.0, 4.0)
    assert settled.reserved == 10.0
    [spent] = record.ledger.spent(0.0)
    assert spent == Spent("", 1, 4.0, 0.0, 0.0, 5.0, 4.0, 4.0, 0)


def test_a_job_without_a_charge_costs_nothing(record: Record) -> None:
    record.add("job-1", target="lan", source="a.json", folder=None, prompt={})
    record.state("job-1", JobState.SUCCEEDED, billed=4.0)
    assert record.ledger.of("job-1") is None
    assert record.ledger.spent(0.0) == []


@pytest.mark.parametrize("grade", [DidItRun.NEVER_ACCEPTED, DidItRun.WITHDRAWN])
def test_what_certainly_did_not_run_is_released(record: Record, grade: DidItRun) -> None:
    job = add(record, charge(10))
    record.state(job, JobState.FAILED, refused(grade), billed=7.0)
    booking = record.ledger.of(job)
    assert booking is not None
    assert (booking.booked, booking.amount, booking.reserved) == (Booked.RELEASED, 0.0, 10.0)
    assert record.ledger.spent(0.0) == []
    add(record, charge(10), Cap(10.0, "day"))


def test_what_may_have_run_is_held_for_a_day_and_then_uncertain(
    record: Record, clock: Clock
) -> None:
    job = add(record, charge(10))
    record.state(job, JobState.FAILED, refused(DidItRun.UNKNOWN))
    for hours, booked in ((0, Booked.HELD), (23, Booked.HELD), (25, Booked.UNCERTAIN)):
        clock.now += hours * 3600 - (0 if hours < 25 else 23 * 3600)
        booking = record.ledger.of(job)
        assert booking is not None
        assert (booking.booked, booking.amount) == (booked, 10.0)
    [spent] = record.ledger.spent(0.0)
    assert (spent.amount, spent.reserved, spent.uncertain) == (10.0, 0.0, 10.0)
    record.state(job, JobState.SUCCEEDED, billed=3.0)  # it was found after all
    booking = record.ledger.of(job)
    assert booking is not None
    assert (booking.booked, booking.amount) == (Booked.SETTLED, 3.0)


def test_how_long_a_stopped_job_ran_may_not_be_known(record: Record) -> None:
    job = add(record, charge(10))
    record.state(job, JobState.CANCELLED, JobCancelled("Stopped."))
    booking = record.ledger.of(job)
    assert booking is not None
    assert (booking.booked, booking.amount) == (Booked.UNCERTAIN, 10.0)


def test_an_end_that_is_reported_twice_is_settled_once(record: Record) -> None:
    job = add(record, charge(10))
    for _ in range(2):
        record.state(job, JobState.SUCCEEDED, billed=4.0)
        record.state(job, JobState.SUCCEEDED)  # by somebody who does not know how long it ran
    record.state(job, JobState.EXPIRED, refused(DidItRun.WITHDRAWN))  # forgotten by its target
    assert spent_in_all(record) == 4.0


def test_a_job_that_is_sent_under_its_id_again_is_reserved_again(record: Record) -> None:
    job = add(record, charge(10))
    record.state(job, JobState.FAILED, refused(DidItRun.NEVER_ACCEPTED))
    record.remove([job])
    record.add(
        job, target="gpu", source="a.json", folder=None, prompt={}, charge=charge(6), caps=()
    )
    assert spent_in_all(record) == 6.0
    record.state(job, JobState.SUCCEEDED, billed=2.0)
    assert spent_in_all(record) == 2.0


# Caps


def test_a_cap_on_each_job(record: Record) -> None:
    cap = Cap(10.0, "job", where="cap_per_job in comfy-remote.toml")
    for _ in range(3):
        add(record, charge(10), cap)
    with pytest.raises(SpendingCap) as caught:
        add(record, charge(10.001), cap)
    assert caught.value.code == "spending_cap"
    assert caught.value.message == (
        "This run may cost $10.01 on gpu (by a test), which is over the cap of $10.00 a run."
    )
    assert "Raise cap_per_job in comfy-remote.toml" in caught.value.advice
    assert len(record.newest()) == 3  # what is refused is not recorded


def test_a_cap_on_a_day_counts_what_is_reserved_and_what_was_spent(
    record: Record, clock: Clock
) -> None:
    cap = Cap(10.0, "day")
    first = add(record, charge(6), cap)
    with pytest.raises(SpendingCap) as caught:
        add(record, charge(5), cap)
    assert caught.value.message == (
        "This run may cost $5.00 on gpu (by a test). With $6.00 spent or reserved today, that "
        "is over the cap of $10.00 a day."
    )
    assert caught.value.details == {
        "target": "gpu",
        "cap": 10.0,
        "span": "day",
        "spent": 6.0,
        "reserved": 5.0,
        "did_it_run": "never_accepted",
    }
    record.state(first, JobState.SUCCEEDED, billed=1.0)
    add(record, charge(9), cap)
    with pytest.raises(SpendingCap):
        add(record, charge(0.01), cap)
    add(record, charge(5, "lan", Price(0.0, "your settings")), cap)  # costs nothing: never refused
    clock.at("2026-12-01 00:00")
    add(record, charge(10), cap)


def test_a_cap_of_a_target_is_on_that_target(record: Record) -> None:
    add(record, charge(6, "modal"))
    add(record, charge(10), Cap(10.0, "day", "gpu"))
    with pytest.raises(SpendingCap, match=r"over the cap of \$16\.00 a day\."):
        add(record, charge(1), Cap(16.0, "day"))


def test_a_cap_on_a_month(record: Record, clock: Clock) -> None:
    cap = Cap(10.0, "month")
    clock.at("2026-11-01 00:00")
    add(record, charge(6))
    clock.at("2026-10-31 23:59:59")
    add(record, charge(100))
    clock.at("2026-11-30 23:59:59")
    with pytest.raises(SpendingCap, match=r"\$6\.00 spent or reserved this month"):
        add(record, charge(5), cap)
    clock.at("2026-12-01 00:00")
    add(record, charge(5), cap)


def test_a_clock_that_was_ahead_fills_no_cap_until_then(record: Record, clock: Clock) -> None:
    cap = Cap(10.0, "day")
    clock.at("2031-05-01 12:00")
    add(record, charge(9))
    clock.at("2026-11-30 12:00")
    job = add(record, charge(5), cap)
    record.ledger.top_up(job, 10.0, [cap])
    # One that is set back over midnight gives nothing back.
    clock.at("2026-11-29 23:50")
    with pytest.raises(SpendingCap, match=r"\$10\.00 spent or reserved today"):
        add(record, charge(1), cap)


def test_a_cap_on_a_batch_is_on_its_whole(record: Record, clock: Clock) -> None:
    cap = Cap(10.0, "batch", where="the cap of this batch")
    add(record, charge(6), batch="b1")
    clock.at("2027-01-30 12:00")  # however long it takes
    with pytest.raises(SpendingCap, match=r"for this batch, .* \$10\.00 for the batch"):
        add(record, charge(5), cap, batch="b1")
    add(record, charge(10), cap, batch="b2")


def test_with_a_cap_a_price_must_be_known(record: Record) -> None:
    unknown = charge(10, price=None)
    job = add(record, unknown)
    with pytest.raises(SpendingCap, match="the price of an hour of gpu is not known") as caught:
        add(record, unknown, Cap(10.0, "month"))
    assert "price_per_hour for gpu" in caught.value.advice
    record.state(job, JobState.SUCCEEDED, billed=4.0)
    [spent] = record.ledger.spent(0.0)
    assert (spent.runs, spent.unpriced, spent.amount, spent.seconds) == (1, 1, 0.0, 4.0)


def test_what_is_billed_by_the_hour_stands_apart(record: Record) -> None:
    pod = Charge("pod:abc", DOLLAR, 100.0, by_hour=True)
    add(record, pod, Cap(1.0, "day"))
    add(record, charge(1), Cap(1.0, "day"))
    assert [one.amount for one in record.ledger.spent(0.0)] == [1.0]
    assert [one.amount for one in record.ledger.spent(0.0, by_hour=True)] == [100.0]


@given(
    jobs=st.lists(
        st.tuples(st.floats(0.0, 8.0), st.sampled_from(["run", "settle", "release", "unknown"])),
        max_size=12,
    ),
    most=st.floats(0.0, 20.0),
)
@settings(max_examples=60, deadline=None)
def test_reservations_never_exceed_a_cap_and_what_is_released_is(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[float, str]], most: float
) -> None:
    cap, held = Cap(most, "day"), 0.0
    clock = Clock("2026-11-30 12:00")
    with Record(tmp_path_factory.mktemp("ledger"), now=clock, zone=HERE) as record:
        for seconds, then in jobs:
            try:
                job = add(record, charge(seconds), cap)
            except SpendingCap:
                assert held + seconds > most
                continue
            assert seconds == 0 or held + seconds <= most + 1e-6
            held += seconds
            if then == "settle":
                record.state(job, JobState.SUCCEEDED, billed=seconds / 2)
                held -= seconds / 2
            elif then == "release":
                record.state(job, JobState.FAILED, refused(DidItRun.WITHDRAWN))
                held -= seconds
            elif then == "unknown":
                record.state(job, JobState.FAILED, refused(DidItRun.UNKNOWN))
            assert record.ledger.used(cap) == pytest.approx(held, abs=1e-6)


# Moved, and topped up


def test_a_job_moves_to_another_target(record: Record) -> None:
    cap = Cap(10.0, "day")
    job = add(record, charge(6), cap)
    step = Step(job, 1, "modal")
    begin, note = record.routes.begin, record.routes.note
    # What it holds itself does not count.
    assert begin(step, charge(9, "modal"), [cap]) == "begun"
    booking = record.ledger.of(job)
    assert booking is not None
    assert (booking.target, booking.amount, booking.workflow) == ("modal", 9.0, "a.json")
    note(replace(step, state=StepState.NEVER_ACCEPTED))
    with pytest.raises(SpendingCap):
        begin(replace(step, number=2, member="big"), charge(11, "big"), [cap])
    assert record.ledger.of(job) == booking  # its reservation is as it was
    assert begin(replace(step, number=2, member="lan")) == "begun"
    assert record.ledger.used(cap) == 0.0


def test_a_job_that_runs_longer_reserves_more(record: Record) -> None:
    cap = Cap(10.0, "day")
    add(record, charge(3), cap)
    job = add(record, charge(5), cap)
    record.ledger.top_up(job, 7.0, [cap])
    assert record.ledger.used(cap) == 10.0
    with pytest.raises(SpendingCap, match="runs longer than expected"):
        record.ledger.top_up(job, 7.1, [cap])
    assert record.ledger.used(cap) == 10.0
    record.ledger.top_up(job, 8.0)  # it goes on all the same, and that is said
    assert record.ledger.used(cap) == 11.0
    record.state(job, JobState.SUCCEEDED, billed=7.5)
    record.ledger.top_up(job, 100.0)  # too late: it has ended
    assert record.ledger.used(cap) == 10.5


# Days


@needs_zones
@pytest.mark.parametrize(
    ("moment", "start", "hours"),
    [
        ("2026-03-29 12:00", "2026-03-29 00:00", 23),  # clocks go forward
        ("2026-10-25 12:00", "2026-10-25 00:00", 25),  # and back
        ("2026-11-30 00:00", "2026-11-30 00:00", 24),
    ],
)
def test_a_day_begins_at_midnight_by_the_local_calendar(
    moment: str, start: str, hours: int
) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime.fromisoformat(moment).replace(tzinfo=berlin)
    began = day_start(now.timestamp(), berlin)
    assert datetime.fromtimestamp(began, berlin).replace(tzinfo=None) == datetime.fromisoformat(
        start
    )
    tomorrow = now + timedelta(days=1)
    assert day_start(tomorrow.timestamp(), berlin) - began == hours * 3600
    assert day_start(began - 1, berlin) < began
    first = datetime.fromtimestamp(month_start(now.timestamp(), berlin), berlin)
    assert (first.day, first.hour, first.month) == (1, 0, now.month)


@needs_zones
def test_a_day_may_begin_at_one_or_have_two_midnights() -> None:
    beirut = ZoneInfo("Asia/Beirut")  # clocks went from 0:00 to 1:00 on 2022-03-27
    noon = datetime(2022, 3, 27, 12, tzinfo=beirut).timestamp()
    assert noon - day_start(noon, beirut) == 11 * 3600
    havana = ZoneInfo("America/Havana")  # 0:00 to 1:00 came twice on 2022-11-06
    noon = datetime(2022, 11, 6, 12, tzinfo=havana).timestamp()
    assert noon - day_start(noon, havana) == 13 * 3600
    assert day_start(noon - 12.5 * 3600, havana) == noon - 13 * 3600


@needs_zones
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no tzset")
def test_without_a_zone_days_are_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moment = datetime(2026, 10, 25, 22, tzinfo=berlin).timestamp()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Europe/Berlin")
            time.tzset()
            assert day_start(moment) == day_start(moment, berlin) == moment - 23 * 3600
            assert month_start(moment) == month_start(moment, berlin)
    finally:
        time.tzset()


@needs_zones
def test_the_day_of_a_reservation_is_that_of_its_job(tmp_path: Path) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    clock = Clock("2026-10-25 00:30", berlin)
    with Record(tmp_path, now=clock, zone=berlin) as record:
        add(record, charge(1))
        clock.at("2026-10-24 23:30")
        add(record, charge(2))
        clock.at("2026-10-25 23:30")  # 24 hours later, and the same day as the first
        job = add(record, charge(4))
        clock.at("2026-10-26 01:00")
        record.state(job, JobState.SUCCEEDED, billed=3.0)
        days = {one.name: one.amount for one in record.ledger.spent(0.0, "day")}
    assert days == {"2026-10-24": 2.0, "2026-10-25": 4.0}
    assert list(days) == sorted(days)


def test_what_was_spent_by_target_workflow_and_batch(record: Record) -> None:
    add(record, charge(1))
    add(record, charge(4, "modal"), batch="b1")
    record.add(
        *("job-3",),
        target="gpu",
        source="ComfyUI page",
        folder=None,
        prompt={},
        charge=charge(2),
    )
    record.named("job-3", "portrait.json", instead_of="ComfyUI page")
    by = {
        by: [(one.name, one.runs, one.amount) for one in record.ledger.spent(0.0, by)]
        for by in ("target", "workflow", "batch")
    }
    assert by == {
        "target": [("modal", 1, 4.0), ("gpu", 2, 3.0)],
        "workflow": [("a.json", 2, 5.0), ("portrait.json", 1, 2.0)],
        "batch": [("b1", 1, 4.0), ("", 2, 3.0)],
    }
    assert record.ledger.bookings(0.0, target="gpu")[0].job == "job-3"


def test_charges_outlive_their_jobs_and_not_for_ever(record: Record, clock: Clock) -> None:
    old = add(record, charge(1))
    record.remove([old])
    assert spent_in_all(record) == 1.0
    clock.now += 399 * 86400
    for _ in range(5):
        add(record, charge(1))
    record.ledger.forget()
    assert spent_in_all(record) == 6.0
    clock.now += 2 * 86400
    record.ledger.forget()
    assert spent_in_all(record) == 5.0
    record.ledger.retention = LedgerRetention(charges=3)
    record.ledger.forget()
    assert spent_in_all(record) == 3.0


# Other processes

_WORKER = """
import sys, uuid
from pathlib import Path
from comfy_remote.errors import SpendingCap
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.caps import Cap
from comfy_remote.schedule.money import Charge, Price

charge = Charge("gpu", Price(3600.0, "test"), 1.0)
taken = 0
with Record(Path(sys.argv[1])) as record:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(40):
        try:
            record.add(str(uuid.uuid4()), target="gpu", source="a.json", folder=None, prompt={},
                       charge=charge, caps=[Cap(25.0, "month"), Cap(30.0, "day")])
            taken += 1
        except SpendingCap:
            pass
print(taken, flush=True)
"""


def _started(script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_do_not_slip_through_a_cap(tmp_path: Path) -> None:
    Record(tmp_path).close()
    running = [_started(_WORKER, tmp_path) for _ in range(2)]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:  # none begins before both are there
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    taken = [int(one.communicate(timeout=120)[0]) for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert sum(taken) == 25
    with Record(tmp_path) as record:
        assert spent_in_all(record) == 25.0
        assert len(record.newest(100)) == 25


_KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record, ledger
from comfy_remote.schedule.caps import Cap
from comfy_remote.schedule.money import Charge, Price

when = sys.argv[2]
record = Record(Path(sys.argv[1]))
if when == "reserving":  # the reservation is made, its transaction not committed
    ledger.Ledger.reserve = (lambda kept: lambda *args, **more: (
        kept(*args, **more), os.kill(os.getpid(), signal.SIGKILL)))(ledger.Ledger.reserve)
if when == "settling":
    ledger.Ledger.settle = (lambda kept: lambda *args, **more: (
        kept(*args, **more), os.kill(os.getpid(), signal.SIGKILL)))(ledger.Ledger.settle)
record.add("job-1", target="gpu", source="a.json", folder=None, prompt={},
           charge=Charge("gpu", Price(3600.0, "test"), 10.0), caps=[Cap(10.0, "day")])
if when == "before it is sent":
    os.kill(os.getpid(), signal.SIGKILL)
record.state("job-1", JobState.SUCCEEDED, billed=4.0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize(
    ("when", "job", "amount"),
    [
        ("reserving", None, 0.0),  # neither job nor reservation
        ("before it is sent", JobState.QUEUED, 10.0),  # both
        ("settling", JobState.QUEUED, 10.0),  # neither end nor settlement
    ],
)
def test_a_program_killed_at_any_moment_leaves_job_and_charge_alike(
    tmp_path: Path, when: str, job: JobState | None, amount: float
) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), when]
    assert subprocess.run(command, timeout=180, check=False).returncode == -signal.SIGKILL
    with Record(tmp_path) as record:
        assert [one.state for one in record.newest()] == ([] if job is None else [job])
        assert spent_in_all(record) == amount
        if job is not None:  # whoever resumes it sees how it ended
            record.state("job-1", JobState.SUCCEEDED, billed=4.0)
            assert spent_in_all(record) == 4.0


def test_what_a_job_cost_is_said_in_a_sentence(record: Record) -> None:
    job = add(record, charge(10))

    def said() -> str:
        booking = record.ledger.of(job)
        assert booking is not None
        return booking.sentence()

    assert said() == "Up to $10.00 is reserved for it (by a test)."
    record.state(job, JobState.SUCCEEDED, billed=4.0)
    assert said() == "It cost about $4.00, and $5.00 was estimated."
    job = add(record, charge(10, price=None))
    assert said() == "What it cost is not known: the target has no known price."
    job = add(record, charge(10))
    record.state(job, JobState.CANCELLED, JobCancelled("Stopped."))
    assert said() == "How long it ran is not known: at most $10.00, which was reserved for it."
    record.state(job, JobState.CANCELLED, refused(DidItRun.WITHDRAWN))
    assert said() == "It cost nothing."
