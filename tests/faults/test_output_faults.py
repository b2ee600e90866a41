"""Faults in what comes back: results, downloads, disks and folders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bodies import damaged, flipped, listed_files, png, with_output, without_files, without_output
from lanes import (
    PAGE,
    Lane,
    comfyui_lane,
    content,
    fetch,
    file,
    files_in,
    finished_files,
    gateway_lane,
    new_mark,
    picture,
    refused,
    resume_newest,
)
from proxy import Answer, Cut, Drop, Fault, Rewrite, Shorten, name_of

from comfy_remote import Client
from comfy_remote.errors import (
    ComfyRemoteError,
    LocalStorageError,
    OutputCorrupt,
    OutputLost,
    TargetUnreachable,
)
from comfy_remote.targets.comfyui.target import ComfyUITarget

pytestmark = pytest.mark.usefixtures("home")


async def test_complete_without_a_result(gateway: Lane, out: Path) -> None:
    mark = new_mark()
    gateway.proxy.plan(gateway.poll, Rewrite(without_output), times=None)
    error = await refused(OutputLost, gateway, picture(mark), out)
    assert "no result" in error.message
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize(
    "output",
    [
        {},
        [],
        "done",
        {"images": "none"},
        {"format": "comfy-remote/1"},
        {"format": "comfy-remote/1", "status": "success", "outputs": [{"kind": "image"}]},
        {"format": "comfy-remote/1", "status": "success", "outputs": []},
        {"status": "success_no_images", "images": []},
        {"format": "comfy-remote/1", "outputs": [{"kind": "image", "filename": "a.png"}]},
        {
            "format": "comfy-remote/1",
            "outputs": [{"kind": "image", "filename": "a.png", "data": "%%%"}],
        },
    ],
    ids=str,
)
async def test_complete_with_a_result_that_is_none(gateway: Lane, out: Path, output: Any) -> None:
    change = Rewrite(lambda body: with_output(body, output))
    gateway.proxy.plan(gateway.poll, change, times=None)
    await refused(OutputLost, gateway, picture(new_mark()), out)


async def test_complete_without_files(comfyui: Lane, out: Path) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/history/", Rewrite(without_files), times=None)
    error = await refused(OutputLost, comfyui, picture(mark), out)
    assert "Save Image" in error.advice
    assert comfyui.engine.runs(mark) == 1


async def test_an_output_that_is_gone(comfyui: Lane, out: Path) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/view", Answer(404), times=None)
    error = await refused(OutputLost, comfyui, picture(mark), out)
    assert mark in error.message


@pytest.mark.parametrize("name", ["comfyui", "gateway"])
async def test_a_large_output_comes_through(sandbox_url: str, out: Path, name: str) -> None:
    mark, size = new_mark(), 12_345_678
    opened = comfyui_lane if name == "comfyui" else gateway_lane
    async with opened(sandbox_url) as lane:
        (saved,) = await fetch(lane.target(), file(mark, size), out)
        assert saved.path.read_bytes() == content(size)
        assert lane.engine.runs(mark) == 1
        if name == "gateway":
            assert lane.proxy.count("/files/", "GET") == 1, "it was not in the answer"


async def test_a_large_output_without_a_store_is_taken_in_parts(
    sandbox_url: str, out: Path
) -> None:
    mark, size = new_mark(), 12_345_678
    async with gateway_lane(sandbox_url, store=False) as lane:
        (saved,) = await fetch(lane.target(), file(mark, size), out)
        assert saved.path.read_bytes() == content(size)
        assert lane.engine.runs(mark) == 1
        assert lane.proxy.count("/run", "POST") == 3, "the job, and two parts"


HOSTILE_NAMES = [
    ("../../x.png", ""),
    ("x.png", "../.."),
    ("/etc/x.png", ""),
    ("x.png", "/tmp"),
    ("C:\\Windows\\x.png", ""),
    ("..\\..\\x.png", ""),
    ("x.png", "C:\\Windows\\.."),
    ("CON", ""),
    ("nul.png", "aux"),
    ("a:b.png", ""),
    ("x.png. ", ""),
    ("\x00x\x1b[31m.png", ""),
    ("\u202egnp.exe", ""),
    ("..", ".."),
    ("~/x.png", ""),
    ("n" * 400 + ".png", "s" * 400),
    (".comfy-remote-x/y.png", "."),
]


@pytest.mark.parametrize(("filename", "subfolder"), HOSTILE_NAMES)
async def test_a_hostile_name(
    lane: Lane, tmp_path: Path, out: Path, filename: str, subfolder: str
) -> None:
    def rename(body: bytes) -> bytes:
        document = json.loads(body)
        for listed in listed_files(document):
            listed.update(filename=filename, subfolder=subfolder)
        return json.dumps(document).encode()

    mark = new_mark()
    where = "/history/" if lane.name == "comfyui" else lane.poll
    lane.proxy.plan(where, Rewrite(rename), times=None)
    lane.proxy.plan("/view", Answer(200, png()), times=None)
    before = files_in(tmp_path)
    async with Client(lane.target()) as client:
        job = await client.submit(picture(mark), timeout=120)
        (saved,) = await job.save_outputs(out)
        (kept,) = await job.outputs()
    assert saved.path == kept.save(out)
    new = set(files_in(tmp_path)) - set(before)
    outside = {name for name in new if not name.startswith(("here/out", "home"))}
    assert not outside
    assert saved.path.resolve().is_relative_to(out.resolve())
    assert saved.path.is_file()
    for part in saved.path.relative_to(out).parts:
        assert part not in ("", ".", "..") and not set(part) & set('<>:"|?*\\/\x00\x1b\u202e')
        assert part == part.rstrip(". ") and len(part.encode()) < 256
        assert part.split(".")[0].lower() not in ("con", "nul", "aux", "prn")


async def test_the_engine_lists_a_file_elsewhere(lane: Lane, out: Path) -> None:
    """The real thing, not a proxy's: the engine does not hand out what is not its output."""
    mark = new_mark()
    prompt = file(mark, 10, listed_filename="../../x.png")
    with pytest.raises(ComfyRemoteError) as caught:
        await fetch(lane.target(), prompt, out)
    assert caught.value.advice
    assert files_in(out.parent) == []


