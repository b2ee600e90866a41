"""Pruning: what we fetched and nobody lists; nothing of anybody else's, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_server import File, ModelServer, safetensors, sha256
from models_kit import ensure, files_in, library_for

from comfy_remote.wire.models import PruneAnswer
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.manifest import Manifest
from comfy_remote.worker.models.presence import Busy, Presence, ProcessMark
from comfy_remote.worker.models.prune import PrunePlan, verify

NAME = "the tests' list"
A, B, C = (safetensors(1000 + number) for number in range(3))


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        for name, content in (("a", A), ("b", B), ("c", C)):
            server.files[f"/{name}.safetensors"] = File(content)
        yield server


@pytest.fixture
async def library(server: ModelServer, tmp_path: Path) -> ModelLibrary:
    """With a and b fetched, and ``theirs`` put there by somebody else."""
    library = library_for(tmp_path, server)
    await ensure(library, f"{line(server, 'a')}\n{line(server, 'b')}")
    (tmp_path / "loras/theirs.safetensors").write_bytes(C)
    return library


def line(server: ModelServer, name: str) -> str:
    return f"lora {server.url}/{name}.safetensors"


async def prune(library: ModelLibrary, text: str, *, everything: bool = False) -> PruneAnswer:
    return await library.prune(
        parse_repo_list(text), lambda _: None, everything=everything, name=NAME
    )


async def test_ensure_fetches_what_is_missing_and_removes_what_is_not_listed(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    text = f"{line(server, 'a')}\n{line(server, 'c')}"
    would = await library.check(parse_repo_list(text), prune_others=True, name=NAME)
    assert would.would_keep == ["loras/a.safetensors"]
    assert would.would_remove == ["loras/b.safetensors"]
    assert would.would_fetch == ["loras/c.safetensors"]
    assert would.fetch_bytes == len(C)
    assert set(files_in(tmp_path)) == {
        "loras/a.safetensors",
        "loras/b.safetensors",
        "loras/theirs.safetensors",
    }

    answer = await ensure(library, text, prune=True)
    assert answer.ensured == ["loras/a.safetensors", "loras/c.safetensors"]
    assert answer.pruned == ["loras/b.safetensors"]
    assert files_in(tmp_path) == {
        "loras/a.safetensors": A,
        "loras/c.safetensors": C,
        "loras/theirs.safetensors": C,
    }


async def test_without_prune_nothing_goes(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    answer = await ensure(library, line(server, "c"))
    assert answer.pruned == []
    assert len(files_in(tmp_path)) == 4


async def test_an_empty_list_prunes_nothing_unless_everything_is_meant(
    library: ModelLibrary, tmp_path: Path
) -> None:
    assert (await ensure(library, "", prune=True)).pruned == []
    assert (await prune(library, "# nothing")).pruned == []
    assert (await library.check([], prune_others=True)).would_remove == []
    assert len(files_in(tmp_path)) == 3
    answer = await prune(library, "", everything=True)
    assert answer.pruned == ["loras/a.safetensors", "loras/b.safetensors"]
    assert files_in(tmp_path) == {"loras/theirs.safetensors": C}


async def test_a_list_of_which_one_model_cannot_be_had_prunes_nothing(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    text = f"{line(server, 'a')}\n{line(server, 'gone')}"
    would = await library.check(parse_repo_list(text), prune_others=True, name=NAME)
    assert would.would_remove == []
    assert "loras/b.safetensors" in would.would_keep
    assert "line 2" in would.problems[0]
    with pytest.raises(Exception, match="404"):
        await ensure(library, text, prune=True)
    assert len(files_in(tmp_path)) == 3


async def test_pinned_models_stay(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    (tmp_path / "comfy-remote.pins").write_text("# ours for good\nloras/b*  # and its like\n")
    answer = await prune(library, "", everything=True)
    assert answer.pruned == ["loras/a.safetensors"]
    assert answer.kept == ["loras/b.safetensors"]
    (listed,) = [m for m in (await library.models()).models["loras"] if m.name[0] == "b"]
    assert listed.pinned
    assert listed.fetched_from == f"{server.url}/b.safetensors"


def rewrite(path: Path) -> None:
    path.write_bytes(b"mine now" * 10)


def rewrite_alike(path: Path) -> None:
    """Another content of the same size, with the same time: as `rsync --times` leaves it."""
    times = path.stat()
    path.write_bytes(bytes(times.st_size))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def touch(path: Path) -> None:
    os.utime(path, (1_000_000_000, 1_000_000_000))


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.safetensors"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("change", [rewrite, rewrite_alike, touch, link])
async def test_a_file_that_was_changed_is_somebodys_and_stays_for_good(
    library: ModelLibrary, tmp_path: Path, change: object
) -> None:
    path = tmp_path / "loras/a.safetensors"
    assert callable(change)
    change(path)
    content = path.read_bytes()
    first = await prune(library, "", everything=True)
    assert first.pruned == ["loras/b.safetensors"]
    assert await prune(library, "", everything=True) == PruneAnswer(pruned=[], kept=[], notes=[])
    assert path.read_bytes() == content


async def test_an_entry_that_leads_elsewhere_removes_nothing(
    library: ModelLibrary, tmp_path: Path
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.safetensors"
    outside.write_bytes(A)
    entries = tmp_path / ".comfy-remote/files"
    for number, path in enumerate(
        [f"../{outside.name}", str(outside), f"loras/../../{outside.name}"]
    ):
        original = json.loads(next(entries.glob("*.json")).read_text())
        entry = {
            **original,
            "path": path,
            "size": outside.stat().st_size,
            "modified": outside.stat().st_mtime_ns,
        }
        (entries / f"planted{number}.json").write_text(json.dumps(entry))
    (entries / "broken.json").write_text("{")
    await prune(library, "", everything=True)
    assert outside.read_bytes() == A
    outside.unlink()


async def test_what_another_worker_fetches_while_we_look_stays(
    server: ModelServer, library: ModelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_remote.worker.models import library as module

    def slowly(manifest: Manifest, plan: PrunePlan) -> dict[str, bool]:
        known = verify(manifest, plan)
        (tmp_path / "loras/new.safetensors").write_bytes(C)
        Manifest(tmp_path).add(
            tmp_path / "loras/new.safetensors", "https://x.example", sha256(C), "other"
        )
        return known

    monkeypatch.setattr(module, "verify", slowly)
    answer = await prune(library, "", everything=True)
    assert answer.pruned == ["loras/a.safetensors", "loras/b.safetensors"]
    assert answer.kept == ["loras/new.safetensors"]
    assert (tmp_path / "loras/new.safetensors").read_bytes() == C
    monkeypatch.undo()
    assert (await prune(library, "", everything=True)).pruned == ["loras/new.safetensors"]


async def test_unfinished_downloads_that_nobody_lists_go_too(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    server.files["/c.safetensors"].slow = 0.2
    server.files["/c.safetensors"].content = safetensors(500_000)
    task = asyncio.create_task(ensure(library, line(server, "c")))
    while not (parts := list((tmp_path / "loras").glob(".comfy-remote-*.part"))):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await prune(library, line(server, "c"))
    assert parts[0].exists()
    await prune(library, line(server, "a"))
    assert not parts[0].exists()


async def test_nothing_is_pruned_while_another_worker_uses_the_volume(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    other = library_for(tmp_path, server)
    async with other.in_use():
        answer = await prune(library, "", everything=True)
        assert answer.pruned == []
        assert "worker-1 is using this volume" in answer.notes[0]
        ensured = await ensure(library, line(server, "a"), prune=True)
        assert ensured.ensured == ["loras/a.safetensors"]
        assert ensured.pruned == []
    assert (await prune(library, line(server, "a"))).pruned == ["loras/b.safetensors"]


async def test_two_workers_that_want_the_same_model_fetch_it_once(
    server: ModelServer, tmp_path: Path
) -> None:
    # Slow enough to be asked about twice: the first time, its owner's name may not be there yet.
    server.files["/c.safetensors"] = File(safetensors(400_000), slow=0.25)
    said: list[str] = []
    answers = await asyncio.gather(
        ensure(library_for(tmp_path, server), line(server, "c"), said),
        ensure(library_for(tmp_path, server), line(server, "c"), said),
    )
    assert [answer.ensured for answer in answers] == [["loras/c.safetensors"]] * 2
    assert server.fetched("/c.safetensors") == 1
    assert "Waiting for worker-1, which fetches c.safetensors" in said


async def test_a_worker_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    dead = Presence(tmp_path, "dead")
    using, claim = dead.using(), dead.claim("key", lambda _: None)
    await using.__aenter__()
    await claim.__aenter__()
    heart = dead._heart
    assert heart is not None
    heart.cancel()  # killed: it leaves its mark and its lock

    alive = Presence(tmp_path, "alive", stale=120.0)
    with pytest.raises(Busy, match="dead"):
        async with alive.alone():
            pass
    long_ago = alive_mark(tmp_path).stat().st_mtime - 121
    os.utime(alive_mark(tmp_path), (long_ago, long_ago))
    waited: list[str] = []
    async with alive.using(), alive.claim("key", waited.append):
        pass
    assert waited == []
    async with alive.alone():
        pass


async def test_what_a_killed_worker_of_this_host_held_is_free_at_once(tmp_path: Path) -> None:
    """Its mark is fresh; its process is gone."""
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from comfy_remote.worker.models.presence import Presence\n"
        "async def hold():\n"
        "    presence = Presence(Path(sys.argv[1]), 'killed')\n"
        "    async with presence.using(), presence.claim('key', print):\n"
        "        os._exit(9)\n"
        "asyncio.run(hold())\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=180)
    assert killed.returncode == 9
    assert (tmp_path / ".comfy-remote/locks/key").exists()
    alive = Presence(tmp_path, "alive")

    async def use_and_claim() -> None:
        async with alive.using(), alive.claim("key", pytest.fail):
            pass
        async with alive.alone():
            pass

    await asyncio.wait_for(use_and_claim(), 60)


def test_a_process_is_only_gone_where_it_can_be_looked_at() -> None:
    own = ProcessMark.own("w")
    assert not own.is_gone()
    assert own.model_copy(update={"pid": _no_process()}).is_gone()
    assert not own.model_copy(update={"pid": _no_process(), "host": "elsewhere"}).is_gone()
    assert not ProcessMark(worker="of an older version").is_gone()
    if own.started is not None:  # the number of a process that ended is another's now
        assert own.model_copy(update={"started": own.started - 1}).is_gone()


def _no_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def alive_mark(root: Path) -> Path:
    (mark,) = (root / ".comfy-remote/workers").glob("*.json")
    return mark


async def test_who_uses_models_waits_for_who_prunes(tmp_path: Path) -> None:
    pruner, user = Presence(tmp_path, "pruner"), Presence(tmp_path, "user")
    order: list[str] = []

    async def use() -> None:
        async with user.using(lambda owner: order.append(f"waits for {owner}")):
            order.append("uses")

    async with pruner.alone():
        task = asyncio.create_task(use())
        while not order:
            await asyncio.sleep(0.01)
        order.append("pruned")
    await task
    assert order == ["waits for pruner", "pruned", "uses"]


async def test_a_mark_is_kept_fresh(tmp_path: Path) -> None:
    presence = Presence(tmp_path, "worker", beat=0.05)
    async with presence.using():
        mark = alive_mark(tmp_path)
        os.utime(mark, (1_000_000_000, 1_000_000_000))
        while mark.stat().st_mtime < 1_000_000_001:
            await asyncio.sleep(0.01)
    assert not mark.exists()


NAMES = ["loras/a.safetensors", "loras/b.safetensors", "vae/c.safetensors"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ours=st.sets(st.sampled_from(NAMES)),
    changed=st.sets(st.sampled_from(NAMES)),
    pinned=st.sets(st.sampled_from(NAMES)),
)
def test_whatever_happened_only_untouched_files_of_ours_go(
    tmp_path_factory: pytest.TempPathFactory, ours: set[str], changed: set[str], pinned: set[str]
) -> None:
    root = tmp_path_factory.mktemp("models")
    manifest = Manifest(root)
    for name in NAMES:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(A)
        if name in ours:
            manifest.add(root / name, "https://x.example", sha256(A), "some list")
        if name in changed:
            (root / name).write_bytes(B)
    (root / "comfy-remote.pins").write_text("\n".join(pinned))
    answer = asyncio.run(prune(library_for(root), "", everything=True))
    assert set(answer.pruned) == ours - changed - pinned
    assert set(files_in(root)) - {"comfy-remote.pins"} == set(NAMES) - set(answer.pruned)


# --- what other lists ask for -------------------------------------------------------------------


_NOW = time.time()


def days_pass(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    now = _NOW + days * 86400
    monkeypatch.setattr("comfy_remote.worker.models.manifest.time.time", lambda: now)


async def test_two_clients_on_one_volume_keep_their_models(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = library_for(tmp_path, server), library_for(tmp_path, server)
    await ensure(first, line(server, "a"), prune=True, name="")
    answer = await ensure(second, line(server, "b"), prune=True, name="")
    assert answer.pruned == []
    assert answer.notes == [
        "loras/a.safetensors stays: another list asked for it today, and models stay for 7 days."
    ]
    would = await second.check(parse_repo_list(line(server, "b")), prune_others=True)
    assert (would.would_remove, would.notes) == ([], answer.notes)
    assert set(would.would_keep) == {"loras/a.safetensors", "loras/b.safetensors"}
    for text, everything in ((line(server, "b"), False), ("", True)):
        done = await second.prune(parse_repo_list(text), lambda _: None, everything=everything)
        assert done.pruned == []
    days_pass(monkeypatch, 8)
    answer = await ensure(second, line(server, "b"), prune=True, name="")
    assert answer.pruned == ["loras/a.safetensors"]


async def test_asking_again_keeps_a_model_longer(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = library_for(tmp_path, server)
    await ensure(library, line(server, "a"), name="")
    days_pass(monkeypatch, 5)
    await library.ensure_for_run(parse_repo_list(line(server, "a")), lambda _: None)
    days_pass(monkeypatch, 10)
    assert (await ensure(library, line(server, "b"), prune=True, name="")).pruned == []
    days_pass(monkeypatch, 13)
    answer = await ensure(library, line(server, "b"), prune=True, name="")
    assert answer.pruned == ["loras/a.safetensors"]


async def test_an_edited_list_of_the_same_name_is_the_same_list(
    server: ModelServer, tmp_path: Path
) -> None:
    library = library_for(tmp_path, server)
    await ensure(library, f"{line(server, 'a')}\n{line(server, 'b')}", name="mine")
    answer = await ensure(library, line(server, "a"), prune=True, name="mine")
    assert answer.pruned == ["loras/b.safetensors"]


async def test_an_older_manifest_does_not_say_who_asked_so_what_is_new_stays(
    server: ModelServer, library: ModelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for note in (tmp_path / ".comfy-remote/files").glob("*.json"):
        old = json.loads(note.read_text())
        del old["fetched_for"]
        note.write_text(json.dumps(old))
    assert (await prune(library, line(server, "a"))).pruned == []
    days_pass(monkeypatch, 8)
    assert (await prune(library, line(server, "a"))).pruned == ["loras/b.safetensors"]


async def test_without_being_asked_nothing_is_pruned_unless_the_owner_says_so(
    server: ModelServer, library: ModelLibrary, tmp_path: Path
) -> None:
    lines = parse_repo_list(line(server, "a"))
    would = await library.check(lines, name=NAME)
    assert would.would_remove == []
    assert would.notes == ["With prune, these would be removed: loras/b.safetensors."]
    assert (await library.ensure(lines, lambda _: None, name=NAME)).pruned == []
    owner = library_for(tmp_path, server, prune=True)
    assert (await owner.check(lines, name=NAME)).would_remove == ["loras/b.safetensors"]
    kept = await owner.ensure(lines, lambda _: None, prune_others=False, name=NAME)
    assert kept.pruned == []
    answer = await owner.ensure(lines, lambda _: None, name=NAME)
    assert answer.pruned == ["loras/b.safetensors"]
