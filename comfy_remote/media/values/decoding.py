"""Decoding a value from a file that somebody else may have made."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ValueInvalid
from ...types import JsonValue
from .adapters import ObjectAdapter, ObjectParts
from .container import ITEM_SIZES, Entry, parse_layout
from .encoding import FORMAT
from .limits import ValueLimits, invalid, strict_json
from .pictures import PictureFormat, decode_pictures
from .tensors import TensorLibrary, tensor_from

__all__ = ["DecodedValue", "decode_value", "read_value"]

_LIMITS = ValueLimits()
_FLOATS = {"nan", "inf", "-inf"}


@dataclass(frozen=True, slots=True)
class DecodedValue:
    """A value that has arrived.

    Attributes:
        type: What ComfyUI calls it: ``IMAGE``, …; ``*`` if the sender did not know.
        is_list: ``value`` is a list of values of that type.
    """

    type: str
    is_list: bool
    value: object


def read_value(
    path: Path,
    *,
    tensors: TensorLibrary,
    adapters: Sequence[ObjectAdapter] = (),
    limits: ValueLimits = _LIMITS,
    pixels: bool = True,
) -> DecodedValue:
    """Read a value file. Its tensors stay in the file, mapped, until they are used.

    They can be written to; the file does not change. Do not change the file while they live
    (replace it by renaming); Windows does not even let it be deleted.

    Args:
        adapters: For the objects in it; an object that none knows becomes `ObjectParts`.
        pixels: Whether pictures in it are decoded. If not, only their headers are read, and zeros
            that take no memory stand for them: to find out what a value is.

    Raises:
        ValueInvalid: The file is damaged, hostile, beyond the limits, or not there.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        why = error.strerror or str(error) if isinstance(error, OSError) else "it is empty"
        raise ValueInvalid(
            f"The value file {path} cannot be read: {why}.",
            advice="It may have been removed, or never written whole: run the job again.",
        ) from error
    return _decode(data, tensors, adapters, limits, pixels)


def decode_value(
    data: bytes | bytearray | memoryview,
    *,
    tensors: TensorLibrary,
    adapters: Sequence[ObjectAdapter] = (),
    limits: ValueLimits = _LIMITS,
    pixels: bool = True,
) -> DecodedValue:
    """Like `read_value`, from a file's bytes. Tensors share a buffer that can be written to.

    Raises:
        ValueInvalid: They are damaged, hostile, or beyond the limits.
    """
    return _decode(memoryview(data), tensors, adapters, limits, pixels)


def _decode(
    data: memoryview,
    library: TensorLibrary,
    adapters: Sequence[ObjectAdapter],
    limits: ValueLimits,
    pixels: bool,
) -> DecodedValue:
    layout = parse_layout(data, limits)
    if layout.metadata.get("format") != FORMAT:
        found = layout.metadata.get("format", "none")
        raise invalid(f"its format is {found[:60]!r}, and {FORMAT!r} is understood here")
    document = strict_json(layout.metadata.get("value", ""), limits.items)
    if not isinstance(document, dict) or document.keys() != {"type", "list", "value"}:
        raise invalid("its JSON is not an object of type, list and value")
    type_, is_list = document["type"], document["list"]
    if not isinstance(type_, str) or not isinstance(is_list, bool):
        raise invalid("its type is not a text, or its list is not a boolean")
    assembly = _Assembly(data, layout.entries, library, adapters, limits, pixels)
    value = assembly.value(document["value"])
    if is_list and not isinstance(value, list):
        raise invalid("it says that it is a list, but it is not")
    if unused := layout.entries.keys() - assembly.used:
        raise invalid(f"tensor {min(unused)!r} belongs to nothing in it")
    return DecodedValue(type_, is_list, value)


