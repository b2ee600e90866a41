"""docker/start.sh, run for real: as the image's command, with every path in a scratch folder."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import free_port, real_comfyui

pytest.importorskip("runpod")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the image is Linux")

ROOT = Path(__file__).parents[2]
START = ROOT / "docker" / "start.sh"
PATIENCE = 110.0

WHITE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "w"}},
}
NODE_ON_THE_VOLUME = """
import folder_paths


class OnTheVolume:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": (folder_paths.get_filename_list("ipadapter"),)}}

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, model):
        return {"ui": {"text": [model]}}


NODE_CLASS_MAPPINGS = {"OnTheVolume": OnTheVolume}
"""


def environment(**more: str | Path) -> dict[str, str]:
    """As in the image, but for the paths; nothing of the developer's own settings."""
    ours = ("COMFY", "RUNPOD_", "LD_PRELOAD", "SERVE_API", "NETWORK_VOLUME", "MODE_TO_RUN")
    ours += ("PUBLIC_KEY",)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    fixed = {
        "COMFY_REMOTE_ROOT": ROOT,
        "COMFY_REMOTE_PYTHON": sys.executable,
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }
    return {**inherited, **{k: str(v) for k, v in {**fixed, **more}.items()}}


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [START, *arguments], env=env, text=True, capture_output=True, timeout=PATIENCE
    )


