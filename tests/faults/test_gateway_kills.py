"""A gateway that is killed at any moment, and started again: what was promised holds.

Each test is a row of the table in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gateway_process import TOKEN, gateway_process
from helpers import free_port, until

from comfy_remote.wire.runpod import error_from_runpod

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LARGE = 40_000
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@dataclass
class Client:
    """One that goes on asking, whatever happens to the gateway.

    Attributes:
        acknowledged: The ids that it was given, by key.
    """

    url: str
    session: aiohttp.ClientSession
    acknowledged: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The answer, however often it has to be asked for."""
        deadline = time.monotonic() + 200
        while True:
            assert time.monotonic() < deadline, f"no answer to {path}"
            try:
                async with self.session.request(method, f"{self.url}/{path}", **more) as answer:
                    said: dict[str, Any] = await answer.json()
                    if answer.status == 200:
                        return said
                    assert answer.status in (429, 503, 507), said
            except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError):
                pass
            await asyncio.sleep(0.02)

    async def run(self, key: str, value: object, **more: object) -> str:
        """Submit a job, and note its id when the gateway has said that it has it."""
        body = {"input": value, **more}
        job = await self.ask("POST", "run", json=body, headers={"Idempotency-Key": key})
        assert self.acknowledged.setdefault(key, job["id"]) == job["id"]
        return str(job["id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        return await self.ask("GET", f"status/{job_id}")

    async def ended(self, job_id: str) -> dict[str, Any]:
        while (status := await self.status(job_id))["status"] not in FINAL:
            await asyncio.sleep(0.02)
        return status


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout) as session:
        yield Client(url, session)


def noted(notes: Path) -> Counter[str]:
    """How often each ``start JOB`` and ``end JOB`` has happened."""
    return Counter(notes.read_text().splitlines() if notes.exists() else ())


async def test_whenever_it_is_killed_each_job_has_one_result_and_no_key_runs_twice(
    tmp_path: Path,
) -> None:
    chance = random.Random(13)
    port, notes, folder = free_port(), tmp_path / "notes", tmp_path / "desk"
    jobs = 60

    async def submit(client: Client) -> None:
        for n in range(jobs):
            value: dict[str, object] = {"echo": "x" * LARGE if n % 7 == 0 else n}
            if n % 3 == 0:
                value["seconds"] = 0.05
            await client.run(f"key {n}", value)
            await asyncio.sleep(0.04)

    async def follow(client: Client) -> dict[str, dict[str, Any]]:
        await submit(client)
        return {key: await client.ended(job) for key, job in client.acknowledged.items()}

    async with client_of(f"http://127.0.0.1:{port}/v2/desk") as client:
        following = asyncio.create_task(follow(client))
        kills = 0
        while not following.done():
            with gateway_process(tmp_path, folder=folder, port=port, notes=notes) as gateway:
                began = time.monotonic()
                patience = chance.uniform(0.05, 0.4) if kills < 8 else 200
                while time.monotonic() - began < patience and not following.done():
                    await asyncio.sleep(0.01)
                if not following.done():
                    gateway.process.kill()
                    kills += 1
        ends = following.result()
        assert kills >= 4
        with gateway_process(tmp_path, folder=folder, port=port, notes=notes):
            before = noted(notes)
            for n in range(jobs):
                job_id, status = client.acknowledged[f"key {n}"], ends[f"key {n}"]
                # What was told once is what is told after another restart.
                assert await client.status(job_id) == status
                assert await client.run(f"key {n}", {"echo": "something else"}) == job_id
                starts = before[f"start {job_id}"]
                if status["status"] == "COMPLETED":
                    assert status["output"] == {"echo": "x" * LARGE if n % 7 == 0 else n}
                    assert starts <= status.get("attempt", 1)
                else:
                    assert error_from_runpod(status["error"]).code == "engine_crashed"
                    assert status["attempt"] == 2
                assert starts <= 2
            await asyncio.sleep(0.3)
            assert noted(notes) == before, "nothing runs once its end was told"
            health = await client.ask("GET", "health")
            assert health["jobs"]["completed"] + health["jobs"]["failed"] == jobs


async def test_what_waits_and_what_is_done_is_there_after_a_kill(tmp_path: Path) -> None:
    port, notes, folder = free_port(), tmp_path / "notes", tmp_path / "desk"

    def started() -> Any:
        return gateway_process(tmp_path, folder=folder, port=port, notes=notes)

    async with client_of(f"http://127.0.0.1:{port}/v2/desk") as client:
        with started() as gateway:
            done = await client.ended(await client.run("done", {"echo": "x" * LARGE}))
            failed = await client.ended(await client.run("failed", {"fail": 1}))
            long = await client.run("long", {"echo": 1, "seconds": 2.0})
            paid = await client.run("paid", {"echo": 2}, policy={"retryLost": False})
            waits = [await client.run(f"waits {n}", {"echo": n}) for n in range(3)]
            cancelled = await client.ask("POST", f"cancel/{waits.pop(1)}")
            await until(lambda: noted(notes)[f"start {long}"])
            gateway.process.kill()
            gateway.process.wait()
        began = time.monotonic()
        with started():
            assert (await client.status(done["id"])) == done
            assert time.monotonic() - began < 60, "it takes over at once: the first one is gone"
            assert (await client.status(failed["id"])) == failed
            assert (await client.status(cancelled["id"]))["status"] == "CANCELLED"
            again = await client.ended(long)
            assert (again["status"], again["attempt"], again["output"]) == (
                "COMPLETED",
                2,
                {"echo": 1},
            )
            assert (await client.ended(paid))["status"] == "COMPLETED", "it had not been started"
            assert [(await client.ended(job))["output"] for job in waits] == [
                {"echo": 0},
                {"echo": 2},
            ]
            assert (await client.ask("POST", f"retry/{failed['id']}"))["status"] == "IN_QUEUE"
            assert (await client.ended(failed["id"]))["status"] == "FAILED"
            health = await client.ask("GET", "health")
            assert health["jobs"] == {
                "completed": 5,
                "failed": 2,
                "inProgress": 0,
                "inQueue": 0,
                "retried": 2,
            }


async def test_what_must_not_be_repeated_fails_after_a_kill_and_says_why(tmp_path: Path) -> None:
    port, notes, folder = free_port(), tmp_path / "notes", tmp_path / "desk"
    prompt = {"1": {"class_type": "FluxProUltraImageNode", "inputs": {"prompt": "x"}}}
    async with client_of(f"http://127.0.0.1:{port}/v2/desk") as client:
        for n, (value, policy) in enumerate(
            (
                ({"seconds": 60, "workflow": prompt, "comfy_org_api_key": "k"}, {}),
                ({"seconds": 60}, {"retryLost": False}),
            )
        ):
            with gateway_process(tmp_path, folder=folder, port=port, notes=notes) as gateway:
                job = await client.run(f"key {n}", value, policy=policy)
                await until(lambda job=job: noted(notes)[f"start {job}"])  # type: ignore[misc]
                gateway.process.kill()
            with gateway_process(tmp_path, folder=folder, port=port, notes=notes):
                status = await client.ended(job)
                assert status["status"] == "FAILED"
                assert "The job is not started again" in error_from_runpod(status["error"]).message
                assert noted(notes)[f"start {job}"] == 1


async def test_a_webhook_that_was_owed_is_called_after_a_kill(tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    answers = [503]

    async def receive(request: web.Request) -> web.Response:
        calls.append((request.headers.get("webhook-id", ""), await request.json()))
        return web.Response(status=answers[-1])

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"127.0.0.1:{runner.addresses[0][1]}"
    port, folder = free_port(), tmp_path / "desk"

    def started() -> Any:
        return gateway_process(tmp_path, folder=folder, port=port, webhook_hosts=hook)

    try:
        async with client_of(f"http://127.0.0.1:{port}/v2/desk") as client:
            with started() as gateway:
                job = await client.run("k", {"echo": 1}, webhook=f"http://{hook}/hook")
                await until(lambda: calls)
                gateway.process.kill()
            answers.append(200)
            with started():
                await until(lambda: len(calls) >= 2)
                assert calls[0] == calls[-1]
                assert calls[0][1] == await client.status(job)
                await asyncio.sleep(0.2)
                called = len(calls)
            with started():
                await client.status(job)
                await asyncio.sleep(0.3)
                assert len(calls) == called, "it is not owed any more"
    finally:
        await runner.cleanup()


async def test_a_second_gateway_on_the_folder_does_not_start(tmp_path: Path) -> None:
    from comfy_remote.errors import ConfigurationError
    from comfy_remote.gateway import GatewayServer

    folder = tmp_path / "desk"
    with gateway_process(tmp_path, folder=folder) as gateway:
        with pytest.raises(ConfigurationError, match="Another gateway") as refused:
            await GatewayServer(folder=folder).start()
        assert "another endpoint id" in refused.value.advice
        gateway.process.kill()
        gateway.process.wait()
    async with GatewayServer(folder=folder):
        pass
