"""What a gateway does when it is flooded, filled, starved or left alone.

Each test is a row of the table in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from gateway_process import TOKEN, gateway_process
from helpers import until
from pydantic import SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
MIB = 1024 * 1024


@asynccontextmanager
async def served(
    folder: Path, limits: GatewayLimits | None = None
) -> AsyncIterator[tuple[GatewayServer, aiohttp.ClientSession, aiohttp.ClientSession]]:
    """A gateway in this process, with a session for its client and one for its worker."""
    async with GatewayServer(
        endpoint_id="desk", token=SecretStr(TOKEN), limits=limits, folder=folder
    ) as gateway:
        base = gateway.endpoint_url + "/"
        worker = {"Authorization": gateway.worker_token.get_secret_value()}
        async with (
            aiohttp.ClientSession(base, headers=HEADERS) as client,
            aiohttp.ClientSession(base, headers=worker) as works,
        ):
            yield gateway, client, works


def files_in(folder: Path) -> list[Path]:
    """The contents that a gateway has as files."""
    return [path for path in folder.rglob("files/??/*") if path.is_file()]


def later(gateway: GatewayServer, seconds: float) -> None:
    """Let that time pass for a gateway."""
    gateway.journal.clock.set(gateway.journal.clock() + seconds)


async def echo(job_id: str, payload: object, report: object) -> dict[str, object]:
    return {"echo": payload}


async def submit(
    client: aiohttp.ClientSession, value: object, *, key: str | None = None, sync: bool = False
) -> dict[str, object]:
    headers = {"Idempotency-Key": key} if key else {}
    path = "runsync" if sync else "run"
    async with client.post(path, json={"input": value}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        status: dict[str, object] = await answer.json()
        return status


async def ended(client: aiohttp.ClientSession, job_id: object) -> dict[str, object]:
    for _ in range(1000):
        async with client.get(f"status/{job_id}") as answer:
            assert answer.status == 200, await answer.text()
            status: dict[str, object] = await answer.json()
        if status["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return status
        await asyncio.sleep(0.01)
    raise AssertionError(status)


async def test_400_results_are_all_there_and_their_keys_run_nothing_twice(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, client, _):
        gateway.add_local_worker(echo)
        ids = [(await submit(client, n, key=f"key {n}"))["id"] for n in range(400)]
        for n, job_id in enumerate(ids):
            status = await ended(client, job_id)
            assert (status["status"], status["output"]) == ("COMPLETED", {"echo": n})
        assert [(await submit(client, n, key=f"key {n}"))["id"] for n in range(400)] == ids
        assert gateway.queue.health().jobs.completed == 400


async def test_large_inputs_and_results_are_files_and_go_in_time(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, client, _):
        gateway.add_local_worker(echo)
        large = "x" * 100_000
        status = await ended(client, (await submit(client, large))["id"])
        assert status["output"] == {"echo": large}
        later(gateway, 1700)
        await until(lambda: len(files_in(tmp_path)) == 1)
        assert (await ended(client, status["id"]))["output"] == {"echo": large}
        later(gateway, 200)
        await until(lambda: not files_in(tmp_path))
        await until(lambda: gateway.files.used == gateway.queue.live.memory == 0)


async def test_a_key_that_comes_many_times_at_once_is_one_job(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, client, _):
        gateway.add_local_worker(echo)
        large = "x" * 40_000
        found = await asyncio.gather(*(submit(client, large, key="once") for _ in range(30)))
        assert len({status["id"] for status in found}) == 1
        await ended(client, found[0]["id"])
        assert gateway.queue.health().jobs.completed == 1
        assert len(files_in(tmp_path)) == 2, "the input, and the result"


async def test_a_key_is_good_although_the_result_has_gone(tmp_path: Path) -> None:
    limits = GatewayLimits(runsync_retention=0.1)
    async with served(tmp_path, limits) as (gateway, client, _):
        gateway.add_local_worker(echo)
        first = await submit(client, 1, key="once", sync=True)
        assert first["status"] == "COMPLETED"
        for _ in range(200):
            async with client.get(f"status/{first['id']}") as answer:
                if answer.status == 404:
                    break
            await asyncio.sleep(0.02)
        assert (await submit(client, 1, key="once")) == {"id": first["id"], "status": "COMPLETED"}
        # Asked for the result itself, it says why there is none.
        headers = {"Idempotency-Key": "once"}
        async with client.post("runsync", json={"input": 1}, headers=headers) as answer:
            assert answer.status == 404
            assert "not stored any more" in (await answer.json())["error"]
        assert gateway.queue.health().jobs.completed == 1


async def test_a_full_store_takes_no_jobs_and_says_when_to_ask_again(tmp_path: Path) -> None:
    limits = GatewayLimits(run_bytes=50_000, store_bytes=400_000, run_retention=0.5)
    async with served(tmp_path, limits) as (gateway, client, _):
        gateway.add_local_worker(echo)
        done: list[str] = []
        said: dict[str, str] = {}
        while not said:
            async with client.post("run", json={"input": f"{len(done)}" + "x" * 40_000}) as answer:
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) > 0
                    said = await answer.json()
                else:
                    done.append((await answer.json())["id"])
        assert "stores 400 kB" in said["error"]
        assert done, "nothing was taken at all"
        for job_id in done:  # what is promised is not given up for room
            assert (await ended(client, job_id))["status"] == "COMPLETED"
        later(gateway, 100)
        for _ in range(200):  # old results go, and there is room again
            async with client.post("run", json={"input": 1}) as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.05)
        assert answer.status == 200


async def test_a_full_queue_takes_no_jobs_and_says_when_to_ask_again(tmp_path: Path) -> None:
    async with served(tmp_path, GatewayLimits(queued_jobs=3)) as (_, client, _):
        for n in range(3):
            await submit(client, n, key=str(n))
        async with client.post("run", json={"input": "x" * 40_000}) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0
        assert (await submit(client, 2, key="2"))["status"] == "IN_QUEUE", "a known key is answered"
    assert not files_in(tmp_path)


async def test_space_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    async with served(tmp_path) as (gateway, client, worker):
        full = SimpleNamespace(total=0, used=0, free=gateway.limits.free_bytes)
        accepted = await submit(client, 0, key="0")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        for value in (1, "x" * 40_000):
            await gateway.files.look_after()
            async with client.post("run", json={"input": value}) as answer:
                assert answer.status == 429
                assert "to stay free" in (await answer.json())["error"]
        again = await submit(client, 0, key="0")
        assert again["id"] == accepted["id"], "whose answer was lost: it must not run elsewhere"
        async with client.post(f"cancel/{accepted['id']}"):
            pass
        monkeypatch.undo()
        await gateway.files.look_after()
        job = await submit(client, 1)
        async with worker.get("job-take/w?gpu=x"):
            pass
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        async with worker.put(f"files/{job['id']}/{'0' * 64}", data=b"large") as answer:
            assert answer.status == 507
        # The result itself is owed: it may use what is left.
        given = {"output": "x" * 40_000}
        async with worker.post(f"job-done/w/{job['id']}?gpu=x", json=given) as answer:
            assert answer.status == 200
        assert (await ended(client, job["id"])).items() >= given.items()


async def test_a_folder_that_somebody_removes_costs_what_was_in_it_and_no_more(
    tmp_path: Path,
) -> None:
    import shutil

    async with served(tmp_path) as (gateway, client, _):
        gateway.add_local_worker(echo)
        lost = await submit(client, "x" * 40_000)
        assert (await ended(client, lost["id"]))["status"] == "COMPLETED"
        shutil.rmtree(tmp_path / "files")
        async with client.get(f"status/{lost['id']}") as answer:
            assert answer.status == 404
            assert "has gone" in (await answer.json())["error"]
        await gateway.files.look_after()
        again = await submit(client, "x" * 40_000)
        assert (await ended(client, again["id"]))["status"] == "COMPLETED"


async def test_a_disk_that_is_full_at_the_end_fails_the_job_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    async with served(tmp_path) as (gateway, client, worker):
        job = await submit(client, 1)
        async with worker.get("job-take/w?gpu=x"):
            pass

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        given = {"output": "x" * 40_000}
        async with worker.post(f"job-done/w/{job['id']}?gpu=x", json=given) as answer:
            assert answer.status == 200, "to the worker it is done: it has nothing to send again"
        status = await ended(client, job["id"])
        assert status["status"] == "FAILED"
        assert "is full" in str(status["error"])
        async with client.post("run", json={"input": "x" * 40_000}) as answer:
            assert answer.status == 507
        monkeypatch.undo()
        assert gateway.files.used == 0
        await submit(client, 3)


async def test_a_jump_of_the_clock_ends_neither_results_nor_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    async with served(tmp_path) as (gateway, client, worker):
        done, running = await submit(client, 1), await submit(client, 2)
        for _ in range(2):
            async with worker.get("job-take/w?gpu=x"):
                pass
        async with worker.post(f"job-done/w/{done['id']}?gpu=x", json={"output": 2}):
            pass
        real = time.time
        for jump in (-86400 * 30, 86400 * 30):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            gateway.queue.sweep()
            assert (await ended(client, done["id"]))["output"] == 2
            async with client.get(f"status/{running['id']}") as answer:
                assert (await answer.json())["status"] == "IN_PROGRESS"


async def test_a_worker_that_hangs_up_while_it_is_given_a_job_does_not_have_it(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (gateway, client, worker):
        job = await submit(client, "x" * (8 * MIB))
        host, port = "127.0.0.1", int(gateway.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        token = gateway.worker_token.get_secret_value()
        head = f"GET /v2/desk/job-take/gone?gpu=x HTTP/1.1\r\nHost: {host}\r\n"
        writer.write(f"{head}Authorization: {token}\r\n\r\n".encode())
        assert b"200" in await reader.readline()
        async with client.get(f"status/{job['id']}") as answer:
            assert (await answer.json())["status"] == "IN_PROGRESS"
        writer.transport.abort()
        async with worker.get("job-take/w?gpu=x") as answer:
            assert answer.status == 200
            assert (await answer.json())["id"] == job["id"]


async def test_a_killed_gateways_files_go_when_the_next_one_starts(tmp_path: Path) -> None:
    with gateway_process(tmp_path) as gateway:
        async with aiohttp.ClientSession(gateway.url + "/", headers=HEADERS) as client:
            job = await submit(client, {"fail": True, "x": "x" * MIB})
            await ended(client, job["id"])
        gateway.process.kill()
    assert len(files_in(tmp_path)) == 1
    with gateway_process(tmp_path):
        assert not files_in(tmp_path)
        assert len(list(tmp_path.glob("comfy-remote-gateway-*"))) == 1


memory_is_measured = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@memory_is_measured
async def test_failing_jobs_of_empty_lists_take_no_memory(tmp_path: Path) -> None:
    body = b'{"input":{"fail":1,"x":[' + b"[],[]," * (9 * MIB // 6) + b"1]}}"
    with gateway_process(tmp_path) as gateway:
        async with aiohttp.ClientSession(gateway.url + "/", headers=HEADERS) as client:
            for _ in range(12):
                async with client.post("run", data=body) as answer:
                    assert answer.status == 413
                    assert "values" in (await answer.json())["error"]
        assert gateway.peak_memory() < 200 * MIB


@memory_is_measured
async def test_inputs_of_failed_jobs_lie_on_the_disk(tmp_path: Path) -> None:
    few_lists = b"[]," * 100_000
    body = b'{"input":{"fail":1,"l":[' + few_lists + b'1],"x":"' + b"x" * (9 * MIB) + b'"}}'
    with gateway_process(tmp_path) as gateway:
        async with aiohttp.ClientSession(gateway.url + "/", headers=HEADERS) as client:
            for n in range(12):
                another = body.replace(b"x" * 8, b"%08d" % n, 1)
                async with client.post("run", data=another) as answer:
                    assert answer.status == 200
                    job = await answer.json()
                assert (await ended(client, job["id"]))["status"] == "FAILED"
        assert gateway.peak_memory() < 250 * MIB
    assert sum(path.stat().st_size for path in files_in(tmp_path)) > 12 * 9 * MIB


@memory_is_measured
async def test_many_large_bodies_at_a_time_are_bounded(tmp_path: Path) -> None:
    with gateway_process(tmp_path, body_bytes=30 * MIB) as gateway:
        body = b'{"input":"' + b"x" * (9 * MIB) + b'"}'

        async def send() -> int:
            async with client.post("run", data=body) as answer:
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) > 0
                return answer.status

        async with aiohttp.ClientSession(gateway.url + "/", headers=HEADERS) as client:
            found = await asyncio.gather(*(send() for _ in range(40)))
        assert set(found) <= {200, 429}
        assert 200 in found
        assert gateway.peak_memory() < 300 * MIB
