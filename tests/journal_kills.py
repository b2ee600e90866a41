"""A gateway's journal and files, used by a process that is killed again and again (POSIX only).

    python tests/journal_kills.py FOLDER ROUNDS SEED

Each round, a child adds, takes, ends and forgets jobs, and says what was acknowledged, until it is
killed. The next child checks the newest of that before it goes on; the last one checks everything.
Prints what was acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from comfy_remote.gateway.files import FileStore
from comfy_remote.gateway.job import Job
from comfy_remote.gateway.journal import Journal, Recovered
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.wire.runpod import RunPodState

LIMITS = GatewayLimits(free_bytes=0)
INLINE = 4096
CLIENTS, WORKERS = 6, 4
NEWEST = 50
SHORT, LONG = 0.02, 10_000.0


@dataclass
class Known:
    """What was acknowledged of a job."""

    key: str
    input: str
    retention: float
    attempt: int = 0
    result: str | None = None
    forgotten: bool = False


@dataclass
class Told:
    """What all children have acknowledged."""

    jobs: dict[str, Known] = field(default_factory=dict)
    clock: float = 0.0

    def note(self, line: str) -> str:
        what, clock, job_id, *rest = json.loads(line)
        self.clock = max(self.clock, clock)
        if what == "added":
            self.jobs[job_id] = Known(*rest)
        # Else the kill came between its commit and its acknowledgement.
        known = self.jobs.get(job_id, Known("", "", 0.0))
        if what == "taken":
            known.attempt = rest[0]
        elif what == "ended":
            known.result = rest[0]
        elif what == "forgotten":
            known.forgotten = True
        return str(what)


class Child:
    """One life of the gateway."""

    def __init__(self, folder: Path, told: Told, seed: int, pipe: int) -> None:
        self.journal = Journal(folder)
        self.told = told
        self.random = random.Random(seed)
        self.pipe = pipe
        self.recovered: Recovered = self.journal.open()
        self.files = FileStore(folder / "files", LIMITS, self.journal)
        self.files.open()
        self.waiting = [job for job in self.recovered.live if job.started is None]
        self.running = [job for job in self.recovered.live if job.started is not None]

    def say(self, what: str, clock: float, job_id: str, *rest: object) -> None:
        os.write(self.pipe, json.dumps([what, clock, job_id, *rest]).encode() + b"\n")

    async def check(self, newest: int | None) -> None:
        """Compare what is there with what was acknowledged.

        Args:
            newest: How many of the jobs and files; all of them if ``None``.
        """
        assert self.recovered.clock >= self.told.clock, "the clock went back"
        live = {job.id: job for job in self.recovered.live}
        jobs = list(self.told.jobs.items())
        for job_id, known in jobs if newest is None else jobs[-newest:]:
            job = live.get(job_id) or await self.journal.find(job_id)
            if job is None or job.forgotten is not None:
                assert known.retention == SHORT, f"{job_id} is lost"
                found = await self.journal.by_key(known.key)
                assert found is not None, f"the key of {job_id} is lost"
                assert found.id == job_id
                continue
            assert not known.forgotten, f"{job_id} is back"
            assert job.idempotency_key == known.key
            assert job.attempt >= known.attempt, f"a start of {job_id} is lost"
            if not job.state.final:
                assert known.result is None, f"the result of {job_id} is lost"
                assert await self.content(job.input, job.input_file) == known.input
            elif known.result is not None:
                assert await self.content(job.more, job.result) == known.result
        for job in self.recovered.live:  # also those whose acknowledgement was cut off
            assert await self.content(job.input, job.input_file)
        files = sorted(self.files.folder.glob("??/*"), key=lambda path: path.stat().st_mtime)
        for path in files if newest is None else files[-newest:]:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "half a file"

    async def content(self, inline: bytes | None, file: str | None) -> str:
        content = await self.files.read(file) if file is not None else inline
        assert content is not None
        return hashlib.sha256(content).hexdigest()

    async def live(self, newest: int | None) -> None:
        await self.check(newest)
        self.say("checked", 0.0, "")
        await asyncio.gather(
            *(self.client() for _ in range(CLIENTS)),
            *(self.worker() for _ in range(WORKERS)),
            self.look_after(),
        )

    async def client(self) -> None:
        while True:
            if len(self.waiting) > 30:
                await asyncio.sleep(0.002)
                continue
            clock, content = self.journal.clock(), self.some()
            job = Job(
                id=self.random.randbytes(8).hex(),
                created=clock,
                expires=LONG,
                execution_timeout=LONG,
                retention=self.random.choice([SHORT, LONG]),
                result_limit=10**6,
                idempotency_key=self.random.randbytes(8).hex(),
            )
            if len(content) > INLINE:
                job.input_file = await self.files.put(content)
            else:
                job.input = content
            assert await self.journal.add(job) is None
            digest = hashlib.sha256(content).hexdigest()
            self.say("added", clock, job.id, job.idempotency_key, digest, job.retention)
            self.waiting.append(job)

    async def worker(self) -> None:
        while True:
            if not self.waiting and not self.running:
                await asyncio.sleep(0.001)
                continue
            if self.waiting:
                clock, job = self.journal.clock(), self.waiting.pop(0)
                job.state, job.started, job.worker_id = RunPodState.IN_PROGRESS, clock, "w"
                job.attempt += 1
                self.journal.post(job)
                await self.journal.committed()
                self.say("taken", clock, job.id, job.attempt)
            else:
                job = self.running.pop()
            content = self.some()
            if len(content) > INLINE:
                job.result = await self.files.put(content)
            else:
                job.more = content
            clock = self.journal.clock()
            job.state, job.finished = RunPodState.COMPLETED, clock
            job.input = job.input_file = None
            self.journal.post(job)
            await self.journal.committed()
            self.say("ended", clock, job.id, hashlib.sha256(content).hexdigest())

    async def look_after(self) -> None:
        while True:
            clock = self.journal.clock()
            for job_id in (await self.journal.expire(clock)).results:
                self.say("forgotten", clock, job_id)
            await self.journal.look_after()
            await self.files.look_after()
            await asyncio.sleep(0.005)

    def some(self) -> bytes:
        return self.random.randbytes(self.random.choice([10, 1000, 6000]))


def child(folder: Path, told: Told, seed: int, pipe: int, newest: int | None) -> NoReturn:
    status = 1
    try:
        asyncio.run(Child(folder, told, seed, pipe).live(newest))
    except BaseException as error:  # noqa: BLE001
        os.write(pipe, json.dumps(["failed", 0.0, f"{type(error).__name__}: {error}"]).encode())
        os.write(pipe, b"\n")
    finally:
        os._exit(status)


def one_life(folder: Path, told: Told, seed: int, seconds: float | None) -> tuple[list[str], str]:
    """What a child said until it was killed, and what was wrong.

    Args:
        seconds: When it is killed; ``None`` for as soon as it has checked everything.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(folder, told, seed, writing, None if seconds is None else NEWEST)
    os.close(writing)
    said, deadline, killed = b"", time.monotonic() + (60.0 if seconds is None else seconds), False
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        enough = seconds is None and b'"checked"' in said
        if not killed and (enough or not ready):
            os.kill(pid, signal.SIGKILL)
            killed = True
        if ready:
            chunk = os.read(reading, 2**16)
            if not chunk:
                break
            said += chunk
    os.close(reading)
    os.waitpid(pid, 0)
    lines = said.decode().split("\n")[:-1]  # the last one may be half
    failed = [line for line in lines if line.startswith('["failed"')]
    return lines, failed[0] if failed else ""


def main(folder: Path, rounds: int, seed: int) -> int:
    chance, told, count = random.Random(seed), Told(), dict[str, int]()
    for number in range(rounds + 1):
        seconds = None if number == rounds else chance.uniform(0.0, 0.4)
        lines, wrong = one_life(folder, told, seed + number, seconds)
        if wrong:
            print(f"round {number}: {wrong}")
            return 1
        for line in lines:
            what = told.note(line)
            count[what] = count.get(what, 0) + 1
    print(json.dumps(count))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
