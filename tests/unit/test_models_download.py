"""Models brought here whole from a real server: resumed, checked, cancelled, refused."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from model_server import File, ModelServer, safetensors, sha256
from models_kit import endpoints, ensure, files_in, library_for, settings_for

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import (
    ConfigurationError,
    LocalStorageError,
    ModelUnavailable,
    WorkflowInvalid,
)
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models import plan
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.parts import PartLimits

MODEL = safetensors()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


pytestmark = pytest.mark.usefixtures("quick_retries")


def part_of(root: Path, folder: str = "loras") -> list[Path]:
    return list((root / folder).glob(".comfy-remote-*.part"))


async def test_a_model_is_fetched_once_and_keeps_its_name(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    said: list[str] = []

    answer = await ensure(library, f"lora {server.url}/a.safetensors", said)

    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}
    assert answer.ensured == answer.fetched == ["loras/a.safetensors"]
    assert any(words.startswith("Fetching a.safetensors 300 kB/300 kB") for words in said)

    again = await ensure(library, f"lora {server.url}/a.safetensors")
    assert again.ensured == ["loras/a.safetensors"]
    assert again.fetched == []
    assert server.fetched("/a.safetensors") == 1


async def test_several_come_side_by_side_and_with_names_of_ones_own(
    server: ModelServer, tmp_path: Path
) -> None:
    lines = []
    for number in range(6):
        server.files[f"/{number}.safetensors"] = File(safetensors(1000 + number))
        lines.append(f"vae {server.url}/{number}.safetensors name=sub/v{number}.safetensors")
    answer = await ensure(library_for(tmp_path, server), "\n".join(lines))
    assert answer.ensured == [f"vae/sub/v{number}.safetensors" for number in range(6)]
    assert len(files_in(tmp_path)) == 6


async def test_a_cut_connection_is_resumed_where_it_broke(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL, cuts=[100_000, 50_000])
    await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}
    ranges = [a.headers.get("Range") for a in server.asked if not a.probe]
    assert ranges[0] is None
    assert len(ranges) == 3
    offsets = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:] if r]
    assert 0 < offsets[0] < offsets[1] < len(MODEL)


async def test_a_server_without_ranges_is_asked_from_the_beginning(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL, ranges=False, etag="", cuts=[100_000])
    await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}


async def test_a_cancelled_download_is_taken_up_again(server: ModelServer, tmp_path: Path) -> None:
    file = server.files["/a.safetensors"] = File(MODEL, slow=0.1)
    library = library_for(tmp_path, server)
    task = asyncio.create_task(ensure(library, f"lora {server.url}/a.safetensors"))
    while not any(part.stat().st_size for part in part_of(tmp_path)):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "loras/a.safetensors").exists()
    (part,) = part_of(tmp_path)
    here = part.stat().st_size
    assert 0 < here < len(MODEL)

    file.slow = 0.0
    server.asked.clear()
    # Another worker on the same volume: what is known is on the disk.
    await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}
    assert [a.headers.get("Range") for a in server.asked if not a.probe] == [f"bytes={here}-"]


async def test_what_was_begun_of_another_version_is_thrown_away(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL, cuts=[100_000] + [0] * 20)
    library = library_for(tmp_path, server)
    with pytest.raises(ModelUnavailable, match="the connection was cut"):
        await ensure(library, f"lora {server.url}/a.safetensors")
    assert part_of(tmp_path)

    other = safetensors(fill=b"\x09")
    server.files["/a.safetensors"] = File(other, etag='"two"')
    await ensure(library, f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": other}


async def test_a_file_that_changes_while_it_comes_is_begun_anew(
    server: ModelServer, tmp_path: Path
) -> None:
    other = safetensors(fill=b"\x09")
    file = server.files["/a.safetensors"] = File(MODEL, cuts=[100_000])

    async def change(request: web.Request) -> None:
        if request.headers.get("Range", "bytes=0-0") != "bytes=0-0":
            file.content, file.etag = other, '"two"'

    file.on_request = change
    await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": other}


async def test_a_part_that_was_damaged_meanwhile_is_fetched_anew(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL, cuts=[100_000] + [0] * 20)
    library = library_for(tmp_path, server)
    line = f"lora {server.url}/a.safetensors sha256={sha256(MODEL)}"
    with pytest.raises(ModelUnavailable):
        await ensure(library, line)
    (part,) = part_of(tmp_path)
    part.write_bytes(b"\x00" * part.stat().st_size)
    server.files["/a.safetensors"].cuts.clear()
    await ensure(library, line)
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}


async def test_the_hash_of_the_line_decides(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        await ensure(library, f"lora {server.url}/a.safetensors sha256={'0' * 64}")
    assert files_in(tmp_path) == {}
    assert part_of(tmp_path) == []
    await ensure(library, f"lora {server.url}/a.safetensors sha256={sha256(MODEL)}")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}


async def test_our_own_older_version_is_replaced_when_the_line_wants_another_hash(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    await ensure(library, f"lora {server.url}/a.safetensors")
    newer = safetensors(2000)
    server.files["/a.safetensors"] = File(newer, etag='"two"')
    await ensure(library, f"lora {server.url}/a.safetensors sha256={sha256(newer)}")
    assert files_in(tmp_path) == {"loras/a.safetensors": newer}


async def test_a_file_that_somebody_put_there_is_used_and_never_replaced(
    server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    theirs = tmp_path / "loras/a.safetensors"
    theirs.write_bytes(MODEL)
    server.files["/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    line = f"lora {server.url}/a.safetensors"
    assert (await ensure(library, line)).fetched == []
    assert server.fetched("/a.safetensors") == 0
    assert (await ensure(library, f"{line} sha256={sha256(MODEL)}")).fetched == []

    theirs.write_bytes(b"something else")
    for each in (line, f"{line} sha256={sha256(MODEL)}"):
        with pytest.raises(ModelUnavailable, match="another file"):
            await ensure(library, each)
    assert theirs.read_bytes() == b"something else"


async def test_a_file_that_is_there_counts_also_when_its_publisher_is_gone(
    server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/a.safetensors").write_bytes(MODEL)
    answer = await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert answer.ensured == ["loras/a.safetensors"]


async def test_a_file_in_a_folder_that_comfyui_reads_as_the_same_counts(
    server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/a.safetensors").write_bytes(MODEL)
    answer = await ensure(library_for(tmp_path, server), f"unet {server.url}/a.safetensors")
    assert answer.ensured == ["unet/a.safetensors"]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (File(b"<!DOCTYPE html><p>log in", headers={"Content-Type": "text/html"}), "a web page"),
        (File(b"<!DOCTYPE html><p>log in"), "a web page"),
        (File(MODEL[:-1000]), "its safetensors header speaks of"),
        (File(MODEL[:-1000], sized=False, ranges=False), "its safetensors header speaks of"),
        (File(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (File(b'{"error": "not found"}' + b" " * 20), "does not begin like a safetensors"),
        (File(struct.pack("<Q", 20) + b"[" * 20), "its header is not valid JSON"),
        (File(b""), "it is empty"),
    ],
    ids=["html", "html-as-data", "short", "short-unsized", "lfs", "json", "nested", "empty"],
)
async def test_what_is_not_the_model_never_gets_its_name(
    server: ModelServer, tmp_path: Path, file: File, reason: str
) -> None:
    server.files["/a.safetensors"] = file
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert caught.value.advice
    assert files_in(tmp_path) == {}
    assert part_of(tmp_path) == []


@pytest.mark.parametrize(("more", "reason"), [(-5, "header speaks of"), (5, "were announced")])
async def test_a_length_that_is_not_true_is_noticed(
    server: ModelServer, tmp_path: Path, more: int, reason: str
) -> None:
    cuts = [len(MODEL)] * 20 if more > 0 else []
    server.files["/a.safetensors"] = File(MODEL, announced=len(MODEL) + more, cuts=cuts)
    with pytest.raises(ModelUnavailable, match=reason):
        await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400])
async def test_a_refusal_is_told_at_once(server: ModelServer, tmp_path: Path, status: int) -> None:
    server.files["/a.safetensors"] = File(MODEL, statuses=[status] * 9)
    with pytest.raises(ModelUnavailable, match=f"HTTP {status}") as caught:
        await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert caught.value.details["http_status"] == status
    assert caught.value.advice
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(
    server: ModelServer, tmp_path: Path, status: int
) -> None:
    file = server.files["/a.safetensors"] = File(MODEL)
    asked = 0

    async def busy(request: web.Request) -> None:
        nonlocal asked
        asked += 1
        file.statuses = [status] if asked in (2, 3) else []

    file.on_request = busy
    await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}
    assert asked == 4


async def test_a_complete_part_is_named_without_another_byte(
    server: ModelServer, tmp_path: Path
) -> None:
    file = server.files["/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    await ensure(library, f"lora {server.url}/a.safetensors name=b.safetensors")
    # The worker died in the moment before the name was given.
    line = f"lora {server.url}/a.safetensors"
    file.cuts = [len(MODEL) - 1] + [0] * 20
    with pytest.raises(ModelUnavailable):
        await ensure(library, line)
    (part,) = part_of(tmp_path)
    part.write_bytes(MODEL)
    file.cuts = []
    server.asked.clear()
    await ensure(library, line)
    assert files_in(tmp_path)["loras/a.safetensors"] == MODEL
    assert server.asked[-1].headers["Range"] == f"bytes={len(MODEL)}-"


async def test_a_model_above_the_limit_is_not_fetched(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    server.files["/b.safetensors"] = File(MODEL, sized=False, ranges=False)
    library = library_for(tmp_path, server, size_limit=100_000)
    for name in "ab":
        with pytest.raises(ModelUnavailable, match=r"up to 100 kB"):
            await ensure(library, f"lora {server.url}/{name}.safetensors")
    assert server.fetched("/a.safetensors") == 0
    assert files_in(tmp_path) == {}


async def test_what_does_not_fit_the_disk_is_not_begun(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    monkeypatch.setattr(plan, "free_bytes", lambda root: 1000)
    with pytest.raises(LocalStorageError, match=r"300 kB to fetch") as caught:
        await ensure(library_for(tmp_path, server), f"lora {server.url}/a.safetensors")
    assert "models prune" in for_terminal(caught.value.advice)
    assert server.fetched("/a.safetensors") == 0


async def test_what_is_not_listed_goes_first_where_the_disk_is_too_small_for_both(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/old.safetensors"] = File(MODEL)
    server.files["/new.safetensors"] = File(MODEL)
    library = library_for(tmp_path, server)
    await ensure(library, f"lora {server.url}/old.safetensors")
    old = tmp_path / "loras/old.safetensors"
    monkeypatch.setattr(plan, "free_bytes", lambda root: 1000 if old.exists() else 10**9)
    answer = await ensure(library, f"lora {server.url}/new.safetensors", prune=True)
    assert answer.pruned == ["loras/old.safetensors"]
    assert files_in(tmp_path) == {"loras/new.safetensors": MODEL}


async def test_two_lines_for_one_name_are_refused(server: ModelServer, tmp_path: Path) -> None:
    server.files["/1/a.safetensors"] = server.files["/2/a.safetensors"] = File(MODEL)
    with pytest.raises(WorkflowInvalid, match="would both be loras/a"):
        await ensure(
            library_for(tmp_path, server),
            f"lora {server.url}/1/a.safetensors\nlora {server.url}/2/a.safetensors",
        )


async def test_the_same_link_written_in_two_ways_is_fetched_once(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/o/r/resolve/main/a.safetensors"] = File(MODEL)
    library = library_for(tmp_path, **endpoints(server))
    two = "lora hf:o/r/a.safetensors\nlora https://huggingface.co/o/r/blob/main/a.safetensors"
    answer = await ensure(library, two)
    assert answer.ensured == answer.fetched == ["loras/a.safetensors"]
    assert server.fetched("/o/r/resolve/main/a.safetensors") == 1


async def test_a_run_takes_a_file_by_its_name_and_asks_nobody(
    server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/a.safetensors").write_bytes(b"somebody's, of another size")
    lines = parse_repo_list(f"lora {server.url}/a.safetensors")
    library = library_for(tmp_path, server, download=True)
    answer = await library.ensure_for_run(lines, lambda _: None)
    assert answer.ensured == ["loras/a.safetensors"]
    assert server.asked == []
    hashed = parse_repo_list(f"lora {server.url}/a.safetensors sha256={sha256(MODEL)}")
    with pytest.raises(ModelUnavailable, match="another file"):
        await library.ensure_for_run(hashed, lambda _: None)


async def test_without_a_models_folder_a_run_goes_on_and_ensure_says_so(
    server: ModelServer, tmp_path: Path
) -> None:
    lines = parse_repo_list(f"lora {server.url}/a.safetensors")
    library = library_for(tmp_path, server, folder=None)
    assert (await library.ensure_for_run(lines, lambda _: None)).ensured == []
    with pytest.raises(ConfigurationError, match="no folder for models"):
        await library.ensure(lines, lambda _: None)


async def test_all_lines_that_cannot_be_had_are_named_before_anything_is_fetched(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    lines = [f"lora {server.url}/{name}.safetensors" for name in ("a", "b", "c")]
    with pytest.raises(ModelUnavailable, match="2 models of the list") as caught:
        await ensure(library_for(tmp_path, server), "\n".join(lines))
    assert "line 2" in caught.value.message
    assert "line 3" in caught.value.message
    assert files_in(tmp_path) == {}


async def test_a_large_model_does_not_fill_the_memory(server: ModelServer, tmp_path: Path) -> None:
    large = safetensors(60_000_000)
    server.files["/a.safetensors"] = File(large)
    # The server's own parts are in the same memory.
    limits = PartLimits(size=1024 * 1024, at_once=4)
    library = ModelLibrary(settings_for(tmp_path, server), part_limits=limits)
    tracemalloc.start()
    try:
        await ensure(library, f"lora {server.url}/a.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "loras/a.safetensors").stat().st_size == len(large)
    assert peak < 20_000_000


async def test_a_run_fetches_only_where_the_worker_allows_it(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    lines = parse_repo_list(f"lora {server.url}/a.safetensors")
    for download_models, ensures, runs in (
        (False, False, False),
        (None, True, False),
        (True, True, True),
    ):
        root = tmp_path / str(download_models)
        library = library_for(root, server, download=download_models)
        for allowed, method in ((runs, library.ensure_for_run), (ensures, library.ensure)):
            if allowed:
                assert (await method(lines, lambda _: None)).ensured
            else:
                with pytest.raises(ModelUnavailable, match="not on this worker") as caught:
                    await method(lines, lambda _: None)
                assert "DOWNLOAD_MODELS" in caught.value.advice
        # What is there may always be used.
        (root / "loras").mkdir(parents=True, exist_ok=True)
        (root / "loras/a.safetensors").write_bytes(MODEL)
        assert (await library.ensure_for_run(lines, lambda _: None)).ensured
