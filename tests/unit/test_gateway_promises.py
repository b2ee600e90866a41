"""Whatever happens to a queue, in whatever order: it runs nothing twice and keeps its promises.

The model has what is really there: which worker computes what, and which results it has. The queue
must never start a job while an earlier start of it still computes, whoever is killed, cut off,
cancelled or late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from memory_journal import MemoryJournal

from comfy_remote.errors import EngineCrashed, JobNotFound, RateLimited
from comfy_remote.gateway.job import Lease, Policy, Submission
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.gateway.workers import WorkerKind
from comfy_remote.wire.joined import Held, HolderState
from comfy_remote.wire.runpod import RunPodState

LIMITS = GatewayLimits(
    queued_jobs=5,
    run_retention=100.0,
    runsync_retention=20.0,
    key_retention=300.0,
    worker_silence=50.0,
)
LOCAL = "local"
ATTACHED = "c"
"""A joined worker whose engine goes on when it ends."""
JOINED = ("a", "b", ATTACHED)
WORKERS = st.sampled_from((LOCAL, *JOINED))
ENDED = (RunPodState.COMPLETED, RunPodState.FAILED, RunPodState.CANCELLED, RunPodState.TIMED_OUT)

_T = TypeVar("_T")


@dataclass
class Machine:
    """A worker as it really is.

    Attributes:
        greeted: Whether this gateway process has heard from it.
        has: Its jobs by id and attempt: whether they compute or have ended.
    """

    boot: str
    greeted: bool = True
    has: dict[tuple[str, int], HolderState] = field(default_factory=dict)

    def held(self) -> list[Held]:
        return [
            Held(job=job, attempt=number, state=state) for (job, number), state in self.has.items()
        ]


class Promises(RuleBasedStateMachine):
    """A queue, its workers, and what its clients were promised."""

    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.boots = 0
        self.journal = MemoryJournal(key_retention=LIMITS.key_retention)
        self.machines = {name: Machine(self.new_boot(name)) for name in (LOCAL, *JOINED)}
        self.start_queue()
        self.keys: dict[str, str] = {}
        self.deaths: dict[str, int] = {}
        self.starts: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.results: dict[str, bytes] = {}
        self.ended: dict[str, float] = {}
        self.left_running: set[str] = set()
        # Of which somebody has said, wrongly or at his own risk, that their starts are dead.
        self.risked: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.do(self.queue.settle(0))
            self.loop.close()

    def do(self, work: Coroutine[object, object, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def in_loop(self, work: Callable[[], _T]) -> _T:
        async def called() -> _T:
            result = work()
            await self.queue.committed()
            return result

        return self.do(called())

    def new_boot(self, name: str) -> str:
        self.boots += 1
        if name == LOCAL:
            return f"local:{self.boots}"
        return f"{self.boots:032x}.{self.boots:032x}" + (".url" if name == ATTACHED else "")

    def start_queue(self) -> None:
        self.queue = JobQueue(LIMITS, self.journal, clock=lambda: self.now)
        self.queue.restore(self.journal.live())
        if self.queue.workers.get(LOCAL) is not None:
            gone = EngineCrashed("The gateway ended.")
            self.in_loop(lambda: self.queue.worker_is_gone(LOCAL, gone))
        local = self.machines[LOCAL] = Machine(self.new_boot(LOCAL))
        self.queue.workers.register(LOCAL, WorkerKind.LOCAL, local.boot)
        for name in JOINED:
            self.machines[name].greeted = False

    def greet(self, name: str) -> None:
        machine = self.machines[name]
        for one in self.do(self.queue.hello(name, machine.boot, machine.held())):
            machine.has.pop((one.job, one.attempt))
        machine.greeted = True

    # What clients do

    @rule(target=jobs, key=st.sampled_from(["x", "y", "z", None]), sync=st.booleans())
    def submit(self, key: str | None, sync: bool) -> str:
        return self.submitted(key, sync=sync)

    def submitted(self, key: str | None, *, sync: bool) -> str:
        policy = Policy.model_validate({"ttl": 10_000_000})
        try:
            job = self.do(
                self.queue.add(Submission(input=1, policy=policy), sync=sync, idempotency_key=key)
            )
        except RateLimited:
            return "none"  # `LocalEndpoint.submit` looks for the key then
        if key in self.known_keys():
            assert job.id == self.keys[key or ""]
        elif key is not None:
            self.keys[key] = job.id
        return job.id

    def known_keys(self) -> set[str]:
        return {key for key, job_id in self.keys.items() if job_id in self.journal.rows}

    @rule(job_id=jobs, all_that_wait=st.sampled_from([False, False, False, True]))
    def cancel(self, job_id: str, all_that_wait: bool) -> None:
        if all_that_wait:
            waiting = [job.id for job in self.queue.line]
            assert self.do(self.queue.purge()) == len(waiting)
            for one in waiting:
                self.results[one], self.ended[one] = b"{}", self.now
        elif self.state(job_id) in (RunPodState.IN_QUEUE, RunPodState.IN_PROGRESS):
            self.do(self.queue.cancel(job_id))
            self.results[job_id] = b"{}"
            self.ended[job_id] = self.now

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        if self.state(job_id) is not RunPodState.FAILED:
            return
        try:
            self.do(self.queue.retry(job_id))
        except RateLimited:
            return
        if job_id in self.left_running:
            self.risked.add(job_id)
        self.retries[job_id] = self.retries.get(job_id, 0) + 1
        self.results.pop(job_id, None)
        self.ended.pop(job_id, None)

    @rule(job_id=jobs)
    def to_front(self, job_id: str) -> None:
        if self.state(job_id) is RunPodState.IN_QUEUE:
            assert self.do(self.queue.to_front(job_id)).front

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        if seconds > 30:
            self.left_running.clear()
        for name in JOINED:
            if self.machines[name].greeted:
                self.queue.workers.seen(name)
        self.in_loop(self.queue.sweep)
        self.journal.forget(self.now)

    # What workers do

    @rule(name=WORKERS, arrives=st.booleans())
    def take(self, name: str, arrives: bool) -> None:
        machine = self.machines[name]
        if not machine.greeted:
            self.greet(name)
        for lease in self.do(self.queue.take(name, wait=0)):
            self.check_that_nobody_computes(lease.job.id)
            if arrives or name == LOCAL:
                machine.has[lease.job.id, lease.attempt] = HolderState.RUNNING
                self.starts[lease.job.id] = self.starts.get(lease.job.id, 0) + 1
            else:
                machine.greeted = False  # it was cut off, and says hello when it is back

    @rule(target=jobs, name=WORKERS)
    def begin_a_job(self, name: str) -> str:
        job_id = self.submitted(None, sync=False)
        self.take(name, arrives=True)
        return job_id

    @rule(name=st.sampled_from(JOINED))
    def say_hello(self, name: str) -> None:
        self.greet(name)

    @rule(name=st.sampled_from(JOINED))
    def end_a_job(self, name: str) -> None:
        machine = self.machines[name]
        for key, state in machine.has.items():
            if state is HolderState.RUNNING:
                machine.has[key] = HolderState.ENDED
                return

    @rule(name=WORKERS, failed=st.booleans(), acknowledged=st.booleans())
    def deliver(self, name: str, failed: bool, acknowledged: bool) -> None:
        machine = self.machines[name]
        if not machine.greeted:
            return
        for (job_id, attempt), state in list(machine.has.items()):
            if state is HolderState.RUNNING and name != LOCAL:
                continue
            result = f'{{"output":"{name} {job_id} {attempt}"}}'.encode()
            finish = partial(
                self.queue.finish, job_id, name, result=result, attempt=attempt, failed=failed
            )
            taken = self.in_loop(finish)
            if taken and job_id not in self.results:
                self.results[job_id], self.ended[job_id] = result, self.now
            if acknowledged or name == LOCAL:
                del machine.has[job_id, attempt]
            return

    @rule(name=st.sampled_from(JOINED))
    def stop_what_is_not_its_own(self, name: str) -> None:
        machine = self.machines[name]
        if machine.greeted:
            for job_id, attempt in list(machine.has):
                if not self.queue.takes_result(job_id, name, attempt=attempt):
                    del machine.has[job_id, attempt]

    @rule(name=st.sampled_from(JOINED))
    def give_back(self, name: str) -> None:
        """As at a second Ctrl-C: what runs is stopped, and another may do it."""
        machine = self.machines[name]
        for (job_id, attempt), state in list(machine.has.items()):
            if machine.greeted and state is HolderState.RUNNING:
                del machine.has[job_id, attempt]
                self.starts[job_id] -= 1
                job = self.queue.live.get(job_id)
                if job is not None and not self.queue.is_running(job_id, name, attempt):
                    self.starts[job_id] += 1
                elif job is not None:
                    lease = Lease(job, name, attempt)
                    self.in_loop(partial(self.queue.put_back, [lease], "It was stopped."))

    @rule(name=st.sampled_from(JOINED), is_back=st.booleans())
    def restart_a_worker(self, name: str, is_back: bool) -> None:
        machine = self.machines[name]
        if name == ATTACHED:
            self.left_running.update(
                job_id for (job_id, _), state in machine.has.items() if state is HolderState.RUNNING
            )
        else:
            self.note_deaths(name)
        machine.has = {
            key: state for key, state in machine.has.items() if state is HolderState.ENDED
        }
        machine.boot, machine.greeted = self.new_boot(name), False
        if is_back:
            self.greet(name)
            self.take(LOCAL, arrives=True)

    @rule(name=st.sampled_from(JOINED), lives=st.booleans())
    def say_that_one_is_gone(self, name: str, lives: bool) -> None:
        self.note_deaths(name, results_too=True)
        gone = EngineCrashed("Its owner says so.")
        self.in_loop(lambda: self.queue.worker_is_gone(name, gone))
        if lives:
            self.risked.update(job_id for job_id, _ in self.machines[name].has)
            self.machines[name].greeted = False
        else:
            self.machines[name] = Machine(self.new_boot(name), greeted=False)

    # What happens to the gateway

    @rule(unwritten=st.sampled_from(["nothing", "submit", "take", "finish", "cancel", "gone"]))
    def kill(self, unwritten: str) -> None:
        """With something under way, which nobody was told of."""
        self.journal.slow = True
        tasks = self.loop.create_task(self.under_way(unwritten))
        self.loop.run_until_complete(asyncio.sleep(0.001))
        self.note_deaths(LOCAL)
        self.journal = self.journal.after_crash()
        tasks.cancel()
        self.do(self.queue.settle(0))  # its tasks: they write to a journal that is nobody's now
        self.start_queue()

    async def under_way(self, what: str) -> None:
        queue = self.queue
        if what == "submit":
            await queue.add(Submission(input=1))
        elif what == "take":
            await queue.take(LOCAL, wait=0)
        for job in queue.running[:1]:
            worker = job.worker_id or ""
            if what == "finish" and (job.id, job.attempt) in self.machines[worker].has:
                queue.finish(job.id, worker, result=b'{"output":1}', attempt=job.attempt)
            elif what == "cancel":
                await queue.cancel(job.id)
            elif what == "gone" and worker == LOCAL:
                queue.worker_is_gone(worker, EngineCrashed("It died."))

    @rule()
    def stop_in_order(self) -> None:
        for job_id, _ in self.machines[LOCAL].has:
            self.starts[job_id] -= 1  # it was stopped, and is not counted
        self.machines[LOCAL].has.clear()
        self.in_loop(lambda: self.queue.worker_has_stopped(LOCAL, "The gateway was stopped."))
        self.do(self.queue.settle(1))
        self.journal = self.journal.after_crash()
        self.start_queue()

    # What is true at any time

    def state(self, job_id: str) -> RunPodState | None:
        try:
            return self.do(self.queue.get(job_id)).state
        except JobNotFound:
            return None

    def note_deaths(self, name: str, *, results_too: bool = False) -> None:
        for (job_id, _), state in self.machines[name].has.items():
            if results_too or state is HolderState.RUNNING:
                self.deaths[job_id] = self.deaths.get(job_id, 0) + 1

    def computing(self, job_id: str) -> list[str]:
        return [
            name
            for name, machine in self.machines.items()
            for (held, _), state in machine.has.items()
            if held == job_id and state is HolderState.RUNNING
        ]

    def check_that_nobody_computes(self, job_id: str) -> None:
        if job_id not in self.risked:
            assert self.computing(job_id) == []
            assert job_id not in self.left_running

    @invariant()
    def results_are_there_as_long_as_promised(self) -> None:
        for job_id, ended in getattr(self, "ended", {}).items():
            sync = job_id.startswith("sync-")
            if self.now - ended < (LIMITS.runsync_retention if sync else LIMITS.run_retention):
                job = self.do(self.queue.get(job_id))
                assert job.state in ENDED
                assert job.more == self.results[job_id], "one result, the one that was taken"

    @invariant()
    def nothing_is_started_more_often_than_it_died(self) -> None:
        for job_id, starts in getattr(self, "starts", {}).items():
            deaths, retries = self.deaths.get(job_id, 0), self.retries.get(job_id, 0)
            assert starts <= 1 + deaths + retries
            assert starts <= 2 * (1 + retries)

    @invariant()
    def memory_has_what_is_live_and_nothing_else(self) -> None:
        if not hasattr(self, "queue"):
            return
        self.do(self.queue.committed())
        live = [job for job in self.queue.live if not job.state.final]
        assert {job.id for job in live} == {job.id for job in self.journal.live()}
        for job in live:
            running = job.state is RunPodState.IN_PROGRESS
            assert running == (job in self.queue.running)
            assert running == (job.worker_id is not None)

    @invariant()
    def what_the_journal_says_is_what_the_queue_says(self) -> None:
        if not hasattr(self, "queue"):
            return
        self.do(self.queue.committed())
        for row in self.journal.live():
            job = self.queue.live.get(row.id)
            assert job is not None
            assert (job.state, job.attempt, job.worker_id, job.boot, job.lost, job.earlier) == (
                (row.state, row.attempt, row.worker_id, row.boot, row.lost, row.earlier)
            )


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
