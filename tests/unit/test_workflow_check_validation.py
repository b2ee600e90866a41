"""ComfyUI's rules on classes made up for it; `test_check_parity` compares with ComfyUI itself."""

from __future__ import annotations

from typing import Any

import pytest
from test_workflow_check import TARGET, changed, target

from comfy_remote.workflow.check import NodeRules, Validated, check_prompt, validate_prompt

ROW = ["COMFY_AUTOGROW_V3",
       {"template": {"input": {"required": {"one": ["INT", {}]}}, "prefix": "n", "min": 2,
                     "max": 3}}]  # fmt: skip
CLASSES = {
    "Number": NodeRules({"required": {"value": ["INT", {"max": 9}]}}, ("INT", "A,B")),
    "Row": NodeRules({"required": {"row": ROW}}, ("INT",)),
    "Save": NodeRules({"optional": {"any": ["*"], "b": ["B,C", {}], "c": ["C", {}]}}, (), True),
}


def validated(**nodes: tuple[str, dict[str, Any]]) -> Validated:
    prompt = {
        name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()
    }
    return validate_prompt(prompt, CLASSES.get)


def kinds(found: Validated) -> dict[str, list[tuple[str, str]]]:
    errors: Any = found.node_errors
    return {
        node_id: [(error["type"], error["details"]) for error in node["errors"]]
        for node_id, node in errors.items()
    }


def test_values_get_their_types_in_a_copy() -> None:
    given = {"value": {"__value__": "7"}}
    found = validated(n=("Number", given), s=("Save", {"any": ["n", 0]}))
    assert (found.error, found.outputs) == (None, ["s"])
    assert found.prompt["n"]["inputs"] == {"value": 7}
    assert given == {"value": {"__value__": "7"}}


def test_outputs_that_depend_on_an_error() -> None:
    found = validated(
        n=("Number", {"value": 10}), s=("Save", {"any": ["n", 0]}), t=("Save", {"any": ["n", 0]}),
        u=("Save", {}),
    )  # fmt: skip
    errors: Any = found.node_errors
    assert list(errors) == ["n"]
    assert errors["n"]["dependent_outputs"] == ["s", "t"]
    assert (found.error, found.outputs) == (None, ["u"])


@pytest.mark.parametrize(("name", "fits"), [("any", True), ("b", True), ("c", False)])
def test_one_type_in_common_is_enough(name: str, fits: bool) -> None:
    found = validated(n=("Number", {"value": 1}), s=("Save", {name: ["n", 1]}))
    assert (found.error is None) is fits


def test_a_row_needs_its_least_number_by_the_last_part_of_its_name() -> None:
    found = validated(n=("Row", {"row.n0": 1}), s=("Save", {"any": ["n", 0]}))
    assert kinds(found) == {"n": [("required_input_missing", "n1")]}
    found = validated(n=("Row", {"row.n0": 1, "row.n1": 2}), s=("Save", {"any": ["n", 0]}))
    assert found.error is None


def test_a_cycle_is_an_error_of_each_node_in_it() -> None:
    found = validated(s=("Save", {"any": ["n", 0]}), n=("Number", {"value": ["n", 0]}))
    assert kinds(found) == {"n": [("dependency_cycle", "n (Number) -> n (Number)")]}
    assert (found.error is None, found.outputs) == (False, [])


def test_only_some_outputs() -> None:
    prompt = {"s": {"class_type": "Save", "inputs": {}}, "t": {"class_type": "Save", "inputs": {}}}
    assert validate_prompt(prompt, CLASSES.get, ["t"]).outputs == ["t"]
    nothing = validate_prompt(prompt, CLASSES.get, [])
    assert nothing.error is not None
    assert nothing.error["type"] == "prompt_no_outputs"


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("LoadImage", {"image": "ours.png"}),
        ("LoadLatent", {"latent": "ours.latent"}),
        ("CustomCombo", {"choice": "mine", "index": 0}),
    ],
)
def test_values_that_comfyuis_nodes_judge_themselves(
    class_type: str, inputs: dict[str, Any]
) -> None:
    prompt = changed(
        n7={"class_type": class_type, "inputs": inputs},
        n8={"class_type": "PreviewAny", "inputs": {"source": ["7", 0]}},
    )
    assert check_prompt(prompt, TARGET).problems == ()


def test_the_same_file_elsewhere_is_nearer_than_a_name_like_it() -> None:
    choices = ["long/way/down/to/another/place/m.safetensors", "n.safetensors"]
    schemas = target(CheckpointLoaderSimple={
        "input": {"required": {"ckpt_name": [choices]}}, "output": ["MODEL", "CLIP", "VAE"],
    })  # fmt: skip
    found = check_prompt(changed(n1={"ckpt_name": "m.safetensors"}), schemas).problems
    assert f"Did you mean {choices[0]!r}?" in found[0].message


def test_files_of_a_packs_load_node_are_no_choices() -> None:
    pack = {"input": {"required": {"video": [["theirs.mp4"], {"video_upload": True}]}},
            "output": [], "output_node": True, "python_module": "custom_nodes.videos"}  # fmt: skip
    prompt = changed(n7={"class_type": "PackLoad", "inputs": {"video": "ours.mp4"}})
    assert check_prompt(prompt, target(PackLoad=pack)).problems == ()
