"""The protocol of a workflow as a service, ``comfy-remote-call/1``: what is asked and answered.

A call is a POST with named inputs. The answer has the result, or says where to ask for it
(``poll_url``). See ``docs/service.md``.

Many servers have similar protocols: input is read leniently (other words for a status, every
form of progress), output has one form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

from ..errors import (
    ComfyRemoteError,
    ExecutionFailed,
    JobCancelled,
    TargetError,
    WorkflowInvalid,
    error_from_json,
)
from ..net.retry import retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "INLINE_LIMIT",
    "LONGEST_WAIT",
    "PROTOCOL",
    "PROTOCOL_HEADER",
    "RESULT",
    "CallAnswer",
    "CallProgress",
    "CallStatus",
    "is_envelope",
    "named_inputs",
    "request_body",
]

PROTOCOL = "comfy-remote-call/1"
"""The name and version of the protocol."""

PROTOCOL_HEADER = "Comfy-Remote-Protocol"
"""Our servers name `PROTOCOL` in it: they take value files by ``PUT /values/SHA256``."""

INLINE_LIMIT = 1024 * 1024
"""Bytes: larger value files travel by address, not in the JSON."""

RESULT = "result"
"""The key of the result of a call that has only one."""

LONGEST_WAIT = 120.0
"""Seconds: the longest wait that a server may ask for before the next poll."""

_LONGEST_TEXT = 4000
_REFERENCE: JsonDict = {"format": "uri-reference"}
_DATA = frozenset({"data", "value", "url", "sha256"})


class CallStatus(str, Enum):
    """Where a call stands. The last two are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (CallStatus.COMPLETED, CallStatus.FAILED)


_CANCELLED = frozenset({"cancelled", "canceled", "aborted"})
_STATUSES = {
    **dict.fromkeys(("pending", "queued", "in_queue", "accepted"), CallStatus.PENDING),
    **dict.fromkeys(("running", "processing", "in_progress", "started"), CallStatus.RUNNING),
    **dict.fromkeys(
        ("completed", "complete", "done", "success", "succeeded", "finished"),
        CallStatus.COMPLETED,
    ),
    **dict.fromkeys(("failed", "failure", "error", *_CANCELLED), CallStatus.FAILED),
}


class CallProgress(BaseModel):
    """How far a call is: ``0 <= value <= max``, ``max > 0``."""

    model_config = ConfigDict(frozen=True)

    value: float = Field(ge=0)
    max: float = Field(gt=0)

    @classmethod
    def read(cls, said: JsonValue) -> CallProgress | None:
        """``{value, max}``, ``{percent}``, ``{ratio}``, or a number: up to 1 a ratio, above it
        per cent. ``None`` for anything else.
        """
        if isinstance(said, dict):
            value, most = _number(said.get("value")), _number(said.get("max"))
            if value is not None and most is not None and most > 0:
                return cls(value=min(max(value, 0.0), most), max=most)
            for key, whole in (("percent", 100.0), ("ratio", 1.0)):
                if (part := _number(said.get(key))) is not None:
                    return cls(value=min(max(part, 0.0), whole), max=whole)
            return None
        number = _number(said)
        if number is None:
            return None
        whole = 1.0 if number <= 1 else 100.0
        return cls(value=min(max(number, 0.0), whole), max=whole)


class CallAnswer(BaseModel):
    """A server's answer about a call.

    Attributes:
        id: The server's name for the call.
        progress: ``None`` if the server does not say.
        message: A line for people; may be empty.
        poll_url: Where to ask again, absolute or relative to where this came from.
        cancel_url: Where a DELETE cancels it; `poll_url` if ``None``.
        retry_after: Seconds to wait before asking again, in ``0..120``.
        results: By key: envelopes (see `wire.value`) or plain JSON values.
        error: Why it failed, as `ComfyRemoteError.to_json` writes it.
    """

    model_config = ConfigDict(frozen=True)

    status: CallStatus
    id: str | None = None
    progress: CallProgress | None = None
    message: str = ""
    poll_url: str | None = Field(default=None, json_schema_extra=_REFERENCE)
    cancel_url: str | None = Field(default=None, json_schema_extra=_REFERENCE)
    retry_after: float | None = Field(default=None, ge=0)
    results: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    error: dict[str, JsonValue] | None = None

    @classmethod
    def read(cls, said: JsonValue, headers: Mapping[str, str] | None = None) -> CallAnswer:
        """The answer of a server, in any form of the protocol.

        Args:
            said: The answer's body.
            headers: The answer's (aiohttp's, with names in any case), for ``Retry-After``.

        Raises:
            TargetError: It is not an answer of this protocol.
        """
        if not isinstance(said, dict):
            raise _no_answer("it is not a JSON object")
        results = _results(said)
        word = said.get("status", said.get("state"))
        status = _STATUSES.get(word.strip().lower()) if isinstance(word, str) else None
        if status is None:
            if results:
                status = CallStatus.COMPLETED
            elif _text(said.get("poll_url")):
                status = CallStatus.RUNNING
            else:
                raise _no_answer(
                    "it has neither a status" if word is None else "it has an unknown status"
                )
        progress = said.get("progress")
        return cls(
            status=status,
            id=_text(said.get("id")) or None,
            progress=CallProgress.read(progress),
            message=_first_text(_messages(said, progress)),
            poll_url=_address(said, "poll_url"),
            cancel_url=_address(said, "cancel_url"),
            retry_after=_retry_after(said, headers or {}),
            results=results,
            error=_error(said, str(word).lower()) if status is CallStatus.FAILED else None,
        )

    def failure(self) -> ComfyRemoteError:
        """The error of a call that failed."""
        return error_from_json(self.error or {"code": ExecutionFailed.code})

    def to_json(self) -> dict[str, JsonValue]:
        """As we answer: a single result also as ``result``, unknown fields omitted."""
        body: dict[str, JsonValue] = self.model_dump(
            mode="json", exclude_none=True, exclude_defaults=True
        )
        body["status"] = self.status.value
        if self.results:
            key = RESULT if RESULT in self.results else next(iter(self.results))
            if len(self.results) == 1 or key == RESULT:
                body[RESULT] = self.results[key]
        return body


