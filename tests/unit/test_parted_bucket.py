"""Large files into a real S3 server: in parts, killed in between, and what is there already."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_server import sha256
from pydantic import SecretStr
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs

from comfy_remote.errors import InputFileMissing, OutputError
from comfy_remote.net.bucket import BucketSettings
from comfy_remote.net.parted_bucket import PartedBucket, UploadTimes
from comfy_remote.ready.sync.brought import BroughtRecord

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * (40 * MIB // 256) + b"the end"  # three parts
SHA256 = sha256(CONTENT)
QUICK = UploadTimes(tries=2, first=0.01, longest=0.01, completed_within=5.0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.client.create_bucket(Bucket="models")
        yield server


@pytest.fixture
def record(tmp_path: Path) -> BroughtRecord:
    return BroughtRecord(tmp_path / "home")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "style.safetensors"
    path.write_bytes(CONTENT)
    return path


def settings(server: S3Server, secret: str = SECRET_ACCESS_KEY) -> BucketSettings:
    return BucketSettings.of(f"{server.url}/models", ACCESS_KEY_ID, SecretStr(secret))


def bucket(server: S3Server, record: BroughtRecord, at_once: int = 1) -> PartedBucket:
    return PartedBucket(settings(server), record, times=QUICK, at_once=at_once)


def content(server: S3Server, name: str) -> bytes:
    return bytes(server.client.get_object(Bucket="models", Key=name)["Body"].read())


async def test_a_file_goes_there_once_and_whole(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    sent: list[int] = []
    there = bucket(s3, record, at_once=3)
    assert await there.size("whole") is None
    assert not await there.has_below("loras")
    assert await there.upload(file, "loras/whole", SHA256, lambda done, _: sent.append(done))
    await asyncio.sleep(0)
    assert sent[-1] == max(sent) == len(CONTENT)
    assert content(s3, "loras/whole") == CONTENT
    assert await there.size("loras/whole") == len(CONTENT)
    assert await there.has_below("loras")
    assert record.unfinished() == []
    assert not await there.upload(file, "loras/whole", SHA256, lambda *_: None)


async def test_another_file_of_that_name_is_not_replaced(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    s3.client.put_object(Bucket="models", Key="taken", Body=b"theirs")
    with pytest.raises(OutputError, match="It is not replaced"):
        await bucket(s3, record).upload(file, "taken", SHA256, lambda *_: None)
    assert content(s3, "taken") == b"theirs"


async def test_one_that_comes_meanwhile_is_not_replaced_either(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    def somebody(done: int, total: int) -> None:
        if done == total:
            s3.client.put_object(Bucket="models", Key="meanwhile", Body=b"theirs")

    with pytest.raises(OutputError, match="It is not replaced"):
        there = bucket(s3, record)
        noted = record.part

        def part(upload: object, number: int, etag: str) -> None:
            noted(upload, number, etag)  # type: ignore[arg-type]
            if number == 3:
                somebody(1, 1)

        record.part = part  # type: ignore[method-assign]
        await there.upload(file, "meanwhile", SHA256, lambda *_: None)
    assert content(s3, "meanwhile") == b"theirs"


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from pydantic import SecretStr
from comfy_remote.net.bucket import BucketSettings
from comfy_remote.net.parted_bucket import PartedBucket
from comfy_remote.ready.sync.brought import BroughtRecord

url, key, secret, home, path, sha256, after = sys.argv[1:]
record = BroughtRecord(Path(home))
noted, count = record.part, [0]

def part(upload, number, etag):
    noted(upload, number, etag)
    print("part", number, flush=True)
    count[0] += 1
    if count[0] == int(after):
        os._exit(9)  # as kill -9 leaves it

record.part = part
bucket = PartedBucket(BucketSettings.of(url, key, SecretStr(secret)), record, at_once=1)
asyncio.run(bucket.upload(Path(path), "killed", sha256, lambda *_: None))
"""


