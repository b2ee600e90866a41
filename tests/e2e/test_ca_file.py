"""A server behind its own certificate is a setting of its target, and of no other."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from comfy_remote.config.settings import Configuration
from comfy_remote.errors import ComfyRemoteError, ConfigurationError, NotTrusted, TargetUnreachable
from comfy_remote.gateway import GatewayServer
from comfy_remote.jobs.client import Client, resume
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import OneEngine
from comfy_remote.targets.opening import open_target
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

PICTURE: Any = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tls"}},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=made)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(made))
    monkeypatch.setenv("BOX_TOKEN", "a-token-of-ours-for-tests")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return made


@pytest.fixture
def context(home: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(home / "cert.pem", home / "key.pem")
    return made


@pytest_asyncio.fixture
async def comfyui(context: ssl.SSLContext) -> AsyncIterator[str]:
    """What answers as a ComfyUI, by HTTPS."""

    async def stats(_: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "0.33.0"}, "devices": []})

    app = web.Application()
    app.add_routes([web.get("/system_stats", stats)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def configure(folder: Path, *lines: str) -> None:
    (folder / "comfy-remote.toml").write_text("\n".join(lines) + "\n")


async def version_at(name: str) -> str | None:
    target = open_target(name)
    async with target:
        assert isinstance(target, OneEngine)
        return (await target.describe(())).engine


async def test_a_comfyui_is_reached_by_its_own_certificate_alone(home: Path, comfyui: str) -> None:
    said = f'target = "{comfyui}"'
    configure(home, "[targets.own]", said, 'ca_file = "cert.pem"', "[targets.plain]", said)
    assert "0.33.0" in str(await version_at("own"))
    with pytest.raises(TargetUnreachable, match="certificate is not trusted") as refused:
        await version_at("plain")
    assert "ca_file of the target" in refused.value.advice


async def test_a_job_goes_through_a_gateway_with_its_own_certificate_and_is_resumed(
    home: Path, context: ssl.SSLContext, sandbox_url: str
) -> None:
    async with GatewayServer(
        ssl_context=context, token=SecretStr("a-token-of-ours-for-tests")
    ) as gateway:
        settings = WorkerSettings.from_environ({"COMFY_REMOTE_WORKER_DIR": str(home / "worker")})
        gateway.add_local_worker(JobHandler(Engine.named(sandbox_url, {}), settings))
        configure(
            home,
            "[targets.box]",
            'target = "runpod:local"',
            f'base_url = "{gateway.url}"',
            'key_env = "BOX_TOKEN"',
            'ca_file = "cert.pem"',
        )
        with Record(home) as record:
            async with Client("box", record=record) as client:
                job = await client.submit(PICTURE)
                assert len(await job.outputs()) == 1
            async with resume(job.id, record=record) as again:
                assert len(await again.outputs()) == 1


async def test_a_file_that_has_no_certificates_is_said(home: Path) -> None:
    (home / "cert.pem").write_text("nothing")
    for file in ("cert.pem", "nowhere.pem"):
        configure(home, "[targets.own]", 'target = "https://127.0.0.1:1"', f'ca_file = "{file}"')
        with pytest.raises(ConfigurationError, match="cannot be used") as refused:
            open_target("own")
        assert str(home / file) in refused.value.message


def test_a_folders_certificates_are_asked_for(home: Path) -> None:
    """Whoever makes us trust a certificate can be the server."""
    here = Path.cwd()
    configure(here, "[targets.own]", 'target = "https://127.0.0.1:1"', 'ca_file = "theirs.pem"')
    untrusted = Configuration.load().untrusted
    assert untrusted is not None and 'ca_file = "theirs.pem"' in untrusted.named[0]
    with pytest.raises(NotTrusted):
        open_target("own")
    assert issubclass(NotTrusted, ComfyRemoteError)
