"""A job that gives less than it was asked for: bad files, nodes that raise after others saved."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fake_target import output
from pydantic import JsonValue
from worker_fakes import PROMPT, EngineTarget, FakeEngine, connect_to, succeeded

from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ExecutionFailed,
    OutOfMemory,
    OutputLost,
    TargetUnreachable,
)
from comfy_remote.events import Event, Finished, JobState, Started
from comfy_remote.outputs import OutputProblem
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.wire.answer import Answer
from comfy_remote.wire.runpod import JobStatus, error_from_runpod
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

OURS = {"format": "comfy-remote/1", "workflow": PROMPT}


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


async def run(
    target: EngineTarget, form: str = "comfy-remote/1", **settings: Any
) -> dict[str, JsonValue]:
    handler = JobHandler(
        FakeEngine(), WorkerSettings(**settings), connect=connect_to(target), environ={}
    )
    return await handler("j", {"format": form, "workflow": PROMPT}, silent)


def client_sees(result: dict[str, JsonValue]) -> Finished:
    """The last event that our client makes of what RunPod passes on."""
    result = dict(result)
    error = result.pop("error", None)
    status = {"id": "j", "status": "FAILED" if error else "COMPLETED"}
    body = JobStatus.model_validate({**status, "output": result, "error": error})
    finished = list(StatusReader(PROMPT).events(body))[-1]
    assert isinstance(finished, Finished)
    return finished


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (OutputLost("gone"), "gone"),
        (b"", "is empty"),
        (AuthenticationError("refused", details={"http_status": 403}), "refused"),
        (TargetUnreachable("it fails", details={"http_status": 500}), "it fails"),
    ],
    ids=["missing", "empty", "outside", "unreadable"],
)
async def test_one_bad_output_does_not_cost_the_good_ones(
    bad: bytes | ComfyRemoteError, reason: str
) -> None:
    files = {"a.bmp": b"good", "bad.png": bad, "c.bmp": b"good, too"}
    target = EngineTarget(succeeded(*map(output, files)), files)
    result = await run(target)
    answer = Answer.model_validate(result)
    assert [(o.filename, base64.b64decode(o.data or "")) for o in answer.outputs] == [
        ("a.bmp", b"good"),
        ("c.bmp", b"good, too"),
    ]
    [warning] = answer.warnings
    assert warning.startswith("Node 2 (SaveImage): bad.png: ")
    assert reason in warning
    # It ran once, and the models are still loaded.
    assert (len(target.requests), target.freed) == (1, 0)
    finished = client_sees(result)
    assert finished.state is JobState.SUCCEEDED
    [problem] = finished.problems
    assert (problem.node_id, problem.node_class, problem.filename) == ("2", "SaveImage", "bad.png")


async def test_a_file_that_is_damaged_on_the_engine_is_returned_with_a_warning() -> None:
    files = {"a.png": b"\x89PNG\r\n\x1a\ncut off"}
    answer = Answer.model_validate(await run(EngineTarget(succeeded(output("a.png")), files)))
    assert base64.b64decode(answer.outputs[0].data or "") == files["a.png"]
    assert "a.png is cut off or damaged" in answer.warnings[0]


async def test_a_job_of_which_nothing_is_left_fails_and_says_why() -> None:
    target = EngineTarget(succeeded(output("a.png"), output("b.png")), {"a.png": b""})
    finished = client_sees(await run(target))
    assert finished.state is JobState.FAILED
    assert "a.png is empty" in str(finished.error)
    assert len(target.requests) == 1


async def test_only_what_the_engines_cache_lists_and_has_no_more_is_run_again() -> None:
    cached = Finished(
        JobState.SUCCEEDED,
        outputs=(output("a.bmp"), output("b.bmp")),
        details={"cached_nodes": ["1", "2"]},
    )
    target = EngineTarget([Started(), cached], {"a.bmp": b"x"})
    answer = Answer.model_validate(await run(target))
    assert [o.filename for o in answer.outputs] == ["a.bmp"]
    first, second = (one.prompt["2"]["inputs"] for one in target.requests)
    assert "comfy_remote_run" not in first
    assert "comfy_remote_run" in second
    assert target.freed == 0


def fails_after(*filenames: str, error: ComfyRemoteError | None = None) -> list[Event]:
    error = error or ExecutionFailed("Boom (node 9) failed: no", details={"node_id": "9"})
    outputs = tuple(map(output, filenames))
    return [Started(), Finished(JobState.FAILED, error, outputs)]


async def test_what_a_failed_job_had_saved_is_returned_with_its_error() -> None:
    result = await run(EngineTarget(fails_after("a.bmp"), {"a.bmp": b"saved"}))
    assert result["status"] == "error"
    assert Answer.model_validate(result).outputs[0].filename == "a.bmp"
    assert "Boom" in str(error_from_runpod(result["error"]))
    finished = client_sees(result)
    assert finished.state is JobState.FAILED
    assert finished.error is not None
    assert finished.error.details["node_id"] == "9"
    assert [o.filename for o in finished.outputs] == ["a.bmp"]


async def test_a_failed_job_whose_saved_files_cannot_be_read_has_its_own_error() -> None:
    result = await run(EngineTarget(fails_after("a.bmp"), {}))
    assert "outputs" not in result
    assert "Boom" in str(result["error_message"])
    assert "Boom" in str(error_from_runpod(result["error"]))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", {"status": "error", "error_type": "internal", "images": ["c2F2ZWQ="]}),
        ("images-b64", {"images": [{"b64": "c2F2ZWQ=", "name": "a.bmp"}]}),
    ],
)
async def test_other_forms_of_a_failed_job_have_what_it_saved(
    form: str, expected: dict[str, JsonValue]
) -> None:
    result = await run(EngineTarget(fails_after("a.bmp"), {"a.bmp": b"saved"}), form)
    assert "Boom" in str(result["error"])
    assert result.items() >= expected.items()


async def test_worker_comfyuis_form_of_a_failed_job_is_completed_with_errors() -> None:
    result = await run(EngineTarget(fails_after("a.bmp"), {"a.bmp": b"saved"}), "worker-comfyui")
    assert "error" not in result
    assert result["images"] == [{"filename": "a.bmp", "type": "base64", "data": "c2F2ZWQ="}]
    [said] = result["errors"]  # type: ignore[misc]
    assert "Boom" in str(said)
    nothing = await run(EngineTarget(fails_after()), "worker-comfyui")
    assert "Boom" in str(nothing["error"])


async def test_out_of_memory_twice_gives_what_was_saved() -> None:
    full = OutOfMemory("KSampler (node 3) ran out of memory")
    target = EngineTarget(fails_after("a.bmp", error=full), {"a.bmp": b"saved"})
    result = await run(target)
    assert len(target.requests) == 2
    assert [o.filename for o in Answer.model_validate(result).outputs] == ["a.bmp"]
    assert client_sees(result).error is not None


async def test_outputs_that_do_not_fit_do_not_hide_why_the_job_failed() -> None:
    target = EngineTarget(fails_after("a.bmp"), {"a.bmp": b"x" * 300_000})
    result = await run(target, "plain", result_limit=100_000)
    assert "Boom" in str(result["error"])
    assert "images" not in result


async def test_nodes_that_the_engine_skips_are_in_the_answer() -> None:
    skipped = OutputProblem("7", "SaveImage", None, "it does not run: no images")
    finished = Finished(JobState.SUCCEEDED, outputs=(output("a.bmp"),), problems=(skipped,))
    result = await run(EngineTarget([Started(), finished], {"a.bmp": b"x"}))
    assert result["warnings"] == ["Node 7 (SaveImage): it does not run: no images"]
    assert client_sees(result).problems == (skipped,)
    other = await run(EngineTarget([Started(), finished], {"a.bmp": b"x"}), "worker-comfyui")
    assert other["errors"] == ["Node 7 (SaveImage): it does not run: no images"]
    assert json.dumps(other)
