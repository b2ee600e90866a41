"""Cutting a prompt: what runs where, what crosses, and that the result is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cut_kit import CLASSES, OUTPUTS, check_same, node, schemas
from hypothesis import given, settings
from hypothesis import strategies as st
from official_templates import templates

from comfy_remote.errors import CutImpossible, WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.cut import cut
from comfy_remote.workflow.graph import output_nodes
from comfy_remote.workflow.prompt import Prompt, is_link
from comfy_remote.workflow.schema import Schemas

HERE = schemas()


def text_to_image() -> Prompt:
    return {
        "1": node("Loader", name="sd.safetensors"),
        "2": node("Lora", model=("1", 0), clip=("1", 1), strength=0.5),
        "3": node("Encode", clip=("2", 1), text="a cat"),
        "4": node("Empty", width=1024, height=512),
        "5": node("Sampler", model=("2", 0), positive=("3", 0), latent=("4", 0), seed=1),
        "6": node("Decode", samples=("5", 0), vae=("1", 2)),
        "7": node("Save", images=("6", 0)),
    }


def cut_of(prompt: Prompt, *marked: str, **kinds: Any) -> Any:
    return cut(prompt, dict.fromkeys(marked, "gpu"), HERE, kinds.pop("remote", {}), **kinds)


def test_a_marked_sampler_runs_there_with_its_model_and_the_values_cross() -> None:
    prompt = text_to_image()
    result = cut_of(prompt, "5")
    (part,) = result.parts
    assert part.nodes == ("5",)
    assert set(part.copies) == {"1", "2"}
    assert [(c.key, c.type, c.to) for c in part.inputs] == [
        ("3.0", "CONDITIONING", (("5", "positive"),)),
        ("4.0", "LATENT", (("5", "latent"),)),
    ]
    assert [(c.key, c.type, c.to) for c in part.outputs] == [("5.0", "LATENT", (("6", "samples"),))]
    # The loader is here, too, for the text and for the decoding.
    assert set(result.local) == {"1", "2", "3", "4", "5", "6", "7"}
    assert result.local["5"]["class_type"] == "ComfyRemotePart"
    assert result.local["5"]["inputs"]["value_1"] == ["4", 0]
    assert result.local["6"]["inputs"]["samples"] == ["5", 0]
    assert result.targets == ("7",)
    check_same(prompt, ["7"], result)


def test_a_loader_goes_only_to_the_side_that_uses_it() -> None:
    prompt = text_to_image()
    result = cut_of(prompt, "3", "5", "6")
    (part,) = result.parts
    assert set(part.copies) == {"1", "2"}
    assert set(result.local) == {"4", "6", "7"}
    assert [c.key for c in part.inputs] == ["4.0"]
    assert [c.type for c in part.outputs] == ["IMAGE"]
    engine = check_same(prompt, ["7"], result)
    assert (None, "1") not in engine.ran


def test_everything_marked_is_one_part_whose_node_is_the_output() -> None:
    prompt = text_to_image()
    result = cut_of(prompt, *prompt)
    (part,) = result.parts
    assert part.saves == ("7",) and part.outputs == () and part.inputs == ()
    assert [*result.local] == ["7"]
    assert result.targets == ("7",)
    check_same(prompt, ["7"], result)


def test_nothing_marked_leaves_the_prompt_as_it_is() -> None:
    prompt = text_to_image()
    assert cut_of(prompt).local is prompt
    assert cut_of({**prompt, "9": node("Encode", clip=("1", 1), text="")}, "9").parts == ()


def test_dead_nodes_are_left_out() -> None:
    prompt = {**text_to_image(), "9": node("Decode", samples=("5", 0), vae=("1", 2))}
    result = cut_of(prompt, "5")
    assert "9" not in result.local
    assert result.parts[0].outputs[0].to == (("6", "samples"),)


def test_a_loader_that_is_marked_alone_says_that_it_means_nothing() -> None:
    result = cut_of(text_to_image(), "1")
    assert result.parts == ()
    assert "Marked, but not needed on gpu: 1 (Loader)" in result.notes[0]


def test_sizes_are_told_where_the_graph_tells_them() -> None:
    prompt: Prompt = {
        "1": node("EmptyImage", width=640, height=480, batch_size=2, color=0),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("SaveImage", images=("2", 0), filename_prefix="x"),
    }
    result = cut(prompt, {"2": ""}, Schemas.bundled(), {})
    (part,) = result.parts
    size = 640 * 480 * 2 * 3 * 4
    for crossing in (*part.inputs, *part.outputs):
        assert crossing.size is not None and size <= crossing.size <= size + 1000
    assert cut_of(text_to_image(), "5").parts[0].inputs[0].size is None


def test_a_conditioning_with_an_object_inside_does_not_cross() -> None:
    prompt: Prompt = {
        **text_to_image(),
        "8": node("ControlLoader"),
        "9": node("Photo"),
        "10": node("Control", positive=("3", 0), control_net=("8", 0), image=("9", 0)),
    }
    prompt["5"]["inputs"]["positive"] = ["10", 0]
    result = cut_of(prompt, "5")
    (part,) = result.parts
    assert set(part.copies) == {"1", "2", "8", "10"}
    assert [c.key for c in part.inputs] == ["3.0", "4.0", "9.0"]
    check_same(prompt, ["7"], result)


def test_hooks_on_a_clip_stay_in_what_it_encodes() -> None:
    prompt: Prompt = {
        **text_to_image(),
        "8": node("Hooks"),
        "9": node("ClipHooks", clip=("2", 1), hooks=("8", 0)),
    }
    prompt["3"]["inputs"]["clip"] = ["9", 0]
    result = cut_of(prompt, "5")
    assert "3" in result.parts[0].copies
    check_same(prompt, ["7"], result)


def test_what_is_bound_by_an_object_is_pulled_along() -> None:
    prompt: Prompt = {
        "1": node("Photo"),
        "2": node("Detect", image=("1", 0)),
        "3": node("Loader", name="m"),
        "4": node("Detail", image=("1", 0), segs=("2", 1), model=("3", 0)),
        "5": node("Blend", a=("4", 0), b=("2", 0)),
        "6": node("Save", images=("5", 0)),
    }
    for marked in ("2", "4"):
        result = cut_of(prompt, marked)
        (part,) = result.parts
        assert part.nodes == ("2", "4")
        assert [c.key for c in part.inputs] == ["1.0"]
        assert any("Also on gpu, though not marked" in note for note in result.notes)
        check_same(prompt, ["6"], result)


def test_heavy_work_that_is_marked_stays_marked_whatever_it_makes() -> None:
    prompt: Prompt = {
        "1": node("Loader", name="m"),
        "2": node("Empty", width=8, height=8),
        "3": node("ToMesh", samples=("2", 0), vae=("1", 2)),
        "4": node("SaveMesh", mesh=("3", 0)),
    }
    result = cut_of(prompt, "3")
    (part,) = result.parts
    assert part.nodes == ("3", "4") and part.saves == ("4",)
    assert result.targets == ("4",)
    check_same(prompt, ["4"], result)


def two_passes() -> Prompt:
    return {
        **text_to_image(),
        "8": node("Blend", a=("6", 0), b=("6", 0)),
        "9": node("VaeEncode", pixels=("8", 0), vae=("1", 2)),
        "10": node("Sampler", model=("2", 0), positive=("3", 0), latent=("9", 0), seed=2),
        "11": node("Decode", samples=("10", 0), vae=("1", 2)),
        "12": node("Save", images=("11", 0)),
    }


def test_a_way_out_and_back_in_makes_two_jobs() -> None:
    prompt = two_passes()
    result = cut_of(prompt, "3", "5", "10")
    assert [part.nodes for part in result.parts] == [("3", "5"), ("10",)]
    assert "2 jobs" in result.notes[0]
    # The text's conditioning comes back from the first, and goes into the second.
    assert result.parts[0].outputs[0].to == (("10", "positive"),)
    assert result.local["10"]["inputs"]["value_0"] == ["5", 0]
    check_same(prompt, ["7", "12"], result)


def test_only_the_outputs_asked_for() -> None:
    prompt = two_passes()
    result = cut_of(prompt, "5", "10", targets=["7"])
    assert [part.nodes for part in result.parts] == [("5",)]
    assert result.targets == ("7",)
    with pytest.raises(WorkflowInvalid, match="saves or shows"):
        cut_of(prompt, "5", targets=[])


def test_what_lies_between_bound_nodes_is_pulled_along() -> None:
    prompt: Prompt = {
        "1": node("Photo"),
        "2": node("Detect", image=("1", 0)),
        "3": node("Blend", a=("2", 0), b=("1", 0)),
        "4": node("Loader", name="m"),
        "5": node("Detail", image=("3", 0), segs=("2", 1), model=("4", 0)),
        "6": node("Save", images=("5", 0)),
    }
    result = cut_of(prompt, "2")
    (part,) = result.parts
    assert part.nodes == ("2", "3", "5")
    check_same(prompt, ["6"], result)
    with pytest.raises(CutImpossible, match="different targets"):
        cut(prompt, {"2": "a", "3": "b"}, HERE, {})


def test_two_targets_take_turns() -> None:
    prompt = two_passes()
    result = cut(prompt, {"5": "a", "6": "b", "10": "a"}, HERE, {})
    assert {part.name: part.nodes for part in result.parts if part.name == "b"} == {"b": ("6",)}
    assert [part.nodes for part in result.parts if part.name == "a"] == [("5",), ("10",)]
    check_same(prompt, ["7", "12"], result)


def test_a_value_used_on_two_targets_comes_back_once() -> None:
    prompt = two_passes()
    result = cut(prompt, {"3": "a", "5": "b", "10": "c"}, HERE, {})
    by_name = {part.name: part for part in result.parts}
    assert [c.to for c in by_name["a"].outputs] == [(("5", "positive"), ("10", "positive"))]
    check_same(prompt, ["7", "12"], result)


def test_a_node_that_the_target_lacks_is_named() -> None:
    lacking = schemas(without=["Lora"], source="http://pod")
    with pytest.raises(CutImpossible) as caught:
        cut_of(text_to_image(), "5", remote={"gpu": lacking})
    assert "http://pod" in caught.value.message
    assert "2 (Lora), needed by 5 (Sampler)" in caught.value.message
    assert [*caught.value.details["node_errors"]] == ["2"]  # type: ignore[misc]
    assert caught.value.details["lacking"] == "gpu"
    assert cut_of(text_to_image(), "6", remote={"gpu": lacking}).parts[0].nodes == ("6",)


def test_a_node_that_is_not_here_runs_where_it_is() -> None:
    here = schemas(without=["Sampler"])
    result = cut(text_to_image(), {"6": "gpu"}, here, {"gpu": HERE})
    (part,) = result.parts
    assert part.nodes == ("5", "6")
    assert result.notes == ("5 (Sampler) runs on gpu: it is not installed here.",)


def test_a_paid_service_is_called_once() -> None:
    documents = {name: dict(HERE.document(name) or {}) for name in HERE}
    documents["ToMesh"]["api_node"] = True
    prompt: Prompt = {
        "1": node("Loader", name="m"),
        "2": node("Empty", width=8, height=8),
        "3": node("ToMesh", samples=("2", 0), vae=("1", 2)),
        "4": node("SaveMesh", mesh=("3", 0)),
        "5": node("SaveMesh", mesh=("3", 0)),
    }
    result = cut(prompt, {"4": "gpu"}, Schemas(documents, "here"), {})
    assert result.parts[0].nodes == ("3", "4", "5")


def test_a_reroute_has_the_type_of_what_it_passes_on() -> None:
    prompt = text_to_image()
    prompt["8"] = node("Reroute", value=("2", 0))
    prompt["9"] = node("Reroute", value=("4", 0))
    prompt["5"]["inputs"] |= {"model": ["8", 0], "latent": ["9", 0]}
    (part,) = cut_of(prompt, "5").parts
    assert set(part.copies) == {"1", "2", "8"}
    assert ("9.0", "LATENT") in [(c.key, c.type) for c in part.inputs]


def test_what_can_be_anything_is_taken_to_be_unable_to_travel() -> None:
    prompt = text_to_image()
    prompt["8"] = node("Mystery", value=("4", 0))
    prompt["9"] = node("Mystery", value=("8", 0))
    prompt["10"] = node("SaveMystery", value=("9", 0))
    result = cut_of(prompt, "8")
    assert result.parts[0].nodes == ("8", "9", "10")


def test_links_that_count_from_the_end_are_the_same_values() -> None:
    prompt = text_to_image()
    prompt["6"]["inputs"]["vae"] = ["1", -1]
    prompt["6"]["inputs"]["samples"] = ["5", -1]
    result = cut_of(prompt, "5")
    assert [c.key for c in result.parts[0].outputs] == ["5.0"]
    assert result.local["6"]["inputs"]["samples"] == ["5", 0]


def test_ids_at_the_boundary_are_nobody_elses() -> None:
    prompt = text_to_image()
    prompt["remote_input_0"] = prompt.pop("4")
    prompt["5"]["inputs"]["latent"] = ["remote_input_0", 0]
    result = cut_of(prompt, "5")
    assert len(result.parts[0].prompt) == 1 + 2 + 2 + 1
    check_same(prompt, ["7"], result)


def test_the_same_part_has_the_same_text_and_a_changed_file_another() -> None:
    prompt = text_to_image()
    first, second = cut_of(prompt, "5"), cut_of(dict(reversed(prompt.items())), "5")
    assert first.parts[0].inputs == second.parts[0].inputs
    other = text_to_image()
    other["6"]["inputs"]["tiles"] = 4
    assert cut_of(other, "5").local["5"] == first.local["5"]
    hashed = first.with_files({"5": {"a.png": "0" * 64}})
    assert json.loads(str(hashed["5"]["inputs"]["part"]))["files"] == {"a.png": "0" * 64}
    assert hashed["5"]["inputs"]["value_0"] == first.local["5"]["inputs"]["value_0"]


def test_files_of_a_part_are_named() -> None:
    prompt: Prompt = {
        "1": node("LoadImage", image="a.png"),
        "2": node("SaveImage", images=("1", 0), filename_prefix="x"),
    }
    assert cut(prompt, {"1": ""}, Schemas.bundled(), {}).parts[0].files == ("a.png",)


def test_a_mark_is_for_all_the_pieces_of_a_group_node() -> None:
    renamed = {"1": "1", "2": "2", "3": "20:0", "4": "20", "5": "20:1:4", "6": "6", "7": "7"}
    prompt = {
        renamed[node_id]: node(
            one["class_type"],
            **{
                name: (renamed[value[0]], value[1]) if is_link(value) else value
                for name, value in one["inputs"].items()
            },
        )
        for node_id, one in text_to_image().items()
        if node_id != "4"
    }
    prompt["40"] = node("Empty", width=8, height=8)
    prompt["20:1:4"]["inputs"]["latent"] = ["40", 0]
    (part,) = cut_of(prompt, "20").parts
    assert part.nodes == ("20:0", "20:1:4")


def test_the_body_of_a_loop_may_run_elsewhere_and_the_loop_stays_whole() -> None:
    documents = {name: dict(HERE.document(name) or {}) for name in HERE}
    documents["Open"] = {"input": {"optional": {"first": ["*", {}]}}, "output": ["FLOW", "*"]}
    documents["Close"] = {
        "input": {"required": {"flow": ["FLOW", {}]}, "optional": {"last": ["*", {}]}},
        "output": ["*"],
    }
    prompt = text_to_image()
    prompt["10"] = node("Open", first=("4", 0))
    prompt["11"] = node("Close", flow=("10", 0), last=("5", 0))
    prompt["5"]["inputs"]["latent"] = ["10", 1]
    prompt["6"]["inputs"]["samples"] = ["11", 0]
    looping = Schemas(documents, "here")
    assert cut(prompt, {"5": "gpu"}, looping, {}).parts[0].nodes == ("5",)
    # Half a loop cannot be: the other half comes along, and what lies between.
    assert cut(prompt, {"11": "gpu"}, looping, {}).parts[0].nodes == ("10", "5", "11")


def test_a_prompt_of_thousands_of_nodes() -> None:
    prompt: Prompt = {"0": node("Loader", name="m"), "1": node("Photo")}
    for number in range(2, 3000):
        before = (str(number - 1), 0)
        prompt[str(number)] = node("Blend", a=before, b=("1", 0))
    prompt["end"] = node("Save", images=("2999", 0))
    result = cut(prompt, {str(n): "gpu" for n in range(2, 3000, 100)}, HERE, {})
    assert len(result.parts) == 30


def test_a_cycle_is_refused() -> None:
    prompt = text_to_image()
    prompt["4"]["inputs"]["width"] = ["5", 0]
    with pytest.raises(WorkflowInvalid, match="cycle"):
        cut_of(prompt, "5")


SOURCES = ["Loader", "Empty", "Photo", "Hooks", "ControlLoader", "Number"]


@st.composite
def graphs(draw: st.DrawFn) -> Prompt:
    prompt: Prompt = {str(i): node(kind) for i, kind in enumerate(SOURCES)}
    made = {str(i): CLASSES[kind][1] for i, kind in enumerate(SOURCES)}
    kinds = sorted(CLASSES.keys() - set(SOURCES))
    for index in range(draw(st.integers(3, 16))):
        kind = draw(st.sampled_from(kinds))
        inputs: dict[str, Any] = {}
        for name, wanted in CLASSES[kind][0].items():
            fitting = [
                (n, slot)
                for n, types in made.items()
                for slot, given_ in enumerate(types)
                if wanted in (given_, "*")
            ]
            if fitting:
                recent = draw(st.integers(0, min(3, len(fitting) - 1)))
                inputs[name] = fitting[-1 - recent]
            elif wanted not in ("STRING", "FLOAT", "INT"):
                break
            else:
                inputs[name] = index
        else:
            node_id = str(len(prompt))
            prompt[node_id] = node(kind, **inputs)
            types = CLASSES[kind][1]
            if kind == "Reroute":
                source = inputs["value"]
                types = [made[source[0]][source[1]]]
            made[node_id] = types
    _finish(prompt, made)
    return prompt


def _finish(prompt: Prompt, made: dict[str, list[str]]) -> None:
    """Lead what feeds nothing yet to an output."""
    onward: list[tuple[str, str, dict[str, Any]]] = [
        ("CONDITIONING", "positive", node("Sampler", model=("0", 0), latent=("1", 0), seed=1)),
        ("LATENT", "samples", node("Decode", vae=("0", 2))),
        ("SEGS", "segs", node("Detail", image=("2", 0), model=("0", 0))),
        ("IMAGE", "images", node("Save")),
    ]
    for kind, name, user in onward:
        used = {tuple(v) for n in prompt.values() for v in n["inputs"].values() if is_link(v)}
        for node_id, types in [*made.items()]:
            for slot, given_ in enumerate(types):
                if given_ == kind and (node_id, slot) not in used:
                    new = str(len(prompt))
                    prompt[new] = {**user, "inputs": {**user["inputs"], name: [node_id, slot]}}
                    made[new] = CLASSES[user["class_type"]][1]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_cut_prompt_gives_what_the_whole_gives(data: st.DataObject) -> None:
    prompt = data.draw(graphs())
    names = data.draw(st.sampled_from([["a"], ["a"], ["a", "b"]]))
    marked = data.draw(st.sets(st.sampled_from(sorted(prompt))))
    marks = {n: data.draw(st.sampled_from(names)) for n in sorted(marked)}
    lacking = data.draw(st.sets(st.sampled_from(sorted(CLASSES)), max_size=2))
    without = data.draw(st.sampled_from([set(), lacking]))
    remote = schemas(without=without)
    outputs = [n for n in output_nodes(prompt, HERE) if prompt[n]["class_type"] in OUTPUTS]
    try:
        result = cut(prompt, marks, HERE, {"a": remote})
    except CutImpossible:
        assert without or len(set(marks.values())) > 1
        return
    engine = check_same(prompt, outputs, result)
    for where, node_id in engine.ran:
        assert where != "a" or prompt[node_id]["class_type"] in remote
    once = {n for part in result.parts for n in part.nodes}
    for node_id in once:
        assert len([n for _, n in engine.ran if n == node_id]) == 1
    moved = {n: part.name for part in result.parts for n in part.nodes}
    assert all(moved[n] == name for n, name in marks.items() if n in moved)


TEMPLATES = templates("0.33.0")


@pytest.mark.skipif(not TEMPLATES, reason="the official templates are not installed")
@pytest.mark.parametrize("seed", range(4))
def test_official_templates_can_be_cut_anywhere(seed: int) -> None:
    import random

    known = Schemas.bundled()
    parted = 0
    for name, workflow in sorted(TEMPLATES.items()):
        rng = random.Random(f"{seed} {name}")
        try:
            prompt = convert_workflow(workflow, known, keep_unknown=True)
        except WorkflowInvalid:  # it shows a 3D scene, which only the editor can render
            continue
        outputs = output_nodes(prompt, known)
        if seed == 0:
            marked = [n for n, one in prompt.items() if "Sampler" in one["class_type"]]
        else:
            marked = [n for n in prompt if rng.random() < seed * 0.25]
        if not outputs:
            continue
        result = cut(prompt, dict.fromkeys(marked, "gpu"), known, {})
        check_same(prompt, outputs, result, holds_objects=False)
        parted += bool(result.parts)
    assert parted > 100
