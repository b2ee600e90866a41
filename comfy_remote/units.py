"""Amounts as people read them."""

from __future__ import annotations

__all__ = ["dollars", "size_text"]


def dollars(amount: float) -> str:
    """US dollars: ``$12.30``, ``$0.05``, ``less than $0.01``, ``$0``.

    For people. Programs get the number.
    """
    if amount <= 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 0.01 else "less than $0.01"


def size_text(size: float) -> str:
    """Bytes: ``812 B``, ``3.4 MB``, ``6.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
