"""In the page: a prompt whose models are fetched where it runs is not refused here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget

from comfy_remote import Client
from comfy_remote.errors import ComfyRemoteError, ConfigurationError, WorkflowInvalid
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.lane import RemoteLane
from comfy_remote.node_pack.refusals import refusal_body
from comfy_remote.node_pack.target_models import could_be_fetched, with_fetched_models
from comfy_remote.targets.base import Capabilities
from comfy_remote.workflow.check import validate_for
from comfy_remote.workflow.schema import Schemas

PROMPT: Any = {
    "1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "new.safetensors"}},
    "2": {"class_type": "Show", "inputs": {"model": ["1", 0]}},
}
MODEL = {
    "name": "new.safetensors",
    "directory": "upscale_models",
    "url": "https://x.example/new.safetensors",
}
WORKFLOW: Any = {"nodes": [{"id": 1, "type": "X", "properties": {"models": [MODEL]}}]}
REPO_LIST: Any = {
    "nodes": [
        {"id": 9, "type": "Note", "title": "repo_list", "widgets_values": ["upscale https://x/y"]}
    ]
}
LISTS = [
    [["old.safetensors"]],
    [["old.safetensors"], {"tooltip": "x"}],
    ["COMBO", {"options": ["old.safetensors"], "tooltip": "x"}],
]


def schemas(spec: Any = LISTS[0]) -> Schemas:
    loader = {"input": {"required": {"model_name": spec}}, "output": ["UPSCALE_MODEL"]}
    shows = {"input": {"required": {"model": ["UPSCALE_MODEL"]}}, "output": [], "output_node": True}
    return Schemas({"UpscaleModelLoader": loader, "Show": shows}, "there")


def refused(found: Schemas, prompt: Any = PROMPT) -> bool:
    return validate_for(prompt, found).error is not None


@pytest.mark.parametrize("spec", LISTS)
def test_what_the_workflow_says_where_to_get_counts_as_there(spec: Any) -> None:
    before = schemas(spec)
    coming = with_fetched_models(before, PROMPT, WORKFLOW)
    assert not refused(coming)
    assert refused(before)  # which others use, too
    kept = json.loads(json.dumps(PROMPT).replace("new.", "old."))
    assert not refused(coming, kept)
    other = json.loads(json.dumps(PROMPT).replace("new.", "another."))
    assert refused(with_fetched_models(before, other, WORKFLOW), other)


def test_with_a_repo_list_any_model_may_come() -> None:
    assert not refused(with_fetched_models(schemas(), PROMPT, REPO_LIST))
    assert refused(with_fetched_models(schemas(), PROMPT, None))


def test_a_refusal_for_want_of_a_model_says_what_would_help() -> None:
    checked = validate_for(PROMPT, schemas())
    refusal = WorkflowInvalid("Prompt outputs failed validation", details=checked.to_json())
    told = could_be_fetched(refusal, PROMPT, WORKFLOW)
    error = told.details["error"]
    assert isinstance(error, dict)
    assert "upscale_models/new.safetensors" in str(error["details"])
    assert "DOWNLOAD_MODELS=true" in str(error["details"])
    # Pages show what is said of the node, and nothing else.
    (node,) = told.details["node_errors"].values()  # type: ignore[union-attr]
    assert "DOWNLOAD_MODELS=true" in node["errors"][0]["details"]  # type: ignore[index,call-overload]
    assert could_be_fetched(refusal, PROMPT, None) is refusal
    other = WorkflowInvalid("Other.", details={"error": {"message": "x"}, "node_errors": {}})
    assert could_be_fetched(other, PROMPT, WORKFLOW) is other


class FakePool:
    """A target that says what it has, and cannot be reached for anything else."""

    def __init__(self, record: Record, fetches: bool | None) -> None:
        self.record = record
        self.fetches = fetches

    async def capabilities(self, target: str, *, renew: bool = False) -> Capabilities:
        return Capabilities({}, None, None, fetches_models=self.fetches)

    async def schemas(self, target: str) -> Schemas:
        return schemas()

    async def client(self, target: str) -> Client:
        raise ConfigurationError("It is sent.")


class FakeHost:
    identity = "here"

    def next_number(self, *, front: bool) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("fetches", "says"),
    [
        (True, "It is sent."),
        (False, "DOWNLOAD_MODELS=true"),
        (None, "is not in models/upscale_models of"),
    ],
)
async def test_the_page_is_answered_by_what_the_target_may(
    tmp_path: Path, fetches: bool | None, says: str
) -> None:
    with Record(tmp_path) as record:
        lane = RemoteLane(FakeHost(), FakePool(record, fetches))  # type: ignore[arg-type]
        body: Any = {
            "prompt": PROMPT,
            "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}},
        }
        with pytest.raises(ComfyRemoteError) as refused:
            await lane.submit(body, "gpu")
        answer = json.dumps(refusal_body(refused.value))
        assert says in answer
        assert ("DOWNLOAD_MODELS" in answer) is (fetches is False)


async def test_a_client_sends_the_sources_of_those_models_that_the_prompt_uses(
    tmp_path: Path,
) -> None:
    unused = {**MODEL, "name": "unused.safetensors"}
    workflow: Any = {"nodes": [{"id": 1, "properties": {"models": [unused, MODEL]}}]}
    target = FakeTarget.making(a_bin=b"x")
    with Record(tmp_path) as record:
        async with Client(target, record=record) as client:
            await client.submit(PROMPT, embed=workflow)
            await client.submit(PROMPT)
    sent = [[model.url for model in request.models] for request in target.requests]
    assert sent == [["https://x.example/new.safetensors"], []]
