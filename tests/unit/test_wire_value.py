"""Values in JSON: what is understood, what is refused, and that nothing is unpickled."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comfy_remote.errors import ValueInvalid
from comfy_remote.media.values import DecodedValue, ValueLimits, encode
from comfy_remote.wire.value import ValueEnvelope

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.text()
    # pydantic turns -0.0 into nothing else, but JSON numbers have no NaN
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def decoded(said: object) -> DecodedValue:
    travelled = json.loads(json.dumps(said))
    return ValueEnvelope.read(travelled).decode(tensors="numpy")


@given(JSON)
@settings(deadline=None)
def test_a_plain_value_arrives_in_both_plain_encodings(value: object) -> None:
    expected = DecodedValue("*", False, value)
    assert decoded({"encoding": "identity", "data": value}) == expected
    assert decoded({"encoding": "json", "data": json.dumps(value)}) == expected
    assert decoded({"data": value}) == expected
    assert decoded(ValueEnvelope.identity(value).to_json()) == expected  # type: ignore[arg-type]


def test_a_tag_means_nothing_in_a_plain_value() -> None:
    value = {"$": "tensor", "name": "t0"}
    assert decoded({"encoding": "json", "data": value}).value == value


def test_other_peoples_names_are_understood() -> None:
    said = {"comfy_type": "INT", "value": 5, "encoding": "identity", "unknown": [1]}
    assert decoded(said) == DecodedValue("INT", False, 5)


def test_a_tensor_travels_in_the_envelope() -> None:
    image = np.random.default_rng(1).random((1, 4, 5, 3), "f4")
    encoded = encode([image], "IMAGE", as_list=True)
    said = ValueEnvelope.inline(encoded).to_json()
    assert said.keys() == {"type", "encoding", "data", "sha256", "size"}
    assert said["sha256"] == encoded.sha256()
    arrived = decoded(said)
    assert (arrived.type, arrived.is_list) == ("IMAGE", True)
    assert isinstance(arrived.value, list)
    assert arrived.value[0].tobytes() == image.tobytes()
    assert decoded({**said, "type": "*"}).type == "IMAGE"


def test_a_linked_value_says_where_it_is() -> None:
    envelope = ValueEnvelope.linked("IMAGE", "a" * 64, 12, url="/values/a")
    assert envelope.to_json() == {
        "type": "IMAGE",
        "encoding": "safetensors",
        "url": "/values/a",
        "sha256": "a" * 64,
        "size": 12,
    }
    assert ValueEnvelope.read(envelope.to_json()) == envelope
    assert ValueEnvelope.read({"type": "IMAGE", "sha256": "a" * 64}).encoding == "safetensors"
    with pytest.raises(ValueInvalid):
        envelope.decode(tensors="numpy")


def test_a_picture_of_a_person_with_curl_is_an_image() -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (255, 0, 51)).save(out, "PNG")
    said = {
        "type": "IMAGE",
        "encoding": "file",
        "media_type": "image/png",
        "data": base64.b64encode(out.getvalue()).decode(),
    }
    arrived = decoded(said)
    assert isinstance(arrived.value, np.ndarray)
    assert arrived.value.shape == (1, 3, 4, 3)
    assert arrived.value[0, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    with pytest.raises(ValueInvalid):
        decoded({**said, "data": base64.b64encode(b"no picture").decode()})
    with pytest.raises(ValueInvalid):
        decoded({**said, "media_type": None})


class Exploding:
    """Were it unpickled, there would be a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("encoding", ["base64+pickle", "pickle", "BASE64+PICKLE"])
def test_a_pickle_is_refused_with_the_reason(tmp_path: Path, encoding: str) -> None:
    trap = tmp_path / "trap"
    data = base64.b64encode(pickle.dumps(Exploding(trap))).decode()
    with pytest.raises(ValueInvalid, match="run code") as caught:
        ValueEnvelope.read({"type": "IMAGE", "encoding": encoding, "data": data})
    assert "safetensors" in caught.value.advice
    assert data not in str(caught.value)
    # Nor does it help to call it something else.
    for other in ("safetensors", "file", "json"):
        with pytest.raises(ValueInvalid):
            decoded({"type": "IMAGE", "encoding": other, "data": data})
    assert not trap.exists()


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "text",
        {"encoding": "yaml", "data": "1"},
        {"encoding": ["json"], "data": "1"},
        {"encoding": "json", "data": "{"},
        {"encoding": "json", "data": "NaN"},
        {"encoding": "json", "data": "[" * 100_000},
        {"encoding": "json", "data": '{"a":1,"a":2}'},
        {"encoding": "json", "url": "https://example.com/"},
        {"encoding": "identity", "data": [[[[[]]]]] * 1, "type": 5},
        {"encoding": "safetensors"},
        {"encoding": "safetensors", "data": 5},
        {"encoding": "safetensors", "data": "***"},
        {"encoding": "safetensors", "data": "äöü="},
        {"encoding": "safetensors", "data": ""},
        {"encoding": "safetensors", "sha256": "../../etc/passwd"},
        {"encoding": "safetensors", "data": "AAAA", "size": -1},
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(said: object) -> None:
    with pytest.raises(ValueInvalid):
        decoded(said)


def test_what_was_announced_is_held_against_what_came() -> None:
    said = ValueEnvelope.inline(encode(5, "INT")).to_json()
    for lie in ({"sha256": "0" * 64}, {"size": 3}, {"type": "IMAGE"}):
        with pytest.raises(ValueInvalid):
            decoded({**said, **lie})


def test_limits_hold_before_anything_is_decoded() -> None:
    said = ValueEnvelope.inline(encode("x" * 1000)).to_json()
    with pytest.raises(ValueInvalid, match="100 bytes"):
        ValueEnvelope.read(said).decode(tensors="numpy", limits=ValueLimits(bytes=100))
    deep: list[object] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueInvalid, match="deep"):
        decoded({"encoding": "identity", "data": deep})
    with pytest.raises(ValueInvalid, match="more than"):
        decoded({"encoding": "identity", "data": [0] * 1_000_001})


def test_data_is_not_in_what_is_printed() -> None:
    assert "c2VjcmV0" not in repr(ValueEnvelope.read({"encoding": "file", "data": "c2VjcmV0"}))
