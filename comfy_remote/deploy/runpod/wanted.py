"""What is wanted of an endpoint, as flags, a workflow and a lock say it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ...advice import Hint
from ...errors import ConfigurationError
from ...secrets import SECRETS, looks_secret
from ...version import __version__
from ...wire.runpod_endpoints import ScalingRequest
from ...wire.runpod_volumes import LARGEST_VOLUME, SMALLEST_VOLUME
from ..memory import GpuMemory
from .mark import MARK_VARIABLE

__all__ = [
    "CUDA",
    "DISK",
    "IMAGE",
    "PROFILES",
    "TIMEOUT",
    "USES",
    "Profile",
    "Use",
    "VolumeWanted",
    "Wanted",
    "environment_of",
    "secret_names",
    "volume_wanted",
]

Use = Literal["a few an hour", "nights", "steady"]
USES: tuple[Use, ...] = ("a few an hour", "nights", "steady")

IMAGE = f"ghcr.io/comfy-remote/comfy-remote-worker:{__version__}-cuda13.0"
"""That a release has published: see docs/containers.md."""
CUDA = "13.0"
"""The lowest version of a host on which that image's PyTorch runs."""
DISK = 30
"""GB of a worker's container: the image, and what runs leave until it is fetched."""
TIMEOUT = 3600
"""Seconds that a job may run. RunPod's default is 300, which a first run with downloads exceeds."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How an endpoint is set for one `Use`.

    Attributes:
        idle: Seconds that an idle worker waits for a job; ``None`` where RunPod takes none.
        most: Workers at a time.
        why: For people.
    """

    scaling: ScalingRequest
    idle: int | None
    most: int
    why: str


PROFILES: Mapping[Use, Profile] = MappingProxyType(
    {
        "a few an hour": Profile(
            ScalingRequest(type="QUEUE_DELAY", delay=4),
            60,
            2,
            "a worker waits a minute for the next picture, with its models loaded",
        ),
        "nights": Profile(
            ScalingRequest(type="QUEUE_DELAY", delay=4),
            15,
            3,
            "batches have the next job ready, so a worker without one stops soon",
        ),
        "steady": Profile(
            ScalingRequest(type="REQUEST_COUNT", count=1),
            None,
            3,
            "each job that waits gets a worker at once",
        ),
    }
)
"""FlashBoot is on in all of them: it costs nothing, and RunPod's API leaves it off."""


