"""Calls of a service: a workflow, or anything of that protocol, behind an address."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..advice import Hint
from ..aio import Deadline
from ..config.settings import Configuration
from ..errors import JobCancelled, JobTimedOut, OutputCorrupt, ValueInvalid
from ..events import Event, Finished, JobState, Log, Progress, Queued, Started
from ..jobs.interruption import PATIENCE, Patience
from ..media.file_changes import discard
from ..media.receive import receive_file
from ..media.temporary import TemporaryFolder
from ..media.values import DecodedValue, EncodedValue
from ..types import JsonValue
from ..wire.call import CallAnswer, CallStatus, is_envelope
from ..wire.value import ValueEnvelope
from ..workflow.interface import ANY
from .address import call_address, service_headers
from .rest import RestClient
from .run import Run
from .values import ValueForm, check_result

if TYPE_CHECKING:
    from collections.abc import Awaitable


__all__ = ["ServiceCall", "call_service", "enveloped", "received"]

_T = TypeVar("_T")
_FORM = ValueForm()
_PLAIN_TYPES: Mapping[type, str] = {str: "STRING", bool: "BOOLEAN", int: "INT", float: "FLOAT"}


class ServiceCall(Run):
    """A call of a service; `start` sends it.

    Args:
        client: Of the service; it stays open until the results are here.
        inputs: By name: value files, envelopes, or plain JSON values.
        key: ``Idempotency-Key``; another one for each call by default.
        timeout: Seconds from now within which the call must end and its results must be here;
            ``None`` for as long as it takes.
        patience: As for `Run`.
    """

    def __init__(
        self,
        client: RestClient,
        inputs: Mapping[str, EncodedValue | JsonValue],
        *,
        key: str | None = None,
        timeout: float | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        super().__init__(patience=patience)
        self._client = client
        self._inputs = inputs
        self._key = key or str(uuid.uuid4())
        self._deadline = Deadline(timeout)
        self._answer: CallAnswer | None = None

    @property
    def id(self) -> str | None:
        return None if self._answer is None else self._answer.id or self._key

    @property
    def finished(self) -> Finished | None:
        answer = self._answer
        if answer is None or not answer.status.final:
            return None
        if answer.status is CallStatus.COMPLETED:
            return Finished(JobState.SUCCEEDED)
        error = answer.failure()
        cancelled = isinstance(error, JobCancelled)
        return Finished(JobState.CANCELLED if cancelled else JobState.FAILED, error)

    @property
    def keys(self) -> list[str]:
        """The keys of its results, once it has ended."""
        return [] if self._answer is None else list(self._answer.results)

    async def _send(self) -> None:
        start = self._client.start(self._inputs, key=self._key)
        self._answer = await self._within(start, "The service did not take the call within {}.")

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        last: list[Event] = []
        async with aclosing(self._client.follow(self._started)) as answers:
            while not self._started.status.final:
                self._answer = await self._within(
                    answers.__anext__(), "The call did not end within {}."
                )
                news = _events(self._answer)
                for event in news:
                    if event not in last:
                        yield event
                last = news
        finished = self.finished
        assert finished is not None  # noqa: S101  the answer is final
        yield finished

    async def cancel(self) -> None:
        if self._answer is not None and not self._answer.status.final:
            await self._client.cancel(self._answer)

    async def results(
        self,
        folder: Path,
        form: ValueForm = _FORM,
        *,
        only: Collection[str] | None = None,
        even_if_failed: bool = False,
    ) -> dict[str, DecodedValue]:
        """The results of a call that has ended.

        Args:
            folder: Where values that have to be fetched are put.
            form: What the results become.
            only: Keys of the results that are wanted; all by default.
            even_if_failed: Of a call that failed, those that it had given before, if any, instead
                of raising its error.

        Raises:
            ValueInvalid: As `received`.
            ComfyRemoteError: The call's own error if it failed; or a result could not be fetched.
        """
        results = self._started.results
        finished = self.finished
        error = None if finished is None else finished.error
        if error is not None and not (even_if_failed and results):
            raise error
        late = "The call has ended, but its results did not arrive within {}."
        return {
            key: await self._within(received(self._client, value, folder, form), late)
            for key, value in results.items()
            if only is None or key in only
        }

    @property
    def _started(self) -> CallAnswer:
        if self._answer is None:
            raise RuntimeError("it has not been started")
        return self._answer

    async def _within(self, work: Awaitable[_T], late: str) -> _T:
        try:
            return await self._deadline.within(work)
        except asyncio.TimeoutError:
            raise JobTimedOut(late.format(self._deadline), advice=Hint.MORE_TIME()) from None


async def call_service(
    url: str,
    inputs: Mapping[str, object],
    *,
    form: ValueForm = _FORM,
    on_event: Callable[[Event], object] | None = None,
    timeout: float | None = None,
) -> dict[str, DecodedValue]:
    """Call a service with Python values, and wait for its results.

    Interrupted while it runs (cancelled, an exception in ``on_event``), or not done in time, the
    call is cancelled there.

    Args:
        url: Of the service; its login is taken from the configuration.
        inputs: By name: as for `target.call`.
        form: How they are sent, and what the results become.
        on_event: Called with each event.
        timeout: Seconds; ``None`` for as long as it takes.

    Raises:
        ValueCannotTravel: An input holds a model or the like.
        ComfyRemoteError: As `ServiceCall.start` and `ServiceCall.results`.
    """
    headers = service_headers(call_address(url), Configuration.load())
    sent = await asyncio.to_thread(
        lambda: {name: enveloped(value, form) for name, value in inputs.items()}
    )
    async with RestClient(url, headers=headers) as client:
        made = ServiceCall(client, sent, timeout=timeout)
        with TemporaryFolder("call") as folder:
            return await made.whole(lambda: made.results(Path(folder), form), on_event)


def enveloped(value: object, form: ValueForm = _FORM) -> EncodedValue | JsonValue:
    """A Python value as `ServiceCall` takes it; a plain one with its type.

    Raises:
        ValueCannotTravel: It holds a model or the like.
    """
    sent = form.sent(value)
    if isinstance(sent, EncodedValue):
        return sent
    type_ = value.type if isinstance(value, DecodedValue) else ANY
    type_ = _PLAIN_TYPES.get(type(sent), ANY) if type_ == ANY else type_
    return ValueEnvelope.identity(sent, type_).to_json()


async def received(
    client: RestClient,
    value: JsonValue,
    folder: Path,
    form: ValueForm = _FORM,
    *,
    expected: str = ANY,
) -> DecodedValue:
    """One result of a service's answer, which is not trusted.

    Args:
        client: Of the service, open.
        value: An envelope, or a plain JSON value.
        folder: Where a value that has to be fetched is put.
        form: What it becomes, and what it may need at most.
        expected: ComfyUI's type that it must have; ``*`` for any.

    Raises:
        ValueInvalid: It is damaged, hostile, beyond the limits (refused before anything is
            allocated for it), or of another type.
        ComfyRemoteError: It could not be fetched.
    """
    if not is_envelope(value):
        decoded = DecodedValue(ANY, False, value)
    else:
        envelope = ValueEnvelope.read(value)
        if envelope.data is None and envelope.url is not None:
            path = folder / uuid.uuid4().hex
            await _fetch(client, envelope, envelope.url, path, form.limits.bytes)
            decoded = await asyncio.to_thread(_read, envelope, path, form)
        elif envelope.data is None and envelope.sha256 is not None:
            raise ValueInvalid(
                "A value is named by its SHA-256 alone, and nothing was sent before.",
                advice="The service has to name its address (url).",
            )
        else:
            decoded = await asyncio.to_thread(_decoded, envelope, form)
    check_result(decoded, expected)
    return decoded


async def _fetch(
    client: RestClient, envelope: ValueEnvelope, url: str, path: Path, limit: int
) -> None:
    if envelope.encoding not in ("safetensors", "file"):
        raise ValueInvalid(f"A value of encoding {envelope.encoding} is not fetched from a url.")
    if envelope.size is not None and envelope.size > limit:
        raise ValueInvalid(
            f"A value of {envelope.size} bytes is announced, and at most {limit} are accepted."
        )
    largest = limit if envelope.size is None else envelope.size
    got = await receive_file(
        client.download(url, largest=largest), path, sha256=envelope.sha256, limit=limit
    )
    if envelope.size not in (None, got.size):
        discard(path)
        raise OutputCorrupt(
            f"A value has {got.size} bytes, and {envelope.size} were announced.",
            advice="Call again.",
        )


def _read(envelope: ValueEnvelope, path: Path, form: ValueForm) -> DecodedValue:
    if envelope.encoding != "file":
        return form.read(path)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return _decoded(envelope.model_copy(update={"data": data, "url": None}), form)


def _decoded(envelope: ValueEnvelope, form: ValueForm) -> DecodedValue:
    return envelope.decode(tensors=form.tensors, adapters=form.adapters, limits=form.limits)


def _events(answer: CallAnswer) -> list[Event]:
    """What an answer says of a call that has not ended, as events."""
    if answer.status is CallStatus.PENDING:
        return [Queued(), *([Log(answer.message)] if answer.message else [])]
    if answer.status is not CallStatus.RUNNING:
        return []
    done = answer.progress
    if done is None:
        return [Progress(message=answer.message) if answer.message else Started()]
    return [Progress(nodes_total=1, step=done.value, steps=done.max, message=answer.message)]
