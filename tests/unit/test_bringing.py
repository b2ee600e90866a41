"""What the page brings to a target: planned, shown, brought after a yes, stopped, gone on with."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from helpers import until
from model_server import File, ModelServer, safetensors, sha256
from models_kit import files_in
from owner import configure
from sync_kit import TOKEN, Box, Gate, box, comfyui_with, gate

from comfy_remote.jobs.record import Record
from comfy_remote.media.file_changes import discard
from comfy_remote.node_pack.bring_routes import add_bring_routes
from comfy_remote.node_pack.bringing import BRING_EVENT, Bringing
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.ready.local import LocalComfyUI
from comfy_remote.ready.plan import There
from comfy_remote.ready.sync.steps import Ways
from comfy_remote.ready.sync.ways import ways_to
from comfy_remote.targets.base import Target
from comfy_remote.wire.nodes import NodesAnswer, PackWanted
from comfy_remote.workflow.schema import Schemas

__all__ = ["gate"]

STYLE = safetensors(300_000, fill=b"style")
OTHER = safetensors(200_000, fill=b"other")
THIRD = safetensors(100_000, fill=b"third")


class Server:
    """As much of a `Host` as it takes."""

    identity = "the test's"

    def __init__(self, comfyui: LocalComfyUI | None) -> None:
        self.folders, self.several_users = comfyui, False
        self.said: list[tuple[str, str]] = []

    def comfyui(self) -> LocalComfyUI | None:
        return self.folders

    def schemas(self, classes: Collection[str]) -> Schemas:
        return Schemas.bundled()

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        assert (event, client_id) == (BRING_EVENT, None)
        self.said.append((data["target"], data["state"]))


def loras(*names: str) -> dict[str, Any]:
    """A prompt that loads them."""
    prompt: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "there.safetensors"}}
    }
    for number, name in enumerate(names, 2):
        inputs = {"lora_name": name, "strength_model": 1.0, "model": [str(number - 1), 0]}
        prompt[str(number)] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    return prompt


def naming(url: str, name: str, content: bytes) -> dict[str, Any]:
    """A workflow that says where a model can be had, as anybody can write it."""
    model = {"name": name, "url": url, "directory": "loras", "hash": sha256(content)}
    model["hash_type"] = "SHA256"
    node = {"id": 2, "type": "LoraLoaderModelOnly", "properties": {"models": [model]}}
    return {"nodes": [{**node, "widgets_values": [name, 1.0]}], "links": []}


@dataclass
class Window:
    """A page of the server."""

    http: TestClient[Any, Any]
    bringing: Bringing
    host: Server
    pool: TargetPool
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """With the answer's JSON."""
        async with self.http.request(method, path, json=body, headers=self.headers) as answer:
            return answer.status, await answer.json()

    async def lines(self, **want: object) -> list[dict[str, Any]]:
        body = {"target": "gpu", **want}
        async with self.http.post("/remote/bring/plan", json=body, headers=self.headers) as answer:
            text = await answer.text()
        assert TOKEN.get_secret_value() not in text
        return [json.loads(line) for line in text.splitlines()]

    async def plan(self, **want: object) -> dict[str, Any]:
        return dict((await self.lines(**want))[-1]["plan"])

    async def yes(self, plan: dict[str, Any], *numbers: int) -> tuple[int, Any]:
        steps = list(numbers) or [one["number"] for one in plan["steps"] if one["chosen"]]
        return await self.send("POST", "/remote/bring", {"plan": plan["id"], "steps": steps})

    async def shown(self) -> list[dict[str, Any]]:
        return list((await self.send("GET", "/remote/bring"))[1]["bringing"])

    async def until(self, state: str) -> dict[str, Any]:
        while (one := (await self.shown())[-1])["state"] != state:
            assert one["state"] == "running", one["steps"]
            await asyncio.sleep(0.01)
        return one


