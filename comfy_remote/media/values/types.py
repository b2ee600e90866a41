"""Whether a value has its ComfyUI type: checked before a node gets a value from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import ValueInvalid

__all__ = ["check_type"]


def check_type(type_: str, value: object) -> None:
    """Refuse a value that is not of its ComfyUI type.

    The types that this knows: ``IMAGE`` (float ``[B, H, W, C]``), ``MASK`` (float ``[B, H, W]``
    or ``[H, W]``), ``LATENT`` (a dict with the tensor ``samples``), ``CONDITIONING`` (a list of
    pairs of a tensor and a dict), ``AUDIO`` (a dict of ``waveform``, ``[B, C, T]``, and
    ``sample_rate``), ``SIGMAS`` (float ``[N]``), ``STRING``, ``INT``, ``FLOAT``, ``BOOLEAN``.
    Other types are taken as they are.

    Args:
        type_: One type, or several joined by commas, of which one has to fit.
        value: With NumPy's tensors or torch's.

    Raises:
        ValueInvalid: It says what was found, and what is wanted.
    """
    wanted = [_WANTED[one] for one in type_.split(",") if one in _WANTED]
    if len(wanted) < len(type_.split(",")) or any(fits(value) for fits, _ in wanted):
        return
    words = " or ".join(words for _, words in wanted)
    raise ValueInvalid(
        f"This is not of type {type_}: {words} is expected, not {_described(value)}.",
        advice="Check what the other side sends, and which type it says that is.",
        details={"type": type_},
    )


def _is_tensor(value: object, *dimensions: int) -> bool:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return shape is not None and len(shape) in dimensions and "float" in str(dtype)


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_latent(value: object) -> bool:
    # Its samples may be several tensors, held in an object of ComfyUI's.
    return isinstance(value, Mapping) and getattr(value.get("samples"), "shape", None) is not None


def _is_conditioning(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and getattr(pair[0], "shape", None) is not None
        and isinstance(pair[1], dict)
        for pair in value
    )


def _is_audio(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_tensor(value.get("waveform"), 3)
        and isinstance(value.get("sample_rate"), int)
    )


_WANTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "IMAGE": (lambda value: _is_tensor(value, 4), "a float tensor [B, H, W, C]"),
    "MASK": (lambda value: _is_tensor(value, 2, 3), "a float tensor [B, H, W]"),
    "LATENT": (_is_latent, "an object with the tensor `samples`"),
    "CONDITIONING": (_is_conditioning, "a list of pairs of a tensor and an object"),
    "AUDIO": (_is_audio, "an object of a float tensor `waveform` [B, C, T] and `sample_rate`"),
    "SIGMAS": (lambda value: _is_tensor(value, 1), "a float tensor [N]"),
    "STRING": (lambda value: isinstance(value, str), "a text"),
    "INT": (lambda value: _is_number(value, int), "a whole number"),
    "FLOAT": (lambda value: _is_number(value, int, float), "a number"),
    "BOOLEAN": (lambda value: isinstance(value, bool), "true or false"),
}


def _described(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a tensor {list(shape)} of {str(dtype).removeprefix('torch.')}"
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    names |= {list: "a list", dict: "an object", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
