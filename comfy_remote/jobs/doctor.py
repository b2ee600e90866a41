"""Checks everything between here and the GPU, step by step, and says what to do about failures."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..aio import Deadline, within
from ..config.folders import CONFIG_NAME, ENV_NAME, home, owner_folders
from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..config.trust import TrustStore
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    NotTrusted,
    TargetError,
    TargetUnreachable,
    WorkflowInvalid,
)
from ..net.address import shown
from ..secrets import secret
from ..targets.base import Capabilities, ChoosesAmong, OneEngine, Target, WaitsForWorkers
from ..targets.kinds import kind_of, members_of, secret_variables, whose_secret
from ..targets.opening import needs_key, open_target
from ..types import JsonValue
from ..units import dollars, size_text
from ..version import __version__
from ..workflow.change.prepare import Changes
from ..workflow.files import FileSearch, file_uses
from ..workflow.load import LoadedWorkflow, load_workflow
from ..workflow.models import find_models
from .forecast import ask_target, report_on
from .prices import asked_price, hour_words
from .record import Record

if TYPE_CHECKING:
    from ..targets.kinds import Choose, Kind

__all__ = ["Finding", "FindingStatus", "TimeLimits", "examine"]

FindingStatus = Literal["ok", "warning", "problem", "skipped"]

_OLDEST_TESTED = (0, 3, 64)
_SLOW_SECONDS = 1.0
_ROUND_TRIPS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at: ``installation``, ``configuration``, ``trust``, ``record``,
            ``target``, ``key``, ``pod``, ``price``, ``connection``, ``comfyui``, ``device``,
            ``latency``, ``socket``, ``workers``, ``queue`` or ``workflow``.
        status: A ``problem`` keeps jobs from running, a ``warning`` may; a ``skipped`` check could
            not be made.
        advice: Empty if there is nothing to do.
        exit_status: Of the command, if this is its first problem.
        details: JSON-able facts.
    """

    check: str
    status: FindingStatus
    message: str
    advice: str = ""
    exit_status: int = 0
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """All fields."""
        return {
            "check": self.check,
            "status": self.status,
            "message": self.message,
            "advice": self.advice,
            "details": dict(self.details),
        }


def _problem(check: str, error: ComfyRemoteError) -> Finding:
    """The finding of a check that failed with an error."""
    return Finding(
        check, "problem", error.message, error.advice, error.exit_status, {"code": error.code}
    )


class _AnyValues(dict[str, str]):
    """A value for every variable of a template: a check does not depend on them."""

    def __missing__(self, name: str) -> str:
        return "1"


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """In seconds: for everything together, for one check, and for the check of a workflow.

    The last is longer because a worker may have to start to say what it has.
    """

    whole: float = 60.0
    each: float = 15.0
    workflow: float = 50.0


