"""Jobs from input to answer, on an engine and a target that do as they are told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
from fake_target import output
from helpers import settled, until
from pydantic import JsonValue
from worker_fakes import PROMPT, EngineTarget, FakeEngine, connect_to, succeeded

from comfy_remote.errors import (
    ComfyRemoteError,
    EngineCrashed,
    ExecutionFailed,
    JobCancelled,
    OutOfMemory,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import Finished, JobState, Log, Preview, Progress, Queued, Started
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.wire.answer import Answer
from comfy_remote.wire.runpod import JobStatus, error_from_runpod
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

OURS = {"format": "comfy-remote/1", "workflow": PROMPT}
LIST = {"class_type": "NotThere", "inputs": {"text": ""}, "_meta": {"title": "repo_list"}}
SECRET = "rpa_planted_secret_1234"


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


def handler_for(
    target: EngineTarget, engine: FakeEngine | None = None, **settings: object
) -> JobHandler:
    return JobHandler(
        engine or FakeEngine(),
        WorkerSettings(**settings),  # type: ignore[arg-type]
        connect=connect_to(target),
        environ={"RUNPOD_API_KEY": SECRET},
    )


def failed(result: dict[str, JsonValue]) -> ComfyRemoteError:
    error = error_from_runpod(result["error"])
    # All but `error` is the job's output, of which RunPod's Python SDK gives nothing else.
    assert set(result) == {"status", "error_type", "error_message", "error"}
    assert result["error_message"] == str(error)
    return error


async def submitted(target: EngineTarget, times: int) -> None:
    """Return once the engine has got a prompt for the so-many-th time, and is followed."""
    await until(lambda: len(target.requests) >= times)
    await settled()


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs' folders are made here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def test_what_nodes_show_besides_their_outputs_comes_back() -> None:
    shown = {"2": {"images": None, "count": [3, None]}, "5": {"value": [1.5]}}
    big = {"9": {"value": ["x" * 2_000_000]}}
    end = Finished(JobState.SUCCEEDED, outputs=(output("a.bmp"),), shown={**big, **shown})
    target = EngineTarget([Started(), end], {"a.bmp": b"BM"})
    result = await handler_for(target)("1", OURS, silent)
    answer = Answer.model_validate(result)
    assert answer.shown == shown
    (warning,) = answer.warnings
    assert "Node 9 shows 2.0 MB" in warning
    (finished,) = [
        event
        for event in StatusReader(PROMPT).events(
            JobStatus.model_validate({"id": "1", "status": "COMPLETED", "output": result})
        )
        if isinstance(event, Finished)
    ]
    assert finished.shown == shown
    # A workflow that shows values, and makes no file, has a result.
    end = Finished(JobState.SUCCEEDED, shown=shown)
    result = await handler_for(EngineTarget([Started(), end], {}))("1", OURS, silent)
    assert Answer.model_validate(result).shown == shown


@pytest.mark.parametrize("form", ["comfy-remote/1", "worker-comfyui", "plain", "images-b64"])
async def test_a_list_of_models_that_nobody_looks_at_is_said_in_every_answer(form: str) -> None:
    """As behind ``serve --engine URL``, whose models folder is not known."""
    job = {
        "format": form,
        "workflow": {**PROMPT, "3": LIST},
        "repo_list": "lora https://x.example/a.safetensors",
    }
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"BM"})
    result = await handler_for(target)("1", job, silent)
    said = result.get("warnings") or result.get("errors")
    assert isinstance(said, list)
    assert "this worker knows no models folder" in str(said[0])
    assert [list(request.prompt) for request in target.requests] == [["1", "2"]]
    if form == "worker-comfyui":
        return  # its own clients read it otherwise
    events = list(
        StatusReader(PROMPT).events(
            JobStatus.model_validate({"id": "1", "status": "COMPLETED", "output": result})
        )
    )
    told = [event.message for event in events if isinstance(event, Log)]
    assert told == [f"The worker says: {said[0]}"]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.details["warnings"] == told  # for the page, after the end


async def test_models_are_listed_by_the_engine_where_no_folder_is_known() -> None:
    """As behind ``serve --engine URL``."""

    class Listing(EngineTarget):
        async def models(self) -> dict[str, list[str]]:
            return {"checkpoints": ["sd/a.safetensors"], "loras": []}

    assert await handler_for(Listing())("1", {"action": "models"}, silent) == {
        "status": "success",
        "models": {
            "checkpoints": [
                {
                    "name": "sd/a.safetensors",
                    "size": None,
                    "modified": None,
                    "changed": None,
                    "sha256": None,
                    "fetched_from": None,
                    "pinned": False,
                }
            ]
        },
    }


async def test_outputs_come_back_byte_for_byte_in_order(temp: Path) -> None:
    files = {f"{n}.bmp": bytes([n]) * 3500 for n in range(6)}
    target = EngineTarget(succeeded(*map(output, files)), files)
    handler = handler_for(target, worker="w1")
    answer = Answer.model_validate(await handler("j", OURS, silent))
    assert {o.filename: base64.b64decode(o.data or "") for o in answer.outputs} == files
    assert [o.filename for o in answer.outputs] == list(files)
    assert [o.sha256 for o in answer.outputs] == [
        hashlib.sha256(f).hexdigest() for f in files.values()
    ]
    assert (answer.engine, answer.worker) == ("ComfyUI 1.2.3", "w1")
    assert set(answer.timings) == {"upload", "queue", "run", "collect"}
    await handler.ready()
    (worker_folder,) = temp.iterdir()
    assert all(path.name.startswith(".lock") for path in worker_folder.iterdir())
    await handler.close()
    assert list(temp.iterdir()) == []


async def test_an_answer_does_not_wait_for_cleaning_up_and_the_next_job_does() -> None:
    class Slow(EngineTarget):
        async def forget(self, prompt_id: str) -> None:
            await forgets.wait()
            await super().forget(prompt_id)

    forgets = asyncio.Event()
    target, engine = Slow(succeeded(output("a.bmp")), {"a.bmp": b"x"}), FakeEngine()
    engine.pid = 1
    handler = handler_for(target, engine)
    assert "error" not in await asyncio.wait_for(handler("1", OURS, silent), 60)
    following = asyncio.create_task(handler("2", OURS, silent))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(handler.ready(), 0.05)
    first = [run.job_id for run in target.requests]
    assert len(first) == 1
    forgets.set()
    assert "error" not in await asyncio.wait_for(following, 60)
    assert target.forgotten[:1] == first
    await handler.close()
    assert target.forgotten == [run.job_id for run in target.requests]


class Writes(EngineTarget):
    """An engine of ours, whose runs write files that no node has listed yet."""

    def __init__(self, base: Path) -> None:
        super().__init__([Started(), 30.0])
        self.base = base
        self.stats = {"system": {"argv": [str(base / "main.py")]}}
        for folder in ("input", "output", "temp"):
            (base / folder).mkdir(parents=True)
        (base / "output" / "older.png").write_bytes(b"somebody put it there")
        os.utime(base / "output" / "older.png", (1e9, 1e9))

    def place_inputs_in(self, folder: Path) -> None:
        assert folder == self.base / "input"

    async def submit(self, request: RunRequest) -> RemoteRef:
        (self.base / "output" / "sub").mkdir(exist_ok=True)
        (self.base / "output" / "sub" / "a.png").write_bytes(b"a secret")
        return await super().submit(request)

    async def holds(self, prompt_id: str) -> bool:
        # The node that ran when it was stopped still writes its file.
        (self.base / "output" / "late.png").write_bytes(b"a secret")
        (self.base / "temp" / "late.png").write_bytes(b"a secret")
        return False

    @property
    def left(self) -> set[str]:
        files = [path for path in self.base.rglob("*") if path.is_file()]
        return {path.relative_to(self.base).as_posix() for path in files}


@pytest.mark.parametrize("stops", [1, 2, 3])
async def test_the_next_job_finds_no_file_of_one_that_was_stopped(
    tmp_path: Path, stops: int
) -> None:
    """However often it was stopped, and whatever the engine wrote until it ended."""
    target, engine = Writes(tmp_path / "ComfyUI"), FakeEngine()
    engine.pid = 1
    handler = handler_for(target, engine)
    running = asyncio.create_task(handler("1", OURS, silent))
    await submitted(target, 1)
    for _ in range(stops):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    await handler.ready()
    assert target.left == {"output/older.png"}
    await handler.close()


async def test_an_engine_that_answers_nonsense_after_a_stop_fails_no_later_job() -> None:
    """The next job waits for what was stopped; a fault there is not the next one's."""

    class Odd(EngineTarget):
        async def holds(self, prompt_id: str) -> bool:
            raise RecursionError("a queue of a thousand lists in lists")

    target = Odd([Started(), 30.0])
    handler = handler_for(target)
    running = asyncio.create_task(handler("1", OURS, silent))
    await submitted(target, 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await handler.ready()
    target.events = succeeded(output("a.bmp"))
    target.files = {"a.bmp": b"x"}
    assert "error" not in await handler("2", OURS, silent)
    await handler.close()


async def test_overrides_and_files_reach_the_engine_and_the_input_is_not_changed() -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"x"})
    payload = {
        **OURS,
        "overrides": {"1": {"width": 640}},
        "images": [{"name": "in/a.bmp", "image": base64.b64encode(b"picture").decode()}],
        "ui_workflow": {"nodes": []},
    }
    await handler_for(target)("j", payload, silent)
    [run] = target.requests
    assert run.prompt["1"]["inputs"]["width"] == 640
    assert run.workflow == {"nodes": []}
    assert target.received == {"in/a.bmp": b"picture"}
    assert PROMPT["1"]["inputs"]["width"] == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"overrides": {"7": {"width": 1}}}, "7"),
        ({"overrides": {"1": {"depth": 1}}}, "depth"),
        ({"workflow": {}}, "empty"),
        ({"workflow": {"1": {"inputs": {}}}}, "class_type"),
        ({"workflow": "text"}, "workflow"),
        ({"images": [{"name": "../x", "image": "eA=="}]}, "../x"),
        ({"images": [{"name": "x", "image": "%%%"}]}, "decoded"),
        ({"action": ["run"]}, "action: it is not a string"),
        ({"action": {}}, "action: it is not a string"),
        ({"timeout": 10**400}, "timeout"),
    ],
)
async def test_bad_input_is_refused_before_anything_runs(
    change: dict[str, JsonValue], says: str
) -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"x"})
    error = failed(await handler_for(target)("j", {**OURS, **change}, silent))
    assert isinstance(error, WorkflowInvalid)
    assert says in str(error)
    assert target.requests == []


