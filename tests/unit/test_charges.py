"""What a job may cost: by its price and the longest that it can run, from whoever starts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_target import FakeTarget
from owner import configure
from pydantic import SecretStr

from comfy_remote.config.config_file import read_config
from comfy_remote.config.settings import Configuration, named_in
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import ExecutionFailed, JobCancelled, SpendingCap, TargetUnreachable
from comfy_remote.events import DidItRun, Event, Finished, JobState, Log, Phase, Queued, Started
from comfy_remote.jobs.charges import (
    Allowed,
    charge_of,
    still_allowed,
    with_top_ups,
)
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.phases import StartTime
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.record.batches import BatchEntry, BatchState, Wanted
from comfy_remote.jobs.record.ledger import Booked
from comfy_remote.jobs.route_journal import RouteJournal
from comfy_remote.schedule.caps import Cap, OnCap
from comfy_remote.schedule.money import Allowance, Charge, Price
from comfy_remote.targets.base import RemoteRef, RunRequest, Target
from comfy_remote.targets.modal import modal_target
from comfy_remote.targets.opening import open_target, reopen
from comfy_remote.targets.route.journal import Step
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1}}}
NONE = Allowance()
OWN = """
{top}
[targets.gpu]
target = "runpod:abc123xyz"
price_per_hour = 3.6
{gpu}
[targets.lan]
target = "http://127.0.0.1:8188"
[targets.rented]
target = "runpod:rented"
base_url = "https://rented.example/v2"
key_env = "RENTED_KEY"
price_per_hour = 3.6
[targets.free]
target = "http://127.0.0.1:8189"
price_per_hour = 0
[targets.box]
target = "runpod:local"
base_url = "http://127.0.0.1:8000/v2"
[targets.pod]
target = "pod:xedezhzb9la3ye"
price_per_hour = 0.5
[targets.new]
target = "runpod:unpriced"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("RUNPOD_API_KEY", "COMFY_REMOTE_CONFIG", "RUNPOD_ENDPOINT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    own(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def record(home: Path) -> Iterator[Record]:
    with Record(home) as made:
        yield made


def own(home: Path, top: str = "", gpu: str = "") -> None:
    configure(home, OWN.format(top=top, gpu=gpu))


def named(name: str, target: FakeTarget | None = None) -> FakeTarget:
    target = target or FakeTarget.making(x_png=b"x")
    target.name = name
    return target


async def charged(
    record: Record, target: Target | str, allowance: Allowance = NONE, batch: str = ""
) -> Allowed | None:
    there = named(target) if isinstance(target, str) else target
    configuration = Configuration.load()
    return await charge_of(there, record, PROMPT, configuration, allowance, batch=batch or None)


def ran(record: Record, *seconds: float, target: str = "gpu") -> None:
    for number, one in enumerate(seconds):
        job = f"past-{target}-{number}"
        record.add(job, target=target, source="a.json", folder=None, prompt=PROMPT)
        record.state(job, JobState.SUCCEEDED, run_seconds=one)


# How much is reserved


async def test_a_first_run_is_reserved_ten_minutes(record: Record) -> None:
    allowed = await charged(record, "gpu")
    assert allowed is not None
    charge = allowed.charge
    assert (charge.target, charge.price) == ("gpu", Price(3.6, "your settings"))
    assert (charge.bound, charge.expected) == (600.0, None)
    assert charge.reserved == pytest.approx(0.6)
    assert charge.why == "10 min are reserved for a workflow's first run there"
    assert (allowed.caps, allowed.on_cap) == ((), "warn")


async def test_a_second_is_reserved_at_least_whatever_is_said_of_past_runs(record: Record) -> None:
    ran(record, *[1e-300] * 20)
    allowed = await charged(record, "gpu")
    assert allowed is not None
    assert allowed.charge.bound == 1.0


async def test_without_a_limit_past_runs_say_how_much(record: Record) -> None:
    ran(record, *[40.0] * 18, 90.0, 200.0)  # the twentieth is beyond 95 %
    allowed = await charged(record, "gpu")
    assert allowed is not None
    assert (allowed.charge.bound, allowed.charge.expected) == (135.0, 40.0)
    assert allowed.charge.why == "2 min at most, by 20 earlier runs"


async def test_the_start_of_a_worker_is_named_beside_the_run(record: Record) -> None:
    ran(record, 40.0)
    record.add("start", target="gpu", source="a.json", folder=None, prompt=PROMPT)
    record.state("start", JobState.RUNNING, at=record.get("start").created + 30)
    allowed = await charged(record, "gpu")
    assert allowed is not None
    assert allowed.charge.bound == pytest.approx(90.0)
    why = "90 s at most, by 1 earlier run and the start of a worker, 30 s"
    assert allowed.charge.why == why


async def test_what_the_target_enforces_is_the_bound(record: Record, home: Path) -> None:
    own(home, gpu="policy = { executionTimeout = 120000 }")
    target = open_target("gpu", environment={"RUNPOD_API_KEY": "k" * 20})
    ran(record, 40.0)
    record.add("start", target="gpu", source="a.json", folder=None, prompt=PROMPT)
    began = record.get("start").created
    record.state("start", JobState.RUNNING, at=began + 30)
    allowed = await charged(record, target)
    assert allowed is not None
    assert allowed.charge.bound == pytest.approx(150.0)  # and the start of a worker
    assert allowed.charge.why == "it may run for 2 min"
    shorter = await charged(record, target, Allowance(ends_after=60.0))
    assert shorter is not None
    assert shorter.charge.bound == 60.0  # whoever starts it stops it then, started or not


async def test_what_is_owned_costs_nothing_and_is_never_refused(record: Record, home: Path) -> None:
    own(home, top="cap_per_day = 0\ncap_per_job = 0")
    for name in ("lan", "free", "box", "sandbox", "http://10.0.0.7:8188", "fake"):
        assert await charged(record, name, Allowance(cap=0.0)) is None
    async with Client(named("lan"), record=record) as client:
        job = await client.submit({**PROMPT}, cap=0.0)
        await job.wait()
    assert record.ledger.of(job.id) is None


async def test_what_is_owned_costs_what_its_user_says(record: Record, home: Path) -> None:
    """A rented machine behind a gateway or an address of one's own: caps hold there, too."""
    allowed = await charged(record, "rented")
    assert allowed is not None
    assert allowed.charge.reserved == pytest.approx(0.6)
    assert not allowed.charge.by_hour
    sent = RemoteRef("1", "e1", {"endpoint": "rented", "base_url": "https://rented.example/v2"})
    assert await charged(record, reopen("rented", sent, {"RENTED_KEY": "k" * 20})) is not None
    elsewhere = RemoteRef("1", "e1", {"endpoint": "x", "base_url": "http://127.0.0.1:8000/v2"})
    assert await charged(record, reopen("rented", elsewhere, {})) is None  # its name means another
    own(home, top="cap_per_day = 0.5")
    async with Client(named("rented"), record=record) as client:
        with pytest.raises(SpendingCap, match=r"on rented .* over the cap of \$0\.50 a day"):
            await client.submit({**PROMPT})


async def test_a_pod_by_the_hour_stands_apart(record: Record, home: Path) -> None:
    own(home, top="cap_per_day = 0")
    async with Client(named("pod"), record=record) as client:
        await (await client.submit({**PROMPT})).wait()
    assert record.ledger.spent(0.0) == []
    [apart] = record.ledger.spent(0.0, "target", by_hour=True)
    assert (apart.name, apart.runs) == ("pod", 1)


async def test_a_target_that_a_program_opened_is_known_by_where_it_is(record: Record) -> None:
    headers = {"Modal-Key": SecretStr("k"), "Modal-Secret": SecretStr("s")}
    url = "https://ann--portraits-front.modal.run"
    allowed = await charged(record, modal_target("portraits", headers, url=url, name="mine"))
    assert allowed is not None
    assert allowed.charge.target == "modal:portraits"
    front = modal_target("portraits", headers, url="http://127.0.0.1:8000", name="mine")
    assert await charged(record, front) is None


async def test_where_a_target_is_counts_and_not_what_its_name_means_by_now(
    record: Record, home: Path
) -> None:
    own(home, top="cap_per_day = 1")
    sent = RemoteRef("1", "e1", {"endpoint": "older", "base_url": "https://api.runpod.ai/v2"})
    there = reopen("lan", sent, {"RUNPOD_API_KEY": "k" * 20})
    assert there.name == "lan"
    allowed = await charged(record, there)
    assert allowed is not None
    assert allowed.charge.target == "runpod:older"
    assert [cap.span for cap in allowed.caps] == ["day"]


async def test_an_address_is_booked_as_its_owner_calls_it(record: Record, home: Path) -> None:
    own(home, gpu="cap_per_day = 5")
    allowed = await charged(record, "runpod:abc123xyz")
    assert allowed is not None
    assert (allowed.charge.target, allowed.charge.price) == ("gpu", Price(3.6, "your settings"))
    assert [(cap.span, cap.target, cap.dollars) for cap in allowed.caps] == [("day", "gpu", 5.0)]


# Caps


async def test_what_would_go_over_a_cap_is_not_sent(record: Record, home: Path) -> None:
    own(home, top="cap_per_day = 1")
    target = named("gpu", FakeTarget())
    async with Client(target, record=record, on_interrupt=None) as client:
        first = await client.submit({**PROMPT})
        with pytest.raises(SpendingCap) as caught:
            await client.submit({**PROMPT})
        assert caught.value.message == (
            "This run may cost $0.60 on gpu (10 min are reserved for a workflow's first run "
            "there). With $0.60 spent or reserved today, that is over the cap of $1.00 a day."
        )
        assert f"cap_per_day in {home / 'comfy-remote.toml'}" in caught.value.advice
        assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
        assert target.log.count("submit") == 1
        assert [job.id for job in record.newest()] == [first.id]
        await client.submit({**PROMPT}, over_cap=True)
        # It is booked all the same.
        assert record.ledger.used(Cap(1.0, "day")) == pytest.approx(1.2)
        # If it runs longer than expected, that is no reason to stop it, now or later.
        booking = record.ledger.of(record.newest()[0].id)
        assert booking is not None and booking.over_cap
        record.ledger.top_up(booking.job, 6000.0, [Cap(1.0, "day")])
        assert record.ledger.used(Cap(1.0, "day")) == pytest.approx(6.6)


async def test_a_cap_of_one_run_and_of_one_batch(record: Record) -> None:
    run = await charged(record, "gpu", Allowance(cap=0.5))
    batch = await charged(record, "gpu", Allowance(cap=0.5), "batch-1")
    assert run is not None and batch is not None
    assert (run.caps[0].span, batch.caps[0].span) == ("job", "batch")
    over = await charged(record, "gpu", Allowance(cap=0.5, over_cap=True))
    assert over is not None
    assert over.caps == ()
    async with Client(named("gpu"), record=record) as client:
        with pytest.raises(SpendingCap, match=r"over the cap of \$0\.50 a run"):
            await client.submit({**PROMPT}, cap=0.5)
        job = await client.submit({**PROMPT}, cap=0.6)
        await job.wait()
        with pytest.raises(SpendingCap):
            await client.retry(job.id, cap=0.0)


async def test_without_a_price_a_cap_cannot_be_kept(record: Record, home: Path) -> None:
    async with Client(named("new"), record=record) as client:
        job = await client.submit({**PROMPT})
        await job.wait()
        booking = record.ledger.of(job.id)
        assert booking is not None
        assert (booking.price, booking.amount) == (None, None)
        own(home, top="cap_per_month = 100")
        with pytest.raises(
            SpendingCap, match="the price of an hour of new is not known: "
        ) as caught:
            await client.submit({**PROMPT})
    assert "price_per_hour for new" in caught.value.advice


async def test_a_folders_price_lifts_no_cap(record: Record, home: Path) -> None:
    own(home, top="cap_per_day = 1")
    path = configure(
        Path.cwd(),
        """
        [targets.gpu]
        target = "runpod:abc123xyz"
        price_per_hour = 0
        [targets.theirs]
        target = "runpod:theirs"
        price_per_hour = 0.0001
        [targets.dearer]
        target = "runpod:abc123xyz"
        price_per_hour = 7.2
        """,
    )
    TrustStore(home).trust(path, named_in(read_config(path), ()).values())
    gpu, theirs, dearer = [await charged(record, name) for name in ("gpu", "theirs", "dearer")]
    assert gpu is not None and theirs is not None and dearer is not None
    assert gpu.charge.reserved == pytest.approx(0.6)
    assert theirs.charge.price is None
    assert "only a folder's comfy-remote.toml sets it" in theirs.charge.unpriced
    assert dearer.charge.reserved == pytest.approx(1.2)
    assert dearer.charge.target == "gpu"
    own(home)  # without a cap, it is what is estimated by
    theirs = await charged(record, "theirs")
    assert theirs is not None
    assert theirs.charge.price == Price(0.0001, "your settings")


@pytest.mark.parametrize("typed", ["runpod:abc123xyz", "runpod:", "again"])
async def test_no_spelling_of_a_target_gets_round_its_caps(
    home: Path, record: Record, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "abc123xyz")
    own(home, gpu='cap_per_day = 0.5\nbase_url = "https://api.runpod.ai/v2/"')
    folder = '[targets.again]\ntarget = "runpod:abc123xyz"\nprice_per_hour = 0\n'
    Path("comfy-remote.toml").write_text(folder)
    path = Path("comfy-remote.toml").absolute()
    named_there = named_in(read_config(path), Configuration.load().owners)
    TrustStore(home).trust(path, named_there.values())
    allowed = await charged(record, typed)
    assert allowed is not None
    assert allowed.charge.target == "gpu"
    assert allowed.charge.reserved == pytest.approx(0.6)
    assert [(one.dollars, one.target) for one in allowed.caps] == [(0.5, "gpu")]


# Of a job that another program goes on with


@pytest.mark.parametrize("of_batch", [False, True])
async def test_the_cap_of_a_job_holds_wherever_and_by_whomever_it_is_sent_on(
    record: Record, of_batch: bool
) -> None:
    # The program that was given it was killed, or what it cost at first was nothing.
    batch = BatchEntry(
        *("b1", "night", 0.0, 0.0, "any", "a.json", Path(), 2),
        *(BatchState.RUNNING, None, Wanted.RUN),
        cap=0.5,
    )
    record.batches.add(batch)
    in_batch = "b1" if of_batch else None
    record.add(
        "job-1",
        target="any",
        source="a.json",
        folder=None,
        prompt=PROMPT,
        batch=in_batch,
        allowance=Allowance(cap=0.5),
    )
    journal = RouteJournal(record, Configuration.load)
    request = RunRequest("job-1", PROMPT, batch=in_batch)
    assert "the cap of $0.50" in await journal.over_cap(request, named("gpu"))
    with pytest.raises(SpendingCap):
        await journal.begin(Step("job-1", 1, "gpu"), request, named("gpu"))
    record.batches.allow("b1", 0.7, over_cap=False)
    record.add(
        "job-2",
        target="any",
        source="a.json",
        folder=None,
        prompt=PROMPT,
        allowance=Allowance(over_cap=True),
    )
    later = replace(request, job_id="job-1" if of_batch else "job-2")
    assert await journal.begin(Step(later.job_id, 1, "gpu"), later, named("gpu")) == "begun"
    still = still_allowed(record, later.job_id, Configuration.load)
    assert still is not None
    assert still.charge.over_cap is not of_batch
    assert [(one.dollars, one.span) for one in still.caps] == ([(0.7, "batch")] if of_batch else [])


async def test_a_job_that_is_followed_again_has_its_own_cap(record: Record) -> None:
    async with Client(named("gpu", FakeTarget()), record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT}, cap=0.7)
    still = still_allowed(record, job.id, Configuration.load)
    assert still is not None
    assert [(one.dollars, one.span) for one in still.caps] == [(0.7, "job")]


