"""A value in JSON: its type, how it is encoded, and its data, or where that is.

Four encodings are understood: ``identity`` (the data is the value), ``json`` (the data is JSON
text), ``safetensors`` (a value file, see `media.values`) and ``file`` (a PNG, WAV or text, for
people with curl). Pickle is not, and never will be: to read it is to run what its sender wrote.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..errors import ValueInvalid
from ..json_text import problems_in
from ..media.temporary import TemporaryFolder
from ..media.values import (
    DecodedValue,
    EncodedValue,
    ObjectAdapter,
    ValueLimits,
    decode_value,
    encode,
)
from ..media.values.limits import check_plain, invalid, strict_json
from ..media.values.plain_files import value_of_file

if TYPE_CHECKING:
    from ..media.values.tensors import TensorLibrary

__all__ = ["Encoding", "ValueEnvelope"]

Encoding = Literal["identity", "json", "safetensors", "file"]

_LIMITS = ValueLimits()


class ValueEnvelope(BaseModel):
    """One value, as requests and answers carry it.

    Attributes:
        type: What ComfyUI calls it; ``*`` if the sender does not know.
        data: ``identity``: any JSON value. ``json``: its text, or the value. ``safetensors`` and
            ``file``: base64.
        url: Where to get the file instead; absolute, or relative to where this came from.
        sha256: Of the file. Without ``data`` and ``url``: of a file that was sent before.
        size: Bytes of the file.
        media_type: Of a ``file``, for example ``image/png``.
    """

    model_config = ConfigDict(frozen=True)

    type: str = Field(default="*", max_length=200)
    encoding: Encoding
    data: JsonValue = Field(default=None, repr=False)
    url: str | None = Field(
        default=None, max_length=8000, json_schema_extra={"format": "uri-reference"}
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    size: int | None = Field(default=None, ge=0)
    media_type: str | None = Field(default=None, max_length=200)

    @classmethod
    def read(cls, said: JsonValue) -> ValueEnvelope:
        """An envelope in any form of the protocol: ``comfy_type`` for ``type``, ``value`` for
        ``data``; without an ``encoding``, data is plain JSON.

        Raises:
            ValueInvalid: It is not an envelope, or its encoding is not understood; with the reason.
        """
        if not isinstance(said, dict):
            raise invalid("it is not a JSON object with a type, an encoding and data")
        fields = {name: value for name, value in said.items() if value is not None}
        for name, other in (("type", "comfy_type"), ("data", "value")):
            if name not in fields and other in fields:
                fields[name] = fields[other]
        encoding = fields.setdefault(
            "encoding", "safetensors" if fields.keys() & {"url", "sha256"} else "identity"
        )
        _check_encoding(encoding)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid(f"its envelope is wrong: {problems_in(error, 'it')}") from None

    @classmethod
    def identity(cls, value: JsonValue, type_: str = "*") -> ValueEnvelope:
        """A plain JSON value as it is."""
        return cls(type=type_, encoding="identity", data=value)

    @classmethod
    def inline(cls, encoded: EncodedValue) -> ValueEnvelope:
        """The value with all of its bytes: for small ones."""
        data = b"".join(encoded.chunks())
        return cls(
            type=encoded.type,
            encoding="safetensors",
            data=base64.b64encode(data).decode(),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
        )

    @classmethod
    def linked(cls, type_: str, sha256: str, size: int, url: str | None = None) -> ValueEnvelope:
        """A value whose file is elsewhere: at an address, or sent before under its hash."""
        return cls(type=type_, encoding="safetensors", sha256=sha256, size=size, url=url)

    def to_json(self) -> dict[str, JsonValue]:
        """As it is sent, without fields that are not set."""
        body: dict[str, JsonValue] = self.model_dump(mode="json", exclude_none=True)
        if self.encoding in ("identity", "json"):
            body["data"] = self.data  # also null: that is a value
        return body

    def content(self, limits: ValueLimits = _LIMITS) -> bytes:
        """The file of a ``safetensors`` or ``file`` envelope, checked against what it says.

        Raises:
            ValueInvalid: There is none, it is too large (checked before decoding), or damaged.
        """
        if not isinstance(self.data, str):
            raise invalid(f"{self.encoding} data is a text in base64, which is missing")
        if len(self.data) // 4 * 3 > limits.bytes + 2:
            raise invalid(f"it has more than {limits.bytes} bytes")
        try:
            content = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            raise invalid("its data is not base64") from None
        if len(content) > limits.bytes:
            raise invalid(f"it has more than {limits.bytes} bytes")
        if self.size not in (None, len(content)):
            raise invalid(f"it has {len(content)} bytes, and {self.size} were announced")
        if self.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise invalid("its SHA-256 differs from the one announced")
        return content

    def decode(
        self,
        *,
        tensors: TensorLibrary,
        adapters: Sequence[ObjectAdapter] = (),
        limits: ValueLimits = _LIMITS,
    ) -> DecodedValue:
        """The value. One that is elsewhere has to be fetched first (`media.values.read_value`).

        Raises:
            ValueInvalid: It is damaged, hostile, or beyond the limits.
        """
        if self.encoding in ("identity", "json"):
            if self.url is not None and self.data is None:
                raise invalid("only a file can be at an address")
            value = self.data
            if self.encoding == "json" and isinstance(value, str):
                value = strict_json(value, limits.items)
            check_plain(value, limits)
            return DecodedValue(self.type, False, value)
        if self.encoding == "file":
            return self._file(tensors, limits)
        decoded = decode_value(
            self.content(limits), tensors=tensors, adapters=adapters, limits=limits
        )
        if decoded.type == "*" or self.type in ("*", decoded.type):
            type_ = self.type if decoded.type == "*" else decoded.type
            return DecodedValue(type_, decoded.is_list, decoded.value)
        raise invalid(f"it is called {self.type[:40]!r}, and its file says {decoded.type[:40]!r}")

    def _file(self, tensors: TensorLibrary, limits: ValueLimits) -> DecodedValue:
        content = self.content(limits)
        # Windows does not open a temporary file twice.
        with TemporaryFolder("value") as folder:
            path = Path(folder) / "value"
            path.write_bytes(content)
            type_, value = value_of_file(path, self.media_type or "unknown", self.type)
        if tensors == "torch":
            again = b"".join(encode(value, type_).chunks())
            return decode_value(again, tensors=tensors, limits=limits)
        return DecodedValue(type_, False, value)


def _check_encoding(encoding: JsonValue) -> None:
    if encoding in get_args(Encoding):
        return
    if isinstance(encoding, str) and "pickle" in encoding.lower():
        raise ValueInvalid(
            f"A value encoded as {encoding[:40]!r} is not read: to open a pickle is to run code "
            "that its sender wrote.",
            advice="Have the other side send `safetensors` (tensors) or `json` (everything else): "
            "see docs/values.md.",
        )
    raise ValueInvalid(
        f"The encoding {str(encoding)[:40]!r} is not understood.",
        advice=f"These are: {', '.join(get_args(Encoding))}.",
    )
