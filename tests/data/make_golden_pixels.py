"""Write ``golden_pixels.json``: what a real ComfyUI makes of the parity cases.

    python tests/data/make_golden_pixels.py http://127.0.0.1:8188

The file in the repository was made with ComfyUI 0.33.0 on a CPU (PyTorch 2.11.0, Pillow 13.0.0);
ComfyUI 0.3.64 gives the same. ComfyUI resizes with Pillow where lanczos is chosen, and Pillow 13
rounds differently. ``golden_pixels_pillow_12.json`` has the two cases in which that shows, made
with Pillow 12.0.0 by naming them::

    python tests/data/make_golden_pixels.py http://127.0.0.1:8188 golden_pixels_pillow_12.json \\
        "scale large lanczos tall centre" "scale noise lanczos one row"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine_client import EngineClient, pixel_digest
from parity_cases import cases, input_files


def main(url: str, file: str = "golden_pixels.json", *only: str) -> None:
    engine = EngineClient(url)
    for name, content in input_files().items():
        engine.upload(name, content, overwrite="true")
    golden = {
        name: pixel_digest(engine.pictures(engine.run(prompt)))
        for name, prompt in cases().items()
        if not only or name in only
    }
    Path(__file__).with_name(file).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"{len(golden)} cases")


if __name__ == "__main__":
    main(*sys.argv[1:])
