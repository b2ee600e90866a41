"""Keys that a person gives to a command or the page, stored in the system's key ring or a file.

The file is the ``.env`` in the owner's data folder, which only the owner can read. Nothing gives a
key back: it is read by its variable, as any other (`secrets.secret`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError
from ..media.files import storage_errors, write_whole
from ..media.owner_only import owner_only
from ..secrets import KEY_RING_SERVICE, SECRETS
from ..text_file import NotText, text_of
from .environment import read_env_file
from .folders import ENV_NAME, home
from .one_writer import one_writer

__all__ = [
    "check_not_set_elsewhere",
    "forget_secret",
    "is_variable_of_a_server",
    "store_secret",
    "variable_of_server",
]

_OF_A_SERVER = "COMFY_REMOTE_KEY_"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LONGEST = 8192
_PATIENCE = 10.0
"""Seconds for a key ring, which may ask a person to unlock it."""


def variable_of_server(origin: str, part: str = "") -> str:
    """The variable for a server's key: no other server's has that name.

    Whoever changes a target's address therefore changes the variable, and the key that was stored
    for the old address goes nowhere else.

    Args:
        origin: As `trust.origin_of` gives it.
        part: Which of several, where the server takes more than one.

    >>> variable_of_server("https://box.local:8000")
    'COMFY_REMOTE_KEY_BOX_LOCAL_8000_286208BD'
    """
    words = re.sub(r"[^A-Za-z0-9]+", "_", origin.partition("://")[2]).strip("_").upper()[:60]
    digest = hashlib.sha256(origin.encode()).hexdigest()[:8].upper()
    return f"{_OF_A_SERVER}{words}_{digest}{part and '_'}{part}"


def is_variable_of_a_server(name: str) -> bool:
    """Whether `variable_of_server` made it."""
    return name.startswith(_OF_A_SERVER)


def check_not_set_elsewhere(name: str, value: str) -> None:
    """See that a key would count once it is stored: what the environment sets comes before it.

    Raises:
        ConfigurationError: The environment sets another value.
    """
    there = os.environ.get(name, "").strip()
    path = home() / ENV_NAME
    if there in ("", value) or (path.is_file() and there == read_env_file(path).get(name)):
        return
    raise ConfigurationError(
        f"The environment sets {name} to another value, and that counts.",
        advice="Change it there, or remove it there and start this program again. Leave the key "
        "out to use the one that is set.",
    )


def store_secret(
    name: str, value: str, environment: Mapping[str, str] = os.environ, *, ring: bool = True
) -> str:
    """Store a key under the name of its variable. Blocking.

    Args:
        ring: Whether the key ring may be used, if there is one.

    Returns:
        Where it is, for people: ``the key ring``, or the file's path.

    Raises:
        ConfigurationError: The name or the key cannot be used.
        LocalStorageError: It cannot be written.
    """
    value = value.strip()
    if not _VARIABLE.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not the name of a variable.",
            advice="Use letters, digits and '_', not beginning with a digit.",
        )
    if not value or len(value) > _LONGEST or not value.isprintable():
        raise ConfigurationError(
            f"What was given for {name} is not a key: it is empty, too long, or has characters "
            "that cannot be typed.",
            advice="Copy it again.",
        )
    SECRETS.add(name, value)
    if ring and _into_ring(name, value):
        _change_file(name, None, environment)  # one that was there before would hide it
        return "the key ring"
    return str(_change_file(name, value, environment))


def forget_secret(name: str, environment: Mapping[str, str] = os.environ) -> None:
    """Remove a stored key. Blocking.

    Raises:
        LocalStorageError: The file cannot be written.
    """
    _into_ring(name, None)
    _change_file(name, None, environment)


def _into_ring(name: str, value: str | None) -> bool:
    """Set or remove it; whether there is a key ring, and it did."""
    from importlib.util import find_spec

    if find_spec("keyring") is None:
        return False
    done: list[bool] = []
    # A thread of its own, which is left behind if a person does not unlock the ring.
    thread = threading.Thread(
        target=_ask_ring, args=(name, value, done), name="key-ring", daemon=True
    )
    thread.start()
    thread.join(_PATIENCE)
    return bool(done)


def _ask_ring(name: str, value: str | None, done: list[bool]) -> None:
    try:
        import keyring

        if value is None:
            keyring.delete_password(KEY_RING_SERVICE, name)
        else:
            keyring.set_password(KEY_RING_SERVICE, name, value)
    except Exception:  # noqa: BLE001  a backend is others' code: it raises more than its errors
        return  # there is none, or it is locked
    done.append(True)


def _change_file(name: str, value: str | None, environment: Mapping[str, str]) -> Path:
    """Set or remove one variable of the owner's ``.env``; the others stay as they are."""
    path = home(environment) / ENV_NAME
    with one_writer(environment), storage_errors(path):
        there = _text_in(path)
        text = _without(name, there)
        if value is not None:
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            between = "\n" if text and not text.endswith("\n") else ""
            text = f"{text}{between}{name}='{quoted}'\n"
        if text != there:
            # A link stays one: what it leads to is written.
            content = text.encode("utf-8", "surrogateescape")
            written = Path(os.path.realpath(path))
            write_whole(written, content, durable=True)
            owner_only(written, environment)
    return path


def _text_in(path: Path) -> str:
    """The file's text; what is not text stays as it is, since only our lines are changed."""
    content = path.read_bytes() if path.is_file() else b""
    try:
        return text_of(content)
    except NotText:
        return content.decode("utf-8", "surrogateescape")


def _without(name: str, text: str) -> str:
    """The text without what sets a variable, which may be several lines in quotes."""
    from dotenv.parser import parse_stream

    return "".join(
        one.original.string for one in parse_stream(io.StringIO(text)) if one.key != name
    )
