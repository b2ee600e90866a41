"""Encoding a value as JSON and tensors, and writing both as one file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from ...errors import ValueCannotTravel
from ...types import JsonValue
from ..file_changes import discard
from ..files import CHUNK_SIZE, blake3_of, sha256_of, storage_errors, take_name
from ..remote_values import ContentHash, value_stem
from .adapters import ObjectAdapter, ObjectParts
from .container import ITEM_SIZES, MAX_HEADER, header_bytes
from .limits import MAX_INTEGER_BITS, ValueLimits
from .pictures import ImageFormat, PictureFormat, encode_pictures
from .tensors import TensorBits, chunks_of, is_tensor, tensor_bits

__all__ = ["FORMAT", "EncodedValue", "encode"]

FORMAT = "comfy-remote-value/1"

_LIMITS = ValueLimits()


class EncodedValue:
    """A value as a file that is not yet written: its tensors are read when the file is.

    Change none of them before that. The same value always makes the same bytes.

    Attributes:
        type: What ComfyUI calls it: ``IMAGE``, ``CONDITIONING``, …; ``*`` if unknown.
        size: Bytes of the file.
        loss: What the value loses on its way, in a sentence; ``None`` if it arrives bit for bit.
    """

    def __init__(
        self, type_: str, metadata: dict[str, str], tensors: dict[str, TensorBits], loss: str | None
    ) -> None:
        self.type = type_
        self.loss = loss
        # Larger elements first: then each tensor starts at a multiple of its element's size.
        self._tensors = sorted(tensors.items(), key=lambda item: -ITEM_SIZES[item[1].dtype])
        self._header = header_bytes(
            metadata, ((name, bits.dtype, bits.shape, bits.size) for name, bits in self._tensors)
        )
        if len(self._header) - 8 > MAX_HEADER:
            raise ValueCannotTravel(
                f"The value's texts and numbers take {len(self._header)} bytes, and a value file "
                f"has room for {MAX_HEADER}.",
                advice="Pass long lists of numbers as a tensor, and long texts in parts.",
            )
        self.size = len(self._header) + sum(bits.size for _, bits in self._tensors)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file's bytes, at most 1 MiB at a time; a tensor is not copied as a whole."""
        for start in range(0, len(self._header), CHUNK_SIZE):
            yield self._header[start : start + CHUNK_SIZE]
        for _, bits in self._tensors:
            yield from chunks_of(bits, CHUNK_SIZE)

    def sha256(self) -> str:
        """SHA-256 of the file, 64 lower-case hex digits; every byte is read for it."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def write(self, path: Path) -> str:
        """Write the file, whole or not at all, readable by its owner only; returns its SHA-256.

        A file of that name is replaced. The parent folder must exist.

        Raises:
            LocalStorageError: It cannot be written.
        """
        return self._write(path.parent, "sha256", lambda _: path)[0]

    def write_into(self, folder: Path, content_hash: ContentHash = "sha256") -> Path:
        """Like `write`, in a folder, which is made when missing.

        Returns:
            Its path: see `value_stem`.
        """
        with storage_errors(folder, full=_FULL):
            folder.mkdir(parents=True, exist_ok=True)

        def name(digest: str) -> Path:
            return folder / f"{value_stem(digest, content_hash)}.safetensors"

        return self._write(folder, content_hash, name)[1]

    def _write(
        self, folder: Path, content_hash: ContentHash, name: Callable[[str], Path]
    ) -> tuple[str, Path]:
        fast = content_hash == "blake3"
        with storage_errors(folder, full=_FULL):
            handle, beside = tempfile.mkstemp(prefix=".comfy-remote-", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    digest = (_written_fast if fast else _written)(self.chunks(), file)
                path = name(digest)
                take_name(Path(beside), path, digest, blake3_of if fast else sha256_of)
            except BaseException:
                discard(Path(beside))
                raise
        return digest, path


_FULL = "Free some space, then run it again."


def _written(chunks: Iterator[bytes | memoryview], file: BinaryIO) -> str:
    """The SHA-256 of what was written."""
    digest = hashlib.sha256()
    # Both work without the interpreter's lock: a chunk is hashed while it is written.
    with ThreadPoolExecutor(1) as hashing:
        for chunk in chunks:
            hashed = hashing.submit(digest.update, chunk)
            file.write(chunk)
            hashed.result()
    return digest.hexdigest()


def _written_fast(chunks: Iterator[bytes | memoryview], file: BinaryIO) -> str:
    """The BLAKE3 of what was written. It takes less time than a thread for it would."""
    from blake3 import blake3  # here: most values are named by their SHA-256

    digest = blake3()
    for chunk in chunks:
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()


def encode(
    value: object,
    type: str = "*",  # noqa: A002  the field's own word
    *,
    as_list: bool = False,
    images: ImageFormat = "exact",
    adapters: Sequence[ObjectAdapter] = (),
) -> EncodedValue:
    """Encode a value so that it can travel.

    Args:
        value: ``None``, booleans, numbers, strings, bytes, tensors (NumPy's, torch's), lists,
            tuples and dicts of those, and what the adapters know.
        type: What ComfyUI calls it.
        as_list: The value is what ComfyUI calls a list output: a list of values of that type.
        images: An ``IMAGE`` (``[B,H,W,C]`` float32 or float16 in ``0.0..1.0``) can go as 8-bit
            pictures; `EncodedValue.loss` says what that loses. Other values are always exact.
        adapters: For other objects, tried in order.

    Raises:
        ValueCannotTravel: Something in it exists only here (a model, a function), is too large
            for a file, or cannot be a picture. The error says where it is and what to do.
    """
    if as_list and not isinstance(value, list):
        raise TypeError("as_list needs a list")
    pictures = images if images != "exact" and type == "IMAGE" else None
    walk = _Walk(type.lower() if type.isidentifier() else "value", adapters, pictures)
    tree = walk.tree(value)
    document = {"type": type, "list": as_list, "value": tree}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return EncodedValue(type, {"format": FORMAT, "value": text}, walk.tensors, walk.loss)


class _Walk:
    """Encodes one value as a tree of JSON, and collects its tensors by name."""

    def __init__(
        self, root: str, adapters: Sequence[ObjectAdapter], pictures: PictureFormat | None
    ) -> None:
        self.tensors: dict[str, TensorBits] = {}
        self._root = root
        self._pictures = pictures
        self._worst = 0.0
        self._adapters = adapters
        self._items = 0
        # A tensor that stands twice in the value is sent once. The objects are held, since the
        # id of one that an adapter made would be given to another.
        self._named: dict[int, tuple[str, object]] = {}

    @property
    def loss(self) -> str | None:
        """See `EncodedValue.loss`."""
        if not self._worst:
            return None
        return (
            "Colours were rounded to 256 levels a channel (8 bits): they arrive up to "
            f"{self._worst:.2g} (of 0..1) off."
        )

    def tree(self, value: object, path: str = "", depth: int = 0) -> JsonValue:
        import numpy as np

        self._items += 1
        if self._items > _LIMITS.items:
            raise ValueCannotTravel(
                f"The value holds more than {_LIMITS.items} lists, texts and numbers.",
                advice="Pass long lists of numbers as a tensor.",
            )
        if depth > _LIMITS.depth:
            raise self._refusal(value, path, f"is more than {_LIMITS.depth} containers deep")
        if isinstance(value, np.generic) and value.dtype.kind in "biufU":
            value = value.item()
        kind = type(value)
        if value is None or kind in (bool, str):
            return value  # type: ignore[return-value]  # one of those
        if isinstance(value, int) and kind is int:
            if value.bit_length() > MAX_INTEGER_BITS:
                raise self._refusal(value, path, f"has more than {MAX_INTEGER_BITS} bits")
            return value
        if isinstance(value, float) and kind is float:
            return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {"$": "bytes", "name": self._blob(value)}
        if is_tensor(value):
            return self._tensor(value, path)
        if isinstance(value, list) and kind is list:
            return self._items_of(value, path, depth)
        if isinstance(value, tuple) and kind is tuple:
            return {"$": "tuple", "items": self._items_of(value, path, depth)}
        if isinstance(value, dict) and kind is dict:
            return self._dict(value, path, depth)
        return self._object(value, path, depth)

    def _items_of(self, items: Sequence[object], path: str, depth: int) -> list[JsonValue]:
        return [self.tree(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(items)]

    def _dict(self, value: dict[object, object], path: str, depth: int) -> JsonValue:
        if all(type(key) is str for key in value) and "$" not in value:
            return {
                str(key): self.tree(item, f"{path}.{key}", depth + 1) for key, item in value.items()
            }
        return {
            "$": "dict",
            "items": [
                [self._key(key, path, depth), self.tree(item, f"{path}[{key!r:.80}]", depth + 1)]
                for key, item in value.items()
            ],
        }

    def _key(self, key: object, path: str, depth: int) -> JsonValue:
        for part in key if isinstance(key, tuple) else (key,):
            if not isinstance(part, (str, int, float, bytes, type(None))):
                raise self._refusal(part, f"{path} (a key)")
        return self.tree(key, path, depth + 1)

    def _object(self, value: object, path: str, depth: int) -> JsonValue:
        if isinstance(value, ObjectParts):
            kind, parts = value.kind, value.parts
        else:
            for adapter in self._adapters:
                taken = adapter.take_apart(value)
                if taken is not None:
                    kind, parts = adapter.kind, taken
                    break
            else:
                raise self._refusal(value, path)
        return {"$": "object", "kind": kind, "parts": self.tree(parts, path, depth + 1)}

    def _tensor(self, value: object, path: str) -> JsonValue:
        try:
            bits = tensor_bits(value)
        except TypeError as error:
            raise self._refusal(value, path, f"is {error}") from None
        if self._pictures is not None and bits.size:
            return self._as_pictures(bits, path, self._pictures)
        return {"$": "tensor", "name": self._name("t", value, bits)}

    def _as_pictures(self, bits: TensorBits, path: str, format_: PictureFormat) -> JsonValue:
        try:
            pictures = encode_pictures(bits, format_)
        except ValueError as error:
            raise ValueCannotTravel(
                f"{self._root}{path} cannot be sent as {format_.upper()}: {error}.",
                advice="Send it exactly instead (images: exact).",
                details={"path": f"{self._root}{path}"},
            ) from None
        self._worst = max(self._worst, pictures.worst)
        return {
            "$": "pictures",
            "format": format_,
            "shape": list(bits.shape),
            "dtype": bits.dtype,
            "names": [self._blob(data) for data in pictures.files],
        }

    def _blob(self, value: bytes | bytearray | memoryview) -> str:
        import numpy as np

        data = memoryview(value).cast("B") if isinstance(value, memoryview) else value
        return self._name("b", value, TensorBits("U8", np.frombuffer(data, np.uint8)))

    def _name(self, prefix: str, value: object, bits: TensorBits) -> str:
        if id(value) not in self._named:
            if len(self.tensors) >= _LIMITS.tensors:
                raise ValueCannotTravel(
                    f"The value holds more than {_LIMITS.tensors} tensors.",
                    advice="Stack them into fewer.",
                )
            name = f"{prefix}{len(self.tensors)}"
            self.tensors[name] = bits
            self._named[id(value)] = (name, value)
        return self._named[id(value)][0]

    def _refusal(self, value: object, path: str, why: str | None = None) -> ValueCannotTravel:
        name = type(value).__name__
        why = why or f"is of type {name}"
        return ValueCannotTravel(
            f"{self._root}{path} cannot cross to another machine: it {why}.",
            advice="Only numbers, texts, bytes, tensors, and lists and dicts of those can. Models "
            "and what is made of them are loaded where they are used: put the node that makes it "
            "on the same side as the node that takes it.",
            details={"path": f"{self._root}{path}", "class": f"{type(value).__module__}.{name}"},
        )
