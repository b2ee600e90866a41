"""Credentials from a ``.env`` file, for those who do not set environment variables.

Read at the edges only: by the command and by the node pack. What the environment has already is
never changed, and nothing but credentials is taken: a ``.env`` is often written for other
programs, too, and one in somebody else's project must not decide where a key is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["load_env_files", "nearest_folder", "pack_folders"]

_NAME = ".env"
_CREDENTIALS = (
    "RUNPOD_API_KEY",
    "RUNPOD_ENDPOINT_ID",
    "MODAL_PROXY_TOKEN_ID",
    "MODAL_PROXY_TOKEN_SECRET",
)


def load_env_files(
    folders: Iterable[Path], environment: MutableMapping[str, str] = os.environ
) -> list[Path]:
    """Take the credentials that are not set yet from the ``.env`` files in some folders.

    These are ``RUNPOD_API_KEY``, ``RUNPOD_ENDPOINT_ID``, ``MODAL_PROXY_TOKEN_ID`` and
    ``…_SECRET``, and the variables that targets in ``comfy-remote.toml`` name for their keys,
    passwords and headers.

    Args:
        folders: Where to look; the first to have a variable counts.
        environment: Is added to.

    Returns:
        The files that something was taken from.

    Raises:
        ConfigurationError: One cannot be read.
    """
    used: list[Path] = []
    for path in dict.fromkeys(folder / _NAME for folder in folders):
        if not path.is_file():
            continue
        found = _read(path)
        taken = {name: value for name in _wanted() if (value := found.get(name))}
        new = {name: value for name, value in taken.items() if name not in environment}
        if new:
            environment.update(new)
            used.append(path)
    return used


def nearest_folder(start: Path) -> list[Path]:
    """The folder with a ``.env``: the one to start from, or the nearest above it; or none."""
    near = (folder for folder in (start, *start.parents) if (folder / _NAME).is_file())
    return [folder for folder in [next(near, None)] if folder is not None]


def pack_folders() -> list[Path]:
    """Where a user of the node pack may put it: the pack's folder, and ComfyUI's.

    That is the folder that holds ``custom_nodes``, and the one that ComfyUI was started in.
    """
    pack = Path(__file__).absolute().parents[2]
    installed = pack.parent.name == "custom_nodes"
    return [*([pack, pack.parent.parent] if installed else []), Path.cwd()]


def _wanted() -> list[str]:
    # Here, since most users have no such file, and not every command needs an HTTP stack.
    from .config import Configuration

    try:
        targets = Configuration.load().targets.values()
    except ConfigurationError:
        return [*_CREDENTIALS]  # whoever needs the configuration says what is wrong with it
    return [*_CREDENTIALS, *(name for target in targets for name in target.secret_variables)]


def _read(path: Path) -> dict[str, str | None]:
    from dotenv import dotenv_values

    try:
        # What stands there is meant as it is: a key may have a $ in it.
        return dict(dotenv_values(path, interpolate=False, encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"{path} cannot be read: {why}.", advice="Mend the file, or remove it."
        ) from error
