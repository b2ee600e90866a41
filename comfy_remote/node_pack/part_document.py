"""What a Remote part node runs: the JSON text in its input ``part``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ..errors import WorkflowInvalid
from ..workflow.interface import Interface
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt

__all__ = ["PartDocument", "PartValue"]


class PartValue(BaseModel):
    """One value that crosses."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: str
    type: str


class PartDocument(BaseModel):
    """See `workflow.cut.plan.part_node`, which writes it.

    Attributes:
        files: SHA-256 of the files it loads, by name, so that the text changes with the files.
        images: How pictures travel there; see `media.values.encode`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    prompt: dict[str, JsonValue]
    inputs: list[PartValue] = []
    outputs: list[PartValue] = []
    files: dict[str, str] = {}
    images: Literal["exact", "png", "webp"] = "exact"

    @classmethod
    def parse(cls, text: str) -> PartDocument:
        """The document in a node's input.

        Raises:
            WorkflowInvalid: It was not written by Comfy Remote.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise WorkflowInvalid(
                "Remote part does not say what to run.",
                advice="It is made where nodes are marked to run elsewhere, and by nothing else: "
                "mark them again, and queue the workflow from the page.",
            ) from None

    def runnable(self) -> Prompt:
        """Its prompt, checked."""
        return parse_prompt(dict(self.prompt), "The part")

    def page_nodes(self) -> frozenset[str]:
        """Its nodes that are in the page, too: all but those where values enter and leave."""
        interface = Interface.of(self.runnable())
        entries = ((interface.inputs, self.inputs), (interface.outputs, self.outputs))
        added = {
            entry.node_id
            for found, ours in entries
            for entry in found
            if entry.key in {one.key for one in ours}
        }
        return frozenset(self.prompt) - added
