"""Models brought to a ComfyUI with our node pack: sent, linked, fetched, broken, continued."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from helpers import until
from model_server import File, ModelServer, safetensors, sha256
from models_kit import files_in
from pydantic import SecretStr
from receiving_kit import QUICK, TOKEN, CuttingProxy, OneComfyUI, comfyui
from sync_kit import comfyui_with, lock_of, locked, sources

from comfy_remote.errors import (
    ConfigurationError,
    InputFileMissing,
    JobNotFound,
    JobTimedOut,
    LocalStorageError,
    ModelUnavailable,
    TargetError,
    TargetUnreachable,
)
from comfy_remote.media.files import storage_errors
from comfy_remote.media.partial import PartialFile
from comfy_remote.node_pack.receiving.jobs import ReceivingJob, ReceivingJobs, Times
from comfy_remote.ready.lock import Lock
from comfy_remote.ready.plan import Standing
from comfy_remote.ready.sync import parts
from comfy_remote.ready.sync.carrying import Ended, Moved, carry_out
from comfy_remote.ready.sync.planning import Sources, plan_sync
from comfy_remote.ready.sync.steps import SyncPlan, Way
from comfy_remote.targets.base import Acts, Capabilities, InputFile, MayTake
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.models import ensure_models
from comfy_remote.types import JsonValue

STYLE = safetensors(300_000, fill=b"style")
OTHER = safetensors(200_000, fill=b"other")
LOCK = lock_of(locked("loras/a/style.safetensors", STYLE))
PART = 64 * 1024
PLACED = {
    "action": "place",
    "folder": "loras",
    "name": "a/style.safetensors",
    "size": len(STYLE),
    "sha256": sha256(STYLE),
    "files": [{"name": "all of it", "sha256": sha256(STYLE), "size": len(STYLE)}],
}


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[OneComfyUI]:
    async with comfyui(tmp_path / "box") as made:
        yield made


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts.read_parts

    async def read(path: Path, name: str, *, part_size: int) -> parts.PartedModel:
        return await whole(path, name, part_size=PART)

    monkeypatch.setattr("comfy_remote.ready.sync.carrying.read_parts", read)


def mine(folder: Path, content: bytes = STYLE) -> Sources:
    return sources(folder, comfyui_with(folder, loras__a__style=content))


def named(there: OneComfyUI) -> list[str]:
    """The models that have a name that ComfyUI would list."""
    return [name for name in files_in(there.models) if ".part" not in name]


async def planned(target: ComfyUITarget, lock: Lock, given: Sources) -> SyncPlan:
    async with target:
        return await plan_sync(lock, target, given)


async def synced(
    target: ComfyUITarget, lock: Lock, given: Sources, moved: list[Moved] | None = None
) -> list[Ended]:
    heard = moved if moved is not None else []
    async with target:
        plan = await plan_sync(lock, target, given)
        return await carry_out(plan, target, given, heard.append, lambda _: None)


async def test_a_model_is_sent_and_is_known_there_by_its_content(
    there: OneComfyUI, tmp_path: Path
) -> None:
    assert isinstance(there.target(), MayTake)
    assert isinstance(there.target(), Acts)
    moved: list[Moved] = []
    (ended,) = await synced(there.target(), LOCK, mine(tmp_path), moved)
    assert (ended.how, ended.error) == ("sent", None)
    assert files_in(there.models) == {"loras/a/style.safetensors": STYLE}
    sizes = [one.done for one in moved if one.done is not None]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(STYLE)
    plan = await planned(there.target(), LOCK, mine(tmp_path))
    assert [one.standing for one in plan.plan.items if one.kind == "model"] == [Standing.THERE]
    changed = lock_of(locked("loras/a/style.safetensors", b"x" * len(STYLE)))
    plan = await planned(there.target(), changed, sources(tmp_path))
    assert [one.standing for one in plan.plan.items if one.kind == "model"] == [Standing.DIFFERENT]


async def test_what_is_there_under_another_name_is_linked(
    there: OneComfyUI, tmp_path: Path
) -> None:
    await synced(there.target(), LOCK, mine(tmp_path))
    again = lock_of(locked("checkpoints/again.safetensors", STYLE))
    plan = await planned(there.target(), again, sources(tmp_path))
    assert [one.way for one in plan.steps] == [Way.LINK]
    (ended,) = await synced(there.target(), again, sources(tmp_path))
    assert ended.how == "linked"
    made = there.models / "checkpoints/again.safetensors"
    assert made.samefile(there.models / "loras/a/style.safetensors")


async def test_what_has_an_address_is_fetched_by_it_and_nothing_is_ever_pruned(
    tmp_path: Path,
) -> None:
    async with ModelServer() as server:
        server.files["/style.safetensors"] = File(STYLE)
        box = comfyui(tmp_path / "box", hosts=frozenset({server.host}), prune=True)
        async with box as there:
            address = {"by": "workflow", "url": f"{server.url}/style.safetensors"}
            lock = lock_of(locked("loras/mine.safetensors", STYLE, address))
            (ended,) = await synced(there.target(), lock, sources(tmp_path))
            assert (ended.how, ended.error) == ("fetched", None)
            wrong = lock_of(locked("loras/wrong.safetensors", OTHER, address))
            (ended,) = await synced(there.target(), wrong, sources(tmp_path))
            assert isinstance(ended.error, ModelUnavailable)
            other = f"lora {server.url}/style.safetensors name=other.safetensors"
            async with there.target() as target:
                await ensure_models(target, other, lambda _: None)
                with pytest.raises(ConfigurationError, match="No model is removed"):
                    await ensure_models(target, other, lambda _: None, prune=True)
            assert sorted(files_in(there.models)) == [
                "loras/mine.safetensors",
                "loras/other.safetensors",
            ]


async def test_an_address_in_its_owners_network_is_not_fetched(tmp_path: Path) -> None:
    async with ModelServer() as server, comfyui(tmp_path / "box") as there:
        server.files["/style.safetensors"] = File(STYLE)
        address = {"by": "workflow", "url": f"{server.url}/style.safetensors"}
        lock = lock_of(locked("loras/mine.safetensors", STYLE, address))
        (ended,) = await synced(there.target(), lock, sources(tmp_path))
        assert ended.error is not None
        assert not server.asked
        assert not named(there)


async def test_a_connection_that_breaks_costs_one_part(there: OneComfyUI, tmp_path: Path) -> None:
    port = int(there.url.rpartition(":")[2])
    async with CuttingProxy(port, [PART // 2, PART * 2]) as proxy:
        (ended,) = await synced(there.target(url=proxy.url), LOCK, mine(tmp_path))
    assert (ended.how, ended.error) == ("sent", None)
    assert not proxy.cuts
    assert proxy.sent < len(STYLE) + 3 * PART
    assert files_in(there.models) == {"loras/a/style.safetensors": STYLE}


async def test_a_sync_that_was_stopped_goes_on_where_it_was(
    there: OneComfyUI, tmp_path: Path
) -> None:
    half = asyncio.Event()

    def moved(one: Moved) -> None:
        if (one.done or 0) >= 3 * PART:
            half.set()

    given = mine(tmp_path)
    async with there.target() as target:
        plan = await plan_sync(LOCK, target, given)
        carrying = asyncio.ensure_future(carry_out(plan, target, given, moved, lambda _: None))
        await half.wait()
        carrying.cancel()
        await asyncio.wait({carrying})
    assert not named(there)
    there.asked.clear()
    (ended,) = await synced(there.target(), LOCK, given)
    assert (ended.how, ended.error) == ("sent", None)
    assert files_in(there.models) == {"loras/a/style.safetensors": STYLE}
    sent = [one for one in there.asked if one.startswith("PUT")]
    assert len(sent) < 5  # of five parts


async def test_a_comfyui_that_is_restarted_meanwhile_goes_on(tmp_path: Path) -> None:
    given, box = mine(tmp_path), tmp_path / "box"
    async with comfyui(box) as first:
        url, port = first.url, int(first.url.rpartition(":")[2])
        target = first.target()
        await target.__aenter__()
        plan = await plan_sync(LOCK, target, given)
        carrying = asyncio.ensure_future(
            carry_out(plan, target, given, lambda _: None, lambda _: None)
        )
        await until(lambda: sum(one.startswith("PUT") for one in first.asked) >= 2)
    async with comfyui(box, port=port) as second:
        assert second.url == url
        (ended,) = await carrying
        await target.__aexit__(None, None, None)
        if ended.error is not None:  # it was away for too long: then the same again goes on
            assert isinstance(ended.error, JobNotFound | TargetUnreachable)
            (ended,) = await synced(second.target(), LOCK, given)
        assert ended.error is None
        assert ended.how in ("sent", "there")  # the first may have had all of it
        assert files_in(box / "models") == {"loras/a/style.safetensors": STYLE}


async def test_a_sync_that_was_killed_gives_way_to_the_next(tmp_path: Path) -> None:
    given = mine(tmp_path)
    async with comfyui(tmp_path / "box", times=Times(wait=0.05, quiet=0.05)) as there:
        killed = there.target()
        async with killed:
            await killed.takes()
            job = asyncio.ensure_future(killed.send_model(PLACED, ()))
            await until(lambda: any(one.startswith("POST") for one in there.asked))
            # No word any more: its task goes, and with it what would say that it stops.
            await killed._http.session.close()
            (ended,) = await synced(there.target(), LOCK, given)
            assert (ended.how, ended.error) == ("sent", None)
            job.cancel()
            await asyncio.wait({job})


async def test_who_is_silent_has_gone() -> None:
    async def never(payload: dict[str, JsonValue], job: ReceivingJob) -> JsonValue:
        return await asyncio.Event().wait()

    jobs = ReceivingJobs(never, Times(silence=0.05))
    job = jobs.begin("a" * 32, {})
    await until(lambda: job.ended is not None)
    assert "silent" in str(job.state.error)


@asynccontextmanager
async def lying(*said: dict[str, JsonValue]) -> AsyncIterator[tuple[ComfyUITarget, list[float]]]:
    """A ComfyUI that says some things of a job, the last one again and again; when it was asked."""
    asked: list[float] = []
    left = [*said]

    async def hello(_: web.Request) -> web.Response:
        takes = {"version": "1", "takes_models": ["receive"], "token": True, "challenge": "0" * 32}
        return web.json_response({"takes_nodes": [], **takes})

    async def job(request: web.Request) -> web.Response:
        await request.read()
        if not request.path.endswith("/cancel"):
            asked.append(time.monotonic())
        state = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response({"state": "running", "number": len(asked), "said": "", **state})

    app = web.Application()
    app.router.add_get("/remote/receiving", hello)
    app.router.add_route("*", "/remote/receiving/jobs/{rest:.*}", job)
    async with TestServer(app) as server:
        times = replace(QUICK, installed=0.3)
        target = ComfyUITarget(str(server.make_url("")), name="liar", sync_token=TOKEN, times=times)
        async with target:
            yield target, asked


@pytest.mark.parametrize(
    ("wants", "words"), [("f" * 64, "not this model's"), (sha256(STYLE), "again and again")]
)
async def test_one_that_asks_for_ever_is_left(tmp_path: Path, wants: str, words: str) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(STYLE)
    part = InputFile("all of it", path, len(STYLE), sha256(STYLE))
    async with lying({"wants": wants}) as (target, asked):
        with pytest.raises(TargetError, match=words):
            await target.send_model(PLACED, [part])
    assert len(asked) < 20


async def test_one_that_never_says_what_it_has_is_not_waited_for() -> None:
    async with lying({"wants": None}) as (target, _):
        with pytest.raises(JobTimedOut, match=r"liar has not said within 0\.3 s what it has"):
            await target.with_installed(Capabilities(None, None, None))


async def test_one_that_answers_at_once_is_not_asked_without_pause() -> None:
    running: dict[str, JsonValue] = {"wants": None}
    async with lying(*[running] * 4, {"state": "succeeded", "answer": {}}) as (target, asked):
        await target.act({"action": "models"})
    gaps = [after - before for before, after in pairwise(asked[1:])]
    assert len(gaps) == 3
    assert min(gaps) > 0.05


async def test_a_full_disk_is_said_and_nothing_is_half_there(
    there: OneComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PartialFile.write

    def write(self: PartialFile, chunk: bytes) -> None:
        with storage_errors(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartialFile, "write", write)
    (ended,) = await synced(there.target(), LOCK, mine(tmp_path))
    assert isinstance(ended.error, LocalStorageError)
    assert "full" in str(ended.error)
    assert not named(there)
    monkeypatch.setattr(PartialFile, "write", whole)
    (ended,) = await synced(there.target(), LOCK, mine(tmp_path))
    assert ended.how == "sent"


async def test_a_model_that_has_no_room_is_refused_before_it_is_sent(
    there: OneComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.worker.models.placing.free_bytes", lambda _: 1000)
    (ended,) = await synced(there.target(), LOCK, mine(tmp_path))
    assert isinstance(ended.error, LocalStorageError)
    assert "does not fit on the disk" in str(ended.error)
    assert not [one for one in there.asked if one.startswith("PUT")]


@pytest.mark.parametrize("content", [STYLE[:-1] + b"!", STYLE[:1000]])
async def test_a_file_that_changes_while_it_is_sent_is_said_so(
    there: OneComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    whole = parts.read_parts

    async def read(path: Path, name: str, *, part_size: int) -> parts.PartedModel:
        read = await whole(path, name, part_size=PART)
        path.write_bytes(content)
        return read

    monkeypatch.setattr("comfy_remote.ready.sync.carrying.read_parts", read)
    [ended] = await synced(there.target(), LOCK, mine(tmp_path))
    assert isinstance(ended.error, InputFileMissing)
    assert "style.safetensors has changed while it was sent" in ended.error.message
    assert named(there) == []


async def test_two_who_send_the_same_model_do_not_mix(there: OneComfyUI, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    both = await asyncio.gather(
        *(synced(there.target(), LOCK, mine(tmp_path / name)) for name in ("one", "two"))
    )
    assert sorted(ended.how for (ended,) in both) == ["sent", "there"]
    assert files_in(there.models) == {"loras/a/style.safetensors": STYLE}


async def test_what_is_not_allowed_is_in_the_plan(tmp_path: Path) -> None:
    given = mine(tmp_path)
    async with comfyui(tmp_path / "off", accept=False, token=None) as off:
        (step,) = (await planned(off.target(), LOCK, given)).steps
        assert step.way is Way.IMPOSSIBLE
        assert "the owner of that ComfyUI has not allowed it: ACCEPT_MODELS=true" in step.why
    async with comfyui(tmp_path / "on") as on:
        (step,) = (await planned(on.target(token=None), LOCK, given)).steps
        assert step.way is Way.IMPOSSIBLE
        assert "sync_token_env" in step.why
        assert not [one for one in on.asked if one.startswith("POST")]


async def test_a_comfyui_without_the_pack_is_said_so(there: OneComfyUI, tmp_path: Path) -> None:
    target = there.target(url=f"{there.url}/no-such")
    async with target:
        assert "without Comfy Remote's node pack" in (await target.takes()).why
        with pytest.raises(ConfigurationError, match="without Comfy Remote's node pack"):
            await ensure_models(target, "lora https://example.com/x.safetensors", lambda _: None)


async def test_one_that_is_asked_for_by_an_unknown_name_is_compared_all_the_same(
    there: OneComfyUI, tmp_path: Path
) -> None:
    elsewhere = {"Host": SecretStr("gpu.example.org")}
    target = ComfyUITarget(there.url, name="box", headers=elsewhere, sync_token=TOKEN, times=QUICK)
    (step,) = (await planned(target, LOCK, mine(tmp_path))).steps
    assert step.way is Way.IMPOSSIBLE
    assert "a name that this server does not know as its own" in step.why
    assert "allowed_hosts" in step.why


async def test_the_packs_there_are_known_with_their_versions(
    there: OneComfyUI, tmp_path: Path
) -> None:
    pack = there.root / "custom_nodes/a-pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (pack / "pyproject.toml").write_text('[project]\nname = "a-pack"\nversion = "1.2.3"\n')
    plan = await planned(there.target(), Lock(), sources(tmp_path))
    assert plan.plan.target == "box"
    async with there.target() as target:
        said = await target.with_installed(await target.what_runs(set(), set()))
    assert said.installed is not None
    (found,) = said.installed.packs
    assert (found.name, found.registry_id, found.version) == ("a-pack", "a-pack", "1.2.3")
    assert said.takes_models is not None
    assert said.takes_models >= {"fetch", "link", "receive"}
    assert TOKEN.get_secret_value() not in repr(there.asked)
