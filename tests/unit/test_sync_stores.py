"""Models sent to a RunPod volume and by the user's bucket: both a real S3 server here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_target import FakeTarget
from json_lines import check_lines
from model_server import safetensors, sha256
from models_kit import files_in
from pydantic import SecretStr
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs
from sync_kit import box, comfyui_with, lock_of, locked
from test_cli_lock import Run, run
from yarl import URL

from comfy_remote.config.folders import home
from comfy_remote.errors import ConfigurationError, ModelUnavailable, OutputError
from comfy_remote.net.bucket import Bucket
from comfy_remote.net.parted_bucket import Upload
from comfy_remote.ready.hashing import hash_models
from comfy_remote.ready.lock import Lock, LockedModel
from comfy_remote.ready.plan import Standing
from comfy_remote.ready.sync.brought import BroughtRecord
from comfy_remote.ready.sync.carrying import Ended, carry_out
from comfy_remote.ready.sync.here import files_here
from comfy_remote.ready.sync.leftovers import give_up, leftovers
from comfy_remote.ready.sync.planning import Sources, plan_sync
from comfy_remote.ready.sync.steps import Here, SyncPlan, Way
from comfy_remote.ready.sync.stores import bucket_store, volume_store
from comfy_remote.targets.base import Capabilities, Target
from comfy_remote.targets.models import ensure_models
from comfy_remote.targets.runpod.volume import Volume
from comfy_remote.worker.models.hashes import ModelHashes

__all__ = ["run"]

STYLE = safetensors(300_000, fill=b"style")
OTHER = safetensors(200_000, fill=b"other")
VOLUME = "agv6w2qcg7"
KEYS = {
    "RUNPOD_S3_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "RUNPOD_S3_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        for name in (VOLUME, "models", "agv6w2qcg8"):
            server.client.create_bucket(Bucket=name)
        yield server


class Asleep(FakeTarget):
    """An endpoint whose workers have never been asked, and must not be for a volume."""

    name = "gpu"

    async def act(self, payload: object, on_message: object = None) -> None:
        raise AssertionError("a worker was asked")

    async def described_before(self) -> Capabilities:
        return Capabilities(None, None, None)

    async def describe_again(self) -> Capabilities:
        return Capabilities(None, None, None)


def with_volume(s3: S3Server, folder: Path, volume: str = VOLUME, **models: bytes) -> Sources:
    home = folder / "home"
    store = volume_store(
        f"{volume}@EU-RO-1", BroughtRecord(home), {**KEYS, "RUNPOD_S3_ENDPOINT": s3.url}
    )
    return Sources(comfyui_with(folder, **models), home, "by run", store)


async def here(given: Sources, lock: Lock) -> dict[str, Here]:
    return await files_here(given.comfyui, lock.models)


def bucket_keys(s3: S3Server) -> dict[str, str]:
    return {
        "BUCKET_ENDPOINT_URL": f"{s3.url}/models",
        "BUCKET_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "BUCKET_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    }


async def synced(target: Target, lock: Lock, given: Sources) -> tuple[SyncPlan, list[Ended]]:
    async with target:
        plan = await plan_sync(lock, target, given)
        return plan, await carry_out(plan, target, given, lambda _: None, lambda _: None)


def no_signing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object) -> str:
        raise OutputError("RunPod's volumes sign no addresses.")

    monkeypatch.setattr(Bucket, "sign", refused)


async def test_a_volume_gets_a_model_without_a_worker(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_signing(monkeypatch)
    given = with_volume(s3, tmp_path, loras__style=STYLE)
    lock = lock_of(locked("loras/style.safetensors", STYLE))
    plan, (ended,) = await synced(Asleep(), lock, given)
    assert [one.way for one in plan.steps] == [Way.VOLUME]
    assert plan.steps[0].why == "to the volume agv6w2qcg7 in EU-RO-1"
    assert any("network volume costs the same" in note for note in plan.notes)
    assert (ended.how, ended.error) == ("sent", None)
    there = s3.client.get_object(Bucket=VOLUME, Key="models/loras/style.safetensors")
    assert there["Body"].read() == STYLE
    again = await plan_sync(lock, Asleep(), given)
    assert [one.standing for one in again.plan.items if one.kind == "model"] == [Standing.THERE]
    assert not again.to_do


@pytest.mark.parametrize("content", [OTHER, STYLE[:-1] + b"!"])
async def test_a_file_that_has_changed_since_the_plan_is_not_sent(
    s3: S3Server, tmp_path: Path, content: bytes
) -> None:
    name = f"loras/changed{len(content)}.safetensors"
    file = {name.removesuffix(".safetensors").replace("/", "__"): STYLE}
    given = with_volume(s3, tmp_path, **file)
    path = tmp_path / "ComfyUI/models" / name
    async with Asleep() as target:
        lock = lock_of(locked(name, STYLE))
        await hash_models([one.file for one in (await here(given, lock)).values()], ModelHashes())
        plan = await plan_sync(lock, target, given)
        assert [one.here and one.here.sha256 for one in plan.steps] == [sha256(STYLE)]
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        [ended] = await carry_out(plan, target, given, lambda _: None, lambda _: None)
    assert "its SHA-256 is another" in str(ended.error)
    assert given.volume is not None
    assert await given.volume.sizes(lock.models) == {name: None}
    assert BroughtRecord(given.home).all() == []


async def test_what_was_sent_to_another_volume_says_nothing_of_this_one(
    s3: S3Server, tmp_path: Path
) -> None:
    given = with_volume(s3, tmp_path, loras__moved=STYLE)
    lock = lock_of(locked("loras/moved.safetensors", STYLE))
    _, (ended,) = await synced(Asleep(), lock, given)
    assert ended.error is None
    (brought,) = BroughtRecord(given.home).all()
    assert brought.destination == "the volume agv6w2qcg7 in EU-RO-1"
    other = with_volume(s3, tmp_path, "agv6w2qcg8")
    key = "models/loras/moved.safetensors"
    s3.client.put_object(Bucket="agv6w2qcg8", Key=key, Body=bytes(len(STYLE)))
    try:
        (step,) = (await plan_sync(lock, Asleep(), other)).steps
        assert step.item.standing is Standing.UNKNOWN  # as large; nobody has read it
    finally:
        s3.client.delete_object(Bucket="agv6w2qcg8", Key=key)


async def test_what_others_have_put_on_the_volume_stays(s3: S3Server, tmp_path: Path) -> None:
    key = "ComfyUI/models/loras/theirs.safetensors"
    s3.client.put_object(Bucket="agv6w2qcg8", Key=key, Body=OTHER)
    given = with_volume(s3, tmp_path, "agv6w2qcg8", loras__theirs=STYLE, vae__mine=STYLE)
    lock = lock_of(locked("loras/theirs.safetensors", STYLE), locked("vae/mine.safetensors", STYLE))
    plan, ended = await synced(Asleep(), lock, given)
    assert [one.way for one in plan.steps] == [Way.IMPOSSIBLE, Way.VOLUME]
    assert "it is not replaced" in plan.steps[0].why
    assert [one.step.item.name for one in ended] == ["vae/mine.safetensors"]
    assert s3.client.get_object(Bucket="agv6w2qcg8", Key=key)["Body"].read() == OTHER
    # Beside what is there: the worker reads ComfyUI/models first.
    s3.client.head_object(Bucket="agv6w2qcg8", Key="ComfyUI/models/vae/mine.safetensors")
    same = lock_of(locked("loras/theirs.safetensors", OTHER))
    (step,) = (await plan_sync(same, Asleep(), given)).steps
    assert (step.way, step.item.standing) == (Way.NONE, Standing.UNKNOWN)  # as large; not read


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (".comfy-remote", "files/x.json"),
        ("custom_nodes", "pack/x.json"),
        ("loras", "x.py"),
        ("loras", "../../x.safetensors"),
        ("loras", ".hidden/x.safetensors"),
    ],
)
async def test_nothing_but_a_model_goes_to_a_volume(tmp_path: Path, folder: str, name: str) -> None:
    store = volume_store(f"{VOLUME}@EU-RO-1/models", BroughtRecord(tmp_path), KEYS)
    model = LockedModel.model_construct(folder=folder, name=name)
    with pytest.raises(ModelUnavailable, match="model"):
        await store.put(tmp_path / "x", model, "0" * 64, nothing, nothing)


@pytest.mark.parametrize(
    ("text", "folder"),
    [("agv6w2qcg7@eu-ro-1", None), ("agv6w2qcg7@EU-RO-1/ComfyUI/models/", "ComfyUI/models")],
)
def test_a_volume_as_it_is_written(text: str, folder: str | None) -> None:
    volume = Volume.parse(text)
    assert volume == Volume("agv6w2qcg7", "EU-RO-1", folder)
    settings = volume.settings(KEYS)
    assert settings.endpoint == URL("https://s3api-eu-ro-1.runpod.io")
    assert (settings.bucket, settings.region) == ("agv6w2qcg7", "EU-RO-1")


@pytest.mark.parametrize(
    "text", ["", "agv6w2qcg7", "x@EU-RO-1", "agv6w2qcg7@EU-RO-1/../x", "a/b@c"]
)
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no network volume"):
        Volume.parse(text)


def test_a_volume_needs_keys_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="are not set") as raised:
        Volume.parse("agv6w2qcg7@EU-RO-1").settings({"RUNPOD_API_KEY": "another"})
    assert "RUNPOD_S3_ACCESS_KEY_ID" in raised.value.advice
    elsewhere = {**KEYS, "RUNPOD_S3_ENDPOINT": "http://example.com"}
    with pytest.raises(ConfigurationError, match="not an https address"):
        Volume.parse("agv6w2qcg7@EU-RO-1").settings(elsewhere)


async def test_a_bucket_is_the_way_to_a_worker_that_takes_nothing_directly(
    s3: S3Server, tmp_path: Path
) -> None:
    host = s3.url.partition("//")[2]
    async with box(tmp_path / "box", accept=False, hosts=frozenset({host})) as there:
        home = tmp_path / "home"
        record = BroughtRecord(home)
        bucket = bucket_store(None, record, bucket_keys(s3))
        given = Sources(comfyui_with(tmp_path, loras__style=STYLE), home, None, None, bucket)
        lock = lock_of(locked("loras/style.safetensors", STYLE))
        plan, (ended,) = await synced(there.target(), lock, given)
        assert [one.way for one in plan.steps] == [Way.BUCKET]
        assert (ended.how, ended.error) == ("sent", None)
        assert files_in(there.models) == {"loras/style.safetensors": STYLE}
        assert "Contents" not in s3.client.list_objects_v2(Bucket="models")
        assert record.unfinished() == []
        # The signed address is in no file, neither here nor among the worker's.
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert b"X-Amz-Signature" not in path.read_bytes(), path


async def test_what_the_worker_cannot_fetch_stays_in_the_bucket_and_on_record(
    s3: S3Server, tmp_path: Path
) -> None:
    async with box(tmp_path / "box", accept=False) as there:  # whose host is not allowed
        record = BroughtRecord(tmp_path / "home")
        bucket = bucket_store(None, record, bucket_keys(s3))
        given = Sources(
            comfyui_with(tmp_path, loras__style=STYLE), tmp_path / "home", None, None, bucket
        )
        lock = lock_of(locked("loras/style.safetensors", STYLE))
        for _ in range(2):
            _, (ended,) = await synced(there.target(), lock, given)
            assert ended.error is not None
            assert "X-Amz" not in str(ended.error)
            assert "stays in the bucket models for the next try" in str(ended.error.advice)
            (lies,) = record.unfinished()
            assert f"/models/comfy-remote-models/{sha256(STYLE)}/" in lies.destination
            assert lies.is_complete
        assert bucket is not None
        (given_up,) = await give_up(leftovers(record, [bucket]))
        assert given_up.why == ""
        assert "Contents" not in s3.client.list_objects_v2(Bucket="models")
        assert record.unfinished() == []


async def test_two_syncs_by_one_bucket_leave_each_others_copy(s3: S3Server, tmp_path: Path) -> None:
    """The first has fetched its copy, and removes it, while the other is about to fetch."""
    host = s3.url.partition("//")[2]
    async with box(tmp_path / "box", accept=False, hosts=frozenset({host})) as there:
        lock = lock_of(locked("loras/style.safetensors", STYLE))
        stores = [
            bucket_store(None, BroughtRecord(tmp_path / home), bucket_keys(s3))
            for home in ("here", "there")
        ]
        copies = []
        for store in stores:
            assert store is not None
            path = tmp_path / "style.safetensors"
            path.write_bytes(STYLE)
            for target in ("gpu", "other"):
                copies.append(
                    await store.put(
                        path, lock.models[0], sha256(STYLE), nothing, nothing, target=target
                    )
                )
        assert len({one.key for one in copies}) == 4
        assert stores[0] is not None
        await stores[0].remove(copies[0])
        async with there.target() as target:
            line = f"loras {copies[1].url} name=style.safetensors sha256={sha256(STYLE)}"
            assert (await ensure_models(target, line, nothing, prune=False)).fetched
        for copy in copies:
            await stores[0].remove(copy)


def nothing(*_: object) -> None:
    pass


def test_give_up_shows_it_asks_and_removes_it(
    s3: S3Server, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket_keys(s3).items():
        monkeypatch.setenv(name, value)
    record = BroughtRecord(home())
    store = bucket_store(None, record)
    assert store is not None
    path, model = tmp_path / "style.safetensors", locked("loras/style.safetensors", STYLE)
    path.write_bytes(STYLE)
    asyncio.run(store.put(path, model, sha256(STYLE), nothing, nothing, target="gpu"))
    assert run("sync", "--give-up", "x.json")[0] == 2
    status, out, err = run("sync", "--give-up", "--plan")
    assert (status, "300 kB, not yet removed, begun" in out) == (0, True)
    status, out, err = run("sync", "--brought")
    assert "Left in storage (--give-up removes it)" in err
    status, _, err = run("sync", "--give-up")
    assert (status, "Nothing was changed" in err) == (2, True)
    assert len(record.unfinished()) == 1
    status, out, err = run("sync", "--give-up", "--yes", "--json")
    (line,) = check_lines(out.splitlines())
    assert (status, line["given_up"], line["why"]) == (0, True, "")
    assert "1 of 1 given up" in err
    assert "Contents" not in s3.client.list_objects_v2(Bucket="models")
    status, _, err = run("sync", "--give-up", "--yes")
    assert (status, "No interrupted sync has left anything" in err) == (0, True)
    record.begin(Upload("other.example:443/b/x", "id", sha256(STYLE), len(STYLE), 1))
    status, _, err = run("sync", "--give-up", "--yes")
    assert (status, "no target's settings name that volume or bucket" in err) == (5, True)


async def test_give_up_leaves_what_is_whole_on_a_volume(s3: S3Server, tmp_path: Path) -> None:
    given = with_volume(s3, tmp_path, loras__whole=STYLE)
    record, volume = BroughtRecord(given.home), given.volume
    _, (ended,) = await synced(Asleep(), lock_of(locked("loras/whole.safetensors", STYLE)), given)
    assert ended.how == "sent"
    assert volume is not None
    there = volume.bucket.destination("models/loras/whole.safetensors")
    # As after a kill between the last answer and the note of it.
    record.begin(Upload(there, "an-upload-of-before", sha256(STYLE), len(STYLE), 16 * 1024 * 1024))
    elsewhere = "other.example:443/bucket/x"
    record.begin(Upload(elsewhere, "id", sha256(STYLE), len(STYLE), 16 * 1024 * 1024))
    ended_up = await give_up(leftovers(record, [volume]))
    assert [one.why for one in ended_up] == ["", "no target's settings name that volume or bucket"]
    assert [one.destination for one in record.unfinished()] == [elsewhere]
    assert await volume.bucket.size("models/loras/whole.safetensors") == len(STYLE)


def test_the_secret_of_a_volume_is_no_part_of_its_text() -> None:
    settings = Volume.parse("agv6w2qcg7@EU-RO-1").settings(KEYS)
    assert SECRET_ACCESS_KEY not in repr(settings)
    assert settings.secret_access_key == SecretStr(SECRET_ACCESS_KEY)
