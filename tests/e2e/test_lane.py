"""The remote lane, on the sandbox always and on a real ComfyUI where there is one."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gated_sandbox import Gate
from helpers import until
from lane_page import JOB_EVENT, Page, page
from pack import PackServer, comfyui_with_pack, sandbox_with_pack
from PIL import Image
from record_sql import locked

from comfy_remote.gateway import GatewayServer
from comfy_remote.net.retry import Polling
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.targets.comfyui.follow import FollowTimes
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler

Prompt = dict[str, Any]
_COLORS = itertools.count(int(time.time()) % 0xFFFF)


def picture(prefix: str = "lane", **more: Any) -> Prompt:
    """A prompt without a model that nothing has in its cache."""
    return {
        "1": _node("EmptyImage", width=48, height=32, batch_size=1, color=next(_COLORS)),
        "2": _node(
            "ImageScale",
            image=["1", 0],
            upscale_method="nearest-exact",
            width=24,
            height=24,
            crop="disabled",
        ),
        "3": _node("SaveImage", images=["2", 0], filename_prefix=prefix),
        **more,
    }


def slow(seconds: float, steps: int = 10) -> Prompt:
    """For engines that have the sandbox's slow node."""
    prompt = picture("slow")
    prompt["9"] = _node(
        "SandboxSlow",
        image=["1", 0],
        steps=steps,
        seconds_per_step=seconds / steps,
        preview=True,
        seed=next(_COLORS),
    )
    prompt["2"]["inputs"]["image"] = ["9", 0]
    return prompt


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackServer]:
    with sandbox_with_pack(tmp_path_factory.mktemp("sandbox")) as server:
        yield server


