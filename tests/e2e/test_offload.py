"""Marked nodes run on a target, the others here: the sandbox's page, and all real parts behind."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from helpers import free_port
from lane_page import Page, page
from numpy.typing import NDArray
from offload_kit import (
    Prompt,
    here,
    marked,
    new_seed,
    node,
    parts_of,
    pixels,
    queue,
    run,
    shown,
    there,
)
from pack import PackServer
from PIL import Image

from comfy_remote.sandbox.server import SandboxServer

__all__ = ["here", "shown", "there"]


def graph(seconds_per_step: float = 0.02) -> Prompt:
    """Two pictures, slowly, saved as they are, inverted, and enlarged."""
    return {
        "1": node("EmptyImage", width=48, height=32, batch_size=2, color=new_seed()),
        "2": node(
            "SandboxSlow",
            image=("1", 0),
            steps=5,
            seconds_per_step=seconds_per_step,
            preview=True,
            seed=new_seed(),
        ),
        "3": node("ImageInvert", image=("2", 0)),
        "4": node("SaveImage", images=("3", 0), filename_prefix="inverted"),
        "5": node("SaveImage", images=("2", 0), filename_prefix="plain"),
        "6": node(
            "ImageScale",
            image=("3", 0),
            upscale_method="lanczos",
            width=64,
            height=48,
            crop="disabled",
        ),
        "7": node("SaveImage", images=("6", 0), filename_prefix="large"),
    }


async def test_a_cut_gives_what_the_whole_gives(
    here: PackServer, there: PackServer, shown: Page
) -> None:
    prompt = graph()
    url = there.url
    whole = await run(shown, prompt)
    assert parts_of(whole) == []
    expected = pixels(here, whole)
    assert {node_id: len(hashes) for node_id, hashes in expected.items()} == {
        "4": 2,
        "5": 2,
        "7": 2,
    }
    cuts = [["2"], ["2", "5"], ["3", "6"], ["1", "2", "3"], ["4", "5", "7"], list(prompt)]
    for nodes in cuts:
        entry = await run(shown, prompt, dict.fromkeys(nodes, url))
        assert parts_of(entry), nodes
        assert pixels(here, entry) == expected, nodes


async def test_the_page_sees_the_part_s_own_nodes(shown: Page, there: PackServer) -> None:
    prompt = graph(0.3)
    marks = dict.fromkeys(("2", "4", "5", "3"), there.url)
    entry = await run(shown, prompt, marks)
    prompt_id = entry["prompt"][1]
    await shown.heard("execution_success", prompt_id)
    heard = shown.of(prompt_id)
    steps = [
        data["nodes"]["2"]["value"]
        for kind, data in heard
        if kind == "progress_state" and data["nodes"].get("2", {}).get("max") == 5
    ]
    assert len(set(steps)) > 2
    assert steps == sorted(steps)
    told = {name for kind, data in heard if kind == "progress_state" for name in data["nodes"]}
    assert told <= set(prompt), "nothing but nodes of the page"
    assert any(kind == "preview" for kind, _ in shown.messages)
    executed = {data["node"]: data["output"] for kind, data in heard if kind == "executed"}
    assert set(executed) == {"4", "5", "7"}
    for node_id, prefix in (("4", "inverted_"), ("5", "plain_"), ("7", "large_")):
        names = [one["filename"] for one in executed[node_id]["images"]]
        assert len(names) == 2
        assert all(name.startswith(prefix) for name in names)
        assert entry["outputs"][node_id] == executed[node_id]


async def test_what_has_not_changed_comes_from_the_cache(shown: Page, there: PackServer) -> None:
    prompt = graph()
    marks = {"2": there.url}
    await run(shown, prompt, marks)
    async with page(there.url) as target:
        before = await target.get("/history")
        again = await run(shown, prompt, marks)
        assert "2" in _cached(again)
        assert await target.get("/history") == before, "nothing was sent"
        # Another part that takes the same value: the file is there already.
        files = sorted(path.name for path in (there.directory / "input").rglob("*.safetensors"))
        prompt["2"]["inputs"]["seed"] += 1
        await run(shown, prompt, marks)
        assert len(await target.get("/history")) == len(before) + 1
        after = sorted(path.name for path in (there.directory / "input").rglob("*.safetensors"))
        assert after == files
    # Both are on this machine, and of one user; what came back was linked as well.
    made = [path.name for path in (there.directory / "temp").rglob("*.safetensors")]
    assert made
    assert all(name.startswith("blake3-") for name in (*files, *made))


async def test_a_part_runs_again_when_a_file_that_it_loads_has_changed(
    here: PackServer, there: PackServer, shown: Page
) -> None:
    prompt: Prompt = {
        "1": node("LoadImage", image="changes.png"),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("SaveImage", images=("2", 0), filename_prefix="changes"),
    }
    marks = dict.fromkeys("12", there.url)
    found = []
    for color in ("red", "red", "blue"):
        Image.new("RGB", (8, 8), color).save(here.directory / "input" / "changes.png")
        entry = await run(shown, prompt, marks)
        found.append((pixels(here, entry)["3"], "2" in _cached(entry)))
    (red, first), (same, second), (blue, third) = found
    assert red == same != blue
    assert (first, second, third) == (False, True, False)


async def test_only_the_wanted_outputs_run(shown: Page, there: PackServer) -> None:
    prompt = graph()
    marks = dict.fromkeys(("2", "4", "5"), there.url)
    entry = await run(shown, prompt, marks, partial_execution_targets=["5"])
    assert set(entry["outputs"]) == {"5"}
    entry = await run(shown, prompt, {"2": there.url}, partial_execution_targets=["7"])
    assert set(entry["outputs"]) == {"7"}


async def test_marks_in_a_subgraph(here: PackServer, there: PackServer, shown: Page) -> None:
    prompt = graph()
    inner = {"10:1": prompt.pop("3"), **prompt}
    for one in inner.values():
        for name, value in one["inputs"].items():
            if value == ["3", 0]:
                one["inputs"][name] = ["10:1", 0]
    workflow = {
        "nodes": [
            {"id": 10, "type": "sub", "properties": {"comfy_remote": {"part": there.url}}},
            *({"id": int(n), "type": one["class_type"]} for n, one in prompt.items()),
        ],
        "links": [],
        "definitions": {
            "subgraphs": [{"id": "sub", "nodes": [{"id": 1, "type": "ImageInvert"}], "links": []}]
        },
    }
    answer = await shown.queue(inner, extra_data={"extra_pnginfo": {"workflow": workflow}})
    entry = await shown.ended(answer.body["prompt_id"])
    assert parts_of(entry) == ["10:1"]
    whole = await shown.queue(inner)
    assert pixels(here, entry) == pixels(here, await shown.ended(whole.body["prompt_id"]))


@pytest.mark.parametrize("images", ["png", "webp"])
async def test_pictures_may_cross_as_8_bit_ones(
    here: PackServer, there: PackServer, shown: Page, images: str
) -> None:
    prompt = graph()
    whole = await run(shown, prompt)
    marks = {"3": there.url}
    body = {"extra_data": marked(prompt, marks, extra={"comfy_remote": {"images": images}})}
    prompt_id = (await shown.queue(prompt, **body)).body["prompt_id"]
    entry = await shown.ended(prompt_id)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    assert entry["prompt"][2]["3"]["class_type"] == "ComfyRemotePart"
    for node_id in "457":
        pairs = zip(arrays(here, entry, node_id), arrays(here, whole, node_id), strict=True)
        assert max(int(np.abs(one - other).max()) for one, other in pairs) <= 1
    async with page(there.url) as target:
        (sent,) = [
            one["prompt"][2]
            for one in (await target.get("/history")).values()
            if one["prompt"][2].get("remote_output_0", {}).get("inputs", {}).get("images") == images
        ]
    name = sent["remote_input_0"]["inputs"]["file"]
    file = there.directory / "input" / name
    assert file.stat().st_size < 48 * 32 * 3 * 2 * 4 / 4
    cut = await shown.post(
        "/remote/cut",
        {"prompt": prompt, "workflow": body["extra_data"]["extra_pnginfo"]["workflow"]},
    )
    assert cut.body["images"] == images
    assert any("256" in note for note in cut.body["notes"])


async def test_interrupt_ends_the_job_on_the_target(shown: Page, there: PackServer) -> None:
    prompt = graph(5.0)
    answer = await queue(shown, prompt, {"2": there.url})
    prompt_id = answer.body["prompt_id"]
    async with page(there.url) as target:
        while not await target.running():
            await asyncio.sleep(0.05)
        (job,) = await target.running()
        await shown.post("/interrupt", {"prompt_id": prompt_id})
        entry = await shown.ended(prompt_id)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        ended = await target.ended(job)
        assert ended["status"]["messages"][-1][0] == "execution_interrupted"
        assert await target.running() == []


async def test_a_part_on_this_very_server_would_wait_for_ever(
    shown: Page, here: PackServer
) -> None:
    answer = await queue(shown, graph(), {"2": here.url})
    assert answer.status == 400
    assert "is this ComfyUI" in answer.body["error"]["message"]


async def test_a_failure_there_names_its_node(shown: Page, there: PackServer) -> None:
    prompt = graph()
    prompt["2"] = node("SandboxFail", image=("1", 0), mode="error", message="out of luck")
    answer = await queue(shown, prompt, dict.fromkeys("23", there.url))
    entry = await shown.ended(answer.body["prompt_id"])
    kind, facts = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert "SandboxFail (node 2)" in facts["exception_message"]
    assert "out of luck" in facts["exception_message"]


async def test_a_target_that_restarts_in_mid_part(shown: Page) -> None:
    """It has forgotten the job: that is told, and nothing is sent twice."""
    prompt = graph(5.0)
    port = free_port()
    async with SandboxServer(port=port) as target:
        answer = await queue(shown, prompt, {"2": target.url})
        assert answer.status == 200, answer.body
        async with page(target.url) as there:
            while not await there.running():
                await asyncio.sleep(0.05)
    async with SandboxServer(port=port) as target:
        entry = await shown.ended(answer.body["prompt_id"])
        async with page(target.url) as there:
            assert await there.get("/history") == {}
            assert await there.running() == []
    kind, facts = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert "no longer knows the job" in facts["exception_message"]


async def test_what_cannot_be_cut_is_refused_as_comfyui_refuses(
    shown: Page, there: PackServer
) -> None:
    prompt = graph()
    prompt["2"] = node("OnlyHere", image=("1", 0))
    answer = await queue(shown, prompt, {"2": there.url})
    assert answer.status == 400
    assert answer.body["error"]["type"] == "cut_impossible"
    assert "2" in answer.body["node_errors"]
    closed = await queue(shown, graph(), {"2": "http://127.0.0.1:9"})
    assert closed.status == 400
    assert closed.body["error"]["type"] == "target_unreachable"


async def test_prompts_without_marks_are_the_host_s_own(shown: Page, here: PackServer) -> None:
    prompt = graph()
    refused = await queue(shown, {"1": node("EmptyImage")})
    assert refused.status == 400
    assert refused.body["error"]["type"] == "prompt_no_outputs"
    entry = await run(shown, prompt)
    assert entry["prompt"][2] == prompt


async def test_with_remote_on_all_of_it_goes_there(
    shown: Page, there: PackServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    prompt = graph()
    async with page(there.url) as target:
        before = set(await target.get("/history"))
        extra: dict[str, Any] = {"comfy_remote": {"target": there.url}}
        answer = await shown.queue(prompt, extra_data={**marked(prompt, {"2": there.url}), **extra})
        entry = await shown.ended(answer.body["prompt_id"])
        assert caplog.text.count("its marks are ignored") == 1
        assert parts_of(entry) == []
        (job,) = set(await target.get("/history")) - before
        assert set((await target.get(f"/history/{job}"))[job]["outputs"]) == {"4", "5", "7"}


def arrays(server: PackServer, entry: dict[str, Any], node_id: str) -> list[NDArray[np.int16]]:
    folder = server.directory / "output"
    names = [one["filename"] for one in entry["outputs"][node_id]["images"]]
    return [np.asarray(Image.open(folder / name)).astype(np.int16) for name in names]


def _cached(entry: dict[str, Any]) -> list[str]:
    (cached,) = [
        facts["nodes"] for kind, facts in entry["status"]["messages"] if kind == "execution_cached"
    ]
    return list(cached)
