"""``--prompt``, ``--negative``, ``--seed``, ``--width``: what they change, and what they leave."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.numbers import find_seeds, find_sizes, parse_seed
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.change.settings import apply_settings, put
from comfy_remote.workflow.change.texts import find_texts
from comfy_remote.workflow.load import LoadedWorkflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def text_to_image() -> Prompt:
    """The picture that everybody begins with."""
    return {
        "3": node(
            "KSampler",
            seed=5,
            steps=20,
            cfg=8.0,
            sampler_name="euler",
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurred", clip=["4", 1]),
        "4": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
    }


def with_nodes(**nodes: Any) -> Prompt:
    """`text_to_image` with other nodes; ``n6`` is node 6."""
    return {**text_to_image(), **{name[1:]: node for name, node in nodes.items()}}


def loaded(prompt: Prompt | None, **options: Any) -> LoadedWorkflow:
    return LoadedWorkflow("x.json", "workflow in API format", prompt, None, **options)


SCHEMAS = Schemas(
    {
        "KSampler": {
            "input": {
                "required": {
                    "seed": ["INT", {"min": 0, "max": 100}],
                    "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
                    "sampler_name": [["euler", "dpmpp_2m"], {}],
                    "positive": ["CONDITIONING"],
                },
                "optional": {"denoise": ["FLOAT", {"max": 1.0}], "tiled": ["BOOLEAN", {}]},
            },
            "output": ["LATENT"],
        },
        "CLIPTextEncode": {"input": {"required": {"text": ["STRING", {}]}}, "output": []},
        "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
        "Save": {
            "input": {
                "required": {
                    "format": [
                        "COMFY_DYNAMICCOMBO_V3",
                        {
                            "options": [
                                {
                                    "key": "png",
                                    "inputs": {"required": {"depth": ["INT", {"max": 16}]}},
                                },
                                {"key": "jpg", "inputs": {"required": {}}},
                            ]
                        },
                    ]
                }
            }
        },
    },
    "the target",
)


# The text


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        ({}, ("6", "text")),
        # Through nodes that change conditionings: by output, where they have both sides.
        (
            {
                "n3": node("KSampler", positive=["8", 0], negative=["8", 1]),
                "n8": node(
                    "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], image=["9", 0]
                ),
            },
            ("6", "text"),
        ),
        (
            {
                "n3": node("KSampler", positive=["8", 0], negative=["7", 0]),
                "n8": node("FluxGuidance", conditioning=["6", 0], guidance=3.5),
            },
            ("6", "text"),
        ),
        # A guider instead of a sampler's link.
        (
            {
                "n3": node("SamplerCustomAdvanced", guider=["8", 0], latent_image=["5", 0]),
                "n8": node("BasicGuider", conditioning=["6", 0], model=["4", 0]),
            },
            ("6", "text"),
        ),
        # The text is linked to a primitive, through a reroute.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node("Reroute", input=["9", 0]),
                "n9": node("PrimitiveStringMultiline", value="a cat"),
            },
            ("9", "value"),
        ),
        # A switch passes on what it is set to.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node(
                    "ComfySwitchNode", switch=["10", 0], on_true=["9", 0], on_false=["11", 0]
                ),
                "n9": node("PrimitiveString", value="a cat"),
                "n10": node("PrimitiveBoolean", value=True),
                "n11": node("PrimitiveString", value="a dog"),
            },
            ("9", "value"),
        ),
        # It is put together: the whole of it is replaced where it is used.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node("StringConcatenate", string_a="a", string_b="cat", delimiter=" "),
            },
            ("6", "text"),
        ),
        # A model writes the text: it is asked for another.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node("TextGenerate", prompt="a cat", clip=["4", 1], max_length=100),
            },
            ("8", "prompt"),
        ),
        ({"n6": node("Efficient Loader", positive="a cat")}, ("6", "positive")),
        # Both sides, after the model.
        (
            {
                "n3": node("KSampler", model=["8", 0], positive=["8", 1], negative=["8", 2]),
                "n8": node(
                    "LTXVReferenceAudio", model=["4", 0], positive=["6", 0], negative=["7", 0]
                ),
            },
            ("6", "text"),
        ),
        # A text that is filled into the template for a language model.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node("TextGenerate", prompt=["9", 0], clip=["4", 1]),
                "n9": node("StringReplace", string=["10", 0], find="WIDTH", replace=["11", 0]),
                "n10": node(
                    "StringReplace", string="Paint USER, WIDTH", find="USER", replace=["12", 0]
                ),
                "n11": node("PreviewAny", source=["13", 0]),
                "n12": node("PrimitiveStringMultiline", value="a cat"),
                "n13": node("PrimitiveInt", value=512),
            },
            ("12", "value"),
        ),
        # Several texts in one template: the whole of it is replaced where it is used.
        (
            {
                "n6": node("CLIPTextEncode", text=["9", 0]),
                "n9": node("StringReplace", string=["10", 0], find="A", replace=["11", 0]),
                "n10": node("StringReplace", string="A, B", find="B", replace=["12", 0]),
                "n11": node("PrimitiveString", value="a cat"),
                "n12": node("PrimitiveString", value="at dusk"),
            },
            ("6", "text"),
        ),
        # What is cut out of a list by another's choice is no text to set.
        (
            {
                "n6": node("CLIPTextEncode", text=["8", 0]),
                "n8": node("RegexExtract", string="red\ngreen", regex_pattern=["9", 0]),
                "n9": node("PrimitiveString", value="r.*"),
            },
            ("6", "text"),
        ),
    ],
)
def test_where_the_positive_text_is(nodes: dict[str, Any], place: tuple[str, str]) -> None:
    prompt = with_nodes(**nodes)
    if "n6" in nodes and "positive" in nodes["n6"]["inputs"]:
        del prompt["3"]
    assert find_texts(prompt, "positive") == [place]


def test_all_texts_of_one_encoder() -> None:
    prompt = with_nodes(n6=node("CLIPTextEncodeSDXL", text_g="a cat", text_l="cat", width=1024))
    assert find_texts(prompt, "positive") == [("6", "text_g"), ("6", "text_l")]


def test_two_samplers_with_the_same_text() -> None:
    again = node("KSampler", positive=["10", 0], negative=["7", 0], latent_image=["3", 0])
    same = node("CLIPTextEncodeSDXLRefiner", text="a cat")
    prompt = with_nodes(n9=again, n10=same)
    assert find_texts(prompt, "positive") == [("6", "text"), ("10", "text")]


def test_several_texts_are_a_question() -> None:
    again = node("KSampler", positive=["10", 0], negative=["7", 0])
    prompt = with_nodes(n9=again, n10=node("CLIPTextEncode", text="a dog"))
    with pytest.raises(WorkflowInvalid, match=r"node 6 .*'a cat'; node 10 .*'a dog'"):
        find_texts(prompt, "positive")
    assert find_texts(prompt, "positive", ["10"]) == [("10", "text")]


def test_the_negative_text() -> None:
    assert find_texts(text_to_image(), "negative") == [("7", "text")]


def test_a_negative_that_is_zeroed_out_is_not_the_positive() -> None:
    prompt = with_nodes(n7=node("ConditioningZeroOut", conditioning=["6", 0]))
    with pytest.raises(WorkflowInvalid, match="zeroed out"):
        find_texts(prompt, "negative")


def test_one_text_for_both_sides_is_not_the_negative() -> None:
    prompt = with_nodes(n3=node("KSampler", positive=["6", 0], negative=["6", 0]))
    with pytest.raises(WorkflowInvalid, match="the same node 6"):
        find_texts(prompt, "negative")


def test_what_writes_both_texts_is_neither() -> None:
    prompt: Prompt = {
        "1": node("Video", prompt=["2", 0], negative_prompt=["3", 0]),
        "2": node("RegexExtract", string=["4", 0], regex_pattern="^.*(?=--no)"),
        "3": node("RegexExtract", string=["4", 0], regex_pattern="--no.*$"),
        "4": node("GeminiNode", prompt="describe it", images=["5", 0]),
        "5": node("LoadImage", image="a.png"),
    }
    assert find_texts(prompt, "negative") == [("1", "negative_prompt")]


def test_the_other_texts_are_named_where_there_is_no_prompt() -> None:
    prompt: Prompt = {
        "1": node("Speech", text="hello", **{"voice.text_2": "you", "text_normalization": "auto"}),
        "2": node("Model", texture_quality="high", system_prompt="be kind"),
    }
    with pytest.raises(WorkflowInvalid) as caught:
        find_texts(prompt, "positive")
    assert caught.value.advice == (
        "Set the text you mean by its input: 1.text=TEXT (Speech), 1.voice.text_2=TEXT (Speech)."
    )


def test_of_linked_texts_that_differ_it_is_said_where_they_come_from() -> None:
    prompt = with_nodes(
        n3=node("KSampler", positive=["6", 0]),
        n6=node("CLIPTextEncode", text=["8", 0]),
        n8=node("StringConcatenate", string_a="a", string_b="cat"),
        n9=node("KSampler", positive=["10", 0]),
        n10=node("CLIPTextEncode", text="a dog"),
    )
    with pytest.raises(
        WorkflowInvalid, match=r"node 6 \(CLIPTextEncode\): \(from node 8\); node 10"
    ):
        find_texts(prompt, "positive")


def test_a_node_that_asks_a_service() -> None:
    prompt: Prompt = {"1": node("Video", **{"model": "a", "model.prompt": "a cat"})}
    assert find_texts(prompt, "positive") == [("1", "model.prompt")]


def test_no_text_at_all() -> None:
    with pytest.raises(WorkflowInvalid, match="No positive text was found"):
        find_texts({"1": node("EmptyImage")}, "positive")
    with pytest.raises(WorkflowInvalid, match="no text to set"):
        find_texts({"1": node("EmptyImage")}, "positive", ["EmptyImage"])


# Seeds


def test_every_seed() -> None:
    prompt = with_nodes(
        n8=node("RandomNoise", noise_seed=["9", 0]),
        n9=node("PrimitiveInt", value=1),
        n10=node("KSampler", seed=["9", 0]),
        n11=node("KSampler", seed=["12", 0]),
        n12=node("MathExpression", expression="a+1", a=["9", 0]),
        n13=node("Service", **{"model.seed": 3, "reseed": 4, "seed_behavior": "fixed"}),
        n14=node("Tripo", model_seed=42, **{"style.texture_seed": 42}, variation_seed=1),
        n15=node("Rodin", Seed=0),
    )
    assert find_seeds(prompt) == [
        ("3", "seed"),
        ("9", "value"),
        ("11", "seed"),
        ("13", "model.seed"),
        ("14", "model_seed"),
        ("14", "style.texture_seed"),
        ("15", "Seed"),
    ]


def test_many_seeds_in_a_chain_take_no_quadratic_time() -> None:
    prompt: Prompt = {"0": node("PrimitiveInt", value=1)}
    for number in range(1, 20_000):
        prompt[str(number)] = node("KSampler", seed=[str(number - 1), 0])
    began = time.process_time()  # what others do on the machine does not count
    assert find_seeds(prompt) == [("0", "value")]
    assert time.process_time() - began < 2


def test_a_computed_seed_is_replaced_at_its_sampler() -> None:
    prompt = with_nodes(n3=node("KSampler", seed=["8", 0]), n8=node("Add", value=1, other=["5", 0]))
    assert find_seeds(prompt) == [("3", "seed")]


def test_no_seed() -> None:
    with pytest.raises(WorkflowInvalid, match="has a seed"):
        find_seeds({"1": node("EmptyImage")})


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "18446744073709551616", "9" * 30, "²"])
def test_what_is_no_seed(text: str) -> None:
    with pytest.raises(WorkflowInvalid, match="is not a seed"):
        parse_seed(text)


def test_what_is_a_seed() -> None:
    assert parse_seed("18446744073709551615") == 2**64 - 1
    assert len({parse_seed("random") for _ in range(5)}) > 1
    assert 0 <= parse_seed("random") < 2**31


# Size


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        ({}, ("5", "width")),
        (
            {
                "n5": node("EmptySD3LatentImage", width=["8", 0], height=9),
                "n8": node("PrimitiveInt", value=9),
            },
            ("8", "value"),
        ),
        # One primitive for both: the height must stay.
        (
            {"n5": node("E", width=["8", 0], height=["8", 0]), "n8": node("PrimitiveInt", value=9)},
            ("5", "width"),
        ),
        # Image to image, from an empty image; the node that scales is not meant.
        (
            {
                "n5": node("VAEEncode", pixels=["8", 0], vae=["4", 2]),
                "n8": node("ImageScale", image=["9", 0], width=64, height=64),
                "n9": node("EmptyImage", width=8, height=8),
            },
            ("9", "width"),
        ),
        # A second pass on the first one's latent.
        (
            {
                "n9": node("KSampler", latent_image=["10", 0]),
                "n10": node("LatentUpscale", samples=["3", 0], width=9, height=9),
            },
            ("5", "width"),
        ),
        # A video from a picture.
        (
            {
                "n5": node("LTXVImgToVideo", image=["8", 0], vae=["4", 2], width=9, height=9),
                "n8": node("LoadImage", image="a.png"),
            },
            ("5", "width"),
        ),
        # Computed from a primitive: that is the width of the whole.
        (
            {
                "n5": node("EmptyLTXVLatentVideo", width=["8", 1], height=["9", 1]),
                "n8": node("ComfyMathExpression", expression="a/2", **{"values.a": ["10", 0]}),
                "n9": node("ComfyMathExpression", expression="a/2", **{"values.a": ["11", 0]}),
                "n10": node("PrimitiveInt", value=1280),
                "n11": node("PrimitiveInt", value=720),
            },
            ("10", "value"),
        ),
        # Both sides computed from one primitive.
        (
            {
                "n5": node("EmptyLatentImage", width=["8", 1], height=["8", 1]),
                "n8": node("ComfyMathExpression", expression="a/2", **{"values.a": ["10", 0]}),
                "n10": node("PrimitiveInt", value=1280),
            },
            ("5", "width"),
        ),
        # Measured on an empty picture, and on a loaded one.
        (
            {
                "n5": node("EmptyLTXVLatentVideo", width=["8", 0], height=["8", 1]),
                "n8": node("GetImageSize", image=["9", 0]),
                "n9": node("ImageScaleBy", image=["10", 0], scale_by=0.5),
                "n10": node("EmptyImage", width=1280, height=720),
            },
            ("10", "width"),
        ),
        (
            {
                "n5": node("EmptyLTXVLatentVideo", width=["8", 0], height=["8", 1]),
                "n8": node("GetImageSize", image=["9", 0]),
                "n9": node("ImageScaleToTotalPixels", image=["10", 0], megapixels=1.0),
                "n10": node("EmptyImage", width=1280, height=720),
            },
            ("5", "width"),
        ),
    ],
)
def test_where_the_width_is(nodes: dict[str, Any], place: tuple[str, str]) -> None:
    assert find_sizes(with_nodes(**nodes), "width") == [place]


def test_a_workflow_without_samplers_has_the_size_of_what_it_draws() -> None:
    prompt: Prompt = {
        "1": node("EmptyImage", width=8, height=8),
        "2": node("ImageScale", image=["1", 0], width=16, height=16),
    }
    assert find_sizes(prompt, "height") == [("1", "height")]


def test_a_batch_of_sounds_and_of_the_sounds_of_videos() -> None:
    prompt: Prompt = {
        "1": node("KSampler", latent_image=["2", 0]),
        "2": node("LTXVConcatAVLatent", video_latent=["3", 0], audio_latent=["4", 0]),
        "3": node("EmptyLTXVLatentVideo", width=64, height=64, batch_size=1),
        "4": node("LTXVEmptyLatentAudio", frames_number=9, batch_size=1),
    }
    assert find_sizes(prompt, "batch_size") == [("3", "batch_size"), ("4", "batch_size")]
    assert find_sizes(prompt, "width") == [("3", "width")]


def test_a_loaded_picture_has_its_own_size() -> None:
    prompt = with_nodes(n5=node("VAEEncode", pixels=["8", 0]), n8=node("LoadImage", image="a.png"))
    with pytest.raises(WorkflowInvalid, match=r"No sampler .* has a batch_size"):
        find_sizes(prompt, "batch_size")


# Values and schemas


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("3.seed=7", 7),
        ("3.cfg=7", 7),
        ("3.sampler_name=dpmpp_2m", "dpmpp_2m"),
        ("3.denoise=0.5", 0.5),
        ("3.tiled=True", True),
        ('3.seed=["5", 0]', ["5", 0]),
        ("6.text=42", "42"),
        ("6.text=[1]", "[1]"),
    ],
)
def test_a_setting_has_the_type_that_the_schema_says(setting: str, value: object) -> None:
    place, _, _ = setting.partition("=")
    node_id, _, key = place.partition(".")
    changed = apply_settings(text_to_image(), [setting], SCHEMAS)[node_id]["inputs"][key]
    assert (changed, type(changed)) == (value, type(value))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("3.seed=101", "takes 0 to 100"),
        ("3.seed=-1", "takes 0 to 100"),
        ("3.seed=1.5", "a whole number"),
        ("3.seed=x", "takes a number"),
        ("3.denoise=2", "takes 1.0 at most"),
        ("3.tiled=1", "takes true or false"),
        ("3.sampler_name=dpmpp2m", "Did you mean 'dpmpp_2m'"),
        ("3.nothing=1", "has no input 'nothing'"),
        ('3.seed=["99", 0]', "no node '99'"),
    ],
)
def test_a_setting_that_the_schema_refuses(setting: str, message: str) -> None:
    with pytest.raises(WorkflowInvalid, match=message):
        apply_settings(text_to_image(), [setting], SCHEMAS)


def test_files_to_upload_are_no_choice() -> None:
    prompt: Prompt = {"1": node("LoadImage", image="a.png")}
    assert (
        apply_settings(prompt, ["1.image=mine.png"], SCHEMAS)["1"]["inputs"]["image"] == "mine.png"
    )


def test_the_inputs_of_a_choice() -> None:
    prompt: Prompt = {"1": node("Save", **{"format": "png", "format.depth": 8})}
    assert (
        apply_settings(prompt, ["1.format.depth=16"], SCHEMAS)["1"]["inputs"]["format.depth"] == 16
    )
    with pytest.raises(WorkflowInvalid, match="takes 16 at most"):
        apply_settings(prompt, ["1.format.depth=17"], SCHEMAS)
    with pytest.raises(WorkflowInvalid, match="Did you mean 'jpg'"):
        apply_settings(prompt, ["1.format=jpeg"], SCHEMAS)


def test_the_snapshot_does_not_know_the_targets_files() -> None:
    prompt = text_to_image()
    changed = apply_settings(prompt, ["4.ckpt_name=mine.safetensors"], Schemas.bundled())
    assert changed["4"]["inputs"]["ckpt_name"] == "mine.safetensors"


def test_put_leaves_the_callers_prompt_alone() -> None:
    prompt = text_to_image()
    before = copy.deepcopy(prompt)
    put(prompt, [("3", "seed")], 1)
    assert prompt == before


# All of it


def test_what_is_prepared_and_said() -> None:
    changes = Changes(
        prompt="a dog",
        negative="cats",
        seed=9,
        width=64,
        height=32,
        batch=2,
        settings=["3.steps=1"],
    )
    prepared = prepare(loaded(text_to_image()), changes)
    expected = text_to_image()
    expected["6"]["inputs"]["text"] = "a dog"
    expected["7"]["inputs"]["text"] = "cats"
    expected["3"]["inputs"].update(seed=9, steps=1)
    expected["5"]["inputs"].update(width=64, height=32, batch_size=2)
    assert prepared.prompt == expected
    assert prepared.notes == (
        "x.json is a workflow in API format.",
        "The positive text is set in CLIPTextEncode (6).",
        "The negative text is set in CLIPTextEncode (7).",
        "width 64 is set in EmptyLatentImage (5).",
        "height 32 is set in EmptyLatentImage (5).",
        "batch_size 2 is set in EmptyLatentImage (5).",
        "Seed 9 is set in KSampler (3).",
        "steps of KSampler (3) is set to 1.",
    )


def test_a_link_that_is_replaced_is_said() -> None:
    prompt = with_nodes(n6=node("CLIPTextEncode", text=["8", 0]), n8=node("Join", a="x", b="y"))
    notes = prepare(loaded(prompt), Changes(prompt="z")).notes
    assert notes[-1].endswith("CLIPTextEncode (6) instead of its link to node 8.")


def test_a_text_that_the_template_took_up_is_not_looked_for() -> None:
    prompt: Prompt = {"1": node("Draw", words="a cat")}
    took = loaded(prompt, variables=frozenset({"PROMPT", "SEED"}))
    assert prepare(took, Changes(prompt="a cat", seed=3)).prompt == prompt


def test_templates_get_what_is_given_by_name_and_options_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME_OF_TEST", "not read")
    variables = Changes(prompt="a cat", seed=3, given={"SEED": "1", "X": "2"}).variables()
    assert variables == {"PROMPT": "a cat", "SEED": "3", "X": "2"}


def test_a_workflow_in_ui_format_is_converted() -> None:
    ui = {
        "nodes": [
            {
                "id": 1,
                "type": "EmptyImage",
                "mode": 0,
                "inputs": [],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
                "widgets_values": [64, 64, 1, 255],
            },
            {
                "id": 2,
                "type": "SaveImage",
                "mode": 0,
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "outputs": [],
                "widgets_values": ["x"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "version": 0.4,
    }
    source = LoadedWorkflow("x.json", "workflow in UI format", None, ui)
    prepared = prepare(source, Changes(width=8), Schemas.bundled())
    assert prepared.prompt["1"]["inputs"]["width"] == 8
    assert prepared.workflow == ui
    assert (
        "Converted to API format with the node schemas of the bundled snapshot." in prepared.notes
    )
    with pytest.raises(WorkflowInvalid, match="UI format"):
        prepare(source, Changes())


def test_nothing_to_change_is_nothing() -> None:
    assert not Changes()
    assert Changes(seed=0)
    assert Changes(settings=["a.b=c"])


@given(
    st.dictionaries(
        st.sampled_from("123456"),
        st.builds(
            lambda kind, inputs: {"class_type": kind, "inputs": inputs},
            st.sampled_from(["KSampler", "BasicGuider", "ComfySwitchNode", "X"]),
            st.dictionaries(
                st.sampled_from(
                    [
                        *(
                            "positive",
                            "negative",
                            "conditioning",
                            "text",
                            "value",
                            "seed",
                            "switch",
                        ),
                        *("latent_image", "samples", "width", "height", "on_true", "on_false"),
                    ]
                ),
                st.none()
                | st.booleans()
                | st.integers(0, 9)
                | st.text(max_size=3)
                | st.lists(st.integers(), max_size=3)
                | st.tuples(st.sampled_from("123456"), st.integers(-1, 2)).map(list),
                max_size=6,
            ),
        ),
        max_size=6,
    )
)
def test_any_graph_is_changed_or_refused(prompt: Any) -> None:
    """Cycles, dangling links, links where there should be none."""
    for changes in (Changes(prompt="x"), Changes(negative="x"), Changes(seed=1), Changes(width=8)):
        try:
            prepared = prepare(loaded(prompt), changes)
        except WorkflowInvalid:
            continue
        assert prepared.prompt != {} and prepared.prompt.keys() == prompt.keys()
