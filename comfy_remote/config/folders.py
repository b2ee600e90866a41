"""Where settings and data are: the owner's folders, and those at and above the current one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "CONFIG_NAME",
    "CONFIG_VARIABLE",
    "ENV_NAME",
    "home",
    "is_owners",
    "nearest",
    "owner_folders",
]

CONFIG_NAME = "comfy-remote.toml"
ENV_NAME = ".env"
CONFIG_VARIABLE = "COMFY_REMOTE_CONFIG"
"""Names the file of ``--config``, for all that this process starts, too."""


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the record and other data are: ``COMFY_REMOTE_HOME``, else the user's data folder."""
    if chosen := environment.get("COMFY_REMOTE_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("comfy-remote", appauthor=False)


def shared_values() -> Path:
    """Where this user's programs pass each other values: see `media.shared_values`."""
    return home() / "values"


def owner_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders whose files are the owner's own words, the first one first.

    The user's data and configuration folders; and, for a pack in ``custom_nodes``, ComfyUI's
    folder and the pack's own: whoever can write there can run code here anyway.
    """
    import platformdirs

    return [
        home(environment),
        platformdirs.user_config_path("comfy-remote", appauthor=False),
        *_installation(),
    ]


def is_owners(path: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a file lies in one of the `owner_folders` itself; below them is not enough."""
    parent = _real(path.parent)
    return any(_real(folder) == parent for folder in owner_folders(environment))


def nearest(name: str, start: Path | None = None) -> Path | None:
    """The file of that name in a folder, or in the nearest folder above it; ``None`` if none.

    Args:
        start: The current folder by default. One that was deleted has no file.
    """
    try:
        start = (start or Path.cwd()).absolute()
    except FileNotFoundError:
        return None
    above = (folder / name for folder in (start, *start.parents))
    return next((path for path in above if path.is_file()), None)


def _installation() -> list[Path]:
    pack = Path(__file__).absolute().parents[2]
    return [pack.parent.parent, pack] if pack.parent.name == "custom_nodes" else []


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))
