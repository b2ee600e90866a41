"""Pictures as arrays: ComfyUI's layout, and a clear error for what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from comfy_remote.errors import OutputCorrupt
from comfy_remote.media.images import image_array, open_image


def _noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def test_one_picture_is_a_batch_of_one(tmp_path: Path) -> None:
    picture = _noise(5, 3)
    picture.save(tmp_path / "x.png")
    array = image_array(tmp_path / "x.png")
    assert array.shape == (1, 3, 5, 3)
    assert array.dtype == np.float32
    assert array.flags.writeable
    assert np.array_equal(array[0], np.asarray(picture).astype(np.float32) / 255.0)
    assert open_image(tmp_path / "x.png").size == (5, 3)


def test_the_frames_of_an_animation_are_a_batch(tmp_path: Path) -> None:
    frames = [_noise(4, 4, seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    array = image_array(tmp_path / "x.webp")
    assert array.shape == (3, 4, 4, 3)
    for i, frame in enumerate(frames):
        assert np.array_equal((array[i] * 255).round(), np.asarray(frame))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "x.tiff" if mode == "CMYK" else "x.png"
    _noise(4, 4).convert(mode).save(tmp_path / name)
    array = image_array(tmp_path / name)
    assert array.shape == (1, 4, 4, 3)
    assert array.min() >= 0.0
    assert array.max() <= 1.0


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 100, 50, 0)).save(tmp_path / "x.png")
    array = image_array(tmp_path / "x.png")
    assert np.allclose(array[0, 0, 0] * 255, [200, 100, 50])


def test_sixteen_bit_greys_keep_their_shades(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert np.allclose(image_array(tmp_path / "x.png")[0, 0, :, 0], [0, 0.5, 1], atol=0.01)


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert image_array(tmp_path / "x.jpg").shape == (1, 4, 2, 3)


def test_pages_of_another_size_are_left_out(tmp_path: Path) -> None:
    _noise(4, 4).save(tmp_path / "x.tiff", save_all=True, append_images=[_noise(9, 9)])
    assert image_array(tmp_path / "x.tiff").shape == (1, 4, 4, 3)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0").write_bytes(content)
    for decode in (open_image, image_array):
        with pytest.raises(OutputCorrupt, match=r"cat\.png cannot be decoded"):
            decode(tmp_path / "0", "cat.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of what it skips
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "bmp"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_picture_is_decoded_or_corrupt(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    path = tmp_path / f"x.{kind}"
    frames = [_noise(6, 6, seed=seed) for seed in range(2)]
    several = {"save_all": True, "append_images": frames[1:]} if kind in ("gif", "tiff") else {}
    frames[0].save(path, **several)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        array = image_array(path)
    except OutputCorrupt:
        return
    assert array.ndim == 4
