"""What a client sends to a worker: the ``input`` of a RunPod job that runs a workflow."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    StringConstraints,
    model_validator,
)
from yarl import URL

from ..errors import WorkflowInvalid
from .actions import parse_input

__all__ = [
    "COMFY_REMOTE_1",
    "FORMATS",
    "InputFileSent",
    "InputImage",
    "JobRequest",
    "ModelSent",
    "S3Config",
    "is_sha256",
    "named_by_hash",
]

COMFY_REMOTE_1 = "comfy-remote/1"
"""The ``format`` of our own answers, see `wire.answer`; the others are in `worker.dialects`."""
FORMATS = (COMFY_REMOTE_1, "images-b64", "plain", "worker-comfyui")
"""All that a request may ask for."""
_MOST_MODELS = 1000
_MOST_FILES = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(min_length=1, max_length=1024)]


def _text_of(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _an_address(text: str) -> str:
    try:
        (URL(text).host or "").encode("idna")  # as whoever resolves it will
    except ValueError:
        raise ValueError("it is not an address") from None
    return text


Address = Annotated[str, AfterValidator(_an_address)]
NodeId = Annotated[str, BeforeValidator(_text_of), Field(min_length=1)]
"""Ids are texts in a prompt, and often typed as numbers."""


class InputImage(BaseModel):
    """A file the workflow loads, as worker-comfyui's clients send it.

    Any file may travel here, not only images. ``sha256`` is ours: other workers ignore it,
    and our worker refuses a file that does not match it.
    """

    name: FileName
    image: str
    sha256: Sha256 | None = None


class InputFileSent(BaseModel):
    """A file the workflow loads: its bytes, or where they are.

    Attributes:
        name: As the workflow names it.
        data: Base64, with or without a ``data:`` prefix.
        url: An address to fetch it from: https, and public.
        sha256: Of the bytes. Alone, it names a file that the worker has received before.
        delete_url: A signed address to DELETE once the job is over: the client stored the file
            for this job only.
    """

    name: FileName
    data: str | None = None
    url: Address | None = None
    sha256: Sha256 | None = None
    delete_url: Address | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> InputFileSent:
        if self.data is not None and self.url is not None:
            raise ValueError("data and url are both given")
        if self.data is None and self.url is None and self.sha256 is None:
            raise ValueError("one of data, url and sha256 is needed")
        return self


class FileInput(BaseModel):
    """A file for one input of one node, as comfy-gen's clients send it.

    Attributes:
        field: The input that names the file.
    """

    field: Annotated[str, Field(min_length=1)]
    url: Address
    filename: FileName


def named_by_hash(payload: JsonValue) -> list[str]:
    """The SHA-256 of the files that a job's input names and does not bring, each once, as many as
    a `JobRequest` may have.

    Args:
        payload: Anything that a client may have sent: what is not valid is left to the worker.
    """
    files = payload.get("files") if isinstance(payload, dict) else None
    found: dict[str, None] = {}
    for file in files[:_MOST_FILES] if isinstance(files, list) else ():
        if not isinstance(file, dict) or any(file.get(key) is not None for key in ("data", "url")):
            continue
        sha256 = file.get("sha256")
        if isinstance(sha256, str) and is_sha256(sha256):
            found[sha256] = None
    return list(found)


def is_sha256(text: str) -> bool:
    """Whether a text is 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


class ModelSent(BaseModel):
    """A model that the workflow uses, and where to get it.

    The keys are those of ``properties.models``, which ComfyUI's editor and its templates write
    into nodes.

    Attributes:
        name: Its file, below the folder, as the workflow names it.
        url: http(s), and public. Written by whoever made the workflow.
        directory: A folder below ComfyUI's ``models/``.
        hash_type: Only ``SHA256`` is checked.
    """

    name: FileName
    url: Annotated[Address, StringConstraints(pattern=r"^https?://\S+$", max_length=4096)]
    directory: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    hash: str | None = None
    hash_type: str | None = None

    @property
    def sha256(self) -> str | None:
        """The hash, if it is one that can be checked: 64 lower-case hex digits."""
        digits = (self.hash or "").lower()
        known = (self.hash_type or "").upper().replace("-", "") == "SHA256"
        return digits if known and is_sha256(digits) else None


