"""What the front of an app on Modal says of the containers that run its jobs."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["Hardware"]


class Hardware(BaseModel):
    """What a container of an app has, as the app was deployed.

    Attributes:
        gpu: As Modal calls it, ``H100`` or ``H100:2`` for two; of several, it has the first that is
            free; empty for none.
        cpu: CPU cores that are reserved; ``None`` for Modal's own least.
        memory: MiB of main memory that are reserved; likewise.
        region: Where it may run; anywhere if empty.
        always: How many run all the time.
    """

    gpu: list[str] = Field(default=[], max_length=20)
    cpu: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    memory: float | None = Field(default=None, ge=0, le=10_000_000, allow_inf_nan=False)
    region: list[str] = Field(default=[], max_length=100)
    always: int = Field(default=0, ge=0, le=10_000)
