"""What works, and could cost less."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from ...units import size_text
from ..graph import consumers, linked_node
from ..models import model_uses
from ..output_nodes import OUTPUT_NODES
from ..prompt import Node, Prompt
from .report import Advice
from .sizes import SAVERS, Pictures

__all__ = ["advise"]

# Fewer pictures are looked at one by one.
_MANY_FRAMES = 16
_RESIZERS = {
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageScaleToMaxDimension": "image",
}
# Files that patch a model: reading one twice is no waste if it patches two models.
_PATCHES = frozenset({"loras", "embeddings", "hypernetworks"})
# Nodes that read the same things from a file. Others may each read another part of it.
_CHECKPOINTS = ("CheckpointLoader", "CheckpointLoaderSimple", "unCLIPCheckpointLoader")


def advise(
    prompt: Prompt, live: Sequence[str], outputs: Sequence[str], sizes: Mapping[str, Pictures]
) -> Iterator[Advice]:
    """All advice for a prompt, by its nodes that run, its outputs, and the known picture sizes."""
    yield from _unused(prompt, live)
    yield from _previews(prompt, live, outputs, sizes)
    yield from _models(prompt, live)
    yield from _frames(prompt, live, sizes)
    yield from _resizes(prompt, live, sizes)


def _unused(prompt: Prompt, live: Sequence[str]) -> Iterator[Advice]:
    runs = set(live)
    unused = [node_id for node_id in prompt if node_id not in runs]
    if unused and live:
        named = ", ".join(f"{n} ({prompt[n]['class_type']})" for n in unused[:8])
        more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
        size = len(json.dumps({n: prompt[n] for n in unused}))
        yield Advice(
            "unused_nodes",
            f"Nodes that feed no output: {named}{more}. ComfyUI does not run them.",
            f"{size_text(size)} of each request, and a refusal where the target lacks one of "
            "their classes; no GPU time.",
            tuple(unused),
        )


def _previews(
    prompt: Prompt, live: Sequence[str], outputs: Sequence[str], sizes: Mapping[str, Pictures]
) -> Iterator[Advice]:
    previews = {n for n in outputs if _is_preview(prompt[n])}
    if len(previews) == len(outputs):
        return  # The preview is what the workflow is for.
    users = consumers(prompt, live)
    for node_id in live:
        if not prompt[node_id]["class_type"].startswith("VAEDecode"):
            continue
        fed = {user for user, _, _ in users.get(node_id, ())}
        if fed and fed <= previews:
            of = f" of {sizes[node_id]}" if node_id in sizes else ""
            yield Advice(
                "preview_costs_decode",
                f"Node {node_id} ({prompt[node_id]['class_type']}) decodes only for the preview in "
                f"node {', '.join(sorted(fed))}.",
                f"One VAE decode{of}, and sending the preview back.",
                (node_id, *sorted(fed)),
            )


def _is_preview(node: Node) -> bool:
    known = OUTPUT_NODES.get(node["class_type"])
    return known is not None and known.preview


def _models(prompt: Prompt, live: Sequence[str]) -> Iterator[Advice]:
    loaders: dict[tuple[str, str, str], dict[str, str]] = {}
    for use in model_uses({node_id: prompt[node_id] for node_id in live}):
        if use.folder is not None and use.folder not in _PATCHES:
            node = prompt[use.node_id]
            # ComfyUI runs nodes that are alike only once, so these cost nothing.
            alike = json.dumps([node["class_type"], node["inputs"]], sort_keys=True)
            kind = "" if node["class_type"] in _CHECKPOINTS else node["class_type"]
            loaders.setdefault((kind, use.folder, use.name), {}).setdefault(alike, use.node_id)
    for (_, folder, name), nodes in loaders.items():
        if len(nodes) > 1:
            ids = tuple(nodes.values())
            named = ", ".join(f"{n} ({prompt[n]['class_type']})" for n in ids)
            times = len(ids) - 1
            yield Advice(
                "model_loaded_twice",
                f"{name} ({folder}) is loaded by {len(ids)} nodes: {named}.",
                f"Reading the file {times} more time{'s' * (times > 1)}, and the memory of "
                f"{times} more cop{'ies' if times > 1 else 'y'}, if one node does.",
                ids,
            )


def _frames(prompt: Prompt, live: Sequence[str], sizes: Mapping[str, Pictures]) -> Iterator[Advice]:
    video = SAVERS["SaveVideo"]
    for node_id in live:
        class_type, size = prompt[node_id]["class_type"], sizes.get(node_id)
        if class_type not in ("SaveImage", "PreviewImage") or size is None:
            continue
        if size.count < (2 if size.frames else _MANY_FRAMES):
            continue
        yield Advice(
            "frames_as_pictures",
            f"Node {node_id} ({class_type}) saves {size} as PNG files.",
            f"Create Video and Save Video would make one file of about "
            f"{size_text(size.pixels * video.typical)} instead of {size.count} of together "
            f"{size_text(size.pixels * SAVERS[class_type].typical)}.",
            (node_id,),
        )


def _resizes(
    prompt: Prompt, live: Sequence[str], sizes: Mapping[str, Pictures]
) -> Iterator[Advice]:
    users = consumers(prompt, live)
    for node_id in live:
        node = prompt[node_id]
        if node["class_type"] not in _RESIZERS:
            continue
        ends = {user for user, _, _ in users.get(node_id, ())}
        if not ends or any(prompt[end]["class_type"] not in SAVERS for end in ends):
            continue
        source = linked_node(prompt, node["inputs"].get(_RESIZERS[node["class_type"]]))
        before = sizes.get(source[0]) if source is not None else None
        after = sizes.get(node_id)
        factor = node["inputs"].get("scale_by")
        if before is not None and after is not None:
            if after.pixels <= before.pixels:
                continue
            kind = SAVERS[prompt[min(ends)]["class_type"]]
            saves = (
                f"About {size_text((after.pixels - before.pixels) * kind.typical)} of the "
                f"{size_text(after.pixels * kind.typical)} that come back: {before} instead of "
                f"{after}."
            )
        elif isinstance(factor, int | float) and factor > 1:
            saves = f"{1 - 1 / factor**2:.0%} of the pixels that come back."
        else:
            continue
        yield Advice(
            "resize_could_run_here",
            f"Node {node_id} ({node['class_type']}) enlarges by plain resizing just before saving. "
            "That needs no GPU: save first, and resize here.",
            saves,
            (node_id, *sorted(ends)),
        )
