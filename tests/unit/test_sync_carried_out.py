"""A sync to a gateway of ours: planned, carried out, interrupted, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget
from model_server import File, ModelServer, safetensors, sha256
from models_kit import files_in
from sync_kit import Box, box, comfyui_with, lock_of, locked, sources

from comfy_remote.errors import ConfigurationError, LocalStorageError, ModelUnavailable
from comfy_remote.ready.hashing import LocalModel
from comfy_remote.ready.lock import Lock
from comfy_remote.ready.plan import Standing, There, compare
from comfy_remote.ready.sync import parts
from comfy_remote.ready.sync.brought import Brought, BroughtRecord
from comfy_remote.ready.sync.carrying import Ended, Moved, alone, carry_out
from comfy_remote.ready.sync.lines import repo_line
from comfy_remote.ready.sync.planning import Sources, plan_sync
from comfy_remote.ready.sync.steps import Here, Step, SyncPlan, Way, Ways, steps_of
from comfy_remote.ready.sync.ways import ways_to
from comfy_remote.types import JsonValue

STYLE = safetensors(300_000, fill=b"style")
OTHER = safetensors(200_000, fill=b"other")


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        yield made


async def planned(there: Box, lock: Lock, given: Sources) -> SyncPlan:
    async with there.target() as target:
        return await plan_sync(lock, target, given)


async def synced(
    there: Box, lock: Lock, given: Sources, moved: list[Moved] | None = None
) -> list[Ended]:
    heard = moved if moved is not None else []
    async with there.target() as target:
        plan = await plan_sync(lock, target, given)
        return await carry_out(plan, target, given, heard.append, lambda _: None)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts.read_parts

    async def read(path: Path, name: str) -> parts.PartedModel:
        return await whole(path, name, part_size=64 * 1024)

    monkeypatch.setattr("comfy_remote.ready.sync.carrying.read_parts", read)


@pytest.mark.usefixtures("small_parts")
async def test_a_private_model_is_sent_and_is_there_afterwards(there: Box, tmp_path: Path) -> None:
    given = sources(tmp_path, comfyui_with(tmp_path, loras__style=STYLE))
    lock = lock_of(locked("loras/style.safetensors", STYLE))
    moved: list[Moved] = []
    (ended,) = await synced(there, lock, given, moved)
    assert (ended.how, ended.error) == ("sent", None)
    assert files_in(there.models) == {"loras/style.safetensors": STYLE}
    assert max(one.done or 0 for one in moved) == len(STYLE)
    plan = await planned(there, lock, given)
    assert [one.standing for one in plan.plan.items if one.kind == "model"] == [Standing.THERE]
    assert not plan.to_do
    (noted,) = BroughtRecord(given.home).all()
    assert (noted.model, noted.size, noted.sha256, noted.way) == (
        *("loras/style.safetensors", len(STYLE), sha256(STYLE), "send"),
    )


async def test_what_is_there_under_another_name_is_linked(there: Box, tmp_path: Path) -> None:
    (there.models / "checkpoints").mkdir()
    (there.models / "checkpoints/x.safetensors").write_bytes(STYLE)
    given = sources(tmp_path, comfyui_with(tmp_path, loras__style=STYLE))
    lock = lock_of(locked("loras/style.safetensors", STYLE))
    # Its hash is not known there yet, so the worker finds out before anything is taken.
    (ended,) = await synced(there, lock, given)
    assert ended.how == "linked"
    placed = there.models / "loras/style.safetensors"
    assert placed.read_bytes() == STYLE
    assert placed.samefile(there.models / "checkpoints/x.safetensors")
    again = lock_of(locked("loras/again.safetensors", STYLE))
    # A workflow names its SHA-256, and not how large it is.
    (model,) = again.models
    again = again.model_copy(update={"models": (model.model_copy(update={"size": None}),)})
    plan = await planned(there, again, sources(tmp_path))
    assert [one.way for one in plan.steps] == [Way.LINK]
    (ended,) = await synced(there, again, sources(tmp_path))
    assert ended.how == "linked"


async def test_what_has_an_address_is_fetched_there(tmp_path: Path) -> None:
    async with ModelServer() as server:
        server.files["/style.safetensors"] = File(STYLE)
        async with box(tmp_path / "box", hosts=frozenset({server.host})) as there:
            address = {"by": "workflow", "url": f"{server.url}/style.safetensors"}
            lock = lock_of(locked("loras/mine.safetensors", STYLE, address))
            (ended,) = await synced(there, lock, sources(tmp_path))
            assert (ended.how, ended.error) == ("fetched", None)
            assert files_in(there.models) == {"loras/mine.safetensors": STYLE}
            wrong = lock_of(locked("loras/wrong.safetensors", OTHER, address))
            (ended,) = await synced(there, wrong, sources(tmp_path))
            assert isinstance(ended.error, ModelUnavailable)
            assert "loras/wrong.safetensors" not in files_in(there.models)


async def test_an_owner_who_has_not_allowed_it_gets_nothing(tmp_path: Path) -> None:
    async with box(tmp_path / "box", accept=False) as there:
        given = sources(tmp_path, comfyui_with(tmp_path, loras__style=STYLE))
        plan = await planned(there, lock_of(locked("loras/style.safetensors", STYLE)), given)
        (step,) = plan.steps
        assert step.way is Way.IMPOSSIBLE
        assert "ACCEPT_MODELS=true" in step.why


async def test_another_file_of_that_name_stays(there: Box, tmp_path: Path) -> None:
    (there.models / "loras").mkdir()
    mine = there.models / "loras/style.safetensors"
    given = sources(tmp_path, comfyui_with(tmp_path, loras__style=STYLE))
    lock = lock_of(locked("loras/style.safetensors", STYLE))
    async with there.target() as target:
        plan = await plan_sync(lock, target, given)
        mine.write_bytes(OTHER)  # somebody else's, since the plan was made
        (ended,) = await carry_out(plan, target, given, lambda _: None, lambda _: None)
    assert "is not replaced" in str(ended.error)
    assert mine.read_bytes() == OTHER
    assert BroughtRecord(given.home).all() == []
    (step,) = (await planned(there, lock, given)).steps
    assert step.way is Way.IMPOSSIBLE


async def test_a_file_that_is_not_the_one_of_the_lock_is_not_sent(
    there: Box, tmp_path: Path
) -> None:
    given = sources(tmp_path, comfyui_with(tmp_path, loras__style=OTHER))
    lock = lock_of(locked("loras/style.safetensors", STYLE))
    (ended,) = await synced(there, lock, given)
    assert "its SHA-256 is another" in str(ended.error)
    assert files_in(there.models) == {}


async def test_one_that_fails_leaves_the_others_be(there: Box, tmp_path: Path) -> None:
    comfyui = comfyui_with(tmp_path, loras__bad=OTHER, loras__good=STYLE)
    lock = lock_of(
        locked("loras/bad.safetensors", STYLE[:-1]), locked("loras/good.safetensors", STYLE)
    )
    ended = await synced(there, lock, sources(tmp_path, comfyui))
    assert [bool(one.error) for one in ended] == [True, False]
    assert files_in(there.models) == {"loras/good.safetensors": STYLE}


async def test_what_cannot_be_noted_leaves_the_others_be(
    there: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: BroughtRecord, one: Brought) -> None:
        raise LocalStorageError("The disk is full.")

    monkeypatch.setattr(BroughtRecord, "add", full)
    models = {"loras__a": STYLE, "loras__b": OTHER}
    given = sources(tmp_path, comfyui_with(tmp_path, **models))
    lock = lock_of(locked("loras/a.safetensors", STYLE), locked("loras/b.safetensors", OTHER))
    async with there.target() as target:
        plan = await plan_sync(lock, target, given)
        ended = await carry_out(plan, target, given, lambda _: None, lambda _: None)
    assert [one.error and one.error.message for one in ended] == [
        f"loras/{name}.safetensors is there, but that could not be noted. The disk is full."
        for name in "ab"
    ]
    assert set(files_in(there.models)) == {"loras/a.safetensors", "loras/b.safetensors"}


@pytest.mark.parametrize(
    "path",
    [
        "loras/x.safetensors #1.safetensors",
        "loras/x.safetensors # of mine.safetensors",
    ],
)
async def test_a_name_that_a_line_has_no_words_for_is_not_fetched_unchecked(
    tmp_path: Path, path: str
) -> None:
    async with ModelServer() as server:
        server.files["/x.safetensors"] = File(OTHER)
        async with box(tmp_path / "box", hosts=frozenset({server.host})) as there:
            address = {"by": "workflow", "url": f"{server.url}/x.safetensors"}
            lock = lock_of(locked(path, STYLE, address))
            plan = await planned(there, lock, sources(tmp_path))
            assert [one.way for one in plan.steps] == [Way.IMPOSSIBLE]
            assert "a worker cannot be asked for a name with such characters" in plan.steps[0].why
            with pytest.raises(ModelUnavailable, match="worker cannot be asked to fetch"):
                repo_line(lock.models[0], address["url"])


async def test_a_folder_with_capitals_is_the_one_that_its_pack_reads(tmp_path: Path) -> None:
    async with ModelServer() as server:
        server.files["/x.safetensors"] = File(STYLE)
        async with box(tmp_path / "box", hosts=frozenset({server.host})) as there:
            address = {"by": "workflow", "url": f"{server.url}/x.safetensors"}
            lock = lock_of(locked("LLM/x.safetensors", STYLE, address))
            (ended,) = await synced(there, lock, sources(tmp_path))
            assert (ended.how, ended.error) == ("fetched", None)
            assert files_in(there.models) == {"LLM/x.safetensors": STYLE}


async def test_an_older_worker_that_takes_another_folder_is_noticed(tmp_path: Path) -> None:
    """One that was never asked may be any; one that says what it takes is not asked to."""

    class Older(FakeTarget):
        async def act(self, payload: Any, on_message: object = None) -> JsonValue:
            return {"ensured": ["llm/x.safetensors"], "fetched": ["llm/x.safetensors"]}

    lock = lock_of(locked("LLM/x.safetensors", STYLE, {"by": "workflow", "url": "https://h/x"}))
    plan = compare(lock, There("fake", models={}))
    assert plan.items[1].kind == "model"
    (step,) = steps_of(plan, Ways(), {})
    ended = await carry_out(
        SyncPlan(plan, (step,)), Older(), sources(tmp_path), lambda _: None, lambda _: None
    )
    assert "LLM/x.safetensors, but as llm/x.safetensors" in str(ended[0].error)
    there = There("fake", models={}, takes_models=frozenset({"fetch", "link"}))
    (step,) = steps_of(plan, await ways_to(Older(), there), {})
    assert (step.way, "without capitals" in step.why) == (Way.IMPOSSIBLE, True)


async def test_a_folder_that_no_worker_has_is_said(there: Box, tmp_path: Path) -> None:
    folder = "other/deeper"
    model = locked("loras/x.safetensors", STYLE).model_copy(update={"folder": folder})
    given = sources(tmp_path, comfyui_with(tmp_path))
    file = LocalModel(folder, "x.safetensors", tmp_path, len(STYLE))
    (tmp_path / "x.safetensors").write_bytes(STYLE)
    plan = compare(lock_of(model), There("ep", models={}))
    step = Step(plan.items[1], Way.SEND, here=Here(file), size=len(STYLE))
    async with there.target() as target:
        made = SyncPlan(plan, (step,))
        (ended,) = await carry_out(made, target, given, lambda _: None, lambda _: None)
    assert "cannot be named to a worker: folder" in str(ended.error)


async def test_two_syncs_at_once_to_one_target_are_one_too_many(there: Box, tmp_path: Path) -> None:
    given = sources(tmp_path, comfyui_with(tmp_path, loras__style=STYLE))
    async with alone(given.home, "ep"):
        with pytest.raises(ConfigurationError, match="Another sync"):
            async with alone(given.home, "ep"):
                pass
        async with alone(given.home, "another target"):
            pass
    async with there.target() as one, there.target() as other:
        lock = lock_of(locked("loras/style.safetensors", STYLE))
        plans = [await plan_sync(lock, target, given) for target in (one, other)]
        # Two machines: the second finds it there.
        ended = await asyncio.gather(
            carry_out(plans[0], one, sources(tmp_path / "one"), lambda _: None, lambda _: None),
            carry_out(plans[1], other, sources(tmp_path / "two"), lambda _: None, lambda _: None),
        )
    assert sorted(one.how for (one,) in ended) == ["sent", "there"]
    assert files_in(there.models) == {"loras/style.safetensors": STYLE}
