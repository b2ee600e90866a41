"""``python -m comfy_remote``: the same as ``comfy-remote``."""

from __future__ import annotations

from .cli.process import comfy_remote

if __name__ == "__main__":
    comfy_remote()
