"""What a validator must know of a node class, and how it is read from a ComfyUI's schemas.

``/object_info`` does not tell everything. Which values a class checks by itself is known here for
ComfyUI's own classes. Whatever is unknown counts as valid: a false alarm would keep a prompt from
running, and the target still reports a real error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ...types import JsonValue, as_list, mapping
from ..models import model_uses
from ..schema import NodeSchema, Schemas, input_schema

if TYPE_CHECKING:
    from ..prompt import Prompt

__all__ = [
    "REPLACED_CLASSES",
    "NodeError",
    "NodeRules",
    "Rules",
    "is_model",
    "node_error",
    "permissive",
    "rules_of",
]

NodeError: TypeAlias = "dict[str, JsonValue]"
"""``{"type", "message", "details", "extra_info"}``."""


def node_error(kind: str, message: str, details: str, **extra_info: JsonValue) -> NodeError:
    """An error in ComfyUI's shape."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What a validator must know of a node class.

    Attributes:
        inputs: ``{"required": {name: [type, options]}, "optional": …}``, as in ``/object_info``.
        outputs: Types in the order of link indices; ``None`` if unknown.
        output_node: Whether a prompt may end here.
        judges: Whether the class itself checks an input (name, ``[type, options]``, value), so
            that range and choices do not count (ComfyUI: the arguments of ``VALIDATE_INPUTS``).
        checks_types: Whether it also checks the types of its links.
        complaints: Its complaints about all values that it checks, by input.
    """

    inputs: Mapping[str, JsonValue]
    outputs: tuple[JsonValue, ...] | None
    output_node: bool = False
    judges: Callable[[str, JsonValue, JsonValue], bool] = lambda *_: False
    checks_types: bool = False
    complaints: Callable[[Mapping[str, JsonValue]], Mapping[str, str]] = lambda _: {}


Rules: TypeAlias = "Callable[[str], NodeRules | None]"
"""The rules of a ``class_type``; ``None`` when the engine does not have it."""

# The arguments of VALIDATE_INPUTS (V1) and validate_inputs (V3) in ComfyUI 0.33.0; empty where
# it takes them all. Inputs without range and choices are left out: there is nothing to judge.
_JUDGED: Mapping[str, frozenset[str]] = {
    "CustomCombo": frozenset(),
    "Load3D": frozenset(),
    "Load3DAdvanced": frozenset(),
    "LoadAudio": frozenset({"audio"}),
    "LoadImage": frozenset({"image"}),
    "LoadImageMask": frozenset({"image"}),
    "LoadImageOutput": frozenset({"image"}),
    "LoadLatent": frozenset({"latent"}),
    "LoadVideo": frozenset({"file"}),
    "ModelAttentionBackend": frozenset({"attention"}),
    "SelectCLIPDevice": frozenset({"device"}),
    "SelectModelDevice": frozenset({"device"}),
    "SelectVAEDevice": frozenset({"device"}),
    "WebcamCapture": frozenset({"image"}),
}
_JUDGES_TYPES = frozenset({"TripoConversionNode"})

REPLACED_CLASSES: Mapping[str, str] = {
    "ConditioningAverage ": "ConditioningAverage",
    "ImageBatch": "BatchImagesNode",
    "ImageScaleBy": "ResizeImageMaskNode",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
    "ResizeImagesByLongerEdge": "ImageScaleToMaxDimension",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "T2IAdapterLoader": "ControlNetLoader",
}
"""Classes that ComfyUI itself replaces, if it lacks the first and has the second
(``comfy_extras/nodes_replacements.py`` of 0.33.0)."""


def rules_of(schemas: Schemas, *, strict: bool = False) -> Rules:
    """The rules of all classes of a ComfyUI.

    Args:
        strict: Whether likely errors count: ranges and choices of custom nodes, which may check
            their values themselves (a missing model always counts), and the choices of the
            snapshot, to which a target's packs may have added.
    """

    def rules(class_type: str) -> NodeRules | None:
        document, schema = schemas.document(class_type), schemas.get(class_type)
        if document is None or schema is None:
            return None
        return NodeRules(
            inputs=schemas.declared(class_type),
            outputs=tuple(as_list(document.get("output"))),
            output_node=schema.output_node is not False,
            judges=partial(_judges, schemas, schema, strict),
            checks_types=class_type in _JUDGES_TYPES,
        )

    return rules


def permissive(rules: Rules, prompt: Mapping[str, JsonValue] | Prompt) -> Rules:
    """The same rules; for classes that they lack, whatever the prompt gives is valid.

    Such a class is an output if nothing is linked to any of its nodes. So the rest of the prompt
    can be checked.
    """
    nodes = {key: node for key, node in prompt.items() if isinstance(node, dict)}
    given: dict[str, dict[str, JsonValue]] = {}
    linked: set[str] = set()
    for node in nodes.values():
        values = mapping(node.get("inputs"))
        known = given.setdefault(str(node.get("class_type")), {})
        known.update({name: ["*", {}] for name in values})
        for value in values.values():
            source = value[0] if isinstance(value, list) and value else None
            if isinstance(source, str) and source in nodes:
                linked.add(str(nodes[source].get("class_type")))

    def filled(class_type: str) -> NodeRules | None:
        known = rules(class_type)
        if known is not None or class_type not in given:
            return known
        optional: dict[str, JsonValue] = {"optional": given[class_type]}
        return NodeRules(optional, None, output_node=class_type not in linked)

    return filled


def is_model(class_type: str, name: str, value: JsonValue) -> bool:
    """Whether an input names a model's file."""
    prompt: Prompt = {"": {"class_type": class_type, "inputs": {name: value}}}
    return any(use.folder != "embeddings" for use in model_uses(prompt))


def _judges(
    schemas: Schemas,
    schema: NodeSchema,
    strict: bool,
    name: str,
    config: JsonValue,
    value: JsonValue,
) -> bool:
    judged = _JUDGED.get(schema.name)
    if judged is not None and (not judged or name in judged):
        return True
    spec = input_schema(name, config)
    # Files of an input folder: ours will be added to them, and are checked as files.
    if spec.lists_uploads:
        return True
    model = is_model(schema.name, name, value)
    if schemas.is_snapshot:
        # Packs also add choices to ComfyUI's own nodes: samplers, schedulers.
        return model or (spec.type == "COMBO" and not (strict and spec.choices))
    custom = (schema.python_module or "").startswith("custom_nodes.")
    return custom and not strict and not model
