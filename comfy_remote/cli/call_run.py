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

from ..aio import in_thread
from ..calls.address import call_address, service_headers
from ..calls.arguments import (
    argument_of_file,
    arguments_of,
    media_type_of_input,
    plain_argument,
)
from ..calls.rest import RestClient
from ..calls.service import ServiceCall
from ..calls.store import ValueStore
from ..calls.target import TargetCall
from ..calls.values import Argument
from ..calls.workflow import CallableWorkflow
from ..config.settings import Configuration
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    InputFileMissing,
    JobCancelled,
    JobTimedOut,
    ValueInvalid,
)
from ..jobs.client import Client
from ..jobs.record import Record
from ..media.files import private_folder
from ..media.temporary import TemporaryFolder
from ..media.values import DecodedValue, encode, read_value
from ..text_file import SAVE_AS_UTF8, NotText, text_of
from ..types import JsonValue
from ..workflow.interface import Interface
from .advice import for_terminal
from .call_results import show_results
from .errors import check_named_files
from .follow import chosen_target, supervise, wait_and_list
from .reporter import Reporter

if TYPE_CHECKING:
    from ..media.values import EncodedValue

__all__ = ["CallPlan", "follow_service", "parse_inputs", "run_call"]


@dataclass(frozen=True, slots=True)
class Given:
    """One input of a call: a text as it was typed, or a file."""

    key: str
    text: str = ""
    path: Path | None = None


def parse_inputs(texts: Sequence[str]) -> list[Given]:
    """The inputs that ``-i`` gave: each has a key of its own, and its file exists."""
    found: dict[str, Given] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigurationError(
                f"-i {text} has no key.", advice="Write -i KEY=VALUE, or -i KEY=@FILE."
            )
        if key in found:
            raise ConfigurationError(f"-i {key} is given twice.", advice="Give each key once.")
        if not value.startswith("@"):
            found[key] = Given(key, text=value)
            continue
        path = Path(value[1:]).expanduser()
        if not path.is_file():
            raise InputFileMissing(
                f"-i {key}=@{path}: there is no such file.", advice="Check its name."
            )
        found[key] = Given(key, path=path)
    return list(found.values())


@dataclass(frozen=True)
class CallPlan:
    """What the command line asks for.

    Attributes:
        what: A workflow file, a URL, or the name of a service.
        on: The target for a workflow; ``None`` for the configured one.
        files: Those that the workflow's Load nodes name.
        folder: Where files go; absolute.
        exact: Whether to save value files.
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

    job_id: str | None
    results: dict[str, DecodedValue]
    error: ComfyRemoteError | None = None


def run_call(plan: CallPlan, reporter: Reporter) -> None:
    """Run the call, and report it. If it fails, the reporter says so, and the command exits."""
    began = time.monotonic()

    async def whole(record: Record) -> None:
        with private_folder(plan.folder):
            pass  # it can be written to: to be known before a GPU works for it
        url = _service_of(plan)
        with TemporaryFolder("call") as spool:
            if url is None:
                came = await _call_workflow(plan, record, reporter, Path(spool))
            else:
                came = await _call_service(plan, url, reporter, Path(spool))
            saved = await in_thread(
                show_results,
                came.results,
                plan.folder,
                job_id=came.job_id,
                exact=plan.exact,
                json_lines=plan.json_lines,
            )
        if came.error is not None:
            if saved:
                reporter.partial(saved)
            raise came.error
        reporter.done(saved, time.monotonic() - began)

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
                f"{plan.what} is {url}, which runs workflows; it is not a service.",
                advice=f"Call a workflow there: comfy-remote call WORKFLOW.json --on {plan.what}",
            )
    if plan.on is not None or plan.files:
        raise ConfigurationError(
            f"{plan.what} is a service, which decides itself where it runs and what it loads.",
            advice="Omit --on and --load.",
        )
    return url


async def _call_workflow(plan: CallPlan, record: Record, reporter: Reporter, spool: Path) -> _Came:
    chosen, _ = chosen_target(plan.on, reporter)
    reporter.connecting(chosen)
    check_named_files("--load", plan.files)
    async with Client(chosen, record=record, on_interrupt=None) as client:
        workflow = await CallableWorkflow.load(Path(plan.what), client, files=tuple(plan.files))
        for note in workflow.notes:
            reporter.note(note)
        arguments = await _arguments(plan.inputs, workflow.interface, ValueStore(spool / "sent"))
        call = TargetCall(
            client,
            workflow,
            arguments,
            timeout=plan.timeout,
            job_id=plan.job_id,
            source=plan.what,
        )
        try:
            await start_job(call)
        except InputFileMissing as error:  # --input is something else here
            error.advice = for_terminal(error.advice).replace("--input FILE", "--load FILE")
            raise
        reporter.following(call.job.id, client.target.name, workflow.prompt)
        try:
            await wait_and_list(call.job, reporter)
        except ComfyRemoteError as error:
            if call.finished is None or call.finished.error is not error:
                raise
        return await _collected(call, spool)


async def start_job(call: TargetCall) -> None:
    """Submit a call's job. Interrupted meanwhile, the job is cancelled; the record has its end."""
    try:
        await call.start()
    except asyncio.CancelledError:
        await call.call_off()
        raise


