"""A generated Modal project, run for real: its class, its web server, our own client.

Engines: the sandbox always, a real ComfyUI where there is one.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from engine_client import EngineClient
from helpers import COMFYUI_PYTHON, free_port, real_comfyui
from modal_double import CALL, FakeDict, FakeModal, FakeVolume
from owner import configure
from pack import comfyui_with_pack, install_pack
from pydantic import JsonValue

from comfy_remote.calls.rest import RestClient
from comfy_remote.deploy.modal import calls as calls_module
from comfy_remote.deploy.modal.workflow_file import make_project
from comfy_remote.errors import JobCancelled, OutputLost, WorkflowInvalid
from comfy_remote.events import Log, Preview, Progress
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.media.values import encode, read_value
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.modal import modal_target
from comfy_remote.targets.runpod.target import RunPodTarget

modal = pytest.importorskip("modal")
# Modal's word of warning for those who call `.local()` by mistake.
pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally")

PICTURE: Any = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 32, "batch_size": 2, "color": 0xFF0000},
    },
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "there"}},
}


SERVED: Any = {
    "1": {"class_type": "ComfyRemoteInput", "inputs": {"key": "picture"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "ComfyRemoteOutput", "inputs": {"value": ["2", 0], "key": "inverted"}},
}
"""What is deployed; jobs may run any other workflow, too."""


class App:
    """A deployed app: its project, its front on loopback, its container in this process."""

    def __init__(
        self, project: ModuleType, port: int, calls: FakeModal, volume: FakeVolume
    ) -> None:
        self.project = project
        self.url = f"http://127.0.0.1:{port}"
        self.calls = calls
        self.volume = volume

    def target(self) -> RunPodTarget:
        return modal_target("portraits", {}, url=self.url)


def _engines() -> list[Any]:
    return ["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)]


def _imported(folder: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("workflow", folder / "workflow.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["workflow"] = module
    specification.loader.exec_module(module)
    return module


@pytest_asyncio.fixture
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    # Most tests share an engine that runs already; each of the others has the worker start one.
    engine = getattr(request, "param", None) or request.getfixturevalue("sandbox_url")
    if engine.startswith("comfyui"):
        folder = real_comfyui()
        packed, engine = engine == "comfyui with the pack", str(folder)
        base = tmp_path / "comfyui"
        base.mkdir()
        if packed:
            install_pack(base, "comfy-remote")
        monkeypatch.setenv(
            "COMFYUI_ARGS",
            f"--cpu --base-directory {base}{'' if packed else ' --disable-all-custom-nodes'}",
        )
        monkeypatch.setenv("COMFYUI_PYTHON", COMFYUI_PYTHON)
    monkeypatch.setenv("COMFY_REMOTE_ENGINE", engine)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COMFY_REMOTE_WORKER_DIR", str(tmp_path / "worker"))
    workflow = tmp_path / "picture.json"
    workflow.write_text(json.dumps(SERVED))
    project = _imported(make_project(workflow, {"app_name": "portraits"}).folder)
    volume = FakeVolume(tmp_path / "outputs")
    port = free_port()
    calls = FakeModal(project.Workflow)
    for name, value in (
        ("notes", FakeDict()),
        ("outputs", volume),
        ("model_volume", FakeVolume(tmp_path / "models")),
        ("OUTPUTS", str(volume.mount)),
        ("PORT", port),
    ):
        monkeypatch.setattr(project, name, value)
    monkeypatch.setattr(project, "Workflow", calls)
    monkeypatch.setattr(modal, "current_function_call_id", CALL.get)
    monkeypatch.setattr(calls_module.modal, "FunctionCall", calls)
    project.front.local()
    try:
        yield App(project, port, calls, volume)
    finally:
        await calls.ended()
        calls._instance.worker.stop()
        del sys.modules["workflow"]


async def _raw(app: App, path: str, body: Any = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            "GET" if body is None else "POST",
            f"{app.url}/v2/portraits/{path}",
            json=body,
            # What Modal's proxy passes on.
            headers={"Host": "ann--portraits-front.modal.run"},
        ) as answer,
    ):
        return answer.status, await answer.json()


async def _ended(app: App, call_id: str) -> Any:
    while True:
        status = (await _raw(app, f"status/{call_id}"))[1]
        if status["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return status
        await asyncio.sleep(0.05)


async def _runs(app: App, call_id: str, attempt: int) -> bool:
    status = (await _raw(app, f"status/{call_id}"))[1]
    return status.get("attempt", 1) == attempt and bool(status.get("output", {}).get("step"))


def slow(seconds: float) -> Any:
    """A prompt that takes a while, in steps, on the sandbox."""
    return {
        **PICTURE,
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": 20,
                "seconds_per_step": seconds / 20,
                "preview": True,
            },
        },
    }


@pytest.mark.parametrize("app", _engines(), indirect=True)
async def test_a_client_runs_a_workflow_by_the_targets_name(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(
        tmp_path / "home",
        f'[targets.cloud]\ntarget = "modal:portraits"\nbase_url = "{app.url}"\n',
    )
    monkeypatch.chdir(tmp_path)
    with Record(tmp_path / "home") as record:
        async with Client("cloud", record=record) as client:
            job = await client.submit(PICTURE)
            progress = [event async for event in job if isinstance(event, Progress)]
            outputs = await job.outputs()
            saved = [output.save(tmp_path / "got") for output in outputs]
    assert [output.node_id for output in outputs] == ["3", "3"]
    assert progress[-1].nodes_done == progress[-1].nodes_total == 3
    from PIL import Image

    for path in saved:
        with Image.open(path) as picture:
            assert picture.size == (64, 32)
            assert picture.convert("RGB").getpixel((0, 0)) == (0, 255, 255)
    assert app.calls.spawned == 1


async def test_progress_and_previews_are_the_real_ones(app: App, tmp_path: Path) -> None:
    with Record(tmp_path / "home") as record:
        async with Client(app.target(), record=record) as client:
            job = await client.submit(slow(2.0))
            events = [event async for event in job]
    steps = [e.step for e in events if isinstance(e, Progress) and e.step]
    assert len(set(steps)) >= 3, "seen while it ran"
    assert steps == sorted(steps)
    assert not any(e.estimated for e in events if isinstance(e, Progress))
    assert any(isinstance(e, Preview) for e in events)


async def test_cancel_reaches_the_engine(app: App, tmp_path: Path) -> None:
    with Record(tmp_path / "home") as record:
        async with Client(app.target(), record=record) as client:
            job = await client.submit(slow(60.0))
            async for event in job:
                if isinstance(event, Progress) and event.step:
                    await job.cancel()
                    break
            finished = await asyncio.wait_for(job.wait(), 60)
            assert isinstance(finished.error, JobCancelled)
            # The container is free again: the next job runs at once.
            after = await client.submit(PICTURE)
            assert (await asyncio.wait_for(after.wait(), 60)).error is None
    ((_, call),) = [one for one in app.calls._calls.items() if one[1].cancelled()]
    assert call.cancelled()


async def test_a_job_that_waits_is_cancelled_before_it_runs(app: App) -> None:
    first = (await _raw(app, "run", {"input": {"workflow": slow(3.0)}}))[1]["id"]
    second = (await _raw(app, "run", {"input": {"workflow": PICTURE}}))[1]["id"]
    assert (await _raw(app, f"status/{second}"))[1] == {"id": second, "status": "IN_QUEUE"}
    health = (await _raw(app, "health"))[1]
    assert (health["jobs"]["inQueue"], health["jobs"]["inProgress"]) == (1, 1)
    assert await _raw(app, f"cancel/{second}", {}) == (200, {"id": second, "status": "CANCELLED"})
    assert (await _raw(app, f"cancel/{first}", {}))[1]["status"] == "CANCELLED"
    assert (await _raw(app, f"status/{first}"))[1]["status"] == "CANCELLED"
    # One that has ended stays what it is.
    done = (await _raw(app, "runsync", {"input": {"workflow": PICTURE}}))[1]
    assert done["status"] == "COMPLETED"
    assert (await _raw(app, f"cancel/{done['id']}", {}))[1]["status"] == "COMPLETED"


async def test_any_front_answers_for_any_job(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    status, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE}})
    assert (status, job["status"]) == (200, "COMPLETED")
    assert job["executionTime"] > 0 and job["delayTime"] >= 0
    monkeypatch.setattr(app.project, "PORT", free_port())
    app.project.front.local()
    app.url = f"http://127.0.0.1:{app.project.PORT}"
    assert (await _raw(app, f"status/{job['id']}"))[1]["output"] == job["output"]


async def test_outputs_that_do_not_fit_come_from_the_volume(app: App, tmp_path: Path) -> None:
    # Noise, which does not get smaller as a PNG: 2048 x 2048 x 3 bytes, as base64 over 10 MB.
    noise = tmp_path / "noise.png"
    from PIL import Image

    Image.frombytes("RGB", (2048, 2048), os.urandom(2048 * 2048 * 3)).save(noise)
    prompt: Any = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "big"}},
    }
    with Record(tmp_path / "home") as record:
        async with Client(app.target(), record=record) as client:
            # More than RunPod takes as a request: Modal does.
            job = await client.submit(prompt, inputs=[noise])
            (output,) = await job.outputs()
            with Image.open(output.save(tmp_path / "got")) as got, Image.open(noise) as sent:
                assert got.tobytes() == sent.tobytes()
    assert len(app.volume.committed) == 1
    async with app.target() as target:
        gone = RemoteOutput(
            node_id="2",
            kind="image",
            filename="big.png",
            media_type="image/png",
            source=OutputSource(path=f"files/fc-0001/{'0' * 64}"),
        )
        with pytest.raises(OutputLost):
            async for _ in target.read(gone):
                pass


async def test_a_key_that_comes_twice_is_one_job(app: App) -> None:
    async with app.target() as target:
        request = RunRequest("11111111-1111-4111-8111-111111111111", PICTURE)
        refs = [await target.submit(request), await target.submit(request)]
        assert refs[0] == refs[1]
        assert refs[0].details["kind"] == "modal"
        other = RunRequest("22222222-2222-4222-8222-222222222222", PICTURE)
        assert (await target.submit(other)).remote_id != refs[0].remote_id
    assert app.calls.spawned == 2


async def test_other_calls_of_the_workspace_are_none_of_its_jobs(app: App) -> None:
    app.calls._calls["fc-other"] = asyncio.create_task(asyncio.sleep(0, '"somebody else\'s"'))
    for action in ("status", "cancel", "stream", "retry"):
        status, answer = await _raw(app, f"{action}/fc-other", {})
        assert status in (400, 404), action
        assert "somebody" not in json.dumps(answer)
    assert not app.calls._calls["fc-other"].cancelled()


async def test_what_the_worker_refuses_is_told(app: App, tmp_path: Path) -> None:
    with Record(tmp_path / "home") as record:
        async with Client(app.target(), record=record) as client:
            wrong: Any = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
            job = await client.submit(wrong)
            finished = await job.wait()
    assert isinstance(finished.error, WorkflowInvalid)
    assert "NoSuchNode" in json.dumps(finished.error.to_json())


async def test_it_tells_what_it_has(app: App) -> None:
    async with app.target() as target:
        found = await target.describe()
        health = await target.health()
    assert found.nodes is not None and "EmptyImage" in found.nodes
    assert (health.queued, health.running, health.ready) == (0, 0, 1)


async def test_the_public_workers_clients_are_understood(app: App) -> None:
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE, "images": []}})
    assert [image["type"] for image in job["output"]["images"]] == ["base64", "base64"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("run", {"input": {}, "webhook": "https://example.com/done"}, 400, "webhook"),
        ("run", {"no": "input"}, 400, "not valid"),
        ("purge-queue", {}, 400, "one by one"),
        ("retry/fc-1", {}, 400, "Submit it again"),
        ("status/fc-unknown", None, 404, "seven days"),
        ("files/..%2f..%2fetc/x", None, 404, "no file"),
    ],
)
async def test_what_it_cannot_do_it_says(
    app: App, path: str, body: JsonValue, status: int, words: str
) -> None:
    found, answer = await _raw(app, path, body)
    assert found == status
    assert words in json.dumps(answer)


async def test_modal_out_of_reach_is_not_a_failed_job(app: App) -> None:
    job = (await _raw(app, "run", {"input": {"workflow": slow(1.0)}}))[1]["id"]
    app.calls.up = False
    status, answer = await _raw(app, f"status/{job}")
    assert status == 502 and "status.modal.com" in answer["error"]
    app.calls.up = True
    assert (await _raw(app, f"status/{job}"))[0] == 200


async def test_another_endpoint_is_none(app: App) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{app.url}/v2/other/health") as answer:
            assert answer.status == 404
        headers = {"Origin": "https://evil.example"}
        async with session.get(f"{app.url}/v2/portraits/health", headers=headers) as answer:
            assert answer.status == 403


async def test_models_are_the_workers_own_business(app: App) -> None:
    """A job about models: the volume is looked at before, and committed afterwards."""
    volume = app.project.model_volume
    _, job = await _raw(app, "runsync", {"input": {"action": "models"}})
    assert job["status"] in ("COMPLETED", "FAILED")
    note = await app.project.notes.get.aio(f"{job['id']}/run")
    assert json.loads(note)["finished"] > json.loads(note)["started"]
    assert (volume.reloads, volume.commits) == (1, 1)


async def test_models_that_others_have_fetched_are_seen_by_any_job(app: App) -> None:
    volume = app.project.model_volume
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE}})
    assert job["status"] == "COMPLETED"
    assert (volume.reloads, volume.commits) == (1, 0)
    model = {
        "url": "https://models.example/a.safetensors",
        "name": "a.safetensors",
        "directory": "checkpoints",
    }
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE, "models": [model]}})
    assert job["status"] == "COMPLETED"  # the workflow runs without it
    assert (volume.reloads, volume.commits) == (2, 1)


async def test_notes_that_cannot_be_written_cost_no_job(app: App) -> None:
    """A paid result is not lost for want of a line about it; nor for a commit."""
    write = app.project.notes.put.aio

    async def put(key: str, value: str, **options: Any) -> bool:
        if key.endswith("/run") and not options:  # the first one says that the job has begun
            raise modal.exception.ConnectionError("the Dict is not there")
        return await write(key, value, **options)

    async def commit() -> None:
        raise modal.exception.ServiceError("not now")

    app.project.notes.put.aio = put
    app.project.model_volume.commit.aio = commit
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE, "models": []}})
    assert job["status"] == "COMPLETED" and job["output"]["images"]
    _, job = await _raw(app, "runsync", {"input": {"action": "describe"}})
    assert job["status"] == "COMPLETED"
    _, job = await _raw(app, "runsync", {"input": {"action": "models"}})
    assert job["status"] in ("COMPLETED", "FAILED")


async def test_a_job_whose_container_ends_is_started_once_more_and_its_user_is_told(
    app: App, tmp_path: Path
) -> None:
    """Modal starts a call again and again; the job stands there as one job."""
    with Record(tmp_path / "home") as record:
        async with Client(app.target(), record=record) as client:
            job = await client.submit(slow(2.0))
            events = []
            async for event in job:
                events.append(event)
                if isinstance(event, Progress) and event.step and not app.calls.lost:
                    app.calls.container_ends()
            outputs = await job.outputs()
    assert len(outputs) == 2
    assert [e.message for e in events if isinstance(e, Log) and "attempt 2" in e.message]
    assert app.calls.started == 2
    status = (await _raw(app, "status/fc-0001"))[1]
    assert (status["status"], status["attempt"]) == ("COMPLETED", 2)


@pytest.mark.parametrize(
    ("policy", "starts", "said"),
    [
        ({}, 2, "The job has been started again once already."),
        ({"retryLost": False}, 1, "The job is not started again: its request or its nodes do not"),
    ],
)
async def test_no_job_is_started_and_paid_for_again_and_again(
    app: App, policy: Any, starts: int, said: str
) -> None:
    body = {"input": {"workflow": slow(60.0)}, "policy": policy}
    call_id = (await _raw(app, "run", body))[1]["id"]
    for number in range(1, starts + 1):
        while not await _runs(app, call_id, number):
            await asyncio.sleep(0.05)
        app.calls.container_ends()
        while app.calls.started == number:
            await asyncio.sleep(0.01)
    status = await _ended(app, call_id)
    assert status["status"] == "FAILED" and said in json.dumps(status["error"])
    assert "The container that ran the job has ended." in json.dumps(status["error"])
    # Modal's own start was a question only: the engine got nothing.
    assert app.calls.started == starts + 1


async def test_a_job_of_which_it_is_not_known_whether_it_began_does_not_begin(app: App) -> None:
    write, tries = app.project.notes.put.aio, 0

    async def put(key: str, value: str, **options: Any) -> bool:
        nonlocal tries
        if key.endswith("/run"):
            tries += 1
            if tries < 6:
                raise modal.exception.ConnectionError("the Dict is not there")
        return await write(key, value, **options)

    app.project.notes.put.aio = put
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE}})
    assert job["status"] == "FAILED" and tries == 5
    assert "so it was not started" in json.dumps(job["error"])
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE}})
    assert job["status"] == "COMPLETED"


async def test_a_note_whose_answer_was_lost_is_not_another_start(app: App) -> None:
    write, lost = app.project.notes.put.aio, 0

    async def put(key: str, value: str, **options: Any) -> bool:
        nonlocal lost
        done = await write(key, value, **options)
        if key.endswith("/run") and not lost:
            lost += 1
            raise modal.exception.ConnectionError("the answer was lost")
        return done

    app.project.notes.put.aio = put
    _, job = await _raw(app, "runsync", {"input": {"workflow": PICTURE}})
    assert job["status"] == "COMPLETED" and "attempt" not in job and lost == 1


@pytest.mark.parametrize(
    "app",
    ["sandbox", pytest.param("comfyui with the pack", marks=pytest.mark.comfyui)],
    indirect=True,
)
async def test_the_workflow_is_an_api_of_its_own(app: App, tmp_path: Path) -> None:
    """At the same address: described, called, followed, and bit for bit."""
    import numpy as np

    status, document = await _root(app, "openapi.json")
    assert status == 200 and document["info"]["title"] == "portraits"
    picture = np.random.default_rng(7).random((2, 512, 512, 3), dtype=np.float32)  # 6 MB
    async with RestClient(f"{app.url}/", poll_interval=0.2) as client:
        answer = await client.start({"picture": encode(picture, "IMAGE")})
        seen = [answer, *[one async for one in client.follow(answer)]]
        result = seen[-1].results["inverted"]
        assert seen[-1].status.final and isinstance(result, dict)
        path = tmp_path / "inverted.safetensors"
        with path.open("wb") as file:
            async for chunk in client.download(result["url"], largest=2**26):
                file.write(chunk)
    inverted = read_value(path, tensors="numpy")
    assert inverted.type == "IMAGE"
    (values,) = inverted.value if inverted.is_list else [inverted.value]
    assert np.array_equal(values, 1.0 - picture)
    # What did not fit the job's result came by way of the volume.
    assert app.calls.spawned == 1


async def test_a_call_that_is_cancelled_is_cancelled_there(app: App) -> None:
    blocker = (await _raw(app, "run", {"input": {"workflow": slow(30.0)}}))[1]["id"]
    status, call = await _root(app, "", {"inputs": {"picture": _dot()}})
    assert status == 202 and call["status"] in ("pending", "running")
    async with (
        aiohttp.ClientSession() as session,
        session.delete(f"{app.url}{call['poll_url']}") as answer,
    ):
        assert answer.status == 200
    for _ in range(50):
        status, said = await _root(app, call["poll_url"].lstrip("/"))
        if said["status"] == "failed":
            break
        await asyncio.sleep(0.1)
    assert said["error"]["code"] == "cancelled"
    await _raw(app, f"cancel/{blocker}", {})


async def test_a_page_of_another_site_calls_nothing(app: App) -> None:
    async with aiohttp.ClientSession() as session:
        headers = {"Origin": "https://evil.example"}
        async with session.post(f"{app.url}/", json={"inputs": {}}, headers=headers) as answer:
            assert answer.status == 403
    assert app.calls.spawned == 0


def _dot() -> Any:
    import numpy as np

    whole = b"".join(bytes(c) for c in encode(np.zeros((1, 1, 1, 3), np.float32), "IMAGE").chunks())
    data = base64.b64encode(whole).decode()
    return {"type": "IMAGE", "encoding": "safetensors", "data": data}


async def _root(app: App, path: str, body: Any = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            "GET" if body is None else "POST", f"{app.url}/{path}", json=body
        ) as answer,
    ):
        return answer.status, await answer.json()


async def test_the_command_calls_it_by_its_name(app: App, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 4), (255, 0, 0)).save(tmp_path / "red.png")
    configure(
        tmp_path / "home",
        f'[targets.cloud]\ntarget = "modal:portraits"\nbase_url = "{app.url}"\n',
    )
    command = ("call", "cloud", "-i", "picture=@red.png", "-o", "got", "--json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_remote", *command),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 0, errors.decode()
    (saved,) = (tmp_path / "got").rglob("*.png")
    with Image.open(saved) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 255, 255)
    assert app.calls.spawned == 1


@pytest.mark.comfyui
async def test_the_remote_api_node_calls_it(app: App, tmp_path: Path) -> None:
    real_comfyui()
    base = tmp_path / "here"
    (base / "home").mkdir(parents=True)
    (base / "home" / "comfy-remote.toml").write_text(f'allowed_addresses = ["{app.url}"]\n')
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 4, "batch_size": 1, "color": 0xFF0000},
        },
        "2": {
            "class_type": "ComfyRemoteNode",
            "inputs": {"url": f"{app.url}/", "picture": ["1", 0]},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }

    def run() -> tuple[int, int, int]:
        from PIL import Image

        with comfyui_with_pack(base) as server:
            engine = EngineClient(server.url)
            entry = engine.run(graph)
            assert entry["status"]["completed"], entry["status"]["messages"]
            content = engine.file(entry["outputs"]["3"]["images"][0])
        with Image.open(io.BytesIO(content)) as picture:
            pixel = picture.convert("RGB").getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return pixel

    assert await asyncio.to_thread(run) == (0, 255, 255)
    assert app.calls.spawned == 1
