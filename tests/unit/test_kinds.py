"""Kinds of target: each address has one kind, which says what its targets are and can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError
from comfy_remote.targets.base import (
    KeepsInputs,
    OneEngine,
    Recalls,
    ReleasesOutputs,
    WaitsForWorkers,
)
from comfy_remote.targets.kinds import (
    Can,
    forms,
    kind_of,
    kinds,
    secret_variables,
    sent_to,
    typed_target,
    whose_secret,
)
from comfy_remote.targets.opening import open_target
from comfy_remote.targets.typed_settings import settings_of_address

ROOT = Path(__file__).parents[2]
KEYS = {
    "RUNPOD_API_KEY": "planted-key-0123456789",
    "COMFY_API_KEY": "planted-comfy-01",
    "MODAL_PROXY_TOKEN_ID": "wk-planted-01",
    "MODAL_PROXY_TOKEN_SECRET": "ws-planted-01",
}


@pytest.mark.parametrize(
    ("address", "name", "billing"),
    [
        ("runpod:abc", "runpod", "by run"),
        ("runpod:", "runpod", "by run"),
        ("modal:portraits", "modal", "by run"),
        ("pod:abc123", "pod", "by hour"),
        ("pod:auto", "pod", "by hour"),
        ("abc123-8188.proxy.runpod.net", "pod", "by hour"),
        ("https://abc123-8188.proxy.runpod.net/", "pod", "by hour"),
        ("http://192.168.1.20:8188", "comfyui", None),
        ("localhost:8188", "comfyui", None),
        ("[::1]:8188", "comfyui", None),
        ("comfy:cloud", "comfy", "by run"),
        ("comfy:dep-1234abcd", "comfy", "by run"),
        ("comfy:https://dep-1.stg.run.comfy.app", "comfy", "by run"),
        ("comfy:http://127.0.0.1:8189", "comfy", None),
        ("comfy:https://box.lan/mount", "comfy", None),
        ("comfy:8188", "comfyui", None),  # a host of that name
        ("sandbox", "sandbox", None),
    ],
)
def test_each_address_has_one_kind(address: str, name: str, billing: str | None) -> None:
    found = [kind for kind in kinds() if kind.matches(address)]
    assert [kind.name for kind in found][:1] == [name]
    kind = kind_of(address)
    assert kind is found[0]
    assert kind.billing(TargetSettings(address), {}) == billing


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("https://api.runpod.ai/v2/abc123xyz/run", "runpod:abc123xyz"),
        ("https://api.runpod.ai/v2/abc123xyz/status/1-u1?x=1", "runpod:abc123xyz"),
        (" https://API.runpod.ai/v2/abc123xyz/ ", "runpod:abc123xyz"),
        ("api.runpod.ai/v2/abc123xyz#top", "runpod:abc123xyz"),
        (
            "https://console.runpod.io/serverless/user/endpoint/abc123xyz?tab=overview",
            "runpod:abc123xyz",
        ),
        ("runpod:abc123xyz/run", "runpod:abc123xyz"),
        ("runpod:", "runpod:"),
        (
            "https://api.runpod.ai.example.org/v2/abc/run",
            "https://api.runpod.ai.example.org/v2/abc/run",
        ),
        ("https://api.runpod.ai@example.org/v2/abc", "https://api.runpod.ai@example.org/v2/abc"),
        ("https://example.org/https://api.runpod.ai/v2/abc",) * 2,
        ("https://abc-8188.proxy.runpod.net@example.org/x",) * 2,
        ("https://abc-8188.proxy.runpod.net.example.org",) * 2,
        ("http://192.168.1.20:8188/?x=1#/graph", "http://192.168.1.20:8188"),
        ("192.168.1.20:8188#c2", "192.168.1.20:8188"),
        ("https://comfy.example/prefix/#7", "https://comfy.example/prefix"),
        ("https://abc123-8188.proxy.runpod.net/?x#y", "https://abc123-8188.proxy.runpod.net"),
        ("abc123-8188.proxy.runpod.net/a/b", "abc123-8188.proxy.runpod.net"),
        ("modal:portraits", "modal:portraits"),
        ("https://cloud.comfy.org/api/v2/jobs?limit=1#x", "comfy:cloud"),
        (" Cloud.Comfy.org ", "comfy:cloud"),
        ("comfy:Cloud", "comfy:cloud"),
        ("https://Dep-12ab.run.comfy.app/api/v2", "comfy:dep-12ab"),
        ("comfy:https://dep-12ab.run.comfy.app:443/", "comfy:dep-12ab"),
        ("https://cloud.run.comfy.app", "comfy:https://cloud.run.comfy.app"),
        ("http://127.0.0.1:8189/api/v2/", "comfy:http://127.0.0.1:8189"),
        ("https://Box.lan/Mount/api/v2/jobs/1?x#y", "comfy:https://box.lan/Mount"),
        (
            "https://abc123-8189.proxy.runpod.net/api/v2",
            "comfy:https://abc123-8189.proxy.runpod.net",
        ),
        ("comfy:127.0.0.1:8189", "comfy:http://127.0.0.1:8189"),
        ("comfy:[::1]:8189/mount/", "comfy:http://[::1]:8189/mount"),
        ("https://cloud.comfy.org.example.org",) * 2,
        ("https://cloud.comfy.org@example.org/x",) * 2,
        ("https://example.org/https://cloud.comfy.org",) * 2,
        ("https://dep-1.run.comfy.app:8443",) * 2,
        ("sandbox", "sandbox"),
        ("my.gpu", "my.gpu"),
        ("no target: at all?", "no target: at all?"),
    ],
)
def test_what_is_copied_along_with_an_address_is_cut_off(typed: str, address: str) -> None:
    assert typed_target(typed) == address
    assert typed_target(address) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "gpu", "pod:", "pod:a/b", "sandboxes", "ftp://x", "x:y:z"),
        *("comfy:", "comfy:a_b", "comfy:a/b", "comfy:-a", "comfy:http://", "comfy:a b"),
    ],
)
def test_what_is_no_address_has_no_kind(text: str) -> None:
    assert kind_of(text) is None
    assert secret_variables(TargetSettings(text, key_env="K")) == ("K",)


def test_a_gateway_of_ones_own_is_not_rented() -> None:
    kind = kind_of("runpod:desk")
    assert kind is not None
    for settings, environment in (
        (TargetSettings("runpod:desk", "http://127.0.0.1:8000/v2"), {}),
        (TargetSettings("runpod:desk", "https://desk.example/v2"), {}),
        (TargetSettings("runpod:desk"), {"RUNPOD_ENDPOINT_BASE_URL": "http://127.0.0.1:8000/v2"}),
    ):
        assert kind.billing(settings, environment) is None


@pytest.mark.parametrize(
    "address",
    [
        *("runpod:abc", "modal:portraits", "pod:abc123", "http://127.0.0.1:8188", "sandbox"),
        *("comfy:cloud", "comfy:http://127.0.0.1:8189"),
    ],
)
def test_a_kind_says_what_its_targets_can(address: str, tmp_path: Path) -> None:
    kind = kind_of(address)
    assert kind is not None
    target = open_target(
        address, Configuration(None, {}), {**KEYS, "COMFY_REMOTE_HOME": str(tmp_path)}
    )
    assert (Can.RECALL in kind.can) == isinstance(target, Recalls)
    assert (Can.KEEP_INPUTS in kind.can) == isinstance(target, KeepsInputs)
    assert isinstance(target, WaitsForWorkers) == (kind.speaks == "runpod")
    assert isinstance(target, OneEngine) == (kind.name in ("comfyui", "pod"))
    assert isinstance(target, ReleasesOutputs) or kind.name == "comfy"


def test_where_a_job_was_sent_is_read_from_its_details() -> None:
    assert sent_to({}) is None
    assert sent_to({"url": "http://127.0.0.1:8188"}) == TargetSettings("http://127.0.0.1:8188")
    base = {"endpoint": "abc", "base_url": "https://api.runpod.ai/v2"}
    assert sent_to(base) == TargetSettings("runpod:abc", base["base_url"])
    assert sent_to({**base, "kind": "modal"}) == TargetSettings("modal:abc", base["base_url"])
    assert sent_to({"kind": "gone", "address": "gone:x"}) is None


def test_all_ways_to_write_an_address_are_said() -> None:
    assert forms() == (
        "runpod:ENDPOINT, modal:APP, comfy:cloud, comfy:DEPLOYMENT, comfy:http://HOST:8189, "
        "pod:ID, pod:auto, route:NAME,NAME, http://HOST:8188, sandbox"
    )
    with pytest.raises(ConfigurationError) as refused:
        open_target("gpu", Configuration(None, {}), {})
    assert forms() in refused.value.advice


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:99999",
        "box:99999999999999999999",
        "http://127.1:8188",
        f"https://{'a' * 64}.example",
        f"http://{'a' * 5000}:8188",
        "https://ann:word@example.org",
        "comfy:http://127.0.0.1:99999",
        "comfy:https://ann:word@example.org",
        "comfy:a_b",
    ],
)
def test_what_can_be_no_servers_address_is_not_written_down(address: str) -> None:
    with pytest.raises(ConfigurationError):
        settings_of_address(address)


def test_what_an_address_means_is_known_without_an_http_stack() -> None:
    script = """
