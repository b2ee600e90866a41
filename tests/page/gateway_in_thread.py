"""A gateway in a thread, with a client and workers that a test moves by hand."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.job import Policy, Submission

__all__ = ["Gateway", "gateway_in_thread"]

_T = TypeVar("_T")


class Gateway:
    """A gateway, as its client and as its workers ask it.

    Attributes:
        url: Of its page.
    """

    def __init__(self, server: GatewayServer, loop: asyncio.AbstractEventLoop, token: str) -> None:
        self.server = server
        self.url = server.url.removesuffix("v2")
        self._loop = loop
        self._token = token

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What a coroutine gives, in the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def submit(self, **policy: object) -> str:
        """Put a job into the line; its id."""
        job = self._ask("run", {"input": {"x": 1}, "policy": policy}, bearer=self._token)
        return str(job["id"])

    def submit_many(self, policies: Iterable[dict[str, object]]) -> None:
        """Put a job into the line for each policy."""
        endpoint = self.server.endpoint
        jobs = [
            Submission(input={"x": 1}, policy=Policy.model_validate(policy)) for policy in policies
        ]

        async def submit() -> None:
            await asyncio.gather(
                *(endpoint.submit(job, sync=False, idempotency_key=None) for job in jobs)
            )

        self.run(submit())

    def status(self, job_id: str) -> str:
        """A job's state."""
        return str(self._ask(f"status/{job_id}", bearer=self._token)["status"])

    def take(self, worker_id: str = "w") -> str | None:
        """Have a worker ask for a job; its id."""
        job = self._ask(f"job-take/{worker_id}?gpu=x&job_in_progress=1", bearer=self._key)
        return None if job is None else str(job["id"])

    def done(self, job_id: str, answer: dict[str, object], worker_id: str = "w") -> None:
        """Have a worker say something of a job: its progress, or its result."""
        self._ask(f"job-done/{worker_id}/{job_id}?gpu=x", answer, bearer=self._key)

    @property
    def _key(self) -> str:
        return self.server.worker_token.get_secret_value()

    def _ask(self, path: str, body: object = None, *, bearer: str) -> Any:
        request = urllib.request.Request(
            f"{self.server.endpoint_url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {bearer}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@contextmanager
def gateway_in_thread(
    token: str = "", *, port: int = 0, limits: GatewayLimits | None = None
) -> Iterator[Gateway]:
    """A gateway with a loop and a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> GatewayServer:
        server = GatewayServer(
            endpoint_id="desk",
            port=port,
            token=SecretStr(token) if token else None,
            limits=limits or GatewayLimits(poll_wait=0.1),
        )
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield Gateway(server, loop, token)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
