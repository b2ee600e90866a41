"""The API's assets against a simple model: who is there, until when, and whose bytes stay."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from asset_kit import receive
from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from comfy_remote.api.assets import AssetLimits, AssetStore
from comfy_remote.api.errors import ApiRefusal
from comfy_remote.errors import JobNotFound
from comfy_remote.wire.comfy_api import OutputType

_T = TypeVar("_T")

RETENTION = 1000.0
LIMITS = AssetLimits(retention=RETENTION)
CONTENTS = st.sampled_from([b"one", b"two", b""])
JOBS = st.sampled_from(["job-1", "job-2"])
SECONDS = st.integers(60, 2000)
PICKS = st.integers(0, 10**6)


@dataclass
class Expected:
    """An asset of the model."""

    content: bytes
    path: str
    expires: float
    stays: float
    job: str | None = None
    position: int | None = None


@dataclass
class ExpectedJob:
    """A job of the model."""

    expires: float
    uses: set[str] = field(default_factory=set)


def hash_of(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


class Machine(RuleBasedStateMachine):
    """Each rule does something to the store, and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.now = 10_000.0
        self.assets: dict[str, Expected] = {}
        self.jobs: dict[str, ExpectedJob] = {}
        self.store = self.opened()

    def opened(self) -> AssetStore:
        return self.run(AssetStore(self.folder, LIMITS, now=lambda: self.now).__aenter__())

    def run(self, work: Coroutine[None, None, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def refusal(self, work: Coroutine[None, None, object]) -> str:
        """The code with which something is refused."""
        try:
            self.run(work)
        except ApiRefusal as refused:
            return refused.code
        raise AssertionError("it was not refused")

    def teardown(self) -> None:
        self.run(self.store.__aexit__())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    def here(self) -> dict[str, Expected]:
        return {key: one for key, one in self.assets.items() if one.expires > self.now}

    def is_held(self, asset_id: str) -> bool:
        made = self.assets[asset_id].job
        return any(
            job.expires > self.now and (asset_id in job.uses or job_id == made)
            for job_id, job in self.jobs.items()
        )

    def picked(self, pick: int) -> str:
        return sorted(self.assets)[pick % len(self.assets)]

    @rule(content=CONTENTS, seconds=st.none() | SECONDS)
    def upload(self, content: bytes, seconds: int | None) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        asset, _ = self.run(
            receive(self.store, chunks(), content_type="a/b", file_path="sent", expires_in=seconds)
        )
        assert asset.hash == hash_of(content)
        stays = RETENTION if seconds is None else seconds
        self.assets[asset.id] = Expected(content, "sent", self.now + stays, stays)

    @rule(content=CONTENTS, path=st.sampled_from(["sent", "other"]), seconds=SECONDS)
    def from_hash(self, content: bytes, path: str, seconds: int) -> None:
        there = {key: one for key, one in self.here().items() if one.content == content}
        wanted = self.store.from_hash(hash_of(content), file_path=path, expires_in=seconds)
        if not there:
            assert self.refusal(wanted) == "blob_not_found"
            return
        asset, is_new = self.run(wanted)
        same = {key for key, one in there.items() if one.job is None and one.path == path}
        assert is_new == (not same)
        if is_new:
            self.assets[asset.id] = Expected(content, path, self.now + seconds, seconds)
        else:
            assert asset.id in same
            one = self.assets[asset.id]
            one.expires = max(one.expires, self.now + seconds)
            one.stays = max(one.stays, seconds)

    @precondition(lambda self: self.assets)
    @rule(pick=PICKS)
    def delete(self, pick: int) -> None:
        asset_id = self.picked(pick)
        if asset_id not in self.here():
            assert self.refusal(self.store.delete(asset_id)) == "not_found"
        elif self.is_held(asset_id):
            assert self.refusal(self.store.delete(asset_id)) == "asset_in_use"
        else:
            self.run(self.store.delete(asset_id))
            del self.assets[asset_id]

    @rule(job_id=JOBS, seconds=SECONDS, picks=st.lists(PICKS, max_size=2))
    def add_job(self, job_id: str, seconds: int, picks: list[int]) -> None:
        uses = [self.picked(pick) for pick in picks] if self.assets else []
        adds = self.store.add_job(job_id, expires=_utc(self.now + seconds), uses=uses)
        if set(uses) - self.here().keys():
            assert self.refusal(adds) == "missing_asset"
            return
        self.run(adds)
        job = self.jobs.setdefault(job_id, ExpectedJob(0.0))
        job.expires = max(job.expires, self.now + seconds)
        job.uses.update(uses)
        for one in uses:
            asset = self.assets[one]
            asset.expires = max(asset.expires, self.now + seconds, self.now + asset.stays)

    @precondition(lambda self: self.jobs)
    @rule(job_id=JOBS, seconds=SECONDS)
    def extend_job(self, job_id: str, seconds: int) -> None:
        expires = self.now + seconds
        self.run(self.store.extend_job(job_id, _utc(expires)))
        if (job := self.jobs.get(job_id)) is None:
            return
        job.expires = max(job.expires, expires)
        for key, asset in self.assets.items():
            if asset.job == job_id or key in job.uses:
                asset.expires = max(asset.expires, expires)

    @rule(job_id=JOBS, content=CONTENTS, position=st.integers(0, 1))
    def add_output(self, job_id: str, content: bytes, position: int) -> None:
        made = self.folder / "made"
        made.write_bytes(content)
        adds = self.store.add_output(
            made,
            job_id=job_id,
            position=position,
            node_id="9",
            name="made",
            kind=OutputType.IMAGE,
            content_type="a/b",
        )
        job = self.jobs.get(job_id)
        if job is None or job.expires <= self.now:
            try:
                self.run(adds)
            except JobNotFound:
                return
            raise AssertionError("it was added to no job")
        asset = self.run(adds)
        for key, one in list(self.assets.items()):
            if (one.job, one.position) == (job_id, position) and key != asset.id:
                assert one.content != content
                del self.assets[key]
                for other in self.jobs.values():
                    other.uses.discard(key)
        self.assets.setdefault(
            asset.id, Expected(content, "made", job.expires, 0.0, job_id, position)
        )

    @rule(job_id=JOBS)
    def forget_job(self, job_id: str) -> None:
        self.run(self.store.forget_job(job_id))
        self.jobs.pop(job_id, None)
        used = {one for job in self.jobs.values() for one in job.uses}
        for key, asset in list(self.assets.items()):
            if asset.job == job_id and key not in used:
                del self.assets[key]

    @rule(seconds=st.integers(1, 1500))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.sweep()

    @rule()
    def sweep(self) -> None:
        self.run(self.store.sweep())
        self.assets = self.here()
        self.jobs = {key: one for key, one in self.jobs.items() if one.expires > self.now}
        on_disk = {path.read_bytes() for path in self.folder.glob("blobs/*/*")}
        assert on_disk == {one.content for one in self.assets.values()}

    @rule()
    def open_again(self) -> None:
        self.run(self.store.__aexit__())
        self.store = self.opened()
        self.sweep()

    @invariant()
    def all_is_as_expected(self) -> None:
        here = self.here()
        for key in self.assets:
            asset = self.run(self.store.get(key))
            assert (asset is not None) == (key in here)
            if asset is not None:
                assert asset.path.read_bytes() == here[key].content
                assert asset.expires == _utc(here[key].expires)
        for content in (b"one", b"two", b""):
            there = any(one.content == content for one in here.values())
            assert self.run(self.store.has(hash_of(content))) == there
        for job_id in ("job-1", "job-2"):
            job = self.run(self.store.job(job_id))
            known = self.jobs.get(job_id)
            assert (job is not None) == (known is not None and known.expires > self.now)
            made = [(one.position, key) for key, one in here.items() if one.job == job_id]
            outputs = self.run(self.store.outputs_of(job_id))
            assert [one.id for one in outputs] == [key for _, key in sorted(made)]


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


TestAssets = Machine.TestCase
TestAssets.settings = settings(max_examples=15, stateful_step_count=20)
