"""``modal:APP`` as a target: where it is found, and where its token may go."""

from __future__ import annotations

from pathlib import Path

import pytest
from yarl import URL

from comfy_remote.calls.address import service_headers
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError, TargetNotFound
from comfy_remote.targets import modal as modal_target
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.modal import BODY_LIMIT, ModalKind, find_front
from comfy_remote.targets.opening import open_target, reopen
from comfy_remote.targets.runpod.target import RunPodTarget

FRONT = "https://ann--portraits-front.modal.run"
TOKEN = {
    "MODAL_PROXY_TOKEN_ID": "wk-planted-0123456789",
    "MODAL_PROXY_TOKEN_SECRET": "ws-planted-0123456789",
}
SENT = {"Modal-Key": "wk-planted-0123456789", "Modal-Secret": "ws-planted-0123456789"}


@pytest.fixture(autouse=True)
def _nobody_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOKEN, "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def _configured(**settings: object) -> Configuration:
    return Configuration(None, {"cloud": TargetSettings("modal:portraits", **settings)})  # type: ignore[arg-type]


def test_a_configured_address_is_used_as_it_is() -> None:
    target = open_target("cloud", _configured(base_url=FRONT), TOKEN)
    assert isinstance(target, RunPodTarget)
    assert (target.name, target.body_limit) == ("cloud", BODY_LIMIT)
    assert target._http.base_url == f"{FRONT}/v2/portraits"
    assert target._http.authorization() == SENT


async def test_without_an_address_modal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal_target, "find_front", lambda app: f"https://ann--{app}.modal.run/")
    target = open_target("modal:portraits", Configuration(None, {}), TOKEN)
    async with target:
        assert isinstance(target, RunPodTarget)
        assert target.name == "modal:portraits"
        assert target._http.base_url == "https://ann--portraits.modal.run/v2/portraits"
        assert target._http.authorization() == SENT


def test_modal_that_nobody_is_logged_in_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("modal")
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError) as refused:
        find_front("portraits")
    assert "modal setup" in refused.value.advice


def test_without_the_sdk_the_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as refused:
        find_front("portraits")
    assert "base_url" in refused.value.advice


@pytest.mark.parametrize("missing", TOKEN)
def test_half_a_token_is_none(missing: str) -> None:
    half = {name: value for name, value in TOKEN.items() if name != missing}
    with pytest.raises(ConfigurationError, match=missing) as refused:
        open_target("cloud", _configured(base_url=FRONT), half)
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://evil.example", "https://modal.run.evil.example"])
def test_a_strangers_file_does_not_send_the_token_elsewhere(url: str) -> None:
    with pytest.raises(ConfigurationError, match="would send MODAL_PROXY_TOKEN_ID"):
        open_target("cloud", _configured(base_url=url), TOKEN)


def test_a_domain_of_ones_own_takes_variables_of_ones_own() -> None:
    names = {"Modal-Key": "MY_ID", "Modal-Secret": "MY_SECRET"}
    configured = _configured(base_url="https://art.example", headers_env=names)
    target = open_target("cloud", configured, {"MY_ID": "wk-mine-01", "MY_SECRET": "ws-mine-01"})
    assert isinstance(target, RunPodTarget)
    assert target._http.authorization() == {"Modal-Key": "wk-mine-01", "Modal-Secret": "ws-mine-01"}


@pytest.mark.parametrize("name", ["", "a/b", "../v2", ".", ".."])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name of an app") as refused:
        RunPodTarget(name, kind=ModalKind())
    assert "modal app list" in refused.value.advice


def test_no_token_is_needed_on_this_machine() -> None:
    target = open_target("cloud", _configured(base_url="http://127.0.0.1:8000"), {})
    assert isinstance(target, RunPodTarget)


def test_other_logins_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no other login"):
        open_target("cloud", _configured(base_url=FRONT, key_env="HF_TOKEN"), TOKEN)


def test_a_job_is_looked_for_where_it_was_sent() -> None:
    ref = RemoteRef(
        "job",
        "fc-1",
        {"kind": "modal", "endpoint": "portraits", "base_url": f"{FRONT}/v2"},
    )
    target = reopen("modal:portraits", ref, TOKEN)
    assert isinstance(target, RunPodTarget)
    assert target._http.base_url == f"{FRONT}/v2/portraits"
    assert target._http.authorization() == SENT
    assert target._ref("job", "fc-1") == ref


def test_an_app_that_is_not_there_says_how_to_deploy_it() -> None:
    target = open_target("cloud", _configured(base_url=FRONT), TOKEN)
    assert isinstance(target, RunPodTarget)
    error = target._missing(TargetNotFound("no", details={"http_status": 404}))
    assert "Deploy the workflow" in error.advice
    assert error.details == {"http_status": 404}


# --- an app as a service ------------------------------------------------------------------


@pytest.mark.parametrize("url", [FRONT, f"{FRONT}/", f"{FRONT}/v2"])
def test_calls_of_a_name_go_to_its_front_with_its_token(url: str) -> None:
    configured = _configured(base_url=url)
    assert configured.service_of("cloud") == f"{FRONT}/"
    headers = service_headers(URL(f"{FRONT}/"), configured, TOKEN)
    assert {name: value.get_secret_value() for name, value in headers.items()} == SENT


def test_calls_of_an_app_that_is_not_named_take_no_token() -> None:
    evil = URL("https://evil--portraits-front.modal.run/")
    assert service_headers(evil, _configured(base_url=FRONT), TOKEN) == {}
    assert service_headers(URL(FRONT), _configured(), TOKEN) == {}


def test_without_an_address_a_name_is_no_service() -> None:
    assert _configured().service_of("cloud") == "modal:portraits"
    assert _configured().service_of("https://example.com/") == "https://example.com/"
