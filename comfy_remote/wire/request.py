"""What a client sends to a worker: the ``input`` of a RunPod job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from ..errors import WorkflowInvalid
from .problems import problems_in

__all__ = ["COMFY_REMOTE_1", "WORKER_COMFYUI", "AnswerFormat", "InputImage", "JobRequest"]

COMFY_REMOTE_1: Literal["comfy-remote/1"] = "comfy-remote/1"
WORKER_COMFYUI: Literal["worker-comfyui"] = "worker-comfyui"
AnswerFormat = Literal["comfy-remote/1", "worker-comfyui"]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class InputImage(BaseModel):
    """A file the workflow loads, as worker-comfyui's clients send it.

    Any file may travel here, not only images. ``sha256`` is ours: other workers ignore it,
    and our worker refuses a file that does not match it.
    """

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    image: str
    sha256: Sha256 | None = None


class JobRequest(BaseModel):
    """The ``input`` of a job.

    Attributes:
        workflow: The prompt, in API format.
        images: Files the workflow loads: base64, with or without a ``data:`` prefix.
        overrides: ``{node id: {input: value}}``, set before the prompt runs.
        format: The shape of the answer; ``worker-comfyui`` when left out, since that is what
            clients expect who send only ``workflow`` and ``images``.
        ui_workflow: The UI-format workflow to embed in saved images.
        previews: Whether to send preview pictures with the progress.
        repo_list: Models that must be there before the workflow runs; see
            `repo_list.parse_repo_list`.
    """

    # Unknown keys are other dialects' (comfy_org_api_key, s3Config); they must not fail a job.
    model_config = ConfigDict(extra="ignore")

    workflow: dict[str, JsonValue]
    images: list[InputImage] = []
    overrides: dict[str, dict[str, JsonValue]] = {}
    format: AnswerFormat = WORKER_COMFYUI
    ui_workflow: dict[str, JsonValue] | None = None
    previews: bool = False
    repo_list: str | list[str] = ""

    @classmethod
    def parse(cls, payload: JsonValue) -> JobRequest:
        """Validate what a client sent.

        Raises:
            WorkflowInvalid: Names each field that is wrong, and what is wrong with it.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise WorkflowInvalid(
                f"The job's input is not valid: {problems_in(error, 'input')}.",
                advice='Send {"workflow": {API-format prompt}, "images": [{"name", "image"}]}.',
            ) from None
