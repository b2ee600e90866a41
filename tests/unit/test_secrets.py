"""Secrets are known by value: whatever a configuration calls them, nothing shows them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr

from comfy_remote.config.engine_environment import engine_environment
from comfy_remote.config.settings import Configuration
from comfy_remote.secrets import SECRETS, SecretValues, looks_secret, redact, secret
from comfy_remote.targets.opening import open_target

ODD = 'Pl4nt/ed "odd" + välue\\'


def test_a_value_is_known_once_it_was_read() -> None:
    assert redact(f"it is {ODD}") == f"it is {ODD}"
    assert secret("STUDIO", {"STUDIO": ODD}) == SecretStr(ODD)
    assert redact(f"it is {ODD}") == "it is [STUDIO]"


@pytest.mark.parametrize(
    "written",
    [
        ODD,
        json.dumps(ODD)[1:-1],
        json.dumps(ODD, ensure_ascii=False)[1:-1],
        quote(ODD),
        quote(ODD, safe=""),
        quote_plus(ODD),
        base64.b64encode(ODD.encode()).decode(),
        base64.urlsafe_b64encode(ODD.encode()).decode().rstrip("="),
    ],
)
def test_it_is_found_in_all_the_ways_it_may_be_written(written: str) -> None:
    SECRETS.add("STUDIO", ODD)
    assert redact(f"a {written} b").rstrip("=").replace("=", "") == "a [STUDIO] b"


def test_the_longest_goes_first_and_a_short_one_stays_a_word() -> None:
    for name, value in (("A", "secret-1"), ("B", "secret-1-and-more"), ("C", "abc")):
        SECRETS.add(name, value)
    assert redact("secret-1-and-more, secret-1, abc") == "[B], [A], abc"


def test_what_came_with_a_job_is_forgotten_with_it() -> None:
    known = SecretValues()
    known.add("OWN", "planted-own-value")
    with known.holding({"REQUEST_S3_SECRET": "planted-sent-value", "AGAIN": "planted-own-value"}):
        assert known.redact("planted-sent-value") == "[REQUEST_S3_SECRET]"
    assert known.redact("planted-sent-value planted-own-value") == "planted-sent-value [OWN]"


def test_what_came_with_two_jobs_is_forgotten_with_the_last_of_them() -> None:
    known = SecretValues()
    with known.holding({"FIRST": "planted-value"}):
        with known.holding({"SECOND": "planted-value"}):
            pass
        assert known.redact("planted-value") == "[FIRST]"
    assert known.redact("planted-value") == "planted-value"


def test_what_came_with_a_job_and_is_our_own_stays_known() -> None:
    known = SecretValues()
    with known.holding({"SENT": "planted-value"}):
        known.add("OWN", "planted-value")
    assert known.redact("planted-value") == "[SENT]"


SECRET_NAMES = [
    "AWS_SECRET_ACCESS_KEY",
    "AZURE_CLIENT_SECRET",
    "BASIC_AUTH",
    "API_BEARER",
    "APP_JWT",
    "CERT_PEM",
    "CLOUD_APIKEY2",
    "GH_CRED",
    "NPM_TOKEN_2",
    "SECRET1",
    "STRIPE_SK",
    "TOKEN2",
    "X_API_KEY2_OLD",
    "CIVITAI_API_KEY",
    "DB_PASS",
    "GITHUB_PAT",
    "GITLABTOKEN",
    "MYSQL_PWD",
    "NPM_TOKEN",
    "NVIDIA_API_KEY",
    "OPENAI_API_KEY",
    "PGPASS",
    "PGPASSWORD",
    "SENTRY_DSN",
    "SESSION_COOKIE",
    "SSH_PASSPHRASE",
    "STRIPE_KEYS",
    "VAULT_CREDS",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_what_is_named_like_a_secret(name: str) -> None:
    assert looks_secret(name)
    assert redact("a planted-value", {name: "planted-value"}) == f"a [{name}]"


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "MONKEYS"])
def test_what_is_not(name: str) -> None:
    assert not looks_secret(name)


def test_a_password_in_a_url_is_one() -> None:
    environ = {"DATABASE_URL": "postgres://ann:planted-value@db.example/x"}
    assert redact("with planted-value", environ) == "with [DATABASE_URL]"


def test_a_password_in_a_url_is_known_as_it_is_used_too() -> None:
    environ = {"DATABASE_URL": "postgres://ann:pl%40nted%2Fvalue@db.example/x"}
    assert redact("with pl@nted/value", environ) == "with [DATABASE_URL]"


def test_every_secret_that_a_configuration_names_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "own.toml"
    config.write_text(
        '[targets.a]\ntarget = "https://a.example"\nkey_env = "LEMON"\n'
        '[targets.b]\ntarget = "https://b.example"\nuser = "ann"\npassword_env = "PEAR"\n'
        '[targets.c]\ntarget = "https://c.example"\nheaders_env = {X-Login = "QUINCE"}\n'
    )
    environment = {name: f"planted-{name}-value" for name in ("LEMON", "PEAR", "QUINCE")}
    configuration = Configuration.load(file=config, environment=environment)
    for name, value in environment.items():
        assert redact(f"it says {value}") == f"it says [{name}]"
    open_target("b", configuration, environment=environment)
    basic = base64.b64encode(f"ann:{environment['PEAR']}".encode()).decode()
    assert "YW5u" not in redact(f"Authorization: Basic {basic}")


# --- what an engine inherits --------------------------------------------------------------

NEEDED = {
    "PATH": "/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/tmp",
    "SystemRoot": "C:\\Windows",
    "ProgramFiles(x86)": "C:\\Program Files (x86)",
    "LD_LIBRARY_PATH": "/usr/lib",
    "LD_PRELOAD": "libtcmalloc.so",
    "CUDA_VISIBLE_DEVICES": "0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "HSA_OVERRIDE_GFX_VERSION": "11.0.0",
    "ROCM_PATH": "/opt/rocm",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_HOME": "/models/torch",
    "HF_HOME": "/models/hf",
    "HF_TOKEN": "hf_needed",
    "XDG_CACHE_HOME": "/cache",
    "https_proxy": "http://proxy.example:3128",
    "SSL_CERT_FILE": "/etc/ssl/own.pem",
    "PYTHONPATH": "/opt/more",
    "COMFYUI_DIR": "/opt/ComfyUI",
}


def test_an_engine_gets_what_it_needs() -> None:
    assert engine_environment(NEEDED) == NEEDED


def test_an_engine_gets_nothing_else() -> None:
    others = dict.fromkeys(
        [
            *SECRET_NAMES,
            "DATABASE_URL",
            "COMFYUI_API_KEY",
            "COMFY_REMOTE_TOKEN",
            "HF_API_TOKEN_WRITE",
            "LEMON",
            "RUNPOD_API_KEY",
            "RUNPOD_WEBHOOK_GET_JOB",
        ],
        "planted-value",
    )
    assert engine_environment({**NEEDED, **others}) == NEEDED


def test_the_owner_passes_on_what_a_node_needs() -> None:
    environ = {
        "COMFYUI_ENV": "OPENAI_API_KEY, LEMON",
        "OPENAI_API_KEY": "k",
        "LEMON": "l",
        "M": "m",
    }
    assert engine_environment(environ) == {n: v for n, v in environ.items() if n != "M"}


def test_a_setting_that_holds_a_known_secret_stays_behind() -> None:
    SECRETS.add("LEMON", "planted-value")
    environ = {"COMFYUI_ARGS": "--key planted-value", "COMFYUI_DIR": "/opt/ComfyUI"}
    assert engine_environment(environ) == {"COMFYUI_DIR": "/opt/ComfyUI"}
