"""A route's job runs at most once, or it is said that nobody knows, whatever goes wrong.

A state machine over three members and several client processes that share one record: refusals,
lost answers, submissions that arrive late, jobs given up, stopped and forgotten, cancels from
anywhere, and clients that are killed between the note and the sending, and before the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from route_kit import PROMPT, Killed, Server, request_of, route_of

from comfy_remote.errors import ComfyRemoteError, SubmissionUnknown
from comfy_remote.events import DidItRun, Finished, JobState
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.route.journal import MemoryJournal
from comfy_remote.targets.route.target import RouteTarget

_T = TypeVar("_T")

_FAULTS = ["", "", "refused", "unreachable", "lost", "vanished", "late"]
_KILLS = ["killed before", "killed after"]
_LIVE = ("late", "waits", "runs")


class RouteMachine(RuleBasedStateMachine):
    """Jobs of one user."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.journal = MemoryJournal(now=lambda: 0.0)
        self.servers = [Server("lan"), Server("gpu"), Server("box", can_tell=False)]
        self.clients: list[RouteTarget] = []
        self.ends: dict[str, Finished | ComfyRemoteError] = {}
        self.jobs = 0
        self.start_client()

    def teardown(self) -> None:
        for client in self.clients:
            self.run(client.__aexit__())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def job(self, number: int) -> str:
        return f"job-{number % self.jobs}"

    @precondition(lambda self: len(self.clients) < 3)
    @rule()
    def start_client(self) -> None:
        self.clients.append(route_of(self.servers, self.journal))

    @precondition(lambda self: self.jobs < 2)
    @rule(
        client=st.integers(0, 2),
        faults=st.tuples(*[st.sampled_from([*_FAULTS, *_KILLS])] * 3),
        down=st.tuples(*[st.booleans()] * 3),
    )
    def submit(
        self, client: int, faults: tuple[str, str, str], down: tuple[bool, bool, bool]
    ) -> None:
        job_id = f"job-{self.jobs}"
        self.jobs += 1
        self.journal.keep(request_of(job_id))
        for server, fault, is_down in zip(self.servers, faults, down, strict=True):
            server.fault, server.down = fault, is_down and fault == "refused"
        target = self.clients[client % len(self.clients)]
        try:
            self.run(target.submit(request_of(job_id)))
        except Killed:
            self.clients.remove(target)
            if not self.clients:
                self.start_client()
        except ComfyRemoteError as error:
            self.judge(job_id, error)
        finally:
            for server in self.servers:
                server.fault, server.down = "", False

    def judge(self, job_id: str, end: Finished | ComfyRemoteError) -> None:
        """Compare what a client is told with what has happened."""
        self.ends[job_id] = end
        runs = sum(server.runs[job_id] for server in self.servers)
        live = [s.name for s in self.servers if s.jobs.get(job_id) in _LIVE]
        grade = end.did_it_run if isinstance(end, Finished) else DidItRun.of(end)
        if isinstance(end, Finished) and end.state is JobState.SUCCEEDED:
            assert runs == 1
            assert [one.member for one in end.outputs] == [
                s.name for s in self.servers if s.runs[job_id]
            ]
        elif grade is not None and grade.surely_not:
            assert (runs, live) == (0, [])
        elif grade is DidItRun.STOPPED:
            assert runs == 1

    @precondition(lambda self: self.jobs)
    @rule(
        number=st.integers(0, 1),
        state=st.sampled_from(["waits", "runs", "done", "failed", "withdrawn", "stopped"]),
    )
    def at_a_server(self, number: int, state: str) -> None:
        """A job that a server has goes on, by itself or by somebody who is not a client."""
        job_id = self.job(number)
        before = {"waits": "late", "runs": "waits", "withdrawn": "waits"}.get(state, "runs")
        for server in self.servers:
            if server.jobs.get(job_id) == before:
                server.put(job_id, state)

    @rule(server=st.integers(0, 2))
    def restart_server(self, server: int) -> None:
        self.servers[server].restart()

    async def ref_of(self, target: RouteTarget, job_id: str) -> RemoteRef | None:
        """How the record has a job; else the target is asked."""
        steps = [one for one in await self.journal.steps(job_id) if one.ref is not None]
        return steps[-1].ref if steps else await target.find(job_id)

    async def followed(self, target: RouteTarget, job_id: str) -> Finished | None:
        """Its end, if that comes before its server has nothing new to say."""
        ref = await self.ref_of(target, job_id)
        if ref is None:
            return None
        end: Finished | None = None

        async def follow() -> None:
            nonlocal end
            async for event in target.follow(ref, PROMPT):
                if isinstance(event, Finished):
                    end = event

        following = asyncio.ensure_future(follow())
        for server in self.servers:
            server.idle.clear()
        idle = [asyncio.ensure_future(server.idle.wait()) for server in self.servers]
        await asyncio.wait([following, *idle], return_when=asyncio.FIRST_COMPLETED)
        for task in (following, *idle):
            task.cancel()
        [result, *_] = await asyncio.gather(following, *idle, return_exceptions=True)
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
        return end

    @precondition(lambda self: self.jobs)
    @rule(
        client=st.integers(0, 2),
        number=st.integers(0, 1),
        faults=st.tuples(*[st.sampled_from([*_FAULTS, *_KILLS])] * 3),
    )
    def follow(self, client: int, number: int, faults: tuple[str, str, str]) -> None:
        for server, fault in zip(self.servers, faults, strict=True):
            server.fault = fault
        target, job_id = self.clients[client % len(self.clients)], self.job(number)
        try:
            end = self.run(self.followed(target, job_id))
        except Killed:
            self.clients.remove(target)
            if not self.clients:
                self.start_client()
        except ComfyRemoteError as error:
            self.judge(job_id, error)
        else:
            if end is not None:
                self.judge(job_id, end)
        finally:
            for server in self.servers:
                server.fault = ""

    @precondition(lambda self: self.jobs and len(self.clients) > 1)
    @rule(number=st.integers(0, 1))
    def two_follow(self, number: int) -> None:
        """The job is given up while two processes follow it: one of them sends it on."""
        job_id = self.job(number)
        for server in self.servers:
            if server.jobs.get(job_id) == "waits":
                server.put(job_id, "withdrawn")

        async def both() -> list[Finished | BaseException | None]:
            following = [self.followed(client, job_id) for client in self.clients[:2]]
            return await asyncio.gather(*following, return_exceptions=True)

        for end in self.run(both()):
            if isinstance(end, Finished | ComfyRemoteError):
                self.judge(job_id, end)
            assert end is None or isinstance(end, Finished | ComfyRemoteError), end

    @precondition(lambda self: self.jobs)
    @rule(client=st.integers(0, 2), number=st.integers(0, 1))
    def cancel(self, client: int, number: int) -> None:
        target, job_id = self.clients[client % len(self.clients)], self.job(number)

        async def cancelled() -> None:
            try:
                ref = await self.ref_of(target, job_id)
            except SubmissionUnknown:
                ref = RemoteRef(job_id, "", {})
            if ref is not None:
                await target.cancel(ref)
                assert self.sent(job_id) == before

        before = self.sent(job_id)
        try:
            self.run(cancelled())
        except SubmissionUnknown as error:
            self.judge(job_id, error)

    @precondition(lambda self: self.jobs)
    @rule(
        client=st.integers(0, 2),
        number=st.integers(0, 1),
        faults=st.tuples(*[st.sampled_from([*_FAULTS, *_KILLS])] * 3),
    )
    def given_up_and_followed(self, client: int, number: int, faults: tuple[str, str, str]) -> None:
        self.at_a_server(number, "withdrawn")
        self.follow(client, number, faults)

    @precondition(lambda self: self.jobs and len(self.clients) > 1)
    @rule(number=st.integers(0, 1))
    def cancelled_while_it_is_sent_on(self, number: int) -> None:
        job_id = self.job(number)
        self.at_a_server(number, "withdrawn")
        first, second = self.clients[:2]

        async def both() -> None:
            ref = await self.ref_of(first, job_id)
            if ref is None:
                return
            for server in self.servers:
                server.while_sending = [lambda: second.cancel(ref)]
            end = await self.followed(first, job_id)
            for server in self.servers:
                # Where it was cancelled as it was sent, it does not wait.
                assert server.while_sending or server.jobs.get(job_id) != "waits"
            if end is not None:
                self.judge(job_id, end)

        try:
            self.run(both())
        except ComfyRemoteError as error:
            self.judge(job_id, error)
        finally:
            for server in self.servers:
                server.while_sending = []

    def sent(self, job_id: str) -> int:
        return sum(server.sent.count(job_id) for server in self.servers)

    @invariant()
    def nothing_runs_twice(self) -> None:
        for number in range(self.jobs):
            job_id = f"job-{number}"
            runs = sum(server.runs[job_id] for server in self.servers)
            live = [s.name for s in self.servers if s.jobs.get(job_id) in ("late", "waits")]
            assert runs + len(live) <= 1, f"{job_id}: {runs} runs, and it waits at {live}"


TestRoute = RouteMachine.TestCase
TestRoute.settings = settings(
    max_examples=150,
    stateful_step_count=16,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink what is found takes minutes
    suppress_health_check=list(HealthCheck),
)
