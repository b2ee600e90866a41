"""``fleet.yaml``: which gateway the workers join, how many there are, and what each is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ..errors import ConfigurationError
from ..json_text import problems_in
from ..net.address import base_address, check_key_is_safe
from ..secrets import looks_secret
from ..text_file import SAVE_AS_UTF8, NotText, text_of
from ..version import __version__
from ..wire.runpod import check_endpoint_id

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FleetSettings", "GatewaySettings", "WorkersSettings", "read_fleet"]

_LARGEST = 256 * 1024  # bytes
_MOST_WORKERS = 256  # as many as join a gateway with one token

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class _Part(BaseModel):
    # A typing error in a name would otherwise be a setting that silently does nothing.
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Part):
    """The gateway.

    Attributes:
        url: Its address, as the workers reach it: ``https://head:8000``.
        endpoint: Its endpoint's id.
        worker_token_file: A worker's token (``comfy-remote workers add``): a path that every
            machine of the cluster has.
        token_file: The token that clients send, on the cluster's head; ``None`` where the gateway
            wants none.
        ca_file: The gateway's certificate, if it is its own; on every machine.
    """

    url: Text
    endpoint: Text
    worker_token_file: Path
    token_file: Path | None = None
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        try:
            check_key_is_safe(base_address(self.url))
            check_endpoint_id(self.endpoint)
        except ConfigurationError as error:
            raise ValueError(error.message) from error
        return self


class WorkersSettings(_Part):
    """The workers.

    Attributes:
        min: How many there are without any job.
        max: How many there are at most, whatever waits.
        idle: Seconds without a job after which one above ``min`` ends.
        away: Seconds that a machine may be out of the cluster before its worker ends by itself.
            Half as long again after that, its job is started elsewhere.
        gpus: GPUs for each, as Ray counts them. A part of one is for several on one GPU.
        resources: What else Ray is to reserve for each, by name.
        engine: ``auto``, ``sandbox`` or the folder of a ComfyUI, as ``comfy-remote worker`` takes
            it; on every machine.
        labels: What jobs may ask for.
        environment: Variables of the workers: ``COMFYUI_ARGS``, say. No secrets: Ray shows them to
            whoever may look.
    """

    min: int = Field(default=1, ge=0, le=_MOST_WORKERS)
    max: int = Field(default=1, ge=1, le=_MOST_WORKERS)
    idle: float = Field(default=300.0, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    away: float = Field(default=30.0, ge=4, le=3600, allow_inf_nan=False)
    gpus: float = Field(default=1.0, ge=0, le=64, allow_inf_nan=False)
    resources: dict[Text, float] = Field(default={}, max_length=20)
    engine: Text = "auto"
    labels: tuple[Label, ...] = Field(default=(), max_length=50)
    environment: dict[Text, str] = Field(default={}, max_length=200)

    @field_validator("environment")
    @classmethod
    def _has_no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        if named := [name for name in environment if looks_secret(name)]:
            raise ValueError(
                f"{', '.join(named)}: a secret does not belong here. Set it where `ray start` runs"
            )
        return environment

    @field_validator("engine")
    @classmethod
    def _is_started_here(cls, engine: str) -> str:
        if "://" in engine:
            raise ValueError("a fleet starts its engines: auto, sandbox, or a ComfyUI's folder")
        return engine

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, and max only {self.max}")
        return self


class FleetSettings(_Part):
    """A fleet.

    Attributes:
        revision: Anything. Where it changes, or what a worker is, each worker is replaced once the
            job that it runs has ended.
    """

    gateway: GatewaySettings
    workers: WorkersSettings = WorkersSettings()
    revision: Annotated[str, StringConstraints(max_length=200)] = ""

    @property
    def namespace(self) -> str:
        """Of its actors in Ray: a cluster may have a fleet for each endpoint."""
        return f"comfy-remote-{self.gateway.endpoint}"

    @property
    def digest(self) -> str:
        """Of all that a worker is made of, Comfy Remote as well, 12 hex digits; how many there are
        is no part of it.
        """
        counts = {"min", "max", "idle"}
        document = f"{__version__} {self.model_dump_json(exclude={'workers': counts})}"
        return hashlib.sha256(document.encode()).hexdigest()[:12]


def read_fleet(path: Path) -> FleetSettings:
    """Read ``fleet.yaml``.

    Raises:
        ConfigurationError: It cannot be read, or something in it is wrong.
    """
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        text = text_of(content)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error}.",
            advice="docs/fleet.md has one to begin with.",
        ) from error
    except NotText as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", advice=SAVE_AS_UTF8) from error
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{path} is larger than {_LARGEST // 1024} KiB.")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}.") from error
    try:
        return FleetSettings.model_validate(document if document is not None else {})
    except ValidationError as error:
        raise ConfigurationError(
            f"{path} cannot be used: {problems_in(error, 'file')}",
            advice="docs/fleet.md says what belongs in it.",
        ) from error
