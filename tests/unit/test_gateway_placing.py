"""Which waiting job a worker gets: the rules of `comfy_remote.gateway.placing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import pytest
from typing_extensions import Unpack

from comfy_remote.gateway.placing import Line, Needs, Offer

WARM_PATIENCE, PATIENCE, BURST = 10.0, 60.0, 1.0


@dataclass(eq=False)
class Job:
    number: int
    client: str = ""
    batch: str = ""
    priority: int = 0
    front: bool = False
    low_priority: bool = False
    labels: frozenset[str] = frozenset()
    memory: int = 0
    needs: Needs = field(default_factory=Needs)
    queued: float = 0.0

    @property
    def id(self) -> str:
        return f"job-{self.number}"

    def __repr__(self) -> str:
        return f"{self.id}({self.client}/{self.batch})"


@dataclass(eq=False)
class Worker:
    id: str
    offer: Offer = field(default_factory=Offer)
    ready: bool = True
    draining: bool = False
    broken: str = ""
    idle_since: float | None = 0.0


class JobWords(TypedDict, total=False):
    client: str
    batch: str
    priority: int
    front: bool
    low_priority: bool
    labels: frozenset[str]
    memory: int
    queued: float


def with_models(*models: str, nodes: Sequence[str] = (), fetchable: Sequence[str] = ()) -> Needs:
    return Needs(frozenset(nodes), frozenset(models), frozenset(fetchable))


class Scene:
    """A line, its workers, and a clock."""

    def __init__(self, *workers: Worker) -> None:
        self.line: Line[Job] = Line(warm_patience=WARM_PATIENCE, patience=PATIENCE, burst=BURST)
        self.workers = list(workers) or [Worker("w")]
        self.now = 0.0
        self.added = 0
        self.running: dict[str, Job] = {}

    def add(self, needs: Needs | None = None, **words: Unpack[JobWords]) -> Job:
        self.added += 1
        words.setdefault("queued", self.now)
        job = Job(self.added, needs=needs or Needs(), **words)
        self.line.add(job)
        return job

    def choose(self, worker: Worker | None = None) -> Job | None:
        return self.line.choose(worker or self.workers[0], self.workers, self.now)

    def take(self, worker: Worker | None = None) -> Job | None:
        """What the queue does: choose, and start."""
        worker = worker or self.workers[0]
        job = self.choose(worker)
        if job is not None:
            self.line.start(job)
            worker.offer, worker.idle_since = worker.offer.after(job.needs), None
            self.running[worker.id] = job
        return job

    def end(self, worker: Worker | None = None) -> None:
        worker = worker or self.workers[0]
        self.line.remove(self.running.pop(worker.id))
        worker.idle_since = self.now

    def served(self, count: int) -> list[Job | None]:
        """What one worker gets, one job after the other."""
        jobs = []
        for _ in range(count):
            jobs.append(self.take())
            if jobs[-1] is not None:
                self.end()
        return jobs

    def why(self, job: Job) -> str:
        return self.line.why(job, self.workers, self.now)


# Order


def test_first_come_first_served() -> None:
    scene = Scene()
    jobs = [scene.add() for _ in range(4)]
    assert list(scene.line) == jobs
    assert len(scene.line) == 4
    assert scene.served(5) == [*jobs, None]


def test_higher_priorities_first_and_low_priority_after_all() -> None:
    scene = Scene()
    low, normal = scene.add(low_priority=True, priority=100), scene.add()
    later, urgent = scene.add(priority=-1), scene.add(priority=5)
    assert list(scene.line) == [urgent, normal, later, low]
    assert scene.served(4) == [urgent, normal, later, low]


def test_clients_take_turns_however_many_jobs_one_sends() -> None:
    scene = Scene()
    many = [scene.add(client="a") for _ in range(5)]
    few = [scene.add(client="b") for _ in range(2)]
    assert scene.served(7) == [many[0], few[0], many[1], few[1], *many[2:]]


def test_a_new_client_is_served_after_those_that_wait_and_before_the_one_just_served() -> None:
    scene = Scene()
    a = [scene.add(client="a") for _ in range(3)]
    b = [scene.add(client="b") for _ in range(2)]
    assert scene.take() is a[0]
    c = scene.add(client="c")
    scene.end()
    assert scene.served(4) == [b[0], c, a[1], b[1]]


def test_clients_that_come_and_go_do_not_starve_one_that_waits() -> None:
    scene = Scene()
    batch = [scene.add(client="batch") for _ in range(10)]
    for name in "xyz":
        scene.add(client=name)
    served = []
    for _ in range(12):
        job = scene.take()
        assert job is not None
        served.append(job)
        scene.end()
        if job.client != "batch":
            scene.add(client=job.client)  # who asks again at once
    assert [job for job in served if job.client == "batch"] == batch[:3]


def test_a_client_with_fewer_jobs_running_comes_first() -> None:
    workers = [Worker(name) for name in "abc"]
    scene = Scene(*workers)
    mine = [scene.add(client="me") for _ in range(4)]
    yours = [scene.add(client="you") for _ in range(4)]
    assert [scene.take(worker) for worker in workers] == [mine[0], yours[0], mine[1]]
    scene.end(workers[0])
    assert scene.take(workers[0]) is yours[1], "one of each runs, and it is your turn"
    scene.end(workers[0])
    scene.end(workers[1])
    assert scene.take(workers[0]) is yours[2], "one of mine runs, and none of yours"


def test_a_clients_batches_take_turns_too() -> None:
    scene = Scene()
    big = [scene.add(batch="big") for _ in range(4)]
    small = [scene.add(batch="small") for _ in range(2)]
    assert scene.served(6) == [big[0], small[0], big[1], small[1], *big[2:]]


def test_front_goes_before_the_rest_of_its_client_only() -> None:
    scene = Scene()
    other = [scene.add(client="other") for _ in range(2)]
    mine = [scene.add(client="me", batch="b") for _ in range(2)]
    front = scene.add(client="me", front=True)
    assert scene.served(5) == [other[0], front, other[1], mine[0], mine[1]]


def test_a_job_that_is_put_back_has_its_old_place() -> None:
    scene = Scene()
    first, second = scene.add(), scene.add()
    assert scene.take() is first
    scene.line.add(first)
    assert scene.served(2) == [first, second]


def test_a_job_that_was_removed_is_not_given_to_anybody() -> None:
    scene = Scene()
    first, second = scene.add(), scene.add()
    scene.line.remove(first)
    scene.line.remove(first)
    assert first not in scene.line
    assert second in scene.line
    assert scene.served(2) == [second, None]


def test_a_job_that_ran_before_a_restart_counts_for_its_client() -> None:
    scene = Scene()
    scene.line.start(Job(0, client="a"))
    scene.add(client="a")
    b = scene.add(client="b")
    assert scene.take() is b


# Who may


@pytest.mark.parametrize(
    "worker",
    [Worker("w", draining=True), Worker("w", ready=False), Worker("w", broken="No GPU.")],
    ids=["draining", "not ready", "broken"],
)
def test_a_worker_that_cannot_run_jobs_gets_none(worker: Worker) -> None:
    scene = Scene(worker)
    scene.add()
    assert scene.choose() is None


def test_labels_are_strict() -> None:
    plain, a100 = Worker("plain"), Worker("big", Offer(labels=frozenset({"a100", "eu"})))
    scene = Scene(plain, a100)
    labelled, free = scene.add(labels=frozenset({"a100"})), scene.add()
    assert scene.choose(plain) is free
    assert scene.choose(a100) is labelled
    scene.workers.remove(a100)
    assert scene.why(labelled) == (
        "No connected worker has the labels that the job asks for: a100."
    )


def test_memory_is_strict_and_unknown_memory_is_not_enough() -> None:
    unknown, small, big = Worker("unknown"), Worker("small"), Worker("big")
    small.offer, big.offer = Offer(memory=8 * 10**9), Offer(memory=24 * 10**9)
    scene = Scene(unknown, small)
    job = scene.add(memory=24 * 10**9)
    assert scene.choose(unknown) is None
    assert scene.choose(small) is None
    assert scene.why(job) == (
        "The job asks for 24.0 GB of GPU memory; no worker that it may use has more than 8.0 GB."
    )
    scene.workers.append(big)
    assert scene.choose(big) is job


KNOWN = Offer(nodes=frozenset({"KSampler"}), models=frozenset({"vae/a.pt"}))


@pytest.mark.parametrize(
    ("needs", "offer", "lacks"),
    [
        (with_models(nodes=["KSampler", "Rare"]), KNOWN, {"Rare"}),
        (with_models("vae/a.pt", "vae/b.pt"), KNOWN, {"vae/b.pt"}),
        (with_models("vae/b.pt", nodes=["Rare"]), Offer(), set()),
        (with_models("vae/b.pt", fetchable=["vae/b.pt"]), KNOWN, {"vae/b.pt"}),
        (
            with_models("vae/b.pt", fetchable=["vae/b.pt"]),
            Offer(models=frozenset(), fetches_models=True),
            set(),
        ),
        (
            with_models("vae/b.pt"),
            Offer(models=frozenset(), fetches_models=True),
            {"vae/b.pt"},
        ),
    ],
)
def test_what_a_worker_lacks(needs: Needs, offer: Offer, lacks: set[str]) -> None:
    assert offer.lacks(needs) == lacks


def test_a_worker_that_lacks_a_node_is_passed_over_while_another_has_it() -> None:
    lacking = Worker("lacking", Offer(nodes=frozenset({"Save"})))
    having = Worker("having", Offer(nodes=frozenset({"Save", "Rare"})), idle_since=None)
    scene = Scene(lacking, having)
    job = scene.add(with_models(nodes=["Save", "Rare"]))
    assert scene.choose(lacking) is None
    assert scene.why(job) == "Each worker that can run it is busy: having. The others lack Rare."
    having.broken = "CUDA is not there."
    assert scene.choose(lacking) is None, "it may run again soon"
    assert scene.why(job) == (
        "The engine of having does not run: CUDA is not there. The others lack Rare."
    )
    having.draining = True
    assert scene.choose(lacking) is job, "nobody else will ever take it"
    scene.workers.remove(having)
    assert scene.choose(lacking) is job, "its engine says best what is wrong"


def test_what_nobody_has_does_not_hold_up_the_others() -> None:
    small, big = Worker("small"), Worker("big", Offer(labels=frozenset({"big"})))
    scene = Scene(small, big)
    scene.add(labels=frozenset({"big"}))
    job = scene.add()
    assert scene.choose(small) is job


# Warm first

A, B = with_models("checkpoints/a"), with_models("checkpoints/b")


@pytest.mark.parametrize("order", ["AAABBB", "ABABAB", "AABBAB"])
def test_a_batch_over_two_models_loads_each_once_on_two_workers(order: str) -> None:
    one, two = Worker("one"), Worker("two")
    scene = Scene(one, two)
    scene.now = 1000.0  # both have been idle for long
    for model in order:
        scene.add(A if model == "A" else B, batch="b")
    loads = {"one": 0, "two": 0}
    for _ in range(3):
        for worker in (one, two):
            before, job = worker.offer.warm, scene.take(worker)
            assert job is not None
            loads[worker.id] += job.needs.models != before
            scene.now += 1
        for worker in (two, one):
            scene.end(worker)
    assert loads == {"one": 1, "two": 1}
    assert len(scene.line) == 0


def test_a_job_is_left_to_the_busy_worker_that_is_warm_until_patience_ends() -> None:
    warm, cold = Worker("warm", Offer(warm=A.models), idle_since=None), Worker("cold")
    scene = Scene(cold, warm)
    scene.now = cold.idle_since = 100.0
    job = scene.add(A)
    assert scene.choose(cold) is None
    assert scene.line.next_change(cold, scene.workers, scene.now) == 110.0
    scene.now = 103.0
    assert scene.why(job) == ("It is left to warm, where its models are loaded, for 7.0 s at most.")
    scene.now = 110.0
    assert scene.choose(cold) is job
    assert scene.line.next_change(cold, scene.workers, scene.now) is None


def test_a_worker_that_is_idle_for_long_leaves_a_new_job_for_a_moment_only() -> None:
    warm, cold = Worker("warm", Offer(warm=A.models), idle_since=None), Worker("cold")
    scene = Scene(cold, warm)
    scene.now = 100.0
    job = scene.add(A)
    assert scene.choose(cold) is None
    other = scene.add(B)
    assert scene.choose(cold) is other, "it suits this worker better"
    scene.line.remove(other)
    scene.now += BURST
    assert scene.choose(cold) is job


def test_a_job_is_left_to_an_idle_worker_that_is_warm() -> None:
    warm, cold = Worker("warm", Offer(warm=A.models)), Worker("cold")
    scene = Scene(cold, warm)
    scene.now = 100.0
    job = scene.add(A)
    scene.now += BURST
    assert scene.choose(cold) is None
    assert scene.choose(warm) is job
    scene.now = 110.0
    assert scene.choose(cold) is job, "the other one does not ask"


def test_a_job_without_models_is_never_held_back() -> None:
    warm, cold = Worker("warm", Offer(warm=A.models)), Worker("cold")
    scene = Scene(cold, warm)
    scene.add(A)
    job = scene.add()
    assert scene.choose(cold) is job


def test_a_worker_that_cannot_take_it_holds_no_job_back() -> None:
    cold = Worker("cold")
    for other in (
        Worker("other", Offer(warm=A.models), broken="It died."),
        Worker("other", Offer(warm=A.models), draining=True),
        Worker("other", Offer(warm=A.models, models=frozenset())),
    ):
        scene = Scene(cold, other)
        job = scene.add(A)
        assert scene.choose(cold) is job


def test_shared_models_count_less_than_all_of_them() -> None:
    flux, other = with_models("unet/flux", "vae/ae"), with_models("unet/other", "vae/ae")
    one, two = Worker("one", Offer(warm=flux.models)), Worker("two", Offer(warm=other.models))
    scene = Scene(one, two)
    first, second = scene.add(other), scene.add(flux)
    assert scene.choose(one) is second
    assert scene.choose(two) is first


def test_who_is_passed_over_for_its_models_gets_its_turn_when_patience_ends() -> None:
    worker = Worker("w", Offer(warm=A.models))
    scene = Scene(worker)
    cold = scene.add(B)
    for _ in range(10):
        scene.add(A)
    for second in (0.0, 30.0, 59.0):
        scene.now = second
        job = scene.take()
        assert job is not None
        assert job.needs == A
        scene.end()
    scene.now = 60.0
    assert scene.take() is cold


def test_clients_with_other_models_still_take_turns_on_one_worker() -> None:
    scene = Scene()
    mine = [scene.add(A, client="me") for _ in range(2)]
    yours = [scene.add(B, client="you") for _ in range(2)]
    assert scene.served(4) == [mine[0], yours[0], mine[1], yours[1]]


# Words


def test_why_a_job_waits() -> None:
    worker = Worker("w", idle_since=None)
    scene = Scene(worker)
    job = scene.add()
    assert scene.why(job) == "Each worker that can run it is busy: w."
    worker.ready = False
    assert scene.why(job) == "Each worker that can run it is still starting: w."
    worker.broken = "It exits at once."
    assert scene.why(job) == "The engine of w does not run: It exits at once."
    worker.draining = True
    assert scene.why(job) == "Each worker that can run it is draining: w."
    scene.workers.clear()
    assert scene.why(job) == "No worker is connected."
    scene.workers = [Worker(f"w{n}", idle_since=None) for n in range(5)]
    assert scene.why(job) == "Each worker that can run it is busy: w0, w1, w2 and 2 more."
    scene.workers = [Worker("w")]
    assert scene.why(job) == "It is about to be taken."
