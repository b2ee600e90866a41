"""What the owner's configuration says of the cache of results."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..data_class import dataclass

__all__ = ["CACHE_MODES", "CacheMode", "CacheSettings"]

CacheMode: TypeAlias = Literal["use", "refresh", "off"]
"""``use``: take a stored result, and store new ones. ``refresh``: only store. ``off``: neither."""

CACHE_MODES: tuple[CacheMode, ...] = ("use", "refresh", "off")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How results are cached.

    Attributes:
        mode: Where nothing else is said; batches use the cache anyway.
        packs: Node packs that the owner vouches for, by their folders in ``custom_nodes``: the same
            inputs give the same outputs, and nothing else in ComfyUI is changed.
        max_bytes: Bytes that stored files may have together.
        max_days: Days after which a result that nobody has used is removed.
    """

    mode: CacheMode = "off"
    packs: tuple[str, ...] = ()
    max_bytes: int = 5 * 10**9
    max_days: float = 30.0
