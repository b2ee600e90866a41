"""Values of pack nodes: what their own scripts make of a file, and what is said when it is unsure.

The schemas are short forms of VideoHelperSuite's, mtb's and RMBG's.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from saved_workflow import saved, workflow

from comfy_remote.workflow.convert import Converted, convert
from comfy_remote.workflow.schema import Schemas

FORMATS = {
    "video/h264-mp4": [
        ["pix_fmt", ["yuv420p", "yuv420p10le"]],
        ["crf", "INT", {"default": 19, "min": 0, "max": 100}],
        ["save_metadata", "BOOLEAN", {"default": True}],
    ],
    "image/webp": [["lossless", "BOOLEAN", {"default": True}]],
}
COMBINE = {
    "images": ["IMAGE"],
    "frame_rate": ["FLOAT", {"default": 8}],
    "filename_prefix": ["STRING", {"default": "AnimateDiff"}],
    "format": [["image/gif", "image/webp", "video/h264-mp4"], {"formats": FORMATS}],
    "pingpong": ["BOOLEAN", {"default": False}],
    "save_output": ["BOOLEAN", {"default": True}],
}
LOAD_VIDEO = {
    "video": [["a.mp4"]],
    "force_rate": ["FLOAT", {"default": 0}],
    "custom_width": ["INT", {"default": 0}],
    "custom_height": ["INT", {"default": 0}],
    "frame_load_cap": ["INT", {"default": 0}],
    "skip_first_frames": ["INT", {"default": 0}],
    "select_every_nth": ["INT", {"default": 1}],
}
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


def made(
    required: dict[str, Any],
    values: Any,
    *,
    kind: str = "Made",
    optional: dict[str, Any] | None = None,
    **more: Any,
) -> Converted:
    info: dict[str, Any] = {
        kind: {"input": {"required": required, "optional": optional or {}}, "output": ["MADE"]}
    }
    return convert(workflow(saved(1, kind, values, **more)), Schemas(info, "a test"), now=NOW)


def inputs(converted: Converted) -> dict[str, Any]:
    return converted.prompt["1"]["inputs"]


# What the chosen value of a list brings along.

GIVEN = {"pix_fmt": "yuv420p10le", "crf": 51, "save_metadata": False}
PLAIN = {"frame_rate": 8, "filename_prefix": "x", "pingpong": False, "save_output": True}


def test_inputs_that_a_choice_brings_along_have_their_saved_values() -> None:
    converted = made(COMBINE, {**PLAIN, "format": "video/h264-mp4", **GIVEN})
    assert inputs(converted) == {**PLAIN, "format": "video/h264-mp4", **GIVEN}
    assert list(inputs(converted))[2:4] == ["format", "pix_fmt"]
    assert converted.doubts == ()


def test_they_have_the_formats_own_defaults_where_the_file_has_none() -> None:
    converted = made(COMBINE, {**PLAIN, "format": "video/h264-mp4"})
    assert inputs(converted) == {
        **PLAIN,
        "format": "video/h264-mp4",
        "pix_fmt": "yuv420p",
        "crf": 19,
        "save_metadata": True,
    }
    assert "lossless" in inputs(made(COMBINE, {**PLAIN, "format": "image/webp"}))
    assert set(inputs(made(COMBINE, {**PLAIN, "format": "image/gif"}))) == {*PLAIN, "format"}


@pytest.mark.parametrize(
    ("brought", "expected"),
    [
        (["yuv420p10le", 51, False], GIVEN),
        (["yuv420p10le", 51], {**GIVEN, "save_metadata": True}),
        ([], {"pix_fmt": "yuv420p", "crf": 19, "save_metadata": True}),
    ],
)
def test_by_position_they_come_right_after_the_choice_and_may_be_missing(
    brought: list[Any], expected: dict[str, Any]
) -> None:
    converted = made(COMBINE, [12, "x", "video/h264-mp4", *brought, True, False])
    assert inputs(converted) == {
        "frame_rate": 12,
        "filename_prefix": "x",
        "format": "video/h264-mp4",
        **expected,
        "pingpong": True,
        "save_output": False,
    }
    assert converted.doubts == ()


def test_a_link_to_such_an_input_holds_while_the_choice_brings_it() -> None:
    values = {**PLAIN, "format": "video/h264-mp4", **GIVEN}
    node = saved(1, "Made", values, widgets={"crf": 5})
    number = saved(2, "Number", [30], outputs={"INT": [5]})
    info: dict[str, Any] = {
        "Made": {"input": {"required": COMBINE}, "output": []},
        "Number": {"input": {"required": {"value": ["INT", {}]}}, "output": ["INT"]},
    }
    document = workflow(node, number, links=[[5, 2, 0, 1, 0, "INT"]])
    schemas = Schemas(info, "a test")
    assert convert(document, schemas).prompt["1"]["inputs"]["crf"] == ["2", 0]
    values["format"] = "image/gif"
    assert "crf" not in convert(document, schemas).prompt["1"]["inputs"]


# Inputs of types that the editor has no widget for.

TIMES = {
    "seek_seconds": ["FLOAT", {"default": 0, "widgetType": "VHSTIMESTAMP"}],
    "duration": ["FLOAT", {"default": 0, "widgetType": "VHSTIMESTAMP"}],
}


@pytest.mark.parametrize(
    "values", [["a.wav", 1.5, 5], {"audio_file": "a.wav", "seek_seconds": 1.5, "duration": 5}]
)
def test_an_unknown_widget_type_is_a_widget(values: Any) -> None:
    converted = made({"audio_file": ["STRING", {}]}, values, optional=TIMES)
    assert inputs(converted) == {"audio_file": "a.wav", "seek_seconds": 1.5, "duration": 5}
    assert converted.doubts == ()


def test_an_unknown_type_with_a_default_is_a_widget_and_shifts_nothing() -> None:
    required = {
        "border": [["edge", "reflect"], {}],
        "color": ["COLORCODE", {"default": "#000000"}],
        "filter": [["nearest", "box"], {}],
    }
    converted = made(required, ["reflect", "#930606", "nearest"])
    assert inputs(converted) == {"border": "reflect", "color": "#930606", "filter": "nearest"}
    assert converted.doubts == ()


def test_an_unknown_type_that_the_file_has_as_a_socket_stays_one() -> None:
    required = {"poses": ["POSES", {"default": "none"}], "size": ["INT", {}]}
    linked = made(required, [5], inputs={"poses": ("POSES", None)})
    assert inputs(linked) == {"size": 5}
    converted = made({"any": ["*", {"default": 1}], "size": ["INT", {}]}, [5])
    assert inputs(converted) == {"size": 5}


def test_a_socket_of_an_older_version_says_nothing_of_todays_type() -> None:
    optional = {"background": ["COLORCODE", {"default": "#222222"}]}
    older: dict[str, tuple[str, int | None]] = {"background": ("COLOR", None)}
    converted = made({"size": ["INT", {}]}, [5], optional=optional, inputs=older)
    assert inputs(converted) == {"size": 5, "background": "#222222"}


@pytest.mark.parametrize("kind", ["Made", "VHS_VideoCombine"])
def test_the_address_of_what_was_shown_and_an_empty_text_are_no_values(kind: str) -> None:
    shown = "/view?filename=film_00010_.gif&subfolder=&type=output"
    optional = {"deprecation_warning": ["WARN", {"text": "use another"}]}
    for values in ([5, shown], [5, ""], [5, "", None]):
        converted = made({"size": ["INT", {}]}, values, optional=optional, kind=kind)
        assert inputs(converted) == {"size": 5}
        assert converted.doubts == ()


def test_an_optional_socket_that_an_older_file_lacks_gets_no_words_as_its_value() -> None:
    optional = {"model": ["FACE_MODEL", {"default": "None"}]}
    assert inputs(made({"size": ["INT", {}]}, [5], optional=optional)) == {"size": 5}


def test_values_that_fit_only_after_an_exchange_are_exchanged() -> None:
    required = {
        "invert": ["BOOLEAN", {}],
        "threshold": ["INT", {}],
        "mask_color": ["COLORCODE", {"default": "#FFFFFF"}],
    }
    converted = made(required, ["#00ff00", 30, False, 0, 0, True])
    assert inputs(converted) == {"invert": False, "threshold": 30, "mask_color": "#00ff00"}
    moved, left = converted.doubts
    assert "'#00ff00' for mask_color" in moved.message
    assert left.input is None
    assert "0, 0, True" in left.message


# What does not fit is said.


def test_a_value_that_cannot_belong_to_its_widget_is_said() -> None:
    required = {"steps": ["INT", {}], "sampler": [["euler", "dpm"], {}], "on": ["BOOLEAN", {}]}
    converted = made(required, ["euler", 20, "later"])
    [doubt] = converted.doubts
    assert (doubt.node_id, doubt.class_type, doubt.input) == ("1", "Made", "steps")
    assert doubt.sentence.startswith("Warning: node 1 (Made): saved values that cannot be of")
    assert "'euler' for steps (INT), 20 for sampler (COMBO), 'later' for on" in doubt.message


def test_a_value_that_has_another_name_in_the_file_is_said() -> None:
    required = {"steps": ["INT", {}], "cfg": ["FLOAT", {}]}
    named = {"cfg": 7.5, "steps": 20}
    converted = made(required, [7.5, 20], widgets_values_named=named)
    assert inputs(converted) == {"steps": 7.5, "cfg": 20}
    [doubt] = converted.doubts
    assert "7.5 instead of 20 for steps" in doubt.message
    assert made(required, [20, 7.5], widgets_values_named=named).doubts == ()


def test_more_values_than_widgets_are_said_and_what_buttons_save_is_not() -> None:
    required = {"steps": ["INT", {}]}
    [doubt] = made(required, [20, 3.5, "dpm"]).doubts
    assert doubt.input is None
    assert "3.5, 'dpm'" in doubt.message
    assert made(required, [20, None, "", {"preview": 1}, "image", "randomize"]).doubts == ()
    [named] = made(required, {"steps": 20, "strength": 0.5}).doubts
    assert "strength = 0.5" in named.message


def test_fewer_values_and_other_machines_models_are_no_doubt() -> None:
    required = {"model": [["here.safetensors"], {}], "steps": ["INT", {"default": 4}]}
    assert made(required, ["there.safetensors"]).doubts == ()


def test_a_value_that_a_link_replaces_is_no_doubt() -> None:
    info: dict[str, Any] = {
        "Made": {"input": {"required": {"steps": ["INT", {}]}}, "output": []},
        "Number": {"input": {"required": {"value": ["INT", {}]}}, "output": ["INT"]},
    }
    document = workflow(
        saved(1, "Made", ["words"], widgets={"steps": 5}),
        saved(2, "Number", [30], outputs={"INT": [5]}),
        links=[[5, 2, 0, 1, 0, "INT"]],
    )
    assert convert(document, Schemas(info, "a test")).doubts == ()


# Values as older versions of VideoHelperSuite saved them.


@pytest.mark.parametrize(
    ("forced", "width", "height"),
    [
        ("Disabled", 0, 0),
        ("Custom Width", 640, 0),
        ("Custom Height", 0, 360),
        ("Custom", 640, 360),
        ("512x?", 512, 0),
        ("?x256", 0, 256),
        ("256x128", 256, 128),
        pytest.param(f"256x{'9' * 5000}", 256, 0, id="too many digits"),
    ],
)
def test_force_size_of_older_versions_becomes_a_width_and_a_height(
    forced: str, width: int, height: int
) -> None:
    values = {"video": "a.mp4", "force_rate": 0, "force_size": forced}
    values |= {"custom_width": 640, "custom_height": 360}
    found = inputs(made(LOAD_VIDEO, values, kind="VHS_LoadVideo"))
    assert (found["custom_width"], found["custom_height"]) == (width, height)
    assert "force_size" not in found


def test_the_oldest_list_of_a_video_loader_goes_to_the_right_inputs() -> None:
    values = ["a.mp4", 12, "256x?", 30, 2, 3, "image", {"preview": True}]
    converted = made(LOAD_VIDEO, values, kind="VHS_LoadVideo")
    assert inputs(converted) == {
        "video": "a.mp4",
        "force_rate": 12,
        "custom_width": 256,
        "custom_height": 0,
        "frame_load_cap": 30,
        "skip_first_frames": 2,
        "select_every_nth": 3,
    }
    assert converted.doubts == ()


def test_save_image_of_older_versions_is_save_output() -> None:
    values = {"frame_rate": 8, "filename_prefix": "x", "format": "image/gif", "save_image": False}
    assert inputs(made(COMBINE, values, kind="VHS_VideoCombine"))["save_output"] is False


def test_dates_are_filled_in_for_the_packs_whose_scripts_do_it() -> None:
    values = {**PLAIN, "filename_prefix": "v/%date:yyyy-MM-dd%/x", "format": "image/gif"}
    converted = made(COMBINE, values, kind="VHS_VideoCombine")
    assert inputs(converted)["filename_prefix"] == "v/2026-03-04/x"
    assert inputs(made(COMBINE, values))["filename_prefix"] == "v/%date:yyyy-MM-dd%/x"


def test_values_left_for_a_type_that_nothing_gives_are_its_widgets() -> None:
    optional = {"select_styles": ["PROMPT_STYLES", {}]}
    converted = made({"styles": [["a", "b"], {}]}, ["a", "one,two"], optional=optional)
    assert inputs(converted) == {"styles": "a", "select_styles": "one,two"}
    assert inputs(made({"styles": [["a", "b"], {}]}, ["a"], optional=optional)) == {"styles": "a"}


# What the scripts of packs set when a file is loaded.


def test_a_bridge_shows_what_passes_through_it() -> None:
    required = {"images": ["IMAGE"], "image": ["STRING", {}]}
    sockets: dict[str, tuple[str, int | None]] = {"images": ("IMAGE", None)}
    converted = made(required, ["#placeholder"], kind="PreviewBridge", inputs=sockets)
    assert inputs(converted) == {"image": "$1-0"}


def test_a_menu_goes_back_to_its_first_line() -> None:
    required = {"text": ["STRING", {}], "Select to add LoRA": [["Select", "x"], {}]}
    assert inputs(made(required, ["t", "y"]))["Select to add LoRA"] == "Select"
    lines = {"text": ["STRING", {}], "prefix": [["Select a prefix", "Photo of"], {}]}
    assert inputs(made(lines, ["t", "Select"], kind="easy prompt"))["prefix"] == "Select a prefix"
    assert inputs(made(lines, ["t", "Photo of"]))["prefix"] == "Photo of"


def test_a_choice_that_was_saved_with_its_picture_is_the_choice() -> None:
    required = {"lora_name": [["a.safetensors"], {}], "strength": ["FLOAT", {}]}
    values = [{"content": "a.safetensors", "image": "loras/a.png"}, 0.5]
    converted = made(required, values, kind="LoraLoader|pysssss")
    assert inputs(converted) == {"lora_name": "a.safetensors", "strength": 0.5}
    assert converted.doubts == ()


def test_a_seed_that_is_drawn_is_drawn() -> None:
    required = {"seed": ["INT", {"min": 0}]}
    drawn = inputs(made(required, [-1, None], kind="KSampler (Efficient)"))["seed"]
    assert isinstance(drawn, int)
    assert drawn >= 0
    assert inputs(made(required, [-1]))["seed"] == -1


@pytest.mark.parametrize(
    ("kind", "name"),
    [("SplineEditor", "coordinates"), ("CharacterVoicesNode", "reference_text")],
)
def test_what_only_a_script_computes_is_said(kind: str, name: str) -> None:
    [doubt] = made({name: ["STRING", {}]}, ["[]"], kind=kind).doubts
    assert doubt.input == name
    assert "a script of its pack computes values" in doubt.message


def test_a_group_node_says_that_newer_editors_read_it_otherwise() -> None:
    document = workflow(saved(1, "workflow>G"))
    document["extra"] = {"groupNodes": {"G": {"nodes": [{**saved(0, "Made"), "index": 0}]}}}
    info: dict[str, Any] = {"Made": {"input": {}, "output": []}}
    [doubt] = convert(document, Schemas(info, "a test")).doubts
    assert (doubt.node_id, doubt.input) == ("1", None)
    assert "group node" in doubt.message
