"""Amounts as people read them."""

from __future__ import annotations

__all__ = [
    "about_dollars",
    "about_text",
    "ago_text",
    "counted",
    "dollars",
    "seconds_text",
    "size_text",
]


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 job``, ``3 jobs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def dollars(amount: float) -> str:
    """US dollars: ``$12.30``, ``$0.05``, ``< $0.01``, ``$0``.

    For people. Programs get the number.
    """
    if amount <= 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 0.01 else "< $0.01"


def about_dollars(amount: float) -> str:
    """An estimate in US dollars: ``about $0.05``, ``less than $0.01``."""
    return "less than $0.01" if 0 < amount < 0.01 else f"about {dollars(amount)}"


def size_text(size: float) -> str:
    """Bytes: ``812 B``, ``3.4 MB``, ``340 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.{0 if size >= 100 or unit == 'B' else 1}f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A duration: ``0.8 s``, ``42 s``, ``3:07``, ``1:02:09``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about_text(seconds: float) -> str:
    """A duration that is not known exactly: ``0.8 s``, ``42 s``, ``26 min``, ``3.5 h``."""
    if seconds < 10:
        return f"{max(0.1, seconds):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def ago_text(seconds: float) -> str:
    """How long ago something was: ``42 s ago``, ``26 min ago``, ``2 h ago``, ``3 days ago``."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86400:.0f} days ago"
