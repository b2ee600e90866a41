"""What the record of jobs has of one that came through the API, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ..events import DidItRun, JobState
from ..jobs.record import JobEntry
from ..targets.base import RunRequest
from ..types import JsonValue, mapping
from ..workflow.repo_list import without_repo_list
from .posted import PostedJob

__all__ = ["RecordedJob", "never_accepted", "under_way"]

_KEY = "comfy_api"


@dataclass(frozen=True, slots=True)
class RecordedJob:
    """What is recorded of a posted job besides its request: the record's ``page``.

    Attributes:
        labels: By key.
        nodes: The nodes that were posted otherwise than they were sent, with references to assets.
        keyed: Whether a key for partner nodes came with it, which is stored nowhere.
    """

    labels: Mapping[str, str]
    nodes: Mapping[str, JsonValue]
    keyed: bool

    @classmethod
    def of(cls, posted: PostedJob, request: RunRequest) -> RecordedJob:
        """Of a job that was posted, and what is sent for it."""
        sent = without_repo_list(request.prompt)
        nodes = {name: node for name, node in posted.prompt.items() if sent.get(name) != node}
        return cls(
            posted.labels, cast("dict[str, JsonValue]", nodes), posted.partner_key is not None
        )

    @classmethod
    def read(cls, entry: JobEntry) -> RecordedJob:
        """As an entry has it."""
        said = mapping((entry.page or {}).get(_KEY))
        labels = mapping(said.get("labels"))
        return cls(
            {key: text for key, text in labels.items() if isinstance(text, str)},
            mapping(said.get("nodes")),
            said.get("keyed") is True,
        )

    def page(self) -> dict[str, JsonValue]:
        """As an entry is to have it."""
        return {
            _KEY: {"labels": {**self.labels}, "nodes": {**self.nodes}, "keyed": self.keyed},
        }


def under_way(entry: JobEntry) -> bool:
    """Whether a job has not ended for its client: its outputs may not be here yet."""
    if entry.state is JobState.SUCCEEDED:
        return not entry.outputs
    return not entry.state.final


def never_accepted(entry: JobEntry) -> bool:
    """Whether it is certain that the target never took a job."""
    return entry.state.final and entry.did_it_run is DidItRun.NEVER_ACCEPTED
