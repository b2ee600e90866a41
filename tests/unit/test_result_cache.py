"""`jobs.cache` on a real engine, the sandbox: what is handed out, and what is stored."""

from __future__ import annotations

import asyncio
import copy
import errno
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from comfy_remote.config.cache_settings import CacheMode, CacheSettings
from comfy_remote.errors import OutputLost, TargetUnreachable
from comfy_remote.events import Finished, JobState, Log
from comfy_remote.jobs.cache.asking import Answers
from comfy_remote.jobs.cache.store import ResultStore
from comfy_remote.jobs.client import Client, resume
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import Record, SavedOutput
from comfy_remote.jobs.record.results import StoredResult
from comfy_remote.library.client import Client as LibraryClient
from comfy_remote.targets.base import Capabilities
from comfy_remote.targets.comfyui.kind import ComfyUIKind
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.sandbox.target import SandboxTarget
from comfy_remote.types import JsonValue
from comfy_remote.wire.installed import InstalledPack
from comfy_remote.workflow.prompt import Prompt


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    """A prompt of its own for each test: no other test has had the sandbox run it."""
    prefix = tmp_path.name
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 255},
        },
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


class Changing(ComfyUITarget):
    """The sandbox, which says something else of what runs there.

    Attributes:
        changes: Called with the number of the question and what is true.
        alive: Whether its process is still the one that ran the jobs before.
    """

    changes: Callable[[int, Capabilities], Capabilities] = staticmethod(lambda _, said: said)
    alive = True
    asked = 0

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        self.asked += 1
        return self.changes(self.asked, await super().what_runs(classes, folders))

    async def still_runs(self, job_id: str) -> bool:
        return self.alive and await super().still_runs(job_id)


def _with_packs(*packs: InstalledPack) -> Callable[[int, Capabilities], Capabilities]:
    def changed(_: int, said: Capabilities) -> Capabilities:
        assert said.installed is not None
        return replace(said, installed=said.installed.model_copy(update={"packs": [*packs]}))

    return changed


@dataclass
class Ran:
    """A job that has ended, and what it saved."""

    job: Job
    saved: list[SavedOutput]
    logged: list[str]

    @property
    def hit(self) -> bool:
        """Whether it came from the cache."""
        assert self.job.finished is not None
        return "cache" in self.job.finished.details


@asynccontextmanager
async def _client(url: str, **changed: object) -> AsyncIterator[Client]:
    target = Changing(url, name="lan")
    for name, value in changed.items():
        setattr(target, name, value)
    async with Client(target) as client:
        yield client


async def _run(
    client: Client,
    prompt: Prompt,
    folder: Path,
    cache: CacheMode | None = "use",
    embed: dict[str, JsonValue] | None = None,
    inputs: Path | None = None,
) -> Ran:
    job = await client.submit(
        prompt, folder=folder, cache=cache, embed=embed, inputs=inputs or (), base=folder
    )
    logged = [event.message async for event in job if isinstance(event, Log)]
    return Ran(job, await job.save_outputs(folder), logged)


