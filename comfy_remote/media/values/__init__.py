"""Values that travel: anything ComfyUI passes between nodes, as one safetensors file.

`encode` takes a value apart without copying its tensors; `read_value` puts it together again
from a file that stays mapped into memory. The format stands in docs/values.md.
"""

from .adapters import ObjectAdapter, ObjectParts
from .decoding import DecodedValue, decode_value, read_value
from .encoding import EncodedValue, encode
from .limits import ValueLimits
from .pictures import ImageFormat
from .tensors import RawTensor

__all__ = [
    "DecodedValue",
    "EncodedValue",
    "ImageFormat",
    "ObjectAdapter",
    "ObjectParts",
    "RawTensor",
    "ValueLimits",
    "decode_value",
    "encode",
    "read_value",
]
