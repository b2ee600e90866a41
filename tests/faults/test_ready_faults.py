"""Models and endpoints brought to where they are needed, with each step going wrong in turn.

Whatever happens, the next attempt ends as if nothing had, nothing was made twice, nobody else's is
touched, and nothing is left in storage that is not on record. More of it:
``test_parted_bucket.py``, ``test_models_placing.py``, ``test_models_download.py`` and
``test_deploy_runpod_carrying.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_server import safetensors, sha256
from pydantic import SecretStr
from runpod_double import KEY, RunPodDouble
from s3_faults import S3Faults
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs

from comfy_remote.deploy.runpod.carrying import CarryTimes, carry_out
from comfy_remote.deploy.runpod.mark import Mark
from comfy_remote.deploy.runpod.plan import plan_deployment, plan_removal
from comfy_remote.deploy.runpod.record import DeploymentRecord
from comfy_remote.deploy.runpod.there import look
from comfy_remote.deploy.runpod.wanted import VolumeWanted, Wanted
from comfy_remote.errors import (
    ComfyRemoteError,
    InputFileMissing,
    OutputError,
)
from comfy_remote.net.parted_bucket import PartedBucket, UploadTimes
from comfy_remote.ready.lock import LockedModel
from comfy_remote.ready.sync.brought import BroughtRecord
from comfy_remote.ready.sync.leftovers import give_up, leftovers
from comfy_remote.ready.sync.stores import BucketStore, VolumeStore
from comfy_remote.targets.runpod.account import RunPodAccount
from comfy_remote.targets.runpod.volume import Volume

# Endpoints: each request of a deployment, its change and its removal goes wrong in turn.

WANTED = Wanted("portraits", gpus=("RTX 4090",), volume=VolumeWanted(None, 100, "EU-RO-1"))
CHANGED = replace(WANTED, idle=20, volume=VolumeWanted(None, 200, "EU-RO-1"))
THEIRS = {"id": "theirs", "name": "x", "size": 10, "dataCenter": "EU-RO-1", "type": "STANDARD"}


class Account:
    """Somebody's RunPod account, and the record of a machine that uses it."""

    def __init__(self, double: RunPodDouble, folder: Path) -> None:
        self.double, self.record = double, DeploymentRecord(folder)
        double.volumes["theirs"] = dict(THEIRS)

    async def deploy(self, wanted: Wanted) -> None:
        mark = Mark.new(wanted.name)
        await self._do(lambda there, made: plan_deployment(wanted, there, made, mark))

    async def remove(self) -> None:
        await self._do(lambda there, made: plan_removal("portraits", there, made, with_volume=True))

    async def _do(self, planner: Any) -> None:
        environment = {"RUNPOD_API_BASE_URL": self.double.url}
        async with RunPodAccount(SecretStr(KEY), environment) as account:
            made = self.record.made("portraits")
            plan = planner(await look(account, made), made)
            times = CarryTimes(looks=3, between=0.01)
            await carry_out(account, plan, planner, self.record, times=times)

    def check_one(self, wanted: Wanted) -> None:
        """One endpoint and one volume, as they are wanted, and on record."""
        (endpoint,) = self.double.endpoints.values()
        (volume,) = [one for key, one in self.double.volumes.items() if key != "theirs"]
        assert endpoint["networkVolumes"] == [volume["id"]]
        assert endpoint["workers"]["idleTimeout"] == (wanted.idle or 60)
        assert wanted.volume is not None
        assert volume["size"] == wanted.volume.size
        made = self.record.made("portraits")
        assert made is not None
        assert (made.endpoint, made.volume) == (endpoint["id"], volume["id"])

    def check_nothing(self) -> None:
        assert (self.double.endpoints, self.double.volumes) == ({}, {"theirs": THEIRS})
        assert self.record.made("portraits") is None


@pytest.mark.parametrize("fault", ["dropped", "lost", "garbled", "unavailable"])
@pytest.mark.parametrize("step", ["make", "change", "remove"])
async def test_each_request_to_runpod_goes_wrong_in_turn(
    tmp_path: Path, quick_retries: None, step: str, fault: str
) -> None:
    # A look asks five things side by side; it looks twice, and then does something.
    for number in (0, 5, *range(10, 30)):
        with RunPodDouble() as double:
            double.unlike_the_document = True  # so are garbled answers
            account = Account(double, tmp_path / str(number))
            if step != "make":
                await account.deploy(WANTED)
            wanted = CHANGED if step == "change" else WANTED
            double.goes_wrong[len(double.asked) + number] = fault
            ended = False
            try:
                await (account.remove() if step == "remove" else account.deploy(wanted))
                ended = True
            except ComfyRemoteError as error:
                assert error.message
            if double.goes_wrong:  # there were fewer requests
                break
            if step != "remove":
                await account.deploy(wanted)
                account.check_one(wanted)
            if not (step == "remove" and ended):
                await account.remove()
            account.check_nothing()
    assert number > 11
    assert ended