@dataclass(frozen=True, slots=True)
class VolumeWanted:
    """A network volume: one that exists already, or one of ours.

    Attributes:
        id: Of one that exists.
        size: GB of ours, at least.
        center: Its data centre; ``None`` for that of the one that is there.
    """

    id: str | None = None
    size: int = 0
    center: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of it. What is ``None`` or empty stays as it is; a new endpoint gets our defaults.

    Attributes:
        name: Of the deployment, its endpoint and the target.
        gpus: As people name them.
        memory: What a new endpoint's GPU needs, if none is named.
        idle: Seconds that an idle worker waits for a job.
        registry: Name or id of the account's login for the image's registry.
        timeout: Seconds that a job may run.
        cuda: The lowest CUDA version of a host.
        disk: GB of a worker's container.
        env: Variables of the workers, with references to secrets.
        models: Bytes of the models that are to be there, as far as they are known.
    """

    name: str
    gpus: tuple[str, ...] = ()
    memory: GpuMemory | None = None
    image: str | None = None
    registry: str | None = None
    volume: VolumeWanted | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    idle: int | None = None
    use: Use | None = None
    timeout: int | None = None
    cuda: str | None = None
    disk: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    models: int = 0

    @property
    def profile(self) -> Profile:
        """Of the use that is given, or the usual one."""
        return PROFILES[self.use or USES[0]]


_SIZE = re.compile(
    r"(?P<size>\d{1,6})(?:\s?GB)?(?:@(?P<center>[A-Za-z]{2,4}-[A-Za-z]{2,4}-\d{1,3}))?"
)
_ID = re.compile(r"[a-z0-9]{4,40}")


def volume_wanted(text: str) -> VolumeWanted:
    """``SIZE@DATACENTER``, the size alone, or the id of a volume that exists.

    >>> volume_wanted("100@eu-ro-1")
    VolumeWanted(id=None, size=100, center='EU-RO-1')

    Raises:
        ConfigurationError: It is none of them, or no volume has that size.
    """
    if match := _SIZE.fullmatch(text.strip()):
        size, center = int(match["size"]), match["center"]
        if not SMALLEST_VOLUME <= size <= LARGEST_VOLUME:
            raise ConfigurationError(
                f"A network volume of {size} GB cannot be made.",
                advice=f"RunPod has them from {SMALLEST_VOLUME} to {LARGEST_VOLUME} GB.",
            )
        return VolumeWanted(size=size, center=center and center.upper())
    if _ID.fullmatch(text.strip()):
        return VolumeWanted(id=text.strip())
    raise ConfigurationError(
        f"{text!r} is no network volume.",
        advice="Write GB@DATACENTER for one of its own (100@EU-RO-1), or the id of one that you "
        "have (agv6w2qcg7).",
    )


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFERENCE = re.compile(r"\{\{\s*RUNPOD_SECRET_([A-Za-z0-9_-]{1,64})\s*\}\}")
_KEY = re.compile(
    r"(hf_|rpa_|rps_|sk-|ghp_|gho_|github_pat_|AKIA|ASIA|xox[a-z]-|eyJ)[A-Za-z0-9_-]{10,}"
    r"|://[^/@:\s]*:[^/@\s]+@|-----BEGIN "
)


def environment_of(values: Iterable[str], secrets: Iterable[str]) -> dict[str, str]:
    """The variables that ``NAME=VALUE`` and ``NAME[=SECRET]`` mean.

    RunPod has no API for secrets, and shows plain values to whoever may see the endpoint. So a
    secret is made in its console, and here is a reference to it.

    Raises:
        ConfigurationError: One is not of that form, or a plain value looks like a secret.
    """
    found: dict[str, str] = {}
    for text in values:
        name, given, value = text.partition("=")
        _check_variable(name)
        if not given:
            raise ConfigurationError(f"{name!r} has no value.", advice="Write NAME=VALUE.")
        if not _REFERENCE.fullmatch(value.strip()) and _is_secret(name, value):
            raise ConfigurationError(
                f"The value of {name} looks like a secret. RunPod would show it to whoever may see "
                "the endpoint, so it is not sent.",
                advice=Hint.KEEP_AT_RUNPOD(name=name),
            )
        found[name] = value
    for text in secrets:
        name, _, called = text.partition("=")
        _check_variable(name)
        called = called or name
        if not _SECRET_NAME.fullmatch(called):
            raise ConfigurationError(
                f"{name} names no secret of RunPod's console.",
                advice="Write NAME, or NAME=SECRET with the secret's name, never its value.",
            )
        if _is_secret("", called):
            raise ConfigurationError(
                f"What is given for {name} looks like a secret itself, not like the name of one.",
                advice=f"Write {name}=SECRET with the name of a secret of RunPod's console.",
            )
        found[name] = f"{{{{ RUNPOD_SECRET_{called} }}}}"
    return found


def secret_names(environment: Mapping[str, str]) -> list[str]:
    """The secrets of RunPod's console that some variables refer to."""
    found = (_REFERENCE.search(value) for value in environment.values())
    return list(dict.fromkeys(match[1] for match in found if match is not None))


def _check_variable(name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        # Not what was typed: it may be a value.
        raise ConfigurationError(
            "An environment variable has no name that one can have.",
            advice="Write NAME=VALUE, with letters, digits and '_' in the name.",
        )
    if name == MARK_VARIABLE:
        raise ConfigurationError(f"{name} is how Comfy Remote finds its endpoint again.")


def _is_secret(name: str, value: str) -> bool:
    return bool(value) and (
        looks_secret(name) or _KEY.search(value) is not None or SECRETS.redact(value) != value
    )