# Settled


@pytest.mark.parametrize(
    ("end", "booked", "amount"),
    [
        (Finished(JobState.SUCCEEDED, details={"run_seconds": 100.0}), Booked.SETTLED, 0.1),
        # A run that was mostly cached costs money, and says nothing of the next.
        (
            Finished(JobState.SUCCEEDED, details={"run_seconds": 100.0, "cached_nodes": ["1"]}),
            Booked.SETTLED,
            0.1,
        ),
        (
            Finished(
                JobState.FAILED,
                ExecutionFailed("It failed."),
                details={"run_seconds": 50.0},
                did_it_run=DidItRun.STOPPED,
            ),
            Booked.SETTLED,
            0.05,
        ),
        (
            Finished(
                JobState.CANCELLED,
                ExecutionFailed("It was withdrawn."),
                did_it_run=DidItRun.WITHDRAWN,
            ),
            Booked.RELEASED,
            0.0,
        ),
        (
            Finished(JobState.EXPIRED, ExecutionFailed("Forgotten."), did_it_run=DidItRun.UNKNOWN),
            Booked.HELD,
            0.6,
        ),
    ],
)
async def test_a_job_is_settled_by_its_end(
    record: Record, end: Finished, booked: Booked, amount: float
) -> None:
    async with Client(named("gpu", FakeTarget([end])), record=record) as client:
        job = await client.submit({**PROMPT}, begun=time.monotonic() - 1000)
        await job.wait()
    booking = record.ledger.of(job.id)
    assert booking is not None
    assert (booking.booked, booking.amount) == (booked, pytest.approx(amount))


