"""Following a job from the command line: to its outputs, to an error, or to a cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import click

from ..config.environment import unused_env_files
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, JobCancelled, JobNotFound, NotTrusted, OutputLost
from ..events import DidItRun, Finished, JobState, Log
from ..jobs.interruption import OnInterrupt, call_off
from ..jobs.job import Job
from ..jobs.record import JobEntry, Record, SavedOutput
from ..net.retry import retries_said
from .asking import can_ask
from .console import resume_command
from .interrupt import run_interruptible
from .reporter import ListedOutput, Reporter

__all__ = [
    "INCOMPLETE",
    "OnInterrupt",
    "chosen_target",
    "exit_if_incomplete",
    "follow",
    "reported",
    "say_cancelling",
    "supervise",
    "wait_and_list",
]

INCOMPLETE = 8
"""Exit status where the job succeeded, and an output is missing or damaged."""

_T = TypeVar("_T")

_TICK = 1.0  # seconds
_SAME_FAILURE = 3.0  # seconds: requests that are sent side by side fail alike
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)


def supervise(
    work: Callable[[Record], Coroutine[object, object, None]], reporter: Reporter, job_id: str
) -> None:
    """Run what follows a job. If it ends badly, the reporter says so, and the command exits."""
    with reporter:
        try:
            with Record() as record:
                _supervise(work, record, reporter, job_id)
        except NotTrusted:
            raise
        except ComfyRemoteError as error:  # the record itself cannot be used
            reporter.failed(error, None, resumable=False)
            raise click.exceptions.Exit(error.exit_status) from error


def _supervise(
    work: Callable[[Record], Coroutine[object, object, None]],
    record: Record,
    reporter: Reporter,
    job_id: str,
) -> None:
    try:
        run_interruptible(reported(work(record), reporter))
        return
    except ComfyRemoteError as caught:
        if isinstance(caught, NotTrusted) and caught.asks_for and can_ask():
            raise  # to ask, and to begin again: see `trust.asks_for_trust`
        error = caught
    except asyncio.CancelledError:
        error = JobCancelled(f"Stopped. {_what_was_sent(record, job_id)}")
    except KeyboardInterrupt:
        error = JobCancelled(
            "Stopped at once. The job may still be running.",
            advice=f"Cancel it with `comfy-remote jobs cancel {job_id}`.",
        )
    entry = _known(record, job_id)
    # Outputs that the target does not have, or that were never made, cannot be fetched later.
    lost = isinstance(error, OutputLost)
    resumable = entry is not None and entry.state not in _ENDED_BADLY and not lost
    reporter.failed(error, job_id if entry is not None else None, resumable=resumable)
    raise click.exceptions.Exit(error.exit_status)


async def reported(work: Coroutine[object, object, _T], reporter: Reporter) -> _T:
    """Do it, and report each failed try, and that time passes."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK)
            reporter.waiting()

    last, at = "", 0.0

    def say(said: str) -> None:
        """Report a try, unless another request has just failed in the same way."""
        nonlocal last, at
        failure, now = said.rpartition(" in ")[0], time.monotonic()
        if failure != last or now - at > _SAME_FAILURE:
            reporter.event(Log(said, "warning"))
        last, at = failure, now

    ticking = asyncio.ensure_future(tick())
    try:
        with retries_said(say):
            return await work
    finally:
        ticking.cancel()


def _what_was_sent(record: Record, job_id: str) -> str:
    entry = _known(record, job_id)
    if entry is None:
        return "Nothing was sent."
    if entry.did_it_run is DidItRun.NEVER_ACCEPTED:
        return "The job was not sent."
    if entry.state is JobState.CANCELLED:
        return "The job was cancelled."
    return "The job may have been sent."


def _known(record: Record, job_id: str) -> JobEntry | None:
    try:
        return record.get(job_id)
    except JobNotFound:
        return None


async def follow(
    job: Job, folder: Path, reporter: Reporter, on_interrupt: OnInterrupt = "cancel"
) -> list[SavedOutput]:
    """Report a job's events, then save its outputs below ``folder``.

    At Ctrl-C, it cancels the job and follows it to its end, or leaves it running, as
    ``on_interrupt`` says.

    Raises:
        JobCancelled: It was interrupted; the message says what became of the job.
    """
    try:
        await _report(job, reporter)
        return await _save(job, folder, reporter)
    except asyncio.CancelledError:
        raise await _interrupted(job, folder, reporter, on_interrupt) from None


