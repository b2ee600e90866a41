"""Comfy API v2: what its clients and servers say to each other.

Facts: ``openapi-v2.yaml`` of github.com/Comfy-Org/docs, version 2.0.0; what its SDK (comfy-sdk
0.5.0) sends besides is marked so. A test holds the models to that document.

What is read may have more than this: keys that are not known here are ignored.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

__all__ = [
    "API_PATH",
    "ASSET_TYPE",
    "EXPIRES_IN",
    "IDEMPOTENCY_HEADER",
    "LONGEST_KEY",
    "MOST_LABELS",
    "MOST_LABELS_ASKED",
    "ApiError",
    "ApiJob",
    "ApiOutput",
    "ApiProgress",
    "ApiStatus",
    "Asset",
    "AssetFromHash",
    "ErrorEnvelope",
    "ExtraData",
    "JobError",
    "JobList",
    "JobRequest",
    "JobSummary",
    "JobUrls",
    "JobWorkflow",
    "OutputType",
    "PreviewEvent",
    "StatusEvent",
    "asset_reference",
    "blake3_digits",
    "blake3_hash",
    "label_problem",
]

API_PATH = "/api/v2"
"""Below the origin of a server, or below where a deployment is mounted."""

ASSET_TYPE = "core/ASSET"
"""The ``__type`` of a reference to an asset, in a prompt."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""Used once: a second request with the same key is refused (422 ``idempotency_key_reuse``)."""

LONGEST_KEY = 255
"""Characters of such a key (comfy-sdk)."""

EXPIRES_IN = (60, 7 * 24 * 3600)
"""Seconds: the bounds of ``expires_in``."""

MOST_LABELS = 16
"""Labels that a job may have (comfy-sdk)."""

MOST_LABELS_ASKED = 3
"""Labels that a list may be asked for at once (comfy-sdk)."""

_BLAKE3 = re.compile(r"blake3:([0-9a-f]{64})")
_LABEL_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LARGEST_LABEL = 256
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def blake3_hash(digits: str) -> str:
    """A hash as this API writes it: ``blake3:`` and 64 hex digits."""
    return f"blake3:{digits}"


def blake3_digits(hash_: str) -> str | None:
    """The digits of a hash, in lower case; ``None`` if it is not written as this API writes it."""
    found = _BLAKE3.fullmatch(hash_.lower())
    return None if found is None else found[1]


def asset_reference(
    asset_id: str, *, blake3: str | None = None, file_path: str | None = None
) -> dict[str, JsonValue]:
    """What stands in a prompt where ComfyUI has a file's name."""
    said = {"id": asset_id, "hash": blake3, "file_path": file_path}
    info: dict[str, JsonValue] = {key: value for key, value in said.items() if value is not None}
    return {"__type": ASSET_TYPE, "info": info}


def label_problem(key: str, value: str) -> str | None:
    """Why a job cannot have this label; ``None`` if it can.

    The rules are those that comfy-sdk documents: a key of 1 to 40 letters, digits, ``_``, ``-``
    and ``.``; a value of at most 256 bytes (UTF-8), without control characters and those that
    change the direction of text.
    """
    if _LABEL_KEY.fullmatch(key) is None:
        return f"The label {key[:60]!r} must have 1 to 40 letters, digits, _, - or . as its key."
    if len(value.encode("utf-8", "surrogatepass")) > _LARGEST_LABEL:
        return f"The value of the label {key!r} is larger than {_LARGEST_LABEL} bytes."
    if _UNSEEN.search(value):
        return f"The value of the label {key!r} has a control character."
    return None


def _in_utc(at: datetime) -> datetime:
    """The same moment in UTC; one that says no zone is taken for that.

    The document asks for a zone, but a server may forget it.
    """
    if at.tzinfo is None:
        return at.replace(tzinfo=timezone.utc)
    try:
        return at.astimezone(timezone.utc)
    except OverflowError:  # within a day of the first or the last that there is
        return at.replace(tzinfo=timezone.utc)


_Moment: TypeAlias = Annotated[datetime, AfterValidator(_in_utc)]
# What a float can say exactly: numbers are divided, and a larger one is none that was counted.
_Count: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class ApiStatus(str, Enum):
    """Where a job stands: queued, running, then canceling, or one of the final four."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CANCELING = "canceling"
    CANCELED = "canceled"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in _FINAL


_FINAL = frozenset({ApiStatus.SUCCEEDED, ApiStatus.CANCELED, ApiStatus.FAILED, ApiStatus.EXPIRED})


class OutputType(str, Enum):
    """What an output is."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"
    FILE = "file"
    LATENT = "latent"


