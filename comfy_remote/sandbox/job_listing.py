"""A prompt in the queue or the history, described as ComfyUI's list of jobs describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from .prompt_queue import QueuedPrompt

__all__ = ["JOB_STATES", "Job", "history_job", "queue_job"]

JOB_STATES = ("pending", "in_progress", "completed", "failed", "cancelled")

_ENDINGS = ("execution_success", "execution_error", "execution_interrupted")
_PREVIEWABLE = ("images", "video", "audio", "3d", "text")


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the list.

    Attributes:
        status: One of `JOB_STATES`.
        create_time: Milliseconds since 1970, like all times here; 0 when unknown.
        facts: What else the list says about it.
    """

    id: str
    status: str
    priority: float
    create_time: int
    workflow_id: str | None
    facts: Mapping[str, object]

    @property
    def duration(self) -> int:
        """How long it ran, in milliseconds; 0 before its end."""
        start, end = self.facts.get("execution_start_time"), self.facts.get("execution_end_time")
        return end - start if isinstance(start, int) and isinstance(end, int) else 0

    def to_json(self, entry: Mapping[str, object] | None = None) -> dict[str, object]:
        """The job as the list has it; in full with its ``entry`` of the history."""
        described: dict[str, object] = {
            "id": self.id,
            "status": self.status,
            "priority": self.priority,
            "create_time": self.create_time,
            "workflow_id": self.workflow_id,
            **self.facts,
        }
        if entry is not None:
            _, _, prompt, extra_data, _ = _prompt_of(entry)
            described["outputs"] = entry.get("outputs")
            described["execution_status"] = entry.get("status")
            described["workflow"] = {"prompt": prompt, "extra_data": extra_data}
        return {key: value for key, value in described.items() if value is not None}


def queue_job(item: QueuedPrompt, status: str) -> Job:
    """A prompt that waits or runs."""
    return Job(
        item.prompt_id,
        status,
        item.number,
        _create_time(item.extra_data),
        _workflow_id(item.extra_data),
        {"outputs_count": 0, "previewable_outputs_count": 0},
    )


def history_job(job_id: str, entry: Mapping[str, object]) -> Job:
    """A prompt that has run."""
    number, _, _, extra_data, _ = _prompt_of(entry)
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages: dict[str, dict[str, JsonValue]] = dict(status.get("messages", []))
    state = "completed"
    if status.get("status_str") == "error":
        state = "cancelled" if "execution_interrupted" in messages else "failed"
    ending = next((messages[name] for name in _ENDINGS if name in messages), {})
    files = list(_files(entry.get("outputs")))
    previewable = [file for file in files if file["mediaType"] in _PREVIEWABLE]
    saved = [file for file in previewable if file.get("type") == "output"]
    return Job(
        job_id,
        state,
        number if isinstance(number, (int, float)) else 0,
        _create_time(extra_data),
        _workflow_id(extra_data),
        {
            "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
            "execution_end_time": ending.get("timestamp"),
            "execution_error": messages.get("execution_error"),
            "outputs_count": len(files),
            "previewable_outputs_count": len(previewable),
            # A saved file says more about a job than a preview does.
            "preview_output": next(iter([*saved, *previewable]), None),
        },
    )


def _prompt_of(entry: Mapping[str, object]) -> Sequence[object]:
    prompt = entry["prompt"]
    if not isinstance(prompt, list):
        raise TypeError(f"The history keeps a list, not {type(prompt).__name__}")
    return prompt


def _files(outputs: object) -> Iterator[dict[str, JsonValue]]:
    if not isinstance(outputs, dict):
        return
    for node_id, output in outputs.items():
        for kind, files in (output if isinstance(output, dict) else {}).items():
            for file in files if isinstance(files, list) else []:
                if isinstance(file, dict):
                    yield {"mediaType": kind, **file, "nodeId": node_id}


def _create_time(extra_data: object) -> int:
    created = extra_data.get("create_time") if isinstance(extra_data, dict) else None
    return created if isinstance(created, int) else 0


def _workflow_id(extra_data: object) -> str | None:
    value: object = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
