"""The HTTP client of all targets: what is tried again, what errors say, where the key goes."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer, drop

from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    RateLimited,
    RequestTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
)
from comfy_remote.net import answers, http
from comfy_remote.net.address import base_address, is_loopback
from comfy_remote.net.answers import Response, error_of, unreachable
from comfy_remote.net.http import HttpClient, HttpLimits
from comfy_remote.net.retry import Backoff
from comfy_remote.net.system_advice import certificates_missing, is_kept_from_local_network

KEY = "planted-key-0123456789"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries after a millisecond; gives the waits that there would have been."""
    waits: list[float] = []
    seconds = Backoff.seconds

    def noted(self: Backoff, failures: int, asked: float | None = None) -> float:
        waits.append(seconds(self, failures, asked))
        return 0.001

    monkeypatch.setattr(Backoff, "seconds", noted)
    return waits


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as made:
        yield made


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[HttpClient]:
    headers = {"Authorization": SecretStr(f"Bearer {KEY}")}
    async with HttpClient(server.url, name="The box", headers=headers) as made:
        yield made


async def test_an_answer(server: ScriptedServer, client: HttpClient) -> None:
    server.on("GET /queue", Answer({"a": 1}))
    assert await client.get_json("queue") == {"a": 1}
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_refused_is_tried_five_times(short_waits: list[float]) -> None:
    async with ScriptedServer() as gone:
        url = gone.url
    async with HttpClient(url, name="The box") as client:
        with pytest.raises(TargetUnreachable, match="could not be reached") as caught:
            await client.get("queue")
        assert caught.value.details == {"never_sent": True, "nobody_listens": True}
        assert len(short_waits) == 4  # one before each try but the first
        assert short_waits == sorted(short_waits)  # backing off
        with pytest.raises(TargetUnreachable):  # and so is a submission: it never left
            await client.submit("prompt", b"{}")
        assert len(short_waits) == 8


@pytest.mark.parametrize("failure", [Answer(b"busy", 503), Answer(None, 429), drop])
async def test_a_failure_that_passes_is_not_seen(
    server: ScriptedServer, client: HttpClient, failure: Answer
) -> None:
    server.on("GET /queue", failure, failure, Answer([]))
    assert await client.get_json("queue") == []
    assert server.count("GET /queue") == 3


