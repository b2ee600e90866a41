"""The store of the API's assets, killed at every step of what it does (POSIX only).

    python tests/asset_kills.py FOLDER

Each life opens the store, checks what earlier ones were told, and does the same things again, until
it is killed one step later than the one before: before and after each change of a name and each
commit. Prints in how many lives that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

from asset_kit import receive
from blake3 import blake3

from comfy_remote.api import asset_records, assets, blobs
from comfy_remote.api.assets import AssetStore
from comfy_remote.api.errors import ApiRefusal
from comfy_remote.api.stored import StoredAsset
from comfy_remote.media import receive as receiving
from comfy_remote.wire.comfy_api import OutputType

_SHARED = b"bytes that every life uploads " * 1000


@dataclass
class Told:
    """What the lives so far were told by their stores.

    Attributes:
        there: The SHA-256 of each asset, by id, whose deletion has not begun.
        gone: Ids of those whose deletion has ended.
        keys: The ``Idempotency-Key`` of each life, which is its number.
    """

    there: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        what, name, *rest = json.loads(line)
        if what == "added":
            self.there[name] = rest[0]
        elif what == "deleting":
            self.there.pop(name)
        elif what == "deleted":
            self.gone.add(name)
        elif what == "key":
            self.keys.append(name)


class Life:
    """One process with the store.

    Args:
        number: Of the step at which it is killed.
    """

    def __init__(self, folder: Path, told: Told, number: int, pipe: int) -> None:
        self.folder, self.told, self.number, self.pipe = folder, told, number, pipe
        self.steps = 0
        self.counting = False

    def step(self) -> None:
        if self.counting:
            self.steps += 1
            if self.steps == self.number:
                os.kill(os.getpid(), signal.SIGKILL)

    def say(self, *words: str) -> None:
        os.write(self.pipe, json.dumps(words).encode() + b"\n")

    def watch(self) -> None:
        """Count before and after whatever changes the folder."""
        for module, name in (
            (receiving, "take_name"),
            (blobs, "take_name"),
            (blobs, "remove_file"),
            (assets, "replace_file"),
        ):
            setattr(module, name, self.counted(getattr(module, name)))
        transaction = asset_records.transaction

        @contextlib.contextmanager
        def counted(connection: sqlite3.Connection) -> Iterator[None]:
            with transaction(connection):
                yield
                self.step()
            self.step()

        asset_records.transaction = counted  # type: ignore[attr-defined]

    def counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = change(*arguments, **named)
            self.step()
            return result

        return called

    async def run(self) -> None:
        self.watch()
        async with AssetStore(self.folder) as store:
            await self.check(store)
            self.counting = True
            await self.act(store)

    async def check(self, store: AssetStore) -> None:
        for asset_id, sha256 in self.told.there.items():
            asset = await store.get(asset_id)
            assert asset is not None, f"{asset_id} is lost"
            assert hashlib.sha256(asset.path.read_bytes()).hexdigest() == sha256
        for asset_id in self.told.gone:
            assert await store.get(asset_id) is None, f"{asset_id} is back"
        with closing(sqlite3.connect(self.folder / "assets.sqlite3")) as connection:
            rows = connection.execute("SELECT DISTINCT blake3 FROM assets").fetchall()
            names = {one[0] for one in connection.execute("SELECT file_path FROM assets")}
        on_disk = [path.name for path in self.folder.glob("blobs/*/*")]
        assert sorted(on_disk) == sorted(row[0] for row in rows)
        for path in self.folder.glob("blobs/*/*"):
            assert blake3(path.read_bytes()).hexdigest() == path.name
        assert len(list(self.folder.glob("arriving/*"))) == 1  # its own
        for key in self.told.keys:
            used = False
            try:
                async with store.using_key(key):
                    pass
            except ApiRefusal:
                used = True
            assert used == (f"key-{key}" in names), f"key {key}"

    async def act(self, store: AssetStore) -> None:
        soon = datetime.now(timezone.utc) + timedelta(days=1)
        job = f"job-{self.number}"
        own = f"bytes of life {self.number}".encode()
        self.say("key", str(self.number))
        async with store.using_key(str(self.number)), store.arriving(_chunks(own)) as arrived:
            mine, _ = await store.add(
                arrived,
                content_type="a/b",
                file_path=f"key-{self.number}",
                key=str(self.number),
            )
        self.added(mine)
        shared, _ = await receive(store, _chunks(_SHARED), content_type="a/b", file_path="shared")
        self.added(shared)
        await store.add_job(job, expires=soon, labels={"life": job}, uses=[shared.id])
        made = self.folder.parent / "made"
        made.write_bytes(b"made by " + own)
        output = await store.add_output(
            made,
            job_id=job,
            position=0,
            node_id="9",
            name="made.png",
            kind=OutputType.IMAGE,
            content_type="image/png",
        )
        self.added(output)
        again, _ = await store.from_hash(mine.hash, file_path="another")
        self.added(again)
        self.say("deleting", output.id)
        await store.forget_job(job)
        self.say("deleted", output.id)
        await self.delete(store, shared)
        await self.delete(store, again)
        await store.sweep()

    def added(self, asset: StoredAsset) -> None:
        self.say("added", asset.id, asset.sha256)

    async def delete(self, store: AssetStore, asset: StoredAsset) -> None:
        self.say("deleting", asset.id)
        await store.delete(asset.id)
        self.say("deleted", asset.id)


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _live(folder: Path, told: Told, number: int) -> bool:
    """One life, to its end; whether it was killed before."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        _end(Life(folder, told, number, writing))
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            told.note(line)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"life {number} ended with {status}"
    return status != 0


def _end(life: Life) -> NoReturn:
    status = 1
    try:
        asyncio.run(life.run())
        status = 0
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        sys.excepthook(*sys.exc_info())
    os._exit(status)


def main() -> None:
    folder, told, number = Path(sys.argv[1]), Told(), 1
    while _live(folder, told, number):
        number += 1
    _live(folder, told, 10**9)  # checks what the last one left
    print(number)


if __name__ == "__main__":
    main()
