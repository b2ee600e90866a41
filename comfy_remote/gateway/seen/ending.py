"""What a log says of a job's result."""

from __future__ import annotations

from pydantic import JsonValue

from ...wire.runpod import error_from_runpod
from ..job import Ending

__all__ = ["ending_of"]

_LARGEST = 2**60


def ending_of(output: JsonValue, error: JsonValue) -> Ending:
    """How a job ended, from what its worker gave: `wire.answer.Answer`, or another worker's shape,
    of which only the error is known.
    """
    code = "" if error is None else error_from_runpod(error, output).code
    outputs = output.get("outputs") if isinstance(output, dict) else None
    sizes = [
        one["size"]
        for one in (outputs if isinstance(outputs, list) else ())
        if isinstance(one, dict) and isinstance(one.get("size"), int)
    ]
    size = sum(size for size in sizes if isinstance(size, int) and 0 <= size <= _LARGEST)
    return Ending(code, len(sizes), min(size, _LARGEST))
