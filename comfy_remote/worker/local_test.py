"""One job without RunPod: ``--test``, ``--test_input JSON``, ``MODE_TO_RUN=test``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from pydantic import JsonValue

from ..errors import ConfigurationError
from ..json_text import parse_json
from ..text_file import text_of
from .handler import JobHandler

__all__ = ["job_to_test", "run_test"]

_BESIDE = Path("test_input.json")
# Needs no model, and runs on every ComfyUI and on the sandbox.
_WORKFLOW: dict[str, JsonValue] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x3060C0},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "worker_test"},
    },
}

_log = logging.getLogger(__name__)


def job_to_test(given: str | None, beside: Path = _BESIDE) -> JsonValue:
    """The input of the job to run.

    Args:
        given: JSON: the input, or ``{"input": …}`` as RunPod's clients send it. ``None`` for
            what is in ``test_input.json``, or, where there is no such file, a small workflow
            that needs no model.
        beside: Where that file is.

    Raises:
        ConfigurationError: It is not JSON.
    """
    where = "--test_input"
    if given is None:
        if not beside.is_file():
            return {"workflow": _WORKFLOW, "format": "plain"}
        where = str(beside)
    try:
        job = parse_json(text_of(beside.read_bytes()) if given is None else given)
    except ValueError as error:
        raise ConfigurationError(f"{where} is not JSON: {error}.") from None
    return job["input"] if isinstance(job, dict) and "input" in job else job


async def run_test(handler: JobHandler, payload: JsonValue) -> int:
    """Run it, and write its answer to standard output, as JSON.

    Returns:
        The exit status: 0, or 1 if the job failed.
    """
    try:
        answer = await handler("local-test", payload, _log_progress)
    finally:
        await handler.close()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 1 if "error" in answer else 0


async def _log_progress(snapshot: dict[str, JsonValue]) -> None:
    _log.info(
        "progress: %s of %s nodes, %s",
        snapshot.get("nodes_done"),
        snapshot.get("nodes_total"),
        snapshot.get("node_class", "between nodes"),
    )
