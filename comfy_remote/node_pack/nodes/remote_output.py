"""Remote Output: where a result leaves the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...media.remote_values import VALUES_KEY, keep_value
from ...workflow.interface import REMOTE_OUTPUT, content_hash_in
from .comfyui import CATEGORY, type_of_link
from .remote_input import hidden_away
from .run_values import RunValues
from .value_objects import ADAPTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...media.values import ImageFormat

__all__ = ["ComfyRemoteOutput"]


class ComfyRemoteOutput(io.ComfyNode):
    """Passes its value on and, where a caller asks for it, writes it as a value file."""

    # See ComfyRemoteInput: reached by the class.
    # In the page nobody pops what it makes; ComfyUI's cache holds the newest anyway.
    _made: ClassVar[RunValues] = RunValues(unasked=1)

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The inputs that workflows have saved; new ones only ever at the end."""
        return io.Schema(
            node_id=REMOTE_OUTPUT,
            display_name="Remote Output",
            category=CATEGORY,
            description="Where a result leaves the workflow, for whoever called it.",
            inputs=[
                io.AnyType.Input("value", tooltip="The result: any type."),
                io.String.Input("key", default="result", tooltip="What callers call this result."),
                hidden_away(
                    io.Boolean.Input(
                        "send",
                        default=False,
                        optional=True,
                        tooltip="Set by callers: write the value into a file for them.",
                    )
                ),
                hidden_away(
                    io.Combo.Input(
                        "images",
                        options=["exact", "png", "webp"],
                        default="exact",
                        optional=True,
                        tooltip="Set by callers: how pictures go into that file. PNG and WebP "
                        "round each value to 8 bits.",
                    )
                ),
            ],
            outputs=[io.AnyType.Output(display_name="value", is_output_list=True)],
            hidden=[io.Hidden.dynprompt],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def pop_output(cls, node_id: str, *, prompt_id: str | None = None) -> dict[str, object] | None:
        """Take what a node made in a run in this process: ``{key: value}``.

        Args:
            node_id: In the prompt that ran.
            prompt_id: Of the run; without it, the node's newest.

        Returns:
            The value, or the list of values where there is more than one. ``None`` if it was
            taken already, the node came from ComfyUI's cache, it sent its value to a caller, or
            newer runs have displaced it: four, or one before the first pop.
        """
        if prompt_id is None:
            return cls._made.take_newest(node_id)
        return cls._made.take(node_id, prompt_id)

    @classmethod
    def execute(
        cls,
        value: list[object],
        key: Sequence[str],
        send: Sequence[bool] | None = None,
        images: Sequence[ImageFormat] | None = None,
    ) -> io.NodeOutput:
        """The same value; shown in the history as a file, where it is sent."""
        context = get_executing_context()
        items = list(value)
        if send and send[0]:
            # All of the node's inputs in the prompt, also those that it does not declare.
            inputs = cls.hidden.dynprompt.get_node(context.node_id)["inputs"] if context else {}
            stored = keep_value(
                items,
                type_of_link(cls.hidden.dynprompt, inputs.get("value")),
                Path(folder_paths.get_temp_directory()),
                images=images[0] if images else "exact",
                adapters=ADAPTERS,
                content_hash=content_hash_in(inputs),
            )
            return io.NodeOutput(items, ui={VALUES_KEY: [stored.shown(key[0])]})
        if context is not None:
            payload = {key[0]: items[0] if len(items) == 1 else items}
            cls._made.put(context.node_id, payload, context.prompt_id)
        return io.NodeOutput(items)
