"""What a joined worker asks of its gateway, a method for each request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue, SecretStr, ValidationError
from pydantic_core import to_json

from ...advice import Hint
from ...clean import clean
from ...errors import ComfyRemoteError, TargetError, TargetUnreachable
from ...json_text import check_json_values, problems_in
from ...media.receive import file_chunks
from ...net.address import base_address, check_key_is_safe
from ...net.answers import Response, error_of
from ...net.http import HttpClient, HttpLimits
from ...net.retry import Backoff
from ...wire.joined import (
    BOOT_HEADER,
    HELLO_LIMIT,
    JOB_HEADER,
    NAME_TAKEN,
    SAY_HELLO,
    Delivered,
    Held,
    Hello,
    HelloAnswer,
    Ping,
    PingAnswer,
    Stored,
)
from ..loop import TakenJob
from ..storage import GatewayStore

__all__ = ["Gateway", "HelloWanted", "Refused"]

# Above the 20 s for which a gateway holds a poll, so that a cut network is noticed.
_POLLS = HttpLimits(patience=35.0, answer=4 * 1024**2, backoff=Backoff(attempts=1))
_TRANSFERS = HttpLimits(patience=120.0, answer=4 * 1024**2, backoff=Backoff(attempts=1))
_LARGEST_INPUT = 64 * 1024**2
_MOST_VALUES = 500_000
_SPOKEN_OF = (400, 403, 404, 409, 410, 413)

_Model = TypeVar("_Model", bound=BaseModel)


class HelloWanted(Exception):
    """The gateway does not know this start of the worker: it has started again itself."""


class Refused(Exception):
    """A result is not taken, and never will be.

    Attributes:
        status: 404 if the job is not this worker's (any more).
        by_gateway: Whether the gateway says so, and not a proxy before it.
    """

    def __init__(self, why: str, status: int, *, by_gateway: bool = True) -> None:
        super().__init__(why)
        self.status = status
        self.by_gateway = by_gateway


class Gateway:
    """The gateway, as one worker sees it. Used as an asynchronous context manager.

    Nothing is tried again here. Besides what is said below, all methods raise `HelloWanted`,
    `AuthenticationError` for a token that is not (or no longer) taken, and `TargetError` where
    there is no answer, none that can be understood, or (with `NAME_TAKEN` in its details) another
    worker has this one's name.

    Args:
        url: Of the gateway: ``https://head:8000``.
        boot: See `wire.joined.Hello.boot`.
        tls: See `trusting`.

    Raises:
        ConfigurationError: The address cannot be used, or the token would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str,
        worker: str,
        token: SecretStr,
        boot: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        check_key_is_safe(base_address(url))
        self.worker = worker
        self.boot = boot
        base = f"{url.rstrip('/')}/v2/{endpoint}/workers/{worker}"
        self._base, self._tls = base, tls
        self._key = SecretStr(f"Bearer {token.get_secret_value()}")
        headers = {"Authorization": self._key}
        name = "The gateway"
        self._polls = HttpClient(base, name=name, headers=headers, limits=_POLLS, tls=tls)
        self._transfers = HttpClient(base, name=name, headers=headers, limits=_TRANSFERS, tls=tls)
        self._boot = {BOOT_HEADER: boot}

    async def __aenter__(self) -> Gateway:
        await self._polls.__aenter__()
        await self._transfers.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._polls.__aexit__(*exc_info)
        await self._transfers.__aexit__(*exc_info)

    async def hello(self, hello: Hello) -> HelloAnswer:
        """Say what this worker has."""
        body = await asyncio.to_thread(lambda: hello.model_dump_json().encode())
        if len(body) > HELLO_LIMIT:
            unknown = hello.report.model_copy(update={"nodes": None, "models": None})
            body = hello.model_copy(update={"report": unknown}).model_dump_json().encode()
        return _read(HelloAnswer, await self._post("hello", body))

    async def take(self, ping: Ping) -> TakenJob | None:
        """The next job; ``None`` if there was none for some seconds.

        Args:
            ping: With the results that wait. What it does not have was lost on its way here.
        """
        answer = await self._post("take", ping.model_dump_json().encode(), limit=_LARGEST_INPUT)
        if answer.status == 204:
            return None
        try:
            job_id, _, attempt = answer.headers.get(JOB_HEADER, "").partition("/")
            held = Held(job=job_id, attempt=int(attempt))
        except ValueError:
            raise _nonsense("it gives a job without an id") from None
        check_json_values(answer.body, _MOST_VALUES)
        return TakenJob(held.job, held.attempt, answer.body)

    async def ping(self, ping: Ping) -> PingAnswer:
        """Wait, some seconds at most, for something that is to be done."""
        return _read(PingAnswer, await self._post("ping", ping.model_dump_json().encode()))

    async def progress(self, job: TakenJob, snapshot: Mapping[str, JsonValue]) -> None:
        """Show a snapshot of a job that runs."""
        body = to_json({"output": dict(snapshot)}, inf_nan_mode="null")
        await self._post(f"jobs/{job.id}/{job.attempt}/progress", body)

    async def put_back(self, job: TakenJob) -> None:
        """Give back a job that was not done."""
        await self._post(f"jobs/{job.id}/{job.attempt}/back")

    async def deliver(self, job: str, attempt: int, result: bytes) -> Delivered:
        """Deliver a result, whose large outputs are there already.

        Raises:
            Refused: It never will be taken.
        """
        path = f"jobs/{job}/{attempt}/done"
        answer = await self._transfers.post_once(path, result, self._boot, accept=_SPOKEN_OF)
        return _read(Delivered, self._checked(answer))

    async def deliver_file(self, job: str, attempt: int, file: Path) -> None:
        """Deliver a large output of a job, named by its SHA-256, unless it is there already.

        Raises:
            Refused: It never will be taken.
            OSError: It cannot be read.
        """
        path = f"jobs/{job}/{attempt}/files/{file.name}"
        size = (await asyncio.to_thread(file.stat)).st_size
        # It may have arrived, and its answer not; or there may be no room for it.
        asked = await self._transfers.head_once(f"{path}?size={size}", self._boot)
        if asked.status == 200 and asked.headers.get(JOB_HEADER) == f"{job}/{attempt}":
            return
        if asked.status == 413:
            raise Refused(f"it has {size} bytes, which is too large", 413)
        if asked.status == 403:
            raise _forbidden()
        if asked.status != 404:
            raise error_of(asked, "The gateway")
        answer = await self._transfers.put_once(
            path, size, file_chunks(file), self._boot, accept=_SPOKEN_OF
        )
        if _read(Stored, self._checked(answer)).size != size:
            raise _nonsense("it has another size of a file")

    def inputs(self) -> GatewayStore:
        """Where input files are that clients have sent to the gateway by themselves."""
        return GatewayStore(f"{self._base}/files", self._key, tls=self._tls)

    async def _post(self, path: str, body: bytes = b"{}", limit: int | None = None) -> Response:
        answer = await self._polls.post_once(path, body, self._boot, accept=(403, 409), limit=limit)
        try:
            return self._checked(answer)
        except Refused as error:
            raise TargetError(f"The gateway refused a request: {error}.") from None

    def _checked(self, answer: Response) -> Response:
        if answer.status < 300:
            return answer
        said, code = _error_in(answer)
        if code == SAY_HELLO:
            raise HelloWanted
        if code == NAME_TAKEN:
            raise TargetError(
                said or f"Another worker is named {self.worker}.",
                advice="" if said else Hint.WORKER_NAME(),  # the gateway's words have some
                details={NAME_TAKEN: True},
            )
        if not code and answer.status == 403:
            raise _forbidden()
        if answer.status == 403:
            raise error_of(answer, "The gateway")
        if not code and answer.status == 404:
            # A proxy, or another program: a gateway of ours says what it does not have.
            raise error_of(answer, "The gateway")
        raise Refused(said or f"HTTP {answer.status}", answer.status, by_gateway=bool(code))


