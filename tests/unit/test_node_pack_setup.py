"""Targets and keys that are set up in the page: what is kept, where, and who may."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from owner import configure

from comfy_remote.config.settings import Configuration
from comfy_remote.config.stored_secrets import variable_of_server
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.batches import PageBatches
from comfy_remote.node_pack.bringing import Bringing
from comfy_remote.node_pack.host import FolderKind
from comfy_remote.node_pack.offload import Offload
from comfy_remote.node_pack.routes import routes
from comfy_remote.node_pack.switch import Switch
from comfy_remote.node_pack.target_form import FilledIn, TargetForm
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.schedule.money import Charge, Price
from comfy_remote.targets.kinds import secret_variables

KEY = "rpa_planted_key_that_must_not_show"


@dataclass
class Server:
    """A server that notes the keys it gets."""

    url: str = ""
    seen: list[str] = field(default_factory=list)
    forbidden: str = "nothing"
    when_asked: Callable[[], object] = lambda: None

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers.get("Authorization", ""))
        self.when_asked()
        if request.path.endswith("/health"):
            workers = {"idle": 1, "running": 0}
            jobs = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
            return web.json_response({"jobs": jobs, "workers": workers})
        if KEY not in self.seen[-1] or request.path.endswith(self.forbidden):
            return web.json_response({}, status=401)
        if request.path.endswith("/v2/serverless"):
            endpoints = [{"id": "abc123", "name": "Portraits\u202e", "type": "QUEUE"}]
            return web.json_response({"endpoints": endpoints})
        if request.path.endswith("/v2/pods"):
            return web.json_response({"pods": []})
        return web.json_response({}, status=404)


class OneHost:
    """As much of a `Host` as the routes use."""

    def __init__(self, root: Path) -> None:
        self.root, self.several_users = root, False

    def folder(self, kind: FolderKind) -> Path:
        return self.root / kind

    def on_prompt(self, change: object) -> None:
        pass


@dataclass
class Page:
    http: TestClient[Any, Any]
    host: OneHost
    home: Path
    origin: str

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"Origin": self.origin, **headers}
        async with self.http.request(method, path, json=body, headers=sent) as answer:
            return answer.status, await answer.text()

    async def add(self, **form: Any) -> tuple[int, list[Any]]:
        """The lines of the answer."""
        status, text = await self.send("POST", "/remote/targets", form)
        assert KEY not in text
        return status, [json.loads(line) for line in text.splitlines()]

    async def status(self) -> Any:
        async with self.http.get("/remote/status") as answer:
            text = await answer.text()
        assert KEY not in text
        return json.loads(text)

    def file(self) -> str:
        path = self.home / "comfy-remote.toml"
        return path.read_text() if path.is_file() else ""

    def stored(self) -> str:
        path = self.home / ".env"
        return path.read_text() if path.is_file() else ""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("RUNPOD_", "MODAL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = {**os.environ}
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with TestServer(app) as running:
        server.url = str(running.make_url("")).rstrip("/")
        yield server


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    with Record(tmp_path / "home") as record:
        pool, switch = TargetPool(record), Switch()
        app, host = web.Application(), OneHost(tmp_path)
        as_host: Any = host
        lane: Any = type("Lane", (), {"jobs": lambda _self: []})()
        offload, batches = Offload(as_host, switch, pool), PageBatches(as_host, pool)
        bringing = Bringing(as_host, pool)
        app.add_routes(routes(as_host, switch, pool, lane, offload, batches, bringing))
        async with TestClient(TestServer(app)) as http:
            origin = str(http.make_url("")).rstrip("/")
            yield Page(http, host, tmp_path / "home", origin)
        await pool.close()


async def test_a_comfyui_is_tried_line_by_line_and_becomes_the_default(page: Page) -> None:
    async with SandboxServer() as engine:
        status, lines = await page.add(kind="comfyui", address=engine.url, name="lan")
        assert status == 200
        checks = [line["finding"]["check"] for line in lines[:-1]]
        assert checks[0] == "target"
        assert "connection" in checks
        assert not {"installation", "record", "configuration"} & {*checks}
        assert lines[-1] == {"added": "lan"}
        found = Configuration.load()
        assert (found.default, found.address_of("lan")) == ("lan", engine.url)
        [lan, *_] = (await page.status())["targets"]
        assert lan["form"] == {
            "kind": "comfyui",
            "address": engine.url,
            "endpoint": "",
            "price_per_hour": None,
        }


async def test_what_does_not_answer_is_not_written_unless_that_is_wanted(page: Page) -> None:
    form = {"kind": "comfyui", "address": "http://127.0.0.1:9", "name": "lan", "key": KEY}
    status, lines = await page.add(**form)
    assert status == 200
    assert "problem" in [line["finding"]["status"] for line in lines[:-1]]
    assert "refused" in lines[-1]
    assert page.file() == page.stored() == ""
    assert (await page.add(**form, test=False))[1] == [{"added": "lan"}]
    assert "http://127.0.0.1:9" in page.file()


async def test_a_key_of_runpod_gives_a_list_and_is_kept_only_if_runpod_takes_it(
    page: Page, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    status, text = await page.send("POST", "/remote/account", {})
    assert (status, "RUNPOD_API_KEY is not set" in text) == (400, True)
    status, text = await page.send("POST", "/remote/account", {"key": "rpa_somebody_elses"})
    assert (status, "It must be allowed to read" in text) == (401, True)
    assert page.stored() == ""
    status, text = await page.send("POST", "/remote/account", {"key": KEY})
    assert status == 200
    assert KEY not in text
    answer = json.loads(text)
    assert answer["stored"] == str(page.home / ".env")
    [target] = answer["targets"]
    assert (target["address"], target["name"]) == ("runpod:abc123", "Portraits\ufffd")
    assert KEY in page.stored()
    if os.name == "posix":
        assert stat.S_IMODE((page.home / ".env").stat().st_mode) == 0o600
    # From now on, without typing it again.
    assert (await page.send("POST", "/remote/account", {}))[0] == 200
    assert (await page.add(kind="runpod", address="abc123", test=False))[1] == [{"added": "abc123"}]
    [gpu, *_] = (await page.status())["targets"]
    assert gpu["key"] == {"variable": "RUNPOD_API_KEY", "set": True, "needed": True}
    assert KEY not in page.file()


@pytest.mark.parametrize(("forbidden", "found"), [("/v2/pods", 1), ("/v2/serverless", 0)])
async def test_a_key_that_may_see_one_of_the_two_lists_that(
    page: Page, server: Server, monkeypatch: pytest.MonkeyPatch, forbidden: str, found: int
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    server.forbidden = forbidden
    status, text = await page.send("POST", "/remote/account", {"key": KEY})
    assert (status, len(json.loads(text)["targets"])) == (200, found)


async def test_a_key_that_the_environment_sets_is_not_replaced(
    page: Page, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_of_the_environment")
    status, text = await page.send("POST", "/remote/account", {"key": KEY})
    assert (status, "counts" in text, page.stored()) == (400, True, "")


async def test_another_address_drops_the_key_and_never_gets_it(page: Page, server: Server) -> None:
    async with TestServer(web.Application()) as other:
        elsewhere = str(other.make_url("")).rstrip("/")
        here = {"kind": "gateway", "name": "box", "endpoint": "e"}
        assert (await page.add(**here, address=server.url, key=KEY))[1][-1] == {"added": "box"}
        variable = variable_of_server(server.url)
        assert f"{variable}='{KEY}'" in page.stored()
        assert {*server.seen} == {f"Bearer {KEY}"}
        # The same server, and nothing typed: it stays.
        await page.add(**here, address=server.url, price_per_hour=0.5, replaces="box", test=False)
        assert Configuration.load().targets["box"].key_env == variable
        assert os.environ[variable] == KEY
        await page.add(**here, address=elsewhere, replaces="box", test=False)
        settings = Configuration.load().targets["box"]
        assert settings.base_url == f"{elsewhere}/v2"
        assert settings.key_env != variable
        assert KEY not in page.stored()
        assert variable not in os.environ


@pytest.mark.parametrize("kind", ["gateway", "comfyui", "modal", "comfy"])
def test_no_form_sends_a_providers_key_to_a_server_that_it_names(kind: str) -> None:
    for address in ("http://127.0.0.1:9", "https://evil.example", "https://x--y-front.modal.run"):
        form = TargetForm.model_validate({"kind": kind, "address": address, "endpoint": "e"})
        settings = FilledIn.of(form).settings
        named = {*secret_variables(settings)}
        assert not named & {
            *("RUNPOD_API_KEY", "MODAL_PROXY_TOKEN_ID", "MODAL_PROXY_TOKEN_SECRET"),
            "COMFY_API_KEY",
        }
        assert kind.startswith("comfy") or named


@pytest.mark.parametrize(
    "settings",
    [
        '[targets.box]\ntarget = "runpod:e"\nbase_url = "https://box.example/v2"\n'
        'key_env = "STUDIO"\n',
        '[targets.box]\ntarget = "https://box.example"\nuser = "ann"\npassword_env = "STUDIO"\n',
    ],
)
async def test_a_login_that_the_file_names_stays_with_its_server(page: Page, settings: str) -> None:
    configure(page.home, settings)
    kind = "gateway" if "runpod" in settings else "comfyui"
    form = {"kind": kind, "name": "box", "endpoint": "e", "replaces": "box", "test": False}
    await page.add(**form, address="https://box.example", price_per_hour=1)
    assert "STUDIO" in page.file()
    await page.add(**form, address="https://evil.example")
    assert "evil.example" in page.file()
    assert "STUDIO" not in page.file()


async def test_two_tabs_that_add_the_same_name_do_not_replace_each_other(page: Page) -> None:
    async with SandboxServer() as one, SandboxServer() as two:
        forms = [{"kind": "comfyui", "address": e.url, "name": "lan"} for e in (one, two)]
        first, second = await asyncio.gather(*(page.add(**form) for form in forms))
        ends = sorted(next(iter(lines[-1])) for _, lines in (first, second))
        assert ends == ["added", "error"]
        winner = one if "added" in first[1][-1] else two
        assert Configuration.load().address_of("lan") == winner.url


async def test_an_edit_of_the_file_during_the_test_stays_and_no_key_is_left(
    page: Page, server: Server
) -> None:
    await page.add(kind="gateway", name="box", address=server.url, endpoint="e", test=False)
    edited = page.file().replace('"runpod:e"', '"runpod:other"')
    server.when_asked = lambda: (page.home / "comfy-remote.toml").write_text(edited)
    form = {"kind": "gateway", "name": "box", "address": server.url, "endpoint": "e2"}
    _, lines = await page.add(**form, key=KEY, replaces="box")
    assert "was changed meanwhile" in str(lines[-1]), lines
    assert (page.file(), page.stored()) == (edited, "")


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"kind": "comfyui", "address": "http://box:1", "name": "sandbox"}, "an address itself"),
        ({"kind": "modal", "address": "../x"}, "not the name of an app"),
        ({"kind": "comfy", "address": "../x"}, "no target's address"),
        ({"kind": "comfy", "address": "http://box.example", "key": KEY}, "https"),
        ({"kind": "gateway", "address": "http://box.example", "key": KEY}, "https"),
        ({"kind": "comfyui", "address": "http://box:99999"}, "not a URL"),
        ({"kind": "comfyui", "address": "http://box:1\r\nHost: x"}, "address"),
        ({"kind": "gateway", "address": "https://box.example", "endpoint": "../x?y#z"}, "../x"),
        ({"kind": "gateway", "address": "https://box.example", "key": "bad\nkey"}, "line break"),
        ({"kind": "comfyui", "address": "http://box:1", "price_per_hour": 1e9}, "price_per_hour"),
        ({"kind": "comfyui", "address": "x" * 501}, "500 characters"),
        ({"kind": "gateway", "address": "https://box.example", "key": "k" * 8193}, "8192"),
        ({"kind": "comfyui", "address": "http://box:1", "key_env": "RUNPOD_API_KEY"}, "key_env"),
    ],
)
async def test_what_cannot_be_used_is_not_written_even_without_a_test(
    page: Page, form: dict[str, Any], says: str
) -> None:
    status, text = await page.send("POST", "/remote/targets", {"name": "n", "test": False, **form})
    assert (status, says in text) == (400, True), text
    assert KEY not in text
    assert page.file() == page.stored() == ""


@pytest.mark.parametrize(
    "route", ["account", "targets", "trust", "warm", "switch", "addresses", "estimate", "cut"]
)
async def test_no_route_takes_what_is_not_json(page: Page, route: str) -> None:
    bodies = [(b"{}", "text/plain"), (b"a=1", "application/x-www-form-urlencoded")]
    bodies += [(body, "application/json") for body in (b"", b"[" * 100_000, b"\xff\xfe", b"null")]
    for body, kind in bodies:
        headers = {"Origin": page.origin, "Content-Type": kind}
        async with page.http.post(f"/remote/{route}", data=body, headers=headers) as answer:
            assert answer.status == 400, (body[:10], kind, await answer.text())


async def test_a_home_that_cannot_be_written_is_said_and_no_key_gets_out(
    page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "file"))
    form = {"kind": "gateway", "address": "https://box.example", "name": "box", "test": False}
    status, lines = await page.add(**form, key=KEY)
    assert status >= 400 and lines[0]["error"]["code"] == "local_storage", lines
    assert KEY not in caplog.text
    assert not [name for name in os.environ if KEY in os.environ[name]]


async def test_a_target_is_removed_with_its_key(page: Page) -> None:
    for name in ("one", "two"):
        address = "https://box.example"
        await page.add(kind="comfyui", name=name, address=address, key=KEY, test=False)
    assert (await page.send("DELETE", "/remote/targets/one", {}))[0] == 200
    assert KEY in page.stored()  # the other one has it, too
    assert (await page.send("DELETE", "/remote/targets/two", {}))[0] == 200
    assert KEY not in page.stored()
    assert (await page.send("DELETE", "/remote/targets/two", {}))[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/remote/account", {"key": KEY}),
        ("POST", "/remote/targets", {"kind": "comfyui", "address": "http://x:1", "key": KEY}),
        ("POST", "/remote/trust", {"path": "/x", "named": []}),
        ("PUT", "/remote/spending/caps", {"job": None, "day": 100.0, "month": None}),
        ("POST", "/remote/spending/over", {"client_id": "tab"}),
        ("DELETE", "/remote/targets/gpu", {}),
    ],
)
async def test_only_the_servers_own_page_sets_up_anything(
    page: Page, method: str, path: str, body: Any
) -> None:
    configure(page.home, '[targets.gpu]\ntarget = "runpod:abc"\n')
    for origin in ("https://evil.example", "null"):
        assert (await page.send(method, path, body, Origin=origin))[0] == 403
    async with page.http.request(method, path, json=body) as answer:
        assert answer.status == 403  # a program
    page.host.several_users = True
    lan = {"Origin": "http://192.168.1.5:8188", "Host": "192.168.1.5:8188"}
    status, text = await page.send(method, path, body, **lan)
    assert (status, "--multi-user" in text) == (403, True)
    # Whoever comes through a proxy on this machine may say that he is here.
    assert (await page.send(method, path, body, **{"X-Forwarded-For": "1.2.3.4"}))[0] == 403
    assert page.stored() == ""
    assert "runpod:abc" in page.file()


async def test_no_key_is_taken_over_plain_http_from_another_machine(page: Page) -> None:
    lan = {"Origin": "http://192.168.1.5:8188", "Host": "192.168.1.5:8188"}
    form = {"kind": "comfyui", "address": "https://box.example", "name": "box", "test": False}
    status, text = await page.send("POST", "/remote/targets", {**form, "key": KEY}, **lan)
    assert status == 403
    assert "http from another machine" in text
    assert page.stored() == ""
    assert (await page.send("POST", "/remote/targets", form, **lan))[0] == 200


async def test_what_a_folder_names_is_shown_and_trusted_as_it_was_shown(
    page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "comfy-remote.toml"
    file.write_text('[targets.theirs]\ntarget = "https://theirs.example"\n')
    [found] = (await page.status())["setup"]["untrusted"]
    assert found["path"] == str(file)
    assert "theirs.example" in found["named"][0]
    other = {"path": str(file), "named": ["something else"]}
    assert (await page.send("POST", "/remote/trust", other))[0] == 403
    assert (await page.send("POST", "/remote/trust", found))[0] == 200
    state = await page.status()
    assert state["setup"]["untrusted"] == []
    [theirs] = [one for one in state["targets"] if one["name"] == "theirs"]
    assert (theirs["folder"], theirs["form"]) == (str(file), None)


@pytest.mark.parametrize(
    ("form", "address", "base_url", "name"),
    [
        (("comfyui", "192.168.1.20"), "http://192.168.1.20:8188", None, "192.168.1.20"),
        (("comfyui", "box.local"), "http://box.local:8188", None, "box"),
        (("comfyui", "http://box:8188/?x=1#y"), "http://box:8188", None, "box"),
        (("comfyui", "comfy.example.org"), "https://comfy.example.org", None, "comfy.example.org"),
        (("comfyui", "x1y2-8188.proxy.runpod.net"), None, None, None),
        (("runpod", "abc123xyz"), "runpod:abc123xyz", None, "abc123xyz"),
        (("runpod", "https://api.runpod.ai/v2/abc123xyz/run"), "runpod:abc123xyz", None, None),
        (("gateway", "box.local:8000"), "runpod:local", "https://box.local:8000/v2", "box"),
        (("gateway", "http://box/v2/"), "runpod:local", "http://box/v2", "box"),
        (("gateway", "http://127.0.0.1:8000/v2/gpu/run"), "runpod:gpu", None, "127.0.0.1"),
        (("modal", "portraits"), "modal:portraits", None, "portraits"),
        (
            ("modal", "https://ann--portraits-front.modal.run/v2"),
            "modal:portraits",
            "https://ann--portraits-front.modal.run",
            "portraits",
        ),
        (("comfy", "cloud"), "comfy:cloud", None, "cloud"),
        (("comfy", "https://dep-1.run.comfy.app/api/v2"), "comfy:dep-1", None, "dep-1"),
        (("comfy", "http://box.local:8189/"), "comfy:http://box.local:8189", None, "box"),
        (("comfyui", "https://cloud.comfy.org/"), "comfy:cloud", None, "cloud"),
    ],
)
def test_what_people_copy_is_understood(
    form: tuple[str, str], address: str | None, base_url: str | None, name: str | None
) -> None:
    kind, typed = form
    found = FilledIn.of(TargetForm.model_validate({"kind": kind, "address": typed}))
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", found.name)
    assert address in (None, found.settings.target)
    assert base_url in (None, found.settings.base_url)
    assert name in (None, found.name)


async def test_caps_are_written_into_the_owner_s_file_and_shown_with_what_is_spent(
    page: Page,
) -> None:
    configure(
        page.home,
        '[targets.gpu]\ntarget = "runpod:x"\nprice_per_hour = 3600\n'
        '[targets.any]\nroute = ["gpu"]\n',  # has no caps of its own
    )
    every = {"target": None, "job": None, "day": 5.0, "month": 60}
    assert (await page.send("PUT", "/remote/spending/caps", every))[0] == 200
    with Record(page.home) as record:
        charge = Charge("gpu", Price(3600.0, "your settings"), 2.0)
        record.add("j", target="gpu", source="x", folder=None, prompt={}, charge=charge)
    status, text = await page.send(
        "PUT", "/remote/spending/caps", {"target": "gpu", "job": 0.5, "day": None, "month": None}
    )
    assert status == 200
    answer = json.loads(text)
    assert (answer["spent"], answer["cap"]) == (2.0, 5.0)
    assert answer["own"] == [
        {"target": None, "job": None, "day": 5.0, "month": 60.0},
        {"target": "gpu", "job": 0.5, "day": None, "month": None},
    ]
    caps = {(cap["span"], cap["target"]): (cap["dollars"], cap["spent"]) for cap in answer["caps"]}
    assert caps == {
        ("day", None): (5.0, 2.0),
        ("month", None): (60.0, 2.0),
        ("job", "gpu"): (0.5, None),
    }
    assert "price_per_hour = 3600" in page.file()

    # They stay when the target is called something else.
    form = {"kind": "runpod", "address": "x", "name": "big", "replaces": "gpu", "test": False}
    assert (await page.add(**form))[1] == [{"added": "big"}]
    assert Configuration.load().caps_on("big")[-1].dollars == 0.5

    removed = {"target": "big", "job": None, "day": None, "month": None}
    assert (await page.send("PUT", "/remote/spending/caps", removed))[0] == 200
    assert "cap_per_job" not in page.file()
    for wrong in ({**every, "day": -1}, {**every, "target": "other"}, {"target": None}):
        assert (await page.send("PUT", "/remote/spending/caps", wrong))[0] == 400
    page.host.several_users = True
    assert (await page.send("GET", "/remote/spending"))[0] == 403


def test_a_yes_is_for_one_run_of_one_tab() -> None:
    switch = Switch()
    switch.let_over_cap("tab")
    assert not switch.take_over_cap("other")
    assert not switch.take_over_cap(None)
    assert switch.take_over_cap("tab")
    assert not switch.take_over_cap("tab")


async def test_a_route_is_made_of_targets_that_are_there(page: Page) -> None:
    configure(
        page.home,
        '[targets.lan]\ntarget = "http://192.168.1.20:8188"\n'
        '[targets.gpu]\ntarget = "runpod:x"\ncap_per_day = 3\n'
        '[targets.any]\nroute = ["gpu"]\npatience = 60\n',
    )
    form = {"kind": "route", "name": "any", "replaces": "any", "test": False}
    for address in ("route:lan,other", "route:http://192.168.1.9:8188", "route:any", "route:"):
        status, _ = await page.send("POST", "/remote/targets", {**form, "address": address})
        assert status == 400, address
    changed = {**form, "address": "route:lan,gpu", "prefer": "price"}
    assert (await page.add(**changed))[1] == [{"added": "any"}]
    route = Configuration.load().targets["any"]
    assert (route.target, route.prefer, route.patience) == ("route:lan,gpu", "price", 60)
    [shown] = [one for one in (await page.status())["targets"] if one["name"] == "any"]
    assert shown["form"] == {
        "kind": "route",
        "address": "route:lan,gpu",
        "endpoint": "",
        "price_per_hour": None,
        "prefer": "price",
    }

    # A member keeps its place when it is called something else, and cannot be removed.
    renamed = {"kind": "runpod", "address": "x", "name": "big", "replaces": "gpu", "test": False}
    assert (await page.add(**renamed))[1] == [{"added": "big"}]
    assert Configuration.load().targets["any"].target == "route:lan,big"
    status, text = await page.send("DELETE", "/remote/targets/big", {})
    assert (status, "in the route any" in text) == (400, True)