async def examine(
    wanted: str | None = None,
    workflow: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    choose: Choose | None = None,
    limits: TimeLimits = TimeLimits(),
    configuration: Configuration | None = None,
) -> AsyncGenerator[Finding, None]:
    """Check everything, side by side where one check does not depend on another.

    What depends on something that failed is left out.

    Args:
        wanted: Name or address of the target; the configured one by default.
        workflow: Checked against the target's nodes and models, if given.
        environment: Where the keys are.
        choose: As for `open_target`.
        configuration: What names mean; read from the files by default.
    """
    yield Finding("installation", "ok", f"Comfy Remote {__version__}.")
    loaded: LoadedWorkflow | None = None
    if workflow is not None:
        try:
            values = _AnyValues(PROMPT="", NEGATIVE="", WIDTH="1024", HEIGHT="1024")
            loaded = load_workflow(workflow, variables=values)
        except WorkflowInvalid as error:
            yield _problem("workflow", error)
    yield _record()
    try:
        configuration = configuration or Configuration.load()
    except ComfyRemoteError as error:
        yield _problem("configuration", error)
        return
    yield _configuration(configuration)
    if configuration.untrusted is not None:
        yield Finding("trust", "warning", configuration.untrusted.sentence())
    if problem := TrustStore(home()).problem():
        yield Finding("trust", "warning", problem)
    try:
        name = configuration.choose(wanted)
    except NotTrusted as error:
        yield _problem("target", error)
        return
    settings = configuration.targets.get(name) or TargetSettings(name)
    kind = kind_of(settings.target)
    keys = [*_keys(settings, environment)]
    for finding in keys:
        yield finding
    if any(finding.status == "problem" for finding in keys):
        yield Finding("target", "skipped", f"{shown(name)} is not asked without its key.")
        return
    try:
        target = open_target(name, configuration, environment, choose=choose)
    except ComfyRemoteError as error:
        yield _problem("target", error)
        return
    meaning = "" if settings.target == name else f", that is {shown(settings.target)}"
    yield Finding("target", "ok", f"{shown(name)}{meaning}.")
    deadline = Deadline(limits.whole)
    checks = _Checks(deadline, limits.each)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(checks.stop)
        if kind is not None:
            checks.begin(kind.name, _provider(kind, settings, environment))
        if not members_of(settings):
            checks.begin("price", _price(name, configuration, environment))
        opened = _Opening(stack, target)
        problems = await checks.look("connection", opened.look())
        stack.push_async_callback(checks.stop)  # before the target closes
        target = opened.target
        connected = problems or await checks.look("connection", _connection(target))
        async for finding in checks.findings():
            yield finding
        for finding in connected:
            yield finding
        if any(finding.status == "problem" for finding in connected):
            return
        if isinstance(target, ChoosesAmong):
            checks.begin("member", _members(target))
        if isinstance(target, OneEngine):
            checks.begin("comfyui", _engine(target))
            checks.begin("socket", _socket(target))
        if loaded is not None and workflow is not None:
            address = configuration.address_of(name)
            look = _workflow(target, address, loaded, workflow)
            checks.begin("workflow", look, limits.workflow)
        async for finding in checks.findings():
            yield finding


async def _members(target: ChoosesAmong) -> list[Finding]:
    return [
        Finding("member", "warning", f"{shown(name)} {why}.", f"Check {shown(name)} by itself.")
        if why
        else Finding("member", "ok", f"{shown(name)} can be used.")
        for name, why in (await target.problems()).items()
    ]


@dataclass(slots=True)
class _Opening:
    """Opens a target; `target` is what it turned out to be."""

    stack: AsyncExitStack
    target: Target

    async def look(self) -> list[Finding]:
        self.target = await self.stack.enter_async_context(self.target)
        return []


async def _connection(target: Target) -> list[Finding]:
    """Whether it answers, how fast, and how busy it is."""
    began = time.perf_counter()
    health = await target.health()
    first = time.perf_counter() - began
    found = [Finding("connection", "ok", f"{target.name} answers.")]
    if isinstance(target, OneEngine):
        waiting = health.running + health.queued
        queue = f"{health.running} running, {health.queued} waiting"
        found.append(await _latency(target))
        found.append(Finding("queue", "ok", f"{queue}." if waiting else "Nothing runs or waits."))
    else:
        advice = target.no_worker if isinstance(target, WaitsForWorkers) else ""
        if health.counted:
            found.append(_workers(health.ready, health.running, health.queued, advice))
        found.append(Finding("latency", "ok", f"It took {first * 1000:.0f} ms to answer."))
    return found


async def _engine(target: Target) -> list[Finding]:
    capabilities = await target.describe(())
    return [_comfyui(capabilities), _device(capabilities)]


def _record() -> Finding:
    try:
        with Record() as record:
            return Finding("record", "ok", f"Jobs are recorded in {record.path}.")
    except ComfyRemoteError as error:
        return _problem("record", error)


def _configuration(configuration: Configuration) -> Finding:
    files = sorted({str(path) for path in configuration.origins.values()})
    if not files:
        none = "There is no comfy-remote.toml" + (" of your own" if configuration.untrusted else "")
        return Finding("configuration", "ok", f"{none}; none is needed.")
    names = [
        f"{name} (default)" if name == configuration.default else name
        for name in configuration.targets
    ]
    default = configuration.default
    if default and default not in configuration.targets:
        names.append(f"{default} (default)")
    return Finding(
        "configuration",
        "ok",
        f"Targets: {', '.join(names)}; from {' and '.join(files)}.",
    )


