"""Outputs that are kept for a while: how long, and how many."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from comfy_remote.errors import OutputLost
from comfy_remote.media.receive import Received
from comfy_remote.worker.storage import KeptFiles


def made(folder: Path, content: bytes) -> Received:
    path = folder / "made"
    path.write_bytes(content)
    return Received(path, len(content), hashlib.sha256(content).hexdigest())


async def keep(kept: KeptFiles, folder: Path, content: bytes) -> str:
    stored = await kept.put("job", "a.png", made(folder, content))
    assert stored.kept
    return stored.kept


async def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path / "kept", limit=250)
    names = []
    for number in range(3):
        names.append(await keep(kept, tmp_path, bytes([number]) * 100))
        os.utime(tmp_path / "kept" / names[-1], (time.time() - 10 + number,) * 2)
    with pytest.raises(OutputLost):
        kept.part(names[0], 0, 10)
    assert kept.part(names[1], 90, 50) == (b"\x01" * 10, 100)
    assert kept.part(names[2], 100, 50) == (b"", 100)


async def test_they_go_after_a_while(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path / "kept", limit=10**6, seconds=60.0)
    old = await keep(kept, tmp_path, b"old")
    os.utime(tmp_path / "kept" / old, (time.time() - 61,) * 2)
    new = await keep(kept, tmp_path, b"new")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [new]
    if os.name == "posix":
        assert (tmp_path / "kept" / new).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", ".", "../made", "0" * 31, "a" * 32])
async def test_only_names_of_ours_are_opened(tmp_path: Path, name: str) -> None:
    kept = KeptFiles(tmp_path / "kept", limit=10**6)
    await keep(kept, tmp_path, b"x")
    with pytest.raises(OutputLost):
        kept.part(name, 0, 1)
