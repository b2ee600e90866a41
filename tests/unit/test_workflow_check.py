"""The check: what keeps a prompt from running, told with its place and what to do."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.check import (
    Limits,
    Problem,
    Report,
    check_prompt,
    validate_for,
)
from comfy_remote.workflow.files import FileSearch
from comfy_remote.workflow.schema import Schemas

PICTURE: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "here.safetensors"}},
    "2": {"class_type": "EmptyLatentImage",
          "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
    "4": {"class_type": "KSampler",
          "inputs": {"model": ["1", 0], "seed": 1, "steps": 20, "cfg": 7, "sampler_name": "euler",
                     "scheduler": "normal", "positive": ["3", 0], "negative": ["3", 0],
                     "latent_image": ["2", 0], "denoise": 1}},
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "a"}},
}  # fmt: skip


def target(**classes: Any) -> Schemas:
    """A ComfyUI with ComfyUI's own nodes, some models, and what else is given."""
    bundled = Schemas.bundled()
    info: dict[str, Any] = {name: copy.deepcopy(bundled.document(name)) for name in bundled}
    models = ["here.safetensors", "sub/sd_xl.safetensors"]
    info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] = [models, {}]
    return Schemas({**info, **classes}, "http://box:8188")


TARGET = target()


def changed(**nodes: Any) -> dict[str, Any]:
    """`PICTURE` with ``n4={"steps": 1}`` put into the inputs of node 4, or whole nodes put in."""
    prompt = copy.deepcopy(PICTURE)
    for name, value in nodes.items():
        node_id = name.removeprefix("n")
        if "class_type" in value:
            prompt[node_id] = value
        else:
            prompt[node_id]["inputs"].update(value)
    return prompt


def only(report: Report) -> Problem:
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def place(problem: Problem) -> tuple[str, str | None, str | None]:
    return problem.code, problem.node_id, problem.input


def test_a_good_prompt_has_no_problems_and_is_not_changed() -> None:
    prompt = changed(n4={"steps": "20"})
    before = copy.deepcopy(prompt)
    report = check_prompt(prompt, TARGET)
    assert (report.problems, report.advice, report.error, report.node_errors) == ((), (), None, {})
    assert report.schemas == "http://box:8188"
    assert prompt == before
    assert report.to_json()["ok"] is True


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({"n4": {"steps": 0}}, ("value_smaller_than_min", "4", "steps"), "1 to 10000"),
        ({"n4": {"steps": 10**5}}, ("value_bigger_than_max", "4", "steps"), "100000"),
        ({"n4": {"steps": "many"}}, ("invalid_input_type", "4", "steps"), "not of type INT"),
        ({"n4": {"scheduler": "norml"}}, ("value_not_in_list", "4", "scheduler"), "'normal'"),
        ({"n5": {"samples": ["1", 2]}}, ("return_type_mismatch", "5", "samples"), "gives VAE"),
        ({"n5": {"samples": ["4", 7]}}, ("no_such_output", "5", "samples"), "LATENT"),
        ({"n5": {"samples": ["99", 0]}}, ("dangling_link", "5", "samples"), "node 99"),
        ({"n5": {"extra": ["99", 0]}}, ("dangling_link", "5", "extra"), "node 99"),
        ({"n5": {"samples": ["4"]}}, ("bad_linked_input", "5", "samples"), "not a link"),
        ({"n4": {"latent_image": ["4", 0]}}, ("dependency_cycle", "4", None), "4 (KSampler)"),
    ],
)
def test_problems_name_their_place(
    change: dict[str, Any], expected: tuple[str, str, str | None], words: str
) -> None:
    problem = only(check_prompt(changed(**change), TARGET))
    assert place(problem) == expected
    assert words in problem.message
    assert problem.severity == "error"


