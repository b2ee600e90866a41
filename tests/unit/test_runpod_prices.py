"""What RunPod says of prices: its REST API played by a server of ours.

The shapes are those of the examples in RunPod's OpenAPI document of REST API v2
(docs.runpod.io/api-reference-v2: "Get a serverless endpoint", "List GPU types", "Get a pod").
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import AuthenticationError, TargetError
from comfy_remote.jobs.prices import PriceTimes, asked_price, known_price, remembered_price
from comfy_remote.schedule.bill import Running
from comfy_remote.schedule.money import Price
from comfy_remote.targets.kinds import kind_of

KEY = "planted-key-51d7e08b42"
LIST = "RunPod's list of prices"
ENDPOINT = {
    "id": "4m7x2k9q",
    "name": "image-generator",
    "type": "QUEUE",
    "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
    "disk": 20,
    "env": {"MODEL_NAME": "sdxl"},
    "registry": None,
    "gpu": {"pools": ["ADA_24"], "count": 1, "allowedCudaVersions": [], "minCudaVersion": None},
    "workers": {"min": 0, "max": 5, "idleTimeout": 5},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "dataCenterIds": ["US-KS-2"],
    "timeout": 300000,
    "flashboot": "OFF",
    "createdAt": "2026-06-01T12:00:00Z",
}


def gpu(name: str, pool: str | None, price: Any, **more: Any) -> dict[str, Any]:
    prices = {"secure": 0.44, "community": 0.31}
    return {
        "id": name,
        "name": name.removeprefix("NVIDIA "),
        "pool": pool,
        "manufacturer": "NVIDIA",
        "memory": 24,
        "secure": True,
        "community": True,
        "price": prices if price is None else {**prices, "serverless": price},
        "maxCount": {"secure": 8, "community": 4},
        **more,
    }


GPUS = [
    gpu("NVIDIA GeForce RTX 4090", "ADA_24", 1.1),
    gpu("NVIDIA L4", "AMPERE_24", 0.68),
    gpu("NVIDIA GeForce RTX 3090", "AMPERE_24", 0.68),
    gpu("NVIDIA L40", "ADA_48_PRO", 1.9),
    gpu("NVIDIA L40S", "ADA_48_PRO", 1.91),
    gpu("NVIDIA B300 SXM6 AC", "NEW_288", None),
    gpu("NVIDIA GeForce RTX 3070", None, None),
]
PATH = "GET /v2/serverless/4m7x2k9q"
CATALOG = "GET /v2/catalog/gpus"


def endpoint(*pools: str, **gpus: Any) -> dict[str, Any]:
    return {**ENDPOINT, "gpu": {"pools": list(pools), "count": 1, **gpus}}


async def price_at(
    server: ScriptedServer, settings: TargetSettings | None = None, **more: str
) -> Price | None:
    environment = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url, **more}
    settings = settings or TargetSettings("runpod:4m7x2k9q")
    kind = kind_of(settings.target)
    assert kind is not None
    return await kind.price(settings, environment)


@pytest.mark.parametrize(
    ("found", "price"),
    [
        (endpoint("ADA_24"), Price(1.1, LIST)),
        (endpoint("ADA_24", count=2), Price(2.2, LIST)),
        # Whichever is free: the dearest one is counted, the cheapest shown.
        (endpoint("AMPERE_24", "ADA_24"), Price(1.1, LIST, lowest=0.68)),
        (endpoint("ADA_48_PRO", count=2), Price(3.82, LIST, lowest=3.8)),
        (endpoint("ADA_48_PRO", excludedTypes=[" NVIDIA L40S"]), Price(1.9, LIST)),
        (
            endpoint("AMPERE_24", "ADA_24", excludedTypes=["NVIDIA GeForce RTX 4090"]),
            Price(0.68, LIST),
        ),
        # Active workers cost even if nothing runs.
        (
            {**endpoint("ADA_24"), "workers": {"min": 2, "max": 5}},
            Price(1.1, LIST, standing=2.2),
        ),
        # A pool without a price may be the dearest.
        (endpoint("ADA_24", "NEW_288"), None),
        (endpoint("ADA_24", "UNHEARD_OF"), None),
        (endpoint("ADA_24", count=0), None),
        (endpoint(), None),
        ({**ENDPOINT, "gpu": None, "cpu": [{"id": "cpu5c", "vcpu": 4, "memory": 8}]}, None),
    ],
)
async def test_an_endpoints_price(found: dict[str, Any], price: Price | None) -> None:
    async with ScriptedServer() as server:
        server.on(PATH, Answer(found))
        server.on(CATALOG, Answer({"gpus": GPUS}))
        assert await price_at(server) == price
        assert {one.headers["Authorization"] for one in server.asked} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("odd", [-1.1, 0, "1.1", True, None, [], {"usd": 1}, 1e9, 1e308])
async def test_what_can_be_no_price_is_unknown(odd: Any) -> None:
    async with ScriptedServer() as server:
        server.on(PATH, Answer(endpoint("ADA_24")))
        there = {**gpu("NVIDIA GeForce RTX 4090", "ADA_24", 1.0), "price": {"serverless": odd}}
        server.on(CATALOG, Answer({"gpus": [there]}))
        assert await price_at(server) is None
        for text in (b"NaN", b"Infinity", b"1e999"):
            body = b'{"gpus": [{"id": "x", "pool": "ADA_24", "price": {"serverless": %s}}]}' % text
            server.on(CATALOG, Answer(body, headers={"Content-Type": "application/json"}))
            assert await price_at(server) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>Log in</html>", headers={"Content-Type": "text/html"}),
        Answer(b'{"gpus": "' + b"x" * 10 * 2**20 + b'"}'),
        Answer({"gpus": {"id": "x"}}),
        Answer([]),
        Answer({"gpus": [{"name": "without an id"}]}),
    ],
)
async def test_an_answer_that_is_none(answer: Answer) -> None:
    async with ScriptedServer() as server:
        server.on(PATH, Answer(ENDPOINT))
        server.on(CATALOG, answer)
        with pytest.raises(TargetError):
            await price_at(server)


async def test_who_has_no_price(tmp_path: Path) -> None:
    """No key, another account's endpoint, a gateway of one's own: nothing is guessed."""
    async with ScriptedServer() as server:
        server.on(CATALOG, Answer({"gpus": GPUS}))
        assert await price_at(server) is None, "404: another account's"
        configuration = Configuration(None, {})
        for keys, why in (
            ({"RUNPOD_API_KEY": KEY}, "does not say"),
            ({}, "RUNPOD_API_KEY, by which its provider is asked, is not set"),
        ):
            own = {**keys, "RUNPOD_API_BASE_URL": server.url, "COMFY_REMOTE_HOME": str(tmp_path)}
            quote = await asked_price("runpod:4m7x2k9q", configuration, own)
            assert quote.price is None
            assert why in quote.why
        asked = len(server.asked)
        environment = {"RUNPOD_API_BASE_URL": server.url, "COMFY_REMOTE_HOME": "/nowhere"}
        kind = kind_of("runpod:x")
        assert kind is not None
        assert await kind.price(TargetSettings("runpod:4m7x2k9q"), environment) is None
        for base_url in ("http://127.0.0.1:9/v2", "https://box.local:8000/v2"):
            own = TargetSettings("runpod:4m7x2k9q", base_url=base_url)
            assert kind.priced_as(own, environment) is None
            assert await price_at(server, own) is None
        assert len(server.asked) == asked


async def test_a_key_that_may_not_ask() -> None:
    for status in (401, 403):
        async with ScriptedServer() as server:
            server.on(PATH, Answer({"title": "no", "status": status, "detail": KEY}, status))
            with pytest.raises(AuthenticationError) as caught:
                await price_at(server)
            assert KEY not in str(caught.value)


async def test_one_price_for_each_endpoint_and_api() -> None:
    kind = kind_of("runpod:x")
    assert kind is not None

    def priced_as(target: str, **environment: str) -> str | None:
        return kind.priced_as(TargetSettings(target), environment)

    one = priced_as("runpod:abc")
    assert one == "https://api.runpod.io/v2/serverless/abc"
    assert priced_as("runpod:", RUNPOD_ENDPOINT_ID="abc") == one
    assert priced_as("runpod:abcd") != one
    assert priced_as("runpod:abc", RUNPOD_API_BASE_URL="http://127.0.0.1:1") != one
    assert priced_as("runpod:") is None


async def test_active_workers_cost_money_all_the_time() -> None:
    kind = kind_of("runpod:x")
    assert kind is not None
    active = {**endpoint("ADA_24", count=2), "workers": {"min": 2, "max": 5}}
    unpriced = {**active, "id": "other", "name": "", "gpu": {"pools": ["NEW_288"]}}
    async with ScriptedServer() as server:
        keys = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url}
        server.on("GET /v2/serverless", Answer({"endpoints": [ENDPOINT, active, unpriced]}))
        server.on(CATALOG, Answer({"gpus": GPUS}))
        assert await kind.running(keys) == [
            Running("runpod:4m7x2k9q", "image-generator, 2 active workers", 4.4, None),
            Running("runpod:other", "2 active workers", None, None),
        ]
        server.on("GET /v2/serverless", Answer({"endpoints": [ENDPOINT]}))
        assert await kind.running(keys) == []
        assert await kind.running({}) is None


async def test_pods_are_billed_by_the_hour() -> None:
    pod = {"id": "7h9k2m4n6pxx", "status": "RUNNING", "cost": 0.44}
    settings = TargetSettings("7h9k2m4n6pxx-8188.proxy.runpod.net")
    async with ScriptedServer() as server:
        server.on("GET /v2/pods/7h9k2m4n6pxx", Answer(pod))
        assert await price_at(server, settings) == Price(0.44, "RunPod")
        assert await price_at(server, TargetSettings("pod:7h9k2m4n6pxx")) == Price(0.44, "RunPod")
        assert await price_at(server, TargetSettings("pod:another000")) is None
        assert await price_at(server, TargetSettings("pod:auto")) is None
        for cost in (0.0, -1.0, None):
            server.on("GET /v2/pods/7h9k2m4n6pxx", Answer({**pod, "cost": cost}))
            assert await price_at(server, settings) is None


async def test_a_run_gets_it_by_one_question(tmp_path: Any) -> None:
    configuration = Configuration(None, {"gpu": TargetSettings("runpod:4m7x2k9q")})
    async with ScriptedServer() as server:
        environment = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_API_BASE_URL": server.url,
            "COMFY_REMOTE_HOME": str(tmp_path),
        }
        server.on(PATH, Answer(ENDPOINT))
        server.on(CATALOG, Answer({"gpus": GPUS}))
        for _ in range(3):
            price = await known_price("gpu", configuration, environment)
            assert price is not None
            assert price.per_hour == 1.1
            assert price.source == LIST
        assert len(server.asked) == 2
        (stored,) = (tmp_path / "prices").iterdir()
        assert KEY not in stored.read_text()

        # It stays if RunPod no longer says it.
        server.on(PATH, Answer({"title": "Forbidden", "status": 403, "detail": "no"}, 403))
        price, why = await asked_price("gpu", configuration, environment)
        assert price is not None
        assert why == ""


async def test_a_run_waits_for_a_silent_api_once(tmp_path: Any) -> None:
    configuration = Configuration(None, {"gpu": TargetSettings("runpod:4m7x2k9q")})
    ended = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await ended.wait()
        return web.Response(status=500)

    async with ScriptedServer() as server:
        environment = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_API_BASE_URL": server.url,
            "COMFY_REMOTE_HOME": str(tmp_path),
        }
        server.on(PATH, silent)
        times = PriceTimes(patience=0.3)
        assert await known_price("gpu", configuration, environment, times=times) is None
        assert await known_price("gpu", configuration, environment, times=times) is None
        assert len(server.asked) <= 1
        price, why = remembered_price("gpu", configuration, environment)
        assert price is None
        assert "did not answer within 0.3 s" in why
        ended.set()
