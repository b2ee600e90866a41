"""What a project names that its owner has to trust: code, packages, secrets, models.

A project's folder may have come with somebody's workflow. To deploy it runs its workflow.py here,
and in the containers whatever it names, with the Modal Secrets that it names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from .config import ModalConfig

__all__ = ["named_in"]

_LISTS = ("secrets", "custom_nodes", "extra_pip_packages", "extra_system_packages", "models")
_WORDS = ("comfyui_arguments", "models_volume")


def named_in(config: ModalConfig, edited: str | None = None) -> list[str]:
    """All that a project names, a line each.

    Args:
        config: Its modal_config.json.
        edited: The text of its workflow.py, if that is not ours.
    """
    return list(_named(config, edited))


def _named(config: ModalConfig, edited: str | None) -> Iterator[str]:
    said, usual = config.model_dump(), ModalConfig().model_dump()
    for field in _LISTS:
        for value in said[field]:
            yield f"{field}: {json.dumps(value)}"
    for field in _WORDS:
        if said[field] != usual[field]:
            yield f"{field} = {json.dumps(said[field])}"
    if edited is not None:
        digest = hashlib.sha256(edited.encode()).hexdigest()
        yield f"workflow.py, which runs on this machine (edited, {digest[:16]})"
