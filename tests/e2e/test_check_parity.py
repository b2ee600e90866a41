"""Our validator against ComfyUI's own: the same prompts, the same body of the refusal."""

from __future__ import annotations

import copy
import json
import random
import urllib.error
import urllib.request
from typing import Any

import pytest

from comfy_remote.workflow.check import validate_for
from comfy_remote.workflow.schema import Schemas

GOOD: dict[str, Any] = {
    "1": {"class_type": "EmptyImage",
          "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ImageScale",
          "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 32, "height": 32,
                     "crop": "disabled"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "check"}},
}  # fmt: skip
LATENT = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
SAMPLER = {
    "class_type": "KSampler",
    "inputs": {"model": ["4", 0], "seed": 1, "steps": 1, "cfg": 1, "sampler_name": "euler",
               "scheduler": "normal", "positive": ["6", 0], "negative": ["6", 0],
               "latent_image": ["5", 0], "denoise": 1},
}  # fmt: skip
SAMPLED = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none.safetensors"}},
    "5": LATENT,
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "7": SAMPLER,
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
}
NO = object()


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with ``{"node": node}`` and ``{"node.input": value}`` put in; ``NO`` takes away."""
    prompt = copy.deepcopy(base)
    for place, value in changes.items():
        node, _, name = place.partition(".")
        holder, key = (prompt[node]["inputs"], name) if name else (prompt, node)
        if value is NO:
            del holder[key]
        else:
            holder[key] = value
    return prompt


CASES: dict[str, dict[str, Any]] = {
    "no output": changed(GOOD, {"3": NO}),
    "nothing": {},
    "unknown class": changed(GOOD, {"2": {"class_type": "Nope", "inputs": {}}}),
    "unknown class with a title": changed(
        GOOD, {"2": {"class_type": "Nope", "inputs": {}, "_meta": {"title": "My node"}}}
    ),
    "no class": changed(GOOD, {"2": {"inputs": {}}}),
    "no class with a title": changed(GOOD, {"2": {"inputs": {}, "_meta": {"title": "Mine"}}}),
    "unknown class that feeds nothing": changed(GOOD, {"8": {"class_type": "No", "inputs": {}}}),
    "required input": changed(GOOD, {"2.image": NO}),
    "two required inputs": changed(GOOD, {"2.image": NO, "2.width": NO}),
    "required input of the output": changed(GOOD, {"3.images": NO}),
    "no inputs at all": changed(GOOD, {"2": {"class_type": "ImageScale"}}),
    "no inputs of the output": changed(GOOD, {"3": {"class_type": "SaveImage"}}),
    "link to nothing": changed(GOOD, {"2.image": ["77", 0]}),
    "link of the output to nothing": changed(GOOD, {"3.images": ["77", 0]}),
    "link to no output": changed(GOOD, {"2.image": ["1", 4]}),
    "link of the output to no output": changed(GOOD, {"3.images": ["1", 4]}),
    "link from the end": changed(GOOD, {"2.image": ["1", -1]}),
    "link to a fraction": changed(GOOD, {"2.image": ["1", 0.5]}),
    "link with a number as id": changed(GOOD, {"2.image": [1, 0]}),
    "list of three": changed(GOOD, {"2.image": ["1", 0, 0]}),
    "empty list": changed(GOOD, {"2.image": []}),
    "list for a number": changed(GOOD, {"1.width": [1]}),
    "wrong type": changed(GOOD, {"5": LATENT, "2.image": ["5", 0]}),
    "wrong type for a number": changed(GOOD, {"2.width": ["1", 0]}),
    "wrong type for a choice": changed(GOOD, {"2.crop": ["1", 0]}),
    "text for a number": changed(GOOD, {"1.width": "wide"}),
    "number as text": changed(GOOD, {"1.width": "64"}),
    "null for a number": changed(GOOD, {"1.width": None}),
    "fraction for a whole number": changed(GOOD, {"1.width": 64.7}),
    "object for a number": changed(GOOD, {"1.width": {"a": 1}}),
    "too small": changed(GOOD, {"1.width": -1}),
    "too large": changed(GOOD, {"1.width": 10**6}),
    "several out of range": changed(GOOD, {"1.width": 0, "1.height": 10**6, "2.width": -3}),
    "too large a fraction": changed(SAMPLED, {"7.denoise": 2.5}),
    "wrong choice": changed(GOOD, {"2.upscale_method": "magic"}),
    "number as a choice": changed(GOOD, {"2.upscale_method": 3}),
    "null as a choice": changed(GOOD, {"2.crop": None}),
    "choice of many": changed(SAMPLED, {"7.sampler_name": "eulr"}),
    "wrapped value": changed(GOOD, {"2.crop": {"__value__": "disabled"}}),
    "wrapped wrong value": changed(GOOD, {"2.crop": {"__value__": ["disabled"]}}),
    "missing model": SAMPLED,
    "missing model and more": changed(SAMPLED, {"7.steps": 0, "8.vae": NO, "6.text": 12}),
    "a cycle": changed(GOOD, {"2.image": ["2", 0]}),
    "a cycle of two": changed(
        GOOD,
        {"2.image": ["4", 0], "4": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}},
    ),
    "unknown input": changed(GOOD, {"2.extra": 12}),
    "dead end with errors": changed(
        GOOD, {"4": {"class_type": "ImageScale", "inputs": {"width": -1}}}
    ),
    "one good output": changed(
        GOOD, {"4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 9]}}}
    ),
    "two bad outputs": changed(
        GOOD,
        {"1.width": 0, "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}},
    ),
    "any type": changed(
        GOOD, {"4": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}, "1.width": 0}
    ),
    "no branch of a switch": changed(
        GOOD, {"4": {"class_type": "ComfySwitchNode", "inputs": {"switch": True}},
               "3.images": ["4", 0]},
    ),
    "too few in a row": changed(
        GOOD, {"4": {"class_type": "BatchImagesNode", "inputs": {"images.image0": ["1", 0]}},
               "3.images": ["4", 0]},
    ),
    "wrong type in a row": changed(
        GOOD, {"5": LATENT, "3.images": ["4", 0],
               "4": {"class_type": "BatchImagesNode",
                     "inputs": {"images.image0": ["1", 0], "images.image1": ["5", 0]}}},
    ),
    "input of a choice": changed(
        GOOD, {"4": {"class_type": "ResizeImageMaskNode",
                     "inputs": {"input": ["1", 0], "resize_type": "scale by multiplier",
                                "scale_method": "area"}},
               "3.images": ["4", 0]},
    ),
    "range of an input of a choice": changed(
        GOOD, {"4": {"class_type": "ResizeImageMaskNode",
                     "inputs": {"input": ["1", 0], "resize_type": "scale by multiplier",
                                "resize_type.multiplier": 1000.0, "scale_method": "araea"}},
               "3.images": ["4", 0]},
    ),
    "unknown choice": changed(
        GOOD, {"4": {"class_type": "ResizeImageMaskNode",
                     "inputs": {"input": ["1", 0], "resize_type": "nope", "scale_method": 1}},
               "3.images": ["4", 0]},
    ),
    "several types": changed(
        GOOD, {"4": {"class_type": "ComfyMathExpression",
                     "inputs": {"expression": "a", "values.a": ["1", 0]}},
               "5": {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}},
               "3": NO},
    ),
    "a choice of the user's own": changed(
        GOOD, {"4": {"class_type": "CustomCombo", "inputs": {"choice": "mine", "index": 0}},
               "3.filename_prefix": ["4", 0], "3.images": NO},
    ),
    "a chain with an error at its start": changed(
        SAMPLED, {"5.width": 1, "7.cfg": "much", "4.ckpt_name": 12}
    ),
}  # fmt: skip


# Classes whose own checks look at files, or at more than their schema tells.
JUDGE_BY_MORE = {
    "FluxProUltraImageNode", "Load3D", "Load3DAdvanced", "LoadAudio", "LoadImage", "LoadImageMask",
    "LoadImageOutput", "LoadLatent", "LoadVideo", "ModelAttentionBackend",
    "TripoConversionNode", "WebcamCapture",
}  # fmt: skip


def _random_inputs(schemas: Schemas, class_type: str, rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def fill(groups: Any, prefix: str) -> None:
        specs = {**groups.get("required", {}), **groups.get("optional", {})}
        for name, spec in specs.items():
            options = spec[1] if len(spec) > 1 else {}
            if rng.random() < 0.2:
                continue
            if spec[0] == "COMFY_AUTOGROW_V3":
                template = options["template"]
                inner = next(next(iter(v.values())) for v in template["input"].values() if v)
                names = template.get("names") or [f"{template['prefix']}{i}" for i in range(3)]
                for part in names[: rng.randint(0, 3)]:
                    found[f"{prefix}{name}.{part}"] = _random_value(inner, rng)
                continue
            found[prefix + name] = _random_value(spec, rng)
            if spec[0] == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    if option["key"] == found[prefix + name]:
                        fill(option["inputs"], f"{prefix}{name}.")

    document = schemas.document(class_type)
    assert document is not None
    fill(document["input"], "")
    return found


def _random_value(spec: Any, rng: random.Random) -> Any:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    match kind:
        case list() | "COMBO":
            choices = kind if isinstance(kind, list) else options.get("options") or []
            return rng.choice([*choices, "nope", 3])
        case "COMFY_DYNAMICCOMBO_V3":
            return rng.choice([*(option["key"] for option in options["options"]), "nope"])
        case "INT" | "FLOAT":
            low, high = options.get("min") or 0, options.get("max") or 5
            return rng.choice([options.get("default", 1), low, low - 1, high + 1, "7", "x", None])
        case "STRING":
            return rng.choice(["a", 1, None, "b.safetensors"])
        case "BOOLEAN":
            return rng.choice([True, "", 0])
        case _:
            return rng.choice([["image", 0], ["image", 5], ["latent", 0], "text"])


def _request(url: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def schemas(comfyui_url: str) -> Schemas:
    return Schemas(_request(f"{comfyui_url}/object_info")[1], comfyui_url)


@pytest.mark.parametrize("name", CASES)
def test_refusals_equal_comfyuis(name: str, comfyui_url: str, schemas: Schemas) -> None:
    _skip_old(name, schemas)
    status, theirs = _request(f"{comfyui_url}/prompt", {"prompt": CASES[name]})
    validated = validate_for(CASES[name], schemas)
    assert (validated.error is None) == (status == 200), theirs
    assert _sorted(validated.node_errors) == _sorted(theirs["node_errors"])
    if status != 200:
        ours = validated.to_json()["error"]
        assert _lines(ours) == _lines(theirs["error"])


def test_every_class_with_values_of_all_kinds(comfyui_url: str, schemas: Schemas) -> None:
    """Nodes of every class, filled in at random, before an output that never validates."""
    if "ComfySwitchNode" not in schemas:
        pytest.skip("this ComfyUI has no ComfySwitchNode")
    rng = random.Random(1)
    wrong = {}
    compared = 0
    for class_type in schemas:
        if class_type in JUDGE_BY_MORE:
            continue
        prompt = {
            "image": GOOD["1"],
            "latent": LATENT,
            "x": {"class_type": class_type, "inputs": _random_inputs(schemas, class_type, rng)},
            "switch": {"class_type": "ComfySwitchNode", "inputs": {"on_true": ["x", 0]}},
            "out": {"class_type": "PreviewAny", "inputs": {"source": ["switch", 0]}},
        }
        only = {"prompt": prompt, "partial_execution_targets": ["out"]}
        status, theirs = _request(f"{comfyui_url}/prompt", only)
        assert status == 400
        ours = validate_for(prompt, schemas, ["out"]).to_json()
        compared += 1
        # A class without outputs has a list of them where it is of the newer kind.
        one, other = (
            json.dumps(_sorted(body["node_errors"]), sort_keys=True).replace(
                "list ind", "tuple ind"
            )
            for body in (ours, theirs)
        )
        if one != other:
            wrong[class_type] = (one, other)
    assert compared > 400
    assert wrong == {}


def test_a_prompt_that_runs_has_no_errors(comfyui_url: str, schemas: Schemas) -> None:
    assert _request(f"{comfyui_url}/prompt", {"prompt": GOOD})[0] == 200
    validated = validate_for(GOOD, schemas)
    assert (validated.error, validated.node_errors, validated.outputs) == (None, {}, ["3"])


# Where ComfyUI 0.3.64 has other words or rules than 0.33.0, which is the measure.
CHANGED_SINCE = {
    "unknown class", "unknown class with a title", "unknown class that feeds nothing", "no class",
    "no class with a title", "number as a choice", "null as a choice", "wrapped wrong value",
    "a cycle", "a cycle of two", "a chain with an error at its start",
}  # fmt: skip


def _skip_old(name: str, schemas: Schemas) -> None:
    if name in CHANGED_SINCE and "ComfySwitchNode" not in schemas:
        pytest.skip("this ComfyUI is older, and says it otherwise")
    used = {node.get("class_type", "") for node in CASES[name].values()}
    new = {"BatchImagesNode", "ComfyMathExpression", "ComfySwitchNode",
           "CustomCombo", "ResizeImageMaskNode"}  # fmt: skip
    if missing := sorted(used & new - set(schemas)):
        pytest.skip(f"this ComfyUI is older than {', '.join(missing)}")


def _lines(error: Any) -> Any:
    """The error with the lines of its details in order: ComfyUI goes through sets."""
    return {**error, "details": sorted(error["details"].split("\n"))}


def _sorted(node_errors: Any) -> Any:
    """Errors and outputs in order, without what only a traceback of ComfyUI could equal."""
    found = {}
    for node_id, node in node_errors.items():
        errors = copy.deepcopy(node["errors"])
        for error in errors:
            error["extra_info"].pop("traceback", None)
        found[node_id] = {
            **node,
            "errors": sorted(errors, key=json.dumps),
            "dependent_outputs": sorted(node["dependent_outputs"]),
        }
    return found
