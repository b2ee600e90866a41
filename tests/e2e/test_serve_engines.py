"""``comfy-remote serve`` with several engines: one for each GPU, and several sandboxes.

There is no GPU here: ``nvidia-smi`` is a stand-in that lists two, and the real ComfyUIs compute on
the CPU. A test node says which GPU its process was shown.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import real_comfyui, start_sandbox, stop
from serve_kit import Serve, alive, ask, children_of, job_of, refusal, servers, slow, wait_for

__all__ = ["servers"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

NODES = """
import os, time

class WhereItRuns:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 0.1}), "seed": ("INT", {})}}

    def run(self, seconds, seed):
        time.sleep(seconds)
        return {"ui": {"text": [os.environ.get("CUDA_VISIBLE_DEVICES", "none"), str(os.getpid())]}}

NODE_CLASS_MAPPINGS = {"WhereItRuns": WhereItRuns}
"""
TWO = "0, GPU-aaaa, NVIDIA Stand-in, 24564\n1, GPU-bbbb, NVIDIA Stand-in, 24564\n"


def run(url: str, workflow: dict[str, Any]) -> dict[str, Any]:
    """A job's final status."""
    found: dict[str, Any] = ask(f"{url}/local/runsync?wait=300000", job_of(workflow))
    assert found["status"] == "COMPLETED", json.dumps(found)
    return found


def idle_workers(url: str) -> int:
    return int(ask(f"{url}/local/health")["workers"]["idle"])


def two_gpus(folder: Path) -> dict[str, str]:
    """The environment of a machine with two GPUs, whose ComfyUI has the test node."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f"#!{sys.executable}\nprint({TWO!r}, end='')\n")
    (tools / "nvidia-smi").chmod(0o755)
    nodes = folder / "nodes" / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "where_it_runs.py").write_text(NODES)
    paths = folder / "paths.yaml"
    paths.write_text(f"test:\n    base_path: {nodes.parent}\n    custom_nodes: custom_nodes\n")
    return {
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
        "COMFYUI_ARGS": f"--cpu --extra-model-paths-config {paths}",
        "COMFY_REMOTE_HOME": str(folder / "home"),
    }


def where(seconds: float, seed: int) -> dict[str, Any]:
    picture = {"width": 64, "height": 64, "batch_size": 1, "color": seed}
    return {
        "1": {"class_type": "WhereItRuns", "inputs": {"seconds": seconds, "seed": seed}},
        "2": {"class_type": "EmptyImage", "inputs": picture},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "where"},
        },
    }


def submit(url: str, workflow: dict[str, Any]) -> str:
    return str(ask(f"{url}/local/run", job_of(workflow))["id"])


def status(url: str, job: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(f"{url}/local/status/{job}")
    return found


def shown(done: dict[str, Any]) -> list[str]:
    """The GPU that the job's process was shown, and the process."""
    return [one["text"] for one in done["output"]["outputs"] if "text" in one]


def files_in(folder: Path) -> set[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path for path in files if not {"__pycache__", ".git"} & set(path.parts)}


@pytest.mark.timeout(400)
def test_a_comfyui_for_each_gpu(servers: list[Serve], tmp_path: Path) -> None:
    comfyui = real_comfyui()
    before = files_in(comfyui)
    server = Serve("--gpus", "all", "--comfyui", str(comfyui), **two_gpus(tmp_path))
    servers.append(server)
    url = server.url(seconds=180)
    wait_for(lambda: idle_workers(url) == 2, 60)
    assert "Starting gpu0 (NVIDIA Stand-in, 24 GB), gpu1 (NVIDIA Stand-in, 24 GB)" in server.text
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda seed: run(url, where(2.0, seed)), range(6)))
        assert {done["workerId"] for done in results} == {"gpu0", "gpu1"}
        assert all(f"gpu{shown(done)[0]}" == done["workerId"] for done in results)
        pids = {done["workerId"]: int(shown(done)[1]) for done in results}

        # One is killed under its job: that job is run again, and the other engine works meanwhile.
        jobs = [threads.submit(run, url, where(4.0, seed)) for seed in range(10, 14)]
        wait_for(lambda: server.text.count("got prompt") >= 8, 60)
        os.kill(pids["gpu1"], signal.SIGKILL)
        after = [job.result() for job in jobs]
        lost = [done for done in after if "run again" in " ".join(done["output"]["warnings"])]
        assert [done["workerId"] for done in lost] == ["gpu1"]
        assert int(shown(lost[0])[1]) != pids["gpu1"]
        others = [shown(done) for done in after if done["workerId"] == "gpu0"]
        assert len(others) >= 2
        assert all(other == ["0", str(pids["gpu0"])] for other in others)

    engines = tmp_path / "home" / "engines" / "local"
    for name in ("gpu0", "gpu1"):
        assert not [*files_in(engines / name / "output"), *files_in(engines / name / "input")]
        assert f"Setting output directory to: {engines / name / 'output'}" in server.text
        assert f" {name} | " in server.text
    assert files_in(comfyui) == before
    started = children_of(server.process.pid)
    assert len(started) >= 2
    assert server.stop(signal.SIGINT) == 0
    wait_for(lambda: not alive(started), 60)
    assert "Traceback" not in server.text


