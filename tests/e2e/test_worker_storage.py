"""Outputs that do not fit the result, by way of a real S3 server: client, gateway, SDK, worker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import free_port
from lane_page import page
from pack import sandbox_with_pack
from PIL import Image
from pydantic import JsonValue, SecretStr
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs
from yarl import URL

from comfy_remote.errors import OutputLost, RequestTooLarge
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.media.receive import Received
from comfy_remote.net.bucket import Bucket, BucketSettings
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.targets.runpod.kind import EndpointOptions, RunPodKind
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.storage import BucketStore

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
ENTRY = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", "sandbox"]
BUCKET = "outputs"


def picture(color: int = 255) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 2000, "height": 2000, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "s"}},
    }


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        for attempt in range(60):
            try:
                with contextlib.suppress(server.client.exceptions.BucketAlreadyExists):
                    server.client.create_bucket(Bucket=BUCKET)
                server.client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
                server.client.delete_object(Bucket=BUCKET, Key="probe")
                break
            except Exception:  # it listens before it can store
                if attempt == 59:
                    raise
                time.sleep(0.5)
        yield server


def stored(s3: S3Server) -> list[str]:
    return [one["Key"] for one in s3.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


@pytest.fixture(autouse=True)
def empty(s3: S3Server) -> None:
    for key in stored(s3):
        s3.client.delete_object(Bucket=BUCKET, Key=key)


def settings(s3: S3Server, **changes: str) -> BucketSettings:
    environ = {
        "BUCKET_ENDPOINT_URL": f"{s3.url}/{BUCKET}",
        "BUCKET_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "BUCKET_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        **changes,
    }
    found = BucketSettings.from_environ(environ)
    assert found is not None
    return found


def environment(s3: S3Server, **changes: str) -> dict[str, str]:
    return {
        "COMFY_REMOTE_RESULT_LIMIT": "4000",
        "BUCKET_ENDPOINT_URL": f"{s3.url}/{BUCKET}",
        "BUCKET_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "BUCKET_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        **changes,
    }


@contextlib.asynccontextmanager
async def endpoint(worker: dict[str, str]) -> AsyncIterator[GatewayServer]:
    limits = GatewayLimits(poll_wait=5.0)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        gateway.add_sdk_worker(ENTRY, environment=worker)
        assert await gateway.wait_until_ready(110.0)
        yield gateway


def target(gateway: GatewayServer, **options: Any) -> RunPodTarget:
    """A client's target; the storage on this machine is one that its user has named."""
    url = gateway.endpoint_url.rpartition("/")[0]
    return RunPodTarget(
        "ep", TOKEN, base_url=url, options=EndpointOptions(storage_hosts=["127.0.0.1"], **options)
    )


async def answer(gateway: GatewayServer, payload: dict[str, JsonValue]) -> dict[str, Any]:
    """What ``/runsync`` answers."""
    import aiohttp

    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.endpoint_url}/runsync", json={"input": payload}) as response,
    ):
        return dict(await response.json())


async def test_large_outputs_travel_by_the_bucket_and_leave_nothing(
    s3: S3Server, tmp_path: Path
) -> None:
    record = Record(tmp_path / "home")
    async with endpoint(environment(s3)) as gateway:
        async with Client(target(gateway), record=record) as client:
            job = await client.submit(picture())
            finished = await job.wait()
            assert finished.outputs[0].source is not None
            assert (finished.outputs[0].source.url or "").startswith(s3.url)
            assert len(stored(s3)) == 1
            [saved] = await job.save_outputs(tmp_path / "out")
            assert saved.path.read_bytes().startswith(b"\x89PNG")
            assert stored(s3) == []
        async with Client(target(gateway, keep_stored=True), record=record) as client:
            job = await client.submit(picture(7))
            [output] = await job.outputs()
            assert output.bytes().startswith(b"\x89PNG")
            assert len(stored(s3)) == 1
        # worker-comfyui's clients get an address for everything, as its documentation says.
        seen = await answer(gateway, {"workflow": picture(9)})
        [image] = seen["output"]["images"]
        assert image["type"] == "s3_url"
        assert image["data"].startswith(f"{s3.url}/{BUCKET}/sync-")
        assert SECRET_ACCESS_KEY not in json.dumps(seen)
    record.close()


async def test_outputs_are_stored_below_the_prefix(s3: S3Server, tmp_path: Path) -> None:
    import aiohttp

    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    below = settings(
        s3, BUCKET_ENDPOINT_URL=f"{s3.url}/{BUCKET}/renders/", BUCKET_PREFIX="2026/nov"
    )
    file = Received(path, 7, hashlib.sha256(b"content").hexdigest())
    at = await BucketStore(below).put("job", "a.png", file)
    assert stored(s3) == [f"renders/2026/nov/job/{file.sha256[:12]}/a.png"]
    assert at.url is not None
    assert at.delete_url is not None
    async with aiohttp.ClientSession() as session:
        async with session.get(URL(at.url, encoded=True)) as response:
            assert await response.read() == b"content"
        async with session.delete(URL(at.delete_url, encoded=True)) as response:
            assert response.status == 204
    assert stored(s3) == []


async def test_a_job_of_the_page_leaves_nothing_in_the_bucket(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN.get_secret_value())
    monkeypatch.setenv("COMFY_REMOTE_OUTPUT_HOSTS", s3.url.partition("//")[2])
    async with endpoint(environment(s3)) as gateway:
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", gateway.url)
        with sandbox_with_pack(tmp_path) as server:
            async with page(server.url) as shown:
                queued = await shown.queue(picture(3), "runpod:ep")
                entry = await shown.ended(queued.body["prompt_id"])
            [image] = entry["outputs"]["2"]["images"]
            saved = tmp_path / "sandbox" / "output" / image["filename"]
            assert saved.read_bytes().startswith(b"\x89PNG")
    assert stored(s3) == []


