"""What can be known of a workflow before it runs: whether it would, and what would run where."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import WorkflowInvalid
from ..schemas.finding import Found, from_registry, target_schemas
from ..targets.base import DescribesByJob, LimitsSizes, Target, not_returned
from ..wire.repo_list import parse_repo_list
from ..workflow.change.prepare import Changes, PreparedWorkflow, prepare
from ..workflow.change.settings import find_node
from ..workflow.check import Limits, Problem, Report, check_prompt
from ..workflow.cut import Cut, images_in, marks_in
from ..workflow.cut import cut as cut_prompt
from ..workflow.files import FileSearch, file_uses
from ..workflow.load import LoadedWorkflow
from ..workflow.prompt import Prompt
from ..workflow.repo_list import find_repo_list, without_repo_list
from ..workflow.schema import Schemas
from .inputs import loaded_pictures

__all__ = [
    "Known",
    "ask_target",
    "cut_for",
    "every_class",
    "limits_of",
    "prepared_for_check",
    "repo_list_of",
    "report_on",
]


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt, and what is known of where it would run.

    Attributes:
        schemas: What it was prepared and is checked by.
        files: Those that the target has of what the prompt loads.
        limits: How large its requests and answers may be.
        not_returned: Which nodes' outputs it does not return; see `targets.base.not_returned`.
        notes: How the schemas were found.
        repo_list: The list of models that travels with the job; see `workflow.repo_list`.
    """

    prepared: PreparedWorkflow
    schemas: Schemas
    files: frozenset[str] = frozenset()
    limits: Limits | None = None
    not_returned: str = ""
    notes: Sequence[str] = ()
    repo_list: str = ""


async def ask_target(
    target: Target,
    address: str,
    loaded: LoadedWorkflow,
    changes: Changes,
    search: FileSearch,
    given: Schemas | None = None,
    folder: Path | None = None,
    *,
    again: bool = True,
) -> Known:
    """Prepare a workflow by what its target has.

    Args:
        target: Open.
        address: As for `target_schemas`, like ``folder``.
        search: Where files are on this machine: the target is asked about the others only.
        given: Schemas to use instead of the target's.
        again: Whether a target that is described by a job is asked again if there are errors.
    """
    classes = None
    if loaded.prompt is not None:
        classes = {node["class_type"] for node in loaded.prompt.values()}
    if given is not None:
        found = Found(given)
    else:
        found = await target_schemas(target, address, classes, folder=folder)
    found = await from_registry(found, loaded, folder=folder)
    prepared = prepared_for_check(loaded, changes, found.schemas)
    names = dict.fromkeys(use.name for use in file_uses(prepared.prompt, found.schemas))
    elsewhere = [n for n in names if search.find(n) is None and not search.refusal(n)]
    there = frozenset([name for name in elsewhere if await target.has_input(name)])
    lost = not_returned(target, prepared.prompt)
    limits, models = limits_of(target), repo_list_of(loaded)
    known = Known(prepared, found.schemas, there, limits, lost, found.notes, models)
    if again and isinstance(target, DescribesByJob) and report_on(known, search).errors:
        await target.describe_again()  # what was missing some time ago may be there by now
        return await ask_target(
            target, address, loaded, changes, search, given, folder, again=False
        )
    return known


def prepared_for_check(
    loaded: LoadedWorkflow, changes: Changes, schemas: Schemas
) -> PreparedWorkflow:
    """As for a run, but unknown nodes are left in: a check reports them."""
    prepared = prepare(loaded, changes, schemas, keep_unknown=True)
    return replace(prepared, prompt=without_repo_list(prepared.prompt))


def repo_list_of(loaded: LoadedWorkflow) -> str:
    """The models that a workflow asks a worker for, as it was loaded."""
    return find_repo_list(loaded.prompt or {}, loaded.workflow)


def limits_of(target: Target) -> Limits:
    """How large its requests and answers may be."""
    if not isinstance(target, LimitsSizes):
        return Limits()
    return Limits(target.body_limit, target.result_limit)


def report_on(known: Known, search: FileSearch) -> Report:
    """What would keep it from running, and what would make it cheaper."""
    report = check_prompt(
        known.prepared.prompt,
        known.schemas,
        workflow=known.prepared.workflow,
        files=replace(search, on_target=known.files),
        limits=known.limits or Limits(),
        doubts=known.prepared.doubts,
    )
    if known.not_returned:
        problem = Problem("outputs_not_returned", known.not_returned, severity="warning")
        report = replace(report, problems=(*report.problems, problem))
    try:
        parse_repo_list(known.repo_list)
    except WorkflowInvalid as error:
        # Not an error: a ComfyUI that is no worker runs the workflow all the same.
        message = f"{error.message} A worker refuses a job with it."
        problem = Problem("repo_list_invalid", message, severity="warning", advice=error.advice)
        report = replace(report, problems=(*report.problems, problem))
    return report


def cut_for(
    loaded: LoadedWorkflow,
    prompt: Prompt,
    there: Schemas,
    search: FileSearch,
    *,
    nodes: Collection[str] = (),
    target: str | None = None,
    here: Schemas | None = None,
) -> Cut | None:
    """What would run where if some nodes of a prompt ran elsewhere. Blocking: it reads pictures.

    Args:
        loaded: What the prompt comes from, with its marks and how pictures are to cross.
        there: The target's schemas.
        nodes: Ids, titles or classes of those that would run there; by default, those marked.
        target: The target's name, for all marks; by default each has its own.
        here: The classes of this ComfyUI; by default it has every one.

    Returns:
        ``None`` if no node is named or marked.
    """
    marks: Mapping[str, str]
    if nodes:
        marks = {find_node(prompt, name): target or "" for name in nodes}
    else:
        marks = marks_in(loaded.workflow or {})
        marks = dict.fromkeys(marks, target) if target else marks
    if not marks:
        return None
    known = there if not there.is_snapshot else None
    return cut_prompt(
        prompt,
        marks,
        here if here is not None else every_class(prompt, there, Schemas.bundled()),
        dict.fromkeys(marks.values(), known),
        loaded=loaded_pictures(prompt, lambda use: search.find(use.name, use.folder)),
        images=images_in(loaded.workflow or {}),
    )


def every_class(prompt: Prompt, *known: Schemas) -> Schemas:
    """A ComfyUI that has every node of a prompt, as far as their descriptions are known."""
    documents = {}
    for kind in {node["class_type"] for node in prompt.values()}:
        found = next((one.document(kind) for one in known if kind in one), None)
        documents[kind] = dict(found or {})
    return Schemas(documents, "this ComfyUI")
