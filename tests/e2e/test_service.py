"""A workflow as a service, whose calls run on the sandbox: called by our client, and by anybody."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image
from pydantic import SecretStr
from service_kit import Service

from comfy_remote.calls.rest import RestClient
from comfy_remote.calls.service import received
from comfy_remote.calls.target import value_files
from comfy_remote.calls.values import ValueFile
from comfy_remote.errors import (
    AuthenticationError,
    JobCancelled,
    TargetUnreachable,
    ValueInvalid,
    WorkflowInvalid,
)
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import JobEntry, Record
from comfy_remote.media.values import encode
from comfy_remote.service.results import ResultStore
from comfy_remote.wire.call import CallAnswer, CallStatus
from comfy_remote.workflow.interface import Interface

TOKEN = SecretStr("a-token-for-these-tests")


@pytest.fixture
def service(tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    return Service(tmp_path, sandbox_url)


def picture(*shape: int) -> Any:
    return np.random.default_rng(1).random(shape or (1, 9, 7, 3), dtype=np.float32)


async def called(url: str, inputs: Any, **more: Any) -> list[CallAnswer]:
    async with RestClient(url, poll_interval=0.1, **more) as client:
        answer = await client.start(inputs)
        return [one async for one in client.follow(answer)]


async def value_of(url: str, envelope: Any, folder: Path) -> Any:
    async with RestClient(url) as client:
        return (await received(client, envelope, folder)).value


async def test_a_call_by_our_client(service: Service, tmp_path: Path) -> None:
    image = picture()
    async with service.running() as server:
        inputs = {"image": encode(image, "IMAGE"), "words": "hello", "steps": 2}
        answers = await called(server.url, inputs)
        last = answers[-1]
        assert last.status is CallStatus.COMPLETED, last.error
        assert last.results["said"] == {"type": "*", "encoding": "identity", "data": "hello"}
        (inverted,) = await value_of(server.url, last.results["picture"], tmp_path)
        assert np.array_equal(inverted, np.float32(1) - image)


async def test_large_values_travel_as_files(service: Service, tmp_path: Path) -> None:
    image = picture(2, 400, 400, 3)
    async with service.running() as server:
        last = (await called(server.url, {"image": encode([image], "IMAGE", as_list=True)}))[-1]
        said: Any = last.results["picture"]
        assert "data" not in said
        assert said["url"].startswith("/calls/")
        (inverted,) = await value_of(server.url, said, tmp_path)
        assert np.array_equal(inverted, np.float32(1) - image)
        assert len(list((tmp_path / "values").iterdir())) == 1


async def test_a_long_text_is_not_kept_in_the_record(service: Service, tmp_path: Path) -> None:
    text = "so long " * 20_000
    inputs = {"image": encode(picture(), "IMAGE"), "words": text}
    async with service.running() as server:
        last = (await called(server.url, inputs))[-1]
        assert (await value_of(server.url, last.results["said"], tmp_path)) == text
    with Record(tmp_path / "home") as record:
        (entry,) = record.newest()
        assert text not in str(entry.prompt)


async def test_a_call_as_curl_makes_it(service: Service) -> None:
    png = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(png, "PNG")
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        form = aiohttp.FormData()
        form.add_field("image", png.getvalue(), filename="photo.png")
        form.add_field("words", "12")
        async with curl.post("/?wait=30", data=form) as response:
            assert response.status == 200
            answer = await response.json()
        assert answer["status"] == "completed"
        assert answer["results"]["said"]["data"] == 12
        path = f"/calls/{answer['id']}/results/picture"
        async with curl.get(path, params={"encoding": "file"}) as response:
            assert response.content_type == "image/png"
            assert response.headers["Comfy-Remote-Count"] == "1"
            made = Image.open(io.BytesIO(await response.read()))
        # 200 / 255 inverted, as SaveImage cuts it off.
        assert (made.size, made.getpixel((0, 0))) == ((6, 4), (54, 54, 54))
        async with curl.get(path, params={"encoding": "file", "index": "1"}) as response:
            assert response.status == 410
        async with curl.get(path) as response:
            assert response.content_type == "application/octet-stream"


async def test_a_call_in_plain_json(service: Service) -> None:
    png = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(png, "PNG")
    image = {
        "type": "IMAGE",
        "encoding": "file",
        "media_type": "image/png",
        "data": base64.b64encode(png.getvalue()).decode(),
    }
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        async with curl.post("/", json={"inputs": {"image": image}}) as response:
            assert response.status == 202
            assert response.headers["Retry-After"] == "1"
            answer = await response.json()
        assert answer["poll_url"] == answer["cancel_url"] == f"/calls/{answer['id']}"
        async with curl.get(answer["poll_url"], headers={"Prefer": "wait=30"}) as response:
            assert (await response.json())["status"] == "completed"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "image"),
        ({"image": 3}, "not of type IMAGE"),
        ({"image": {"type": "IMAGE", "encoding": "base64+pickle", "data": "gASVAAAA"}}, "pickle"),
        ({"image": {"type": "IMAGE", "encoding": "safetensors", "data": "AAAA"}}, "not a value"),
        ({"image": {"type": "IMAGE", "url": "http://169.254.169.254/"}}, "fetches nothing"),
        ({"image": {"type": "IMAGE", "sha256": "0" * 64}}, "not here"),
        ({"image": {"encoding": "file", "media_type": "image/png", "data": "AAAA"}}, "picture"),
        ({"imagge": 3}, "image"),
    ],
)
async def test_what_does_not_fit_is_refused_at_once(
    service: Service, inputs: Any, words: str
) -> None:
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        async with curl.post("/", json={"inputs": inputs}) as response:
            answer = await response.json()
        assert response.status == 400, answer
        assert words in answer["error"]
        async with RestClient(server.url) as client:
            with pytest.raises((WorkflowInvalid, ValueInvalid)):
                await client.start(inputs)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"inputs": 3}', b"\xff" * 10])
async def test_what_is_no_call_is_refused(service: Service, body: bytes) -> None:
    async with (
        service.running() as server,
        aiohttp.ClientSession(server.url) as curl,
        curl.post("/", data=body) as response,
    ):
        assert response.status == 400


async def test_cancel_reaches_the_target(service: Service) -> None:
    async with service.running() as server, RestClient(server.url, poll_interval=0.1) as client:
        started = await client.start({"image": encode(picture(), "IMAGE"), "steps": 500})
        async for answer in client.follow(started):
            if answer.progress is not None:
                await client.cancel(answer)
        assert answer.status is CallStatus.FAILED
        assert isinstance(answer.failure(), JobCancelled)


async def test_a_restart_loses_no_call(service: Service, tmp_path: Path) -> None:
    image = picture()
    inputs = {"image": encode(image, "IMAGE"), "steps": 30}
    async with service.running() as server, RestClient(server.url, poll_interval=0.1) as client:
        answer = await client.start(inputs)
    assert answer.id is not None
    for _ in range(2):  # once it is taken up, then its results are kept
        async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
            async with curl.get(f"/calls/{answer.id}?wait=60") as response:
                said = await response.json()
            assert said["status"] == "completed", said
            (made,) = await value_of(server.url, said["results"]["picture"], tmp_path)
            assert np.array_equal(made, np.float32(1) - image)
    with Record(tmp_path / "home") as record:
        assert len(record.newest()) == 1


async def test_results_that_cannot_be_fetched_at_once_are_fetched_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def away_at_first(
        job: Job, interface: Interface, folder: Path, **more: bool
    ) -> dict[str, ValueFile]:
        tries.append(folder)
        if len(tries) == 1:
            raise TargetUnreachable("The line is down.")
        return await value_files(job, interface, folder, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("comfy_remote.service.calls.value_files", away_at_first)
    service.timings = {"again_after": 0.1}
    async with service.running() as server:
        answers = await called(server.url, {"image": encode(picture(), "IMAGE")})
    assert answers[-1].status is CallStatus.COMPLETED, answers[-1].error
    assert len(tries) == 2


async def test_a_target_that_is_away_at_a_restart_is_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service.running() as server, RestClient(server.url) as client:
        answer = await client.start({"image": encode(picture(), "IMAGE"), "steps": 5})
    back = asyncio.Event()

    whole = Client.resume

    async def resumed(client: Client, entry: JobEntry, **more: float) -> Job:
        if not back.is_set():
            raise TargetUnreachable("The line is down.")
        return await whole(client, entry, **more)

    monkeypatch.setattr(Client, "resume", resumed)
    service.timings = {"again_after": 0.1, "answered_within": 0.2}
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        async with curl.get(f"/calls/{answer.id}?wait=1") as response:
            said = await response.json()
        assert (said["status"], said["message"]) == ("pending", "The line is down.")
        async with curl.delete(f"/calls/{answer.id}") as response:
            assert response.status == 502
        back.set()
        async with curl.get(f"/calls/{answer.id}?wait=60") as response:
            assert (await response.json())["status"] == "completed"


async def test_two_processes_may_follow_the_same_call(service: Service, tmp_path: Path) -> None:
    inputs = {"image": encode(picture(), "IMAGE"), "steps": 20}
    async with service.running() as first, RestClient(first.url) as client:
        answer = await client.start(inputs)
        async with service.running() as second:  # takes up what is under way
            for server in (first, second, first):
                async with (
                    aiohttp.ClientSession(server.url) as curl,
                    curl.get(f"/calls/{answer.id}?wait=60") as response,
                ):
                    said = await response.json()
                assert said["status"] == "completed", said
                await value_of(server.url, said["results"]["picture"], tmp_path)
    assert [path.name for path in (tmp_path / "results").iterdir()] == [answer.id]


def test_results_of_a_process_that_was_killed_are_replaced(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    (tmp_path / "call").mkdir()
    (tmp_path / "call" / "0").write_bytes(b"half")
    for content, kept in ((b"whole", b"whole"), (b"other", b"whole")):
        folder = tmp_path / "new"
        folder.mkdir(exist_ok=True)
        (folder / "0").write_bytes(content)
        store.keep("call", folder, {"x": ValueFile(folder / "0", 5, "0" * 64)})
        assert store.one("call", "x").path.read_bytes() == kept


async def test_the_same_key_is_the_same_call(service: Service, tmp_path: Path) -> None:
    inputs = {"image": encode(picture(), "IMAGE")}
    async with service.running() as server, RestClient(server.url) as client:
        first, second = await asyncio.gather(
            client.start(inputs, key="order 66"), client.start(inputs, key="order 66")
        )
        third = await client.start(inputs, key="order 67")
    assert first.id == second.id != third.id
    with Record(tmp_path / "home") as record:
        assert len(record.newest()) == 2


async def test_nobody_comes_in_without_the_token(service: Service) -> None:
    async with service.running(TOKEN) as server:
        with pytest.raises(AuthenticationError):
            await called(server.url, {"image": 3})
        async with aiohttp.ClientSession(server.url) as curl:
            for method, path in (
                ("GET", "/openapi.json"),
                ("GET", "/calls/1"),
                ("DELETE", "/calls/1"),
                ("HEAD", f"/values/{'0' * 64}"),
                ("PUT", f"/values/{'0' * 64}"),
                ("GET", "/"),
            ):
                async with curl.request(method, path) as response:
                    assert response.status == 401, path
        bearer = {"Authorization": SecretStr(f"Bearer {TOKEN.get_secret_value()}")}
        answers = await called(server.url, {"image": encode(picture(), "IMAGE")}, headers=bearer)
        assert answers[-1].status is CallStatus.COMPLETED


async def test_no_page_of_another_site_comes_in(service: Service) -> None:
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            async with curl.get("/openapi.json", headers=headers) as response:
                assert response.status == 403


async def test_other_jobs_are_not_told_of(service: Service, sandbox_url: str) -> None:
    with Record(service.folder / "home") as record:
        async with Client(sandbox_url, record=record) as client:
            prompt = {
                "1": {
                    "class_type": "EmptyImage",
                    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
                },
                "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            }
            job = await client.submit(prompt)
            await job.wait()
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        for call_id in (job.id, job.id[:8], "%2e%2e%2fx", "1" * 36):
            async with curl.get(f"/calls/{call_id}") as response:
                assert response.status == 404
            async with curl.get(f"/calls/{call_id}/results/x") as response:
                assert response.status == 404


async def test_a_damaged_file_is_refused(service: Service, tmp_path: Path) -> None:
    async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
        async with curl.put(f"/values/{'0' * 64}", data=b"something") as response:
            assert response.status == 400
        async with curl.put("/values/..%2f..%2fx", data=b"something") as response:
            assert response.status in (400, 404)
        async with curl.head(f"/values/{'0' * 64}") as response:
            assert response.status == 404
    assert [path for path in (tmp_path / "values").iterdir() if path.is_file()] == []


async def test_it_describes_itself(service: Service) -> None:
    async with service.running(TOKEN) as server:
        bearer = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
        async with (
            aiohttp.ClientSession(server.url, headers=bearer) as curl,
            curl.get("/openapi.json") as response,
        ):
            document = await response.json()
    OpenAPIV31SpecValidator(document).validate()
    inputs = document["components"]["schemas"]["Call"]["properties"]["inputs"]
    assert list(inputs["properties"]) == ["image", "words", "steps"]
    assert inputs["required"] == ["image"]
    assert {"type": "integer"} in inputs["properties"]["steps"]["anyOf"]


async def test_a_call_that_fails_has_the_results_it_gave_before(
    service: Service, tmp_path: Path
) -> None:
    fails = {"image": ["2", 0], "mode": "error", "message": "Out of paint."}
    service.workflow["9"] = {"class_type": "SandboxFail", "inputs": fails}
    last = {"value": ["9", 0], "key": "never"}
    service.workflow["10"] = {"class_type": "ComfyRemoteOutput", "inputs": last}
    inputs = {"image": encode(picture(), "IMAGE"), "words": "so far"}
    async with service.running() as server, RestClient(server.url, poll_interval=0.1) as client:
        answer = await client.start(inputs)
    assert answer.id is not None
    for _ in range(2):  # once it is followed to its end, then its results are kept
        async with service.running() as server, aiohttp.ClientSession(server.url) as curl:
            async with curl.get(f"/calls/{answer.id}?wait=60") as response:
                said = await response.json()
            assert said["status"] == "failed", said
            assert "Out of paint." in said["error"]["message"]
            assert said["results"]["said"]["data"] == "so far"
            assert "never" not in said["results"]
