"""A plan for RunPod is carried out: against a strict double of its REST API, with answers lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from pydantic import SecretStr
from runpod_double import KEY, RunPodDouble

from comfy_remote.deploy.runpod.carrying import CarryTimes, Deployed, carry_out
from comfy_remote.deploy.runpod.mark import MARK_VARIABLE, Mark
from comfy_remote.deploy.runpod.plan import Plan, plan_deployment, plan_removal
from comfy_remote.deploy.runpod.record import DeploymentRecord, Made
from comfy_remote.deploy.runpod.there import There, look
from comfy_remote.deploy.runpod.wanted import VolumeWanted, Wanted
from comfy_remote.errors import (
    AuthenticationError,
    ConfigurationError,
    DeploymentFailed,
    LocalStorageError,
    TargetError,
)
from comfy_remote.targets.runpod.account import RunPodAccount

TIMES = CarryTimes(looks=3, between=0.01)
ENDPOINT, VOLUME = "POST /v2/serverless", "POST /v2/network-volumes"
WANTED = Wanted("portraits", gpus=("RTX 4090",), volume=VolumeWanted(None, 100, "EU-RO-1"))


@pytest.fixture
def double() -> Iterator[RunPodDouble]:
    with RunPodDouble() as one:
        yield one


class Machine:
    """Somebody's, with a record of its own."""

    def __init__(self, double: RunPodDouble, folder: Path) -> None:
        self.double = double
        self.record = DeploymentRecord(folder)

    def account(self) -> RunPodAccount:
        return RunPodAccount(SecretStr(KEY), {"RUNPOD_API_BASE_URL": self.double.url})

    async def deploy(self, wanted: Wanted = WANTED, before: Any = None) -> Deployed:
        mark = Mark.new(wanted.name)

        def planner(there: There, made: Made | None) -> Plan:
            return plan_deployment(wanted, there, made, mark)

        return await self._do(planner, wanted.name, before)

    async def remove(self, name: str = "portraits", *, with_volume: bool = True) -> Deployed:
        def planner(there: There, made: Made | None) -> Plan:
            return plan_removal(name, there, made, with_volume=with_volume)

        return await self._do(planner, name, None)

    async def _do(self, planner: Any, name: str, before: Any) -> Deployed:
        async with self.account() as account:
            made = self.record.made(name)
            plan = planner(await look(account, made), made)
            if before is not None:
                await before()
            return await carry_out(account, plan, planner, self.record, times=TIMES)


@pytest.fixture
def machine(double: RunPodDouble, tmp_path: Path, quick_retries: None) -> Machine:
    return Machine(double, tmp_path / "home")


async def test_from_nothing_to_an_endpoint_with_a_volume_and_back(
    double: RunPodDouble, machine: Machine
) -> None:
    deployed = await machine.deploy()
    assert deployed.endpoint is not None
    assert deployed.volume is not None
    (endpoint,), (volume,) = double.endpoints.values(), double.volumes.values()
    assert endpoint["networkVolumes"] == [volume["id"]] == [deployed.volume.id]
    assert (endpoint["flashboot"], endpoint["timeout"]) == ("FLASHBOOT", 3_600_000)
    assert endpoint["dataCenterIds"] == ["EU-RO-1"]
    made = machine.record.made("portraits")
    assert made is not None
    assert (made.endpoint, made.volume) == (endpoint["id"], volume["id"])
    assert endpoint["env"][MARK_VARIABLE] == f"portraits/{made.nonce}"
    assert deployed.notes == ()

    changes = list(double.changes)
    assert (await machine.deploy()).endpoint == deployed.endpoint
    assert double.changes == changes  # the same again changes nothing

    await machine.remove()
    assert (double.endpoints, double.volumes) == ({}, {})
    assert machine.record.made("portraits") is None


@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize("lost", [VOLUME, ENDPOINT])
async def test_an_answer_that_got_lost_is_found_again(
    double: RunPodDouble, machine: Machine, lost: str, hidden: int
) -> None:
    double.lost, double.hidden = [lost], hidden
    deployed = await machine.deploy()
    assert double.lost == []
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    assert deployed.endpoint is not None
    assert deployed.endpoint.id in double.endpoints
    assert double.changes == [VOLUME, ENDPOINT]


@pytest.mark.parametrize("garbled", [VOLUME, ENDPOINT])
async def test_what_was_made_with_an_answer_that_nobody_understands_is_found(
    double: RunPodDouble, machine: Machine, garbled: str
) -> None:
    double.garbled = [garbled]
    deployed = await machine.deploy()
    assert double.garbled == []
    assert deployed.endpoint is not None
    assert double.changes == [VOLUME, ENDPOINT]


