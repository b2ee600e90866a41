"""What a registry says of an image: the token protocol and the manifests, by a server of ours."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_server import Answer, ScriptedServer

from comfy_remote.deploy.runpod.image import ImageFacts, image_facts
from comfy_remote.net.guard import Guard

MANIFEST = "GET /v2/owner/worker/manifests/1"
LAYERS = {
    "schemaVersion": 2,
    "config": {"size": 9000},
    "layers": [{"digest": "sha256:a", "size": 30_000_000}, {"digest": "sha256:b", "size": 5}],
}
DIGEST = "sha256:" + "0" * 64


def entry(system: str, architecture: str, digest: str) -> dict[str, Any]:
    return {"digest": digest, "platform": {"os": system, "architecture": architecture}}


async def facts(server: ScriptedServer, reference: str = "owner/worker:1") -> ImageFacts:
    host = server.url.removeprefix("http://")
    return await image_facts(f"{host}/{reference}", guard=Guard(frozenset({host})), seconds=20)


def login(server: ScriptedServer) -> Answer:
    realm = f'Bearer realm="{server.url}/token",service="here",scope="repository:owner/worker:pull"'
    return Answer({"errors": []}, 401, {"WWW-Authenticate": realm})


async def test_a_public_image_and_its_size() -> None:
    async with ScriptedServer() as server:
        server.on(MANIFEST, login(server), Answer(LAYERS))
        server.on("GET /token", Answer({"token": "anybodys"}))
        assert await facts(server) == ImageFacts("public", 30_000_005)
        first, _, second = server.asked
        assert "Authorization" not in first.headers
        assert second.headers["Authorization"] == "Bearer anybodys"


async def test_an_image_for_several_systems() -> None:
    others = [entry("linux", "arm64", "sha256:arm"), entry("linux", "amd64", DIGEST)]
    async with ScriptedServer() as server:
        server.on(MANIFEST, Answer({"manifests": others}))
        server.on(f"GET /v2/owner/worker/manifests/{DIGEST}", Answer(LAYERS))
        assert await facts(server) == ImageFacts("public", 30_000_005)
        assert await facts(server, f"owner/worker@{DIGEST}") == ImageFacts("public", 30_000_005)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_image_that_is_not_there_or_wants_a_login(status: int) -> None:
    async with ScriptedServer() as server:
        server.on(MANIFEST, login(server), Answer({"errors": []}, status))
        server.on("GET /token", Answer({"access_token": "anybodys"}))
        assert await facts(server) == ImageFacts("not public")
        server.on(MANIFEST, login(server))
        server.on("GET /token", Answer({}, 403))
        assert await facts(server) == ImageFacts("not public")


@pytest.mark.parametrize("answer", [Answer({}, 503), Answer(b"<html>"), Answer(b"[" * 10**6)])
async def test_a_registry_that_does_not_answer_so_raises_nothing(answer: Answer) -> None:
    async with ScriptedServer() as server:
        server.on(MANIFEST, answer)
        assert (await facts(server)).size is None
    assert await facts(server) == ImageFacts("unknown")  # nobody is there


@pytest.mark.parametrize("reference", ["127.0.0.1:5000/x:1", "10.0.0.1/x", "a b", "UPPER:1", ""])
async def test_no_other_address_is_asked(reference: str) -> None:
    assert await image_facts(reference) == ImageFacts("unknown")
