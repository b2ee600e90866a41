"""The worker as it runs on RunPod: gateway, the real SDK in production mode, an engine.

The engine is the sandbox always, and a real ComfyUI where there is one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from helpers import free_port, until
from PIL import Image
from pydantic import JsonValue, SecretStr

from comfy_remote.errors import ComfyRemoteError
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.wire.answer import Answer, AnswerOutput, ProgressSnapshot
from comfy_remote.wire.runpod import error_from_runpod

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
ENTRY = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine"]
START = 110.0
ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")

INVERT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sub/inv"}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def slow(steps: int = 200, seed: int = 0) -> dict[str, JsonValue]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": size(64)},
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": steps,
                "seconds_per_step": 0.1,
                "preview": True,
                "seed": seed,
            },
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "s"}},
    }


def many_steps() -> dict[str, JsonValue]:
    """Slow on a real ComfyUI, which looks for an interrupt between two nodes."""
    prompt: dict[str, JsonValue] = {"0": {"class_type": "EmptyImage", "inputs": size(512)}}
    for step in range(1, 80):
        prompt[str(step)] = {
            "class_type": "ImageBlur",
            "inputs": {"image": [str(step - 1), 0], "blur_radius": 31, "sigma": 10.0},
        }
    prompt["99"] = {"class_type": "PreviewImage", "inputs": {"images": ["79", 0]}}
    return prompt


def size(side: int, color: int = 0) -> dict[str, JsonValue]:
    return {"width": side, "height": side, "batch_size": 1, "color": color}


def save(side: int = 32, color: int = 255) -> dict[str, JsonValue]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": size(side, color)},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "w"}},
    }


def picture() -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Endpoint:
    """The client's side: plain HTTP, as a stranger would speak it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def run(self, prompt: JsonValue, **fields: JsonValue) -> str:
        return await self.post(
            {"input": {"format": "comfy-remote/1", "workflow": prompt, **fields}}
        )

    async def post(self, body: JsonValue) -> str:
        async with self._session.post("run", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["id"])

    async def status(self, job_id: str) -> dict[str, JsonValue]:
        async with self._session.get(f"status/{job_id}") as answer:
            return await answer.json()

    async def end(
        self, job_id: str, snapshots: list | None = None, timeout: float = 60.0
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            seen = await self.status(job_id)
            if seen["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                return seen
            if snapshots is not None and seen.get("output"):
                snapshots.append(ProgressSnapshot.model_validate(seen["output"]))
            await asyncio.sleep(0.03)
        raise AssertionError(f"still {seen} after {timeout} s")

    async def answer(self, prompt: JsonValue, **fields: JsonValue) -> Answer:
        seen = await self.end(await self.run(prompt, **fields))
        assert seen["status"] == "COMPLETED", seen
        return Answer.model_validate(seen["output"])

    async def error(self, prompt: JsonValue, **fields: JsonValue) -> ComfyRemoteError:
        seen = await self.end(await self.run(prompt, **fields))
        assert seen["status"] == "FAILED", seen
        return error_from_runpod(seen["error"])

    async def running(self, job_id: str) -> None:
        """Return once the job has told of progress."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            seen = await self.status(job_id)
            assert seen["status"] in ("IN_QUEUE", "IN_PROGRESS"), seen
            if seen.get("output"):
                return
            await asyncio.sleep(0.03)
        raise AssertionError("no progress")

    async def cancel(self, job_id: str) -> None:
        async with self._session.post(f"cancel/{job_id}") as answer:
            assert (await answer.json())["status"] == "CANCELLED"

    async def file(self, path: str) -> bytes:
        async with self._session.get(path) as answer:
            assert answer.status == 200
            return await answer.read()


@asynccontextmanager
async def endpoint(
    engine: str, *, poll_wait: float = 5.0, workers: int = 1, **environment: str
) -> AsyncIterator[Endpoint]:
    limits = GatewayLimits(poll_wait=poll_wait)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        for _ in range(workers):
            gateway.add_sdk_worker([*ENTRY, engine], environment=environment)
        assert await gateway.wait_until_ready(START)
        headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
        async with aiohttp.ClientSession(gateway.endpoint_url + "/", headers=headers) as session:
            yield Endpoint(session)


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[str, Endpoint]]:
    """An endpoint on each kind of engine."""
    if request.param == "comfyui":
        folder = os.environ.get("COMFYUI_DIR")
        if not folder:
            pytest.skip("skipped: no ComfyUI")
        arguments = f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path}'"
        async with endpoint(folder, COMFYUI_ARGS=arguments) as client:
            yield request.param, client
    else:
        async with endpoint("sandbox") as client:
            yield request.param, client


async def test_workflows_run_and_their_outputs_come_back(engine: tuple[str, Endpoint]) -> None:
    _, client = engine
    sent = picture()
    image = {"name": "in.png", "image": base64.b64encode(sent).decode()}

    answer = await client.answer(INVERT, images=[image])
    assert [(o.node_id, o.folder, o.subfolder) for o in answer.outputs] == [
        ("3", "output", "sub"),
        ("4", "temp", ""),
    ]
    inverted, same = ((base64.b64decode(o.data or "")) for o in answer.outputs)
    before, after = (np.asarray(Image.open(io.BytesIO(b))) for b in (sent, inverted))
    # ComfyUI computes in float32 and cuts off: one less, here and there.
    assert np.max(np.abs(after.astype(int) - (255 - before.astype(int)))) <= 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(same))), before)
    for content, output in zip((inverted, same), answer.outputs, strict=True):
        assert (output.size, output.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert answer.worker
    assert answer.engine
    assert set(answer.timings) == {"upload", "queue", "run", "collect"}

    # Once more: wholly cached, and it still has its outputs. (Only their pixels are the same:
    # the prompt inside them says that the nodes that save were to run again.)
    again = await client.answer(INVERT, images=[image])
    for output, was in zip(again.outputs, (inverted, same), strict=True):
        pixels = (np.asarray(Image.open(io.BytesIO(b))) for b in (_content(output), was))
        assert np.array_equal(*pixels)

    changed = await client.answer(save(32), overrides={"1": {"width": 80, "color": 0x102030}})
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(changed.outputs[0].data or ""))))
    assert shown.shape == (32, 80, 3)
    assert np.all(shown == [0x10, 0x20, 0x30])

    seen = await client.end(await client.run(save(16, 77), format="worker-comfyui"))
    assert set(seen["output"]) == {"images"}
    [one] = seen["output"]["images"]
    assert one["type"] == "base64"
    assert base64.b64decode(one["data"]).startswith(b"\x89PNG")

    bad = save()
    bad["1"]["class_type"] = "NoSuchNode"
    error = await client.error(bad)
    assert error.code == "workflow_invalid"
    assert "NoSuchNode" in json.dumps(error.to_json())


def _content(output: AnswerOutput) -> bytes:
    return base64.b64decode(output.data or "")


async def test_cancel_reaches_the_engine(engine: tuple[str, Endpoint]) -> None:
    kind, client = engine
    job_id = await client.run(slow(3000) if kind == "sandbox" else many_steps())
    await client.running(job_id)
    await client.cancel(job_id)
    begun = time.monotonic()
    await client.answer(save())
    # Had the engine gone on, this would have waited for all the rest of it.
    assert time.monotonic() - begun < 60.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Endpoint]:
    async with endpoint("sandbox") as client:
        yield client


async def test_progress_is_told_in_order_with_previews(sandbox: Endpoint) -> None:
    snapshots: list[ProgressSnapshot] = []
    seen = await sandbox.end(await sandbox.run(slow(30), previews=True), snapshots)
    assert seen["status"] == "COMPLETED"
    numbers = [s.sequence for s in snapshots]
    assert numbers == sorted(numbers)
    assert numbers[-1] <= 3.0 / 0.25 + 4
    steps = [s.step for s in snapshots if s.node_class == "SandboxSlow" and s.step is not None]
    assert len(set(steps)) > 4
    assert steps == sorted(steps)
    assert {s.steps for s in snapshots if s.step is not None} == {30}
    pictures = {s.sequence: s.preview for s in snapshots if s.preview}
    assert 1 <= len(pictures) <= 4
    for preview in pictures.values():
        Image.open(io.BytesIO(base64.b64decode(preview.data))).verify()


async def test_large_outputs_go_to_the_store() -> None:
    async with endpoint("sandbox", COMFY_REMOTE_RESULT_LIMIT="4000") as client:
        image = {"name": "in.png", "image": base64.b64encode(picture()).decode()}
        answer = await client.answer(INVERT, images=[image])
        for output in answer.outputs:
            assert output.data is None
            assert output.url
            content = await client.file(output.url)
            assert hashlib.sha256(content).hexdigest() == output.sha256
            assert len(content) == output.size
        seen = await client.end(
            await client.run(INVERT, images=[image], format="worker-comfyui"), timeout=30
        )
        assert seen["status"] == "FAILED"
        assert "can be returned" in str(seen["error"])


def engines_of(worker: int) -> list[int]:
    """Processes that `guard` runs for that worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        guarded = len(words) > 2 and words[1].endswith(b"guard.py")
        if guarded and words[2] == str(worker).encode() and state != "Z":
            found.append(int(folder.name))
    return found


def worker_pid(caplog: pytest.LogCaptureFixture) -> int:
    started = re.findall(r"Worker \w+ started \(process (\d+)\)", caplog.text)
    return int(started[-1])


@POSIX
async def test_an_engine_that_dies_is_started_anew_and_its_job_run_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with endpoint("sandbox") as client:
        job_id = await client.run(slow(30))
        await client.running(job_id)
        [engine] = engines_of(worker_pid(caplog))
        os.kill(engine, signal.SIGKILL)
        seen = await client.end(job_id)
        assert seen["status"] == "COMPLETED", seen
        answer = Answer.model_validate(seen["output"])
        assert answer.outputs
        assert "run again, once" in answer.warnings[0]
        assert engines_of(worker_pid(caplog)) != [engine]


async def test_refresh_worker_gives_each_job_a_worker_of_its_own() -> None:
    begun = time.monotonic()
    async with endpoint("sandbox", poll_wait=150.0, REFRESH_WORKER="true") as client:
        workers = [(await client.answer(save(color=color))).worker for color in (1, 2, 3)]
    assert len(set(workers)) == 3
    assert time.monotonic() - begun < 150.0, "none waits for the answer to an open question"


@POSIX
async def test_an_idle_worker_that_is_asked_to_end_ends_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with endpoint("sandbox", poll_wait=60.0) as client:
        await client.answer(save())
        worker = worker_pid(caplog)
        os.kill(worker, signal.SIGTERM)
        await until(lambda: "ended with status 0" in caplog.text)
        assert (await client.answer(save(color=1))).outputs, "by the next worker"


async def test_two_jobs_on_two_free_workers_never_share_one() -> None:
    async with endpoint("sandbox", workers=2) as client:
        for seed in range(0, 10, 2):
            jobs = [await client.run(slow(8, seed + n)) for n in range(2)]
            answers = [Answer.model_validate((await client.end(job))["output"]) for job in jobs]
            if seed:  # by then both have started
                assert answers[0].worker != answers[1].worker


async def test_a_bucket_beside_the_input_reaches_the_worker(sandbox: Endpoint) -> None:
    """RunPod's clients write it there. The worker refuses this one, so it has read it."""
    body = {
        "input": {"workflow": save(), "format": "comfy-remote/1"},
        "s3Config": {"accessId": "x", "accessSecret": "planted-secret", "endpointUrl": "ftp://x"},
    }
    job_id = await sandbox.post(body)
    seen = await sandbox.end(job_id)
    assert seen["status"] == "FAILED"
    assert "s3Config.endpointUrl" in str(seen["error"])
    assert "planted-secret" not in json.dumps(seen)


async def test_out_of_memory_and_a_crash_say_what_to_do(sandbox: Endpoint) -> None:
    def fail(mode: str) -> dict[str, JsonValue]:
        prompt = save()
        inputs = {"image": ["1", 0], "mode": mode, "message": "on purpose"}
        prompt["2"] = {"class_type": "SandboxFail", "inputs": inputs}
        prompt["3"] = {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "f"},
        }
        return prompt

    for mode, code in (
        ("error", "execution_failed"),
        ("out_of_memory", "out_of_memory"),
        ("crash", "engine_crashed"),
    ):
        error = await sandbox.error(fail(mode))
        assert error.code == code
        assert error.advice
        assert (await sandbox.answer(save())).outputs


async def run_worker(*arguments: str, **more: str) -> tuple[int, str, str]:
    """``serverless_worker.py`` without RunPod: exit status, standard output, log."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "serverless_worker.py"), *arguments),
        env={**environ, **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, log = await asyncio.wait_for(process.communicate(), 180)
    return process.returncode or 0, output.decode(), log.decode()


async def test_one_job_from_the_command_line() -> None:
    job = json.dumps({"input": {"workflow": save(color=0x0000FF)}})
    status, said, log = await run_worker("--engine", "sandbox", "--test_input", job)
    assert status == 0, log
    [one] = json.loads(said)["images"]
    image = Image.open(io.BytesIO(base64.b64decode(one["data"])))
    assert image.getpixel((0, 0)) == (0, 0, 255)

    status, said, _ = await run_worker("--engine=sandbox", "--test_input", '{"input": {}}')
    assert status == 1
    assert "workflow: Field required" in json.loads(said)["error"]

    status, said, log = await run_worker("--engine=sandbox", "--test_input", "{nonsense")
    assert (status, said) == (2, "")
    assert "--test_input is not JSON" in log


@pytest.mark.parametrize(
    ("arguments", "environ"), [(["--test"], {}), ([], {"MODE_TO_RUN": "test"})]
)
async def test_the_worker_tries_itself_out(arguments: list[str], environ: dict[str, str]) -> None:
    # Where there is no ComfyUI, on the sandbox.
    nowhere = {"COMFYUI_DIR": "", "HOME": "/nowhere", "USERPROFILE": "/nowhere"}
    status, said, log = await run_worker(
        *arguments, **environ, **nowhere, NETWORK_VOLUME_DEBUG="true"
    )
    assert status == 0, log
    answer = json.loads(said)
    assert answer["status"] == "success"
    assert base64.b64decode(answer["images"][0]).startswith(b"\x89PNG")
    assert "the sandbox" in log
    assert "no network volume is mounted" in log


async def test_the_sdks_own_server_in_place_of_a_queue() -> None:
    """``SERVE_API_LOCALLY``, as with worker-comfyui: for trying a worker out by hand."""
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "serverless_worker.py"), "--engine", "sandbox"),
        *("--rp_api_port", str(port)),
        env={**environ, "SERVE_API_LOCALLY": "true"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            deadline = time.monotonic() + START
            while True:
                try:
                    body = {"input": {"workflow": save(color=0x00FF00)}}
                    async with session.post("/runsync", json=body) as answer:
                        seen = await answer.json()
                        break
                except aiohttp.ClientConnectionError:
                    assert process.returncode is None
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
        assert seen["status"] == "COMPLETED", seen
        [one] = seen["output"]["images"]
        image = Image.open(io.BytesIO(base64.b64decode(one["data"])))
        assert image.getpixel((0, 0)) == (0, 255, 0)
    finally:
        process.terminate()
        await process.wait()


async def test_an_engine_that_is_none_ends_the_worker_with_a_word(tmp_path: Path) -> None:
    status, _, said = await run_worker("--engine", str(tmp_path))
    assert status == 2
    assert "is not a ComfyUI" in said
    assert "Traceback" not in said


@POSIX
async def test_the_engine_ends_with_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with endpoint("sandbox") as client:
        await client.answer(save())
        worker = worker_pid(caplog)
        assert len(engines_of(worker)) == 1
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 60.0
        while engines_of(worker) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        assert engines_of(worker) == []
        assert (await client.answer(save())).outputs  # by the next worker
        worker = worker_pid(caplog)
    # The gateway has ended that one politely.
    deadline = time.monotonic() + 60.0
    while engines_of(worker) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert engines_of(worker) == []


async def test_the_key_of_runpods_own_command_line_is_not_sent_to_the_queue(
    tmp_path: Path,
) -> None:
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "the-users-own-key"\n')
    homes = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    async with endpoint("sandbox", **homes) as client:  # not ready with the other key
        assert (await client.answer(slow(steps=1))).outputs