@pytest.mark.parametrize("payload", [None, 3, [], "", "no json", {}, {"workflow": None}])
async def test_an_input_that_is_none_gets_a_plain_message(payload: JsonValue) -> None:
    result = await handler_for(EngineTarget())("j", payload, silent)
    assert "not valid" in str(result["error"])
    assert "details" not in result
    # Also for those who know the worker by another dialect.
    assert (result["status"], result["error_type"]) == ("error", "validation")
    assert isinstance(result["execution_time_seconds"], float)


async def test_worker_comfyui_clients_may_send_json_text_and_nulls() -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"abc"})
    payload = json.dumps({"workflow": PROMPT, "images": None})
    result = await handler_for(target)("j", payload, silent)
    assert result == {"images": [{"filename": "a.bmp", "type": "base64", "data": "YWJj"}]}


async def test_worker_comfyui_clients_get_node_errors_as_lines() -> None:
    refused = WorkflowInvalid(
        "ComfyUI refused the prompt.",
        details={
            "node_errors": {
                "3": {
                    "class_type": "X",
                    "errors": [{"type": "t", "message": "Value not in list", "details": "m: 'a'"}],
                }
            }
        },
    )
    result = await handler_for(EngineTarget([refused]))("j", {"workflow": PROMPT}, silent)
    assert result["error"] == "ComfyUI refused the prompt."
    assert result["details"] == ["Node 3: Value not in list: m: 'a'"]
    read = error_from_runpod(result.pop("error"), result)
    assert isinstance(read, WorkflowInvalid)
    assert "Node 3: Value not in list" in read.message