def request_body(inputs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The body of a call's POST, in the form that all servers of the protocol understand.

    Args:
        inputs: Envelopes by name, in order; a plain JSON value goes as it is (``identity``).
    """
    listed: list[JsonValue] = []
    for name, value in inputs.items():
        envelope = value if is_envelope(value) else {"encoding": "identity", "data": value}
        if isinstance(envelope, dict):
            listed.append({"name": name, **envelope})
    return {"inputs": listed, "input_order": list(inputs)}


def named_inputs(body: JsonValue) -> dict[str, JsonValue]:
    """The inputs of a call's body by name: an envelope or a plain JSON value each.

    Both forms are understood: ``{"inputs": {key: value}}``, and a list of envelopes with a
    ``name`` each, in the order of ``input_order`` where that is given.

    Raises:
        WorkflowInvalid: It is neither, or a name comes twice.
    """
    inputs = body.get("inputs", {}) if isinstance(body, dict) else None
    if isinstance(inputs, dict):
        return dict(inputs)
    if not isinstance(inputs, list):
        raise _no_call("has no `inputs`")
    named: dict[str, JsonValue] = {}
    for number, one in enumerate(inputs):
        name = one.get("name", f"input_{number}") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(name, str):
            raise _no_call(f"has something in `inputs[{number}]` that is not an input with a name")
        if name in named:
            raise _no_call(f"has the input {name!r} twice")
        envelope = {key: value for key, value in one.items() if key != "name"}
        if envelope.keys().isdisjoint(_DATA):
            raise _no_call(f"has no data for the input {name!r}")
        # Its type may be missing: in this list, everything is an envelope.
        named[name] = envelope if is_envelope(envelope) else {"type": "*", **envelope}
    order = body.get("input_order") if isinstance(body, dict) else None
    if isinstance(order, list):
        first = [name for name in order if isinstance(name, str) and name in named]
        named = {name: named[name] for name in [*dict.fromkeys(first), *named]}
    return named


def is_envelope(value: JsonValue) -> bool:
    """Whether a value is an envelope, and not a plain JSON object.

    One has ``type`` or ``encoding`` beside ``data``, ``value``, ``url`` or ``sha256``. A plain
    object that looks like one has to travel in an envelope.
    """
    return (
        isinstance(value, dict)
        and not value.keys().isdisjoint({"type", "encoding", "comfy_type"})
        and not value.keys().isdisjoint(_DATA)
    )


def _results(said: dict[str, JsonValue]) -> dict[str, JsonValue]:
    named = said.get("results")
    results = dict(named) if isinstance(named, dict) else {}
    alone = said.get(RESULT)
    # Ours says the same result under both names.
    if alone is not None and alone not in results.values():
        results.setdefault(RESULT, alone)
    if not results and is_envelope(said):
        results[RESULT] = {
            key: said[key]
            for key in ("type", "comfy_type", "encoding", "data", "value", "url", "media_type")
            if key in said
        }
    return results


def _messages(said: dict[str, JsonValue], progress: JsonValue) -> Iterator[JsonValue]:
    yield said.get("message")
    if isinstance(progress, dict):
        yield progress.get("message")
        yield progress.get("text")
    yield said.get("status_text")


def _error(said: dict[str, JsonValue], word: str) -> dict[str, JsonValue]:
    error = said.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        # Ours. Its words are shown as they are, cut to a limit.
        return {
            **error,
            "message": _text(error.get("message")) or "The call failed.",
            "advice": _text(error.get("advice")),
        }
    words = error.get("message") if isinstance(error, dict) else error
    text = _first_text(iter((words, said.get("detail"), said.get("message"))))
    if word in _CANCELLED:
        return JobCancelled(text or "The call was cancelled.").to_json()
    return ExecutionFailed(
        text or "The service does not say why the call failed.",
        advice="" if text else "Its log may say more.",
    ).to_json()


def _retry_after(said: dict[str, JsonValue], headers: Mapping[str, str]) -> float | None:
    for value in (headers.get("Retry-After"), said.get("retry_after"), said.get("retryAfter")):
        if (seconds := retry_after(value)) is not None:
            return min(seconds, LONGEST_WAIT)
    return None


def _address(said: dict[str, JsonValue], key: str) -> str | None:
    value = said.get(key)
    return value.strip() or None if isinstance(value, str) else None


def _number(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: JsonValue) -> str:
    return value.strip()[:_LONGEST_TEXT] if isinstance(value, str) else ""


def _first_text(values: Iterator[JsonValue]) -> str:
    return next((text for value in values if (text := _text(value))), "")


def _no_answer(why: str) -> TargetError:
    return TargetError(
        f"The service's answer cannot be understood: {why}.",
        advice="Check the address: it should be one that takes calls of a workflow "
        "(see docs/service.md).",
    )


def _no_call(why: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The call {why}.",
        advice='Send {"inputs": {KEY: VALUE}}; /openapi.json says which keys there are.',
    )
