"""JSON that is small as text and large in memory is not parsed, wherever it comes from."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MIB, linux_only, peak_of

from comfy_remote.errors import OutputCorrupt, RequestTooLarge
from comfy_remote.json_text import has_more_values, parse_json
from comfy_remote.media.verify import check_whole
from comfy_remote.worker.handler import _lenient
from comfy_remote.worker.models.download import what_is_wrong

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
