"""Runs one workflow from a terminal, for ``run`` and ``comfy-run-remote``."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..aio import Deadline
from ..data_class import dataclass
from ..errors import LocalStorageError, WorkflowInvalid
from ..events import Log
from ..jobs.client import Client, not_in_time
from ..jobs.interruption import call_off, started
from ..media.files import private_folder
from ..targets.base import OneEngine, if_unfollowed, not_returned
from ..targets.opening import open_target
from ..workflow.change.prepare import Changes
from ..workflow.load import LoadedWorkflow
from .advice import for_terminal
from .console import resume_command
from .errors import check_named_files
from .follow import (
    OnInterrupt,
    chosen_target,
    exit_if_incomplete,
    follow,
    say_cancelling,
    supervise,
    wait_and_list,
)
from .held import hold_to, lock_in, warn_of_others
from .open_file import open_first
from .options import load_typed
from .reporter import Reporter
from .run_log import LoggedReporter, RunLog

if TYPE_CHECKING:
    from ..config.cache_settings import CacheMode
    from ..config.settings import Configuration
    from ..jobs.record import Record
    from ..jobs.submission import Submission
    from ..workflow.prompt import Prompt

__all__ = ["RunPlan", "run_workflow"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class RunPlan:
    """What the command line asks for.

    Attributes:
        workflow: The file, ``-`` for standard input; ``None`` for the built-in one.
        on: Name or address of the target; ``None`` for the configured one.
        folder: Where the outputs go on this machine; absolute.
        timeout: Seconds from when the target is open until the outputs are here.
        download: Whether to fetch the outputs; else they are listed.
        log_folder: Where to write a log of the run; ``None`` for no log.
        retry_lost: As for `Client.submit`.
        with_repo_list: Whether the models of a node titled ``repo_list`` are asked for.
        wait: Whether to follow the job; else the command ends once the target has it.
        dry: Whether only to say what would be sent.
        lock_file: The lock that the target is held to; ``None`` for none.
        cap, over_cap: As for `Client.submit`.
        cache: As for `Client.submit`.
    """

    workflow: Path | None
    on: str | None
    changes: Changes
    inputs: tuple[Path, ...]
    folder: Path
    timeout: float | None = None
    download: bool = True
    on_interrupt: OnInterrupt = "cancel"
    log_folder: Path | None = None
    open_first: bool = False
    schemas: Path | str | None = None
    retry_lost: bool = True
    with_repo_list: bool = True
    wait: bool = True
    dry: bool = False
    lock_file: Path | None = None
    cap: float | None = None
    over_cap: bool = False
    cache: CacheMode | None = None
    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def run_workflow(plan: RunPlan, reporter: Reporter) -> None:
    """Run it, and report each step. If it ends badly, the reporter says so, and it exits."""
    began = time.monotonic()
    log = None
    if plan.log_folder is not None and not plan.dry:
        log = RunLog(plan.log_folder, plan.changes.image_id or plan.job_id[:8])
        log.facts["workflow"] = None if plan.workflow is None else str(plan.workflow)
        reporter = LoggedReporter(reporter, log)

    async def whole(record: Record) -> None:
        # First, what can be checked here, before anything is asked elsewhere.
        loaded = _load(plan)
        lock = None if plan.lock_file is None else await lock_in(plan.lock_file)
        chosen, configuration = chosen_target(plan.on, reporter)
        target = open_target(chosen, configuration, choose=reporter.choose)
        reporter.connecting(target.name)
        async with Client(target, record=record, schemas=plan.schemas, on_interrupt=None) as client:
            target = client.target  # opening an address shows what is there
            # Not before: finding a pod, or starting the sandbox, does not count.
            deadline = Deadline(plan.timeout)
            if log is not None and isinstance(target, OneEngine):
                described = _in_time(target.describe(()), deadline, target.name)
                log.target(target.name, await described)
            if lock is not None:
                holding = hold_to(lock, str(plan.lock_file), client, reporter)
                await _in_time(holding, deadline, target.name)
            if plan.dry:
                address = configuration.address_of(chosen)
                dry = _dry_run(plan, loaded, client, address, configuration, reporter)
                await _in_time(dry, deadline, target.name)
                return
            ready = await _in_time(_prepared(plan, loaded, client), deadline, target.name)
            for sentence in ready.notes:
                reporter.note(sentence)
            for sentence in ready.ignored:
                reporter.event(Log(sentence, "warning"))
            if lock is not None:
                await warn_of_others(lock, ready.prompt, ready.workflow, reporter)
            paid = await _say_estimate(client, ready.prompt, configuration, reporter)
            if sentence := not_returned(client.target, ready.prompt):
                reporter.event(Log(sentence, "warning"))
            if not plan.wait and (lost := if_unfollowed(client.target, ready.prompt)):
                reporter.event(lost)
            sending = client.submit(
                ready,
                folder=plan.folder,
                timeout=deadline.seconds,
                begun=deadline.begun,
                job_id=plan.job_id,
                retry_lost=plan.retry_lost,
                followed=plan.wait,
                cache=plan.cache,
                repo_list=None if plan.with_repo_list else "",
                on_sent=reporter.sending,
                cap=plan.cap,
                over_cap=plan.over_cap,
            )
            if plan.on_interrupt == "cancel":
                job = await started(
                    sending, call_off, on_interrupt=lambda: say_cancelling(reporter)
                )
            else:
                job = await sending
            reporter.following(job.id, target.name, ready.prompt)
            if plan.on_interrupt == "leave" and plan.wait:
                reporter.note(f"If this ends before the job does: {resume_command(job.id)}")
            for path in ready.unused:
                unused = f"--input {path} was not sent: no Load node names {path.name!r}."
                reporter.event(Log(unused, "warning"))
            if not plan.wait:
                reporter.left(job.id)
                return
            if plan.download:
                saved = await follow(job, plan.folder, reporter, plan.on_interrupt)
                reporter.done(saved, time.monotonic() - began, job.problems)
                if plan.open_first and (why_not := open_first(saved)):
                    reporter.note(why_not)
            else:
                listed = await wait_and_list(job, reporter, plan.on_interrupt)
                reporter.done(listed, time.monotonic() - began, job.problems)
            if paid:
                await _say_cost(job.id, record, reporter)
            exit_if_incomplete(job)

    supervise(whole, reporter, plan.job_id)


async def _say_estimate(
    client: Client, prompt: Prompt, configuration: Configuration, reporter: Reporter
) -> bool:
    """Say about what a run costs, where runs cost money, and whether they do."""
    target = client.target
    if (billing := configuration.billing_of(target.name)) is None:
        return False
    from ..jobs.estimate import estimate_on  # here: most targets cost nothing

    estimate = await estimate_on(
        target, client.record, prompt, configuration, background=client.background
    )
    if billing == "by hour" and estimate.hour is None:
        return False
    if estimate.seconds is not None:
        reporter.note(estimate.sentence())
    return True


async def _say_cost(job_id: str, record: Record, reporter: Reporter) -> None:
    """Say what a job cost that has ended, beside what was estimated."""
    with suppress(LocalStorageError):
        booking = await record.read(record.ledger.of, job_id)
        if booking is not None:
            reporter.note(booking.sentence())


def _load(plan: RunPlan) -> LoadedWorkflow | None:
    loaded = None
    if plan.workflow is not None:
        loaded = load_typed(plan.workflow, plan.changes.variables())
    check_named_files("--input", plan.inputs)
    if plan.download and not plan.dry:
        with private_folder(plan.folder):
            pass  # it can be written to: to be known before a GPU works for it
    return loaded


async def _prepared(plan: RunPlan, loaded: LoadedWorkflow | None, client: Client) -> Submission:
    return await client.prepare(
        loaded or await _text_to_image(client),
        changes=plan.changes,
        inputs=plan.inputs,
        base=_base(plan),
    )


async def _dry_run(
    plan: RunPlan,
    loaded: LoadedWorkflow | None,
    client: Client,
    address: str,
    configuration: Configuration,
    reporter: Reporter,
) -> None:
    from .dry_run import dry_run

    dry = await dry_run(
        loaded or await _text_to_image(client),
        client,
        configuration,
        reporter,
        address=address,
        changes=plan.changes,
        inputs=plan.inputs,
        base=_base(plan),
        repo_list=None if plan.with_repo_list else "",
    )
    if not plan.over_cap and (over := await client.refused_by_cap(dry.request, cap=plan.cap)):
        reporter.event(Log(f"{over.message} {for_terminal(over.advice)}", "warning"))
    reporter.would_send(dry)
    if dry.report.errors:
        raise click.exceptions.Exit(WorkflowInvalid.exit_status)


async def _text_to_image(client: Client) -> LoadedWorkflow:
    from ..workflow.text_to_image import loaders, text_to_image  # here: most runs have a file

    return text_to_image(await client.schemas(loaders()))


def _base(plan: RunPlan) -> Path:
    """The folder that files are looked for in first."""
    return (plan.workflow or Path()).absolute().parent


async def _in_time(work: Coroutine[object, object, _T], deadline: Deadline, target: str) -> _T:
    """What is asked before anything is sent, within the time limit of the run."""
    try:
        return await deadline.within(work)
    except asyncio.TimeoutError:
        raise not_in_time(target, deadline) from None
