"""What pydantic found wrong, in one line."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["problems_in"]


def problems_in(error: ValidationError, whole: str) -> str:
    """``images.0.name: Field required; format: …``. Never a value: it may be a key.

    Args:
        whole: What to call the document itself, where all of it is wrong.
    """
    return "; ".join(
        # What pydantic puts before the words of a check of ours tells people nothing.
        f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )
