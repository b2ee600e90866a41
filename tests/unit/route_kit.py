"""Members of a route in memory: servers that go wrong as told, and count what they run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import (
    AuthenticationError,
    ExecutionFailed,
    JobCancelled,
    JobExpired,
    OutputLost,
    SubmissionUnknown,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import DidItRun, Event, Finished, JobState, Queued, Started
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.schedule.prefer import Prefer
from comfy_remote.targets.base import Capabilities, Health, RemoteRef, RunRequest, Target
from comfy_remote.targets.comfyui.kind import ComfyUIKind
from comfy_remote.targets.kinds import Member
from comfy_remote.targets.route.journal import Journal
from comfy_remote.targets.route.member import OpenMember, RouteTimes
from comfy_remote.targets.route.members import RouteOptions
from comfy_remote.targets.route.target import RouteTarget
from comfy_remote.types import JsonValue
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
QUICK = RouteTimes(others=0.05, poll=0.001, again=0.01, silent=0.0, fresh=0.0, stale=0.0)


class Killed(BaseException):
    """The client's process ends here."""


@dataclass
class Server:
    """What happens at a member.

    Attributes:
        fault: What becomes of the next submission: ``refused``, ``unreachable``, ``lost`` (it is
            there, the answer is not), ``vanished`` (neither is), ``late`` (it arrives later),
            ``killed before``, ``killed after``; ``""`` for none.
        can_tell: Whether it can say that it never got a job.
        down: Whether it answers nothing.
        key: Whether it accepts the key.
        obeys: Whether it takes back a job that waits.
        asked: How often it was asked what it has.
        jobs: How each job stands: ``late``, ``waits``, ``runs``, ``done``, ``failed``,
            ``withdrawn``, ``stopped``.
        runs: How often each was begun.
        sent: The jobs in the order in which they were sent here.
        while_sending: Called once while the next submission is under way.
    """

    name: str
    fault: str = ""
    can_tell: bool = True
    down: bool = False
    key: bool = True
    nodes: dict[str, JsonValue] | None = None
    health: Health = field(default_factory=lambda: Health(1, 0, 0))
    jobs: dict[str, str] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    sent: list[str] = field(default_factory=list)
    obeys: bool = True
    asked: int = 0
    while_sending: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, job_id: str, state: str) -> None:
        """A job reaches another state."""
        if state == "runs":
            self.runs[job_id] += 1
        self.jobs[job_id] = state
        self.changed.set()

    def restart(self) -> None:
        """It forgets everything."""
        self.jobs = {job: "late" for job, state in self.jobs.items() if state == "late"}
        self.changed.set()


