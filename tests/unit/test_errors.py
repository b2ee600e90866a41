"""The family of errors: what scripts, exit statuses and HTTP bodies rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote import errors
from comfy_remote.errors import ComfyRemoteError, ExecutionFailed, OutOfMemory, error_from_json


def _family(root: type[ComfyRemoteError] = ComfyRemoteError) -> Iterator[type[ComfyRemoteError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


FAMILY = list(_family())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

# What `$?` says, and what an HTTP answer says. Scripts test for these: do not change one.
STATUSES = {
    "error": (1, 500),
    "configuration": (2, 400),
    "not_trusted": (2, 403),
    "spending_cap": (2, 402),
    "authentication": (3, 401),
    "target": (3, 502),
    "target_unreachable": (3, 502),
    "target_not_found": (3, 404),
    "rate_limited": (3, 429),
    "target_stalled": (3, 502),
    "submission_unknown": (3, 502),
    "deployment_failed": (3, 502),
    "workflow_invalid": (4, 400),
    "input_file_missing": (4, 400),
    "cut_impossible": (4, 400),
    "lock_not_met": (4, 400),
    "request_too_large": (4, 413),
    "value_cannot_travel": (4, 400),
    "execution_failed": (5, 500),
    "out_of_memory": (5, 500),
    "engine_crashed": (5, 500),
    "model_unavailable": (5, 500),
    "nodes_unavailable": (5, 500),
    "timed_out": (6, 504),
    "cancelled": (130, 409),
    "expired": (7, 410),
    "output": (7, 502),
    "output_too_large": (7, 413),
    "output_lost": (7, 410),
    "output_corrupt": (7, 502),
    "value_invalid": (7, 400),
    "local_storage": (7, 507),
    "job_not_found": (2, 404),
}


def test_every_error_has_its_own_code_and_known_statuses() -> None:
    assert len({kind.code for kind in FAMILY}) == len(FAMILY)
    assert {kind.code: (kind.exit_status, kind.http_status) for kind in FAMILY} == STATUSES


def test_every_error_is_public_and_stands_in_the_drawing() -> None:
    for kind in FAMILY:
        assert kind.__name__ in errors.__all__
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.code)
def test_an_error_survives_the_journey_as_json(kind: type[ComfyRemoteError]) -> None:
    error = kind("It broke.", advice="Mend it.", details={"node_id": "3", "sizes": [1, 2.5]})
    again = error_from_json(json.loads(json.dumps(error.to_json())))
    assert type(again) is kind
    assert again.to_json() == error.to_json()
    assert str(again) == "It broke. Mend it."


def test_an_error_without_advice_is_its_message_alone() -> None:
    assert str(OutOfMemory("Full.")) == "Full."


def test_an_unknown_code_is_a_failed_run_that_keeps_it() -> None:
    error = error_from_json({"code": "from_the_future", "message": "Hm."})
    assert type(error) is ExecutionFailed
    assert error.details == {"code": "from_the_future"}


@given(st.dictionaries(st.sampled_from(["code", "message", "advice", "details", "x"]), JSON))
def test_any_json_object_makes_an_error(data: dict[str, object]) -> None:
    error = error_from_json(data)  # type: ignore[arg-type]
    assert isinstance(error, ComfyRemoteError)
    assert json.loads(json.dumps(error.to_json())) == error.to_json()