async def _call_service(plan: CallPlan, url: str, reporter: Reporter, spool: Path) -> _Came:
    headers = service_headers(call_address(url), Configuration.load())
    inputs = {given.key: _sent(given) for given in plan.inputs}
    reporter.connecting(url)
    async with RestClient(url, headers=headers) as client:
        call = ServiceCall(client, inputs, key=plan.job_id, timeout=plan.timeout)
        return await follow_service(call, url, reporter, spool)


async def follow_service(call: ServiceCall, url: str, reporter: Reporter, spool: Path) -> _Came:
    """Send the call, report its events, and collect its results.

    Raises:
        JobCancelled: It was interrupted; the message says what became of the call.
    """
    try:
        await call.start()
        reporter.following(str(call.id), url, {})
        async for event in call:
            reporter.event(event)
        return await _collected(call, spool)
    except JobTimedOut as error:
        words = error.message
        if call.id is not None and call.finished is None:
            await _cancel(call)
            words += " It was cancelled."
        raise JobTimedOut(words, advice=error.advice) from error
    except asyncio.CancelledError:
        if call.id is None:
            words = "Stopped while the call was being sent. The service may have it, and did not "
            raise JobCancelled(words + "say how it is cancelled.") from None
        if call.finished is not None:
            raise JobCancelled("Stopped before the results arrived. The call has ended.") from None
        await _cancel(call)
        raise JobCancelled("The call was cancelled.") from None


async def _collected(call: TargetCall | ServiceCall, spool: Path) -> _Came:
    """The results; also of a call that failed and had given some before."""
    failed = call.finished.error if call.finished is not None else None
    here = spool / "here"
    here.mkdir()
    try:
        job_id = call.job.id if isinstance(call, TargetCall) else call.id
        return _Came(job_id, await call.results(here, even_if_failed=True), failed)
    except JobTimedOut:
        raise
    except ComfyRemoteError as error:
        raise failed or error from error


async def _cancel(call: ServiceCall) -> None:
    if why := await call.call_off():
        raise JobCancelled(
            f"Stopped. The service did not confirm that it cancelled the call: {why}",
            advice="It may still be running there.",
        ) from None


async def _arguments(
    inputs: Sequence[Given], interface: Interface, store: ValueStore
) -> dict[str, Argument]:
    arguments: dict[str, Argument] = {}
    for given in inputs:
        entry = interface.input(given.key)
        if given.path is None or given.path.suffix.lower() == ".json":
            type_ = entry.type if given.path is None else "*"
            plain = {given.key: plain_argument(_text(given), type_)}
            arguments |= await arguments_of(plain, interface, store)
        else:
            content = await asyncio.to_thread(given.path.read_bytes)
            media_type = media_type_of_input(given.path.name)
            arguments[given.key] = await argument_of_file(entry, content, media_type, store)
    return arguments


def _sent(given: Given) -> EncodedValue | JsonValue:
    """An input as it is sent to a service, which decides its type."""
    if given.path is None or given.path.suffix.lower() == ".json":
        return plain_argument(_text(given), "*")
    media_type = media_type_of_input(given.path.name)
    if media_type == "application/octet-stream":
        decoded = read_value(given.path, tensors="numpy")
        return encode(decoded.value, decoded.type, as_list=decoded.is_list)
    data = base64.b64encode(given.path.read_bytes()).decode("ascii")
    return {"type": "*", "encoding": "file", "media_type": media_type, "data": data}


def _text(given: Given) -> str:
    if given.path is None:
        return given.text
    try:
        return text_of(given.path.read_bytes())
    except NotText as error:
        raise ValueInvalid(f"{given.path} cannot be read: {error}.", advice=SAVE_AS_UTF8) from None
