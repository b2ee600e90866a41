"""``comfy-remote serve`` as a process, and the command as its client."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from serve_kit import Serve, alive, children_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "prompts"
TOKEN = secrets.token_urlsafe(24)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


@pytest.fixture
def servers() -> Iterator[list[Serve]]:
    started: list[Serve] = []
    yield started
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def client(folder: Path, url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(folder / "home"),
        "RUNPOD_ENDPOINT_BASE_URL": url,
        "RUNPOD_API_KEY": TOKEN,
    }
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("worker", ["local", "runpod"])
def test_serves_a_client_and_ends_with_its_engine(
    servers: list[Serve], tmp_path: Path, worker: str
) -> None:
    if worker == "runpod" and find_spec("runpod") is None:
        pytest.skip("the RunPod SDK is not installed")
    server = Serve(
        *("--endpoint", "desk", "--engine", "sandbox", "--worker", worker),
        COMFY_REMOTE_TOKEN=TOKEN,
    )
    servers.append(server)
    url = server.url()
    done = client(tmp_path, url, "run", EXAMPLES / "collage.json", "--on", "runpod:desk")
    assert done.returncode == 0, done.stderr + server.text
    assert (tmp_path / done.stdout.splitlines()[0]).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/desk/health", timeout=5)
    assert refused.value.code == 401

    started = children_of(server.process.pid)
    assert started
    number = signal.SIGINT if worker == "local" else signal.SIGTERM
    assert server.stop(number) == 0
    deadline = time.monotonic() + 5
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(started)
    assert "Traceback" not in server.text
    assert TOKEN not in server.text + done.stdout + done.stderr
    assert "runpod:desk" in server.text


def test_a_token_from_a_file(servers: list[Serve], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    environment = {"COMFY_REMOTE_TOKEN": ""}
    server = Serve("--engine", "sandbox", "--token-file", str(file), **environment)
    servers.append(server)
    request = urllib.request.Request(
        f"{server.url()}/local/health", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "token"),
        (("--comfyui", "/nowhere/at/all"), "is not a ComfyUI"),
        (("--token-file", "/nowhere/at/all"), "cannot be read"),
        (("--endpoint", "no spaces"), "cannot be the id"),
        (("--keyfile", "key.pem"), "--certfile"),
        (("--certfile", "/nowhere/at/all"), "cannot be used"),
    ],
)
def test_what_it_refuses(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "COMFY_REMOTE_TOKEN"}
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "serve", "--port", "0", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("worker", ["local", "runpod"])
@pytest.mark.parametrize("wrong", ["setting", "folder", "engine"])
def test_what_cannot_work_ends_it_and_costs_no_job(tmp_path: Path, worker: str, wrong: str) -> None:
    if worker == "runpod" and find_spec("runpod") is None:
        pytest.skip("the RunPod SDK is not installed")
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").write_text("raise SystemExit('RuntimeError: no kernel image')")
    engine = {"setting": "sandbox", "folder": str(tmp_path), "engine": str(comfyui)}[wrong]
    timeout = "soon" if wrong == "setting" else ""
    arguments = ("--port", "0", "--worker", worker, "--engine", engine)
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "serve", *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "COMFY_REMOTE_TOKEN": "",
            "COMFY_REMOTE_JOB_TIMEOUT": timeout,
            "COMFYUI_PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    status, words = {
        "setting": (2, "COMFY_REMOTE_JOB_TIMEOUT"),
        "folder": (2, "is not a ComfyUI"),
        "engine": (5, "no kernel image"),
    }[wrong]
    last = done.stderr.splitlines()[-3:]
    assert done.returncode == status, done.stderr
    assert words in " ".join(last)
    assert "Ready." not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_cannot_write_lines_of_its_own_into_the_log(servers: list[Serve]) -> None:
    server = Serve("--engine", "sandbox")
    servers.append(server)
    base = server.url()
    forged = "Evil\x1b[2J\x1b]0;owned\x07\r\n12:00:00 Ready. All is well.\u202e"
    prompt = {"1": {"class_type": forged, "inputs": {}}}
    request = urllib.request.Request(
        f"{base}/local/runsync",
        json.dumps({"input": {"workflow": prompt}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["status"] == "FAILED"
    server.stop(signal.SIGINT)
    assert "Evil\ufffd[2J" in server.text
    assert not {"\x1b", "\x07", "\u202e"} & set(server.text)
    assert not any(line.startswith("12:00:00 Ready") for line in server.text.splitlines())


def test_how_much_stays_free_is_a_setting_that_is_checked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "serve", "--port", "0", "--engine", "sandbox"],
        cwd=tmp_path,
        env={**os.environ, "COMFY_REMOTE_FREE_SPACE": "much"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "COMFY_REMOTE_FREE_SPACE is not a size" in done.stderr
