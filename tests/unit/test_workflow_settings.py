"""`--set NODE.input=value`, and overrides by node id."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.settings import apply_overrides, apply_settings, find_node
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 5,
            "cfg": 7.5,
            "sampler_name": "euler",
            "preview": True,
            "model": ["4", 0],
            "nothing": None,
            "points": [1, 2, 3],
        },
        "_meta": {"title": "v1.5 sampler"},
    },
    "4": {"class_type": "Loader", "inputs": {"name": "a"}},
    "6": {"class_type": "Text", "inputs": {"text": "x"}, "_meta": {"title": "positive"}},
    "7": {"class_type": "Text", "inputs": {"text": "y"}, "_meta": {"title": "negative"}},
    "8": {"class_type": "Batch", "inputs": {"images.image0": 1, "images.image1": 2}},
}


@pytest.mark.parametrize(
    ("setting", "node", "key", "value"),
    [
        ("3.seed=42", "3", "seed", 42),
        ("KSampler.seed=42", "3", "seed", 42),
        ("v1.5 sampler.seed=42", "3", "seed", 42),
        ("positive.text=a cat = a dog", "6", "text", "a cat = a dog"),
        ("6.text=42", "6", "text", "42"),
        ("6.text=", "6", "text", ""),
        ("6.text={}", "6", "text", "{}"),
        ("3.cfg=8", "3", "cfg", 8),
        ("3.preview=False", "3", "preview", False),
        ("3.preview=true", "3", "preview", True),
        ('3.model=["6", 1]', "3", "model", ["6", 1]),
        ("3.model=some name", "3", "model", "some name"),
        ("3.nothing=[1]", "3", "nothing", [1]),
        ("3.nothing=NaN", "3", "nothing", "NaN"),
        ("3.points=[4]", "3", "points", [4]),
        ("8.images.image1=9", "8", "images.image1", 9),
        ("Batch.images.image0=9", "8", "images.image0", 9),
    ],
)
def test_a_setting_changes_one_input(setting: str, node: str, key: str, value: object) -> None:
    before = copy.deepcopy(PROMPT)
    changed = apply_settings(PROMPT, [setting])
    assert changed[node]["inputs"].pop(key) == value
    expected = copy.deepcopy(before)
    del expected[node]["inputs"][key]
    assert changed == expected
    assert before == PROMPT


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "not of the form"),
        ("seed=3", "not of the form"),
        (".seed=3", "not of the form"),
        ("3.=3", "not of the form"),
        ("=", "not of the form"),
        ("KSampelr.seed=1", "Did you mean 'KSampler'"),
        ("3.sed=1", "Did you mean 'seed'"),
        ("Text.text=x", "2 nodes are called 'Text': 6, 7"),
        ("3.seed=many", "takes a number"),
        ("3.seed=true", "takes a number"),
        ("3.cfg=NaN", "takes a number"),
        ("3.cfg=1e999", "takes a number"),
        ("3.cfg=" + "[" * 100_000, "takes a number"),
        ("3.preview=1", "takes true or false"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(setting: str, message: str) -> None:
    with pytest.raises(WorkflowInvalid, match=message):
        apply_settings(PROMPT, [setting])


@given(st.sampled_from(["6", "7"]), st.text())
def test_any_text_arrives_as_it_is(node: str, text: str) -> None:
    assert apply_settings(PROMPT, [f"{node}.text={text}"])[node]["inputs"]["text"] == text


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_arrives_as_it_is(number: float) -> None:
    assert apply_settings(PROMPT, [f"3.cfg={json.dumps(number)}"])["3"]["inputs"]["cfg"] == number


@given(st.text(max_size=40))
def test_any_setting_is_applied_or_refused(setting: str) -> None:
    with contextlib.suppress(WorkflowInvalid):
        apply_settings(PROMPT, [setting])


def test_the_last_setting_wins() -> None:
    assert apply_settings(PROMPT, ["3.seed=1", "3.seed=2"])["3"]["inputs"]["seed"] == 2


def test_overrides_take_values_as_they_are() -> None:
    changed = apply_overrides(PROMPT, {"3": {"seed": "text", "model": ["7", 0]}})
    assert changed["3"]["inputs"]["seed"] == "text"
    assert changed["3"]["inputs"]["model"] == ["7", 0]
    assert PROMPT["3"]["inputs"]["seed"] == 5


@pytest.mark.parametrize(
    ("overrides", "message"), [({"33": {}}, "no node '33'"), ({"3": {"sed": 1}}, "no input 'sed'")]
)
def test_overrides_of_what_is_not_there(overrides: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(WorkflowInvalid, match=message):
        apply_overrides(PROMPT, overrides)  # type: ignore[arg-type]


def test_an_id_goes_before_a_title_and_a_title_before_a_class() -> None:
    prompt: Prompt = {
        "1": {"class_type": "A", "inputs": {}, "_meta": {"title": "2"}},
        "2": {"class_type": "B", "inputs": {}, "_meta": {"title": "A"}},
    }
    assert find_node(prompt, "2") == "2"
    assert find_node(prompt, "A") == "2"
    assert find_node(prompt, "B") == "2"
