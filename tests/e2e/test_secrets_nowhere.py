"""Secrets of any name, and a remote that repeats them in every way: no artefact shows one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import JsonValue

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from scripted_server import Answer, ScriptedServer

ESCAPES = "\x1b]0;owned\x07\u202e"
# Named as nobody would guess; one is another target's, one is this target's key.
VALUES = {
    "LEMON": "planted/lemon value+1",
    "PEAR": 'planted-pear-"quoted"-2',
    "GITHUB_PAT": "planted-ghp-3333",
    "DATABASE_URL": "postgres://ann:planted-db-4444@db.example/x",
}
BASIC = base64.b64encode(f"ann:{VALUES['PEAR']}".encode()).decode()
PLANTED = {**VALUES, "DATABASE_URL": "planted-db-4444"}


def forms(value: str) -> Iterator[str]:
    yield value
    yield json.dumps(value)[1:-1]
    yield quote(value, safe="")
    yield base64.b64encode(value.encode()).decode().rstrip("=")


def said() -> str:
    """What the remote says: all of them, in all forms."""
    secrets = [form for value in PLANTED.values() for form in forms(value)]
    return f"{ESCAPES} {' '.join(secrets)} Basic {BASIC}\nReady."


def assert_nothing_in(where: str, content: bytes) -> None:
    written = content.decode("utf-8", "replace")
    for name, value in PLANTED.items():
        for form in forms(value):
            for text in (form, json.dumps(form)[1:-1]):
                assert text not in written, f"{name} is in {where}: {text}"
    assert BASIC not in written


async def command(home: Path, *words: str) -> tuple[bytes, bytes]:
    environment = {
        **{k: v for k, v in os.environ.items() if k != "RUNPOD_API_KEY"},
        **VALUES,
        "COMFY_REMOTE_HOME": str(home),
        "COMFY_REMOTE_CONFIG": str(home / "own.toml"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_remote", *words),
        cwd=home,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await asyncio.wait_for(process.communicate(), 180)


@pytest.mark.parametrize("more", [["--json"], [], ["--json", "-v"]])
async def test_no_artefact_of_a_run_has_a_secret(tmp_path: Path, more: list[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    (home / "w.json").write_text(json.dumps(prompt))
    failure: dict[str, JsonValue] = {
        "code": "execution_failed",
        "message": f"Node Evil failed: {said()}",
        "advice": said(),
        "details": {"engine_log": said(), "traceback": said(), said(): said()},
    }
    progress: dict[str, JsonValue] = {"sequence": 1, "nodes_total": 2, "message": said()}
    async with ScriptedServer() as server:
        (home / "own.toml").write_text(
            f'[targets.a]\ntarget = "runpod:ep"\nbase_url = "{server.url}/v2"\nkey_env = "LEMON"\n'
            '[targets.b]\ntarget = "https://b.example"\nuser = "ann"\npassword_env = "PEAR"\n'
        )
        server.on("POST /v2/ep/run", Answer({"id": "job-1", "status": "IN_QUEUE"}))
        server.on(
            "GET /v2/ep/status/job-1",
            Answer({"id": "job-1", "status": "IN_PROGRESS", "output": progress}),
            Answer({"id": "job-1", "status": "FAILED", "error": json.dumps(failure)}),
        )
        words = [*(one for one in more if one == "-v"), "run", "w.json", "--on", "a", "-o", "out"]
        words += [one for one in more if one != "-v"]
        out, errors = await command(home, *words)
        shown = [out, errors]
        shown += await command(home, "jobs", "list")
        if more:
            job_id = json.loads(out.splitlines()[0])["job_id"]
            shown += await command(home, "jobs", "show", job_id)
            shown += await command(home, "jobs", "show", job_id, "--json")
    assert server.count("GET /v2/ep/status/job-1") >= 2
    assert b"Node Evil failed" in b"".join(shown)
    assert b"[PEAR]" in b"".join(shown)
    for number, content in enumerate(shown):
        assert_nothing_in(f"output {number}", content)
        steering = {"\x1b", "\x07", "\u202e"} & set(content.decode())
        assert not steering, f"output {number} has control characters"
    for path in home.rglob("*"):
        if path.is_file() and path.name != "own.toml":
            assert_nothing_in(str(path), path.read_bytes())
