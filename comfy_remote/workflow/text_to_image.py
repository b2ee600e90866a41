"""The workflow that runs when none is given: text to image, with models that the target has.

Sizes, steps and guidance are those of ComfyUI's own templates for these models (Comfy-Org's
workflow_templates: flux_dev_full_text_to_image, image_z_image_turbo, image_qwen_image).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

from ..advice import Hint
from ..errors import WorkflowInvalid
from ..types import JsonValue, mapping
from .load import LoadedWorkflow, parse_workflow
from .prompt import Place, Prompt, with_inputs
from .schema import Schemas

__all__ = ["loaders", "text_to_image"]


@dataclass(frozen=True, slots=True)
class _Template:
    """A workflow in ``data``, and the names of the models that it loads.

    Attributes:
        models: By node and input, what the name of a model for it contains.
        not_models: What no name of a model for it contains: that of another use.
    """

    file: str
    models: Mapping[Place, str]
    not_models: str


_OTHER_USES = r"edit|fill|kontext|canny|depth|redux|control|inpaint|refiner|layered|upscal"
_OTHER_CHECKPOINTS = (
    rf"flux|svd|stable[-_]?(video|audio|zero)|ace[-_]?step|ltx|hunyuan|mochi|{_OTHER_USES}"
)
_MODEL, _VAE = ("1", "unet_name"), ("3", "vae_name")
_FLUX_VAE = r"(^|[/\\\\])ae\.|flux[-_]?1?[-_]?(vae|ae)"

# The first that the target has all models of.
_TEMPLATES = (
    _Template("text_to_image", {("1", "ckpt_name"): r""}, _OTHER_CHECKPOINTS),
    _Template("text_to_image_flux_checkpoint", {("1", "ckpt_name"): r"flux"}, _OTHER_USES),
    _Template(
        "text_to_image_flux",
        {
            _MODEL: r"flux[-_.]?1?[-_.]?(dev|schnell|krea)",
            ("2", "clip_name1"): r"clip_l",
            ("2", "clip_name2"): r"t5[-_]?(v1_1[-_])?xxl",
            _VAE: _FLUX_VAE,
        },
        _OTHER_USES,
    ),
    _Template(
        "text_to_image_z_image",
        {_MODEL: r"z[-_]image[-_]turbo", ("2", "clip_name"): r"qwen_?3_4b", _VAE: _FLUX_VAE},
        _OTHER_USES,
    ),
    _Template(
        "text_to_image_qwen",
        {
            _MODEL: r"qwen[-_]image",
            ("2", "clip_name"): r"qwen_?2\.?5_vl",
            _VAE: r"qwen_image_vae",
        },
        _OTHER_USES,
    ),
    # Rather one that may be for something else than none.
    _Template("text_to_image", {("1", "ckpt_name"): r""}, r"(?!)"),
)
_FEW_STEPS = {"schnell": 4}
"""The steps of models that were made to need few, by what their name contains."""


def loaders() -> Prompt:
    """The nodes of all workflows that `text_to_image` knows, to ask a target about them."""
    classes = {str(mapping(n)["class_type"]) for one in _TEMPLATES for n in _read(one).values()}
    return {name: {"class_type": name, "inputs": {}} for name in classes}


def text_to_image(schemas: Schemas) -> LoadedWorkflow:
    """A workflow for models that the target lists: a checkpoint like SDXL, Flux, Z-Image, Qwen.

    Raises:
        WorkflowInvalid: The target has none of them, or does not say.
    """
    if not schemas.is_snapshot:
        for template in _TEMPLATES:
            prompt = parse_workflow(_read(template), "text to image")
            chosen = dict(_chosen(template, prompt, schemas))
            if chosen.keys() == template.models.keys():
                return _with(prompt, chosen)
    why = (
        "does not tell which checkpoints and other models it has"
        if schemas.is_snapshot
        else "has no checkpoint for the built-in text-to-image workflow, nor the models of Flux, "
        "Z-Image or Qwen-Image"
    )
    raise WorkflowInvalid(
        f"No workflow was given, and the target {why}.", advice=Hint.GIVE_WORKFLOW()
    )


def _read(template: _Template) -> dict[str, JsonValue]:
    data = files(__package__).joinpath("data").joinpath(f"{template.file}.json")
    read: dict[str, JsonValue] = json.loads(data.read_text("utf-8"))
    return read


def _chosen(
    template: _Template, loaded: LoadedWorkflow, schemas: Schemas
) -> Iterator[tuple[Place, str]]:
    """For each input that names a model, the first name that fits."""
    prompt = loaded.prompt or {}
    for (node_id, key), wanted in template.models.items():
        schema = schemas.get(prompt[node_id]["class_type"])
        inputs = schema.inputs if schema is not None else ()
        choices = [c for one in inputs if one.name == key for c in one.choices]
        for name in choices:
            if (
                isinstance(name, str)
                and re.search(wanted, name, re.I)
                and not re.search(template.not_models, name, re.I)
            ):
                yield (node_id, key), name
                break


def _with(loaded: LoadedWorkflow, chosen: Mapping[Place, str]) -> LoadedWorkflow:
    prompt, model = loaded.prompt or {}, next(iter(chosen.values()))
    values: dict[Place, JsonValue] = {**chosen}
    for word, steps in _FEW_STEPS.items():
        if word in model.casefold():
            sampler = next(i for i, node in prompt.items() if node["class_type"] == "KSampler")
            values[sampler, "steps"] = steps
    return replace(
        loaded,
        prompt=with_inputs(prompt, values),
        source=f"Text to image, built in, with {model},",
    )
