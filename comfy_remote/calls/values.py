"""Values in the answers of a service: fetched, read, and checked before anybody uses them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import OutputCorrupt, ValueInvalid
from ..media.receive import receive_file
from ..media.value_types import check_type
from ..media.values import DecodedValue, ObjectAdapter, ValueLimits, decode_value, read_value
from ..wire.call import is_envelope
from ..wire.value import ValueEnvelope
from .rest import RestClient

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["received"]

_ANY = "*"
_LIMITS = ValueLimits()


async def received(
    client: RestClient,
    value: JsonValue,
    folder: Path,
    *,
    tensors: Literal["numpy", "torch"],
    adapters: Sequence[ObjectAdapter] = (),
    expected: str = _ANY,
    limits: ValueLimits = _LIMITS,
) -> DecodedValue:
    """One result of a call.

    Args:
        client: Of the service, open.
        value: An envelope, or a plain JSON value.
        folder: Where a value that has to be fetched is put.
        tensors: Which library's tensors it shall hold.
        adapters: For the objects in it.
        expected: ComfyUI's type that it shall have; ``*`` for any.
        limits: What it may need at most.

    Raises:
        ValueInvalid: It is damaged, hostile, beyond the limits (which is told before anything is
            allocated for it), or of another type.
        ComfyRemoteError: It could not be fetched.
    """
    if not is_envelope(value):
        decoded = DecodedValue(_ANY, False, value)
    else:
        envelope = ValueEnvelope.read(value)
        if envelope.url is not None and envelope.data is None:
            envelope_file = folder / uuid.uuid4().hex
            await _fetch(client, envelope, envelope.url, envelope_file, limits)
            decoded = await asyncio.to_thread(
                _read, envelope, envelope_file, tensors, adapters, limits
            )
        elif envelope.data is None and envelope.sha256 is not None:
            raise ValueInvalid(
                "A value is named by its SHA-256 alone, and nothing was sent before.",
                advice="The service has to say where it is (url).",
            )
        else:
            decoded = await asyncio.to_thread(
                envelope.decode, tensors=tensors, adapters=adapters, limits=limits
            )
    _check(decoded, expected)
    return decoded


async def _fetch(
    client: RestClient, envelope: ValueEnvelope, url: str, path: Path, limits: ValueLimits
) -> None:
    if envelope.encoding not in ("safetensors", "file"):
        raise ValueInvalid(f"A value of encoding {envelope.encoding} is not fetched from a url.")
    largest = limits.bytes if envelope.size is None else min(envelope.size, limits.bytes)
    if envelope.size is not None and envelope.size > limits.bytes:
        raise ValueInvalid(
            f"A value of {envelope.size} bytes is announced, and {limits.bytes} are taken."
        )
    got = await receive_file(
        client.download(url, largest=largest), path, sha256=envelope.sha256, limit=limits.bytes
    )
    if envelope.size not in (None, got.size):
        path.unlink(missing_ok=True)
        raise OutputCorrupt(
            f"A value has {got.size} bytes, and {envelope.size} were announced.",
            advice="Call again.",
        )


def _read(
    envelope: ValueEnvelope,
    path: Path,
    tensors: Literal["numpy", "torch"],
    adapters: Sequence[ObjectAdapter],
    limits: ValueLimits,
) -> DecodedValue:
    if envelope.encoding == "file":
        import base64

        data = base64.b64encode(path.read_bytes()).decode("ascii")
        inline = envelope.model_copy(update={"data": data, "url": None})
        return inline.decode(tensors=tensors, adapters=adapters, limits=limits)
    if os.name == "nt":
        # The file goes soon, and Windows keeps one that is mapped.
        return decode_value(path.read_bytes(), tensors=tensors, adapters=adapters, limits=limits)
    return read_value(path, tensors=tensors, adapters=adapters, limits=limits)


def _check(decoded: DecodedValue, expected: str) -> None:
    wanted = set(expected.split(","))
    fits = decoded.type in wanted or (decoded.type == "INT" and "FLOAT" in wanted)
    if _ANY not in (decoded.type, expected) and not fits:
        raise ValueInvalid(
            f"The result is {decoded.type}, and {expected} is expected.",
            advice="Choose another output_key or output_type.",
        )
    items = decoded.value if decoded.is_list and isinstance(decoded.value, list) else None
    for item in [decoded.value] if items is None else items:
        check_type(decoded.type if expected == _ANY else expected, item)
