"""The owner's own configuration, which needs no yes."""

from __future__ import annotations

from pathlib import Path

from comfy_remote.config.trust import TrustStore


def configure(home: Path, text: str) -> Path:
    """Write ``comfy-remote.toml`` into the folder that ``COMFY_REMOTE_HOME`` names."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "comfy-remote.toml"
    path.write_text(text, encoding="utf-8")
    return path


def confirm(home: Path, *urls: str) -> None:
    """Say yes to addresses, as somebody does in ComfyUI's page."""
    store = TrustStore(home)
    for url in urls:
        store.confirm_address(url)
