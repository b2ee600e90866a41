"""A name for this installation: a gateway is fair between clients, also behind one address."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from ..media.files import write_whole

__all__ = ["installation_id"]

_ID = re.compile(r"[0-9a-f]{12}")


def installation_id(folder: Path) -> str | None:
    """12 hex digits, drawn the first time and stored there: they say nothing of who uses it.

    Blocking.

    Args:
        folder: The user's data folder.

    Returns:
        ``None`` if they cannot be stored.
    """
    path = folder / "installation"
    try:
        if not path.is_file():
            write_whole(path, secrets.token_hex(6).encode())
        drawn = path.read_text("ascii")  # another process may have been quicker
    except (OSError, ValueError):
        return None
    return drawn if _ID.fullmatch(drawn) else None
