"""``${NAME}`` in a workflow file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.prepare import Changes
from comfy_remote.workflow.change.variables import fill_in, variables_in
from comfy_remote.workflow.load import load_workflow


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ('{"a": "${X}"}', 'a "quoted" \\ cat\n', {"a": 'a "quoted" \\ cat\n'}),
        ('{"a": "${X}"}', "42", {"a": "42"}),
        ('{"a": ${X}}', "42", {"a": 42}),
        ('{"a": ${X}}', "-1.5e3", {"a": -1500.0}),
        ('{"a": ${X}}', "true", {"a": True}),
        ('{"a": ${X}}', "a cat", {"a": "a cat"}),
        ('{"a": ${X}}', "{}", {"a": "{}"}),
        ('{"a": ${X}}', "NaN", {"a": "NaN"}),
        ('{"a": ${X}}', "1e999", {"a": "1e999"}),
        ('{"a": "by ${X}, ${X}"}', "me", {"a": "by me, me"}),
        ('{"a\\\\": "${X}"}', "1", {"a\\": "1"}),
        ('{"a": "\\"${X}\\""}', '"', {"a": '"""'}),
        ('{"a": "$${X} ${X}"}', "1", {"a": "${X} 1"}),
        ('{"a": "${X=1} $X ${1} ${}"}', "1", {"a": "${X=1} $X ${1} ${}"}),
        ('{"${X}": 1}', "k", {"k": 1}),
    ],
)
def test_a_variable_is_filled_in_as_json(text: str, value: str, expected: object) -> None:
    assert json.loads(fill_in(text, {"X": value})) == expected


@given(st.text(), st.text())
def test_any_text_is_safe(before: str, value: str) -> None:
    before = before.replace("$", "")
    text = json.dumps({"a": before + "${X}"})
    assert json.loads(fill_in(text, {"X": value})) == {"a": before + value}
    assert json.loads(fill_in('{"a": ${X}, "b": 1}', {"X": value}))["b"] == 1


@given(st.text(alphabet='"\\${}X[]', max_size=30))
def test_any_document_is_filled_in_or_left(text: str) -> None:
    filled = fill_in(text, {"X": "1"})
    if "${X}" not in text:
        assert filled == text


def test_a_value_is_not_looked_into() -> None:
    assert fill_in('"${A}"', {"A": "${B}"}) == '"${B}"'


def test_a_variable_that_was_not_given_is_named_with_the_way_to_give_it() -> None:
    with pytest.raises(WorkflowInvalid, match=r"\$\{SUBJEKT\}, which was not given") as caught:
        fill_in('"${SUBJEKT}"', {"SUBJECT": "a cat"}, "x.json")
    assert "Did you mean ${SUBJECT}?" in caught.value.message
    assert "--var SUBJEKT=VALUE, or --var SUBJEKT " in for_terminal(caught.value.advice)
    assert caught.value.details == {"variable": "SUBJEKT"}
    with pytest.raises(WorkflowInvalid) as caught:
        fill_in('"${PROMPT}"', {})
    assert re.search(
        r"--var PROMPT=VALUE, .*\(or --prompt TEXT, of run and check\)",
        for_terminal(caught.value.advice),
    )


@pytest.mark.parametrize("name", ["GITHUB_PAT", "PGPASS", "DATABASE_URL", "HOME", "RUNPOD_API_KEY"])
def test_the_environment_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "planted-value")
    with pytest.raises(WorkflowInvalid, match=name) as caught:
        fill_in('"${' + name + '}"', Changes(prompt="x").variables())
    assert "planted-value" not in json.dumps(caught.value.to_json())


def test_a_name_that_was_given_may_be_any() -> None:
    assert fill_in('"${API_KEY_OF_DOOR}"', {"API_KEY_OF_DOOR": "x"}) == '"x"'


def test_a_file_is_filled_in_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "template.json"
    path.write_text('{"1": {"class_type": "A", "inputs": {"text": "${PROMPT}", "seed": ${SEED}}}}')
    loaded = load_workflow(path, variables={"PROMPT": "a\tcat", "SEED": "7"})
    assert loaded.prompt == {"1": {"class_type": "A", "inputs": {"text": "a\tcat", "seed": 7}}}
    assert loaded.variables == {"PROMPT", "SEED"}
    assert variables_in(path.read_text()) == {"PROMPT", "SEED"}
    with pytest.raises(WorkflowInvalid, match="not valid JSON"):
        load_workflow(path)
