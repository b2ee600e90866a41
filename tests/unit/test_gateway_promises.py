"""Whatever happens to a queue, in whatever order: it runs nothing twice and keeps its promises."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from comfy_remote.errors import EngineCrashed, RateLimited
from comfy_remote.gateway.job import Job, Policy, Submission
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.gateway.records import size_of

LIMITS = GatewayLimits(
    queued_jobs=5,
    run_retention=100.0,
    runsync_retention=20.0,
    key_retention=300.0,
    memory_bytes=60_000,
)
WORKERS = st.sampled_from(["a", "b"])


class Promises(RuleBasedStateMachine):
    """A queue, and what its clients were promised."""

    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.queue = JobQueue(LIMITS, clock=lambda: self.now)
        self.keys: dict[str, Job] = {}
        self.starts: dict[str, int] = {}
        self.allowed: dict[str, int] = {}
        self.ended: dict[str, float] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    @rule(
        target=jobs,
        key=st.sampled_from(["x", "y", "z", None]),
        sync=st.booleans(),
        size=st.integers(0, 6000),
    )
    def submit(self, key: str | None, sync: bool, size: int) -> Job | None:
        content: bytes | None = b"x" * size
        if not self.queue.records.has_memory_for(b"x" * size):
            content = None  # it is in a file
        known = self.queue.records.by_key(key)
        submission = Submission(input=1, policy=Policy.model_validate({"ttl": 10_000_000}))
        try:
            job = self.queue.add(submission, sync=sync, idempotency_key=key, content=content)
        except RateLimited:
            assert known is None, "a known key is answered by a full queue, too"
            return None
        if known is not None:
            assert job is known
        else:
            self.starts[job.id], self.allowed[job.id] = 0, 1
            if key is not None:
                self.keys[key] = job
        return job

    @rule(worker=WORKERS, count=st.integers(1, 3))
    def take(self, worker: str, count: int) -> None:
        for job in self.loop.run_until_complete(self.queue.take(worker, wait=0, count=count)):
            self.starts[job.id] += 1

    @rule(
        job=jobs,
        worker=WORKERS,
        failed=st.booleans(),
        result=st.just("a file") | st.integers(2, 4000).map(lambda size: b"x" * size),
    )
    def finish(self, job: Job | None, worker: str, failed: bool, result: bytes | str) -> None:
        if job is not None and self.queue.finish(job.id, worker, result=result, failed=failed):
            self.ended[job.id] = self.now

    @rule(job=jobs, worker=WORKERS)
    def hang_up(self, job: Job | None, worker: str) -> None:
        """It did not reach its worker."""
        if job is not None and self.queue.is_running(job.id, worker):
            self.queue.put_back([job])
            self.starts[job.id] -= 1

    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        mine = [job for job in self.queue.records if self.queue.is_running(job.id, worker)]
        self.queue.worker_is_gone(worker, EngineCrashed("It died."))
        self.ended.update((job.id, self.now) for job in mine)

    @rule(job=jobs)
    def cancel(self, job: Job | None) -> None:
        if job is not None and job.forgotten is None and not job.state.final:
            self.queue.cancel(job)
            self.ended[job.id] = self.now

    @rule(job=jobs)
    def retry(self, job: Job | None) -> None:
        if job is None or job not in self.queue.records or not job.may_be_retried:
            return
        try:
            self.queue.retry(job)
        except RateLimited:
            return
        self.allowed[job.id] += 1
        self.ended.pop(job.id, None)

    @rule(job=jobs, size=st.integers(0, 3000))
    def say(self, job: Job | None, size: int) -> None:
        if job is not None and job.worker_id is not None:
            self.queue.progress(job.id, job.worker_id, b"x" * size)

    @rule(seconds=st.integers(1, 150))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for worker in "ab":
            self.queue.workers.seen(worker)
        self.queue.sweep()

    @invariant()
    def nothing_runs_more_often_than_asked_for(self) -> None:
        for job_id, starts in getattr(self, "starts", {}).items():
            assert starts <= self.allowed[job_id]

    @invariant()
    def results_stay_as_long_as_promised(self) -> None:
        for job_id, ended in getattr(self, "ended", {}).items():
            retention = LIMITS.runsync_retention
            if not job_id.startswith("sync-"):
                retention = LIMITS.run_retention
            if self.now - ended < retention:
                assert self.queue.records.get(job_id).state.final

    @invariant()
    def keys_stay_as_long_as_promised(self) -> None:
        for key, job in getattr(self, "keys", {}).items():
            if job.forgotten is None or self.now - job.forgotten < LIMITS.key_retention:
                assert self.queue.records.by_key(key) is job

    @invariant()
    def memory_is_what_is_held(self) -> None:
        if not hasattr(self, "queue"):
            return
        known = list(self.queue.records)
        held = sum(
            size_of(job) + job.stream_bytes + len(job.more) - 2 + len(job.input or b"")
            for job in known
        )
        assert self.queue.records.memory == held
        assert all(job.input is None for job in known if job.state.final and not job.may_be_retried)


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
