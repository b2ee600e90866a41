"""``comfy-remote init`` and ``targets add``: with options, and asked at a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commands import Commands

from comfy_remote.config.config_file import TargetTable, read_config
from comfy_remote.config.stored_secrets import variable_of_server

KEY = "rpa_PLANTED0123456789"
ENDPOINTS = {
    "endpoints": [
        {
            "id": "4m7x2k9q",
            "name": "Image Generator",
            "type": "QUEUE",
            "gpu": {"pools": ["ADA_24"], "count": 1},
            "workers": {"min": 0, "max": 5, "idleTimeout": 5},
        },
        {"id": "loadbal1", "name": "web", "type": "LOAD_BALANCER"},
    ]
}
PODS = {"pods": [{"id": "xedezhzb9la3ye", "name": "training", "status": "RUNNING"}]}
HEALTH = {
    "jobs": {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0},
    "workers": {"idle": 1, "running": 0},
}


class Cli(Commands):
    """``comfy-remote``, with a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["XDG_CONFIG_HOME"] = str(folder / "config")

    def __call__(
        self, *arguments: object, key: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        code = "from comfy_remote.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            input=key,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def targets(self) -> dict[str, TargetTable]:
        path = self.folder / "home" / "comfy-remote.toml"
        return read_config(path).targets if path.is_file() else {}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


@pytest.fixture
def runpod() -> Iterator[dict[str, str]]:
    """RunPod, for whoever has the key; the environment that leads there."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/v2/serverless": ENDPOINTS, "/v2/pods": PODS, "/v2/4m7x2k9q/health": HEALTH}
            allowed = self.headers.get("Authorization") == f"Bearer {KEY}"
            status = (200 if self.path in known else 404) if allowed else 401
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(known.get(self.path, {})).encode())

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {"RUNPOD_API_BASE_URL": url, "RUNPOD_ENDPOINT_BASE_URL": f"{url}/v2"}
        server.shutdown()


def secret_is_only_in_env(cli: Cli, *outputs: str) -> None:
    holders = [
        path.name
        for path in cli.folder.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert holders == [".env"]
    assert not any(KEY in output for output in outputs)


def test_a_comfyui_is_tried_and_written_down(cli: Cli, sandbox_url: str) -> None:
    done = cli("init", "comfyui", "--address", f"{sandbox_url}/?x=1", "--name", "lan")
    assert done.returncode == 0, done.stderr
    assert cli.targets() == {"lan": TargetTable(target=sandbox_url)}
    assert "Try it: comfy-remote run example:collage\n" in done.stderr
    ran = cli("run", "example:collage", "-o", "out")
    assert ran.returncode == 0, ran.stderr
    assert not (cli.folder / "comfy-remote.toml").exists()


def test_what_does_not_answer_is_not_written_unless_told(cli: Cli) -> None:
    words = ("init", "comfyui", "--address", "127.0.0.1:9", "--name", "lan")
    done = cli(*words)
    assert done.returncode == 3 and "Nothing was written." in done.stderr
    assert cli.targets() == {}
    assert cli(*words, "--no-test").returncode == 0
    assert cli.targets()["lan"].target == "127.0.0.1:9"


def test_an_endpoint_with_a_key_that_is_kept_and_never_shown(
    cli: Cli, runpod: dict[str, str]
) -> None:
    words = ("init", "runpod", "--endpoint", "4m7x2k9q", "--name", "gpu", "--key-stdin")
    wrong = cli(*words, key="rpa_wrong\n", **runpod)
    assert wrong.returncode == 3 and cli.targets() == {}, wrong.stderr
    assert not (cli.folder / "home" / ".env").exists()
    done = cli(*words, "--price-per-hour", "0.69", key=f"{KEY}\n", **runpod)
    assert done.returncode == 0, done.stderr
    assert cli.targets() == {"gpu": TargetTable(target="runpod:4m7x2k9q", price_per_hour=0.69)}
    secret_is_only_in_env(cli, done.stdout, done.stderr)
    tested = cli("targets", "test", "gpu", **runpod)
    assert tested.returncode == 0, tested.stdout


def test_without_a_terminal_nothing_is_asked(cli: Cli, runpod: dict[str, str]) -> None:
    for words, option in (
        ((), "a KIND"),
        (("comfyui",), "--address"),
        (("runpod",), "--key-stdin"),
        (("gateway", "--address", "box.local:8000"), "--key-stdin"),
        (("modal",), "--address"),
    ):
        done = cli("init", *words, **runpod)
        assert done.returncode == 2, done.stderr
        assert f"Give {option}." in done.stderr
    several = cli("init", "runpod", **runpod, RUNPOD_API_KEY=KEY)
    assert several.returncode == 2 and "--endpoint or --pod" in several.stderr
    assert cli("init", "sandbox").returncode == 0
    assert cli.targets() == {}


def test_a_gateway_and_an_app_on_modal(cli: Cli) -> None:
    box = ("init", "gateway", "--address", "box.local:8000/v2/", "--key-stdin", "--no-test")
    done = cli(*box, "--endpoint", "workshop", "--name", "the-box", key=f"{KEY}\n")
    assert done.returncode == 0, done.stderr
    (cli.folder / "cert.pem").write_text("")
    own = ("init", "gateway", "--address", "attic.local:8000", "--key-stdin", "--no-test")
    done = cli(*own, "--ca-file", "cert.pem", "--name", "attic", "--no-default", key=f"{KEY}\n")
    assert done.returncode == 0, done.stderr
    modal = cli("init", "modal", "--address", "portraits", "--no-test", "--no-default")
    assert modal.returncode == 0, modal.stderr
    assert cli.targets() == {
        "the-box": TargetTable(
            target="runpod:workshop",
            base_url="https://box.local:8000/v2",
            key_env=variable_of_server("https://box.local:8000"),
        ),
        "attic": TargetTable(
            target="runpod:local",
            base_url="https://attic.local:8000/v2",
            key_env=variable_of_server("https://attic.local:8000"),
            ca_file=str(cli.folder / "cert.pem"),
        ),
        "portraits": TargetTable(target="modal:portraits"),
    }
    assert read_config(cli.folder / "home" / "comfy-remote.toml").default == "the-box"
    secret_is_only_in_env(cli, done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is simulated by pty")
def test_asked_at_a_terminal(cli: Cli, runpod: dict[str, str]) -> None:
    said = at_a_terminal(
        cli,
        ["init"],
        {"What do you have?": "1\n", "API key": f"{KEY}\n", "Which one?": "1\n"},
        **runpod,
    )
    assert "1  endpoint 4m7x2k9q (Image Generator, ADA_24, at most 5 workers)" in said
    assert "2  pod xedezhzb9la3ye (training)" in said
    assert "loadbal1" not in said, "it takes no jobs"
    assert cli.targets() == {"image-generator": TargetTable(target="runpod:4m7x2k9q")}
    secret_is_only_in_env(cli, said)


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is simulated by pty")
def test_what_somebody_has_may_be_typed_by_its_name(cli: Cli, sandbox_url: str) -> None:
    said = at_a_terminal(
        cli,
        ["init"],
        {
            "What do you have?": "a box\n",
            "or one of": "comfyui\n",
            "Its address": f"{sandbox_url}\n",
            "What shall it be called?": "\n",
        },
    )
    ways = "runpod, comfyui, gateway, modal, comfy, sandbox"
    assert f"type a number from 1 to 6, or one of {ways}" in said
    assert cli.targets() == {"lan": TargetTable(target=sandbox_url)}


def at_a_terminal(cli: Cli, words: list[str], answers: dict[str, str], **environment: str) -> str:
    """Run the command in a terminal, answer its questions; all that it showed."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cli.folder)
        code = "from comfy_remote.cli.main import main; main()"
        os.execvpe(
            sys.executable,
            [sys.executable, "-c", code, *words],
            {**cli.environment, **environment, "TERM": "xterm"},
        )
    said, left, end = "", dict(answers), time.monotonic() + 180
    while time.monotonic() < end:
        try:
            piece = os.read(terminal, 4096).decode("utf-8", "replace")
        except OSError:
            break  # it has ended
        if not piece:
            break
        said += piece
        for question in [one for one in left if one in said]:
            os.write(terminal, left.pop(question).encode())
    os.waitpid(pid, 0)
    os.close(terminal)
    assert not left, said
    return said


def test_targets_are_added_chosen_and_removed(cli: Cli, sandbox_url: str) -> None:
    (cli.folder / "home").mkdir()
    for name in ("one", "two"):
        done = cli("targets", "add", name, sandbox_url, "--json")
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "two"
    again = cli("targets", "add", "one", "runpod:abc123xyz", "--no-test")
    assert again.returncode == 2 and "has a target 'one' already" in again.stderr
    assert cli("targets", "default", "two").returncode == 0
    listed = [json.loads(line) for line in cli("targets", "--json").stdout.splitlines()]
    assert {one["name"]: one["default"] for one in listed} == {"one": False, "two": True}
    assert cli("targets", "default", "three").returncode == 2
    kept = cli(
        *("targets", "add", "gpu", "https://api.runpod.ai/v2/abc123xyz/run", "--no-test"),
        *("--key-env", "GPU_KEY", "--key-stdin"),
        key=f"{KEY}\n",
    )
    assert kept.returncode == 0, kept.stderr
    assert cli.targets()["gpu"] == TargetTable(target="runpod:abc123xyz", key_env="GPU_KEY")
    secret_is_only_in_env(cli, kept.stderr)
    assert cli("targets", "remove", "gpu", "--forget-key").returncode == 0
    assert KEY not in (cli.folder / "home" / ".env").read_text()
    assert cli("targets", "remove", "gpu").returncode == 2
    assert cli("targets", "remove", "two").returncode == 0
    assert set(cli.targets()) == {"one"}
    for wrong in (("no such", sandbox_url), ("ok", "nonsense")):
        assert cli("targets", "add", *wrong, "--no-test").returncode == 2


def test_a_key_goes_to_one_server_only(cli: Cli) -> None:
    keys = {"my-box": "firstkey1", "my.box": "secondkey2", "runpod-api": "third345"}
    for name, key in keys.items():
        address = f"https://{name}.example"
        kind = "comfyui" if name == "runpod-api" else "gateway"
        options = ("--name", name, "--address", address, "--key-stdin", "--no-test")
        done = cli("init", kind, *options, key=key, RUNPOD_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
    variables = [table.key_env for table in cli.targets().values()]
    assert variables == [variable_of_server(f"https://{name}.example") for name in keys]
    assert len(set(variables)) == 3
    lines = (cli.folder / "home" / ".env").read_text().splitlines()
    assert lines == [f"{one}='{key}'" for one, key in zip(variables, keys.values(), strict=True)]


def test_comfys_cloud_takes_its_key_and_a_server_of_ones_own_another(cli: Cli) -> None:
    assert "Give --key-stdin" in cli("init", "comfy").stderr
    add = ("init", "comfy", "--key-stdin", "--no-test", "--address")
    assert cli(*add, "https://cloud.comfy.org/", key="cloudkey1").returncode == 0
    assert cli(*add, "https://box.lan/api/v2", key="boxkey12").returncode == 0
    own = variable_of_server("https://box.lan")
    assert cli.targets() == {
        "cloud": TargetTable(target="comfy:cloud"),
        "comfy": TargetTable(target="comfy:https://box.lan", key_env=own),
    }
    lines = (cli.folder / "home" / ".env").read_text().splitlines()
    assert lines == ["COMFY_API_KEY='cloudkey1'", f"{own}='boxkey12'"]
    partner = ("targets", "add", "api", "comfy:cloud", "--partner-key-env", "COMFY_API_KEY")
    assert cli(*partner, "--no-test").returncode == 0
    assert cli.targets()["api"].partner_key_env == "COMFY_API_KEY"


def test_runpods_key_is_not_replaced_by_another_servers(cli: Cli) -> None:
    elsewhere = ("--base-url", "https://box.example/v2", "--key-stdin", "--no-test")
    add = ("targets", "add", "box", "runpod:x", *elsewhere)
    done = cli(*add, "--key-env", "RUNPOD_API_KEY", key="boxkey1234")
    assert done.returncode == 2 and "would send RUNPOD_API_KEY to box.example" in done.stderr
    assert not cli.targets() and not (cli.folder / "home" / ".env").exists()
    assert cli(*add, key="boxkey1234").returncode == 0
    variable = variable_of_server("https://box.example")
    assert cli.targets()["box"].key_env == variable
    assert (cli.folder / "home" / ".env").read_text() == f"{variable}='boxkey1234'\n"
    again = cli(*add, "--replace", key="another123", **{variable: "of-the-shell"})
    assert again.returncode == 2 and f"The environment sets {variable}" in again.stderr


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("sekret1234\r\n".encode("utf-16"), "sekret1234"),  # PowerShell's > file
        ("sekret1234\n".encode("utf-16-le"), "sekret1234"),
        (b"\xef\xbb\xbfsekret1234", "sekret1234"),
        (b"", None),
        (b"\n", None),
        (b"\xff\xfe\xff", None),
    ],
)
def test_a_key_on_standard_input_in_any_encoding(cli: Cli, written: bytes, key: str | None) -> None:
    code = "from comfy_remote.cli.main import main; main()"
    options = ("targets", "add", "box", "http://127.0.0.1:9", "--key-env", "BOX", "--no-test")
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--key-stdin"],
        cwd=cli.folder,
        env=cli.environment,
        input=written,
        capture_output=True,
        timeout=180,
    )
    kept = cli.folder / "home" / ".env"
    if key is None:
        assert done.returncode == 2 and b"no key on standard input" in done.stderr
        assert not kept.exists()
    else:
        assert kept.read_text() == f"BOX='{key}'\n", done.stderr