def _keys(settings: TargetSettings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether each secret is there, and from where; never what it is."""
    try:
        needed = needs_key(settings, environment)
    except ConfigurationError:
        return  # the address is wrong: opening it says so
    for variable in secret_variables(settings):
        if environment.get(variable, "").strip():
            yield Finding("key", "ok", f"{variable} is set.")
        elif secret(variable, environment) is not None:
            yield Finding("key", "ok", f"{variable} is in the key ring.")
        elif variable == settings.sync_token_env:
            words = f"{variable} is not set: jobs run without it, but sync brings nothing there."
            yield Finding("key", "warning", words, _how_to_set(variable))
        elif needed:
            words, status = f"{variable} is not set.", ConfigurationError.exit_status
            yield Finding("key", "problem", words, _how_to_set(variable), status)
        else:
            yield Finding("key", "ok", f"{variable} is not set, and not needed on this machine.")


def _how_to_set(variable: str) -> str:
    owner = whose_secret(variable)
    source = owner.secret_source(variable) if owner else None
    return (
        f"Set it in the environment of this terminal, or in {owner_folders()[0] / ENV_NAME} (not "
        f"in a workflow): {source or 'whoever set up that server has it.'}"
    )


async def _provider(
    kind: Kind, settings: TargetSettings, environment: Mapping[str, str]
) -> list[Finding]:
    """What the target's provider reports about it; nothing if there is none to ask."""
    said = await kind.provider_says(settings, environment)
    if said is None:
        return []
    exit_status = TargetError.exit_status if said.status == "problem" else 0
    return [Finding(kind.name, said.status, said.message, said.advice, exit_status)]


async def _price(
    name: str, configuration: Configuration, environment: Mapping[str, str]
) -> list[Finding]:
    """What an hour costs there; nothing for a target that costs nothing."""
    price, why = await asked_price(name, configuration, environment)
    if price is not None:
        active = ""
        if price.standing:
            active = f" Its active workers cost {dollars(price.standing)} an hour, used or not."
        return [Finding("price", "ok", f"{hour_words(price)}.{active}")]
    if configuration.billing_of(name, environment) is None:
        return []
    return [
        Finding(
            "price",
            "skipped",
            f"What an hour costs there is not known: {why.rstrip('.')}.",
            f"Set price_per_hour in its table in {CONFIG_NAME}: US dollars for an hour of its GPU.",
        )
    ]


def _comfyui(capabilities: Capabilities) -> Finding:
    engine = capabilities.engine
    if engine is None:
        return Finding(
            "comfyui",
            "warning",
            "It does not report a ComfyUI version.",
            "Check the address: another program may be there. Very old ComfyUIs do not report it.",
        )
    version = re.fullmatch(r"ComfyUI v?(\d+)\.(\d+)\.(\d+).*", engine)
    if version is not None and tuple(map(int, version.groups())) < _OLDEST_TESTED:
        oldest = ".".join(map(str, _OLDEST_TESTED))
        return Finding(
            "comfyui",
            "warning",
            f"{engine} is older than what Comfy Remote is tested with ({oldest}).",
            "Update it if something does not work.",
        )
    return Finding("comfyui", "ok", f"{engine}.")


def _device(capabilities: Capabilities) -> Finding:
    device = capabilities.device
    if device is None:
        return Finding("device", "skipped", "It does not report its device.")
    if device == "cpu":
        return Finding(
            "device",
            "warning",
            "It runs on the CPU.",
            "If it should have a GPU: start it without --cpu, and check PyTorch and the driver "
            "there.",
        )
    total, free = capabilities.memory_total, capabilities.memory_free
    memory = "" if total is None else f", {size_text(total)} of memory"
    memory += "" if free is None else f", {size_text(free)} free"
    details: dict[str, JsonValue] = {"memory_total": total, "memory_free": free}
    return Finding("device", "ok", f"{device}{memory}.", details=details)


async def _latency(target: Target) -> Finding:
    """The median of some round trips on an open connection."""
    spent = []
    for _ in range(_ROUND_TRIPS):
        began = time.perf_counter()
        await target.health()
        spent.append(time.perf_counter() - began)
    seconds = statistics.median(spent)
    details: dict[str, JsonValue] = {"seconds": round(seconds, 4)}
    if seconds > _SLOW_SECONDS:
        return Finding(
            "latency",
            "warning",
            f"An answer takes {seconds:.1f} s.",
            "The connection is slow, or the target is busy.",
            details=details,
        )
    return Finding("latency", "ok", f"An answer takes {seconds * 1000:.0f} ms.", details=details)


async def _socket(target: OneEngine) -> list[Finding]:
    if await target.socket_opens():
        return [Finding("socket", "ok", "The WebSocket opens: progress is live.")]
    return [
        Finding(
            "socket",
            "warning",
            "The WebSocket does not open: there is no live progress, and no preview.",
            "Jobs run anyway. If there is a proxy in between, let it pass WebSockets on /ws.",
        )
    ]


def _workers(ready: int, running: int, queued: int, advice: str) -> Finding:
    words = f"Idle workers: {ready}; jobs running: {running}, waiting: {queued}."
    details: dict[str, JsonValue] = {"idle": ready, "running": running, "queued": queued}
    if ready == 0 and running == 0:
        return Finding(
            "workers",
            "warning",
            f"No worker is up. {words}",
            advice,
            details=details,
        )
    return Finding("workers", "ok", words, details=details)


async def _workflow(
    target: Target, address: str, loaded: LoadedWorkflow, path: Path
) -> list[Finding]:
    """Whether the target has the nodes, models and files of a workflow."""
    search = FileSearch.beside(path.absolute().parent)
    known = await ask_target(target, address, loaded, Changes(), search)
    report = await asyncio.to_thread(report_on, known, search)
    prompt = known.prepared.prompt
    findings = [
        Finding(
            "workflow",
            "problem" if problem.severity == "error" else "warning",
            f"{problem.node_class or path.name}"
            f"{f' (node {problem.node_id})' if problem.node_id else ''}: {problem.message}",
            problem.advice,
            WorkflowInvalid.exit_status,
            {"code": problem.code, "node_id": problem.node_id, "input": problem.input},
        )
        for problem in report.problems
    ]
    models = len(find_models(prompt, loaded.workflow))
    files = len({use.name for use in file_uses(prompt, known.schemas)})
    counted = f"Nodes: {len(prompt)}, models: {models}, files: {files}"
    if known.notes:  # the target could not be asked
        findings.append(Finding("workflow", "skipped", f"{counted}. {' '.join(known.notes)}"))
    elif not report.errors:
        findings.append(Finding("workflow", "ok", f"{counted}. The target has what they need."))
    return findings


_Look: TypeAlias = Coroutine[object, object, Sequence[Finding]]


class _Checks:
    """Runs checks, each with a time limit; gives their findings in the order they were begun."""

    def __init__(self, deadline: Deadline, seconds: float) -> None:
        self._deadline = deadline
        self._seconds = seconds
        self._begun: list[asyncio.Task[list[Finding]]] = []

    def begin(self, name: str, look: _Look, seconds: float | None = None) -> None:
        """Begin a check. `findings` gives what it finds; an error becomes a finding."""
        self._begun.append(asyncio.create_task(self.look(name, look, seconds)))

    async def look(self, name: str, look: _Look, seconds: float | None = None) -> list[Finding]:
        """Run one, and return its findings."""
        seconds = self._deadline.at_most(self._seconds if seconds is None else seconds)
        try:
            return list(await within(look, seconds))
        except asyncio.TimeoutError:
            return [
                Finding(
                    name,
                    "problem",
                    f"This check was stopped after {seconds:.0f} s.",
                    "The target, or the way to it, is stuck or very slow: look at its log, and "
                    "try again.",
                    TargetUnreachable.exit_status,
                )
            ]
        except ComfyRemoteError as error:
            return [_problem(name, error)]

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """The findings of all checks that have begun."""
        while self._begun:
            found = await self._begun[0]
            del self._begun[0]
            for finding in found:
                yield finding

    async def stop(self) -> None:
        """Cancel those that still run."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
