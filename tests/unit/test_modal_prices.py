"""What an app on Modal costs: what its front says of its containers, and Modal's prices."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.deploy.modal.config import _GPUS
from comfy_remote.errors import AuthenticationError, TargetError
from comfy_remote.schedule.money import Price
from comfy_remote.targets import modal as modal_target
from comfy_remote.targets import modal_prices
from comfy_remote.targets.kinds import kind_of
from comfy_remote.targets.modal import ModalKind
from comfy_remote.targets.modal_prices import (
    LISTED,
    LISTED_ON,
    container_price,
    workspace_rates,
)
from comfy_remote.wire.modal import Hardware

LIST = f"Modal's prices of {LISTED_ON}"
TOKEN = {
    "MODAL_PROXY_TOKEN_ID": "wk-planted-0123456789",
    "MODAL_PROXY_TOKEN_SECRET": "ws-planted-0123456789",
}


@pytest.mark.parametrize(
    ("hardware", "per_hour", "lowest"),
    [
        (Hardware(gpu=["L40S"]), 1.95, None),
        (Hardware(gpu=["H100:2"]), 7.9, None),
        # Without more, an A100 is the one of 40 GB; and an upgrade costs nothing.
        (Hardware(gpu=["A100"]), 2.1, None),
        (Hardware(gpu=["a100-80gb"]), 2.5, None),
        (Hardware(gpu=["H100!"]), 3.95, None),
        (Hardware(gpu=["B200+"]), 6.25, None),
        (Hardware(gpu=["A10"]), 1.1, None),
        # Whichever is free: the dearest one is counted.
        (Hardware(gpu=["L40S", "H100"]), 3.95, 1.95),
        (Hardware(gpu=["L4"], cpu=4, memory=32768), 0.8 + 4 * 0.0473 + 32 * 0.008, None),
        (Hardware(gpu=["L4"], region=["eu"]), 0.8 * 1.5, None),
        (Hardware(gpu=["L4"], cpu=1, region=["us", "us-west"]), (0.8 + 0.0473) * 1.75, None),
    ],
)
def test_a_containers_price(hardware: Hardware, per_hour: float, lowest: float | None) -> None:
    price = container_price(hardware, None)
    assert price is not None
    assert price.per_hour == pytest.approx(per_hour)
    assert price.lowest == lowest
    assert (price.source, price.standing) == (LIST, 0.0)


def test_containers_that_always_run() -> None:
    price = container_price(Hardware(gpu=["L40S"], always=2), None)
    assert price == Price(1.95, LIST, standing=3.9)


@pytest.mark.parametrize("gpu", [[], ["X1"], ["H100", "X1"], ["H100:0"], ["H100:x"], ["H100:99"]])
def test_what_is_not_known_is_not_guessed(gpu: list[str]) -> None:
    assert container_price(Hardware(gpu=gpu), None) is None


def test_every_gpu_that_can_be_deployed_has_a_price() -> None:
    for gpu in _GPUS:
        assert container_price(Hardware(gpu=[gpu]), None) is not None, gpu


def test_the_workspaces_own_prices_count() -> None:
    rates = {**LISTED, "gpu_hour_cost_h100": 3.0, "gpu_hour_cost_a10g": float("nan")}
    assert container_price(Hardware(gpu=["H100"]), rates) == Price(3.0, "Modal")
    assert container_price(Hardware(gpu=["A10"]), rates) is None
    assert container_price(Hardware(gpu=["H100"], cpu=1), {"gpu_hour_cost_h100": 3.0}) is None


def test_modals_sdk_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer, as the SDK (1.6.4) gives it: a mapping with decimals."""
    modal = pytest.importorskip("modal")
    prices = {"gpu_hour_cost_h100": Decimal("3.95"), "cpu_hour_cost": Decimal("0.0473")}
    problems: list[Exception] = []

    def rates() -> Mapping[str, Decimal]:
        if problems:
            raise problems.pop()
        return prices

    workspace = SimpleNamespace(billing=SimpleNamespace(rates=rates))
    monkeypatch.setattr(modal.Workspace, "from_context", lambda: workspace)
    assert workspace_rates() == {"gpu_hour_cost_h100": 3.95, "cpu_hour_cost": 0.0473}
    for problem in (modal.exception.AuthError("no"), AttributeError("rates"), OSError("no way")):
        problems.append(problem)
        assert workspace_rates() is None


@pytest.fixture
def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal_prices, "workspace_rates", lambda: None)
    # A front on this machine costs nothing; this one stands for Modal's.
    monkeypatch.setattr(modal_target, "_here", lambda settings: False)


@pytest.mark.usefixtures("without_sdk")
async def test_an_app_says_what_its_containers_have() -> None:
    kind = ModalKind()
    async with ScriptedServer() as server:
        settings = TargetSettings("modal:portraits", base_url=server.url)
        for health, price in (
            ({"hardware": {"gpu": ["L40S"]}}, Price(1.95, LIST)),
            ({"jobs": {}, "workers": {}}, None),
            ({"hardware": {"gpu": "L40S"}}, None),
            ({"hardware": {"gpu": ["L40S"] * 1000}}, None),
            ({"hardware": {"gpu": ["L40S"], "cpu": -1}}, None),
            ([], None),
        ):
            server.on("GET /v2/portraits/health", Answer(health))
            assert await kind.price(settings, TOKEN) == price, health
        assert server.asked[0].headers["Modal-Key"] == TOKEN["MODAL_PROXY_TOKEN_ID"]
        server.on("GET /v2/portraits/health", Answer(b"<html>", headers={}))
        with pytest.raises(TargetError):
            await kind.price(settings, TOKEN)
        server.on("GET /v2/portraits/health", Answer("no", 401))
        with pytest.raises(AuthenticationError):
            await kind.price(settings, TOKEN)
        asked = len(server.asked)
        assert await kind.price(settings, {}) is None, "no token"
        assert len(server.asked) == asked


def test_apps_of_two_workspaces_share_no_price() -> None:
    kind = kind_of("modal:x")
    assert kind is not None
    app = TargetSettings("modal:portraits")
    ways = {
        kind.priced_as(app, {}),
        kind.priced_as(app, {"MODAL_PROFILE": "other"}),
        kind.priced_as(app, {"MODAL_ENVIRONMENT": "dev"}),
        kind.priced_as(app, {"MODAL_TOKEN_ID": "ak-1"}),
        kind.priced_as(TargetSettings("modal:other"), {}),
        kind.priced_as(TargetSettings("modal:portraits", "https://a--portraits.modal.run"), {}),
    }
    assert None not in ways
    assert len(ways) == 6
    here = TargetSettings("modal:portraits", base_url="http://127.0.0.1:8000")
    assert kind.priced_as(here, {}) is None


def test_odd_hardware_is_refused() -> None:
    for odd in ({"gpu": [1]}, {"memory": "x"}, {"always": -1}, {"cpu": float("inf")}):
        with pytest.raises(ValidationError):
            Hardware.model_validate(odd)
