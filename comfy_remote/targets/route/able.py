"""What a member lacks for a request, as far as it says what it has. Nothing is asked here."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ...errors import WorkflowInvalid
from ...schedule.choose import Candidate
from ...workflow.check import Limits, check_prompt
from ...workflow.prompt import Prompt
from ...workflow.schema import Schemas
from ..base import RunRequest
from .member import OpenMember, Seen

__all__ = ["Request", "lacking"]


@dataclass(frozen=True, slots=True)
class Request:
    """What matters of a request here.

    Attributes:
        size: Bytes, its files in base64 included.
        fetchable: The models that a worker could fetch, by name; ``None`` for all of them.
    """

    prompt: Prompt
    size: int
    fetchable: frozenset[str] | None

    @classmethod
    def of(cls, request: RunRequest) -> Request:
        """Of a whole request."""
        files = sum(file.size for file in request.files if file.sha256 not in request.known_inputs)
        named = frozenset(_plain(model.name) for model in request.models)
        return cls(
            request.prompt,
            len(json.dumps(request.prompt)) + files * 4 // 3,
            None if request.repo_list else named,
        )


def lacking(member: OpenMember, seen: Seen, request: Request) -> Candidate:
    """The member as a candidate, with the nodes and models that it does not have."""
    known = seen.capabilities
    nodes = None if known is None else known.nodes
    schemas = Schemas.bundled() if nodes is None else Schemas(nodes, member.name)
    limits = Limits(None, member.result_limit)
    try:
        problems = check_prompt(request.prompt, schemas, limits=limits).problems
    except WorkflowInvalid:
        problems = ()  # each member says so, and in better words
    errors = [one for one in problems if one.severity == "error"]
    missing = [str(one.details["model"]) for one in errors if one.code == "missing_model"]
    if member.fetches(seen):
        fetchable = request.fetchable
        missing = [] if fetchable is None else [n for n in missing if _plain(n) not in fetchable]
    result = next((one.details["at_least"] for one in errors if one.code == "output_too_large"), 0)
    return Candidate(
        member.name,
        missing_nodes=tuple(
            one.node_class or "" for one in errors if one.code == "missing_node_type"
        ),
        missing_models=tuple(dict.fromkeys(missing)),
        size=request.size,
        body_limit=member.body_limit,
        result=result if isinstance(result, int) else None,
        result_limit=member.result_limit,
        memory=None if known is None else known.memory_total,
    )


def _plain(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].casefold()
