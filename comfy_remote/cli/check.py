"""``comfy-remote check``: whether a workflow would run, without running it."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import print_json, printable_line, say
from .options import (
    change_options,
    inputs_option,
    load_typed,
    lock_named,
    lock_option,
    target_option,
    typed_name,
    workflow_argument,
)
from .schemas import completed, found_schemas, schemas_option

if TYPE_CHECKING:
    from ..errors import WorkflowInvalid
    from ..jobs.cache.results import CacheAnswer
    from ..jobs.forecast import Known
    from ..ready.holding import Held
    from ..types import JsonValue
    from ..workflow.change.prepare import Changes
    from ..workflow.check import Limits, Report
    from ..workflow.files import FileSearch
    from ..workflow.load import LoadedWorkflow
    from ..workflow.schema import Schemas

__all__ = ["check"]


@click.command()
@workflow_argument
@target_option(
    "Check against what this target has. Default: the configured one; if there is none, or "
    "it cannot be reached, what comes with Comfy Remote: ComfyUI's own nodes, and no models."
)
@schemas_option
@change_options
@inputs_option
@click.option(
    "--cache",
    "ask_cache",
    is_flag=True,
    help="Also say whether the cache would give its result; if it cannot, why, node by node.",
)
@lock_option(
    "--lock", "Also compare the target with this lock, made by `comfy-remote lock`.", own=True
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def check(
    context: click.Context,
    workflow: Path,
    on: str | None,
    schemas_source: Path | str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
    ask_cache: bool,
    lock_file: Path | None,
    as_json: bool,
) -> None:
    """Check whether a workflow would run on a target, and suggest what would make it cheaper.

    WORKFLOW is whatever `run` takes. Each problem is a line `file:node:input: message`. Only
    questions are sent. Exit status: 4 if anything would keep it from running, or is not what the
    lock says, else 0; warnings and advice do not count.

    \b
    Examples:
      comfy-remote check workflow.json --on http://192.168.1.20:8188
      comfy-remote check workflow.json --set KSampler.steps=40
      comfy-remote check ComfyUI_00042_.png --json | jq .node_errors
      comfy-remote check workflow.json --on lan --cache
      comfy-remote check workflow.json --on lan --lock comfy-remote.lock
      comfy-remote check portrait.zip --on lan --lock
    """
    from ..errors import WorkflowInvalid

    lock_file = lock_named(lock_file, workflow)
    held = None if lock_file is None else _held(lock_file, on)
    source = "standard input" if str(workflow) == "-" else typed_name(workflow)
    try:
        report = _report(workflow, on, schemas_source, changes, inputs)
    except WorkflowInvalid as error:
        report = _unusable(error)
    cached = None
    if ask_cache and not report.errors:
        cached = _cache_answer(workflow, on, schemas_source, changes, inputs)
    if as_json:
        said: dict[str, JsonValue] = {} if cached is None else {"cache": cached.to_json()}
        said |= {} if held is None else {"lock": held.to_json()}
        print_json({"source": source, **report.to_json(), **said})
    else:
        _print(report, source)
        if cached is not None:
            _print_cached(cached, source)
        if held is not None:
            _print_held(held, str(lock_file))
    if report.errors or (held is not None and held.problems):
        context.exit(WorkflowInvalid.exit_status)


def _report(
    path: Path,
    on: str | None,
    given: Path | str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
) -> Report:
    from ..jobs.forecast import report_on
    from ..workflow.files import FileSearch
    from ..workflow.models import find_models
    from .errors import check_named_files

    loaded = load_typed(path, changes.variables())
    check_named_files("--input", inputs)
    search = FileSearch.beside(path.absolute().parent, inputs)
    schemas = None if given is None else found_schemas(given, None).schemas
    known = _on_target(loaded, on, schemas, changes, search)
    prepared = known.prepared
    doubts = {doubt.sentence for doubt in prepared.doubts}  # in the report
    for sentence in prepared.notes:
        if sentence not in doubts:
            say(sentence)
    say(f"Checked against the nodes of {known.schemas.source}.")
    if known.schemas.is_snapshot and (models := len(find_models(prepared.prompt))):
        named = "the model" if models == 1 else f"the {models} models"
        say(f"Only a target that lists its models can tell if it has {named} of the workflow.")
    return report_on(known, search)


def _on_target(
    loaded: LoadedWorkflow,
    on: str | None,
    given: Schemas | None,
    changes: Changes,
    search: FileSearch,
) -> Known:
    """Prepare the prompt, and ask the target what only it knows.

    A target that cannot be asked is an error only if ``--on`` named it.
    """
    from ..config.settings import Configuration
    from ..errors import AuthenticationError, TargetError
    from ..jobs.forecast import Known, ask_target, limits_of, prepared_for_check, repo_list_of
    from ..schemas.finding import Found, known_without
    from ..targets.opening import open_target
    from ..workflow.schema import Schemas
    from .interrupt import run_interruptible

    configuration = Configuration.load()
    chosen: str | None = configuration.choose(on)
    if on is None and not configuration.usual()[1]:
        chosen = None  # the sandbox would say nothing of where it is to run
    if configuration.untrusted is not None:
        say(configuration.untrusted.sentence())

    def known_by(found: Found, limits: Limits | None = None) -> Known:
        schemas = completed(found, loaded)
        prepared = prepared_for_check(loaded, changes, schemas)
        return Known(prepared, schemas, limits=limits, repo_list=repo_list_of(loaded))

    if chosen is None:
        say("No target is named or configured.")
        return known_by(Found(given or Schemas.bundled()))
    target = open_target(chosen, configuration)
    address = configuration.address_of(chosen)

    async def ask() -> Known:
        async with target as opened:
            known = await ask_target(opened, address, loaded, changes, search, given)
        for note in known.notes:
            say(note)
        return known

    try:
        return run_interruptible(ask())
    except (TargetError, AuthenticationError) as error:
        if on is not None:
            raise
        why = f"The configured target {target.name} cannot be asked: {error.message.rstrip('.')}"
        found = Found(given, (f"{why}.",)) if given else known_without(address, target.name, why)
        return known_by(found, limits_of(target))


def _cache_answer(
    path: Path,
    on: str | None,
    given: Path | str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
) -> CacheAnswer:
    """Ask the target, and look into the cache."""
    from ..jobs.client import Client
    from .interrupt import run_interruptible

    async def ask() -> CacheAnswer:
        async with Client(on, schemas=given, on_interrupt=None) as client:
            ready = await client.prepare(
                load_typed(path, changes.variables()),
                changes=changes,
                inputs=inputs,
                base=path.absolute().parent,
            )
            return await client.would_hit(ready)

    return run_interruptible(ask())


def _held(path: Path, on: str | None) -> Held:
    """Hold the target to a lock."""
    from ..config.settings import Configuration
    from ..ready.holding import hold
    from ..ready.lock import read_lock
    from ..targets.opening import open_target
    from .interrupt import run_interruptible

    lock = read_lock(path)
    configuration = Configuration.load()
    if on is None and not configuration.usual()[1]:
        raise click.UsageError("--lock compares a target: name it with --on.")
    target = open_target(configuration.choose(on), configuration)

    async def ask() -> Held:
        async with target as opened:
            return await hold(lock, opened)

    return run_interruptible(ask())


def _print_held(held: Held, lock: str) -> None:
    for line in held.lines():
        print(printable_line(f"{lock}: {line}"))
    for line in held.doubts:
        print(printable_line(f"{lock}: warning: {line}"))
    for plan in held.plans:
        kinds = {one.kind for one in plan.problems}
        if "pack" in kinds or ("model" in kinds and plan.fetches_models is not None):
            command = (
                f"comfy-remote sync --lock {shlex.quote(lock)} --on {shlex.quote(plan.target)}"
            )
            say(f"How that can be brought there, if it can: {command} --plan")
    names = ", ".join(plan.target for plan in held.plans)
    count = len(held.problems)
    things = "1 thing is" if count == 1 else f"{count} things are"
    known = ", as far as it is known" if held.doubts else ""
    say(f"{things} not what {lock} says." if count else f"{names} is what {lock} says{known}.")


def _print_cached(answer: CacheAnswer, source: str) -> None:
    for doubt in answer.verdict.doubts:
        place = ":".join(part for part in (source, doubt.node_id) if part)
        named = f"{doubt.node_class}: " if doubt.node_class else ""
        print(printable_line(f"{place}: not cached: {named}{doubt.why}"))
    say(answer.sentence(time.time()))


def _unusable(error: WorkflowInvalid) -> Report:
    """The report on something that is no prompt, or cannot be made into one."""
    from ..workflow.check import Problem, Report

    node_id, name = error.details.get("node_id"), error.details.get("input")
    problem = Problem(
        "workflow_invalid",
        error.message,
        node_id if isinstance(node_id, str) else None,
        input=name if isinstance(name, str) else None,
        advice=error.advice,
        details=error.details,
    )
    return Report((problem,), (), schemas="")


def _print(report: Report, source: str) -> None:
    from .advice import for_terminal

    for problem in report.problems:
        place = ":".join(part for part in (source, problem.node_id, problem.input) if part)
        kind = "warning: " if problem.severity == "warning" else ""
        # Messages that begin with the file have said it already.
        message = problem.message.removeprefix(source).lstrip(": ")
        print(printable_line(f"{place}: {kind}{message} {for_terminal(problem.advice)}".rstrip()))
    for advice in report.advice:
        place = ":".join((source, *advice.nodes[:1]))
        print(printable_line(f"{place}: advice: {advice.message} Saves: {advice.saves}"))
    errors, warnings = len(report.errors), len(report.problems) - len(report.errors)
    counts = [
        f"{count} {word}{'s' * (count != 1)}"
        for count, word in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    say(" and ".join(counts) + "." if counts else "Nothing keeps it from running.")