class Asset(_Model):
    """A record of bytes that are stored by their hash. Several may share the same bytes.

    Attributes:
        hash: ``blake3:`` and 64 hex digits; ``None`` while it is not computed.
        file_path: ``/`` between its parts.
        created_new: In answers that create one: whether the bytes were new.
        url: Of its bytes, until ``url_expires_at``; it may need no key.
        expires_at: ``None`` if it stays.
        job_id: The job that made it; ``None`` for what was uploaded.
    """

    id: str
    hash: str | None
    size_bytes: int = Field(ge=0, le=2**53)
    content_type: str
    file_path: str | None = None
    created_new: bool | None = None
    created_at: _Moment
    url: str
    url_expires_at: _Moment
    expires_at: _Moment | None = None
    job_id: str | None = None


class AssetFromHash(_Model):
    """The request for an asset over bytes that the server has."""

    hash: str
    file_path: str | None = None
    tags: list[str] | None = None
    expires_in: int | None = Field(None, ge=EXPIRES_IN[0], le=EXPIRES_IN[1])


class ApiProgress(_Model):
    """A full snapshot; ``value`` is the whole job's."""

    value: float = Field(ge=0, le=1)
    nodes_done: _Count
    nodes_total: _Count
    current_node: str | None = None
    current_node_class: str | None = None
    step: _Count | None = None
    steps: _Count | None = None
    message: str | None = None


class ApiOutput(_Model):
    """A file that a job has made: an asset, with the node that it is of."""

    node_id: str
    name: str
    type: OutputType
    content_type: str
    size_bytes: int = Field(ge=0, le=2**53)
    id: str
    hash: str | None
    url: str
    url_expires_at: _Moment
    job_id: str | None = None


class JobError(_Model):
    """Why a job failed."""

    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None


class JobUrls(_Model):
    """Where to ask about a job: absolute, or from ``/`` on; relative to the server's origin, and
    never to the address below which the API is mounted.
    """

    self: str
    events: str
    cancel: str


class ApiJob(_Model):
    """One run of a prompt.

    Attributes:
        queue_position: Jobs ahead of it, as far as the server says.
        outputs: Those that are there so far; complete when the job has ended.
        metrics: ``queue_ms`` and ``execution_ms``.
        metadata: Labels (comfy-sdk).
    """

    id: str
    status: ApiStatus
    created_at: _Moment
    started_at: _Moment | None
    completed_at: _Moment | None
    expires_at: _Moment
    queue_position: _Count | None
    progress: ApiProgress | None
    outputs: list[ApiOutput]
    error: JobError | None
    metrics: dict[str, _Count | None] | None = None
    urls: JobUrls
    metadata: dict[str, str] | None = None


class JobWorkflow(_Model):
    """The prompt of a job, or the workflow that it was made of."""

    workflow: dict[str, JsonValue]
    format: Literal["save", "api"]


class JobSummary(_Model):
    """A job in a list (comfy-sdk; it is not in the document)."""

    id: str
    status: ApiStatus
    create_time: _Moment
    update_time: _Moment
    metadata: dict[str, str] = Field(default_factory=dict)


class JobList(_Model):
    """A page of jobs, the newest first (comfy-sdk; it is not in the document).

    Attributes:
        next_cursor: What asks for the next page; ``None`` at the last one.
    """

    jobs: list[JobSummary]
    next_cursor: str | None = None


class ExtraData(_Model):
    """What a job is sent besides its prompt. Never stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key_comfy_org: str | None = Field(None, repr=False)


class JobRequest(_Model):
    """The request for a job.

    Attributes:
        workflow: A prompt, in API format, with asset references.
        metadata: Labels (comfy-sdk): see `label_problem`.
    """

    workflow: dict[str, JsonValue]
    extra_data: ExtraData | None = None
    metadata: dict[str, str] | None = None


class StatusEvent(_Model):
    """The data of a ``status`` event."""

    status: ApiStatus
    queue_position: _Count | None = None


class PreviewEvent(_Model):
    """The data of a ``preview`` event: a JPEG."""

    node_id: str
    content_type: str
    data_base64: str = Field(repr=False)


class ApiError(_Model):
    """What went wrong with a request."""

    code: str
    message: str
    details: dict[str, JsonValue] | None = None


class ErrorEnvelope(_Model):
    """The body of every answer with a status from 400 on."""

    error: ApiError