# Models into storage.

CONTENT = safetensors(300_000, fill=b"a model of somebody")  # of one part; more: test_parted_bucket
MODEL = LockedModel(
    folder="loras", name="style.safetensors", size=len(CONTENT), sha256=sha256(CONTENT)
)
KEY_THERE = "models/loras/style.safetensors"
VOLUME = "agv6w2qcg7"
QUICK = UploadTimes(tries=2, first=0.01, longest=0.01, completed_within=1.0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs"), volume_megabytes=256) as server:
        server.client.create_bucket(Bucket=VOLUME)
        yield server


@pytest.fixture
def front(s3: S3Server) -> Iterator[S3Faults]:
    with S3Faults(s3.url) as one:
        yield one
    for key in objects(s3):
        s3.client.delete_object(Bucket=VOLUME, Key=key)


class Storage:
    """A volume and a bucket in one, from one machine."""

    def __init__(self, front: S3Faults, folder: Path) -> None:
        keys = {
            "RUNPOD_S3_ENDPOINT": front.url,
            "RUNPOD_S3_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "RUNPOD_S3_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }
        volume = Volume.parse(f"{VOLUME}@EU-RO-1")
        self.record = BroughtRecord(folder / "home")
        bucket = PartedBucket(volume.settings(keys), self.record, times=QUICK, at_once=2)
        self.volume = VolumeStore(volume, bucket)
        self.bucket = BucketStore(bucket, "the bucket", self.record)
        self.path = folder / "style.safetensors"
        self.path.write_bytes(CONTENT)

    async def put(self) -> bool:
        return await self.volume.put(self.path, MODEL, sha256(CONTENT), nothing, nothing)


def nothing(*_: object) -> None:
    pass


def objects(s3: S3Server) -> list[str]:
    found = s3.client.list_objects_v2(Bucket=VOLUME).get("Contents", [])
    return [str(one["Key"]) for one in found]


def uploads(s3: S3Server) -> list[str]:
    found = s3.client.list_multipart_uploads(Bucket=VOLUME).get("Uploads", [])
    return [str(one["Key"]) for one in found]


@pytest.fixture
async def storage(front: S3Faults, tmp_path: Path) -> AsyncIterator[Storage]:
    yield Storage(front, tmp_path)


@pytest.mark.parametrize(
    ("what", "faults"),
    [
        ("list", ("dropped", "503")),
        ("head", ("dropped",)),
        ("create", ("dropped", "500")),
        ("part", ("dropped", "cut", "lost", "503", "507", "403")),
        ("complete", ("dropped", "lost", "500", "507")),
    ],
)
async def test_a_request_of_an_upload_goes_wrong_once(
    s3: S3Server, front: S3Faults, storage: Storage, what: str, faults: tuple[str, ...]
) -> None:
    for fault in faults:
        front.plan(what, fault)
        storage.volume = VolumeStore(storage.volume.volume, storage.volume.bucket)
        try:
            await storage.put()
        except OutputError as error:
            assert SECRET_ACCESS_KEY not in str(error)
            assert KEY_THERE not in objects(s3)  # nothing lies half under its final name
            assert len(storage.record.unfinished()) == len(uploads(s3))
            assert await storage.put()
        assert front.happened
        there = s3.client.get_object(Bucket=VOLUME, Key=KEY_THERE)["Body"].read()
        assert sha256(there) == MODEL.sha256
        assert objects(s3) == [KEY_THERE]
        assert uploads(s3) == storage.record.unfinished() == []
        assert not await storage.put()  # it is there
        s3.client.delete_object(Bucket=VOLUME, Key=KEY_THERE)


async def test_the_answer_to_the_beginning_of_an_upload_is_lost(
    s3: S3Server, front: S3Faults, storage: Storage
) -> None:
    """The service has two then: one of them has no part, so nobody pays for it."""
    front.plan("create", "lost")
    assert await storage.put()
    sizes = [
        s3.client.list_parts(Bucket=VOLUME, Key=KEY_THERE, UploadId=one["UploadId"]).get(
            "Parts", []
        )
        for one in s3.client.list_multipart_uploads(Bucket=VOLUME).get("Uploads", [])
    ]
    assert sizes in ([], [[]])
    for one in s3.client.list_multipart_uploads(Bucket=VOLUME).get("Uploads", []):
        s3.client.abort_multipart_upload(Bucket=VOLUME, Key=KEY_THERE, UploadId=one["UploadId"])


async def test_a_full_volume_says_so_and_what_was_sent_can_be_given_up(
    s3: S3Server, front: S3Faults, storage: Storage
) -> None:
    front.always("part", "507")
    for _ in range(2):
        with pytest.raises(OutputError, match="InsufficientStorage"):
            await storage.put()
    assert objects(s3) == []
    (left,) = storage.record.unfinished()
    front.plan("abort", "403")
    (refused,) = await give_up(leftovers(storage.record, [storage.volume]))
    assert "AccessDenied" in refused.why
    assert storage.record.unfinished() == [left]
    (given,) = await give_up(leftovers(storage.record, [storage.volume]))
    assert given.why == ""
    assert uploads(s3) == storage.record.unfinished() == []


async def test_what_another_machine_has_put_there_is_read_although_the_line_breaks(
    s3: S3Server, front: S3Faults, storage: Storage
) -> None:
    other = CONTENT[:-1] + b"?"
    for fault in ("shortened", "dropped", "503"):
        s3.client.put_object(Bucket=VOLUME, Key=KEY_THERE, Body=CONTENT)
        front.plan("get", fault)
        assert not await storage.put()
        assert front.happened
        s3.client.put_object(Bucket=VOLUME, Key=KEY_THERE, Body=other)
        front.plan("get", fault)
        with pytest.raises(OutputError, match="as large and with another content"):
            await storage.put()
        assert s3.client.get_object(Bucket=VOLUME, Key=KEY_THERE)["Body"].read() == other


async def test_two_machines_put_one_model_on_a_volume_at_once(
    s3: S3Server, front: S3Faults, tmp_path: Path
) -> None:
    machines = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        machines.append(Storage(front, tmp_path / name))
    ended = await asyncio.gather(*(one.put() for one in machines), return_exceptions=True)
    assert set(ended) <= {True, False}
    assert True in ended
    assert s3.client.get_object(Bucket=VOLUME, Key=KEY_THERE)["Body"].read() == CONTENT
    assert uploads(s3) == []
    assert [one.record.unfinished() for one in machines] == [[], []]


async def test_a_file_that_changes_while_it_is_sent_gets_no_name(
    s3: S3Server, front: S3Faults, storage: Storage
) -> None:
    def changes(done: int, total: int) -> None:
        if done == total:
            storage.path.write_bytes(CONTENT + b"more")

    with pytest.raises(InputFileMissing, match="has changed while it was sent"):
        await storage.volume.put(storage.path, MODEL, sha256(CONTENT), changes, nothing)
    assert objects(s3) == uploads(s3) == storage.record.unfinished() == []


async def test_a_copy_in_a_bucket_that_cannot_be_removed_stays_on_record(
    s3: S3Server, front: S3Faults, storage: Storage
) -> None:
    copy = await storage.bucket.put(
        storage.path, MODEL, sha256(CONTENT), nothing, nothing, target="gpu"
    )
    front.plan("delete", "403")
    with pytest.raises(OutputError, match="AccessDenied"):
        await storage.bucket.remove(copy)
    (left,) = storage.record.unfinished()
    assert left.is_complete
    (given,) = await give_up(leftovers(storage.record, [storage.bucket]))
    assert given.why == ""
    assert objects(s3) == storage.record.unfinished() == []


async def test_a_sync_that_is_killed_behind_the_last_answer_leaves_a_copy_on_record(
    s3: S3Server, front: S3Faults, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket has the whole file, and the record only that it has begun."""
    begin = storage.record.begin

    class KilledError(BaseException):
        pass

    def killed(upload: Any) -> None:
        if upload.is_complete:
            raise KilledError
        begin(upload)

    monkeypatch.setattr(storage.record, "begin", killed)
    put = storage.bucket.put(storage.path, MODEL, sha256(CONTENT), nothing, nothing, target="gpu")
    with pytest.raises(KilledError):
        await put
    monkeypatch.undo()
    assert len(objects(s3)) == 1
    assert len(storage.record.unfinished()) == 1
    (given,) = await give_up(leftovers(storage.record, [storage.bucket]))
    assert given.why == ""
    assert objects(s3) == storage.record.unfinished() == []