async def test_progress_is_reported_and_has_landed_when_the_job_ends() -> None:
    got: list[dict[str, JsonValue]] = []

    async def report(snapshot: dict[str, JsonValue]) -> None:
        await asyncio.sleep(0.02)
        got.append(snapshot)

    picture = b"\xff\xd8jpeg"
    script = [
        Started(),
        Progress(1, 2, "1", "EmptyImage"),
        Preview("1", "image/jpeg", picture),
        0.05,
        Progress(2, 2, "2", "SaveImage", 3, 4),
        Finished(JobState.SUCCEEDED, outputs=(output("a.bmp"),)),
    ]
    target = EngineTarget(script, {"a.bmp": b"x"})
    await handler_for(target)("j", {**OURS, "previews": True}, report)
    assert got[0]["sequence"] == 1
    assert got[-1]["nodes_done"] == 2
    assert (got[-1]["step"], got[-1]["steps"]) == (3, 4)
    previews = [s["preview"] for s in got if "preview" in s]
    assert previews == [
        {
            "node_id": "1",
            "media_type": "image/jpeg",
            "data": base64.b64encode(picture).decode(),
        }
    ]


async def test_a_job_behind_others_on_its_engine_says_so_and_no_client_guesses() -> None:
    reports: list[dict[str, JsonValue]] = []

    async def report(snapshot: dict[str, JsonValue]) -> None:
        reports.append(snapshot)

    script = [Queued(2), 0.05, *succeeded(output("a.bmp"))]
    await handler_for(EngineTarget(script, {"a.bmp": b"x"}))("j", OURS, report)
    assert "It waits for 2 other prompts" in str(reports[0]["message"])
    assert (reports[0]["nodes_done"], reports[0]["nodes_total"]) == (0, 0)


