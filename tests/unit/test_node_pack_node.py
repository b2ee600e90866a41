"""RunPod Remote Execute: the parts that know nothing of ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError, OutputLost, WorkflowInvalid
from comfy_remote.node_pack.nodes.expansion import (
    COLLECT,
    TAKE,
    Film,
    Sources,
    expand,
    sources_in,
    take_nodes,
)
from comfy_remote.node_pack.nodes.image_inputs import (
    by_number,
    load_nodes,
    spread_pictures,
    with_nodes,
)
from comfy_remote.node_pack.nodes.workflow_choice import (
    graph_before,
    pasted_workflow,
    refuse_itself,
    saved_workflow,
    saved_workflows,
    target_of,
)
from comfy_remote.workflow.files import file_below
from comfy_remote.workflow.prompt import Node, Prompt
from comfy_remote.workflow.schema import Schemas


def node(class_type: str, **inputs: object) -> Node:
    return {"class_type": class_type, "inputs": inputs}  # type: ignore[typeddict-item]


ONE: Prompt = {
    "3": node("LoadImage", image="a.png"),
    "5": node("ImageInvert", image=["3", 0]),
    "6": node("MaskToImage", mask=["3", 1]),
    "9": node("SaveImage", images=["5", 0]),
    "10": node("SaveImage", images=["6", 0]),
}
TWO: Prompt = {
    "1": node("LoadImage", image="a.png"),
    "2": node("LoadImage", image="b.png"),
    "3": node("LoadImage", image="linked to nothing.png"),
    "4": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
    "5": node("PreviewImage", images=["4", 0]),
}


def test_nodes_are_in_the_order_that_people_read() -> None:
    prompt: Prompt = {i: node("X") for i in ("b", "10:2", "2", "10", "a1", "10:11", "1", "a")}
    assert list(by_number(prompt)) == ["1", "2", "10", "10:2", "10:11", "a", "a1", "b"]


def test_one_picture_for_one_node() -> None:
    assert spread_pictures(ONE, 1) == (ONE, ["3"])


def test_several_pictures_for_one_node_become_one_batch() -> None:
    prompt, slots = spread_pictures(ONE, 3)
    assert slots == ["3_0", "3_1", "3_2"]
    assert all(prompt[slot]["class_type"] == "LoadImage" for slot in slots)
    join = prompt["5"]["inputs"]["image"]
    assert isinstance(join, list)
    last = prompt[str(join[0])]
    assert last == node("ImageBatch", image1=["3_0to1", 0], image2=["3_2", 0])
    assert prompt["3_0to1"] == node("ImageBatch", image1=["3_0", 0], image2=["3_1", 0])
    assert prompt["6"]["inputs"]["mask"] == ["3_0", 1]
    assert "3" not in prompt
    assert ONE["5"]["inputs"] == {"image": ["3", 0]}, "the original is as it was"


def test_ids_that_are_taken_are_not_taken_again() -> None:
    prompt, slots = spread_pictures({**ONE, "3_1": node("Note")}, 2)
    assert slots == ["3_0", "3_1_"]
    assert prompt["3_1"] == node("Note")


def test_several_nodes_get_a_picture_each() -> None:
    assert spread_pictures(TWO, 2) == (TWO, ["1", "2"])
    assert spread_pictures(TWO, 1) == (TWO, ["1"])
    with pytest.raises(WorkflowInvalid, match=r"3 pictures.*2 Load Image nodes \(1, 2\)"):
        spread_pictures(TWO, 3)
    with pytest.raises(WorkflowInvalid, match="no Load Image node"):
        spread_pictures({"1": node("EmptyImage")}, 1)


def test_nodes_are_replaced_in_their_places() -> None:
    prompt = with_nodes(TWO, load_nodes(["1", "2"], ["input_0.png", "input_1.png"]))
    assert list(prompt) == list(TWO)
    assert prompt["2"] == node("LoadImage", image="input_1.png")
    assert with_nodes(TWO, take_nodes(["2"]))["2"]["class_type"] == TAKE


SCHEMAS = Schemas.bundled()


def test_saved_pictures_go_before_previews() -> None:
    assert sources_in(ONE, SCHEMAS).pictures == [["5", 0], ["6", 0]]
    assert sources_in(TWO, SCHEMAS).pictures == [["4", 0]]
    both = {**TWO, "6": node("SaveImage", images=["1", 0])}
    assert sources_in(both, SCHEMAS).pictures == [["1", 0]]


def test_what_is_no_picture_does_not_count() -> None:
    prompt: Prompt = {
        "1": node("EmptyImage"),
        "2": node("SaveWEBM", images=["1", 0]),  # without a rate it makes no film
        "3": node("PreviewAny", source=["1", 0]),
        "4": node("ImageInvert", image=["1", 0]),
        "5": node("UnknownSaver", images=["1", 0]),
    }
    with pytest.raises(OutputLost, match="Add a Save Image node"):
        sources_in(prompt, SCHEMAS)


def test_masks_are_pictures_where_nothing_else_is() -> None:
    prompt: Prompt = {"1": node("SolidMask"), "2": node("MaskPreview", mask=["1", 0])}
    assert sources_in(prompt, SCHEMAS).pictures == [["1", 0]]


SOUND = node("LoadAudio", audio="a.mp3")
FILMS: Prompt = {
    "1": node("EmptyImage"),
    "2": SOUND,
    "3": node("CreateVideo", images=["1", 0], fps=8, audio=["2", 0]),
    "4": node("SaveVideo", video=["3", 0]),
    "5": node("PreviewImage", images=["1", 0]),
}


def test_a_film_and_its_frames_are_what_a_workflow_for_films_gives() -> None:
    sources = sources_in(FILMS, SCHEMAS)
    assert sources == Sources([], [Film(["3", 0])]), "a preview beside it is not"
    made = expand(FILMS, sources, None, "7.")
    assert made.video == ["7.3", 0]
    assert made.graph["7.frames"] == node("GetVideoComponents", video=["7.3", 0])
    assert made.images == ["7.collect0", 0]
    assert made.graph["7.collect0"] == node(COLLECT, images=["7.frames", 0])
    # With pictures of its own, nobody needs the frames.
    both = {**FILMS, "6": node("SaveImage", images=["1", 0])}
    made = expand(both, sources_in(both, SCHEMAS), None, "7.")
    assert made.graph["7.collect0"] == node(COLLECT, images=["7.1", 0])
    assert made.video == ["7.3", 0]


def test_a_node_that_makes_the_film_itself_gives_its_frames() -> None:
    prompt: Prompt = {
        **FILMS,
        "4": node("VHS_VideoCombine", images=["1", 0], frame_rate=["6", 0], audio=["2", 0]),
    }
    vhs = {"input": {"required": {"images": ["IMAGE"], "frame_rate": ["FLOAT"]}}, "output": []}
    vhs["input"]["optional"] = {"audio": ["AUDIO"]}  # type: ignore[index,call-overload]
    documents = {kind: SCHEMAS.document(kind) or {} for kind in ("PreviewImage", "EmptyImage")}
    schemas = Schemas({**documents, "VHS_VideoCombine": {**vhs, "output_node": True}}, "a test")
    sources = sources_in(prompt, schemas)
    assert sources == Sources([], [Film(["1", 0], ["6", 0], ["2", 0])])
    made = expand(prompt, sources, None, "7.")
    assert made.video == ["7.film", 0]
    assert made.graph["7.film"] == node(
        "CreateVideo", images=["7.1", 0], fps=["7.6", 0], audio=["7.2", 0]
    )
    assert made.graph["7.collect0"] == node(COLLECT, images=["7.1", 0])
    assert "7.frames" not in made.graph


def test_the_expansion_has_ids_of_its_own() -> None:
    prompt, slots = spread_pictures(ONE, 2)
    prompt = with_nodes(prompt, take_nodes(slots))
    images = object()
    made = expand(prompt, sources_in(prompt, SCHEMAS), images, "7.0.")
    assert all(node_id.startswith("7.0.") for node_id in made.graph)
    assert len(made.graph) == len(prompt) + 2
    assert made.graph["7.0.3_1"] == {"class_type": TAKE, "inputs": {"images": images, "index": 1}}
    assert made.graph["7.0.5"]["inputs"] == {"image": ["7.0.3_0to1", 0]}
    assert made.images == ["7.0.collect1", 0]
    assert made.graph["7.0.collect1"] == {
        "class_type": COLLECT,
        "inputs": {"images": ["7.0.6", 0], "before": ["7.0.collect0", 0]},
    }
    assert prompt["3_1"]["inputs"]["images"] is None, "the prompt is as it was"


def test_what_is_pasted() -> None:
    assert pasted_workflow(json.dumps(ONE)).prompt == ONE
    assert pasted_workflow('{"nodes": [], "links": []}').prompt is None
    for text in ("", "{'a': 1}", '{"1": NaN}', "[" * 100_000):
        with pytest.raises(WorkflowInvalid) as raised:
            pasted_workflow(text)
        assert str(raised.value).startswith("workflow_json")
    with pytest.raises(WorkflowInvalid, match=r"Save \(API Format\)"):
        pasted_workflow("not JSON")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    workflows, inputs = tmp_path / ".local" / "workflows", tmp_path / "input"
    (workflows / "video").mkdir(parents=True)
    (inputs / "large").mkdir(parents=True)
    for path in (
        *(workflows / "b.json", workflows / "video" / "A.json", workflows / ".index.json"),
        *(inputs / "c.json", inputs / "large" / "d.json", inputs / "b.json", inputs / "x.png"),
        tmp_path / "secret.json",
    ):
        path.write_text("{}")
    return workflows, inputs


def test_saved_workflows(folders: tuple[Path, Path]) -> None:
    assert saved_workflows(*folders) == ["b.json", "c.json", "video/A.json"]
    assert saved_workflow("b.json", folders) == folders[0].resolve() / "b.json"
    assert saved_workflow("large/d.json", folders) == folders[1].resolve() / "large" / "d.json"
    assert saved_workflows(folders[0] / "nowhere", folders[1]) == ["b.json", "c.json"]


@pytest.mark.parametrize("name", ["../secret.json", "", ".", "video", "a\0b", "x" * 5000])
def test_no_file_outside_of_the_folders(folders: tuple[Path, Path], name: str) -> None:
    assert file_below(folders[1], name) is None
    with pytest.raises(WorkflowInvalid, match="There is no workflow file"):
        saved_workflow(name, folders)
    with pytest.raises(WorkflowInvalid, match="There is no workflow file"):
        saved_workflow(str(folders[1].parent / "secret.json"), folders)


def test_the_part_of_the_graph_that_makes_a_picture() -> None:
    graph = {
        **{node_id: {**one, "is_changed": [0.0]} for node_id, one in ONE.items()},
        "11": {"class_type": "RunPodRemoteExecute", "inputs": {"input_images": ["5", 0]}},
        "12": {"class_type": "SaveImage", "inputs": {"images": ["11", 0]}},
    }
    part = graph_before(graph, ["5", 0])
    assert list(part) == ["3", "5", "6"] or set(part) == {"3", "5", "6"}
    assert part["3"] == ONE["3"], "without what ComfyUI notes in it"
    assert part["6"] == node("SaveImage", images=["5", 0], filename_prefix="ComfyRemote")


def test_it_does_not_run_itself() -> None:
    refuse_itself(ONE)
    with pytest.raises(WorkflowInvalid, match="node 4"):
        refuse_itself({**ONE, "4": node("RunPodRemoteExecute")})


def test_where_it_runs() -> None:
    environment = {"RUNPOD_ENDPOINT_ID": " abc "}
    assert target_of("", environment) == "runpod:abc"
    assert target_of("runpod:", environment) == "runpod:abc"
    for name in ("runpod:x", "gpu", "sandbox", "http://127.0.0.1:8188"):
        assert target_of(f" {name}", {}) == name
    with pytest.raises(ConfigurationError, match="RUNPOD_ENDPOINT_ID is not set"):
        target_of("", {})
