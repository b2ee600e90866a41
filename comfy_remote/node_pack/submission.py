"""What a page posts to ``/prompt``, read; and ComfyUI's way to refuse it."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..clean import cleaned_json
from ..errors import ComfyRemoteError, WorkflowInvalid
from ..targets.base import CHOICE_KEY
from ..workflow.check import validate_for
from ..workflow.cut import marks_in
from ..workflow.graph import needed_nodes, output_nodes
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from ..workflow.spelling import as_listed
from .advice import for_page
from .trusted_targets import SENDING_NODES

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = [
    "Checked",
    "Submission",
    "check",
    "leaves_this_machine",
    "refusal_body",
    "wanted_target",
    "workflow_of",
]

_log = logging.getLogger(__name__)

# Logins of comfy.org, which ComfyUI keeps out of its queue and history, too.
_SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt that a page wants to run.

    Attributes:
        prompt_id: The page's, or a new one.
        prompt: All of it, as the page sent it.
        only_outputs: The output nodes that shall run; ``None`` for all.
        extra_data: Without secrets, with ``client_id`` and ``create_time``.
        front: Whether it shall go before what waits.
        number: The place in the queue that the page asks for.
    """

    prompt_id: str
    prompt: Prompt
    only_outputs: list[str] | None
    extra_data: dict[str, JsonValue]
    front: bool = False
    number: float | None = None

    @classmethod
    def parse(cls, body: Mapping[str, JsonValue], target: str) -> Submission:
        """Read the body of ``POST /prompt``, which has a ``prompt``.

        Raises:
            WorkflowInvalid: It cannot be run.
        """
        prompt = parse_prompt(body["prompt"], "The prompt", check_links=False)
        extra = body.get("extra_data")
        extra_data = {
            key: value
            for key, value in (extra.items() if isinstance(extra, dict) else ())
            if key not in _SECRET_KEYS
        }
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        extra_data["create_time"] = int(time.time() * 1000)
        extra_data[CHOICE_KEY] = {"target": target}
        wanted = body.get("partial_execution_targets")
        return cls(
            prompt_id=_prompt_id(body.get("prompt_id")),
            prompt=prompt,
            only_outputs=[str(node_id) for node_id in wanted] if isinstance(wanted, list) else None,
            extra_data=extra_data,
            front=bool(body.get("front")),
            number=_number(body.get("number")),
        )

    @property
    def workflow(self) -> dict[str, JsonValue] | None:
        """The UI-format workflow that the page wants embedded in what is saved."""
        workflow = workflow_of({"extra_data": self.extra_data})
        return None if workflow is None else dict(workflow)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is to run of a prompt.

    Attributes:
        prompt: The part of it that is needed for the outputs.
        outputs: The output nodes that will run.
        node_errors: What is wrong with those that will not, in ComfyUI's own form.
    """

    prompt: Prompt
    outputs: list[str]
    node_errors: dict[str, JsonValue]


def check(submission: Submission, schemas: Schemas | None) -> Checked:
    """Validate a prompt as the target's own ComfyUI would.

    Args:
        schemas: The target's; ``None`` when it does not say: then it finds out itself.

    Raises:
        WorkflowInvalid: Nothing of it can run; `refusal_body` makes ComfyUI's 400 of it.
    """
    prompt, only = submission.prompt, submission.only_outputs
    if schemas is None:
        parse_prompt(cast("JsonValue", prompt), "The prompt")
        outputs = output_nodes(prompt) if only is None else [n for n in only if n in prompt]
        if not outputs:
            raise _refused("prompt_no_outputs", "Prompt has no outputs", "")
        needed = list(prompt) if only is None else needed_nodes(prompt, outputs)
        return Checked(_part(prompt, needed), outputs, {})
    prompt, respelled = as_listed(prompt, schemas)
    for note in respelled:
        _log.info("%s", note)
    validated = validate_for(prompt, schemas, only)
    if validated.error is not None:
        message = str(validated.error.get("message"))
        raise WorkflowInvalid(message, details=validated.to_json())
    needed = list(prompt)
    if only is not None or validated.node_errors:
        needed = needed_nodes(prompt, validated.outputs)
    return Checked(_part(prompt, needed), validated.outputs, validated.node_errors)


def _part(prompt: Prompt, needed: list[str]) -> Prompt:
    return {node_id: prompt[node_id] for node_id in needed}


def wanted_target(body: Mapping[str, JsonValue]) -> tuple[bool, str | None]:
    """What the prompt itself says: whether it says anything, and the target (or this machine)."""
    extra = body.get("extra_data")
    choice = extra.get(CHOICE_KEY) if isinstance(extra, dict) else None
    if not isinstance(choice, dict) or "target" not in choice:
        return False, None
    target = choice["target"]
    return True, target if isinstance(target, str) and target else None


def leaves_this_machine(body: Mapping[str, JsonValue]) -> bool:
    """Whether what a page posts asks for anything to be sent elsewhere, as it stands.

    Args:
        body: Of ``POST /prompt``.
    """
    _, target = wanted_target(body)
    prompt = body.get("prompt")
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    classes = {str(node.get("class_type")) for node in nodes if isinstance(node, dict)}
    workflow = workflow_of(body)
    marked = workflow is not None and bool(marks_in(workflow))
    return target is not None or marked or not classes.isdisjoint(SENDING_NODES)


def workflow_of(body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    """The UI-format workflow in what a page posts to ``/prompt``."""
    extra = body.get("extra_data")
    info = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
    workflow = info.get("workflow") if isinstance(info, dict) else None
    return workflow if isinstance(workflow, dict) else None


def refusal_body(error: ComfyRemoteError) -> dict[str, JsonValue]:
    """The body of a 400 to ``/prompt``: ``{"error", "node_errors"}``.

    A refusal by the target's own ComfyUI is passed on as it was; the page marks its nodes.
    """
    node_errors = error.details.get("node_errors")
    theirs = error.details.get("error")
    if not isinstance(theirs, dict) or "message" not in theirs:
        theirs = {
            "type": error.code,
            "message": error.message,
            "details": for_page(error.advice),
            "extra_info": {},
        }
    return cleaned_json(
        {
            "error": theirs,
            "node_errors": node_errors if isinstance(node_errors, dict) else {},
        }
    )


def _prompt_id(value: JsonValue) -> str:
    if value is None:
        return str(uuid.uuid4())
    try:
        if isinstance(value, str) and str(uuid.UUID(value)) == value:
            return value
    except ValueError:
        pass
    raise _refused(
        "invalid_prompt_id",
        "prompt_id must be a valid UUID",
        "Use the lower-case form with hyphens, or leave it out.",
    )


def _number(value: JsonValue) -> float | None:
    if value is None:
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if math.isfinite(number):  # neither NaN nor infinity can be sent to a page, as JSON
        return number
    raise _refused("invalid_prompt", "number is not a number", str(value))


def _refused(kind: str, message: str, details: str) -> WorkflowInvalid:
    error: JsonValue = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return WorkflowInvalid(f"{message}.", advice=details, details={"error": error})
