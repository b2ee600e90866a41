"""Values that travel: every kind there is, bit for bit, and what is refused."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, load_file

from comfy_remote.errors import LocalStorageError, ValueCannotTravel, ValueInvalid
from comfy_remote.media.remote_values import (
    blake3_in_name,
    named_by_content,
    sha256_in_name,
    state_of_file,
)
from comfy_remote.media.values import (
    DecodedValue,
    EncodedValue,
    ObjectParts,
    RawTensor,
    ValueLimits,
    decode_value,
    encode,
    read_value,
)

DTYPES = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8"]
TENSORS = st.sampled_from([*DTYPES, ">f4", ">i8"]).flatmap(
    lambda dtype: arrays.arrays(
        dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    )
)
INTEGERS = st.integers(-(2**4095), 2**4095) | st.integers(-10, 10)
PLAIN = st.none() | st.booleans() | INTEGERS | st.floats() | st.text() | st.binary()
KEYS = st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), inner, max_size=4)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


def file_of(encoded: EncodedValue) -> bytes:
    return b"".join(encoded.chunks())


def there_and_back(value: object, **how: object) -> DecodedValue:
    return decode_value(file_of(encode(value, **how)), tensors="numpy")  # type: ignore[arg-type]


def assert_same(one: object, other: object) -> None:
    """Equal to the bit, with the same types all the way down."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert one.shape == other.shape
        little = one.astype(one.dtype.newbyteorder("<"))
        assert little.dtype == other.dtype
        assert little.tobytes() == other.tobytes()
    elif isinstance(one, (list, tuple)):
        assert isinstance(other, (list, tuple))
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        for (key, a), (other_key, b) in zip(one.items(), other.items(), strict=True):
            assert_same(key, other_key)
            assert_same(a, b)
    elif isinstance(one, float):
        assert isinstance(other, float)
        assert (math.isnan(one) and math.isnan(other)) or struct.pack("d", one) == struct.pack(
            "d", other
        )
    else:
        assert one == other


@given(VALUES)
@settings(deadline=None)
def test_any_value_arrives_bit_for_bit(value: object) -> None:
    encoded = encode(value, "ANY")
    data = file_of(encoded)
    decoded = decode_value(data, tensors="numpy")
    assert (decoded.type, decoded.is_list, encoded.loss) == ("ANY", False, None)
    assert_same(value, decoded.value)
    assert encoded.size == len(data)
    assert encoded.sha256() == hashlib.sha256(data).hexdigest()
    assert file_of(encode(decoded.value, "ANY")) == data  # the same value, the same bytes


@given(st.lists(TENSORS, max_size=4))
@settings(deadline=None)
def test_the_safetensors_library_reads_the_same_tensors(values: list[np.ndarray]) -> None:
    found = load(file_of(encode(values)))
    assert len(found) == len(values)
    for index, value in enumerate(values):
        assert_same(value, found[f"t{index}"])


def test_nan_payloads_signs_and_zeros_arrive() -> None:
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x7F800000], "u4")
    arrived = there_and_back(bits.view("f4")).value
    assert isinstance(arrived, np.ndarray)
    assert arrived.view("u4").tolist() == bits.tolist()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.transpose(3, 1, 0, 2),
        lambda a: a[::-1, ::2, :, ::-1],
        lambda a: a[:, :, ::3, 1],
        lambda a: np.broadcast_to(a[:, :1], a.shape),
        lambda a: a.astype(">f4"),
    ],
    ids=["transposed", "reversed", "sliced", "broadcast", "big-endian"],
)
def test_a_tensor_may_lie_in_memory_as_it_likes(view: Callable[[np.ndarray], np.ndarray]) -> None:
    array = view(np.arange(5 * 130 * 140 * 7, dtype="f4").reshape(5, 130, 140, 7))
    encoded = encode(array)
    assert max(len(chunk) for chunk in encoded.chunks()) <= 1024 * 1024
    assert_same(array, there_and_back(array).value)


def test_a_large_tensor_is_given_out_in_views_of_itself() -> None:
    array = np.zeros((3, 1024, 1024), "f4")
    header, *views = encode(array).chunks()
    assert isinstance(header, bytes)
    assert len(views) == 12
    assert all(np.shares_memory(np.frombuffer(view, "u1"), array) for view in views)


def test_a_tensor_that_stands_twice_is_sent_once_and_is_one_again() -> None:
    array = np.ones(1000, "f4")
    encoded = encode([array, {"again": array}])
    assert encoded.size < 2 * array.nbytes
    first, second = there_and_back([array, {"again": array}]).value  # type: ignore[misc]
    assert first is second["again"]


def test_numbers_of_numpy_are_numbers() -> None:
    value = [np.float32(0.5), np.int64(7), np.bool_(True), np.str_("x"), np.float64("inf")]
    assert_same([0.5, 7, True, "x", math.inf], there_and_back(value).value)


