"""Addresses that a worker's answer names: fetched only where they lead out of the house."""

from __future__ import annotations

import pytest
from yarl import URL

from comfy_remote.errors import TargetError
from comfy_remote.net.guard import PublicResolver, checked, proxy_for


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.example.com/a.png?signature=s",
        "https://8.8.8.8/a.png",
        "http://127.0.0.1:9000/a.png",
        "http://[::1]:9000/a.png",
        "https://localhost/a.png",
    ],
)
def test_public_https_and_this_machine_are_fetched(url: str) -> None:
    assert checked(url, target_is_here=True) == URL(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8188/view", "https://[::1]:9000/a.png", "https://localhost/a.png"]
)
def test_a_target_elsewhere_cannot_make_us_call_this_machines_servers(url: str) -> None:
    with pytest.raises(TargetError, match=r"private network|not https"):
        checked(url, target_is_here=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket.example.com/a.png",
        "https://192.168.1.1/a.png",
        "https://10.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/a.png",
        "https://[::ffff:10.0.0.1]/a.png",
        "https://0.0.0.0/a.png",
        "file:///etc/passwd",
        "https://user:password@bucket.example.com/a.png",
        "no address",
        "https://a..b/a.png",
        f"https://{'a' * 64}.com/a.png",
    ],
)
def test_everything_else_is_refused_and_the_signature_is_not_shown(url: str) -> None:
    with pytest.raises(TargetError) as caught:
        checked(f"{url}?signature=planted", target_is_here=True)
    assert "planted" not in str(caught.value)
    assert "password" not in str(caught.value).replace("a user name or a password", "")


async def test_a_name_that_leads_to_a_private_address_is_not_followed() -> None:
    resolver = PublicResolver()
    with pytest.raises(OSError, match="private address"):
        await resolver.resolve("localhost", 443)
    await resolver.close()


def test_the_environments_proxy_is_used_but_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "intern.example.com")
    assert proxy_for(URL("https://api.runpod.ai/v2")) == "http://proxy.example.com:3128"
    assert proxy_for(URL("https://intern.example.com/")) is None
    assert proxy_for(URL("https://127.0.0.1:8000/v2")) is None
    assert proxy_for(URL("http://192.168.1.20:8188")) is None
