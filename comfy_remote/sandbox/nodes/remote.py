"""Where a caller's values enter a workflow, and where results leave it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pydantic import JsonValue

from ...media.remote_values import (
    VALUES_KEY,
    items_of_file,
    items_of_text,
    keep_value,
    no_value,
    state_of_file,
)
from ...workflow.interface import (
    ANY,
    MOST_PART_VALUES,
    REMOTE_INPUT,
    REMOTE_OUTPUT,
    REMOTE_PART,
    REMOTE_SHOWN,
    content_hash_in,
)
from ..folders import Folders, PathOutsideFolder
from .base import Node, NodeContext, NodeResult
from .schema import Input, NodeSchema, Output, string

if TYPE_CHECKING:
    from ...media.values import ImageFormat

__all__ = ["ComfyRemoteInput", "ComfyRemoteOutput", "ComfyRemotePart", "ComfyRemoteShown"]

_schema = partial(
    NodeSchema, category="utils/remote", style="v3", module="custom_nodes.comfy-remote"
)


class ComfyRemoteInput(Node):
    """Gives what the caller sent for its key, else its fallback."""

    own_checks = frozenset({"file"})

    schema = _schema(
        name=REMOTE_INPUT,
        display_name="Remote Input",
        description="Where a caller's value enters the workflow.",
        inputs=(
            string("key", "payload"),
            Input("fallback", ANY, required=False),
            Input("value", "STRING", {"default": "", "advanced": True}, required=False),
            Input("file", "STRING", {"default": "", "advanced": True}, required=False),
        ),
        outputs=(Output(ANY, "value", is_list=True),),
        input_is_list=True,
    )

    def run(
        self,
        context: NodeContext,
        key: list[str],
        fallback: list[object] | None = None,
        value: list[str] | None = None,
        file: list[str] | None = None,
    ) -> NodeResult:
        name = key[0]
        if file and file[0]:
            path = context.folders.input_path(file[0])
            return NodeResult([items_of_file(path, name, tensors="numpy")])
        if value and value[0]:
            return NodeResult([items_of_text(value[0], name)])
        if fallback is None:
            raise no_value(name)
        return NodeResult([fallback])

    @classmethod
    def check(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str | None:
        name = inputs.get("file") or ""
        try:
            found = not name or (isinstance(name, str) and folders.input_path(name).is_file())
        except PathOutsideFolder:
            found = False
        return None if found else f"Invalid value file: {name}"

    @classmethod
    def fingerprint(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str:
        name = inputs.get("file")
        return state_of_file(folders.input_path(name)) if isinstance(name, str) and name else ""


class ComfyRemoteOutput(Node):
    """Passes its value on and, where a caller asks for it, writes it as a value file."""

    schema = _schema(
        name=REMOTE_OUTPUT,
        display_name="Remote Output",
        description="Where a result leaves the workflow.",
        inputs=(
            Input("value", ANY),
            string("key", "result"),
            Input("send", "BOOLEAN", {"default": False, "advanced": True}, required=False),
            Input(
                "images",
                "COMBO",
                {"default": "exact", "advanced": True},
                required=False,
                choices=lambda _folders: ("exact", "png", "webp"),
            ),
        ),
        outputs=(Output(ANY, "value", is_list=True),),
        output_node=True,
        input_is_list=True,
    )

    def run(
        self,
        context: NodeContext,
        value: list[object],
        key: list[str],
        send: list[bool] | None = None,
        images: list[ImageFormat] | None = None,
    ) -> NodeResult:
        if not (send and send[0]):
            return NodeResult([value])
        kind = context.linked_type("value") or ANY
        inputs = context.prompt[context.node_id]["inputs"]
        kept = keep_value(
            *(value, kind, context.folders.root / "temp"),
            images=images[0] if images else "exact",
            content_hash=content_hash_in(inputs),
        )
        return NodeResult([value], {VALUES_KEY: [kept.shown(key[0])]})


class ComfyRemotePart(Node):
    """Stands for nodes of the prompt that run elsewhere."""

    schema = _schema(
        name=REMOTE_PART,
        display_name="Remote part",
        description="Stands for nodes that are marked to run elsewhere.",
        inputs=(
            string("part", ""),
            *(Input(f"value_{number}", ANY, required=False) for number in range(MOST_PART_VALUES)),
        ),
        outputs=(
            *(Output(ANY, f"result_{number}", is_list=True) for number in range(MOST_PART_VALUES)),
            Output(ANY, "shown"),
        ),
        output_node=True,
        deprecated=True,
        input_is_list=True,
    )

    def run(self, context: NodeContext, part: list[str], **values: list[object]) -> NodeResult:
        given = [values[f"value_{number}"] for number in range(len(values))]
        results, shown = context.run_part(part[0], given)
        nothing: list[list[object]] = [[]] * (MOST_PART_VALUES - len(results))
        return NodeResult([*results, *nothing, shown], shown.get(context.node_id))


class ComfyRemoteShown(Node):
    """Shows what an output node within a part showed where it ran."""

    schema = _schema(
        name=REMOTE_SHOWN,
        display_name="Remote part: shown",
        description="Stands for a node that saves or shows something elsewhere.",
        inputs=(string("node_id", ""), Input("shown", ANY)),
        outputs=(),
        output_node=True,
        deprecated=True,
    )

    def run(
        self,
        context: NodeContext,  # the node that it stands for is named
        node_id: str,
        shown: Mapping[str, Mapping[str, JsonValue]],
    ) -> NodeResult:
        return NodeResult([], shown.get(node_id))