def test_a_list_of_values_says_so() -> None:
    decoded = there_and_back([1, 2], type="INT", as_list=True)
    assert decoded == DecodedValue("INT", True, [1, 2])
    with pytest.raises(TypeError):
        encode((1, 2), as_list=True)


def test_a_dtype_that_numpy_lacks_passes_through_unchanged() -> None:
    raw = RawTensor("BF16", (2, 3), bytes(range(12)))
    data = file_of(encode({"latent": raw}))
    decoded = decode_value(data, tensors="numpy").value
    assert isinstance(decoded, dict)
    arrived = decoded["latent"]
    assert (arrived.dtype, arrived.shape, bytes(arrived.data)) == ("BF16", (2, 3), raw.data)
    assert file_of(encode(decoded)) == data


# --- files


def test_a_written_file_is_whole_private_and_mapped(tmp_path: Path) -> None:
    image = np.random.default_rng(1).random((2, 64, 64, 3), "f4")
    encoded = encode(image, "IMAGE")
    path = tmp_path / "value.safetensors"
    sha256 = encoded.write(path)
    assert sha256 == encoded.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size == encoded.size
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]
    assert_same(image, load_file(path)["t0"])

    value = read_value(path, tensors="numpy").value
    assert isinstance(value, np.ndarray)
    assert_same(image, value)
    assert not value.flags.owndata
    value[:] = 0  # a node may work in place
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def test_equal_values_have_equal_names(tmp_path: Path) -> None:
    folder = tmp_path / "comfy_remote"
    first = encode([1, "x"]).write_into(folder)
    assert encode([1, "x"]).write_into(folder) == first
    assert first.name == f"{encode([1, 'x']).sha256()}.safetensors"
    assert encode([1, "y"]).write_into(folder) != first
    assert len(list(folder.iterdir())) == 2


def test_a_value_for_this_machine_is_named_by_its_blake3(tmp_path: Path) -> None:
    value = encode(np.arange(2**19, dtype=np.float32))
    path = value.write_into(tmp_path, "blake3")
    content = b"".join(value.chunks())
    assert path.read_bytes() == content
    assert path.name == f"blake3-{blake3(content).hexdigest()}.safetensors"
    assert blake3_in_name(f"comfy_remote\\{path.name}") == blake3(content).hexdigest()
    assert sha256_in_name(path.name) is None
    assert named_by_content(path.name) == path.stem
    assert state_of_file(path) == ""


