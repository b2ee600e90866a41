"""A job's error, as the answer says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from ..errors import ComfyRemoteError, node_problems
from ..secrets import redact
from ..wire.plain import PlainError, plain_error_type
from ..wire.request import COMFY_REMOTE_1, PLAIN, WORKER_COMFYUI, AnswerFormat
from ..wire.runpod import error_to_runpod

__all__ = ["failure_answer"]

_LOG_LINES = 10


def failure_answer(
    error: ComfyRemoteError,
    dialect: AnswerFormat,
    *,
    environ: Mapping[str, str],
    seconds: float = 0.0,
    saved: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """``{"error": …}``, from which the SDK makes a failed job, with what it had saved before.

    ``worker-comfyui`` has no failed job with pictures: there, ``errors`` says that it failed.

    Args:
        dialect: ``comfy-remote/1`` gets the whole error. Others get the form of ``plain``, of
            which the SDK moves ``error`` out of the job's output: a request that is refused may
            lack the very key that tells its dialect. All but ``plain`` also get ``details``, a
            list of lines, as worker-comfyui has it.
        environ: Whose secrets are taken out.
        seconds: Since the job arrived.
        saved: The answer with these outputs, in the same dialect; ``None`` if there are none.
    """
    if dialect == COMFY_REMOTE_1:
        failed: dict[str, JsonValue] = {**saved, "status": "error"} if saved else {}
        return {**failed, "error": redact(error_to_runpod(error), environ)}
    if dialect == WORKER_COMFYUI and saved:
        warnings = saved.get("errors")
        said: list[JsonValue] = [redact(f"The job failed: {error}", environ)]
        return {**saved, "errors": [*said, *(warnings if isinstance(warnings, list) else [])]}
    plain = PlainError(
        error_type=plain_error_type(error),
        error=redact(str(error), environ),
        execution_time_seconds=seconds,
    ).model_dump(mode="json")
    plain = {**(saved or {}), **plain}
    if dialect == PLAIN:
        return plain
    return {**plain, "details": [redact(line, environ) for line in _lines(error)]}


def _lines(error: ComfyRemoteError) -> Iterator[str]:
    for node_id, _, words in node_problems(error):
        yield f"Node {node_id}: {words}"
    log = error.details.get("engine_log")
    if isinstance(log, str):
        yield from log.splitlines()[-_LOG_LINES:]
