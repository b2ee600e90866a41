"""``comfy-run-remote`` through a proxy that goes wrong as a pod's does: the right pictures, once.

RunPod's proxy answers 502 while nobody listens, 524 after 100 s without an answer (the request may
have arrived all the same), 404 for a pod that is stopped; the network itself drops and truncates.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lanes import Ended, EngineCounter, files_in, new_mark
from PIL import Image
from proxy import Answer, Cut, Delay, Drop, FaultProxy, Shorten, Stall

PAGE = b"<!DOCTYPE html><html><title>502: Bad gateway</title></html>"
BAD_GATEWAY, TIMED_OUT = Answer(502, PAGE), Answer(524, PAGE)
LOST = [
    Answer(502, PAGE, forwarded=True),
    Answer(524, PAGE, forwarded=True),
    Drop(forwarded=True),
]


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def pod(request: pytest.FixtureRequest) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(request.getfixturevalue(f"{request.param}_url")) as proxy:
        yield proxy


@pytest.fixture
def mark() -> str:
    return new_mark()


@pytest.fixture
def workflow(tmp_path: Path, mark: str) -> Path:
    """Two pictures, too large for one packet."""
    color = time.time_ns() % 0xFFFFFF
    prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 1024, "height": 768, "batch_size": 2, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": mark}},
    }
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(prompt))
    return path


async def start(
    pod: FaultProxy, workflow: Path, *arguments: str, module: str = "run_remote"
) -> asyncio.subprocess.Process:
    code = f"from comfy_remote.cli.{module} import main; main()"
    if module == "run_remote":
        arguments = ("--workflow", str(workflow), "--pod-url", pod.url, *arguments)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments),
        cwd=workflow.parent,
        env={**os.environ, "COMFY_REMOTE_HOME": str(workflow.parent / "home")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_remote(
    pod: FaultProxy, workflow: Path, *arguments: str, module: str = "run_remote"
) -> Ended:
    process = await start(pod, workflow, *arguments, module=module)
    try:
        out, err = await asyncio.wait_for(process.communicate(), 180)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def assert_both_pictures(ended: Ended, pod: FaultProxy, folder: Path, mark: str) -> None:
    assert ended.status == 0, ended.stderr
    saved = files_in(folder / "output")
    assert len(saved) == 2
    for name in saved:
        with Image.open(folder / "output" / name) as image:
            image.load()
            assert image.size == (1024, 768)
    assert EngineCounter(pod.upstream).runs(mark) == 1


@pytest.mark.parametrize("fault", LOST, ids=["502", "524", "drop"])
async def test_the_answer_to_the_submission_is_lost(
    pod: FaultProxy, workflow: Path, mark: str, fault: object
) -> None:
    pod.plan("^/prompt$", fault)  # type: ignore[arg-type]
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)
    assert pod.count("^/prompt$", "POST") == 1


@pytest.mark.parametrize("fault", [BAD_GATEWAY, TIMED_OUT, Drop(), Answer(404, PAGE)])
async def test_questions_go_wrong_for_a_while(
    pod: FaultProxy, workflow: Path, mark: str, fault: object
) -> None:
    pod.plan("^/(history|queue)", fault, times=4)  # type: ignore[arg-type]
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)


async def test_the_proxy_refuses_the_websocket(pod: FaultProxy, workflow: Path, mark: str) -> None:
    pod.plan("^/ws", BAD_GATEWAY, times=None)
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)
    assert "polling instead" in ended.stderr


async def test_a_download_breaks_and_goes_on_where_it_broke(
    pod: FaultProxy, workflow: Path, mark: str
) -> None:
    pod.plan("^/view", Cut(1500))
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)
    ranges = [seen.headers["Range"] for seen in pod.seen if "Range" in seen.headers]
    assert ranges == ["bytes=1500-"]


async def test_killed_in_mid_download_it_goes_on_where_it_was(
    pod: FaultProxy, workflow: Path, mark: str
) -> None:
    prompt = json.loads(workflow.read_text())
    prompt["1"]["inputs"] |= {"width": 4096, "height": 4096, "batch_size": 1}
    workflow.write_text(json.dumps(prompt))
    pod.plan("^/view", Cut(40_000))
    pod.plan("^/view", Stall())
    process = await start(pod, workflow)
    try:
        await pod.saw("^/view", times=2, timeout=60)
    finally:
        process.kill()
        _, err = await process.communicate()
    output = workflow.parent / "output"
    (part,) = output.glob(".comfy-remote-*/*.part")
    assert 0 < part.stat().st_size <= 40_000
    pod.heal()
    job = re.search(rb"^Job ([0-9a-f-]{36}) on", err, re.MULTILINE)
    assert job is not None, err
    here = f"bytes={part.stat().st_size}-"
    resumed = await run_remote(pod, workflow, "jobs", "resume", job[1].decode(), module="main")
    assert resumed.status == 0, resumed.stderr
    assert [seen.headers.get("Range") for seen in pod.seen if seen.path.startswith("/view")] == [
        *(None, "bytes=40000-"),  # before it was killed
        here,
    ]
    (saved,) = output.iterdir()
    with Image.open(saved) as image:
        image.load()
        assert image.size == (4096, 4096)
    assert EngineCounter(pod.upstream).runs(mark) == 1


@pytest.mark.parametrize("fault", [BAD_GATEWAY, TIMED_OUT, Drop(), Shorten(900)])
async def test_one_download_goes_wrong_and_is_made_again(
    pod: FaultProxy, workflow: Path, mark: str, fault: object
) -> None:
    pod.plan("^/view", fault)  # type: ignore[arg-type]
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)
    assert pod.count("^/view") == 3


async def test_everything_is_slow(pod: FaultProxy, workflow: Path, mark: str) -> None:
    pod.plan("", Delay(0.4), times=None)
    ended = await run_remote(pod, workflow)
    assert_both_pictures(ended, pod, workflow.parent, mark)


async def test_nobody_listens_at_first(pod: FaultProxy, workflow: Path, mark: str) -> None:
    await pod.leave()
    running = asyncio.create_task(run_remote(pod, workflow))
    await asyncio.sleep(1.5)
    await pod.come_back()
    assert_both_pictures(await running, pod, workflow.parent, mark)


async def test_out_of_time_then_taken_up(pod: FaultProxy, workflow: Path, mark: str) -> None:
    pod.plan("^/(history|queue|ws)", Stall(), times=None)
    ended = await run_remote(pod, workflow, "--timeout", "5")
    assert ended.status == 6, ended.stderr
    command = re.search(r"comfy-remote (jobs resume [0-9a-f-]{36})", ended.stderr)
    assert command is not None
    pod.heal()
    resumed = await run_remote(pod, workflow, *command[1].split(), module="main")
    assert_both_pictures(resumed, pod, workflow.parent, mark)


async def test_the_downloads_fail_for_good_and_are_fetched_later(
    pod: FaultProxy, workflow: Path, mark: str
) -> None:
    pod.plan("^/view", BAD_GATEWAY, times=None)
    ended = await run_remote(pod, workflow)
    assert ended.status == 3
    command = re.search(r"comfy-remote (jobs resume [0-9a-f-]{36})", ended.stderr)
    assert command is not None, ended.stderr
    assert files_in(workflow.parent / "output") == []
    pod.heal()
    resumed = await run_remote(pod, workflow, *command[1].split(), module="main")
    assert_both_pictures(resumed, pod, workflow.parent, mark)
    log = next((workflow.parent / "logs" / "generations").glob("*.json"))
    assert json.loads(log.read_text())["state"] == "failed"