def test_several_engines_that_are_not_gpus_work_side_by_side(servers: list[Serve]) -> None:
    url, process = start_sandbox()
    try:
        server = Serve("--engine", "sandbox", "--engine", url, "--engine", "sandbox")
        servers.append(server)
        address = server.url()
        wait_for(lambda: idle_workers(address) == 3, 60)
        with ThreadPoolExecutor(3) as threads:
            results = list(threads.map(lambda _: run(address, slow(3.0)), range(3)))
        assert {done["workerId"] for done in results} == {"engine1", "engine2", "engine3"}
        assert server.stop(signal.SIGINT) == 0
        assert process.poll() is None  # it was not ours to end
    finally:
        stop(process)


def test_a_serve_that_is_killed_goes_on_with_the_jobs_of_all_its_engines(
    servers: list[Serve], tmp_path: Path
) -> None:
    def start() -> tuple[Serve, str]:
        engines = ("--engine", "sandbox", "--engine", "sandbox")
        server = Serve(*engines, COMFY_REMOTE_HOME=str(tmp_path))
        servers.append(server)
        url = server.url()
        wait_for(lambda: idle_workers(url) == 2, 60)
        return server, url

    server, url = start()
    jobs = [submit(url, slow(3.0)) for _ in range(3)]
    wait_for(lambda: sum(status(url, job)["status"] == "IN_PROGRESS" for job in jobs) == 2, 60)
    engines = children_of(server.process.pid)
    server.kill()
    server, url = start()
    assert not alive(engines)
    wait_for(lambda: all(status(url, job)["status"] == "COMPLETED" for job in jobs), 60)
    assert [status(url, job).get("attempt") for job in jobs] == [2, 2, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", ""), "is not a list of GPUs"),
        (("--gpus", "0,7"), "There is no GPU 7 here, but gpu0 (NVIDIA Stand-in, 24 GB), gpu1"),
        (("--gpus", "0", "--engine", "http://127.0.0.1:8188"), "Omit --gpus, and give --engine"),
        (("--gpus", "all", "--engine", "sandbox"), "--engine sandbox --engine sandbox"),
        (("--gpus", "all", "--worker", "runpod"), "Omit --worker runpod"),
        (("--engine", "sandbox", "--comfyui", "."), "Give one of them"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").touch()
    said = refusal(*arguments, **two_gpus(tmp_path), COMFYUI_DIR=str(comfyui))
    assert words in " ".join(said.split())


def test_one_that_does_not_start_is_tried_again_while_the_others_work(
    servers: list[Serve], tmp_path: Path
) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    broken = tmp_path / "broken"
    broken.touch()
    (comfyui / "main.py").write_text(
        "import os, pathlib, sys\n"
        "from comfy_remote.sandbox.__main__ import main\n"
        f"broken = pathlib.Path({str(broken)!r}).exists()\n"
        "if broken and os.environ['CUDA_VISIBLE_DEVICES'] == '1':\n"
        "    sys.exit('GPU is lost')\n"
        "main(['--port', sys.argv[sys.argv.index('--port') + 1]])\n"
    )
    server = Serve(
        *("--gpus", "all", "--comfyui", str(comfyui)),
        **two_gpus(tmp_path),
        COMFYUI_PYTHON=sys.executable,
        PYTHONPATH=str(Path(__file__).parents[2]),
    )
    servers.append(server)
    url = server.url()
    wait_for(lambda: server.text.count("gpu1 | GPU is lost") >= 2, 60)
    assert idle_workers(url) == 1
    assert run(url, slow(0.1))["workerId"] == "gpu0"
    broken.unlink()
    wait_for(lambda: idle_workers(url) == 2, 60)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: run(url, slow(1.0)), range(2)))
    assert {done["workerId"] for done in results} == {"gpu0", "gpu1"}


def test_if_none_starts_it_ends_and_says_why_for_each(tmp_path: Path) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").write_text(
        "import os; raise SystemExit('no GPU ' + os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    said = refusal(
        *("--gpus", "all"),
        status=5,
        **two_gpus(tmp_path),
        COMFYUI_DIR=str(comfyui),
        COMFYUI_PYTHON=sys.executable,
    )
    last = " ".join(said.partition("None of the 2 engines")[2].split())
    assert "Last line of its log: no GPU 0" in last
    assert "Last line of its log: no GPU 1" in last