def _error_in(answer: Response) -> tuple[str, str]:
    """The words and the code of a gateway's error; empty where it says neither."""
    try:
        said = answer.json()
    except TargetError:
        return "", ""
    if not isinstance(said, dict):
        return "", ""
    words, ours = said.get("error"), said.get("comfy_remote")
    code = ours.get("code") if isinstance(ours, dict) else None
    return (
        clean(words)[:1000] if isinstance(words, str) else "",
        code if isinstance(code, str) else "",
    )


def _read(model: type[_Model], answer: Response) -> _Model:
    try:
        check_json_values(answer.body, _MOST_VALUES)
        return model.model_validate_json(answer.body)
    except ValidationError as error:
        raise _nonsense(problems_in(error, "answer")) from None
    except ComfyRemoteError as error:
        raise _nonsense(error.message) from None


def _nonsense(why: str) -> TargetError:
    return TargetError(
        f"The gateway's answer cannot be understood: {clean(why)[:500]}.",
        advice="Check the address, and that both run the same version of Comfy Remote.",
    )


def _forbidden() -> TargetUnreachable:
    """A gateway refuses a token by 401: this is a proxy, or the page of a network's login."""
    return TargetUnreachable(
        "Something between this machine and the gateway refuses to pass requests on (HTTP 403).",
        advice="Look at the proxy, or log in to the network.",
    )
