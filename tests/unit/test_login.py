"""A ComfyUI behind a login: what is sent, from where it comes, and where it must not go."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from owner import configure
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.login import login_headers
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError
from comfy_remote.secrets import secret
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.opening import open_target, reopen

SECRETS = {"TOKEN": "planted-1f0c", "PASSWORD": "planted-2b7e", "ID": "planted-3d9a"}


def headers(environment: dict[str, str] = SECRETS, **settings: object) -> dict[str, str]:
    made = login_headers("studio", TargetSettings("https://c.test", **settings), environment)  # type: ignore[arg-type]
    return {name: value.get_secret_value() for name, value in made.items()}


def test_each_kind() -> None:
    assert headers() == {}
    assert headers(key_env="TOKEN") == {"Authorization": "Bearer planted-1f0c"}
    basic = headers(user="änn", password_env="PASSWORD")["Authorization"]
    kind, pair = basic.split()
    assert (kind, base64.b64decode(pair).decode()) == ("Basic", "änn:planted-2b7e")
    access = {"CF-Access-Client-Id": "ID", "CF-Access-Client-Secret": "TOKEN"}
    assert headers(headers_env=access) == {
        "CF-Access-Client-Id": "planted-3d9a",
        "CF-Access-Client-Secret": "planted-1f0c",
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"key_env": "NOT_THERE"}, "NOT_THERE, which is not set"),
        ({"user": "ann"}, "no password_env"),
        ({"password_env": "PASSWORD"}, "no user"),
        ({"user": "ann", "password_env": "PASSWORD", "key_env": "TOKEN"}, "several logins"),
        ({"headers_env": {"authorization": "ID"}, "key_env": "TOKEN"}, "several logins"),
        ({"headers_env": {"Host": "ID"}}, "no header that can be set"),
        ({"headers_env": {"X:\r\nY": "ID"}}, "no header that can be set"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        headers(**settings)
    assert not any(value in str(caught.value) for value in SECRETS.values())


async def test_it_is_sent_with_every_request() -> None:
    async with ScriptedServer() as server:
        server.on("GET /queue", Answer({"queue_running": [], "queue_pending": []}))
        settings = TargetSettings(
            server.url, user="ann", password_env="PASSWORD", headers_env={"X-Api-Key": "TOKEN"}
        )
        target = open_target("studio", Configuration(None, {"studio": settings}), SECRETS)
        async with target:
            await target.health()
        sent = server.asked[0].headers
        assert sent["X-Api-Key"] == "planted-1f0c"
        assert sent["Authorization"].startswith("Basic ")


def test_not_in_the_clear() -> None:
    settings = TargetSettings("http://10.1.2.3:8188", user="ann", password_env="PASSWORD")
    with pytest.raises(ConfigurationError, match="in the clear"):
        open_target("studio", Configuration(None, {"studio": settings}), SECRETS)


@pytest.mark.parametrize("address", ["https://evil.test", "pod:auto", "pod:abc123xyz90"])
@pytest.mark.parametrize("variable", ["RUNPOD_API_KEY", "Runpod_Api_Key"])  # Windows: the same
def test_runpods_key_goes_nowhere_else(address: str, variable: str) -> None:
    settings = TargetSettings(address, headers_env={"X-Api-Key": variable})
    with pytest.raises(ConfigurationError, match=f"would send {variable}"):
        open_target("x", Configuration(None, {"x": settings}), {variable: "planted-4"})


def test_resumed_jobs_log_in_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    configure(
        tmp_path / "home",
        '[targets.studio]\ntarget = "https://c.test"\nuser = "ann"\npassword_env = "PASSWORD"\n'
        '[targets.any]\ntarget = "pod:auto"\nkey_env = "TOKEN"\n',
    )

    def sent(name: str, url: str) -> dict[str, str]:
        return reopen(name, RemoteRef("1", "1", {"url": url}), SECRETS)._http.authorization()  # type: ignore[attr-defined]

    assert "Authorization" in sent("studio", "https://c.test")
    assert sent("studio", "https://elsewhere.test") == {}
    assert "Authorization" in sent("any", "https://abc-8188.proxy.runpod.net")
    assert sent("any", "https://elsewhere.test") == {}
    assert sent("any", "https://elsewhere.test/.proxy.runpod.net") == {}


def test_the_key_ring_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "keyring"
    package.mkdir()
    (package / "errors.py").write_text("class KeyringError(Exception): pass\n")
    (package / "__init__.py").write_text(
        "from . import errors\n"
        "def get_password(service, name):\n"
        "    if name == 'LOCKED':\n"
        "        raise errors.KeyringError\n"
        "    if name == 'NO_BUS':\n"
        "        raise OSError('a backend that lets its own errors out')\n"
        "    return {('comfy-remote', 'TOKEN'): ' from-the-ring '}.get((service, name))\n"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "keyring"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = secret("TOKEN", {})
    assert found is not None
    assert found.get_secret_value() == "from-the-ring"
    assert secret("OTHER", {}) is None
    assert secret("LOCKED", {}) is None
    assert secret("NO_BUS", {}) is None
    assert headers({"TOKEN": "from-the-environment"}, key_env="TOKEN") == {
        "Authorization": "Bearer from-the-environment"
    }
    for name in [name for name in sys.modules if name.split(".")[0] == "keyring"]:
        del sys.modules[name]  # not by monkeypatch, which would bring it back


def test_the_page_is_told_which_secret_is_missing() -> None:
    from comfy_remote.node_pack.known_targets import describe_target

    settings = TargetSettings("https://c.test", headers_env={"X-A": "ID", "X-B": "NOT_THERE"})
    configuration = Configuration(None, {"studio": settings})
    told = describe_target("studio", configuration, SECRETS)
    assert (told.key_variable, told.key_set, told.key_needed) == ("NOT_THERE", False, True)
    told = describe_target("studio", configuration, {**SECRETS, "NOT_THERE": "x"})
    assert (told.key_variable, told.key_set, told.key_needed) == ("ID", True, True)