async def test_a_download_breaks_off(comfyui: Lane, out: Path) -> None:
    mark, size = new_mark(), 3_000_000
    comfyui.proxy.plan("/view", Cut(1_000_000))
    comfyui.proxy.plan("/view", Drop())
    comfyui.proxy.plan("/view", Cut(1_000_000))
    (saved,) = await fetch(comfyui.target(), file(mark, size), out)
    assert saved.path.read_bytes() == content(size)
    assert files_in(out) == [f"{mark}.bin"]
    ranges = [s.headers.get("Range") for s in comfyui.proxy.seen if s.path.startswith("/view")]
    assert ranges[0] is None and ranges[-1] is not None, "it went on where it broke"
    assert comfyui.engine.runs(mark) == 1


async def test_a_stored_output_breaks_off(gateway: Lane, out: Path) -> None:
    mark, size = new_mark(), 11_000_000
    gateway.proxy.plan("/files/", Cut(4_000_000))
    gateway.proxy.plan("/files/", Answer(502, PAGE))
    gateway.proxy.plan("/files/", Drop())
    (saved,) = await fetch(gateway.target(), file(mark, size), out)
    assert saved.path.read_bytes() == content(size)
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Cut(0), Cut(100_000), Answer(503), Drop()], ids=name_of)
async def test_a_download_breaks_off_for_good(comfyui: Lane, out: Path, fault: Fault) -> None:
    mark = new_mark()
    if fault == Cut(100_000):
        comfyui.proxy.plan("/view", fault)
        fault = Drop()
    comfyui.proxy.plan("/view", fault, times=None)
    await refused(TargetUnreachable, comfyui, file(mark, 3_000_000), out)
    comfyui.proxy.heal()
    await resume_newest(out, [content(3_000_000)])
    assert files_in(out) == [f"{mark}.bin"]
    assert comfyui.engine.runs(mark) == 1


async def test_one_of_several_downloads_breaks(comfyui: Lane, out: Path) -> None:
    """What could be fetched is there, whole; what could not is not."""
    mark = new_mark()
    prompt = {
        str(n): {**node, "inputs": {**node["inputs"], "filename": f"{mark}-{n}.bin"}}
        for n in range(3)
        for node in [file(mark, 50_000 + n)["1"]]
    }
    comfyui.proxy.plan(f"{mark}-1", Drop(), times=None)
    with pytest.raises(TargetUnreachable):
        await fetch(comfyui.target(), prompt, out)
    assert finished_files(out) == [f"{mark}-0.bin", f"{mark}-2.bin"]
    assert (out / f"{mark}-2.bin").read_bytes() == content(50_002)


