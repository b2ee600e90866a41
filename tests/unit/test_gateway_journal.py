"""What the gateway's journal promises: what it has acknowledged is there, whatever ends it."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_kit import Clock, a_job

from comfy_remote.errors import ConfigurationError, LocalStorageError, WorkflowInvalid
from comfy_remote.gateway.clock import GatewayClock
from comfy_remote.gateway.job import Attempt, Job
from comfy_remote.gateway.journal import Counts, Journal
from comfy_remote.gateway.offers import Needs
from comfy_remote.gateway.worker_list import WorkerList, WorkerNotes
from comfy_remote.wire.runpod import RunPodState

HOUR = 3600.0
SHA = {letter: letter * 64 for letter in "abcdef"}


def end(done: Job, *, at: float, state: RunPodState = RunPodState.COMPLETED) -> Job:
    done.state, done.finished, done.more = state, at, b'{"output":1}'
    return done


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[..., Journal]]:
    """Opens a journal on the same folder, the one before closed."""
    journals: list[Journal] = []

    def make(**settings: object) -> Journal:
        journal = Journal(tmp_path / "gateway", **settings)  # type: ignore[arg-type]
        journal.open()
        journals.append(journal)
        return journal

    yield make
    for journal in journals:
        await journal.close()


async def test_a_job_is_there_as_it_was_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    added = a_job(
        low_priority=True,
        webhook="https://example.com/hook",
        idempotency_key="k1",
        repeat_lost=False,
        client="ada",
        batch="b1",
        priority=7,
        front=True,
        labels=frozenset({"big", "fast"}),
        memory=8 * 2**30,
        needs=Needs(
            nodes=frozenset({"KSampler"}),
            models=frozenset({"checkpoints/a.safetensors", "loras/b.safetensors"}),
            fetchable=frozenset({"loras/b.safetensors"}),
            may_cost=True,
        ),
        queued=1.0,
        input=None,
        input_file=SHA["a"],
        input_files=frozenset({SHA["b"], SHA["c"]}),
    )
    assert await journal.add(added) is None
    added.state, added.started, added.worker_id = RunPodState.IN_PROGRESS, 2.5, "box.0"
    added.attempt, added.boot, added.lost, added.earlier = 2, "boot-2", 1, (Attempt(1, "box.1"),)
    added.output_files = frozenset({SHA["d"]})
    added.more = b'{"output":{"progress":0.5}}'
    journal.post(added)
    await journal.close()
    never_set = {field.name for field in fields(Needs) if not getattr(added.needs, field.name)}
    assert never_set == set(), "a new field: does the row have it?"
    untouched = {name for name in Job.__slots__ if getattr(added, name) == getattr(a_job(), name)}
    assert untouched == {
        *("id", "created", "expires", "execution_timeout", "retention", "result_limit"),
        *("finished", "forgotten", "owed", "result"),  # of a job that has ended
        *("stream", "stream_bytes", "ending"),  # in memory only
    }, "a new field: does the row have it?"

    recovered = Journal(tmp_path).open()

    (found,) = recovered.live
    names = set(Job.__slots__) - {"more"}  # progress is in memory only
    assert {name: getattr(found, name) for name in names} == {
        name: getattr(added, name) for name in names
    }
    assert found.more == b"{}"
    assert found.created_at.endswith("+00:00")


async def test_jobs_come_back_in_the_order_of_their_arrival(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    await asyncio.gather(*(journal.add(a_job(f"j{number}")) for number in range(20)))
    await journal.close()

    again = Journal(journal.folder)
    live = again.open().live

    assert [one.id for one in live] == [f"j{number}" for number in range(20)]
    later = a_job("later")
    await again.add(later)
    assert later.number > live[-1].number
    await again.close()


async def test_a_key_brings_one_job_also_when_both_come_at_once(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()

    answers = await asyncio.gather(
        *(journal.add(a_job(f"j{number}", idempotency_key="same")) for number in range(5))
    )

    assert answers == [None, "j0", "j0", "j0", "j0"]
    found = await journal.by_key("same")
    assert found is not None
    assert found.id == "j0"
    assert await journal.by_key("other") is None
    assert await journal.find("j1") is None


async def test_a_result_is_found_and_goes_in_its_time_and_the_key_later(
    opened: Callable[..., Journal],
) -> None:
    journal = opened(key_retention=50.0)
    with_key, without = a_job("with", idempotency_key="k"), a_job("without")
    for one in (with_key, without):
        await journal.add(one)
        journal.post(end(one, at=10.0))
    await journal.committed()

    assert (await journal.expire(39.9)).results == []
    found = await journal.find("with")
    assert found is not None
    assert (found.state, found.more) == (RunPodState.COMPLETED, b'{"output":1}')

    assert sorted((await journal.expire(40.0)).results) == ["with", "without"]
    assert await journal.find("without") is None
    found = await journal.find("with")
    assert found is not None
    assert (found.forgotten, found.more, found.input) == (40.0, b"{}", None)
    assert await journal.add(a_job("next", idempotency_key="k")) == "with"

    assert (await journal.expire(89.9)).keys == 0
    assert (await journal.expire(90.0)).keys == 1
    assert await journal.add(a_job("next", idempotency_key="k")) is None


async def test_the_room_of_what_is_forgotten_goes_back_to_the_disk(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    jobs = [end(a_job(f"j{number}"), at=1.0) for number in range(800)]
    for one in jobs:
        one.input, one.more = None, b"r" * 32_000
    await asyncio.gather(*map(journal.add, jobs))
    while (await journal.expire(1000.0)).more:
        pass
    assert await journal.size() < 2**20
    kept = a_job("kept")
    await journal.add(kept)
    for _ in range(8):
        await journal.look_after()
    found = await journal.find("kept")
    await journal.close()  # which writes the log back

    assert found is not None
    assert found.input == kept.input
    assert journal.path.stat().st_size < 23 * 2**20, "of 25 MB"


async def test_what_is_owed_does_not_go_and_comes_back(opened: Callable[..., Journal]) -> None:
    journal = opened()
    owed = end(a_job("owed", webhook="https://example.com", owed=True), at=10.0)
    await journal.add(owed)

    assert (await journal.expire(10_000.0)).results == []
    await journal.close()
    again = Journal(journal.folder)
    assert again.open().owed == ["owed"]
    owed.owed = False
    again.post(owed)
    assert (await again.expire(10_000.0)).results == ["owed"]
    await again.close()


async def test_what_expires_is_bounded_and_says_that_there_is_more(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    for number in range(5):
        await journal.add(end(a_job(f"j{number}"), at=float(number)))

    first = await journal.expire(1000.0, most=3)
    second = await journal.expire(1000.0, most=3)

    assert (first.results, first.more) == (["j0", "j1", "j2"], True)
    assert (second.results, second.more) == (["j3", "j4"], False)


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_job_that_is_retried_as_its_result_expires_is_not_lost(
    opened: Callable[..., Journal], key: str | None
) -> None:
    journal = opened()
    failed = end(a_job("j1", idempotency_key=key), at=1.0, state=RunPodState.FAILED)
    await journal.add(failed)
    await journal.expire(1000.0)

    failed.state, failed.finished = RunPodState.IN_QUEUE, None
    journal.post(failed)
    await journal.close()

    (found,) = Journal(journal.folder).open().live
    assert (found.id, found.input, found.forgotten) == ("j1", failed.input, None)


async def test_files_that_no_job_needs_are_named(opened: Callable[..., Journal]) -> None:
    journal = opened()
    first = a_job("j1", input=None, input_file=SHA["a"], input_files=frozenset({SHA["b"]}))
    second = a_job("j2", input_files=frozenset({SHA["b"]}))
    await journal.add(first)
    await journal.add(second)

    end(first, at=1.0).result = SHA["c"]
    first.input_file, first.input_files = None, frozenset()
    journal.post(first)
    await journal.committed()

    assert journal.take_dropped() == {SHA["a"], SHA["b"]}
    assert journal.take_dropped() == set()
    assert await journal.used([SHA["a"], SHA["b"], SHA["c"]]) == {SHA["b"], SHA["c"]}
    await journal.expire(1000.0)
    assert journal.take_dropped() == {SHA["c"]}
    assert journal.used_now([SHA["c"]]) == set()


async def test_many_posts_of_a_job_leave_the_last(opened: Callable[..., Journal]) -> None:
    journal = opened()
    one = a_job()
    await journal.add(one)
    for attempt in range(50):
        one.attempt = attempt
        journal.post(one)
    one.attempt = 99  # after the last post: not a promise
    await journal.committed()
    await journal.close()

    assert Journal(journal.folder).open().live[0].attempt == 49


async def test_an_unwritten_change_is_seen_by_find(opened: Callable[..., Journal]) -> None:
    journal = opened()
    one = a_job()
    await journal.add(one)
    journal.post(end(one, at=1.0))
    assert await journal.find("j1") is one


async def test_the_clock_goes_on_where_it_stood_and_downtime_does_not_count(
    opened: Callable[..., Journal],
) -> None:
    monotonic = Clock()
    journal = opened(monotonic=monotonic)
    assert journal.clock() == 0.0
    monotonic.now += 100.0
    made = a_job()
    await journal.add(made)
    journal.counts.completed = 3
    journal.post(made)
    await journal.close()

    monotonic.now = 7.0  # another boot of the machine, a week later
    again = opened(monotonic=monotonic)

    assert again.clock() == 100.0
    assert again.counts == Counts(completed=3)
    monotonic.now += 1.0
    assert again.clock() == 101.0


async def test_the_clock_is_saved_while_nothing_happens(opened: Callable[..., Journal]) -> None:
    monotonic = Clock()
    journal = opened(monotonic=monotonic)
    for _ in range(10):
        monotonic.now += 1.0
        await journal.look_after()
    saved = sqlite3.connect(journal.path).execute("SELECT clock FROM gateway").fetchone()[0]
    assert 5.0 <= saved <= 10.0


def test_a_clock_goes_on_from_where_it_is_set() -> None:
    monotonic = Clock()
    clock = GatewayClock(monotonic)
    clock.set(12.0)
    monotonic.now += 3.0
    assert clock() == 15.0


async def test_a_second_gateway_is_refused_until_the_first_has_closed(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    with pytest.raises(ConfigurationError, match="Another gateway"):
        Journal(journal.folder).open()
    await journal.close()
    second = Journal(journal.folder)
    second.open()
    await second.close()


async def test_text_that_is_not_utf_8_is_refused_and_holds_up_nothing(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    with pytest.raises(WorkflowInvalid, match="Idempotency-Key"):
        await journal.add(a_job("j1", idempotency_key="\udce9"))
    assert await journal.find("\udce9") is None
    bad, good = a_job("j2", client="\udce9"), a_job("j3")
    answers = await asyncio.gather(journal.add(bad), journal.add(good), return_exceptions=True)
    assert isinstance(answers[0], LocalStorageError)
    assert answers[1] is None
    assert await journal.find("j3") is not None


async def test_many_find_at_once_and_each_gets_its_own(opened: Callable[..., Journal]) -> None:
    journal = opened()
    await asyncio.gather(*(journal.add(end(a_job(f"j{n}"), at=1.0)) for n in range(100)))

    found = await asyncio.gather(*(journal.find(f"j{n % 110}") for n in range(220)))

    assert [one and one.id for one in found] == [
        f"j{n % 110}" if n % 110 < 100 else None for n in range(220)
    ]
    assert found[0] is not found[110]


async def test_whoever_waits_when_it_is_closed_gets_an_answer(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    one = a_job()
    await journal.add(one)
    finding = [asyncio.ensure_future(journal.find("j1")) for _ in range(500)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(journal.close())
    await asyncio.sleep(0)
    journal.post(one)
    committing = asyncio.ensure_future(journal.committed())

    await closing
    answers = await asyncio.wait_for(
        asyncio.gather(*finding, committing, return_exceptions=True), timeout=10.0
    )
    assert {type(answer) for answer in answers} <= {Job, LocalStorageError, type(None)}


async def test_a_closed_journal_says_so(opened: Callable[..., Journal]) -> None:
    journal = opened()
    await journal.close()
    await journal.close()
    with pytest.raises(LocalStorageError, match="closed"):
        await journal.add(a_job())


# Workers


async def test_another_process_adds_a_token_and_the_gateway_sees_it_once(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    assert await journal.worker_notes() == WorkerNotes()
    assert await journal.worker_notes() is None
    await journal.add(a_job())
    assert await journal.worker_notes() is None

    code = (
        "import sys; from pathlib import Path\n"
        "from comfy_remote.gateway.worker_list import WorkerList\n"
        "with WorkerList.of(Path(sys.argv[1])) as workers:\n"
        "    workers.add('attic', 64 * 'a')\n"
        "    workers.say('cellar', 'gone')\n"
    )
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(journal.folder)], check=True
    )

    notes = await journal.worker_notes()
    assert notes is not None
    assert [(token.name, token.sha256) for token in notes.tokens] == [("attic", 64 * "a")]
    assert list(notes.gone) == ["cellar"]
    assert notes.draining == {}
    assert await journal.worker_notes() is None


async def test_the_gateway_itself_changes_the_list_and_sees_it(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    await journal.change_workers(lambda workers: workers.say("attic", "drain"))
    notes = await journal.worker_notes()
    assert notes is not None
    assert list(notes.draining) == ["attic"]
    assert await journal.change_workers(lambda workers: workers.take_back("attic", "drain"))
    assert not await journal.change_workers(lambda workers: workers.take_back("attic", "drain"))
    assert await journal.worker_notes() == WorkerNotes()


async def test_a_change_that_is_refused_changes_nothing_and_holds_up_nothing(
    opened: Callable[..., Journal],
) -> None:
    journal = opened()
    await journal.change_workers(lambda workers: workers.add("attic", 64 * "a"))

    def again(workers: WorkerList) -> None:
        workers.say("attic", "drain")
        workers.add("attic", 64 * "b")

    def fail(workers: WorkerList) -> None:
        workers.say("attic", "gone")
        raise KeyError("a mistake")

    answers = await asyncio.gather(
        journal.change_workers(again),
        journal.change_workers(fail),
        journal.add(a_job()),
        return_exceptions=True,
    )

    assert isinstance(answers[0], ConfigurationError)
    assert isinstance(answers[1], LocalStorageError)
    assert answers[2] is None
    assert journal.problem is None
    notes = await journal.worker_notes()
    assert notes is not None
    assert [token.sha256 for token in notes.tokens] == [64 * "a"]
    assert (notes.draining, notes.gone) == ({}, {})


def test_a_list_that_no_gateway_has_begun_yet_is_there_for_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "gateway"
    with WorkerList.of(folder) as workers:
        workers.add("attic", 64 * "a")
        workers.say("attic", "drain")
    with (
        pytest.raises(ConfigurationError, match="worker attic already"),
        WorkerList.of(folder) as workers,
    ):
        workers.say("attic", "gone")
        workers.add("attic", 64 * "b")
    with WorkerList.of(folder) as workers:
        assert [token.name for token in workers.notes().tokens] == ["attic"]
        assert workers.notes().gone == {}  # all or nothing
        assert workers.remove("attic")
        assert not workers.remove("attic")
        assert workers.notes() == WorkerNotes()


async def test_the_last_that_have_ended(opened: Callable[..., Journal]) -> None:
    journal = opened()
    for number in range(6):
        await journal.add(a_job(f"j{number}"))
    ended = {}
    for name, at in (("j1", 9.0), ("j3", 5.0), ("j4", 7.0)):
        found = await journal.find(name)
        assert found is not None
        ended[name] = end(found, at=at)
        journal.post(ended[name])
    await journal.committed()
    assert [one.id for one in await journal.last_ended(10)] == ["j1", "j4", "j3"]
    assert [one.id for one in await journal.last_ended(2)] == ["j4", "j3"]
    await journal.close()
    again = opened()
    assert [(one.id, one.finished) for one in await again.last_ended(1)] == [("j4", 7.0)]


async def test_what_is_counted_is_stored_with_the_jobs_it_counts(tmp_path: Path) -> None:
    """Else, a kill between the two would have a job counted twice."""
    journal = Journal(tmp_path)
    journal.open()
    first, second = a_job("first"), a_job("second")
    await journal.add(first)
    await journal.add(second)
    first.state = RunPodState.COMPLETED
    journal.counts.completed += 1
    journal.post(first)
    written = asyncio.ensure_future(journal.committed())
    await asyncio.sleep(0)  # the thread has begun, and writes the first only
    await asyncio.sleep(0)
    journal.counts.completed += 1  # the second has ended, and is not posted yet
    await written
    with sqlite3.connect(journal.path) as other:
        assert other.execute("SELECT completed FROM gateway").fetchone() == (1,)
    second.state = RunPodState.COMPLETED
    journal.post(second)
    await journal.close()
    assert Journal(tmp_path).open().counts.completed == 2
