"""Keeping secrets to the process that needs them: away from engines, out of words."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["KEY_RING_SERVICE", "redact", "secret", "without_secrets"]

KEY_RING_SERVICE = "comfy-remote"
"""Under which the key ring has our secrets: ``keyring set comfy-remote RUNPOD_API_KEY``."""

_log = logging.getLogger(__name__)

_SECRET_WORDS = {
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASSWD",
    "PASSWORD",
    "SECRET",
    "TOKEN",
}
# Nodes that fetch gated models read these themselves.
_ENGINE_MAY_SEE = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
_SHORTEST_SECRET = 6


def secret(name: str, environment: Mapping[str, str]) -> SecretStr | None:
    """A secret by the name of its environment variable; ``None`` where it is not set.

    What the environment does not have is looked for in the system's key ring, where the package
    ``keyring`` is installed (``pip install comfy-remote[keyring]``).
    """
    value = environment.get(name, "").strip() or _from_key_ring(name)
    if not value:
        return None
    from pydantic import SecretStr  # here: it takes long to import

    return SecretStr(value)


def _from_key_ring(name: str) -> str:
    if find_spec("keyring") is None:
        return ""
    import keyring
    import keyring.errors

    try:
        return (keyring.get_password(KEY_RING_SERVICE, name) or "").strip()
    except keyring.errors.KeyringError as error:
        # A locked ring, or a machine without one: as if nothing were in it.
        _log.debug("The key ring cannot be used: %s", type(error).__name__)
        return ""


def _is_secret(name: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(name.upper().split("_"))


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for the engine, whose custom nodes are other people's code.

    Leaves out what is named like a secret (``RUNPOD_API_KEY``, ``R2_SECRET_ACCESS_KEY``,
    ``CIVITAI_TOKEN``), except Hugging Face's token, and RunPod's job URLs: whoever has those
    can take and answer the endpoint's jobs.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in _ENGINE_MAY_SEE
        or not (_is_secret(name) or name.upper().startswith("RUNPOD_WEBHOOK_"))
    }


def redact(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with the value of every secret of ``environ`` replaced by ``[NAME]``.

    Also where the text is JSON, in which a quote or a backslash is written differently.
    """
    secrets = [
        (written, name)
        for name, value in environ.items()
        if _is_secret(name) and len(value) >= _SHORTEST_SECRET
        for written in {
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
        }
    ]
    # The longest first, so that one which contains another vanishes whole.
    for value, name in sorted(secrets, reverse=True, key=lambda pair: len(pair[0])):
        text = text.replace(value, f"[{name}]")
    return text