@contextmanager
def started(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [START], env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(180)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def ask(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def job_done(endpoint: str, prompt: object) -> dict:
    job = ask(f"{endpoint}/run", {"input": {"format": "comfy-remote/1", "workflow": prompt}})
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen = ask(f"{endpoint}/status/{job['id']}")
        if seen["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            assert seen["status"] == "COMPLETED", seen
            return seen["output"]
        time.sleep(0.1)
    raise AssertionError(f"still {seen}")


def until_it_listens(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            ask(f"{endpoint}/health")
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(log.read_text())


def health(port: int) -> int:
    env = environment(SERVE_API_LOCALLY="true", COMFY_REMOTE_PORT=str(port))
    return subprocess.run([sys.executable, ROOT / "docker/healthcheck.py"], env=env).returncode


def test_one_job_from_the_command_line() -> None:
    job = json.dumps({"input": {"format": "comfy-remote/1", "workflow": WHITE}})
    ended = run("--test_input", job, env=environment(COMFY_REMOTE_ENGINE="sandbox"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert '"status": "success"' in ended.stdout


def test_an_endpoint_on_this_machine_until_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/v2/local"
    env = environment(
        COMFY_REMOTE_ENGINE="sandbox",
        COMFY_REMOTE_HOST="127.0.0.1",
        COMFY_REMOTE_PORT=str(port),
        SERVE_API_LOCALLY="true",
    )
    assert health(port) == 1
    log = tmp_path / "log"
    with started(env, log) as process:
        until_it_listens(endpoint, process, log)
        assert health(port) == 0
        assert job_done(endpoint, WHITE)["outputs"][0]["kind"] == "image"
        below = descendants(process.pid)
        assert len(below) >= 2, "the worker and its engine"
        process.send_signal(signal.SIGTERM)
        process.wait(180)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


def descendants(pid: int) -> set[int]:
    """All that a process has started, and what those have."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(folder.name)] = int(parent)
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def test_a_port_for_all_needs_a_token() -> None:
    env = environment(COMFY_REMOTE_ENGINE="sandbox", SERVE_API_LOCALLY="true")
    ended = run(env={**env, "COMFY_REMOTE_PORT": str(free_port())})
    assert ended.returncode == 1
    assert "COMFY_REMOTE_TOKEN" in ended.stderr
    short = run(env={**env, "COMFY_REMOTE_TOKEN": "short", "COMFY_REMOTE_PORT": str(free_port())})
    assert short.returncode != 0
    assert "16 characters" in short.stderr


def test_without_a_gpu_it_does_not_run_for_a_gpus_price(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    broken = tools / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    broken.chmod(0o755)
    env = environment(COMFY_REMOTE_ENGINE="sandbox", COMFY_REMOTE_REQUIRE_GPU="true")
    ended = run(env={**env, "PATH": f"{tools}:{env['PATH']}"})
    assert ended.returncode == 1
    assert "no working GPU: No devices were found" in ended.stderr


@pytest.mark.parametrize("chosen", [None, ""])
def test_tcmalloc_is_used_unless_somebody_has_chosen(tmp_path: Path, chosen: str | None) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    library = tmp_path / "libtcmalloc_minimal.so.4"
    shutil.copy(next(Path("/lib").glob("*-linux-gnu/libm.so.6")), library)
    ldconfig = tools / "ldconfig"
    # More than a pipe holds: nobody may stop reading after the first hit.
    ldconfig.write_text(
        f"#!/bin/sh\necho '\tlibtcmalloc_minimal.so.4 (libc6,x86-64) => {library}'\n"
        "yes 'libother.so.1 (libc6,x86-64) => /lib/libother.so.1' | head -n 20000\n"
    )
    ldconfig.chmod(0o755)
    python = tools / "a_python"
    python.write_text('#!/bin/sh\necho "preloaded: $LD_PRELOAD."\n')
    python.chmod(0o755)
    env = environment(COMFY_REMOTE_ENGINE="sandbox", COMFY_REMOTE_PYTHON=python)
    env = {**env, "PATH": f"{tools}:{env['PATH']}"}
    if chosen is not None:
        env["LD_PRELOAD"] = chosen
    ended = run(env=env)
    assert ended.returncode == 0, ended.stderr
    assert f"preloaded: {library if chosen is None else chosen}." in ended.stdout


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"COMFY_LOG_LEVEL": "LOUD"}, "which is not one of"),
        ({"COMFY_REMOTE_ROOT": "/nowhere"}, "no serverless_worker.py in /nowhere"),
        ({"COMFY_REMOTE_PYTHON": "/nowhere/python"}, "no Python at /nowhere/python"),
        ({"COMFYUI_DIR": "/nowhere"}, "is not a ComfyUI"),
    ],
)
def test_wrong_settings_are_named(setting: dict[str, str], words: str) -> None:
    ended = run(env=environment(**setting))
    assert ended.returncode != 0
    assert words in ended.stdout + ended.stderr


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def with_ssh(tmp_path: Path, key: str) -> dict[str, str]:
    tools = tmp_path / "bin"
    tool(tools, "a_python", "exit 0")
    env = environment(
        COMFY_REMOTE_ENGINE="sandbox",
        COMFY_REMOTE_PYTHON=tools / "a_python",
        HOME=tmp_path,
        PUBLIC_KEY=key,
        A_TOKEN="planted-token",
    )
    return {**env, "PATH": f"{tools}:/usr/bin:/bin"}


def test_people_can_log_in_with_their_keys(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "ssh-keygen", f'echo "$@" > {tmp_path}/keygen')
    tool(tmp_path / "bin", "sshd", f'env > {tmp_path}/sshd; echo "$0 $@" >> {tmp_path}/sshd')
    keys = "# mine\r\nssh-ed25519 AAAAC3Nza me@here\r\n\r\necdsa-sha2-nistp256 AAAAE2V you@there"
    ended = run(env=with_ssh(tmp_path, keys))
    assert ended.returncode == 0, ended.stderr
    authorized = tmp_path / ".ssh" / "authorized_keys"
    assert authorized.read_bytes() == f"{keys}\n".encode()
    assert authorized.stat().st_mode & 0o777 == 0o600
    assert authorized.parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keygen").read_text() == "-A\n"
    server = (tmp_path / "sshd").read_text()
    assert f"{tmp_path}/bin/sshd" in server
    assert "PasswordAuthentication=no" in server
    assert "planted-token" not in server
    assert "An SSH server runs" in ended.stdout


def test_what_is_no_key_stops_and_a_missing_server_does_not(tmp_path: Path) -> None:
    wrong = run(env=with_ssh(tmp_path, "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted"))
    assert wrong.returncode == 1
    assert "not a public key" in wrong.stderr
    assert "planted" not in wrong.stderr
    if not shutil.which("sshd", path="/usr/bin:/bin"):
        without = run(env=with_ssh(tmp_path, "ssh-ed25519 AAAA"))
        assert without.returncode == 0
        assert "no SSH server" in without.stdout
    assert not (tmp_path / ".ssh").exists()


@pytest.mark.parametrize(
    ("folder_paths", "config"),
    [
        ("", "user/default/ComfyUI-Manager/config.ini"),
        ("def get_system_user_directory(): ...", "user/__manager/config.ini"),
    ],
)
def test_comfyui_manager_is_offline_unless_somebody_has_chosen(
    tmp_path: Path, folder_paths: str, config: str
) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "custom_nodes").mkdir(parents=True)
    (comfyui / "folder_paths.py").write_text(folder_paths)
    tool(tmp_path / "bin", "a_python", "exit 0")
    env = environment(COMFYUI_DIR=comfyui, COMFY_REMOTE_PYTHON=tmp_path / "bin" / "a_python")
    assert run(env=env).returncode == 0
    assert not (comfyui / "user").exists(), "there is no Manager"

    switched_on = run(env={**env, "COMFYUI_ARGS": "--cpu --enable-manager"})
    assert "in the mode offline" in switched_on.stdout
    shutil.rmtree(comfyui / "user")
    (comfyui / "custom_nodes" / "ComfyUI-Manager").mkdir()
    assert "in the mode offline" in run(env=env).stdout
    assert (comfyui / config).read_text() == "[default]\nnetwork_mode = offline\n\n"
    (comfyui / config).write_text("[default]\nuse_uv = True\nnetwork_mode = offline\n")
    assert run(env={**env, "COMFY_REMOTE_MANAGER_MODE": "public"}).returncode == 0
    assert (comfyui / config).read_text() == "[default]\nnetwork_mode = public\nuse_uv = True\n"
    for line in ("network_mode: public", "Network_Mode=public", "  network_mode\t=\tpublic\r"):
        odd = f"\ufeff[default]\n{line}\nuse_uv = True\n[other]\na = b\n"
        (comfyui / config).write_text(odd, encoding="utf-8")
        assert run(env=env).returncode == 0
        read = configparser.ConfigParser()
        read.read_string((comfyui / config).read_text("utf-8"))
        assert dict(read["default"]) == {"network_mode": "offline", "use_uv": "True"}
        assert read["other"]["a"] == "b"
    wrong = run(env={**env, "COMFY_REMOTE_MANAGER_MODE": "open"})
    assert wrong.returncode == 1
    assert "offline, private, public" in wrong.stderr


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Both layouts, custom nodes, and a space in the path."""
    volume = tmp_path / "a volume"
    for model in (
        "ComfyUI/models/loras/with_comfyui.safetensors",
        "ComfyUI/models/ipadapter/of_a_custom_node.safetensors",
        "models/loras/models_alone.safetensors",
        "models/unet/by_its_old_name.safetensors",
    ):
        (volume / model).parent.mkdir(parents=True, exist_ok=True)
        (volume / model).touch()
    node = volume / "ComfyUI/custom_nodes/on_the_volume/__init__.py"
    node.parent.mkdir(parents=True)
    node.write_text(NODE_ON_THE_VOLUME)
    return volume


@pytest.mark.comfyui
def test_models_and_nodes_on_the_volume_are_comfyuis(tmp_path: Path, volume: Path) -> None:
    directory = real_comfyui()
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/v2/local"
    env = environment(
        COMFYUI_DIR=directory,
        COMFYUI_PYTHON=os.environ.get("COMFYUI_PYTHON", sys.executable),
        COMFYUI_ARGS=f"--base-directory {base}",
        COMFY_LOG_LEVEL="info",
        COMFY_REMOTE_VOLUME=volume,
        COMFY_REMOTE_HOST="127.0.0.1",
        COMFY_REMOTE_PORT=str(port),
        NETWORK_VOLUME_DEBUG="true",
        SERVE_API_LOCALLY="true",
    )
    log = tmp_path / "log"
    with started(env, log) as process:
        until_it_listens(endpoint, process, log)
        assert job_done(endpoint, WHITE)["outputs"][0]["filename"].startswith("w_")
        text = log.read_text()
        assert f"{volume}/ComfyUI/models/loras: 1 files" in text
        comfyui = text.rpartition("To see the GUI go to: ")[2].split()[0]
        nodes = ask(f"{comfyui}/object_info")
        loras = nodes["LoraLoader"]["input"]["required"]["lora_name"][0]
        assert sorted(loras) == ["models_alone.safetensors", "with_comfyui.safetensors"]
        unets = nodes["UNETLoader"]["input"]["required"]["unet_name"][0]
        assert unets == ["by_its_old_name.safetensors"]
        of_node = nodes["OnTheVolume"]["input"]["required"]["model"][0]
        assert of_node == ["of_a_custom_node.safetensors"]
        process.send_signal(signal.SIGTERM)
        process.wait(180)
    with pytest.raises(urllib.error.URLError):
        ask(f"{comfyui}/system_stats")
