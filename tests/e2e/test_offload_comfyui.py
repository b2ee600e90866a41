"""Marked nodes of a real ComfyUI's page run on another real ComfyUI."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port
from lane_page import Page, page
from offload_kit import Prompt, new_seed, node, parts_of, pixels, queue, run
from pack import ROOT, PackServer, comfyui_with_pack

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.sandbox.server import SandboxServer

pytestmark = pytest.mark.comfyui


@contextmanager
def comfyui(
    base: Path, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[PackServer]:
    for name in ("value_nodes", "part_nodes"):
        nodes = base / "custom_nodes" / name
        shutil.copytree(ROOT / "tests" / "data" / name, nodes, dirs_exist_ok=True)
    with comfyui_with_pack(base, port=port, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of both, which are of one user."""
    return {"COMFY_REMOTE_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, user: dict[str, str]) -> Iterator[PackServer]:
    with comfyui(tmp_path_factory.mktemp("here"), environment=user) as server:
        yield server


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, user: dict[str, str]) -> Iterator[PackServer]:
    with comfyui(tmp_path_factory.mktemp("there"), environment=user) as server:
        yield server


@pytest.fixture
async def shown(here: PackServer) -> AsyncIterator[Page]:
    async with page(here.url) as one:
        yield one


def graph(seconds: float = 0.5) -> Prompt:
    """Texts to a picture: saved, and told bit by bit at each step of the way."""
    return {
        "1": node("TestModelLoader", seed=3),
        "2": node("TestEncode", text="a castle"),
        "3": node("EmptyLatentImage", width=64, height=48, batch_size=2),
        "4": node(
            "TestSampler",
            model=("1", 0),
            positive=("2", 0),
            latent_image=("3", 0),
            seed=new_seed(),
            steps=6,
            seconds=seconds,
        ),
        "5": node("TestDecode", model=("1", 0), samples=("4", 0)),
        "6": node("ImageInvert", image=("5", 0)),
        "7": node("SaveImage", images=("6", 0), filename_prefix="castle"),
        "8": node("PreviewImage", images=("5", 0)),
        **{
            str(number): node("PreviewAny", source=(str(number + 10), 0))
            for number in (11, 12, 13, 14)
        },
        **{
            str(21 + number): node("TestDigest", value=(source, 0))
            for number, source in enumerate("2456")
        },
    }


def facts(server: PackServer, entry: dict[str, Any]) -> dict[str, Any]:
    """All that a run made: pictures, and digests of values."""
    texts = {n: shown["text"] for n, shown in entry["outputs"].items() if "text" in shown}
    assert len(texts) == 4
    return {**pixels(server, entry), **texts}


CUTS = {
    "the sampler": ["4"],
    "the sampler, without its text": ["4", "2"],
    "up to the picture": ["1", "2", "3", "4", "5"],
    "after the sampler": ["5", "6", "7", "8"],
    "what saves": ["7", "8", "14"],
    "two ends": ["2", "6"],
    "all of it": None,
}


async def test_the_same_bits_here_there_and_cut(
    here: PackServer, there: PackServer, shown: Page
) -> None:
    prompt = graph()
    whole = await run(shown, prompt)
    expected = facts(here, whole)
    assert {"7", "8", "11", "12", "13", "14"} <= set(expected)
    for name, nodes in CUTS.items():
        entry = await run(shown, prompt, dict.fromkeys(nodes or prompt, there.url))
        assert parts_of(entry), name
        assert facts(here, entry) == expected, name


async def test_the_page_sees_the_part_s_own_nodes(shown: Page, there: PackServer) -> None:
    prompt = graph(2.0)
    entry = await run(shown, prompt, dict.fromkeys(("4", "5", "6", "7", "8"), there.url))
    heard = shown.of(entry["prompt"][1])
    states = [data["nodes"] for kind, data in heard if kind == "progress_state"]
    steps = [nodes["4"]["value"] for nodes in states if nodes.get("4", {}).get("max") == 6]
    assert len(set(steps)) > 2
    assert steps == sorted(steps)
    assert {name for nodes in states for name in nodes} <= set(prompt)
    assert states[-1]["4"]["state"] == "finished"
    assert any(kind == "preview" for kind, _ in shown.messages)
    executed = {data["node"]: data["output"] for kind, data in heard if kind == "executed"}
    assert executed["7"]["images"][0]["filename"].startswith("castle_")
    assert executed["8"]["images"][0]["type"] == "temp"
    assert entry["outputs"]["7"]["images"] == executed["7"]["images"]
    assert entry["outputs"]["8"]["images"] == executed["8"]["images"]
    assert len(executed["7"]["images"]) == len(executed["8"]["images"]) == 2


