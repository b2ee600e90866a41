"""Modal's calls as RunPod's jobs: what each way to end comes to, without a container."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from typing import Any

import aiohttp
import pytest

from comfy_remote.errors import (
    ComfyRemoteError,
    EngineCrashed,
    JobNotFound,
    JobTimedOut,
    OutOfMemory,
    SubmissionUnknown,
    TargetUnreachable,
)
from comfy_remote.gateway.job import Submission
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.wire.runpod import error_from_runpod, error_to_runpod

modal = pytest.importorskip("modal")
calls_module = pytest.importorskip("comfy_remote.deploy.modal.calls")

from comfy_remote.deploy.modal.calls import CallResult, Load, ModalCalls  # noqa: E402
from comfy_remote.deploy.modal.config import ModalConfig  # noqa: E402
from comfy_remote.deploy.modal.endpoint import ModalEndpoint  # noqa: E402
from comfy_remote.deploy.modal.notes import CallNote, Notes, RunNote  # noqa: E402


class Method:
    """One of Modal's methods."""

    def __init__(self, function: Any) -> None:
        self.aio = function


class Entries:
    """A Dict that answers at once."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

        async def get(key: str, default: str | None = None) -> str | None:
            return self.entries.get(key, default)

        async def put(key: str, value: str, *, skip_if_exists: bool = False) -> bool:
            if skip_if_exists and key in self.entries:
                return False
            self.entries[key] = value
            return True

        self.get, self.put = Method(get), Method(put)


class Calls:
    """`ModalCalls`, told what to say."""

    def __init__(self) -> None:
        self.said = CallResult(ended=False)
        self.spawned: list[str] = []
        self.cancelled: list[str] = []

    async def spawn(self, payload: str) -> str:
        self.spawned.append(payload)
        return f"fc-{len(self.spawned)}"

    async def result(self, call_id: str) -> CallResult:
        return self.said

    async def cancel(self, call_id: str) -> None:
        self.cancelled.append(call_id)

    async def load(self) -> Load:
        return Load(waiting=3, running=2, containers=4)


@pytest.fixture
def entries() -> Entries:
    return Entries()


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def endpoint(calls: Calls, entries: Entries) -> ModalEndpoint:
    return ModalEndpoint(calls, Notes(entries), None)  # type: ignore[arg-type]


def submission(**body: Any) -> Submission:
    return Submission.parse(json.dumps({"input": {"a": 1}, **body}).encode(), GatewayLimits())


async def submitted(endpoint: ModalEndpoint, key: str | None = None, **body: Any) -> str:
    status = await endpoint.submit(submission(**body), sync=False, idempotency_key=key)
    assert status["status"] == "IN_QUEUE"
    return str(status["id"])


# --- the seam -----------------------------------------------------------------------------


def test_modals_sdk_has_what_is_used_of_it() -> None:
    """All that the stand-ins of our tests stand in for."""
    dictionary = modal.Dict.from_name("any")
    volume = modal.Volume.from_name("any")
    call = modal.FunctionCall.from_id("fc-0123")
    function = modal.Function.from_name("any", "front")
    billing = modal.Workspace.from_context().billing
    assert callable(billing.rates)
    assert {"start", "end", "resolution"} <= inspect.signature(billing.report).parameters.keys()
    item = {field.name for field in dataclasses.fields(modal.types.BillingReportItem)}
    assert {"description", "interval_start", "cost"} <= item
    for method in (
        *(dictionary.get, dictionary.put),
        *(volume.commit, volume.reload, volume.read_file),
        *(call.get, call.cancel),
        *(function.spawn, function.get_current_stats),
        *(modal.App("any").deploy, modal.App("any").stop),
        modal.experimental.stop_fetching_inputs,
    ):
        assert callable(method) and callable(method.aio)
    assert "skip_if_exists" in inspect.signature(dictionary.put.aio).parameters
    assert "timeout" in inspect.signature(call.get.aio).parameters
    assert {"backlog", "num_running_inputs", "num_total_runners"} <= set(
        inspect.signature(modal.types.FunctionCurrentStats).parameters
    )
    assert modal.current_function_call_id() is None


class Raises:
    """A `FunctionCall` whose result is this exception."""

    def __init__(self, error: BaseException) -> None:
        async def get(timeout: float) -> str:
            assert timeout == 0
            raise error

        self.get = Method(get)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), CallResult(ended=False)),
        (modal.exception.OutputExpiredError(), CallResult(known=False)),
        (modal.exception.NotFoundError("no such call"), CallResult(known=False)),
        (modal.exception.FunctionTimeoutError("3600 s"), JobTimedOut),
        (modal.exception.RemoteError("exit code 137"), EngineCrashed),
        (modal.exception.InternalFailure("preempted"), EngineCrashed),
        (modal.exception.ExecutionError("Could not deserialize remote exception"), EngineCrashed),
        (ValueError("out of the function"), EngineCrashed),
    ],
)
async def test_every_way_a_call_ends(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: CallResult | type[ComfyRemoteError]
) -> None:
    class FunctionCall:
        @staticmethod
        def from_id(call_id: str) -> Raises:
            return Raises(error)

    monkeypatch.setattr(calls_module.modal, "FunctionCall", FunctionCall)
    result = await ModalCalls(None).result("fc-1")
    if isinstance(expected, CallResult):
        assert result == expected
    else:
        assert result.ended and isinstance(result.error, expected)
        assert result.error.advice


@pytest.mark.parametrize(
    "error",
    [
        modal.exception.ConnectionError("gone"),
        modal.exception.AuthError("no"),
        # A large result is fetched by plain HTTP.
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut off"),
        ConnectionResetError("reset"),
    ],
)
async def test_modal_that_does_not_answer_says_nothing_of_the_job(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class FunctionCall:
        @staticmethod
        def from_id(call_id: str) -> Raises:
            return Raises(error)

    monkeypatch.setattr(calls_module.modal, "FunctionCall", FunctionCall)
    with pytest.raises(TargetUnreachable):
        await ModalCalls(None).result("fc-1")


# --- states -------------------------------------------------------------------------------


async def test_a_job_from_the_queue_to_its_result(
    endpoint: ModalEndpoint, calls: Calls, entries: Entries
) -> None:
    job = await submitted(endpoint)
    assert json.loads(calls.spawned[0]) == {"a": 1}
    assert await endpoint.status(job) == {"id": job, "status": "IN_QUEUE"}
    notes = Notes(entries)
    queued = CallNote.model_validate_json(entries.entries[job]).queued
    run = RunNote(worker="ta-1", started=queued + 2, progress={"sequence": 1})
    await notes.runs(job, run)
    assert await endpoint.status(job) == {
        "id": job,
        "status": "IN_PROGRESS",
        "delayTime": 2000,
        "workerId": "ta-1",
        "output": {"sequence": 1},
    }
    await notes.runs(job, run.model_copy(update={"finished": queued + 5, "progress": None}))
    calls.said = CallResult(text='{"format": "comfy-remote/1", "refresh_worker": true}')
    status = await endpoint.status(job)
    assert (status["status"], status["executionTime"]) == ("COMPLETED", 3000)
    assert status["output"] == {"format": "comfy-remote/1"}
    assert await endpoint.wait(job, 10) == status


async def test_an_error_of_the_worker_is_passed_on(endpoint: ModalEndpoint, calls: Calls) -> None:
    job = await submitted(endpoint)
    said = error_to_runpod(OutOfMemory("no room"))
    calls.said = CallResult(text=json.dumps({"error": said, "details": ["more"]}))
    status = await endpoint.status(job)
    assert (status["status"], status["output"]) == ("FAILED", {"details": ["more"]})
    assert isinstance(error_from_runpod(status["error"]), OutOfMemory)


@pytest.mark.parametrize(
    ("said", "state", "kind"),
    [
        (CallResult(error=EngineCrashed("it ended")), "FAILED", "engine_crashed"),
        (CallResult(error=JobTimedOut("too long")), "TIMED_OUT", "timed_out"),
        (CallResult(text="not JSON"), "FAILED", "execution_failed"),
        (CallResult(text="[1]"), "FAILED", "execution_failed"),
    ],
)
async def test_other_ends(
    endpoint: ModalEndpoint, calls: Calls, said: CallResult, state: str, kind: str
) -> None:
    job = await submitted(endpoint)
    calls.said = said
    status = await endpoint.status(job)
    assert status["status"] == state
    assert error_from_runpod(status["error"]).code == kind


async def test_what_modal_no_longer_has_is_gone(endpoint: ModalEndpoint, calls: Calls) -> None:
    job = await submitted(endpoint)
    calls.said = CallResult(known=False)
    with pytest.raises(JobNotFound, match=job):
        await endpoint.status(job)


async def test_a_call_without_a_note_is_not_even_asked_for(
    endpoint: ModalEndpoint, calls: Calls
) -> None:
    calls.said = CallResult(text='"somebody else\'s"')
    with pytest.raises(JobNotFound):
        await endpoint.status("fc-other")
    with pytest.raises(JobNotFound):
        await endpoint.cancel("fc-other")
    assert calls.cancelled == []


async def test_a_cancelled_job_stays_cancelled(endpoint: ModalEndpoint, calls: Calls) -> None:
    job = await submitted(endpoint)
    assert (await endpoint.cancel(job))["status"] == "CANCELLED"
    assert calls.cancelled == [job]
    # Modal ends it as if its container had failed.
    calls.said = CallResult(error=EngineCrashed("Input was cancelled"))
    assert (await endpoint.status(job))["status"] == "CANCELLED"
    assert (await endpoint.cancel(job))["status"] == "CANCELLED"
    assert calls.cancelled == [job], "once"


async def test_runpods_time_limit_reaches_the_worker(endpoint: ModalEndpoint, calls: Calls) -> None:
    await submitted(endpoint, policy={"executionTimeout": 90_000})
    assert json.loads(calls.spawned[0])["timeout"] == 90


async def test_health_is_modals(endpoint: ModalEndpoint) -> None:
    health = await endpoint.health()
    assert (health.jobs.in_queue, health.jobs.in_progress) == (3, 2)
    assert (health.workers.running, health.workers.idle) == (2, 2)
    assert health.hardware is None


async def test_health_says_what_a_container_has(calls: Calls, entries: Entries) -> None:
    config = ModalConfig(gpu_type="H100:2, L40S", memory=4096, region="eu", min_containers=1)
    endpoint = ModalEndpoint(calls, Notes(entries), None, hardware=config.hardware)  # type: ignore[arg-type]
    assert (await endpoint.health()).hardware == {
        "gpu": ["H100:2", "L40S"],
        "cpu": None,
        "memory": 4096.0,
        "region": ["eu"],
        "always": 1,
    }


# --- keys ---------------------------------------------------------------------------------


async def test_two_fronts_and_one_key_are_one_job(calls: Calls, entries: Entries) -> None:
    fronts = [ModalEndpoint(calls, Notes(entries), None) for _ in range(2)]  # type: ignore[arg-type]
    ids = await asyncio.gather(*(submitted(front, "a-key") for front in fronts))
    assert ids == ["fc-1", "fc-1"]
    assert len(calls.spawned) == 1


async def test_a_submission_that_never_ended_is_not_made_again(
    calls: Calls, entries: Entries
) -> None:
    endpoint = ModalEndpoint(calls, Notes(entries), None, poll=0.02, submit_patience=0.1)  # type: ignore[arg-type]
    entries.entries["key/a-key"] = ""  # by a front that has died since
    with pytest.raises(SubmissionUnknown):
        await submitted(endpoint, "a-key")
    assert calls.spawned == []