@pytest.mark.parametrize("said", [1e305, 1e9, 3600.0])
async def test_no_target_says_that_a_job_ran_longer_than_since_it_was_sent(
    record: Record, said: float
) -> None:
    end = Finished(JobState.SUCCEEDED, details={"run_seconds": said})
    async with Client(named("gpu", FakeTarget([end])), record=record) as client:
        job = await client.submit({**PROMPT}, begun=time.monotonic() - 100)
        await job.wait()
        entry = record.get(job.id)
        again = await client.resume(replace(entry, created=time.time() - 200))
        await again.wait()
    booking = record.ledger.of(job.id)
    assert booking is not None and booking.seconds is not None
    assert 200 <= booking.seconds < 260
    assert entry.run_seconds is not None
    assert 100 <= entry.run_seconds < 160, "nor is that learned"


async def test_what_never_arrived_is_released(record: Record) -> None:
    target = named("gpu", FakeTarget())
    refusal = TargetUnreachable("Refused.")
    DidItRun.NEVER_ACCEPTED.noted_in(refusal)
    target.refuses = refusal
    async with Client(target, record=record) as client:
        for _ in range(2):
            with pytest.raises(TargetUnreachable):
                await client.submit({**PROMPT})
        await record.written()
        assert record.ledger.spent(0.0) == []
        target.refuses = TargetUnreachable("The answer was lost.")
        with pytest.raises(TargetUnreachable):
            await client.submit({**PROMPT})
        await record.written()
    [spent] = record.ledger.spent(0.0)
    assert (spent.runs, spent.reserved) == (1, pytest.approx(0.6))


