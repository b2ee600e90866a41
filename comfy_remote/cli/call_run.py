"""Running one call from a terminal: of a workflow on a target, or of a service."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..aio import Deadline
from ..calls.arguments import (
    Argument,
    argument_of_file,
    arguments_of,
    media_type_of_input,
    plain_argument,
)
from ..calls.call import Call, start_call
from ..calls.login import service_headers
from ..calls.rest import RestClient, call_address
from ..calls.store import ValueStore
from ..calls.values import received
from ..calls.workflow import ServedWorkflow
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, ConfigurationError, JobCancelled, JobTimedOut
from ..events import Event, Progress, Queued, Started
from ..jobs.client import Client
from ..jobs.record import Record
from ..media.files import private_folder
from ..media.temporary import TemporaryFolder
from ..media.values import DecodedValue, encode, read_value
from ..wire.call import CallAnswer, CallStatus
from ..workflow.interface import Interface
from .call_inputs import Given
from .call_results import show_results
from .errors import check_named_files, files_named_with
from .follow import CANCEL_PATIENCE, supervise, wait_and_list
from .reporter import Reporter

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..media.values import EncodedValue

__all__ = ["CallPlan", "run_call"]


@dataclass(frozen=True)
class CallPlan:
    """What the command line asks for.

    Attributes:
        what: A workflow file, a URL, or the name of one.
        on: The target for a workflow; ``None`` for the configured one.
        inputs: By key.
        files: That the workflow's Load nodes name.
        folder: Where files go; absolute.
        exact: Whether to save value files.
        timeout: Seconds; ``None`` for as long as it takes.
        json_lines: Whether to print JSON.
    """

    what: str
    on: str | None
    inputs: Sequence[Given]
    files: Sequence[Path]
    folder: Path
    exact: bool = False
    timeout: float | None = None
    json_lines: bool = False
    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class _Came:
    """The outcome of a call: its results by key, and why it failed after it had given them."""

    results: dict[str, DecodedValue]
    error: ComfyRemoteError | None = None


def run_call(plan: CallPlan, reporter: Reporter) -> None:
    """Run the call, and report it.

    Raises:
        click.exceptions.Exit: The call failed; the reporter has said so.
    """
    began = time.monotonic()

    async def whole(record: Record) -> None:
        with private_folder(plan.folder):
            pass  # It can be written to: better known before a GPU has worked for it.
        url = _service_of(plan)
        with TemporaryFolder("call") as spool:
            if url is None:
                came = await _call_workflow(plan, record, reporter, Path(spool))
            else:
                came = await _call_service(plan, url, reporter, Path(spool))
            saved = show_results(
                came.results, plan.folder, exact=plan.exact, json_lines=plan.json_lines
            )
        if came.error is not None:
            if saved:
                reporter.partial(saved)
            raise came.error
        reporter.saved(saved, time.monotonic() - began)

    supervise(whole, reporter, plan.job_id)


def _service_of(plan: CallPlan) -> str | None:
    """The address of the service that is meant; ``None`` if it is a workflow file."""
    if plan.what.startswith(("http://", "https://")):
        url = plan.what
    elif Path(plan.what).is_file():
        return None
    else:
        configuration = Configuration.load()
        url = configuration.service_of(plan.what)
        if plan.what not in configuration.targets:
            raise ConfigurationError(
                f"{plan.what} is neither a file nor a name in comfy-remote.toml.",
                advice="Give a workflow file, the URL of a service, or a configured name.",
            )
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"{plan.what} is {url}, which runs workflows and is no service.",
                advice=f"Call a workflow there: comfy-remote call WORKFLOW.json --on {plan.what}",
            )
    if plan.on is not None or plan.files:
        raise ConfigurationError(
            f"{plan.what} is a service, which decides itself where it runs and what it loads.",
            advice="Omit --on and --load.",
        )
    return url


async def _call_workflow(plan: CallPlan, record: Record, reporter: Reporter, spool: Path) -> _Came:
    configuration = Configuration.load()
    chosen = configuration.choose(plan.on)
    if configuration.untrusted is not None:
        reporter.note(configuration.untrusted.sentence())
    if plan.on is None and configuration.default is None:
        reporter.note("No target is configured: using the sandbox.")
    reporter.connecting(chosen)
    check_named_files("--load", plan.files)
    async with Client(chosen, record=record, on_interrupt=None) as client:
        served = await ServedWorkflow.load(Path(plan.what), client)
        for note in served.notes:
            reporter.note(note)
        arguments = await _arguments(plan.inputs, served.interface, ValueStore(spool / "sent"))
        with files_named_with("--load"):
            started = await start_call(
                client,
                served.prompt,
                arguments,
                files=plan.files,
                base=served.base,
                workflow=served.workflow,
                schemas=served.schemas,
                timeout=plan.timeout,
                job_id=plan.job_id,
                source=plan.what,
            )
        reporter.following(started.job.id, client.target.name, served.prompt)
        failed = None
        try:
            await wait_and_list(started.job, reporter)
        except ComfyRemoteError as error:
            finished = started.job.finished
            if finished is None or finished.error is not error or not finished.outputs:
                raise
            failed = error
        try:
            return _Came(await _results(started, spool / "here"), failed)
        except ComfyRemoteError as error:
            raise failed or error from error


async def _results(started: Call, folder: Path) -> dict[str, DecodedValue]:
    folder.mkdir()
    files = await started.results(folder, even_if_failed=True)
    found = {}
    for key, file in files.items():
        decoded = await asyncio.to_thread(read_value, file.path, tensors="numpy")
        type_ = file.type if decoded.type == "*" else decoded.type
        found[key] = DecodedValue(type_, decoded.is_list, decoded.value)
    return found


async def _arguments(
    inputs: Sequence[Given], interface: Interface, store: ValueStore
) -> dict[str, Argument]:
    arguments: dict[str, Argument] = {}
    for given in inputs:
        entry = interface.input(given.key)
        if given.path is None:
            plain = {given.key: plain_argument(given.text, entry.type)}
            arguments |= await arguments_of(plain, interface, store)
        elif given.path.suffix.lower() == ".json":
            plain = {given.key: plain_argument(given.path.read_text(encoding="utf-8-sig"), "*")}
            arguments |= await arguments_of(plain, interface, store)
        else:
            content = await asyncio.to_thread(given.path.read_bytes)
            media_type = media_type_of_input(given.path.name)
            arguments[given.key] = await argument_of_file(entry, content, media_type, store)
    return arguments


async def _call_service(plan: CallPlan, url: str, reporter: Reporter, spool: Path) -> _Came:
    headers = service_headers(call_address(url), Configuration.load())
    inputs = {given.key: _sent(given) for given in plan.inputs}
    reporter.connecting(url)
    async with RestClient(url, headers=headers) as client:
        deadline = Deadline(plan.timeout)
        try:
            answer = await deadline.within(_start(client, inputs, plan.job_id))
        except asyncio.TimeoutError:
            raise _too_late(f"The service did not take the call within {deadline}.") from None
        reporter.following(answer.id or plan.job_id, url, {})
        try:
            answer = await deadline.within(_follow(client, answer, reporter))
        except asyncio.TimeoutError:
            await _cancel(client, answer)
            raise _too_late(f"The call did not end within {deadline}. It was cancelled.") from None
        except asyncio.CancelledError:
            await _cancel(client, answer)
            raise JobCancelled("The call was cancelled.") from None
        failed = None if answer.status is CallStatus.COMPLETED else answer.failure()
        if failed is not None and not answer.results:
            raise failed
        try:
            return _Came(await deadline.within(_received(client, answer, spool)), failed)
        except asyncio.TimeoutError:
            raise _too_late(
                f"The call has ended, but its results did not arrive within {deadline}."
            ) from None


async def _received(client: RestClient, answer: CallAnswer, spool: Path) -> dict[str, DecodedValue]:
    return {
        key: await received(client, value, spool, tensors="numpy")
        for key, value in answer.results.items()
    }


def _too_late(message: str) -> JobTimedOut:
    return JobTimedOut(message, advice="Give it more time with --timeout.")


async def _start(
    client: RestClient, inputs: dict[str, EncodedValue | JsonValue], key: str
) -> CallAnswer:
    """Send the call. Interrupted, it may be there already: only the answer tells how to stop it."""
    starting = asyncio.ensure_future(client.start(inputs, key=key))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=CANCEL_PATIENCE)
        if not starting.done():
            starting.cancel()
        [answer] = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(answer, CallAnswer):
            raise JobCancelled(
                "Stopped while the call was being sent. The service may have it, and did not say "
                "how it is cancelled."
            ) from None
        await _cancel(client, answer)
        raise JobCancelled("The call was cancelled.") from None


async def _follow(client: RestClient, answer: CallAnswer, reporter: Reporter) -> CallAnswer:
    async for said in client.follow(answer):
        answer = said
        for event in _events(said):
            reporter.event(event)
    return answer


def _events(answer: CallAnswer) -> list[Event]:
    if answer.status is CallStatus.PENDING:
        return [Queued()]
    if answer.status is not CallStatus.RUNNING:
        return []
    done = answer.progress
    if done is None:
        return [Started()]
    return [
        Progress(nodes_total=1, step=done.value, steps=done.max, message=answer.message),
    ]


async def _cancel(client: RestClient, answer: CallAnswer) -> None:
    try:
        await asyncio.wait_for(client.cancel(answer), CANCEL_PATIENCE)
    except (asyncio.TimeoutError, ComfyRemoteError) as error:
        raise JobCancelled(
            f"Stopped. The service did not confirm that it cancelled the call: {error}",
            advice="It may still be running there.",
        ) from None


def _sent(given: Given) -> EncodedValue | JsonValue:
    """An input as a service gets it, which alone knows the type that it wants."""
    if given.path is None:
        return plain_argument(given.text, "*")
    if given.path.suffix.lower() == ".json":
        return plain_argument(given.path.read_text(encoding="utf-8-sig"), "*")
    media_type = media_type_of_input(given.path.name)
    if media_type == "application/octet-stream":
        decoded = read_value(given.path, tensors="numpy")
        return encode(decoded.value, decoded.type, as_list=decoded.is_list)
    data = base64.b64encode(given.path.read_bytes()).decode("ascii")
    return {"type": "*", "encoding": "file", "media_type": media_type, "data": data}
