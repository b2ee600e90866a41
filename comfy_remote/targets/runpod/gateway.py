"""What a gateway of ours takes beyond RunPod's API: input files by themselves, more of a policy.

A file goes to the gateway's store by its SHA-256, and the request names it by that. What the store
has already is not sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from pydantic import JsonValue

from ...aio import concurrent_map
from ...errors import (
    ComfyRemoteError,
    InputFileMissing,
    RateLimited,
    RequestTooLarge,
    TargetUnreachable,
)
from ...media.receive import file_chunks
from ...net.answers import Response, error_of
from ...net.http import HttpClient
from ...net.retry import Backoff, Retries
from ...units import size_text
from ...wire.runpod import FILES_HEADER
from ...workflow.paid_nodes import any_paid_known
from ..base import InputFile, RunRequest, input_errors
from ..upload_progress import UploadProgress

__all__ = ["SMALLEST_SENT_ALONE", "OwnGateway", "own_gateway", "policy_of"]

SMALLEST_SENT_ALONE = 512 * 1024
"""Bytes. What is smaller is sooner there in the request, as base64, than by two requests of its
own: measured on loopback, on a LAN and on a slow line."""

_THERE, _NOT_THERE = 200, 404
_RUNPODS_POLICY = frozenset({"executionTimeout", "ttl", "lowPriority"})


@dataclass(frozen=True, slots=True)
class OwnGateway:
    """A gateway of ours.

    Attributes:
        file_bytes: Bytes that one file may have.
        fresh: Seconds that files may take to be sent: the gateway stores those that no job has
            named for an hour, so after longer it is asked for all of them again.
    """

    name: str
    file_bytes: int
    http: HttpClient
    backoff: Backoff
    fresh: float = 1200.0

    async def send(
        self,
        files: Iterable[InputFile],
        on_sent: Callable[[int, int], None] | None = None,
    ) -> frozenset[str]:
        """Have files there, four at a time; their SHA-256.

        An upload that breaks is repeated from its beginning.

        Args:
            on_sent: Called with the number of bytes that are there, and of all.

        Raises:
            RequestTooLarge: One is larger than the gateway takes. Nothing has been sent.
            RateLimited: The gateway's store is full.
            TargetError: The gateway could not be asked, or could not store one.
            InputFileMissing: One cannot be read, or is not what it was.
        """
        once = list({file.sha256: file for file in files}.values())
        for file in once:
            if file.size > self.file_bytes:
                raise self.too_large(file)
        sending = _Sending(self, UploadProgress(once, on_sent))
        began = -math.inf
        while time.monotonic() - began > self.fresh:
            began = time.monotonic()
            await concurrent_map(sending.send, once)
        return frozenset(file.sha256 for file in once)

    def too_large(self, file: InputFile) -> RequestTooLarge:
        """The error for a file that the gateway does not take."""
        return RequestTooLarge(
            f"The input file {file.name} is {size_text(file.size)}, and {self.name} takes "
            f"{size_text(self.file_bytes)} a file.",
            advice="Make the file smaller.",
            details={"name": file.name, "size": file.size, "limit": self.file_bytes},
        )


@dataclass(eq=False)
class _Sending:
    """The files of one job on their way."""

    gateway: OwnGateway
    progress: UploadProgress

    async def send(self, file: InputFile) -> None:
        retries = Retries(self.gateway.backoff)
        while True:
            try:
                if not await self._is_there(file):
                    await self._put(file)
                self.progress.note(file, file.size)
                return
            except (TargetUnreachable, RateLimited) as error:
                try:
                    await retries.wait_after(error)
                except ComfyRemoteError as last:
                    raise self._refused(file, last) from last
            except ComfyRemoteError as error:
                raise self._refused(file, error) from error

    async def _is_there(self, file: InputFile) -> bool:
        """Whether it need not be sent. The gateway refuses here what it would not take."""
        answer = await self.gateway.http.head_once(f"{_path(file)}?size={file.size}")
        if answer.status in (_THERE, _NOT_THERE):
            return answer.status == _THERE
        raise error_of(answer, self.gateway.name)

    async def _put(self, file: InputFile) -> None:
        content = _Content(file, self.progress)
        try:
            await self.gateway.http.put_once(_path(file), file.size, content.chunks())
        except TargetUnreachable:
            # What goes wrong here while it is sent is, to aiohttp, a connection that broke.
            if content.error is not None:
                raise content.error from None
            raise

    def _refused(self, file: InputFile, error: ComfyRemoteError) -> ComfyRemoteError:
        """The gateway's refusal, for people."""
        where, what = self.gateway.name, f"the input file {file.name} ({size_text(file.size)})"
        details: dict[str, JsonValue] = {**error.details, "name": file.name, "size": file.size}
        match error.details.get("http_status"):
            case 413:
                return self.gateway.too_large(file)
            case 429:
                return RateLimited(
                    f"{where} takes no more for now: its store has no room for {what}.",
                    advice="Try again later: inputs and results are deleted when their time is "
                    "over.",
                    details=details,
                )
            case 507:
                return TargetUnreachable(
                    f"{where} could not store {what}: its disk is full, or cannot be written.",
                    advice="Free some space there; its log says more.",
                    details=details,
                )
            case 400:  # its SHA-256 is another one
                return _changed(file)
        return error


@dataclass(eq=False)
class _Content:
    """A file's bytes on their way.

    Attributes:
        error: Why they could not be read.
    """

    file: InputFile
    progress: UploadProgress
    error: InputFileMissing | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, as many as were announced."""
        sent = 0
        try:
            with input_errors(self.file.path):
                path, offset, size = self.file.path, self.file.offset, self.file.size
                async with aclosing(file_chunks(path, offset, size)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        sent += len(chunk)
                        self.progress.note(self.file, sent)
            if sent != self.file.size:
                raise _changed(self.file)
        except InputFileMissing as error:
            self.error = error
            raise


def _changed(file: InputFile) -> InputFileMissing:
    return InputFileMissing(
        f"The input file {file.path} has changed while it was sent.",
        advice="Wait until it is complete, then run the workflow again.",
        details={"path": str(file.path)},
    )


def own_gateway(
    health: Response, http: HttpClient, name: str, backoff: Backoff
) -> OwnGateway | None:
    """The gateway that answered ``/health``, if it is one of ours that takes files."""
    said = health.headers.get(FILES_HEADER, "")
    if not (said.isascii() and said.isdecimal() and len(said) < 20):
        return None
    # Gigabytes are not given up because the gateway is being started again.
    patient = replace(backoff, attempts=backoff.attempts + 3, longest=2 * backoff.longest)
    return OwnGateway(name, int(said), http, patient)


def policy_of(
    configured: Mapping[str, JsonValue],
    request: RunRequest,
    *,
    ours: bool,
    client: str | None,
) -> dict[str, JsonValue]:
    """The ``policy`` of a request.

    Args:
        configured: The target's.
        ours: Whether the endpoint is ours, a gateway or an app; RunPod gets RunPod's keys only.
        client: The name of this installation.
    """
    if not ours:
        return {key: value for key, value in configured.items() if key in _RUNPODS_POLICY}
    policy = dict(configured)
    if request.front:
        policy["front"] = True
    if not request.retry_lost or any_paid_known(request.prompt):
        policy["retryLost"] = False
    if client is not None:
        policy.setdefault("client", client)
    if request.batch is not None:
        policy.setdefault("batch", request.batch)
    return policy


def _path(file: InputFile) -> str:
    return f"files/{file.sha256}"
