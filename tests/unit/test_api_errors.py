"""What each of our errors is in Comfy API v2."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from comfy_remote import errors
from comfy_remote.advice import Hint
from comfy_remote.api.errors import ApiRefusal, job_error, refusal_of
from comfy_remote.errors import ComfyRemoteError
from comfy_remote.secrets import SECRETS
from comfy_remote.wire.comfy_api import ErrorEnvelope

UPSTREAM = (500, "upstream_error")
INVALID = (422, "invalid_workflow")
NOT_FOUND = (404, "not_found")

EXPECTED: dict[type[ComfyRemoteError], tuple[int, str]] = {
    errors.ComfyRemoteError: UPSTREAM,
    errors.ConfigurationError: UPSTREAM,
    errors.NotTrusted: (403, "forbidden"),
    errors.SpendingCap: (402, "insufficient_credits"),
    errors.AuthenticationError: UPSTREAM,  # the target's key: the caller's own is the guard's
    errors.TargetError: UPSTREAM,
    errors.TargetUnreachable: UPSTREAM,
    errors.TargetNotFound: UPSTREAM,
    errors.RateLimited: (429, "rate_limited"),
    errors.TargetStalled: UPSTREAM,
    errors.SubmissionUnknown: UPSTREAM,
    errors.DeploymentFailed: UPSTREAM,
    errors.WorkflowInvalid: INVALID,
    errors.LockNotMet: INVALID,
    errors.InputFileMissing: (422, "missing_asset"),
    errors.CutImpossible: INVALID,
    errors.RequestTooLarge: (413, "payload_too_large"),
    errors.ValueCannotTravel: INVALID,
    errors.ExecutionFailed: UPSTREAM,
    errors.OutOfMemory: UPSTREAM,
    errors.EngineCrashed: UPSTREAM,
    errors.ModelUnavailable: UPSTREAM,
    errors.NodesUnavailable: UPSTREAM,
    errors.JobTimedOut: UPSTREAM,
    errors.JobCancelled: UPSTREAM,
    errors.JobExpired: NOT_FOUND,
    errors.OutputError: UPSTREAM,
    errors.OutputTooLarge: UPSTREAM,
    errors.OutputLost: NOT_FOUND,
    errors.OutputCorrupt: UPSTREAM,
    errors.ValueInvalid: (422, "invalid_request"),
    errors.LocalStorageError: UPSTREAM,
    errors.JobNotFound: NOT_FOUND,
}


def family(root: type[ComfyRemoteError]) -> Iterator[type[ComfyRemoteError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def said(refusal: ApiRefusal) -> ErrorEnvelope:
    """What a client reads."""
    text = refusal.answer().text
    assert text is not None
    return ErrorEnvelope.model_validate_json(text)


@pytest.mark.parametrize(
    "kind", [one for one in family(ComfyRemoteError) if one.__module__ == errors.__name__]
)
def test_each_error_has_a_status_and_a_code(kind: type[ComfyRemoteError]) -> None:
    refusal = refusal_of(kind("The disk of box-17 burns.", advice="Call Ann."))
    # A class that is missing here: give it a row, and `api.errors` a case if it needs one.
    assert (refusal.status, refusal.code) == EXPECTED[kind]
    envelope = said(refusal).error
    assert envelope.code == refusal.code
    # What happens behind the server is nobody's business; what is wrong with a request is.
    assert ("box-17" in envelope.message) is (refusal.status != 500)
    assert ("Call Ann." in envelope.message) is (refusal.status != 500)


def test_what_went_wrong_behind_the_server_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        refusal = refusal_of(errors.TargetUnreachable("10.0.0.7 does not answer."))
    assert "10.0.0.7" not in refusal.message
    entry = refusal.details["log"]
    assert isinstance(entry, str)
    assert entry in refusal.message
    assert f"{entry}: 10.0.0.7 does not answer." in caplog.text


def test_too_many_jobs_are_a_full_queue_and_too_many_questions_are_not() -> None:
    full = refusal_of(errors.RateLimited("Full."), submitting=True)
    assert (full.code, full.answer().headers["Retry-After"]) == ("queue_full", "10")
    again = refusal_of(errors.RateLimited("Slowly.", details={"retry_after": 3}))
    assert (again.code, again.answer().headers["Retry-After"]) == ("rate_limited", "3")


def test_each_nodes_problems_are_in_the_details() -> None:
    problem = {
        "type": "required_input_missing",
        "message": "Required input is missing",
        "details": "model",
        "extra_info": {"input_name": "model"},
    }
    error = errors.WorkflowInvalid(
        "Node 12 cannot run.",
        details={"node_errors": {"12": {"class_type": "KSampler", "errors": [problem]}}},
    )
    details = said(refusal_of(error)).error.details
    assert details == {
        "cause": "workflow_invalid",
        "node_errors": {
            "12": [
                {
                    "field": "model",
                    "reason": "required_input_missing",
                    "class_type": "KSampler",
                    "message": "Required input is missing: model",
                }
            ]
        },
    }


def test_a_node_whose_class_is_not_there_is_named() -> None:
    # As ComfyUI refuses it: about the whole prompt, without anything under `node_errors`.
    said_by_comfyui = {
        "type": "missing_node_type",
        "message": "Node 'Nope' not found.",
        "details": "Node ID '#1'",
        "extra_info": {"node_id": "1", "class_type": "Nope", "node_title": "Nope"},
    }
    error = errors.WorkflowInvalid("…", details={"error": said_by_comfyui, "node_errors": {}})
    details = said(refusal_of(error)).error.details
    assert details is not None
    assert details["node_errors"] == {
        "1": [
            {
                "field": None,
                "reason": "missing_node_type",
                "class_type": "Nope",
                "message": "Node 'Nope' not found: Node ID '#1'",
            }
        ]
    }
    assert said(refusal_of(errors.WorkflowInvalid("…"))).error.details == {
        "cause": "workflow_invalid"
    }


def test_a_cap_says_its_numbers() -> None:
    error = errors.SpendingCap("Over the day's cap.", details={"cap": 5.0, "spent": 4.9})
    details = said(refusal_of(error)).error.details
    assert details == {"cause": "spending_cap", "cap": 5.0, "spent": 4.9}


def test_no_secret_is_said() -> None:
    SECRETS.add("THE_KEY", "sk-0123456789abcdef")
    refusal = refusal_of(errors.WorkflowInvalid("sk-0123456789abcdef is no model."))
    assert "sk-0123456789abcdef" not in said(refusal).error.message


def test_a_failed_node_is_named() -> None:
    error = errors.ExecutionFailed(
        "KSampler failed: boom.",
        details={"node_id": "3", "node_class": "KSampler", "traceback": ["line 1\n", "line 2\n"]},
    )
    failed = job_error(error)
    assert failed.code == "node_execution_error"
    assert (failed.node_id, failed.class_type) == ("3", "KSampler")
    assert failed.traceback == "line 1\nline 2\n"
    local = errors.LocalStorageError("/home/me/x.part could not be written: disk full.")
    assert "/home" not in job_error(local).message
    damaged = errors.OutputCorrupt("a.png is cut off.", advice=Hint.RESUME_FOR_OUTPUTS())
    assert job_error(damaged).message == "a.png is cut off. Send the job again."
    assert job_error(errors.OutOfMemory("No memory is left.")).code == "out_of_memory"
