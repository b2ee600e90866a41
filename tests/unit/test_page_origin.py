"""Which requests another site's page may have made: by Origin, by Host, and by neither."""

from __future__ import annotations

import socket

import pytest

from comfy_remote.net.own_names import allowed_by_environment, is_own_name
from comfy_remote.net.page_origin import from_another_page, page_refusal

LAN = "192.168.1.20:8188"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188"),
        (LAN, f"http://{LAN}"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("Studio.localhost:8188", "http://studio.localhost:8188"),
        ("localhost", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("abc123-8188.proxy.runpod.net", "https://abc123-8188.proxy.runpod.net"),
        (f"{socket.gethostname()}:8188", f"http://{socket.gethostname().lower()}:8188"),
        (f"{socket.gethostname()}.local:8188", f"http://{socket.gethostname().lower()}.local:8188"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_servers_own_page_is_answered(host: str, origin: str, method: str) -> None:
    headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
    assert page_refusal(method, headers) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (LAN, "http://evil.example"),  # ComfyUI answers this one
        (LAN, "null"),
        (LAN, "http://192.168.1.20"),  # another server of the same machine
        (LAN, "http://192.168.1.20:3000"),
        (LAN, "http://192.168.1.21:8188"),
        (LAN, f"http://{LAN}.evil.example"),
        (LAN, f"http://evil.example#{LAN}"),
        (LAN, f"http://evil.example/{LAN}"),
        (LAN, "chrome-extension://abcdef"),
        (LAN, "http://["),
        (LAN, "http://192.168.1.20:x"),
        ("127.0.0.1:8188", "http://localhost:8188"),
        ("localhost:8188", "https://localhost.evil.example:8188"),
        ("", "http://127.0.0.1:8188"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_is_refused(host: str, origin: str, method: str) -> None:
    assert page_refusal(method, {"Host": host, "Origin": origin}) is not None
    assert from_another_page({"Host": host, "Origin": origin})


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_browser_that_names_no_page_still_says_that_it_is_another(method: str, site: str) -> None:
    assert page_refusal(method, {"Host": LAN, "Sec-Fetch-Site": site}) is not None


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.local", "a"]
)
def test_a_name_that_leads_here_is_not_ours_for_that(name: str) -> None:
    """DNS rebinding: the page of evil.example, whose name now means this machine."""
    own = {"Host": f"{name}:8188", "Origin": f"http://{name}:8188"}
    refused = page_refusal("POST", own)
    assert refused is not None
    # The one line that allows it, if it is the owner's.
    assert f'allowed_hosts = ["{name}"]' in refused.advice
    assert f"COMFY_REMOTE_ALLOWED_HOSTS={name}" in refused.advice
    # Of a GET, browsers do not say the page. By http, they do not send Sec-Fetch-Site either.
    assert page_refusal("GET", {"Host": f"{name}:8188"}) is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_program_may_use_any_name(method: str) -> None:
    """Every browser says its page with these: whoever does not is no browser."""
    assert page_refusal(method, {"Host": "gpu.example.lan:8188"}) is None
    assert page_refusal("GET", {"Host": LAN}) is None


@pytest.mark.parametrize("allowed", ["comfy.example.org", "Comfy.Example.org ", "*.example.org"])
def test_the_owner_may_list_names(allowed: str) -> None:
    page = {"Host": "comfy.example.org", "Origin": "https://comfy.example.org"}
    assert page_refusal("POST", page) is not None
    assert page_refusal("POST", page, [allowed]) is None
    assert page_refusal("GET", {"Host": "comfy.example.org:8443"}, [allowed]) is None
    # Proxies change Host, or leave its port out.
    behind = {**page, "Host": "127.0.0.1:8188", "Sec-Fetch-Site": "same-origin"}
    assert page_refusal("POST", behind, [allowed]) is None
    port = {"Host": "comfy.example.org", "Origin": "https://comfy.example.org:8443"}
    assert page_refusal("POST", port, [allowed]) is None
    for other in ("https://evil.example", "https://comfy.example.org.evil.example", "null"):
        assert page_refusal("POST", {**page, "Origin": other}, [allowed]) is not None


@pytest.mark.parametrize("host", ["example.org", "evilexample.org", "evil.org"])
def test_a_wildcard_is_for_what_is_below(host: str) -> None:
    assert not is_own_name(host, ["*.example.org"])


@pytest.mark.parametrize("called", ["Studio", "studio.example.org"])
def test_the_machines_own_name_is_ours(monkeypatch: pytest.MonkeyPatch, called: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: called)
    for name in ("studio", "studio.local", "studio.", called.lower()):
        assert is_own_name(name)
    for name in ("studio.evil.example", "studio.lan", "other", "local", ".local"):
        assert not is_own_name(name)


def test_names_of_the_environment() -> None:
    assert allowed_by_environment({}) == ()
    listed = {"COMFY_REMOTE_ALLOWED_HOSTS": " a.example, *.b.example,,"}
    assert allowed_by_environment(listed) == ("a.example", "*.b.example")


@pytest.mark.parametrize("host", [None, "", ".", "proxy.runpod.net", "evilproxy.runpod.net"])
def test_what_is_no_name_of_ours(host: str | None) -> None:
    assert not is_own_name(host)
