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
    ValidationError,
    model_validator,
)
from yarl import URL

from ..errors import WorkflowInvalid
from ..json_text import problems_in

__all__ = [
    "COMFY_REMOTE_1",
    "InputFileSent",
    "InputImage",
    "JobRequest",
    "ModelSent",
    "S3Config",
]

COMFY_REMOTE_1 = "comfy-remote/1"
"""The ``format`` of our own answers, see `wire.answer`; the others are in `worker.dialects`."""
_MOST_MODELS = 1000

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

    model_config = ConfigDict(extra="ignore")

    name: FileName
    image: str
    sha256: Sha256 | None = None


class InputFileSent(BaseModel):
    """A file the workflow loads: its bytes, or where they are.

    Attributes:
        name: As the workflow names it.
        data: Base64, with or without a ``data:`` prefix.
        url: An address to fetch it from: https, and public.
        sha256: Of the bytes. Alone, it names a file that the worker has been sent before.
        delete_url: A signed address to DELETE once the job is over: what the client had put
            into storage for this job.
    """

    model_config = ConfigDict(extra="ignore")

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


class ModelSent(BaseModel):
    """A model that the workflow uses, and where it can be had.

    The keys are those of ``properties.models``, which ComfyUI's editor and its templates write
    into nodes.

    Attributes:
        name: Its file, below the folder, as the workflow names it.
        url: http(s), and public. Written by whoever made the workflow.
        directory: The folder of ComfyUI's ``models/``.
        hash: Of its content.
        hash_type: Only ``SHA256`` is looked at.
    """

    model_config = ConfigDict(extra="ignore")

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
        return digits if known and re.fullmatch(r"[0-9a-f]{64}", digits) else None


class S3Config(BaseModel):
    """RunPod's own ``s3Config``: the bucket that this job's large outputs go to."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    access_id: str = Field(alias="accessId", min_length=1)
    access_secret: SecretStr = Field(alias="accessSecret", min_length=1)
    bucket_name: str = Field(default="", alias="bucketName")
    endpoint_url: str = Field(alias="endpointUrl", min_length=1)


class JobRequest(BaseModel):
    """The ``input`` of a job.

    Attributes:
        workflow: The prompt, in API format; or a workflow in UI format, which the worker
            converts. An object under ``prompt`` is taken as the workflow, too.
        images: Files the workflow loads, as worker-comfyui's clients send them.
        files: The same, in our own form.
        overrides: ``{node id: {input: value}}``, set before the prompt runs.
        prompt: The positive text.
        prompt_node_id: The node that has it. Where it is left out, node 6 is taken if that is a
            text encoder, else what the samplers' links lead to. The next two likewise.
        seed: For every seed there is; or for that of one node.
        seed_node_id: 25 where it is left out.
        width: Pixels.
        height: Pixels.
        size_node_id: 27 where it is left out.
        format: The name of the shape that the answer has; ``None`` to have it recognized by the
            other keys (see `worker.dialects`).
        ui_workflow: The UI-format workflow to embed in saved images.
        previews: Whether to send preview pictures with the progress.
        repo_list: Models that must be there before the workflow runs; see
            `repo_list.parse_repo_list`.
        models: Where the models that the workflow uses can be had. Those that the engine lacks
            are fetched first, where the worker may do that; that one cannot be had is an error
            only if the workflow is then refused.
        timeout: Seconds the job may take; the worker's own limit stays.
        comfy_org_api_key: For nodes that call Comfy.org's services. Costs its owner money.
        s3_config: Where large outputs go, before the worker's own storage.
    """

    # Unknown keys are other workers' own; they must not fail a job.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    workflow: dict[str, JsonValue]
    images: list[InputImage] = []
    files: list[InputFileSent] = []
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

    @classmethod
    def parse(cls, payload: JsonValue) -> JobRequest:
        """Validate what a client sent.

        Raises:
            WorkflowInvalid: Names each field that is wrong, and what is wrong with it.
        """
        try:
            return cls.model_validate(_with_workflow(payload))
        except ValidationError as error:
            raise WorkflowInvalid(
                f"The job's input is not valid: {problems_in(error, 'input')}.",
                advice='Send {"workflow": {API-format prompt}, "images": [{"name", "image"}]}.',
            ) from None


def _with_workflow(payload: JsonValue) -> JsonValue:
    if not isinstance(payload, dict):
        return payload
    prompt = payload.get("prompt")
    if isinstance(prompt, dict):
        if "workflow" in payload:
            raise WorkflowInvalid(
                "The job's input is not valid: prompt: it is an object, and there is a workflow, "
                "too.",
                advice="Send the workflow once; the text to set goes into prompt.",
            )
        return {**{k: v for k, v in payload.items() if k != "prompt"}, "workflow": prompt}
    return payload