class S3Config(BaseModel):
    """RunPod's own ``s3Config``: the bucket that this job's large outputs go to."""

    model_config = ConfigDict(populate_by_name=True)

    access_id: str = Field(alias="accessId", min_length=1)
    access_secret: SecretStr = Field(alias="accessSecret", min_length=1)
    bucket_name: str = Field(default="", alias="bucketName")
    endpoint_url: str = Field(alias="endpointUrl", min_length=1)


class JobRequest(BaseModel):
    """The ``input`` of a job.

    Attributes:
        workflow: The prompt in API format, or a workflow in UI format, which the worker converts.
            An object under ``prompt`` is also taken as the workflow.
        files: As ``images``, in our own form.
        file_inputs: As ``files``, in comfy-gen's form: by the id of the node that loads it.
        overrides: ``{node id: {input: value}}``, set before the prompt runs.
        prompt: The positive text.
        prompt_node_id: The node that has it. If omitted, node 6 if that is a text encoder, else
            what the samplers' links lead to. The next two likewise, with nodes 25 and 27.
        seed: For all seeds, or for that of one node.
        format: The shape of the answer; ``None`` to recognize it by the other keys (see
            `worker.dialects`).
        ui_workflow: The UI-format workflow to embed in saved images.
        previews: Whether to send preview pictures with the progress.
        repo_list: Models that must be there before the workflow runs; see `parse_repo_list`.
        models: Where to get the models that the workflow uses. Those that the engine lacks are
            fetched first, if the worker may do that; a failure is an error only if the workflow
            is then refused.
        timeout: Seconds the job may take; the worker's own limit also applies.
        comfy_org_api_key: For nodes that call Comfy.org's paid services.
        s3_config: Where large outputs go, before the worker's own storage.
    """

    model_config = ConfigDict(populate_by_name=True)

    workflow: dict[str, JsonValue]
    images: list[InputImage] = []
    files: Annotated[list[InputFileSent], Field(max_length=_MOST_FILES)] = []
    file_inputs: Annotated[dict[str, FileInput], Field(max_length=_MOST_FILES)] = {}
    overrides: dict[str, dict[str, JsonValue]] = {}
    prompt: str | None = None
    prompt_node_id: NodeId | None = None
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None
    seed_node_id: NodeId | None = None
    width: Annotated[int, Field(ge=1, le=65536)] | None = None
    height: Annotated[int, Field(ge=1, le=65536)] | None = None
    size_node_id: NodeId | None = None
    format: str | None = None
    ui_workflow: dict[str, JsonValue] | None = None
    previews: bool = False
    repo_list: str | list[str] = ""
    models: Annotated[list[ModelSent], Field(max_length=_MOST_MODELS)] = []
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    comfy_org_api_key: SecretStr | None = None
    s3_config: S3Config | None = Field(default=None, alias="s3Config")

    @model_validator(mode="after")
    def _with_file_inputs(self) -> JobRequest:
        for node_id, file in self.file_inputs.items():
            self.files = [*self.files, InputFileSent(name=file.filename, url=file.url)]
            named = {file.field: file.filename, **self.overrides.get(node_id, {})}
            self.overrides = {**self.overrides, node_id: named}
        self.file_inputs = {}
        return self

    @classmethod
    def parse(cls, payload: JsonValue) -> JobRequest:
        """Like `parse_input`."""
        if isinstance(payload, dict) and isinstance(prompt := payload.get("prompt"), dict):
            if "workflow" in payload:
                raise WorkflowInvalid(
                    "The job's input is not valid: prompt: it is an object, and there is also a "
                    "workflow.",
                    advice="Send the workflow once; the text to set goes into prompt.",
                )
            payload = {**{k: v for k, v in payload.items() if k != "prompt"}, "workflow": prompt}
        advice = 'Send {"workflow": {API-format prompt}, "images": [{"name", "image"}]}.'
        return parse_input(cls, payload, advice)
