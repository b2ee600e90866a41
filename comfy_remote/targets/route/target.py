"""Sends each job to one of several targets, and to another only if it surely did not run.

Before anything is sent, the step is in the `Journal`. So a job is at one member at a time, for all
processes of the user, whoever of them is killed when.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace

from ...advice import Hint
from ...aio import Deadline, Upcoming, in_thread
from ...errors import (
    ComfyRemoteError,
    ConfigurationError,
    InputFileMissing,
    JobCancelled,
    LocalStorageError,
    OutputLost,
    SpendingCap,
    SubmissionUnknown,
    TargetError,
)
from ...events import DidItRun, Event, Finished, JobState, Log, OutputReady, Phase, Queued
from ...media.files import sha256_of
from ...net.retry import at_most_tries
from ...outputs import RemoteOutput
from ...schedule.choose import Ranked, choose, sentence
from ...types import JsonValue
from ...units import seconds_text
from ...workflow.prompt import Prompt
from ..base import (
    Capabilities,
    Health,
    RemoteRef,
    RunRequest,
    Target,
    TellsVersions,
    Withdraws,
    before_sending,
    if_unfollowed,
    not_returned,
    release,
)
from ..kinds import MEMBER_KEY
from .journal import Begun, Journal, Step, StepState
from .member import TRIES, OpenMember, RouteTimes
from .members import Members, RouteOptions
from .reasons import (
    ABOUT_A_MEMBER,
    clause_of,
    no_member,
    refusal_clause,
    step_clause,
    to_json,
)

__all__ = ["RouteTarget"]

_log = logging.getLogger(__name__)

_MOST_STEPS = 1000
_HERE = (InputFileMissing, LocalStorageError)
"""Errors of this machine: no other member would do better."""


class _NotBegun(Exception):
    """A step may not be sent."""

    def __init__(self, why: Begun) -> None:
        self.why = why


class RouteTarget:
    """The `Target` of a route.

    Args:
        members: In the order of the route.
        sent: The targets of a job that was sent before, by the member's name.
        elsewhere: Opens what was a member when a job was sent, by its name.
        look: Only to see how jobs stand: nothing is sent.
        journal: What it did before; in memory, until `use_journal` gives another.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[OpenMember],
        options: RouteOptions = RouteOptions(),  # noqa: B008 - frozen
        *,
        sent: Mapping[str, Target] | None = None,
        elsewhere: Callable[[str], Target] | None = None,
        look: bool = False,
        journal: Journal | None = None,
        times: RouteTimes = RouteTimes(),  # noqa: B008 - frozen
    ) -> None:
        self._name = name
        self._members = Members(name, members, options, times)
        self._sent = dict(sent or {})
        self._elsewhere = elsewhere
        self._look = look
        if journal is not None:
            self.use_journal(journal)
        self._times = times
        self._former: dict[str, Target] = {}
        self._requests: dict[str, RunRequest] = {}
        self._steps: dict[str, Step] = {}
        self._said: dict[str, list[Log]] = {}
        self._refused: dict[str, dict[str, str]] = {}

    @property
    def name(self) -> str:
        """As the configuration has it."""
        return self._name

    @property
    def options(self) -> RouteOptions:
        """What is set for it."""
        return self._members.options

    def use_journal(self, journal: Journal) -> None:
        """See `KeepsJournal`."""
        self._members.journal = journal

    @property
    def _journal(self) -> Journal:
        return self._members.journal

    async def __aenter__(self) -> RouteTarget:
        return self  # each member is opened when it is needed

    async def __aexit__(self, *exc_info: object) -> None:
        await self._members.close(*exc_info)
        for target in self._former.values():
            await target.__aexit__(*exc_info)
        self._former.clear()

    # Where a job goes

    async def decide(
        self,
        request: RunRequest,
        refused: Mapping[str, str] | None = None,
        *,
        ask_all: bool = False,
    ) -> tuple[Ranked, ...]:
        """The members in the order in which a request is tried. Nothing is sent.

        Args:
            refused: Why some did not take this very job, by name: they are not asked again.
            ask_all: Ask also those that come after the first that can, which is not needed where
                the route's order decides.
        """
        return choose(
            await self._members.candidates(request, refused or {}, ask_all), self.options.prefer
        )

    # Sending

    async def submit(self, request: RunRequest) -> RemoteRef:
        """Send it to the member that is chosen; to the next if that surely did not take it."""
        if self._look:
            raise ConfigurationError("This route was opened only to look at its jobs.")
        job_id = request.job_id
        with before_sending():
            steps = await self._journal.steps(job_id)
        self._requests[job_id] = request
        try:
            step = await self._send(request, len(steps) + 1)
        except ComfyRemoteError:
            self._forget(job_id)
            raise
        except _NotBegun as refused:
            if refused.why == "cancelled":
                raise JobCancelled("The job was cancelled before it was sent.") from None
            raise SubmissionUnknown(
                f"Another program has sent the job by the route {self._name}, or is doing so.",
                advice=Hint.FIND_JOB(job_id=job_id),
            ) from None
        assert step.ref is not None  # noqa: S101  it was accepted
        return step.ref

    async def _send(self, request: RunRequest, number: int) -> Step:
        """Send a request to one member after another, until one takes it.

        Raises:
            _NotBegun: The job may not be sent.
            ComfyRemoteError: None takes it; or one may have.
        """
        refused = self._refused.setdefault(request.job_id, {})
        errors: list[ComfyRemoteError] = []
        while True:
            with before_sending():
                ranked = await self.decide(request, refused)
                chosen = ranked[0]
                if not chosen.able:
                    raise no_member(self._name, ranked, errors)
                step = Step(
                    request.job_id,
                    number,
                    chosen.name,
                    why=sentence(ranked, self.options.prefer),
                    at=time.time(),
                    decision=[to_json(one, chosen=one is chosen) for one in ranked],
                )
                member = self._members[chosen.name]
                try:
                    target = await member.open()
                except ComfyRemoteError as error:
                    errors.append(error)
                    refused[chosen.name] = clause_of(error)
                    await self._members.failed(member)
                    continue
                try:
                    most = self.options.at_most.get(chosen.name)
                    begun = await self._journal.begin(step, request, target, most)
                except LocalStorageError:
                    raise
                except SpendingCap as error:
                    errors.append(error)
                    refused[chosen.name] = f"is over a cap ({error.message.rstrip('.')})"
                    continue
            if begun == "full":
                continue  # another job was quicker: decided once more
            if begun != "begun":
                raise _NotBegun(begun)
            self._steps[request.job_id] = step
            try:
                with at_most_tries(TRIES):
                    answer = await target.submit(request)
            except ComfyRemoteError as error:
                grade = DidItRun.of(error) or DidItRun.UNKNOWN
                surely = grade.surely_not and not isinstance(error, SubmissionUnknown)
                state = StepState.NEVER_ACCEPTED if surely else StepState.UNKNOWN
                await self._noted(replace(step, state=state))
                if not surely or isinstance(error, _HERE):
                    raise
                errors.append(error)
                refused[member.name] = refusal_clause(error)
                if isinstance(error, ABOUT_A_MEMBER):
                    await self._members.failed(member)
                number += 1
                continue
            return await self._accepted(step, answer, target, request)

    async def _accepted(
        self, step: Step, answer: RemoteRef, target: Target, request: RunRequest
    ) -> Step:
        details = {**answer.details, MEMBER_KEY: step.member}
        step = replace(step, state=StepState.ACCEPTED, ref=replace(answer, details=details))
        await self._noted(step)
        said = self._said.setdefault(step.job_id, [])
        said.append(Log(step.why))
        if lost := not_returned(target, request.prompt):
            said.append(Log(lost, "warning"))
        with suppress(LocalStorageError):
            await self._journal.worked(step.member)
            if await self._journal.cancelled(step.job_id):
                # Whoever cancelled it did not know yet where it is.
                await target.cancel(answer)
        return step

    async def _noted(self, step: Step) -> None:
        """Write a step down. If that fails, the job goes on: it stays where it is."""
        self._steps[step.job_id] = step
        try:
            await self._journal.note(step)
        except LocalStorageError as error:
            _log.warning("%s Job %s is at %s.", error, step.job_id, step.member)

    # Following

    async def find(self, job_id: str) -> RemoteRef | None:
        """Ask the members that it was sent to, or was being sent to; no other."""
        for step in reversed(await self._journal.steps(job_id)):
            if step.state.surely_not:
                continue
            if step.ref is not None:
                return step.ref
            if (found := await self._found(step)) is not None:
                return found.ref
        return None

    async def _found(self, step: Step) -> Step | None:
        """A step whose member was asked whether it has the job; ``None`` if it never got it."""
        ref = await (await self._target_of(step.member)).find(step.job_id)
        if ref is None:
            return None
        details = {**ref.details, MEMBER_KEY: step.member}
        step = replace(step, state=StepState.ACCEPTED, ref=replace(ref, details=details))
        await self._noted(step)
        return step

    async def _target_of(self, member: str) -> Target:
        """The target of a member that a job was sent to, open.

        Raises:
            SubmissionUnknown: There is no such member any more.
        """
        if member in self._members:
            return await self._members[member].open()
        if member not in self._former:
            target = self._sent.get(member)
            try:
                if target is None and self._elsewhere is not None:
                    target = self._elsewhere(member)
            except ConfigurationError:
                target = None
            if target is None:
                raise SubmissionUnknown(
                    f"The job was sent to {member}, which the route {self._name} does not name any "
                    "more, and no configured target has that name.",
                    advice=f"Name {member} in comfy-remote.toml again.",
                )
            self._former[member] = await target.__aenter__()
        return self._former[member]

    def _known(self, member: str) -> Target | None:
        """`_target_of`, if that is known without opening anything."""
        if member in self._members:
            return self._members[member].target
        return self._former.get(member)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """The events of the member that has it; of the next, if it surely did not run there."""
        step = await self._newest(ref)
        end: Finished | None = None
        while True:
            if not step.state.surely_not:
                step = await self._with_ref(step)
                end = None
                async with aclosing(self._patiently(step, prompt)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            end = event
                            break
                        yield event
                if end is None:
                    raise TargetError(f"{step.member} did not say how the job ended.")
                await self._noted(replace(step, state=StepState.of(end.did_it_run)))
                step = self._steps[step.job_id]
                if not step.state.surely_not:
                    self._forget(step.job_id)
                    yield end
                    return
            moved = await self._moved(step, prompt, end)
            if moved is None:
                # Another program goes on with it, or whoever resumes it.
                yield Queued()
                moved = await self._by_another(step)
            if isinstance(moved, Finished):
                self._forget(step.job_id)
                yield moved
                return
            step = moved

    def _forget(self, job_id: str) -> None:
        """A job has ended: only where it was stays known for a while, for its outputs."""
        self._requests.pop(job_id, None)
        self._refused.pop(job_id, None)
        while len(self._steps) > _MOST_STEPS:
            self._steps.pop(next(iter(self._steps)))

    async def _newest(self, ref: RemoteRef) -> Step:
        """The last step of a job, as the journal has it."""
        steps = await self._journal.steps(ref.job_id)
        step = steps[-1] if steps else None
        if step is None:  # the journal was lost: the reference tells
            member = ref.details.get(MEMBER_KEY, "")
            step = Step(ref.job_id, 1, member, StepState.ACCEPTED, ref)
        self._steps[ref.job_id] = step
        refused = self._refused.setdefault(ref.job_id, {})
        for one in steps:
            if one.state.surely_not:
                refused.setdefault(one.member, step_clause(one))
        return step

    async def _with_ref(self, step: Step) -> Step:
        """A step with what the member calls the job.

        Raises:
            SubmissionUnknown: That is not known.
        """
        deadline = Deadline(self._times.others)
        while step.ref is None and step.state is StepState.SENDING and deadline.left:
            # Another program is sending it, or was killed.
            if (found := await self._found(step)) is not None:
                return found
            await asyncio.sleep(self._times.poll)
            step = (await self._journal.steps(step.job_id))[-1]
        if step.ref is not None or step.state.surely_not:
            return step
        found = await self._found(step)
        if found is None:
            raise SubmissionUnknown(
                f"The job was being sent to {step.member} when its program ended, and it is not "
                "there. It was sent nowhere else.",
                advice=Hint.FIND_JOB(job_id=step.job_id),
            )
        return found

    async def _events_at(self, step: Step, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """The events of a job at a member, its outputs marked with that."""
        assert step.ref is not None  # noqa: S101  see `_with_ref`
        self._steps[step.job_id] = step
        for log in self._said.pop(step.job_id, ()):
            yield log
        target = await self._target_of(step.member)
        async with aclosing(target.follow(step.ref, prompt)) as events, self._watched(step.member):
            async for event in events:
                match event:
                    case OutputReady(output):
                        yield OutputReady(replace(output, member=step.member))
                    case Finished():
                        outputs = [replace(one, member=step.member) for one in event.outputs]
                        details: dict[str, JsonValue] = {**event.details, "member": step.member}
                        yield replace(event, outputs=tuple(outputs), details=details)
                        return
                    case _:
                        yield event

    @asynccontextmanager
    async def _watched(self, member: str) -> AsyncIterator[None]:
        """If a member falls silent meanwhile, it cools down."""
        try:
            yield
        except ABOUT_A_MEMBER:
            if member in self._members:
                await self._members.failed(self._members[member])
            raise

    async def _patiently(self, step: Step, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """`_events_at`; a job that waits too long while another could take it is taken back.

        It is sent on only if its end confirms that: see `follow`.
        """
        patience, target = self.options.patience, await self._target_of(step.member)
        waits = patience is not None and isinstance(target, Withdraws) and not self._look
        due = Deadline(None if patience is None else max(0.0, patience - time.time() + step.at))
        async with Upcoming(self._events_at(step, prompt)) as upcoming:
            while True:
                while waits and not await upcoming.within(due.left):
                    due = Deadline(self._times.again)
                    if isinstance(target, Withdraws) and await self._another_can(step, prompt):
                        waits = False
                        yield await self._taken_back(step, target)
                try:
                    event = await upcoming.take()
                except StopAsyncIteration:
                    return
                waits = waits and isinstance(event, Queued | Phase | Log)
                yield event

    async def _another_can(self, step: Step, prompt: Prompt) -> bool:
        """Whether another member could begin a job at once that waits at this one."""
        request = self._requests.get(step.job_id) or await self._journal.request(step.job_id)
        if request is None or await self._journal.cancelled(step.job_id):
            return False
        self._requests[step.job_id] = request
        refused = {**self._refused.get(step.job_id, {}), step.member: "has it"}
        with suppress(ComfyRemoteError):
            candidates = await self._members.candidates(request, refused, True)
            return any(
                one.ready and one.cooling <= 0 and choose([one])[0].able for one in candidates
            )
        return False

    async def _taken_back(self, step: Step, target: Withdraws) -> Log:
        """Have a member give up a job that waits there; what to say about it."""
        assert step.ref is not None  # noqa: S101  it waits there
        seconds = seconds_text(time.time() - step.at)
        refused = self._refused.setdefault(step.job_id, {})
        refused[step.member] = f"had it waiting for {seconds}"
        with suppress(ComfyRemoteError):  # then it stays
            await target.withdraw(step.ref)
        return Log(f"It has waited for {seconds} at {step.member}, and another could take it.")

    async def _moved(
        self, step: Step, prompt: Prompt, end: Finished | None
    ) -> Step | Finished | None:
        """The next step of a job that surely did not run at a member.

        Without one, how the job ended; ``None`` if another program goes on with it.
        """
        grade = DidItRun(step.state.value)
        refused = self._refused.setdefault(step.job_id, {})
        refused.setdefault(step.member, step_clause(step))
        if await self._journal.cancelled(step.job_id):
            return _cancelled(grade, end)
        if self._look:
            return None
        request = self._requests.get(step.job_id) or await self._journal.request(step.job_id)
        if request is None or not await in_thread(_unchanged, request):
            why = TargetError(
                f"{step.member} gave up the job before it began, and what was sent is not known "
                "any more, so no other target was tried.",
                advice="Run the workflow again.",
            )
            return end or Finished(JobState.FAILED, why, did_it_run=grade)
        self._requests[step.job_id] = request
        try:
            return await self._send(request, step.number + 1)
        except _NotBegun as refusal:
            return _cancelled(grade, end) if refusal.why == "cancelled" else None
        except ComfyRemoteError as error:
            told = DidItRun.of(error) or DidItRun.UNKNOWN
            if not told.surely_not:
                raise
            return Finished(JobState.FAILED, error, did_it_run=told)

    async def _by_another(self, step: Step) -> Step | Finished:
        """The next step, which another program begins."""
        deadline = Deadline(self._times.others)
        while deadline.left:
            newest = (await self._journal.steps(step.job_id))[-1]
            if newest.number > step.number:
                return newest
            if await self._journal.cancelled(step.job_id):
                return _cancelled(DidItRun(step.state.value), None)
            await asyncio.sleep(self._times.poll)
        raise TargetError(
            f"{step.member} gave up the job before it began, and no program sends it on.",
            advice=Hint.FIND_JOB(job_id=step.job_id),
        )

    async def cancel(self, ref: RemoteRef) -> None:
        """Cancel it where it is, and see that it is sent nowhere else."""
        await self._journal.cancel(ref.job_id)
        step = await self._newest(ref)
        if step.state.surely_not:
            return
        if step.ref is None:
            try:
                step = await self._found(step) or step
            except SubmissionUnknown:
                if step.state is not StepState.SENDING:
                    raise
        if step.ref is not None:  # else whoever sends it sees that it is cancelled
            await (await self._target_of(step.member)).cancel(step.ref)

    def located(self, ref: RemoteRef) -> tuple[RemoteRef, Target | None]:
        """See `ChoosesAmong`."""
        step = self._steps.get(ref.job_id)
        name = ref.details.get(MEMBER_KEY, "") if step is None else step.member
        return (ref if step is None else step.ref or ref), self._known(name)

    @property
    def among(self) -> Sequence[Target]:
        """See `ChoosesAmong`."""
        return [one.target for one in self._members if one.target is not None]

    async def likely(self, prompt: Prompt) -> Target | None:
        """See `ChoosesAmong`."""
        chosen = (await self.decide(RunRequest("", prompt)))[0]
        return self._members[chosen.name].target if chosen.able else None

    # Outputs

    async def _with(self, output: RemoteOutput) -> Target:
        if output.member is None:
            raise OutputLost(f"Which target has {output.filename} is not known.")
        return await self._target_of(output.member)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """From the member that has it."""
        async with aclosing((await self._with(output)).read(output, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        """See `ReleasesOutputs`: each at the member that has it."""
        by_member: dict[str, list[RemoteOutput]] = {}
        for output in outputs:
            by_member.setdefault(output.member or "", []).append(output)
        for theirs in by_member.values():
            with suppress(ComfyRemoteError):
                await release(await self._with(theirs[0]), theirs)

    def version_of(self, output: RemoteOutput) -> str | None:
        """See `TellsVersions`."""
        target = self._known(output.member or "")
        return target.version_of(output) if isinstance(target, TellsVersions) else None

    # What it has

    def if_unfollowed(self, prompt: Prompt) -> Log:
        """That nobody sends it on; and what its members lose."""
        said = [
            lost.message
            for member in self._members
            if member.target is not None
            and (lost := if_unfollowed(member.target, prompt)) is not None
            and lost.level == "warning"
        ]
        alone = "While nobody follows the job, it is not sent on to another target."
        return Log(" ".join([alone, *dict.fromkeys(said)]), "warning" if said else "info")

    async def has_input(self, name: str) -> bool:
        """Whether every member that answers has it: the job may go to any."""
        return await self._members.have_input(name)

    async def models(self) -> dict[str, list[str]]:
        """See `ListsModels`: what any of them has."""
        return await self._members.models()

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """What any of them has: each class as the first of them has it, with the choices of all."""
        return await self._members.describe(classes)

    async def health(self) -> Health:
        """All of them together; those that do not answer have no workers."""
        return await self._members.health()

    async def problems(self) -> dict[str, str]:
        """See `ChoosesAmong`."""
        return await self._members.problems()


def _cancelled(grade: DidItRun, end: Finished | None) -> Finished:
    if end is not None and end.state is JobState.CANCELLED:
        return end
    error = JobCancelled("The job was cancelled.")
    return Finished(JobState.CANCELLED, error, did_it_run=grade)


def _unchanged(request: RunRequest) -> bool:
    """Whether its files are there as they were. Blocking: it reads them."""
    try:
        return all(sha256_of(file.path) == file.sha256 for file in request.files)
    except OSError:
        return False
