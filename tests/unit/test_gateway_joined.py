"""The gateway's side of joined workers: tokens, names, leases, and what a worker may see."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers import until
from pydantic import SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.job import Submission
from comfy_remote.gateway.tokens import new_token, sha256_of_token
from comfy_remote.gateway.worker_list import WorkerList
from comfy_remote.gateway.worker_states import WorkerStates
from comfy_remote.wire.runpod import RunPodState, error_from_runpod

LIMITS = GatewayLimits(poll_wait=0.5, free_bytes=0, run_bytes=100_000)
HOME, OTHER_HOME = "a" * 32, "b" * 32


class Box:
    """A worker's requests, as they are sent."""

    def __init__(self, gateway: GatewayServer, token: str, name: str = "desk") -> None:
        self.base = f"{gateway.endpoint_url}/workers/{name}"
        self.headers = {"Authorization": f"Bearer {token}"}
        self.boot = f"{HOME}.{'0' * 32}"
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> Box:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def ask(
        self, method: str, path: str, data: Any = None, *, timeout: float = 120.0
    ) -> tuple[int, bytes, Any]:
        body = data if isinstance(data, bytes) else json.dumps(data or {}).encode()
        async with self._session.request(
            method,
            f"{self.base}/{path}",
            data=body,
            headers={**self.headers, "Comfy-Remote-Boot": self.boot},
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as answer:
            return answer.status, await answer.read(), answer.headers

    async def hello(self, boot: str | None = None, **more: Any) -> tuple[int, Any]:
        self.boot = boot or self.boot
        status, body, _ = await self.ask("POST", "hello", {"boot": self.boot, **more})
        return status, json.loads(body)

    async def take(self, *has: str) -> tuple[str, int, Any] | None:
        holds = [{"job": job, "attempt": 1, "state": "ended"} for job in has]
        status, body, headers = await self.ask("POST", "take", {"holds": holds})
        if status == 204:
            return None
        assert status == 200, body
        job, _, attempt = headers["Comfy-Remote-Job"].partition("/")
        return job, int(attempt), json.loads(body)

    async def done(self, job: str, attempt: int, **result: Any) -> tuple[int, Any]:
        status, body, _ = await self.ask("POST", f"jobs/{job}/{attempt}/done", result)
        return status, json.loads(body)


async def token_for(gateway: GatewayServer, name: str = "desk") -> str:
    token = new_token(name)
    await gateway.journal.change_workers(lambda listed: listed.add(name, sha256_of_token(token)))
    await gateway.joined.read_words()
    return token


async def submit(gateway: GatewayServer, payload: object = 1, **policy: Any) -> str:
    submission = Submission.model_validate({"input": payload, "policy": policy})
    status = await gateway.endpoint.submit(submission, sync=False, idempotency_key=None)
    return str(status["id"])


async def status(gateway: GatewayServer, job: str) -> dict[str, Any]:
    found = await gateway.queue.get(job)
    whole: dict[str, Any] = json.loads(await gateway.endpoint.whole_status(found))
    return whole


async def asking(gateway: GatewayServer, box: Box) -> None:
    """Return once the box has a question open."""
    await until(lambda: gateway.joined._polls[box.boot])


async def not_asking(gateway: GatewayServer, box: Box) -> None:
    """Return once the gateway has seen that the box's questions have ended."""
    await until(lambda: not gateway.joined._polls[box.boot])


@asynccontextmanager
async def running(
    folder: Path, poll_wait: float = LIMITS.poll_wait
) -> AsyncIterator[GatewayServer]:
    limits = replace(LIMITS, poll_wait=poll_wait)
    async with GatewayServer(limits=limits, folder=folder) as server:
        yield server


@pytest.fixture
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayServer]:
    async with running(tmp_path, getattr(request, "param", LIMITS.poll_wait)) as server:
        yield server


PATIENT = pytest.mark.parametrize("gateway", [90.0], indirect=True, ids=["patient"])
"""Questions stay open until something happens, however slow the machine is."""


@pytest.fixture
async def box(gateway: GatewayServer) -> AsyncIterator[Box]:
    async with Box(gateway, await token_for(gateway)) as made:
        yield made


