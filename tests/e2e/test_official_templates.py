"""The converter against ComfyUI's editor, on its official templates: every node, every input."""

from __future__ import annotations

import pytest
from official_templates import OLD_WHEEL, differences, load, templates

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

# Their prompt holds a view of a 3D scene, which no file determines.
CAPTURED = {
    "api_hunyuan3d_model2uv.json",
    "api_hunyuan3d_part.json",
    "api_hunyuan3d_retopo_uv.json",
    "api_hunyuan3d_smart_topology.json",
}


@pytest.mark.parametrize(("version", "count"), [("0.33.0", 300), ("0.3.64", 103)])
def test_prompts_equal_the_editors(version: str, count: int) -> None:
    workflows = templates(version)
    if not workflows:
        pytest.skip(
            f"set {OLD_WHEEL} to the wheel: pip download --no-deps "
            "comfyui-workflow-templates==0.1.95"
            if version == "0.3.64"
            else "comfyui-workflow-templates-json is not installed"
        )
    expected, object_info = load(f"expected-{version}"), load(f"object_info-{version}")
    schemas = Schemas(object_info, f"ComfyUI {version}")
    assert len(expected) == count
    wrong = {}
    for name, theirs in expected.items():
        found = differences(theirs, convert_workflow(workflows[name], schemas), object_info)
        if found:
            wrong[name] = found[:3]
    assert wrong == {}


def test_the_snapshot_gives_what_its_comfyui_gives() -> None:
    """Values are saved by position: the snapshot must have everything in a ComfyUI's order."""
    workflows = templates("0.33.0")
    if not workflows:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    object_info = load("object_info-0.33.0")
    wrong = {}
    for name, theirs in load("expected-0.33.0").items():
        ours = convert_workflow(workflows[name], Schemas.bundled(), keep_unknown=True)
        if found := differences(theirs, ours, object_info):
            wrong[name] = found[:3]
    assert wrong == {}


def test_every_official_template_converts_without_a_server() -> None:
    workflows = templates("0.33.0")
    if not workflows:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    refused = {}
    for name, workflow in workflows.items():
        try:
            assert convert_workflow(workflow, Schemas.bundled(), keep_unknown=True)
        except WorkflowInvalid as error:
            refused[name] = error.message
    assert refused.keys() == CAPTURED
    assert all("3D scene" in message for message in refused.values())
