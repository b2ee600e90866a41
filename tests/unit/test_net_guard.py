"""Addresses that somebody else names: asked only where they lead to public servers."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from comfy_remote.errors import ConfigurationError, TargetError
from comfy_remote.net.address import base_address, host_list, is_loopback
from comfy_remote.net.guard import Guard, GuardedResolver, PrivateAddress, is_public, proxy_for

WHAT = "An output's address"
NOBODY = Guard()
BOX = Guard(origin=URL("http://127.0.0.1:8000/v2/local"))


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.example.com/a.png?signature=s",
        "https://8.8.8.8/a.png",
        "https://[2606:4700::1111]/a.png",
        "https://[64:ff9b::808:808]/a.png",
        "https://xn--bcher-kva.example/a.png",
    ],
)
def test_public_https_is_asked(url: str) -> None:
    assert NOBODY.check(url, WHAT) == URL(url)


PRIVATE = [
    "http://bucket.example.com/a.png",
    "https://192.168.1.1/a.png",
    "https://10.0.0.1/a.png",
    "https://100.64.0.1/a.png",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/metadata",
    "https://192.0.0.192/latest",
    "https://[::ffff:192.0.0.192]/latest",
    "https://224.0.0.1/a.png",
    "https://0.0.0.0/a.png",
    "https://[::]/a.png",
    "https://[::1]:9000/a.png",
    "https://[fe80::1]/a.png",
    "https://[fe80::1%25eth0]/a.png",
    "https://[2606:4700::1111%25eth0]/a.png",
    "https://[fd00:ec2::254]/a.png",
    "https://[fec0::1]/a.png",
    "https://[ff0e::1]/a.png",
    "https://[::ffff:10.0.0.1]/a.png",
    "https://[::ffff:7f00:1]/a.png",
    "https://[::7f00:1]/a.png",
    "https://[64:ff9b::7f00:1]/a.png",
    "https://[64:ff9b:1::7f00:1]/a.png",
    "https://[2002:7f00:1::]/a.png",
    "https://[2001:0:7f00:1::1]/a.png",
    "https://localhost/a.png",
    "https://localhost./a.png",
    "https://LOCALHOST/a.png",
    "https://ⓛocalhost/a.png",
    "https://2130706433/a.png",
    "https://127.1/a.png",
    "https://127.0.0.1./a.png",
    "https://0177.0.0.1/a.png",
    "https://0x7f.1/a.png",
    "https://0X7F000001/a.png",
    "https://①②⑦.⓪.⓪.①/a.png",
    "https://127。0。0。1/a.png",
    "https://127.0.0.1%2f.example.com/a.png",
    "https://8.8.8.8 /a.png",
    "file:///etc/passwd",
    "gopher://bucket.example.com/a.png",
    "https://user:password@bucket.example.com/a.png",
    "https://bucket.example.com\\@127.0.0.1/a.png",
    "https://@127.0.0.1/a.png",
    "//bucket.example.com/a.png",
    "no address",
    "",
    "https://a..b/a.png",
    f"https://{'a' * 64}.com/a.png",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_everything_else_is_refused_and_the_signature_is_not_shown(url: str) -> None:
    for guard in (NOBODY, BOX):
        with pytest.raises(TargetError, match=WHAT) as caught:
            guard.check(f"{url}?signature=planted", WHAT)
        assert "planted" not in str(caught.value)
        assert "password" not in str(caught.value).replace("a user name or a password", "")


def test_who_names_an_address_may_name_its_own() -> None:
    url = "http://127.0.0.1:8000/files/a.png?x=1"
    assert BOX.check(url, WHAT) == URL(url)
    for other in ("http://127.0.0.1:8188/a", "https://127.0.0.1:8000/a", "http://localhost:8000/a"):
        with pytest.raises(TargetError, match=r"private network|not https"):
            BOX.check(other, WHAT)


def test_what_the_owner_has_named_may_be_private() -> None:
    guard = Guard(host_list({"HOSTS": "nas.local:9000, 10.0.0.5  [fd00::5]:9000"}, "HOSTS"))
    for url in ("http://nas.local:9000/a", "https://10.0.0.5/a", "http://[fd00::5]:9000/a"):
        assert guard.check(url, WHAT) == URL(url)
    for url in ("http://nas.local:9001/a", "https://10.0.0.6/a", "https://[fd00::5]:9001/a"):
        with pytest.raises(TargetError):
            guard.check(url, WHAT)
    careful = Guard(
        host_list({"HOSTS": "nas.local:9000 127.0.0.1:9000"}, "HOSTS"), named_http=False
    )
    careful.check("http://127.0.0.1:9000/a", WHAT)
    with pytest.raises(TargetError, match="not https"):
        careful.check("http://nas.local:9000/a", WHAT)
    careful.check("http://nas.local:9000/a", WHAT, plain_http=True)


def test_plain_http_does_not_open_the_private_network() -> None:
    NOBODY.check("http://bucket.example.com/a", WHAT, plain_http=True)
    with pytest.raises(TargetError, match="private network"):
        NOBODY.check("http://10.0.0.1/a", WHAT, plain_http=True)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "1.2.3.4.5", "1"])
def test_nobodys_address_may_be_a_number_in_disguise(host: str) -> None:
    with pytest.raises(ConfigurationError, match="unusual form"):
        base_address(f"http://{host}:8188")


def test_names_that_merely_hold_numbers_are_names() -> None:
    for host in ("box1.lan", "1password.example", "a-1", "0x7f.example", "4090-box"):
        assert base_address(f"http://{host}:8188").host == host


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.", "127.0.0.9", "::1", "::ffff:127.0.0.1"]
)
def test_this_machine_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


def test_an_address_in_another_one_is_judged() -> None:
    assert is_public(ipaddress.ip_address("2002:0808:0808::"))
    assert not is_public(ipaddress.ip_address("2002:0a00:0001::"))


# --- what a name resolves to --------------------------------------------------------------


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def resolve(
        self: object, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[dict[str, object]]:
        return [{"hostname": host, "host": one, "port": port} for one in addresses]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)


async def test_a_name_is_used_with_its_public_addresses_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "10.0.0.1", "93.184.216.34", "::1", "64:ff9b::7f00:1")
    [one] = await GuardedResolver(NOBODY).resolve("evil.example", 443)
    assert one["host"] == "93.184.216.34"
    resolves_to(monkeypatch, "127.0.0.1", "fe80::1%2", "169.254.169.254")
    with pytest.raises(PrivateAddress, match="private address"):
        await GuardedResolver(NOBODY).resolve("evil.example", 443)


async def test_only_the_named_port_of_a_host_may_be_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "10.0.0.1")
    resolver = GuardedResolver(
        Guard(host_list({"HOSTS": "nas.local:9000"}, "HOSTS"), origin=URL("https://box.lan"))
    )
    assert await resolver.resolve("nas.local", 9000)
    assert await resolver.resolve("box.lan", 443)
    for host, port in (("nas.local", 443), ("box.lan", 8443), ("evil.example", 443)):
        with pytest.raises(PrivateAddress):
            await resolver.resolve(host, port)


def test_the_environments_proxy_is_used_but_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "intern.example.com")
    assert proxy_for(URL("https://api.runpod.ai/v2")) == "http://proxy.example.com:3128"
    assert proxy_for(URL("https://intern.example.com/")) is None
    assert proxy_for(URL("https://127.0.0.1:8000/v2")) is None
    assert proxy_for(URL("http://192.168.1.20:8188")) is None


@pytest.mark.parametrize("entry", ["http://nas.local/", "nas.local/path", "nas.local:port", "a@b"])
def test_a_setting_that_can_match_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HOSTS has .*, which is not a host") as caught:
        host_list({"HOSTS": f"other.local, {entry}"}, "HOSTS")
    assert "nas.local:9000" in caught.value.advice


def test_a_list_of_hosts_has_names_addresses_and_ports() -> None:
    hosts = host_list(
        {"HOSTS": "NAS.local:9000, 10.0.0.5 fd00::5 [fd00::6]:9000,müller.example"}, "HOSTS"
    )
    assert hosts == {"nas.local:9000", "10.0.0.5", "fd00::5", "[fd00::6]:9000", "müller.example"}
