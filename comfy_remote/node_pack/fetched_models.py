"""What a target will have once it has fetched the models that travel with a workflow."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import WorkflowInvalid
from ..workflow.models import find_models
from ..workflow.prompt import Prompt
from ..workflow.repo_list import find_repo_list
from ..workflow.schema import Schemas

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["could_be_fetched", "with_fetched_models"]


def with_fetched_models(
    schemas: Schemas, prompt: Prompt, workflow: Mapping[str, JsonValue] | None
) -> Schemas:
    """The schemas of a target that fetches models, as they will be when the prompt runs.

    Models that the workflow says where to get count as there; all models that the prompt names,
    if it has a ``repo_list``, whose links need not tell what their files are called. Should one
    be missing after all, the target says so.
    """
    listed = bool(find_repo_list(prompt, workflow))
    coming: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for model in find_models(prompt, workflow):
        if model.source is None and not listed:
            continue
        for node_id, name in model.places:
            value = prompt[node_id]["inputs"][name]
            if isinstance(value, str):
                coming[prompt[node_id]["class_type"], name].add(value)
    return schemas.with_choices(coming) if coming else schemas


def could_be_fetched(
    refusal: WorkflowInvalid, prompt: Prompt, workflow: Mapping[str, JsonValue] | None
) -> WorkflowInvalid:
    """The refusal of a prompt; with what would help, where it is for want of such models.

    Args:
        refusal: As ComfyUI words it, in ``details``.
    """
    said, error = json.dumps(refusal.details), refusal.details.get("error")
    lacking = [
        f"{model.folder}/{model.name}"
        for model in find_models(prompt, workflow)
        if model.source is not None and json.dumps(model.name)[1:-1] in said
    ]
    if not lacking or not isinstance(error, dict):
        return refusal
    advice = (
        f"The workflow says where to get {', '.join(lacking)}. With DOWNLOAD_MODELS=true the "
        "worker fetches what it lacks; so does `comfy-remote models ensure`, before the run."
    )
    longer: JsonValue = {**error, "details": f"{error.get('details') or ''}\n{advice}".strip()}
    return WorkflowInvalid(
        refusal.message, advice=advice, details={**refusal.details, "error": longer}
    )
