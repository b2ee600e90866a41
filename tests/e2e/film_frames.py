"""What ``frames_of`` gives for films of any sort, as JSON; run by a real ComfyUI's Python."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

sys.argv[1:] = ["--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import av  # noqa: E402
import numpy  # noqa: E402
from comfy_api.latest import InputImpl  # noqa: E402

from comfy_remote.node_pack.nodes import videos  # noqa: E402


def film(form: str, codec: str, **options: Any) -> bytes:
    """Five frames of 64 x 48."""
    out = io.BytesIO()
    with av.open(out, "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = numpy.zeros((48, 64, 3), "uint8")
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def sound() -> bytes:
    """A film without pictures."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        samples = numpy.zeros((1, 1024), "float32")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def given(content: bytes) -> object:
    """The shape of the frames, or what stands there instead."""
    frames = videos.frames_of(InputImpl.VideoFromFile(io.BytesIO(content)))
    return [*frames.shape] if hasattr(frames, "shape") else frames.message


whole, live = film("mp4", "libx264"), film("webm", "vp9", live="1")
found = {
    "whole": given(whole),
    "without a length in its head": given(live),
    "without pictures": given(sound()),
    "cut off": given(whole[: len(whole) // 3]),
    "empty": given(b""),
}
videos._MOST_FRAME_BYTES = 64 * 48 * 12 * 4
found["too long"] = given(whole)
found["too long, without a length in its head"] = given(live)
print(json.dumps(found))
