"""What a joined worker and its gateway say to each other.

All below ``/v2/{endpoint}/workers/{worker}/``, with ``Authorization: Bearer`` and the worker's
token, and `BOOT_HEADER`:

| request | body → answer |
| --- | --- |
| ``POST hello`` | `Hello` → `HelloAnswer` |
| ``POST take`` (a long poll) | `Ping` → the job's input, and `JOB_HEADER`; 204 for no job |
| ``POST ping`` (a long poll) | `Ping` → `PingAnswer` |
| ``POST jobs/{job}/{attempt}/progress`` | ``{"output"}`` → 204 |
| ``POST jobs/{job}/{attempt}/done`` | ``{"output", "error"}`` → `Delivered` |
| ``POST jobs/{job}/{attempt}/back`` | → 204: the job was not done, and may go to another worker |
| ``HEAD``, ``PUT jobs/{job}/{attempt}/files/{sha256}`` | an output too large for the result |
| ``GET files/{job}/{sha256}`` | an input that a client has sent by itself |

A request of a boot that the gateway does not know is answered 409 with the code `SAY_HELLO`: after
its restart, it learns from the workers what runs. One of a worker whose name another process has
is answered 409 with the code `NAME_TAKEN`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from ..clean import one_line
from ..secrets import redact

__all__ = [
    "BOOT_HEADER",
    "HELLO_LIMIT",
    "JOB_HEADER",
    "LONGEST_NAME",
    "MOST_NAMES",
    "NAME_TAKEN",
    "SAY_HELLO",
    "WORKER_NAME",
    "Delivered",
    "Held",
    "Hello",
    "HelloAnswer",
    "HolderState",
    "Ping",
    "PingAnswer",
    "Report",
    "Stored",
    "home_of",
    "is_attached",
]

BOOT_HEADER = "Comfy-Remote-Boot"
JOB_HEADER = "Comfy-Remote-Job"
"""``JOB/ATTEMPT``: which job an input, or a large output that is there already, is of."""
SAY_HELLO = "say_hello"
NAME_TAKEN = "worker_name_taken"

HELLO_LIMIT = 8 * 1024**2
"""Bytes of a `Hello`: some thousand node classes and model names."""

WORKER_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}(\.[A-Za-z0-9_-]{1,32})?")
"""A token's name; with a suffix for each of several GPUs, or for each worker of a fleet."""

LONGEST_NAME = 300
MOST_NAMES = 50_000
"""Characters of one name in a `Report`, and names in each of its lists."""

_Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME)]
_LONGEST_SHOWN = 300


def _shown(text: str) -> str:
    return one_line(redact(text))[:_LONGEST_SHOWN]


_Shown = Annotated[str, AfterValidator(_shown)]
_Boot = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\.[0-9a-f]{32}(\.url)?$")]
_JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_MOST_HELD = 10_000


class Report(BaseModel):
    """What a worker has, for the choice of its jobs. Names are compared, texts only shown.

    Attributes:
        engine: Name and version, for example ``ComfyUI 0.33.0``.
        device: Name of the GPU, or ``cpu``.
        nodes: Classes of nodes that it has; ``None`` if that is not known.
        models: ``checkpoints/a.safetensors``; ``None`` if that is not known.
        memory: Bytes of the GPU's memory.
        labels: What its owner says of it.
        fetches_models: Whether it may fetch models for a job.
        paid: Those of the nodes that buy something from a service each time that they run.
    """

    engine: _Shown = ""
    device: _Shown = ""
    nodes: Annotated[list[_Name], Field(max_length=MOST_NAMES)] | None = None
    models: Annotated[list[_Name], Field(max_length=MOST_NAMES)] | None = None
    memory: Annotated[int, Field(ge=0, le=2**50)] | None = None
    labels: Annotated[list[_Name], Field(max_length=64)] = []
    fetches_models: bool = False
    paid: Annotated[list[_Name], Field(max_length=MOST_NAMES)] = []


class HolderState(str, Enum):
    """What a worker has of a job."""

    RUNNING = "running"
    ENDED = "ended"
    """Its result, which waits to be delivered."""


class Held(BaseModel):
    """A job that a worker has."""

    job: _JobId
    attempt: int = Field(ge=0, le=10**6)
    state: HolderState = HolderState.RUNNING


class Hello(BaseModel):
    """A worker's first words after its start, after each outage, and when its report changes.

    Attributes:
        boot: New at each start of the worker's process: the id of its folder of results (only one
            process at a time can use that), a dot, and that of the start; then ``.url`` if its
            engine goes on when it ends.
        number: Higher with each hello of that boot: a network may deliver an earlier one later.
        version: Of Comfy Remote there.
        holds: All jobs that it has. A job of this worker that is not among them is not there.
        draining: It takes no more jobs.
        broken: Why it takes none at present, for people.
    """

    boot: _Boot
    number: Annotated[int, Field(ge=0, le=2**53)] = 0
    version: _Shown = ""
    report: Report = Report()
    holds: Annotated[list[Held], Field(max_length=_MOST_HELD)] = []
    draining: bool = False
    broken: _Shown = ""


class HelloAnswer(BaseModel):
    """What the worker must drop.

    Attributes:
        drop: Jobs that are no longer its own: those that run are to be stopped, results deleted.
    """

    drop: list[Held] = []


class Ping(BaseModel):
    """What the worker has; see `Hello`. With ``ping``, what it runs is enough."""

    holds: Annotated[list[Held], Field(max_length=_MOST_HELD)] = []
    draining: bool = False


class PingAnswer(BaseModel):
    """What the worker has to do now.

    Attributes:
        stop: Jobs that are no longer its own.
        draining: Its owner has said, on the gateway, that it is to take no more jobs.
    """

    stop: list[Held] = []
    draining: bool = False


class Stored(BaseModel):
    """The answer to a large output: the bytes that have been stored."""

    size: int


class Delivered(BaseModel):
    """The answer to a result: the worker deletes it.

    Attributes:
        taken: Whether it is the job's result now; else the job has one, or is gone.
    """

    taken: bool


def home_of(boot: str) -> str:
    """The id of the folder of results that a boot was started with: the same on one machine."""
    return boot.partition(".")[0]


def is_attached(boot: str) -> bool:
    """Whether the engine of a boot is a ComfyUI that runs by itself: a new start of the worker does
    not prove that its job has ended there.
    """
    return boot.endswith(".url")