def test_a_folder_that_is_not_there_is_an_error_to_act_on(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError):
        encode(1).write(tmp_path / "none" / "value.safetensors")


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_a_file_that_cannot_be_read_is_an_error_to_act_on(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "value.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueInvalid, match=r"value\.safetensors"):
        read_value(path, tensors="numpy")


# --- what cannot travel


class ControlNet:
    """Stands for an object that only one machine has."""


def test_what_cannot_travel_is_named_with_its_place() -> None:
    conditioning = [[np.zeros(3, "f4"), {"control": ControlNet()}]]
    with pytest.raises(ValueCannotTravel) as caught:
        encode(conditioning, "CONDITIONING")
    assert "conditioning[0][1].control cannot cross" in str(caught.value)
    assert "is of type ControlNet" in str(caught.value)
    assert caught.value.details["path"] == "conditioning[0][1].control"
    assert "same side" in caught.value.advice


@pytest.mark.parametrize(
    "value",
    [
        print,
        {1, 2},
        1j,
        Path("x"),
        np.array(["text"]),
        np.array([object()]),
        np.array([1j]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array(["2026-11-21"], dtype="datetime64[D]"),
        np.ma.masked_array([1, 2], mask=[True, False]),
        np.zeros(2, np.longdouble),
        RawTensor("F4", (2,), b"x"),
        {frozenset(): 1},
        {(1, (2, 3)): 1},
        2**5000,
        type("Strange", (dict,), {})(),
    ],
    # An object's own words hold its address, which differs between two workers.
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_place_in_the_format_is_refused(value: object) -> None:
    with pytest.raises(ValueCannotTravel):
        encode([value])


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueCannotTravel, match="containers deep"):
        encode(value)


def test_more_than_a_file_may_hold_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueCannotTravel, match="tensor"):
        encode([0] * 1_000_001)
    with pytest.raises(ValueCannotTravel, match="room"):
        encode("x" * 33_554_433)


# --- adapters


class Film:
    def __init__(self, data: bytes, rate: float) -> None:
        self.data, self.rate = data, rate


class FilmAdapter:
    kind = "video"

    def take_apart(self, value: object) -> object | None:
        return {"data": value.data, "rate": value.rate} if isinstance(value, Film) else None

    def put_together(self, parts: object) -> object:
        if not isinstance(parts, dict):
            raise TypeError("no dict")
        return Film(parts["data"], parts["rate"])


def test_an_adapter_takes_apart_and_puts_together() -> None:
    data = file_of(encode([Film(b"frames", 24.0)], adapters=[FilmAdapter()]))
    decoded = decode_value(data, tensors="numpy", adapters=[FilmAdapter()]).value
    assert isinstance(decoded, list)
    assert isinstance(decoded[0], Film)
    assert (decoded[0].data, decoded[0].rate) == (b"frames", 24.0)


def test_without_its_adapter_an_object_stays_in_parts_and_travels_on() -> None:
    data = file_of(encode([Film(b"frames", 24.0)], adapters=[FilmAdapter()]))
    decoded = decode_value(data, tensors="numpy").value
    assert decoded == [ObjectParts("video", {"data": b"frames", "rate": 24.0})]
    assert file_of(encode(decoded)) == data


def test_an_adapter_that_refuses_the_parts_makes_the_value_invalid() -> None:
    data = file_of(encode(ObjectParts("video", {"data": b"no rate"})))
    with pytest.raises(ValueInvalid, match="video"):
        decode_value(data, tensors="numpy", adapters=[FilmAdapter()])


def test_limits_hold() -> None:
    data = file_of(encode([[[np.zeros(10)]], b"x"]))
    for limits in (
        ValueLimits(bytes=100),
        ValueLimits(depth=2),
        ValueLimits(items=3),
        ValueLimits(tensors=1),
    ):
        with pytest.raises(ValueInvalid):
            decode_value(data, tensors="numpy", limits=limits)
    decode_value(data, tensors="numpy", limits=ValueLimits(depth=3, items=5, tensors=2))


# --- pictures


def picture(channels: int, dtype: str = "f4") -> np.ndarray:
    levels = np.random.default_rng(3).integers(0, 256, (3, 20, 30, channels), "u1")
    return (levels.astype("f4") / np.float32(255)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize(
    ("images", "channels"),
    [("png", 1), ("png", 2), ("png", 3), ("png", 4), ("webp", 3), ("webp", 4)],
)
def test_an_image_of_8_bits_loses_nothing_as_pictures(
    images: Literal["png", "webp"], channels: int, dtype: str
) -> None:
    image = picture(channels, dtype)
    image[0, :, :, -1] = 0  # colours below a transparent pixel stay
    encoded = encode([image], "IMAGE", as_list=True, images=images)
    assert encoded.loss is None
    decoded = decode_value(file_of(encoded), tensors="numpy")
    assert_same([image], decoded.value)


@pytest.mark.parametrize("images", ["png", "webp"])
def test_an_opaque_alpha_channel_comes_back(images: Literal["png", "webp"]) -> None:
    image = picture(4)
    image[..., 3] = 1
    assert_same(image, there_and_back(image, type="IMAGE", images=images).value)


@given(arrays.arrays("f4", (1, 4, 4, 3), elements=st.floats(0, 1, width=32)))
@settings(deadline=None, max_examples=50)
def test_rounding_to_8_bits_is_half_a_level_at_most_and_said(image: np.ndarray) -> None:
    encoded = encode(image, "IMAGE", images="png")
    arrived = decode_value(file_of(encoded), tensors="numpy").value
    assert isinstance(arrived, np.ndarray)
    assert np.abs(arrived - image).max() <= 0.5 / 255 + 1e-6
    assert (encoded.loss is None) == (arrived.tobytes() == image.tobytes())
    assert encoded.loss is None or "256 levels" in encoded.loss


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.full((1, 2, 2, 3), 1.01, "f4"), "0..1"),
        (np.full((1, 2, 2, 3), -0.01, "f4"), "0..1"),
        (np.full((1, 2, 2, 3), np.nan, "f4"), "NaN"),
        (np.zeros((1, 2, 2, 5), "f4"), "5 channels"),
        (np.zeros((2, 2, 3), "f4"), "shape"),
        (np.zeros((1, 2, 2, 3), "f8"), "F64"),
    ],
)
def test_an_image_that_no_picture_holds_is_refused(image: np.ndarray, why: str) -> None:
    with pytest.raises(ValueCannotTravel, match=why) as caught:
        encode(image, "IMAGE", images="png")
    assert "exact" in caught.value.advice


def test_webp_says_what_it_lacks() -> None:
    with pytest.raises(ValueCannotTravel, match="1 channels"):
        encode(picture(1), "IMAGE", images="webp")
    with pytest.raises(ValueCannotTravel, match="16383"):
        encode(np.zeros((1, 1, 16384, 3), "f4"), "IMAGE", images="webp")


def test_only_images_go_as_pictures() -> None:
    mask = np.random.default_rng(1).random((1, 8, 8), "f4")
    assert_same(mask, there_and_back(mask, type="MASK", images="png").value)
    none = np.zeros((0, 8, 8, 3), "f4")
    assert_same(none, there_and_back(none, type="IMAGE", images="png").value)
