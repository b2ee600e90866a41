"""Values as files for people, and such files as values."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfy_remote.errors import ValueInvalid
from comfy_remote.media.values import DecodedValue
from comfy_remote.media.values import plain_files as value_files
from comfy_remote.media.values.plain_files import files_of, value_of_file

PIXELS = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), np.uint8)


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def test_a_picture_there_and_back(tmp_path: Path) -> None:
    image = PIXELS.astype(np.float32) / np.float32(255)
    made = files_of(DecodedValue("IMAGE", True, [image, image[:1]]))
    assert made is not None
    assert [one.media_type for one in made] == ["image/png"] * 3
    type_, back = value_of_file(_written(tmp_path, made[0].data), "image/png", "*")
    assert type_ == "IMAGE"
    assert np.array_equal(back, image[:1])


def test_a_mask_there_and_back(tmp_path: Path) -> None:
    mask = PIXELS[..., 0].astype(np.float32) / np.float32(255)
    made = files_of(DecodedValue("MASK", False, mask))
    assert made is not None
    assert Image.open(io.BytesIO(made[0].data)).mode == "L"
    type_, back = value_of_file(_written(tmp_path, made[1].data), "image/png", "MASK")
    assert type_ == "MASK"
    assert np.array_equal(back, mask[1:])


def test_a_mask_is_a_pictures_alpha_where_it_has_one(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (4, 3), (9, 9, 9, 255)).save(out, "PNG")
    _, mask = value_of_file(_written(tmp_path, out.getvalue()), "image/png", "MASK")
    assert np.array_equal(mask, np.zeros((1, 3, 4), np.float32))


def test_a_sound_there_and_back(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32767, 32768, (1, 2, 999))
    sound = {"waveform": samples.astype(np.float32) / 32767, "sample_rate": 22050}
    made = files_of(DecodedValue("AUDIO", True, [sound]))
    assert made is not None
    type_, back = value_of_file(_written(tmp_path, made[0].data), "audio/wav", "*")
    assert type_ == "AUDIO"
    assert back["sample_rate"] == 22050  # type: ignore[index]
    assert np.allclose(back["waveform"], sound["waveform"], atol=1e-4)  # type: ignore[index]


def test_words_and_numbers(tmp_path: Path) -> None:
    (text,) = files_of(DecodedValue("STRING", True, ["ein Käfer"])) or []
    assert value_of_file(_written(tmp_path, text.data), text.media_type, "*") == (
        "STRING",
        "ein Käfer",
    )
    (number,) = files_of(DecodedValue("INT", True, [3])) or []
    assert (number.suffix, number.data) == (".json", b"3")


def test_what_no_such_file_holds() -> None:
    assert files_of(DecodedValue("LATENT", True, [{"samples": PIXELS}])) is None
    assert files_of(DecodedValue("SIGMAS", True, [np.zeros(5, np.float32)])) is None


@pytest.mark.parametrize(
    ("media_type", "type_"),
    [
        ("image/png", "*"),
        ("image/png", "MASK"),
        ("image/png", "LATENT"),
        ("audio/wav", "*"),
        ("text/plain", "*"),
        ("application/zip", "*"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, media_type: str, type_: str) -> None:
    with pytest.raises(ValueInvalid):
        value_of_file(_written(tmp_path, b"\xff\xfe\x00nothing."), media_type, type_)


def test_a_picture_that_is_too_large_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_files, "LARGEST_PICTURE", 100)
    out = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(out, "PNG")
    with pytest.raises(ValueInvalid, match="420 bytes"):
        value_of_file(_written(tmp_path, out.getvalue()), "image/png", "*")
