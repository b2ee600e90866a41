"""The models that the official templates say they need, and those that we find in them."""

from __future__ import annotations

import json

import pytest
from official_templates import templates
from test_official_templates import CAPTURED

from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.models import find_models, model_sources
from comfy_remote.workflow.schema import Schemas

# The node holds another file than the one its template names.
OTHER_FILE = {
    "image_mage_flow_turbo_t2i_int8.json": (
        "mage_flow_turbo_int8_convrot.safetensors",
        "diffusion_models",
    )
}


def test_models_and_folders_are_those_that_the_templates_name() -> None:
    workflows = templates("0.33.0")
    if not workflows:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    compared = 0
    for name, workflow in workflows.items():
        if name in CAPTURED:
            continue
        prompt = convert_workflow(workflow, Schemas.bundled(), keep_unknown=True)
        said = {(source.name, source.folder) for source in model_sources(workflow)}
        ours = {(model.name, model.folder) for model in find_models(prompt, workflow)}
        # Nothing in another folder, and nothing that is no model.
        assert ours - said == ({OTHER_FILE[name]} if name in OTHER_FILE else set()), name
        # What is not found is in no node that runs: its nodes are muted or bypassed.
        text = json.dumps(prompt)
        assert not [model for model, _ in said - ours if json.dumps(model) in text], name
        compared += len(ours & said)
    assert compared > 800
