"""What a page posts to ``/prompt``: read, and checked as ComfyUI does."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ..errors import WorkflowInvalid
from ..targets.base import CHOICE_KEY
from ..types import JsonValue, mapping
from ..workflow.check import validate_for
from ..workflow.cut import marks_in
from ..workflow.graph import needed_nodes, output_nodes
from ..workflow.load import parse_prompt
from ..workflow.output_nodes import ADD_AN_OUTPUT
from ..workflow.prompt import Prompt
from ..workflow.repo_list import find_repo_list, without_repo_list
from ..workflow.schema import Schemas
from ..workflow.spelling import as_listed
from .trusted_targets import SENDING_NODES

__all__ = ["Checked", "PagePrompt", "Posted", "check"]

_log = logging.getLogger(__name__)

# Logins of comfy.org, which ComfyUI keeps out of its queue and history, too.
_SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass(frozen=True, slots=True)
class Posted:
    """The body of ``POST /prompt`` as it stands: anything may be in it."""

    body: Mapping[str, JsonValue]

    @property
    def client_id(self) -> str | None:
        """The page that sent it."""
        client_id = self.body.get("client_id")
        return client_id if isinstance(client_id, str) else None

    @property
    def extra_data(self) -> Mapping[str, JsonValue]:
        """What comes with the prompt."""
        return mapping(self.body.get("extra_data"))

    @property
    def only_outputs(self) -> list[str] | None:
        """The output nodes to run; ``None`` for all."""
        wanted = self.body.get("partial_execution_targets")
        return [str(node_id) for node_id in wanted] if isinstance(wanted, list) else None

    @property
    def workflow(self) -> Mapping[str, JsonValue] | None:
        """The prompt in UI format."""
        workflow = mapping(self.extra_data.get("extra_pnginfo")).get("workflow")
        return workflow if isinstance(workflow, dict) else None

    @property
    def has_marks(self) -> bool:
        """Whether anything in the workflow is marked to run elsewhere."""
        workflow = self.workflow
        return workflow is not None and bool(marks_in(workflow))

    @property
    def choice(self) -> tuple[bool, str | None]:
        """Whether it says where to run, and the target (``None`` for this machine)."""
        choice = mapping(self.extra_data.get(CHOICE_KEY))
        target = choice.get("target")
        return "target" in choice, target if isinstance(target, str) and target else None

    @property
    def leaves_this_machine(self) -> bool:
        """Whether it asks for anything to be sent elsewhere."""
        nodes = mapping(self.body.get("prompt")).values()
        classes = {str(mapping(node).get("class_type")) for node in nodes}
        _, target = self.choice
        return target is not None or self.has_marks or not classes.isdisjoint(SENDING_NODES)


@dataclass(frozen=True, slots=True)
class PagePrompt:
    """A prompt that a page wants to run.

    Attributes:
        prompt_id: The page's, or a new one.
        prompt: All of it, as the page sent it.
        only_outputs: The output nodes to run; ``None`` for all.
        extra_data: Without secrets, with ``client_id`` and ``create_time``.
        number: The position in the queue that the page asks for.
        repo_list: What its node titled ``repo_list`` says; ``""`` to skip it.
    """

    prompt_id: str
    prompt: Prompt
    only_outputs: list[str] | None
    extra_data: dict[str, JsonValue]
    front: bool = False
    number: float | None = None
    repo_list: str = ""

    @classmethod
    def parse(
        cls, body: Mapping[str, JsonValue], target: str, *, with_repo_list: bool = True
    ) -> PagePrompt:
        """Read the body of ``POST /prompt``, which has a ``prompt``."""
        prompt = parse_prompt(body["prompt"], "The prompt", check_links=False)
        posted = Posted(body)
        extra_data = {k: v for k, v in posted.extra_data.items() if k not in _SECRET_KEYS}
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        extra_data["create_time"] = int(time.time() * 1000)
        extra_data[CHOICE_KEY] = {"target": target}
        return cls(
            prompt_id=_prompt_id(body.get("prompt_id")),
            prompt=prompt,
            only_outputs=posted.only_outputs,
            extra_data=extra_data,
            front=bool(body.get("front")),
            number=_number(body.get("number")),
            repo_list=find_repo_list(prompt, posted.workflow) if with_repo_list else "",
        )

    @property
    def workflow(self) -> dict[str, JsonValue] | None:
        """The UI-format workflow that the page wants embedded in what is saved."""
        workflow = Posted({"extra_data": self.extra_data}).workflow
        return None if workflow is None else dict(workflow)


@dataclass(frozen=True, slots=True)
class Checked:
    """The part of a prompt that will run.

    Attributes:
        prompt: The part of it that is needed for the outputs.
        outputs: The output nodes that will run.
        node_errors: Why the others will not, in ComfyUI's own form.
    """

    prompt: Prompt
    outputs: list[str]
    node_errors: dict[str, JsonValue]


def check(wanted: PagePrompt, schemas: Schemas | None) -> Checked:
    """Validate a prompt as the target's own ComfyUI would.

    Args:
        schemas: The target's; ``None`` where unknown: the target then checks it itself.

    Raises:
        WorkflowInvalid: No part of it can run; `refusals` turns this into ComfyUI's 400.
    """
    prompt, only = without_repo_list(wanted.prompt), wanted.only_outputs
    if schemas is None:
        parse_prompt(cast("JsonValue", prompt), "The prompt")
        outputs = output_nodes(prompt) if only is None else [n for n in only if n in prompt]
        if not outputs:
            raise _no_outputs()
        needed = list(prompt) if only is None else needed_nodes(prompt, outputs)
        return Checked(_part(prompt, needed), outputs, {})
    prompt, respelled = as_listed(prompt, schemas)
    for note in respelled:
        _log.info("%s", note)
    validated = validate_for(prompt, schemas, only)
    if validated.error is not None and validated.error.get("type") == "prompt_no_outputs":
        raise _no_outputs()
    if validated.error is not None:
        message = str(validated.error.get("message"))
        raise WorkflowInvalid(message, details=validated.to_json())
    needed = list(prompt)
    if only is not None or validated.node_errors:
        needed = needed_nodes(prompt, validated.outputs)
    return Checked(_part(prompt, needed), validated.outputs, validated.node_errors)


def _part(prompt: Prompt, needed: list[str]) -> Prompt:
    return {node_id: prompt[node_id] for node_id in needed}


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
        "Use the lower-case form with hyphens, or omit it.",
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


def _no_outputs() -> WorkflowInvalid:
    # The page has words of its own for this type, and shows the details below them.
    return _refused("prompt_no_outputs", "Prompt has no outputs", ADD_AN_OUTPUT)


def _refused(kind: str, message: str, details: str) -> WorkflowInvalid:
    error: JsonValue = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return WorkflowInvalid(f"{message}.", advice=details, details={"error": error})
