"""``comfy-run-remote`` in processes of its own, on real engines: the plan it was designed with.

Connectivity, a dry run, a full run with its downloads, a wrong address, a timeout, and the same
seed here and there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands
from helpers import wait_until
from owner import configure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from scripted_server import Answer, ScriptedServer

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


class Command(Commands):
    """``comfy-run-remote``."""

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("run_remote", *arguments, **environment)

    def comfy_remote(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """``comfy-remote``."""
        return self.run("main", *arguments)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Command]:
    with contextlib.closing(Command(tmp_path)) as command:
        yield command


def write(folder: Path, prompt: object) -> Path:
    path = folder / "workflow.json"
    path.write_text(prompt if isinstance(prompt, str) else json.dumps(prompt))
    return path


def picture(prefix: str = "shots/${IMAGE_ID}") -> dict:
    color = time.time_ns() % 0xFFFFFF
    empty = {"width": 64, "height": 48, "batch_size": 2, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def slow(seconds: float = 0.1, steps: int = 40) -> dict:
    slowly = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds, "preview": False}
    prompt = picture("slow")
    prompt["2"]["inputs"]["images"] = ["3", 0]
    slowly["seed"] = time.time_ns()
    return {**prompt, "3": {"class_type": "SandboxSlow", "inputs": slowly}}


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
def engine(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


def test_a_full_run(remote: Command, engine: str) -> None:
    path = write(remote.folder, picture())
    done = remote(
        *("--workflow", path, "--pod-url", engine, "--image-id", "take-3"),
        *("--output-folder", "films", "--local-output", "here"),
    )
    assert done.returncode == 0, done.stderr
    saved = [Path(line) for line in done.stdout.splitlines()]
    assert [path.parent for path in saved] == [Path("here/films/shots")] * 2
    assert all(path.name.startswith("take-3_") for path in saved)
    for path in saved:
        with Image.open(remote.folder / path) as image:
            assert image.size == (64, 48)
    logs = sorted((remote.folder / "logs" / "generations").iterdir())
    assert [log.name.split("_", 1)[1] for log in logs] == ["take-3.json", "take-3.log"]
    log = json.loads(logs[0].read_text())
    assert log["state"] == "succeeded"
    assert set(log["phases"]) == {"prepare", "submit", "queue", "run", "download"}
    assert log["prompt"]["2"]["inputs"]["filename_prefix"] == "films/shots/take-3"
    assert len(log["outputs"]) == 2
    assert "Finished: succeeded" in logs[1].read_text()


def test_the_template_is_filled_in_as_json(remote: Command, sandbox_url: str) -> None:
    prompt = picture("${OUTPUT_FOLDER}/${FROM_ENVIRONMENT}")
    prompt["1"]["inputs"]["color"] = 5
    text = json.dumps(prompt).replace('"color": 5', '"color": ${SEED}')
    prompt["2"]["_meta"] = {"title": "${PROMPT}"}
    done = remote(
        *("--workflow", write(remote.folder, text), "--pod-url", sandbox_url, "--seed", "255"),
        *("--prompt", 'say "hi"\n', "--output-folder", "x", "--var", "FROM_ENVIRONMENT"),
        FROM_ENVIRONMENT="named",
    )
    assert done.returncode == 0, done.stderr
    assert "Warning: The positive text is not used" in done.stderr
    done = remote(
        *("--workflow", write(remote.folder, text), "--pod-url", sandbox_url, "--seed", "255"),
        *("--output-folder", "x", "--var", "FROM_ENVIRONMENT"),
        FROM_ENVIRONMENT="named",
    )
    assert done.returncode == 0, done.stderr
    first = remote.folder / done.stdout.splitlines()[0]
    assert first.parent == remote.folder / "output" / "x"
    assert first.name.startswith("named_")
    with Image.open(first) as image:
        assert image.convert("RGB").getpixel((1, 1)) == (0, 0, 255)


def test_a_whole_path_on_the_pod_is_not_made_here(remote: Command, engine: str) -> None:
    path = write(remote.folder, picture("whole"))
    folder = ("--output-folder", "/workspace/ComfyUI/output/films")
    done = remote("--workflow", path, "--pod-url", engine, *folder, "--seed", "3")
    assert done.returncode == 0, done.stderr
    saved = [Path(line) for line in done.stdout.splitlines()]
    assert [path.parent for path in saved] == [Path("output/films")] * 2
    assert "Warning: The seed is not used" in done.stderr
    done = remote("--workflow", path, "--pod-url", engine, "--output-folder", "/data/films")
    assert done.returncode == 2
    assert "not below ComfyUI's output folder" in done.stderr
    refused = remote.comfy_remote("run", path, "--on", engine, "--seed", "3")
    assert refused.returncode == 4


def test_a_default_workflow(remote: Command, sandbox_url: str) -> None:
    configure(remote.folder / "home", 'default_workflow = "workflow.json"\n')
    write(remote.folder / "home", picture("from the default"))
    done = remote("--prompt", "a cat", "--pod-url", sandbox_url)
    assert done.returncode == 0, done.stderr
    assert "from the default" in done.stdout


def test_addresses_instead_of_files(remote: Command, engine: str) -> None:
    done = remote(
        "--workflow", write(remote.folder, picture()), "--no-download", RUNPOD_POD_URL=engine
    )
    assert done.returncode == 0, done.stderr
    urls = done.stdout.splitlines()
    assert len(urls) == 2
    assert all(url.startswith(f"{engine}/view?filename=") for url in urls)
    assert not (remote.folder / "output").exists()
    import urllib.request

    with urllib.request.urlopen(urls[0], timeout=60) as answer:
        assert answer.read(4) == b"\x89PNG"
    # They can still be fetched.
    job = re.search(r"jobs resume ([0-9a-f-]{36})", done.stderr)
    assert job is not None
    resumed = remote.comfy_remote("jobs", "resume", job[1], "-o", "later")
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 2


def test_json_lines_without_download(remote: Command, sandbox_url: str) -> None:
    path = write(remote.folder, picture())
    done = remote("--workflow", path, "--pod-url", sandbox_url, "--no-download", "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["event"] == "result"
    assert [one["url"].startswith(sandbox_url) for one in result["outputs"]] == [True, True]


def test_a_dry_run_sends_nothing_and_quiet_says_where_the_files_are(
    remote: Command, sandbox_url: str
) -> None:
    prompt = picture("${IMAGE_ID}")
    path = write(remote.folder, prompt)
    run = ("--workflow", path, "--pod-url", sandbox_url, "--image-id", "take-3")
    dry = remote(*run, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert '"take-3"' in dry.stdout and json.loads(dry.stdout).keys() == prompt.keys()
    assert not (remote.folder / "output").exists() and not (remote.folder / "logs").exists()
    code = "import pathlib, sys; pathlib.Path('said').write_text(sys.argv[1])"
    told = f'"{sys.executable}" -c "{code}" {{state}}'
    done = remote(*run, "--quiet", "--notify", told)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.splitlines()[0]).name.startswith("take-3")
    assert (remote.folder / "said").read_text() == "succeeded"
    assert [*(remote.folder / "logs" / "generations").iterdir()]


@pytest.mark.comfyui
def test_the_same_seed_gives_the_same_pixels(
    remote: Command, comfyui_url: str, sandbox_url: str
) -> None:
    """The colours come from the seed, as there is no model here whose noise could."""
    prompt = picture("seeded")
    prompt["1"]["inputs"]["color"] = "SEED"
    prompt["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    path = write(remote.folder, json.dumps(prompt).replace('"SEED"', "${SEED}"))
    pixels = {}
    for name, url, seed in (
        ("there", comfyui_url, "1234567"),
        ("here", sandbox_url, "1234567"),
        ("another", comfyui_url, "7654321"),
    ):
        done = remote("--workflow", path, "--pod-url", url, "--local-output", name, "--seed", seed)
        assert done.returncode == 0, done.stderr
        with Image.open(remote.folder / done.stdout.splitlines()[0]) as image:
            pixels[name] = image.convert("RGB").tobytes()
    assert pixels["there"] == pixels["here"] != pixels["another"]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9/"])
def test_a_wrong_address(remote: Command, address: str) -> None:
    began = time.monotonic()
    done = remote("--workflow", write(remote.folder, picture()), "--pod-url", address)
    assert done.returncode == 3
    assert "could not be reached" in done.stderr
    assert [f"Try {n} of 5" in done.stderr for n in (2, 3, 4, 5)] == [True] * 4
    assert 1.0 < time.monotonic() - began < 120.0  # five tries, further and further apart


def test_out_of_time_then_resumed(remote: Command, sandbox_url: str) -> None:
    for seconds in (3, 12, 48):  # a busy machine may need more for what comes before the job
        path = write(remote.folder, slow(0.2, 10 * seconds))
        done = remote("--workflow", path, "--pod-url", sandbox_url, "--timeout", str(seconds))
        assert done.returncode == 6
        if said := re.search(r"did not end within (\d+(?:\.\d)?) s\.", done.stderr):
            break
    assert said, done.stderr
    assert 0 < float(said[1]) <= seconds
    command = re.search(r"comfy-remote (jobs resume [0-9a-f-]{36})", done.stderr.splitlines()[-1])
    assert command is not None, done.stderr
    resumed = remote.comfy_remote(*command[1].split())
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 2


def test_nobody_answers_in_time(remote: Command) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = remote("--prompt", "x", "--pod-url", f"127.0.0.1:{port}", "--timeout", "2")
    assert done.returncode == 6
    assert "Nothing was sent" in done.stderr


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_job(remote: Command, sandbox_url: str, number: signal.Signals) -> None:
    process = remote.start(
        *("run_remote", "--workflow", write(remote.folder, slow()), "--pod-url", sandbox_url)
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Running"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "continues on the target" in err
    command = re.search(r"comfy-remote (jobs resume [0-9a-f-]{36})", err)
    assert command is not None
    resumed = remote.comfy_remote(*command[1].split())
    assert resumed.returncode == 0, resumed.stderr


def test_killed_then_taken_up_by_what_its_log_says(remote: Command, sandbox_url: str) -> None:
    path = write(remote.folder, slow())
    process = remote.start(
        *("run_remote", "--workflow", path, "--pod-url", sandbox_url, "--image-id", "k")
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Running"):
            break
    log = next((remote.folder / "logs" / "generations").glob("*_k.json"))
    wait_until(lambda: "Running" in log.with_suffix(".log").read_text())
    process.kill()
    process.wait(180)
    left = json.loads(log.read_text())
    assert left["state"] == "submitted"
    assert "Running" in log.with_suffix(".log").read_text()
    resumed = remote.comfy_remote(*left["resume"].split()[1:])
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 2


def test_a_prompt_of_another_machine_is_fetched(remote: Command, engine: str) -> None:
    done = remote("--workflow", write(remote.folder, picture()), "--pod-url", engine)
    assert done.returncode == 0, done.stderr
    job = re.search(r"Job ([0-9a-f-]{36})", done.stderr)
    assert job is not None
    remote.environment["COMFY_REMOTE_HOME"] = str(remote.folder / "another")
    unknown = remote.comfy_remote("jobs", "resume", job[1])
    assert unknown.returncode == 2
    assert f"jobs resume {job[1]} --on URL" in unknown.stderr
    resumed = remote.comfy_remote("jobs", "resume", job[1], "--on", engine, "-o", "there")
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 2
    again = remote.comfy_remote("jobs", "resume", job[1])
    assert again.returncode == 0, again.stderr
    nothing = remote.comfy_remote("jobs", "resume", "no-such-prompt", "--on", engine)
    assert nothing.returncode == 2
    assert "neither in its queue nor in its history" in nothing.stderr


class PlayedApi:
    """RunPod's REST API in a thread: one pod, whose port 8188 is an engine of ours."""

    def __init__(self, engine: str, count: int = 1) -> None:
        host, port = engine.removeprefix("http://").split(":")
        mapped = {"private": 8188, "public": int(port), "type": "tcp", "ip": host}
        pod = {"id": "abc123xyz90", "name": "mine", "status": "RUNNING", "ports": ["8188/tcp"]}
        pod["runtime"] = {"ports": [mapped]}
        self._pods = [{**pod, "id": f"abc123xyz9{n}"} for n in range(count)]

    def __enter__(self) -> PlayedApi:
        self._loop = asyncio.new_event_loop()
        self._server = ScriptedServer()
        self._loop.run_until_complete(self._server.__aenter__())
        self._server.on("GET /v2/pods", Answer({"pods": self._pods}))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.environment = {
            "RUNPOD_API_BASE_URL": self._server.url,
            "RUNPOD_API_KEY": "planted-key-77aa01",
        }
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.__aexit__(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def test_the_running_pod_is_found(remote: Command, engine: str) -> None:
    with PlayedApi(engine) as api:
        done = remote("--workflow", write(remote.folder, picture()), **api.environment)
        assert done.returncode == 0, done.stderr
        assert "on pod:abc123xyz90" in done.stderr
        assert "planted-key" not in done.stdout + done.stderr
    # The record knows the way back without RunPod.
    job = re.search(r"Job ([0-9a-f-]{36})", done.stderr)
    assert job is not None
    resumed = remote.comfy_remote("jobs", "resume", job[1], "-o", "elsewhere")
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 2


def test_several_pods_and_nobody_to_ask(remote: Command, sandbox_url: str) -> None:
    with PlayedApi(sandbox_url, count=2) as api:
        done = remote("--workflow", write(remote.folder, picture()), **api.environment)
    assert done.returncode == 2
    assert "2 pods run: abc123xyz90 (mine); abc123xyz91 (mine)." in done.stderr


@POSIX
def test_several_pods_and_somebody_to_ask(remote: Command, sandbox_url: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    with PlayedApi(sandbox_url, count=3) as api:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from comfy_remote.cli.run_remote import main; main()"),
                *("--workflow", write(remote.folder, picture()), "--no-preview"),
            ],
            cwd=remote.folder,
            env={**remote.environment, **api.environment, "TERM": "xterm", "COLUMNS": "100"},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while b"Which one?" not in shown or b"[1/2/3]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"2\n")
        with contextlib.suppress(OSError):  # how a pty ends on Linux
            while block := os.read(ours, 4096):
                shown += block
        assert process.stdout is not None
        paths = process.stdout.read().decode().split()
        assert process.wait(180) == 0, shown
    os.close(ours)
    assert len(paths) == 2
    assert b"pod:abc123xyz91" in shown


def test_no_way_to_a_pod(remote: Command) -> None:
    done = remote("--workflow", write(remote.folder, picture()), PATH="")
    assert done.returncode == 2
    for way in ("--pod-url", "RUNPOD_POD_URL", "RUNPOD_API_KEY", "runpodctl"):
        assert way in done.stderr


def test_secrets_are_nowhere(remote: Command, sandbox_url: str) -> None:
    """Not in what is printed, logged, recorded or saved, also with DEBUG=1 and when it fails."""
    planted = {"STUDIO_PASSWORD": "planted-2b7e51aa", "ACCESS": "planted-9d01cc34"}
    basic = "YW5uOnBsYW50ZWQtMmI3ZTUxYWE="  # ann:planted-2b7e51aa
    configure(
        remote.folder / "home",
        f'[targets.studio]\ntarget = "{sandbox_url}"\nuser = "ann"\n'
        'password_env = "STUDIO_PASSWORD"\nheaders_env = { X-Access = "ACCESS" }\n'
        '[targets.gone]\ntarget = "http://127.0.0.1:9"\nheaders_env = { X-Access = "ACCESS" }\n',
    )
    path = write(remote.folder, picture())
    said = ""
    for name, status in (("studio", 0), ("gone", 3)):
        done = remote("--workflow", path, "--pod-url", name, DEBUG="1", **planted)
        assert done.returncode == status, done.stderr
        said += done.stdout + done.stderr
    said += remote("--workflow", path, "--pod-url", "studio").stderr
    assert "which is not set" in said
    found = [said.encode()]
    found += [file.read_bytes() for file in remote.folder.rglob("*") if file.is_file()]
    assert len(found) > 8
    for secret in (*planted.values(), basic):
        assert not any(secret.encode() in content for content in found)


def test_empty_words_are_as_good_as_none(remote: Command, sandbox_url: str) -> None:
    path = write(remote.folder, picture("empty-words"))
    empty = ("--output-folder", "", "--image-id", "")
    done = remote("--workflow", path, "--pod-url", sandbox_url, *empty)
    assert done.returncode == 0, done.stderr
    names = [Path(line) for line in done.stdout.splitlines()]
    assert names == [Path("output", f"empty-words_0000{number}_.png") for number in (1, 2)]
    (log,) = (remote.folder / "logs" / "generations").glob("*.json")
    found = json.loads(log.read_text(encoding="utf-8"))
    assert found["image_id"] == found["job_id"][:8]


def test_neither_prompt_nor_workflow(remote: Command) -> None:
    done = remote()
    assert done.returncode == 2
    assert "--prompt" in done.stderr


def test_text_to_image_needs_a_checkpoint(remote: Command, engine: str) -> None:
    done = remote("--prompt", "a cat", "--pod-url", engine)
    assert done.returncode == 4
    assert "--workflow FILE" in done.stderr
