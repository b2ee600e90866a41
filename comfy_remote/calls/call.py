"""Calling a workflow like a function: values go in by key, values come out by key.

A call is an ordinary job. Values travel as value files (see `media.values`): to the target as
the job's input files, which Remote Input nodes load, and back as its outputs, which Remote
Output nodes write.

`call` takes and gives Python values. `start_call` and `call_files` work on value files, for
those who pass them on undecoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import ComfyRemoteError, JobTimedOut, OutputLost
from ..events import Event
from ..jobs.client import Client
from ..jobs.interruption import SUBMIT_PATIENCE, is_interruption
from ..jobs.job import Job
from ..media.files import sha256_of
from ..media.remote_values import VALUES_KEY, value_file_name
from ..media.temporary import TemporaryFolder
from ..media.values import DecodedValue, ObjectAdapter, decode_value, encode, read_value
from ..targets.base import InputFile, input_errors
from ..workflow.interface import ANY, Argument, Interface, InterfaceInput, ValueFileName
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["LONGEST_PLAIN_TEXT", "Call", "ValueFile", "call", "call_files", "start_call"]

_CANCEL_PATIENCE = 10.0
LONGEST_PLAIN_TEXT = 64 * 1024
"""Characters: a longer text travels as a file, not in the prompt and the record of jobs."""


@dataclass(frozen=True, slots=True)
class ValueFile:
    """A value file on this machine.

    Attributes:
        size: Bytes.
        sha256: 64 lower-case hex digits.
        type: ComfyUI's type, ``*`` if it is not known.
    """

    path: Path
    size: int
    sha256: str
    type: str = ANY

    @classmethod
    def of(cls, path: Path, type: str = ANY) -> ValueFile:  # noqa: A002  the field's own word
        """A file that is there; blocks while it is hashed.

        Raises:
            InputFileMissing: It cannot be read.
        """
        with input_errors(path):
            return cls(path, path.stat().st_size, sha256_of(path), type)


FileArgument: TypeAlias = "ValueFile | JsonValue"
"""A value file, or a plain JSON value."""


class Call:
    """A call that is under way; made by `start_call`.

    Attributes:
        job: To follow, wait for or cancel.
        interface: Of the workflow that was called.
    """

    def __init__(self, job: Job, interface: Interface) -> None:
        self.job = job
        self.interface = interface

    async def results(self, folder: Path, *, even_if_failed: bool = False) -> dict[str, ValueFile]:
        """Wait for the job, and bring its results here; nothing else that it made is fetched.

        Args:
            folder: There, empty, and private to the caller.
            even_if_failed: Of a job that failed, bring those that it had given before, if it had
                made anything, instead of raising its error.

        Returns:
            By key, in the order of the prompt's nodes.

        Raises:
            ComfyRemoteError: The job's own error if it did not succeed, or `OutputError`.
        """
        made = await self.job.listed(even_if_failed=even_if_failed)
        by_node = {output.node_id: output for output in made if output.key == VALUES_KEY}
        wanted = self.interface.outputs
        finished = self.job.finished
        if finished is not None and finished.error is not None:
            wanted = tuple(entry for entry in wanted if entry.node_id in by_node)
        missing = [entry.key for entry in wanted if entry.node_id not in by_node]
        if missing:
            raise OutputLost(
                f"The job succeeded, but it gave no value for {', '.join(missing)}.",
                advice="Its Remote Output did not run, or Comfy Remote on the target is too old to "
                "send. Look at the nodes before it, and update the pack there.",
                details={"missing": [*missing]},
            )
        files = await self.job.fetch([by_node[entry.node_id] for entry in wanted], folder)
        return {
            entry.key: ValueFile(file.path, file.size, file.sha256, entry.type)
            for entry, file in zip(wanted, files, strict=True)
        }


async def start_call(
    client: Client,
    prompt: Prompt,
    inputs: Mapping[str, FileArgument],
    *,
    files: Sequence[Path | str] = (),
    base: Path | None = None,
    only_base: bool = False,
    workflow: Mapping[str, JsonValue] | None = None,
    schemas: Schemas | None = None,
    timeout: float | None = None,
    job_id: str | None = None,
    source: str = "call",
) -> Call:
    """Submit a workflow with values for its keys.

    Args:
        client: Of the target; it stays open until the results are here.
        prompt: API format, with Remote Output nodes.
        inputs: By key: a value file, or a plain JSON value.
        files: As ``inputs`` of `Client.submit`: for the prompt's Load nodes.
        base: As for `Client.submit`.
        only_base: As for `Client.submit`.
        workflow: As for `Client.submit`.
        schemas: Tell the types of the keys; those that come with the package by default.
        timeout: As for `Client.submit`.
        job_id: As for `Client.submit`.
        source: A word for where the call came from, for the record.

    Raises:
        WorkflowInvalid: A key is unknown, missing, or its value does not fit.
        ComfyRemoteError: As `Client.submit`.
    """
    interface = Interface.of(prompt, schemas or Schemas.bundled())
    arguments: dict[str, Argument] = {}
    value_files: dict[str, InputFile] = {}
    for key, value in inputs.items():
        if isinstance(value, ValueFile):
            name = value_file_name(value.sha256)
            value_files[name] = InputFile(name, value.path, value.size, value.sha256)
            arguments[key] = ValueFileName(name)
        else:
            arguments[key] = value
    job = await client.submit(
        dict(interface.with_values(prompt, arguments)),
        inputs=files,
        base=base,
        only_base=only_base,
        workflow=workflow,
        source=source,
        timeout=timeout,
        job_id=job_id,
        value_files=list(value_files.values()),
    )
    return Call(job, interface)


async def call_files(
    client: Client,
    prompt: Prompt,
    inputs: Mapping[str, FileArgument],
    folder: Path,
    *,
    on_event: Callable[[Event], object] | None = None,
    files: Sequence[Path | str] = (),
    base: Path | None = None,
    only_base: bool = False,
    workflow: Mapping[str, JsonValue] | None = None,
    schemas: Schemas | None = None,
    timeout: float | None = None,
) -> dict[str, ValueFile]:
    """Call a workflow with value files, and wait for those that it gives.

    Interrupted while it runs (cancelled, an exception in ``on_event``), or not done in time, the
    job is cancelled on the target.

    Args:
        folder: As for `Call.results`.
        on_event: Called with each of the job's events.

    Raises:
        ComfyRemoteError: As `start_call` and `Call.results`.
    """
    starting = asyncio.ensure_future(
        start_call(
            client,
            prompt,
            inputs,
            files=files,
            base=base,
            only_base=only_base,
            workflow=workflow,
            schemas=schemas,
            timeout=timeout,
        )
    )
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _cancel_start(starting)
        raise
    try:
        async for event in started.job:
            if on_event is not None:
                on_event(event)
        return await started.results(folder)
    except BaseException as error:
        if isinstance(error, JobTimedOut) or is_interruption(error):
            await _cancel(started.job)
        raise


async def call(
    client: Client,
    prompt: Prompt,
    inputs: Mapping[str, object],
    *,
    adapters: Sequence[ObjectAdapter] = (),
    tensors: Literal["numpy", "torch"] = "numpy",
    images: Literal["exact", "png", "webp"] = "exact",
    on_event: Callable[[Event], object] | None = None,
    files: Sequence[Path | str] = (),
    base: Path | None = None,
    only_base: bool = False,
    workflow: Mapping[str, JsonValue] | None = None,
    schemas: Schemas | None = None,
    timeout: float | None = None,
) -> dict[str, DecodedValue]:
    """Call a workflow with Python values, and wait for its results.

    Args:
        client: Of the target.
        prompt: API format, with Remote Input and Remote Output nodes.
        inputs: By key: numbers, texts, tensors (NumPy's, torch's), and what `media.values`
            encodes. A `DecodedValue` is sent as it is, with all items if it is a list.
        adapters: For objects of other classes: see `media.values`.
        tensors: Which library's tensors the results shall hold.
        images: How IMAGE inputs travel; see `media.values.encode`.
        on_event: Called with each of the job's events.
        files: As for `start_call`, like the rest.

    Returns:
        By key. ``is_list`` is true for all: ComfyUI's outputs are lists, mostly of one.

    Raises:
        ValueCannotTravel: An input holds a model or the like.
        ComfyRemoteError: As `call_files`.
    """
    schemas = schemas or Schemas.bundled()
    interface = Interface.of(prompt, schemas)
    with TemporaryFolder("call") as name:
        sent, here = Path(name, "sent"), Path(name, "here")
        here.mkdir()
        arguments = await asyncio.to_thread(
            lambda: {
                key: _argument(value, interface.input(key), sent, adapters, images)
                for key, value in inputs.items()
            }
        )
        results = await call_files(
            client,
            prompt,
            arguments,
            here,
            on_event=on_event,
            files=files,
            base=base,
            only_base=only_base,
            workflow=workflow,
            schemas=schemas,
            timeout=timeout,
        )
        return await asyncio.to_thread(
            lambda: {key: _decoded(file, tensors, adapters) for key, file in results.items()}
        )


def _argument(
    value: object,
    entry: InterfaceInput,
    folder: Path,
    adapters: Sequence[ObjectAdapter],
    images: Literal["exact", "png", "webp"],
) -> FileArgument:
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str) and len(value) <= LONGEST_PLAIN_TEXT:
        return value
    whole = value if isinstance(value, DecodedValue) else DecodedValue(entry.type, False, value)
    encoded = encode(
        whole.value,
        entry.type if whole.type == ANY else whole.type,
        as_list=whole.is_list,
        images=images,
        adapters=adapters,
    )
    path = encoded.write_into(folder)
    return ValueFile(path, encoded.size, path.stem, encoded.type)


def _decoded(
    file: ValueFile, tensors: Literal["numpy", "torch"], adapters: Sequence[ObjectAdapter]
) -> DecodedValue:
    if os.name == "nt":
        # The file goes at once, and Windows keeps one that is mapped.
        found = decode_value(file.path.read_bytes(), tensors=tensors, adapters=adapters)
    else:
        found = read_value(file.path, tensors=tensors, adapters=adapters)
    return DecodedValue(file.type if found.type == ANY else found.type, found.is_list, found.value)


async def _cancel_start(starting: asyncio.Future[Call]) -> None:
    """The job may be there already: only the answer to its submission tells how to stop it."""
    await asyncio.wait({starting}, timeout=SUBMIT_PATIENCE)
    if not starting.done():
        starting.cancel()
    [started] = await asyncio.gather(starting, return_exceptions=True)
    if isinstance(started, Call):
        await _cancel(started.job)


async def _cancel(job: Job) -> None:
    """Stop a job whose caller has gone; that it could not be stopped changes nothing for them."""
    with contextlib.suppress(ComfyRemoteError, asyncio.TimeoutError):
        await asyncio.wait_for(job.cancel(), _CANCEL_PATIENCE)