@pytest.fixture(scope="module", params=["sandbox", "comfyui"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PackServer]:
    """The server whose page it is."""
    if request.param == "sandbox":
        yield request.getfixturevalue("sandbox")
        return
    base = tmp_path_factory.mktemp("comfyui")
    with comfyui_with_pack(base) as running:
        yield running


@pytest.fixture
async def target() -> AsyncIterator[SandboxServer]:
    """A ComfyUI elsewhere: the sandbox, at an address."""
    async with SandboxServer() as running:
        yield running


@asynccontextmanager
async def endpoint(workers: int) -> AsyncIterator[str]:
    """A RunPod endpoint: our gateway, each of its workers with an engine of its own."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayServer(endpoint_id="lane"))
        for number in range(workers):
            engine = await stack.enter_async_context(SandboxServer())
            gateway.add_local_worker(JobHandler(Engine.named(engine.url)), worker_id=f"w{number}")
        yield gateway.url


def _collapsed(messages: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Kind and node of each, told once: how often progress is told is up to chance."""
    found: list[tuple[str, Any]] = []
    for name, data in messages:
        nodes = data.get("nodes") if name == "progress_state" else None
        about = data.get("node")
        if isinstance(nodes, dict):
            about = tuple(sorted((key, node["state"]) for key, node in nodes.items()))
        if (name, about) not in found:
            found.append((name, about))
    return found


async def test_a_remote_job_is_told_of_as_a_local_one_is(
    server: PackServer, target: SandboxServer
) -> None:
    extra = {"extra_pnginfo": {"workflow": {"id": "w-1", "nodes": [], "links": []}}}
    async with page(server.url) as shown:
        told = {}
        for where in (None, target.url):
            answer = await shown.queue(picture("told"), where, extra_data=extra)
            assert answer.status == 200, answer.body
            assert set(answer.body) == {"prompt_id", "number", "node_errors"}
            prompt_id = answer.body["prompt_id"]
            entry = await shown.ended(prompt_id)
            await shown.heard("executing", prompt_id, node=None)
            jobs = await shown.get("/jobs")
            mine = [job for job in jobs["jobs"] if job["id"] == prompt_id] if jobs else []
            told[where] = (shown.of(prompt_id), entry, mine)
        (local, local_entry, local_job), (remote, entry, job) = told.values()
        assert _collapsed(remote) == _collapsed(local)
        for name, data in remote:
            last = data.get("node", "") is None
            same = next(d for n, d in local if n == name and (d.get("node", "") is None) == last)
            assert set(data) == set(same), name
        # The history, the list of jobs
        assert set(entry) == set(local_entry)
        assert len(entry["prompt"]) == len(local_entry["prompt"]) == 5
        assert entry["prompt"][3]["client_id"] == shown.client_id
        assert entry["prompt"][4] == local_entry["prompt"][4] == ["3"]
        assert entry["meta"] == local_entry["meta"]
        assert {k: set(v) for k, v in entry["outputs"].items()} == {
            k: set(v) for k, v in local_entry["outputs"].items()
        }
        assert entry["status"]["status_str"] == "success"
        assert entry["status"]["completed"] is True
        assert [name for name, _ in entry["status"]["messages"]] == [
            name for name, _ in local_entry["status"]["messages"]
        ]
        for one, other in zip(job, local_job, strict=True):
            assert set(one) == set(other)
            assert one["workflow_id"] == "w-1"


async def test_outputs_are_saved_as_comfyui_saves_them(
    server: PackServer, target: SandboxServer
) -> None:
    folder = server.directory / "output" / "deep"
    folder.mkdir(parents=True)
    (folder / "saved_00007_.png").write_bytes(b"somebody's")
    workflow = {"id": "w-2", "nodes": [{"id": 3}], "links": []}
    async with page(server.url) as shown:
        prompt = picture("deep/saved", **{"4": _node("PreviewImage", images=["1", 0])})
        answer = await shown.queue(
            prompt, target.url, extra_data={"extra_pnginfo": {"workflow": workflow}}
        )
        entry = await shown.ended(answer.body["prompt_id"])
        (saved,) = entry["outputs"]["3"]["images"]
        assert saved == {"filename": "saved_00008_.png", "subfolder": "deep", "type": "output"}
        executed = await shown.heard("executed", answer.body["prompt_id"], node="3")
        assert executed["output"] == entry["outputs"]["3"]
        (preview,) = entry["outputs"]["4"]["images"]
        assert preview["type"] == "temp"
        assert (server.directory / "temp" / preview["filename"]).is_file()
    path = folder / "saved_00008_.png"
    assert (folder / "saved_00007_.png").read_bytes() == b"somebody's"
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    with Image.open(path) as image:
        assert image.size == (24, 24)
        assert json.loads(image.info["workflow"]) == workflow
        assert json.loads(image.info["prompt"]) == prompt
    assert not list((server.directory / "temp").glob(".comfy-remote-*"))


async def test_a_batch_runs_side_by_side_and_local_prompts_run_meanwhile(
    sandbox: PackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoint(workers=4) as url, page(sandbox.url) as shown:
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
        long = slow(300, steps=3000)
        bodies = [(await shown.queue(long)).body]
        bodies += [(await shown.queue(long, "runpod:lane")).body for _ in range(4)]
        ids = [body["prompt_id"] for body in bodies]
        for prompt_id in ids:
            await shown.heard("progress", prompt_id, node="9")
        assert set(await shown.unfinished()) == {*ids}
        assert (await shown.get("/prompt"))["exec_info"]["queue_remaining"] == 5
        numbers = [body["number"] for body in bodies]
        assert numbers == sorted(numbers)
        for prompt_id in ids:
            await shown.post("/interrupt", {"prompt_id": prompt_id})
            await shown.ended(prompt_id)

        local = (await shown.queue(slow(1.0))).body["prompt_id"]
        batch = [(await shown.queue(slow(1.0), "runpod:lane")).body for _ in range(4)]
        ids = [body["prompt_id"] for body in batch]
        entries = [await shown.ended(prompt_id) for prompt_id in [*ids, local]]
        assert all(entry["status"]["status_str"] == "success" for entry in entries)
        names = [entry["outputs"]["3"]["images"][0]["filename"] for entry in entries]
        assert len(set(names)) == 5
        for prompt_id in ids:
            fractions = [
                data["fraction"]
                for name, data in shown.of(prompt_id, own=True)
                if name == JOB_EVENT and data["state"] == "running"
            ]
            assert fractions == sorted(fractions)
            assert fractions[-1] == 1.0
        assert any(name == "preview" for name, _ in shown.messages)
        assert (await shown.get("/prompt"))["exec_info"]["queue_remaining"] == 0


async def test_a_record_that_another_program_locks_stalls_neither_server_nor_jobs(
    sandbox: PackServer, target: SandboxServer
) -> None:
    async with page(sandbox.url) as shown:
        first = (await shown.queue(slow(3.0, steps=30), target.url)).body["prompt_id"]
        await shown.heard("progress", first, node="9")
        # Nobody unlocks it before the server has answered, and shown all this.
        with locked(sandbox.home / "jobs.sqlite3"):
            seen = len(shown.of(first))
            second = (await shown.queue(picture(), target.url)).body["prompt_id"]
            # The job that runs is shown as before, to its end; one that is new is in the queue.
            assert (await shown.ended(first))["status"]["completed"]
            assert len(shown.of(first)) > seen + 10
            assert second in await shown.unfinished()
        # It is sent when it has been recorded.
        assert (await shown.ended(second))["status"]["completed"]


async def test_front_goes_before_what_waits_there(
    server: PackServer, target: SandboxServer
) -> None:
    async with page(server.url) as shown:
        first = (await shown.queue(slow(300, steps=3000), target.url)).body
        await shown.heard("progress", first["prompt_id"])
        second = (await shown.queue(slow(0.1), target.url)).body
        front = (await shown.queue(slow(0.1), target.url, front=True)).body
        assert front["number"] == -(second["number"] + 1)
        await shown.post("/interrupt", {"prompt_id": first["prompt_id"]})
        entries = [await shown.ended(body["prompt_id"]) for body in (first, second, front)]
        starts = [entry["status"]["messages"][0][1]["timestamp"] for entry in entries]
        assert starts[0] < starts[2] < starts[1]


async def test_only_what_was_asked_for_runs(server: PackServer, target: SandboxServer) -> None:
    prompt = picture("part", **{"4": _node("PreviewImage", images=["1", 0])})
    async with page(server.url) as shown:
        answer = await shown.queue(prompt, target.url, partial_execution_targets=["4"])
        entry = await shown.ended(answer.body["prompt_id"])
        assert set(entry["outputs"]) == {"4"}
        assert entry["prompt"][4] == ["4"]
        assert entry["prompt"][2] == prompt
        async with page(target.url) as there:
            history = await there.get("/history")
            (sent,) = [item["prompt"][2] for item in history.values()]
            assert set(sent) == {"1", "4"}


async def cancel(shown: Page, how: str, prompt_id: str) -> Any:
    """Stop a job in one of the ways that pages have."""
    match how:
        case "interrupt":
            return await shown.post("/interrupt", {"prompt_id": prompt_id})
        case "delete":
            return await shown.post("/queue", {"delete": [prompt_id]})
        case "job":
            return await shown.post(f"/jobs/{prompt_id}/cancel")
        case _:
            return await shown.post("/jobs/cancel", {"job_ids": [str(uuid.uuid4()), prompt_id]})


@pytest.mark.parametrize("how", ["interrupt", "delete", "job", "jobs"])
async def test_a_cancel_reaches_the_target_and_no_local_prompt(
    sandbox: PackServer, target: SandboxServer, how: str
) -> None:
    async with page(sandbox.url) as shown:
        local = (await shown.queue(slow(1.5))).body["prompt_id"]
        remote = (await shown.queue(slow(30, steps=300), target.url)).body["prompt_id"]
        await shown.heard("progress", remote)
        answer = await cancel(shown, how, remote)
        assert answer.status == 200
        if how.startswith("job"):
            assert answer.body == {"cancelled": True}
        entry = await shown.ended(remote)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert entry["status"]["status_str"] == "error"
        assert (await shown.heard("execution_interrupted", remote))["node_id"] == "9"
        assert (await shown.heard(JOB_EVENT, remote, state="cancelled"))["target"] == target.url
        async with page(target.url) as there:
            assert await there.running() == []
        jobs = {job["id"]: job["status"] for job in (await shown.get("/jobs"))["jobs"]}
        assert jobs[remote] == "cancelled"
        assert (await shown.ended(local))["status"]["status_str"] == "success"
        # Once more: it is nobody's any longer, and nothing happens.
        assert (await cancel(shown, how, remote)).status == 200


async def test_a_batch_of_cancels_takes_local_and_remote_ones(
    sandbox: PackServer, target: SandboxServer
) -> None:
    async with page(sandbox.url) as shown:
        running = (await shown.queue(slow(300, steps=3000))).body["prompt_id"]
        waiting = (await shown.queue(slow(1.5))).body["prompt_id"]
        remote = (await shown.queue(slow(30, steps=300), target.url)).body["prompt_id"]
        answer = await shown.post("/jobs/cancel", {"job_ids": [waiting, remote]})
        assert answer.body == {"cancelled": True}
        assert (await shown.ended(remote))["status"]["status_str"] == "error"
        assert await shown.unfinished() == [running]
        await shown.post("/interrupt", {"prompt_id": running})
        await shown.ended(running)
        assert await shown.get(f"/history/{waiting}") == {}
        assert (await shown.post("/jobs/cancel", {"job_ids": [remote, "x"]})).status in (200, 400)


async def test_an_interrupt_without_an_id_is_for_the_browser_that_sent_it(
    sandbox: PackServer, target: SandboxServer
) -> None:
    async with page(sandbox.url) as mine, page(sandbox.url, user_agent="another") as theirs:
        local = (await theirs.queue(slow(1.5))).body["prompt_id"]
        await theirs.heard("progress", local)
        remote = (await mine.queue(slow(30, steps=300), target.url)).body["prompt_id"]
        await mine.heard("progress", remote)
        await mine.post("/interrupt")
        await mine.ended(remote)
        assert (await theirs.ended(local))["status"]["status_str"] == "success"
        # Who has no remote job stops what runs here, as ever.
        local = (await theirs.queue(slow(30, steps=300))).body["prompt_id"]
        remote = (await mine.queue(slow(1.0), target.url)).body["prompt_id"]
        await theirs.heard("progress", local)
        await theirs.post("/interrupt")
        assert (await theirs.ended(local))["status"]["status_str"] == "error"
        assert (await mine.ended(remote))["status"]["status_str"] == "success"


async def test_clearing_the_queue_stops_what_has_not_begun(
    server: PackServer, target: SandboxServer
) -> None:
    async with page(server.url) as shown:
        runs = (await shown.queue(slow(300, steps=3000), target.url)).body["prompt_id"]
        await shown.heard("progress", runs)
        waits = (await shown.queue(slow(30), target.url)).body["prompt_id"]
        await shown.post("/queue", {"clear": True})
        assert (await shown.ended(waits))["status"]["messages"][-1][0] == "execution_interrupted"
        assert await shown.unfinished() == [runs]
        await shown.post("/interrupt", {"prompt_id": runs})
        await shown.ended(runs)


async def test_front_goes_before_what_waits_at_a_gateway(tmp_path: Path) -> None:
    with sandbox_with_pack(tmp_path) as server, pytest.MonkeyPatch.context() as environment:
        async with endpoint(workers=1) as url, page(server.url) as shown:
            environment.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            first = (await shown.queue(slow(300, steps=3000), "runpod:lane")).body["prompt_id"]
            await shown.heard("progress", first)
            others = [(await shown.queue(slow(0.1), "runpod:lane")).body for _ in range(2)]
            front = (await shown.queue(slow(0.1), "runpod:lane", front=True)).body["prompt_id"]
            assert front in await shown.pending()
            await shown.post("/interrupt", {"prompt_id": first})
            ids = [front, *(body["prompt_id"] for body in others)]
            entries = [await shown.ended(one) for one in ids]
        starts = [entry["status"]["messages"][0][1]["timestamp"] for entry in entries]
        assert starts == sorted(starts)


async def test_what_waits_there_is_pending_here(server: PackServer, target: SandboxServer) -> None:
    async with page(server.url) as shown:
        runs = (await shown.queue(slow(300, steps=3000), target.url)).body["prompt_id"]
        await shown.heard("progress", runs)
        waits = [
            (await shown.queue(slow(300, steps=3000), target.url)).body["prompt_id"]
            for _ in range(2)
        ]
        assert await shown.running() == [runs]
        assert await shown.pending() == waits
        jobs = await shown.get("/jobs?status=in_progress,pending")
        if isinstance(jobs, dict):  # since ComfyUI 0.5
            states = {job["id"]: job["status"] for job in jobs["jobs"]}
            assert states == {runs: "in_progress", **dict.fromkeys(waits, "pending")}
            for query, count in (("pending", 2), ("in_progress", 1)):
                found = await shown.get(f"/jobs?status={query}&limit=1")
                assert (len(found["jobs"]), found["pagination"]["total"]) == (1, count)
                assert found["pagination"]["has_more"] == (count > 1)
                assert found["jobs"][0]["status"] == query
            assert (await shown.get(f"/jobs/{waits[0]}"))["status"] == "pending"
            # A digit for Python, and no number.
            assert "error" in await shown.get("/jobs?limit=%C2%B2")
        before = sum(name == "status" for name, _ in shown.messages)
        await shown.post("/queue", {"delete": waits[:1]})
        await shown.ended(waits[0])
        await shown.post("/interrupt", {"prompt_id": runs})
        await shown.ended(runs)
        await shown.heard("execution_start", waits[1])
        # A page reads the queue again when it is told that it has changed.
        assert sum(name == "status" for name, _ in shown.messages) > before + 1
        assert (await shown.running(), await shown.pending()) == ([waits[1]], [])
        await shown.post("/interrupt", {"prompt_id": waits[1]})
        await shown.ended(waits[1])


async def test_a_page_follows_another_job_when_one_ends(tmp_path: Path) -> None:
    with sandbox_with_pack(tmp_path) as server, pytest.MonkeyPatch.context() as environment:
        async with endpoint(workers=2) as url, page(server.url) as shown:
            environment.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            short = (await shown.queue(slow(1.0), "runpod:lane")).body["prompt_id"]
            long = (await shown.queue(slow(300, steps=3000), "runpod:lane")).body["prompt_id"]
            await shown.heard("progress", long)
            await shown.ended(short)
            await shown.heard(JOB_EVENT, short, state="succeeded")
            await shown.heard("execution_success", short)

            def follows_the_long_one() -> bool:
                said = [(name, data.get("prompt_id")) for name, data in shown.messages]
                return ("execution_start", long) in said[said.index(("execution_success", short)) :]

            await until(follows_the_long_one)
            # *Cancel current run*, with the id that the page follows.
            await shown.post("/interrupt", {"prompt_id": long})
            ended = await shown.ended(long)
        assert ended["status"]["messages"][-1][0] == "execution_interrupted"


async def test_what_the_target_cannot_run_is_refused_as_comfyui_does(
    server: PackServer, target: SandboxServer
) -> None:
    async with page(server.url) as shown:
        missing = picture(**{"7": _node("NotInstalledThere", image=["1", 0])})
        answer = await shown.queue(missing, target.url)
        assert answer.status == 400
        # Of the page's own "missing_node_type", pages look for the nodes that are missing here.
        assert answer.body["error"]["type"] == "workflow_invalid"
        assert target.url in answer.body["error"]["message"]
        assert [*answer.body["node_errors"]] == ["7"]
        (told,) = answer.body["node_errors"]["7"]["errors"]
        assert told["details"] == (
            f"{target.url} does not have the node NotInstalledThere. Install its node pack on "
            f"{target.url}, or choose another target."
        )
        wrong = picture()
        wrong["2"]["inputs"]["width"] = "wide"
        answer = await shown.queue(wrong, target.url)
        assert answer.status == 400
        assert set(answer.body["error"]) >= {"type", "message", "details", "extra_info"}
        assert answer.body["node_errors"]["2"]["class_type"] == "ImageScale"
        assert answer.body["node_errors"]["2"]["dependent_outputs"] == ["3"]
        (told,) = answer.body["node_errors"]["2"]["errors"]
        assert told["extra_info"]["input_name"] == "width"
        assert told["details"].startswith(f"On {target.url}: ")
        for body in ({"prompt_id": "NOT-A-UUID"}, {"partial_execution_targets": ["88"]}):
            answer = await shown.queue(picture(), target.url, **body)
            assert answer.status == 400
            assert answer.body["error"]["message"]
        assert await shown.unfinished() == []


async def test_the_right_part_of_a_prompt_runs(server: PackServer, target: SandboxServer) -> None:
    prompt = picture("right")
    prompt["5"] = _node("PreviewImage")  # nothing to show
    async with page(server.url) as shown:
        answer = await shown.queue(prompt, target.url)
        assert answer.status == 200
        assert answer.body["node_errors"]["5"]["errors"][0]["type"] == "required_input_missing"
        entry = await shown.ended(answer.body["prompt_id"])
        assert entry["status"]["status_str"] == "success"
        assert set(entry["outputs"]) == {"3"}


async def test_a_repo_list_is_read_and_its_node_left_out(
    sandbox: PackServer, target: SandboxServer
) -> None:
    node = {**_node("Text of a pack", text="lora https://x.example/a"), "_meta": {}}
    node["_meta"]["title"] = "repo_list"
    async with page(sandbox.url) as shown:
        await shown.confirm(target.url)
        for with_list in (True, False):
            switched = {"client_id": shown.client_id, "target": target.url, "repo_list": with_list}
            answer = await shown.session.post(
                f"{sandbox.url}/remote/switch", json=switched, headers={"Origin": sandbox.url}
            )
            assert answer.status == 200
            queued = await shown.queue(picture(**{"7": node}))
            assert queued.status == 200, queued.body
            prompt_id = queued.body["prompt_id"]
            ended = await shown.heard(JOB_EVENT, prompt_id, state="succeeded")
            said = " ".join(ended.get("warnings", []))
            assert ("models of repo_list are not fetched" in said) is with_list


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("runpod:no-key", "RUNPOD_API_KEY"),
        ("nowhere", "no target"),
        ("http://127.0.0.1:9", "127.0.0.1:9"),
    ],
)
async def test_a_target_that_cannot_be_used_is_told_at_once(
    sandbox: PackServer, monkeypatch: pytest.MonkeyPatch, where: str, words: str
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    async with page(sandbox.url) as shown:
        answer = await shown.queue(picture(), where)
        if answer.status == 200:  # it took too long to find out
            prompt_id = answer.body["prompt_id"]
            told = (await shown.heard("execution_error", prompt_id))["exception_message"]
        else:
            error = answer.body["error"]
            told = f"{error['message']} {error['details']}"
        assert words in told


async def test_what_fails_there_is_told_with_its_node(
    sandbox: PackServer, target: SandboxServer
) -> None:
    prompt = picture("fails")
    prompt["9"] = _node("SandboxFail", image=["1", 0], mode="error", message="Out of paint.")
    prompt["2"]["inputs"]["image"] = ["9", 0]
    async with page(sandbox.url) as shown:
        prompt_id = (await shown.queue(prompt, target.url)).body["prompt_id"]
        error = await shown.heard("execution_error", prompt_id)
        assert (error["node_id"], error["node_type"]) == ("9", "SandboxFail")
        assert "Out of paint." in error["exception_message"]
        assert isinstance(error["traceback"], list)
        entry = await shown.ended(prompt_id)
        assert entry["status"]["messages"][-1][0] == "execution_error"
        local = (await shown.queue(prompt)).body["prompt_id"]
        same = await shown.heard("execution_error", local)
        assert set(error) == set(same)


async def test_an_output_that_is_not_there_is_told_and_costs_no_other(
    sandbox: PackServer, target: SandboxServer
) -> None:
    prompt = picture(
        "beside",
        **{
            "7": _node(
                "SandboxFile",
                filename="made.bin",
                subfolder="",
                size=10,
                list_under="3d",
                listed_filename="listed-only.glb",
                listed_subfolder="",
            )
        },
    )
    async with page(sandbox.url) as shown:
        prompt_id = (await shown.queue(prompt, target.url)).body["prompt_id"]
        entry = await shown.ended(prompt_id)
        assert entry["status"]["status_str"] == "success"
        assert list(entry["outputs"]) == ["3"]
        assert (await shown.heard("executed", prompt_id))["node"] == "3"
        [problem] = (await shown.heard(JOB_EVENT, prompt_id, state="succeeded"))["problems"]
        assert (problem["node_id"], problem["filename"]) == ("7", "listed-only.glb")


async def test_what_was_saved_before_a_node_failed_is_shown(
    sandbox: PackServer, target: SandboxServer
) -> None:
    prompt = picture("before")
    prompt["8"] = _node("SandboxFail", image=["1", 0], mode="error", message="Out of paint.")
    prompt["9"] = _node("PreviewImage", images=["8", 0])
    async with page(sandbox.url) as shown:
        prompt_id = (await shown.queue(prompt, target.url)).body["prompt_id"]
        error = await shown.heard("execution_error", prompt_id)
        assert error["node_id"] == "8"
        entry = await shown.ended(prompt_id)
        assert entry["status"]["status_str"] == "error"
        assert list(entry["outputs"]) == ["3"]


async def test_a_target_that_goes_away_ends_in_a_clear_error(
    sandbox: PackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = FollowTimes(polling=Polling(patience=1.0))
    defaults = {**(ComfyUITarget.__init__.__kwdefaults__ or {}), "times": times}
    monkeypatch.setattr(ComfyUITarget.__init__, "__kwdefaults__", defaults)
    async with page(sandbox.url) as shown:
        async with SandboxServer() as there:
            prompt_id = (await shown.queue(slow(60), there.url)).body["prompt_id"]
            await shown.heard("progress", prompt_id)
        error = await shown.heard("execution_error", prompt_id)
        assert "out of reach" in error["exception_message"]
        assert error["node_id"] == ""
        await shown.ended(prompt_id)
        assert await shown.unfinished() == []


async def test_inputs_travel_once_from_comfyuis_folders_and_from_nowhere_else(
    server: PackServer, target: SandboxServer, tmp_path: Path
) -> None:
    data = {}
    for folder, name in (("input", "sub/in put.png"), ("output", "in put.png")):
        buffer = io.BytesIO()
        color = (next(_COLORS) % 255, 9, 200)
        Image.new("RGB", (16, 8), color).save(buffer, "PNG")
        path = server.directory / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        data[folder] = color

    def loading() -> Prompt:
        return {
            "1": _node("LoadImage", image="sub/in put.png"),
            "2": _node("LoadImage", image="in put.png [output]"),
            "3": _node("SaveImage", images=["1", 0], filename_prefix=f"one{next(_COLORS)}"),
            "4": _node("SaveImage", images=["2", 0], filename_prefix=f"two{next(_COLORS)}"),
        }

    async with page(server.url) as shown:
        for _ in range(2):
            answer = await shown.queue(loading(), target.url)
            assert answer.status == 200, answer.body
            entry = await shown.ended(answer.body["prompt_id"])
            for node, folder in (("3", "input"), ("4", "output")):
                (saved,) = entry["outputs"][node]["images"]
                with Image.open(server.directory / "output" / saved["filename"]) as image:
                    assert image.getpixel((0, 0)) == data[folder]
        there = [path for path in (target.directory / "input").rglob("*") if path.is_file()]
        assert len(there) == 2
        secret = tmp_path / "secret.png"
        secret.write_bytes(path.read_bytes())
        for name in (str(secret), f"../../{secret.name}", "nowhere.png"):
            answer = await shown.queue(
                {**loading(), "2": _node("LoadImage", image=name)}, target.url
            )
            assert answer.status == 400
            assert name in answer.body["node_errors"]["2"]["errors"][0]["details"]
        assert len(list((target.directory / "input").rglob("*.png"))) == 2


async def test_secrets_of_the_page_stay_here(server: PackServer, target: SandboxServer) -> None:
    secret = f"planted-{uuid.uuid4().hex}"
    keys = {"api_key_comfy_org": secret, "auth_token_comfy_org": secret}
    async with page(server.url) as shown:
        answer = await shown.queue(picture("secret"), target.url, extra_data=keys)
        entry = await shown.ended(answer.body["prompt_id"])
        assert secret not in json.dumps(entry)
        assert secret not in json.dumps(shown.messages, default=str)
        async with page(target.url) as there:
            assert secret not in json.dumps(await there.get("/history"))
    for folder in (server.directory, server.home, target.directory):
        for path in folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


async def test_only_the_page_that_asked_is_told(server: PackServer, target: SandboxServer) -> None:
    async with page(server.url) as mine, page(server.url) as theirs:
        prompt_id = (await mine.queue(slow(300, steps=3000), target.url)).body["prompt_id"]
        assert await theirs.heard("status", status={"exec_info": {"queue_remaining": 1}})
        await mine.heard("progress", prompt_id)
        await mine.post("/interrupt", {"prompt_id": prompt_id})
        await mine.ended(prompt_id)
        await mine.heard("execution_interrupted", prompt_id)
        assert theirs.of(prompt_id, own=True) == []


async def test_the_switch_decides_and_the_prompt_may_say_otherwise(
    server: PackServer, target: SandboxServer
) -> None:
    async with page(server.url) as shown, page(server.url) as other, page(target.url) as there:
        await shown.confirm(target.url)
        switched = await shown.post(
            "/remote/switch", {"client_id": shown.client_id, "target": target.url}
        )
        assert switched.status == 200
        remote = await shown.queue(picture())
        here = await shown.queue(picture(), extra_data={"comfy_remote": {"target": None}})
        theirs = await other.queue(picture())
        for answer in (remote, here, theirs):
            await shown.ended(answer.body["prompt_id"])
        assert list(await there.get("/history")) == [remote.body["prompt_id"]]


async def test_a_page_that_comes_back_learns_how_its_job_stands(
    server: PackServer, target: SandboxServer
) -> None:
    async with page(server.url) as before:
        prompt_id = (await before.queue(slow(3, steps=30), target.url)).body["prompt_id"]
        await before.heard("progress", prompt_id)
    async with page(server.url, before.client_id) as after:
        assert await after.heard("execution_start", prompt_id)
        assert (await after.heard("executing", prompt_id))["node"] == "9"
        state = await after.heard("progress_state", prompt_id)
        assert state["nodes"]["1"]["state"] == "finished"
        assert await after.heard("execution_success", prompt_id)
        assert await after.heard("executed", prompt_id, node="3")


async def test_a_restart_in_mid_job_loses_nothing(tmp_path: Path, gated_url: str) -> None:
    gate = Gate(tmp_path)
    with sandbox_with_pack(tmp_path) as server:
        async with page(server.url) as shown:
            extra = {"extra_pnginfo": {"workflow": {"id": "w-3"}}}
            body = (await shown.queue(gate.prompt, gated_url, extra_data=extra)).body
            await shown.heard("progress", body["prompt_id"])
    with sandbox_with_pack(tmp_path) as server:
        async with page(server.url, shown.client_id) as again:
            assert await again.heard("progress", body["prompt_id"])
            assert body["prompt_id"] in await again.unfinished()
            gate.open()
            entry = await again.ended(body["prompt_id"])
            assert entry["prompt"][0] == body["number"]
            assert entry["prompt"][3]["extra_pnginfo"]["workflow"]["id"] == "w-3"
            (saved,) = entry["outputs"]["3"]["images"]
            assert (server.directory / "output" / saved["filename"]).is_file()
    async with page(gated_url) as there:
        history = (await there.get("/history")).values()
        assert sum(str(tmp_path) in json.dumps(entry) for entry in history) == 1  # none ran twice
    with sandbox_with_pack(tmp_path) as server:
        async with page(server.url) as later:
            await asyncio.sleep(1.0)
            assert await later.unfinished() == []


async def test_what_was_refused_is_not_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.node_pack.lane._SCHEMAS_WITHIN", 0.2)
    # A busy machine may take longer to write 11 MB into the record.
    monkeypatch.setattr("comfy_remote.node_pack.lane._ACKNOWLEDGE_WITHIN", 30.0)
    with sandbox_with_pack(tmp_path) as server:
        async with endpoint(workers=0) as url, page(server.url) as shown:
            monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            huge = picture("x" * 11_000_000)
            answer = await shown.queue(huge, "runpod:lane")
            assert answer.status == 400
            assert "runpod:lane takes 10 MiB" in answer.body["error"]["message"]
    with sandbox_with_pack(tmp_path) as server:
        async with endpoint(workers=0) as url, page(server.url) as later:
            monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            await asyncio.sleep(1.0)
            assert await later.unfinished() == []
            assert await later.get("/history") == {}


async def test_what_is_being_sent_when_the_server_has_settled_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox_with_pack(tmp_path) as server:
        lane = server.pack.lane
        submit = RunPodTarget.submit

        async def slowly(target: RunPodTarget, request: RunRequest) -> RemoteRef:
            await lane.take_up()  # in the server's own loop, as after its start
            return await submit(target, request)

        monkeypatch.setattr(RunPodTarget, "submit", slowly)
        async with endpoint(workers=1) as url, page(server.url) as shown:
            monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            prompt_id = (await shown.queue(picture(), "runpod:lane")).body["prompt_id"]
            entry = await shown.ended(prompt_id)
            assert entry["status"]["status_str"] == "success", entry["status"]
            await shown.heard("execution_success", prompt_id)
            assert [kind for kind, _ in shown.of(prompt_id)].count("execution_success") == 1


async def test_a_job_that_ended_while_the_server_was_down_is_fetched(
    tmp_path: Path, gated_url: str
) -> None:
    gates = [Gate(tmp_path, name) for name in ("first", "second")]
    with sandbox_with_pack(tmp_path) as server:
        async with page(server.url) as shown:
            answers = [await shown.queue(gate.prompt, gated_url) for gate in gates]
            ids = [answer.body["prompt_id"] for answer in answers]
    for gate in gates:
        gate.open()
    async with page(gated_url) as there:
        for prompt_id in ids:
            await there.ended(prompt_id)
    with sandbox_with_pack(tmp_path) as server:
        async with page(server.url) as later:
            for prompt_id in ids:
                entry = await later.ended(prompt_id)
                assert entry["status"]["status_str"] == "success"
                (saved,) = entry["outputs"]["3"]["images"]
                assert (server.directory / "output" / saved["filename"]).is_file()


async def test_an_endpoint_without_workers_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.node_pack.lane._SCHEMAS_WITHIN", 0.2)
    monkeypatch.setattr("comfy_remote.node_pack.lane_job._LONG_WAIT", 0.2)
    with sandbox_with_pack(tmp_path) as server:
        async with endpoint(workers=0) as url, page(server.url) as shown:
            monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", url)
            prompt_id = (await shown.queue(picture(), "runpod:lane")).body["prompt_id"]
            assert prompt_id in await shown.unfinished()
            told = await _until_told(shown, prompt_id, "no worker")
            assert told["state"] == "queued"
            await shown.post("/interrupt", {"prompt_id": prompt_id})
            entry = await shown.ended(prompt_id)
            assert entry["status"]["messages"][-1][0] == "execution_interrupted"


async def _until_told(shown: Page, prompt_id: str, words: str) -> Any:
    for _ in range(1200):
        for name, data in shown.of(prompt_id, own=True):
            if name == JOB_EVENT and words in data["message"]:
                return data
        await asyncio.sleep(0.05)
    raise AssertionError(f"{words!r} was not told")


async def test_a_result_that_is_too_large_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def returns_too_much(_id: str, _payload: object, _report: object) -> dict[str, Any]:
        """As a worker that has nowhere else to put it; ours keeps it for further jobs."""
        return {"images": [{"filename": "a.png", "type": "base64", "data": "A" * 11_000_000}]}

    with sandbox_with_pack(tmp_path) as server:
        async with GatewayServer(endpoint_id="lane") as gateway, page(server.url) as shown:
            gateway.add_local_worker(returns_too_much)
            monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", gateway.url)
            prompt_id = (await shown.queue(picture(), "runpod:lane")).body["prompt_id"]
            error = await shown.heard("execution_error", prompt_id)
            assert error["exception_type"] == "Remote job", error["exception_message"]
            assert "BUCKET_ENDPOINT_URL" in error["exception_message"]
            assert (await shown.ended(prompt_id))["status"]["status_str"] == "error"
