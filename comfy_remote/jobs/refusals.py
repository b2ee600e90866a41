"""What the workflow itself says about a target's refusal: where to get what is missing there."""

from __future__ import annotations

import json

from ..advice import Hint
from ..errors import WorkflowInvalid
from ..net.address import shown
from ..targets.base import RunRequest
from ..types import mapping
from ..wire.repo_list import parse_repo_list
from ..workflow.models import find_models
from ..workflow.packs import CORE, find_packs, pack_for_people
from ..workflow.schema import Schemas

__all__ = ["explained"]


def explained(error: WorkflowInvalid, request: RunRequest) -> WorkflowInvalid:
    """The refusal with the addresses of the models, or the pack of the node, that the target lacks.

    The same error if the workflow says nothing about them. Blocking: it may read the bundled
    schemas.
    """
    return _with_models(error, request) or _with_pack(error, request) or error


def _with_models(error: WorkflowInvalid, request: RunRequest) -> WorkflowInvalid | None:
    said = json.dumps(error.details.get("node_errors"), ensure_ascii=False)
    listed = _in_repo_list(request.repo_list or "")
    lacking: dict[str, str] = {}
    for model in find_models(request.prompt, request.workflow):
        url = model.source.url if model.source is not None else listed.get(_file_name(model.name))
        if url is not None and json.dumps(model.name, ensure_ascii=False)[1:-1] in said:
            lacking[f"{model.folder}/{model.name}"] = shown(url)  # a query may hold a token
    if not lacking:
        return None
    where = "; ".join(f"{name} from {url}" for name, url in lacking.items())
    return WorkflowInvalid(
        f"{error.message} The workflow says where to get what is missing: {where}.",
        advice=Hint.MODELS_LACKING(names=", ".join(lacking)),
        details={**error.details, "missing_models": [*lacking]},
    )


def _in_repo_list(repo_list: str) -> dict[str, str]:
    """The links of a list by the files that they become."""
    try:
        lines = parse_repo_list(repo_list)
    except WorkflowInvalid:
        return {}
    return {_file_name(line.name or line.url.partition("?")[0]): line.url for line in lines}


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _with_pack(error: WorkflowInvalid, request: RunRequest) -> WorkflowInvalid | None:
    refused = mapping(error.details.get("error"))
    missing = mapping(refused.get("extra_info")).get("class_type")
    nodes = {i: node for i, node in request.prompt.items() if node["class_type"] == missing}
    if refused.get("type") != "missing_node_type" or not nodes:
        return None
    [pack] = find_packs(nodes, schemas=Schemas.bundled(), workflow=request.workflow)
    if pack.name is None:
        return None
    advice: str = Hint.PACK_LACKING()
    if pack.name == CORE:
        advice = (
            "Update ComfyUI on the target, and start it again; or choose another target (the "
            "sandbox has only a few nodes)."
        )
    version = f" (saved with {pack.version})" if pack.version else ""
    return WorkflowInvalid(
        f"{error.message} It comes from {pack_for_people(pack.name)}{version}.",
        advice=advice,
        details=error.details,
    )