async def test_retry_after_is_honoured_within_reason(
    server: ScriptedServer,
    client: HttpClient,
    short_waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def busy(after: str) -> Answer:
        return Answer(None, 429, {"Retry-After": after})

    server.on("GET /queue", busy("7"), busy("9999"), busy("inf"), busy("tomorrow"), Answer([]))
    await client.get("queue")
    assert short_waits[:2] == [7.0, 60.0]
    # Nobody sits before a terminal that says nothing for a minute.
    (said,) = (one.message for one in caplog.records if one.levelname == "WARNING")
    assert "too often" in said
    assert all(wait < 10 for wait in short_waits[2:])


@pytest.mark.parametrize(
    ("answer", "kind", "message", "times"),
    [
        (Answer(None, 401), AuthenticationError, "refused the key", 1),
        (Answer(None, 403), AuthenticationError, "refused the key", 1),
        (Answer(b"nothing here", 404), TargetNotFound, "has no such address.*nothing here", 1),
        (
            Answer({"error": "X. Y.", "comfy_remote": {"message": "No such endpoint."}}, 404),
            TargetNotFound,
            r"\(HTTP 404: No such endpoint\)",
            1,
        ),
        (Answer(b"", 413), RequestTooLarge, "too large", 1),
        (Answer(b"odd", 418), TargetError, "HTTP 418: odd", 1),
        (Answer(None, 429), RateLimited, "asked too often", 5),
        (Answer({"error": "Full."}, 429), RateLimited, r"nothing for now \(HTTP 429: Full\)", 5),
        (Answer(b"<html><h1>Bad Gateway", 502), TargetUnreachable, r"failing \(HTTP 502\)", 5),
        # aiohttp itself asks once more where a connection is dropped, but never for a POST.
        (drop, TargetUnreachable, "could not be reached", 10),
    ],
)
async def test_each_status_is_its_own_error(
    server: ScriptedServer,
    client: HttpClient,
    answer: Answer,
    kind: type[ComfyRemoteError],
    message: str,
    times: int,
) -> None:
    server.on("GET /x", answer)
    with pytest.raises(kind, match=message) as caught:
        await client.get("x")
    assert type(caught.value) is kind
    assert server.url in caught.value.message
    assert server.count("GET /x") == times


@pytest.mark.parametrize("answer", [Answer(b"busy", 503), drop, Answer(b"", 500)])
async def test_a_submission_whose_answer_is_lost_is_sent_once(
    server: ScriptedServer, client: HttpClient, answer: Answer
) -> None:
    server.on("POST /prompt", answer)
    with pytest.raises(SubmissionUnknown, match="not known whether the job was accepted"):
        await client.submit("prompt", b"{}")
    assert server.count("POST /prompt") == 1


async def test_a_submission_refused_with_429_is_sent_again(
    server: ScriptedServer, client: HttpClient
) -> None:
    server.on("POST /prompt", Answer(None, 429), Answer({"ok": True}))
    assert (await client.submit("prompt", b"{}")).json() == {"ok": True}


async def test_an_answer_that_never_comes_is_given_up(server: ScriptedServer) -> None:
    async def wait(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    server.on("GET /x", wait)
    async with HttpClient(server.url, name="The box", limits=HttpLimits(patience=0.05)) as client:
        with pytest.raises(TargetUnreachable, match="did not answer in time"):
            await client.get_once("x")


async def test_an_upload_that_nobody_reads_is_given_up_long_before_its_size_would_allow() -> None:
    async def never_reads(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)
        writer.close()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**20)

    server = await asyncio.start_server(never_reads, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    limits = HttpLimits(patience=0.05, slowest_upload=2**30, backoff=Backoff(attempts=1))
    async with server, HttpClient(f"http://127.0.0.1:{port}", name="It", limits=limits) as client:
        with pytest.raises(TargetUnreachable, match="did not answer in time"):
            await asyncio.wait_for(client.put("x", 2**40, endless), 3)


async def test_an_upload_may_take_long_as_long_as_it_goes_on(
    server: ScriptedServer,
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0.05)
            yield b"x"

    async def size(request: web.Request) -> web.StreamResponse:
        return web.json_response({"size": len(await request.read())})

    server.on("PUT /x", size)
    limits = HttpLimits(patience=0.1, backoff=Backoff(attempts=1))
    async with HttpClient(server.url, name="It", limits=limits) as client:
        assert (await client.put("x", 10, slowly)).json() == {"size": 10}


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b"", b"[" * 100_000, b"\xff\xfe", b"{'a': 1}"]
)
async def test_a_page_in_place_of_json_is_an_error(
    server: ScriptedServer, client: HttpClient, body: bytes
) -> None:
    server.on("GET /x", Answer(body))
    with pytest.raises(TargetError, match="not JSON"):
        await client.get_json("x")


SIGN_IN = b"<!DOCTYPE html>\n<html><head><title>Sign in &amp; go\n on</title></head></html>"
NGINX_413 = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head></html>"
NGINX_400 = b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>"


@pytest.mark.parametrize(
    ("answer", "said", "advice"),
    [
        (Answer(SIGN_IN), r'a web page \("Sign in & go on"\), not JSON', "user and password_env"),
        (
            Answer(NGINX_413, 413),
            r"A proxy in front of The box at \S+ refused a request of 2.0 kB as too large",
            "client_max_body_size",
        ),
        (
            Answer(b"Maximum request body size 5 exceeded", 413),
            r"^The box at \S+ refused the request of 2.0 kB as too large \(HTTP 413: Maximum",
            "smaller input files",
        ),
        (Answer(None, 302, {"Location": "/login?next=/x"}), "to a login, another path", "key_env"),
        (
            Answer(None, 307, {"Location": "https://gpu.example:8443/x"}),
            r"redirects to https://gpu.example:8443 \(HTTP 307\)",
            "give that address",
        ),
        (Answer(None, 401), "wants a login, and none was sent", "password_env"),
        (Answer(None, 403), "which was sent without a key", "headers_env"),
        (Answer(NGINX_400, 400), "speaks https at that port, and was asked by http", "https://"),
    ],
)
async def test_what_stands_between_is_named_as_what_it_is(
    server: ScriptedServer, answer: Answer, said: str, advice: str
) -> None:
    server.on("POST /x", answer)
    async with HttpClient(server.url, name="The box") as client:
        with pytest.raises(ComfyRemoteError, match=said) as caught:
            (await client.post_once("x", bytes(2000))).json()
    assert advice in caught.value.advice
    assert "key is not sent" not in caught.value.message