def test_the_start_of_a_worker_is_billed_and_waiting_for_a_gpu_is_not() -> None:
    now = 0.0

    def after(*steps: tuple[float, Event]) -> float:
        nonlocal now
        start = StartTime(lambda: now)
        for seconds, event in steps:
            now += seconds
            start.note(event)
        return start.seconds

    assert after((5.0, Phase("starting")), (85.0, Started())) == 90.0
    assert after((5.0, Queued()), (85.0, Started())) == 0.0  # behind other jobs
    waited = after((5.0, Phase("throttled")), (600.0, Phase("starting")), (30.0, Started()))
    assert waited == 30.0


# While it runs


@pytest.mark.parametrize("on_cap", ["warn", "cancel"])
async def test_a_job_that_runs_longer_reserves_more_up_to_the_cap(
    record: Record, on_cap: OnCap
) -> None:
    charge, cap = Charge("gpu", Price(3600.0, "test"), 0.01), Cap(0.02, "day")
    record.add("job-1", target="gpu", source="a", folder=None, prompt={}, charge=charge, caps=[cap])
    ends, cancelled = asyncio.Event(), list[float]()

    async def events() -> AsyncGenerator[Event, None]:
        yield Started()
        await ends.wait()
        state = JobState.CANCELLED if cancelled else JobState.SUCCEEDED
        yield Finished(state, JobCancelled("The job was cancelled.") if cancelled else None)

    async def reserved() -> Allowed:
        return Allowed(charge, (cap,), on_cap)

    async def cancel() -> None:
        cancelled.append(record.ledger.used(cap))
        ends.set()

    said = []
    followed = with_top_ups(events(), record, "job-1", reserved, cancel)
    async for event in followed:
        if isinstance(event, Log):
            said.append(event.message)
            if on_cap == "warn":
                assert record.ledger.used(cap) == pytest.approx(0.0225)  # it goes on
                ends.set()
    assert isinstance(event, Finished)
    assert len(said) == 1
    assert said[0].startswith("This run may cost $0.03 on gpu (it runs longer than expected)")
    assert "over the cap of $0.02 a day" in said[0]
    # The first time that it took longer than expected, there was room for it.
    assert cancelled == ([] if on_cap == "warn" else [pytest.approx(0.015)])
    assert said[0].endswith("It goes on." if on_cap == "warn" else "It is cancelled.")
    if on_cap == "cancel":  # the record, a batch and the page say why, too
        assert isinstance(event.error, JobCancelled)
        assert event.error.message.startswith("It was cancelled at a cap. This run may cost $0.03")


