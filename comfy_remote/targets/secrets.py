"""Keeping secrets to the process that needs them: away from engines, out of words."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["redact", "without_secrets"]

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
    """``text`` with the value of every secret of ``environ`` replaced by ``[NAME]``."""
    secrets = [
        (value, name)
        for name, value in environ.items()
        if _is_secret(name) and len(value) >= _SHORTEST_SECRET
    ]
    # The longest first, so that one which contains another vanishes whole.
    for value, name in sorted(secrets, reverse=True, key=lambda pair: len(pair[0])):
        text = text.replace(value, f"[{name}]")
    return text
