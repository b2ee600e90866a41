"""Webhooks signed as Standard Webhooks has it."""

from __future__ import annotations

import asyncio
import base64
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.resolver import ThreadedResolver
from helpers import until
from pydantic import JsonValue, SecretStr

from comfy_remote.errors import ConfigurationError
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.webhook import deliver, signed_headers, webhook_guard, webhook_key


def test_the_specifications_own_example() -> None:
    # github.com/standard-webhooks/standard-webhooks, spec, "Symmetric signatures"
    key = webhook_key(SecretStr("whsec_plJ3nmyCDGBKInavdOK15jsl"))
    headers = signed_headers(
        key, "msg_loFOjxBNrRLzqYUf", 1731705121, b'{"event_type":"ping","data":{"success":true}}'
    )
    assert headers == {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": "1731705121",
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", "A" * 200])
def test_a_secret_of_another_form_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        webhook_key(SecretStr(secret))
    assert not secret or secret not in str(caught.value) or secret == "whsec_"


async def test_a_gateway_with_a_secret_signs_what_it_sends() -> None:
    calls: list[tuple[dict[str, str], bytes]] = []

    async def receive(request: web.Request) -> web.Response:
        calls.append((dict(request.headers), await request.read()))
        return web.Response()

    async def echo(job_id: str, payload: JsonValue, report: object) -> dict[str, JsonValue]:
        return {"said": payload} if calls else {"error": "not yet"}

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    secret = SecretStr("whsec_" + base64.b64encode(bytes(range(32))).decode())
    try:
        limits = GatewayLimits(webhook_hosts=frozenset({"127.0.0.1"}))
        async with GatewayServer(webhook_secret=secret, limits=limits) as gateway:
            gateway.add_local_worker(echo)
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"{gateway.endpoint_url}/run", json={"input": {"x": 1}, "webhook": hook}
                ) as answer,
            ):
                job_id = (await answer.json())["id"]
                await until(lambda: calls)
                await gateway.endpoint.retry(job_id)
                await until(lambda: len(calls) == 2)
    finally:
        await runner.cleanup()
    (first, failed), (second, completed) = calls
    assert json.loads(failed)["error"] == "not yet"
    assert json.loads(completed)["output"] == {"said": {"x": 1}}
    for headers, body in calls:
        message, sent = headers["webhook-id"], int(headers["webhook-timestamp"])
        assert message.startswith(f"{job_id}.")
        expected = signed_headers(bytes(range(32)), message, sent, body)
        assert headers["webhook-signature"] == expected["webhook-signature"]
    # A receiver that drops what it has got already takes the second.
    assert first["webhook-id"] != second["webhook-id"]


async def test_a_webhook_whose_name_leads_into_the_private_network_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    connected: list[object] = []

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        accepted = await deliver(
            f"https://rebound.example:{port}/hook?token=planted",
            b"{}",
            guard=webhook_guard(GatewayLimits()),
            retry_delay=0.0,
        )
    assert not accepted
    assert connected == []
    assert "private network" in caplog.text
    assert "planted" not in caplog.text
