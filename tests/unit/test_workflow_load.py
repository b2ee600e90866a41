"""What is a workflow, and what is said of anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.load import load_workflow, parse_prompt, parse_workflow
from comfy_remote.workflow.prompt import Prompt, is_link

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "color": 0}, "_meta": {"title": "A"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["1", "2", "class_type", "inputs", "_meta", "title", "prompt", "nodes"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def _file(folder: Path, text: str | bytes) -> Path:
    path = folder / "workflow.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_prompt(path: Path) -> Prompt | None:
    return load_workflow(path).prompt


def test_an_exported_prompt_is_read(tmp_path: Path) -> None:
    assert load_prompt(_file(tmp_path, json.dumps(PROMPT))) == PROMPT


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_encoding_of_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    """Windows PowerShell writes UTF-16 when it redirects a command's output."""
    prompt = {**PROMPT, "3": {"class_type": "Note", "inputs": {"text": "Weiß 猫"}}}
    text = json.dumps(prompt, ensure_ascii=False)
    assert load_prompt(_file(tmp_path, text.encode(encoding))) == prompt


def test_what_is_posted_to_comfyui_is_taken_as_its_prompt() -> None:
    assert parse_prompt({"prompt": PROMPT, "client_id": "x"}) == PROMPT  # type: ignore[dict-item]


def test_a_node_may_be_called_prompt() -> None:
    prompt = {"prompt": {"class_type": "EmptyImage", "inputs": {}}}
    assert parse_prompt(prompt) == prompt  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "is cut off: its JSON ends in the middle"),
        ('{"1": {"class_type": "Emp', "is cut off"),
        ('{"1": {"class_type": "X"}, \n', r"is cut off.*line 2"),
        ("{'1': 2}", "not valid JSON: Expecting property name"),
        ("\n<!DOCTYPE html><html>", "is a web page"),
        ('{"1": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b"\x89PNG\r\n\x1a\n\xff", "PNG picture.*ends too early"),
        ("[]", "a list, not an object"),
        ("null", "null, not an object"),
        ("7", "a number, not an object"),
        ('"x"', "a text, not an object"),
        ("true", "true or false, not an object"),
        ("{}", "is empty"),
        ('{"prompt": {}}', "is empty"),
        ('{"1": 3}', "'1' is not a node"),
        ('{"1": {"inputs": {}}}', "'1' is not a node"),
        ('{"1": {"class_type": 3}}', "'1' is not a node"),
        ('{"1": {"class_type": "X", "inputs": []}}', r"node 1 \(X\) are a list"),
        ('{"1": {"class_type": "X", "inputs": {"a": ["7", 0]}}}', "input a of node 1 .* node 7"),
    ],
)
def test_anything_else_is_refused_with_its_reason(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(WorkflowInvalid, match=message) as caught:
        load_prompt(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkflowInvalid, match=r"There is no file .*nowhere\.json"):
        load_prompt(tmp_path / "nowhere.json")
    with pytest.raises(WorkflowInvalid, match="is a folder") as caught:
        load_prompt(tmp_path)
    assert caught.value.advice == "Name a file in it."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", Path("x")])
def test_a_value_that_is_no_json_names_its_node(value: object) -> None:
    prompt = {"3": {"class_type": "KSampler", "inputs": {"cfg": value}}}
    with pytest.raises(WorkflowInvalid, match=r"node 3 \(KSampler\) cannot be written as JSON"):
        parse_prompt(prompt)  # type: ignore[arg-type]


def test_the_callers_document_is_not_the_one_that_is_changed() -> None:
    prompt = parse_prompt(PROMPT)  # type: ignore[arg-type]
    prompt["1"]["inputs"]["width"] = 16
    assert PROMPT["1"]["inputs"]["width"] == 8  # type: ignore[index]


@given(JSON)
def test_any_json_is_a_prompt_or_a_clear_no(document: object) -> None:
    try:
        prompt = parse_prompt(document)  # type: ignore[arg-type]
    except WorkflowInvalid as error:
        assert error.message.startswith("The workflow")
        return
    assert prompt
    assert parse_prompt(json.loads(json.dumps(prompt))) == prompt
    for node in prompt.values():
        assert set(node) <= {"class_type", "inputs", "_meta"}
        for value in node["inputs"].values():
            assert not is_link(value) or value[0] in prompt  # type: ignore[index]


@given(st.binary(max_size=200))
def test_any_file_is_a_prompt_or_a_clear_no(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = _file(tmp_path_factory.getbasetemp(), content)
    with pytest.raises(WorkflowInvalid):
        load_prompt(path)


def test_a_link_is_what_comfyui_takes_for_one() -> None:
    assert is_link(["1", 0])
    assert not any(map(is_link, [["1"], [1, 0], ["1", "0"], ["1", 0, 0], "1", None, ("1", 0)]))


def test_a_picture_saved_by_a_prompt_in_several_places_has_the_whole_in_its_workflow(
    tmp_path: Path,
) -> None:
    workflow = {"nodes": [{"id": 1, "type": "LoadImage"}], "links": []}
    pieces = [
        {"7": {"class_type": "ComfyRemotePart", "inputs": {"part": "{}"}}},
        {"remote_input_0": {"class_type": "ComfyRemoteInput", "inputs": {"key": "1.0"}}},
    ]
    whole = {"1": {"class_type": "ComfyRemoteInput", "inputs": {"key": "image"}}}
    for prompt, kept in [*((piece, None) for piece in pieces), (whole, whole)]:
        texts = PngInfo()
        texts.add_text("prompt", json.dumps(prompt))
        texts.add_text("workflow", json.dumps(workflow))
        Image.new("RGB", (1, 1)).save(tmp_path / "saved.png", pnginfo=texts)
        loaded = load_workflow(tmp_path / "saved.png")
        assert (loaded.prompt, loaded.workflow) == (kept, workflow)


@pytest.mark.parametrize(
    "workflow", [PROMPT, {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": []}]
)
def test_a_request_to_a_runpod_endpoint_is_taken_as_its_workflow(workflow: Any) -> None:
    loaded = parse_workflow({"input": {"workflow": workflow, "images": []}}, "request.json")
    assert (loaded.prompt or loaded.workflow) == workflow
    assert loaded.describe() == (
        "request.json is a request to a RunPod endpoint; its workflow is taken."
    )


def test_what_else_such_a_request_has_is_named() -> None:
    request = {"workflow": PROMPT, "images": [{"name": "a.png"}], "seed": 7}
    described = parse_workflow({"input": request, "webhook": "https://x"}, "it").describe()
    assert described.endswith("Not taken from it: images, seed.")


def test_a_node_may_be_called_input() -> None:
    document: Any = {"input": {"class_type": "EmptyImage", "inputs": {}, "workflow": {}}}
    assert list(parse_workflow(document).prompt or ()) == ["input"]


def test_an_address_instead_of_a_file_is_answered_with_the_way() -> None:
    with pytest.raises(WorkflowInvalid, match="Download it first") as caught:
        load_workflow(Path("https://example.com/workflow.json"))
    assert "curl -s URL" in for_terminal(caught.value.advice)
