"""What the owner trusts: stored by what is named, for them alone, and taken back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_remote.advice import Advice, Hint
from comfy_remote.cli.advice import for_terminal
from comfy_remote.config.config_file import TargetTable
from comfy_remote.config.trust import (
    TrustStore,
    named_default,
    named_target,
    named_variable,
    not_trusted,
    origin_of,
)
from comfy_remote.errors import (
    ConfigurationError,
    LocalStorageError,
    NotTrusted,
    error_from_json,
)

GPU = TargetTable(target="runpod:abc", base_url="https://box.example/v2", key_env="BOX_TOKEN")


def how(path: Path) -> Advice:
    return Hint.TRUST_CONFIG(path=str(path), own="/home/me/.config/comfy-remote")


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "home")


# Files


def test_a_yes_is_to_what_is_named(store: TrustStore, tmp_path: Path) -> None:
    path = tmp_path / "project" / "comfy-remote.toml"
    named = [named_target("gpu", GPU), named_default("http://10.0.0.7:8188")]
    assert store.missing(path, named) == named
    assert not store.path.exists()  # asking stores nothing
    store.trust(path, named)
    assert store.missing(path, named) == []
    assert store.missing(path, named[:1]) == []
    assert TrustStore(store.path.parent).files() == {path: named}
    assert store.missing(tmp_path / "another" / path.name, named) == named


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", "runpod:xyz"),
        ("base_url", "https://thief.example/v2"),
        ("key_env", "AWS_SECRET_ACCESS_KEY"),
        ("user", "ann"),
        ("password_env", "PGPASSWORD"),
        ("headers_env", {"X-1": "OPENAI_API_KEY"}),
        ("bucket", "https://thief.example/bucket"),
        ("volume", "thiefs1234@EU-RO-1"),
        ("partner_key_env", "COMFY_API_KEY"),
        ("sync_token_env", "BOX_SYNC_TOKEN"),
    ],
)
def test_another_address_or_variable_is_another_name(field: str, value: object) -> None:
    assert named_target("gpu", GPU) != named_target("gpu", GPU.model_copy(update={field: value}))


def test_what_names_nothing_asks_for_nothing() -> None:
    table = GPU.model_dump()
    changed = {"price_per_hour": 0.7, "keep_stored": True, "policy": {"ttl": 10_000}}
    changed |= {"cap_per_job": 1.0, "cap_per_day": 2.0, "cap_per_month": 3.0, "on_cap": "cancel"}
    assert named_target("gpu", TargetTable.model_validate({**table, **changed})) == named_target(
        "gpu", GPU
    )
    # What a route chooses among is in its `target`, too.
    changed |= {"route": None, "prefer": None, "patience": None, "at_most": {}}
    # A field that is new counts as naming something until somebody has decided otherwise.
    assert set(TargetTable.model_fields) - set(changed) == {
        *(
            "target",
            "base_url",
            "bucket",
            "volume",
            "user",
            "key_env",
            "password_env",
            "headers_env",
        ),
        *("ca_file", "partner_key_env", "sync_token_env"),
    }


def test_the_name_and_the_pairs_belong_to_it() -> None:
    other = GPU.model_copy(update={"key_env": "OTHER"})
    assert named_target("gpu", GPU) != named_target("cpu", GPU)
    assert {named_target("a", GPU), named_target("b", other)} != {
        named_target("a", other),
        named_target("b", GPU),
    }
    hidden = named_target("gpu\x1b[2J\n", GPU.model_copy(update={"target": "http://x\x1b\u202e"}))
    assert hidden.isprintable()


def test_a_secret_is_noticed_and_not_kept(store: TrustStore, tmp_path: Path) -> None:
    own = named_variable("RUNPOD_API_KEY", "planted-key-0123456789")
    assert own != named_variable("RUNPOD_API_KEY", "planted-key-9876543210")
    assert "planted" not in own
    assert named_variable("RUNPOD_ENDPOINT_ID", "abc") == 'RUNPOD_ENDPOINT_ID = "abc"'
    assert named_variable("COMFY_BASE_URL", "https://cloud.comfy.org") == (
        'COMFY_BASE_URL = "https://cloud.comfy.org"'
    )
    assert named_variable("COMFY_BASE_URL", "https://thief.example") == (
        'COMFY_BASE_URL = "https://thief.example" (sends COMFY_API_KEY)'
    )
    store.trust(tmp_path / ".env", [own])
    assert b"planted" not in store.path.read_bytes()


def test_a_yes_is_taken_back(store: TrustStore, tmp_path: Path) -> None:
    path = tmp_path / "comfy-remote.toml"
    store.trust(path, ["a", "b"])
    store.trust(path, ["b", "c"])
    assert store.missing(path, ["a", "b", "c"]) == []
    assert store.forget(path)
    assert not store.forget(path)
    assert store.missing(path, ["b"]) == ["b"]


def test_links_and_dots_lead_to_the_same_file(store: TrustStore, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "comfy-remote.toml"
    path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store.trust(tmp_path / "link" / ".." / "real" / path.name, ["a"])
    assert store.missing(tmp_path / "link" / path.name, ["a"]) == []
    # The link's name for another file is another file's.
    (tmp_path / "other").mkdir()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert store.missing(tmp_path / "link" / path.name, ["a"]) == ["a"]


# Addresses


def test_an_address_is_confirmed_by_its_origin(store: TrustStore) -> None:
    assert not store.allows_address("https://api.example.com/run")
    assert store.confirm_address("HTTPS://API.example.com:443/run?token=x") == (
        "https://api.example.com"
    )
    assert store.allows_address("https://api.example.com/other")
    for other in (
        "http://api.example.com",
        "https://api.example.com:8443",
        "https://api.example.com.evil.test",
        "https://evil.test/https://api.example.com",
        "https://api.example.com@evil.test",
        "https://me:password@api.example.com",
        "runpod:abc",
        "",
        "https://",
        "http://host:99999",
    ):
        assert not store.allows_address(other)
    assert store.addresses() == ["https://api.example.com"]
    assert store.forget_address("https://api.example.com/run")
    assert not store.forget_address("https://api.example.com/run")
    assert not store.allows_address("https://api.example.com/run")


@pytest.mark.parametrize(
    "wrong", ["runpod:abc", "file:///etc/passwd", "https://a:b@host", "http://"]
)
def test_what_is_no_address_is_not_confirmed(store: TrustStore, wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        store.confirm_address(wrong)
    assert store.addresses() == []


def test_origins_have_one_spelling() -> None:
    assert origin_of("http://LOCALHOST:8188/prompt") == "http://localhost:8188"
    assert origin_of("http://[::1]:8188/") == "http://[::1]:8188"
    assert origin_of("https://xn--bcher-kva.example/") == origin_of("https://bücher.example:443/x")
    assert origin_of("ftp://host") is None


# The file


def test_it_is_its_owners_alone(store: TrustStore, tmp_path: Path) -> None:
    store.trust(tmp_path / "f", ["a"])
    if os.name == "posix":
        assert store.path.stat().st_mode & 0o777 == 0o600
        assert store.path.parent.stat().st_mode & 0o777 == 0o700
        store.path.chmod(0o622)
        assert store.missing(tmp_path / "f", ["a"]) == ["a"]
        assert "others than you may write" in store.problem()
        with pytest.raises(LocalStorageError, match="others than you"):
            store.trust(tmp_path / "f", ["a"])


def test_a_broken_store_trusts_nothing(store: TrustStore, tmp_path: Path) -> None:
    path = tmp_path / "comfy-remote.toml"
    store.path.parent.mkdir()
    store.path.write_bytes(b"no database at all" * 100)
    assert store.missing(path, ["a"]) == ["a"]
    assert not store.allows_address("https://a.example")
    assert (store.files(), store.addresses()) == ({}, [])
    assert "Remove it" in store.problem()
    error = not_trusted(path, ["a"], "The target 'gpu'", store, how(path))
    assert str(store.path) in error.message
    assert f"comfy-remote trust {path}" in for_terminal(error.advice)
    with pytest.raises(LocalStorageError, match=r"trust\.sqlite3"):
        store.trust(path, ["a"])
    with pytest.raises(LocalStorageError):
        store.confirm_address("https://a.example")
    store.path.unlink()
    store.trust(path, ["a"])
    assert store.problem() == ""


def test_no_remote_has_a_person_asked(store: TrustStore, tmp_path: Path) -> None:
    here = not_trusted(
        tmp_path / "comfy-remote.toml", ["a"], "The target 'gpu'", store, how(tmp_path)
    )
    assert here.asks_for == (tmp_path / "comfy-remote.toml", ("a",))
    there = error_from_json(here.to_json())
    assert isinstance(there, NotTrusted)
    assert there.asks_for is None


@pytest.mark.parametrize(
    "tables",
    [
        ["CREATE TABLE other (x)"],
        ["CREATE TABLE files (path)", "CREATE TABLE addresses (other)"],
        ["CREATE VIEW files AS SELECT 1 AS x", "CREATE VIEW addresses AS SELECT 1 AS y"],
    ],
)
def test_a_store_of_another_shape_trusts_nothing(
    store: TrustStore, tmp_path: Path, tables: list[str]
) -> None:
    store.path.parent.mkdir()
    store.path.touch(mode=0o600)
    connection = sqlite3.connect(store.path)
    for statement in tables:
        connection.execute(statement)
    connection.close()
    assert store.missing(tmp_path / "f", ["a"]) == ["a"]
    assert not store.allows_address("https://a.example")
    assert store.problem()


def test_many_processes_lose_no_trust(store: TrustStore) -> None:
    code = (
        "import sys; from pathlib import Path; from comfy_remote.config.trust import TrustStore\n"
        "store = TrustStore(Path(sys.argv[1]))\n"
        "for n in range(10): store.confirm_address(f'https://p{sys.argv[2]}-{n}.example')\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(store.path.parent), str(number)])
        for number in range(3)
    ]
    assert [process.wait(180) for process in running] == [0, 0, 0]
    assert len(store.addresses()) == 30
