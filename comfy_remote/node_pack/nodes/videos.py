"""VIDEO values and their frames, for a node that gets a film from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import InputImpl
from comfy_execution.graph import ExecutionBlocker

from ...clean import one_line
from ...jobs.output import Output
from ...units import size_text

if TYPE_CHECKING:
    import torch

__all__ = ["film_of", "frames_of", "no_film"]

_MOST_FRAME_BYTES = 4 * 1024**3
"""Of an IMAGE: 36 s of 480p, or 7 s of 1080p at 24 frames a second."""
_BYTES_PER_PIXEL = 3 * 4


def film_of(films: Sequence[Output]) -> InputImpl.VideoFromFile | None:
    """The first film as ComfyUI's VIDEO; ``None`` if there is none. Its bytes are in memory."""
    return InputImpl.VideoFromFile(io.BytesIO(films[0].bytes())) if films else None


def no_film() -> ExecutionBlocker:
    """What a VIDEO output gives without a film: whatever is linked from it says why."""
    return ExecutionBlocker("The workflow gives no video: add a Save Video node to it.")


def frames_of(film: InputImpl.VideoFromFile) -> torch.Tensor | ExecutionBlocker:
    """The frames of a film, ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB; blocking.

    Those of a long film would not fit into memory, and those of a damaged one cannot be read: then
    what is linked from the output says so.
    """
    import av

    try:
        frames, size = _frames(film)
        if size > _MOST_FRAME_BYTES:
            return ExecutionBlocker(
                f"The video has {frames} frames, {size_text(size)} as images: use the output video "
                "instead, or save fewer frames."
            )
        images: torch.Tensor | None = film.get_components().images if frames else None
    except (av.error.FFmpegError, ValueError) as error:
        why = one_line(str(getattr(error, "strerror", None) or error))
        return ExecutionBlocker(f"The frames of the video cannot be read: {why}.")
    if images is None or not len(images):
        return ExecutionBlocker("The video has no frames.")
    return images[..., :3]


def _frames(film: InputImpl.VideoFromFile) -> tuple[int, int]:
    """The number of frames, and their bytes as an IMAGE."""
    import av

    source = film.get_stream_source()
    with av.open(source, mode="r") as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            return 0, 0
        # They are counted: a file's head may say anything of them, or nothing.
        count = sum(packet.size > 0 for packet in container.demux(stream))
        size = count * stream.width * stream.height * _BYTES_PER_PIXEL
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return count, size