async def test_the_second_run_is_a_job_of_its_own_that_nobody_runs(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        first = await _run(client, prompt, tmp_path / "1")
        second = await _run(client, prompt, tmp_path / "2")
        assert not first.hit
        assert second.hit
        assert [one.path.name for one in second.saved] == [f"{tmp_path.name}_00001_.png"]
        assert second.saved[0].path.read_bytes() == first.saved[0].path.read_bytes()
        assert second.saved[0].node_id == "3"
        [said] = second.logged
        assert said.startswith("Taken from the cache: a result from ")
        assert isinstance(client.target, ComfyUITarget)
        assert await client.target.history_entry(second.job.id) is None
        await client.record.written()
        entry = client.record.get(second.job.id)
        assert (entry.state, entry.outputs) == (JobState.SUCCEEDED, tuple(second.saved))
        assert entry.cached is not None
        assert entry.cached["job"] == first.job.id
        assert client.record.get(first.job.id).cached is None
        # No time is learned from it.
        assert entry.run_seconds is None
        assert len(client.record.past_runs("lan")) == 1


async def test_refresh_and_off_run_it_and_a_retry_never_takes_a_result(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        first = await _run(client, prompt, tmp_path / "1", "off")
        assert client.record.results.total().results == 0
        prompt["1"]["inputs"]["color"] = 1
        refreshed = await _run(client, prompt, tmp_path / "2", "refresh")
        assert client.record.results.total().results == 1
        source = client.record.get(refreshed.job.id).source
        assert [client.record.results.count_of(one) for one in (source, "b.json")] == [1, 0]
        assert not (await _run(client, prompt, tmp_path / "3", "off")).hit
        assert not (await _run(client, prompt, tmp_path / "4", "refresh")).hit
        assert not (await _run(client, prompt, tmp_path / "5", None)).hit
        again = await client.retry(first.job.id)
        await again.save_outputs(tmp_path / "6")
        assert again.finished is not None
        assert "cache" not in again.finished.details


async def test_a_result_whose_output_the_engine_had_in_memory_is_not_stored(
    sandbox_url: str, tmp_path: Path, prompt: Prompt, caplog: pytest.LogCaptureFixture
) -> None:
    """Its file may have been changed since, and has the workflow of the earlier run inside."""
    caplog.set_level(logging.INFO, "comfy_remote")
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1", "off", {"id": "one"})
        await _run(client, prompt, tmp_path / "2", "refresh", {"id": "two"})
        assert client.record.results.total().results == 0
    assert "had results of nodes 3 in its memory" in caplog.text


async def test_a_picture_never_comes_with_another_workflow_inside(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1", embed={"id": "one"})
        assert (await _run(client, prompt, tmp_path / "2", embed={"id": "one"})).hit
        assert not (await _run(client, prompt, tmp_path / "3", embed={"id": "two"})).hit


async def test_another_input_under_the_same_name_is_another_result(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "in.png"}}
    picture = tmp_path / "in.png"
    async with _client(sandbox_url) as client:
        for color, hit in (("red", False), ("red", True), ("blue", False), ("red", True)):
            Image.new("RGB", (8, 8), color).save(picture)
            ran = await _run(client, prompt, tmp_path / "out", inputs=picture)
            assert ran.hit is hit
            with Image.open(ran.saved[0].path) as inverted:
                pixel = inverted.convert("RGB").getpixel((0, 0))
            assert pixel == ((0, 255, 255) if color == "red" else (255, 255, 0))


async def test_an_input_that_changed_while_it_ran_leaves_nothing_in_the_cache(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "in.png"}}
    picture = tmp_path / "in.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    async with _client(sandbox_url) as client:
        job = await client.submit(prompt, cache="use", inputs=picture)
        await job.wait()
        Image.new("RGB", (8, 8), "blue").save(picture)
        await job.save_outputs(tmp_path / "out")
        assert client.record.results.total().results == 0


@pytest.mark.parametrize("what", ["engine", "device", "torch", "arguments", "packs"])
async def test_what_runs_it_counts_and_is_asked_again_before_a_result_is_stored(
    sandbox_url: str, tmp_path: Path, prompt: Prompt, what: str
) -> None:
    def changed(said: Capabilities) -> Capabilities:
        assert said.installed is not None
        if what == "engine":
            return replace(said, engine="another")
        if what == "device":
            return replace(said, device="another")
        values: dict[str, object] = {
            "torch": "9",
            "arguments": ["--fast"],
            "packs": [InstalledPack(name="new", content="0" * 64)],
        }
        return replace(said, installed=said.installed.model_copy(update={what: values[what]}))

    def replaced(number: int, said: Capabilities) -> Capabilities:
        return said if number == 1 else changed(said)

    async with _client(sandbox_url, changes=replaced) as client:
        await _run(client, prompt, tmp_path / "1")
        assert client.record.results.total().results == 0
    async with _client(sandbox_url) as client:
        prompt["1"]["inputs"]["color"] = 7
        await _run(client, prompt, tmp_path / "2")
        assert client.record.results.total().results == 1
    async with _client(sandbox_url, changes=lambda _, said: changed(said)) as client:
        assert not (await _run(client, prompt, tmp_path / "3")).hit
    async with _client(sandbox_url) as client:
        assert (await _run(client, prompt, tmp_path / "4")).hit


async def test_packs_that_are_not_told_apart_bind_a_result_to_the_process_that_made_it(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    untold = _with_packs(InstalledPack(name="tinted"))
    async with _client(sandbox_url, changes=untold) as client:
        await _run(client, prompt, tmp_path / "1")
        assert (await _run(client, prompt, tmp_path / "2")).hit
    async with _client(sandbox_url, changes=untold, alive=False) as client:
        assert not (await _run(client, prompt, tmp_path / "3")).hit


async def test_a_result_serves_another_target_that_runs_it_by_the_very_same(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1")
    async with Client(SandboxTarget()) as client:
        ran = await _run(client, prompt, tmp_path / "2")
        assert ran.hit
        await client.record.written()
        entry = client.record.get(ran.job.id)
        assert entry.target == "sandbox"
        assert entry.cached is not None
        assert entry.cached["target"] == "lan"


async def test_a_picture_that_its_user_changes_in_place_is_not_handed_out_again(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        first = await _run(client, prompt, tmp_path / "1")
        second = await _run(client, prompt, tmp_path / "2")
        # What was handed out is a file of its own: changing it changes no other.
        whole = first.saved[0].path.read_bytes()
        second.saved[0].path.write_bytes(b"drawn over")
        assert first.saved[0].path.read_bytes() == whole
        assert (await _run(client, prompt, tmp_path / "3")).hit
        # The first one may be the same file on the disk as the cache's.
        with first.saved[0].path.open("rb+") as file:
            file.write(b"drawn over")
        fourth = await _run(client, prompt, tmp_path / "4")
        assert fourth.saved[0].path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["changed", "removed", "folder", "full disk"])
async def test_a_store_that_is_damaged_never_fails_a_run(
    sandbox_url: str,
    tmp_path: Path,
    prompt: Prompt,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    home = tmp_path / "home"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if damage == "full disk":
        monkeypatch.setattr("comfy_remote.jobs.cache.store.link_file", full)
        monkeypatch.setattr("comfy_remote.jobs.cache.store.copy_whole", full)
    if damage == "folder":
        home.mkdir()
        (home / "cache").write_text("not a folder")
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1")
        if damage in ("changed", "removed"):
            [stored] = [path for path in (home / "cache").rglob("*") if path.is_file()]
            stored.unlink()
            if damage == "changed":
                stored.write_bytes(b"something else")
        ran = await _run(client, prompt, tmp_path / "2")
        assert not ran.hit
        assert len(ran.saved) == 1
    # Not what is said at another level: that the sandbox had the second result in its memory.
    warned = [one for one in caplog.records if one.levelname == "WARNING"]
    said = any("was not cached" in one.getMessage() for one in warned)
    assert said is (damage in ("folder", "full disk"))


async def test_a_job_from_the_cache_is_taken_up_again_from_the_record(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1")
        job = await client.submit(prompt, folder=tmp_path / "2", cache="use")
        await client.record.written()
        assert client.record.get(job.id).state is JobState.SUCCEEDED
    async with resume(job.id) as again:
        [saved] = await again.save_outputs(tmp_path / "2")
    assert saved.path.is_file()
    with Record() as record:
        ResultStore(record).prune(everything=True)
        assert record.results.total().results == 0
    assert [path for path in (tmp_path / "home" / "cache").rglob("*") if path.is_file()] == []
    with pytest.raises(OutputLost):
        async with resume(job.id):
            pass


async def test_the_owners_configuration_says_it_and_a_folders_does_not(
    sandbox_url: str, tmp_path: Path, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = tmp_path / "project"
    near.mkdir()
    (near / "comfy-remote.toml").write_text('cache = "use"\ncache_packs = ["tinted"]\n')
    monkeypatch.chdir(near)
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "1", None)
        assert not (await _run(client, prompt, tmp_path / "2", None)).hit
        assert client.record.results.total().results == 0
    (tmp_path / "home" / "comfy-remote.toml").write_text('cache = "use"\n')
    prompt["1"]["inputs"]["color"] = 3
    async with _client(sandbox_url) as client:
        await _run(client, prompt, tmp_path / "3", None)
        assert (await _run(client, prompt, tmp_path / "4", None)).hit


async def test_what_is_unused_for_the_longest_time_goes_first(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    jobs = []
    async with _client(sandbox_url) as client:
        for color in range(3):
            changed = copy.deepcopy(prompt)
            changed["1"]["inputs"]["color"] = color
            jobs.append((await _run(client, changed, tmp_path / str(color))).job.id)
        record = client.record
        by_job = {one.job_id: one for one in record.results.all()}
        for number, job_id in enumerate(jobs):
            record.results.taken(by_job[job_id].key, 1000.0 * number)
        size = max(one.size for one in by_job.values())
        now = 2000.0 + 3 * 86400
        store = ResultStore(record, CacheSettings(max_days=3), now=lambda: now)
        assert store.find(by_job[jobs[0]].key) is None
        assert store.prune(max_bytes=2 * size + 10).results == 2
        assert [one.job_id for one in record.results.all()] == [jobs[2]]
        later = ResultStore(record, CacheSettings(max_days=3), now=lambda: now + 1)
        assert later.prune().results == 1
        small = ResultStore(record, CacheSettings(max_bytes=1))
        small.put(by_job[jobs[0]], [])
        assert record.results.total().results == 0


async def test_several_clients_store_and_take_at_once(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async def one(number: int) -> Finished:
        async with _client(sandbox_url) as client:
            ran = await _run(client, prompt, tmp_path / str(number))
            assert len(ran.saved) == 1
            assert ran.job.finished is not None
            return ran.job.finished

    first = await one(0)
    rest = await asyncio.gather(*(one(number) for number in range(1, 6)))
    assert "cache" not in first.details
    assert all("cache" in finished.details for finished in rest)


async def test_a_batch_made_again_runs_what_is_new_and_counts_the_rest(
    sandbox_url: str, tmp_path: Path, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ComfyUIKind, "billing", lambda *_: "by run")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        f'[targets.lan]\ntarget = "{sandbox_url}"\nprice_per_hour = 36000\n'
    )
    async with LibraryClient("lan") as client:
        for colors, cached in (([1, 2], 0), ([1, 2, 3], 2)):
            batch = await client.batch(prompt, vary={"EmptyImage.color": colors})
            entry = await batch.run()
            assert entry.succeeded == len(colors)
            lines = await batch.lines()
            hits = [line for line in lines if line.cached]
            assert len(hits) == cached
            assert all((line.cost, line.seconds) == (0.0, None) for line in hits)
            assert all(line.saved for line in hits)
            assert all((batch.folder / line.outputs[0]["file"]).is_file() for line in lines)
            await client.record.written()
            for line in lines:
                assert line.job is not None
                # Nothing is reserved for what does not run.
                assert (client.record.ledger.of(line.job) is None) is bool(line.cached)


async def test_runs_that_begin_together_share_what_a_target_says_and_others_do_not() -> None:
    class Target:
        asked = 0

        async def what_runs(
            self, classes: Collection[str], folders: Collection[str]
        ) -> Capabilities:
            self.asked += 1
            if self.asked == 4:
                raise TargetUnreachable("It is gone.")
            return Capabilities({}, None, str(self.asked))

        async def still_runs(self, job_id: str) -> bool:
            return True

    target, answers = Target(), Answers()

    async def engine(lately: float, node: str = "A") -> str | None:
        return (await answers.of(target, {node}, (), lately)).engine

    assert await asyncio.gather(engine(3600), engine(3600)) == ["1", "1"]
    assert await engine(0) == "2", "after its end, a run asks once more"
    assert await engine(3600) == "2"
    assert await engine(3600, "B") == "3", "of other nodes, nothing was said"
    with pytest.raises(TargetUnreachable):
        await engine(0)
    assert await engine(3600) == "5", "no answer serves nobody"


async def test_a_route_takes_what_the_member_gave_that_would_get_the_run(
    sandbox_url: str, gated_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        f'[targets.one]\ntarget = "{sandbox_url}"\n[targets.two]\ntarget = "{gated_url}"\n'
        '[targets.any]\nroute = ["one", "two"]\n'
    )
    async with Client("any") as client:
        first = await _run(client, prompt, tmp_path / "1")
        assert not first.hit
        [stored] = client.record.results.all()
        assert stored.target == "one"
        second = await _run(client, prompt, tmp_path / "2")
        assert second.hit
        await client.record.written()
        assert client.record.get(second.job.id).target == "any"
    # It serves the member by its own name as well.
    async with Client("one") as client:
        assert (await _run(client, prompt, tmp_path / "3")).hit


@pytest.mark.parametrize("damage", ["shorter", "longer", "changed", "a link to nothing"])
def test_a_damaged_file_is_replaced_when_its_content_is_stored_again(
    tmp_path: Path, damage: str
) -> None:
    content = b"a picture"
    sha256 = hashlib.sha256(content).hexdigest()
    source = tmp_path / "a.png"
    source.write_bytes(content)
    output: dict[str, JsonValue] = {"sha256": sha256, "size": len(content)}
    result = StoredResult(
        *("k1", "job", 0.0, 0.0, "lan", "a.json", None, 1.0, len(content), [output], {})
    )
    with Record(tmp_path / "home") as record:
        store = ResultStore(record, now=lambda: 0.0)
        store.put(result, [(sha256, source)])
        assert store.find("k1") == result
        stored = store.path_of(sha256)
        stored.unlink()
        if damage == "a link to nothing":
            stored.symlink_to(tmp_path / "nothing")
        else:
            stored.write_bytes({"shorter": b"a", "longer": content * 2}.get(damage, b"B picture"))
        again = replace(result, key="k2")
        store.put(again, [(sha256, source)])
        assert store.find("k2") == again
        assert stored.read_bytes() == content
        assert source.read_bytes() == content


class Stranger(Changing):
    """The sandbox, which stands for a server elsewhere: it says of itself what the user's says."""

    @property
    def server(self) -> dict[str, str]:
        return {"url": "http://stranger.example:8188"}


async def test_a_result_of_a_target_that_the_owner_does_not_name_serves_that_one_alone(
    sandbox_url: str, tmp_path: Path, prompt: Prompt
) -> None:
    async def hit(target: ComfyUITarget, number: int) -> bool:
        async with Client(target) as client:
            return (await _run(client, prompt, tmp_path / f"{target.name}{number}")).hit

    stranger = Stranger(sandbox_url, name="gpu")
    assert [await hit(stranger, 1), await hit(stranger, 2)] == [False, True]
    assert not await hit(SandboxTarget(), 3)
    # A name of the owner's for another server does not help.
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        '[targets.gpu]\ntarget = "http://10.0.0.7:8188"\n'
    )
    prompt["1"]["inputs"]["color"] = 254
    assert [await hit(stranger, 4), await hit(stranger, 5)] == [False, True]
    assert not await hit(SandboxTarget(), 6)
    (tmp_path / "home" / "comfy-remote.toml").write_text(
        '[targets.hired]\ntarget = "http://stranger.example:8188/"\n'
    )
    prompt["1"]["inputs"]["color"] = 253
    assert not await hit(stranger, 7)
    assert await hit(SandboxTarget(), 8)
