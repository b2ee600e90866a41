"""About how long and how much: what counts as a past run, and what is said where none is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget
from owner import configure

from comfy_remote.config.settings import Configuration
from comfy_remote.errors import ConfigurationError, ExecutionFailed
from comfy_remote.events import Finished, JobState, Started
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.estimate import RunEstimate, estimate_run
from comfy_remote.jobs.prices import remembered_price
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.money import Price
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.units import dollars
from comfy_remote.workflow.prompt import Prompt

LONG_AGO = -1e6  # by `time.monotonic`: a job cannot run longer than since it was sent


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path) as made:
        yield made


def prompt(steps: int = 20, seed: int = 1, name: str = "KSampler") -> Prompt:
    return {"1": {"class_type": name, "inputs": {"steps": steps, "seed": seed}}}


def past(record: Record, seconds: float | None, what: Prompt | None = None, **more: Any) -> None:
    job_id = f"job-{len(record.newest(1000))}"
    target, state = more.get("target", "gpu"), more.get("state", JobState.SUCCEEDED)
    record.add(job_id, target=target, source="x", folder=None, prompt=what or prompt())
    record.state(job_id, state, run_seconds=seconds)


async def test_nothing_is_known_before_the_first_run(record: Record) -> None:
    estimate = await estimate_run(record, "gpu", prompt(), Price(1.0, "your settings"))
    assert (estimate.seconds, estimate.price, estimate.runs) == (None, None, 0)
    assert estimate.sentence() == (
        "How long it takes is not known: this workflow has not run on gpu yet."
    )


async def test_only_what_compares_counts(record: Record) -> None:
    past(record, 90, target="other")
    past(record, 90, prompt(name="KSamplerAdvanced"))
    past(record, 90, state=JobState.FAILED)
    past(record, None)
    assert (await estimate_run(record, "gpu", prompt())).seconds is None
    past(record, 12.0, prompt(seed=99))
    estimate = await estimate_run(record, "gpu", prompt())
    assert (estimate.seconds, estimate.runs) == (12.0, 1)


async def test_the_middle_of_the_newest_runs_counts(record: Record) -> None:
    for seconds in (1000, 1000, 11, 10, 12, 300, 10.5, 11.5, 0.1, 11, 11):
        past(record, seconds)
    estimate = await estimate_run(record, "gpu", prompt())
    assert (estimate.seconds, estimate.runs) == (11.0, 9)


async def test_more_steps_take_longer_and_it_says_from_what(record: Record) -> None:
    for seconds in (10.0, 11.0, 12.0):
        past(record, seconds, prompt(steps=20))
    estimate = await estimate_run(record, "gpu", prompt(steps=60), Price(3600.0, "your settings"))
    assert estimate.seconds == pytest.approx(33.0)
    assert estimate.sentence() == (
        "About 33 s and $33.00 on gpu, from 3 runs of this workflow, scaled by steps 20 → 60."
    )
    assert estimate.to_json()["scaled"] == ["steps 20 → 60"]
    assert estimate.to_json()["price"] == 33.0  # programs get the number
    # The runs that are nearest say most: a model is loaded once, however many the steps are.
    past(record, 20.0, prompt(steps=60, seed=5))
    nearest = await estimate_run(record, "gpu", prompt(steps=60))
    assert (nearest.seconds, nearest.runs, nearest.scaled) == (20.0, 1, ())


def picture(**changed: Any) -> Prompt:
    size = {"width": 512, "height": 512, "length": 1, "batch_size": 1, **changed}
    return {
        "1": {"class_type": "EmptyLatentVideo", "inputs": size},
        "2": {"class_type": "KSampler", "inputs": {"latent_image": ["1", 0], "steps": 20}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0]}},
    }


@pytest.mark.parametrize(
    ("changed", "times", "scaled"),
    [
        ({"width": 1024, "height": 1024}, 4, "pixels 262,144 → 1,048,576"),
        ({"length": 81}, 21, "frames 1 → 81"),
        ({"batch_size": 4}, 4, "batch 1 → 4"),
    ],
)
async def test_it_scales_with_pixels_frames_and_batch(
    record: Record, changed: dict[str, int], times: int, scaled: str
) -> None:
    past(record, 10.0, picture())
    estimate = await estimate_run(record, "gpu", picture(**changed))
    assert estimate.seconds == pytest.approx(10.0 * times, rel=0.2)
    assert estimate.scaled == (scaled,)


async def test_a_workflow_without_a_sampler_scales_too(record: Record) -> None:
    def drawn(side: int) -> Prompt:
        size = {"width": side, "height": side, "batch_size": 1}
        return {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        }

    past(record, 1.1, drawn(512))
    estimate = await estimate_run(record, "gpu", drawn(4096))
    assert estimate.seconds is not None
    assert 1.1 * 30 < estimate.seconds < 1.1 * 64  # a part of the 1.1 s is not its pixels
    assert estimate.scaled == ("pixels 262,144 → 16,777,216",)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.0, "$0"),
        (6e-05, "< $0.01"),
        (0.0099, "< $0.01"),
        (0.01, "$0.01"),
        (0.042, "$0.04"),
        (12.3, "$12.30"),
        (1234.5, "$1,234.50"),
        (1e9, "$1,000,000,000.00"),
    ],
)
def test_money_reads_like_money(amount: float, shown: str) -> None:
    assert dollars(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "price", "said"),
    [
        (0.004, 3.6, "About 0.1 s and < $0.01 on gpu"),
        (4.24, 3.6, "About 4.2 s and < $0.01 on gpu"),
        (35, 3.6, "About 35 s and $0.04 on gpu"),
        (90, 4.0, "About 90 s and $0.10 on gpu"),
        (600, 0.0, "About 10 min and $0 on gpu"),
        (9000, 2.0, "About 2.5 h and $5.00 on gpu"),
        (35, None, "About 35 s on gpu, from 2 runs of this workflow. What that costs is not "),
    ],
)
def test_it_is_said_in_words(seconds: float, price: float | None, said: str) -> None:
    hour = None if price is None else Price(price, "your settings")
    estimate = RunEstimate("gpu", seconds, 2, hour, unpriced=price is None)
    assert estimate.sentence().startswith(said)
    assert ("not known" in estimate.sentence()) == (price is None)
    assert estimate.to_json()["text"] == estimate.sentence()


def test_a_price_that_depends_on_the_gpu_is_a_range() -> None:
    hour = Price(3.6, "RunPod", lowest=1.8)
    assert RunEstimate("gpu", 100, 1, hour).sentence().startswith("About 100 s and $0.05 to $0.10 ")
    assert RunEstimate("gpu", 1, 1, hour).sentence().startswith("About 1.0 s and < $0.01 on gpu")
    assert RunEstimate("gpu", 100, 1, hour).price == pytest.approx(0.1), "the dearest is reserved"


class AtServer(FakeTarget):
    """A target whose name means another server in another configuration."""

    def __init__(self, endpoint: str) -> None:
        ended = Finished(JobState.SUCCEEDED, details={"run_seconds": float(len(endpoint))})
        super().__init__([Started(), ended])
        self.server = {"endpoint": endpoint, "base_url": "https://api.example/v2"}

    async def submit(self, request: RunRequest) -> RemoteRef:
        ref = await super().submit(request)
        return RemoteRef(ref.job_id, ref.remote_id, {**self.server, "kind": "x"})


async def test_runs_count_for_their_server_whatever_it_is_called(record: Record) -> None:
    async def ran(endpoint: str) -> None:
        async with Client(AtServer(endpoint), record=record) as client:
            await (await client.submit(prompt(), begun=LONG_AGO)).wait()

    async def known(endpoint: str, name: str = "gpu") -> float | None:
        server = AtServer(endpoint).server
        return (await estimate_run(record, name, prompt(), server=server)).seconds

    await ran("abc")
    await ran("abcdef")
    assert [await known(one) for one in ("abc", "abcdef", "ab", 'a"b')] == [3.0, 6.0, None, None]
    assert await known("abc", "another name") == 3.0


async def test_that_no_price_is_set_is_said_once(record: Record) -> None:
    async def said(steps: int = 20) -> bool:
        what = prompt(steps, name=f"KSampler{steps}")
        estimate = await estimate_run(record, "gpu", what, billed=True)
        past(record, 3.0, what)
        return "price_per_hour" in estimate.sentence()

    # The first run has no estimate; the second one, of whatever workflow, says it.
    assert [await said(one) for one in (20, 30, 30, 20, 20, 30)] == [
        *(False,) * 2,
        True,
        *(False,) * 3,
    ]
    configured = await estimate_run(record, "gpu", prompt(20, name="KSampler20"))
    assert "price_per_hour" not in configured.sentence()


async def test_a_run_is_measured(record: Record) -> None:
    target = FakeTarget.making(x_png=b"x")
    async with Client(target, record=record) as client:
        job = await client.submit(prompt())
        assert record.get(job.id).started is None
        await job.wait()
    entry = record.get(job.id)
    assert entry.started is not None
    assert entry.run_seconds is not None
    assert 0 < entry.run_seconds < 5
    assert (await estimate_run(record, "fake", prompt())).seconds == pytest.approx(
        entry.run_seconds
    )


async def test_what_the_target_says_goes_before_what_was_seen(record: Record) -> None:
    target = FakeTarget([Started(), Finished(JobState.SUCCEEDED, details={"run_seconds": 34.5})])
    async with Client(target, record=record) as client:
        job = await client.submit(prompt(), begun=LONG_AGO)
        await job.wait()
    assert record.get(job.id).run_seconds == 34.5


async def test_a_run_that_was_not_seen_from_the_start_is_not_measured(record: Record) -> None:
    target = FakeTarget([Started(), Finished(JobState.SUCCEEDED)])
    async with Client(target, record=record) as client:
        job = await client.submit(prompt())
        again = await client.resume(record.get(job.id))
        await again.wait()
    assert record.get(job.id).run_seconds is None


async def test_a_run_that_was_mostly_cached_is_no_measure(record: Record) -> None:
    def ended(*cached: str) -> Finished:
        details = {"run_seconds": 0.2, "cached_nodes": list(cached)}
        return Finished(JobState.SUCCEEDED, details=details)  # type: ignore[arg-type]

    for cached, measures in ((("1", "2"), 0), (("1",), 1), ((), 2)):
        async with Client(FakeTarget([Started(), ended(*cached)]), record=record) as client:
            job = await client.submit(picture(), begun=LONG_AGO)
            await job.wait()
        assert record.get(job.id).run_seconds == 0.2, "it cost that much all the same"
        assert len(record.past_runs("fake")) == measures


async def test_nor_is_one_of_which_a_worker_says_so(record: Record) -> None:
    details = {"run_seconds": 0.2, "mostly_cached": True}
    target = FakeTarget([Started(), Finished(JobState.SUCCEEDED, details=details)])  # type: ignore[arg-type]
    async with Client(target, record=record) as client:
        job = await client.submit(picture(), begun=LONG_AGO)
        await job.wait()
    assert record.get(job.id).run_seconds == 0.2
    assert record.past_runs("fake") == []


async def test_a_failed_run_is_no_measure(record: Record) -> None:
    failed = Finished(JobState.FAILED, ExecutionFailed("no"), details={"run_seconds": 3.0})
    async with Client(FakeTarget([Started(), failed]), record=record) as client:
        await (await client.submit(prompt())).wait()
    assert (await estimate_run(record, "fake", prompt())).seconds is None


def test_the_price_stands_in_the_configuration(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    text = (
        '[targets.gpu]\ntarget = "runpod:x"\nprice_per_hour = {}\n[targets.b]\ntarget = "sandbox"'
    )
    configure(tmp_path / "home", text.format("0.69"))
    configuration = Configuration.load(tmp_path)
    assert remembered_price("gpu", configuration).price == Price(0.69, "your settings")
    assert remembered_price("b", configuration).price is None
    assert remembered_price("runpod:x", configuration).price is None
    assert configuration.address_of("gpu") == "runpod:x"
    assert configuration.address_of("sandbox") == "sandbox"
    for wrong in ("-1", "inf", "nan", '"cheap"'):
        configure(tmp_path / "home", text.format(wrong))
        with pytest.raises(ConfigurationError, match="price_per_hour"):
            Configuration.load(tmp_path)


async def test_when_a_job_began_is_noted_once(record: Record) -> None:
    async with Client(FakeTarget([Started()]), record=record) as client:
        job = await client.submit(prompt())
        async for event in job:
            assert event == Started()
            break
    began = record.get(job.id).started
    record.state(job.id, JobState.QUEUED)
    record.state(job.id, JobState.RUNNING)
    assert record.get(job.id).started == began
