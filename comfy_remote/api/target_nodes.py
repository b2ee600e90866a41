"""Which nodes an endpoint's workers have: the endpoint itself accepts any prompt."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ..aio import within
from ..errors import TargetError, WorkflowInvalid
from ..targets.base import DescribesByJob, Target
from ..workflow.prompt import Prompt

if TYPE_CHECKING:
    from ..types import JsonValue

__all__ = ["TargetNodes"]

_FRESH = 300.0
_PATIENCE = 15.0


class TargetNodes:
    """What an endpoint's workers have said of their nodes, asked again when a class is not known.

    Other targets refuse a prompt themselves, when it is submitted.

    Args:
        fresh: Seconds for which a class that was seen needs no look.
    """

    def __init__(self, target: Target, *, fresh: float = _FRESH) -> None:
        self._target = target
        self._fresh = fresh
        self._seen: frozenset[str] = frozenset()
        self._until = 0.0

    async def check(self, prompt: Prompt) -> None:
        """Refuse a prompt with classes that the target lacks.

        Raises:
            WorkflowInvalid: Its workers have said so, and say it now if one is awake. Where they
                have said nothing, all is accepted.
        """
        target, wanted = self._target, {node["class_type"] for node in prompt.values()}
        if not isinstance(target, DescribesByJob):
            return
        if wanted <= self._seen and time.monotonic() < self._until:
            return
        for describe in (target.described_before, target.describe_again):
            try:
                nodes = (await within(describe(), _PATIENCE)).nodes
            except (TargetError, asyncio.TimeoutError):
                return  # the submission says it, if the target is out of reach
            if nodes is None:
                return
            self._seen, self._until = frozenset(nodes), time.monotonic() + self._fresh
            if wanted <= self._seen:
                return
        raise _lacking(prompt, wanted - self._seen)


def _lacking(prompt: Prompt, classes: set[str]) -> WorkflowInvalid:
    errors: dict[str, JsonValue] = {}
    for node_id, node in prompt.items():
        if node["class_type"] in classes:
            error: JsonValue = {
                "type": "missing_node_type",
                "message": "The target has no such node",
                "details": node["class_type"],
                "extra_info": {},
            }
            errors[node_id] = {"class_type": node["class_type"], "errors": [error]}
    names = ", ".join(repr(name[:100]) for name in sorted(classes)[:5])
    return WorkflowInvalid(f"The target has no node {names}.", details={"node_errors": errors})