async def test_a_job_from_take_to_result(gateway: GatewayServer, box: Box) -> None:
    assert await box.hello() == (200, {"drop": []})
    job = await submit(gateway, {"x": 1})
    assert await box.take() == (job, 1, {"x": 1})
    await box.ask("POST", f"jobs/{job}/1/progress", {"output": {"sequence": 1}})
    assert (await status(gateway, job))["output"] == {"sequence": 1}
    assert await box.done(job, 1, output={"y": 2}) == (200, {"taken": True})
    found = await status(gateway, job)
    assert (found["status"], found["output"], found["workerId"]) == (
        "COMPLETED",
        {"y": 2},
        "desk",
    )
    # Its answer was lost, and it is said again.
    assert (await box.done(job, 1, output={"y": 2}))[0] == 200
    assert (await status(gateway, job))["output"] == {"y": 2}


async def test_a_token_lets_in_its_name_only(gateway: GatewayServer, box: Box) -> None:
    token = box.headers["Authorization"].removeprefix("Bearer ")
    for name, wanted in (("desk.gpu0", 200), ("desk2", 401), ("attic", 401), ("desk.a.b", 401)):
        async with Box(gateway, token, name) as other:
            assert (await other.hello())[0] == wanted, name
    for wrong in ("", "desk.", token[:-1], token + "x", "\u00e4"):
        async with Box(gateway, wrong) as other:
            assert (await other.hello())[0] == 401
    box.headers = {"Authorization": token}  # without its scheme
    assert (await box.hello())[0] == 401


async def test_the_tokens_of_clients_and_of_sdk_workers_are_not_taken(tmp_path: Path) -> None:
    client = SecretStr("client-token-of-this-gateway")
    async with GatewayServer(limits=LIMITS, folder=tmp_path, token=client) as gateway:
        for token in (client.get_secret_value(), gateway.worker_token.get_secret_value()):
            async with Box(gateway, token) as box:
                assert (await box.hello())[0] == 401
        async with Box(gateway, await token_for(gateway)) as box:
            assert (await box.hello())[0] == 200
            url = f"{gateway.endpoint_url}/health"
            async with box._session.get(url, headers=box.headers) as answer:
                assert answer.status == 401


async def test_a_worker_sees_no_job_of_another(gateway: GatewayServer, box: Box) -> None:
    await box.hello()
    job = await submit(gateway, {"secret": 1})
    assert await box.take() is not None
    async with Box(gateway, await token_for(gateway, "attic"), "attic") as other:
        await other.hello(f"{OTHER_HOME}.{'1' * 32}")
        assert await other.done(job, 1, output="evil") == (200, {"taken": False})
        await other.ask("POST", f"jobs/{job}/1/progress", {"output": "evil"})
        await other.ask("POST", f"jobs/{job}/1/back")
        content = b"evil"
        sha256 = hashlib.sha256(content).hexdigest()
        assert (await other.ask("PUT", f"jobs/{job}/1/files/{sha256}", content))[0] == 404
        assert (await other.ask("GET", f"files/{job}/{sha256}"))[0] == 404
        stop = {"holds": [{"job": job, "attempt": 1}]}
        assert json.loads((await other.ask("POST", "ping", stop))[1])["stop"] == [
            {"job": job, "attempt": 1, "state": "running"}
        ]
    found = await status(gateway, job)
    assert (found["status"], found.get("output")) == ("IN_PROGRESS", None)


async def test_a_large_output_is_there_for_clients(gateway: GatewayServer, box: Box) -> None:
    content = b"pixels" * 100_000
    sha256 = hashlib.sha256(content).hexdigest()
    await box.hello()
    job = await submit(gateway)
    await box.take()
    path = f"jobs/{job}/1/files/{sha256}"
    assert (await box.ask("HEAD", path))[0] == 404
    assert (await box.ask("PUT", path, b"damaged"))[0] == 502
    assert (await box.ask("PUT", path, content))[0] == 201
    assert (await box.ask("HEAD", path))[0] == 200
    await box.done(job, 1, output={"url": f"files/{job}/{sha256}"})
    url = f"{gateway.endpoint_url}/files/{job}/{sha256}"
    async with box._session.get(url) as answer:
        assert await answer.read() == content


async def test_a_result_that_is_too_large_fails_the_job(gateway: GatewayServer, box: Box) -> None:
    await box.hello()
    job = await submit(gateway)
    await box.take()
    answer, said = await box.done(job, 1, output="x" * 200_000)
    assert (answer, said["comfy_remote"]["code"]) == (413, "output_too_large")
    assert (await status(gateway, job))["status"] == "FAILED"


