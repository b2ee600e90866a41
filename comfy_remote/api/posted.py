"""What is posted to start a job: read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue, SecretStr, ValidationError

from ..wire.comfy_api import MOST_LABELS, JobRequest, label_problem
from ..workflow.json_document import is_ui_format
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt
from .errors import ApiRefusal, ErrorCode
from .references import Reference, references_in

__all__ = ["PostedJob", "posted_job"]

_RESERVED = ("webhook_url", "inputs")
_MOST_ASSETS = 1000
_KEY = re.compile(r"[!-~]{16,1024}")
"""What a key for partner nodes looks like. It is kept out of logs wherever it occurs, so it must
not be an ordinary word.
"""


@dataclass(frozen=True, slots=True)
class PostedJob:
    """A request for a job, whose structure has been checked.

    Attributes:
        prompt: As it was posted, references included.
        references: Those in it, in its order.
        labels: By key.
        partner_key: The submitter's, for partner nodes. It goes to the target and nowhere else.
        size: Bytes of the request.
    """

    prompt: Prompt
    references: tuple[Reference, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    partner_key: SecretStr | None = field(default=None, repr=False)
    size: int = 0

    @property
    def asset_ids(self) -> list[str]:
        """The assets that it needs, each once, in order."""
        return list(dict.fromkeys(reference.asset_id for reference in self.references))


def posted_job(body: Mapping[str, JsonValue]) -> PostedJob:
    """The body of a request for a job.

    Raises:
        ApiRefusal: It is not one, with what is wrong.
        WorkflowInvalid: The workflow's structure is wrong.
    """
    for key in body:
        if key in _RESERVED:
            # As comfy-api-proxy says it: the document has no other code for it.
            raise ApiRefusal("invalid_workflow", f"{key!r} is reserved: no job may have it yet.")
        if key not in JobRequest.model_fields:
            raise ApiRefusal(
                "invalid_request",
                f"A job has no {key[:60]!r}, but {', '.join(map(repr, JobRequest.model_fields))}.",
            )
    if (labels := body.get("metadata")) is not None:
        _check_labels(labels)  # has a code of its own
    try:
        request = JobRequest.model_validate(body)
    except ValidationError as error:
        of_workflow = any(one["loc"][:1] == ("workflow",) for one in error.errors())
        code: ErrorCode = "invalid_workflow" if of_workflow else "invalid_request"
        raise ApiRefusal(code, _problem(error)) from None
    if is_ui_format(request.workflow):
        raise ApiRefusal(
            "workflow_format_ui",
            "This is a workflow in UI format. Export it with Workflow > Export (API) in ComfyUI, "
            "and send that.",
        )
    prompt = parse_prompt(request.workflow, "The workflow")
    partner_key = request.extra_data.api_key_comfy_org if request.extra_data else None
    if partner_key and _KEY.fullmatch(partner_key) is None:
        raise ApiRefusal(
            "invalid_request",
            "extra_data.api_key_comfy_org is no key: one has 16 to 1024 characters without spaces.",
        )
    posted = PostedJob(
        prompt,
        tuple(references_in(prompt)),
        dict(request.metadata or {}),
        SecretStr(partner_key) if partner_key else None,
    )
    if len(posted.asset_ids) > _MOST_ASSETS:
        raise ApiRefusal("invalid_request", f"A job refers to {_MOST_ASSETS} assets at most.")
    return posted


def _check_labels(value: JsonValue) -> None:
    """Raises `ApiRefusal` (``metadata_invalid``) for what cannot be a job's labels."""
    if not isinstance(value, dict):
        raise ApiRefusal("metadata_invalid", "metadata is an object of texts.")
    if len(value) > MOST_LABELS:
        raise ApiRefusal(
            "metadata_invalid", f"A job has at most {MOST_LABELS} labels, not {len(value)}."
        )
    for key, label in value.items():
        if not isinstance(label, str):
            raise ApiRefusal("metadata_invalid", f"The label {key[:60]!r} is not a text.")
        if (problem := label_problem(key, label)) is not None:
            raise ApiRefusal("metadata_invalid", problem)


def _problem(error: ValidationError) -> str:
    """The first problem, without the value, which may be a key."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"][:3])
    return f"{where or 'The body'}: {first['msg']}."
