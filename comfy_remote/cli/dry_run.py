"""``comfy-remote run --dry-run``: what would be sent and what it would cost; nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..events import Log
from ..jobs.estimate import RunEstimate, estimate_on
from ..jobs.forecast import ask_target, report_on
from ..net.address import shown
from ..schemas.finding import known_without
from ..targets.base import DescribesByJob, RunRequest
from ..types import JsonValue
from ..units import size_text
from ..workflow.change.prepare import Changes
from ..workflow.check import Report
from ..workflow.files import FileSearch
from ..workflow.load import LoadedWorkflow
from ..workflow.schema import Schemas
from .advice import for_terminal

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..jobs.client import Client
    from .reporter import Reporter

__all__ = ["DryRun", "dry_run", "use_what_is_known"]


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would send, and what is known of how it would go.

    Attributes:
        target: Its name.
        address: What the name means.
        request: As it would be sent. Of its files, the target has ``known_inputs`` already.
        report: What would keep it from running.
        estimate: How long it takes, and what it costs.
        paid: Whether a node costs money at its own provider.
    """

    target: str
    address: str
    request: RunRequest
    report: Report
    estimate: RunEstimate
    paid: bool

    def lines(self) -> list[str]:
        """For people. The prompt is not among them."""
        request, report = self.request, self.report
        where = self.target if self.address == self.target else f"{self.target} ({self.address})"
        count = len(request.prompt)
        lines = [f"Would go to {shown(where)}: {count} node{'' if count == 1 else 's'}."]
        for file in request.files:
            there = ", is there already" if file.sha256 in request.known_inputs else ""
            size = f"{size_text(file.size)}{there}"
            lines.append(f"With it would go {file.path} ({size}), as {file.name}.")
        if request.repo_list:
            listed = len([one for one in request.repo_list.splitlines() if one.strip()])
            lines.append(f"It would ask for the models of its repo_list: {listed}.")
        errors, warnings = len(report.errors), len(report.problems) - len(report.errors)
        counts = [
            f"{number} {word}{'' if number == 1 else 's'}"
            for number, word in ((errors, "error"), (warnings, "warning"))
            if number
        ]
        found = f"{' and '.join(counts)}, see above" if counts else "no problem was found"
        lines.append(f"Checked against the nodes of {report.schemas}: {found}.")
        lines.append(self.estimate.sentence())
        if self.paid:
            lines.append("Some of its nodes cost money at their own provider, too.")
        return [*lines, "Nothing was sent."]

    def to_json(self) -> dict[str, JsonValue]:
        """All of it."""
        request = self.request
        return {
            "target": self.target,
            "address": self.address,
            "prompt": cast("JsonValue", request.prompt),
            "files": [
                {
                    "name": file.name,
                    "path": str(file.path),
                    "size": file.size,
                    "sha256": file.sha256,
                    "known": file.sha256 in request.known_inputs,
                }
                for file in request.files
            ],
            "repo_list": request.repo_list or None,
            "check": self.report.to_json(),
            "estimate": self.estimate.to_json(),
            "paid": self.paid,
        }


async def use_what_is_known(client: Client, address: str, reporter: Reporter) -> None:
    """Have a client read workflows by what its target said before, if only a job could ask it.

    Args:
        address: What the target's name means.
    """
    target = client.target
    if await client.given_schemas() is not None or not isinstance(target, DescribesByJob):
        return
    nodes = (await target.described_before()).nodes
    if nodes is not None:
        client.use_schemas(Schemas(nodes, target.name))
        return
    why = f"{target.name} has not said which nodes it has, and only a job can ask it"
    found = await asyncio.to_thread(known_without, address, target.name, why)
    for note in found.notes:
        reporter.note(note)
    client.use_schemas(found.schemas)


async def dry_run(
    loaded: LoadedWorkflow,
    client: Client,
    configuration: Configuration,
    reporter: Reporter,
    *,
    address: str,
    changes: Changes,
    inputs: Sequence[Path],
    base: Path,
    repo_list: str | None,
) -> DryRun:
    """Prepare a workflow as a run does, check it, and report what is wrong.

    The target is asked what it has, unless that takes a job, which may start a worker: then what it
    said the last time counts.

    Args:
        client: Open.
        address: What the target's name means.
        base, inputs: Where its files are, as for `Client.prepare`.
        repo_list: As for `Client.submit`.

    Raises:
        ComfyRemoteError: The run would fail in the same way before anything is sent.
    """
    target = client.target
    await use_what_is_known(client, address, reporter)
    search = FileSearch.beside(base, inputs)
    given = await client.given_schemas()
    known = await ask_target(target, address, loaded, changes, search, given)
    report = await asyncio.to_thread(report_on, known, search)
    for problem in report.problems:
        place = ":".join(part for part in (problem.node_id, problem.input) if part)
        words = f"{place}: {problem.message}" if place else problem.message
        advice = for_terminal(problem.advice)
        reporter.event(Log(f"{words} {advice}".rstrip(), problem.severity))
    ready = await client.prepare(loaded, changes=changes, inputs=inputs, base=base)
    doubts = {doubt.sentence for doubt in ready.doubts}  # in the report
    for sentence in ready.notes:
        if sentence not in doubts:
            reporter.note(sentence)
    for sentence in ready.ignored:
        reporter.event(Log(sentence, "warning"))
    for path in ready.unused:
        unused = f"--input {path} would not be sent: no Load node names {path.name!r}."
        reporter.event(Log(unused, "warning"))
    request = RunRequest("", ready.prompt, ready.files, ready.workflow, repo_list=repo_list)
    request = await client.completed(request)
    estimate = await estimate_on(
        target, client.record, ready.prompt, configuration, background=client.background
    )
    return DryRun(target.name, address, request, report, estimate, ready.paid)
