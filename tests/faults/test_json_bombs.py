"""JSON that is small as text and large in memory is not parsed, wherever it comes from."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MIB, linux_only, peak_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_remote.errors import OutputCorrupt, RequestTooLarge, WorkflowInvalid
from comfy_remote.json_text import has_more_values, parse_json
from comfy_remote.media.verify import check_whole
from comfy_remote.node_pack.nodes.workflow_choice import pasted_workflow
from comfy_remote.worker.handler import _lenient
from comfy_remote.worker.models.download import what_is_wrong
from comfy_remote.workflow.load import load_workflow

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='",[{\\a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='",[{\\a'), inner),
    max_leaves=30,
)


def count(value: object) -> int:
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1


@settings(max_examples=300, deadline=None)
@given(json_values, st.booleans())
def test_values_are_counted_and_marks_in_texts_are_not(value: object, spaced: bool) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=None if spaced else (",", ":"))
    values = count(value)
    # A container has a mark more than its first value.
    assert not has_more_values(text, 2 * values)
    if values > 1:
        assert has_more_values(text, values - 2)


def test_marks_in_a_long_text_are_no_values() -> None:
    text = json.dumps({"workflow": json.dumps([{"a": ["b"]}] * 100_000)})
    assert not has_more_values(text, 10)


@pytest.mark.parametrize("unit", ["[],", "{},", '{"a":0},', '"",', "0,", '"\\"",', "[[]],"])
def test_no_unit_is_overlooked(unit: str) -> None:
    text = "[" + unit * 2000 + "0]"
    assert has_more_values(text, 1000)
    assert not has_more_values(text, 7000)


def test_a_servers_answer_of_too_many_values_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="too many values"):
        parse_json(b"[" + b"[]," * 3_000_000 + b"0]")


def test_a_prompt_in_a_text_is_not_parsed_when_it_has_too_many_values() -> None:
    text = '{"workflow":[' + "[]," * 500_000 + "0]}"
    assert _lenient(text) is text
    assert _lenient('{"workflow":{}}') == {"workflow": {}}


def test_a_model_file_with_a_header_of_too_many_values_is_damaged(tmp_path: Path) -> None:
    header = b'{"__metadata__":[' + b"[]," * 1_500_000 + b"0]}"
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(OutputCorrupt):
        check_whole(path, path.name)
    assert "too many values" in (what_is_wrong(path, "a.safetensors") or "")


def test_a_form_field_of_too_many_values_is_refused() -> None:
    from comfy_remote.calls.arguments import plain_argument

    with pytest.raises(RequestTooLarge):
        plain_argument("[" + "[]," * 1_000_000 + "0]", "*")


@linux_only
def test_looking_takes_little_memory_itself() -> None:
    code = """
from comfy_remote.json_text import has_more_values
def main():
    for unit in (b"[],", b'"",', b'"\\\\",', b"\\\\", b'",', b'{"a":"b"},'):
        has_more_values(b"[" + unit * (20 * 1024 * 1024 // len(unit)), 500_000)
"""
    assert peak_of(code) < 200 * MIB


def _bomb(values: int) -> str:
    return '{"nodes":[' + "[]," * values + '0],"links":[]}'


def test_a_workflow_file_of_too_many_values_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(_bomb(2_000_000))
    with pytest.raises(WorkflowInvalid, match=r"w\.json holds more than 2,000,000 values"):
        load_workflow(path)


@pytest.mark.parametrize("name", ["prompt", "workflow"])
def test_nor_is_one_in_a_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.png"
    texts = PngInfo()
    texts.add_text(name, _bomb(2_000_000), zip=True)
    Image.new("RGB", (2, 2)).save(path, pnginfo=texts)
    with pytest.raises(WorkflowInvalid):
        load_workflow(path)


def test_nor_is_one_in_a_node_of_a_workflow() -> None:
    with pytest.raises(WorkflowInvalid, match="more than 2,000,000 values"):
        pasted_workflow(_bomb(2_000_000))


@linux_only
def test_a_workflow_file_takes_no_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(_bomb(8_000_000))
    code = """
import sys
from comfy_remote.workflow.load import WorkflowInvalid, load_workflow
def main():
    try:
        load_workflow(sys.argv[1])
    except WorkflowInvalid:
        return
    raise AssertionError("it was parsed")
"""
    assert peak_of(code, str(path)) < 300 * MIB


@linux_only
def test_a_pipe_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open("rb") as endless:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=endless))
        with pytest.raises(WorkflowInvalid, match=r"standard input is larger than 67\.1 MB"):
            load_workflow("-", largest_stream=64 * MIB)
