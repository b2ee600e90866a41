"""Folders of batches as a driver leaves them, for the tests of the sheet."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

__all__ = ["PROMPT", "BatchFolder", "JsonDict"]

JsonDict = dict[str, object]
PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "cfg": 8.0, "model": ["4", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}, "_meta": {"title": "Save"}},
}


class BatchFolder:
    """A batch's folder: all combinations of the axes are its rows, the last changing fastest.

    Args:
        axes: Name and values of each.
        described: What else ``batch.json`` says.
    """

    def __init__(
        self, path: Path, axes: dict[str, Sequence[object]] | None = None, **described: object
    ) -> None:
        self.path = path
        self.axes = axes or {"KSampler.seed": [1, 2], "prompt": ["a cat", "a dog"]}
        self.rows = [
            dict(zip(self.axes, values, strict=True))
            for values in itertools.product(*self.axes.values())
        ]
        path.mkdir(exist_ok=True)
        self.described: JsonDict = {
            "version": 1,
            "id": "0f3c2b1a-5d3e-4b0a-9a39-3d0e8a6f0001",
            "name": "cats",
            "workflow": "portrait.json",
            "target": "runpod:abc",
            "created": "2026-11-30T22:00:00Z",
            "count": len(self.rows),
            "axes": [
                {"names": [name], "count": len(values), "values": [[one] for one in values]}
                for name, values in self.axes.items()
            ],
            "prompt": PROMPT,
            "sets": {"KSampler.seed": [["3", "seed"]], "prompt": [["6", "text"]]},
            "command": ["comfy-remote", "run", "portrait.json", "--on", "runpod:abc"],
            **described,
        }
        (path / "batch.json").write_text(json.dumps(self.described))

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    def output(self, file: str, content: bytes | None = None, **said: object) -> JsonDict:
        """An output, written where it belongs; a picture of a size without ``content``."""
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            colour = hashlib.sha256(file.encode()).digest()
            Image.new("RGB", (60, 40), (colour[0], colour[1], colour[2])).save(path)
            content = path.read_bytes()
        path.write_bytes(content)
        return {
            "file": file,
            "node": "9",
            "kind": "image",
            "media_type": "image/png",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **said,
        }

    def line(self, row: int, **said: object) -> JsonDict:
        """A line of the manifest: the row has succeeded, unless it is said otherwise."""
        return {
            "row": row,
            "run": f"{row:04}",
            "state": "succeeded",
            "attempt": 1,
            "values": self.rows[row] if row < len(self.rows) else {},
            "seed": None,
            "target": "runpod:abc",
            "job": f"job-{row}",
            "started": "2026-11-30T22:00:00Z",
            "ended": "2026-11-30T22:00:12Z",
            "seconds": 12.5,
            "cost": 0.0012,
            "outputs": [],
            "problems": [],
            "error": None,
            **said,
        }

    def add(self, *lines: JsonDict) -> None:
        """Append to the manifest."""
        with self.manifest.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def run_all(self) -> None:
        """All rows have made a picture."""
        self.add(
            *(
                self.line(row, outputs=[self.output(f"{row:04}/p{'x' * row}.png")])
                for row in range(len(self.rows))
            )
        )