async def test_https_to_a_port_that_speaks_http_is_named_as_that(short_waits: list[float]) -> None:
    async with ScriptedServer() as server:
        url = server.url.replace("http://", "https://")
        async with HttpClient(url, name="The box") as client:
            with pytest.raises(TargetUnreachable, match="does not speak https there") as caught:
                await client.get("queue")
    assert "Write http:// instead of https://" in caught.value.advice
    assert caught.value.details == {"never_sent": True, "stays": True}
    assert short_waits == []  # another try would end so, too


async def test_an_answer_without_end_is_given_up(server: ScriptedServer) -> None:
    server.on("GET /x", Answer(b"x" * 2**21))
    async with HttpClient(server.url, name="The box", limits=HttpLimits(answer=2**20)) as client:
        with pytest.raises(TargetError, match="larger than 1 MiB"):
            await client.get("x")


# --- the key stays at home ----------------------------------------------------------------


async def test_a_redirect_is_refused_and_the_key_goes_nowhere(
    server: ScriptedServer, client: HttpClient
) -> None:
    async with ScriptedServer() as thief:
        thief.on("GET /x", Answer({}))
        server.on("GET /x", Answer(None, 302, {"Location": f"{thief.url}/x?token={KEY}"}))
        server.on("POST /x", Answer(None, 307, {"Location": f"{thief.url}/{KEY}"}))
        for request in (client.get("x"), client.submit("x", b"{}"), client.post_idempotent("x")):
            with pytest.raises(TargetError, match="redirects to") as caught:
                await request
            assert KEY not in str(caught.value)
        with pytest.raises(TargetError, match="redirects to"):
            async for _ in client.stream("x"):
                pass
        assert thief.asked == []


async def test_a_websockets_redirect_is_refused_too(server: ScriptedServer) -> None:
    async with ScriptedServer() as thief:
        server.on("GET /ws", Answer(None, 302, {"Location": f"{thief.url}/ws"}))
        headers = {"X-Login": SecretStr(KEY)}
        async with HttpClient(server.url, name="The box", headers=headers) as client:
            with pytest.raises(http.NETWORK_ERRORS):
                await client.session.ws_connect(client.url("ws"), headers=client.authorization())
        assert server.count("GET /ws") == 1
        assert thief.asked == []


@asynccontextmanager
async def client_with(storage: ScriptedServer) -> AsyncIterator[HttpClient]:
    """A client of another server, which the user allows to name this storage."""
    async with ScriptedServer() as server:
        headers = {"Authorization": SecretStr(f"Bearer {KEY}")}
        named = [f"127.0.0.1:{storage.port}"]
        async with HttpClient(server.url, name="The box", headers=headers, elsewhere=named) as made:
            yield made


async def test_storage_elsewhere_gets_no_key() -> None:
    async with ScriptedServer() as storage, client_with(storage) as client:
        storage.on("GET /x.png", Answer(b"png"))
        chunks = [chunk async for chunk in client.stream_elsewhere(f"{storage.url}/x.png?sig=1")]
        assert chunks == [b"png"]
        assert KEY not in str(storage.asked[0].headers)