async def test_what_has_not_changed_is_not_sent_again(shown: Page, there: PackServer) -> None:
    prompt = graph()
    marks = {"4": there.url}
    await run(shown, prompt, marks)
    async with page(there.url) as target:
        before = set(await target.get("/history"))
        await run(shown, prompt, marks)
        assert set(await target.get("/history")) == before
        # Another seed: the same conditioning and latent go in, and their files are there.
        files = sorted(path.name for path in (there.directory / "input").rglob("*.safetensors"))
        assert files
        prompt["4"]["inputs"]["seed"] = new_seed()
        await run(shown, prompt, marks)
        (job,) = set(await target.get("/history")) - before
        after = sorted(path.name for path in (there.directory / "input").rglob("*.safetensors"))
        assert after == files
        messages = (await target.get(f"/history/{job}"))[job]["status"]["messages"]
        (cached,) = [data["nodes"] for kind, data in messages if kind == "execution_cached"]
        assert {"1", "remote_input_0", "remote_input_1"} <= set(cached)
    # Both are on this machine, and of one user; what came back was linked as well.
    made = [path.name for path in (there.directory / "temp").rglob("*.safetensors")]
    assert made
    assert all(name.startswith("blake3-") for name in (*files, *made))


async def test_lists_cross_as_lists(here: PackServer, there: PackServer, shown: Page) -> None:
    prompt: Prompt = {
        "1": node("TestMakeList"),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("TestDigest", value=("2", 0)),
        "4": node("PreviewAny", source=("3", 0)),
        "5": node("SaveImage", images=("2", 0), filename_prefix="list"),
    }
    whole = await run(shown, prompt)
    assert len(whole["outputs"]["5"]["images"]) == 3
    for nodes in (["2"], ["1"], ["1", "2"], ["3"], ["2", "5"]):
        entry = await run(shown, prompt, dict.fromkeys(nodes, there.url))
        assert parts_of(entry)
        assert entry["outputs"]["4"] == whole["outputs"]["4"], nodes
        assert pixels(here, entry) == pixels(here, whole), nodes


@pytest.mark.parametrize("first", [True, False])
async def test_what_is_blocked_there_is_blocked_here(
    shown: Page, there: PackServer, first: bool
) -> None:
    prompt: Prompt = {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=new_seed()),
        "2": node("TestGate", image=("1", 0), first=first),
        "3": node("PreviewImage", images=("2", 0)),
        "4": node("PreviewImage", images=("2", 1)),
    }
    entry = await run(shown, prompt, {"2": there.url})
    assert parts_of(entry)
    assert set(entry["outputs"]) == {"3" if first else "4"}


def two_slow_ones(seconds: float) -> Prompt:
    """For targets that have the sandbox's slow node."""

    def slow() -> dict[str, Any]:
        return node(
            "SandboxSlow",
            image=("1", 0),
            steps=10,
            seconds_per_step=seconds / 10,
            preview=False,
            seed=new_seed(),
        )

    return {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=new_seed()),
        "2": slow(),
        "3": slow(),
        "4": node("PreviewImage", images=("2", 0)),
        "5": node("PreviewImage", images=("3", 0)),
    }


async def test_parts_run_side_by_side(shown: Page) -> None:
    seconds = 3.0
    async with SandboxServer() as one, SandboxServer() as other:
        begun = time.monotonic()
        prompt = two_slow_ones(seconds)
        entry = await run(shown, prompt, {"2": one.url, "3": other.url})
        took = time.monotonic() - begun
    assert len(parts_of(entry)) == 2
    assert set(entry["outputs"]) == {"4", "5"}
    assert took < 1.7 * seconds


