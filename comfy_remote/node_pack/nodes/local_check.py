"""A workflow checked as ComfyUI checks what is queued."""

from __future__ import annotations

import json
import uuid
from typing import cast

import execution

from ...targets.comfyui.queue import refusal
from ...workflow.graph import execution_order
from ...workflow.prompt import Prompt
from ...workflow.spelling import as_listed, classes_with_paths
from .local_schemas import local_schemas

__all__ = ["checked"]


async def checked(prompt: Prompt) -> Prompt:
    """The part of a prompt that would run here, with its values as the nodes want them.

    ComfyUI checks no node of an expansion, and turns none of its "20" into a 20.

    Raises:
        WorkflowInvalid: ComfyUI would refuse it.
    """
    listed, _ = as_listed(prompt, local_schemas(classes_with_paths(prompt)))
    copy = cast("Prompt", json.loads(json.dumps(listed)))
    valid, error, outputs, node_errors = await execution.validate_prompt(
        str(uuid.uuid4()), copy, None
    )
    if not valid:
        answer = {"error": error, "node_errors": node_errors}
        raise refusal(json.dumps(answer, default=str).encode())
    wanted = set(execution_order(copy, [str(node_id) for node_id in outputs]))
    return {node_id: node for node_id, node in copy.items() if node_id in wanted}