async def test_a_target_on_this_machine_names_its_own_port_and_no_other(
    server: ScriptedServer, client: HttpClient
) -> None:
    server.on("GET /own.png", Answer(b"own"))
    assert [c async for c in client.stream_elsewhere(f"{server.url}/own.png")] == [b"own"]
    await client.delete_elsewhere(f"{server.url}/own.png")
    async with ScriptedServer() as other:
        for host in ("127.0.0.1", "localhost", "localhost.", "2130706433", "127.1", "0x7f.1"):
            for scheme in ("http", "https"):
                url = f"{scheme}://{host}:{other.port}/api/x?sig=signature"
                with pytest.raises(TargetError, match="An output's address"):
                    async for _ in client.stream_elsewhere(url):
                        pass
                with pytest.raises(TargetError, match="An output's address"):
                    await client.delete_elsewhere(url)
        assert other.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example/x.png?sig=signature",
        "file:///etc/passwd?sig=signature",
        "//storage.example/x?sig=signature",
        "http://[/?sig=signature",
        "https://name:signature@storage.example/x.png",
        "",
    ],
)
async def test_storage_must_be_https_and_its_signature_is_not_shown(
    client: HttpClient, url: str
) -> None:
    with pytest.raises(TargetError, match="An output's address") as caught:
        async for _ in client.stream_elsewhere(url):
            pass
    assert "signature" not in str(caught.value)


async def test_an_error_of_storage_shows_neither_signature_nor_our_server() -> None:
    async with ScriptedServer() as storage, client_with(storage) as client:
        storage.on("GET /gone", Answer(None, 500))
        storage.on("GET /drop", drop)
        for path in ("gone", "drop"):
            with pytest.raises(TargetUnreachable, match="The storage at 127") as caught:
                async for _ in client.stream_elsewhere(f"{storage.url}/{path}?sig=signature"):
                    pass
            assert "signature" not in str(caught.value)
            assert client.base_url not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 404, 413, 500])
async def test_a_server_that_repeats_the_key_does_not_get_it_into_an_error(
    server: ScriptedServer, client: HttpClient, status: int
) -> None:
    server.on("GET /x", Answer(f"You sent Bearer {KEY}".encode(), status))
    with pytest.raises(ComfyRemoteError) as caught:
        await client.get_json("x")
    assert KEY not in json.dumps(caught.value.to_json())
    assert KEY not in repr(caught.value)
    assert KEY not in repr(client.__dict__["_headers"])


@pytest.mark.parametrize("key", ["a\nb", "a\r\nX-Other: 1", "a\x00"])
def test_a_key_with_a_line_break_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="line break") as caught:
        HttpClient("http://127.0.0.1", name="x", headers={"Authorization": SecretStr(key)})
    assert key not in str(caught.value)


# --- streams ------------------------------------------------------------------------------


async def test_a_stream_begins_where_it_is_told_with_and_without_ranges(
    server: ScriptedServer, client: HttpClient
) -> None:
    content = bytes(range(256)) * 20_000

    async def ranged(request: web.Request) -> web.StreamResponse:
        start = request.http_range.start or 0
        return web.Response(body=content[start:], status=206 if start else 200)

    server.on("GET /ranged", ranged)
    server.on("GET /plain", Answer(content))
    for path in ("ranged", "plain"):
        for offset in (0, 1, 2**20, len(content) - 1):
            got = b"".join([chunk async for chunk in client.stream(path, offset)])
            assert got == content[offset:]
    assert server.asked[1].headers["Range"] == "bytes=1-"


async def test_a_stream_that_broke_after_its_last_byte_is_complete(
    server: ScriptedServer, client: HttpClient
) -> None:
    server.on("GET /x", Answer(b"Range!", 416, {"Content-Range": "bytes */1000"}))
    assert [chunk async for chunk in client.stream("x", 1000)] == []
    with pytest.raises(TargetError, match="416"):  # the file has become another one
        async for _ in client.stream("x", 1001):
            pass