async def test_a_report_that_fails_does_not_fail_the_job() -> None:
    async def report(snapshot: dict[str, JsonValue]) -> None:
        raise ConnectionError

    script = [Progress(1, 2), 0.02, *succeeded(output("a.bmp"))]
    result = await handler_for(EngineTarget(script, {"a.bmp": b"x"}))("j", OURS, report)
    assert result["status"] == "success"


async def test_a_stopped_job_is_cancelled_on_the_engine(temp: Path) -> None:
    target = EngineTarget([Started(), 60.0])
    handler = handler_for(target)
    task = asyncio.create_task(handler("j", OURS, silent))
    await submitted(target, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert target.cancelled == [f"remote-{target.requests[0].job_id}"]
    await handler.close()
    assert list(temp.iterdir()) == []


async def test_a_job_stopped_while_it_is_submitted_is_cancelled_too() -> None:
    target = EngineTarget([60.0], submit_delay=0.1)
    task = asyncio.create_task(handler_for(target)("j", OURS, silent))
    while not target.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(target.cancelled) == 1


async def test_the_deadline_cancels_and_says_so() -> None:
    target = EngineTarget([Started(), 60.0])
    error = failed(await handler_for(target, job_timeout=0.1)("j", OURS, silent))
    assert error.code == "timed_out"
    assert "COMFY_REMOTE_JOB_TIMEOUT" in error.advice
    assert len(target.cancelled) == 1


async def test_a_crash_has_the_job_run_again_once_on_a_new_engine() -> None:
    engine = FakeEngine()
    target = EngineTarget([Started(), 60.0])
    handler = handler_for(target, engine)
    task = asyncio.create_task(handler("j", OURS, silent))
    await submitted(target, 1)
    target.events, target.files = succeeded(output("a.bmp")), {"a.bmp": b"x"}
    engine.crash(EngineCrashed("died"))
    answer = Answer.model_validate(await asyncio.wait_for(task, 60))
    assert [o.filename for o in answer.outputs] == ["a.bmp"]
    assert answer.warnings == ["died The job is run again, once."]
    assert (engine.starts, len(target.requests)) == (1, 2)
    assert target.cancelled == []  # there was nobody to ask


async def test_a_second_crash_fails_the_job_and_the_next_job_runs() -> None:
    engine = FakeEngine()
    target = EngineTarget([Started(), 60.0])
    handler = handler_for(target, engine)
    task = asyncio.create_task(handler("j", OURS, silent))
    for run in (1, 2):
        await submitted(target, run)
        engine.crash(EngineCrashed("died", details={"engine_log": "Segmentation fault"}))
    error = failed(await asyncio.wait_for(task, 60))
    assert isinstance(error, EngineCrashed)
    assert error.details["engine_log"] == "Segmentation fault"
    target.events, target.files = succeeded(output("a.bmp")), {"a.bmp": b"x"}
    assert (await handler("k", OURS, silent))["status"] == "success"
    assert len(target.requests) == 3


async def test_a_job_that_orders_from_a_service_is_not_run_again() -> None:
    engine = FakeEngine()
    target = EngineTarget([Started(), 60.0])
    payload = {**OURS, "comfy_org_api_key": "comfyui-planted-key"}
    task = asyncio.create_task(handler_for(target, engine)("j", payload, silent))
    await submitted(target, 1)
    engine.crash(EngineCrashed("died of comfyui-planted-key"))
    result = await asyncio.wait_for(task, 60)
    assert isinstance(failed(result), EngineCrashed)
    assert "comfyui-planted-key" not in json.dumps(result)
    assert len(target.requests) == 1
    assert target.requests[0].extra_data == {"api_key_comfy_org": "comfyui-planted-key"}


async def test_a_connection_lost_to_a_crash_is_told_as_the_crash() -> None:
    engine = FakeEngine()
    target = EngineTarget([Started(), TargetUnreachable("refused")])
    task = asyncio.create_task(handler_for(target, engine)("j", OURS, silent))
    for run in (1, 2):
        await submitted(target, run)
        engine.crash(EngineCrashed("died"))
    assert isinstance(failed(await task), EngineCrashed)


async def test_out_of_memory_frees_the_engines() -> None:
    oom = OutOfMemory("CUDA out of memory", advice="Use a smaller size.")
    target = EngineTarget([Started(), Finished(JobState.FAILED, oom)])
    error = failed(await handler_for(target)("j", OURS, silent))
    assert isinstance(error, OutOfMemory)
    assert error.advice == "Use a smaller size."
    assert (target.freed, len(target.requests)) == (2, 2)


async def test_what_fits_once_memory_is_free_succeeds() -> None:
    oom = Finished(JobState.FAILED, OutOfMemory("CUDA out of memory."))
    target = EngineTarget([Started(), oom], {"a.bmp": b"x"})

    async def freed() -> None:
        target.events = succeeded(output("a.bmp"))

    target.free_memory = freed  # type: ignore[method-assign]
    answer = Answer.model_validate(await handler_for(target)("j", OURS, silent))
    assert len(answer.outputs) == 1
    assert answer.warnings == ["CUDA out of memory. The job is run again, once."]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "No CUDA GPUs are available",
    ],
)
async def test_a_lost_gpu_asks_for_a_fresh_worker(said: str) -> None:
    engine = FakeEngine()
    broken = Finished(JobState.FAILED, ExecutionFailed(f"KSampler (node 3) failed: {said}"))
    for payload in (OURS, {"workflow": PROMPT}):
        target = EngineTarget([Started(), broken])
        result = await handler_for(target, engine)("j", payload, silent)
        assert result["refresh_worker"] is True
        assert said in json.dumps(result["error"])
        assert len(target.requests) == 1
    assert engine.stops == 2
    ordinary = Finished(JobState.FAILED, ExecutionFailed("KSampler failed: wrong shape"))
    result = await handler_for(EngineTarget([Started(), ordinary]), engine)("j", OURS, silent)
    assert "refresh_worker" not in result


