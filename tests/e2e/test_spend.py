"""What a job costs, by what a real gateway tells of it; a client killed by kill -9 meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from owner import configure
from serve_kit import picture

from comfy_remote.errors import SpendingCap
from comfy_remote.events import JobState
from comfy_remote.gateway import GatewayServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.record.ledger import Booked
from comfy_remote.targets.runpod.kind import EndpointOptions, RunPodKind
from comfy_remote.targets.runpod.target import RunPodTarget

# An hour of it costs $3.60, so a second a tenth of a cent.
GPU = """
cap_per_day = 0.05
[targets.gpu]
target = "runpod:ep"
price_per_hour = 3.6
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    configure(tmp_path / "home", GPU)
    return tmp_path / "home"


async def test_a_job_is_reserved_by_its_policy_and_settled_by_its_execution_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gateway is always its owner's, so it costs nothing: here it stands for RunPod.
    monkeypatch.setattr(RunPodKind, "billing", lambda *_: "by run")

    async def handler(job_id: str, payload: object, report: object) -> dict[str, object]:
        return {"format": "comfy-remote/1", "status": "success", "outputs": []}

    options = EndpointOptions(home=home, policy={"executionTimeout": 30_000})
    with Record(home) as record:
        async with (
            GatewayServer(endpoint_id="ep") as gateway,
            Client(
                RunPodTarget("ep", base_url=gateway.url, name="gpu", options=options),
                record=record,
                on_interrupt=None,
            ) as client,
        ):
            job = await client.submit(picture())
            booking = record.ledger.of(job.id)
            assert booking is not None
            assert (booking.booked, booking.bound) == (Booked.HELD, 30.0)
            assert booking.reserved == pytest.approx(0.03)
            with pytest.raises(SpendingCap, match=r"\$0\.03 spent or reserved today"):
                await client.submit(picture())
            gateway.add_local_worker(handler)  # type: ignore[arg-type]
            finished = await job.wait()
            assert finished.state is JobState.SUCCEEDED
            said = finished.details["run_seconds"]
            assert isinstance(said, float)
            await record.written()
            booking = record.ledger.of(job.id)
            assert booking is not None
            assert (booking.booked, booking.seconds) == (Booked.SETTLED, said)
            assert booking.amount == pytest.approx(said / 1000)
            # What it did not need is there for the next one.
            await (await client.submit(picture())).wait()
        assert [one.runs for one in record.ledger.spent(0.0)] == [2]


_KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from fake_target import FakeTarget
from comfy_remote.jobs.client import Client

target = FakeTarget()
target.name = "gpu"
# The job is recorded, what it may cost is reserved, and nobody knows whether it was sent.
target.on_submit = lambda request: os.kill(os.getpid(), signal.SIGKILL)


async def main():
    async with Client(target, on_interrupt=None) as client:
        await client.submit({"1": {"class_type": "KSampler", "inputs": {}}}, cap=0.6)


asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_client_killed_while_it_submits_leaves_its_reservation(home: Path) -> None:
    configure(home, GPU.replace("cap_per_day = 0.05", "cap_per_day = 1"))
    unit = Path(__file__).parents[1] / "unit"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(unit)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    with Record(home) as record:
        [job] = record.newest()
        assert (job.state, job.ref) == (JobState.QUEUED, None)
        booking = record.ledger.of(job.id)
        assert booking is not None
        assert (booking.booked, booking.amount) == (Booked.HELD, pytest.approx(0.6))