async def test_what_is_on_record_is_not_made_again_while_lists_are_behind(
    double: RunPodDouble, machine: Machine
) -> None:
    double.hidden = 20
    await machine.deploy()
    await machine.deploy()
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    double.endpoints.clear()  # removed in the console
    await machine.deploy()
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)


async def test_a_volume_that_cannot_be_removed_yet_is_named_and_stays_on_record(
    double: RunPodDouble, machine: Machine
) -> None:
    await machine.deploy()
    (volume,) = double.volumes
    worker: dict[str, Any] = {"id": "worker", "networkVolumes": [volume]}

    def busy(method: str, path: str) -> None:
        if (method, path) == ("DELETE", f"/v2/network-volumes/{volume}"):
            double.endpoints["worker"] = worker

    double.before = busy
    with pytest.raises(TargetError, match="in use") as failed:
        await machine.remove()
    assert f"The volume {volume} stays, and goes on costing money" in str(failed.value.advice)
    made = machine.record.made("portraits")
    assert made is not None
    assert made.volume == volume


@pytest.mark.parametrize("lost", [VOLUME, ENDPOINT])
async def test_what_turns_up_late_is_gone_on_with(
    double: RunPodDouble, machine: Machine, lost: str
) -> None:
    double.lost, double.hidden = [lost], TIMES.looks + 1
    with pytest.raises(DeploymentFailed, match="not known whether RunPod has made") as failed:
        await machine.deploy()
    assert "Do the same again in a minute" in failed.value.advice
    double.hidden = 0
    for one in (*double.endpoints, *double.volumes):
        double.show(one)
    await machine.deploy()
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    assert sorted(double.changes) == sorted([VOLUME, ENDPOINT])


@pytest.mark.parametrize(
    "lost",
    [
        "PATCH /v2/serverless/{endpoint}",
        "PATCH /v2/network-volumes/{volume}",
        "DELETE /v2/serverless/{endpoint}",
        "DELETE /v2/network-volumes/{volume}",
    ],
)
async def test_a_change_and_a_removal_may_arrive_twice(
    double: RunPodDouble, machine: Machine, lost: str
) -> None:
    endpoint = (await machine.deploy()).endpoint
    assert endpoint is not None
    (volume,) = double.volumes
    double.lost = [lost.format(endpoint=endpoint.id, volume=volume)]
    if lost.startswith("PATCH"):
        wanted = Wanted("portraits", max_workers=5, volume=VolumeWanted(None, 200))
        deployed = await machine.deploy(wanted)
        assert deployed.endpoint is not None
        assert double.endpoints[endpoint.id]["workers"]["max"] == 5
        assert next(iter(double.volumes.values()))["size"] == 200
    else:
        await machine.remove()
        assert (double.endpoints, double.volumes) == ({}, {})
    assert double.lost == []


@pytest.mark.parametrize("lost", [VOLUME, ENDPOINT])
async def test_a_runpod_that_is_gone_after_the_answer_got_lost(
    double: RunPodDouble, machine: Machine, lost: str
) -> None:
    double.lost = [lost]
    made = False

    def before(method: str, path: str) -> None:
        nonlocal made
        double.lost += ["GET /v2/serverless", "GET /v2/network-volumes"] if made else []
        made = made or f"{method} {path}" == lost

    double.before = before
    with pytest.raises(DeploymentFailed, match="not known whether RunPod has made"):
        await machine.deploy()
    double.before = lambda _method, _path: None
    double.lost = []
    await machine.deploy()
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    assert double.changes == [VOLUME, ENDPOINT]


async def test_an_odd_endpoint_of_the_account_hides_no_other(
    double: RunPodDouble, machine: Machine
) -> None:
    await machine.deploy()
    (endpoint,) = double.endpoints.values()
    odd = {"id": "odd", "name": "theirs", "gpu": {"pools": None}, "createdAt": None, "new": 1}
    double.endpoints["odd"] = {**odd, "networkVolumes": [], "workers": None, "scaling": None}
    double.unlike_the_document = True
    deployed = await machine.deploy()
    assert deployed.endpoint is not None
    assert deployed.endpoint.id == endpoint["id"]


async def test_a_refused_step_leaves_what_was_made_recorded_and_the_next_run_goes_on(
    double: RunPodDouble, machine: Machine
) -> None:
    double.balance = False
    with pytest.raises(ConfigurationError, match="balance is too low") as refused:
        await machine.deploy()
    (volume,) = double.volumes
    assert f"The volume {volume} (100 GB, $7.00 a month) was made" in refused.value.advice
    made = machine.record.made("portraits")
    assert made is not None
    assert (made.endpoint, made.volume) == (None, volume)
    double.balance = True
    await machine.deploy()
    assert (len(double.endpoints), list(double.volumes)) == (1, [volume])


