"""Tensors as bytes: NumPy's and torch's arrays, and those of a dtype that NumPy does not have.

torch is never imported here unless the caller asks for its tensors; whether a value is one is
asked of the torch that the caller has imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .container import ITEM_SIZES, Entry
from .limits import invalid

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = [
    "RawTensor",
    "TensorBits",
    "TensorLibrary",
    "chunks_of",
    "is_tensor",
    "tensor_bits",
    "tensor_from",
]

TensorLibrary = Literal["numpy", "torch"]

_NUMPY_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
_TORCH_NAMES = _NUMPY_NAMES | {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_DTYPES = {name: dtype for dtype, name in _TORCH_NAMES.items()}
_UNSIGNED = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor whose dtype NumPy does not have, read without torch. It encodes as it came.

    Attributes:
        dtype: As safetensors names it: ``BF16``, ``F8_E4M3``, …
        shape: Its extents; ``()`` for a single number.
        data: Its elements, little-endian, the last dimension's side by side.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TensorBits:
    """A tensor's elements as unsigned integers, sharing its memory where that is possible.

    Attributes:
        bits: Of the tensor's shape and strides.
    """

    dtype: str
    bits: NDArray[numpy.unsignedinteger]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.bits.nbytes)


def is_tensor(value: object) -> bool:
    """Whether `tensor_bits` takes it: an array, a torch tensor, or a `RawTensor`."""
    import numpy as np

    torch = sys.modules.get("torch")
    return isinstance(value, (np.ndarray, RawTensor)) or (
        torch is not None and isinstance(value, torch.Tensor)
    )


def tensor_bits(value: object) -> TensorBits:
    """A tensor's dtype and elements.

    Raises:
        TypeError: It is a kind of tensor that cannot travel; the message says which.
    """
    import numpy as np

    if isinstance(value, RawTensor):
        item = ITEM_SIZES.get(value.dtype)
        if item is None:
            raise TypeError(f"a tensor of dtype {value.dtype}")
        bits = np.frombuffer(value.data, _UNSIGNED[item]).reshape(value.shape)
        return TensorBits(value.dtype, bits)
    if isinstance(value, np.ndarray):
        return _numpy_bits(value)
    return _torch_bits(value)


def _numpy_bits(value: NDArray[numpy.generic]) -> TensorBits:
    import numpy as np

    if type(value) not in (np.ndarray, np.memmap):
        raise TypeError(f"a {type(value).__name__}")
    dtype = _DTYPES.get(value.dtype.name)
    if dtype is None or value.dtype.kind not in "biufc":
        raise TypeError(f"an array of {value.dtype}")
    # No copy unless it is big-endian. Integers of the same width keep a NaN's own bits.
    plain = value.view(np.ndarray).astype(value.dtype.newbyteorder("<"), copy=False)
    return TensorBits(dtype, plain.view(_UNSIGNED[plain.dtype.itemsize]))


def _torch_bits(value: object) -> TensorBits:
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"a {type(value).__name__}")
    assert isinstance(value, torch.Tensor)  # noqa: S101  for mypy
    dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
    plain_memory = value.layout == torch.strided and not (value.is_nested or value.is_quantized)
    if dtype is None or value.is_meta or not plain_memory:
        kind = "nested" if value.is_nested else value.layout
        raise TypeError(f"a tensor of {value.dtype} ({kind}, {value.device})")
    plain = value.detach().resolve_conj().resolve_neg().cpu()
    width = ITEM_SIZES[dtype]
    # NumPy has no bfloat16; torch's own unsigned integers are not in every version.
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    return TensorBits(dtype, plain.view(signed).numpy().view(_UNSIGNED[width]))


def chunks_of(tensor: TensorBits, chunk_size: int) -> Iterator[memoryview]:
    """The tensor's bytes in C order, in chunks of limited size; the whole is not copied."""
    import numpy as np

    bits = tensor.bits
    if not bits.size:
        return
    if bits.flags.c_contiguous:
        whole = bits.reshape(-1).view(np.uint8).data
        for start in range(0, len(whole), chunk_size):
            yield whole[start : start + chunk_size]
        return
    pieces = np.nditer(
        bits,
        flags=["external_loop", "buffered"],
        order="C",
        buffersize=chunk_size // bits.itemsize,
    )
    for piece in pieces:
        # The buffer is filled again each time, and a socket may hold a chunk for longer.
        yield np.array(piece).view(np.uint8).data


def tensor_from(data: memoryview, entry: Entry, library: TensorLibrary) -> object:
    """The tensor of an entry, sharing the memory of ``data`` if that is writable.

    Args:
        data: The whole file.

    Returns:
        A NumPy array or a torch tensor; a `RawTensor` where the library has no such dtype.

    Raises:
        ValueInvalid: A boolean is neither 0 nor 1, as NumPy and torch assume.
    """
    import numpy as np

    bits = np.frombuffer(data[entry.start : entry.stop], np.uint8)
    if data.readonly or entry.start % ITEM_SIZES[entry.dtype]:
        bits = bits.copy()
    if entry.dtype == "BOOL" and bits.size and bits.max() > 1:
        raise invalid(f"tensor {entry.name!r} holds booleans that are neither true nor false")
    if library == "torch":
        return _torch_tensor(bits, entry)
    name = _NUMPY_NAMES.get(entry.dtype)
    if name is None:
        return RawTensor(entry.dtype, entry.shape, bits.data)
    return bits.view(np.dtype(name).newbyteorder("<")).reshape(entry.shape)


def _torch_tensor(bits: NDArray[numpy.uint8], entry: Entry) -> object:
    import torch

    name = _TORCH_NAMES[entry.dtype]
    dtype = getattr(torch, name, None)
    if dtype is None:  # a torch older than the dtype
        return RawTensor(entry.dtype, entry.shape, bits.data)
    if not bits.size:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(bits).view(dtype).reshape(entry.shape)
