"""How many pictures of what size reach a node, and how many bytes a file of them has.

Only what follows from the graph: sizes are followed from the nodes that make a latent or a picture
from nothing, through those that keep or change them in a known way. Any other node ends the trail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..change.sources import Sources
from ..graph import linked_node
from ..output_nodes import OUTPUT_NODES, FileSize
from ..prompt import Prompt
from ..schema import Schemas

__all__ = ["SAVERS", "Pictures", "picture_sizes"]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Some pictures, or frames, or the latents of them.

    Attributes:
        count: How many, all batches counted.
        sampled: Whether a model makes them: then they have detail that does not compress away.
        frames: Whether they are the frames of a video.
    """

    count: int
    width: int
    height: int
    sampled: bool = False
    frames: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of all pictures together."""
        return self.count * self.width * self.height

    def __str__(self) -> str:
        word = "frame" if self.frames else "picture"
        return f"{self.count} {word}{'s' * (self.count > 1)} of {self.width}x{self.height}"


SAVERS: Mapping[str, FileSize] = {
    name: node.size for name, node in OUTPUT_NODES.items() if node.size is not None
}
"""The nodes whose files can be estimated."""

# Nodes that give as many pictures of the same size as they take from this input.
_KEEPS = {
    "CreateVideo": "images",
    "ImageBlend": "image1",
    "ImageInvert": "image",
    "ImageSharpen": "image",
    "ImageBlur": "image",
    "KSampler": "latent_image",
    "KSamplerAdvanced": "latent_image",
    "SamplerCustom": "latent_image",
    "SamplerCustomAdvanced": "latent_image",
    "SetLatentNoiseMask": "samples",
    "VAEDecode": "samples",
    "VAEDecodeTiled": "samples",
    "VAEEncode": "pixels",
    "VAEEncodeTiled": "pixels",
}
_SCALES_BY = {"ImageScaleBy": "image", "LatentUpscaleBy": "samples"}
_SCALES_TO = {"ImageScale": "image", "LatentUpscale": "samples"}
_REPEATS = {"RepeatImageBatch": "image", "RepeatLatentBatch": "samples"}
_PICKS = {"ImageFromBatch": "image", "LatentFromBatch": "samples"}
_LARGEST = 2**40  # pixels; what is above is a mistake, and no size


def picture_sizes(
    prompt: Prompt,
    ordered: Sequence[str],
    schemas: Schemas,
    loaded: Mapping[str, Pictures] | None = None,
) -> dict[str, Pictures]:
    """What each node gives, as far as it can be known.

    Args:
        prompt: Without cycles.
        ordered: The nodes to look at, each after those it is linked to.
        loaded: What is known of files that nodes load.
    """
    found: dict[str, Pictures] = dict(loaded or {})
    sources = Sources(prompt)
    for node_id in ordered:
        if node_id in found:
            continue
        given = _given(prompt, sources, node_id, schemas, found)
        if given is not None and 0 < given.pixels < _LARGEST:
            found[node_id] = given
    return found


def _given(
    prompt: Prompt,
    sources: Sources,
    node_id: str,
    schemas: Schemas,
    found: Mapping[str, Pictures],
) -> Pictures | None:
    node = prompt[node_id]
    kind = node["class_type"]

    def taken(table: Mapping[str, str]) -> Pictures | None:
        link = linked_node(prompt, node["inputs"].get(table[kind]))
        return found.get(link[0]) if link is not None else None

    def number(name: str) -> float | None:
        return _number(sources, node_id, name)

    if kind in _KEEPS:
        return taken(_KEEPS)
    if kind in _SCALES_BY:
        before, factor = taken(_SCALES_BY), number("scale_by")
        if before is None or factor is None:
            return None
        sides = (round(before.width * factor), round(before.height * factor))
        return replace(before, width=sides[0], height=sides[1])
    if kind in _SCALES_TO:
        before, width, height = taken(_SCALES_TO), number("width"), number("height")
        if before is None or width is None or height is None:
            return None
        return _scaled_to(before, int(width), int(height))
    if kind in _REPEATS:
        before, amount = taken(_REPEATS), number("amount")
        return None if before is None or amount is None else _times(before, amount)
    if kind in _PICKS:
        before, length = taken(_PICKS), number("length")
        if before is None or length is None:
            return None
        return replace(before, count=min(before.count, max(1, int(length))))
    if kind == "ImageBatch":
        parts = [linked_node(prompt, node["inputs"].get(name)) for name in ("image1", "image2")]
        sizes = [found.get(link[0]) if link else None for link in parts]
        if sizes[0] is None or sizes[1] is None:
            return None
        return replace(sizes[0], count=sizes[0].count + sizes[1].count)
    return _made(prompt, sources, node_id, schemas)


def _made(prompt: Prompt, sources: Sources, node_id: str, schemas: Schemas) -> Pictures | None:
    """Of a node that makes pictures or latents of a size of its own."""
    node = prompt[node_id]
    schema = schemas.get(node["class_type"])
    latent = schema is not None and "LATENT" in schema.outputs
    if not latent and node["class_type"] != "EmptyImage":
        return None
    width, height = (_number(sources, node_id, name) for name in ("width", "height"))
    if width is None or height is None:
        return None
    count, length = (
        _number(sources, node_id, name) if name in node["inputs"] else 1
        for name in ("batch_size", "length")
    )
    if count is None or length is None:
        return None
    made = Pictures(1, int(width), int(height), latent, length > 1)
    return _times(made, count * length)


def _number(sources: Sources, node_id: str, name: str) -> float | None:
    """An input's number, through primitives."""
    value = sources.number_at((node_id, name))
    return value if value is not None and abs(value) < _LARGEST else None


def _scaled_to(before: Pictures, width: int, height: int) -> Pictures:
    """Where one side is 0, it follows from the other."""
    if width <= 0 and height <= 0:
        return before
    if width <= 0:
        width = max(1, round(before.width * height / before.height))
    elif height <= 0:
        height = max(1, round(before.height * width / before.width))
    return replace(before, width=width, height=height)


def _times(before: Pictures, factor: float) -> Pictures:
    return replace(before, count=before.count * max(1, int(factor)))