async def test_a_cut_stream_is_unreachable_not_short(
    server: ScriptedServer, client: HttpClient
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport
        request.transport.close()
        return response

    server.on("GET /x", cut)
    got = b""
    with pytest.raises(TargetUnreachable):
        async for chunk in client.stream("x"):
            got += chunk
    assert got == b"x" * 10


# --- addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://a", "https://a.b:1/c/d", "http://[::1]:8188", "HTTP://A/"])
def test_addresses_that_are_fine(url: str) -> None:
    assert base_address(url).host


@pytest.mark.parametrize(
    "url",
    ["", "a", "ftp://a", "http://", "http:///x", "http://a:99999", "http://[", "http://u:pw123@a",
     "http://pw123@a", "http://a?token=pw123", "http://a/#pw123", "//a", "http://a:b"],
)  # fmt: skip
def test_addresses_that_are_not_and_show_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        base_address(url)
    assert "pw123" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine_only(host: str | None, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(("status", "says"), [(404, "stopped"), (502, "--listen"), (524, "100 s")])
def test_what_runpods_proxy_means(status: int, says: str) -> None:
    where = "ComfyUI (gpu) at https://abc-8188.proxy.runpod.net"
    page = Response(status, {}, b"<html>bad gateway</html>")
    assert says in error_of(page, where).advice
    assert says not in error_of(page, "ComfyUI at https://comfy.test").advice


class _CertificateError(aiohttp.ClientConnectorCertificateError):
    """What OpenSSL says of a certificate, by its own code."""

    def __init__(self, code: int, words: str) -> None:
        error = ssl.SSLCertVerificationError(1, words)
        error.verify_code, error.verify_message = code, words
        self._certificate_error = error


@pytest.mark.parametrize(
    ("code", "words", "message", "advice"),
    [
        (10, "certificate has expired", "has expired", "Make a new one"),
        (9, "certificate is not yet valid", "not valid yet", "date"),
        (62, "Hostname mismatch, not for 'a'.", r"other addresses \(Hostname.*'a'\)", "IP:"),
        (64, "IP address mismatch", "names other addresses", "subjectAltName"),
        (18, "self-signed certificate", "is not trusted", "ca_file of the target"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(
    code: int, words: str, message: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    error = unreachable(_CertificateError(code, words), "The box")
    assert re.search(message, error.message)
    assert re.search(advice, error.advice)


def verify_paths(file: str | None, folder: str | None) -> ssl.DefaultVerifyPaths:
    return ssl.get_default_verify_paths()._replace(cafile=file, capath=folder)


@pytest.mark.parametrize(
    ("platform", "paths", "advice"),
    [
        ("darwin", (None, None), "Install Certificates.command"),
        ("linux", (None, None), "ca-certificates"),
        ("win32", (None, None), None),  # the system's own store
        ("darwin", ("/etc/ssl/cert.pem", None), None),
        ("linux", (None, "/etc/ssl/certs"), None),
    ],
)
def test_a_python_without_certificates_is_said(
    platform: str, paths: tuple[str | None, str | None], advice: str | None
) -> None:
    """Python from python.org has none on macOS before its own program has run."""
    said = certificates_missing(verify_paths(*paths), platform)
    assert (advice in said) if advice and said else said is advice


def test_the_error_names_what_python_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    lacking = verify_paths(None, None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: lacking)
    no_issuer = _CertificateError(20, "unable to get local issuer certificate")
    assert "no certificates" in unreachable(no_issuer, "RunPod").advice
    own = _CertificateError(18, "self-signed certificate")
    assert "your own certificate" in unreachable(own, "The box").advice


_KEY: Any = ("10.0.0.5", 8188, False, True, None, None, None)


def test_macos_may_keep_a_program_from_the_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    no_route = OSError(errno.EHOSTUNREACH, "No route to host")
    assert is_kept_from_local_network(no_route, "darwin")
    assert not is_kept_from_local_network(no_route, "linux")
    assert not is_kept_from_local_network(OSError(errno.ECONNREFUSED, "refused"), "darwin")
    monkeypatch.setattr(answers, "is_kept_from_local_network", lambda _error: True)
    error = unreachable(aiohttp.ClientConnectorError(ConnectionKey(*_KEY), no_route), "The box")
    assert "Privacy & Security > Local Network" in error.advice
    assert error.details == {"never_sent": True}


def test_an_ssl_cert_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere/cert.pem")
    error = unreachable(_CertificateError(18, "self-signed certificate"), "The box")
    assert "nowhere/cert.pem, which is not there" in error.advice
