"""A job's error, as the answer says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from ..errors import ComfyRemoteError, node_problems
from ..targets.secrets import redact
from ..wire.runpod import error_to_runpod

__all__ = ["failure_answer"]

_LOG_LINES = 10


def failure_answer(
    error: ComfyRemoteError, *, ours: bool, environ: Mapping[str, str]
) -> dict[str, JsonValue]:
    """``{"error": …}``, from which the SDK makes a failed job.

    Args:
        ours: Whether the client speaks ``comfy-remote/1``: it gets the whole error. Others
            get worker-comfyui's plain message, and ``details`` as a list of lines.
        environ: Whose secrets are taken out.
    """
    if ours:
        return {"error": redact(error_to_runpod(error), environ)}
    return {
        "error": redact(str(error), environ),
        "details": [redact(line, environ) for line in _lines(error)],
    }


def _lines(error: ComfyRemoteError) -> Iterator[str]:
    for node_id, _, words in node_problems(error):
        yield f"Node {node_id}: {words}"
    log = error.details.get("engine_log")
    if isinstance(log, str):
        yield from log.splitlines()[-_LOG_LINES:]
