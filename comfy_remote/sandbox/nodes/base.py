"""What every node is built on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from pydantic import JsonValue

from ...workflow.prompt import Prompt
from ..folders import Folders
from .schema import NodeSchema

__all__ = [
    "ImageBatch",
    "Interrupted",
    "MaskBatch",
    "Node",
    "NodeContext",
    "NodeResult",
    "saved_file",
]

ImageBatch: TypeAlias = npt.NDArray[np.float32]
"""ComfyUI's IMAGE: ``[batch, height, width, 3]``, float32 in 0..1, RGB. Never written to."""

MaskBatch: TypeAlias = npt.NDArray[np.float32]
"""ComfyUI's MASK: ``[batch, height, width]``, float32 in 0..1. Never written to."""


class Interrupted(Exception):
    """The running prompt was interrupted."""


class NodeContext(Protocol):
    """What a running node may use of the engine."""

    folders: Folders
    prompt: Prompt
    extra_pnginfo: Mapping[str, JsonValue]
    own_process: bool
    """Whether the engine runs in a process of its own, which a node may end."""
    node_id: str
    """The node that runs."""

    def linked_type(self, name: str) -> str | None:
        """The type of what the running node's input is linked to; ``None`` without a link."""

    def run_part(
        self, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], Mapping[str, Mapping[str, JsonValue]]]:
        """Run a part of the prompt elsewhere; see `engine.PartRunner`.

        Raises:
            WorkflowInvalid: Nothing is installed here that could.
        """

    def progress(
        self, value: int, maximum: int, preview: Image | None = None, *, whole: bool = False
    ) -> None:
        """Report ``value`` of ``maximum`` steps; a ``whole`` preview is sent without loss.

        Raises:
            Interrupted: The prompt was interrupted.
        """

    def sleep(self, seconds: float) -> None:
        """Wait; raises `Interrupted` if the prompt is interrupted."""


def saved_file(filename: str, subfolder: str, folder_type: str) -> dict[str, JsonValue]:
    """A file as a node lists it in its ``ui``."""
    return {"filename": filename, "subfolder": subfolder, "type": folder_type}


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a run of a node gave.

    Attributes:
        values: One for each output of the schema; of an output that is a list, all its items.
        ui: What the history shows under the node's id; empty for nodes that show nothing.
    """

    values: Sequence[object] = ()
    ui: Mapping[str, JsonValue] | None = None


class Node(ABC):
    """One class of node. An instance lives as long as its node id keeps its class."""

    schema: ClassVar[NodeSchema]

    own_checks: ClassVar[frozenset[str]] = frozenset()
    """Inputs that `check` judges, instead of their limits and choices."""

    # Each node's `run` names its own inputs; `Any` is how a base says so to the type checker.
    @abstractmethod
    def run(self, context: NodeContext, *args: Any, **kwargs: Any) -> NodeResult:
        """Do the work. Called with the inputs of the schema by name."""

    @classmethod
    def check(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str | None:  # noqa: ARG003
        """What is wrong with the literal inputs; ``None`` when nothing is."""
        return None

    @classmethod
    def fingerprint(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str:  # noqa: ARG003
        """What the result depends on besides the inputs, for example a file's content."""
        return ""
