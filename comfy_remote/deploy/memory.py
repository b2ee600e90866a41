"""How much memory the GPU of a workflow needs, by the models that it names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..units import size_text
from ..workflow.models import model_uses
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

__all__ = ["LARGE", "MEDIUM", "SMALL", "GpuMemory", "memory_for", "memory_for_models"]

SMALL, MEDIUM, LARGE = 24, 48, 80
"""GB of the GPUs that are told apart."""

_LARGE_MODEL = 14.0  # billions of weights: 28 GB in 16 bits
_BILLIONS = re.compile(r"(?<![0-9.])(\d{1,3}(?:\.\d)?)b(?![a-z0-9])", re.IGNORECASE)
_SMALL_WEIGHTS = re.compile(r"fp8|f8|int8|fp4|nf4|int4|q[2-8]_|q[2-8]\b|gguf", re.IGNORECASE)
_OF_PARTS = frozenset({"diffusion_models", "text_encoders"})


class GpuMemory(NamedTuple):
    """GB (0 for a workflow that needs no GPU), and why, for people: ``it loads sd.safetensors``."""

    gb: int
    why: str


def memory_for(prompt: Prompt, schemas: Schemas) -> GpuMemory:
    """Memory that is enough for a workflow, by the names of its models.

    A checkpoint has 2 to 7 GB and runs in 24 GB. Models that come in parts (a diffusion model and
    its text encoders: Flux, Qwen, Wan, …) have 12 to 40 GB and run in 48 GB. From 14 billion
    weights of 16 bits on, it is 80 GB.
    """
    uses = list(model_uses(prompt))
    strange = [
        node["class_type"]
        for node in prompt.values()
        if node["class_type"] not in schemas.bundled()
    ]
    if not uses and not strange:
        return GpuMemory(0, "it loads no models")
    for use in uses:
        sizes = [float(size) for size in _BILLIONS.findall(use.name)]
        if max(sizes, default=0.0) >= _LARGE_MODEL and not _SMALL_WEIGHTS.search(use.name):
            return GpuMemory(LARGE, f"it loads {use.name}")
    parts = [use for use in uses if use.folder in _OF_PARTS]
    if parts:
        return GpuMemory(MEDIUM, f"it loads {parts[0].name}")
    return GpuMemory(SMALL, f"it loads {uses[0].name}" if uses else f"it has {strange[0]} nodes")


def memory_for_models(sizes: Iterable[int], largest: str = "") -> GpuMemory | None:
    """Memory that holds the largest of some models, and as much again as half of it to work in.

    Args:
        sizes: Bytes.
        largest: Its name, for people.

    Returns:
        ``None`` if no size is known. More than 80 GB is not asked for: ComfyUI moves parts of such
        models in and out.
    """
    most = max(sizes, default=0)
    if not most:
        return None
    need = 1.5 * most / 1e9
    gb = next((size for size in (SMALL, MEDIUM) if need <= size), LARGE)
    return GpuMemory(gb, f"{largest or 'the largest model'} has {size_text(most)}")
