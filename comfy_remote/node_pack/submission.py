"""What a page posts to ``/prompt``, read; and ComfyUI's way to refuse it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ComfyRemoteError, WorkflowInvalid
from ..targets.comfyui_progress import nodes_needed
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt, is_link

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["CHOICE_KEY", "Submission", "refusal_body", "wanted_target"]

CHOICE_KEY = "comfy_remote"
"""In ``extra_data``: ``{"target": NAME}``, or ``{"target": null}`` for this machine."""

# Logins of comfy.org, which ComfyUI keeps out of its queue and history, too.
_SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt that a page wants to run.

    Attributes:
        prompt_id: The page's, or a new one.
        whole: The prompt as the page sent it.
        prompt: The part of it that shall run.
        outputs: The output nodes asked for; empty for all.
        extra_data: Without secrets, with ``client_id`` and ``create_time``.
        front: Whether it shall go before what waits.
        number: The place in the queue that the page asks for.
    """

    prompt_id: str
    whole: Prompt
    prompt: Prompt
    outputs: list[str]
    extra_data: dict[str, JsonValue]
    front: bool = False
    number: float | None = None

    @classmethod
    def parse(cls, body: Mapping[str, JsonValue], target: str) -> Submission:
        """Read the body of ``POST /prompt``, which has a ``prompt``.

        Raises:
            WorkflowInvalid: It cannot be run.
        """
        whole = parse_prompt(body["prompt"], "The prompt")
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
        prompt, outputs = _part(whole, body.get("partial_execution_targets"))
        return cls(
            prompt_id=_prompt_id(body.get("prompt_id")),
            whole=whole,
            prompt=prompt,
            outputs=outputs,
            extra_data=extra_data,
            front=bool(body.get("front")),
            number=_number(body.get("number")),
        )

    @property
    def workflow(self) -> dict[str, JsonValue] | None:
        """The UI-format workflow that the page wants embedded in what is saved."""
        info = self.extra_data.get("extra_pnginfo")
        workflow = info.get("workflow") if isinstance(info, dict) else None
        return workflow if isinstance(workflow, dict) else None


def wanted_target(body: Mapping[str, JsonValue]) -> tuple[bool, str | None]:
    """What the prompt itself says: whether it says anything, and the target (or this machine)."""
    extra = body.get("extra_data")
    choice = extra.get(CHOICE_KEY) if isinstance(extra, dict) else None
    if not isinstance(choice, dict) or "target" not in choice:
        return False, None
    target = choice["target"]
    return True, target if isinstance(target, str) and target else None


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
            "details": error.advice,
            "extra_info": {},
        }
    return {
        "error": theirs,
        "node_errors": node_errors if isinstance(node_errors, dict) else {},
    }


def _part(whole: Prompt, wanted: JsonValue) -> tuple[Prompt, list[str]]:
    """What runs when only some outputs are wanted: those and all they depend on."""
    if not isinstance(wanted, list):
        return whole, _last_nodes(whole)
    outputs = [node_id for node_id in map(str, wanted) if node_id in whole]
    if not outputs:
        raise WorkflowInvalid(
            "None of the nodes that were to run is in the prompt.",
            details={
                "error": {
                    "type": "prompt_no_outputs",
                    "message": "Prompt has no outputs",
                    "details": "",
                    "extra_info": {},
                }
            },
        )
    needed = nodes_needed(whole, outputs)
    return {node_id: node for node_id, node in whole.items() if node_id in needed}, outputs


def _last_nodes(prompt: Prompt) -> list[str]:
    """The nodes whose results no other takes: with all of them, everything runs."""
    taken = {
        value[0]
        for node in prompt.values()
        for value in node["inputs"].values()
        if is_link(value) and isinstance(value, list)
    }
    return [node_id for node_id in prompt if node_id not in taken]


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
        return float(str(value))
    except ValueError:
        raise _refused("invalid_prompt", "number is not a number", str(value)) from None


def _refused(kind: str, message: str, details: str) -> WorkflowInvalid:
    error: JsonValue = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return WorkflowInvalid(f"{message}.", advice=details, details={"error": error})
