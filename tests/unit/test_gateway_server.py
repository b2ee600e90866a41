"""The gateway over HTTP: clients on one side, hand-made worker requests on the other."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from helpers import until
from pydantic import SecretStr

from comfy_remote.errors import ConfigurationError, EngineCrashed, error_from_json
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.clock import AwakeTime
from comfy_remote.gateway.job import Submission
from comfy_remote.gateway.workers import WorkerKind
from comfy_remote.wire.runpod import IDEMPOTENCY_HEADER, RunPodState, error_from_runpod

TOKEN = SecretStr("a-token-for-this-test")
LIMITS = GatewayLimits(
    poll_wait=0.2,
    stop_settle=0.0,
    webhook_retry_delay=0.01,
    webhook_hosts=frozenset({"127.0.0.1"}),
)


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    async with GatewayServer(endpoint_id="desk", token=TOKEN, limits=LIMITS) as server:
        yield server


@pytest.fixture
async def client(gateway: GatewayServer) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    base = gateway.endpoint_url + "/"
    async with aiohttp.ClientSession(base, headers=headers) as session:
        yield session


@pytest.fixture
async def worker(gateway: GatewayServer) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": gateway.worker_token.get_secret_value()}
    base = gateway.worker_endpoint_url + "/"
    async with aiohttp.ClientSession(base, headers=headers) as session:
        yield session


async def get(session: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with session.get(path) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json() if status != 204 else None


async def post(
    session: aiohttp.ClientSession, path: str, body: object = None, status: int = 200, **more: Any
) -> Any:
    async with session.post(path, json=body, **more) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def done(worker: aiohttp.ClientSession, job_id: str, body: object, status: int = 200) -> None:
    # As the SDK sends it: JSON under a form's content type.
    headers = {"Content-Type": "application/x-www-form-urlencoded", "charset": "utf-8"}
    data = json.dumps(body, ensure_ascii=False)
    path = f"job-done/w/{job_id}?gpu=x&isStream=false"
    async with worker.post(path, data=data.encode(), headers=headers) as answer:
        assert answer.status == status, await answer.text()


async def started(client: aiohttp.ClientSession, worker: aiohttp.ClientSession) -> str:
    job = await post(client, "run", {"input": {"x": 1}})
    taken = await get(worker, "job-take/w?gpu=x&job_in_progress=0")
    assert taken == {"id": job["id"], "input": {"x": 1}}
    return str(job["id"])


async def test_a_job_from_run_to_result(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    await done(worker, job_id, {"status": "IN_PROGRESS", "output": {"step": "½"}})
    seen = await get(client, f"status/{job_id}")
    assert (seen["status"], seen["output"], seen["workerId"]) == ("IN_PROGRESS", {"step": "½"}, "w")
    await done(worker, job_id, {"output": {"ok": True}})
    await done(worker, job_id, {"status": "IN_PROGRESS", "output": "late"})
    seen = await get(client, f"status/{job_id}")
    assert (seen["status"], seen["output"]) == ("COMPLETED", {"ok": True})
    assert {"delayTime", "executionTime"} <= seen.keys()


async def test_an_error_makes_the_job_fail(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    await done(worker, job_id, {"error": "it broke", "output": {"half": 1}})
    seen = await get(client, f"status/{job_id}")
    assert (seen["status"], seen["error"]) == ("FAILED", "it broke")


async def test_runsync_waits_for_the_result(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    waiting = asyncio.create_task(post(client, "runsync", {"input": 1}))
    taken = await get(worker, "job-take/w?gpu=x")
    assert taken["id"].startswith("sync-")
    await done(worker, taken["id"], {"output": 2})
    answer = await waiting
    assert (answer["status"], answer["output"]) == ("COMPLETED", 2)


async def test_runsync_gives_the_state_when_it_has_waited_long_enough(
    client: aiohttp.ClientSession,
) -> None:
    answer = await post(client, "runsync?wait=50", {"input": 1})
    assert answer["status"] == "IN_QUEUE"
    await post(client, "runsync?wait=900000", {"input": 1}, status=400)


async def test_status_sync_waits_for_the_end_of_a_job_that_is_there(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    """As RunPod's JavaScript SDK asks when its ``/runsync`` has taken too long."""
    job_id = await started(client, worker)
    seen = await get(client, f"status-sync/{job_id}?wait=50")
    assert seen["status"] == "IN_PROGRESS"
    waiting = asyncio.create_task(get(client, f"status-sync/{job_id}"))
    await done(worker, job_id, {"output": 2})
    seen = await waiting
    assert (seen["status"], seen["output"]) == ("COMPLETED", 2)
    await get(client, f"status-sync/{job_id}?wait=900000", 400)
    await get(client, "status-sync/none", 404)


