"""What client and worker say to each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import (
    ComfyRemoteError,
    ExecutionFailed,
    OutOfMemory,
    WorkflowInvalid,
)
from comfy_remote.wire.request import JobRequest, named_by_hash
from comfy_remote.wire.runpod import (
    EndpointHealth,
    JobStatus,
    RunPodState,
    error_from_runpod,
    error_to_runpod,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "workflow",
                    "images",
                    "overrides",
                    "format",
                    "name",
                    "image",
                    "sha256",
                    "error_message",
                    "error_type",
                    "comfy_remote",
                    "code",
                    "message",
                    "details",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def test_a_request_needs_only_a_workflow() -> None:
    request = JobRequest.parse({"workflow": {"1": {"class_type": "X"}}, "comfy_org_api_key": "x"})
    assert request.format is None
    assert not request.images
    assert not request.previews


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (None, "input: "),
        ({}, "workflow: Field required"),
        ({"workflow": "x"}, "workflow: "),
        ({"workflow": {}, "images": [{"name": "", "image": "x"}]}, "images.0.name: "),
        ({"workflow": {}, "images": [{"name": "a"}]}, "images.0.image: "),
        ({"workflow": {}, "format": 1}, "format: "),
        ({"workflow": {}, "overrides": {"3": 4}}, "overrides.3: "),
        ({"workflow": {}, "images": [{"name": "a", "image": "", "sha256": "x"}]}, "sha256"),
    ],
)
def test_a_wrong_request_names_the_field(payload: object, message: str) -> None:
    with pytest.raises(WorkflowInvalid, match=message):
        JobRequest.parse(payload)  # type: ignore[arg-type]


@given(JSON)
def test_any_request_is_valid_or_refused(payload: object) -> None:
    try:
        JobRequest.parse(payload)  # type: ignore[arg-type]
    except WorkflowInvalid as error:
        assert "The job's input is not valid" in error.message


def test_files_that_are_named_by_hash_are_those_that_a_worker_takes() -> None:
    first, second = "a" * 64, "b" * 64
    files: list[object] = [
        {"name": "a", "sha256": first},
        {"name": "again", "sha256": first, "data": None},
        {"name": "inline", "sha256": "c" * 64, "data": "aGk="},
        {"name": "elsewhere", "sha256": "d" * 64, "url": "https://example.com/x"},
        {"name": "none", "sha256": "nothing"},
        {"name": "upper", "sha256": "E" * 64},
        "no file",
        {"name": "b", "sha256": second},
    ]
    assert named_by_hash({"files": files}) == [first, second]  # type: ignore[dict-item]
    for other in (None, [], "text", {"files": None}, {"files": {"sha256": first}}):
        assert named_by_hash(other) == []  # type: ignore[arg-type]
    many = {
        "workflow": {"1": {}},
        "files": [{"name": str(n), "sha256": first} for n in range(4097)],
    }
    with pytest.raises(WorkflowInvalid, match=r"files: .*4096"):
        JobRequest.parse(many)  # type: ignore[arg-type]
    many["files"] = [{"sha256": f"{n:064x}"} for n in range(5000)]
    assert len(named_by_hash(many)) == 4096  # type: ignore[arg-type]


@given(payload=JSON)
def test_anything_may_be_searched_for_files(payload: object) -> None:
    assert named_by_hash(payload) == []  # type: ignore[arg-type]


def test_our_errors_travel_whole_through_runpod() -> None:
    error = OutOfMemory("Full.", advice="Less.", details={"node_id": "3", "traceback": "tb"})
    sent = error_to_runpod(error)
    assert json.loads(sent)["error_type"] == "out_of_memory"
    assert json.loads(sent)["error_message"] == "Full. Less."
    assert json.loads(sent)["error_traceback"] == "tb"
    assert error_from_runpod(sent).to_json() == error.to_json()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("It broke", "The worker failed the job: It broke"),
        ("", "no reason was given"),
        (None, "no reason was given"),
        (5, "no reason was given"),
        ('{"error_type": "<class \'ValueError\'>", "error_message": "bad"}', "the job: bad"),
        ({"message": "dict"}, "the job: dict"),
        ("[" * 100_000, r"the job: \[\["),
    ],
)
def test_errors_of_other_workers(error: object, message: str) -> None:
    found = error_from_runpod(error)  # type: ignore[arg-type]
    assert type(found) is ExecutionFailed
    with pytest.raises(ExecutionFailed, match=message):
        raise found


def test_why_worker_comfyui_failed_stands_in_the_output() -> None:
    # handler.py of worker-comfyui 5.x: {"error": …, "details": errors}; the SDK makes the rest
    # of the dictionary the job's output.
    line = "Workflow execution error: Node Type: KSampler, Node ID: 3, Message: bad sampler"
    error = error_from_runpod("Job processing failed", {"details": [line]})
    assert type(error) is ExecutionFailed
    assert error.message == f"The worker failed the job: Job processing failed\n  {line}"


@pytest.mark.parametrize(
    "words",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", "Message: Allocation on device 0 failed"],
)
def test_another_workers_lack_of_memory_is_told_as_such(words: str) -> None:
    assert isinstance(error_from_runpod("Job processing failed", {"details": [words]}), OutOfMemory)
    assert "smaller" in error_from_runpod(json.dumps({"error_message": words})).advice


@given(JSON | JSON.map(json.dumps), JSON)
def test_any_error_is_an_error(error: object, output: object) -> None:
    assert isinstance(error_from_runpod(error, output), ComfyRemoteError)  # type: ignore[arg-type]


def test_the_states_that_are_final() -> None:
    assert [s.value for s in RunPodState if not s.final] == ["IN_QUEUE", "IN_PROGRESS"]


def test_status_and_health_are_read_by_runpods_names() -> None:
    status = JobStatus.model_validate(
        {"id": "a-e1", "status": "COMPLETED", "delayTime": 3, "executionTime": 4.5, "new": 1}
    )
    assert (status.delay_time, status.execution_time) == (3, 4.5)
    health = EndpointHealth.model_validate(
        {
            "jobs": {"inQueue": 2, "inProgress": 1, "completed": 9},
            "workers": {"idle": 1, "throttled": 4},
        }
    )
    assert (health.jobs.in_queue, health.jobs.in_progress, health.workers.idle) == (2, 1, 1)
