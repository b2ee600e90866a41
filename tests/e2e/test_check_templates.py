"""The check on every official template: no false alarm, neither here nor beside ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
from official_templates import load, templates

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.check import check_prompt
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

# What is wrong with them indeed: ComfyUI 0.33.0 refuses these values and has not these classes.
WRONG = {
    ("template_rob_realistic_2k_images_quick_variations.json", "scheduler"),
    ("templates_rob_realistic_2k_images_quick_variations.app.json", "scheduler"),
    ("templates_graphic_design_recomposer.json", "model.aspect_ratio"),
}
FOREIGN = {"AILab_QwenVL", "ImageRemoveAlpha+", "GetImageSizeAndCount"}


@pytest.mark.parametrize("bundled", [True, False])
def test_no_template_has_a_structural_problem(bundled: bool) -> None:
    workflows = templates("0.33.0")
    if not workflows:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    schemas = Schemas.bundled() if bundled else Schemas(load("object_info-0.33.0"), "http://box")
    found: set[Any] = set()
    models = checked = 0
    for name, workflow in workflows.items():
        try:
            prompt = convert_workflow(workflow, schemas, keep_unknown=True)
        except WorkflowInvalid:
            continue  # a view of a 3D scene, which no file determines
        checked += 1
        for problem in check_prompt(prompt, schemas, workflow=workflow).problems:
            if problem.code == "missing_model":
                assert problem.details["folder"], problem
                models += 1
            elif not (problem.code == "missing_node_type" and problem.node_class in FOREIGN):
                assert problem.code == "value_not_in_list", (name, problem)
                found.add((name, problem.input))
    assert checked > 450
    # The snapshot knows nobody's models; the ComfyUI that the schemas are of had none.
    assert (models == 0) is bundled
    assert found == WRONG
