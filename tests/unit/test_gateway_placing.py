"""Which waiting job a worker gets: the rules of `comfy_remote.gateway.placing`."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import pytest
from gateway_kit import a_job
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from typing_extensions import Unpack

from comfy_remote.gateway.job import Job
from comfy_remote.gateway.offers import Needs, Offer
from comfy_remote.gateway.placing import Line
from comfy_remote.gateway.workers import Worker, WorkerKind

WARM_PATIENCE, PATIENCE, BURST = 10.0, 60.0, 1.0


class JobWords(TypedDict, total=False):
    client: str
    batch: str
    priority: int
    front: bool
    low_priority: bool
    labels: frozenset[str]
    memory: int
    queued: float


class State(TypedDict, total=False):
    ready: bool
    silent: bool
    draining: bool
    broken: str


def make_worker(
    name: str, offer: Offer | None = None, *, idle_since: float | None = 0.0, **state: Unpack[State]
) -> Worker:
    worker = Worker(name, WorkerKind.LOCAL, "boot", 0.0, idle_since, **{"ready": True, **state})
    worker.offer = offer or Offer()
    return worker


def with_models(*models: str, nodes: Sequence[str] = (), fetchable: Sequence[str] = ()) -> Needs:
    return Needs(frozenset(nodes), frozenset(models), frozenset(fetchable))


class Scene:
    """A line, its workers, and a clock."""

    def __init__(self, *workers: Worker) -> None:
        self.line = Line(warm_patience=WARM_PATIENCE, patience=PATIENCE, burst=BURST)
        self.workers = list(workers) or [make_worker("w")]
        self.now = 0.0
        self.added = 0
        self.running: dict[str, Job] = {}

    def add(self, needs: Needs | None = None, **words: Unpack[JobWords]) -> Job:
        self.added += 1
        words.setdefault("queued", self.now)
        job = a_job(f"job-{self.added}", number=self.added, needs=needs or Needs(), **words)
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
    workers = [make_worker(name) for name in "abc"]
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
    scene.line.start(a_job(client="a"))
    scene.add(client="a")
    b = scene.add(client="b")
    assert scene.take() is b


# Who may


@pytest.mark.parametrize(
    "worker",
    [
        make_worker("w", draining=True),
        make_worker("w", ready=False),
        make_worker("w", broken="No GPU."),
        make_worker("w", silent=True),
    ],
    ids=["draining", "not ready", "broken", "silent"],
)
def test_a_worker_that_cannot_run_jobs_gets_none(worker: Worker) -> None:
    scene = Scene(worker)
    scene.add()
    assert scene.choose() is None


def test_labels_are_strict() -> None:
    plain, a100 = make_worker("plain"), make_worker("big", Offer(labels=frozenset({"a100", "eu"})))
    scene = Scene(plain, a100)
    labelled, free = scene.add(labels=frozenset({"a100"})), scene.add()
    assert scene.choose(plain) is free
    assert scene.choose(a100) is labelled
    scene.workers.remove(a100)
    assert scene.why(labelled) == (
        "No connected worker has the labels that the job asks for: a100."
    )


def test_memory_is_strict_and_unknown_memory_is_not_enough() -> None:
    unknown, small, big = make_worker("unknown"), make_worker("small"), make_worker("big")
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


@pytest.mark.parametrize(
    ("sold", "reported"), [(24, 24564 * 2**20), (48, 46068 * 2**20), (80, 81559 * 2**20)]
)
def test_a_card_has_the_memory_that_it_is_sold_with(sold: int, reported: int) -> None:
    """What nvidia-smi reports of an RTX 4090, an L40S and an H100."""
    offer = Offer(memory=reported)
    assert offer.has_memory(sold * 2**30) and offer.has_memory(sold * 10**9)
    assert not offer.has_memory(int(sold * 1.3) * 2**30)


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
    lacking = make_worker("lacking", Offer(nodes=frozenset({"Save"})))
    having = make_worker("having", Offer(nodes=frozenset({"Save", "Rare"})), idle_since=None)
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


def test_a_job_waits_for_the_worker_that_has_its_nodes_and_is_away() -> None:
    here = make_worker("here", Offer(nodes=frozenset()))
    away = make_worker("away", Offer(nodes=frozenset({"Rare"})), silent=True)
    scene = Scene(here, away)
    job = scene.add(with_models(nodes=["Rare"]))
    assert scene.choose(here) is None
    assert scene.why(job) == "Each worker that can run it is away: away. The others lack Rare."
    away.offer = Offer()
    assert scene.choose(here) is job, "nobody knows what that one has"
    away.silent, away.ready = False, False
    assert scene.choose(here) is None, "it is starting, and will say what it has"
    away.broken = "It exits at once."
    assert scene.choose(here) is job


def test_after_a_restart_workers_that_may_come_back_are_waited_for() -> None:
    here = make_worker("here", Offer(nodes=frozenset({"Save"})))
    scene = Scene(here)
    scene.line.wait_for_workers(30.0)
    rare = scene.add(with_models(nodes=["Save", "Rare"]))
    assert scene.choose(here) is None
    assert scene.why(rare) == "No worker has Rare; one may come back within 30 s."
    assert scene.line.next_change(here, scene.workers, scene.now) == 30.0
    easy = scene.add(with_models(nodes=["Save"]))
    assert scene.choose(here) is easy
    scene.now = 30.0
    assert scene.choose(here) is rare


def test_of_what_is_needed_each_part_counts() -> None:
    nothing, some, other = (
        make_worker("nothing", Offer(frozenset(), frozenset())),
        make_worker("some", Offer(frozenset({"Rare"}), frozenset())),
        make_worker("other", Offer(frozenset(), frozenset({"vae/a"}))),
    )
    scene = Scene(nothing, some)
    job = scene.add(with_models("vae/a", nodes=["Rare", "Nowhere"]))
    assert scene.choose(nothing) is None
    assert scene.choose(some) is job, "what nobody has makes no difference"
    scene.workers.append(other)
    assert scene.choose(some) is job
    assert scene.choose(other) is job, "each has what the other lacks"
    some.idle_since = other.idle_since = None
    assert scene.why(job) == (
        "Each worker that can run it is busy: some and other. The others lack Rare and vae/a."
    )


def test_what_nobody_has_does_not_hold_up_the_others() -> None:
    small, big = make_worker("small"), make_worker("big", Offer(labels=frozenset({"big"})))
    scene = Scene(small, big)
    scene.add(labels=frozenset({"big"}))
    job = scene.add()
    assert scene.choose(small) is job


# Warm first

A, B = with_models("checkpoints/a"), with_models("checkpoints/b")


@pytest.mark.parametrize("order", ["AAABBB", "ABABAB", "AABBAB"])
def test_a_batch_over_two_models_loads_each_once_on_two_workers(order: str) -> None:
    one, two = make_worker("one"), make_worker("two")
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
    warm, cold = make_worker("warm", Offer(warm=A.models), idle_since=None), make_worker("cold")
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
    warm, cold = make_worker("warm", Offer(warm=A.models), idle_since=None), make_worker("cold")
    scene = Scene(cold, warm)
    scene.now = 100.0
    job = scene.add(A)
    assert scene.choose(cold) is None
    other = scene.add(B)
    assert scene.choose(cold) is other, "it suits this worker better"
    scene.line.remove(other)
    scene.now += BURST
    assert scene.choose(cold) is job


def test_a_job_is_not_left_to_a_worker_that_has_enough_to_do() -> None:
    warm, cold = make_worker("warm", Offer(warm=A.models), idle_since=None), make_worker("cold")
    scene = Scene(cold, warm)
    scene.now = cold.idle_since = 100.0
    jobs = [scene.add(A) for _ in range(11)]
    assert scene.choose(cold) is None, "the rest of the batch may be others'"
    scene.now += BURST
    assert scene.choose(cold) is jobs[0]
    scene.line.remove(jobs[-1])
    assert scene.choose(cold) is None, "ten jobs may end in ten seconds"


def test_a_job_is_left_to_an_idle_worker_that_is_warm() -> None:
    warm, cold = make_worker("warm", Offer(warm=A.models)), make_worker("cold")
    scene = Scene(cold, warm)
    scene.now = 100.0
    job = scene.add(A)
    scene.now += BURST
    assert scene.choose(cold) is None
    assert scene.choose(warm) is job
    scene.now = 110.0
    assert scene.choose(cold) is job, "the other one does not ask"


def test_a_job_without_models_is_never_held_back() -> None:
    warm, cold = make_worker("warm", Offer(warm=A.models)), make_worker("cold")
    scene = Scene(cold, warm)
    scene.add(A)
    job = scene.add()
    assert scene.choose(cold) is job


def test_a_worker_that_cannot_take_it_holds_no_job_back() -> None:
    cold = make_worker("cold")
    for other in (
        make_worker("other", Offer(warm=A.models), broken="It died."),
        make_worker("other", Offer(warm=A.models), draining=True),
        make_worker("other", Offer(warm=A.models, models=frozenset(), labels=frozenset({"x"}))),
        make_worker("other", Offer(warm=A.models)),
    ):
        cold.offer = Offer(labels=frozenset({"x"}))
        scene = Scene(cold, other)
        job = scene.add(A, labels=frozenset({"x"}))
        assert scene.choose(cold) is job


def test_a_question_to_a_worker_leaves_its_models_loaded() -> None:
    warm = Offer(warm=A.models)
    assert warm.after(Needs()) is warm, "a description, a part of an output"
    assert warm.after(Needs(nodes=frozenset({"EmptyImage"}))).warm == frozenset()
    assert warm.after(B).warm == B.models


def test_shared_models_count_less_than_all_of_them() -> None:
    flux, other = with_models("unet/flux", "vae/ae"), with_models("unet/other", "vae/ae")
    one, two = (
        make_worker("one", Offer(warm=flux.models)),
        make_worker("two", Offer(warm=other.models)),
    )
    scene = Scene(one, two)
    first, second = scene.add(other), scene.add(flux)
    assert scene.choose(one) is second
    assert scene.choose(two) is first


def test_who_is_passed_over_for_its_models_gets_its_turn_when_patience_ends() -> None:
    worker = make_worker("w", Offer(warm=A.models))
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


def test_patience_ends_a_shorter_wait_for_a_warm_worker_too() -> None:
    busy, other = make_worker("busy", Offer(warm=A.models), idle_since=None), make_worker("other")
    scene = Scene(busy, other)
    passed = scene.add(A)
    scene.add(B)
    job = scene.take(other)
    assert job is not passed, "from now on it is passed over"
    scene.now = 55.0
    scene.end(other)
    assert scene.choose(other) is None
    assert scene.line.next_change(other, scene.workers, scene.now) == PATIENCE
    scene.now = PATIENCE
    assert scene.choose(other) is passed


def test_a_job_that_is_put_back_may_be_passed_over_once_more() -> None:
    worker = make_worker("w", Offer(warm=A.models))
    scene = Scene(worker)
    cold, warm = scene.add(B), scene.add(A)
    assert scene.choose() is warm
    scene.line.start(cold)
    scene.line.add(cold)
    scene.now = PATIENCE
    assert scene.choose() is warm


def test_clients_with_other_models_still_take_turns_on_one_worker() -> None:
    scene = Scene()
    mine = [scene.add(A, client="me") for _ in range(2)]
    yours = [scene.add(B, client="you") for _ in range(2)]
    assert scene.served(4) == [mine[0], yours[0], mine[1], yours[1]]


# Words


def test_why_a_job_waits() -> None:
    worker = make_worker("w", idle_since=None)
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
    scene.workers = [make_worker(f"w{n}", idle_since=None) for n in range(5)]
    assert scene.why(job) == "Each worker that can run it is busy: w0, w1, w2 and 2 more."
    scene.workers = [make_worker("w")]
    assert scene.why(job) == "It is about to be taken."


# Nothing is forgotten, and nothing is remembered for ever


def test_a_line_remembers_nothing_of_jobs_that_are_gone() -> None:
    scene = Scene()
    job: Job | None = scene.add(with_models("checkpoints/only-here"), client="c", batch="b")
    assert job is not None
    seen = weakref.ref(job.needs.models)  # which only the job has
    scene.line.start(job)
    scene.line.add(job)
    assert scene.choose() is job
    scene.line.remove(job)
    job = None
    gc.collect()
    assert seen() is None


# Whatever happens


@given(clients=st.integers(2, 5), workers=st.integers(1, 6), batches=st.integers(1, 3))
def test_of_equal_jobs_nobody_gets_more_than_one_ahead(
    clients: int, workers: int, batches: int
) -> None:
    scene = Scene(*(make_worker(f"w{n}") for n in range(workers)))
    for name in range(clients):  # one after the other, each with all its jobs
        for number in range(60):
            scene.add(client=f"c{name}", batch=f"b{number % batches}")
    served = Counter({(f"c{c}", f"b{b}"): 0 for c in range(clients) for b in range(batches)})
    for step in range(60):
        worker = scene.workers[step % workers]
        if worker.id in scene.running:
            scene.end(worker)
        job = scene.take(worker)
        assert job is not None
        served[job.client, job.batch] += 1
        by_client = Counter[str]()
        for (client, _), count in served.items():
            by_client[client] += count
        assert max(by_client.values()) - min(by_client.values()) <= 1
        for client in by_client:
            counts = [count for (name, _), count in served.items() if name == client]
            assert max(counts) - min(counts) <= 1


NODES, MODELS = ("Rare", "Common"), ("checkpoints/a", "checkpoints/b", "vae/c")


def some(words: Sequence[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(words), max_size=2)


NEEDS = st.builds(Needs, nodes=some(NODES), models=some(MODELS), fetchable=some(MODELS[:1]))
OFFERS = st.builds(
    Offer,
    nodes=st.none() | some(NODES),
    models=st.none() | some(MODELS),
    memory=st.sampled_from([None, 8, 24]),
    labels=some(["x"]),
    fetches_models=st.booleans(),
    warm=some(MODELS),
)
WORKERS = st.integers(0, 3)


class Placing(RuleBasedStateMachine):
    """A line and four workers, to whom anything may happen in any order."""

    @initialize(offers=st.lists(OFFERS, min_size=4, max_size=4))
    def begin(self, offers: list[Offer]) -> None:
        self.all = [make_worker(f"w{n}", offer) for n, offer in enumerate(offers)]
        self.scene = Scene(*self.all)
        self.waiting: list[Job] = []
        self.passed: dict[str, float] = {}

    @rule(
        needs=NEEDS,
        client=st.sampled_from("ab"),
        batch=st.sampled_from(["", "b"]),
        priority=st.sampled_from([0, 0, 1]),
        front=st.booleans(),
        low_priority=st.booleans(),
        labels=some(["x"]),
        memory=st.sampled_from([0, 0, 16]),
    )
    def add(self, needs: Needs, **words: Unpack[JobWords]) -> None:
        self.waiting.append(self.scene.add(needs, **words))

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        job = self.waiting.pop(which % len(self.waiting))
        self.scene.line.remove(job)
        assert job not in self.scene.line

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.scene.now += seconds

    @rule(which=WORKERS, offer=OFFERS)
    def restart_a_worker(self, which: int, offer: Offer) -> None:
        """It may run something meanwhile: others said so, and what it has is another matter."""
        self.all[which].offer = offer

    @rule(
        which=WORKERS,
        ready=st.booleans(),
        silent=st.booleans(),
        draining=st.booleans(),
        broken=st.sampled_from(["", "No GPU."]),
        connected=st.booleans(),
    )
    def change_a_worker(
        self, which: int, ready: bool, silent: bool, draining: bool, broken: str, connected: bool
    ) -> None:
        worker = self.all[which]
        worker.ready, worker.silent, worker.draining = ready, silent, draining
        worker.broken = broken
        self.scene.workers = [
            one for one in self.all if (connected if one is worker else one in self.scene.workers)
        ]

    @rule(which=WORKERS)
    def heal(self, which: int) -> None:
        self.change_a_worker(
            which, ready=True, silent=False, draining=False, broken="", connected=True
        )

    @rule(which=WORKERS, again=st.booleans())
    def end(self, which: int, again: bool) -> None:
        worker = self.all[which]
        if (job := self.scene.running.get(worker.id)) is None:
            return
        self.scene.end(worker)
        if again:
            self.scene.line.add(job)
            self.waiting.append(job)

    @rule(which=WORKERS)
    def take(self, which: int) -> None:
        worker, scene = self.all[which], self.scene
        if worker not in scene.workers or worker.id in scene.running:
            return
        allowed = [job for job in self.waiting if self.allowed(job, worker)]
        turn = self.whose_turn(worker)
        self.check_turn(turn, allowed)
        chosen = scene.choose(worker)
        assert chosen is scene.choose(worker), "the same question has the same answer"
        scene.workers.reverse()
        assert chosen is scene.choose(worker), "the order of workers decides nothing"
        scene.workers.reverse()
        if chosen is None:
            self.check_it_only_waits(worker, allowed)
        if turn is not None and chosen is not turn:
            assert turn.needs.models or (chosen and chosen.needs.models)
            since = self.passed.setdefault(turn.id, scene.now)
            assert scene.now - since < PATIENCE, "nobody is passed over for longer"
        if chosen is not None:
            assert chosen in allowed
            assert scene.take(worker) is chosen
            self.waiting.remove(chosen)
            self.passed.pop(chosen.id, None)

    def check_it_only_waits(self, worker: Worker, allowed: list[Job]) -> None:
        """Nothing was chosen: for a while, if there is something to choose."""
        again = self.scene.line.next_change(worker, self.scene.workers, self.scene.now)
        if not allowed:
            assert again is None
            return
        assert all(job.needs.models for job in allowed), "the others are never held back"
        assert again is not None
        assert self.scene.now < again <= self.scene.now + WARM_PATIENCE
        assert self.scene.line.choose(worker, self.scene.workers, again) in allowed

    def whose_turn(self, worker: Worker) -> Job | None:
        """What the worker would get if no model were warm anywhere."""
        blind = [
            replace(one, offer=replace(one.offer, warm=frozenset())) for one in self.scene.workers
        ]
        asking = next(one for one in blind if one.id == worker.id)
        return self.scene.line.choose(asking, blind, self.scene.now)

    def check_turn(self, turn: Job | None, allowed: list[Job]) -> None:
        """By priority, then fairly between clients and batches, then by arrival."""
        if turn is None:
            assert not allowed
            return
        assert turn in allowed
        level = min((job.low_priority, -job.priority) for job in allowed)
        rivals = [job for job in allowed if (job.low_priority, -job.priority) == level]
        assert turn in rivals
        running = list(self.scene.running.values())
        by_client = {job.client: sum(one.client == job.client for one in running) for job in rivals}
        assert by_client[turn.client] == min(by_client.values())
        rivals = [job for job in rivals if job.client == turn.client]
        if front := [job for job in rivals if job.front]:
            assert turn is min(front, key=lambda job: job.number)
            return
        by_batch = {
            job.batch: sum((one.client, one.batch) == (job.client, job.batch) for one in running)
            for job in rivals
        }
        assert by_batch[turn.batch] == min(by_batch.values())
        rivals = [job for job in rivals if job.batch == turn.batch]
        assert turn is min(rivals, key=lambda job: job.number)

    def allowed(self, job: Job, worker: Worker) -> bool:
        if not worker.ready or worker.silent or worker.draining or worker.broken:
            return False
        if not self.is_strictly_right(job, worker):
            return False
        lacks = self.lacks(job, worker)
        return not any(
            self.lacks(job, other) < lacks
            for other in self.scene.workers
            if self.is_strictly_right(job, other)
            and not other.draining
            and (
                not (other.silent or other.broken)
                or other.offer.nodes is not None
                or other.offer.models is not None
            )
        )

    @staticmethod
    def is_strictly_right(job: Job, worker: Worker) -> bool:
        memory = (worker.offer.memory or 0) / 0.93
        return memory >= job.memory and all(label in worker.offer.labels for label in job.labels)

    @staticmethod
    def lacks(job: Job, worker: Worker) -> set[str]:
        offer, needs = worker.offer, job.needs
        nodes = {one for one in needs.nodes if offer.nodes is not None and one not in offer.nodes}
        fetched = needs.fetchable if offer.fetches_models else ()
        return nodes | {
            one
            for one in needs.models
            if offer.models is not None and one not in offer.models and one not in fetched
        }

    @invariant()
    def the_line_has_what_waits(self) -> None:
        if not hasattr(self, "scene"):
            return
        assert len(self.scene.line) == len(self.waiting)
        assert set(self.scene.line) == set(self.waiting)
        for job in self.waiting:
            assert self.scene.why(job).endswith(".")


TestPlacing = Placing.TestCase
TestPlacing.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
