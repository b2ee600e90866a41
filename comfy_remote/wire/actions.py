"""What a client asks of a worker besides running workflows and handling models."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, StringConstraints, ValidationError

from ..errors import TargetError, WorkflowInvalid
from ..json_text import problems_in
from .installed import Installed

__all__ = [
    "LARGEST_PART",
    "WORKER_ACTIONS",
    "DescribeAnswer",
    "DescribeRequest",
    "FetchAnswer",
    "FetchRequest",
    "HealthAnswer",
    "pack_nodes",
    "parse_input",
    "unpack_nodes",
]

WORKER_ACTIONS: frozenset[str] = frozenset({"describe", "health", "fetch"})
"""Values of a job's ``action`` that this module is about."""

LARGEST_PART = 7_000_000
"""Bytes of a file that fit in RunPod's result: base64 adds a third."""

# Node schemas of a ComfyUI with hundreds of node packs are some ten megabytes.
_LARGEST_SCHEMAS = 256 * 1024 * 1024
_Model = TypeVar("_Model", bound=BaseModel)


class FetchRequest(BaseModel):
    """``action: fetch``: a part of an output that did not fit in the result.

    Attributes:
        kept: The name that the answer gave to the output.
        offset: Of the first byte that is wanted.
        length: How many, at most.
    """

    action: Literal["fetch"] = "fetch"
    kept: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    offset: int = Field(default=0, ge=0)
    length: int = Field(default=LARGEST_PART, gt=0, le=LARGEST_PART)


class FetchAnswer(BaseModel):
    """The part: base64, and empty at the file's end. ``size`` is that of the whole file."""

    status: Literal["success"] = "success"
    data: str
    size: int = Field(ge=0)


class DescribeRequest(BaseModel):
    """``action: describe``: what the worker has installed.

    Attributes:
        known: The ``nodes_hash`` of an earlier answer, whose nodes need not be sent again.
    """

    action: Literal["describe"] = "describe"
    known: str | None = None


class DescribeAnswer(BaseModel):
    """What the worker has installed.

    Attributes:
        nodes_hash: SHA-256 of the node schemas.
        nodes: The schemas (ComfyUI's ``/object_info``): see `pack_nodes`; ``None`` if the client
            has them.
        models: Names, by folder.
        packs: The folders in ``custom_nodes`` that nodes come from.
        device: Name of the GPU, or ``cpu``.
        engine: Name and version, for example ``ComfyUI 0.33.0``.
        versions: Of ``comfy-remote``, ``python``, ``pytorch`` and ``comfyui``.
        worker: The worker's id.
        fetches_models: Whether the worker may fetch models for a job that runs a workflow.
        takes_models: How it may get models by a job of their own: ``fetch`` from an address,
            ``link`` to one that it has, ``receive`` from a client; ``exact_folders`` if it leaves
            capitals in the name of a folder that it fetches into. ``None`` from an older worker.
        takes_nodes: How it may get node packs by a job of their own: a version of the Comfy
            ``registry``, a commit by ``git``; see `nodes.TakesNodes`. Empty where it may not.
            ``None`` from an older worker.
        no_nodes: Why it takes none, for people; empty where it takes some.
        node_set: Identifies the set of packs, brought by such jobs, that its engine runs with;
            ``None`` for none.
        installed: What computes its results, exactly; ``None`` from an older worker.
    """

    status: Literal["success"] = "success"
    nodes_hash: str
    nodes: str | None = None
    models: dict[str, list[str]] = {}
    packs: list[str] = []
    device: str | None = None
    vram_total: int | None = None
    vram_free: int | None = None
    engine: str | None = None
    versions: dict[str, str] = {}
    worker: str | None = None
    fetches_models: bool = False
    takes_models: list[str] | None = None
    takes_nodes: frozenset[str] | None = None
    no_nodes: str = ""
    node_set: str | None = None
    installed: Installed | None = None


class HealthAnswer(BaseModel):
    """``action: health``: how one worker is. Sizes in bytes; ``disk_free`` is that for outputs."""

    status: Literal["success"] = "success"
    engine: str | None = None
    ram_free: int | None = None
    vram_free: int | None = None
    disk_free: int | None = None
    worker: str | None = None


def parse_input(model: type[_Model], payload: JsonValue, advice: str = "") -> _Model:
    """Validate the ``input`` of a job.

    Raises:
        WorkflowInvalid: Names each field that is wrong, and what is wrong with it.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise WorkflowInvalid(
            f"The job's input is not valid: {problems_in(error, 'input')}.", advice=advice
        ) from None


def pack_nodes(nodes: bytes) -> str:
    """JSON, compressed (zlib), in base64: megabytes of repetition become a tenth."""
    return base64.b64encode(zlib.compress(nodes, 6)).decode("ascii")


def unpack_nodes(packed: str) -> dict[str, JsonValue]:
    """The inverse of `pack_nodes`.

    Raises:
        TargetError: It is something else, or unreasonably large.
    """
    try:
        unpacker = zlib.decompressobj()
        document = unpacker.decompress(base64.b64decode(packed, validate=True), _LARGEST_SCHEMAS)
        nodes = json.loads(document)
    except (ValueError, zlib.error, RecursionError):
        nodes = None
    if not isinstance(nodes, dict):
        raise TargetError("The worker's node schemas cannot be read.", advice="Update the worker.")
    return nodes
