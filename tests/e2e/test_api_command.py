"""``comfy-remote api`` as a process: stopped in the middle of a job, and started again."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from gated_sandbox import Gate
from helpers import free_port
from serve_kit import Command, commands, wait_for

__all__ = ["commands"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
TOKEN = "a-token-for-these-tests"
FINAL = ("succeeded", "failed", "canceled", "expired")


def ask(url: str, body: object = None, token: str = TOKEN) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if answer.headers.get_content_subtype() == "json" else content


def test_a_job_outlives_the_front_that_took_it(
    commands: list[Command], gated_url: str, tmp_path: Path
) -> None:
    gate, port = Gate(tmp_path), free_port()
    (tmp_path / "token.txt").write_text(TOKEN)

    def front() -> Command:
        command = Command(
            *("api", "--on", gated_url, "--port", str(port), "--name", "desk"),
            *("--token-file", str(tmp_path / "token.txt")),
            COMFY_REMOTE_HOME=str(tmp_path / "home"),
        )
        commands.append(command)
        command.says("Ctrl-C stops it.")
        return command

    api = f"http://127.0.0.1:{port}/api/v2"
    first = front()
    assert f"export COMFY_BASE_URL=http://127.0.0.1:{port}" in first.text
    assert 'export COMFY_API_KEY="$(cat token.txt)"' in first.text
    assert str(tmp_path / "home" / "api" / "desk") in first.text
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{api}/jobs", {"workflow": gate.prompt}, token="another")
    assert refused.value.code == 401
    job = ask(f"{api}/jobs", {"workflow": gate.prompt})
    wait_for(lambda: ask(f"{api}/jobs/{job['id']}")["status"] == "running")
    first.interrupt()
    assert first.ended() == 0

    gate.open()
    second = front()
    wait_for(lambda: ask(f"{api}/jobs/{job['id']}")["status"] in FINAL)
    ended = ask(f"{api}/jobs/{job['id']}")
    assert ended["status"] == "succeeded", ended
    second.says(f"Job {job['id']} succeeded after ")
    [output] = ended["outputs"]
    content = ask(output["url"])
    assert (content[:4], len(content)) == (b"\x89PNG", output["size_bytes"])
    assert TOKEN not in first.text + second.text


def test_it_says_at_its_start_that_its_target_is_away_and_that_its_name_is_taken(
    commands: list[Command], tmp_path: Path
) -> None:
    away, home = f"http://127.0.0.1:{free_port()}", str(tmp_path / "home")

    def front() -> Command:
        command = Command("api", "--on", away, "--port", str(free_port()), COMFY_REMOTE_HOME=home)
        commands.append(command)
        return command

    first = front()
    first.says("Jobs are refused until it answers.")
    assert f"ComfyUI at {away}" in first.text
    second = front()
    second.says("--name NAME")
    assert second.ended() == 2
