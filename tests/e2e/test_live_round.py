"""What ``tests/live`` does with a real RunPod account, with doubles of it: so it does not rot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runpod_double import KEY, RunPodDouble
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, seaweedfs
from serve_kit import Serve, servers, wait_for

__all__ = ["servers"]

TESTS = Path(__file__).parents[1]
NAME = "comfy-remote-live-test"
IMAGE = "127.0.0.1:1/a/b:1"  # a registry of this machine, which is not asked


def test_the_live_test_passes_with_doubles_and_leaves_nothing(
    tmp_path: Path, servers: list[Serve]
) -> None:
    """Of RunPod, the REST API is a double; its endpoint is a gateway of ours, and its volume's S3 a
    SeaweedFS: not the worker's disk, which is the one thing that is not looked at.
    """
    with RunPodDouble() as double, seaweedfs(tmp_path / "s3") as s3:
        theirs = {
            "id": "theirs",
            "name": "x",
            "size": 10,
            "dataCenter": "EU-RO-1",
            "type": "STANDARD",
        }
        double.volumes["theirs"] = dict(theirs)
        s3.client.create_bucket(Bucket="vol000001")  # as the double will call them
        gateway = Serve("--engine", "sandbox", "--endpoint", "ep000002", COMFY_REMOTE_TOKEN=KEY)
        servers.append(gateway)
        live = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-m", "live", str(TESTS / "live"), "-s"),
                *("-p", "no:cacheprovider", f"--basetemp={tmp_path / 'live'}"),
            ],
            env={
                **{key: one for key, one in os.environ.items() if not key.startswith("PYTEST_")},
                "COMFY_REMOTE_LIVE": "spend",
                "COMFY_REMOTE_LIVE_IMAGE": IMAGE,
                "RUNPOD_API_BASE_URL": double.url,
                "RUNPOD_API_KEY": KEY,
                "RUNPOD_ENDPOINT_BASE_URL": gateway.url(),
                "RUNPOD_S3_ENDPOINT": s3.url,
                "RUNPOD_S3_ACCESS_KEY_ID": ACCESS_KEY_ID,
                "RUNPOD_S3_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            },
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
        )
        said = live.stdout + live.stderr
        assert live.returncode == 0, said
        assert "1 passed" in said
        assert "is left in the RunPod account" in said
        assert "Earlier live tests have left" not in said
        assert "No volume is tried" not in said
        assert KEY not in said
        assert (double.endpoints, double.volumes) == ({}, {"theirs": theirs})
        assert "POST /v2/network-volumes" in double.changes


_KILLED = """
import sys, time
from pathlib import Path
from live_kit import Commands, removed_at_the_end

name, folder = sys.argv[1:]
commands = Commands(Path(folder))
with removed_at_the_end(commands, name, 0.05):
    commands("deploy", "runpod", "--name", name, "--gpu", "L4", "--image", "127.0.0.1:1/a/b:1",
             "--volume", "10@EU-RO-1", "--yes")
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="skipped: no kill -9 on Windows")
def test_a_live_test_that_is_killed_leaves_nothing_either(tmp_path: Path) -> None:
    with RunPodDouble() as double:
        killed = subprocess.Popen(
            [sys.executable, "-c", _KILLED, NAME, str(tmp_path)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
                "RUNPOD_API_BASE_URL": double.url,
                "RUNPOD_API_KEY": KEY,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert killed.stdout is not None
            assert any(line == "made\n" for line in killed.stdout)
            assert (len(double.endpoints), len(double.volumes)) == (1, 1)
        finally:
            killed.kill()
            killed.wait()
        log = tmp_path / "removed.log"
        wait_for(lambda: "is left in the RunPod account" in log.read_text(), what="removed")
        assert (double.endpoints, double.volumes) == ({}, {})
