"""Endpoints that are made and removed in the page, against a double of RunPod's REST API."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from helpers import until
from runpod_double import KEY, RunPodDouble, gpu

from comfy_remote.config.own_file import OwnFile
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.deploy.runpod import image
from comfy_remote.deploy.runpod.carrying import CarryTimes
from comfy_remote.deploy.runpod.image import ImageFacts
from comfy_remote.deploy.runpod.mark import MARK_VARIABLE
from comfy_remote.deploy.runpod.record import DeploymentRecord, Made
from comfy_remote.deploy.runpod.wanted import IMAGE
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.deploy_routes import add_deploy_routes
from comfy_remote.node_pack.deploying import Deployments, under_way
from comfy_remote.node_pack.own_targets import OwnTargets
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.types import JsonValue

ENDPOINT, VOLUME = "POST /v2/serverless", "POST /v2/network-volumes"
FORM: dict[str, JsonValue] = {"name": "portraits", "gpus": ["RTX 4090"], "volume": "100@EU-RO-1"}
SDXL: dict[str, JsonValue] = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}}
}


class OneHost:
    """As much of a `Host` as the routes use."""

    several_users = False


@dataclass
class Page:
    http: TestClient[Any, Any]
    origin: str

    async def ask(self, route: str, body: Any, expect: int = 200, **headers: str) -> Any:
        sent = {"Origin": self.origin, **headers}
        url = f"/remote/deploy/runpod/{route}"
        async with self.http.post(url, json=body, headers=sent) as answer:
            text = await answer.text()
            assert answer.status == expect, text
            assert KEY not in text
            return await answer.json()

    async def done(self) -> Any:
        """What has become of what was started."""
        now: Any = None

        async def ended() -> bool:
            nonlocal now
            now = (await self.ask("state", {}))["now"]
            return bool(now["state"] != "running")

        while not await ended():
            pass
        return now

    async def make(self, **form: Any) -> Any:
        plan = await self.ask("plan", {**FORM, **form})
        await self.ask("start", {"plan": plan["plan"]})
        return await self.done()

    async def remove(self, name: str = "portraits", **form: Any) -> Any:
        plan = await self.ask("removal", {"name": name, **form})
        await self.ask("start", {"plan": plan["plan"]})
        return await self.done()


@asynccontextmanager
async def one_start(folder: Path) -> AsyncIterator[Page]:
    """ComfyUI from its start to its end."""
    with Record(folder / "home") as record:
        pool = TargetPool(record)
        times = CarryTimes(looks=3, between=0.01)
        deployments = Deployments(pool, OwnTargets(pool), times)
        host: Any = OneHost()
        table, app = web.RouteTableDef(), web.Application()
        add_deploy_routes(table, host, deployments)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as http:
            yield Page(http, str(http.make_url("")).rstrip("/"))
            await pool.close()


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> Iterator[None]:
    async def facts(_named: str) -> ImageFacts:
        return ImageFacts("public", 5_100_000_000)

    monkeypatch.setattr(image, "image_facts", facts)
    for name in [name for name in os.environ if name.startswith("RUNPOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = {**os.environ}
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodDouble]:
    with RunPodDouble() as one:
        monkeypatch.setenv("RUNPOD_API_BASE_URL", one.url)
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield one


@pytest.fixture
async def page(tmp_path: Path, double: RunPodDouble) -> AsyncIterator[Page]:
    async with one_start(tmp_path) as page:
        yield page


def record(tmp_path: Path) -> list[Made]:
    return DeploymentRecord(tmp_path / "home").all()


def target(name: str = "portraits") -> TargetSettings | None:
    return Configuration.load().own_targets.get(name)


async def test_a_typed_key_gives_the_choices_and_is_stored_only_if_runpod_takes_it(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    error = (await page.ask("options", {}, 400))["error"]
    assert (error["message"], error["advice"]) == (
        "The RunPod account's key is not known.",
        "Type the key.",
    )
    error = (await page.ask("options", {"key": "rpa_mistyped"}, 401))["error"]
    assert error["message"] == "RunPod refused the key."
    env = tmp_path / "home" / ".env"
    assert not env.exists()
    found = await page.ask("options", {"key": KEY, "workflow": "My Portraits", "prompt": SDXL})
    assert found["stored"] == str(env)
    assert KEY in env.read_text()
    assert found["image"] == IMAGE
    assert found["suggested"] == {
        "name": "my-portraits",
        "memory": 24,
        "by_workflow": True,
        "models": 0,
        "gpus": ["L4", "RTX 3090", "RTX 4090"],
        "volume_size": 50,
    }
    assert found["gpus"][0] == {
        "name": "RTX A4000",
        "memory": 16,
        "price": 0.58,
        "free": True,
        "centers": ["EU-RO-1"],
    }
    assert [one["name"] for one in found["gpus"]][-1] == "H100 SXM"
    assert found["gpus"][-1]["free"] is False
    assert found["centers"] == [
        {"id": "EU-CZ-1", "s3": True},
        {"id": "EU-RO-1", "s3": True},
        {"id": "US-KS-2", "s3": True},
        {"id": "US-TX-3", "s3": False},
    ]
    assert found["uses"][0] == {"use": "a few an hour", "idle": 60, "workers": 2}


async def test_the_sizes_of_local_models_choose_the_gpu_and_the_volume(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").touch()
    model = comfyui / "models" / "checkpoints" / "sdxl.safetensors"
    model.parent.mkdir(parents=True)
    with model.open("wb") as file:
        file.truncate(30_000_000_000)  # nothing of it is on the disk
    monkeypatch.setenv("COMFYUI_DIR", str(comfyui))
    suggested = (await page.ask("options", {"prompt": SDXL}))["suggested"]
    assert suggested == {
        "name": "gpu",
        "memory": 48,
        "by_workflow": True,
        "models": 30_000_000_000,
        "gpus": ["L40", "L40S"],
        "volume_size": 50,
    }


async def test_what_is_shown_is_made_after_a_yes_and_becomes_a_target(
    page: Page, double: RunPodDouble, tmp_path: Path
) -> None:
    plan = await page.ask("plan", FORM)
    assert double.changes == []
    assert plan["per_month"] == pytest.approx(7.0)
    assert plan["image"] == {"name": IMAGE, "state": "public", "size": 5_100_000_000}
    volume, endpoint = plan["steps"]
    assert volume == {
        "does": "make",
        "kind": "volume",
        "id": None,
        "name": "portraits",
        "per_month": pytest.approx(7.0),
        "per_hour": None,
        "size": 100,
        "center": "EU-RO-1",
    }
    assert endpoint["per_hour"] == {"least": 1.1, "most": 1.1}
    assert (endpoint["gpus"], endpoint["workers"], endpoint["idle"]) == (["RTX 4090"], 2, 60)

    started = await page.ask("start", {"plan": plan["plan"]})
    assert started["state"] == "running"
    now = await page.done()
    assert (now["state"], now["done"], now["target"]) == ("done", 2, "portraits")
    [made] = double.endpoints.values()
    [its_volume] = double.volumes
    settings = target()
    assert settings is not None
    assert settings.target == f"runpod:{made['id']}"
    assert settings.volume == f"{its_volume}@EU-RO-1"
    assert OwnFile().default == "portraits"
    assert made["env"][MARK_VARIABLE].startswith("portraits/")
    state = await page.ask("state", {})
    assert state["made"] == [
        {
            "name": "portraits",
            "endpoint": made["id"],
            "volume": its_volume,
            "target": "portraits",
            "asked": None,
        }
    ]
    assert under_way() == []
    # A plan is good for one yes; the last one's may come again, after an answer that got lost.
    assert (await page.ask("start", {"plan": plan["plan"]}))["state"] == "done"
    assert len(double.endpoints) == 1
    error = await page.ask("start", {"plan": "0" * 32}, 400)
    assert error["error"]["message"] == "That plan is not known any more. Nothing was done."
    assert (await page.ask("options", {"workflow": "portraits"}))["suggested"]["name"] == (
        "portraits-2"
    )


@pytest.mark.parametrize("lost", [ENDPOINT, VOLUME])
async def test_an_answer_that_got_lost_is_found_again(
    page: Page, double: RunPodDouble, lost: str
) -> None:
    double.lost = [lost]
    assert (await page.make())["state"] == "done"
    assert len(double.endpoints) == len(double.volumes) == 1
    assert double.changes.count(lost) == 1


async def test_a_refused_step_says_what_was_made_and_the_same_goes_on(
    page: Page, double: RunPodDouble, tmp_path: Path
) -> None:
    double.balance = False
    now = await page.make()
    [volume] = double.volumes
    assert (now["state"], now["done"], now["target"]) == ("failed", 1, None)
    assert "balance is too low" in now["error"]["message"]
    assert f"The volume {volume} (100 GB, $7.00 a month) was made" in now["error"]["advice"]
    [made] = (await page.ask("state", {}))["made"]
    assert (made["endpoint"], made["volume"], made["target"]) == (None, volume, None)
    assert {key: made["asked"][key] for key in FORM} == FORM
    assert under_way() == ["portraits"]

    double.balance = True
    plan = await page.ask("plan", made["asked"])
    assert [(one["does"], one["kind"], one["id"]) for one in plan["steps"]] == [
        ("leave", "volume", volume),
        ("make", "endpoint", None),
    ]
    assert (await page.make())["target"] == "portraits"
    assert len(double.volumes) == 1
    assert under_way() == []


async def test_comfyui_ends_in_the_middle_and_the_next_one_goes_on(
    double: RunPodDouble, tmp_path: Path
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def before(method: str, path: str) -> None:
        if f"{method} {path}" == ENDPOINT:
            asked.set()
            go_on.wait(60)

    double.before = before
    async with one_start(tmp_path) as page:
        plan = await page.ask("plan", FORM)
        await page.ask("start", {"plan": plan["plan"]})
        await until(asked.is_set)
    go_on.set()
    # RunPod carries the request out all the same.
    await until(lambda: double.endpoints)
    async with one_start(tmp_path) as page:
        state = await page.ask("state", {})
        assert state["now"] is None
        [made] = state["made"]
        [volume] = double.volumes
        assert (made["volume"], made["endpoint"], made["target"]) == (volume, None, None)
        assert under_way() == ["portraits"]
        now = await page.make(**{**made["asked"], "name": made["name"]})
        assert now["target"] == "portraits"
    assert len(double.endpoints) == len(double.volumes) == 1


async def test_it_is_removed_with_a_plan_of_its_own_the_volume_only_by_a_second_choice(
    page: Page, double: RunPodDouble, tmp_path: Path
) -> None:
    await page.make()
    [volume] = double.volumes
    plan = await page.ask("removal", {"name": "portraits"})
    assert [(one["kind"], one["does"]) for one in plan["steps"]] == [
        ("endpoint", "remove"),
        ("volume", "leave"),
    ]
    assert plan["per_month"] == pytest.approx(7.0)
    assert list(double.volumes) == [volume]
    now = await page.remove()
    assert (now["state"], now["target"]) == ("done", "portraits")
    assert target() is None
    assert (list(double.endpoints), list(double.volumes)) == ([], [volume])
    [made] = (await page.ask("state", {}))["made"]
    assert (made["endpoint"], made["volume"], made["asked"]) == (None, volume, None)

    plan = await page.ask("removal", {"name": "portraits", "with_volume": True})
    assert [(one["kind"], one["does"]) for one in plan["steps"]] == [("volume", "remove")]
    await page.remove(with_volume=True)
    assert list(double.volumes) == []
    assert record(tmp_path) == []


async def test_a_removal_that_stops_behind_the_endpoint_leaves_no_target(
    page: Page, double: RunPodDouble, tmp_path: Path
) -> None:
    await page.make()
    [volume] = double.volumes
    worker: dict[str, Any] = {"id": "worker", "networkVolumes": [volume]}

    def busy(method: str, path: str) -> None:
        if (method, path) == ("DELETE", f"/v2/network-volumes/{volume}"):
            double.endpoints["worker"] = worker

    double.before = busy
    now = await page.remove(with_volume=True)
    assert (now["state"], now["done"], now["target"]) == ("failed", 1, "portraits")
    assert f"The volume {volume} stays, and goes on costing money" in now["error"]["advice"]
    assert target() is None
    double.before = lambda _method, _path: None
    del double.endpoints["worker"]
    plan = await page.ask("removal", {"name": "portraits", "with_volume": True})
    assert [(one["kind"], one["does"]) for one in plan["steps"]] == [
        ("target", "remove"),
        ("volume", "remove"),
    ]
    assert (await page.remove(with_volume=True))["state"] == "done"
    assert (double.volumes, record(tmp_path)) == ({}, [])


async def test_a_private_image_is_loaded_with_a_login_of_the_account(
    page: Page, double: RunPodDouble
) -> None:
    double.registries = [{"id": "clr3x9", "name": "docker-hub"}]
    assert (await page.ask("options", {}))["registries"] == double.registries
    plan = await page.ask("plan", {**FORM, "image": "me/private:1", "registry": "clr3x9"})
    assert plan["steps"][1]["login"] == "docker-hub"
    assert (await page.make(image="me/private:1", registry="clr3x9"))["state"] == "done"
    [made] = double.endpoints.values()
    assert made["image"] == "me/private:1"


async def test_what_is_only_on_record_is_forgotten(
    page: Page, double: RunPodDouble, tmp_path: Path
) -> None:
    double.balance = False
    now = await page.make(volume="")
    assert (now["state"], now["done"]) == ("failed", 0)
    assert under_way() == ["portraits"]
    plan = await page.ask("removal", {"name": "portraits"})
    assert plan["steps"] == []
    assert (await page.remove())["state"] == "done"
    assert record(tmp_path) == []
    error = (await page.ask("removal", {"name": "portraits"}, 400))["error"]
    assert "has nothing that Comfy Remote made as 'portraits'" in error["message"]


async def test_what_was_agreed_to_is_done_or_nothing(page: Page, double: RunPodDouble) -> None:
    plan = await page.ask("plan", FORM)
    await page.make(volume="")
    await page.ask("start", {"plan": plan["plan"]})
    now = await page.done()
    assert now["state"] == "failed"
    assert "has changed since the plan was made. Nothing was done." in now["error"]["message"]
    assert double.volumes == {}


async def test_a_yes_is_to_the_price_that_was_shown(
    page: Page, double: RunPodDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = await page.ask("plan", FORM)
    dearer = [gpu("GeForce RTX 4090", "ADA_24", 24, 2.2, EU_RO_1="HIGH")]
    monkeypatch.setattr("runpod_double.GPUS", dearer)
    await page.ask("start", {"plan": plan["plan"]})
    assert "prices have changed since the plan was made" in (await page.done())["error"]["message"]
    assert double.changes == []
    plan = await page.ask("plan", FORM)
    [_, endpoint] = [step for step in plan["steps"] if step["kind"] in ("volume", "endpoint")]
    assert endpoint["per_hour"] == {"least": 2.2, "most": 2.2}
    await page.ask("start", {"plan": plan["plan"]})
    assert (await page.done())["state"] == "done"


async def test_a_yes_is_to_the_account_that_was_shown(
    page: Page, double: RunPodDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = await page.ask("plan", FORM)
    monkeypatch.setenv("RUNPOD_API_KEY", f"{KEY}-of-another")
    monkeypatch.setattr("runpod_double.KEY", f"{KEY}-of-another")
    await page.ask("start", {"plan": plan["plan"]})
    assert (
        "key is another one than when this was planned" in (await page.done())["error"]["message"]
    )
    assert double.changes == []


async def test_what_the_account_calls_its_things_is_cleaned(
    page: Page, double: RunPodDouble
) -> None:
    for name in (f"\u202egnp.exe\x1b[31m{KEY}", "fine"):
        volume = {"id": f"v{len(name)}", "name": name, "size": 10, "dataCenter": "EU-RO-1"}
        double.volumes[str(volume["id"])] = {**volume, "type": "STANDARD"}
    found = await page.ask("options", {})  # which sees that no answer has the key
    names = [one["name"] for one in found["volumes"]]
    assert names == ["\ufffdgnp.exe\ufffd[31m***", "fine"]


async def test_the_same_yes_again_begins_nothing(page: Page, double: RunPodDouble) -> None:
    plan = await page.ask("plan", FORM)
    await page.ask("start", {"plan": plan["plan"]})
    assert (await page.ask("start", {"plan": plan["plan"]}))["name"] == "portraits"
    assert (await page.done())["state"] == "done"
    assert (await page.ask("start", {"plan": plan["plan"]}))["state"] == "done"
    assert (len(double.endpoints), len(double.volumes)) == (1, 1)


async def test_one_at_a_time(page: Page, double: RunPodDouble) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def before(method: str, path: str) -> None:
        if f"{method} {path}" == VOLUME:
            asked.set()
            go_on.wait(60)

    first, second = await page.ask("plan", FORM), await page.ask("plan", {**FORM, "name": "b"})
    double.before = before
    await page.ask("start", {"plan": first["plan"]})
    await until(asked.is_set)
    error = (await page.ask("start", {"plan": second["plan"]}, 400))["error"]
    assert error["message"] == "portraits is being made or removed already."
    go_on.set()
    assert (await page.done())["state"] == "done"
    await page.ask("start", {"plan": second["plan"]})
    assert (await page.done())["target"] == "b"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"name": "a b"}, "cannot be the name of a deployment"),
        ({"name": "runpod:x"}, "cannot be the name of a deployment"),
        ({"name": "sandbox"}, "is an address itself"),
        ({"name": "box"}, "You have another target 'box' already."),
        ({"gpus": ["GTX 1080"]}, "RunPod has no GPU 'GTX 1080'"),
        ({"volume": "100@XX-YY-1"}, "XX-YY-1 is not a RunPod data centre"),
        ({"volume": "5@EU-RO-1"}, "5 GB cannot be made"),
        ({"use": "steady", "idle": 60}, "An idle time cannot be set for steady use"),
        ({"use": "daily"}, "The request is not valid: use"),
        ({"idle": 0}, "The request is not valid: idle"),
    ],
)
async def test_what_cannot_be_had_is_refused_before_anything_is_made(
    page: Page, double: RunPodDouble, form: dict[str, Any], words: str
) -> None:
    with OwnFile.changing() as own:
        own.put("box", TargetSettings("http://192.168.1.20:8188"))
    error = (await page.ask("plan", {**FORM, **form}, 400))["error"]
    assert words in error["message"]
    assert double.changes == []


@pytest.mark.parametrize("route", ["options", "plan", "removal", "start", "state"])
async def test_only_the_servers_own_page_may(page: Page, double: RunPodDouble, route: str) -> None:
    await page.ask(route, {}, 403, Origin="https://elsewhere.example")
    async with page.http.post(f"/remote/deploy/runpod/{route}", json={}) as answer:
        assert answer.status == 403
    assert double.asked == []


async def test_no_key_is_taken_over_plain_http_from_another_machine(
    page: Page, double: RunPodDouble
) -> None:
    host = "192.168.1.5:8188"
    headers = {"Origin": f"http://{host}", "Host": host}
    error = (await page.ask("options", {"key": KEY}, 403, **headers))["error"]
    assert "opened by http from another machine" in error["message"]
    assert double.asked == []


async def test_a_key_that_may_only_read_makes_nothing_and_says_so(
    page: Page, double: RunPodDouble
) -> None:
    double.may_change = False
    now = await page.make()
    assert now["state"] == "failed"
    assert now["error"]["code"] == "authentication"
    assert now["error"]["message"] == "RunPod does not let the key do that."
    assert "allowed to read and change the account's endpoints" in now["error"]["advice"]
    assert (double.volumes, double.endpoints) == ({}, {})
