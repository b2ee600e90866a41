"""Large files into a bucket, in parts that are sent side by side, over several lives of a process.

Each part that is there is noted before the next begins, so an upload that was killed goes on with
the parts that are missing. Nothing has its final name before the last part is there; nothing that
has it already is replaced. A file of that name and size that somebody else has put there is read
for its SHA-256: the size alone says nothing, since the files of two trainings are as large.

RunPod's network volumes speak S3 in their own way: a part may have 500 MB, a listing can take
minutes, and completing a large upload can time out although it went through
(docs.runpod.io/storage/s3-api). So nothing is listed to go on, and after a completion that was not
answered the file and the upload are asked for: it went through if the one is there and the other
is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import InputFileMissing, OutputError
from .bucket import Bucket, BucketSettings

if TYPE_CHECKING:
    from .bucket import _S3

__all__ = ["PartedBucket", "Upload", "UploadNotes", "UploadTimes"]

_SMALLEST_PART = 16 * 1024 * 1024
_MOST_PARTS = 9_000  # of the 10,000 that S3 allows
_AT_ONCE = 10
_LOOKS = 0.5  # seconds between two looks whether another program still sends a file
_CHUNK = 4 * 1024 * 1024  # bytes read at a time
_NOT_THERE = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_UPLOAD = frozenset({"NoSuchUpload", "InvalidPart"})
_TAKEN = frozenset({"PreconditionFailed", "412"})
# As services may answer to a condition that they do not know.
_NO_CONDITION = frozenset(
    {
        *("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400", "BadRequest"),
        *("MethodNotAllowed", "405", "SignatureDoesNotMatch"),
    }
)
_FINAL = frozenset(
    {
        *("AccessDenied", "403", "SignatureDoesNotMatch", "InvalidAccessKeyId", "NoSuchBucket"),
        *("EntityTooLarge", "InvalidArgument", "NoSuchUpload", "InsufficientStorage", "507"),
    }
)


@dataclass(slots=True)
class Upload:
    """An upload in parts that has begun.

    Attributes:
        destination: Service, bucket and key.
        sha256: Of the file.
        etags: Of the parts that are there, by their numbers, from 1.
    """

    destination: str
    upload_id: str
    sha256: str
    size: int
    part_size: int
    etags: dict[int, str] = field(default_factory=dict)

    @classmethod
    def complete(cls, destination: str, sha256: str, size: int) -> Upload:
        """One that is complete, of a file that is to be removed again."""
        return cls(destination, "complete", sha256, size, 0)

    @property
    def is_complete(self) -> bool:
        """Whether the file is there."""
        return self.part_size == 0


class UploadNotes(Protocol):
    """Remembers uploads that have begun. Its methods block, and may be called in any thread."""

    def alone(
        self, destination: str, waits: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[bool]:
        """While inside, no other program of this user sends to a destination.

        Args:
            waits: Called again and again while another does; waits a little, and says whether to
                go on waiting.

        Returns:
            Whether it is so; ``False`` if it was not waited for.
        """

    def upload(self, destination: str) -> Upload | None:
        """The one to a destination, if there is one."""

    def begin(self, upload: Upload) -> None:
        """Note one before its first part is sent."""

    def part(self, upload: Upload, number: int, etag: str) -> None:
        """Note a part that is there."""

    def end(self, destination: str) -> None:
        """Forget one that is complete, or was given up."""


@dataclass(frozen=True, slots=True)
class UploadTimes:
    """How patient an upload is, in seconds.

    Attributes:
        tries: Of each part.
        first: Before the second of them; twice as much before each after it.
        completed_within: In which a completion that was not answered may show itself.
    """

    tries: int = 8
    first: float = 1.0
    longest: float = 30.0
    completed_within: float = 600.0


@dataclass(frozen=True, slots=True)
class _File:
    """What is to be uploaded."""

    path: Path
    name: str
    sha256: str
    status: os.stat_result
    lent: bool

    @property
    def part_size(self) -> int:
        mebibyte = 1024 * 1024
        needed = -(-self.status.st_size // _MOST_PARTS)
        return max(_SMALLEST_PART, -(-needed // mebibyte) * mebibyte)

    def changed(self) -> bool:
        """Whether it is another one than at the beginning, or gone."""
        try:
            now, then = self.path.stat(), self.status
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)


class PartedBucket(Bucket):
    """A bucket that takes large files.

    Args:
        notes: What has begun.
        advice: What to do about a refused login, in place of `Bucket`'s words.
    """

    def __init__(
        self,
        settings: BucketSettings,
        notes: UploadNotes,
        *,
        times: UploadTimes = UploadTimes(),
        at_once: int = _AT_ONCE,
        advice: str = "",
    ) -> None:
        super().__init__(settings)
        self._notes = notes
        self._times = times
        self._at_once = at_once
        self._advice = advice

    def destination(self, name: str) -> str:
        """What the notes call a file here: service, bucket and key; no login."""
        settings = self._settings
        return f"{settings.host_and_port}/{settings.bucket}/{settings.key(name)}"

    def name(self, destination: str) -> str:
        """The name of a file here that the notes call so."""
        return destination.removeprefix(self.destination(""))

    async def size(self, name: str) -> int | None:
        """Bytes of a file that is there; ``None`` if it is not.

        Raises:
            OutputError: The bucket refused.
        """
        return await asyncio.to_thread(self._size, name)

    async def has_below(self, folder: str) -> bool:
        """Whether anything is below a folder. On a large volume, this can take minutes."""

        def look(s3: _S3) -> bool:
            settings = self._settings
            answer = s3.client.list_objects_v2(
                Bucket=settings.bucket, Prefix=settings.key(folder).rstrip("/") + "/", MaxKeys=1
            )
            return bool(answer.get("Contents") or answer.get("CommonPrefixes"))

        return await asyncio.to_thread(self._call, "list a folder", look)

    async def give_up(self, name: str, *, remove: bool) -> bool:
        """Give up an upload that has begun; whether no other program of this machine is at it.

        Args:
            remove: Whether the file goes, too, if it is there: only for one that was lent.

        Raises:
            OutputError: The bucket refused.
        """
        return await asyncio.to_thread(self._give_up, name, remove)

    async def upload(
        self,
        path: Path,
        name: str,
        sha256: str,
        on_sent: Callable[[int, int], object],
        say: Callable[[str], object] = lambda _: None,
        *,
        lent: bool = False,
    ) -> bool:
        """Have a file there; whether it was sent, and not there already with the same content.

        Cancelled, or killed, what has been sent stays, and the next upload of the same file goes
        on from there.

        Args:
            sha256: Of the file as it is now.
            on_sent: Called with the number of bytes that are there, and of all.
            say: Called with a line for people, where something else takes its time.
            lent: Whether the file is to be removed again, and nobody else's can have that name: it
                stays noted until then, and what is there of that size is believed to be it.

        Raises:
            OutputError: The bucket did not take it; or another file has that name.
            InputFileMissing: It cannot be read, or has changed.
        """
        stopped = threading.Event()
        loop = asyncio.get_running_loop()

        def sent(done: int, total: int) -> None:
            loop.call_soon_threadsafe(on_sent, done, total)

        def said(words: str) -> None:
            loop.call_soon_threadsafe(say, words)

        work = asyncio.ensure_future(
            asyncio.to_thread(self._upload, path, name, sha256, sent, said, stopped, lent)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.gather(work, return_exceptions=True)
            raise

    # In a thread

    def _size(self, name: str) -> int | None:
        settings = self._settings
        try:
            answer = self._call(
                "say whether it has a file",
                lambda s3: s3.client.head_object(Bucket=settings.bucket, Key=settings.key(name)),
            )
        except OutputError as error:
            if error.details.get("code") in _NOT_THERE:
                return None
            raise
        return int(answer["ContentLength"])

    def _give_up(self, name: str, remove: bool) -> bool:
        destination = self.destination(name)
        with self._notes.alone(destination, lambda: False) as alone:
            if not alone:
                return False
            known = self._notes.upload(destination)
            if known is not None and not known.is_complete:
                self._aborted(known, name)
            if remove:
                self._call("delete the file", lambda s3: s3.delete(name))
            self._notes.end(destination)
        return True

    def _upload(
        self,
        path: Path,
        name: str,
        sha256: str,
        on_sent: Callable[[int, int], None],
        say: Callable[[str], None],
        stopped: threading.Event,
        lent: bool,
    ) -> bool:
        try:
            file = _File(path, name, sha256, path.stat(), lent)
        except OSError as error:
            raise InputFileMissing(f"{path} cannot be read: {error.strerror or error}.") from error

        def waits() -> bool:
            say("waiting for another program of this machine, which sends it")
            return not stopped.wait(_LOOKS)

        with self._notes.alone(self.destination(name), waits) as alone:
            if not alone:
                raise _Stopped
            return self._sent(file, on_sent, say, stopped)

    def _sent(
        self,
        file: _File,
        on_sent: Callable[[int, int], None],
        say: Callable[[str], None],
        stopped: threading.Event,
    ) -> bool:
        if self._is_there(file, say, stopped):
            known = self._notes.upload(self.destination(file.name))
            if known is not None and not known.is_complete:
                self._abort(known, file.name)
            self._ended(file)
            return False
        for again in (False, True):
            upload = self._begun(file)
            try:
                self._send_parts(file, upload, on_sent, stopped)
                if file.changed():
                    self._abort(upload, file.name)
                    raise InputFileMissing(
                        f"{file.path} has changed while it was sent.",
                        advice="Wait until it is complete.",
                    )
                if self._is_there(file, say, stopped):  # somebody was quicker
                    self._abort(upload, file.name)
                    self._ended(file)
                    return False
                ours = self._complete(file, upload, say, stopped)
            except OutputError as error:
                # The service has forgotten it: it is begun again, once.
                if again or error.details.get("code") not in _NO_UPLOAD:
                    raise
                self._notes.end(upload.destination)
                continue
            self._ended(file)
            return ours
        raise AssertionError("either is returned or raised")

    def _ended(self, file: _File) -> None:
        destination = self.destination(file.name)
        if file.lent:
            self._notes.begin(Upload.complete(destination, file.sha256, file.status.st_size))
        else:
            self._notes.end(destination)

    def _is_there(self, file: _File, say: Callable[[str], None], stopped: threading.Event) -> bool:
        """Whether the file is there under its name.

        Raises:
            OutputError: Another one is.
        """
        there, size = self._size(file.name), file.status.st_size
        if there is None:
            return False
        if there != size:
            raise self._another(file, f"of {there} bytes")
        if not file.lent and self._sha256(file, say, stopped) != file.sha256:
            raise self._another(file, "as large and with another content")
        return True

    def _another(self, file: _File, what: str) -> OutputError:
        settings = self._settings
        return OutputError(
            f"{settings.bucket} has another file {settings.key(file.name)} already, {what}. It is "
            "not replaced.",
            advice="Rename or remove it there, or use another name.",
        )

    def _sha256(self, file: _File, say: Callable[[str], None], stopped: threading.Event) -> str:
        """The hash of what is there under a file's name, as large as it: all of it is read."""
        say("reading what is there under its name for its SHA-256")
        settings, size = self._settings, file.status.st_size
        digest, done = hashlib.sha256(), 0

        def read(s3: _S3) -> None:
            nonlocal done
            answer = s3.client.get_object(
                Bucket=settings.bucket, Key=settings.key(file.name), Range=f"bytes={done}-"
            )
            with contextlib.closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK):
                    if stopped.is_set():
                        raise _Stopped
                    digest.update(chunk)
                    done += len(chunk)

        broken = 0
        while done < size:
            before = done
            try:
                self._call("let a file be read", read)
            except OutputError as error:
                broken = 1 if done > before else broken + 1
                final = error.details.get("code") in _FINAL | _NOT_THERE
                if final or broken == self._times.tries or stopped.wait(self._times.first):
                    raise
        return digest.hexdigest()

    def _begun(self, file: _File) -> Upload:
        """The upload to go on with, or a new one."""
        destination = self.destination(file.name)
        known = self._notes.upload(destination)
        if known is not None and not known.is_complete:
            same = (known.sha256, known.size, known.part_size)
            if same == (file.sha256, file.status.st_size, file.part_size):
                return known
            self._abort(known, file.name)
        settings = self._settings
        answer = self._call(
            "begin an upload",
            lambda s3: s3.client.create_multipart_upload(
                Bucket=settings.bucket,
                Key=settings.key(file.name),
                ContentType="application/octet-stream",
            ),
        )
        made = Upload(
            *(destination, str(answer["UploadId"]), file.sha256),
            *(file.status.st_size, file.part_size),
        )
        self._notes.begin(made)
        return made

    def _send_parts(
        self,
        file: _File,
        upload: Upload,
        on_sent: Callable[[int, int], None],
        stopped: threading.Event,
    ) -> None:
        numbers = range(1, -(-upload.size // upload.part_size) + 1)
        counted = _Counted(upload, on_sent)
        left = [number for number in numbers if number not in upload.etags]
        failed: list[BaseException] = []
        lock = threading.Lock()

        def work() -> None:
            while not stopped.is_set() and not failed:
                with lock:
                    if not left:
                        return
                    number = left.pop(0)
                try:
                    etag = self._send_part(file, upload, number, counted, stopped)
                    if file.changed():
                        return  # not noted: the next life of this upload would believe it
                    with lock:
                        self._notes.part(upload, number, etag)
                        upload.etags[number] = etag
                except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                    failed.append(error)

        with ThreadPoolExecutor(self._at_once, thread_name_prefix="upload") as pool:
            for _ in range(min(self._at_once, len(left))):
                pool.submit(work)
        if failed:
            raise failed[0]
        if stopped.is_set():
            raise _Stopped

    def _send_part(
        self,
        file: _File,
        upload: Upload,
        number: int,
        counted: _Counted,
        stopped: threading.Event,
    ) -> str:
        """Send one part, again if need be; its entity tag."""
        times, wait = self._times, self._times.first

        def more(size: int) -> None:
            if stopped.is_set():
                raise _Stopped
            counted.add(number, size)

        for attempt in range(1, times.tries + 1):
            counted.again(number)
            try:
                return self._put_part(file, upload, number, more)
            except OSError as error:
                raise InputFileMissing(
                    f"{file.path} cannot be read: {error.strerror or error}."
                ) from error
            except OutputError as error:
                final = error.details.get("code") in _FINAL
                if final or attempt == times.tries or stopped.wait(wait):
                    raise
                wait = min(2 * wait, times.longest)
        raise AssertionError("either is returned or raised")

    def _put_part(
        self, file: _File, upload: Upload, number: int, on_bytes: Callable[[int], None]
    ) -> str:
        from s3transfer.utils import ReadFileChunk

        settings, start = self._settings, (number - 1) * upload.part_size

        def count(bytes_transferred: int) -> None:  # called by that name
            on_bytes(bytes_transferred)

        with ReadFileChunk.from_filename(
            str(file.path), start, upload.part_size, callbacks=[count], enable_callbacks=False
        ) as body:

            def put(s3: _S3) -> str:
                answer = s3.client.upload_part(
                    Bucket=settings.bucket,
                    Key=settings.key(file.name),
                    UploadId=upload.upload_id,
                    PartNumber=number,
                    Body=body,
                )
                return str(answer["ETag"])

            return self._call("take a part of the file", put)

    def _complete(
        self, file: _File, upload: Upload, say: Callable[[str], None], stopped: threading.Event
    ) -> bool:
        """Give the file its name; whether it is ours that has it, and not the same of somebody who
        was quicker.

        The service is asked to refuse if the name is taken by now; few do not know how.
        """
        settings = self._settings
        only_if: dict[str, str] = {"IfNoneMatch": "*"}
        deadline = time.monotonic() + self._times.completed_within
        wait = self._times.first
        while True:
            try:
                self._ask_to_complete(upload, file.name, only_if)
            except OutputError as error:
                code = error.details.get("code")
                # It may have gone through nevertheless.
                there = self._size(file.name) == upload.size
                if there and self._is_gone(upload, file.name):
                    return True
                if only_if and code in _NO_CONDITION:
                    only_if = {}
                    continue
                final = code in _FINAL | _NO_UPLOAD | _TAKEN
                if final or time.monotonic() + wait > deadline or stopped.wait(wait):
                    if (there or code in _TAKEN) and self._is_there(file, say, stopped):
                        self._abort(upload, file.name)
                        return False
                    raise
                wait = min(2 * wait, self._times.longest)
                continue
            size = self._size(file.name)
            if size != upload.size:
                raise OutputError(
                    f"{settings.key(file.name)} has {size} bytes in {settings.bucket}, and "
                    f"{upload.size} were sent.",
                    advice="The storage may be full. Remove that file there, and try again.",
                )
            return True

    def _ask_to_complete(self, upload: Upload, name: str, only_if: Mapping[str, str]) -> None:
        settings = self._settings
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(upload.etags.items())]
        self._call(
            "complete the upload",
            lambda s3: s3.client.complete_multipart_upload(
                Bucket=settings.bucket,
                Key=settings.key(name),
                UploadId=upload.upload_id,
                MultipartUpload={"Parts": parts},
                **only_if,
            ),
        )

    def _is_gone(self, upload: Upload, name: str) -> bool:
        """Whether the service knows nothing of an upload any more, as of one that is complete."""
        settings = self._settings
        try:
            self._call(
                "list the parts of an upload",
                lambda s3: s3.client.list_parts(
                    Bucket=settings.bucket,
                    Key=settings.key(name),
                    UploadId=upload.upload_id,
                    MaxParts=1,
                ),
            )
        except OutputError as error:
            return error.details.get("code") in _NO_UPLOAD
        return False

    def _abort(self, upload: Upload, name: str) -> None:
        self._aborted(upload, name)
        self._notes.end(upload.destination)

    def _aborted(self, upload: Upload, name: str) -> None:
        settings = self._settings
        try:
            self._call(
                "give up an upload",
                lambda s3: s3.client.abort_multipart_upload(
                    Bucket=settings.bucket, Key=settings.key(name), UploadId=upload.upload_id
                ),
            )
        except OutputError as error:
            if error.details.get("code") not in _NO_UPLOAD | _NOT_THERE:
                raise

    def _refused(self, what: str, error: BaseException) -> OutputError:
        refused = super()._refused(what, error)
        if not self._advice:
            return refused
        return OutputError(refused.message, advice=self._advice, details=refused.details)


class _Counted:
    """The bytes that are there, over all parts."""

    def __init__(self, upload: Upload, on_sent: Callable[[int, int], None]) -> None:
        self._size = upload.size
        self._on_sent = on_sent
        self._lock = threading.Lock()
        last = -(-upload.size // upload.part_size)
        self._there = {
            number: upload.part_size
            if number < last
            else upload.size - (last - 1) * upload.part_size
            for number in upload.etags
        }

    def again(self, number: int) -> None:
        """A part is begun, or begun again."""
        with self._lock:
            self._there[number] = 0

    def add(self, number: int, size: int) -> None:
        """So many bytes more of a part are there; fewer, where it is sent again."""
        with self._lock:
            self._there[number] = self._there.get(number, 0) + size
            done = sum(self._there.values())
        self._on_sent(min(done, self._size), self._size)


class _Stopped(Exception):
    """The upload is not wanted any more for now."""
