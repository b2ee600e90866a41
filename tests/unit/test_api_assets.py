"""The store of the served Comfy API: uploads, outputs, what jobs hold, and what goes when."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from asset_kit import receive
from blake3 import blake3

from comfy_remote.api import blobs
from comfy_remote.api.assets import AssetLimits, AssetStore
from comfy_remote.api.errors import ApiRefusal
from comfy_remote.api.stored import StoredAsset
from comfy_remote.errors import (
    JobNotFound,
    LocalStorageError,
    RateLimited,
    RequestTooLarge,
)
from comfy_remote.media.temporary import TemporaryFolder
from comfy_remote.wire.comfy_api import OutputType

DAY = 24 * 3600.0
START = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)
CONTENT = b"some content " * 300_000  # more than what is written at a time


class Clock:
    """The time that a store goes by."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[AssetStore]:
    async with AssetStore(tmp_path / "front", now=clock) as opened:
        yield opened


async def chunks(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def upload(
    store: AssetStore,
    content: bytes = CONTENT,
    name: str = "photo.png",
    expires_in: float | None = None,
) -> StoredAsset:
    asset, _ = await receive(
        store, chunks(content), content_type="image/png", file_path=name, expires_in=expires_in
    )
    return asset


def hash_of(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def files_in(store: AssetStore) -> list[bytes]:
    """The contents of all files but the database's and locks, sorted."""
    return sorted(
        path.read_bytes()
        for path in store.folder.rglob("*")
        if path.is_file() and not path.name.startswith((".lock", "assets.sqlite3"))
    )


async def make_output(
    store: AssetStore,
    folder: Path,
    job_id: str,
    position: int = 0,
    content: bytes = b"made",
    name: str = "ComfyUI_00001_.png",
) -> StoredAsset:
    path = folder / uuid.uuid4().hex
    path.write_bytes(content)
    asset = await store.add_output(
        path,
        job_id=job_id,
        position=position,
        node_id="9",
        name=name,
        kind=OutputType.IMAGE,
        content_type="image/png",
    )
    assert not path.exists()
    return asset


async def test_what_was_uploaded_is_there_under_its_hash(
    tmp_path: Path, store: AssetStore, clock: Clock
) -> None:
    asset, is_new = await receive(
        store, chunks(CONTENT), content_type="image/png", file_path="a/photo.png"
    )
    assert is_new
    assert str(uuid.UUID(asset.id)) == asset.id and uuid.UUID(asset.id).version == 4
    assert asset.hash == hash_of(CONTENT)
    assert asset.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (asset.size, asset.content_type, asset.file_path) == (
        len(CONTENT),
        "image/png",
        "a/photo.png",
    )
    assert (asset.created, asset.expires) == (START, after(7 * DAY))
    assert (asset.job_id, asset.node_id, asset.kind) == (None, None, None)
    assert asset.path.read_bytes() == CONTENT
    assert asset.path.name == blake3(CONTENT).hexdigest()
    assert await store.get(asset.id) == asset
    assert await store.has(asset.hash)
    assert await store.get(str(uuid.uuid4())) is None


async def test_only_its_owner_may_enter_the_folder(store: AssetStore) -> None:
    asset = await upload(store)
    if os.name != "nt":
        assert store.folder.stat().st_mode & 0o777 == 0o700
        assert asset.path.stat().st_mode & 0o777 == 0o600
        assert (store.folder / "assets.sqlite3").stat().st_mode & 0o777 == 0o600


async def test_equal_bytes_are_stored_once_and_each_upload_is_an_asset(store: AssetStore) -> None:
    first = await upload(store)
    second, is_new = await receive(
        store, chunks(CONTENT), content_type="image/webp", file_path="other.webp"
    )
    assert not is_new
    assert first.id != second.id and first.path == second.path
    assert files_in(store) == [CONTENT]
    await store.delete(first.id)
    assert await store.get(first.id) is None
    assert second.path.read_bytes() == CONTENT
    await store.delete(second.id)
    assert files_in(store) == []
    assert not await store.has(first.hash)
    with pytest.raises(ApiRefusal) as refused:
        await store.delete(second.id)
    assert refused.value.code == "not_found"


async def test_another_hash_than_expected_stores_nothing(store: AssetStore) -> None:
    with pytest.raises(ApiRefusal) as refused:
        await receive(
            store,
            chunks(CONTENT),
            content_type="image/png",
            file_path="a.png",
            expected_hash=hash_of(b"another"),
        )
    assert refused.value.code == "hash_mismatch"
    assert files_in(store) == []
    assert not await store.has(hash_of(CONTENT))
    asset, _ = await receive(
        store,
        chunks(CONTENT),
        content_type="image/png",
        file_path="a.png",
        expected_hash=hash_of(CONTENT).upper().replace("BLAKE3", "blake3"),
    )
    assert asset.hash == hash_of(CONTENT)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("photo.png", "photo.png"),
        ("/etc/passwd", "etc/passwd"),
        ("../../x.png", "x.png"),
        ("C:\\Windows\\x.png", "C_/Windows/x.png"),
        ("a\x00b.png", "a_b.png"),
        ("con.png", "_con.png"),
        (".env", "_.env"),
    ],
)
async def test_a_name_is_a_hint(store: AssetStore, sent: str, stored: str) -> None:
    asset = await upload(store, name=sent)
    assert asset.file_path == stored
    assert asset.path.is_relative_to(store.folder / "blobs")


