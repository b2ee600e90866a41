"""What the command takes for a deployment where it is given none: the app's name, and the GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigurationError, TargetNotFound, TargetUnreachable
from ...targets.modal import find_front
from ...workflow.models import model_uses
from ...workflow.prompt import Prompt
from ...workflow.schema import Schemas

__all__ = ["GpuChoice", "app_named_after", "check_app_is_new", "gpu_for"]

_LONGEST_NAME = 56

# Modal's names: 24, 48 and 80 GB.
_SMALL, _MEDIUM, _LARGE = "A10", "L40S", "H100"
_LARGE_MODEL = 14.0  # billions of weights: 28 GB in 16 bits
_BILLIONS = re.compile(r"(?<![0-9.])(\d{1,3}(?:\.\d)?)b(?![a-z0-9])", re.IGNORECASE)
_SMALL_WEIGHTS = re.compile(r"fp8|f8|int8|fp4|nf4|int4|q[2-8]_|q[2-8]\b|gguf", re.IGNORECASE)
_OF_PARTS = frozenset({"diffusion_models", "text_encoders"})


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
    """A GPU that is large enough for a workflow, by the models that it names.

    A checkpoint has 2 to 7 GB and runs in 24 GB. Models that come in parts (a diffusion model and
    its text encoders: Flux, Qwen, Wan, …) have 12 to 40 GB and run in 48 GB. From 14 billion
    weights of 16 bits on, the larger one is taken.
    """
    uses = list(model_uses(prompt))
    strange = [
        node["class_type"]
        for node in prompt.values()
        if node["class_type"] not in schemas.bundled()
    ]
    if not uses and not strange:
        return GpuChoice(None, "it loads no models")
    for use in uses:
        sizes = [float(size) for size in _BILLIONS.findall(use.name)]
        if max(sizes, default=0.0) >= _LARGE_MODEL and not _SMALL_WEIGHTS.search(use.name):
            return GpuChoice(_LARGE, f"it loads {use.name}")
    parts = [use for use in uses if use.folder in _OF_PARTS]
    if parts:
        return GpuChoice(_MEDIUM, f"it loads {parts[0].name}")
    return GpuChoice(_SMALL, f"it loads {uses[0].name}" if uses else f"it has {strange[0]} nodes")
