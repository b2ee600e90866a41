"""The database of a front's assets: which there are, until when, and what jobs need them.

All of it blocks. The bytes are beside it, named by their BLAKE3: a file gets its name, and is
removed, inside of a transaction that writes. So of two processes neither removes what the other is
about to refer to, and what was committed is there.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from ..database import NewerFile, migrate, transaction, write_ahead
from ..errors import JobNotFound, LocalStorageError
from ..media.files import OWN_DATA, storage_errors
from ..wire.comfy_api import OutputType
from .asset_schema import MIGRATIONS
from .blobs import Blobs
from .errors import ApiRefusal
from .stored import NewAsset, StoredAsset, StoredJob

__all__ = ["AssetRecords", "key_reuse"]

_PATIENCE = 10.0  # seconds to wait for another process that writes, which takes it milliseconds
_LOOKED_AT_A_TIME = 200
_REMOVED_AT_A_TIME = 20  # a large file may take a tenth of a second
_EXPIRED_AT_A_TIME = 1000

_EXPIRE_SOME = """
    DELETE FROM assets WHERE id IN (SELECT id FROM assets WHERE expires <= ? LIMIT ?)
"""


class AssetRecords:
    """The database and the named files of one folder. Threads may share it.

    Args:
        folder: Made when missing; only its owner may enter.
        now: Seconds since the epoch.

    Raises:
        LocalStorageError: The folder or the database cannot be used. So do all methods.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self.path = folder / "assets.sqlite3"
        self._blobs = Blobs(folder / "blobs")
        self._now = now
        # Whoever reads does not wait for whoever writes.
        self._writes, self._reads = threading.Lock(), threading.Lock()
        with storage_errors(folder, denied=OWN_DATA):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._blobs.make()
            self.path.touch(mode=0o600)
        with contextlib.ExitStack() as opening, self._errors():
            self._writer = opening.enter_context(closing(self._connect()))
            write_ahead(self._writer, _PATIENCE)
            self._writer.execute("PRAGMA foreign_keys = ON")
            self._writer.execute("PRAGMA fullfsync = ON")  # for macOS; others have no such thing
            migrate(self._writer, MIGRATIONS)
            self._reader = opening.enter_context(closing(self._connect()))
            opening.pop_all()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def close(self) -> None:
        """Close the file."""
        with self._writes, self._reads:
            self._writer.close()
            self._reader.close()

    # Assets

    def count(self) -> int:
        """How many assets there are."""
        with self._reading() as read:
            return int(read.execute("SELECT COUNT(*) FROM assets").fetchone()[0])

    def get(self, asset_id: str) -> StoredAsset | None:
        """An asset that has not expired."""
        with self._reading() as read:
            return self._asset(read, asset_id)

    def has(self, blake3: str) -> bool:
        """Whether an asset that has not expired has that content."""
        with self._reading() as read:
            return self._referring(read, blake3) is not None

    def key_is_used(self, key: str) -> bool:
        """Whether an ``Idempotency-Key`` was used, not too long ago."""
        with self._reading() as read:
            found = "SELECT 1 FROM used_keys WHERE key = ? AND until > ?"
            return read.execute(found, (key, self._now())).fetchone() is not None

    def add(
        self, new: NewAsset, file: Path, *, key: str | None = None, key_stays: float = 0.0
    ) -> tuple[StoredAsset, bool]:
        """Add an upload.

        Args:
            file: Complete and on the disk, in the same file system; it is moved away, unless the
                content is here.
            key: Is used up with it, for `key_stays` seconds.

        Returns:
            The asset, and whether the content is new.

        Raises:
            ApiRefusal: ``idempotency_key_reuse``.
        """
        with self._writing(durable=True) as write:
            if key is not None:
                self._use_key(write, key, key_stays)
            is_new = self._blobs.take(file, new, durable=True)
            return self._insert(write, new, self._now() + new.stays), is_new

    def add_from_hash(
        self, blake3: str, file_path: str | None, stays: float
    ) -> tuple[StoredAsset, bool] | None:
        """An upload with a content that is here, and whether it is another one than before.

        One of the same name, or any if no name is given, stays longer instead of a new one.

        Returns:
            ``None`` if the content is not here.
        """
        with self._writing(durable=True) as write:
            known = self._referring(write, blake3)
            if known is None:
                return None
            until = self._now() + stays
            same = write.execute(
                "SELECT id FROM assets WHERE blake3 = :blake3 AND job IS NULL AND expires > :now"
                " AND (:path IS NULL OR file_path = :path) ORDER BY created DESC LIMIT 1",
                {"blake3": blake3, "now": self._now(), "path": file_path},
            ).fetchone()
            if same is None:
                new = NewAsset(
                    blake3=blake3,
                    sha256=known["sha256"],
                    size=known["size"],
                    content_type=known["content_type"],
                    file_path=file_path or known["file_path"],
                    stays=stays,
                )
                return self._insert(write, new, until), True
            write.execute(
                "UPDATE assets SET expires = MAX(expires, ?), stays = MAX(stays, ?) WHERE id = ?",
                (until, stays, same["id"]),
            )
            return self._there(write, same["id"]), False

    def delete(self, asset_id: str) -> str:
        """Remove an asset. See `remove_unused` for its content.

        Returns:
            The BLAKE3 of the content.

        Raises:
            ApiRefusal: ``not_found``, or ``asset_in_use``.
        """
        with self._writing() as write:
            asset = self._asset(write, asset_id)
            if asset is None:
                raise _not_found()
            held = write.execute(
                "SELECT 1 FROM jobs WHERE expires > :now AND (id = :made OR id IN"
                " (SELECT job FROM uses WHERE asset = :asset))",
                {"now": self._now(), "made": asset.job_id, "asset": asset_id},
            ).fetchone()
            if held is not None:
                raise ApiRefusal(
                    "asset_in_use",
                    "The asset cannot be deleted now: it stays until what needs it has expired.",
                )
            write.execute("DELETE FROM assets WHERE id = ?", (asset_id,))
            return asset.blake3

    def expire(self) -> None:
        """Remove what has expired: assets, jobs, keys."""
        now = (self._now(),)
        with self._writing() as write:
            write.execute("DELETE FROM jobs WHERE expires <= ?", now)
            write.execute("DELETE FROM used_keys WHERE until <= ?", now)
        removed = _EXPIRED_AT_A_TIME
        while removed == _EXPIRED_AT_A_TIME:  # so that others may write between
            with self._writing() as write:
                removed = write.execute(_EXPIRE_SOME, (*now, _EXPIRED_AT_A_TIME)).rowcount

    # Contents

    def remove_unused(self, contents: Sequence[str]) -> int:
        """Remove those contents, by BLAKE3, that no asset refers to; their bytes in all.

        What another program has open on Windows stays, and goes at a later time.
        """
        removed = 0
        for start in range(0, len(contents), _REMOVED_AT_A_TIME):
            with self._writing() as write:
                for blake3 in self._unreferred(write, contents[start : start + _REMOVED_AT_A_TIME]):
                    removed += self._blobs.remove(blake3)
        return removed

    def unused(self) -> Iterator[list[str]]:
        """Contents on the disk that no asset refers to, some at a time, by BLAKE3."""
        for there in self._blobs.names():
            for start in range(0, len(there), _LOOKED_AT_A_TIME):
                with self._reading() as read:
                    unused = self._unreferred(read, there[start : start + _LOOKED_AT_A_TIME])
                if unused:
                    yield unused

    # Jobs

    def add_job(
        self, job_id: str, expires: float, labels: Mapping[str, str], uses: Iterable[str]
    ) -> list[StoredAsset]:
        """See `AssetStore.add_job`."""
        with self._writing() as write:
            added = write.execute(
                "INSERT OR IGNORE INTO jobs (id, created, expires, labels) VALUES (?, ?, ?, ?)",
                (job_id, self._now(), expires, json.dumps(dict(labels))),
            )
            if added.rowcount:
                write.executemany(
                    "INSERT INTO labels VALUES (?, ?, ?)",
                    [(name, value, added.lastrowid) for name, value in labels.items()],
                )
            else:
                write.execute(
                    "UPDATE jobs SET expires = MAX(expires, ?) WHERE id = ?", (expires, job_id)
                )
            return self._hold(write, job_id, expires, list(uses))

    def extend_job(self, job_id: str, expires: float) -> None:
        """See `AssetStore.extend_job`."""
        with self._writing() as write:
            given = {"job": job_id, "expires": expires}
            write.execute("UPDATE jobs SET expires = MAX(expires, :expires) WHERE id = :job", given)
            write.execute(
                "UPDATE assets SET expires = MAX(expires, :expires) WHERE job = :job"
                " OR id IN (SELECT asset FROM uses WHERE job = :job)",
                given,
            )

    def forget_job(self, job_id: str) -> list[str]:
        """See `AssetStore.forget_job`. The contents of what it had made, by BLAKE3."""
        with self._writing() as write:
            write.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            made = write.execute(
                "SELECT id, blake3 FROM assets WHERE job = ?"
                " AND NOT EXISTS (SELECT 1 FROM uses WHERE asset = assets.id)",
                (job_id,),
            ).fetchall()
            write.executemany("DELETE FROM assets WHERE id = ?", [(row["id"],) for row in made])
            return [row["blake3"] for row in made]

    def jobs(self, job_ids: Iterable[str]) -> dict[str, StoredJob]:
        """Those of several jobs that have not expired, by id."""
        with self._reading() as read:
            rows = (
                read.execute(
                    "SELECT * FROM jobs WHERE id = ? AND expires > ?", (one, self._now())
                ).fetchone()
                for one in job_ids
            )
            return {row["id"]: _job(row) for row in rows if row is not None}

    def jobs_labelled(
        self, labels: Mapping[str, str], limit: int, before: str | None
    ) -> list[StoredJob]:
        """See `AssetStore.jobs_labelled`."""
        conditions, given = ["expires > ?"], list[float | str]([self._now()])
        if before is not None:
            with self._reading() as read:
                last = read.execute("SELECT number FROM jobs WHERE id = ?", (before,)).fetchone()
            if last is None:
                raise ApiRefusal("invalid_cursor", "The cursor has expired. List from the start.")
            conditions.append("number < ?")
            given.append(last["number"])
        for name, value in labels.items():
            conditions.append("number IN (SELECT job FROM labels WHERE name = ? AND value = ?)")
            given += [name, value]
        condition = " AND ".join(conditions)  # made of the texts above
        query = f"SELECT * FROM jobs WHERE {condition} ORDER BY number DESC LIMIT ?"  # noqa: S608
        with self._reading() as read:
            return [_job(row) for row in read.execute(query, (*given, limit))]

    def add_output(self, new: NewAsset, file: Path) -> tuple[StoredAsset, bool]:
        """Add what a job has made, until the job expires; see `add`. It need not be on the disk:
        after a power cut it may be gone, which `asset_content` then says.

        Raises:
            JobNotFound: No such job was added, or it has expired.
        """
        with self._writing() as write:
            expires = self._expiry(write, str(new.job_id))
            there = write.execute(
                "SELECT id, blake3 FROM assets WHERE job = ? AND position = ?",
                (new.job_id, new.position),
            ).fetchone()
            is_new = self._blobs.take(file, new, durable=False)
            if there is not None and there["blake3"] == new.blake3:
                return self._there(write, there["id"]), is_new
            if there is not None:
                write.execute("DELETE FROM assets WHERE id = ?", (there["id"],))
            return self._insert(write, new, expires), is_new

    def outputs_of(self, job_id: str) -> list[StoredAsset]:
        """What a job has made so far, by position."""
        with self._reading() as read:
            rows = read.execute(
                "SELECT * FROM assets WHERE job = ? AND expires > ? ORDER BY position",
                (job_id, self._now()),
            )
            return [self._stored(row) for row in rows]

    # Inside of a transaction

    def _insert(self, write: sqlite3.Connection, new: NewAsset, expires: float) -> StoredAsset:
        asset_id = str(uuid.uuid4())
        write.execute(
            "INSERT INTO assets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                asset_id,
                new.blake3,
                new.sha256,
                new.size,
                new.content_type,
                new.file_path,
                self._now(),
                new.stays,
                expires,
                new.job_id,
                new.position,
                new.node_id,
                None if new.kind is None else new.kind.value,
            ),
        )
        return self._there(write, asset_id)

    def _hold(
        self, write: sqlite3.Connection, job_id: str, expires: float, asset_ids: Sequence[str]
    ) -> list[StoredAsset]:
        missing = [one for one in asset_ids if self._asset(write, one) is None]
        if missing:
            raise ApiRefusal(
                "missing_asset",
                f"{len(missing)} of the assets that the workflow refers to "
                f"{'is' if len(missing) == 1 else 'are'} not here, or no longer: "
                f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}. Upload the files "
                "again.",
                details={"assets": list(missing)},
            )
        for one in asset_ids:
            write.execute("INSERT OR IGNORE INTO uses VALUES (?, ?)", (job_id, one))
            write.execute(
                "UPDATE assets SET expires = MAX(expires, ?, ? + stays) WHERE id = ?",
                (expires, self._now(), one),
            )
        return [self._there(write, one) for one in asset_ids]

    def _expiry(self, connection: sqlite3.Connection, job_id: str) -> float:
        found = connection.execute(
            "SELECT expires FROM jobs WHERE id = ? AND expires > ?", (job_id, self._now())
        ).fetchone()
        if found is None:
            raise JobNotFound("There is no such job here, or it has expired.")
        return float(found["expires"])

    def _use_key(self, write: sqlite3.Connection, key: str, stays: float) -> None:
        now = self._now()
        write.execute("DELETE FROM used_keys WHERE key = ? AND until <= ?", (key, now))
        added = write.execute("INSERT OR IGNORE INTO used_keys VALUES (?, ?)", (key, now + stays))
        if not added.rowcount:
            raise key_reuse()

    # Both

    def _asset(self, connection: sqlite3.Connection, asset_id: str) -> StoredAsset | None:
        row = connection.execute(
            "SELECT * FROM assets WHERE id = ? AND expires > ?", (asset_id, self._now())
        ).fetchone()
        return None if row is None else self._stored(row)

    def _there(self, connection: sqlite3.Connection, asset_id: str) -> StoredAsset:
        query = "SELECT * FROM assets WHERE id = ?"
        return self._stored(connection.execute(query, (asset_id,)).fetchone())

    def _referring(self, connection: sqlite3.Connection, blake3: str) -> sqlite3.Row | None:
        """The newest asset with a content, if the content is there as well."""
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM assets WHERE blake3 = ? AND expires > ? ORDER BY created DESC LIMIT 1",
            (blake3, self._now()),
        ).fetchone()
        there = row is not None and self._blobs.has(blake3, row["size"])
        return row if there else None

    def _unreferred(self, connection: sqlite3.Connection, contents: Sequence[str]) -> list[str]:
        refers = "SELECT 1 FROM assets WHERE blake3 = ? LIMIT 1"
        return [one for one in contents if not connection.execute(refers, (one,)).fetchone()]

    def _stored(self, row: sqlite3.Row) -> StoredAsset:
        return StoredAsset(
            id=row["id"],
            blake3=row["blake3"],
            sha256=row["sha256"],
            size=row["size"],
            content_type=row["content_type"],
            file_path=row["file_path"],
            created=_exactly(row["created"]),
            expires=_exactly(row["expires"]),
            job_id=row["job"],
            node_id=row["node_id"],
            kind=None if row["kind"] is None else OutputType(row["kind"]),
            path=self._blobs.path(row["blake3"]),
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._reads, self._errors():
            yield self._reader

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction, which survives a killed process.

        Args:
            durable: Whether it has to survive a power cut as well, which takes milliseconds.
        """
        with self._writes, self._errors():
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(self._writer):
                yield self._writer

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except NewerFile:
            raise LocalStorageError(
                f"{self.path} was written by a newer Comfy Remote.",
                advice="Update this one, or serve with another folder.",
                details={"path": str(self.path)},
            ) from None
        except sqlite3.Error as error:
            raise LocalStorageError(
                f"The database of the API's files, {self.path}, cannot be used: {error}.",
                advice="Check the folder's permissions and the disk's space.",
                details={"path": str(self.path)},
            ) from error


def key_reuse() -> ApiRefusal:
    """The refusal of an ``Idempotency-Key`` that was used before."""
    return ApiRefusal(
        "idempotency_key_reuse",
        "The Idempotency-Key was used before: each is good for one request in 24 hours. What it "
        "made then is there; for something else, send another key.",
    )


def _not_found() -> ApiRefusal:
    return ApiRefusal("not_found", "There is no such asset here, or it has expired.")


def _job(row: sqlite3.Row) -> StoredJob:
    return StoredJob(
        row["id"], _exactly(row["created"]), _exactly(row["expires"]), json.loads(row["labels"])
    )


def _exactly(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
