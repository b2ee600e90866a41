"""What RunPod's documentation says and no API does, with its date."""

from __future__ import annotations

__all__ = ["LISTED_ON", "S3_CENTERS", "STANDARD", "volume_per_month"]

LISTED_ON = "2026-08-20"
"""When docs.runpod.io said what is here (``storage/network-volumes``, ``storage/s3-api``)."""

STANDARD = "STANDARD"
"""The tier of volumes that has a listed price; that of the other differs by data centre."""

S3_CENTERS = frozenset(
    {
        *("EU-CZ-1", "EU-RO-1", "EUR-IS-1", "EUR-NO-1"),
        *("US-CA-2", "US-GA-2", "US-IL-1", "US-KS-2", "US-MD-1", "US-MO-1", "US-MO-2"),
        *("US-NC-1", "US-NC-2", "US-NE-1", "US-WA-1"),
    }
)
"""Data centres whose volumes have an S3 API."""

_FIRST, _FIRST_RATE, _RATE = 1000, 0.07, 0.05  # GB; US dollars a GB and month


def volume_per_month(size: int, tier: str) -> float | None:
    """US dollars a month for a volume of so many GB; ``None`` where no price is listed."""
    if tier != STANDARD:
        return None
    return _FIRST_RATE * min(size, _FIRST) + _RATE * max(0, size - _FIRST)
