"""A client of services: it speaks the protocol of `wire.call` with any server that does.

The server is not trusted. Its answers lead nowhere but to its own origin, so neither we nor the key
are sent elsewhere. Every wait ends, and every size has a limit, checked while the bytes arrive.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from yarl import URL

from ..aio import within
from ..clean import cleaned_error, cleaned_json, cleaned_text
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ExecutionFailed,
    JobTimedOut,
    OutputTooLarge,
    RateLimited,
    RequestTooLarge,
    TargetError,
    TargetUnreachable,
)
from ..json_text import has_more_values
from ..net.address import check_key_is_safe
from ..net.answers import Response
from ..net.http import HttpClient, HttpLimits
from ..net.retry import Backoff, Outage, Polling
from ..types import JsonValue
from ..wire.call import (
    INLINE_LIMIT,
    LONGEST_WAIT,
    PROTOCOL_HEADER,
    CallAnswer,
    CallStatus,
    request_body,
)
from .address import call_address, token_variable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pydantic import SecretStr

    from ..media.values import EncodedValue

__all__ = ["RestClient"]

_T = TypeVar("_T")

_REDIRECTS = (301, 302, 303, 307, 308)
# Answers that may be about the call itself; the other refusals are about reaching it.
_ABOUT_THE_CALL = (400, 409, 410, 422, 500)
_MOST_REDIRECTS = 20
_LARGEST_BODY = 256 * 1024 * 1024
_LARGEST_ANSWER = 128 * 1024 * 1024
_MOST_JSON_VALUES = 2_000_000
_SLOWEST = 16 * 1024  # bytes a second
_PATIENCE = 60.0


class RestClient:
    """Calls of one service. Used as an asynchronous context manager.

    Args:
        url: Where its calls are posted to; see `call_address`.
        headers: Its login, sent to its origin only.
        request_timeout: Seconds that one request may take, its answer's last byte included.
        poll_interval: Seconds between two polls, where the service does not say how long to wait.
        patience: Seconds for which a service that takes a call may be unreachable.

    Raises:
        ConfigurationError: The address cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, SecretStr] | None = None,
        request_timeout: float = 300.0,
        poll_interval: float = 1.5,
        patience: float = _PATIENCE,
    ) -> None:
        self._url = call_address(url)
        if headers:
            check_key_is_safe(self._url)
        self._origin = self._url.origin()
        self._where = f"The service at {self._origin}"
        self._has_login = bool(headers)
        self._http = HttpClient(
            str(self._origin),
            name="The service",
            headers=headers,
            limits=HttpLimits(patience=request_timeout, answer=_LARGEST_ANSWER),
        )
        self._request_timeout = request_timeout
        again = Backoff(
            first=poll_interval, longest=poll_interval, longest_asked=LONGEST_WAIT, jitter=0.0
        )
        self._polling = Polling(
            first=poll_interval, longest=poll_interval, patience=patience, backoff=again
        )

    async def __aenter__(self) -> RestClient:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__(*exc_info)

    async def start(
        self, inputs: Mapping[str, EncodedValue | JsonValue], *, key: str | None = None
    ) -> CallAnswer:
        """Send a call. It is never sent twice.

        Value files above 1 MiB are uploaded ahead of it, where the service accepts them.

        Args:
            inputs: By name: value files, or plain JSON values.
            key: ``Idempotency-Key``: a service of ours answers a second call of the same key
                with the first.

        Raises:
            RequestTooLarge: It does not fit, and the service takes no files.
            SubmissionUnknown: The answer was lost; it may run.
            ComfyRemoteError: The service cannot be reached, or refused it.
        """
        named = {name: await self._sent(value) for name, value in inputs.items()}
        body = json.dumps(request_body(named)).encode()
        if len(body) > _LARGEST_BODY:
            raise RequestTooLarge(
                f"The call has {len(body)} bytes, and one request to a service may have "
                f"{_LARGEST_BODY}.",
                advice="Send smaller values, or 8-bit pictures (images=png).",
            )
        headers = {"Idempotency-Key": key} if key else {}
        path, response = self._url.raw_path_qs, None
        response = await self._in_time(
            self._http.submit(path, body, headers, accept=(*_REDIRECTS, *_ABOUT_THE_CALL))
        )
        if response.status in (307, 308):
            raise TargetError(
                f"{self._where} redirects the call to another address. A call is not posted again "
                "on a server's word.",
                advice="Call that address itself, if it is right.",
            )
        return await self._understood(response, self._url)

    async def follow(self, answer: CallAnswer) -> AsyncGenerator[CallAnswer, None]:
        """The service's answers about a call from now on; the last is final.

        Args:
            answer: Its last one.

        Raises:
            TargetError: Its answer cannot be understood, or it cannot be reached for too long.
        """
        yield answer
        outage, wait = Outage(self._polling), answer.retry_after
        while not answer.status.final:
            where = self._poll_address(answer)
            await asyncio.sleep(self._polling.first if wait is None else wait)
            try:
                answer = self._remembering(await self._get(where), answer)
            except (TargetUnreachable, RateLimited) as error:
                wait = outage.failed(error)
                if wait is None:
                    raise
                continue
            outage.answered()
            wait = answer.retry_after
            yield answer

    async def cancel(self, answer: CallAnswer) -> None:
        """Ask the service to stop a call.

        Raises:
            ComfyRemoteError: It did not confirm that.
        """
        where = answer.cancel_url or answer.poll_url
        if where is None:
            raise TargetError(f"{self._where} does not say how a call is cancelled.")
        address = self._ours(where, self._url, "cancel_url")
        await self._in_time(self._http.delete(address.raw_path_qs))

    async def download(self, url: str, *, largest: int) -> AsyncGenerator[bytes, None]:
        """A value's bytes from where an answer says they are, in chunks of at most 1 MiB.

        At the service's own origin, or at another one by https and without our key, unless that
        is in a private network. It has to arrive faster than 16 KiB a second.

        Args:
            largest: Bytes; more are refused.

        Raises:
            OutputTooLarge: It has more bytes than that.
            JobTimedOut: It comes too slowly.
            TargetError: The address may not be used.
        """
        address = self._url.join(URL(url)) if _is_url(url) else URL()
        own = bool(address.host) and address.origin() == self._origin
        chunks = (
            self._http.stream(self._ours(url, self._url, "url").raw_path_qs)
            if own
            else self._http.stream_elsewhere(str(address))
        )
        begun, size = time.monotonic(), 0
        async with aclosing(chunks):
            while True:
                left = begun + self._request_timeout + size / _SLOWEST - time.monotonic()
                try:
                    chunk = await within(chunks.__anext__(), max(0.0, left))
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError:
                    raise self._too_slow() from None
                size += len(chunk)
                if size > largest:
                    raise OutputTooLarge(
                        f"{self._where} sends a value of more than {largest} bytes.",
                        advice="Ask it for less: a smaller picture, or fewer of them.",
                    )
                yield chunk

    async def _sent(self, value: EncodedValue | JsonValue) -> JsonValue:
        if value is None or isinstance(value, bool | int | float | str | list | dict):
            return value
        envelope: dict[str, JsonValue] = {"type": value.type, "encoding": "safetensors"}
        if value.size > INLINE_LIMIT and (sha256 := await self._put(value)):
            return {**envelope, "sha256": sha256, "size": value.size}
        if value.size > _LARGEST_BODY * 3 // 4:
            raise RequestTooLarge(
                f"A value of {value.size} bytes does not fit into a request, and {self._where} "
                "accepts no files.",
                advice="Send a smaller one, or 8-bit pictures (images=png).",
            )
        data = await asyncio.to_thread(lambda: base64.b64encode(b"".join(value.chunks())))
        return {**envelope, "data": data.decode("ascii")}

    async def _put(self, value: EncodedValue) -> str | None:
        """The SHA-256 of a value file, uploaded; ``None`` if the service accepts no files."""
        sha256 = await asyncio.to_thread(value.sha256)
        path = f"/values/{sha256}"
        there = await self._in_time(self._http.head_once(path))
        if PROTOCOL_HEADER not in there.headers:
            return None
        if there.status in (401, 403):
            if not self._has_login:
                raise self._no_login()
            raise AuthenticationError(
                f"{self._where} refused the key (HTTP {there.status}).",
                advice="Check that the key is right, and that it may use this service.",
            )
        if there.status != 200:
            await self._http.put(path, value.size, lambda: _streamed(value))
        return sha256

    async def _get(self, address: URL) -> CallAnswer:
        accept = (*_REDIRECTS, *_ABOUT_THE_CALL)
        response = await self._in_time(self._http.get_once(address.raw_path_qs, accept))
        return await self._understood(response, address)

    async def _understood(self, response: Response, address: URL) -> CallAnswer:
        """The answer, after redirects."""
        for _ in range(_MOST_REDIRECTS):
            if response.status not in _REDIRECTS:
                return self._read(response, address)
            address = self._ours(response.headers.get("Location", ""), address, "redirect")
            response = await self._in_time(
                self._http.get_once(address.raw_path_qs, (*_REDIRECTS, *_ABOUT_THE_CALL))
            )
        raise TargetError(f"{self._where} redirects too often.")

    def _read(self, response: Response, address: URL) -> CallAnswer:
        said = _limited_json(response.body, self._where)
        if response.status >= 400:
            raise cleaned_error(self._refused(response.status, said))
        answer = CallAnswer.read(said, response.headers)
        answer = answer.model_copy(
            update={
                "message": cleaned_text(answer.message),
                "error": cleaned_json(answer.error) if answer.error is not None else None,
            }
        )
        if answer.poll_url is None and response.status == 202:
            # How others say it.
            found = response.headers.get("Location")
            answer = answer.model_copy(update={"poll_url": found})
        absolute = {
            name: str(self._ours(url, address, name))
            for name, url in (("poll_url", answer.poll_url), ("cancel_url", answer.cancel_url))
            if url is not None
        }
        return answer.model_copy(update=absolute)

    def _refused(self, status: int, said: JsonValue) -> ComfyRemoteError:
        if isinstance(said, dict):
            ours = said.get("comfy_remote")
            body = {**said, "error": ours} if isinstance(ours, dict) else said
            failed = CallAnswer.read({**body, "status": CallStatus.FAILED.value}).failure()
            if isinstance(ours, dict):
                return failed
            if said.get("status") or said.get("error") or said.get("detail"):
                failed.details["http_status"] = status
                return failed
        return ExecutionFailed(
            f"{self._where} refused the call (HTTP {status}).",
            advice="Its log may say why.",
            details={"http_status": status},
        )

    def _poll_address(self, answer: CallAnswer) -> URL:
        if answer.poll_url is None:
            raise TargetError(
                f"{self._where} says that the call is {answer.status.value}, but not where to ask "
                "for its result (poll_url).",
                advice="Answers that are not final need a poll_url.",
            )
        return self._ours(answer.poll_url, self._url, "poll_url")

    def _ours(self, url: str, base: URL, what: str) -> URL:
        """An address from an answer, if it is at the service's own origin.

        Raises:
            TargetError: It is elsewhere.
        """
        address = base.join(URL(url)) if _is_url(url) else URL()
        if not address.host or address.origin() != self._origin or address.user:
            shown = address.origin() if address.host else "something that is not an address"
            raise TargetError(
                f"{self._where} refers to {shown} ({what}), which is not followed: neither the "
                "values nor the key are sent to another server on its word.",
                advice="If that is right, call that server itself.",
            )
        return address

    @staticmethod
    def _remembering(answer: CallAnswer, before: CallAnswer) -> CallAnswer:
        """The answer, with the addresses of the one before where it does not repeat them."""
        known = {
            name: getattr(before, name)
            for name in ("id", "poll_url", "cancel_url")
            if getattr(answer, name) is None
        }
        return answer.model_copy(update=known)

    async def _in_time(self, request: Awaitable[_T]) -> _T:
        try:
            return await within(request, self._request_timeout)
        except asyncio.TimeoutError:
            raise self._too_slow() from None
        except AuthenticationError as error:
            if not self._has_login:
                raise self._no_login() from error
            raise

    def _no_login(self) -> AuthenticationError:
        variable = token_variable(self._url.host or "")
        names = f"Set {variable} to its token, or name" if variable else "Name"
        return AuthenticationError(
            f"{self._where} needs a key, and none is set for it.",
            advice=f"{names} it in comfy-remote.toml with key_env (docs/service.md).",
        )

    def _too_slow(self) -> JobTimedOut:
        return JobTimedOut(
            f"{self._where} did not finish its answer within {self._request_timeout:g} s.",
            advice="Give it more time (request_timeout), if it is only slow.",
        )


def _is_url(url: str) -> bool:
    try:
        URL(url)
    except ValueError:
        return False
    return bool(url)


def _limited_json(body: bytes, where: str) -> JsonValue:
    if has_more_values(body, _MOST_JSON_VALUES):
        raise OutputTooLarge(
            f"{where} answered with more than {_MOST_JSON_VALUES} JSON values.",
            advice="It has to send tensors as value files (encoding safetensors), not as lists.",
        )
    return Response(200, {}, body).json()


async def _streamed(value: EncodedValue) -> AsyncIterator[bytes]:
    for chunk in value.chunks():
        yield bytes(chunk)
        await asyncio.sleep(0)
