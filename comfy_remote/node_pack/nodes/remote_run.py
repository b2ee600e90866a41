"""A job on a target, for a node: with its estimate before and its price after. Knows no ComfyUI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ...calls.run import JobRun
from ...config.settings import Configuration
from ...events import Finished
from ...jobs.client import Client
from ...jobs.estimate import RunEstimate, estimate_on
from ...jobs.job import Job
from ...jobs.output import Output
from ...outputs import OutputKind
from ...targets.base import RunRequest, not_returned
from ...targets.own_command import own_command
from ...units import dollars
from ...workflow.prompt import Prompt
from .watched import NodeRun

__all__ = ["RemoteRun", "films_of", "pictures_of"]

_T = TypeVar("_T")


@dataclass
class RemoteRun(NodeRun):
    """One job."""

    source: str = "RunPod Remote Execute"

    async def outputs(self, client: Client, request: RunRequest) -> list[Output]:
        """Run it and bring here what it made; see `run`."""
        return await self.run(client, request, Job.outputs)

    async def run(
        self, client: Client, request: RunRequest, collect: Callable[[Job], Awaitable[_T]]
    ) -> _T:
        """Run it, and collect what it made. If this ends early, the job is cancelled.

        Args:
            collect: Called with the job once it has ended, however it did.
        """
        configuration = Configuration.load()
        estimate = await estimate_on(
            *(client.target, client.record, request.prompt, configuration),
            name=self.where,
            background=client.background,
        )
        self.watcher.log(f"{self.where}: {estimate.sentence()}", "info")
        if sentence := not_returned(client.target, request.prompt):
            self.watcher.log(sentence, "warning")
        said = replace(estimate, unpriced=False)  # the log says it
        note = "" if estimate.seconds is None else f". {said.sentence()}"

        job_run = JobRun(
            lambda: client.send(
                request, source=self.source, timeout=self.timeout, begun=self._began
            )
        )

        async def collected() -> _T:
            job = job_run.job
            finished = job.finished
            if finished is not None and finished.error is not None and finished.outputs:
                self.watcher.log(
                    f"Before it failed, the job had saved {len(finished.outputs)}: "
                    f"`{own_command()} jobs resume {job.id}` fetches them.",
                    "warning",
                )
            made = await collect(job)
            logged = len(finished.problems) if finished is not None else 0
            for problem in job.problems[logged:]:
                self.watcher.log(f"{problem}", "warning")
            return made

        made = await self.whole(job_run, collected, note)
        self.watcher.say(self._summary(estimate, job_run.finished))
        return made

    def _again(self, run_id: str) -> str:
        return f" Try again with `{own_command()} jobs cancel {run_id}`."

    def _summary(self, estimate: RunEstimate, finished: Finished | None) -> str:
        text = f"Done on {self.where} in {self.elapsed:.0f} s"
        seconds = finished.details.get("run_seconds") if finished is not None else None
        if isinstance(seconds, int | float):
            text += f", {seconds:.1f} s of it on the GPU"
            if estimate.hour is not None:
                text += f": {dollars(estimate.hour.of(seconds))}"
        return text


def pictures_of(outputs: Sequence[Output], prompt: Prompt) -> list[Output]:
    """The pictures among the outputs: the saved ones or, where nothing is saved, the previews.

    In the order of the prompt; those whose node is not known come last, as they came.
    """
    pictures = _of_kind("image", outputs, prompt)
    saved = [output for output in pictures if output.folder != "temp"]
    return saved or ([] if films_of(outputs, prompt) else pictures)


def films_of(outputs: Sequence[Output], prompt: Prompt) -> list[Output]:
    """The films among the outputs, in the order of `pictures_of`."""
    films = _of_kind("video", outputs, prompt)
    return [output for output in films if output.folder != "temp"] or films


def _of_kind(kind: OutputKind, outputs: Sequence[Output], prompt: Prompt) -> list[Output]:
    order = {node_id: number for number, node_id in enumerate(prompt)}
    found = [output for output in outputs if output.kind == kind]
    return sorted(found, key=lambda output: order.get(output.node_id or "", len(order)))