@PATIENT
async def test_a_cancel_reaches_the_worker(gateway: GatewayServer, box: Box) -> None:
    await box.hello()
    pinging = asyncio.create_task(box.ask("POST", "ping", {}))
    job = await submit(gateway)
    await box.take()
    await asking(gateway, box)
    await gateway.queue.cancel(job)
    _, body, _ = await asyncio.wait_for(pinging, 60)
    wanted = [{"job": job, "attempt": 1, "state": "running"}]
    assert json.loads(body)["stop"] == wanted
    # That answer is lost: whoever still runs it hears it again, at once.
    holds = {"holds": [{"job": job, "attempt": 1}]}
    _, body, _ = await asyncio.wait_for(box.ask("POST", "ping", holds), 60)
    assert json.loads(body)["stop"] == wanted


async def test_a_job_that_never_arrived_is_put_back_by_the_next_hello(
    gateway: GatewayServer, box: Box
) -> None:
    await box.hello()
    job = await submit(gateway)
    assert await box.take() is not None  # and the answer is lost
    await box.hello()
    assert await box.take() == (job, 1, 1)


async def test_one_that_asks_for_a_job_without_the_one_it_has_says_hello_first(
    gateway: GatewayServer, box: Box
) -> None:
    await box.hello()
    job = await submit(gateway)
    assert await box.take() is not None  # and the answer is lost
    status_code, body, _ = await box.ask("POST", "take", {})
    assert (status_code, json.loads(body)["comfy_remote"]["code"]) == (409, "say_hello")
    await box.hello()
    assert await box.take() == (job, 1, 1)


@PATIENT
async def test_a_hello_ends_the_question_before_it(gateway: GatewayServer, box: Box) -> None:
    await box.hello()
    taking = asyncio.create_task(box.take())
    await asking(gateway, box)
    await box.hello()
    assert await asyncio.wait_for(taking, 60) is None
    job = await submit(gateway)
    assert await box.take() == (job, 1, 1)


@PATIENT
async def test_who_hangs_up_gets_no_job(gateway: GatewayServer, box: Box) -> None:
    await box.hello()
    taking = asyncio.create_task(box.ask("POST", "take"))
    await asking(gateway, box)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await not_asking(gateway, box)
    job = await submit(gateway)
    assert (await gateway.queue.get(job)).state is RunPodState.IN_QUEUE
    assert await box.take() == (job, 1, 1)


async def test_a_worker_that_has_started_again_lost_its_job_and_keeps_its_result(
    gateway: GatewayServer, box: Box
) -> None:
    await box.hello()
    lost, ended = await submit(gateway), await submit(gateway, priority=-1)
    assert (await box.take() or ("",))[0] == lost
    assert (await box.take(lost) or ("",))[0] == ended
    holds = [
        {"job": ended, "attempt": 1, "state": "ended"},
        {"job": "no-such-job", "attempt": 1, "state": "ended"},
    ]
    answer, said = await box.hello(f"{HOME}.{'1' * 32}", holds=holds)
    assert (answer, said["drop"]) == (200, [holds[1]])
    assert await box.done(ended, 1, output=1) == (200, {"taken": True})
    assert await box.take() == (lost, 2, 1)
    assert (await status(gateway, lost))["attempt"] == 2


