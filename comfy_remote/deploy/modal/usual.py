"""What the command takes for a deployment where it is given none: the app's name, and the GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigurationError, TargetNotFound, TargetUnreachable
from ...targets.modal import find_front
from ...workflow.prompt import Prompt
from ...workflow.schema import Schemas
from ..memory import LARGE, MEDIUM, SMALL, memory_for

__all__ = ["GpuChoice", "app_named_after", "check_app_is_new", "gpu_for"]

_LONGEST_NAME = 56

_BY_MEMORY = {0: None, SMALL: "A10", MEDIUM: "L40S", LARGE: "H100"}
"""GPUs as Modal calls them, with at least so many GB."""


class GpuChoice(NamedTuple):
    """A GPU as Modal calls it (``None`` for none), and why, for people."""

    gpu: str | None
    why: str


def app_named_after(workflow: Path) -> str:
    """The name of the app of a workflow file: the file's own, as far as Modal takes it.

    >>> app_named_after(Path("Ann's portraits.json"))
    'Ann-s-portraits'

    Raises:
        ConfigurationError: The file's name has no letter or digit that a name may have.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "-", workflow.stem).strip("-_")[:_LONGEST_NAME].strip("-_")
    if not name:
        raise ConfigurationError(
            f"No app can be named after {workflow.name}: it has no letters from A to Z and no "
            "digits.",
            advice="Give the app a name.",
        )
    return name


def check_app_is_new(app: str, folder: Path) -> None:
    """Check that a name which nobody has given would not replace another app. Blocking.

    Args:
        folder: The project that would be deployed.

    Raises:
        ConfigurationError: There is one of that name.
    """
    try:
        url = find_front(app)
    except (ConfigurationError, TargetNotFound, TargetUnreachable):
        return  # of Modal's SDK and of the network, deploying says more
    raise ConfigurationError(
        f"There is an app {app} at {url} already, and {folder} has not been deployed before.",
        advice="Give that name yourself to replace it, or another one to leave it as it is.",
    )


def gpu_for(prompt: Prompt, schemas: Schemas) -> GpuChoice:
    """A GPU that is large enough for a workflow: see `memory_for`."""
    need = memory_for(prompt, schemas)
    return GpuChoice(_BY_MEMORY[need.gb], need.why)
