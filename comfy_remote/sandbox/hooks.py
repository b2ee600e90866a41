"""What others may put into a sandbox, as node packs put it into a ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pydantic import JsonValue

from .report import RunReport

__all__ = ["Hooks", "PartContext", "PartRunner", "ShownByNode"]

ShownByNode: TypeAlias = "Mapping[str, Mapping[str, JsonValue]]"
"""What nodes show (``{"images": […]}``), by their id."""


class PartContext(Protocol):
    """The node that stands for a part, while it runs."""

    node_id: str
    extra_pnginfo: Mapping[str, JsonValue]
    report: RunReport

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Interrupted: Somebody asked to stop.
        """


class PartRunner(Protocol):
    """Runs a part of a prompt elsewhere, in the calling thread."""

    def __call__(
        self, context: PartContext, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], ShownByNode]:
        """The items of each of its outputs, and what its nodes show.

        Args:
            part: JSON text: see `workflow.cut.plan.part_node`.
            values: The items of each of its inputs.
        """


@dataclass(slots=True)
class Hooks:
    """Empty, unless somebody has put something in.

    Attributes:
        prompts: Each may change what is posted to ``/prompt``.
        run_part: Runs what `ComfyRemotePart` stands for.
    """

    prompts: list[Callable[[dict[str, JsonValue]], dict[str, JsonValue]]] = field(
        default_factory=list
    )
    run_part: PartRunner | None = None
