"""`schedule.cache_key`: the same key only for what must give the same, and a doubt for the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest

from comfy_remote.schedule.cache_key import Asked, Runner, Verdict, early_doubts, judged
from comfy_remote.types import JsonValue
from comfy_remote.wire.installed import Installed, InstalledPack, ModelFile
from comfy_remote.workflow.paid_nodes import is_paid
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

PICTURE: Prompt = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
}
MODEL: Prompt = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a cat"}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["2", 0],
            "latent_image": ["3", 0],
            "seed": 5,
            "steps": 4,
            "cfg": 7.0,
            "denoise": 1.0,
            "sampler_name": "euler",
            "scheduler": "normal",
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "a"}},
}
PACKED: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}},
    "2": {"class_type": "Tint", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
}
ASKED = Asked(PICTURE, {"in.png": "a" * 64}, {"workflow": {"id": "w"}})


def _nodes(**more: JsonValue) -> dict[str, JsonValue]:
    """The bundled schemas, as a running ComfyUI gives them, and more."""
    bundled = Schemas.bundled()
    nodes: dict[str, JsonValue] = {}
    for name in ("LoadImage", "ImageInvert", "SaveImage", "EmptyImage", "KSampler", "VAEDecode"):
        nodes[name] = {
            **copy.deepcopy(dict(bundled.document(name) or {})),
            "python_module": "nodes",
        }
    for name in ("CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "LoraLoader"):
        nodes[name] = {
            **copy.deepcopy(dict(bundled.document(name) or {})),
            "python_module": "nodes",
        }
    tint: dict[str, JsonValue] = {
        "input": {
            "required": {"image": ["IMAGE"]},
            "optional": {"strength": ["FLOAT", {"default": 0.5}]},
        },
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "custom_nodes.tinted",
    }
    return {**nodes, "Tint": tint, **more}


def _runner(**installed: object) -> Runner:
    model = ModelFile(name="a.safetensors", size=10, modified=1.0)
    lora = ModelFile(name="l.safetensors", size=3, modified=1.0, sha256="c" * 64)
    there = Installed(
        torch="2.9.1",
        python="3.11.7",
        libraries={"comfy-kitchen": "0.2"},
        arguments=["--cpu"],
        packs=[InstalledPack(name="tinted", version="1", commit="d" * 40, content="e" * 64)],
        models={"checkpoints": [model], "loras": [lora]},
    )
    return Runner("ComfyUI 0.33.0", "cpu", _nodes(), there.model_copy(update=dict(installed)))


def _key(asked: Asked, runner: Runner, *packs: str) -> str:
    verdict = judged(asked, runner, packs)
    assert verdict.key is not None, verdict.doubts
    return verdict.key


def _why(verdict: Verdict) -> str:
    assert verdict.key is None
    return " ".join(map(str, verdict.doubts))


def _with(prompt: Prompt, node_id: str, **inputs: JsonValue) -> Prompt:
    changed = copy.deepcopy(prompt)
    changed[node_id]["inputs"].update(inputs)
    return changed


def test_the_same_has_the_same_key_whatever_the_target_is_called() -> None:
    assert _key(ASKED, _runner()) == _key(copy.deepcopy(ASKED), _runner())


@pytest.mark.parametrize(
    "asked",
    [
        replace(ASKED, files={"in.png": "b" * 64}),
        replace(ASKED, embedded={"workflow": {"id": "other"}}),
        replace(ASKED, embedded=None),
        replace(ASKED, models={"repo_list": "ckpt https://example.org/a"}),
        replace(ASKED, prompt=_with(PICTURE, "3", filename_prefix="b")),
        replace(ASKED, prompt=dict(reversed(PICTURE.items()))),
        replace(ASKED, prompt={**PICTURE, "9": PICTURE["2"]}),
    ],
    ids=["input", "workflow", "no workflow", "models", "prefix", "order", "more nodes"],
)
def test_whatever_changes_in_what_is_asked_changes_the_key(asked: Asked) -> None:
    assert _key(asked, _runner()) != _key(ASKED, _runner())


def _changed_runners() -> Mapping[str, Runner]:
    here = _runner()
    assert here.installed is not None
    other = InstalledPack(name="tinted", version="1", commit="d" * 40, content="f" * 64)
    schema = _nodes()
    save = copy.deepcopy(schema["SaveImage"])
    assert isinstance(save, dict)
    save["input"] = {
        "required": {"images": ["IMAGE"]},
        "optional": {"quality": ["INT", {"default": 2}]},
    }
    return {
        "engine": replace(here, engine="ComfyUI 0.33.1"),
        "device": replace(here, device="cuda:0 NVIDIA L4"),
        "torch": _runner(torch="2.9.2"),
        "python": _runner(python="3.12.1"),
        "libraries": _runner(libraries={"comfy-kitchen": "0.3"}),
        "arguments": _runner(arguments=["--cpu", "--deterministic"]),
        "another pack's content": _runner(packs=[other]),
        "no pack": _runner(packs=[]),
        "an input that is not given": replace(here, nodes={**schema, "SaveImage": save}),
    }


@pytest.mark.parametrize("what", _changed_runners())
def test_whatever_changes_in_what_runs_it_changes_the_key(what: str) -> None:
    assert _key(ASKED, _changed_runners()[what]) != _key(ASKED, _runner())


def test_what_lists_the_targets_files_does_not_change_the_key() -> None:
    """The choices of LoadImage are all files of the target; the value counts by itself."""
    load = copy.deepcopy(_nodes()["LoadImage"])
    assert isinstance(load, dict)
    load["input"] = {"required": {"image": [["in.png", "more.png"], {"image_upload": True}]}}
    one = {**_nodes(), "LoadImage": load}
    load = copy.deepcopy(load)
    load["input"] = {"required": {"image": [["in.png"], {"image_upload": True}]}}
    assert _key(ASKED, replace(_runner(), nodes=one)) == _key(
        ASKED, replace(_runner(), nodes={**one, "LoadImage": load})
    )


@pytest.mark.parametrize(
    "model",
    [
        ModelFile(name="a.safetensors", size=11, modified=1.0),
        ModelFile(name="a.safetensors", size=10, modified=2.0),
        ModelFile(name="a.safetensors", size=10, modified=1.0, sha256="1" * 64),
    ],
)
def test_another_model_under_the_same_name_changes_the_key(model: ModelFile) -> None:
    asked = Asked(MODEL)
    assert _key(asked, _runner(models={"checkpoints": [model]})) != _key(asked, _runner())


def test_a_model_that_it_does_not_name_does_not_count() -> None:
    assert _runner().installed is not None
    other = ModelFile(name="b.safetensors", size=1, modified=1.0)
    mine = ModelFile(name="a.safetensors", size=10, modified=1.0)
    more = _runner(models={"checkpoints": [other, mine]})
    assert _key(Asked(MODEL), more) == _key(Asked(MODEL), _runner())


def test_what_loads_a_model_has_to_run_for_the_result_to_be_stored() -> None:
    assert judged(Asked(MODEL), _runner()).to_load == {"1", "2", "4", "5", "6"}
    assert judged(ASKED, _runner()).to_load == frozenset()


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ({}, "does not say which file a.safetensors is"),
        ({"checkpoints": [ModelFile(name="a.safetensors")]}, "neither hash nor time"),
    ],
)
def test_a_model_that_is_not_told_is_a_doubt(models: dict[str, list[ModelFile]], why: str) -> None:
    assert why in _why(judged(Asked(MODEL), _runner(models=models)))


def test_a_lora_that_the_engine_may_have_in_memory_is_a_doubt() -> None:
    prompt = copy.deepcopy(MODEL)
    prompt["7"] = {
        "class_type": "LoraLoader",
        "inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": "l.safetensors"},
    }
    assert "in memory by its name" in _why(judged(Asked(prompt), _runner()))


def test_an_embedding_in_a_text_is_a_model() -> None:
    asked = Asked(_with(MODEL, "2", text="a cat, embedding:old"))
    assert "which file old is" in _why(judged(asked, _runner()))
    assert _runner().installed is not None
    there = {
        "checkpoints": [ModelFile(name="a.safetensors", size=10, modified=1.0)],
        "embeddings": [ModelFile(name="old.pt", size=10, modified=1.0)],
    }
    assert _key(asked, _runner(models=there)) != _key(Asked(MODEL), _runner(models=there))


def test_a_class_that_a_pack_replaces_is_not_comfyuis() -> None:
    replaced: JsonValue = {
        "python_module": "custom_nodes.tinted",
        "input": {"required": {"image": ["IMAGE"]}},
    }
    runner = replace(_runner(), nodes=_nodes(ImageInvert=replaced))
    assert "it replaces ComfyUI's own" in _why(judged(ASKED, runner))
    # Vouched for, it is another implementation, and its content counts.
    assert _key(ASKED, runner, "tinted") != _key(ASKED, _runner(), "tinted")


def test_packs_whose_content_is_not_told_bind_a_key_to_the_process() -> None:
    """A pack may replace parts of ComfyUI at its import, even if none of its nodes is used."""
    told = _runner(packs=[InstalledPack(name="other")])
    assert judged(ASKED, told).one_process
    assert not judged(ASKED, told, ["other"]).one_process
    assert not judged(ASKED, _runner()).one_process
    assert _key(ASKED, told, "other") == _key(ASKED, _runner(packs=[]))
    own = _runner(packs=[InstalledPack(name="websocket_image_save")])
    assert _key(ASKED, own) == _key(ASKED, _runner(packs=[]))


def test_nodes_of_packs_need_the_owners_word_and_a_known_content() -> None:
    asked = Asked(PACKED)
    assert "not among the nodes" in _why(judged(asked, _runner()))
    assert "cache_packs does not name" in _why(judged(asked, _runner(), ["other"]))
    assert "content of the node pack tinted" in _why(
        judged(asked, _runner(packs=[InstalledPack(name="tinted", version="1")]), ["tinted"])
    )
    assert "which files belong" in _why(judged(asked, _runner(packs=[]), ["tinted"]))
    known = _key(asked, _runner(), "Tinted")
    for changed in ({"version": "2"}, {"commit": "0" * 40}, {"content": "0" * 64}):
        pack = InstalledPack(name="tinted", version="1", commit="d" * 40, content="e" * 64)
        other = _runner(packs=[pack.model_copy(update=changed)])
        assert _key(asked, other, "tinted") != known


def test_another_default_of_an_input_that_is_not_given_changes_the_key() -> None:
    tint = copy.deepcopy(_nodes()["Tint"])
    assert isinstance(tint, dict)
    tint["input"] = {
        "required": {"image": ["IMAGE"]},
        "optional": {"strength": ["FLOAT", {"default": 0.75}]},
    }
    other = replace(_runner(), nodes=_nodes(Tint=tint))
    assert _key(Asked(PACKED), other, "tinted") != _key(Asked(PACKED), _runner(), "tinted")


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"source": "https://example.org/a.png"}, "not sent from here"),
        ({"source": "/home/ann/a.png"}, "not sent from here"),
        ({"directory": "photos"}, "not sent from here"),
    ],
)
def test_values_of_packs_that_may_mean_something_else_tomorrow_are_doubts(
    inputs: dict[str, JsonValue], why: str
) -> None:
    asked = Asked(_with(PACKED, "2", **inputs))
    assert why in _why(judged(asked, _runner(), ["tinted"]))


def test_a_pack_whose_seed_is_not_given_may_be_random() -> None:
    tint = copy.deepcopy(_nodes()["Tint"])
    assert isinstance(tint, dict)
    tint["input"] = {"required": {"image": ["IMAGE"], "noise_seed": ["INT", {"default": 0}]}}
    runner = replace(_runner(), nodes=_nodes(Tint=tint))
    assert "noise_seed is not given" in _why(judged(Asked(PACKED), runner, ["tinted"]))


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (_with(PICTURE, "1", image="elsewhere.png"), "elsewhere.png is not sent from here"),
        (_with(PICTURE, "1", image="in.png [output]"), "in a folder of the target (output)"),
        (_with(PICTURE, "1", image="blake3:12"), "in a folder of the target (asset)"),
        (_with(PICTURE, "3", filename_prefix="%year%/a"), "%year% in a text becomes the time"),
        ({"1": {"class_type": "FluxProUltraImageNode", "inputs": {}}}, "it is an API node"),
        ({"1": {"class_type": "WebcamCapture", "inputs": {}}}, "not among the nodes"),
        ({"1": {"class_type": "ImageInvert2", "inputs": {}}}, "not among the nodes"),
    ],
)
def test_what_only_the_moment_or_the_target_knows_is_a_doubt_before_it_is_asked(
    prompt: Prompt, why: str
) -> None:
    asked = replace(ASKED, prompt=prompt)
    [doubt, *_] = early_doubts(asked)
    assert why in str(doubt)
    assert doubt.node_id in prompt
    assert why in _why(judged(asked, _runner()))


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        (replace(_runner(), engine=None), "its engine's version"),
        (replace(_runner(), device=None), "its device"),
        (replace(_runner(), nodes=None), "the schemas of its nodes"),
        (replace(_runner(), installed=None), "which packs and models it has"),
        (_runner(torch=None), "its version of PyTorch"),
        (replace(_runner(), nodes={}), "the target does not have it"),
    ],
)
def test_what_the_target_does_not_say_is_a_doubt(runner: Runner, why: str) -> None:
    assert why in _why(judged(ASKED, runner))


def test_a_number_that_json_does_not_have_is_a_doubt() -> None:
    asked = Asked(_with(MODEL, "4", cfg=float("nan")))
    assert "cannot be written as JSON" in _why(judged(asked, _runner()))


def test_the_list_of_classes_is_comfyuis_and_has_no_paid_one() -> None:
    """Each allowed class is in the bundled snapshot of ComfyUI, and none asks a service."""
    import json
    from importlib.resources import files

    data = files("comfy_remote.schedule").joinpath("data").joinpath("cacheable.json")
    said = json.loads(data.read_text(encoding="utf-8"))
    bundled = Schemas.bundled()
    assert said["source"]
    for name in (*said["classes"], *said["loaders"], *said["held"]):
        if name.startswith("Sandbox"):
            continue
        assert name in bundled, name
        assert not is_paid(bundled, name)
    for name, inputs in said["loaders"].items():
        declared = {one for group in bundled.declared(name).values() for one in group}  # type: ignore[union-attr]
        assert inputs.keys() <= declared, name