async def test_refresh_worker_is_asked_for_after_every_job() -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"x"})
    handler = handler_for(target, refresh=True)
    assert (await handler("j", OURS, silent))["refresh_worker"] is True
    assert (await handler("j", {}, silent))["refresh_worker"] is True


async def test_the_engines_last_lines_are_in_a_failure() -> None:
    engine = FakeEngine()
    engine.log = ["of the job before"]
    target = EngineTarget(
        [Started(), Finished(JobState.FAILED, ExecutionFailed("KSampler failed: boom"))]
    )
    target.on_submit = lambda _: engine.log.extend(["loading the model", "a shape does not fit"])
    result = await handler_for(target, engine)("j", {"workflow": PROMPT}, silent)
    assert result["details"] == ["loading the model", "a shape does not fit"]


async def test_a_job_may_set_a_deadline_of_its_own() -> None:
    target = EngineTarget([Started(), 60.0])
    handler = handler_for(target, job_timeout=30.0)
    result = await handler("j", {"workflow": PROMPT, "timeout": 0.1, "format": "plain"}, silent)
    assert result["error_type"] == "timeout"
    assert "0.1 s" in str(result["error"])


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Finished(JobState.FAILED, ExecutionFailed("boom")), "execution_failed"),
        (Finished(JobState.CANCELLED, JobCancelled("interrupted")), "cancelled"),
        (Finished(JobState.FAILED), "execution_failed"),
        (Finished(JobState.SUCCEEDED), "output_lost"),
        (Finished(JobState.SUCCEEDED, outputs=(output("gone.png"),)), "output_lost"),
    ],
)
async def test_each_bad_end_is_an_error_with_its_code(end: Finished, code: str) -> None:
    assert failed(await handler_for(EngineTarget([Started(), end]))("j", OURS, silent)).code == code