async def test_a_stored_output_is_shortened(gateway: Lane, out: Path) -> None:
    mark = new_mark()
    gateway.proxy.plan("/files/", Shorten(5_000_000), times=None)
    error = await refused(OutputCorrupt, gateway, file(mark, 11_000_000), out)
    assert "5000000 bytes" in error.message
    gateway.proxy.heal()
    await resume_newest(out, [content(11_000_000)])
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize("size", [10_000, 11_000_000], ids=["in the answer", "stored"])
async def test_an_output_is_damaged(gateway: Lane, out: Path, size: int) -> None:
    mark = new_mark()
    gateway.proxy.plan("/files/", Rewrite(flipped), times=None)
    gateway.proxy.plan(gateway.poll, Rewrite(damaged), times=None)
    error = await refused(OutputCorrupt, gateway, file(mark, size), out)
    assert "SHA-256" in error.message
    gateway.proxy.heal()
    await resume_newest(out, [content(size)])
    assert gateway.engine.runs(mark) == 1


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ComfyUI, which is on this machine, counts as one that is not."""
    monkeypatch.setattr(ComfyUITarget, "local", False)


async def test_a_picture_is_shortened_unnoticed_by_http(
    comfyui: Lane, out: Path, far_away: None
) -> None:
    """ComfyUI announces neither size nor hash, but a picture knows where it ends."""
    mark = new_mark()
    comfyui.proxy.plan("/view", Shorten(150), times=None)
    await refused(OutputCorrupt, comfyui, picture(mark), out)
    comfyui.proxy.heal()
    await resume_newest(out)
    assert comfyui.engine.runs(mark) == 1


async def test_a_picture_is_a_page(comfyui: Lane, out: Path, far_away: None) -> None:
    comfyui.proxy.plan("/view", Answer(200, PAGE), times=None)
    await refused(OutputCorrupt, comfyui, picture(new_mark()), out)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 4 MiB, all of which may be used."""
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "0")
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [6_000_000, 11_000_000])
async def test_the_disk_is_full(
    lane: Lane, small_disk: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "0")  # the last byte may be used
    mark = new_mark()
    error = await refused(LocalStorageError, lane, file(mark, size), small_disk)
    assert "full" in error.message
    assert "resume" in error.advice.lower()
    # Half of what is free is enough for the next one, so nothing of the first is left.
    (saved,) = await fetch(lane.target(), file(new_mark(), 3_000_000), small_disk)
    assert saved.path.read_bytes() == content(3_000_000)
    assert lane.engine.runs(mark) == 1


async def test_the_disk_of_the_record_is_full(
    comfyui: Lane, small_disk: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot be recorded is not submitted."""
    mark = new_mark()
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(small_disk / "home"))
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    with pytest.raises(LocalStorageError, match="record") as caught:
        await fetch(comfyui.target(), picture(mark), out)
    assert "COMFY_REMOTE_HOME" in caught.value.advice
    assert comfyui.engine.runs(mark) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
async def test_the_file_may_not_grow(lane: Lane, out: Path) -> None:
    import resource

    mark = new_mark()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        # Through the gateway the worker's own copy may be the one that fails: it is in this
        # process too.
        with pytest.raises(LocalStorageError) as caught:
            await fetch(lane.target(), file(mark, 6_000_000), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.advice
    assert files_in(out) == []
    await asyncio.sleep(0)
    assert lane.engine.runs(mark) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
async def test_the_folder_is_forbidden(lane: Lane, out: Path) -> None:
    out.chmod(0o500)
    await refused(LocalStorageError, lane, picture(new_mark()), out / "below")


async def test_a_file_where_a_folder_is_wanted(lane: Lane, out: Path) -> None:
    (out / "taken").write_text("mine")
    with pytest.raises(LocalStorageError) as caught:
        await fetch(lane.target(), picture(new_mark()), out / "taken" / "below")
    assert caught.value.advice
    assert files_in(out) == ["taken"]
    assert (out / "taken").read_text() == "mine"