async def test_an_upload_that_is_cut_leaves_nothing(store: AssetStore) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield CONTENT[:2_000_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receive(store, cut(), content_type="image/png", file_path="a.png")
    assert files_in(store) == []


async def test_an_upload_that_is_cancelled_leaves_nothing(store: AssetStore) -> None:
    begun = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield CONTENT
        begun.set()
        await asyncio.Event().wait()
        yield b""

    task = asyncio.ensure_future(
        receive(store, hanging(), content_type="image/png", file_path="a.png")
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files_in(store) == []


async def test_a_file_that_is_too_large_is_refused_while_it_arrives(tmp_path: Path) -> None:
    async with AssetStore(tmp_path, AssetLimits(file_bytes=1000)) as store:
        assert (await upload(store, b"x" * 1000)).size == 1000
        with pytest.raises(RequestTooLarge):
            await upload(store, b"y" * 1001)
        assert files_in(store) == [b"x" * 1000]


async def test_a_full_store_refuses_and_removes_nothing(tmp_path: Path, clock: Clock) -> None:
    limits = AssetLimits(store_bytes=3_000_000)
    async with AssetStore(tmp_path, limits, now=clock) as store:
        asset = await upload(store, b"x" * 2_500_000, expires_in=60)
        await store.check_room(100_000)
        with pytest.raises(RateLimited) as refused:
            await store.check_room(1_000_000)
        assert refused.value.details["retry_after"] == 60
        with pytest.raises(RateLimited):
            await upload(store, b"y" * 20_000_000)
        assert await store.get(asset.id) == asset
        assert files_in(store) == [b"x" * 2_500_000]
        clock.now += 61
        await store.sweep()
        await store.check_room(1_000_000)


async def test_the_number_of_assets_is_limited(tmp_path: Path) -> None:
    async with AssetStore(tmp_path, AssetLimits(assets=2)) as store:
        await upload(store)
        second = await upload(store)
        for adds in (upload(store), store.from_hash(second.hash, file_path="new.png")):
            with pytest.raises(RateLimited):
                await adds
        await store.delete(second.id)
        await upload(store)
    async with AssetStore(tmp_path, AssetLimits(assets=2)) as store:
        with pytest.raises(RateLimited):
            await upload(store)


async def test_an_asset_is_gone_when_it_expires(store: AssetStore, clock: Clock) -> None:
    short = await upload(store, b"short", expires_in=60)
    long = await upload(store, b"long")
    assert short.expires == after(60)
    clock.now += 60
    assert await store.get(short.id) is None
    assert not await store.has(short.hash)
    with pytest.raises(ApiRefusal) as refused:
        await store.from_hash(short.hash)
    assert refused.value.code == "blob_not_found"
    assert files_in(store) == [b"long", b"short"]
    await store.sweep()
    assert files_in(store) == [b"long"]
    clock.now += 7 * DAY
    await store.sweep()
    assert await store.get(long.id) is None
    assert files_in(store) == []


async def test_from_hash_gives_the_same_reference_and_lets_it_stay_longer(
    store: AssetStore, clock: Clock
) -> None:
    asset = await upload(store, name="photo.png", expires_in=600)
    clock.now += 100
    same, is_new = await store.from_hash(asset.hash, file_path="photo.png", expires_in=60)
    assert (same, is_new) == (asset, False)  # never shorter
    same, is_new = await store.from_hash(asset.hash, file_path="photo.png", expires_in=1000)
    assert (same.id, same.expires, is_new) == (asset.id, after(1100), False)
    other, is_new = await store.from_hash(asset.hash, file_path="b.png")
    assert is_new and other.id != asset.id
    assert (other.file_path, other.content_type, other.size, other.sha256) == (
        "b.png",
        "image/png",
        asset.size,
        asset.sha256,
    )
    assert other.expires == after(100 + 7 * DAY)
    any_name, is_new = await store.from_hash(asset.hash)
    assert (any_name.id, is_new) == (other.id, False)
    assert files_in(store) == [CONTENT]


@pytest.mark.parametrize(
    "hash_", ["", "blake3:", "x" * 64, f"sha256:{'0' * 64}", "blake3:../../x", hash_of(b"no")]
)
async def test_a_hash_finds_only_what_was_received_here(store: AssetStore, hash_: str) -> None:
    await upload(store)
    assert not await store.has(hash_)
    with pytest.raises(ApiRefusal) as refused:
        await store.from_hash(hash_)
    assert refused.value.code == "blob_not_found"


async def test_bytes_that_somebody_removed_are_uploaded_again(store: AssetStore) -> None:
    asset = await upload(store)
    asset.path.unlink()
    assert not await store.has(asset.hash)
    again, is_new = await receive(store, chunks(CONTENT), content_type="a/b", file_path="a")
    assert is_new
    assert asset.path == again.path and asset.path.read_bytes() == CONTENT


async def test_a_key_is_used_once(store: AssetStore, clock: Clock) -> None:
    async def add(key: str | None, expected: str | None = None) -> StoredAsset:
        async with store.using_key(key), store.arriving(chunks(CONTENT)) as arrived:
            asset, _ = await store.add(
                arrived, content_type="a/b", file_path="a", expected_hash=expected, key=key
            )
            return asset

    with pytest.raises(ApiRefusal):
        await add("key", hash_of(b"another"))  # refused: it is free again
    asset = await add("key")
    for again in ("key", "key"):
        with pytest.raises(ApiRefusal) as refused:
            await add(again)
        assert refused.value.code == "idempotency_key_reuse"
    assert (await add("other")).id != asset.id
    clock.now += DAY
    assert (await add("key")).id != asset.id


async def test_a_key_is_used_once_by_two_at_a_time(tmp_path: Path) -> None:
    async with AssetStore(tmp_path) as store, AssetStore(tmp_path) as other_process:
        async with store.using_key("key"):
            with pytest.raises(ApiRefusal) as refused:
                async with store.using_key("key"):
                    pass
            assert refused.value.code == "idempotency_key_reuse"
            async with other_process.arriving(chunks(b"a")) as arrived:  # it cannot know yet
                await other_process.add(arrived, content_type="a/b", file_path="a", key="key")
            with pytest.raises(ApiRefusal) as refused:
                async with store.arriving(chunks(b"b")) as arrived:
                    await store.add(arrived, content_type="a/b", file_path="b", key="key")
            assert refused.value.code == "idempotency_key_reuse"
        assert files_in(store) == [b"a"]


# Jobs


async def test_a_job_holds_what_it_uses(store: AssetStore, clock: Clock) -> None:
    short, other = await upload(store, b"short", expires_in=60), await upload(store, b"other")
    held = await store.add_job("job", expires=after(DAY), uses=[other.id, short.id])
    assert [one.id for one in held] == [other.id, short.id]
    assert [one.expires for one in held] == [after(7 * DAY), after(DAY)]
    for asset in held:
        with pytest.raises(ApiRefusal) as refused:
            await store.delete(asset.id)
        assert refused.value.code == "asset_in_use"
    clock.now += DAY - 1
    await store.sweep()
    assert await store.get(short.id) is not None
    clock.now += 1
    await store.delete(other.id)
    await store.sweep()
    assert await store.get(short.id) is None
    assert files_in(store) == []


async def test_an_upload_that_is_used_stays_for_its_time_again(
    store: AssetStore, clock: Clock
) -> None:
    asset = await upload(store)
    clock.now += 6 * DAY
    (used,) = await store.add_job("job", expires=after(6.5 * DAY), uses=[asset.id])
    assert used.expires == after(13 * DAY)


async def test_a_job_that_refers_to_what_is_not_there_is_not_noted(store: AssetStore) -> None:
    asset, missing = await upload(store), str(uuid.uuid4())
    with pytest.raises(ApiRefusal) as refused:
        await store.add_job("job", expires=after(60), uses=[asset.id, missing])
    assert refused.value.code == "missing_asset"
    assert refused.value.details == {"assets": [missing]}
    assert await store.job("job") is None
    await store.delete(asset.id)


async def test_a_job_has_its_labels_and_its_time(store: AssetStore, clock: Clock) -> None:
    await store.add_job("job", expires=after(60), labels={"who": "ärger"})
    job = await store.job("job")
    assert job is not None
    assert (job.id, job.created, job.expires) == ("job", START, after(60))
    assert job.labels == {"who": "ärger"}
    await store.extend_job("job", after(30))
    await store.extend_job("job", after(90))
    assert (await store.jobs(["job", "other"]))["job"].expires == after(90)
    clock.now += 90
    assert await store.job("job") is None
    assert await store.jobs(["job"]) == {}


async def test_jobs_are_found_by_their_labels(store: AssetStore) -> None:
    for number in range(5):
        labels = {"parity": str(number % 2), "number": str(number)}
        await store.add_job(f"job-{number}", expires=after(60), labels=labels)
    await store.add_job("bare", expires=after(60))

    async def ids(labels: dict[str, str], limit: int = 10, before: str | None = None) -> list[str]:
        found = await store.jobs_labelled(labels, limit=limit, before=before)
        return [one.id for one in found]

    assert await ids({"parity": "0"}) == ["job-4", "job-2", "job-0"]
    assert await ids({"parity": "0"}, limit=2) == ["job-4", "job-2"]
    assert await ids({"parity": "0"}, before="job-2") == ["job-0"]
    assert await ids({"parity": "1", "number": "3"}) == ["job-3"]
    assert await ids({"parity": "1", "number": "2"}) == []
    assert await ids({"'; --": "?"}) == []
    assert (await ids({}))[0] == "bare"
    await store.forget_job("job-2")
    assert await ids({"parity": "0"}) == ["job-4", "job-0"]


async def test_outputs_are_the_jobs_and_go_with_it(
    tmp_path: Path, store: AssetStore, clock: Clock
) -> None:
    await store.add_job("job", expires=after(60))
    second = await make_output(store, tmp_path, "job", 1, b"second", "sub/b.png")
    first = await make_output(store, tmp_path, "job", 0, b"first")
    assert await store.outputs_of("job") == [first, second]
    assert (second.job_id, second.node_id, second.kind) == ("job", "9", OutputType.IMAGE)
    assert (second.file_path, second.size, second.hash) == ("sub/b.png", 6, hash_of(b"second"))
    assert second.sha256 == hashlib.sha256(b"second").hexdigest()
    assert second.path.read_bytes() == b"second"
    with pytest.raises(ApiRefusal) as refused:
        await store.delete(first.id)
    assert refused.value.code == "asset_in_use"
    await store.extend_job("job", after(120))
    clock.now += 119
    await store.sweep()
    (first, second) = await store.outputs_of("job")
    assert first.expires == second.expires == after(120)
    clock.now += 1
    assert await store.outputs_of("job") == []
    await store.sweep()
    assert files_in(store) == []


async def test_an_output_that_is_fetched_again_is_the_same(
    tmp_path: Path, store: AssetStore
) -> None:
    await store.add_job("job", expires=after(60))
    first = await make_output(store, tmp_path, "job", 0, b"same")
    assert await make_output(store, tmp_path, "job", 0, b"same") == first
    twin = await make_output(store, tmp_path, "job", 1, b"same")
    assert twin.id != first.id and twin.path == first.path
    other = await make_output(store, tmp_path, "job", 0, b"other")
    assert await store.outputs_of("job") == [other, twin]
    assert files_in(store) == [b"other", b"same"]


async def test_an_output_of_no_job_is_refused(
    tmp_path: Path, store: AssetStore, clock: Clock
) -> None:
    with pytest.raises(JobNotFound):
        await make_output(store, tmp_path, "job")
    await store.add_job("job", expires=after(60))
    clock.now += 60
    with pytest.raises(JobNotFound):
        await make_output(store, tmp_path, "job")
    assert files_in(store) == []


async def test_an_output_that_another_job_uses_outlives_its_own(
    tmp_path: Path, store: AssetStore, clock: Clock
) -> None:
    await store.add_job("maker", expires=after(60))
    output = await make_output(store, tmp_path, "maker")
    await store.add_job("user", expires=after(600), uses=[output.id])
    clock.now += 100
    await store.sweep()
    assert (await store.get(output.id)) is not None
    clock.now += 500
    await store.sweep()
    assert files_in(store) == []


async def test_a_job_that_was_refused_leaves_nothing(tmp_path: Path, store: AssetStore) -> None:
    asset = await upload(store)
    await store.add_job("job", expires=after(60), labels={"a": "b"}, uses=[asset.id])
    await make_output(store, tmp_path, "job")
    await store.forget_job("job")
    assert await store.job("job") is None
    assert files_in(store) == [CONTENT]
    await store.delete(asset.id)
    await store.add_job("job", expires=after(60))  # its id is free again
    assert await store.outputs_of("job") == []


# Other processes


async def test_two_processes_of_one_front_share_it(tmp_path: Path, clock: Clock) -> None:
    async with AssetStore(tmp_path, now=clock) as old, AssetStore(tmp_path, now=clock) as new:
        arriving, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield CONTENT
            arriving.set()
            await go_on.wait()

        uploading = asyncio.ensure_future(
            receive(old, slow(), content_type="a/b", file_path="a.png")
        )
        await arriving.wait()
        await new.sweep()
        go_on.set()
        asset, is_new = await uploading
        assert is_new
        assert await new.get(asset.id) == asset
        await new.delete(asset.id)
        assert await old.get(asset.id) is None
        assert files_in(old) == []


async def test_a_content_that_is_named_again_while_it_is_removed_stays(tmp_path: Path) -> None:
    async with AssetStore(tmp_path) as one, AssetStore(tmp_path) as other:

        async def add_and_delete(store: AssetStore) -> None:
            for _ in range(10):
                asset = await upload(store, b"the same")
                assert asset.path.read_bytes() == b"the same"
                await store.delete(asset.id)

        await asyncio.gather(*(add_and_delete(store) for store in (one, other, one, other)))
        assert files_in(one) == []


async def test_a_sweep_removes_what_killed_processes_left(store: AssetStore) -> None:
    asset = await upload(store)
    orphan = asset.path.parent / (asset.path.parent.name + "0" * 62)
    orphan.write_bytes(b"named, and the process was killed before the row was written")
    in_use = TemporaryFolder("upload", store.folder / "arriving")
    Path(in_use.name, "part").write_bytes(b"what another process is receiving")
    left = store.folder / "arriving" / "comfy-remote-upload-killed"
    left.mkdir()
    for name in (".lock", "part"):
        (left / name).write_bytes(b"")
    beside = store.folder / "blobs" / "README"
    beside.write_bytes(b"somebody's own")
    await store.sweep()
    assert not left.exists()
    received = b"what another process is receiving"
    assert files_in(store) == sorted([CONTENT, b"somebody's own", received])
    in_use.cleanup()


async def test_a_file_that_is_being_read_is_read_to_its_end(store: AssetStore) -> None:
    asset = await upload(store)
    with asset.path.open("rb") as file:
        await store.delete(asset.id)
        await store.sweep()
        assert file.read() == CONTENT
    await store.sweep()
    assert files_in(store) == []


async def test_a_file_that_windows_does_not_remove_now_goes_later(
    store: AssetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(path: Path, **_: object) -> None:
        raise PermissionError(13, "in use elsewhere", str(path))

    asset = await upload(store)
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "remove_file", in_use)
        await store.delete(asset.id)
        await store.sweep()
    assert not await store.has(asset.hash)
    assert files_in(store) == [CONTENT]
    await store.sweep()
    assert files_in(store) == []


async def test_a_store_that_is_opened_again_has_everything(tmp_path: Path) -> None:
    async with AssetStore(tmp_path / "front") as store:
        asset = await upload(store)
        far = datetime(2100, 1, 1, tzinfo=timezone.utc)
        await store.add_job("job", expires=far, labels={"a": "b"})
        output = await make_output(store, tmp_path, "job")
    async with AssetStore(tmp_path / "front") as store:
        assert await store.get(asset.id) == asset
        assert await store.outputs_of("job") == [output]
        job = await store.job("job")
        assert job is not None and job.labels == {"a": "b"}


async def test_a_newer_database_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    async with AssetStore(tmp_path) as store:
        pass
    path = store.folder / "assets.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.commit()
    with pytest.raises(LocalStorageError, match="newer Comfy Remote"):
        async with AssetStore(tmp_path):
            pass
    for beside in _database_files(path):
        beside.write_bytes(b"no database, " * 1000)
    with pytest.raises(LocalStorageError, match="cannot be used"):
        async with AssetStore(tmp_path):
            pass


def _database_files(path: Path) -> Iterable[Path]:
    for beside in path.parent.glob("assets.sqlite3-*"):
        beside.unlink()
    return [path]
