"""A tiny ComfyUI for cut prompts: values are texts that say how they were made.

So two results are equal only if the same nodes made them from the same inputs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_remote.workflow.cut import Cut
from comfy_remote.workflow.graph import execution_order
from comfy_remote.workflow.interface import (
    MOST_PART_VALUES,
    REMOTE_INPUT,
    REMOTE_OUTPUT,
    REMOTE_PART,
    REMOTE_SHOWN,
)
from comfy_remote.workflow.prompt import Prompt, is_link
from comfy_remote.workflow.schema import Schemas

CLASSES: dict[str, tuple[dict[str, str], list[str]]] = {
    "Loader": ({"name": "STRING"}, ["MODEL", "CLIP", "VAE"]),
    "Lora": ({"model": "MODEL", "clip": "CLIP", "strength": "FLOAT"}, ["MODEL", "CLIP"]),
    "ClipHooks": ({"clip": "CLIP", "hooks": "HOOKS"}, ["CLIP"]),
    "Hooks": ({}, ["HOOKS"]),
    "ControlLoader": ({}, ["CONTROL_NET"]),
    "Encode": ({"clip": "CLIP", "text": "STRING"}, ["CONDITIONING"]),
    "Combine": ({"a": "CONDITIONING", "b": "CONDITIONING"}, ["CONDITIONING"]),
    "Control": (
        {"positive": "CONDITIONING", "control_net": "CONTROL_NET", "image": "IMAGE"},
        ["CONDITIONING"],
    ),
    "Empty": ({"width": "INT", "height": "INT"}, ["LATENT"]),
    "Sampler": (
        {"model": "MODEL", "positive": "CONDITIONING", "latent": "LATENT", "seed": "INT"},
        ["LATENT"],
    ),
    "Decode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "VaeEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ["LATENT"]),
    "Photo": ({}, ["IMAGE", "MASK"]),
    "Blend": ({"a": "IMAGE", "b": "IMAGE"}, ["IMAGE"]),
    "Detect": ({"image": "IMAGE"}, ["IMAGE", "SEGS"]),
    "Detail": ({"image": "IMAGE", "segs": "SEGS", "model": "MODEL"}, ["IMAGE"]),
    "ToMesh": ({"samples": "LATENT", "vae": "VAE"}, ["MESH"]),
    "SaveMesh": ({"mesh": "MESH"}, []),
    "Reroute": ({"value": "*"}, ["*"]),
    "Number": ({}, ["INT"]),
    "Save": ({"images": "IMAGE"}, []),
    "SaveThrough": ({"images": "IMAGE"}, ["IMAGE"]),
}
OUTPUTS = {"Save", "SaveMesh", "SaveThrough"}
OBJECTS = {"MODEL", "CLIP", "VAE", "HOOKS", "CONTROL_NET", "SEGS", "MESH"}


def schemas(*, without: Collection[str] = (), source: str = "the test") -> Schemas:
    return Schemas(
        {
            name: {
                "input": {"required": {key: [kind, {}] for key, kind in inputs.items()}},
                "output": list(outputs),
                "output_node": name in OUTPUTS,
            }
            for name, (inputs, outputs) in CLASSES.items()
            if name not in without
        },
        source,
    )


def node(class_type: str, **inputs: Any) -> Any:
    return {
        "class_type": class_type,
        "inputs": {name: list(v) if isinstance(v, tuple) else v for name, v in inputs.items()},
    }


@dataclass(frozen=True)
class Value:
    made: str
    is_object: bool


class Engine:
    """Runs prompts, here and elsewhere.

    Attributes:
        ran: ``(where, node id)`` of each node that ran.
        saved: What each output node got.
    """

    def __init__(self, *, holds_objects: bool = True) -> None:
        self._holds_objects = holds_objects
        self.ran: list[tuple[str | None, str]] = []
        self.saved: dict[str, tuple[Value, ...]] = {}

    def run(
        self,
        prompt: Prompt,
        outputs: Collection[str],
        where: str | None = None,
        payload: Mapping[str, Value] | None = None,
    ) -> dict[str, Value]:
        results: dict[str, list[Value]] = {}
        answers: dict[str, Value] = {}
        for node_id in execution_order(prompt, list(outputs)):
            one = prompt[node_id]
            inputs = {
                name: results[str(v[0])][int(v[1])]  # type: ignore[index,arg-type]
                if is_link(v)
                else Value(json.dumps(v), False)
                for name, v in one["inputs"].items()
            }
            match one["class_type"]:
                case kind if kind == REMOTE_INPUT:
                    assert payload is not None
                    results[node_id] = [payload[str(one["inputs"]["key"])]]
                case kind if kind == REMOTE_OUTPUT:
                    value = inputs["value"]
                    assert not value.is_object, f"{value} left its place"
                    answers[str(one["inputs"]["key"])] = value
                case kind if kind == REMOTE_SHOWN:
                    results[node_id] = []
                case kind if kind == REMOTE_PART:
                    results[node_id] = self._part(json.loads(str(one["inputs"]["part"])), inputs)
                case _:
                    self.ran.append((where, node_id))
                    results[node_id] = self._node(node_id, one["class_type"], inputs)
        return answers

    def _part(self, part: dict[str, Any], inputs: dict[str, Value]) -> list[Value]:
        given = [inputs[f"value_{i}"] for i in range(len(part["inputs"]))]
        assert not any(value.is_object for value in given)
        payload = {one["key"]: value for one, value in zip(part["inputs"], given, strict=True)}
        prompt = part["prompt"]
        used = {v[0] for n in prompt.values() for v in n["inputs"].values() if is_link(v)}
        ends = [n for n in prompt if n not in used or prompt[n]["class_type"] in OUTPUTS]
        answers = self.run(prompt, ends, part["name"], payload)
        results = [answers[one["key"]] for one in part["outputs"]]
        return [*results, *[Value("nothing", False)] * (MOST_PART_VALUES + 1 - len(results))]

    def _node(self, node_id: str, kind: str, inputs: dict[str, Value]) -> list[Value]:
        made = f"{kind}({', '.join(f'{k}={v.made}' for k, v in sorted(inputs.items()))})"
        # Texts would double with each node that uses one twice.
        made = f"{kind}#{hash(made)}" if len(made) > 500 else made
        types = CLASSES[kind][1] if kind in CLASSES else ["?"] * 32
        if kind in OUTPUTS or not types:
            self.saved[node_id] = tuple(inputs.values())
        held = self._holds_objects and any(
            value.is_object
            for name, value in inputs.items()
            if name in ("positive", "a", "b", "control_net", "hooks", "value")
            or (name == "clip" and "held" in value.made)
        )
        results = []
        for slot, kind_of_output in enumerate(types):
            holds = kind_of_output in OBJECTS or (held and kind_of_output in ("CONDITIONING", "*"))
            tag = "held " if kind == "ClipHooks" or (kind == "Lora" and "held" in made) else ""
            results.append(Value(f"{tag}{made}[{slot}]", holds))
        return results


def check_same(prompt: Prompt, outputs: Collection[str], result: Cut, **options: bool) -> Engine:
    """Run it whole and cut, and check that the same is saved from the same."""
    whole, parted = Engine(**options), Engine(**options)
    whole.run(prompt, outputs)
    parted.run(result.local, result.targets)
    assert parted.saved == whole.saved
    return parted
