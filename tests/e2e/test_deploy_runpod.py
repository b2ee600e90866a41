"""``comfy-remote deploy runpod`` as a process: to the first picture, and killed in between."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from runpod_double import KEY, RunPodDouble
from serve_kit import COMMAND, Serve, servers, wait_for

__all__ = ["servers"]

# A registry of this machine, which is not asked.
DEPLOY = ("deploy", "runpod", "--name", "portraits", "--gpu", "L4", "--image", "127.0.0.1:1/a/b:1")


class Machine:
    """Whose commands find this RunPod, and nothing of whoever runs the tests."""

    def __init__(self, folder: Path, double: RunPodDouble) -> None:
        self.folder = folder
        own = dict.fromkeys(("XDG_CONFIG_HOME", "APPDATA"), str(folder / "config"))
        self.environment = {
            **os.environ,
            **own,
            "COMFY_REMOTE_HOME": str(folder / "home"),
            "RUNPOD_API_BASE_URL": double.url,
            "RUNPOD_API_KEY": KEY,
        }

    def __call__(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.stdout


def test_one_command_to_an_endpoint_that_makes_a_picture(
    tmp_path: Path, servers: list[Serve]
) -> None:
    """RunPod's REST API is a double; its endpoint is a gateway of ours with that id."""
    with RunPodDouble() as double:
        machine = Machine(tmp_path, double)
        machine(*DEPLOY, "--yes")
        (endpoint,) = double.endpoints
        gateway = Serve("--engine", "sandbox", "--endpoint", endpoint, COMFY_REMOTE_TOKEN=KEY)
        servers.append(gateway)
        base = gateway.url()
        arguments = ("run", "example:collage", "--on", "portraits", "--output", "out")
        machine(*arguments, RUNPOD_ENDPOINT_BASE_URL=base)
        assert list((tmp_path / "out").rglob("*.png"))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("path", ["/v2/network-volumes", "/v2/serverless"])
def test_a_command_that_is_killed_is_gone_on_with(tmp_path: Path, path: str) -> None:
    """Killed after RunPod has the request, before its answer is here."""
    arrived, goes_on = threading.Event(), threading.Event()

    def before(method: str, asked: str) -> None:
        if (method, asked) == ("POST", path):
            arrived.set()
            assert goes_on.wait(60)

    with RunPodDouble() as double:
        machine = Machine(tmp_path, double)
        double.before = before
        deploy = (*DEPLOY, "--volume", "20@EU-RO-1", "--yes")
        killed = subprocess.Popen(
            [*COMMAND, *deploy],
            cwd=tmp_path,
            env=machine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert arrived.wait(60)
        killed.kill()
        killed.wait()
        goes_on.set()
        wait_for(lambda: double.volumes if path == "/v2/network-volumes" else double.endpoints)
        machine(*deploy)
        (endpoint,), (volume,) = double.endpoints.values(), double.volumes.values()
        assert endpoint["networkVolumes"] == [volume["id"]]
        assert sorted(double.changes) == ["POST /v2/network-volumes", "POST /v2/serverless"]
        machine("deploy", "runpod", "--name", "portraits", "--remove", "--with-volume", "--yes")
        assert (double.endpoints, double.volumes) == ({}, {})