def test_a_required_input_that_is_missing() -> None:
    prompt = copy.deepcopy(PICTURE)
    del prompt["5"]["inputs"]["vae"]
    report = check_prompt(prompt, TARGET)
    assert place(only(report)) == ("required_input_missing", "5", "vae")
    assert report.node_errors["5"]["errors"][0]["type"] == "required_input_missing"  # type: ignore[index, call-overload]
    assert report.error is not None
    assert report.error["type"] == "prompt_outputs_failed_validation"


def test_a_long_cycle_is_told_once() -> None:
    link = {"class_type": "ImageInvert", "inputs": {"image": ["8", 0]}}
    prompt = changed(
        n7=link, n8={**link, "inputs": {"image": ["9", 0]}},
        n9={**link, "inputs": {"image": ["7", 0]}}, n6={"images": ["7", 0]},
    )  # fmt: skip
    problem = only(check_prompt(prompt, TARGET))
    assert problem.code == "dependency_cycle"
    assert problem.details["nodes"] == ["7", "8", "9"]


def test_a_missing_model_is_named_as_one_with_its_folder() -> None:
    problem = only(check_prompt(changed(n1={"ckpt_name": "sd_xl.safetensors"}), TARGET))
    assert place(problem) == ("missing_model", "1", "ckpt_name")
    assert "models/checkpoints" in problem.message
    assert "Did you mean 'sub/sd_xl.safetensors'?" in problem.message
    assert problem.details["folder"] == "checkpoints"


def test_the_snapshot_knows_no_models_and_no_packs() -> None:
    other = {"class_type": "PackSave", "inputs": {"images": ["5", 0]}}
    report = check_prompt(changed(n4={"scheduler": "beta57"}, n7=other), Schemas.bundled())
    assert [(p.code, p.severity) for p in report.problems] == [
        ("value_not_in_list", "warning"),
        ("missing_node_type", "warning"),
    ]
    assert report.error is None


def test_a_missing_class_is_told_with_its_pack_and_the_rest_is_checked() -> None:
    other = {"class_type": "PackBlur", "inputs": {"image": ["5", 0], "radius": 3}}
    prompt = changed(n4={"steps": 0}, n6={"images": ["7", 0]}, n7=other)
    workflow = {"nodes": [{"id": 7, "type": "PackBlur",
                           "properties": {"cnr_id": "blur-pack", "ver": "1.2"}}]}  # fmt: skip
    report = check_prompt(prompt, TARGET, workflow=workflow)
    assert [place(p) for p in report.problems] == [
        ("value_smaller_than_min", "4", "steps"),
        ("missing_node_type", "7", None),
    ]
    assert "blur-pack there (the workflow was saved with 1.2)" in report.problems[1].advice
    assert report.error is not None
    assert report.error["type"] == "missing_node_type"


@pytest.mark.parametrize(
    ("name", "meant"), [("SaveImag", "Did you mean 'SaveImage'?"), ("SaveImageMulti", "")]
)
def test_only_a_slip_of_the_hand_is_taken_for_a_class_that_is_there(name: str, meant: str) -> None:
    other = {"class_type": name, "inputs": {"images": ["5", 0]}}
    (problem,) = (p for p in check_prompt(changed(n7=other), TARGET).problems if p.node_id == "7")
    assert problem.message.partition("Did")[2] == meant.removeprefix("Did")


def test_no_output() -> None:
    prompt = copy.deepcopy(PICTURE)
    del prompt["6"]
    assert only(check_prompt(prompt, TARGET)).code == "prompt_no_outputs"


CUSTOM = {
    "input": {"required": {
        "image": ["IMAGE", {}], "mode": [["a", "b"], {}], "size": ["INT", {"max": 5}],
        "model": [["x.safetensors"], {}],
    }},
    "output": ["IMAGE"], "output_node": True, "name": "Custom", "display_name": "Custom",
    "python_module": "custom_nodes.some-pack",
}  # fmt: skip


