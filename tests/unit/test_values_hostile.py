"""Value files made to do harm: every one ends in `ValueInvalid`, quickly and in little memory."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from comfy_remote.errors import ValueInvalid
from comfy_remote.media.values import decode_value, encode, read_value


def file_of(
    tree: object = None,
    tensors: dict[str, object] | None = None,
    data: bytes = b"",
    *,
    document: object = None,
    format_: object = "comfy-remote-value/1",
    header: str | None = None,
) -> bytes:
    value = json.dumps(document or {"type": "*", "list": False, "value": tree})
    metadata = {"format": format_, "value": value}
    text = header or json.dumps({"__metadata__": metadata, **(tensors or {})})
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def tensor(start: int, stop: int, dtype: str = "U8", shape: object = None) -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [stop - start] if shape is None else shape,
        "data_offsets": [start, stop],
    }


T0 = {"$": "tensor", "name": "t0"}
B0 = {"$": "bytes", "name": "b0"}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def picture(size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, "PNG")
    return out.getvalue()


def pictures(**changes: object) -> bytes:
    png = picture()
    tag = {
        "$": "pictures",
        "format": "png",
        "shape": [1, 4, 4, 3],
        "dtype": "F32",
        "names": ["b0"],
    }
    return file_of({**tag, **changes}, {"b0": tensor(0, len(png))}, png)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([1]))
    return out.getvalue()


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\x00" * 7,
    "header of no length": b"\x00" * 8,
    "header past the end": (1000).to_bytes(8, "little") + b"{}",
    "header of 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "header of -1": b"\xff" * 100,
    "no JSON": file_of(header="not json"),
    "no object": file_of(header="[]"),
    "not UTF-8": (4).to_bytes(8, "little") + b'"\xff"]',
    "deep header": file_of(header=nested(1_000_000)),
    "no format": save({"t0": np.zeros(3)}),
    "another format": file_of(format_="comfy-remote-value/2"),
    "metadata of numbers": file_of(format_=5),
    "no value": file_of(header='{"__metadata__":{"format":"comfy-remote-value/1"}}'),
    "pickle": pickle.dumps([1, 2, 3]),
    "old pickle": pickle.dumps([1, 2, 3], protocol=0),
    "zip, as torch.save writes": zipped(),
    "pickle in the metadata": file_of({"$": "pickle", "data": "gASVCgAAAAAAAABdlChLAUsCZS4="}),
    "document without type": file_of(document={"list": False, "value": 1}),
    "document with more": file_of(document={"type": "*", "list": False, "value": 1, "x": 1}),
    "type no text": file_of(document={"type": 5, "list": False, "value": 1}),
    "list no boolean": file_of(document={"type": "*", "list": 1, "value": [1]}),
    "list that is none": file_of(document={"type": "*", "list": True, "value": 1}),
    "key twice in the header": file_of(header='{"__metadata__":{},"__metadata__":{}}'),
    "tensor twice": file_of(header='{"t0":{"a":1},"t0":{"a":1}}'),
    "key twice in the value": file_of(
        header=json.dumps(
            {
                "__metadata__": {
                    "format": "comfy-remote-value/1",
                    "value": '{"type":"*","list":false,"value":1,"value":2}',
                }
            }
        )
    ),
    "overlapping": file_of(
        [T0, {"$": "tensor", "name": "t1"}], {"t0": tensor(0, 8), "t1": tensor(4, 12)}, b"x" * 12
    ),
    "the same bytes twice": file_of(
        [T0, {"$": "tensor", "name": "t1"}], {"t0": tensor(0, 8), "t1": tensor(0, 8)}, b"x" * 8
    ),
    "hole": file_of(T0, {"t0": tensor(4, 8)}, b"x" * 8),
    "more behind": file_of(T0, {"t0": tensor(0, 8)}, b"x" * 9),
    "cut off": file_of(T0, {"t0": tensor(0, 8)}, b"x" * 7),
    "past the end": file_of(T0, {"t0": tensor(0, 10**15)}, b"x"),
    "backwards": file_of(T0, {"t0": tensor(8, 0)}, b"x" * 8),
    "negative": file_of(T0, {"t0": tensor(-8, 0)}, b""),
    "huge shape": file_of(T0, {"t0": tensor(0, 8, shape=[2**40, 2**40])}, b"x" * 8),
    "shape that wraps to 0": file_of(T0, {"t0": tensor(0, 0, shape=[2**32, 2**32])}, b""),
    "empty and huge": file_of(T0, {"t0": tensor(0, 0, shape=[0, 2**62, 2**62])}, b""),
    "negative shape": file_of(T0, {"t0": tensor(0, 4, shape=[-2, -2])}, b"x" * 4),
    "shape of floats": file_of(T0, {"t0": tensor(0, 4, shape=[4.0])}, b"x" * 4),
    "shape of booleans": file_of(T0, {"t0": tensor(0, 1, shape=[True])}, b"x"),
    "a thousand dimensions": file_of(T0, {"t0": tensor(0, 1, shape=[1] * 1000)}, b"x"),
    "shape no list": file_of(T0, {"t0": tensor(0, 1, shape="1")}, b"x"),
    "three offsets": file_of(
        T0, {"t0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"x"
    ),
    "fields missing": file_of(T0, {"t0": {"dtype": "U8"}}, b"x"),
    "unknown dtype": file_of(T0, {"t0": tensor(0, 1, "object")}, b"x"),
    "dtype no text": file_of(T0, {"t0": {**tensor(0, 1), "dtype": ["U8"]}}, b"x"),
    "half bytes": file_of(T0, {"t0": tensor(0, 1, "F4", [2])}, b"x"),
    "boolean that is 2": file_of(T0, {"t0": tensor(0, 1, "BOOL")}, b"\x02"),
    "tensor that is not there": file_of(T0),
    "tensor that nobody names": file_of(1, {"t0": tensor(0, 1)}, b"x"),
    "bytes of floats": file_of(B0, {"b0": tensor(0, 4, "F32", [1])}, b"x" * 4),
    "bytes of two dimensions": file_of(B0, {"b0": tensor(0, 4, "U8", [2, 2])}, b"x" * 4),
    "unknown tag": file_of({"$": "module", "name": "os"}),
    "tag no text": file_of({"$": ["tensor"], "name": "t0"}),
    "tag with more": file_of({**T0, "x": 1}, {"t0": tensor(0, 1)}, b"x"),
    "name no text": file_of({"$": "tensor", "name": 0}),
    "float that is none": file_of({"$": "float", "value": "1e5"}),
    "tuple of nothing": file_of({"$": "tuple"}),
    "dict without pairs": file_of({"$": "dict", "items": [[1]]}),
    "dict with a list as key": file_of({"$": "dict", "items": [[[], 1]]}),
    "dict with a tensor as key": file_of(
        {"$": "dict", "items": [[T0, 1]]}, {"t0": tensor(0, 1)}, b"x"
    ),
    "dict with a key twice": file_of({"$": "dict", "items": [[1, 1], [1, 2]]}),
    "deep value": file_of(json.loads(nested(300))),
    "deeper value": file_of(
        header=json.dumps(
            {
                "__metadata__": {
                    "format": "comfy-remote-value/1",
                    "value": '{"type":"*","list":false,"value":' + nested(2_000_000) + "}",
                }
            }
        )
    ),
    "too many values": file_of([0] * 1_000_001),
    "endless integer": file_of(header='{"a":' + "9" * 1_000_000 + "}"),
    "number that is infinite": file_of(header='{"a":1e999}'),
    "pictures without end": pictures(shape=[1, 2**31, 2**31, 3]),
    "pictures of another size": pictures(shape=[1, 5000, 5000, 3]),
    "more pictures than files": pictures(shape=[1000, 4, 4, 3]),
    "pictures of another format": pictures(format="webp"),
    "pictures of an unknown format": pictures(format="eps"),
    "pictures with other channels": pictures(shape=[1, 4, 4, 4]),
    "pictures of text": pictures(dtype="object"),
    "pictures of a bad shape": pictures(shape=[1, 4, 4]),
    "pictures of a negative shape": pictures(shape=[1, -4, -4, 3]),
    "pictures no texts": pictures(names=[0]),
    "pictures that are none": file_of(
        {
            "$": "pictures",
            "format": "png",
            "shape": [1, 4, 4, 3],
            "dtype": "F32",
            "names": ["b0"],
        },
        {"b0": tensor(0, 40)},
        picture()[:40],
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(240)
def test_a_hostile_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueInvalid) as caught:
        decode_value(data, tensors="numpy")
    assert len(str(caught.value)) < 600
    path = tmp_path / "value.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueInvalid):
        read_value(path, tensors="numpy")


GOOD = b"".join(
    encode(
        [np.arange(6, dtype="f4").reshape(2, 3), {"a": (1, b"x", float("nan"))}, {1: "é", "$": 2}]
    ).chunks()
)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(deadline=None, max_examples=400)
def test_one_wrong_byte_is_harmless(at: int, byte: int) -> None:
    broken = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    with contextlib.suppress(ValueInvalid):
        decode_value(broken, tensors="numpy")  # in a tensor, it is another number


def test_every_cut_is_refused() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(ValueInvalid):
            decode_value(GOOD[:end], tensors="numpy")


def test_noise_is_refused() -> None:
    noise = random.Random(11)
    for _ in range(200):
        with pytest.raises(ValueInvalid):
            decode_value(noise.randbytes(noise.randrange(200)), tensors="numpy")


MEMORY = """
import resource, sys
from pathlib import Path
import numpy, PIL.Image
from comfy_remote.errors import ValueInvalid
from comfy_remote.media.values import read_value

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_value(path, tensors="numpy")
    except ValueInvalid:
        continue
    raise SystemExit(f"{path} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in KiB on Linux")
def test_no_hostile_file_takes_much_memory(tmp_path: Path) -> None:
    for index, data in enumerate(HOSTILE.values()):
        (tmp_path / f"{index:03}").write_bytes(data)
    for index, text in enumerate(("[]," * 10_000_000 + "[]", '"",' * 10_000_000 + '""')):
        value = '{"type":"*","list":false,"value":[' + text + "]}"
        metadata = {"format": "comfy-remote-value/1", "value": value}
        many = file_of(header=json.dumps({"__metadata__": metadata}))
        (tmp_path / f"many {index}").write_bytes(many)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    # The 30 MB of text, some times over; 10 million lists would take 640.
    assert int(done.stdout) < 300
