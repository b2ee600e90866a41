"""From GPUs as people name them to what an endpoint takes: pools, and cards that it does not want.

Facts (RunPod's OpenAPI document): an endpoint takes whole pools, and cards are subtracted from
them. A worker runs on whichever is free; with fewer than five workers, the first pool is preferred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ConfigurationError
from ...wire.runpod_prices import RestGpu

__all__ = ["GpuChoice", "gpus_by_memory", "gpus_by_name", "gpus_of"]

_LEAST = 16  # GB: RunPod has no smaller ones for serverless workers
_MOST_POOLS = 3  # that RunPod ranks


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """What an endpoint is given.

    Attributes:
        pools: The one to be preferred first.
        excluded: Ids of the types in these pools that are not wanted.
        title: For people: ``RTX 4090 or L4``.
    """

    pools: tuple[str, ...]
    excluded: tuple[str, ...]
    title: str


def gpus_by_name(names: Sequence[str], gpus: Sequence[RestGpu]) -> GpuChoice:
    """Those of some names: of a card (``RTX 4090``), the beginning of one (``H100``), or a pool.

    Raises:
        ConfigurationError: A name means none that serverless workers can have.
    """
    offered = [one for one in gpus if one.pool is not None]
    chosen: list[RestGpu] = []
    for name in names:
        found = _called(name, offered)
        if not found:
            raise _unknown(name, gpus)
        chosen += [one for one in found if one not in chosen]
    return _choice(chosen, offered)


def gpus_by_memory(gb: int, gpus: Sequence[RestGpu]) -> GpuChoice:
    """The smallest that have so many GB: their pools, the quickest (dearest) first.

    Raises:
        ConfigurationError: No GPU has as many.
    """
    pools: dict[str, list[RestGpu]] = {}
    for one in gpus:
        if one.pool is not None and one.price.serverless is not None:
            pools.setdefault(one.pool, []).append(one)
    sizes = {pool: min(one.memory for one in there) for pool, there in pools.items()}
    enough = sorted({size for size in sizes.values() if size >= max(gb, _LEAST)})
    if not enough:
        raise ConfigurationError(
            f"RunPod offers this account no GPU with {gb} GB for serverless workers.",
            advice="Name one.",
        )
    fitting = [pool for pool, size in sizes.items() if size == enough[0]]
    fitting.sort(key=lambda pool: -max(one.price.serverless or 0 for one in pools[pool]))
    chosen = [one for pool in fitting[:_MOST_POOLS] for one in pools[pool]]
    return _choice(chosen, [one for one in gpus if one.pool is not None])


def gpus_of(
    pools: Iterable[str], excluded: Iterable[str], gpus: Iterable[RestGpu]
) -> list[RestGpu]:
    """The types that workers of an endpoint may get, in the order of its pools."""
    without = {one.strip() for one in excluded}
    there = list(gpus)
    return [
        one for pool in pools for one in there if one.pool == pool and one.id.strip() not in without
    ]


def _choice(chosen: Sequence[RestGpu], offered: Sequence[RestGpu]) -> GpuChoice:
    pools = tuple(dict.fromkeys(one.pool for one in chosen if one.pool is not None))
    wanted = {one.id for one in chosen}
    excluded = [one.id for one in offered if one.pool in pools and one.id not in wanted]
    names = list(dict.fromkeys(one.name or one.id for one in chosen))
    return GpuChoice(pools, tuple(sorted(excluded)), " or ".join(names))


def _called(name: str, offered: Sequence[RestGpu]) -> list[RestGpu]:
    words = _plain(name)
    for matches in (
        lambda one: words in (_plain(one.name), _plain(one.id)),
        lambda one: name.strip().upper() == one.pool,
        lambda one: bool(words) and f"{_plain(one.name)} ".startswith(f"{words} "),
    ):
        if found := [one for one in offered if matches(one)]:
            return found
    return []


def _plain(name: str) -> str:
    """Without the makers' words, which nobody types."""
    words = name.lower().replace("-", " ").split()
    return " ".join(word for word in words if word not in ("nvidia", "geforce", "amd"))


def _unknown(name: str, gpus: Sequence[RestGpu]) -> ConfigurationError:
    known = sorted({one.name or one.id for one in gpus if one.pool is not None})
    elsewhere = [one for one in gpus if _plain(name) in (_plain(one.name), _plain(one.id))]
    said = (
        f"RunPod has {elsewhere[0].name} for pods only, and not for serverless workers."
        if elsewhere
        else f"RunPod has no GPU {name!r} for serverless workers."
    )
    return ConfigurationError(said, advice=f"It has {', '.join(known) or 'none at all'}.")
