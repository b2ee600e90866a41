"""A value of a list is sent as the target spells it: ``sub\\up.pth`` and ``sub/up.pth`` are one."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.change.settings import apply_settings
from comfy_remote.workflow.check import check_prompt
from comfy_remote.workflow.load import parse_workflow
from comfy_remote.workflow.schema import Schemas
from comfy_remote.workflow.spelling import as_listed, classes_with_paths

LINUX = ["a/b/up.pth", "other.pth", "sub/up.pth"]
WINDOWS = [name.replace("/", "\\") for name in LINUX]


def _schemas(choices: list[str]) -> Schemas:
    nested = {"required": {"model": [choices], "level": ["INT", {}]}}
    dynamic = {
        "options": [
            {"key": "plain", "inputs": {}},
            {"key": choices[0], "inputs": nested},
        ]
    }
    inputs = {
        "model_name": [choices, {"tooltip": "…"}],
        "new": ["COMBO", {"options": choices}],
        "several": ["COMBO", {"options": choices, "multiselect": True}],
        "text": ["STRING", {}],
        "mode": ["COMFY_DYNAMICCOMBO_V3", dynamic],
        "rows": [
            "COMFY_AUTOGROW_V3",
            {
                "template": {
                    "input": {"required": {"m": [choices]}},
                    "prefix": "m",
                    "min": 1,
                    "max": 3,
                }
            },
        ],
    }
    node = {"input": {"required": inputs}, "output": ["IMAGE"], "output_node": True}
    return Schemas({"Node": node}, "the target")


def _prompt(**inputs: Any) -> Any:
    return {"1": {"class_type": "Node", "inputs": inputs}}


@pytest.mark.parametrize(("there", "here"), [(LINUX, WINDOWS), (WINDOWS, LINUX)])
def test_it_is_the_same_either_way_round(there: list[str], here: list[str]) -> None:
    given = _prompt(
        model_name=here[2],
        new=here[0],
        several=[here[2], there[0], "no/such.pth"],
        text=here[2],
        mode=here[0],
        **{"mode.model": here[2], "mode.level": 3, "rows.m0": here[2]},
    )
    before = repr(given)
    changed, notes = as_listed(given, _schemas(there))
    assert repr(given) == before
    assert changed["1"]["inputs"] == {
        "model_name": there[2],
        "new": there[0],
        "several": [there[2], there[0], "no/such.pth"],
        "text": here[2],
        "mode": there[0],
        "mode.model": there[2],
        "mode.level": 3,
        "rows.m0": there[2],
    }
    assert len(notes) == 6
    assert str(notes[0]) == (
        f"Node (node 1): {here[2]!r} is sent as the target spells it, {there[2]!r}."
    )
    assert as_listed(changed, _schemas(there)) == (changed, [])


def test_what_is_listed_or_not_clear_stays() -> None:
    schemas = _schemas(["a/b.pth", "a\\b.pth", "A/c.pth", "d/e\\f.pth", "d\\e/f.pth"])
    for value in ("a/b.pth", "a\\b.pth", "a/c.pth", "d/e/f.pth", "b.pth", "", 3, None, ["2", 0]):
        prompt = _prompt(model_name=value)
        assert as_listed(prompt, schemas) == (prompt, []), value
    assert as_listed(_prompt(model_name="x\\y"), Schemas({}, "none"))[1] == []


def test_lists_of_the_long_form_too() -> None:
    changed, _ = as_listed(_prompt(several={"__value__": ["sub\\up.pth"]}), _schemas(LINUX))
    assert changed["1"]["inputs"]["several"] == {"__value__": ["sub/up.pth"]}


def test_only_nodes_with_a_path_are_asked_about() -> None:
    prompt = _prompt(model_name="up.pth", text="a\nb/c", link=["1/2", 0])
    assert classes_with_paths(prompt) == set()
    assert classes_with_paths(_prompt(several=["a\\b"])) == {"Node"}


def test_settings_checks_and_preparation_take_either(tmp_path: Any) -> None:
    schemas = _schemas(LINUX)
    prompt = _prompt(model_name="sub\\up.pth", text="")
    loaded = parse_workflow(prompt, "test")
    prepared = prepare(loaded, Changes(), schemas)
    assert prepared.prompt["1"]["inputs"]["model_name"] == "sub/up.pth"
    assert any("'sub/up.pth'" in note for note in prepared.notes)
    codes = {
        p.code for p in check_prompt(prepared.prompt, schemas).problems if p.input == "model_name"
    }
    assert codes == set()
    set_ = apply_settings(prompt, ["1.model_name=a\\b\\up.pth"], schemas)
    assert as_listed(set_, schemas)[0]["1"]["inputs"]["model_name"] == "a/b/up.pth"
    with pytest.raises(WorkflowInvalid, match="not among the choices"):
        apply_settings(prompt, ["1.model_name=no\\up.pth"], schemas)