async def test_an_interrupted_deployment_is_found_by_its_mark(
    double: RunPodDouble, machine: Machine
) -> None:
    """Killed while RunPod makes the endpoint: nothing here knows its id."""
    arrived, goes_on = threading.Event(), threading.Event()

    def before(method: str, path: str) -> None:
        if (method, path) == ("POST", "/v2/serverless"):
            arrived.set()
            assert goes_on.wait(30)

    double.before = before
    deploying = asyncio.create_task(machine.deploy())
    assert await asyncio.to_thread(arrived.wait, 30)
    deploying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    goes_on.set()
    await until(lambda: len(double.endpoints) == 1)
    made = machine.record.made("portraits")
    assert made is not None
    assert made.endpoint is None
    await machine.deploy()
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    again = machine.record.made("portraits")
    assert again is not None
    assert again.endpoint in double.endpoints


async def test_two_deployments_at_once_from_one_machine(
    double: RunPodDouble, machine: Machine
) -> None:
    with machine.record.changing(), pytest.raises(LocalStorageError, match="being deployed"):
        await machine.deploy()
    assert double.changes == []


async def test_what_was_agreed_to_is_done_or_nothing(
    double: RunPodDouble, machine: Machine, tmp_path: Path
) -> None:
    other = Machine(double, tmp_path / "other")

    async def quicker() -> None:
        await other.deploy()

    with pytest.raises(ConfigurationError, match="has changed since"):
        await machine.deploy(before=quicker)
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)
    await machine.deploy()  # it finds what the other one has made
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)


async def test_two_machines_at_once_end_with_one_endpoint(
    double: RunPodDouble, machine: Machine, tmp_path: Path
) -> None:
    other = Machine(double, tmp_path / "other")
    both = threading.Barrier(2)

    def before(method: str, path: str) -> None:
        # Both have seen that nothing is there.
        if (method, path) == ("POST", "/v2/network-volumes"):
            both.wait(30)

    double.before = before
    ours, theirs = await asyncio.gather(machine.deploy(), other.deploy())
    (endpoint,), (volume,) = double.endpoints.values(), double.volumes.values()
    assert endpoint["networkVolumes"] == [volume["id"]]
    assert {one.endpoint and one.endpoint.id for one in (ours, theirs)} == {endpoint["id"]}
    double.before = lambda _method, _path: None
    changes = list(double.changes)
    for each in (machine, other):
        await each.deploy()
    assert double.changes == changes
    await machine.remove()
    assert (double.endpoints, double.volumes) == ({}, {})


async def test_what_others_have_stays(double: RunPodDouble, machine: Machine) -> None:
    await machine.deploy(Wanted("video", gpus=("L40S",)))
    await machine.deploy()
    await machine.remove("portraits", with_volume=False)
    assert [one["name"] for one in double.endpoints.values()] == ["video"]
    assert len(double.volumes) == 1
    made = machine.record.made("portraits")
    assert made is not None
    assert made.volume in double.volumes
    with pytest.raises(ConfigurationError, match="nothing that Comfy Remote made"):
        await machine.remove("image-generator")
    await machine.remove("portraits")  # the volume alone
    assert double.volumes == {}


async def test_a_key_that_may_only_read(double: RunPodDouble, machine: Machine) -> None:
    double.may_change = False
    with pytest.raises(AuthenticationError):
        await machine.deploy()
    assert (double.endpoints, double.volumes) == ({}, {})


async def test_a_runpod_that_cannot_be_reached_is_no_endpoint_that_may_be_there(
    double: RunPodDouble, machine: Machine
) -> None:
    async with machine.account() as account:
        there = await look(account)
    with RunPodDouble() as gone:
        pass
    machine.double = gone
    plan = plan_deployment(WANTED, there, None, Mark.new("portraits"))
    async with machine.account() as account:
        with pytest.raises(TargetError) as failed:
            await carry_out(account, plan, lambda *_: plan, machine.record, times=TIMES)
    assert not isinstance(failed.value, DeploymentFailed)


async def test_a_value_that_runpod_does_not_take_over_is_mentioned(
    double: RunPodDouble, machine: Machine
) -> None:
    double.forced = {"flashboot": "OFF"}
    deployed = await machine.deploy()
    assert deployed.notes == ("RunPod has set FlashBoot otherwise than it was asked to.",)


def test_a_record_of_a_later_version_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "deployments.json").write_text('{"version": 2}')
    with pytest.raises(LocalStorageError, match="not a record of this version"):
        DeploymentRecord(tmp_path).made("portraits")
