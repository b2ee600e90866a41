"""A worker that its owner would not have let in: what it can do with a token that is good."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers import settled, until

from comfy_remote.errors import ConfigurationError
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.tokens import check_name, new_token, sha256_of_token

HOME = "a" * 32
LIMITS = GatewayLimits(poll_wait=5, free_bytes=0, output_files=3)


class Machine:
    """Sends what it likes with one token, as one worker."""

    def __init__(self, base: str, token: str, name: str, session: aiohttp.ClientSession) -> None:
        self.url, self.boot = f"{base}/workers/{name}", f"{HOME}.{'0' * 32}"
        self._headers = {"Authorization": f"Bearer {token}", "Comfy-Remote-Boot": self.boot}
        self._session = session

    async def ask(self, method: str, path: str, data: Any = None) -> tuple[int, Any, Any]:
        sent = data if isinstance(data, bytes) or hasattr(data, "__aiter__") else json.dumps(data)
        url = f"{self.url}/{path}"
        async with self._session.request(method, url, data=sent, headers=self._headers) as answer:
            body = await answer.read()
            is_json = answer.content_type == "application/json" and body
            return answer.status, json.loads(body) if is_json else body, answer.headers

    async def hello(self, **more: Any) -> tuple[int, Any]:
        return (await self.ask("POST", "hello", {"boot": self.boot, **more}))[:2]

    async def take(self) -> tuple[int, str]:
        status, _, headers = await self.ask("POST", "take", {})
        return status, headers.get("Comfy-Remote-Job", "").partition("/")[0]

    async def done(self, job: str, data: Any) -> tuple[int, Any]:
        return (await self.ask("POST", f"jobs/{job}/1/done", data))[:2]

    async def put(self, job: str, content: bytes) -> int:
        sha256 = hashlib.sha256(content).hexdigest()
        return (await self.ask("PUT", f"jobs/{job}/1/files/{sha256}", content))[0]


class Head:
    """A gateway, and what its owner and its clients do."""

    def __init__(self, server: GatewayServer, session: aiohttp.ClientSession) -> None:
        self.server, self.session = server, session

    async def machine(self, name: str) -> Machine:
        token = new_token(name)
        await self.server.journal.change_workers(
            lambda listed: listed.add(name, sha256_of_token(token))
        )
        await self.server.joined.read_words()
        return Machine(self.server.endpoint_url, token, name, self.session)

    def same_token(self, machine: Machine, name: str) -> Machine:
        token = machine._headers["Authorization"].removeprefix("Bearer ")
        return Machine(self.server.endpoint_url, token, name, self.session)

    async def remove(self, name: str) -> None:
        await self.server.journal.change_workers(lambda listed: listed.remove(name))
        await self.server.joined.read_words()

    async def run(self, given: object = 1) -> str:
        url = f"{self.server.endpoint_url}/run"
        async with self.session.post(url, json={"input": given}) as answer:
            return str((await answer.json())["id"])

    async def status(self, job: str) -> dict[str, Any]:
        async with self.session.get(f"{self.server.endpoint_url}/status/{job}") as answer:
            found: dict[str, Any] = await answer.json()
            return found


@asynccontextmanager
async def open_head(folder: Path) -> AsyncIterator[Head]:
    async with (
        GatewayServer(limits=LIMITS, folder=folder) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Head(server, session)


@pytest.fixture
async def head(tmp_path: Path) -> AsyncIterator[Head]:
    async with open_head(tmp_path / "gateway") as opened:
        yield opened


async def test_a_worker_that_is_removed_while_it_waits_gets_no_job(head: Head) -> None:
    machine = await head.machine("attic")
    assert (await machine.hello())[0] == 200
    waiting = asyncio.create_task(machine.take())
    await until(lambda: "attic" in head.server.queue.workers.ready)
    await head.remove("attic")
    assert await asyncio.wait_for(waiting, 60) == (204, "")
    job = await head.run({"secret": 1})
    assert (await head.status(job))["status"] == "IN_QUEUE"
    assert not [*head.server.queue.workers]


async def test_a_worker_that_is_gone_by_mistake_is_welcome_again(head: Head) -> None:
    machine = await head.machine("attic")
    await machine.hello()
    polls = [
        asyncio.create_task(machine.take()),
        asyncio.create_task(machine.ask("POST", "ping", {})),
    ]
    await until(lambda: "attic" in head.server.queue.workers.ready)
    await head.server.joined.gone("attic")
    await asyncio.wait_for(asyncio.gather(*polls), 60)  # not only when they would end by themselves
    assert not [*head.server.queue.workers]
    assert (await machine.hello())[0] == 200


async def test_what_a_removed_worker_is_sending_is_not_taken(head: Head) -> None:
    machine = await head.machine("attic")
    await machine.hello()
    job = await head.run()
    assert await machine.take() == (200, job)
    removed, begun = asyncio.Event(), 0

    async def slow(content: bytes) -> AsyncIterator[bytes]:
        nonlocal begun
        yield content[:5]
        begun += 1
        await removed.wait()
        yield content[5:]

    picture = b"a picture that comes slowly"
    sha256 = hashlib.sha256(picture).hexdigest()
    sending = [
        asyncio.create_task(machine.done(job, slow(b'{"output": "mine"}'))),
        asyncio.create_task(machine.ask("PUT", f"jobs/{job}/1/files/{sha256}", slow(picture))),
    ]
    await until(lambda: begun == 2)
    await asyncio.sleep(0.2)
    await settled()  # the gateway, in this loop, has read whose they are
    await head.remove("attic")
    removed.set()
    assert [answer[0] for answer in await asyncio.gather(*sending)] == [409, 409]
    assert (await head.status(job))["status"] == "IN_QUEUE"
    assert (await machine.hello())[0] == 401


async def test_a_token_fills_neither_the_list_of_workers_nor_the_memory(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await head.machine("attic")
    names = [f"{number:05}{'n' * 50}" for number in range(45_000)]
    registry = head.server.queue.workers
    machines = [head.same_token(first, f"attic.{number}") for number in range(3)]
    report = {"nodes": names, "models": names}
    committed = head.server.journal.committed

    async def on_a_slow_disk() -> None:
        await asyncio.sleep(0.5)
        await committed()

    monkeypatch.setattr(head.server.journal, "committed", on_a_slow_disk)
    greeted = await asyncio.gather(*(machine.hello(report=report) for machine in machines))
    assert [status for status, _ in greeted] == [200] * 3
    monkeypatch.undo()
    # The last is not known to lack anything, and takes no memory.
    assert sorted(one.offer.nodes is None for one in registry) == [False, False, True]
    for number in range(3, 256):
        assert (await head.same_token(first, f"attic.{number}").hello())[0] == 200
    status, refused = await head.same_token(first, "attic.256").hello()
    assert (status, refused["comfy_remote"]["code"]) == (429, "rate_limited")
    assert (await head.same_token(first, "attic.5").hello())[0] == 200
    assert (await (await head.machine("cellar")).hello())[0] == 200
    # Of those that have been away for long, one makes room.
    registry.note_silence(-1)
    assert (await head.same_token(first, "attic.256").hello())[0] == 200
    assert len(registry) == 257


async def test_a_job_has_no_more_large_outputs_than_it_may(head: Head) -> None:
    machine = await head.machine("attic")
    await machine.hello()
    job = await head.run()
    await machine.take()
    sent = [await machine.put(job, b"%d" % number) for number in range(5)]
    assert sent == [201, 201, 201, 413, 413]
    assert await machine.put(job, b"0") == 201  # it is there already


async def test_no_file_of_another_job_by_its_hash(head: Head) -> None:
    content = b"somebody else's picture"
    sha256 = hashlib.sha256(content).hexdigest()
    async with head.session.put(
        f"{head.server.endpoint_url}/files/{sha256}", data=content
    ) as answer:
        assert answer.status == 201
    attic, cellar = await head.machine("attic"), await head.machine("cellar")
    await attic.hello()
    theirs = await head.run({"files": [{"name": "a.png", "sha256": sha256}]})
    assert await attic.take() == (200, theirs)
    await cellar.hello()
    job = await head.run()
    assert await cellar.take() == (200, job)
    for wanted in (f"files/{theirs}/{sha256}", f"files/{job}/{sha256}", f"files/{job}/../{sha256}"):
        assert (await cellar.ask("GET", wanted))[0] == 404
    # That the gateway has it is not said, and it becomes no output without being sent.
    assert (await cellar.ask("HEAD", f"jobs/{job}/1/files/{sha256}"))[0] == 404
    assert (await cellar.ask("PUT", f"jobs/{job}/1/files/{sha256}", b"something else"))[0] == 502
    assert (await cellar.ask("PUT", f"jobs/{theirs}/1/files/{sha256}", content))[0] == 404
    assert await cellar.done(theirs, {"output": "theirs"}) == (200, {"taken": False})
    assert (await attic.ask("GET", f"files/{theirs}/{sha256}"))[:2] == (200, content)
    assert (await attic.ask("GET", f"files/{theirs}/{sha256.upper()}"))[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        f"jobs/x/0000000{'9' * 5000}/done",
        f"jobs/x/{'0' * 50}1/done",
        "jobs/x/%D9%A1/done",
        "jobs/x/-1/progress",
        "jobs/x/1e3/back",
        f"jobs/x/1/files/{'A' * 64}",
        "jobs/%2E%2E%2Fx/1/files/%2E%2E",
    ],
)
async def test_paths_that_name_no_start_of_a_job(
    head: Head, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine = await head.machine("attic")
    await machine.hello()
    status, said, _ = await machine.ask("PUT" if "/files/" in path else "POST", path, {})
    assert status in (400, 404), said
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", ["local", "gpu0", "GPU12", "engine1"])
def test_the_names_of_the_gateways_own_workers_are_for_nobody_else(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a worker of its own"):
        check_name(name)


async def test_a_worker_whose_name_the_gateway_takes_for_its_own_sees_nothing_of_it(
    head: Head,
) -> None:
    machine = await head.machine("attic")  # an SDK's worker may be called anything
    await machine.hello()

    async def idle(job_id: str, payload: object, report: object) -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    head.server.add_local_worker(idle, worker_id="attic")
    job = await head.run()
    await until(lambda: bool(head.server.queue.running))
    assert await machine.done(job, {"output": "mine"}) == (
        409,
        {
            "error": "Say hello first: this gateway has started again.",
            "comfy_remote": {"code": "say_hello"},
        },
    )
    assert (await machine.hello())[1]["comfy_remote"]["code"] == "worker_name_taken"