@pytest.mark.parametrize("how", ["interrupt", "a failure of the one"])
async def test_all_parts_end_together(shown: Page, how: str) -> None:
    """ComfyUI tells only one of them that it was interrupted."""
    prompt = two_slow_ones(60.0)
    if how != "interrupt":
        prompt["2"] = node("SandboxFail", image=("1", 0), mode="error", message="out of luck")
    async with SandboxServer() as one, SandboxServer() as other:
        answer = await queue(shown, prompt, {"2": one.url, "3": other.url})
        assert answer.status == 200, answer.body
        async with page(one.url) as first, page(other.url) as second:
            if how == "interrupt":
                for target in (first, second):
                    while not await target.running():
                        await asyncio.sleep(0.05)
                await shown.post("/interrupt")
            entry = await shown.ended(answer.body["prompt_id"])
            kind = "execution_interrupted" if how == "interrupt" else "execution_error"
            assert entry["status"]["messages"][-1][0] == kind
            for target in (first, second):
                assert await target.running() == []


async def test_interrupt_ends_the_job_on_the_target(shown: Page, there: PackServer) -> None:
    prompt = graph(30.0)
    answer = await queue(shown, prompt, {"4": there.url})
    prompt_id = answer.body["prompt_id"]
    async with page(there.url) as target:
        while not await target.running():
            await asyncio.sleep(0.05)
        (job,) = await target.running()
        begun = time.monotonic()
        await shown.post("/interrupt")
        entry = await shown.ended(prompt_id)
        assert time.monotonic() - begun < 15
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert (await target.ended(job))["status"]["status_str"] == "error"
        assert await target.running() == []


async def test_a_failure_there_names_its_node(shown: Page, there: PackServer) -> None:
    prompt = graph()
    prompt["6"] = node("TestFail", image=("5", 0))
    answer = await queue(shown, prompt, dict.fromkeys("456", there.url))
    entry = await shown.ended(answer.body["prompt_id"])
    kind, told = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert "TestFail (node 6)" in told["exception_message"]
    assert "out of luck" in told["exception_message"]


async def test_a_target_that_is_killed_in_mid_part(shown: Page, tmp_path: Path) -> None:
    port = free_port()
    with comfyui(tmp_path, port) as target:
        answer = await queue(shown, graph(60.0), {"4": target.url})
        assert answer.status == 200, answer.body
        async with page(target.url) as there:
            while not await there.running():
                await asyncio.sleep(0.05)
        assert target.process is not None
        target.process.kill()
        target.process.wait()
    with comfyui(tmp_path, port) as target:
        entry = await shown.ended(answer.body["prompt_id"])
        async with page(target.url) as there:
            assert await there.get("/history") == {}, "nothing is sent twice"
    kind, told = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert "no longer knows the job" in told["exception_message"]


async def test_what_cannot_be_cut_is_refused_as_comfyui_refuses(
    shown: Page, there: PackServer
) -> None:
    prompt = graph()
    async with SandboxServer() as bare:
        answer = await queue(shown, prompt, {"4": bare.url})
    assert answer.status == 400
    assert answer.body["error"]["type"] == "cut_impossible"
    assert "4" in answer.body["node_errors"]
    assert (await queue(shown, {"1": node("EmptyImage")})).status == 400
    entry = await run(shown, prompt)
    assert entry["prompt"][2] == prompt


@asynccontextmanager
async def endpoint() -> AsyncIterator[str]:
    """A RunPod endpoint with one worker: the real SDK, and the sandbox."""
    async with AsyncExitStack() as stack:
        limits = GatewayLimits(poll_wait=5.0)
        gateway = await stack.enter_async_context(GatewayServer(endpoint_id="ep", limits=limits))
        entry = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", "sandbox"]
        gateway.add_sdk_worker(entry)
        assert await gateway.wait_until_ready(110.0)
        yield gateway.url


async def test_parts_on_two_kinds_of_target(there: PackServer, tmp_path: Path) -> None:
    """A sampler on another ComfyUI, then pictures on a RunPod endpoint, saved there and here."""
    pytest.importorskip("runpod")
    prompt = graph()
    async with endpoint() as url:
        environment = {"RUNPOD_ENDPOINT_BASE_URL": url, "RUNPOD_API_KEY": "a-key-for-this-test"}
        with comfyui(tmp_path, environment=environment) as mixed:
            async with page(mixed.url) as shown:
                expected = facts(mixed, await run(shown, prompt))
                marks = {"4": there.url, "6": "runpod:ep", "7": "runpod:ep"}
                entry = await run(shown, prompt, marks)
                assert len(parts_of(entry)) == 2
                assert facts(mixed, entry) == expected