async def test_a_new_start_does_not_prove_that_an_engine_which_runs_by_itself_has_stopped(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as gateway:
        token = await token_for(gateway)
        async with Box(gateway, token) as box:
            await box.hello(f"{HOME}.{'0' * 32}.url")
            job = await submit(gateway)
            assert await box.take() == (job, 1, 1)
    # The gateway knows it of that start also after its own restart, and whatever the next one has.
    async with running(tmp_path) as gateway, Box(gateway, token) as box:
        await box.hello(f"{HOME}.{'1' * 32}")
        found = await status(gateway, job)
        assert (found["status"], found.get("attempt")) == ("FAILED", None)
        error = error_from_runpod(found["error"])
        assert error.code == "output_lost"
        assert "may still be running it" in error.message


async def test_jobs_go_on_through_a_restart_of_the_gateway(tmp_path: Path) -> None:
    async with running(tmp_path, 90.0) as gateway:
        token = await token_for(gateway)
        async with Box(gateway, token) as box:
            await box.hello()
            job = await submit(gateway)
            await box.take()
            pinging = asyncio.create_task(box.ask("POST", "ping", {}))
            await asking(gateway, box)
            await gateway.stop()
            _, body, _ = await pinging
            assert json.loads(body)["stop"] == []
    async with running(tmp_path) as gateway, Box(gateway, token) as box:
        status_code, body, _ = await box.ask("POST", "ping", {})
        assert (status_code, json.loads(body)["comfy_remote"]["code"]) == (409, "say_hello")
        assert (await box.done(job, 1, output=1))[0] == 409
        _, said = await box.hello(holds=[{"job": job, "attempt": 1, "state": "running"}])
        assert said["drop"] == []
        assert await box.done(job, 1, output={"late": True}) == (200, {"taken": True})
        found = await status(gateway, job)
        assert (found["status"], found["output"], found.get("attempt")) == (
            "COMPLETED",
            {"late": True},
            None,
        )


async def test_after_a_restart_a_job_waits_for_the_box_that_has_its_nodes(tmp_path: Path) -> None:
    rare, lacks = {"1": {"class_type": "Rare"}}, {"nodes": ["Common"]}
    async with running(tmp_path) as gateway:
        tokens = {name: await token_for(gateway, name) for name in ("attic", "cellar")}
        job = await submit(gateway, {"workflow": rare})
    async with (
        running(tmp_path) as gateway,
        Box(gateway, tokens["attic"], "attic") as attic,
        Box(gateway, tokens["cellar"], "cellar") as cellar,
    ):
        await attic.hello(report=lacks)
        assert await attic.take() is None
        await cellar.hello(report={"nodes": ["Common", "Rare"]})
        taken = await cellar.take()
        assert taken is not None
        assert taken[0] == job


async def test_nobody_is_waited_for_where_no_worker_may_come(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        for name in ("drained", "gone", "desk"):
            await token_for(gateway, name)
    async with running(tmp_path) as gateway:
        assert gateway.joined.notes.any_expected
        await gateway.journal.change_workers(lambda listed: listed.say("drained", "drain"))
        await gateway.journal.change_workers(lambda listed: listed.say("gone", "gone"))
        await gateway.journal.change_workers(lambda listed: listed.remove("desk"))
        await gateway.joined.read_words()
        assert not gateway.joined.notes.any_expected


@PATIENT
async def test_a_name_belongs_to_one_connected_process(gateway: GatewayServer, box: Box) -> None:
    token = box.headers["Authorization"].removeprefix("Bearer ")
    await box.hello()
    pinging = asyncio.create_task(box.ask("POST", "ping", {}))
    await asking(gateway, box)
    async with Box(gateway, token) as second:
        for home in (HOME, OTHER_HOME):
            answer, said = await second.hello(f"{home}.{'1' * 32}")
            assert (answer, said["comfy_remote"]["code"]) == (409, "worker_name_taken")
        pinging.cancel()  # as by kill -9, the system closes its connections
        await asyncio.gather(pinging, return_exceptions=True)
        await box._session.close()
        await not_asking(gateway, box)
        assert (await second.hello(f"{OTHER_HOME}.{'1' * 32}"))[0] == 200


async def test_a_name_stays_with_the_machine_that_has_its_jobs_until_its_owner_says(
    gateway: GatewayServer, box: Box
) -> None:
    token = box.headers["Authorization"].removeprefix("Bearer ")
    await box.hello()
    job = await submit(gateway)
    await box.take()
    async with Box(gateway, token) as second:
        answer, said = await second.hello(f"{OTHER_HOME}.{'1' * 32}")
        assert (answer, said["comfy_remote"]["code"]) == (409, "worker_name_taken")
        assert "comfy-remote workers gone desk" in said["error"]
        with WorkerList.of(gateway.folder) as listed:  # as another process does
            listed.say("desk", "gone")
        await until(lambda: gateway.queue.workers.get("desk") is None)
        assert (await second.hello())[0] == 200
        assert await second.take() == (job, 2, 1)
    # The first one comes back after all.
    _, said = await box.hello(holds=[{"job": job, "attempt": 1, "state": "running"}])
    assert said["comfy_remote"]["code"] == "worker_name_taken"


async def test_a_drained_worker_gets_nothing_until_that_is_undone(
    gateway: GatewayServer, box: Box
) -> None:
    await box.hello()
    with WorkerList.of(gateway.folder) as listed:
        listed.say("desk", "drain")
    while not json.loads((await box.ask("POST", "ping", {}))[1])["draining"]:
        pass  # each takes half a second at most
    job = await submit(gateway)
    assert await box.take() is None
    await box.hello()
    assert await box.take() is None
    await gateway.joined.drain("desk", on=False)
    assert await box.take() == (job, 1, 1)


async def test_a_worker_that_ended_by_itself_gets_jobs_at_its_next_start(
    gateway: GatewayServer, box: Box
) -> None:
    job = await submit(gateway)
    await box.hello(draining=True)
    assert await box.take() is None
    await box.hello(f"{HOME}.{'1' * 32}")
    assert await box.take() == (job, 1, 1)


async def test_a_removed_worker_is_let_in_no_more_and_its_job_goes_to_others(
    gateway: GatewayServer, box: Box
) -> None:
    await box.hello()
    job = await submit(gateway)
    await box.take()
    with WorkerList.of(gateway.folder) as listed:
        listed.remove("desk")
    await until(lambda: not gateway.queue.running, 3)
    assert (await box.hello())[0] == 401
    assert (await box.done(job, 1, output=1))[0] == 401
    async with Box(gateway, await token_for(gateway, "attic"), "attic") as other:
        await other.hello()
        assert await other.take() == (job, 2, 1)


async def test_a_broken_worker_gets_nothing(gateway: GatewayServer, box: Box) -> None:
    await submit(gateway)
    await box.hello(broken="No GPU.\x1b[2J")
    assert await box.take() is None
    worker = gateway.queue.workers.get("desk")
    assert worker is not None
    assert worker.broken == "No GPU.\ufffd[2J"


async def test_labels_and_memory_of_the_report_decide(gateway: GatewayServer, box: Box) -> None:
    await box.hello(report={"labels": ["fast"], "memory": 8 * 2**30})
    await submit(gateway, labels=["slow"])
    await submit(gateway, memory=24 * 2**30)
    fits = await submit(gateway, labels=["fast"], memory=8 * 2**30)
    assert (await box.take() or ("",))[0] == fits
    assert await box.take(fits) is None


BAD_HELLOS = {
    "no boot": {"boot": "x"},
    "a path": {"boot": "../" * 10},
    "too many": {"boot": f"{HOME}.{HOME}", "report": {"nodes": ["a"] * 50_001}},
    "a long name": {"boot": f"{HOME}.{HOME}", "report": {"labels": ["a" * 301]}},
    "a job's path": {"boot": f"{HOME}.{HOME}", "holds": [{"job": "../x", "attempt": 1}]},
}


async def test_a_hello_that_was_overtaken_by_a_later_one_takes_no_job_away(
    gateway: GatewayServer, box: Box
) -> None:
    """After a cut, the network may deliver what the worker has long given up waiting for."""
    await box.hello(number=2)
    job = await submit(gateway)
    assert await box.take() == (job, 1, 1)
    assert (await box.hello(number=1))[0] == 409
    assert (await status(gateway, job))["status"] == "IN_PROGRESS"
    assert await box.done(job, 1, output=1) == (200, {"taken": True})


@pytest.mark.parametrize("name", BAD_HELLOS)
async def test_a_hello_that_is_not_valid_changes_nothing(
    gateway: GatewayServer, box: Box, name: str
) -> None:
    status_code, _, _ = await box.ask("POST", "hello", BAD_HELLOS[name])
    assert status_code == 400
    assert gateway.queue.workers.get("desk") is None


async def test_how_the_workers_are_is_in_a_file(gateway: GatewayServer, box: Box) -> None:
    await box.hello(report={"engine": "ComfyUI 0.33.0", "device": "cuda:0 Big"})
    job = await submit(gateway)
    await box.take()

    def runs() -> bool:
        states = WorkerStates.read(gateway.folder)
        return states is not None and any(
            (one.name, one.state, one.jobs, one.about)
            == ("desk", "running", [job], "ComfyUI 0.33.0, cuda:0 Big")
            for one in states.workers
        )

    await until(runs, 5)
    assert (states := WorkerStates.read(gateway.folder)) is not None
    assert states.is_current()
