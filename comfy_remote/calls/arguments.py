"""From what a caller sent for each key to what a job takes: a value file, or a JSON value."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..advice import Hint
from ..errors import InputFileMissing, ValueInvalid, WorkflowInvalid
from ..json_text import check_json_values
from ..media.temporary import TemporaryFolder
from ..media.values import decode_value, encode, read_value
from ..media.values.plain_files import value_of_file
from ..media.values.types import check_type
from ..outputs import media_type_of
from ..types import JsonValue
from ..wire.call import is_envelope
from ..wire.value import ValueEnvelope
from ..workflow.interface import ANY, Interface, InterfaceInput
from .store import ValueStore
from .values import LONGEST_PLAIN_TEXT, Argument, ValueFile

__all__ = ["argument_of_file", "arguments_of", "media_type_of_input", "plain_argument"]


async def arguments_of(
    inputs: Mapping[str, JsonValue], interface: Interface, store: ValueStore
) -> dict[str, Argument]:
    """The arguments of a call, each decoded and checked against its key's type.

    Args:
        inputs: By key: envelopes, or plain JSON values.

    Raises:
        WorkflowInvalid: A key is unknown, a value is of another type, or the store lacks a file.
        ValueInvalid: A value is damaged.
    """
    return {
        key: await _argument(interface.input(key), value, store) for key, value in inputs.items()
    }


async def argument_of_file(
    entry: InterfaceInput, content: bytes, media_type: str, store: ValueStore
) -> Argument:
    """The argument for a picture, a sound or a text that a person sent, or for a value file.

    Raises:
        WorkflowInvalid: It is a value file of another type.
        ValueInvalid: It is damaged, or cannot be taken as the type that is wanted.
    """
    if media_type == "application/octet-stream":
        return await _file(entry, ValueEnvelope(encoding="safetensors"), content, store)
    async with store.decoding:
        made = await asyncio.to_thread(_from_file, content, media_type, entry.type, store)
    return await _plain(entry, made, store) if isinstance(made, str) else made


def media_type_of_input(filename: str, otherwise: str = "text/plain") -> str:
    """The media type of a file by its name; an octet-stream is a value file."""
    if filename.lower().endswith(".safetensors"):
        return "application/octet-stream"
    found = media_type_of(filename)
    return otherwise if found == "application/octet-stream" else found


def plain_argument(text: str, type_: str) -> JsonValue:
    """The value that a person typed for a key: a text where one is wanted, else JSON, else a text.

    Raises:
        RequestTooLarge: It is JSON of too many values.
    """
    if "STRING" in type_.split(",") or type_ == "COMBO":
        return text
    check_json_values(text.encode("utf-8", "replace"), _MOST_VALUES)
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


async def _argument(entry: InterfaceInput, value: JsonValue, store: ValueStore) -> Argument:
    if not is_envelope(value):
        return await _plain(entry, value, store)
    envelope = ValueEnvelope.read(value)
    if envelope.url is not None:
        raise ValueInvalid(
            f"The input {entry.key} is at an address, and a service fetches nothing.",
            advice="Send the file itself: PUT /values/SHA256, and its sha256 in place of the url.",
            details={"key": entry.key},
        )
    if envelope.encoding in ("identity", "json"):
        plain = envelope.decode(tensors="numpy").value
        return await _plain(entry, plain, store)  # type: ignore[arg-type]  # it was JSON
    if envelope.data is None and envelope.sha256 is not None:
        found = store.get(envelope.sha256)
        if found is None:
            raise InputFileMissing(
                f"The file of the input {entry.key} is not here, or no longer.",
                advice=f"Send it with PUT /values/{envelope.sha256}, and call again.",
                details={"key": entry.key, "sha256": envelope.sha256},
            )
        await asyncio.to_thread(_check_file, entry, found.path)
        return found
    content = await asyncio.to_thread(envelope.content)
    if envelope.encoding == "file":
        media_type = envelope.media_type or "text/plain"
        return await argument_of_file(entry, content, media_type, store)
    return await _file(entry, envelope, content, store)


async def _plain(entry: InterfaceInput, value: JsonValue, store: ValueStore) -> Argument:
    _check(entry, value)
    if not isinstance(value, str | list | dict):
        return value
    if len(await asyncio.to_thread(json.dumps, value)) <= LONGEST_PLAIN_TEXT:
        return value
    return await asyncio.to_thread(store.write, encode(value, entry.type))


async def _file(
    entry: InterfaceInput, envelope: ValueEnvelope, content: bytes, store: ValueStore
) -> ValueFile:
    decoded = await asyncio.to_thread(decode_value, content, tensors="numpy", pixels=False)
    _check_items(entry, decoded.value, is_list=decoded.is_list)
    stored = await store.add(content)
    return replace(stored, type=envelope.type)


def _check_file(entry: InterfaceInput, path: Path) -> None:
    decoded = read_value(path, tensors="numpy", pixels=False)
    _check_items(entry, decoded.value, is_list=decoded.is_list)


def _check_items(entry: InterfaceInput, value: object, *, is_list: bool) -> None:
    for item in value if is_list and isinstance(value, list) else [value]:
        _check(entry, item)


def _check(entry: InterfaceInput, value: object) -> None:
    try:
        check_type(entry.type, value)
    except ValueInvalid as error:
        raise WorkflowInvalid(
            f"The input {entry.key} does not fit. {error.message}",
            advice=Hint.VALUE_OF_TYPE(),
            details={**error.details, "key": entry.key},
        ) from None


def _from_file(content: bytes, media_type: str, type_: str, store: ValueStore) -> ValueFile | str:
    with TemporaryFolder("value") as folder:
        path = Path(folder) / "value"
        path.write_bytes(content)
        wanted = next((one for one in type_.split(",") if one in _FROM_FILES), type_)
        found, value = value_of_file(path, media_type, wanted)
    return value if isinstance(value, str) else store.write(encode(value, found))


_MOST_VALUES = 1_000_000
_FROM_FILES = (ANY, "IMAGE", "MASK", "AUDIO", "VIDEO", "STRING")
