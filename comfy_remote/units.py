"""Amounts as people read them."""

from __future__ import annotations

__all__ = ["dollars"]


def dollars(amount: float) -> str:
    """US dollars: ``$12.30``, ``$0.05``, ``less than $0.01``, ``$0``.

    For people. Programs get the number.
    """
    if amount <= 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 0.01 else "less than $0.01"
