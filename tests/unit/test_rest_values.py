"""Results of a service that is not trusted: what is no value of its type is an error, soon."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_server import Answer, ScriptedServer

from comfy_remote.calls.rest import RestClient
from comfy_remote.calls.service import received
from comfy_remote.calls.values import ValueForm
from comfy_remote.errors import ComfyRemoteError, OutputTooLarge, TargetError, ValueInvalid
from comfy_remote.media.values import DecodedValue, ValueLimits, encode

PICTURE = np.random.default_rng(1).random((1, 4, 5, 3), dtype=np.float32)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


async def _received(
    server: ScriptedServer, value: Any, folder: Path, expected: str = "*", **more: Any
) -> DecodedValue:
    async with RestClient(server.url) as client:
        return await received(client, value, folder, ValueForm(**more), expected=expected)


def _file(value: object, type_: str, **more: Any) -> bytes:
    return b"".join(map(bytes, encode(value, type_, **more).chunks()))


def _inline(data: bytes, type_: str = "IMAGE", **more: Any) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {"type": type_, "encoding": "safetensors", "data": text, **more}


def _header(entries: Any, tail: bytes = b"", *, value: Any = None) -> bytes:
    tree = {"$": "tensor", "name": "t0"} if value is None else value
    document = json.dumps({"type": "IMAGE", "list": False, "value": tree})
    metadata = {"format": "comfy-remote-value/1", "value": document}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    return struct.pack("<Q", len(header)) + header + tail


async def test_a_value_inline_and_by_address(server: ScriptedServer, tmp_path: Path) -> None:
    content = _file([PICTURE], "IMAGE", as_list=True)
    server.on("GET /values/x", Answer(content))
    digest = hashlib.sha256(content).hexdigest()
    linked = {"type": "IMAGE", "url": "/values/x", "sha256": digest, "size": len(content)}
    for value in (_inline(content), linked):
        got = await _received(server, value, tmp_path, "IMAGE")
        assert (got.type, got.is_list) == ("IMAGE", True)
        assert isinstance(got.value, list)
        assert np.array_equal(got.value[0], PICTURE)


async def test_plain_values(server: ScriptedServer, tmp_path: Path) -> None:
    for value, expected in (("a cat", "STRING"), (3, "INT"), (3, "FLOAT"), (True, "BOOLEAN")):
        assert (await _received(server, value, tmp_path, expected)).value == value
    said = {"type": "INT", "encoding": "json", "data": "3"}
    assert (await _received(server, said, tmp_path, "FLOAT")).value == 3


class _Boom:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("boom"),))


HOSTILE: dict[str, tuple[Any, str]] = {
    "a pickle": (
        {
            "type": "IMAGE",
            "encoding": "base64+pickle",
            "data": base64.b64encode(pickle.dumps(_Boom())).decode(),
        },
        "pickle",
    ),
    "a pickle by another name": (
        _inline(pickle.dumps(_Boom())),
        "not a value that can be read",
    ),
    "an unknown encoding": ({"type": "IMAGE", "encoding": "zip", "data": ""}, "not understood"),
    "an absurd shape": (
        _inline(
            _header(
                {"t0": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}}, b"0000"
            )
        ),
        "not a value that can be read",
    ),
    "a negative shape": (
        _inline(
            _header({"t0": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"0000")
        ),
        "not a value that can be read",
    ),
    "offsets beyond the end": (
        _inline(
            _header({"t0": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]}}, b"0")
        ),
        "not a value that can be read",
    ),
    "a header without end": (_inline(struct.pack("<Q", 2**62)), "not a value that can be read"),
    "no base64": ({"type": "IMAGE", "encoding": "safetensors", "data": "%%%"}, "base64"),
    "a text for a picture": ({"type": "IMAGE", "encoding": "identity", "data": "x"}, "IMAGE"),
    "a list for a picture": (
        {"type": "IMAGE", "encoding": "identity", "data": [[[[0.0, 0.0, 0.0]]]]},
        "IMAGE",
    ),
    "bytes for floats": (
        _inline(_file((PICTURE * 255).astype(np.uint8), "IMAGE")),
        "float tensor",
    ),
    "three dimensions": (_inline(_file(PICTURE[0], "IMAGE")), "float tensor"),
    "another type": (_inline(_file(PICTURE[..., 0], "MASK"), "MASK"), "MASK"),
    "a lie about the type": (_inline(_file(PICTURE[..., 0], "MASK")), "MASK"),
    "one wrong in a list": (
        _inline(_file([PICTURE, "x"], "IMAGE", as_list=True)),
        "float tensor",
    ),
    "a hash alone": ({"type": "IMAGE", "sha256": "0" * 64}, "has to name its address"),
    "another hash": (_inline(_file(PICTURE, "IMAGE"), sha256="0" * 64), "SHA-256"),
    "another size": (_inline(_file(PICTURE, "IMAGE"), size=3), "announced"),
    "no picture in a file": (
        {
            "type": "IMAGE",
            "encoding": "file",
            "media_type": "image/png",
            "data": base64.b64encode(b"\x89PNG nothing").decode(),
        },
        "picture",
    ),
    "nested without end": (
        {"type": "IMAGE", "encoding": "json", "data": "[" * 100_000},
        "not a value that can be read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_value_is_an_error_and_nothing_else(
    server: ScriptedServer, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value, words = HOSTILE[name]
    await _received(server, 1, tmp_path)  # what is imported now is not counted
    begun = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ValueInvalid, match=words):
            await _received(server, value, tmp_path, "IMAGE")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "boom").exists()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
async def test_a_bomb_of_a_picture_is_not_decoded(server: ScriptedServer, tmp_path: Path) -> None:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    side = 13_000  # 2 GB of float32
    rows = zlib.compress(bytes(side * 3 + 1) * 50)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    value = {"type": "IMAGE", "encoding": "file", "media_type": "image/png"}
    value["data"] = base64.b64encode(png).decode()
    with pytest.raises(ValueInvalid, match="too large to be decoded"):
        await _received(server, value, tmp_path)


async def test_more_than_is_announced_is_not_taken(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /values/x", Answer(b"x" * 100_000))
    linked = {"type": "IMAGE", "encoding": "safetensors", "url": "/values/x", "size": 1000}
    with pytest.raises(OutputTooLarge):
        await _received(server, linked, tmp_path)
    with pytest.raises(ValueInvalid, match="are accepted"):
        limits = ValueLimits(bytes=999)
        await _received(server, linked, tmp_path, limits=limits)
    del linked["size"]
    with pytest.raises(ComfyRemoteError):
        await _received(server, linked, tmp_path, limits=limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/x",
        "https://192.168.0.1/x",
        "file:///etc/passwd",
        "ftp://example.com/x",
    ],
)
async def test_nothing_is_fetched_from_the_inside(
    server: ScriptedServer, tmp_path: Path, url: str
) -> None:
    with pytest.raises(TargetError):
        await _received(server, {"type": "IMAGE", "url": url}, tmp_path)


async def test_a_redirect_of_a_value_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /values/x", Answer(status=302, headers={"Location": "http://10.0.0.1/"}))
    with pytest.raises(TargetError, match="redirect"):
        await _received(server, {"type": "IMAGE", "url": "/values/x"}, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
@pytest.mark.parametrize("maps_files", [True, False])
def test_on_windows_a_result_does_not_hold_its_file(tmp_path: Path, maps_files: bool) -> None:
    """It could not be removed, nor the folder of the call that it is in."""
    image = np.random.default_rng(1).random((1, 64, 64, 3), dtype=np.float32)
    path = encode(image, "IMAGE").write_into(tmp_path)
    decoded = ValueForm(maps_files=maps_files).read(path)
    assert (str(path) in Path("/proc/self/maps").read_text()) is maps_files
    assert np.array_equal(decoded.value, image)  # type: ignore[arg-type]
