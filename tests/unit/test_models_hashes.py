"""The hashes of models: computed while no job runs, noted, and known to all workers of a volume."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from model_server import ModelServer, safetensors, sha256
from models_kit import ensure, files_in, library_for

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.models.hashes import IdleHashing, ModelHashes
from comfy_remote.worker.models.settings import ModelSettings

CONTENT = bytes(range(256)) * 100


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def model(root: Path, name: str = "loras/a.safetensors", content: bytes = CONTENT) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hashing(root: Path, hashes: ModelHashes, **times: float) -> IdleHashing:
    def models() -> list[tuple[Path, Path]]:
        return [(root, path) for path in sorted(root.rglob("*.safetensors"))]

    chosen = {"quiet": 0.0, "again": 0.0, **times}
    return IdleHashing(hashes, models, step=1000, **chosen)


def test_hashes_are_computed_after_a_job_and_known_to_other_workers(tmp_path: Path) -> None:
    first, second = model(tmp_path), model(tmp_path, "vae/b.safetensors", b"other")
    hashes = ModelHashes()
    with hashing(tmp_path, hashes).paused():
        assert hashes.known(tmp_path, first) is None
    until(lambda: hashes.known(tmp_path, first) and hashes.known(tmp_path, second))
    others = ModelHashes()
    assert others.known(tmp_path, first) == hashlib.sha256(CONTENT).hexdigest()
    assert others.known(tmp_path, second) == hashlib.sha256(b"other").hexdigest()


def test_a_changed_model_has_no_known_hash(tmp_path: Path) -> None:
    path, hashes = model(tmp_path), ModelHashes()
    hashes.note(tmp_path, path, path.stat(), "0" * 64)
    assert ModelHashes().known(tmp_path, path) == "0" * 64
    path.write_bytes(CONTENT[::-1])
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert hashes.known(tmp_path, path) is None
    assert ModelHashes().known(tmp_path, path) is None
    path.unlink()
    assert hashes.known(tmp_path, path) is None


def test_a_note_of_another_model_is_not_taken(tmp_path: Path) -> None:
    path, other = model(tmp_path), model(tmp_path, "loras/b.safetensors")
    hashes = ModelHashes()
    hashes.note(tmp_path, path, path.stat(), "0" * 64)
    folder = tmp_path / ".comfy-remote" / "hashes"
    (note,) = folder.iterdir()
    place = hashlib.sha256(b"loras/b.safetensors").hexdigest()[:32]
    note.rename(folder / f"{place}.json")
    assert ModelHashes().known(tmp_path, other) is None
    (folder / f"{place}.json").write_text("no note")
    assert ModelHashes().known(tmp_path, other) is None


def test_notes_of_models_that_are_gone_go(tmp_path: Path) -> None:
    path, stays = model(tmp_path), model(tmp_path, "vae/b.safetensors")
    hashes = ModelHashes()
    for one in (path, stays):
        hashes.note(tmp_path, one, one.stat(), "0" * 64)
    path.unlink()
    (tmp_path / ".comfy-remote" / "hashes" / "cut.json").write_text("{")
    with hashing(tmp_path, hashes).paused():
        pass
    notes = tmp_path / ".comfy-remote" / "hashes"
    until(lambda: len([*notes.iterdir()]) == 1)
    assert ModelHashes().known(tmp_path, stays) == "0" * 64


def test_nothing_is_read_while_a_job_runs(tmp_path: Path) -> None:
    """A read that was begun goes on after the job where it was."""
    path, hashes = model(tmp_path, content=CONTENT * 20), ModelHashes()
    reads = []
    stop = threading.Event()

    class Watched(type(path)):  # type: ignore[misc]
        def open(self, *args: object, **options: object) -> object:
            reads.append(self)
            if len(reads) == 3:
                stop.wait(180)
            return super().open(*args, **options)

    watched = Watched(path)
    idle = IdleHashing(hashes, lambda: [(tmp_path, watched)], quiet=0.0, again=0.0, step=1000)
    with idle.paused():
        pass
    until(lambda: len(reads) == 3)
    with idle.paused():
        stop.set()
        time.sleep(0.1)
        # The step that was under way ends; no other begins.
        assert len(reads) == 3
        assert hashes.known(tmp_path, path) is None
    until(lambda: hashes.known(tmp_path, watched))
    assert hashes.known(tmp_path, watched) == hashlib.sha256(CONTENT * 20).hexdigest()
    assert len(reads) == len(CONTENT) * 20 // 1000  # none of it twice


def test_jobs_that_follow_each_other_are_not_held_up(tmp_path: Path) -> None:
    path, hashes = model(tmp_path), ModelHashes()
    idle = hashing(tmp_path, hashes, quiet=60.0)
    for _ in range(5):
        with idle.paused():
            time.sleep(0.02)
    assert hashes.known(tmp_path, path) is None
    idle._quiet = 0.0
    with idle.paused():
        pass
    until(lambda: hashes.known(tmp_path, path))


def test_a_model_that_changes_while_it_is_read_is_not_noted(tmp_path: Path) -> None:
    path, hashes = model(tmp_path), ModelHashes()
    changed = threading.Event()

    class Changing(type(path)):  # type: ignore[misc]
        def open(self, *args: object, **options: object) -> object:
            if not changed.is_set():
                changed.set()
                with Path(self).open("ab") as file:
                    file.write(b"more")
            return super().open(*args, **options)

    idle = IdleHashing(hashes, lambda: [(tmp_path, Changing(path))], quiet=0.0, again=100.0)
    with idle.paused():
        pass
    until(changed.is_set)
    until(lambda: not [one for one in threading.enumerate() if one.name == "model hashes"])
    assert hashes.known(tmp_path, path) is None


def test_a_folder_that_cannot_be_written_to_is_no_trouble(tmp_path: Path) -> None:
    path, hashes = model(tmp_path), ModelHashes()
    (tmp_path / ".comfy-remote").write_text("a file where the folder would be")
    hashes.note(tmp_path, path, path.stat(), "0" * 64)
    assert hashes.known(tmp_path, path) == "0" * 64


def test_a_job_has_its_answer_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashes = model(tmp_path), ModelHashes()
    reader = hashing(tmp_path, hashes)

    def full(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        with reader.paused():
            pass
    with reader.paused():  # the next one can
        pass
    until(lambda: hashes.known(tmp_path, path))


@pytest.mark.skipif(sys.platform == "win32", reason="names there are text")
def test_a_name_that_is_not_text_stops_nothing(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/loras/caf\xe9.safetensors"
    path = model(tmp_path)
    try:
        Path(os.fsdecode(odd)).write_bytes(CONTENT)
    except OSError:
        pytest.skip("this file system takes no such name")
    library = library_for(tmp_path)
    assert [one.name for one in asyncio.run(library.models()).models["loras"]] == ["a.safetensors"]
    library._hashing._quiet = 0.0
    with library.hashing_paused():
        pass
    until(lambda: ModelHashes().known(tmp_path, path))


async def test_the_models_have_size_time_and_hash(tmp_path: Path) -> None:
    async with ModelServer() as server:
        from model_server import File

        server.files["/a.safetensors"] = File(safetensors())
        library = library_for(tmp_path, server)
        await ensure(library, f"lora {server.url}/a.safetensors")
    old = model(tmp_path, "unet/b.safetensors")
    listed = {
        "loras": ["a.safetensors"],
        "diffusion_models": ["b.safetensors", "elsewhere.safetensors"],
    }
    before = await library.details(listed)
    [fetched] = before["loras"]
    assert (fetched.sha256, fetched.size) == (sha256(safetensors()), len(safetensors()))
    found, elsewhere = before["diffusion_models"]
    assert (found.size, found.modified) == (len(CONTENT), old.stat().st_mtime)
    assert found.sha256 is None
    assert elsewhere.size is elsewhere.sha256 is elsewhere.modified is None


async def test_names_of_an_engine_elsewhere_show_nothing_of_this_machine(tmp_path: Path) -> None:
    model(tmp_path, "private.safetensors")
    library = library_for(tmp_path / "models")
    model(tmp_path / "models")
    names = ["../../private.safetensors", str(tmp_path / "private.safetensors"), "a" * 300, "a"]
    found = (await library.details({"loras": [*names, "a.safetensors"]}))["loras"]
    assert [one.name for one in found] == [*names, "a.safetensors"]
    assert [one.size for one in found] == [None, None, None, None, len(CONTENT)]


def test_hashing_can_be_switched_off(tmp_path: Path) -> None:
    model(tmp_path)
    library = library_for(tmp_path, hash_models=False)
    with library.hashing_paused():
        pass
    until(lambda: not [one for one in threading.enumerate() if one.name == "model hashes"], 1.0)
    assert files_in(tmp_path).keys() == {"loras/a.safetensors"}
    off = ModelSettings.from_environ({"COMFY_REMOTE_HASH_MODELS": "false"})
    assert (off.hash_models, ModelSettings.from_environ({}).hash_models) == (False, True)
    with pytest.raises(ConfigurationError, match="COMFY_REMOTE_HASH_MODELS"):
        ModelSettings.from_environ({"COMFY_REMOTE_HASH_MODELS": "sometimes"})