async def test_no_job_is_204_after_the_poll(worker: aiohttp.ClientSession) -> None:
    await get(worker, "job-take/w?gpu=x&job_in_progress=0", 204)
    await get(worker, "job-stop/w?gpu=x", 204)


async def test_a_batch_is_a_list(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    jobs = [await post(client, "run", {"input": n}) for n in range(3)]
    taken = await get(worker, "job-take-batch/w?gpu=x&batch_size=2&job_in_progress=0")
    assert taken == [{"id": jobs[n]["id"], "input": n} for n in range(2)]


async def test_cancel_reaches_the_worker(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    polling = asyncio.create_task(get(worker, "job-stop/w?gpu=x"))
    await asyncio.sleep(0.05)
    assert await post(client, f"cancel/{job_id}") == {"id": job_id, "status": "CANCELLED"}
    assert await polling == {"jobsToStop": [job_id]}
    await done(worker, job_id, {"output": "late"})
    assert (await get(client, f"status/{job_id}"))["status"] == "CANCELLED"


async def test_retry_and_purge(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    await post(client, f"retry/{job_id}", status=400)
    await done(worker, job_id, {"error": "no"})
    assert await post(client, f"retry/{job_id}") == {"id": job_id, "status": "IN_QUEUE"}
    assert await post(client, "purge-queue") == {"removed": 1, "status": "completed"}
    health = await get(client, "health")
    assert health["jobs"] == {
        "completed": 0,
        "failed": 1,
        "inProgress": 0,
        "inQueue": 0,
        "retried": 1,
    }


async def test_stream_gives_chunks_once(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    for n in range(2):
        await post(worker, f"job-stream/w/{job_id}?gpu=x&isStream=false", {"output": n})
    seen = await get(client, f"stream/{job_id}")
    assert seen["stream"] == [{"output": 0}, {"output": 1}]
    assert (await get(client, f"stream/{job_id}"))["stream"] == []


async def test_the_same_idempotency_key_runs_once(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    headers = {IDEMPOTENCY_HEADER: "once"}
    first = await post(client, "run", {"input": 1}, headers=headers)
    again = await post(client, "run", {"input": 1}, headers=headers)
    assert first["id"] == again["id"]
    assert (await get(client, "health"))["jobs"]["inQueue"] == 1
    async with client.get("health") as answer:
        assert answer.headers[IDEMPOTENCY_HEADER] == "supported"
    await post(client, "run", {"input": 1}, headers={IDEMPOTENCY_HEADER: "x" * 256}, status=400)


@pytest.mark.parametrize("abort", [False, True])
async def test_a_worker_that_hangs_up_in_its_poll_loses_no_job(abort: bool) -> None:
    async with GatewayServer(limits=GatewayLimits(poll_wait=30.0)) as gateway:
        key = gateway.worker_token.get_secret_value()
        port = int(gateway.url.split(":")[2].split("/")[0])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /v2/local/job-take/gone?gpu=x HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: {key}\r\n\r\n".encode()
        )
        await writer.drain()
        assert await gateway.wait_until_ready(5), "the poll is open"
        base = gateway.endpoint_url + "/"
        async with aiohttp.ClientSession(base, headers={"Authorization": key}) as both:
            # In the same breath: the gateway may be writing the job already.
            if abort:
                writer.transport.abort()
            else:
                writer.close()
            job = await post(both, "run", {"input": 1})
            assert (await get(both, "job-take/alive?gpu=x"))["id"] == job["id"]


async def test_a_result_above_the_limit_fails_the_job_with_words(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    await done(worker, job_id, {"output": "x" * (LIMITS.run_bytes + 1)}, status=400)
    seen = await get(client, f"status/{job_id}")
    assert seen["status"] == "FAILED"
    error = error_from_runpod(seen["error"])
    assert error.code == "output_too_large"
    assert "BUCKET_ENDPOINT_URL" in error.advice


async def test_a_result_that_is_not_json_fails_the_job(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    async with worker.post(f"job-done/w/{job_id}?gpu=x", data=b"not json") as answer:
        assert answer.status == 400
    assert (await get(client, f"status/{job_id}"))["status"] == "FAILED"


@pytest.mark.parametrize(
    ("path", "limit"), [("run", LIMITS.run_bytes), ("runsync?wait=0", LIMITS.runsync_bytes)]
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_above_the_limit_are_refused_with_the_limit(
    client: aiohttp.ClientSession, path: str, limit: int, chunked: bool
) -> None:
    body = b'{"input": "' + b"x" * limit + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**20):
            yield body[start : start + 2**20]

    async with client.post(path, data=pieces() if chunked else body) as answer:
        assert answer.status == 413
        refused = await answer.json()
    assert str(limit) in refused["error"]
    assert error_from_json(refused["comfy_remote"]).code == "request_too_large"


async def test_a_body_just_within_the_limit_is_accepted(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    frame = len(b'{"input": ""}')
    body = b'{"input": "' + b"x" * (LIMITS.run_bytes - frame) + b'"}'
    async with client.post("run", data=body) as answer:
        assert answer.status == 200
    assert len((await get(worker, "job-take/w?gpu=x"))["input"]) == LIMITS.run_bytes - frame


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Bearer ü", "wrong"])
@pytest.mark.parametrize("path", ["health", "job-take/w?gpu=x", "files/j/" + "0" * 64])
async def test_a_wrong_token_is_refused(
    gateway: GatewayServer, authorization: str, path: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.endpoint_url}/{path}", headers=headers) as answer,
    ):
        assert answer.status == 401
        assert (await answer.json())["comfy_remote"]["code"] == "authentication"


async def test_the_two_tokens_open_only_their_own_side(
    gateway: GatewayServer, client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    await get(client, "job-take/w?gpu=x", 401)
    await get(worker, "health", 401)
    job = await post(client, "run", {"input": 1})
    async with client.put(f"files/{job['id']}/{'0' * 64}", data=b"x") as answer:
        assert answer.status == 401


async def test_the_bare_token_is_accepted_as_runpod_does(gateway: GatewayServer) -> None:
    headers = {"Authorization": TOKEN.get_secret_value()}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{gateway.endpoint_url}/health") as answer,
    ):
        assert answer.status == 200


async def test_unknown_endpoint_job_and_path_are_404(
    gateway: GatewayServer, client: aiohttp.ClientSession
) -> None:
    await get(client, f"{gateway.url}/other/health", 404)
    assert "error" in await get(client, "status/nothing", 404)
    assert "error" in await get(client, "nothing", 404)


async def test_pages_of_other_sites_are_refused(
    gateway: GatewayServer, client: aiohttp.ClientSession
) -> None:
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        (gateway.url.removesuffix("/v2"), 200),
    ):
        async with client.get("health", headers={"Origin": origin}) as answer:
            assert answer.status == status, origin


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_form_of_another_site_purges_nothing(
    gateway: GatewayServer, client: aiohttp.ClientSession, site: str
) -> None:
    """By a browser that does not say which page it was."""
    job = (await post(client, "run", {"input": 1}))["id"]
    async with client.post("purge-queue", headers={"Sec-Fetch-Site": site}) as answer:
        assert answer.status == 403
    assert (await get(client, f"status/{job}"))["status"] == "IN_QUEUE"


async def test_without_a_token_only_local_names_are_answered() -> None:
    async with GatewayServer(endpoint_id="desk") as gateway, aiohttp.ClientSession() as session:
        for host, status in (("evil.example:1", 403), ("localhost", 200), ("[::1]:1", 200)):
            async with session.get(
                f"{gateway.endpoint_url}/health", headers={"Host": host}
            ) as answer:
                assert answer.status == status, host


async def test_too_many_requests_are_429() -> None:
    limits = GatewayLimits(requests_per_10s=3)
    async with GatewayServer(limits=limits) as gateway, aiohttp.ClientSession() as session:
        seen = []
        for _ in range(4):
            async with session.get(f"{gateway.endpoint_url}/health") as answer:
                seen.append(answer.status)
        assert seen == [200, 200, 200, 429]
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_webhook_gets_the_status_and_is_tried_again(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    calls: list[object] = []

    async def receive(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response(status=503 if len(calls) < 3 else 200)

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        job = await post(client, "run", {"input": 1, "webhook": hook})
        await get(worker, "job-take/w?gpu=x")
        await done(worker, job["id"], {"output": 7})
        await until(lambda: len(calls) == 3)
        assert calls == [await get(client, f"status/{job['id']}")] * 3
    finally:
        await runner.cleanup()


async def test_a_file_goes_from_worker_to_client_in_ranges(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    content = bytes(range(256)) * 9000
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"files/{job_id}/{sha256}"
    async with worker.put(path, data=content) as answer:
        assert answer.status == 201
        assert await answer.json() == {"url": path, "size": len(content)}
    async with client.get(path) as answer:
        assert await answer.read() == content
        assert answer.headers["Content-Type"] == "application/octet-stream"
    async with client.get(path, headers={"Range": "bytes=1000000-"}) as answer:
        assert answer.status == 206
        assert await answer.read() == content[1000000:]


async def test_a_file_with_another_hash_is_not_kept(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    path = f"files/{job_id}/{'0' * 64}"
    async with worker.put(path, data=b"something") as answer:
        assert answer.status == 502
        assert (await answer.json())["comfy_remote"]["code"] == "output_corrupt"
    await get(client, path, 404)


async def test_files_of_unknown_and_finished_jobs_are_refused(
    client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    async with worker.put(f"files/unknown/{'0' * 64}", data=b"x") as answer:
        assert answer.status == 404
    job_id = await started(client, worker)
    await done(worker, job_id, {"output": 1})
    async with worker.put(f"files/{job_id}/{'0' * 64}", data=b"x") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e", "A" * 64, "0" * 63])
async def test_names_of_files_cannot_escape(
    gateway: GatewayServer, client: aiohttp.ClientSession, worker: aiohttp.ClientSession, name: str
) -> None:
    from yarl import URL

    job_id = await started(client, worker)
    url = URL(f"{gateway.endpoint_url}/files/{job_id}/{name}", encoded=True)
    async with client.get(url) as answer:
        assert answer.status in (404, 410)
    async with worker.put(url, data=b"x") as answer:
        assert answer.status in (404, 410)


async def test_files_live_as_long_as_their_job(tmp_path: Path) -> None:
    limits = GatewayLimits(run_retention=0.1)
    async with GatewayServer(limits=limits, folder=tmp_path) as gateway:
        headers = {"Authorization": gateway.worker_token.get_secret_value()}
        base = gateway.endpoint_url + "/"
        async with aiohttp.ClientSession(base, headers=headers) as both:
            job_id = await started(both, both)
            sha256 = hashlib.sha256(b"big").hexdigest()
            async with both.put(f"files/{job_id}/{sha256}", data=b"big") as answer:
                assert answer.status == 201
            stored = [path for path in tmp_path.rglob("files/??/*") if path.is_file()]
            assert [path.read_bytes() for path in stored] == [b"big"]
            await done(both, job_id, {"output": 1})
            # The file goes with the result.
            await until(lambda: gateway.queue.live.get(job_id) is None)
            gateway.journal.clock.set(gateway.journal.clock() + 3700)
            await until(lambda: not stored[0].exists())
            await get(both, f"files/{job_id}/{sha256}", 404)


async def test_the_store_is_bounded(tmp_path: Path) -> None:
    limits = GatewayLimits(run_bytes=1000, file_bytes=10_000, store_bytes=20_000)
    async with GatewayServer(limits=limits, folder=tmp_path) as gateway:
        headers = {"Authorization": gateway.worker_token.get_secret_value()}
        async with aiohttp.ClientSession(gateway.endpoint_url + "/", headers=headers) as both:
            job_id = await started(both, both)
            for size, byte, status in ((10_001, b"a", 413), (9000, b"b", 201), (9000, b"c", 413)):
                content = byte * size
                sha256 = hashlib.sha256(content).hexdigest()
                async with both.put(f"files/{job_id}/{sha256}", data=content) as answer:
                    assert answer.status == status
        names = [path.name for path in tmp_path.rglob("files/??/*") if path.is_file()]
        assert names == [hashlib.sha256(b"b" * 9000).hexdigest()]


def test_beyond_loopback_a_token_is_needed() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com", ""):
        with pytest.raises(ConfigurationError, match="without a token"):
            GatewayServer(host=host)
    with pytest.raises(ConfigurationError, match="shorter than 16"):
        GatewayServer(token=SecretStr("short"))
    GatewayServer(host="0.0.0.0", token=TOKEN)


def test_an_endpoint_id_is_a_plain_word() -> None:
    with pytest.raises(ConfigurationError):
        GatewayServer(endpoint_id="../x")


async def test_a_taken_port_is_an_error_with_advice() -> None:
    async with GatewayServer() as first:
        port = int(first.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigurationError, match="taken by another program") as caught:
            await GatewayServer(port=port).start()
        assert "another port" in caught.value.advice


@pytest.mark.parametrize(("port", "advice"), [(50000, "excludedportrange"), (80, "above 1023")])
async def test_a_port_that_may_not_be_used_is_an_error_with_advice(
    monkeypatch: pytest.MonkeyPatch, port: int, advice: str
) -> None:
    """Windows lends many above 1023 to Hyper-V, WSL and Docker (WSAEACCES)."""

    async def denied(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "error while attempting to bind on address")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", denied)
    with pytest.raises(ConfigurationError, match="may not be used") as caught:
        await GatewayServer(port=port).start()
    assert advice in caught.value.advice


async def test_an_address_that_is_not_ours_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="not an address of this machine"):
        await GatewayServer(host="192.0.2.1", token=TOKEN).start()


async def test_beyond_loopback_workers_use_a_listener_of_their_own() -> None:
    async with GatewayServer(host="0.0.0.0", token=TOKEN) as gateway:
        assert gateway.worker_endpoint_url.startswith("http://127.0.0.1:")
        assert gateway.worker_endpoint_url != gateway.endpoint_url
        headers = {"Authorization": gateway.worker_token.get_secret_value()}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{gateway.worker_endpoint_url}/ping/w") as answer,
        ):
            assert answer.status == 200


async def test_with_tls_the_address_is_https() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with GatewayServer(ssl_context=context, token=TOKEN) as gateway:
        assert gateway.url.startswith("https://")
        assert gateway.worker_endpoint_url.startswith("http://127.0.0.1:")


async def test_the_error_of_a_dead_worker_survives_the_wire(
    gateway: GatewayServer, client: aiohttp.ClientSession, worker: aiohttp.ClientSession
) -> None:
    job_id = await started(client, worker)
    for _ in range(2):
        gateway.queue.worker_is_gone("w", EngineCrashed("The worker process ended."))
        await get(worker, "job-take/w?gpu=x", 204 if _ else 200)
    seen = await get(client, f"status/{job_id}")
    assert isinstance(error_from_runpod(seen["error"]), EngineCrashed)


async def test_nothing_ends_while_the_gateway_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine was suspended, or the process was stopped; a worker of the SDK is as before."""
    seconds = 1000.0
    monkeypatch.setattr(
        "comfy_remote.gateway.server.AwakeTime", lambda: AwakeTime(monotonic=lambda: seconds)
    )
    async with GatewayServer(limits=LIMITS) as gateway:
        gateway.queue.workers.register("w", WorkerKind.SDK, "sdk:1:1")
        gateway.queue.workers.seen("w", ready=True)
        job = await gateway.queue.add(Submission(input=1))
        before = gateway.journal.clock()
        seconds += 7 * 24 * 3600.0
        gateway.queue.sweep()
        assert (await gateway.queue.get(job.id)).state is RunPodState.IN_QUEUE
        assert gateway.queue.workers.ready == {"w"}
        assert 0 < gateway.journal.clock() - before <= 5.0
        seconds += 1.0
        assert gateway.journal.clock() - before <= 6.0