async def test_inputs_that_do_not_fit_the_request_go_by_the_bucket(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunPodKind, "body_limit", 8000)
    # As at RunPod: a gateway of ours would get the file by itself.
    monkeypatch.setattr("comfy_remote.gateway.client_routes.FILES_HEADER", "X-Not-Ours")
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sent = tmp_path / "noise.png"
    Image.fromarray(noise).save(sent)
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "s"}},
    }
    record = Record(tmp_path / "home")
    async with endpoint(environment(s3)) as gateway:
        async with Client(target(gateway), record=record) as client:
            with pytest.raises(RequestTooLarge, match=r"noise\.png") as caught:
                await client.submit(prompt, inputs=[sent])
            assert "BUCKET_ENDPOINT_URL" in caught.value.advice
        async with Client(target(gateway, bucket=settings(s3)), record=record) as client:
            job = await client.submit(prompt, inputs=[sent])
            assert len(stored(s3)) >= 1
            [output] = await job.outputs()
            assert np.array_equal(np.asarray(output.image()), noise)
            # Both the input and the output are gone.
            assert stored(s3) == []
    record.close()


async def test_a_requests_own_bucket_goes_before_the_workers(s3: S3Server) -> None:
    config: JsonValue = {
        "accessId": ACCESS_KEY_ID,
        "accessSecret": SECRET_ACCESS_KEY,
        "bucketName": BUCKET,
        "endpointUrl": s3.url,
    }
    allowed = {"COMFY_REMOTE_BUCKET_HOSTS": s3.url.partition("//")[2]}
    async with endpoint({"COMFY_REMOTE_RESULT_LIMIT": "4000", **allowed}) as gateway:
        seen = await answer(
            gateway, {"workflow": picture(), "format": "comfy-remote/1", "s3Config": config}
        )
        [output] = seen["output"]["outputs"]
        assert output["url"].startswith(f"{s3.url}/{BUCKET}/")
        assert output["delete_url"]
        assert len(stored(s3)) == 1
        assert SECRET_ACCESS_KEY not in json.dumps(seen)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"BUCKET_SECRET_ACCESS_KEY": "a-wrong-secret-access-key"}, "SignatureDoesNotMatch"),
        ({"BUCKET_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}/gone"}, "Could not connect"),
    ],
)
async def test_a_bucket_that_refuses_costs_no_output(
    s3: S3Server, change: dict[str, str], says: str, tmp_path: Path
) -> None:
    async with endpoint(environment(s3, **change)) as gateway:
        seen = await answer(gateway, {"workflow": picture(), "format": "comfy-remote/1"})
        # The gateway's own store takes it instead, and the client is told.
        assert seen["output"]["outputs"][0]["url"].startswith("files/")
        assert says in seen["output"]["warnings"][0]
        # That store is no use to others: theirs fails, with the reason in it.
        seen = await answer(gateway, {"workflow": picture(5)})
        assert seen["status"] == "FAILED"
        assert says in seen["error"]
        assert "can be returned" in seen["error"]
        assert "secret-access-key" not in json.dumps(seen)


async def test_an_address_that_has_expired_is_a_lost_output(s3: S3Server, tmp_path: Path) -> None:
    bucket = Bucket(settings(s3))
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 5000)
    await bucket.put(path, "job/a.png")
    # Not the one that expires: a busy machine may take longer than its second.
    url, expires = [await bucket.sign("GET", "job/a.png", seconds) for seconds in (3600, 1)]
    made = RunPodTarget(
        "ep",
        TOKEN,
        base_url="http://127.0.0.1:9/v2",
        options=EndpointOptions(storage_hosts=["127.0.0.1"]),
    )
    output = RemoteOutput("1", "image", "a.png", source=OutputSource(url=url))
    async with made:
        assert b"".join([chunk async for chunk in made.read(output)]) == b"x" * 5000
        await asyncio.sleep(2.5)
        output = replace(output, source=OutputSource(url=expires))
        with pytest.raises(OutputLost, match="no longer stored"):
            _ = [chunk async for chunk in made.read(output)]


async def test_a_cancelled_upload_leaves_nothing(s3: S3Server, tmp_path: Path) -> None:
    bucket = Bucket(settings(s3))
    path = tmp_path / "large.bin"
    with path.open("wb") as sparse:
        sparse.truncate(200 * 2**20)
    await bucket.sign("GET", "x", 1)  # the client is made
    upload = asyncio.create_task(bucket.put(path, "job/large.bin"))
    await asyncio.sleep(0.15)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert stored(s3) == []
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_300_mb_take_little_memory(s3: S3Server, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert resource
    path = tmp_path / "video.mp4"
    with path.open("wb") as sparse:
        sparse.truncate(300 * 10**6)
    program = f"""
import asyncio, os, resource
from pathlib import Path
from comfy_remote.net.bucket import Bucket, BucketSettings
from comfy_remote.media.receive import Received
from comfy_remote.worker.storage import BucketStore
import runpod
store = BucketStore(BucketSettings.from_environ(os.environ))
file = Received(Path({str(path)!r}), {300 * 10**6}, "0" * 64)
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stored = asyncio.run(store.put("job", "video.mp4", file))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle)
"""
    environ = {**environment(s3), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    grown = int(result.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 150e6
    [key] = stored(s3)
    assert s3.client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 300 * 10**6
