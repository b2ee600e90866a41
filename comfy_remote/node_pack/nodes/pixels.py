"""IMAGE tensors, treated the same whether the workflow ran here or elsewhere.

Pictures travel as PNG files, with 8 bits a channel. So that Local gives the very pixels that
RunPod gives, it rounds where the files would have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["as_loaded", "as_saved", "joined", "write_pictures"]

_log = logging.getLogger(__name__)
_NO_MASK = (1, 64, 64)
"""The shape of the MASK that Load Image gives for a picture without transparency."""


def as_saved(images: torch.Tensor) -> torch.Tensor:
    """What comes back when pictures are saved as PNG and loaded again.

    Args:
        images: IMAGE ``[B, H, W, C]`` with 1, 3 or 4 channels, or MASK ``[B, H, W]``.

    Returns:
        ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB, on the CPU.
    """
    colours = images.unsqueeze(-1) if images.dim() == 3 else images
    if colours.shape[-1] < 3:
        colours = colours[..., :1].expand(*colours.shape[:-1], 3)
    return _from_bytes(_to_bytes(colours[..., :3]))


def as_loaded(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What Load Image gives for one picture that was saved as PNG.

    Args:
        image: ``[H, W, C]``.

    Returns:
        IMAGE ``[1, H, W, 3]`` and MASK ``[1, H, W]`` (1 where it is transparent), or zeros
        ``[1, 64, 64]`` if the picture has no transparency.
    """
    import torch

    picture = as_saved(image.unsqueeze(0))
    if image.shape[-1] != 4:
        return picture, torch.zeros(_NO_MASK)
    return picture, 1.0 - _from_bytes(_to_bytes(image[..., 3])).unsqueeze(0)


def joined(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """One batch of several (at least one).

    Pictures of another size than the first are scaled and cropped to it as ComfyUI's Batch
    Images does (bilinear, centre), and the log says so.
    """
    import torch

    first = batches[0]
    height, width = first.shape[1:3]
    fitting = [first]
    for batch in batches[1:]:
        if batch.shape[1:3] != first.shape[1:3]:
            from comfy.utils import common_upscale

            _log.warning(
                "Comfy Remote: a picture of %d x %d is scaled to the first one's %d x %d.",
                *(batch.shape[2], batch.shape[1], width, height),
            )
            moved = batch.movedim(-1, 1)
            batch = common_upscale(moved, width, height, "bilinear", "center").movedim(1, -1)
        fitting.append(batch)
    return torch.cat(fitting, dim=0) if len(fitting) > 1 else first


def write_pictures(images: torch.Tensor, folder: Path) -> list[Path]:
    """Write each picture of a batch as ``input_0.png``, ``input_1.png``, …; blocking.

    Args:
        images: IMAGE ``[B, H, W, C]`` with 1, 3 or 4 channels.
    """
    from PIL import Image

    paths = []
    for number, image in enumerate(images):
        grey = image.shape[-1] == 1
        pixels = _to_bytes(image[..., 0] if grey else image)
        path = folder / f"input_{number}.png"
        Image.fromarray(pixels.numpy()).save(path, compress_level=4)
        paths.append(path)
    return paths


def _to_bytes(values: torch.Tensor) -> torch.Tensor:
    """As Save Image does: times 255, cut off."""
    import torch

    return (values.detach().cpu().float() * 255.0).clamp(0, 255).to(torch.uint8)


def _from_bytes(values: torch.Tensor) -> torch.Tensor:
    """As Load Image does."""
    return values.float() / 255.0
