"""A value as a file that people open (PNG, WAV, text), and such a file as a value.

For people who call a service with curl and a picture. What such a file cannot hold is lost (a PNG
has 8 bits, a WAV 16): programs send value files (`media.values`), which lose nothing.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import OutputCorrupt, ValueInvalid
from ...text_file import SAVE_AS_UTF8, NotText, text_of
from ..images import image_array, open_image, pixels_of
from .adapters import ObjectParts

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from . import DecodedValue

__all__ = ["PlainFile", "files_of", "value_of_file"]

LARGEST_PICTURE = 512 * 1024**2
"""Bytes that a picture's frames may have once they are decoded to float32."""

_SAMPLE_TYPES = {1: "u1", 2: "<i2", 4: "<i4"}


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file for people: ``.png``, ``image/png``, and its content."""

    suffix: str
    media_type: str
    data: bytes = field(repr=False)


def files_of(decoded: DecodedValue) -> list[PlainFile] | None:
    """A value with NumPy's tensors as files, one for each picture or sound; else ``None``."""
    values = decoded.value if decoded.is_list else [decoded.value]
    if not isinstance(values, list):
        return None
    files: list[PlainFile] = []
    for value in values:
        made = _files(decoded.type, value)
        if made is None:
            return None
        files += made
    return files


def value_of_file(path: Path, media_type: str, type_: str) -> tuple[str, object]:
    """The value that is in a file.

    Args:
        media_type: What its sender says it is.
        type_: What is wanted; ``*`` for what such files usually are.

    Returns:
        The type, and the value with NumPy's tensors: ``IMAGE`` ``[B, H, W, 3]`` and ``MASK``
        ``[B, H, W]`` float32 in ``0..1``, ``AUDIO`` a dict of ``waveform`` ``[1, C, T]`` float32
        in ``-1..1`` and ``sample_rate``, ``VIDEO`` the parts of the object, ``STRING``.

    Raises:
        ValueInvalid: It is damaged, too large, or not a file of the wanted type.
    """
    family = media_type.partition(";")[0].strip().lower().partition("/")[0]
    try:
        if family == "image" and type_ in ("*", "IMAGE"):
            return "IMAGE", image_array(path, "The picture", limit=LARGEST_PICTURE)
        if family == "image" and type_ == "MASK":
            return "MASK", _mask(path)
        if family == "audio" and type_ in ("*", "AUDIO"):
            return "AUDIO", _sound(path)
        if family == "video" and type_ in ("*", "VIDEO"):
            return "VIDEO", _video(path)
        if family == "text" and type_ in ("*", "STRING"):
            return "STRING", text_of(path.read_bytes())
    except OutputCorrupt as error:
        raise ValueInvalid(error.message, advice=error.advice) from error
    except NotText as error:
        raise ValueInvalid(f"The text cannot be read: {error}.", advice=SAVE_AS_UTF8) from None
    raise ValueInvalid(
        f"A file of type {media_type!r} cannot be used as {type_}.",
        advice="Send a picture for IMAGE and MASK, a WAV for AUDIO, a video for VIDEO, text for "
        "STRING, and a value file (encoding safetensors) for everything else.",
    )


def _files(type_: str, value: object) -> list[PlainFile] | None:
    import numpy as np

    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        if value.ndim == 4 and value.shape[-1] in (1, 3, 4) and type_ in ("*", "IMAGE"):
            return [PlainFile(".png", "image/png", _png(one)) for one in value]
        if value.ndim in (2, 3) and type_ == "MASK":
            masks = value.reshape(-1, *value.shape[-2:])
            return [PlainFile(".png", "image/png", _png(one[..., None])) for one in masks]
        return None
    if isinstance(value, dict) and isinstance(value.get("waveform"), np.ndarray):
        return [PlainFile(".wav", "audio/wav", sound) for sound in _wavs(value)]
    if isinstance(value, ObjectParts) and value.kind == "video":
        film = value.parts.get("file") if isinstance(value.parts, dict) else None
        if isinstance(film, np.ndarray):
            return [PlainFile(".mp4", "video/mp4", film.tobytes())]
        return None
    if isinstance(value, str):
        return [PlainFile(".txt", "text/plain; charset=utf-8", value.encode("utf-8", "replace"))]
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # it has a tensor in it
        return None
    return [PlainFile(".json", "application/json", text.encode())]


def _png(pixels: NDArray[numpy.floating]) -> bytes:
    """As ComfyUI's SaveImage writes it: 8 bits, cut off and not rounded."""
    import numpy as np
    from PIL import Image

    values = np.clip(255.0 * np.nan_to_num(pixels.astype(np.float32)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=4)
    return out.getvalue()


def _wavs(sound: dict[str, object]) -> Iterator[bytes]:
    import numpy as np

    waveform, rate = np.asarray(sound["waveform"]), sound.get("sample_rate")
    for channels in waveform.reshape(-1, *waveform.shape[-2:]):
        samples = np.clip(np.nan_to_num(channels.T) * 32767.0, -32768, 32767).astype("<i2")
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate if isinstance(rate, int) else 44100)
            file.writeframes(samples.tobytes())
        yield out.getvalue()


def _video(path: Path) -> ObjectParts:
    """As ComfyUI's VIDEO travels: the file, undecoded."""
    import numpy as np

    return ObjectParts("video", {"file": np.frombuffer(path.read_bytes(), np.uint8)})


def _mask(path: Path) -> NDArray[numpy.float32]:
    """The alpha channel, inverted as LoadImage does; of a picture without one, its grey."""
    import numpy as np

    with open_image(path, "The picture") as picture:
        if "A" in picture.getbands():
            mask: NDArray[np.float32] = np.float32(1.0) - pixels_of(picture.getchannel("A"))
            return mask[None]
        return pixels_of(picture.convert("L"))[None]


def _sound(path: Path) -> dict[str, object]:
    import numpy as np

    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:
        raise ValueInvalid(
            f"The sound is not a WAV file that can be read: {error}.",
            advice="Send PCM: `ffmpeg -i SOUND -c:a pcm_s16le SOUND.wav`.",
        ) from None
    if width not in _SAMPLE_TYPES or not rate:
        raise ValueInvalid(
            f"The WAV has samples of {8 * width} bits.", advice="Send one of 16 bits."
        )
    frames = len(data) // (width * channels)
    values = np.frombuffer(data[: frames * width * channels], _SAMPLE_TYPES[width])
    samples = values.astype(np.float32)
    if width == 1:
        samples -= 128.0
    samples /= np.float32(2 ** (8 * width - 1))
    return {"waveform": samples.reshape(-1, channels).T[None].copy(), "sample_rate": rate}
