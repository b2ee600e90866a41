"""Small files that would be large in memory, wherever pictures from elsewhere are decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from memory import MIB, linux_only, peak_of

from comfy_remote.errors import OutputCorrupt, ValueInvalid
from comfy_remote.media.images import decoded_preview, image_array, open_image
from comfy_remote.media.values.plain_files import value_of_file


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int) -> bytes:
    """A black picture of ``side`` x ``side`` pixels in grey of one bit: a few KB of zeros."""
    row = b"\0" * (1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    )


def frames(path: Path, count: int, side: int) -> None:
    """A GIF of so many frames."""
    from PIL import Image

    frame = Image.new("L", (side, side))
    others = [Image.new("L", (side, side), n % 2) for n in range(1, count)]
    frame.save(path, "GIF", save_all=True, append_images=others)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bomb") / "13000.png"
    path.write_bytes(png(13_000))
    assert path.stat().st_size < 100_000
    return path


@linux_only
def test_a_terminal_preview_of_a_huge_picture_is_left_out(bomb: Path) -> None:
    code = """
from pathlib import Path
from PIL import Image
from comfy_remote.cli.pictures import load_picture
import comfy_remote.media.images
def main():
    assert load_picture(Path(sys.argv[1]), "blocks", columns=60, rows=20) is None
"""
    assert peak_of(code, str(bomb)) < 30 * MIB


@linux_only
def test_a_large_picture_is_shown_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(6000))
    code = """
from pathlib import Path
from PIL import Image, PngImagePlugin
from comfy_remote.cli.pictures import load_picture
import comfy_remote.media.images
def main():
    assert load_picture(Path(sys.argv[1]), "blocks", columns=60, rows=20) is not None
"""
    assert peak_of(code, str(path)) < 250 * MIB


@pytest.fixture
def no_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As custom nodes leave it that want to load large pictures."""
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


@pytest.mark.usefixtures("no_limit_of_pillow")
def test_a_picture_of_too_many_pixels_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(13_500))
    with pytest.raises(OutputCorrupt, match="13500 x 13500"):
        open_image(path)
    with pytest.raises(OutputCorrupt, match="too large to be decoded"):
        image_array(path)


def test_a_picture_of_too_many_frames_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.gif"
    frames(path, 40, 300)
    assert image_array(path).shape[0] == 40
    with pytest.raises(OutputCorrupt, match="43200000 bytes in all"):
        image_array(path, limit=40 * 300 * 300 * 12 - 1)


def test_what_a_caller_sends_is_not_decoded_above_half_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(7000))
    with pytest.raises(ValueInvalid, match="too large to be decoded"):
        value_of_file(path, "image/png", "IMAGE")


def test_a_preview_from_a_target_is_left_out_above_a_size() -> None:
    assert decoded_preview(png(2000)) is not None
    assert decoded_preview(png(5000)) is None


@pytest.mark.usefixtures("no_limit_of_pillow")
def test_the_sandbox_loads_no_picture_above_the_limit(tmp_path: Path) -> None:
    from comfy_remote.sandbox.folders import Folders
    from comfy_remote.sandbox.nodes import load

    folders = Folders(tmp_path)
    folders.create()
    (tmp_path / "input" / "x.png").write_bytes(png(13_500))
    with pytest.raises(OutputCorrupt, match="13500 x 13500"):
        load._load(folders, "x.png")


@pytest.mark.usefixtures("no_limit_of_pillow")
@pytest.mark.parametrize("ask", ["preview_picture", "colour_picture", "alpha_picture"])
def test_the_sandbox_shows_no_picture_above_the_limit(bomb: Path, ask: str) -> None:
    from comfy_remote.sandbox import shown_picture

    draw = getattr(shown_picture, ask)
    more = ("webp",) if ask == "preview_picture" else ()
    with pytest.raises(OSError, match="too large"):
        draw(bomb, *more, **({"opaque": True} if more else {}))


def test_a_picture_stands_in_a_value_once(tmp_path: Path) -> None:
    import numpy as np

    from comfy_remote.media.values import decode_value, encode

    value = b"".join(encode(np.zeros((2, 8, 8, 3), np.float32), "IMAGE", images="png").chunks())
    assert b'"b0\\",\\"b1' in value
    twice = value.replace(b'"b0\\",\\"b1', b'"b0\\",\\"b0')
    with pytest.raises(ValueInvalid, match="twice"):
        decode_value(twice, tensors="numpy")


@linux_only
def test_a_value_is_checked_without_decoding_its_pictures(tmp_path: Path) -> None:
    import numpy as np

    from comfy_remote.media.values import encode

    path = tmp_path / "value"
    encode(np.zeros((20, 1500, 1500, 3), np.float32), "IMAGE", images="png").write(path)
    assert path.stat().st_size < MIB
    code = """
from pathlib import Path
import numpy
from PIL import Image, PngImagePlugin
from comfy_remote.media.values.types import check_type
from comfy_remote.media.values import read_value
def main():
    found = read_value(Path(sys.argv[1]), tensors="numpy", pixels=False)
    check_type("IMAGE", found.value)
    assert found.value.shape == (20, 1500, 1500, 3)
"""
    assert peak_of(code, str(path)) < 30 * MIB