def test_a_custom_node_may_judge_its_values_itself_but_models_must_be_there() -> None:
    inputs = {"image": ["5", 0], "mode": "c", "size": 9, "model": "y.safetensors"}
    prompt = changed(n7={"class_type": "Custom", "inputs": inputs})
    schemas = target(Custom=CUSTOM)
    report = check_prompt(prompt, schemas)
    assert {(p.input, p.code, p.severity) for p in report.problems} == {
        ("mode", "value_not_in_list", "warning"),
        ("size", "value_bigger_than_max", "warning"),
        ("model", "missing_model", "error"),
    }
    node_errors: Any = validate_for(prompt, schemas).node_errors
    assert [e["extra_info"]["input_name"] for e in node_errors["7"]["errors"]] == ["model"]


def test_a_choice_that_stands_for_no_file_is_not_recommended() -> None:
    loader = {"input": {"required": {"vae_name": [["pixel_space"], {}]}}, "output": ["VAE"]}
    prompt = changed(n7={"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
                     n5={"vae": ["7", 0]})  # fmt: skip
    advice = only(check_prompt(prompt, target(VAELoader=loader))).advice
    assert advice == "Put it there: the folder is empty."


def test_a_class_that_comfyui_replaces_is_not_missing() -> None:
    prompt = changed(n4={"positive": ["7", 0]},
                     n7={"class_type": "ConditioningAverage ", "inputs": {}})  # fmt: skip
    assert "ConditioningAverage " not in TARGET
    assert check_prompt(prompt, TARGET).problems == ()
    assert validate_for(prompt, TARGET).error is None


def test_choices_that_decide_on_inputs() -> None:
    node = {"class_type": "ResizeImageMaskNode",
            "inputs": {"input": ["5", 0], "resize_type": "scale by multiplyer",
                       "scale_method": "area"}}  # fmt: skip
    problem = only(check_prompt(changed(n6={"images": ["7", 0]}, n7=node), TARGET))
    assert place(problem) == ("value_not_in_list", "7", "resize_type")
    assert "Did you mean 'scale by multiplier'?" in problem.message
    node["inputs"] = {"input": ["5", 0], "resize_type": "scale by multiplier",
                      "resize_type.multiplier": 1e9, "scale_method": "area"}  # fmt: skip
    problem = only(check_prompt(changed(n6={"images": ["7", 0]}, n7=node), TARGET))
    assert place(problem) == ("value_bigger_than_max", "7", "resize_type.multiplier")


def test_a_chain_longer_than_pythons_stack() -> None:
    prompt: dict[str, Any] = {"0": {"class_type": "EmptyImage", "inputs": {
        "width": 0, "height": 64, "batch_size": 1, "color": 0}}}  # fmt: skip
    for i in range(1, 5000):
        prompt[str(i)] = {"class_type": "ImageInvert", "inputs": {"image": [str(i - 1), 0]}}
    prompt["out"] = {"class_type": "PreviewImage", "inputs": {"images": ["4999", 0]}}
    assert place(only(check_prompt(prompt, TARGET))) == ("value_smaller_than_min", "0", "width")


def _loads(name: str) -> dict[str, Any]:
    return changed(
        n7={"class_type": "LoadImage", "inputs": {"image": name}},
        n8={"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    )


def test_files(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(b"x" * 3_000_000)
    search = FileSearch(roots=(tmp_path,), on_target=frozenset({"there.png"}))
    assert check_prompt(_loads("here.png"), TARGET, files=search).problems == ()
    assert check_prompt(_loads("there.png"), TARGET, files=search).problems == ()
    problem = only(check_prompt(_loads("gone.png"), TARGET, files=search))
    assert place(problem) == ("missing_file", "7", "image")
    # Base64 takes four bytes for three.
    for limit, fits in ((4_010_000, True), (3_990_000, False)):
        limits = Limits(request=limit)
        report = check_prompt(_loads("here.png"), TARGET, files=search, limits=limits)
        assert [p.code for p in report.problems] == ([] if fits else ["request_too_large"])


def test_files_of_comfyuis_output_folder_are_sent_if_they_are_here(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "made.png").write_bytes(b"x" * 3_000_000)
    search, limits = FileSearch(roots=(tmp_path,)), Limits(request=3_990_000)
    report = check_prompt(_loads("made.png [output]"), TARGET, files=search, limits=limits)
    assert only(report).code == "request_too_large"
    assert "made.png [output]" in only(report).message
    # It may be the target's own.
    assert check_prompt(_loads("gone.png [output]"), TARGET, files=search).problems == ()


@pytest.mark.parametrize(
    ("width", "batch", "found"),
    [(1024, 1, []), (2048, 2, ["warning"]), (2048, 8, ["error"])],
)
def test_outputs_that_are_larger_than_can_be_returned(
    width: int, batch: int, found: list[str]
) -> None:
    prompt = changed(n2={"width": width, "height": width, "batch_size": batch})
    report = check_prompt(prompt, TARGET, limits=Limits(result=10_000_000))
    assert [(p.code, p.severity) for p in report.problems] == [
        ("output_too_large", severity) for severity in found
    ]
    assert check_prompt(prompt, TARGET).problems == ()


def test_flat_pictures_may_compress_to_nothing() -> None:
    prompt = {
        "1": {"class_type": "EmptyImage",
              "inputs": {"width": 4096, "height": 4096, "batch_size": 64, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }  # fmt: skip
    report = check_prompt(prompt, TARGET, limits=Limits(result=10_000_000))
    assert only(report).severity == "warning"


@pytest.mark.parametrize("document", [None, [], 3, {}, {"1": 2}, {"1": {"class_type": 3}}])
def test_what_is_no_prompt(document: Any) -> None:
    with pytest.raises(WorkflowInvalid):
        check_prompt(document, TARGET)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**30) | st.floats(allow_nan=False)
    | st.sampled_from(["1", "2", "3", "x", "euler", "a.safetensors", "auto", "a.png"])
    | st.tuples(st.sampled_from(["1", "2", "3", "9"]), st.integers(-2, 9)).map(list),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)  # fmt: skip
CLASSES = st.sampled_from(
    ["KSampler", "SaveImage", "LoadImage", "EmptyLatentImage", "ImageScale", "ImageScaleBy",
     "BatchImagesNode", "ResizeImageMaskNode", "Custom", "Nope", "PreviewAny", "SaveVideo",
     "CheckpointLoaderSimple", "ImageBatch", "RepeatImageBatch", "ComfyMathExpression"],
)  # fmt: skip
NAMES = st.sampled_from(
    ["images", "image", "width", "height", "batch_size", "scale_by", "ckpt_name", "latent_image",
     "samples", "resize_type", "resize_type.multiplier", "images.image0", "amount", "steps",
     "source", "video", "image1", "image2", "length", "sampler_name"],
)  # fmt: skip
NODES = st.fixed_dictionaries({
    "class_type": CLASSES, "inputs": st.dictionaries(NAMES, VALUES, max_size=5)
})  # fmt: skip


def test_a_link_to_no_node_id_at_all() -> None:
    document: Any = {"1": {"class_type": "SaveImage", "inputs": {"images": [["1", 0]]}}}
    report = check_prompt(
        document,
        Schemas.bundled(),
        files=FileSearch(),
        limits=Limits(request=100, result=100),
    )
    assert report.errors


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["1", "2", "3", "4"]), NODES | VALUES, min_size=1) | VALUES,
    st.booleans(),
)
def test_anything_gives_a_report_or_an_error_of_ours(document: Any, snapshot: bool) -> None:
    schemas = Schemas.bundled() if snapshot else target_with_custom()
    if isinstance(document, dict):
        json.dumps(validate_for(document, schemas).to_json())
    try:
        report = check_prompt(
            document, schemas, files=FileSearch(), limits=Limits(request=100, result=100)
        )
    except WorkflowInvalid:
        return
    json.dumps(report.to_json())
    if report.error is not None:
        assert report.errors


@lru_cache
def target_with_custom() -> Schemas:
    return target(Custom=CUSTOM)
