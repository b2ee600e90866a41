"""docs/values.md is what implementers go by: its examples and numbers are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from comfy_remote.media.values import ValueLimits, decode_value, encode
from comfy_remote.media.values.container import ITEM_SIZES, MAX_HEADER
from comfy_remote.media.values.encoding import FORMAT
from comfy_remote.media.values.limits import MAX_INTEGER_BITS
from comfy_remote.wire.value import Encoding, ValueEnvelope

PAGE = (Path(__file__).parents[2] / "docs/values.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
    assert found is not None, name
    return found[1]


def header_of(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def test_the_tree_is_what_is_written() -> None:
    value = [1, (2.5, None), {"a": float("nan")}, {1: b"x"}]
    header = json.loads(header_of(b"".join(encode(value).chunks())))
    document = json.loads(header["__metadata__"]["value"])
    assert json.dumps(document["value"], separators=(",", ":")) == example("tree")
    assert document == {"type": "*", "list": False, "value": document["value"]}


def test_the_file_is_what_is_written() -> None:
    length, header, tensor = example("file").splitlines()
    data = bytes.fromhex(length) + header.encode() + bytes.fromhex(tensor)
    assert data == b"".join(encode([np.array([1.5], "f4")]).chunks())
    value = decode_value(data, tensors="numpy").value
    assert isinstance(value, list)
    assert value[0].tolist() == [1.5]


def test_the_envelopes_are_understood() -> None:
    number, text, linked, file = (
        ValueEnvelope.read(one) for one in json.loads(example("envelopes"))
    )
    assert number.decode(tensors="numpy").value == 20
    assert text.decode(tensors="numpy").value == "a fox"
    assert file.decode(tensors="numpy").value == "a fox"
    assert (linked.url, linked.size) == ("/values/0f", 12582912)
    for encoding in Encoding.__args__:  # type: ignore[attr-defined]
        assert f"| `{encoding}` |" in PAGE


def test_the_code_in_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    latent = np.ones((1, 4, 8, 8), "f4")
    names: dict[str, object] = {"latent": latent}
    exec(code[1], names)
    assert (tmp_path / str(names["path"])).is_file()


def test_its_numbers_are_those_of_the_code() -> None:
    limits = ValueLimits()
    assert limits.bytes == 4 * 1024**3
    assert MAX_HEADER == 32 * 1024**2
    for row in (
        "| bytes of the file, and of its pictures once decoded | 4 GiB |",
        "| bytes of the header | 32 MiB |",
        f"| containers inside of each other | {limits.depth} |",
        f"| values in the tree | {limits.items:,} |",
        f"| tensors | {limits.tensors:,} |",
        f"| bits of an integer | {MAX_INTEGER_BITS} |",
        f"| `format` | `{FORMAT}` |",
    ):
        assert row in PAGE
    dtypes = re.search(r"safetensors' `(.*?)`", PAGE, re.DOTALL)
    assert dtypes is not None
    assert set(dtypes[1].split()) == set(ITEM_SIZES)
