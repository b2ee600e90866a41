"""Run by ComfyUI's own Python: torch's tensors, and ComfyUI's values, there and back.

Prints ``{case: null or what is wrong}``. See test_values_torch.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from comfy_remote.errors import ValueCannotTravel
from comfy_remote.media.values import ObjectAdapter, decode_value, encode, read_value

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other), (type(one), type(other))
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bits(one) == bits(other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def there_and_back(value: object, *adapters: ObjectAdapter) -> object:
    encoded = encode(value, adapters=adapters)
    with tempfile.TemporaryDirectory() as folder:
        path = encoded.write_into(Path(folder))
        mapped = read_value(path, tensors="torch", adapters=adapters).value
        again = decode_value(path.read_bytes(), tensors="torch", adapters=adapters).value
        assert_same(mapped, again)
        # Without torch, it travels on unchanged.
        passing = encode(decode_value(path.read_bytes(), tensors="numpy").value)
        assert passing.sha256() == path.stem
    return mapped


def round_trip(value: object) -> None:
    assert_same(value, there_and_back(value))


def dtype_case(name: str) -> Callable[[], None]:
    def run() -> None:
        dtype = getattr(torch, name)
        size = torch.empty(0, dtype=dtype).element_size()
        noise = torch.randint(0, 2 if name == "bool" else 256, (3, 5, 7 * size), dtype=torch.uint8)
        tensor = noise.view(dtype)
        round_trip([tensor, tensor[1:, ::2], tensor.transpose(0, 2), tensor[0, 0, 0], tensor[:0]])

    return run


def conditioning() -> None:
    cond = torch.randn(1, 77, 768, dtype=torch.bfloat16)
    pooled = torch.randn(1, 768)
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    round_trip(
        [
            [cond, {"pooled_output": pooled, "strength": 0.5, "area": (8, 8, 0, 0)}],
            [cond, {"pooled_output": None, "mask": mask, "guidance": 3.5, "set_area": False}],
        ]
    )


def latent() -> None:
    round_trip({"samples": torch.randn(2, 16, 8, 8), "batch_index": [0, 1], "noise_mask": None})


def audio() -> None:
    round_trip({"waveform": torch.randn(1, 2, 44100), "sample_rate": 44100})


def sigmas() -> None:
    round_trip(torch.linspace(14.6, 0, 21))


def gradients_and_views() -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    arrived = there_and_back([parameter, torch.randn(4, 4).expand(2, 4, 4)])
    assert isinstance(arrived, list)
    assert bits(arrived[0]) == bits(parameter)
    assert not arrived[0].requires_grad
    conjugate = torch.randn(4, dtype=torch.complex64).conj()
    assert_same(conjugate.resolve_conj(), there_and_back(conjugate))


def mapped_tensors_can_be_changed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = encode(torch.zeros(1000)).write_into(Path(folder))
        tensor = read_value(path, tensors="torch").value
        assert isinstance(tensor, torch.Tensor)
        tensor += 1
        assert float(tensor.sum()) == 1000
        assert encode(torch.zeros(1000)).sha256() == path.stem
        stored: Any = read_value(path, tensors="torch").value
        assert float(stored.sum()) == 0


def pictures() -> None:
    image = torch.randint(0, 256, (2, 9, 7, 3)).float() / 255
    for images in ("png", "webp"):
        encoded = encode([image], "IMAGE", as_list=True, images=images)
        assert encoded.loss is None
        arrived = decode_value(b"".join(encoded.chunks()), tensors="torch")
        assert_same([image], arrived.value)


def what_has_no_plain_memory_is_refused() -> None:
    class Marked(torch.Tensor):
        """As ComfyUI's quantized tensors are."""

    for value in (
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.ones(3).as_subclass(Marked),
        torch.ones(3, dtype=torch.complex128),
        torch.nn.Linear(2, 2),
    ):
        try:
            encode([value])
        except ValueCannotTravel:
            continue
        raise AssertionError(f"{type(value)} was taken")


class NestedTensorAdapter:
    """As the node pack's; here for ComfyUI's class as it is."""

    kind = "nested_tensor"

    def __init__(self) -> None:
        from comfy.nested_tensor import NestedTensor

        self._class = NestedTensor

    def take_apart(self, value: object) -> object | None:
        return list(value.tensors) if isinstance(value, self._class) else None

    def put_together(self, parts: object) -> object:
        return self._class(parts)


def nested_tensor() -> None:
    adapter = NestedTensorAdapter()
    video, sound = torch.randn(1, 16, 4, 8, 8), torch.randn(1, 8, 20)
    value = {"samples": adapter._class([video, sound])}
    arrived = there_and_back_object(value, adapter)
    assert isinstance(arrived, dict)
    assert type(arrived["samples"]) is adapter._class
    assert_same([video, sound], list(arrived["samples"].tensors))


def there_and_back_object(value: object, adapter: ObjectAdapter) -> object:
    data = b"".join(encode(value, "LATENT", adapters=[adapter]).chunks())
    return decode_value(data, tensors="torch", adapters=[adapter]).value


def main() -> None:
    cases: dict[str, Callable[[], None]] = {
        name: dtype_case(name) for name in DTYPES if hasattr(torch, name)
    }
    for case in (
        *(conditioning, latent, audio, sigmas, gradients_and_views, pictures),
        *(nested_tensor,) * (find_spec("comfy.nested_tensor") is not None),
        *(mapped_tensors_can_be_changed, what_has_no_plain_memory_is_refused),
    ):
        cases[case.__name__] = case
    found: dict[str, str | None] = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = None
        except Exception:  # noqa: BLE001  every case is told of
            found[name] = traceback.format_exc()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