async def test_killed_twice_it_goes_on_and_sends_no_part_again(
    s3: S3Server, record: BroughtRecord, file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, f"{s3.url}/models", ACCESS_KEY_ID, SECRET_ACCESS_KEY]
    parts = []
    for after in ("1", "1", "9"):
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, str(tmp_path / "home"), str(file), SHA256, after],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == (9 if after == "1" else 0), done.stderr
        parts += done.stdout.split("\n")[:-1]
        if after == "1":
            assert len(record.unfinished()) == 1
            assert await bucket(s3, record).size("killed") is None  # nothing half
    assert parts == ["part 1", "part 2", "part 3"]
    assert content(s3, "killed") == CONTENT
    assert record.unfinished() == []
    assert not s3.client.list_multipart_uploads(Bucket="models", Prefix="killed").get("Uploads")


async def test_cancelled_it_stops_and_stays(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there, begun = bucket(s3, record), asyncio.Event()
    work = asyncio.create_task(there.upload(file, "stopped", SHA256, lambda *_: begun.set()))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await there.size("stopped") is None
    assert await there.upload(file, "stopped", SHA256, lambda *_: None)
    assert content(s3, "stopped") == CONTENT


async def test_an_upload_of_which_the_service_knows_nothing_is_begun_again(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = bucket(s3, record)
    begun = threading.Event()
    work = asyncio.create_task(there.upload(file, "gone", SHA256, lambda *_: begun.set()))
    await asyncio.to_thread(begun.wait, 60)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    known = record.upload(there.destination("gone"))
    assert known is not None
    s3.client.abort_multipart_upload(Bucket="models", Key="gone", UploadId=known.upload_id)
    assert await there.upload(file, "gone", SHA256, lambda *_: None)
    assert content(s3, "gone") == CONTENT


async def test_another_content_gives_up_what_was_sent_of_the_first(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there, begun = bucket(s3, record), asyncio.Event()
    work = asyncio.create_task(there.upload(file, "changed", SHA256, lambda *_: begun.set()))
    await begun.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    other = CONTENT[::-1]
    file.write_bytes(other)
    assert await there.upload(file, "changed", sha256(other), lambda *_: None)
    assert content(s3, "changed") == other
    assert not s3.client.list_multipart_uploads(Bucket="models", Prefix="changed").get("Uploads")


async def test_a_file_that_changes_meanwhile_gets_no_name(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    def touch(_done: int, _total: int) -> None:
        os.utime(file, (1, 1))

    with pytest.raises(InputFileMissing, match="has changed"):
        await bucket(s3, record).upload(file, "touched", SHA256, touch)
    assert await bucket(s3, record).size("touched") is None
    assert record.unfinished() == []


async def test_a_completion_without_an_answer_that_went_through_is_one(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = bucket(s3, record)
    call, lost = there._call, []

    def loses(what: str, work: object) -> object:
        answer = call(what, work)  # type: ignore[arg-type, var-annotated]
        if what == "complete the upload":
            lost.append(what)
            raise OutputError("It timed out.", details={"code": "ReadTimeoutError"})
        return answer

    there._call = loses  # type: ignore[method-assign, assignment]
    assert await there.upload(file, "timed-out", SHA256, lambda *_: None)
    assert len(lost) == 1
    assert content(s3, "timed-out") == CONTENT
    assert record.unfinished() == []


async def test_a_part_that_breaks_is_sent_again(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = bucket(s3, record)
    put, broken = there._put_part, []

    def breaks(*arguments: object) -> str:
        if not broken:
            broken.append(1)
            raise OutputError("502", details={"code": "502"})
        return put(*arguments)  # type: ignore[arg-type]

    there._put_part = breaks  # type: ignore[method-assign, assignment]
    assert await there.upload(file, "broken", SHA256, lambda *_: None)
    assert content(s3, "broken") == CONTENT


async def test_wrong_keys_are_said_in_the_words_of_whoever_asked(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = PartedBucket(settings(s3, "wrong"), record, times=QUICK, advice="Make an S3 key.")
    with pytest.raises(OutputError) as raised:
        await there.upload(file, "denied", SHA256, lambda *_: None)
    assert raised.value.advice == "Make an S3 key."
    assert "wrong" not in str(raised.value)
