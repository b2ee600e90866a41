"""How saved values find their inputs when a UI-format workflow is converted."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from typing import Any

import pytest
from saved_workflow import saved, workflow

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

SAMPLER = [7, "fixed", 20, 8.0, "euler", "normal", 1.0]


def node_class(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Schemas:
    info: dict[str, Any] = {
        "Made": {
            "input": {"required": required, "optional": optional or {}},
            "output": ["IMAGE"],
            "output_node": True,
        }
    }
    return Schemas(info, "a test")


def inputs_of(schemas: Schemas, values: Any, **more: Any) -> dict[str, Any]:
    prompt = convert_workflow(workflow(saved(1, "Made", values, **more)), schemas)
    return prompt["1"]["inputs"]


def test_values_go_to_widgets_in_order_and_the_control_of_a_seed_is_left_out() -> None:
    prompt = convert_workflow(workflow(saved(3, "KSampler", SAMPLER)), Schemas.bundled())
    assert prompt["3"]["inputs"] == {
        "seed": 7,
        "steps": 20,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    assert prompt["3"]["_meta"] == {"title": "KSampler"}


def test_an_upload_button_has_a_value_that_is_not_an_input() -> None:
    prompt = convert_workflow(
        workflow(saved(1, "LoadImage", ["photo.png", "image"])), Schemas.bundled()
    )
    assert prompt["1"]["inputs"] == {"image": "photo.png"}


def test_too_few_values_leave_defaults_and_too_many_are_ignored() -> None:
    schemas = node_class({"a": ["INT", {"default": 5}], "b": ["STRING", {"default": "x"}]})
    assert inputs_of(schemas, [1]) == {"a": 1, "b": "x"}
    assert inputs_of(schemas, [1, "y", "z"]) == {"a": 1, "b": "y"}


def test_an_input_that_only_takes_links_has_no_place_among_the_values() -> None:
    schemas = node_class(
        {"a": ["INT", {"forceInput": True}], "b": ["STRING", {}]},
        {"c": ["INT", {"defaultInput": True}], "d": ["INT", {}]},
    )
    assert inputs_of(schemas, ["text", 3]) == {"b": "text", "d": 3}


def test_values_from_when_such_an_input_had_a_widget_are_dropped() -> None:
    schemas = node_class({"a": ["INT", {"forceInput": True}], "b": ["STRING", {}]})
    assert inputs_of(schemas, [4, "text"]) == {"b": "text"}


def test_an_input_of_several_types_has_no_widget_and_shifts_nothing() -> None:
    schemas = node_class({"any": ["INT,FLOAT", {}], "text": ["STRING", {}]})
    assert inputs_of(schemas, ["words"]) == {"text": "words"}


def test_an_input_of_several_types_has_the_widget_that_it_names() -> None:
    schemas = node_class({"any": ["FLOAT,INT", {"widgetType": "FLOAT"}], "text": ["STRING", {}]})
    assert inputs_of(schemas, [2.5, "words"]) == {"any": 2.5, "text": "words"}


def test_the_schemas_order_of_inputs_counts() -> None:
    schemas = Schemas(
        {
            "Made": {
                "input": {"required": {"a": ["INT"], "b": ["STRING"]}},
                "input_order": {"required": ["b", "a"]},
                "output": [],
            }
        },
        "a test",
    )
    assert inputs_of(schemas, ["x", 1]) == {"a": 1, "b": "x"}


def test_values_saved_by_name_go_by_name() -> None:
    schemas = node_class({"a": ["INT", {}], "b": ["STRING", {}]})
    assert inputs_of(schemas, {"b": "x", "a": 1, "gone": 2}) == {"a": 1, "b": "x"}


def test_a_list_as_a_value_is_wrapped_so_that_it_is_not_a_link() -> None:
    schemas = node_class({"a": ["COLORS", {}]})
    assert inputs_of(schemas, [["1", 0]]) == {"a": {"__value__": ["1", 0]}}


def test_a_null_choice_becomes_the_first_one() -> None:
    schemas = node_class({"a": [["one", "two"], {"default": "two"}]})
    assert inputs_of(schemas, [None]) == {"a": "one"}
    assert inputs_of(schemas, []) == {"a": "two"}


DYNAMIC = {
    "mode": [
        "COMFY_DYNAMICCOMBO_V3",
        {
            "options": [
                {"key": "plain", "inputs": {"required": {"size": ["INT", {"default": 1}]}}},
                {
                    "key": "fancy",
                    "inputs": {
                        "required": {"style": [["a", "b"], {}], "size": ["INT", {}]},
                        "optional": {"mask": ["MASK", {}]},
                    },
                },
            ]
        },
    ],
    "text": ["STRING", {}],
}


def test_the_option_of_a_dynamic_combo_brings_its_inputs_right_after_it() -> None:
    schemas = node_class(DYNAMIC)
    assert inputs_of(schemas, ["plain", 3, "t"]) == {"mode": "plain", "mode.size": 3, "text": "t"}
    assert inputs_of(schemas, ["fancy", "b", 4, "t"]) == {
        "mode": "fancy",
        "mode.style": "b",
        "mode.size": 4,
        "text": "t",
    }


def test_links_to_inputs_of_an_option_are_kept_while_the_option_is_chosen() -> None:
    made = saved(1, "Made", ["fancy", "b", 4, "t"], inputs={"mode.mask": ("MASK", 9)})
    mask = saved(2, "Made", ["plain", 3, "t"], outputs={"MASK": [9]})
    link = [[9, 2, 0, 1, 0, "MASK"]]
    schemas = node_class(DYNAMIC)
    prompt = convert_workflow(workflow(made, mask, links=link), schemas)
    assert prompt["1"]["inputs"]["mode.mask"] == ["2", 0]
    made["widgets_values"] = ["plain", 3, "t"]
    prompt = convert_workflow(workflow(made, mask, links=link), schemas)
    assert "mode.mask" not in prompt["1"]["inputs"]


def test_a_list_of_inputs_grows_with_its_links() -> None:
    batch = saved(
        1, "BatchImagesNode", inputs={f"images.image{i}": ("IMAGE", 10 + i) for i in range(4)}
    )
    image = saved(2, "EmptyImage", [8, 8, 1, 0], outputs={"IMAGE": [10, 11, 12, 13]})
    links = [[10 + i, 2, 0, 1, i, "IMAGE"] for i in range(4)]
    prompt = convert_workflow(workflow(batch, image, links=links), Schemas.bundled())
    assert prompt["1"]["inputs"] == {f"images.image{i}": ["2", 0] for i in range(4)}


def test_choices_in_a_prompt_are_made_and_comments_left_out() -> None:
    text = "a {red|red} cat // by night\n/* no */on \\{mats\\}"
    encode = saved(1, "CLIPTextEncode", [text])
    prompt = convert_workflow(workflow(encode), Schemas.bundled(), rng=random.Random(1))
    assert prompt["1"]["inputs"]["text"] == "a red cat \non {mats}"


def test_a_file_name_gets_the_date_and_the_values_of_other_nodes() -> None:
    document = workflow(
        saved(1, "KSampler", SAMPLER, title="Base"),
        saved(2, "SaveImage", ["%date:yyyy-MM-dd%/%Base.seed%_%KSampler.sampler_name%_%width%"]),
    )
    prompt = convert_workflow(
        document, Schemas.bundled(), now=datetime(2026, 3, 4, tzinfo=timezone.utc)
    )
    assert prompt["2"]["inputs"]["filename_prefix"] == "2026-03-04/7_euler_%width%"


def test_what_only_the_editor_can_render_is_refused() -> None:
    with pytest.raises(WorkflowInvalid, match=r"node 1 \(Load3D.*3D scene"):
        convert_workflow(workflow(saved(1, "Load3D", ["x.glb", "", 8, 8])), Schemas.bundled())


def test_an_unknown_class_is_converted_if_the_file_names_its_values() -> None:
    node = saved(1, "Foreign", [1, "fixed", "x"], widgets={"seed": None, "text": None})
    node["inputs"][0]["type"] = "INT"
    prompt = convert_workflow(workflow(node), Schemas.bundled())
    assert prompt["1"]["inputs"] == {"seed": 1, "text": "x"}


def test_an_unknown_class_is_refused_with_the_snapshot_and_says_so() -> None:
    with pytest.raises(WorkflowInvalid, match=r"node 1 \(Foreign\)") as caught:
        convert_workflow(workflow(saved(1, "Foreign", [1, 2])), Schemas.bundled())
    assert "snapshot" in caught.value.advice
    assert "--on TARGET" in for_terminal(caught.value.advice)
    assert caught.value.details == {"node_id": "1", "class_type": "Foreign"}


def test_an_unknown_class_stays_in_place_for_a_comfyui_to_refuse() -> None:
    document = workflow(saved(1, "Foreign", [1, 2]))
    schemas = Schemas({}, "http://127.0.0.1:8188")
    prompt = convert_workflow(document, schemas)
    assert prompt["1"]["inputs"] == {"UNKNOWN": 1, "UNKNOWN_1": 2}
    with pytest.raises(WorkflowInvalid, match="Foreign"):
        convert_workflow(document, schemas, keep_unknown=False)


def test_the_loras_of_rgthrees_loader_are_numbered() -> None:
    values = [
        {},
        {"type": "PowerLoraLoaderHeaderWidget"},
        {"on": True, "lora": "a.safetensors", "strength": 1, "strengthTwo": None},
        {"on": False, "lora": "b.safetensors", "strength": 0.5, "strengthTwo": None},
        {},
        "",
    ]
    prompt = convert_workflow(
        workflow(saved(1, "Power Lora Loader (rgthree)", values)), Schemas.bundled()
    )
    assert prompt["1"]["inputs"] == {
        "lora_1": {"on": True, "lora": "a.safetensors", "strength": 1},
        "lora_2": {"on": False, "lora": "b.safetensors", "strength": 0.5},
    }


def test_a_number_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(WorkflowInvalid, match="too large"):
        inputs_of(node_class({"a": ["FLOAT", {}]}), [float("inf")])


def test_the_document_is_not_changed() -> None:
    document = workflow(saved(1, "KSampler", list(SAMPLER)))
    before = repr(document)
    prompt = convert_workflow(document, Schemas.bundled())
    prompt["1"]["inputs"]["seed"] = 0
    assert repr(document) == before
