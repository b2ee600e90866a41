"""``comfy-remote serve`` as a process, and the command as its client."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from serve_kit import COMMAND, Serve, alive, ask, children_of, refusal, servers, wait_for

__all__ = ["servers"]

EXAMPLES = Path(__file__).parents[2] / "comfy_remote" / "examples"
TOKEN = secrets.token_urlsafe(24)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


def client(folder: Path, url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(folder / "home"),
        "RUNPOD_ENDPOINT_BASE_URL": url,
        "RUNPOD_API_KEY": TOKEN,
    }
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
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
        urllib.request.urlopen(f"{url}/desk/health", timeout=60)
    assert refused.value.code == 401

    started = children_of(server.process.pid)
    assert started
    number = signal.SIGINT if worker == "local" else signal.SIGTERM
    assert server.stop(number) == 0
    wait_for(lambda: not alive(started), 60)
    assert "Traceback" not in server.text
    assert TOKEN not in server.text + done.stdout + done.stderr
    assert "runpod:desk" in server.text
    assert f"COMFY_BASE_URL={url.removesuffix('/v2')}" in server.text


def test_a_token_from_a_file(servers: list[Serve], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    environment = {"COMFY_REMOTE_TOKEN": ""}
    server = Serve("--engine", "sandbox", "--token-file", str(file), **environment)
    servers.append(server)
    assert ask(f"{server.url()}/local/health", headers={"Authorization": f"Bearer {TOKEN}"})


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
    assert words in refusal(*arguments, cwd=tmp_path)


@pytest.mark.parametrize("worker", ["local", "runpod"])
@pytest.mark.parametrize("wrong", ["setting", "folder", "engine"])
def test_what_cannot_work_ends_it_and_costs_no_job(tmp_path: Path, worker: str, wrong: str) -> None:
    if worker == "runpod" and find_spec("runpod") is None:
        pytest.skip("the RunPod SDK is not installed")
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").write_text("raise SystemExit('RuntimeError: no kernel image')")
    engine = {"setting": "sandbox", "folder": str(tmp_path), "engine": str(comfyui)}[wrong]
    status, words = {
        "setting": (2, "COMFY_REMOTE_JOB_TIMEOUT"),
        "folder": (2, "is not a ComfyUI"),
        "engine": (5, "no kernel image"),
    }[wrong]
    said = refusal(
        *("--worker", worker, "--engine", engine),
        status=status,
        cwd=tmp_path,
        COMFY_REMOTE_JOB_TIMEOUT="soon" if wrong == "setting" else "",
        COMFYUI_PYTHON=sys.executable,
    )
    assert words in " ".join(said.splitlines()[-3:])


def test_a_job_cannot_write_lines_of_its_own_into_the_log(servers: list[Serve]) -> None:
    server = Serve("--engine", "sandbox")
    servers.append(server)
    base = server.url()
    forged = "Evil\x1b[2J\x1b]0;owned\x07\r\n12:00:00 Ready. All is well.\u202e"
    prompt = {"1": {"class_type": forged, "inputs": {}}}
    done = ask(f"{base}/local/runsync", {"input": {"workflow": prompt}})
    assert done["status"] == "FAILED"
    server.stop(signal.SIGINT)
    assert "Evil\ufffd[2J" in server.text
    assert not {"\x1b", "\x07", "\u202e"} & set(server.text)
    assert not any(line.startswith("12:00:00 Ready") for line in server.text.splitlines())


def test_how_much_stays_free_is_a_setting_that_is_checked(tmp_path: Path) -> None:
    said = refusal("--engine", "sandbox", cwd=tmp_path, COMFY_REMOTE_FREE_SPACE="much")
    assert "COMFY_REMOTE_FREE_SPACE is not a size" in said
