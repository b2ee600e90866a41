"""A server with a page: the sandbox with ComfyUI's frontend, or a real ComfyUI."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from pack import PackServer, comfyui_with_pack, sandbox_with_pack

__all__ = ["PackServer", "start_server"]

ROOT = Path(__file__).resolve().parents[2]

# No tour, and no browser of templates over the graph.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.27.10"}


@contextmanager
def start_server(kind: str, base: Path, port: int | None = None) -> Iterator[PackServer]:
    """A server with the pack and a page."""
    folder = base if kind == "comfyui" else base / "sandbox"
    user = folder / "user" / "default"
    user.mkdir(parents=True, exist_ok=True)
    (user / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    (folder / "input").mkdir(exist_ok=True)
    shutil.copy2(ROOT / "comfy_remote" / "examples" / "input" / "lighthouse.png", folder / "input")
    if kind == "sandbox":
        frontend = os.environ.get("COMFYUI_FRONTEND", "installed")
        with sandbox_with_pack(base, port=port or 0, frontend=frontend) as server:
            yield server
        return
    with comfyui_with_pack(base, port=port) as server:
        yield server
