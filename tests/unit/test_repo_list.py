"""repo_list: found in what the page sends, and carried to those who can use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_comfyui import FakeComfyUI
from fake_target import FakeTarget

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.events import Event, Finished, Log
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.runpod.request import request_body
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.repo_list import find_repo_list, without_repo_list
from comfy_remote.workflow.schema import Schemas

LINES = "# mine\nckpt https://example.com/a.safetensors\n\n  lora https://example.com/b  \n"
JOB = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def node(title: str | None, **inputs: Any) -> Any:
    meta = {} if title is None else {"_meta": {"title": title}}
    return {"class_type": "PrimitiveStringMultiline", "inputs": inputs, **meta}


def saved(title: str | None, values: Any, mode: int = 0, kind: str = "Note") -> Any:
    return {"id": 7, "type": kind, "title": title, "mode": mode, "widgets_values": values}


@pytest.mark.parametrize("name", ["text", "string", "value"])
@pytest.mark.parametrize("title", ["repo_list", "REPO_LIST", "Repo_List"])
def test_the_node_of_a_prompt_goes_by_its_title(name: str, title: str) -> None:
    prompt: Prompt = {"1": node("other", text="x"), "2": node(title, **{name: LINES})}
    assert find_repo_list(prompt) == LINES


@pytest.mark.parametrize(
    "title", ["repo list", "my repo_list", "repo_list 2", " repo_list", "", None]
)
def test_another_title_is_another_node(title: str | None) -> None:
    assert find_repo_list({"1": node(title, text=LINES)}) == ""
    assert find_repo_list({}, {"nodes": [saved(title, [LINES])]}) == ""


@pytest.mark.parametrize("values", [[LINES], [3, None, LINES, "later"], {"text": LINES}])
def test_the_node_of_a_workflow(values: Any) -> None:
    assert find_repo_list({}, {"nodes": [saved("repo_list", values)]}) == LINES


@pytest.mark.parametrize("mode", [2, 4])
def test_a_muted_one_counts_for_nothing(mode: int) -> None:
    assert find_repo_list({}, {"nodes": [saved("repo_list", [LINES], mode)]}) == ""


def test_a_text_that_is_linked_is_found_where_it_is() -> None:
    prompt: Prompt = {"1": node("repo_list", text=["2", 0]), "2": node("lines", value=LINES)}
    assert find_repo_list(prompt) == LINES


def test_of_a_node_that_is_in_both_the_text_that_runs_counts() -> None:
    """It may have been changed, or be linked; a note beside it is in no prompt."""
    prompt: Prompt = {"7": node("repo_list", text=["2", 0]), "2": node("lines", value="ckpt a")}
    text = saved("repo_list", ["ckpt old"], kind="PrimitiveStringMultiline")
    note = {**saved("repo_list", ["vae x"]), "id": 8}
    assert find_repo_list(prompt, {"nodes": [text, note]}) == "ckpt a\nvae x"
    assert find_repo_list({}, {"nodes": [text, note]}) == "ckpt old\nvae x"


def test_several_are_put_together() -> None:
    prompt: Prompt = {"1": node("repo_list", text="a"), "2": node("repo_list", text="b")}
    assert find_repo_list(prompt) == "a\nb"


def test_one_in_a_subgraph_is_found() -> None:
    inner = {"id": "sub", "name": "models", "nodes": [saved("repo_list", [LINES])]}
    workflow = {"nodes": [], "definitions": {"subgraphs": [inner]}}
    assert find_repo_list({}, workflow) == LINES  # type: ignore[arg-type]


@pytest.mark.parametrize("workflow", [{}, {"nodes": 3}, {"nodes": [3]}, {"nodes": [{"id": 1}]}])
def test_a_workflow_that_is_none_does_not_stop_the_job(workflow: Any) -> None:
    prompt: Prompt = {"1": node("repo_list", text=LINES)}
    assert find_repo_list(prompt, workflow) == LINES


@pytest.mark.parametrize("inputs", [{}, {"text": 3}, {"text": ["9", 0]}, {"text": None}])
def test_a_node_without_a_text(inputs: Any) -> None:
    assert find_repo_list({"1": node("repo_list", **inputs)}) == ""


def test_the_node_itself_is_not_sent_unless_something_is_linked_from_it() -> None:
    save: Any = {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}}
    prompt: Prompt = {
        "1": node("repo_list", text=["2", 0]),
        "2": node("lines", value=["3", 0]),
        "3": node("more lines", value=LINES),
        "4": node("picture", text=["3", 0]),
        "5": save,
        "6": node("Repo_List", value=LINES),
    }
    assert list(without_repo_list(prompt)) == ["3", "4", "5"]
    assert find_repo_list(prompt) == f"{LINES}\n{LINES}"
    save["inputs"]["text"] = ["6", 0]
    assert list(without_repo_list(prompt)) == ["3", "4", "5", "6"]
    assert without_repo_list(without_repo_list(prompt)) == without_repo_list(prompt)


@pytest.mark.parametrize("linked", [False, True])
def test_one_of_an_unknown_class_is_converted_if_it_only_lists_models(linked: bool) -> None:
    """The file of an older editor does not name the values of its widgets."""
    saved_node = saved("repo_list", [3, LINES], kind="CR Text of a pack")
    saved_node["outputs"] = [{"name": "text", "type": "STRING", "links": [1] if linked else []}]
    workflow: Any = {"nodes": [saved_node], "links": [[1, 7, 0, 8, 0, "STRING"]] if linked else []}
    if linked:
        with pytest.raises(WorkflowInvalid, match="CR Text of a pack"):
            convert_workflow(workflow, Schemas.bundled())
        return
    prompt = convert_workflow(workflow, Schemas.bundled())
    assert find_repo_list(prompt) == LINES
    assert without_repo_list(prompt) == {}


async def test_it_travels_with_every_job(tmp_path: Path) -> None:
    target = FakeTarget.making(x_png=b"x")
    prompt = {"1": {"class_type": "A", "inputs": {}}, "2": node("repo_list", text=LINES)}
    with Record(tmp_path) as record:
        async with Client(target, record=record) as client:
            await client.submit(prompt)
            await client.submit(prompt, embed={"nodes": [saved("repo_list", ["vae x"])]})
            await client.submit({"1": prompt["1"]})
            await client.send(RunRequest(JOB, {}, repo_list="given"), source="page")
            await client.submit(prompt, repo_list="")
    lists = [request.repo_list for request in target.requests]
    assert lists == [LINES, f"{LINES}\nvae x", "", "given", ""]
    assert [list(request.prompt) for request in target.requests] == [["1"]] * 3 + [[], ["1"]]


def test_a_worker_gets_it_in_its_request() -> None:
    def sent(**fields: Any) -> dict[str, Any]:
        return dict(json.loads(request_body(RunRequest(JOB, {}, **fields), {}, {}))["input"])

    assert sent(repo_list=LINES)["repo_list"] == LINES
    assert "repo_list" not in sent()


@pytest.mark.parametrize("repo_list", [LINES, ""])
async def test_a_comfyui_says_that_it_cannot_use_it(repo_list: str) -> None:
    async with FakeComfyUI() as fake, ComfyUITarget(fake.url) as target:
        ref = await target.submit(RunRequest(JOB, {}, repo_list=repo_list))
        fake.finish(JOB)
        events: list[Event] = [event async for event in target.follow(ref, {})]
    told = [event for event in events if isinstance(event, Log) and "repo_list" in event.message]
    assert [event.level for event in told] == (["warning"] if repo_list else [])
    end = events[-1]
    assert isinstance(end, Finished)
    warnings = end.details.get("warnings", [])
    assert warnings == [event.message for event in told]  # for the page, after the end