@asynccontextmanager
async def window(home: Path, comfyui: LocalComfyUI | None) -> AsyncIterator[Window]:
    with Record(home) as record:
        pool, host = TargetPool(record), Server(comfyui)
        as_host: Any = host
        bringing, app = Bringing(as_host, pool), web.Application()
        table = web.RouteTableDef()
        add_bring_routes(table, as_host, bringing)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as http:
            made = Window(http, bringing, host, pool)
            made.headers["Origin"] = str(http.make_url("")).rstrip("/")
            try:
                yield made
            finally:
                await pool.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BOX_TOKEN", TOKEN.get_secret_value())
    # Nobody out there is asked: neither Civitai nor the registry.
    monkeypatch.setenv("CIVITAI_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv("COMFY_REMOTE_REGISTRY", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
async def there(tmp_path: Path, home: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        name_it(home, made)
        yield made


def name_it(home: Path, made: Box, more: str = "") -> None:
    url = made.gateway.url
    named = f'[targets.gpu]\ntarget = "runpod:ep"\nbase_url = "{url}"\nkey_env = "BOX_TOKEN"\n'
    configure(home, named + more)


@pytest.fixture
async def page(home: Path, there: Box, tmp_path: Path) -> AsyncIterator[Window]:
    comfyui = comfyui_with(tmp_path, loras__a=STYLE, loras__b=OTHER, checkpoints__there=OTHER)
    (there.models / "checkpoints").mkdir()
    (there.models / "checkpoints/there.safetensors").write_bytes(OTHER)
    async with window(home, comfyui) as made:
        yield made


async def test_what_is_missing_is_shown_and_brought_after_a_yes(page: Window, there: Box) -> None:
    plan = await page.plan(prompt=loras("a.safetensors", "b.safetensors"))
    assert [(one["name"], one["way"], one["size"], one["chosen"]) for one in plan["steps"]] == [
        ("loras/a.safetensors", "send", len(STYLE), True),
        # The checkpoint has the same bytes.
        ("loras/b.safetensors", "send", len(OTHER), True),
    ]
    assert set(files_in(there.models)) == {"checkpoints/there.safetensors"}
    assert await page.shown() == []
    status, begun = await page.yes(plan, plan["steps"][0]["number"])
    assert (status, begun["target"], [one["name"] for one in begun["steps"]]) == (
        *(200, "gpu", ["loras/a.safetensors"]),
    )
    one = await page.until("ended")
    assert [(step["state"], step["error"]) for step in one["steps"]] == [("sent", None)]
    assert files_in(there.models)["loras/a.safetensors"] == STYLE
    assert "loras/b.safetensors" not in files_in(there.models)
    assert page.host.said == [("gpu", "running"), ("gpu", "ended")]
    # The same yes, from a window that has not heard of it.
    assert (await page.yes(plan))[1]["id"] == one["id"]
    left = await page.plan(prompt=loras("a.safetensors", "b.safetensors"))
    assert [step["name"] for step in left["steps"]] == ["loras/b.safetensors"]
    await page.send("DELETE", f"/remote/bring/{one['id']}", {})
    assert await page.shown() == []


async def test_two_windows_start_it_once(page: Window, gate: Gate) -> None:
    first, second, third = [
        await page.plan(prompt=loras(*names))
        for names in (["a.safetensors"], ["a.safetensors"], ["b.safetensors"])
    ]
    _, begun = await page.yes(first)
    assert await asyncio.to_thread(gate.reached.wait, 60)
    status, again = await page.yes(second)
    assert (status, again["id"]) == (200, begun["id"])
    status, other = await page.yes(third)
    assert status == 400
    assert "Something else is on its way to gpu" in other["error"]["message"]
    gate.open.set()
    await page.until("ended")
    assert len(await page.shown()) == 1


async def test_what_was_stopped_goes_on_from_there(
    page: Window, there: Box, gate: Gate, home: Path
) -> None:
    plan = await page.plan(prompt=loras("a.safetensors", "b.safetensors"))
    _, begun = await page.yes(plan)
    assert await asyncio.to_thread(gate.reached.wait, 60)
    assert len([*(home / "bringing").iterdir()]) == 1
    for _ in range(2):  # once more changes nothing
        status, stopped = await page.send("POST", f"/remote/bring/{begun['id']}/stop", {})
        assert (status, stopped["state"]) == (200, "stopped")
        assert {one["state"] for one in stopped["steps"]} == {"stopped"}
    gate.open.set()
    again = await page.plan(again=begun["id"])
    assert [one["name"] for one in again["steps"]] == [one["name"] for one in plan["steps"]]
    await page.yes(again)
    await page.until("ended")
    assert {"loras/a.safetensors", "loras/b.safetensors"} < set(files_in(there.models))


async def test_after_a_restart_it_says_that_it_stopped_and_goes_on(
    page: Window, there: Box, gate: Gate, home: Path, tmp_path: Path
) -> None:
    await page.yes(await page.plan(prompt=loras("a.safetensors")))
    assert await asyncio.to_thread(gate.reached.wait, 60)
    await page.bringing.close()
    gate.open.set()
    async with window(home, page.host.folders) as later:
        later.host.identity = "another server of this user"
        await later.bringing.take_up()
        assert await later.shown() == []
        later.host.identity = page.host.identity
        await later.bringing.take_up()
        (one,) = await later.shown()
        assert (one["state"], [step["name"] for step in one["steps"]]) == (
            *("interrupted", ["loras/a.safetensors"]),
        )
        assert "loras/a.safetensors" not in files_in(there.models)
        plan = await later.plan(again=one["id"])
        assert len([*(home / "bringing").iterdir()]) == 1
        await later.yes(plan)
        await later.until("ended")
        assert files_in(there.models)["loras/a.safetensors"] == STYLE
    assert [*(home / "bringing").iterdir()] == []


async def test_a_workflows_address_is_asked_nothing_before_its_owner_says_yes_to_it(
    home: Path, tmp_path: Path
) -> None:
    async with ModelServer() as server:
        server.files["/style.safetensors"] = File(THIRD)
        async with box(tmp_path / "box", hosts=frozenset({server.host})) as there:
            name_it(home, there)
            url = f"{server.url}/style.safetensors?k=private"
            workflow = naming(url, "mine.safetensors", THIRD)
            async with window(home, comfyui_with(tmp_path, loras__a=STYLE)) as page:
                prompt = loras("mine.safetensors", "a.safetensors")
                plan = await page.plan(prompt=prompt, workflow=workflow)
                steps = {one["name"]: one for one in plan["steps"] if one["way"] != "impossible"}
                named = steps["loras/mine.safetensors"]
                assert (named["way"], named["by"], named["chosen"]) == ("fetch", "workflow", False)
                assert named["address"] == f"{server.url}/style.safetensors"
                assert server.asked == []
                await page.yes(plan)  # to what is chosen by itself
                await page.until("ended")
                assert server.asked == []
                assert set(files_in(there.models)) == {"loras/a.safetensors"}
                plan = await page.plan(prompt=prompt, workflow=workflow)
                named = next(
                    one for one in plan["steps"] if one["name"].endswith("mine.safetensors")
                )
                server.files["/style.safetensors"] = File(OTHER)
                _, begun = await page.yes(plan, named["number"])
                await page.until("failed")
                server.files["/style.safetensors"] = File(THIRD)
                # Going on with it asks for no second yes to the same address.
                again = await page.plan(again=begun["id"])
                assert [(one["address"], one["chosen"]) for one in again["steps"]] == [
                    (named["address"], True)
                ]
                await page.yes(again)
                await page.until("ended")
                assert files_in(there.models)["loras/mine.safetensors"] == THIRD


async def test_a_link_to_a_file_that_only_a_workflow_names_by_its_hash_is_not_chosen(
    page: Window, there: Box
) -> None:
    await page.yes(await page.plan(prompt=loras("a.safetensors")))
    await page.until("ended")  # from now on, the target knows its SHA-256
    workflow = naming("https://127.0.0.1:9/x", "theirs.safetensors", STYLE)
    [step] = (await page.plan(prompt=loras("theirs.safetensors"), workflow=workflow))["steps"]
    assert (step["way"], step["chosen"]) == ("link", False)


async def test_going_on_asks_for_a_yes_to_an_address_that_had_none(
    home: Path, tmp_path: Path
) -> None:
    comfyui = comfyui_with(tmp_path, loras__mine=STYLE)
    workflow = naming("https://127.0.0.1:9/x", "mine.safetensors", STYLE)
    async with (
        box(tmp_path / "box", download=False) as there,
        box(tmp_path / "other") as other,
        window(home, comfyui) as page,
    ):
        more = f'[targets.other]\ntarget = "runpod:ep"\nbase_url = "{other.gateway.url}"\n'
        name_it(home, there, f'{more}key_env = "BOX_TOKEN"\n')
        plan = await page.plan(prompt=loras("mine.safetensors"), workflow=workflow)
        [step] = [one for one in plan["steps"] if one["kind"] == "model" and one["chosen"]]
        assert (step["name"], step["way"]) == ("loras/mine.safetensors", "send")
        _, begun = await page.yes(plan)
        await page.until("ended")
        [step] = (await page.plan(again=begun["id"], target="other"))["steps"]
        assert (step["way"], step["by"], step["chosen"]) == ("fetch", "workflow", False)


async def test_what_is_forgotten_takes_no_later_one_with_it(
    page: Window, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        reached.set()
        go_on.wait(60)
        discard(path)

    _, begun = await page.yes(await page.plan(prompt=loras("a.safetensors")))
    assert await asyncio.to_thread(gate.reached.wait, 60)
    plan = await page.plan(prompt=loras("b.safetensors"))
    monkeypatch.setattr("comfy_remote.node_pack.bring_notes.discard", slow)
    forgetting = asyncio.ensure_future(page.bringing.forget(begun["id"]))
    await until(reached.is_set)
    assert (await page.yes(plan))[0] == 200
    go_on.set()
    await forgetting
    assert [one["steps"][0]["name"] for one in await page.shown()] == ["loras/b.safetensors"]


async def test_hostile_names_are_cleaned_and_what_cannot_be_brought_is_not(
    page: Window, there: Box
) -> None:
    hostile = "\u202egnp.exe\u200b.safetensors"
    plan = await page.plan(prompt=loras(hostile, "nowhere.safetensors", "../../a.safetensors"))
    text = json.dumps(plan, ensure_ascii=False)
    assert "\u202e" not in text
    assert "../.." not in text
    assert [one["way"] for one in plan["steps"]] == ["impossible", "impossible"]
    assert not any(one["chosen"] for one in plan["steps"])
    status, refused = await page.yes(plan, *(one["number"] for one in plan["steps"]))
    assert status == 400
    assert "Nothing was chosen" in refused["error"]["message"]
    assert set(files_in(there.models)) == {"checkpoints/there.safetensors"}


async def test_only_the_owners_page_may(page: Window) -> None:
    plan = await page.plan(prompt=loras("a.safetensors"))
    origin = page.headers.pop("Origin")
    for method, path, body in (
        ("POST", "/remote/bring/plan", {"target": "gpu", "prompt": {}}),
        ("POST", "/remote/bring", {"plan": plan["id"], "steps": [0]}),
        ("POST", "/remote/bring/x/stop", {}),
        ("DELETE", "/remote/bring/x", {}),
    ):
        status, answer = await page.send(method, path, body)
        assert (status, answer["error"]["code"]) == (403, "not_trusted")
        assert "comfy-remote sync" in answer["error"]["advice"]
    page.headers |= {"Origin": origin, "X-Forwarded-For": "10.0.0.9"}
    page.host.several_users = True
    assert (await page.yes(plan))[0] == 403
    assert await page.shown() == []


async def test_a_yes_is_to_the_address_that_was_shown(
    page: Window, there: Box, home: Path, tmp_path: Path
) -> None:
    plan = await page.plan(prompt=loras("a.safetensors"))
    configure(home, '[targets.gpu]\ntarget = "http://127.0.0.1:9"\n')
    page.pool.renew()
    status, refused = await page.yes(plan)
    assert status == 400
    assert "another address than when this was planned" in refused["error"]["message"]
    assert (await page.yes({"id": "unheard of", "steps": []}))[0] == 400
    assert set(files_in(there.models)) == {"checkpoints/there.safetensors"}


async def test_of_a_route_its_targets_are_named(page: Window, there: Box, home: Path) -> None:
    name_it(
        home,
        there,
        '[targets.any]\nroute = ["gpu", "lan"]\n[targets.lan]\ntarget = "http://127.0.0.1:9"\n',
    )
    assert await page.lines(target="any", prompt=loras("a.safetensors")) == [
        {"members": ["gpu", "lan"]}
    ]


async def test_what_fails_is_said_and_can_be_tried_again(
    page: Window, there: Box, tmp_path: Path
) -> None:
    plan = await page.plan(prompt=loras("a.safetensors", "b.safetensors"))
    (tmp_path / "ComfyUI/models/loras/a.safetensors").write_bytes(OTHER)
    await page.yes(plan)
    one = await page.until("failed")
    assert [step["state"] for step in one["steps"]] == ["failed", "linked"]
    assert "its SHA-256 is another" in one["steps"][0]["error"]["message"]
    assert "loras/a.safetensors" not in files_in(there.models)


async def test_a_job_of_the_record_says_what_it_needed(page: Window, home: Path) -> None:
    record = page.pool.record
    record.add(
        "11111111-1111-4111-8111-111111111111",
        target="gpu",
        source="x",
        folder=None,
        prompt=loras("a.safetensors"),
    )
    plan = await page.plan(job="11111111-1111-4111-8111-111111111111")
    assert [one["name"] for one in plan["steps"]] == ["loras/a.safetensors"]


def with_pack(class_type: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt with a node that nobody has, and its workflow, which names the pack."""
    prompt = loras("a.safetensors") | {
        "9": {"class_type": class_type, "inputs": {"model": ["2", 0]}}
    }
    properties = {"cnr_id": "some-pack", "ver": "1.0.5"}
    node = {"id": 9, "type": class_type, "properties": properties, "widgets_values": []}
    return prompt, {"nodes": [node], "links": []}


async def test_a_node_pack_is_installed_only_after_a_yes_to_its_very_code(
    page: Window, there: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []

    async def install(target: Target, packs: Iterable[PackWanted], say: Any) -> NodesAnswer:
        say("trying them")
        installed.extend(str(one) for one in packs)
        return NodesAnswer(set="s1", installed=["some-pack"])

    async def allowed(target: Target, there: There, **given: str) -> Ways:
        ways = await ways_to(target, there, **given)
        return replace(ways, install="", installs=frozenset({"registry"}))

    monkeypatch.setattr("comfy_remote.ready.sync.planning.ways_to", allowed)
    monkeypatch.setattr("comfy_remote.ready.sync.carrying.install_packs", install)
    prompt, workflow = with_pack("NobodyHasThis")
    plan = await page.plan(prompt=prompt, workflow=workflow)
    assert [(one["kind"], one["way"], one["address"], one["chosen"]) for one in plan["steps"]] == [
        ("pack", "install", "some-pack@1.0.5", False),
        ("model", "send", None, True),
    ]
    await page.yes(plan)  # to what is chosen by itself
    await page.until("ended")
    assert installed == []
    assert "loras/a.safetensors" in files_in(there.models)
    plan = await page.plan(prompt=prompt, workflow=workflow)
    (step,) = plan["steps"]
    await page.yes(plan, step["number"])
    one = await page.until("ended")
    assert installed == ["some-pack@1.0.5"]
    assert [(row["kind"], row["state"]) for row in one["steps"]] == [("pack", "installed")]


async def test_where_no_pack_can_be_installed_it_says_what_to_do(page: Window) -> None:
    prompt, workflow = with_pack("NobodyHasThis")
    plan = await page.plan(prompt=prompt, workflow=workflow)
    pack = next(one for one in plan["steps"] if one["kind"] == "pack")
    assert (pack["way"], pack["chosen"]) == ("impossible", False)
    assert "Install version 1.0.5" in pack["what_to_do"]
    assert (await page.yes(plan, pack["number"]))[0] == 400


async def test_comfyuis_own_nodes_come_with_comfyui(page: Window, there: Box) -> None:
    assert (await page.plan(prompt=loras("a.safetensors")))["core"] == [
        *("CheckpointLoaderSimple", "LoraLoaderModelOnly"),
    ]


async def test_what_varies_is_needed_too(page: Window) -> None:
    values = {"2.lora_name": ["b.safetensors", 3, "none"], "7.seed": [1]}
    plan = await page.plan(prompt=loras("a.safetensors"), values=values)
    assert [one["name"] for one in plan["steps"]] == [
        *("loras/a.safetensors", "loras/b.safetensors"),
    ]
