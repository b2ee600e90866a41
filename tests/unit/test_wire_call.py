"""The protocol of calls: what others say is understood, what we say has one form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import ExecutionFailed, JobCancelled, TargetError, WorkflowInvalid
from comfy_remote.wire.call import (
    CallAnswer,
    CallProgress,
    CallStatus,
    is_envelope,
    named_inputs,
    request_body,
)
from comfy_remote.wire.value import ValueEnvelope

ENVELOPE = {"type": "STRING", "encoding": "identity", "data": "a cat"}


@pytest.mark.parametrize(
    ("said", "value", "most"),
    [
        ({"value": 3, "max": 20}, 3, 20),
        ({"value": 30, "max": 20}, 20, 20),
        ({"percent": 45}, 45, 100),
        ({"ratio": 0.5}, 0.5, 1),
        (0.25, 0.25, 1),
        (1, 1, 1),
        (45, 45, 100),
        (1000, 100, 100),
        (-3, 0, 1),
    ],
)
def test_every_form_of_progress_is_understood(said: Any, value: float, most: float) -> None:
    assert CallProgress.read(said) == CallProgress(value=value, max=most)


@pytest.mark.parametrize(
    "said",
    [None, True, "fast", [], {}, {"value": 1}, {"value": 1, "max": 0}, float("nan"), 10**400],
)
def test_what_is_no_progress_is_none(said: Any) -> None:
    assert CallProgress.read(said) is None


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("pending", CallStatus.PENDING),
        ("queued", CallStatus.PENDING),
        ("Processing", CallStatus.RUNNING),
        ("IN_PROGRESS", CallStatus.RUNNING),
        ("complete", CallStatus.COMPLETED),
        ("done", CallStatus.COMPLETED),
        ("success", CallStatus.COMPLETED),
        ("error", CallStatus.FAILED),
        ("aborted", CallStatus.FAILED),
    ],
)
def test_other_words_for_a_status_are_understood(word: str, status: CallStatus) -> None:
    assert CallAnswer.read({"status": word}).status is status
    assert CallAnswer.read({"state": word}).status is status


def test_a_result_without_a_status_is_a_result() -> None:
    for said in ({"result": ENVELOPE}, {"results": {"result": ENVELOPE}}, ENVELOPE):
        answer = CallAnswer.read(dict(said))
        assert answer.status is CallStatus.COMPLETED
        assert answer.results == {"result": ENVELOPE}


@pytest.mark.parametrize("said", [None, [], "done", 3, {}, {"status": "sleeping"}, {"status": 3}])
def test_what_is_no_answer_is_refused(said: Any) -> None:
    with pytest.raises(TargetError, match="cannot be understood"):
        CallAnswer.read(said)


def test_how_long_to_wait_is_bounded() -> None:
    read = CallAnswer.read
    assert read({"status": "pending", "retry_after": 3}).retry_after == 3
    assert read({"status": "pending", "retryAfter": "2.5"}).retry_after == 2.5
    assert read({"status": "pending"}, {"Retry-After": "7"}).retry_after == 7
    assert read({"status": "pending"}, {"Retry-After": "1e99"}).retry_after == 120
    assert read({"status": "pending", "retry_after": -4}).retry_after == 0
    assert read({"status": "pending", "retry_after": "soon"}).retry_after is None
    date = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert read({"status": "pending"}, date).retry_after == 0


def test_a_failure_says_why() -> None:
    def error(**said: Any) -> Exception:
        return CallAnswer.read(said).failure()

    assert "no GPU" in str(error(status="failed", error="no GPU"))
    assert "no GPU" in str(error(status="error", error={"message": "no GPU"}))
    assert "no GPU" in str(error(status="failed", detail="no GPU"))
    assert isinstance(error(status="cancelled"), JobCancelled)
    assert isinstance(error(status="failed"), ExecutionFailed)
    ours = JobCancelled("Somebody cancelled it.", advice="Run it again.").to_json()
    assert isinstance(error(status="failed", error=ours), JobCancelled)
    assert len(str(error(status="failed", error="x" * 10**6))) < 10_000


def test_an_answer_is_written_as_it_is_read() -> None:
    answer = CallAnswer(
        status=CallStatus.RUNNING,
        id="one",
        progress=CallProgress(value=1, max=4),
        message="Sampling",
        poll_url="/calls/one",
        retry_after=1,
    )
    assert CallAnswer.read(answer.to_json()) == answer
    done = CallAnswer(status=CallStatus.COMPLETED, results={"image": ENVELOPE})
    assert done.to_json()["result"] == ENVELOPE
    assert CallAnswer.read(done.to_json()) == done
    two = CallAnswer(status=CallStatus.COMPLETED, results={"a": 1, "b": 2})
    assert "result" not in two.to_json()


def test_both_forms_of_inputs_are_understood() -> None:
    named = {"prompt": "a cat", "steps": 20, "image": ENVELOPE}
    assert named_inputs({"inputs": dict(named)}) == named
    listed = request_body(named)
    assert listed["input_order"] == ["prompt", "steps", "image"]
    assert named_inputs(listed) == {
        "prompt": {"encoding": "identity", "data": "a cat"},
        "steps": {"encoding": "identity", "data": 20},
        "image": ENVELOPE,
    }
    # In a list, each is an envelope, also one that leaves away what it is.
    for key in ("data", "value"):
        (read,) = named_inputs({"inputs": [{"name": "steps", key: 20}]}).values()
        assert ValueEnvelope.read(read).decode(tensors="numpy").value == 20
    assert list(named_inputs({**listed, "input_order": ["image", "other"]})) == [
        "image",
        "prompt",
        "steps",
    ]


@pytest.mark.parametrize(
    "body",
    [
        None,
        3,
        {"inputs": 3},
        {"inputs": [3]},
        {"inputs": [{"name": 3}]},
        {"inputs": [{"name": "a"}]},
        {"inputs": [{"name": "a", "type": "INT"}]},
        {"inputs": [{"name": "a", "data": 1}, {"name": "a", "data": 2}]},
    ],
)
def test_what_is_no_call_is_refused(body: Any) -> None:
    with pytest.raises(WorkflowInvalid, match="The call has"):
        named_inputs(body)


def test_an_envelope_is_told_from_a_plain_object() -> None:
    assert is_envelope(ENVELOPE)
    assert not is_envelope({"data": [1, 2]})
    assert not is_envelope({"type": "cat"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["status", "state", "progress", "result", "results", "error", "poll_url", "retry_after", "id"]
)


@given(st.dictionaries(KEYS, JSON))
def test_whatever_is_said_is_understood_or_refused(said: Any) -> None:
    try:
        answer = CallAnswer.read(said)
    except TargetError:
        return
    assert answer.retry_after is None or 0 <= answer.retry_after <= 120
    answer.failure()
    CallAnswer.read(answer.to_json())
