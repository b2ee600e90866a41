"""ComfyUI's objects that travel as what they are made of: VIDEO and nested tensors."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from comfy_api.latest import InputImpl, Types

from ...media.values import ObjectAdapter

__all__ = ["ADAPTERS", "NestedTensorAdapter", "VideoAdapter"]


class VideoAdapter:
    """VIDEO: the file it is made from, byte for byte; without one, its frames and sound.

    A film in a file is not decoded, and what was cut off it (ComfyUI since 0.4) stays cut off.
    """

    kind = "video"

    def take_apart(self, value: object) -> object | None:
        """``{"file", "start_time"?, "duration"?}`` or ``{"components", "bit_depth"?}``."""
        if isinstance(value, InputImpl.VideoFromFile):
            parts: dict[str, object] = {"file": _content(value.get_stream_source())}
            window = getattr(value, "get_active_trim_window", None)
            start, duration = window() if window is not None else (0, 0)
            return (
                {**parts, "start_time": start, "duration": duration} if start or duration else parts
            )
        if isinstance(value, InputImpl.VideoFromComponents):
            components = value.get_components()
            made = {
                field.name: getattr(components, field.name)
                for field in dataclasses.fields(components)
            }
            rate = Fraction(made["frame_rate"])
            made["frame_rate"] = [rate.numerator, rate.denominator]
            parts = {"components": made}
            depth = getattr(value, "get_bit_depth", None)
            return {**parts, "bit_depth": depth()} if depth is not None else parts
        return None

    def put_together(self, parts: object) -> object:
        """The video. A field that this ComfyUI does not know is refused, unless it is empty."""
        if not isinstance(parts, dict):
            raise TypeError("a video is made of parts")
        if "file" in parts:
            more = {name: parts[name] for name in ("start_time", "duration") if parts.get(name)}
            return InputImpl.VideoFromFile(io.BytesIO(_bytes(parts["file"])), **more)
        made = {name: part for name, part in parts["components"].items() if part is not None}
        numerator, denominator = made["frame_rate"]
        made["frame_rate"] = Fraction(numerator, denominator)
        known = {field.name for field in dataclasses.fields(Types.VideoComponents)}
        if made.get("color_space") == "sRGB" and "color_space" not in known:
            del made["color_space"]  # older ones have no other
        components = Types.VideoComponents(**made)
        if parts.get("bit_depth") in (None, 8):
            return InputImpl.VideoFromComponents(components)
        return InputImpl.VideoFromComponents(components, parts["bit_depth"])


class NestedTensorAdapter:
    """Latents of several shapes in one (pictures with sound), in ComfyUI since 0.3.72."""

    kind = "nested_tensor"

    def take_apart(self, value: object) -> object | None:
        """``{"tensors": [...]}``."""
        nested = _nested_tensor()
        if nested is None or not isinstance(value, nested):
            return None
        return {"tensors": list(value.tensors)}  # type: ignore[attr-defined]  # ComfyUI's own class

    def put_together(self, parts: object) -> object:
        """The nested tensor."""
        nested = _nested_tensor()
        if nested is None:
            raise ValueError("this ComfyUI is too old for it: update it")
        if not isinstance(parts, dict):
            raise TypeError("a nested tensor is made of tensors")
        return nested(parts["tensors"])


ADAPTERS: Sequence[ObjectAdapter] = (VideoAdapter(), NestedTensorAdapter())


def _nested_tensor() -> type | None:
    try:
        from comfy.nested_tensor import NestedTensor
    except ImportError:
        return None
    found: type = NestedTensor
    return found


def _content(source: str | io.BytesIO) -> object:
    """A file's bytes, as an array that is read only when it is sent."""
    import numpy as np

    if isinstance(source, (str, os.PathLike)):
        return np.memmap(Path(source), dtype=np.uint8, mode="r")
    return np.frombuffer(source.getbuffer(), dtype=np.uint8)


def _bytes(part: object) -> bytes:
    import numpy as np

    # A torch tensor turns into an array, which shares its memory.
    return np.asarray(part, dtype=np.uint8).tobytes()
