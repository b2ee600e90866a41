"""What an endpoint says of a job, as events: ``/status`` answers in, events out. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace

from pydantic import JsonValue, ValidationError

from ...errors import ComfyRemoteError, JobCancelled, JobExpired, JobTimedOut, OutputLost
from ...events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Shown,
    Started,
)
from ...outputs import RemoteOutput
from ...wire.answer import ProgressSnapshot
from ...wire.runpod import JobStatus, RunPodState
from ...workflow.prompt import Prompt
from .kind import RESULTS_KEPT
from .result import error_in, output_problems, read_result, worker_error
from .worker_comfyui import not_stopped

__all__ = ["StatusReader", "forgotten"]


class StatusReader:
    """Turns one ``/status`` after another into events, each reported once.

    Args:
        delay_means_begun: Whether only a job that has begun has a ``delayTime``.
        answered_before: Whether the worker that answered last was Comfy Remote's; ``None`` if that
            is not known.
    """

    def __init__(
        self,
        prompt: Prompt,
        *,
        delay_means_begun: bool = False,
        answered_before: bool | None = None,
    ) -> None:
        self.worker_is_ours: bool | None = None
        """Whether the worker that answered is Comfy Remote's; ``None`` until one has."""
        self.may_run_on = False
        """Whether the job was cancelled, and its worker may not have stopped."""
        self._answered_before = answered_before
        self._prompt = prompt
        self._total = len(prompt)
        self._state: RunPodState | None = None
        self._attempt = 1
        self._sequence = -1
        self._last: Progress | None = None
        self._texts: dict[str, str] = {}
        self._began = False
        self._delay_means_begun = delay_means_begun

    def events(self, status: JobStatus) -> Iterator[Event]:
        """What is new in this answer; `Finished` last, once the job has ended."""
        self._began = (
            self._began
            or status.status is RunPodState.IN_PROGRESS
            or bool(status.execution_time or status.worker_id)
            or (self._delay_means_begun and status.delay_time is not None)
        )
        if status.attempt > self._attempt:
            self._attempt = status.attempt
            self._sequence = -1
            yield Log(
                f"The job was started again (attempt {status.attempt}): the worker that had it "
                "before was lost.",
                "warning",
            )
        if status.status is not self._state:
            if status.status is RunPodState.IN_QUEUE:
                self._sequence = -1  # RunPod runs a job again whose worker died
                yield Queued()
            elif self._state in (None, RunPodState.IN_QUEUE) and not _never_ran(status):
                yield Started()
            self._state = status.status
        if status.status is RunPodState.IN_PROGRESS:
            yield from self._progress(status.output)
        elif status.status is RunPodState.COMPLETED:
            yield from self._completed(status)
        elif status.status.final:
            finished = replace(_failed(status, self._prompt), did_it_run=self._did_it_run(status))
            for output in finished.outputs:
                yield OutputReady(output)
            if finished.state is JobState.CANCELLED and (note := self._runs_on()):
                self.may_run_on = True
                yield Log(note, "warning")
            yield finished

    def _runs_on(self) -> str:
        """Of a job that was cancelled after it began, why its worker may not have stopped."""
        reports = self._sequence >= 0  # as Comfy Remote's worker does, which stops
        if not self._began or reports or self._answered_before:
            return ""
        return not_stopped(known=self._answered_before is not None)

    def _progress(self, output: JsonValue) -> Iterator[Event]:
        try:
            snapshot = ProgressSnapshot.model_validate(output)
        except ValidationError:
            return  # nothing yet, or another worker's own progress
        if snapshot.sequence <= self._sequence:
            return
        self._sequence = snapshot.sequence
        progress = Progress(
            nodes_done=snapshot.nodes_done,
            nodes_total=snapshot.nodes_total,
            node_id=snapshot.node_id,
            node_class=snapshot.node_class,
            step=snapshot.step,
            steps=snapshot.steps,
            message=snapshot.message,
        )
        if progress != self._last:
            self._last = progress
            yield progress
        for node_id, text in snapshot.texts.items():
            if self._texts.get(node_id) != text:
                self._texts[node_id] = text
                yield NodeText(node_id, text)
        if snapshot.preview is not None:
            try:
                data = base64.b64decode(snapshot.preview.data, validate=True)
            except ValueError:
                return
            yield Preview(snapshot.preview.node_id, snapshot.preview.media_type, data)

    def _completed(self, status: JobStatus) -> Iterator[Event]:
        try:
            if (error := error_in(status.output)) is not None:
                raise error
            read = read_result(status.output, self._prompt)
        except ComfyRemoteError as error:
            yield Finished(
                JobState.FAILED, error, details=_times(status), did_it_run=DidItRun.STOPPED
            )
            return
        self.worker_is_ours, shown = read.ours, read.shown
        total = self._last.nodes_total if self._last else self._total
        yield Progress(nodes_done=total, nodes_total=total)
        if shown is not None:
            nodes = dict.fromkeys(one.node_id for one in read.outputs if one.node_id)
            for node_id in {**nodes, **shown}:
                yield Shown(node_id, shown.get(node_id, {}))
        for output in read.outputs:
            yield OutputReady(output)
        for warning in read.warnings:
            yield Log(warning, "warning")
        state = JobState.SUCCEEDED if read.failure is None else JobState.FAILED
        details = {**read.details, **_times(status)}
        problems = output_problems(status.output)
        did_it_run = None if read.failure is None else DidItRun.STOPPED
        yield Finished(
            state, read.failure, read.outputs, details, problems, shown or {}, did_it_run
        )

    def _did_it_run(self, status: JobStatus) -> DidItRun:
        """Of a job that has ended as failed, cancelled or timed out."""
        match status.status:
            case RunPodState.TIMED_OUT:
                # It expired in the queue, or its worker fell silent: RunPod says the same of both.
                return DidItRun.UNKNOWN
            case RunPodState.CANCELLED if not self._began:
                return DidItRun.WITHDRAWN
            case _:
                return DidItRun.STOPPED


