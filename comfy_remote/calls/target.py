"""Calls of a workflow on a target. A call is an ordinary job.

Values travel as value files (see `media.values`): to the target as the job's input files, which
Remote Input nodes load, and back as its outputs, which Remote Output nodes write.

`call` is for Python values. A `TargetCall` can be followed, and also passes value files through
undecoded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ..errors import OutputLost
from ..events import Event
from ..jobs.client import Client
from ..jobs.job import Job
from ..media.remote_values import VALUES_KEY, value_file_name
from ..media.temporary import TemporaryFolder
from ..media.values import DecodedValue
from ..targets.base import InputFile
from ..workflow.interface import Interface
from ..workflow.prompt import Prompt
from .run import JobRun
from .values import Argument, ValueFile, ValueForm
from .workflow import CallableWorkflow

__all__ = ["TargetCall", "call", "value_files"]

_FORM = ValueForm()


class TargetCall(JobRun):
    """A call of a workflow; `start` submits its job.

    Args:
        client: Of the target; it stays open until the results are here.
        workflow: What is called.
        arguments: By key: a value file, or a plain JSON value.
        timeout: As for `Client.submit`.
        job_id: As for `Client.submit`.
        source: A word for where the call came from, for the record.
    """

    def __init__(
        self,
        client: Client,
        workflow: CallableWorkflow,
        arguments: Mapping[str, Argument],
        *,
        timeout: float | None = None,
        job_id: str | None = None,
        source: str = "call",
    ) -> None:
        super().__init__(self._submitted)
        self._client = client
        self._workflow = workflow
        self._arguments = arguments
        self._timeout = timeout
        self._job_id = job_id
        self._source = source

    @property
    def keys(self) -> list[str]:
        """The keys of its results."""
        return [entry.key for entry in self._workflow.interface.outputs]

    async def results(
        self,
        folder: Path,
        form: ValueForm = _FORM,
        *,
        only: Collection[str] | None = None,
        even_if_failed: bool = False,
    ) -> dict[str, DecodedValue]:
        """Wait for the job, and bring its results here; nothing else that it made is fetched.

        Args:
            folder: There, empty, and private to the caller.
            form: What the results become.
            only: Keys of the results that are wanted; all by default.
            even_if_failed: See `value_files`.

        Returns:
            By key. ``is_list`` is true for all: ComfyUI's outputs are lists, mostly of one.

        Raises:
            ComfyRemoteError: As `value_files`.
        """
        files = await self.files(folder, only=only, even_if_failed=even_if_failed)
        return await asyncio.to_thread(
            lambda: {key: form.read(file.path, file.type) for key, file in files.items()}
        )

    async def files(
        self,
        folder: Path,
        *,
        only: Collection[str] | None = None,
        even_if_failed: bool = False,
    ) -> dict[str, ValueFile]:
        """The same undecoded; see `value_files`."""
        return await value_files(
            self.job, self._workflow.interface, folder, only=only, even_if_failed=even_if_failed
        )

    async def _submitted(self) -> Job:
        """Submit the job.

        Raises:
            WorkflowInvalid: A key is unknown, missing, or its value does not fit.
            ComfyRemoteError: As `Client.submit`.
        """
        workflow = self._workflow
        return await self._client.submit(
            dict(workflow.with_arguments(self._arguments)),
            inputs=workflow.files,
            base=workflow.base,
            only_base=workflow.only_base,
            embed=workflow.workflow,
            source=self._source,
            timeout=self._timeout,
            job_id=self._job_id,
            value_files=_input_files(self._arguments),
        )


async def call(
    client: Client,
    workflow: CallableWorkflow | Prompt | Path,
    inputs: Mapping[str, object],
    *,
    form: ValueForm = _FORM,
    on_event: Callable[[Event], object] | None = None,
    timeout: float | None = None,
) -> dict[str, DecodedValue]:
    """Call a workflow with Python values, and wait for its results.

    Interrupted while it runs (cancelled, an exception in ``on_event``), or not done in time, its
    job is cancelled on the target.

    Args:
        client: Of the target.
        workflow: With Remote Input and Remote Output nodes; also a prompt in API format, or a
            workflow file.
        inputs: By key: numbers, texts, tensors (NumPy's, torch's), and what `media.values`
            encodes. A `DecodedValue` is sent as it is, with all items if it is a list.
        form: How they are sent, and what the results become.
        on_event: Called with each of the job's events.
        timeout: As for `Client.submit`.

    Returns:
        As `TargetCall.results`.

    Raises:
        ValueCannotTravel: An input holds a model or the like.
        ComfyRemoteError: As `TargetCall.start` and `TargetCall.results`.
    """
    if isinstance(workflow, Path):
        workflow = await CallableWorkflow.load(workflow, client)
    elif not isinstance(workflow, CallableWorkflow):
        workflow = CallableWorkflow.of_prompt(workflow)
    interface = workflow.interface
    with TemporaryFolder("call") as name:
        sent, here = Path(name, "sent"), Path(name, "here")
        here.mkdir()
        arguments = await asyncio.to_thread(
            lambda: {
                key: form.argument(value, interface.input(key).type, sent)
                for key, value in inputs.items()
            }
        )
        made = TargetCall(client, workflow, arguments, timeout=timeout)
        return await made.whole(lambda: made.results(here, form), on_event)


async def value_files(
    job: Job,
    interface: Interface,
    folder: Path,
    *,
    only: Collection[str] | None = None,
    even_if_failed: bool = False,
) -> dict[str, ValueFile]:
    """Wait for a call's job, and bring the value files that it gave here, undecoded.

    Args:
        interface: Of the workflow that was called.
        folder: There, empty, and private to the caller.
        only: Keys of the results that are wanted; all by default.
        even_if_failed: Of a job that failed, bring those that it had given before, if it had
            made anything, instead of raising its error.

    Returns:
        By key, in the order of the prompt's nodes.

    Raises:
        ComfyRemoteError: The job's own error if it did not succeed, or `OutputError`.
    """
    made = await job.listed(even_if_failed=even_if_failed)
    by_node = {output.node_id: output for output in made if output.key == VALUES_KEY}
    wanted = [entry for entry in interface.outputs if only is None or entry.key in only]
    if job.finished is not None and job.finished.error is not None:
        wanted = [entry for entry in wanted if entry.node_id in by_node]
    missing = [entry.key for entry in wanted if entry.node_id not in by_node]
    if missing:
        raise OutputLost(
            f"The job succeeded, but returned no value for {', '.join(missing)}.",
            advice="Its Remote Output did not run, or Comfy Remote on the target is too old. "
            "Look at the nodes before it, and update the pack there.",
            details={"missing": [*missing]},
        )
    files = await job.fetch([by_node[entry.node_id] for entry in wanted], folder)
    return {
        entry.key: ValueFile(file.path, file.size, file.sha256, entry.type)
        for entry, file in zip(wanted, files, strict=True)
    }


def _input_files(arguments: Mapping[str, Argument]) -> list[InputFile]:
    """The value files among a call's arguments, each once."""
    files = {value.sha256: value for value in arguments.values() if isinstance(value, ValueFile)}
    return [
        InputFile(value_file_name(file.sha256), file.path, file.size, file.sha256)
        for file in files.values()
    ]
