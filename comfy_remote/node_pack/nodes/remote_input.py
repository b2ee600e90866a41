"""Remote Input: where a caller's value enters the workflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...media.remote_values import items_of_file, items_of_text, no_value, state_of_file
from ...workflow.files import file_below
from ...workflow.interface import REMOTE_INPUT
from .comfyui import CATEGORY
from .run_values import RunValues
from .value_objects import ADAPTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ComfyRemoteInput"]


class ComfyRemoteInput(io.ComfyNode):
    """Gives what the caller sent for its key, else its fallback.

    ComfyUI hands every input over as a list, since the fallback may be one.
    """

    # ComfyUI makes no instance of a node that stays: a program in this process reaches the node
    # by its class.
    _injected: ClassVar[RunValues] = RunValues()

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The inputs that workflows have saved; new ones only ever at the end."""
        return io.Schema(
            node_id=REMOTE_INPUT,
            display_name="Remote Input",
            category=CATEGORY,
            description="Where a caller's value enters the workflow. Run here, it gives what is "
            "connected to fallback.",
            inputs=[
                io.String.Input("key", default="payload", tooltip="What callers call this value."),
                io.AnyType.Input(
                    "fallback",
                    optional=True,
                    lazy=True,
                    tooltip="The value when no caller gives one: for trying the workflow here.",
                ),
                hidden_away(optional_text("value", "Set by callers: a plain value, as JSON.")),
                hidden_away(
                    optional_text("file", "Set by callers: a value file in the input folder.")
                ),
            ],
            outputs=[io.AnyType.Output(display_name="value", is_output_list=True)],
            is_input_list=True,
        )

    @classmethod
    def inject_payload(
        cls, node_id: str, payload: Mapping[str, object], *, prompt_id: str | None = None
    ) -> None:
        """Give a node its value for a run in this process, before the run.

        Args:
            node_id: In the prompt that will run.
            payload: ``{key: value}``; the value is one item, also when it is a Python list.
            prompt_id: Of the run; without it, the node's next run takes it. Of each node, the
                last four payloads that were not taken are stored.
        """
        cls._injected.put(node_id, payload, prompt_id)

    @classmethod
    def validate_inputs(cls, file: str | Sequence[str] | None = None) -> bool | str:
        """Check that the value file exists; ComfyUI itself does not."""
        name = _first(file)
        path = _path_of(name) if name else None
        return f"Invalid value file: {name}" if name and path is None else True

    @classmethod
    def fingerprint_inputs(cls, file: Sequence[str] | None = None, **_: object) -> str:
        """What the value depends on besides the inputs: the file, and what was injected."""
        name = _first(file)
        path = _path_of(name) if name else None
        context = get_executing_context()
        injected = cls._injected.number(context.node_id, context.prompt_id) if context else 0
        return f"{state_of_file(path) if path else ''} {injected or ''}".strip()

    @classmethod
    def check_lazy_status(
        cls, value: Sequence[str] | None = None, file: Sequence[str] | None = None, **more: object
    ) -> list[str]:
        """Ask for the fallback only when it is needed."""
        context = get_executing_context()
        injected = cls._injected.number(context.node_id, context.prompt_id) if context else 0
        given = injected or _first(value) or _first(file)
        return ["fallback"] if "fallback" in more and not given else []

    @classmethod
    def execute(
        cls,
        key: Sequence[str],
        fallback: list[object] | None = None,
        value: Sequence[str] | None = None,
        file: Sequence[str] | None = None,
    ) -> io.NodeOutput:
        """The value, as a list."""
        name = key[0]
        context = get_executing_context()
        payload = cls._injected.take(context.node_id, context.prompt_id) if context else None
        if payload is not None and name in payload:
            return io.NodeOutput([payload[name]])
        if named := _first(file):
            path = _path_of(named) or Path(named)
            return io.NodeOutput(items_of_file(path, name, tensors="torch", adapters=ADAPTERS))
        if text := _first(value):
            return io.NodeOutput(items_of_text(text, name))
        if fallback is None:
            raise no_value(name)
        return io.NodeOutput(list(fallback))


def optional_text(
    name: str, tooltip: str, default: str = "", *, multiline: bool = False
) -> io.String.Input:
    """A text widget that may be left out of a prompt."""
    return io.String.Input(
        name, default=default, optional=True, multiline=multiline, tooltip=tooltip
    )


def hidden_away(widget: io.WidgetInput) -> io.WidgetInput:
    """A widget that the page shows under "advanced" (ComfyUI since 0.5)."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def _first(given: str | Sequence[str] | None) -> str:
    """An input's one value: ComfyUI hands over a list, or the value itself when it validates."""
    if given is None or isinstance(given, str):
        return given or ""
    return str(given[0] or "") if given else ""


def _path_of(name: str) -> Path | None:
    """The value file of that name, if it is one, and below the input folder."""
    return file_below(Path(folder_paths.get_input_directory()), name)
