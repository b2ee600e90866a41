"""Load for a gateway: an HTTP client that costs next to nothing, and what it drives with it.

It shares the cores with the server that it measures, so it has to be much quicker than that: one
write and two reads a request, nothing is parsed but the status and the length.

As a program: pollers of ``/status``, in a process of their own, until their input ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "Connection",
    "Endpoint",
    "cancel",
    "percentile",
    "polling",
    "rate",
    "sdk_workers",
    "submit",
]

_SUBMITTERS = 200


class Connection:
    """One connection that stays open; a request at a time."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, key: str = ""
    ) -> tuple[int, bytes]:
        """Status and body of the answer. ``key`` is the request's ``Idempotency-Key``."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._reader, self._writer
        head = (
            f"{method} {self._base}/{path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"{self._head}Content-Length: {len(body)}\r\n"
            + (f"Idempotency-Key: {key}\r\n\r\n" if key else "\r\n")
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status, length = int(answer[9:12]), 0
        at = answer.lower().find(b"content-length:")
        if at >= 0:
            length = int(answer[at + 15 : answer.index(b"\r", at)])
        return status, await reader.readexactly(length) if length else b""

    async def json(self, method: str, path: str, given: object = None) -> dict[str, object]:
        """The answer, which must be a good one."""
        status, body = await self.ask(method, path, b"" if given is None else _json(given))
        if status != 200:
            raise SystemExit(f"{method} {path} answered {status}: {body[:500]!r}")
        found: dict[str, object] = json.loads(body)
        return found

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


@dataclass(frozen=True)
class Endpoint:
    """How a gateway is reached: its endpoint's URL, and what its workers send."""

    url: str
    worker_token: str

    def client(self) -> Connection:
        """A new connection of a client. (Gateways on loopback ask them for no token.)"""
        return Connection(self.url, {"Content-Type": "application/json"})

    def worker(self) -> Connection:
        """A new connection of a worker."""
        headers = {"Content-Type": "application/json", "Authorization": self.worker_token}
        return Connection(self.url, headers)


async def rate(endpoint: Endpoint, jobs: int, *, clients: int, given: object = 1) -> float:
    """Jobs a second, each submitted and its result received by one of the clients.

    Each client has one job at a time, by ``/runsync``: one request a job, whatever the gateway's
    own latency is.
    """
    left = iter(range(jobs))
    body = _json({"input": given})

    async def work() -> None:
        connection = endpoint.client()
        for _ in left:
            status, answer = await connection.ask("POST", "runsync?wait=60000", body)
            if status != 200 or b'"COMPLETED"' not in answer[:200]:
                raise SystemExit(f"a job answered {status}: {answer[:500]!r}")
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return jobs / (time.perf_counter() - began)


@asynccontextmanager
async def sdk_workers(endpoint: Endpoint, count: int, *, result: object = 1) -> AsyncIterator[None]:
    """Workers by HTTP that ask as the RunPod SDK does, and are done at once."""
    done = _json({"output": result})

    async def work(name: str) -> None:
        connection = endpoint.worker()
        while True:
            status, body = await connection.ask("GET", f"job-take/{name}?gpu=x&job_in_progress=0")
            if status == 204:
                continue
            job_id = json.loads(body)["id"]
            await connection.ask("POST", f"job-done/{name}/{job_id}?gpu=x", done)

    async with _running(work(f"bench-{index}") for index in range(count)):
        await asyncio.sleep(0.1)
        yield


async def submit(
    endpoint: Endpoint, count: int, *, every: float, given: object
) -> tuple[list[str], list[float]]:
    """Submit so many jobs by ``/run``, one after ``every`` seconds, however long the answers take.

    On ``_SUBMITTERS`` connections at most: a gateway that stands still for some seconds would have
    more than it takes, and closes what is beyond that. A wait for a connection counts.

    Returns:
        Their ids, and the seconds until each answer was here.
    """
    free: list[Connection] = []
    room = asyncio.Semaphore(_SUBMITTERS)
    ids: list[str] = []
    took: list[float] = []
    body = _json({"input": given})

    async def one() -> None:
        began = time.perf_counter()
        async with room:
            connection = free.pop() if free else endpoint.client()
            status, answer = await connection.ask("POST", "run", body, key=uuid.uuid4().hex)
            took.append(time.perf_counter() - began)
            if status != 200:
                raise SystemExit(f"/run answered {status}: {answer[:500]!r}")
            ids.append(json.loads(answer)["id"])
            free.append(connection)

    began = time.perf_counter()
    tasks = []
    for index in range(count):
        tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(max(0.0, began + (index + 1) * every - time.perf_counter()))
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return ids, took


async def cancel(endpoint: Endpoint, ids: Sequence[str]) -> None:
    """End jobs."""
    connection = endpoint.client()
    for job_id in ids:
        await connection.json("POST", f"cancel/{job_id}")
    connection.close()


@contextmanager
def polling(endpoint: Endpoint, ids: Sequence[str], every: float) -> Iterator[None]:
    """A client for each id that asks for its status so often; all of them in another process."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        given = {"url": endpoint.url, "ids": [*ids], "every": every}
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "all ask\n":
            raise SystemExit("the pollers did not start")
        yield
        if process.poll() is not None:
            raise SystemExit("the pollers have ended")
    finally:
        process.stdin.close()
        process.wait(20)


async def _poll(url: str, ids: Sequence[str], every: float) -> None:
    endpoint, silent, all_ask = Endpoint(url, ""), {*range(len(ids))}, asyncio.Event()

    async def work(index: int, job_id: str) -> None:
        connection = endpoint.client()
        await asyncio.sleep(every * index / len(ids))
        while True:
            began = time.perf_counter()
            status, body = await connection.ask("GET", f"status/{job_id}")
            if status != 200:
                raise SystemExit(f"status answered {status}: {body[:500]!r}")
            silent.discard(index)
            if not silent:
                all_ask.set()
            await asyncio.sleep(max(0.0, every - (time.perf_counter() - began)))

    async with _running(work(index, job_id) for index, job_id in enumerate(ids)):
        await all_ask.wait()
        print("all ask", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


@asynccontextmanager
async def _running(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Tasks that run meanwhile; one that failed is raised at the end."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException) and not isinstance(one, asyncio.CancelledError):
            raise one


def percentile(values: Sequence[float], of: float) -> float:
    """The value that ``of`` percent are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * of / 100))]


def _json(given: object) -> bytes:
    return json.dumps(given, separators=(",", ":")).encode()


if __name__ == "__main__":
    asyncio.run(_poll(**json.loads(sys.stdin.readline())))
