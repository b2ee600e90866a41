"""A call for a node: of a service, or of a workflow on a target. Followed, told of, called off.

Knows nothing of ComfyUI.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from ...calls.call import LONGEST_PLAIN_TEXT, call
from ...calls.rest import RestClient
from ...calls.values import received
from ...calls.workflow import ServedWorkflow
from ...errors import ComfyRemoteError, JobTimedOut, WorkflowInvalid
from ...events import Event, Log, Preview, Progress, Queued, Started
from ...jobs.client import Client
from ...media.value_types import check_type
from ...media.values import DecodedValue, EncodedValue, ObjectAdapter, encode
from ...wire.call import RESULT, CallAnswer, CallStatus
from ...wire.value import ValueEnvelope
from ...workflow.interface import ANY
from .remote_run import Watcher

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["MOST_DECLARED", "NamedValue", "RemoteCall", "chosen_key", "named_values"]

MOST_DECLARED = 16
"""Inputs that the node declares; further ones are taken as well."""

_INTERRUPT_POLL = 0.25
_SEND_GRACE = 5.0
_CANCEL_GRACE = 10.0
# `input_0`; `input_0_$remote_inputs_ag$` and `remote_inputs.input_0`, as ComfyUI's growing
# inputs are or were called, so in workflows that others' versions of this node have saved.
_NUMBERED = re.compile(r"(?:remote_inputs\.)?input_(\d{1,6})(?:_\$remote_inputs_ag\$)?")

_T = TypeVar("_T")
_Cancel: TypeAlias = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class NamedValue:
    """A value that is sent.

    Attributes:
        type: ComfyUI's, of what is connected; ``*`` when not known.
    """

    value: object
    type: str = ANY


def named_values(
    inputs: Mapping[str, object], types: Mapping[str, str], keys: str
) -> dict[str, NamedValue]:
    """What is connected, by the name that it is sent under, in the order of the inputs.

    Args:
        inputs: By the input's own name. ``None`` is not connected.
        types: ComfyUI's, by the input's own name.
        keys: Names for ``input_0``, ``input_1`` and so on, separated by commas or line breaks;
            where one is empty or missing, the input keeps its own.

    Raises:
        WorkflowInvalid: A name comes twice.
    """
    names = [name.strip() for name in re.split(r"[,\n]", keys)]
    numbered: list[tuple[int, str, NamedValue]] = []
    for order, (own, value) in enumerate(inputs.items()):
        if value is None:
            continue
        found = _NUMBERED.fullmatch(own)
        number = int(found[1]) if found else 10**6 + order
        name = f"input_{number}" if found else own
        if found and number < len(names) and names[number]:
            name = names[number]
        numbered.append((number, name, NamedValue(value, types.get(own, ANY))))
    sent: dict[str, NamedValue] = {}
    for _, name, value in sorted(numbered, key=lambda one: one[0]):
        if name in sent:
            raise WorkflowInvalid(
                f"Two inputs of Remote API are called {name!r}.",
                advice="Give each a name of its own in `keys`.",
            )
        sent[name] = value
    return sent


def chosen_key(keys: Sequence[str], wanted: str) -> str:
    """Which of several results the node gives.

    Args:
        keys: Of the results.
        wanted: The node's ``output_key``; empty for the one called ``result``, or the only one.

    Raises:
        WorkflowInvalid: There is no such result, or several and none is chosen.
    """
    if wanted in keys:
        return wanted
    if not wanted and RESULT in keys:
        return RESULT
    if not wanted and len(keys) == 1:
        return keys[0]
    raise WorkflowInvalid(
        f"There is no result {wanted!r}." if wanted else "There are several results.",
        advice=f"Set output_key to one of: {', '.join(keys)}."
        if keys
        else "The answer has no results at all.",
        details={"keys": [*keys]},
    )


@dataclass
class RemoteCall:
    """One call.

    Args:
        where: What to call the other side.
        watcher: Who is told, and may end it.
        timeout: Seconds from now within which it must end; ``None`` for as long as it takes.
        tensors: Which library's tensors the result shall hold.
        adapters: For objects of ComfyUI's.
    """

    where: str
    watcher: Watcher
    timeout: float | None = None
    tensors: Literal["numpy", "torch"] = "torch"
    adapters: Sequence[ObjectAdapter] = ()
    _line: str = field(default="", init=False)
    _answer: CallAnswer | None = field(default=None, init=False)
    _sending: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    async def of_service(
        self,
        client: RestClient,
        values: Mapping[str, NamedValue],
        folder: Path,
        *,
        output_key: str = "",
        output_type: str = ANY,
    ) -> DecodedValue:
        """Call a service. If this ends early, the call is cancelled there.

        Args:
            client: Of the service, open.
            values: By name.
            folder: Where a value that has to be fetched is put.
            output_key: Which result is wanted: see `chosen_key`.
            output_type: What it shall be; ``*`` for any.

        Raises:
            ComfyRemoteError: Whatever went wrong.
            BaseException: What the watcher raises.
        """

        async def whole() -> DecodedValue:
            inputs = await asyncio.to_thread(self._sent, values)
            self._line = f"Sending to {self.where}"
            self._sending = True
            try:
                self._answer = await client.start(inputs, key=str(uuid.uuid4()))
            finally:
                self._sending = False
            async for answer in client.follow(self._answer):
                self._answer = answer
                await self._tell(answer)
            if self._answer.status is not CallStatus.COMPLETED:
                raise self._answer.failure()
            self._line = f"Fetching from {self.where}"
            results = self._answer.results
            return await received(
                client,
                results[chosen_key(list(results), output_key)],
                folder,
                tensors=self.tensors,
                adapters=self.adapters,
                expected=output_type,
            )

        async def cancel() -> None:
            if self._answer is not None and not self._answer.status.final:
                await client.cancel(self._answer)

        return await self._watched(whole(), cancel)

    async def of_workflow(
        self,
        client: Client,
        served: ServedWorkflow,
        values: Mapping[str, NamedValue],
        *,
        output_key: str = "",
        output_type: str = ANY,
    ) -> DecodedValue:
        """Call a workflow on a target. If this ends early, its job is cancelled.

        Args:
            client: Of the target, open.
            served: The workflow.
            values: By key.
            output_key: As for `of_service`.
            output_type: As for `of_service`.

        Raises:
            ComfyRemoteError: Whatever went wrong.
            BaseException: What the watcher raises.
        """
        key = chosen_key([one.key for one in served.interface.outputs], output_key)
        bars: asyncio.Queue[Event] = asyncio.Queue()

        async def whole() -> DecodedValue:
            self._line = f"Sending to {self.where}"
            telling = asyncio.ensure_future(self._tell_events(bars))
            try:
                results = await call(
                    client,
                    served.prompt,
                    {name: one.value for name, one in values.items()},
                    adapters=self.adapters,
                    tensors=self.tensors,
                    on_event=bars.put_nowait,
                    base=served.base,
                    only_base=True,
                    workflow=served.workflow,
                    schemas=served.schemas,
                )
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
            result = results[key]
            items = result.value if result.is_list else [result.value]
            for item in items if isinstance(items, list) else ():
                check_type(result.type if output_type == ANY else output_type, item)
            return result

        async def cancel() -> None:
            return  # `call` has seen to that when it was cancelled

        return await self._watched(whole(), cancel)

    def _sent(self, values: Mapping[str, NamedValue]) -> dict[str, EncodedValue | JsonValue]:
        return {name: self._encoded(one) for name, one in values.items()}

    def _encoded(self, one: NamedValue) -> EncodedValue | JsonValue:
        value = one.value
        no_json = isinstance(value, float) and not math.isfinite(value)
        long = isinstance(value, str) and len(value) > LONGEST_PLAIN_TEXT
        if isinstance(value, (str, int, float)) and not no_json and not long:
            type_ = _PLAIN_TYPES.get(type(value), ANY) if one.type == ANY else one.type
            return ValueEnvelope.identity(value, type_).to_json()
        return encode(value, one.type, adapters=self.adapters)

    async def _watched(self, work: Awaitable[_T], cancel: _Cancel) -> _T:
        running = asyncio.ensure_future(work)
        told = ""
        try:
            while not running.done():
                line = f"{self._line} ({self._elapsed():.0f} s)"
                if self._line and line != told:
                    self.watcher.say(told := line)
                await asyncio.wait({running}, timeout=_INTERRUPT_POLL)
                self.watcher.check()
                self._check_time()
            result = running.result()
        except BaseException:
            await self._call_off(running, cancel)
            raise
        await self.watcher.progress(1.0, 1.0)
        self.watcher.say(f"Done by {self.where} in {self._elapsed():.0f} s")
        return result

    def _check_time(self) -> None:
        if self.timeout is not None and self._elapsed() > self.timeout:
            raise JobTimedOut(
                f"{self.where} did not give a result within {self.timeout:g} s. The call was "
                "cancelled.",
                advice="Give it more time: `timeout` is in seconds, and 0 is as long as it takes.",
            )

    async def _call_off(self, running: asyncio.Future[_T], cancel: _Cancel) -> None:
        """Nobody waits any more: it shall not run on there either."""
        if running.done():
            return
        self.watcher.say(f"Cancelling on {self.where}")
        begun = time.monotonic()
        # It may run there already: only the answer tells how it is cancelled.
        while self._sending and time.monotonic() - begun < _SEND_GRACE:
            await asyncio.wait({running}, timeout=_INTERRUPT_POLL)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        try:
            await asyncio.wait_for(cancel(), _CANCEL_GRACE)
        except (ComfyRemoteError, asyncio.TimeoutError) as error:
            self.watcher.log(f"The call could not be cancelled and may go on: {error}", "warning")
            return
        self.watcher.say(f"Cancelled on {self.where}")

    async def _tell(self, answer: CallAnswer) -> None:
        word = "Queued at" if answer.status is CallStatus.PENDING else "Running at"
        self._line = f"{word} {self.where}" + (f": {answer.message}" if answer.message else "")
        if answer.progress is not None:
            await self.watcher.progress(answer.progress.value, answer.progress.max)

    async def _tell_events(self, events: asyncio.Queue[Event]) -> None:
        while True:
            match await events.get():
                case Queued(position):
                    self._line = f"Queued on {self.where}"
                    self._line += f", {position} ahead" if position else ""
                case Started():
                    self._line = f"Running on {self.where}"
                case Progress() as progress:
                    self._line = f"Running on {self.where}: {progress.node_class or ''}"
                    if progress.nodes_total > 0:
                        total = progress.nodes_total
                        await self.watcher.progress(progress.fraction * total, total)
                case Preview() as preview:
                    await self.watcher.preview(preview)
                case Log(message, level):
                    self.watcher.log(message, level)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


_PLAIN_TYPES: Mapping[type, str] = {str: "STRING", bool: "BOOLEAN", int: "INT", float: "FLOAT"}
