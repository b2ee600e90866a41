"""The job in a server's answer. No I/O."""

from __future__ import annotations

from pydantic import JsonValue, ValidationError

from ...errors import TargetError
from ...types import mappings
from ...wire.comfy_api import ApiJob, ApiStatus, OutputType

__all__ = ["has_begun", "read_job"]

_LARGEST_SIZE = 2**53  # bytes; what is larger has not been measured


def read_job(answer: JsonValue) -> ApiJob:
    """The job in an answer.

    What does not matter for its end is read leniently: an unknown type of output, a progress out of
    bounds, labels of another form.

    Raises:
        TargetError: The answer is not a job.
    """
    if isinstance(answer, dict):
        outputs: list[JsonValue] = [_known_output(one) for one in mappings(answer.get("outputs"))]
        answer = {**answer, "outputs": outputs}
    try:
        return ApiJob.model_validate(answer)
    except ValidationError as error:
        problem = error
    if isinstance(answer, dict):
        spare = {"progress": None, "queue_position": None, "metrics": None, "metadata": None}
        try:
            return ApiJob.model_validate({**answer, **spare})
        except ValidationError as error:
            problem = error
    first = problem.errors()[0]
    where = ".".join(map(str, first["loc"]))
    raise TargetError(
        f"The server's answer about the job is not Comfy API v2's: {where}: {first['msg']}.",
        advice="Check the address: another program may be there.",
    ) from problem


def _known_output(one: dict[str, JsonValue]) -> JsonValue:
    known, size = one.get("type") in [each.value for each in OutputType], one.get("size_bytes")
    return {
        **one,
        "type": one.get("type") if known else "file",
        "size_bytes": size if isinstance(size, int) and 0 < size <= _LARGEST_SIZE else 0,
    }


def has_begun(job: ApiJob) -> bool:
    """Whether an answer shows that a job runs or ran; some servers note no start."""
    ran = (job.metrics or {}).get("execution_ms")
    if job.started_at is not None or ran or job.outputs:
        return True
    return job.status in (ApiStatus.RUNNING, ApiStatus.SUCCEEDED)