async def test_events_that_just_end_are_an_error() -> None:
    assert failed(await handler_for(EngineTarget([Started()]))("j", OURS, silent)).code == "target"


async def test_a_result_above_the_limit_is_kept_for_those_who_can_ask_for_it(
    temp: Path,
) -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": bytes(5000)})
    handler = handler_for(target, result_limit=4000, folder=temp)
    answer = Answer.model_validate(await handler("j", OURS, silent))
    name = answer.outputs[0].kept
    assert (answer.outputs[0].data, answer.outputs[0].size) == (None, 5000)
    got = b""
    while len(got) < 5000:
        part = await handler(
            "k", {"action": "fetch", "kept": name, "offset": len(got), "length": 2000}, silent
        )
        assert part["size"] == 5000
        got += base64.b64decode(str(part["data"]))
    assert got == bytes(5000)
    for wrong in ("0" * 32, "../outputs/" + str(name), ""):
        lost = await handler("k", {"action": "fetch", "kept": wrong}, silent)
        assert "error" in lost
    result = await handler("j", {"workflow": PROMPT}, silent)
    assert "a.bmp" in str(result["error"])
    assert "BUCKET_ENDPOINT_URL" in str(result["error"])


async def test_no_secret_leaves_in_an_error() -> None:
    leaky = ExecutionFailed(f"401 for {SECRET}", details={"traceback": f"key={SECRET}"})
    for payload in (OURS, {"workflow": PROMPT}):
        target = EngineTarget([Started(), Finished(JobState.FAILED, leaky)])
        result = await handler_for(target)("j", payload, silent)
        assert SECRET not in json.dumps(result)
        assert "[RUNPOD_API_KEY]" in json.dumps(result)


@pytest.mark.parametrize(
    "config",
    [
        {"s3Config": {"accessId": "a", "accessSecret": "sent-along", "endpointUrl": "https://x/b"}},
        {
            "s3_config": {
                "access_id": "a",
                "access_secret": "sent-along",
                "endpoint_url": "https://x/b",
            }
        },
    ],
)
async def test_a_secret_of_the_request_does_not_leave_either(
    config: dict[str, JsonValue],
) -> None:
    leaky = ExecutionFailed("403 for sent-along")
    target = EngineTarget([Started(), Finished(JobState.FAILED, leaky)])
    result = await handler_for(target)("j", {**OURS, **config}, silent)
    assert "sent-along" not in json.dumps(result)
    assert "[REQUEST_S3_SECRET]" in json.dumps(result)


async def test_a_fault_of_ours_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    target = EngineTarget()

    async def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(target, "submit", broken)
    error = failed(await handler_for(target)("j", OURS, silent))
    assert error.code == "execution_failed"
    assert "KeyError" in error.message


async def test_one_job_at_a_time() -> None:
    target = EngineTarget([Started(), 0.05, *succeeded(output("a.bmp"))], {"a.bmp": b"x"})
    handler = handler_for(target)
    first = asyncio.create_task(handler("a", OURS, silent))
    second = asyncio.create_task(handler("b", OURS, silent))
    await until(lambda: target.requests)
    await asyncio.sleep(0.02)
    assert len(target.requests) == 1
    assert {(await t)["status"] for t in (first, second)} == {"success"}
    assert len(target.requests) == 2
