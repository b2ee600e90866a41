"""Whole files pass; no beginning of one does."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import pytest
from PIL import Image

from comfy_remote.errors import OutputCorrupt
from comfy_remote.media.verify import check_whole


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2000))
    return buffer.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def large_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


def glb() -> bytes:
    content = b'{"asset":{"version":"2.0"}}     '
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(content), len(content), 0x4E4F534A) + content


WHOLE = {
    "a.png": encoded("PNG"),
    "a.jpg": encoded("JPEG"),
    "a.webp": encoded("WEBP"),
    "a.wav": sound(),
    "a.mp4": box(b"ftyp", b"isom") + box(b"moov", bytes(90)) + large_box(b"mdat", bytes(300)),
    "b.mp4": box(b"ftyp", b"isom") + large_box(b"mdat", bytes(300)) + box(b"moov", bytes(90)),
    "a.glb": glb(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_pass_and_no_beginning_does(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / "file", WHOLE[name]
    path.write_bytes(data)
    check_whole(path, name)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(OutputCorrupt, match=name) as caught:
            check_whole(path, name)
        assert caught.value.advice


def test_a_png_with_a_wrong_bit(tmp_path: Path) -> None:
    data = bytearray(WHOLE["a.png"])
    data[len(data) // 2] ^= 1
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(OutputCorrupt, match="damaged"):
        check_whole(path, "a.png")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gif", encoded("GIF")),
        ("a.png", WHOLE["a.jpg"]),  # a name that does not fit
        ("a.txt", b""),
        ("a.bin", b"<html>"),
        ("a.png", WHOLE["a.png"] + b"more"),
        ("a.jpg", WHOLE["a.jpg"] + bytes(100)),
        ("live.wav", WHOLE["a.wav"][:4] + b"\xff\xff\xff\xff" + WHOLE["a.wav"][8:]),
        ("a.mp4", box(b"ftyp", b"isom") + box(b"moov", b"") + struct.pack(">I4s", 0, b"mdat")),
    ],
)
def test_what_is_let_through(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    check_whole(path, name)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "x/a.webm", "a.mp4", "a.gif"])
@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html><html></html>"])
def test_something_else_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(OutputCorrupt, match="is empty" if not data else "is no"):
        check_whole(path, name)


SAVED = sorted((Path(__file__).parents[1] / "data" / "saved").iterdir())


@pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.name)
def test_what_comfyui_saves_is_whole_and_no_beginning_of_it_is(tmp_path: Path, saved: Path) -> None:
    check_whole(saved, saved.name)
    data, path = saved.read_bytes(), tmp_path / "file"
    for length in {*range(0, len(data), max(1, len(data) // 150)), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(OutputCorrupt):
            check_whole(path, saved.name)


def test_a_gif(tmp_path: Path) -> None:
    path, data = tmp_path / "file", encoded("GIF")
    for whole in (data, data + bytes(10)):
        path.write_bytes(whole)
        check_whole(path, "a.gif")
    path.write_bytes(data[:-5])
    with pytest.raises(OutputCorrupt):
        check_whole(path, "a.gif")


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_an_id3_tag_behind_it_is_harmless(tmp_path: Path, suffix: str) -> None:
    saved = next(path for path in SAVED if path.suffix == f".{suffix}")
    path = tmp_path / "file"
    path.write_bytes(saved.read_bytes() + b"TAG" + bytes(125))
    check_whole(path, f"a.{suffix}")


def test_a_flac_with_a_wrong_bit_in_its_last_frame(tmp_path: Path) -> None:
    saved = next(path for path in SAVED if path.suffix == ".flac")
    data = bytearray(saved.read_bytes())
    data[-4] ^= 1
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(OutputCorrupt):
        check_whole(path, "a.flac")


def test_a_live_recording_does_not_know_its_length(tmp_path: Path) -> None:
    saved = next(path for path in SAVED if path.suffix == ".webm")
    data = saved.read_bytes()
    at = data.index(b"\x18\x53\x80\x67") + 4
    path = tmp_path / "file"
    path.write_bytes(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :])
    check_whole(path, "a.webm")


def safetensors(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


TENSOR = b'{"__metadata__":{"a":"b"},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (safetensors(TENSOR, b"abcd"), True),
        (safetensors(b"{}", b""), True),
        (safetensors(TENSOR, b"abc"), False),
        (safetensors(TENSOR, b"abcde"), False),
        (safetensors(TENSOR, b"abcd")[:40], False),
        (safetensors(b"[]", b""), False),
        (safetensors(b'{"t":1}', b""), False),
        (safetensors(b"no JSON", b""), False),
        ((2**63).to_bytes(8, "little") + b"{}", False),
        (b"short", False),
        (b"", False),
        (b"<html>an error page of a proxy</html>", False),
    ],
)
def test_a_safetensors_file_is_as_long_as_its_header_says(
    tmp_path: Path, content: bytes, whole: bool
) -> None:
    path = tmp_path / "arrived"
    path.write_bytes(content)
    if whole:
        check_whole(path, "result.safetensors")
    else:
        with pytest.raises(OutputCorrupt):
            check_whole(path, "result.safetensors")
