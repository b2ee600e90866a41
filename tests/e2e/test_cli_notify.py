"""``--notify``: how a job ended, said by a command, a webhook or the desktop."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from json_lines import check_lines

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
POSIX = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="a script as notify-send")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """Its file's name is no command, and no option."""
    name = "$(touch hacked); -rf"
    prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": name}},
    }
    path = tmp_path / "w.json"
    path.write_text(json.dumps(prompt))
    return path


@pytest.fixture
def told(tmp_path: Path) -> str:
    """A command that writes its arguments and its standard input to a file, ``told.json``."""
    script = tmp_path / "it tells.py"
    script.write_text(
        "import json, sys\n"
        "line = json.load(sys.stdin)\n"
        f"with open({str(tmp_path / 'told.json')!r}, 'w') as file:\n"
        "    json.dump({'arguments': sys.argv[1:], 'line': line}, file)\n"
        "print('printed by the command')\n"
    )
    return f'"{sys.executable}" "{script}" {{state}} "{{message}}" {{job_id}} \'{{target}}\''


class Receiver:
    """A server that takes webhooks, and answers with the next of its statuses."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        answers, got = list(statuses), self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(answers.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hooks/token-in-its-path?a=b"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def read(cli: Cli) -> Any:
    return json.loads((cli.folder / "told.json").read_text())


def test_a_command_gets_words_as_arguments_and_the_last_line(
    cli: Cli, workflow: Path, told: str, sandbox_url: str
) -> None:
    done = cli("run", workflow, "--on", sandbox_url, "--json", "--notify", told)
    assert done.returncode == 0, done.stderr
    last = check_lines(done.stdout.splitlines())[-1]
    assert "printed by the command" in done.stderr
    said = read(cli)
    assert said["line"] == last
    state, message, job_id, target = said["arguments"]
    assert (state, job_id, target) == ("succeeded", last["job_id"], sandbox_url)
    assert message.startswith("Succeeded: 1 output in ")
    assert "$(touch hacked)" in message and not (cli.folder / "hacked").exists()

    (cli.folder / "told.json").unlink()
    assert cli("jobs", "retry", job_id, "-q", "--notify", told).returncode == 0
    assert read(cli)["arguments"][2] != job_id
    assert cli("jobs", "resume", job_id, "-q", "--notify", told).returncode == 0
    assert read(cli)["arguments"][:3:2] == ["succeeded", job_id]


def test_a_failure_is_said_and_keeps_its_status(cli: Cli, workflow: Path, told: str) -> None:
    done = cli("run", workflow, "--on", "http://127.0.0.1:9", "--notify", told)
    assert done.returncode == 3
    said = read(cli)
    assert said["arguments"][0] == "failed"
    assert "could not be reached" in said["arguments"][1]
    assert said["line"]["code"] == "target_unreachable"


def test_a_webhook_is_signed_as_the_workers_are(cli: Cli, workflow: Path, sandbox_url: str) -> None:
    with closing(Receiver(503, 204)) as receiver:
        done = cli(
            *("run", workflow, "--on", sandbox_url, "--json", "-q", "--notify", receiver.url),
            COMFY_REMOTE_WEBHOOK_SECRET=SECRET,
        )
    assert done.returncode == 0, done.stderr
    (first, body), (headers, again) = receiver.got
    assert body == again
    assert json.loads(body) == check_lines(done.stdout.splitlines())[-1]
    assert headers["webhook-id"] == first["webhook-id"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert "token-in-its-path" not in done.stderr and SECRET not in done.stderr


def test_nobody_who_listens_costs_a_warning(cli: Cli, workflow: Path, sandbox_url: str) -> None:
    with closing(Receiver(404, 404, 404)) as receiver:
        done = cli("run", workflow, "--on", sandbox_url, "-q", "--notify", receiver.url)
    assert done.returncode == 0
    assert "webhook-signature" not in receiver.got[0][0]
    assert "Warning: --notify failed: 127.0.0.1:" in done.stderr
    assert "token-in-its-path" not in done.stderr


@POSIX
def test_the_desktop(cli: Cli, workflow: Path, sandbox_url: str) -> None:
    folder = cli.folder / "bin"
    folder.mkdir()
    program = folder / "notify-send"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT"\n')
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    shown = cli.folder / "shown"
    done = cli(
        *("run", workflow, "--on", sandbox_url, "-q", "--notify", "desktop"),
        PATH=path,
        OUT=str(shown),
    )
    assert (done.returncode, done.stderr) == (0, "")
    *options, title, words = shown.read_text().splitlines()
    assert options == ["--app-name", "Comfy Remote", "--"]
    assert title == "Comfy Remote" and words.startswith("Succeeded: 1 output in ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no-such-program-anywhere {message}", "there is no such program"),
        ("", "there is no such program"),
        ("'unclosed", "No closing quotation"),
        ("https://", "is not an http or https address"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    cli: Cli, workflow: Path, value: str, words: str
) -> None:
    done = cli("run", workflow, "--notify", value)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (cli.folder / "output").exists()


def test_a_secret_of_another_form_is_refused(cli: Cli, workflow: Path) -> None:
    done = cli(
        *("run", workflow, "--notify", "https://hooks.example/x"),
        COMFY_REMOTE_WEBHOOK_SECRET="not-a-secret-of-that-form",
    )
    assert done.returncode == 2
    assert "whsec_" in done.stderr and "not-a-secret-of-that-form" not in done.stderr


def test_nobody_waits_for_the_end_of_a_job_that_is_left(cli: Cli, workflow: Path) -> None:
    done = cli("run", workflow, "--no-wait", "--notify", "desktop")
    assert done.returncode == 2 and "--no-wait does not wait for" in done.stderr