def _failed(status: JobStatus, prompt: Prompt) -> Finished:
    state, times = JobState.FAILED, _times(status)
    error: ComfyRemoteError
    match status.status:
        case RunPodState.CANCELLED:
            state, error = JobState.CANCELLED, JobCancelled("The job was cancelled.")
        case RunPodState.TIMED_OUT if _never_ran(status):
            state = JobState.EXPIRED
            error = JobExpired(
                "The endpoint dropped the job: it waited in the queue for longer than allowed.",
                advice="Raise the endpoint's maximum number of workers, or try again later.",
            )
        case RunPodState.TIMED_OUT:
            error = JobTimedOut(
                "The job ran for longer than the endpoint allows.",
                advice="Raise the execution timeout in the endpoint's settings.",
            )
        case _:
            error = worker_error(status.error, status.output)
            if not isinstance(error, JobCancelled):
                saved = _saved_before(status.output, prompt)
                return Finished(state, error, saved, times, output_problems(status.output))
            state = JobState.CANCELLED
    return Finished(state, error, details=times)


def _saved_before(output: JsonValue, prompt: Prompt) -> tuple[RemoteOutput, ...]:
    """What a job that failed had saved before, where the worker returns it."""
    try:
        return read_result(output, prompt).outputs
    except OutputLost:
        return ()


def forgotten(name: str, kept: str = RESULTS_KEPT) -> Finished:
    """The end of a job that the endpoint answers 404 for."""
    return Finished(
        JobState.EXPIRED,
        JobExpired(f"{name} no longer knows the job.", advice=f"{kept} Run it again."),
        did_it_run=DidItRun.UNKNOWN,
    )


def _never_ran(status: JobStatus) -> bool:
    """Whether a job ended (cancelled, expired) without a worker having taken it."""
    ended_early = status.status in (RunPodState.CANCELLED, RunPodState.TIMED_OUT)
    return ended_early and not status.execution_time


def _times(status: JobStatus) -> dict[str, JsonValue]:
    times: dict[str, JsonValue] = {}
    if status.delay_time is not None:
        times["queue_seconds"] = status.delay_time / 1000
    if status.execution_time is not None:
        times["run_seconds"] = status.execution_time / 1000
    return times
