"""Faults while an input goes to a gateway by itself: it comes whole, and the job runs once."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import until
from lanes import PAGE, TOKEN, Lane, new_mark
from PIL import Image
from proxy import Answer, Drop, Fault, NotHttp, name_of
from pydantic import SecretStr

from comfy_remote import Client
from comfy_remote.errors import RateLimited, TargetError
from comfy_remote.events import DidItRun
from comfy_remote.net.retry import Backoff
from comfy_remote.targets.runpod.target import RunPodTarget

pytestmark = pytest.mark.usefixtures("home")

FILES = "/files/[0-9a-f]{64}"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A picture of 0.9 MB."""
    pixels = np.random.default_rng(1).integers(0, 256, (550, 550, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size > 600_000
    return path


def inverted(mark: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": mark}},
    }


async def run(gateway: Lane, mark: str, noise: Path) -> None:
    """Run it, and see that it ran once and on the whole picture."""
    async with Client(gateway.target()) as client:
        job = await client.submit(inverted(mark), inputs=noise, timeout=120)
        [output] = await job.outputs()
    wanted = 255 - np.asarray(Image.open(noise)).astype(int)
    assert abs(np.asarray(output.image().convert("RGB")) - wanted).max() <= 1  # rounded
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize(
    ("fault", "puts"),
    [
        (Drop(), 2),
        (Drop(forwarded=True), 1),
        (Answer(502, PAGE), 2),
        (Answer(502, PAGE, forwarded=True), 1),
        (Answer(429, headers={"Retry-After": "0.1"}), 2),
        (NotHttp(), 2),
    ],
    ids=name_of,
)
async def test_an_upload_that_goes_wrong_is_repeated_if_it_did_not_arrive(
    gateway: Lane, noise: Path, fault: Fault, puts: int
) -> None:
    gateway.proxy.plan(FILES, fault, method="PUT")
    await run(gateway, new_mark(), noise)
    assert gateway.proxy.count(FILES, "PUT") == puts
    assert gateway.proxy.count(FILES, "HEAD") == 2
    assert gateway.proxy.count("/run$") == 1


async def test_a_gateway_that_goes_while_a_file_is_sent_is_waited_for(
    gateway: Lane, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.5)
    gateway.proxy.plan(FILES, Drop(), method="PUT")
    running = asyncio.ensure_future(run(gateway, new_mark(), noise))
    await gateway.proxy.saw(FILES, times=2)
    await gateway.proxy.leave()
    await asyncio.sleep(0.5)
    await gateway.proxy.come_back()
    await running


@pytest.mark.parametrize("fault", [Drop(forwarded=True), Answer(502, PAGE, forwarded=True)])
async def test_a_submission_that_names_its_file_is_repeated_and_runs_once(
    gateway: Lane, noise: Path, fault: Fault
) -> None:
    gateway.proxy.plan("/run$", fault)
    await run(gateway, new_mark(), noise)
    assert gateway.proxy.count("/run$") == 2
    assert gateway.proxy.count(FILES, "PUT") == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Answer(429), RateLimited), (Drop(), TargetError), (Answer(507), TargetError)],
)
async def test_without_its_file_no_job_is_sent(
    gateway: Lane, noise: Path, fault: Fault, kind: type[TargetError]
) -> None:
    mark = new_mark()
    gateway.proxy.plan(FILES, fault, times=None)
    async with Client(gateway.target()) as client:
        with pytest.raises(kind) as caught:
            await client.submit(inverted(mark), inputs=noise)
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert gateway.proxy.count("/run$") == 0
    assert gateway.engine.runs(mark) == 0


async def test_a_client_that_gives_up_in_the_middle_leaves_nothing_there(
    gateway: Lane, noise: Path
) -> None:
    assert gateway.gateway is not None
    store = gateway.gateway.files
    sha256 = hashlib.sha256(noise.read_bytes()).hexdigest()

    def files_there() -> bool:
        return any(path.is_file() for path in store.folder.rglob("*"))

    async def half() -> Any:
        yield noise.read_bytes()[:300_000]
        await asyncio.Event().wait()

    # Not by the proxy, which hands a request on once it is whole.
    base_url = gateway.gateway.endpoint_url.rpartition("/")[0]
    target = RunPodTarget(gateway.gateway.endpoint_id, SecretStr(TOKEN), base_url=base_url)
    async with target:
        http = target._http
        sending = asyncio.ensure_future(
            http.put_once(f"files/{sha256}", noise.stat().st_size, half())
        )
        await until(files_there)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    # What was reserved for it is free a moment after its file has gone.
    await until(lambda: not files_there() and store.used == 0)
    assert store.size(sha256) is None
