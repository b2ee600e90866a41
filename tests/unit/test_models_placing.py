"""A model that a client sends: received in parts, linked or refused, never half under its name."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from model_server import safetensors, sha256
from models_kit import files_in, library_for

from comfy_remote.errors import LocalStorageError, ModelUnavailable, WorkflowInvalid
from comfy_remote.media.partial import PartialFile
from comfy_remote.wire.models import PlaceAnswer, PlaceRequest
from comfy_remote.worker.models.library import ModelLibrary

MODEL = safetensors(250_000, fill=b"content")
PART = 100_000
PARTS = [MODEL[at : at + PART] for at in range(0, len(MODEL), PART)]


class Store:
    """What a client has put into the gateway's store."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = {sha256(part): part for part in parts}
        self.asked: list[str] = []
        self.fails_at: int | None = None

    async def fetch(self, name: str, path: Path) -> bool:
        self.asked.append(name)
        if self.fails_at == len(self.asked):
            raise ConnectionError("the worker dies here")
        if name in self.parts:
            path.write_bytes(self.parts[name])
        return name in self.parts


def request(name: str = "a/style.safetensors", content: bytes = MODEL, **more: Any) -> PlaceRequest:
    parts = [content[at : at + PART] for at in range(0, len(content), PART)]
    files = [{"name": f"part {n}", "sha256": sha256(one)} for n, one in enumerate(parts)]
    said = {"folder": "loras", "size": len(content), "sha256": sha256(content), "files": files}
    return PlaceRequest.parse({"action": "place", "name": name, **said, **more})


async def place(library: ModelLibrary, store: Store, wanted: PlaceRequest) -> PlaceAnswer:
    return await library.place(wanted, store.fetch, lambda _: None)


async def test_the_parts_become_the_model(tmp_path: Path) -> None:
    library = library_for(tmp_path, accept=True)
    answer = await place(library, Store(*PARTS), request())
    assert (answer.how, answer.path) == ("received", "loras/a/style.safetensors")
    assert files_in(tmp_path) == {"loras/a/style.safetensors": MODEL}
    (known,) = (await library.details({"loras": ["a/style.safetensors"]}))["loras"]
    assert known.sha256 == sha256(MODEL)
    assert known.fetched_from is None  # so no prune removes it
    assert (await place(library, Store(), request())).how == "there"


async def test_a_worker_that_dies_goes_on_where_it_was(tmp_path: Path) -> None:
    for fails_at in (2, 3):
        store = Store(*PARTS)
        store.fails_at = fails_at
        with pytest.raises(ConnectionError):
            await place(library_for(tmp_path, accept=True), store, request())
        assert not (tmp_path / "loras/a/style.safetensors").exists()
    part = next((tmp_path / "loras").glob("*.part"))
    assert part.read_bytes() == MODEL[: 2 * PART]
    assert (await place(library_for(tmp_path, accept=True), Store(*PARTS), request())).how == (
        "received"
    )
    assert files_in(tmp_path) == {"loras/a/style.safetensors": MODEL}


async def test_what_nobody_goes_on_with_is_removed_after_two_weeks(tmp_path: Path) -> None:
    files = [{"name": "x", "sha256": sha256(one), "size": len(one)} for one in PARTS]
    store = Store(*PARTS)
    for name in ("left.safetensors", "goes on.safetensors"):
        store.fails_at = len(store.asked) + 2
        with pytest.raises(ConnectionError):
            await place(library_for(tmp_path, accept=True), store, request(name, files=files))
    old = time.time() - 15 * 24 * 3600
    left = [*(tmp_path / "loras").iterdir()]
    assert len(left) == 2
    for path in left:
        os.utime(path, (old, old))
    store.asked.clear()
    wanted = request("goes on.safetensors", files=files)
    await place(library_for(tmp_path, accept=True), store, wanted)
    assert len(store.asked) == len(PARTS) - 1  # it went on
    assert files_in(tmp_path) == {"loras/goes on.safetensors": MODEL}
    assert [*(tmp_path / "loras").iterdir()] == [tmp_path / "loras/goes on.safetensors"]
    assert [*(tmp_path / ".comfy-remote/parts").glob("*.json")] == []


async def test_one_content_under_two_names_at_once_is_not_mixed(tmp_path: Path) -> None:
    waiting: list[asyncio.Event] = []

    class Slow(Store):
        async def fetch(self, name: str, path: Path) -> bool:
            if waiting:  # both are at the same part
                waiting.pop().set()
            else:
                waiting.append(asyncio.Event())
                await waiting[0].wait()
            return await super().fetch(name, path)

    wanted = [request("a.safetensors"), request("b.safetensors")]
    store = Slow(*PARTS)
    libraries = [library_for(tmp_path, accept=True) for _ in wanted]
    await asyncio.gather(
        *(place(one, store, each) for one, each in zip(libraries, wanted, strict=True))
    )
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL, "loras/b.safetensors": MODEL}


