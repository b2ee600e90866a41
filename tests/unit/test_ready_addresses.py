"""`comfy_remote.ready.addresses`: where models can be had, asked of Hugging Face and Civitai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from model_server import File, ModelServer, sha256
from pydantic import SecretStr
from registry_double import RegistryDouble, entry
from yarl import URL

from comfy_remote.ready.addresses import with_addresses
from comfy_remote.ready.lock import Address, Lock, LockedModel
from comfy_remote.schemas.registry import RegisteredPack, Registry
from comfy_remote.worker.models.settings import ModelSettings

CONTENT = b"weights" * 100
HASH = sha256(CONTENT)
HUB = "https://huggingface.co/org/repo/blob/main/sd.safetensors"
RESOLVE = "/org/repo/resolve/main/sd.safetensors"
BY_HASH = f"/api/v1/model-versions/by-hash/{HASH}"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def settings(server: ModelServer) -> ModelSettings:
    """Both sites are that server; each token goes to its own."""
    return ModelSettings(
        hugging_face=URL(f"http://{server.host.replace('127.0.0.1', 'localhost')}"),
        hugging_face_token=SecretStr("hub-token"),
        civitai=URL(server.url),
        civitai_token=SecretStr("civitai-token"),
    )


def lock_of(**fields: object) -> Lock:
    model = {"folder": "checkpoints", "name": "sd.safetensors", **fields}
    return Lock(models=(LockedModel.model_validate(model),))


def hub_file(content: bytes = CONTENT) -> File:
    linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
    return File(content, headers=linked)


def version(*files: dict[str, object]) -> dict[str, object]:
    return {"id": 77, "modelId": 7, "model": {"type": "Checkpoint"}, "files": list(files)}


async def test_a_file_that_is_not_here_is_known_by_its_address_on_the_hub(
    server: ModelServer,
) -> None:
    server.files[RESOLVE] = hub_file()
    lock = lock_of(addresses=[Address(by="workflow", url=HUB)], unknown="it is not here")
    found = await with_addresses(lock, settings(server))
    [model] = found.lock.models
    assert (model.size, model.sha256, model.unknown) == (len(CONTENT), HASH, None)
    assert found.notes == ()
    asked = {one.path: one.headers.get("Authorization") for one in server.asked}
    assert asked == {RESOLVE: "Bearer hub-token", BY_HASH: "Bearer civitai-token"}
    assert all(one.probe for one in server.asked if one.path == RESOLVE)


async def test_an_address_with_another_file_is_left_out(server: ModelServer) -> None:
    server.files[RESOLVE] = hub_file(b"another")
    lock = lock_of(size=1, sha256=HASH, addresses=[Address(by="workflow", url=HUB)])
    found = await with_addresses(lock, settings(server))
    assert found.lock.models[0].addresses == ()
    assert found.lock.models[0].sha256 == HASH
    [note] = found.notes
    assert "has another file than the one that is needed" in note


async def test_civitai_finds_a_file_by_its_hash(server: ModelServer) -> None:
    other = {"name": "b", "primary": True, "hashes": {"SHA256": "0" * 64}}
    server.json[BY_HASH] = version(
        other, {"name": "a", "hashes": {"SHA256": HASH.upper()}, "metadata": {"fp": "fp16"}}
    )
    found = await with_addresses(lock_of(size=len(CONTENT), sha256=HASH), settings(server))
    assert found.lock.models[0].addresses == (
        Address(by="civitai", url="https://civitai.com/api/download/models/77?type=Model&fp=fp16"),
    )
    server.json[BY_HASH] = version({"name": "a", "primary": True, "hashes": {"SHA256": HASH}})
    found = await with_addresses(lock_of(sha256=HASH), settings(server))
    assert found.lock.models[0].addresses == (
        Address(by="civitai", url="https://civitai.com/api/download/models/77"),
    )


async def test_a_version_that_lacks_the_file_is_no_address(server: ModelServer) -> None:
    server.json[BY_HASH] = version({"name": "a", "hashes": {"SHA256": "0" * 64}})
    lock = lock_of(sha256=HASH)
    found = await with_addresses(lock, settings(server))
    assert (found.lock, found.notes) == (lock, ())


async def test_nobody_else_is_asked(server: ModelServer) -> None:
    elsewhere = Address(by="workflow", url="https://example.com/sd.safetensors")
    lock = lock_of(addresses=[elsewhere, Address(by="x", url="r2:checkpoints/sd.safetensors")])
    found = await with_addresses(lock, settings(server))
    assert (found.lock, found.notes, server.asked) == (lock, (), [])


async def test_a_site_that_fails_is_said_and_takes_nothing_away(server: ModelServer) -> None:
    server.files[RESOLVE] = File(statuses=[503] * 9)
    server.files[BY_HASH] = File(statuses=[503] * 9)
    lock = lock_of(sha256=HASH, addresses=[Address(by="workflow", url=HUB)])
    found = await with_addresses(lock, settings(server))
    assert found.lock == lock
    assert found.notes == (
        "Not all models could be looked for: Civitai, Hugging Face did not answer.",
    )


async def test_a_file_that_is_gone_is_said(server: ModelServer) -> None:
    lock = lock_of(addresses=[Address(by="workflow", url=HUB)], unknown="it is not here")
    found = await with_addresses(lock, settings(server))
    assert found.lock == lock
    [note] = found.notes
    assert note.startswith("checkpoints/sd.safetensors: There is no hf:org/repo/sd.safetensors")


async def test_all_of_it_has_a_time_limit(server: ModelServer) -> None:
    async def never(_request: web.Request) -> None:
        await asyncio.Event().wait()

    server.files[RESOLVE] = File(on_request=never)
    lock = lock_of(addresses=[Address(by="workflow", url=HUB)])
    found = await with_addresses(lock, settings(server), patience=0.3)
    assert found.lock == lock
    assert found.notes == ("1 model could not be looked for within 0.3 s.",)


async def test_the_registry_says_which_pack_a_class_is_of(tmp_path: Path) -> None:
    double = RegistryDouble({"their-pack": {"1.0.0": [], "1.1.0": [entry("A Node|x", {}, [])]}})
    async with double.serving() as address:
        registry = Registry(tmp_path, address)
        for _ in range(2):  # the second time from the disk
            asked = await registry.packs_of(["A Node|x", "Nobody's"])
            assert asked.packs == {
                "A Node|x": RegisteredPack(
                    "their-pack", "1.1.0", "https://github.com/someone/their-pack"
                )
            }
            assert asked.problem == ""
        assert double.asked == ["/comfy-nodes/A Node|x/node", "/comfy-nodes/Nobody's/node"]