class ServerTarget:
    """A client of a `Server`, as a `Target`."""

    def __init__(self, server: Server) -> None:
        self.machine = server
        self.opened = 0

    @property
    def name(self) -> str:
        return self.machine.name

    async def __aenter__(self) -> Target:
        self.opened += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.opened -= 1

    def _up(self) -> None:
        if self.machine.down:
            raise TargetUnreachable(f"{self.name} does not answer.")
        if not self.machine.key:
            raise AuthenticationError(f"{self.name} refused the key.")

    async def has_input(self, name: str) -> bool:
        self._up()
        return name == f"on-{self.name}.png"

    async def submit(self, request: RunRequest) -> RemoteRef:
        server, job_id = self.machine, request.job_id
        await asyncio.sleep(0)
        fault, server.fault = server.fault, ""
        if fault == "killed before":
            raise Killed
        while server.while_sending:
            await server.while_sending.pop()()
        if fault == "invalid":
            invalid = WorkflowInvalid(f"{self.name} refused the workflow.")
            DidItRun.NEVER_ACCEPTED.noted_in(invalid)
            raise invalid
        if fault in ("refused", "unreachable") or server.down:
            error = TargetUnreachable(f"{self.name} {fault or 'is down'}.")
            DidItRun.NEVER_ACCEPTED.noted_in(error)
            raise error
        if fault != "vanished":
            server.sent.append(job_id)
            server.put(job_id, "late" if fault == "late" else "waits")
        if fault == "killed after":
            raise Killed
        await asyncio.sleep(0)
        if fault in ("lost", "vanished", "late"):
            raise SubmissionUnknown(f"The answer of {self.name} was lost.")
        return RemoteRef(job_id, f"{self.name}-{job_id}", {"at": self.name})

    async def find(self, job_id: str) -> RemoteRef | None:
        self._up()
        if self.machine.jobs.get(job_id, "late") != "late":
            return RemoteRef(job_id, f"{self.name}-{job_id}", {"at": self.name})
        if not self.machine.can_tell:
            raise SubmissionUnknown(f"{self.name} cannot be asked.")
        return None

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        server = self.machine
        self._up()
        yield Queued()
        started = False
        while True:
            state = server.jobs.get(ref.job_id)
            if state == "runs" and not started:
                started = True
                yield Started()
            if (end := self._end(ref.job_id, state)) is not None:
                yield end
                return
            server.changed.clear()
            server.idle.set()
            await server.changed.wait()

    def _end(self, job_id: str, state: str | None) -> Finished | None:
        match state:
            case "done":
                source = OutputSource(path=job_id)
                made = RemoteOutput("2", "text", f"{self.name}.txt", source=source)
                return Finished(JobState.SUCCEEDED, outputs=(made,))
            case "failed":
                error = ExecutionFailed("It failed.")
                return Finished(JobState.FAILED, error, did_it_run=DidItRun.STOPPED)
            case "withdrawn":
                gone = JobCancelled("It was cancelled.")
                return Finished(JobState.CANCELLED, gone, did_it_run=DidItRun.WITHDRAWN)
            case "stopped":
                gone = JobCancelled("It was cancelled.")
                return Finished(JobState.CANCELLED, gone, did_it_run=DidItRun.STOPPED)
            case None:
                lost = JobExpired("It is not known here.")
                return Finished(JobState.EXPIRED, lost, did_it_run=DidItRun.UNKNOWN)
            case _:
                return None

    async def cancel(self, ref: RemoteRef) -> None:
        self._up()
        match self.machine.jobs.get(ref.job_id):
            case "waits":
                self.machine.put(ref.job_id, "withdrawn")
            case "runs":
                self.machine.put(ref.job_id, "stopped")

    async def withdraw(self, ref: RemoteRef) -> None:
        self._up()
        if self.machine.jobs.get(ref.job_id) == "waits" and self.machine.obeys:
            self.machine.put(ref.job_id, "withdrawn")

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if output.source is None:
            raise OutputLost("It is gone.")
        yield f"{self.name}:{output.source.path}".encode()[offset:]

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        self._up()
        self.machine.asked += 1
        return Capabilities(self.machine.nodes, None, None)

    async def health(self) -> Health:
        self._up()
        return self.machine.health


def member_of(
    server: Server, times: RouteTimes = QUICK, *, price: float | None = None
) -> OpenMember:
    """A server as a member that is not open yet."""
    target = ServerTarget(server)
    settings = TargetSettings(f"http://{server.name}:8188", price_per_hour=price)
    member = Member(server.name, settings, ComfyUIKind(), billed=False, open=lambda: target)
    return OpenMember(member, target, "", times)


def route_of(
    servers: Sequence[Server],
    journal: Journal | None = None,
    *,
    prefer: Prefer = "order",
    patience: float | None = None,
    at_most: dict[str, int] | None = None,
    look: bool = False,
    times: RouteTimes = QUICK,
) -> RouteTarget:
    """A route of these, as one process has it."""
    return RouteTarget(
        "any",
        [member_of(one, times) for one in servers],
        RouteOptions(prefer, patience, at_most or {}),
        look=look,
        journal=journal,
        times=times,
    )


def request_of(job_id: str) -> RunRequest:
    """One that only its id tells from others."""
    return RunRequest(job_id, PROMPT)
