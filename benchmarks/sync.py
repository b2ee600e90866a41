"""A 2 GB model to an S3 server, against boto3's own upload; a plan of 200 models and 40 packs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, command, size

SIZE = size(2_000_000_000, 40_000_000)
RUNS = size(3, 1)
MODELS, PACKS, PLANS = size(200, 5), size(40, 2), size(2, 1)
_STEP = 8 * 1024 * 1024


def bench_sync() -> None:
    """Each upload is a process of its own, so that its peak is its own."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import pytest
        from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, seaweedfs
    except ImportError as error:
        print(f"sync: not measured: {error}")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "model.bin"
        sha256 = _write(path)
        try:
            with seaweedfs(folder / "seaweedfs", volume_megabytes=2000) as server:
                server.client.create_bucket(Bucket="models")
                arguments = [f"{server.url}/models", ACCESS_KEY_ID, SECRET_ACCESS_KEY, str(path)]
                _compare([*arguments, sha256, str(folder / "home")], server.client)
        except pytest.skip.Exception as why:
            print(f"sync: not measured: {why}")
    print(f"sync: plan of {MODELS} models and {PACKS} packs: {_plan():.2f} s")


def _write(path: Path) -> str:
    digest, block = hashlib.sha256(), os.urandom(_STEP)
    with path.open("wb") as file:
        for at in range(0, SIZE, _STEP):
            piece = at.to_bytes(8, "big") + block[8 : min(_STEP, SIZE - at)]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _compare(arguments: list[str], client: object) -> None:
    times: dict[str, list[float]] = {"ours": [], "boto3": []}
    peaks: dict[str, float] = {}
    for run in range(RUNS):
        for who in ("ours", "boto3") if run % 2 else ("boto3", "ours"):
            key = f"{who}-{run}"
            done = subprocess.run(
                [sys.executable, __file__, who, key, *arguments],
                capture_output=True,
                text=True,
                timeout=1800,
                check=True,
            )
            seconds, peak = map(float, done.stdout.split())
            times[who].append(seconds)
            peaks[who] = max(peak, peaks.get(who, 0.0))
            client.delete_object(Bucket="models", Key=key)  # type: ignore[attr-defined]
    rates = {who: SIZE / statistics.median(some) / 1e6 for who, some in times.items()}
    print(
        f"sync: {SIZE / 1e9:g} GB to SeaweedFS: {rates['ours']:.0f} MB/s, peak memory "
        f"{peaks['ours']:.0f} MiB; boto3's upload_file {rates['boto3']:.0f} MB/s, "
        f"{peaks['boto3']:.0f} MiB; ratio {rates['ours'] / rates['boto3']:.2f} "
        f"({RUNS} runs in turn, median)"
    )


def _plan() -> float:
    """Seconds of the whole command, the last time, to a gateway of ours that lacks everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loras = folder / "mine/models/loras"
        loras.mkdir(parents=True)
        (folder / "mine/user").mkdir()
        lines = ["version = 1"]
        for number in range(PACKS):
            lines.append(f'[[packs]]\nid = "pack-{number}"\nversion = "1.0.0"')
        for number in range(MODELS):
            content = b"%d" % number
            (loras / f"{number}.safetensors").write_bytes(content)
            sha256 = hashlib.sha256(content).hexdigest()
            lines.append(
                f'[[models]]\nfolder = "loras"\nname = "{number}.safetensors"\n'
                f'size = {len(content)}\nsha256 = "{sha256}"'
            )
        (folder / "l.lock").write_text("\n".join(lines))
        environment = {**os.environ, "COMFY_REMOTE_HOME": str(folder / "home")}
        there = {"ACCEPT_MODELS": "true", "COMFY_REMOTE_MODELS_DIR": str(folder / "there")}
        server = subprocess.Popen(
            [sys.executable, "-m", "comfy_remote", "serve", "--engine", "sandbox", "--port", "0"],
            env={**environment, **there, "COMFY_REMOTE_HOME": str(folder / "served")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if "RUNPOD_ENDPOINT_BASE_URL=" in line)
            environment["RUNPOD_ENDPOINT_BASE_URL"] = url.partition("BASE_URL=")[2].split()[0]
            for _ in range(PLANS):
                began = time.perf_counter()
                command(
                    *(sys.executable, "-m", "comfy_remote", "sync", "--on", "runpod:local"),
                    *("--lock", str(folder / "l.lock"), "--comfyui", str(folder / "mine")),
                    "--plan",
                    environment=environment,
                )
                seconds = time.perf_counter() - began
        finally:
            server.terminate()
            server.communicate(timeout=300)
    return seconds


async def _ours(
    key: str, url: str, access: str, secret: str, path: str, sha256: str, home: str
) -> None:
    from pydantic import SecretStr

    from comfy_remote.net.bucket import BucketSettings
    from comfy_remote.net.parted_bucket import PartedBucket
    from comfy_remote.ready.sync.brought import BroughtRecord

    settings = BucketSettings.of(url, access, SecretStr(secret))
    bucket = PartedBucket(settings, BroughtRecord(Path(home)))
    assert await bucket.upload(Path(path), key, sha256, lambda *_: None)


def _boto3(key: str, url: str, access: str, secret: str, path: str) -> None:
    """With the settings that are quickest here: more and larger parts than its defaults."""
    import boto3
    from boto3.s3.transfer import TransferConfig

    endpoint, _, bucket = url.rpartition("/")
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="auto",
    )
    config = TransferConfig(multipart_chunksize=16 * 1024 * 1024, max_concurrency=10)
    client.upload_file(path, bucket, key, Config=config)


def main(who: str, key: str, *arguments: str) -> None:
    began = time.perf_counter()
    if who == "ours":
        asyncio.run(_ours(key, *arguments))  # type: ignore[call-arg]
    else:
        _boto3(key, *arguments[:4])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(time.perf_counter() - began, peak)


if __name__ == "__main__":
    main(*sys.argv[1:])
