"""What a workflow takes and gives: the keys of its Remote Input and Remote Output nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.sandbox.folders import Folders
from comfy_remote.sandbox.nodes import NODES
from comfy_remote.workflow.files import file_uses
from comfy_remote.workflow.interface import Interface, ValueFileName, content_hash_in
from comfy_remote.workflow.packs import find_packs
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas


def remote_input(key: object = "image", **inputs: Any) -> Any:
    return {"class_type": "ComfyRemoteInput", "inputs": {"key": key, **inputs}}


def remote_output(source: Any, key: object = "result") -> Any:
    return {"class_type": "ComfyRemoteOutput", "inputs": {"value": source, "key": key}}


def graph() -> Prompt:
    return {
        "1": remote_input("image", fallback=["9", 0], value="", file=""),
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": ["3", 0]}},
        "3": remote_input("width"),
        "4": remote_output(["2", 0]),
        "5": remote_output(["3", 0], "the width"),
        "9": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    }


def test_types_come_from_what_the_nodes_are_linked_to() -> None:
    interface = Interface.of(graph(), Schemas.bundled())
    assert [(i.key, i.node_id, i.type, i.required) for i in interface.inputs] == [
        ("image", "1", "IMAGE", False),
        ("width", "3", "INT", True),
    ]
    assert [(o.key, o.node_id, o.type) for o in interface.outputs] == [
        ("result", "4", "IMAGE"),
        ("the width", "5", "INT"),
    ]


def test_the_snapshot_knows_the_nodes_as_the_sandbox_has_them(tmp_path: Path) -> None:
    for name in ("ComfyRemoteInput", "ComfyRemoteOutput"):
        there = NODES[name].schema.to_json(Folders(tmp_path))
        assert Schemas.bundled().document(name) == there
        prompt: Prompt = {"1": {"class_type": name, "inputs": {}}}
        (pack,) = find_packs(prompt, schemas=Schemas({}, "a ComfyUI without the pack"))
        assert pack.name == "comfy-remote"


def test_without_schemas_every_type_is_any() -> None:
    interface = Interface.of(graph())
    assert {entry.type for entry in interface.inputs} == {"*"}
    assert {entry.type for entry in interface.outputs} == {"*"}


def test_the_type_of_an_input_that_is_only_passed_on_is_that_of_its_fallback() -> None:
    prompt: Prompt = {
        "1": remote_input(fallback=["9", 1]),
        "2": remote_output(["1", 0], "first"),
        "3": remote_output(["2", 0], "second"),
        "9": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    }
    interface = Interface.of(prompt, Schemas.bundled())
    assert [entry.type for entry in interface.inputs] == ["MASK"]
    assert [entry.type for entry in interface.outputs] == ["MASK"] * 2


def test_a_cycle_of_remote_nodes_has_no_type() -> None:
    prompt: Prompt = {"1": remote_output(["2", 0], "a"), "2": remote_output(["1", 0], "b")}
    assert [o.type for o in Interface.of(prompt, Schemas.bundled()).outputs] == ["*", "*"]


def test_nodes_without_a_key_have_the_one_that_the_node_shows() -> None:
    prompt: Prompt = {
        "1": {"class_type": "ComfyRemoteInput", "inputs": {}},
        "2": {"class_type": "ComfyRemoteOutput", "inputs": {"value": ["1", 0]}},
    }
    interface = Interface.of(prompt)
    assert (interface.inputs[0].key, interface.outputs[0].key) == ("payload", "result")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"1": remote_input(" ")}, "empty"),
        ({"1": remote_input(["2", 0])}, "not a text"),
        ({"1": remote_input("a"), "2": remote_input("a")}, "Two Remote Input nodes"),
        ({"1": remote_output(["2", 0]), "3": remote_output(["2", 0])}, "Two Remote Output nodes"),
    ],
)
def test_keys_that_cannot_be_told_apart_are_refused(prompt: Prompt, words: str) -> None:
    with pytest.raises(WorkflowInvalid, match=words):
        Interface.of(prompt)


def test_an_input_and_an_output_may_have_the_same_key() -> None:
    prompt: Prompt = {"1": remote_input("a"), "2": remote_output(["1", 0], "a")}
    assert len(Interface.of(prompt).inputs) == 1


def test_a_call_fills_in_values_and_tells_the_outputs_to_send() -> None:
    prompt = graph()
    before = json.dumps(prompt)
    interface = Interface.of(prompt, Schemas.bundled())
    filled = interface.with_values(prompt, {"image": ValueFileName("v/a.safetensors"), "width": 7})
    assert filled["1"]["inputs"] == {"key": "image", "value": "", "file": "v/a.safetensors"}
    assert filled["3"]["inputs"] == {"key": "width", "value": "7", "file": ""}
    assert filled["4"]["inputs"]["send"] is True
    assert filled["5"]["inputs"]["send"] is True
    assert json.dumps(prompt) == before


def test_a_call_says_what_names_the_files_that_come_back() -> None:
    prompt: Prompt = {"1": remote_input("a"), "2": remote_output(["1", 0], "b")}
    interface = Interface.of(prompt)
    usual = interface.with_values(prompt, {"a": 1})["2"]["inputs"]
    fast = interface.with_values(prompt, {"a": 1}, content_hash="blake3")["2"]["inputs"]
    assert "content_hash" not in usual
    assert (content_hash_in(usual), content_hash_in(fast)) == ("sha256", "blake3")
    assert content_hash_in({"content_hash": ["1", 0]}) == "sha256"


def test_a_value_file_is_a_file_that_the_prompt_loads_and_none_is_none() -> None:
    prompt = graph()
    filled = Interface.of(prompt).with_values(
        prompt, {"image": ValueFileName("comfy_remote/a.safetensors"), "width": 7}
    )
    assert [(use.node_id, use.name) for use in file_uses(filled)] == [
        ("1", "comfy_remote/a.safetensors"),
        ("9", "a.png"),
    ]


def test_what_is_needed_and_not_given_is_named() -> None:
    prompt = graph()
    with pytest.raises(WorkflowInvalid, match="needs a value for width"):
        Interface.of(prompt).with_values(prompt, {})


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    prompt = graph()
    with pytest.raises(WorkflowInvalid, match="Did you mean 'width'"):
        Interface.of(prompt).with_values(prompt, {"width": 1, "widht": 2})


def test_a_workflow_without_remote_output_gives_nothing() -> None:
    prompt: Prompt = {"1": remote_input("a")}
    with pytest.raises(WorkflowInvalid, match="no Remote Output"):
        Interface.of(prompt).with_values(prompt, {"a": 1})


def typed(kind: str) -> tuple[Interface, Prompt]:
    prompt: Prompt = {
        "1": remote_input("x"),
        "2": {"class_type": "Takes", "inputs": {"x": ["1", 0]}},
        "3": remote_output(["2", 0]),
    }
    document: Any = {"Takes": {"input": {"required": {"x": [kind, {}]}}, "output": ["IMAGE"]}}
    return Interface.of(prompt, Schemas(document, "a test")), prompt


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("FLOAT", 1, "1.0"),
        ("INT", 2.0, "2"),
        ("INT,FLOAT", 2.5, "2.5"),
        ("BOOLEAN", True, "true"),
        ("STRING", "ä", '"ä"'),
        ("STRING", "", '""'),
        ("IMAGE", [1, {"a": None}], '[1, {"a": null}]'),
    ],
)
def test_a_plain_value_gets_the_type_that_is_wanted(kind: str, value: Any, text: str) -> None:
    interface, prompt = typed(kind)
    assert interface.with_values(prompt, {"x": value})["1"]["inputs"]["value"] == text


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("INT", 1.5),
        ("INT", True),
        ("INT", "1"),
        ("BOOLEAN", 1),
        ("STRING", None),
        ("FLOAT", float("nan")),
        ("IMAGE", float("inf")),
    ],
)
def test_a_plain_value_of_another_type_is_refused(kind: str, value: Any) -> None:
    interface, prompt = typed(kind)
    with pytest.raises(WorkflowInvalid, match="does not fit the input x"):
        interface.with_values(prompt, {"x": value})
