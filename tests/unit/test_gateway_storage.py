"""Whatever happens to a gateway's journal and files, in whatever order, crashes among it: what was
acknowledged is there, a file that a job needs is there, and what nobody needs goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from comfy_remote.gateway.files import FileStore
from comfy_remote.gateway.job import Job
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.wire.runpod import RunPodState

LIMITS = GatewayLimits(free_bytes=0, upload_retention=100.0)
RETENTION, KEY_RETENTION = 50.0, 200.0
FAST = next((disk for disk in ["/dev/shm"] if os.access(disk, os.W_OK)), None)
SIZES = {"a": 10, "b": 5000, "c": 9000}
CONTENTS = st.sampled_from(sorted(SIZES))
KEYS = st.sampled_from(["x", "y", None])


def content_of(letter: str) -> bytes:
    return letter.encode() * SIZES[letter]


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def arriving(content: bytes) -> AsyncIterator[bytes]:
    yield content[:5]
    yield content[5:]


class Storage(RuleBasedStateMachine):
    """A journal and its files, and what they have acknowledged."""

    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.lives = self.count = 0
        self.now = 0.0
        self.known: dict[str, Job] = {}
        self.uploads: dict[str, float] = {}
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.journal.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def open(self) -> None:
        folder = self.folder / str(self.lives)
        self.journal = Journal(folder, key_retention=KEY_RETENTION, monotonic=lambda: self.now)
        recovered = self.journal.open()
        self.began = recovered.clock
        self.files = FileStore(folder / "files", LIMITS, self.journal)
        self.files.open()
        live = {job.id: job for job in recovered.live}
        expected = {job_id for job_id, job in self.known.items() if not job.state.final}
        assert live.keys() == expected
        self.known.update(live)

    @rule(letter=CONTENTS)
    def upload(self, letter: str) -> None:
        content = content_of(letter)
        sha256 = sha256_of(content)
        self.loop.run_until_complete(self.files.receive(sha256, arriving(content)))
        self.uploads[sha256] = self.journal.clock()

    @rule(target=jobs, key=KEYS, letter=CONTENTS, with_upload=st.booleans())
    def submit(self, key: str | None, letter: str, with_upload: bool) -> str:
        content = content_of(letter)
        self.count += 1
        job = Job(
            id=f"j{self.count}",
            created=self.journal.clock(),
            expires=1e9,
            execution_timeout=1e9,
            retention=RETENTION,
            result_limit=10**6,
            idempotency_key=key,
        )
        if with_upload:
            here = [sha256 for sha256 in self.uploads if self.files.stays(sha256)]
            self.uploads.update(dict.fromkeys(here, self.journal.clock()))
            job.input_files = frozenset(here)
        if len(content) > 4096:
            job.input_file = self.loop.run_until_complete(self.files.put(content))
        else:
            job.input = content
        brought = self.loop.run_until_complete(self.journal.add(job))
        if brought is not None:
            assert self.known[brought].idempotency_key == key
            return brought
        assert not any(key == one.idempotency_key for one in self.known.values() if key)
        self.known[job.id] = job
        return job.id

    @rule(job_id=jobs, letter=CONTENTS, state=st.sampled_from(["COMPLETED", "FAILED"]))
    def end(self, job_id: str, letter: str, state: str) -> None:
        content = content_of(letter)
        job = self.known.get(job_id)
        if job is None or job.state.final:
            return
        if len(content) > 4096:
            job.result = self.loop.run_until_complete(self.files.put(content))
        else:
            job.more = content
        job.state, job.finished = RunPodState(state), self.journal.clock()
        if not job.may_be_retried:
            job.input, job.input_file, job.input_files = None, None, frozenset()
        self.commit(job)

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        job = self.known.get(job_id)
        if job is None or not job.may_be_retried or job.forgotten is not None:
            return
        job.state, job.finished, job.result, job.more = RunPodState.IN_QUEUE, None, None, b"{}"
        self.commit(job)

    def commit(self, job: Job) -> None:
        async def commit() -> None:
            self.journal.post(job)
            await self.journal.committed()

        self.loop.run_until_complete(commit())

    @rule(seconds=st.sampled_from([1.0, 40.0, 60.0, 150.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.look_after()

    @rule()
    def nobody_comes_for_long(self) -> None:
        self.now += 2 * LIMITS.upload_retention
        self.look_after()
        self.look_after()  # what had been dropped by the first
        assert self.there().keys() == self.needed()
        self.uploads.clear()

    def there(self) -> dict[str, Path]:
        return {path.name: path for path in self.files.folder.glob("??/*")}

    def needed(self) -> set[str]:
        return {
            sha256
            for job in self.known.values()
            if job.forgotten is None
            for sha256 in (job.input_file, job.result, *job.input_files)
            if sha256 is not None
        }

    def look_after(self) -> None:
        async def look_after() -> list[str]:
            await self.journal.look_after()
            expired = await self.journal.expire(self.journal.clock())
            await self.files.look_after()
            return expired.results

        forgotten, now = self.loop.run_until_complete(look_after()), self.journal.clock()
        for job in list(self.known.values()):
            if job.forgotten is None and job.finished is not None:
                assert (job.finished + RETENTION <= now) == (job.id in forgotten)
                if job.id in forgotten:
                    job.forgotten = now
                    if job.idempotency_key is None:
                        del self.known[job.id]
            elif job.forgotten is not None and job.forgotten + KEY_RETENTION <= now:
                del self.known[job.id]

    @rule(crash=st.booleans())
    def begin_again(self, crash: bool) -> None:
        """After an end in order; or as it would find its folder after kill -9 at this moment."""
        before, clock = self.folder / str(self.lives), self.journal.clock()
        self.lives += 1
        if crash:
            shutil.copytree(before, self.folder / str(self.lives))
            self.loop.run_until_complete(self.journal.close())
        else:
            self.loop.run_until_complete(self.journal.close())
            before.rename(self.folder / str(self.lives))
        self.open()
        self.uploads = {
            sha256: self.journal.clock() for sha256 in self.uploads if self.files.size(sha256)
        }
        assert self.began <= clock
        assert crash or self.began == clock

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        for job in getattr(self, "known", {}).values():
            found = self.loop.run_until_complete(self.journal.find(job.id))
            assert found is not None
            assert (found.state, found.forgotten) == (job.state, job.forgotten)
            if job.forgotten is None:
                assert (found.result, found.input_file) == (job.result, job.input_file)
                assert found.more == (job.more if job.state.final else b"{}")
                assert found.input == job.input

    @invariant()
    def files_are_there_while_they_are_needed(self) -> None:
        if not hasattr(self, "loop"):
            return
        now, there = self.journal.clock(), self.there()
        assert self.needed() <= there.keys()
        for sha256, since in self.uploads.items():
            assert sha256 in there or now >= since + LIMITS.upload_retention
        for sha256, path in there.items():
            assert sha256_of(path.read_bytes()) == sha256
        assert self.files.used == sum(-(-p.stat().st_size // 4096) * 4096 for p in there.values())


TestStorage = Storage.TestCase
TestStorage.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