async def test_a_cancel_at_a_cap_that_fails_is_said_and_tried_again(record: Record) -> None:
    """It was tried once and reported as done, whatever the target said: the job ran on."""
    charge, cap = Charge("gpu", Price(3600.0, "test"), 0.01), Cap(0.012, "day")
    record.add("job-1", target="gpu", source="a", folder=None, prompt={}, charge=charge, caps=[cap])
    ends, tries = asyncio.Event(), 0

    async def events() -> AsyncGenerator[Event, None]:
        yield Started()
        await ends.wait()
        yield Finished(JobState.CANCELLED, JobCancelled("The job was cancelled."))

    async def reserved() -> Allowed:
        return Allowed(charge, (cap,), "cancel")

    async def cancel() -> str | None:
        nonlocal tries
        tries += 1
        if tries < 4:
            return "gpu could not be reached."
        ends.set()
        return None

    followed = with_top_ups(events(), record, "job-1", reserved, cancel, cancel_again=0.001)
    said = [event async for event in followed]
    assert tries == 4
    assert [one.message.partition(".")[0] for one in said if isinstance(one, Log)][1:] == [
        "It goes on, and costs: it could not be cancelled"
    ]
    assert isinstance(said[-1], Finished) and said[-1].error is not None
    assert said[-1].error.message.startswith("It was cancelled at a cap.")


async def test_a_job_that_is_followed_again_has_what_it_reserved(
    record: Record, home: Path
) -> None:
    own(home, top="cap_per_day = 0.7\non_cap = 'cancel'")
    target = named("gpu", FakeTarget([Started()]))
    async with Client(target, record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        began = record.get(job.id).created - 700.0  # it has run for longer than was reserved
        await record.write(record.state, job.id, JobState.RUNNING, at=began)
        async for event in await client.resume(job.id):
            if isinstance(event, Log):
                assert "over the cap of $0.70 a day" in event.message
                assert event.message.endswith("It is cancelled.")
            if target.cancelled or isinstance(event, Log):
                break