class _Assembly:
    """Decodes one tree of JSON into a value."""

    def __init__(
        self,
        data: memoryview,
        entries: Mapping[str, Entry],
        library: TensorLibrary,
        adapters: Sequence[ObjectAdapter],
        limits: ValueLimits,
        pixels: bool,
    ) -> None:
        self._pixels = pixels
        self._data = data
        self._entries = entries
        self._library = library
        self._adapters = {adapter.kind: adapter for adapter in adapters}
        self._limits = limits
        self._items = 0
        # One object however often it stands in the tree.
        self._tensors: dict[str, object] = {}
        self._blobs: dict[str, bytes] = {}
        self._pictures: set[str] = set()
        self._picture_bytes = 0

    @property
    def used(self) -> set[str]:
        """Names of the tensors that the tree has used."""
        return self._tensors.keys() | self._blobs.keys() | self._pictures

    def value(self, tree: JsonValue, depth: int = 0) -> object:
        self._items += 1
        if self._items > self._limits.items:
            raise invalid(f"it holds more than {self._limits.items} values")
        if depth > self._limits.depth:
            raise invalid(f"it is more than {self._limits.depth} containers deep")
        if isinstance(tree, list):
            return [self.value(item, depth + 1) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if "$" not in tree:
            return {key: self.value(item, depth + 1) for key, item in tree.items()}
        return self._tagged(tree, depth)

    def _tagged(self, tree: dict[str, JsonValue], depth: int) -> object:
        match tree:
            case {"$": "tensor", "name": str(name), **rest} if not rest:
                if name not in self._tensors:
                    self._tensors[name] = tensor_from(self._data, self._entry(name), self._library)
                return self._tensors[name]
            case {"$": "bytes", "name": str(name), **rest} if not rest:
                if name not in self._blobs:
                    self._blobs[name] = bytes(self._blob(name))
                return self._blobs[name]
            case {"$": "float", "value": str(text), **rest} if not rest and text in _FLOATS:
                return float(text)
            case {"$": "tuple", "items": list(items), **rest} if not rest:
                return tuple(self.value(item, depth + 1) for item in items)
            case {"$": "dict", "items": list(items), **rest} if not rest:
                return self._dict(items, depth)
            case {"$": "object", "kind": str(kind), "parts": parts, **rest} if not rest:
                return self._object(kind, self.value(parts, depth + 1))
            case {
                "$": "pictures",
                "format": "png" | "webp" as format_,
                "shape": list(shape),
                "dtype": str(dtype),
                "names": list(names),
                **rest,
            } if not rest:
                return self._images(names, format_, shape, dtype)
        raise invalid(f"it holds a tag that is not understood ({str(tree['$'])[:40]!r})")

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise invalid(f"it names a tensor {name[:40]!r} that is not in the file")
        return self._entries[name]

    def _blob(self, name: str) -> memoryview:
        entry = self._entry(name)
        if entry.dtype != "U8" or len(entry.shape) != 1:
            raise invalid(f"{name!r} holds no bytes")
        return self._data[entry.start : entry.stop]

    def _images(
        self, names: list[JsonValue], format_: PictureFormat, shape: list[JsonValue], dtype: str
    ) -> object:
        extents = [n for n in shape if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        blobs = [name for name in names if isinstance(name, str)]
        if len(extents) != 4 or len(shape) != 4 or len(blobs) != len(names):
            raise invalid("its pictures are described wrongly")
        count, height, width, channels = extents
        self._picture_bytes += math.prod(extents) * ITEM_SIZES.get(dtype, 1)
        if self._picture_bytes > self._limits.bytes:
            raise invalid(f"its pictures need more than {self._limits.bytes} bytes")
        if len(self._pictures) + len(blobs) != len(self._pictures.union(blobs)):
            raise invalid("a picture is in it twice")
        self._pictures.update(blobs)
        return decode_pictures(
            [self._blob(name) for name in blobs],
            format_,
            (count, height, width, channels),
            dtype,
            self._library,
            pixels=self._pixels,
        )

    def _dict(self, items: list[JsonValue], depth: int) -> dict[object, object]:
        made: dict[object, object] = {}
        for pair in items:
            if not isinstance(pair, list) or len(pair) != 2:
                raise invalid("a dict in it is not made of pairs")
            key = self.value(pair[0], depth + 1)
            for part in key if isinstance(key, tuple) else (key,):
                if not isinstance(part, (str, int, float, bytes, type(None))):
                    raise invalid("a dict in it has an invalid key")
            if key in made:
                raise invalid("a key is in one dict twice")
            made[key] = self.value(pair[1], depth + 1)
        return made

    def _object(self, kind: str, parts: object) -> object:
        adapter = self._adapters.get(kind)
        if adapter is None:
            return ObjectParts(kind, parts)
        try:
            return adapter.put_together(parts)
        except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
            raise invalid(f"its {kind[:40]} cannot be put together ({error})") from error
