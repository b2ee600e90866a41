"""``comfy:`` addresses: which server they mean, which key goes there, and who may name one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from comfy_remote.config.config_file import TargetTable
from comfy_remote.config.environment import load_env_files
from comfy_remote.config.own_file import OwnFile
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.config.trust import TrustStore, named_target
from comfy_remote.errors import ConfigurationError, NotTrusted
from comfy_remote.jobs.prices import asked_price
from comfy_remote.net.address import shown
from comfy_remote.node_pack.target_form import FilledIn, TargetForm, form_of
from comfy_remote.node_pack.trusted_targets import check_target, confirm, unconfirmed_address
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.comfy_api.target import ComfyApiTarget
from comfy_remote.targets.kinds import kind_of, secret_variables, sent_to, typed_target
from comfy_remote.targets.opening import needs_key, open_target, reopen
from comfy_remote.targets.typed_settings import with_own_key

KEY = "planted-comfy-key-01"
OTHER = "planted-other-key-02"
SET = {"COMFY_API_KEY": KEY, "BOX_TOKEN": OTHER, "RUNPOD_API_KEY": "planted-runpod-03"}


def opened(
    settings: TargetSettings | str, environment: dict[str, str] | None = None, name: str = "x"
) -> ComfyApiTarget:
    said = TargetSettings(settings) if isinstance(settings, str) else settings
    target = open_target(
        name, Configuration(None, {name: said}), SET if environment is None else environment
    )
    assert isinstance(target, ComfyApiTarget)
    return target


def key_sent(target: ComfyApiTarget) -> str | None:
    return target._http.authorization().get("Authorization")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("comfy:cloud", "https://cloud.comfy.org"),
        ("comfy:dep-12ab", "https://dep-12ab.run.comfy.app"),
        ("comfy:https://dep-1.stg.run.comfy.app", "https://dep-1.stg.run.comfy.app"),
    ],
)
def test_comfys_own_servers_get_the_accounts_key(address: str, url: str) -> None:
    target = opened(address)
    assert (target.url, key_sent(target)) == (url, f"Bearer {KEY}")
    # The cloud's list of nodes takes the key by another name.
    named = target._http.authorization().get("X-API-Key")
    assert named == (KEY if address == "comfy:cloud" else None)
    settings = TargetSettings(address)
    assert needs_key(settings, {})
    assert secret_variables(settings) == ("COMFY_API_KEY",)
    with pytest.raises(ConfigurationError, match="COMFY_API_KEY is not set") as refused:
        opened(address, {})
    assert "platform.comfy.org" in refused.value.advice


@pytest.mark.parametrize(
    "address",
    [
        "comfy:http://127.0.0.1:8189",
        "comfy:https://box.lan/mount",
        "comfy:https://dep-1.run.comfy.app:8443",
        "comfy:https://cloud.comfy.org.example.org",
    ],
)
def test_another_server_gets_no_key_that_is_not_named_for_it(address: str) -> None:
    target = opened(address)
    assert key_sent(target) is None
    assert f"comfy:{target.url}" == address
    assert not needs_key(TargetSettings(address), {})


def test_another_servers_key_is_the_one_that_its_settings_name() -> None:
    box = TargetSettings("comfy:https://box.lan", key_env="BOX_TOKEN")
    assert key_sent(opened(box)) == f"Bearer {OTHER}"
    assert needs_key(box, {})
    with pytest.raises(ConfigurationError, match=r"would send COMFY_API_KEY to box\.lan"):
        opened(TargetSettings("comfy:https://box.lan", key_env="COMFY_API_KEY"))
    with pytest.raises(ConfigurationError, match=r"would send RUNPOD_API_KEY to cloud\.comfy\.org"):
        opened(TargetSettings("comfy:cloud", key_env="RUNPOD_API_KEY"))
    here = TargetSettings("comfy:http://127.0.0.1:8189", key_env="COMFY_API_KEY")
    assert key_sent(opened(here)) == f"Bearer {KEY}"
    with pytest.raises(ConfigurationError, match="in the clear"):
        opened(TargetSettings("comfy:http://box.lan:8189", key_env="BOX_TOKEN"))


def test_the_two_variables_of_comfys_sdk_belong_together() -> None:
    """``COMFY_API_KEY`` goes to the server in ``COMFY_BASE_URL``, and to no other port of it."""
    both = {**SET, "COMFY_BASE_URL": "https://box.lan/mount/"}
    name, why = Configuration(None, {}).usual(both)
    assert (name, why) == ("comfy:https://box.lan/mount", "named by COMFY_BASE_URL")
    assert key_sent(opened(name, both)) == f"Bearer {KEY}"
    assert key_sent(opened("comfy:https://box.lan:444/mount", both)) is None
    assert key_sent(opened(name, {"COMFY_BASE_URL": "https://box.lan/mount"})) is None
    # As with the others: what is typed, then what is configured, then RunPod's endpoint.
    assert Configuration("gpu", {}).usual(both)[0] == "gpu"
    first = {**both, "RUNPOD_ENDPOINT_ID": "abc"}
    assert Configuration(None, {}).usual(first)[0] == "runpod:abc"
    assert Configuration(None, {}).usual({"COMFY_BASE_URL": " "})[0] == "sandbox"
    cloud = {"COMFY_BASE_URL": "https://cloud.comfy.org/"}
    assert Configuration(None, {}).usual(cloud)[0] == "comfy:cloud"


@pytest.mark.parametrize("wrong", ["not a url", "ftp://box", "http://", "a_b"])
def test_a_base_url_that_is_none_is_said(wrong: str) -> None:
    name, _ = Configuration(None, {}).usual({"COMFY_BASE_URL": wrong})
    with pytest.raises(ConfigurationError) as refused:
        open_target(name, Configuration(None, {}), {})
    assert "comfy:http://HOST:8189" in refused.value.advice


def test_partner_nodes_log_in_only_where_the_settings_say_so() -> None:
    assert opened("comfy:cloud")._partner_key is None
    cloud = TargetSettings("comfy:cloud", partner_key_env="COMFY_API_KEY")
    sent = opened(cloud)._partner_key
    assert sent is not None and sent.get_secret_value() == KEY
    box = TargetSettings("comfy:https://box.lan", partner_key_env="BOX_TOKEN")
    target = opened(box)
    assert key_sent(target) is None
    assert target._partner_key is not None
    assert target._partner_key.get_secret_value() == OTHER
    with pytest.raises(ConfigurationError, match=r"partner nodes.*BOX_TOKEN, which is not set"):
        opened(box, {})
    with pytest.raises(ConfigurationError, match=r"would send COMFY_API_KEY to box\.lan"):
        opened(TargetSettings("comfy:https://box.lan", partner_key_env="COMFY_API_KEY"))
    with pytest.raises(ConfigurationError, match="in the clear"):
        opened(TargetSettings("comfy:http://box.lan:8189", partner_key_env="BOX_TOKEN"))
    with pytest.raises(ValueError, match=r"partner_key_env is for a comfy: target"):
        TargetTable(target="runpod:abc", partner_key_env="COMFY_API_KEY")


def test_a_folders_file_names_what_it_sends() -> None:
    table = TargetTable(target="https://thief.run.comfy.app/api/v2", partner_key_env="BOX_TOKEN")
    assert named_target("gpu", table) == (
        '[targets.gpu] target = "comfy:thief", partner_key_env = "BOX_TOKEN" '
        "(sends COMFY_API_KEY, BOX_TOKEN)"
    )


def test_a_page_or_workflow_may_name_the_owners_servers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_target("comfy:cloud")
    check_target("https://cloud.comfy.org/api/v2")
    for address, origin in (
        ("comfy:dep-1", "https://dep-1.run.comfy.app"),
        ("https://dep-2.run.comfy.app/api/v2", "https://dep-2.run.comfy.app"),
        ("comfy:http://127.0.0.1:8189", "http://127.0.0.1:8189"),
        ("route:sandbox,comfy:https://box.lan/mount", "https://box.lan"),
    ):
        assert unconfirmed_address(address) == origin
        with pytest.raises(NotTrusted):
            check_target(address)
        assert confirm(address) == origin
        check_target(address)
    monkeypatch.setenv("COMFY_BASE_URL", "https://mine.lan:8443/mount")
    check_target("comfy:https://mine.lan:8443/mount")
    with pytest.raises(NotTrusted):
        check_target("comfy:https://mine.lan/mount")


def test_a_folders_env_file_counts_once_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    env = folder / ".env"
    env.write_text(f"COMFY_BASE_URL=https://thief.example\nCOMFY_API_KEY={KEY}\n")
    environment = {"COMFY_REMOTE_HOME": str(home)}
    assert load_env_files(environment) == []
    assert environment == {"COMFY_REMOTE_HOME": str(home)}
    line = 'COMFY_BASE_URL = "https://thief.example" (sends COMFY_API_KEY)'
    TrustStore(home).trust(env, [line])
    assert load_env_files(environment) == [env]
    assert environment["COMFY_BASE_URL"] == "https://thief.example"
    assert "COMFY_API_KEY" not in environment
    (home / ".env").write_text(f"COMFY_API_KEY={OTHER}\n")
    load_env_files(environment)
    assert environment["COMFY_API_KEY"] == OTHER


def test_a_job_is_found_where_it_was_sent() -> None:
    details = {"comfy_api": "https://dep-1.run.comfy.app"}
    assert sent_to(details) == TargetSettings("comfy:dep-1")
    ref = RemoteRef("job", "remote", {"comfy_api": "https://box.lan/mount"})
    assert sent_to(ref.details) == TargetSettings("comfy:https://box.lan/mount")
    with OwnFile.changing() as own:
        own.put("box", TargetSettings("comfy:https://box.lan/mount", key_env="BOX_TOKEN"))
    found = reopen("box", ref, SET)
    assert isinstance(found, ComfyApiTarget)
    assert (found.url, key_sent(found)) == ("https://box.lan/mount", f"Bearer {OTHER}")
    # The name means another server today: its key stays here.
    with OwnFile.changing() as own:
        own.put("box", TargetSettings("comfy:https://other.lan", key_env="BOX_TOKEN"))
    found = reopen("box", ref, SET)
    assert isinstance(found, ComfyApiTarget)
    assert (found.url, key_sent(found)) == ("https://box.lan/mount", None)


def test_a_typed_key_gets_a_variable_of_its_server() -> None:
    cloud = TargetSettings("comfy:cloud")
    assert with_own_key(cloud) == cloud
    box = with_own_key(TargetSettings("comfy:https://box.lan/mount"))
    assert box.key_env is not None and box.key_env.startswith("COMFY_REMOTE_KEY_BOX_LAN_")
    kind = kind_of(box.target)
    assert kind is not None and kind.key_variable(box) == box.key_env


def test_the_page_shows_and_keeps_what_the_form_cannot_say() -> None:
    cloud = TargetSettings("comfy:cloud", partner_key_env="COMFY_API_KEY")
    said = form_of(cloud)
    assert said is not None
    assert (said["kind"], said["address"]) == ("comfy", "cloud")
    form = TargetForm.model_validate({**said, "price_per_hour": 2.0, "key": KEY})
    found = FilledIn.of(form, before=cloud)
    assert found.settings == replace(cloud, price_per_hour=2.0)
    assert found.keys == {"COMFY_API_KEY": KEY}
    elsewhere = TargetForm.model_validate({"kind": "comfy", "address": "https://box.lan"})
    assert FilledIn.of(elsewhere, before=cloud).settings == TargetSettings("comfy:https://box.lan")


async def test_what_a_run_costs_is_not_known_and_the_reason_is_said() -> None:
    configuration = Configuration(None, {})
    price, why = await asked_price("comfy:cloud", configuration, SET)
    assert price is None
    assert why.endswith("Comfy bills in credits, and has no API that says what a run costs")
    assert (await asked_price("comfy:http://127.0.0.1:8189", configuration, SET)).why == (
        "no price_per_hour is set for it"
    )
    priced = Configuration(None, {"x": TargetSettings("comfy:cloud", price_per_hour=1.5)})
    price, _ = await asked_price("x", priced, SET)
    assert price is not None and price.per_hour == 1.5


SLASH = "https://evil.test\uff0f.run.comfy.app"
"""What looks like a slash is a part of the host to some, and ends it for others."""


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("comfy:https://cloud.comfy.org:0443", "comfy:cloud"),
        ("https://cloud。comfy。org/api/v2", "comfy:cloud"),
        ("comfy:https://box.lan:443/mount", "comfy:https://box.lan/mount"),
        ("comfy:http://box.lan:", "comfy:http://box.lan"),
        ("comfy:http://BOX.lan:08189", "comfy:http://box.lan:8189"),
        ("127.0.0.1:8189/api/v2", "comfy:http://127.0.0.1:8189"),
        ("BOX.lan:8189/api/v2/jobs", "comfy:http://box.lan:8189"),
        ("localhost:8189/api/v2", "comfy:http://localhost:8189"),
        ("comfy:http://[::1]:8189", "comfy:http://[::1]:8189"),
        ("comfy:http://[::1]", "comfy:http://[::1]"),
        (f"comfy:{SLASH}", f"comfy:{SLASH}"),
    ],
)
def test_an_address_has_one_spelling(typed: str, address: str) -> None:
    """So that its caps count in whatever way it is typed."""
    assert typed_target(typed) == address
    assert typed_target(address) == address
    owners = {"mine": TargetSettings(address, price_per_hour=1.0)}
    configuration = Configuration(None, owners, own_targets=owners)
    assert configuration.booked_as(typed_target(typed), {}) == "mine"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("comfy:https://ann:pass@box.lan/x?token=1", "comfy:https://box.lan/x"),
        ("comfy:https://ann:pa@ss@box.lan", "comfy:https://box.lan"),
        ("route:comfy:https://ann:pass@box.lan,sandbox", "route:comfy:https://box.lan,sandbox"),
        ("comfy:ann:pass@box.lan:8189", "comfy:box.lan:8189"),
        ("comfy:http://[::1]:8189", "comfy:http://[::1]:8189"),
        ("comfy:cloud", "comfy:cloud"),
    ],
)
def test_a_password_in_an_address_is_not_shown(typed: str, seen: str) -> None:
    """The log and errors name the target that was typed, and so did its password."""
    assert shown(typed) == seen
