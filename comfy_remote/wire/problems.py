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
        f"{'.'.join(map(str, e['loc'])) or whole}: {_words(e['type'], e['msg'])}"
        for e in error.errors()
    )


def _words(kind: str, message: str) -> str:
    """Pydantic's message, without what tells people nothing."""
    return "unknown key" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