async def _report(job: Job, reporter: Reporter) -> None:
    """Report a job's events. What is missing at its end is a warning, unless one has said it."""
    said: list[str] = []
    async for event in job:
        if isinstance(event, Log):
            said.append(event.message)
        elif isinstance(event, Finished):
            for problem in event.problems:
                if not any(problem.reason in one for one in said):
                    reporter.event(Log(str(problem), "warning"))
        reporter.event(event)


async def wait_and_list(
    job: Job, reporter: Reporter, on_interrupt: OnInterrupt = "cancel"
) -> list[ListedOutput]:
    """As `follow`, but the outputs are listed, not fetched. Raises a failed job's own error."""
    try:
        await _report(job, reporter)
    except asyncio.CancelledError:
        raise await _interrupted(job, None, reporter, on_interrupt) from None
    return [ListedOutput(output, job.address_of(output)) for output in await job.listed()]


def exit_if_incomplete(job: Job) -> None:
    """Exit with `INCOMPLETE` if a job that succeeded gave less than its workflow asked for."""
    if job.problems:
        raise click.exceptions.Exit(INCOMPLETE)


async def _save(job: Job, folder: Path, reporter: Reporter) -> list[SavedOutput]:
    finished = job.finished
    if finished is None or not finished.outputs:
        return await job.save_outputs(folder, reporter.received)
    reporter.fetching(finished.outputs)
    known = len(finished.problems)
    if finished.error is None:
        saved = await job.save_outputs(folder, reporter.received)
    else:
        try:
            saved = await job.save_outputs(folder, reporter.received, even_if_failed=True)
            reporter.partial(saved)
        except ComfyRemoteError as error:
            reporter.event(Log(f"What it had saved could not be fetched: {error}", "warning"))
    for problem in job.problems[known:]:
        reporter.event(Log(str(problem), "warning"))
    if finished.error is not None:
        raise finished.error
    return saved


def chosen_target(on: str | None, reporter: Reporter) -> tuple[str, Configuration]:
    """The name or address of the target, and the configuration. Says which if none was named."""
    configuration = Configuration.load()
    chosen = configuration.choose(on)
    if configuration.untrusted is not None:
        reporter.note(configuration.untrusted.sentence())
    if on is None:
        reporter.note(configuration.usual_sentence())
        if not configuration.usual()[1]:
            # One of these may name the target that the user expects.
            for unused in unused_env_files():
                reporter.note(unused)
    return chosen, configuration


def say_cancelling(reporter: Reporter) -> None:
    """Say why the command does not end yet."""
    reporter.note("Cancelling the job (Ctrl-C again stops at once) …")


async def _interrupted(
    job: Job, folder: Path | None, reporter: Reporter, on_interrupt: OnInterrupt
) -> JobCancelled:
    """Cancel the job or leave it running; gives what happened to it."""
    again = f"Fetch it with `{resume_command(job.id)}`"
    if job.finished is not None and job.finished.state is JobState.SUCCEEDED:
        return JobCancelled(
            "Stopped before the outputs arrived. The job itself has succeeded.",
            advice=f"{again}.",
        )
    if on_interrupt == "leave":
        return JobCancelled(
            "Stopped following. The job continues on the target.",
            advice=f"{again}, or stop it with `comfy-remote jobs cancel {job.id}`.",
        )
    say_cancelling(reporter)
    why = await call_off(job, on_event=reporter.event)
    finished = job.finished
    if why is not None or finished is None:
        said = f" {why}" if why else ""
        return JobCancelled(
            f"The target did not confirm that it cancelled the job.{said} It may still be running.",
            advice=f"{again}, or cancel it with `comfy-remote jobs cancel {job.id}`.",
        )
    if finished.state is JobState.SUCCEEDED and folder is not None:
        try:
            await _save(job, folder, reporter)
        except ComfyRemoteError as error:
            return JobCancelled(
                "The job had finished before it could be cancelled. Its outputs could not be "
                f"fetched: {error.message}",
                advice=f"{again}.",
            )
        return JobCancelled(
            f"The job had finished before it could be cancelled. Its outputs are in {folder}."
        )
    if finished.state is JobState.SUCCEEDED:
        return JobCancelled(
            "The job had finished before it could be cancelled.", advice=f"{again}."
        )
    if finished.state is JobState.CANCELLED or finished.error is None:
        return JobCancelled(
            "The job was cancelled.",
            advice=f"`{resume_command(job.id)}` shows how it ended; to run it again, run the "
            "workflow again.",
        )
    return JobCancelled(
        f"The job had ended before it could be cancelled: {finished.error.message}",
        advice=finished.error.advice,
    )
