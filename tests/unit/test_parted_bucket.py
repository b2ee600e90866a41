"""Large files into a real S3 server: in parts, killed in between, and what is there already."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_server import sha256
from pydantic import SecretStr
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs

from comfy_remote.errors import InputFileMissing, OutputError
from comfy_remote.net.bucket import BucketSettings
from comfy_remote.net.parted_bucket import PartedBucket, Upload, UploadTimes
from comfy_remote.ready.sync.brought import BroughtRecord

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * (40 * MIB // 256) + b"the end"  # three parts
SHA256 = sha256(CONTENT)
OTHER = CONTENT[:-1] + b"D"  # as large
QUICK = UploadTimes(tries=2, first=0.01, longest=0.01, completed_within=5.0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs"), volume_megabytes=256) as server:
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


def unfinished_at(server: S3Server, name: str) -> list[str]:
    """The ids of the uploads of a file that the service knows of."""
    found = server.client.list_multipart_uploads(Bucket="models", Prefix=name).get("Uploads", [])
    return [str(one["UploadId"]) for one in found]


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


def comes_meanwhile(s3: S3Server, record: BroughtRecord, key: str, body: bytes) -> None:
    """Somebody puts a file there when the last part of ours has been sent."""
    noted = record.part

    def part(upload: Upload, number: int, etag: str) -> None:
        noted(upload, number, etag)
        if number == 3:
            s3.client.put_object(Bucket="models", Key=key, Body=body)

    record.part = part  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("theirs", "what"), [(b"theirs", "of 6 bytes"), (OTHER, "as large and with another content")]
)
async def test_one_that_comes_meanwhile_is_not_replaced_either(
    s3: S3Server, record: BroughtRecord, file: Path, theirs: bytes, what: str
) -> None:
    key = f"meanwhile{len(theirs)}"
    comes_meanwhile(s3, record, key, theirs)
    with pytest.raises(OutputError, match=f"{what}. It is not replaced"):
        await bucket(s3, record).upload(file, key, SHA256, lambda *_: None)
    assert content(s3, key) == theirs
    (left,) = record.unfinished()  # for when theirs is renamed
    assert left.sent == len(CONTENT)
    assert await bucket(s3, record).give_up(key, remove=False)
    assert unfinished_at(s3, key) == []


async def test_another_machine_that_was_quicker_with_the_same_file(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    comes_meanwhile(s3, record, "quicker", CONTENT)
    said: list[str] = []
    assert not await bucket(s3, record).upload(
        file, "quicker", SHA256, lambda *_: None, said.append
    )
    await asyncio.sleep(0)
    assert said == ["reading what is there under its name for its SHA-256"]
    assert unfinished_at(s3, "quicker") == record.unfinished() == []


async def test_a_file_as_large_as_ours_is_another_one(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    s3.client.put_object(Bucket="models", Key="as-large", Body=OTHER)
    with pytest.raises(OutputError, match="as large and with another content"):
        await bucket(s3, record).upload(file, "as-large", SHA256, lambda *_: None)
    assert content(s3, "as-large") == OTHER


async def test_what_is_there_is_read_on_where_the_line_broke(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    s3.client.put_object(Bucket="models", Key="breaks", Body=CONTENT)
    there = bucket(s3, record)
    call, reads = there._call, []

    def breaks(what: str, work: Callable[[Any], Any]) -> Any:
        if what != "let a file be read" or reads:
            reads.append(what)
            return call(what, work)

        from botocore.response import StreamingBody

        half = StreamingBody(io.BytesIO(CONTENT[: len(CONTENT) // 2]), None)
        client = SimpleNamespace(get_object=lambda **_: {"Body": half})
        work(SimpleNamespace(client=client))
        reads.append("half")
        raise OutputError("reset", details={"code": "ReadTimeoutError"})

    there._call = breaks  # type: ignore[method-assign]
    assert not await there.upload(file, "breaks", SHA256, lambda *_: None)


async def test_two_programs_of_a_machine_send_a_file_once(
    s3: S3Server, tmp_path: Path, file: Path
) -> None:
    begins, counted = asyncio.Event(), list[int]()
    loop = asyncio.get_running_loop()
    records = [BroughtRecord(tmp_path / "home") for _ in range(2)]
    noted = records[0].part

    def part(upload: Upload, number: int, etag: str) -> None:
        noted(upload, number, etag)
        counted.append(number)
        loop.call_soon_threadsafe(begins.set)
        assert waits.wait(30)

    waits = threading.Event()
    records[0].part = part  # type: ignore[method-assign]
    first = asyncio.create_task(
        bucket(s3, records[0]).upload(file, "both", SHA256, lambda *_: None)
    )
    await begins.wait()
    said = asyncio.Event()

    def heard(words: str) -> None:
        assert words == "waiting for another program of this machine, which sends it" or counted
        said.set()

    second = asyncio.create_task(
        bucket(s3, records[1]).upload(file, "both", SHA256, lambda *_: None, heard)
    )
    await said.wait()
    assert not await bucket(s3, records[1]).give_up("both", remove=False)  # it is being sent
    waits.set()
    assert [await first, await second] == [True, False]
    assert counted == [1, 2, 3]
    assert content(s3, "both") == CONTENT


async def test_what_has_begun_can_be_given_up(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    begins = asyncio.Event()
    there = bucket(s3, record)
    sending = asyncio.create_task(there.upload(file, "given-up", SHA256, lambda *_: begins.set()))
    await begins.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    (left,) = record.unfinished()
    assert (left.destination, left.size) == (there.destination("given-up"), len(CONTENT))
    assert unfinished_at(s3, "given-up") != []
    assert await there.give_up(there.name(left.destination), remove=False)
    assert unfinished_at(s3, "given-up") == record.unfinished() == []


async def test_a_file_that_was_lent_stays_noted_until_it_is_removed(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = bucket(s3, record)
    assert await there.upload(file, "lent", SHA256, lambda *_: None, lent=True)
    (left,) = record.unfinished()
    assert (left.is_complete, left.sent) == (True, len(CONTENT))
    # Nobody else's can have that name, so it is not read again.
    said: list[str] = []
    assert not await there.upload(file, "lent", SHA256, lambda *_: None, said.append, lent=True)
    assert said == []
    assert len(record.unfinished()) == 1
    assert await there.give_up("lent", remove=True)
    assert await there.size("lent") is None
    assert record.unfinished() == []


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


async def test_what_was_sent_of_a_changed_file_is_not_noted(
    s3: S3Server, tmp_path: Path, file: Path
) -> None:
    noted: list[int] = []

    class Changes(BroughtRecord):
        def begin(self, upload: Upload) -> None:
            super().begin(upload)
            file.write_bytes(CONTENT[::-1])
            os.utime(file, (1, 1))

        def part(self, upload: Upload, number: int, etag: str) -> None:
            noted.append(number)
            super().part(upload, number, etag)

    record = Changes(tmp_path / "home")
    with pytest.raises(InputFileMissing, match="has changed"):
        await bucket(s3, record).upload(file, "mixed", SHA256, lambda *_: None)
    assert noted == []  # a later life of the upload would have gone on from there
    assert record.unfinished() == []


async def test_a_file_that_is_gone_meanwhile_is_said_so(
    s3: S3Server, tmp_path: Path, file: Path
) -> None:
    class Removes(BroughtRecord):
        def part(self, upload: Upload, number: int, etag: str) -> None:
            super().part(upload, number, etag)
            if number == 3:
                file.unlink()

    with pytest.raises(InputFileMissing, match="has changed"):
        await bucket(s3, Removes(tmp_path / "home")).upload(file, "lost", SHA256, lambda *_: None)
    assert await bucket(s3, Removes(tmp_path / "home")).size("lost") is None


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


async def test_a_completion_that_did_not_go_through_is_not_somebody_elses_file(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = PartedBucket(
        settings(s3), record, times=UploadTimes(tries=2, first=0.01, completed_within=0), at_once=1
    )
    call = there._call

    def loses(what: str, work: object) -> object:
        if what != "complete the upload":
            return call(what, work)  # type: ignore[arg-type]
        s3.client.put_object(Bucket="models", Key="not-ours", Body=OTHER)
        raise OutputError("It timed out.", details={"code": "ReadTimeoutError"})

    there._call = loses  # type: ignore[method-assign, assignment]
    with pytest.raises(OutputError, match="as large and with another content"):
        await there.upload(file, "not-ours", SHA256, lambda *_: None)
    assert content(s3, "not-ours") == OTHER
    assert await there.give_up("not-ours", remove=False)


@pytest.mark.parametrize("theirs", [CONTENT, OTHER])
async def test_one_that_comes_at_the_last_moment_is_not_replaced(
    s3: S3Server, record: BroughtRecord, file: Path, theirs: bytes
) -> None:
    """Between the last look and the completion: the service refuses it."""
    there, key = bucket(s3, record), f"last-{theirs[-1]}"
    call = there._call

    def comes(what: str, work: object) -> object:
        if what == "complete the upload":
            s3.client.put_object(Bucket="models", Key=key, Body=theirs)
        return call(what, work)  # type: ignore[arg-type, var-annotated]

    there._call = comes  # type: ignore[method-assign, assignment]
    sending = there.upload(file, key, SHA256, lambda *_: None)
    if theirs is CONTENT:
        assert not await sending
        assert unfinished_at(s3, key) == record.unfinished() == []
    else:
        with pytest.raises(OutputError, match="as large and with another content"):
            await sending
        assert await there.give_up(key, remove=False)
    assert content(s3, key) == theirs


async def test_a_service_that_knows_no_condition_completes_without(
    s3: S3Server, record: BroughtRecord, file: Path
) -> None:
    there = bucket(s3, record)
    call, asked = there._call, list[str]()

    def old(what: str, work: object) -> object:
        if what == "complete the upload":
            asked.append(what)
            if len(asked) == 1:
                raise OutputError("No conditions here.", details={"code": "NotImplemented"})
        return call(what, work)  # type: ignore[arg-type, var-annotated]

    there._call = old  # type: ignore[method-assign, assignment]
    assert await there.upload(file, "old", SHA256, lambda *_: None)
    assert len(asked) == 2
    assert content(s3, "old") == CONTENT


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
