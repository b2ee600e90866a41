"""Names and addresses of targets, and the files that hold them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
from owner import configure

from comfy_remote.config.config_file import read_config
from comfy_remote.config.folders import home
from comfy_remote.config.settings import Configuration, named_in
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import ConfigurationError
from comfy_remote.jobs.client import Client
from comfy_remote.targets.base import RemoteRef, Target
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.launch import detached
from comfy_remote.targets.opening import open_target, reopen
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.targets.sandbox.target import SandboxTarget

KEY = "planted-key-0123456789"
NONE = Configuration(None, {})
ENVIRONMENT = {"RUNPOD_API_KEY": KEY}


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def _key_of(target: Target) -> str | None:
    assert isinstance(target, ComfyUITarget | RunPodTarget)
    return target._http.authorization().get("Authorization")


def _say_yes(path: Path) -> None:
    """As the owner does with `comfy-remote trust`."""
    named = named_in(read_config(path), ())
    TrustStore(home()).trust(path, named.values())


# --- addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
        ("https://comfy.example/prefix/", "https://comfy.example/prefix"),
        ("localhost:8188", "http://localhost:8188"),
        ("192.168.1.20:8188/", "http://192.168.1.20:8188"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("ID0-8188.proxy.runpod.net", "https://ID0-8188.proxy.runpod.net"),
        ("id0-8188.proxy.runpod.net/", "https://id0-8188.proxy.runpod.net"),
        ("https://id0-8188.proxy.runpod.net", "https://id0-8188.proxy.runpod.net"),
    ],
)
def test_a_comfyui_by_its_address(address: str, url: str) -> None:
    target = open_target(address, NONE, ENVIRONMENT)
    assert isinstance(target, ComfyUITarget)
    assert target.url == url
    assert target.name == address.rstrip("/")
    assert _key_of(target) is None  # RunPod's key is for RunPod


def test_an_endpoint_by_its_id() -> None:
    target = open_target("runpod:abc", NONE, ENVIRONMENT)
    assert isinstance(target, RunPodTarget)
    assert target._base_url == "https://api.runpod.ai/v2"
    assert _key_of(target) == f"Bearer {KEY}"
    assert KEY not in repr(vars(target))
    assert KEY not in repr(vars(target._http))


def test_the_endpoint_and_its_server_may_stand_in_the_environment() -> None:
    environment = {
        "RUNPOD_API_KEY": f" {KEY}\n",
        "RUNPOD_ENDPOINT_ID": "abc",
        "RUNPOD_ENDPOINT_BASE_URL": "http://127.0.0.1:8000/v2",
    }
    target = open_target("runpod:", NONE, environment)
    assert isinstance(target, RunPodTarget)
    assert (target._endpoint, target._base_url) == ("abc", "http://127.0.0.1:8000/v2")
    assert _key_of(target) == f"Bearer {KEY}"


def test_the_sandbox() -> None:
    assert isinstance(open_target("sandbox", NONE), SandboxTarget)
    assert NONE.choose(None, {}) == "sandbox"
    assert NONE.usual_sentence({}) == "No target is configured: using the sandbox."
    some = Configuration(None, {"gpu": TargetSettings("runpod:abc")})
    assert some.usual_sentence({}) == "There is no default target: using the sandbox."


def test_who_has_set_an_endpoint_uses_it_where_no_target_is_named(tmp_path: Path) -> None:
    found = {**ENVIRONMENT, "RUNPOD_ENDPOINT_ID": "https://api.runpod.ai/v2/abc/run"}
    assert NONE.choose(None, found) == "runpod:abc"
    assert NONE.usual_sentence(found) == "Using runpod:abc, named by RUNPOD_ENDPOINT_ID."
    assert NONE.choose("sandbox", found) == "sandbox"
    assert open_target("runpod:", NONE, found).name == "runpod:"
    file = configure(tmp_path, 'default = "https://api.runpod.ai/v2/own/run"\n')
    configured = Configuration.load(file=file)
    assert configured.choose(None, found) == "runpod:own"
    assert configured.usual_sentence(found) == "Using the configured target: runpod:own."


def test_a_name_that_is_nearly_one(tmp_path: Path) -> None:
    configuration = Configuration(None, {"workstation": TargetSettings("http://10.0.0.7:8188")})
    with pytest.raises(ConfigurationError) as caught:
        open_target("worksttion", configuration, ENVIRONMENT)
    assert "Did you mean 'workstation'?" in caught.value.message
    assert "write pod:worksttion" in caught.value.advice
    with pytest.raises(ConfigurationError) as caught:
        open_target("work station", configuration, ENVIRONMENT)
    assert "pod:work" not in caught.value.advice


@pytest.mark.parametrize(
    ("wanted", "environment", "message"),
    [
        ("gpu", {}, "no target 'gpu' in comfy-remote.toml. Configured: none"),
        ("", {}, "no target ''"),
        ("C:\\ComfyUI", {}, "no target"),
        ("ftp://host:21", {}, "no target"),
        ("http://", {}, "not an http or https address"),
        ("http://host:99999", {}, "not an http or https address"),
        ("host:99999", {}, "not an http or https address"),
        ("http://name:password@host:8188", {}, "user name or a password"),
        ("runpod:abc", {}, "no RunPod API key"),
        ("runpod:abc", {"RUNPOD_API_KEY": "  "}, "no RunPod API key"),
        ("runpod:", ENVIRONMENT, "RUNPOD_ENDPOINT_ID, which is not set"),
        ("runpod:a b", ENVIRONMENT, "not an endpoint's id"),
        (
            "runpod:abc",
            {**ENVIRONMENT, "RUNPOD_ENDPOINT_BASE_URL": "http://box.example/v2"},
            "not https",
        ),
    ],
)
def test_what_means_no_target(wanted: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_target(wanted, NONE, environment)
    assert KEY not in str(caught.value)
    assert "password@" not in str(caught.value)
    assert "=password" not in str(caught.value)


# --- files --------------------------------------------------------------------------------

EXAMPLE = """
default = "gpu"
[targets.gpu]
target = "runpod:abc"
[targets.box]
target = "runpod:workshop"
base_url = "https://box.example:8000/v2"
key_env = "BOX_TOKEN"
[targets.lan]
target = "https://192.168.1.20:8188"
key_env = "LAN_TOKEN"
[targets.odd]
target = "something"
"""


def test_names_from_a_file(tmp_path: Path) -> None:
    configure(tmp_path / "home", EXAMPLE)
    configuration = Configuration.load(tmp_path)
    assert configuration.choose(None) == "gpu"
    assert configuration.choose("lan") == "lan"
    environment = {**ENVIRONMENT, "BOX_TOKEN": "box-token", "LAN_TOKEN": "lan-token"}
    gpu = open_target("gpu", configuration, environment)
    box = open_target("box", configuration, environment)
    lan = open_target("lan", configuration, environment)
    assert [target.name for target in (gpu, box, lan)] == ["gpu", "box", "lan"]
    assert isinstance(box, RunPodTarget)
    assert box._base_url == "https://box.example:8000/v2"
    keys = [_key_of(target) for target in (gpu, box, lan)]
    assert keys == [f"Bearer {KEY}", "Bearer box-token", "Bearer lan-token"]
    for name in ("box", "lan"):
        with pytest.raises(ConfigurationError, match=f"{name.upper()}_TOKEN, which is not set"):
            open_target(name, configuration, ENVIRONMENT)
    with pytest.raises(ConfigurationError, match="'odd' points to 'something'"):
        open_target("odd", configuration, ENVIRONMENT)
    with pytest.raises(ConfigurationError, match="Configured: box, gpu, lan, odd"):
        open_target("gpus", configuration, ENVIRONMENT)


def test_a_project_is_found_from_a_folder_below_and_goes_before_the_user(
    tmp_path: Path, user_folder: Path
) -> None:
    configure(
        user_folder, 'default = "mine"\n[targets.a]\ntarget = "u:1"\n[targets.b]\ntarget = "u:2"'
    )
    project = tmp_path / "project"
    path = configure(project, '[targets.a]\ntarget = "p:1"')
    below = project / "workflows" / "old"
    below.mkdir(parents=True)
    _say_yes(path)
    configuration = Configuration.load(below)
    assert {name: s.target for name, s in configuration.targets.items()} == {"a": "p:1", "b": "u:2"}
    assert configuration.default == "mine"
    configure(project, 'default = "b"')
    assert Configuration.load(below).default == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = [", "not valid TOML"),
        (f'key = "{KEY}"', "key: unknown key"),
        (f'[targets.a]\ntarget = "x"\napi_key = "{KEY}"', "targets.a.api_key: unknown key"),
        (f'targets = "{KEY}"', "targets: "),
        ("[targets.a]", "targets.a: .*neither a target nor a route"),
        ('[targets.a]\ntarget = "sandbox"\nroute = ["gpu"]', "a target and a route"),
        ('[targets.a]\ntarget = "sandbox"\nprefer = "price"', "prefer is for a route"),
        ('[targets.a]\nroute = ["gpu"]\nkey_env = "K"', "a route has no key_env"),
        ('[targets.a]\nroute = ["gpu"]\nat_most = {lan = 1}', "at_most names 'lan'"),
        ('[targets.a]\nroute = ["gpu"]\nprefer = "luck"', "targets.a.prefer: "),
        ("[targets.a]\ntarget = 3", "targets.a.target: "),
    ],
)
def test_a_file_that_says_something_else_is_refused_without_showing_it(
    tmp_path: Path, text: str, message: str
) -> None:
    path = configure(tmp_path / "home", text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        Configuration.load(tmp_path)
    assert str(path) in caught.value.message
    assert KEY not in str(caught.value)


def test_a_policy_with_a_typo_is_told_its_keys(tmp_path: Path) -> None:
    configure(tmp_path / "home", '[targets.a]\ntarget = "x"\npolicy = { priorty = 5 }')
    with pytest.raises(ConfigurationError, match=r"policy\.priorty: unknown key") as caught:
        Configuration.load(tmp_path)
    assert "priority, front, retryLost" in caught.value.advice


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "home" / "comfy-remote.toml").write_bytes("# Büro".encode("cp1252"))
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        Configuration.load(tmp_path)
    assert "Save the file as UTF-8" in caught.value.advice


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_as_powershell_writes_it(tmp_path: Path, encoding: str) -> None:
    text = '[targets.desk]\r\ntarget = "http://10.0.0.5:8188"\r\n'
    (tmp_path / "home" / "comfy-remote.toml").write_bytes(text.encode(encoding))
    assert Configuration.load(tmp_path).targets["desk"].target == "http://10.0.0.5:8188"


# --- the rest -----------------------------------------------------------------------------


def test_where_the_record_is_kept(tmp_path: Path) -> None:
    assert home({"COMFY_REMOTE_HOME": str(tmp_path)}) == tmp_path
    assert home({}).name == "comfy-remote"
    assert "~" not in str(home({"COMFY_REMOTE_HOME": "~/x"}))


def test_a_job_is_looked_for_where_it_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "http://new.example:8188"')
    monkeypatch.chdir(tmp_path)
    details = {"endpoint": "old", "base_url": "http://127.0.0.1:8000/v2"}
    target = reopen("gpu", RemoteRef("j", "r", details), ENVIRONMENT)
    assert isinstance(target, RunPodTarget)
    assert (target._endpoint, target._base_url) == ("old", "http://127.0.0.1:8000/v2")
    comfyui = reopen("gpu", RemoteRef("j", "r", {"url": "http://old.example:8188"}))
    assert isinstance(comfyui, ComfyUITarget)
    assert comfyui.url == "http://old.example:8188"
    never_sent = reopen("gpu", None)
    assert isinstance(never_sent, ComfyUITarget)
    assert never_sent.url == "http://new.example:8188"
    assert isinstance(reopen("sandbox", RemoteRef("j", "r", {"url": "http://x"})), SandboxTarget)
    with pytest.raises(ConfigurationError, match="never sent"):
        reopen("sandbox", None)


def test_settings_know_no_other_keys() -> None:
    assert {f.name for f in dataclasses.fields(TargetSettings)} == {
        "target",
        "base_url",
        "key_env",
        "price_per_hour",
        "user",
        "password_env",
        "headers_env",
        "ca_file",
        "partner_key_env",
        "sync_token_env",
        "keep_stored",
        "bucket",
        "volume",
        "policy",
        *("prefer", "patience", "at_most"),
    }


def test_a_detached_process_on_each_platform() -> None:
    assert detached("linux") == {"start_new_session": True}
    assert detached("darwin") == {"start_new_session": True}
    assert detached("win32") == {"creationflags": 0x08000200}


def test_the_key_of_a_name_stays_with_the_address_it_has_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configure(
        tmp_path / "home",
        '[targets.box]\ntarget = "https://new.example.com:8188"\nkey_env = "BOX_TOKEN"\n',
    )
    environment = {"BOX_TOKEN": "the-new-token"}
    old = RemoteRef("j", "r", {"url": "https://old.example.com:8188"})
    new = RemoteRef("j", "r", {"url": "https://new.example.com:8188"})
    elsewhere = reopen("box", old, environment)
    same = reopen("box", new, environment)
    assert isinstance(elsewhere, ComfyUITarget)
    assert isinstance(same, ComfyUITarget)
    assert elsewhere.url == "https://old.example.com:8188"
    assert elsewhere._http.authorization() == {}
    assert same._http.authorization() == {"Authorization": "Bearer the-new-token"}


def test_a_key_does_not_travel_in_the_clear(tmp_path: Path) -> None:
    configure(
        tmp_path / "home", '[targets.lan]\ntarget = "192.168.1.20:8188"\nkey_env = "LAN_TOKEN"'
    )
    with pytest.raises(ConfigurationError, match="not https") as caught:
        open_target("lan", Configuration.load(tmp_path), {"LAN_TOKEN": "lan-token"})
    assert "lan-token" not in str(caught.value)
    configure(tmp_path / "home", '[targets.here]\ntarget = "127.0.0.1:8188"\nkey_env = "LAN_TOKEN"')
    here = open_target("here", Configuration.load(tmp_path), {"LAN_TOKEN": "lan-token"})
    assert _key_of(here) == "Bearer lan-token"


@pytest.mark.parametrize(
    "table",
    [
        'target = "runpod:abc"\nbase_url = "https://thief.example/v2"',
        'target = "runpod:abc"\nbase_url = "https://thief.example/v2"\nkey_env = "RUNPOD_API_KEY"',
        'target = "https://thief.example"\nkey_env = "RUNPOD_API_KEY"',
    ],
)
def test_a_file_does_not_send_runpods_key_elsewhere(tmp_path: Path, table: str) -> None:
    configure(tmp_path / "home", f"[targets.gpu]\n{table}\n")
    configuration = Configuration.load(tmp_path)
    with pytest.raises(ConfigurationError, match=r"would send RUNPOD_API_KEY to thief\.example"):
        open_target("gpu", configuration, {"RUNPOD_API_KEY": "rpa_secret"})
    # The environment is the user's own.
    own = {"RUNPOD_API_KEY": "rpa_secret", "RUNPOD_ENDPOINT_BASE_URL": "https://thief.example/v2"}
    if "base_url" in table:
        open_target("gpu", configuration, own)


@pytest.mark.parametrize(
    ("wanted", "url"),
    [
        ("pod:abc123xyz90", "https://abc123xyz90-8188.proxy.runpod.net"),
        ("abc123xyz90-8188.proxy.runpod.net", "https://abc123xyz90-8188.proxy.runpod.net"),
        ("abc123xyz90-8188.proxy.runpod.net/", "https://abc123xyz90-8188.proxy.runpod.net"),
        ("https://abc123xyz90-8188.proxy.runpod.net/", "https://abc123xyz90-8188.proxy.runpod.net"),
        ("https://abc123xyz90-3000.proxy.runpod.net", "https://abc123xyz90-3000.proxy.runpod.net"),
    ],
)
def test_pods_by_address(wanted: str, url: str) -> None:
    target = open_target(wanted, Configuration(None, {}), {})
    assert isinstance(target, ComfyUITarget)
    assert target.url == url


def test_a_pod_that_is_no_id() -> None:
    for wanted in ("pod:", "pod:evil.test/x", "pod:abc-1"):
        with pytest.raises(ConfigurationError, match="There is no target"):
            open_target(wanted, Configuration(None, {}), {})


def test_a_runpod_target_has_its_policy_and_its_bucket(tmp_path: Path) -> None:
    configure(
        tmp_path / "home",
        """
