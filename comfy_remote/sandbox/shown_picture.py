"""Pictures as a page asks to be shown them: smaller files, or some of their channels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import OutputCorrupt
from ..media.images import check_decoded_size

__all__ = ["alpha_picture", "colour_picture", "preview_picture", "save_with_alpha"]

_QUALITY = 90
_LARGEST = 1024**3  # bytes as float32: 89 million pixels


def preview_picture(path: Path, wanted: str, *, opaque: bool) -> tuple[bytes, str]:
    """The picture, compressed.

    Args:
        wanted: ComfyUI's ``preview`` parameter: ``webp`` or ``jpeg``, then perhaps
            ``;quality``, 0 to 100. Any other format gives WebP.
        opaque: Leave transparency out.

    Returns:
        The file's content and its media type.

    Raises:
        OSError: It is not a picture, or too large to be shown.
    """
    words = wanted.split(";")
    kind = words[0] if words[0] in ("webp", "jpeg") else "webp"
    quality = min(100, int(words[-1])) if words[-1].isdecimal() else _QUALITY
    with _opened(path) as picture:
        shown = picture.convert("RGB") if opaque or kind == "jpeg" else picture
        return _file(shown, kind, quality), f"image/{kind}"


def colour_picture(path: Path) -> bytes:
    """A PNG without transparency; raises as `preview_picture`."""
    with _opened(path) as picture:
        return _file(picture.convert("RGB"), "png")


def alpha_picture(path: Path) -> bytes:
    """A PNG of nothing but the transparency; raises as `preview_picture`."""
    with _opened(path) as picture:
        shown = Image.new("RGBA", picture.size)
        shown.putalpha(picture.convert("RGBA").getchannel("A"))
        return _file(shown, "png")


def save_with_alpha(original: Path, mask: IO[bytes], path: Path) -> None:
    """Save a picture with its texts and another one's alpha; raises as `preview_picture`."""
    with _opened(original) as picture:
        texts = PngInfo()
        for key, text in getattr(picture, "text", {}).items():
            texts.add_text(key, text)
        shown = picture.convert("RGBA")
    with _opened(mask) as masked:
        shown.putalpha(masked.convert("RGBA").getchannel("A"))
    shown.save(path, compress_level=4, pnginfo=texts)


def _opened(source: Path | IO[bytes]) -> Image.Image:
    picture = Image.open(source)
    name = source.name if isinstance(source, Path) else "The mask"
    try:
        check_decoded_size(picture, name, _LARGEST, one_frame=True)
    except OutputCorrupt as error:
        picture.close()
        raise OSError(error.message) from error
    return picture


def _file(picture: Image.Image, kind: str, quality: int | None = None) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **({} if quality is None else {"quality": quality}))
    return buffer.getvalue()