async def test_a_part_that_the_store_no_longer_has_is_asked_for_again(tmp_path: Path) -> None:
    library = library_for(tmp_path, accept=True)
    with pytest.raises(ModelUnavailable, match="not in the gateway's store") as raised:
        await place(library, Store(*PARTS[:2]), request())
    assert "Send it again" in raised.value.advice
    assert (await place(library, Store(*PARTS), request())).how == "received"


@pytest.mark.parametrize("content", [MODEL[:-1] + b"!", b"<html>no model</html>" * 9])
async def test_what_is_not_the_model_gets_no_name(tmp_path: Path, content: bytes) -> None:
    wanted = request(content=content)
    if content[:1] != b"<":
        wanted = wanted.model_copy(update={"sha256": sha256(MODEL)})
    parts = [content[at : at + PART] for at in range(0, len(content), PART)]
    with pytest.raises(ModelUnavailable, match="is not the model"):
        await place(library_for(tmp_path, accept=True), Store(*parts), wanted)
    assert files_in(tmp_path) == {}


async def test_no_more_is_written_than_was_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = PartialFile.write

    def counted(self: PartialFile, data: bytes) -> None:
        written.append(len(data))
        write(self, data)

    monkeypatch.setattr(PartialFile, "write", counted)
    store = Store(*PARTS)
    with pytest.raises(ModelUnavailable, match="is not the model"):
        await place(library_for(tmp_path, accept=True), store, request(size=PART + 1))
    assert (sum(written), len(store.asked)) == (PART, 2)
    assert files_in(tmp_path) == {}


async def test_nothing_is_replaced(tmp_path: Path) -> None:
    there = tmp_path / "loras/a/style.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(MODEL[:-1] + b"!")
    with pytest.raises(ModelUnavailable, match="It is not replaced"):
        await place(library_for(tmp_path, accept=True), Store(*PARTS), request())
    assert there.read_bytes() == MODEL[:-1] + b"!"


async def test_the_owner_decides(tmp_path: Path) -> None:
    assert library_for(tmp_path).takes == ["fetch", "link", "exact_folders"]
    assert library_for(tmp_path, accept=True).takes == [
        *("fetch", "link", "exact_folders", "receive"),
    ]
    assert library_for(tmp_path, download=False).takes == []
    store = Store(*PARTS)
    with pytest.raises(ModelUnavailable, match="takes no models from its clients") as raised:
        await place(library_for(tmp_path), store, request())
    assert "ACCEPT_MODELS=true" in raised.value.advice
    with pytest.raises(ModelUnavailable, match="accepts models of up to"):
        await place(library_for(tmp_path, accept=True, size_limit=1000), store, request())
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/same.safetensors").write_bytes(MODEL)
    with pytest.raises(ModelUnavailable, match="may not be linked"):
        await place(library_for(tmp_path, download=False), store, request())
    assert store.asked == []
    answer = await place(library_for(tmp_path), store, request())
    assert (answer.how, answer.same_as) == ("linked", "vae/same.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"folder": ".."},
        {"folder": "a/b"},
        {"folder": ".comfy-remote"},
        {"folder": "custom_nodes"},
        {"name": "../x.safetensors"},
        {"name": "/etc/x.safetensors"},
        {"name": "x.py"},
        {"name": ".hidden.safetensors"},
        {"size": 0},
        {"sha256": "x"},
    ],
)
async def test_no_name_leads_elsewhere(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(WorkflowInvalid):
        await place(library_for(tmp_path, accept=True), Store(*PARTS), request(**wrong))
    assert files_in(tmp_path) == {}


async def test_a_full_disk_is_said_and_what_came_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    with monkeypatch.context() as patched:
        small = real(tmp_path)._replace(free=len(MODEL))
        patched.setattr(shutil, "disk_usage", lambda _: small)
        with pytest.raises(LocalStorageError, match="does not fit on the disk"):
            await place(library_for(tmp_path, accept=True), Store(*PARTS), request())
    with monkeypatch.context() as patched:
        write = PartialFile.write

        def full(self: PartialFile, chunk: bytes) -> None:
            if self.size:
                with self._errors():
                    raise OSError(errno.ENOSPC, "No space left on device")
            write(self, chunk)

        patched.setattr(PartialFile, "write", full)
        with pytest.raises(LocalStorageError):
            await place(library_for(tmp_path, accept=True), Store(*PARTS), request())
    assert not (tmp_path / "loras/a/style.safetensors").exists()
    assert (await place(library_for(tmp_path, accept=True), Store(*PARTS), request())).how == (
        "received"
    )


async def test_a_disk_without_links_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/same.safetensors").write_bytes(MODEL)

    def no_links(_source: Path, _path: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("comfy_remote.worker.models.placing.link_file", no_links)
    assert (await place(library_for(tmp_path), Store(), request(files=[]))).how == "linked"
    assert (tmp_path / "loras/a/style.safetensors").read_bytes() == MODEL
    assert len(files_in(tmp_path)) == 2
