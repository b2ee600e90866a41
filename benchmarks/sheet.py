"""The sheet of a batch of 1,000 pictures of 1024 x 1024: made, made again, and one that is new."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import size
from PIL import Image

from comfy_remote.batch.sheet import make_sheet

_COUNT = size(1000, 6)
_EDGE = size(1024, 64)
_DIFFERENT = size(20, 2)
_LEFT_OUT = 1  # comes last


def bench_sheet() -> None:
    """Milliseconds a picture, peak memory; and seconds of the two that follow."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lines = _batch(folder)
        manifest = folder / "manifest.jsonl"
        manifest.write_text("".join(lines[:-_LEFT_OUT]))
        decoded = _seconds(lambda: _decode(folder))
        before, busy = _peak(), time.process_time()
        first = _seconds(lambda: make_sheet(folder))
        grown, busy = _peak() - before, time.process_time() - busy
        again = _seconds(lambda: make_sheet(folder))
        manifest.write_text("".join(lines))
        one_more = _seconds(lambda: make_sheet(folder))
        megabytes = (folder / "sheet.html").stat().st_size / 1e6
    count = _COUNT - _LEFT_OUT
    print(
        f"sheet of {count} pictures of {_EDGE} x {_EDGE}: {first / count * 1000:.1f} ms a picture, "
        f"{busy / count * 1000:.1f} ms of processor time; "
        f"decoding alone, one after the other, {decoded / count * 1000:.1f} ms; peak memory "
        f"+{grown:.0f} MB; sheet.html {megabytes:.1f} MB; again {again:.2f} s; with one more "
        f"{one_more:.2f} s"
    )


def _batch(folder: Path) -> list[str]:
    """Pictures with as much in them as a photograph, and the manifest's lines of their runs."""
    random = np.random.default_rng(1)
    slope = np.linspace(0, 200, _EDGE, dtype=np.int16)
    smooth = slope[:, None, None] // (2, 1, 2) + slope[None, :, None] // (2, 5, 3)
    smooth = smooth.astype(np.int16)
    different = []
    for _ in range(_DIFFERENT):
        noise = random.integers(-6, 7, (_EDGE, _EDGE, 3), dtype=np.int16)
        noise += random.integers(0, 40, 3, dtype=np.int16) + smooth
        pixels = np.clip(noise, 0, 255).astype(np.uint8)
        made = io.BytesIO()
        Image.fromarray(pixels).save(made, "PNG", compress_level=4)
        different.append(made.getvalue())
    lines = []
    for row in range(_COUNT):
        path = folder / f"{row}.png"
        # What follows a picture's end makes it another file.
        content = different[row % _DIFFERENT] + row.to_bytes(4, "big")
        path.write_bytes(content)
        output = {
            "file": path.name,
            "node": "9",
            "kind": "image",
            "media_type": "image/png",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        values = {"prompt": f"prompt {row // 50}", "KSampler.seed": row % 50}
        line = {"row": row, "state": "succeeded", "values": values, "outputs": [output]}
        lines.append(json.dumps(line) + "\n")
    axes = [
        {"names": ["prompt"], "count": 20, "values": [[f"prompt {n}"] for n in range(20)]},
        {"names": ["KSampler.seed"], "count": 50, "values": [[n] for n in range(50)]},
    ]
    described = {"version": 1, "id": "bench", "name": "bench", "count": 1000, "axes": axes}
    (folder / "batch.json").write_text(json.dumps(described))
    return lines


def _decode(folder: Path) -> None:
    for row in range(_COUNT - _LEFT_OUT):
        with Image.open(folder / f"{row}.png") as picture:
            picture.load()


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _peak() -> float:
    """Megabytes that the process has had at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)