import sys
from comfy_remote.config.settings import Configuration
from comfy_remote.targets.kinds import kind_of, kinds
for address in ("runpod:a", "modal:a", "pod:a", "comfy:a", "http://a", "sandbox", "gpu"):
    kind_of(address)
slow = {"aiohttp", "pydantic", "asyncio", "importlib.metadata"} & sys.modules.keys()
sys.exit(f"imported: {slow}" if slow else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_installed_kind_logs_in_with_its_own_key(tmp_path: Path) -> None:
    """With nothing configured, also from a ``.env``, and where a job is found by its URL alone."""
    info = tmp_path / "hall-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hall\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[comfy_remote.targets]\nhall = hall:HallKind\n")
    (tmp_path / "hall.py").write_text(
        """
from comfy_remote.targets.comfyui.kind import ComfyUIKind

class HallKind(ComfyUIKind):
    name, title, forms = "hall", "a machine in the hall", ("hall:NAME",)
    default_key = "HALL_KEY"
    own_secrets = {"HALL_KEY": "The porter has it."}

    def matches(self, address):
        return address.startswith("hall:")

    def url(self, address):
        return f"https://{address.removeprefix('hall:')}.hall.test"

    def is_own_server(self, server, environment):
        return server.endswith(".hall.test")
"""
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".env").write_text("HALL_KEY=planted-hall-key\nOTHER=x\n")
    script = """
import os
from comfy_remote.config.environment import load_env_files
from comfy_remote.errors import ConfigurationError
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.opening import open_target, reopen

def sent(target):
    return target._http.authorization().get("Authorization")

def resumed(url):
    return sent(reopen("hall:a", RemoteRef("1", "1", {"url": url})))

try:
    open_target("hall:a")
    raise SystemExit("opened without its key")
except ConfigurationError as error:
    assert "HALL_KEY" in error.message, error
load_env_files()
assert "OTHER" not in os.environ
assert sent(open_target("hall:a")) == "Bearer planted-hall-key"
assert resumed("https://a.hall.test") == "Bearer planted-hall-key"
assert resumed("https://b.hall.test") is None
"""
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    folders = {"COMFY_REMOTE_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "home",
        env={**os.environ, "PYTHONPATH": paths, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_providers_secret_is_known_in_any_case() -> None:
    """On Windows, ``runpod_api_key`` names the same variable."""
    kind = whose_secret("runpod_api_key")
    assert kind is not None
    assert kind.name == "runpod"
    assert kind.secret_source("runpod_api_key") == kind.own_secrets["RUNPOD_API_KEY"]
    assert kind.secret_source("ANOTHER_KEY") is None
    assert whose_secret("ANOTHER_KEY") is None