[targets.gpu]
target = "runpod:abc"
keep_stored = true
bucket = "https://s3.eu-west-3.amazonaws.com/pics"
policy = { executionTimeout = 600000, lowPriority = true }
""",
    )
    keys = {"BUCKET_ACCESS_KEY_ID": "id", "BUCKET_SECRET_ACCESS_KEY": "secret"}
    configuration = Configuration.load(tmp_path)
    target = open_target("gpu", configuration, {**ENVIRONMENT, **keys})
    assert isinstance(target, RunPodTarget)
    assert target.options.policy == {"executionTimeout": 600000, "lowPriority": True}
    with pytest.raises(ConfigurationError, match="bucket of the target 'gpu'"):
        open_target("gpu", configuration, ENVIRONMENT)
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "runpod:abc"\npolicy = { timeout = 3 }')
    with pytest.raises(ConfigurationError, match=r"policy\.timeout"):
        Configuration.load(tmp_path)


def test_a_gateways_policy_is_read_whole_and_checked(tmp_path: Path) -> None:
    policy = (
        'priority = -5, front = true, retryLost = false, client = "ann", batch = "b", '
        'labels = ["fast", "upstairs"], memory = 24000000000'
    )
    address = 'target = "runpod:workshop"\nbase_url = "http://127.0.0.1:8000/v2"'
    table = f"[targets.workshop]\n{address}\npolicy = {{ {policy} }}"
    configure(tmp_path / "home", table)
    target = open_target("workshop", Configuration.load(tmp_path), {})
    assert isinstance(target, RunPodTarget)
    assert target.options.policy == {
        "priority": -5,
        "front": True,
        "retryLost": False,
        "client": "ann",
        "batch": "b",
        "labels": ["fast", "upstairs"],
        "memory": 24_000_000_000,
    }
    for wrong in ("priority = 101", 'client = ""', 'client = "a\\u0007"', "memory = 0"):
        configure(
            tmp_path / "home", f'[targets.gpu]\ntarget = "runpod:abc"\npolicy = {{ {wrong} }}'
        )
        with pytest.raises(ConfigurationError, match=rf"policy\.{wrong.split()[0]}"):
            Configuration.load(tmp_path)


def test_an_unknown_word_for_interruptions_is_refused() -> None:
    with pytest.raises(ValueError, match="on_interrupt is 'cancel' or 'leave', not 'keep'"):
        Client("sandbox", on_interrupt=cast(Any, "keep"))
