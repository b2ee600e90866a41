"""Comfy's own SDK, both of its clients, through all that it can do with a server of ours."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import comfy_low
import pytest
from aiohttp import web
from blake3 import blake3
from comfy_api_kit import KEY, served
from comfy_sdk import (
    BlobNotFound,
    ComfyError,
    Forbidden,
    HashMismatch,
    IdempotencyKeyReuse,
    InsufficientCredits,
    InvalidWorkflow,
    JobFailed,
    MissingAsset,
    NotFound,
    OutputReady,
    Preview,
    Progress,
    QueueFull,
    StatusChange,
    Unauthorized,
    WorkflowFormatUi,
)
from comfy_sdk_kit import Sdk, drawing, inverting, picture, with_previews
from gated_sandbox import Gate
from owner import configure
from PIL import Image
from pydantic import SecretStr


@pytest.fixture
async def api_url(gated_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """A front of a sandbox."""
    async with served(gated_url, tmp_path / "front") as front:
        yield front.url


@pytest.fixture(params=["Comfy", "AsyncComfy"])
async def sdk(
    request: pytest.FixtureRequest, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sdk]:
    monkeypatch.setenv("COMFY_BASE_URL", api_url)
    monkeypatch.delenv("COMFY_API_KEY", raising=False)
    client = Sdk(request.param)
    yield client
    await client.close()


async def test_run_and_outputs(sdk: Sdk, tmp_path: Path) -> None:
    began = datetime.now(timezone.utc)
    job = await sdk(sdk.client.run, sdk.client.workflows.from_json(drawing(0x102030)), timeout=60)
    assert job.status == "succeeded" and job.error is None
    (output,) = job.outputs
    assert [each.id for each in job.get_outputs("2")] == [output.id]
    assert job.get_outputs("1") == []
    content = await sdk(output.to_bytes)
    assert Image.open(io.BytesIO(content)).convert("RGB").getpixel((3, 3)) == (0x10, 0x20, 0x30)
    assert output.size_bytes == len(content)
    assert (output.node_id, output.type, output.content_type) == ("2", "image", "image/png")
    assert output.name.startswith("drawn_") and output.name.endswith(".png")
    assert output.job_id == job.id
    assert job._model.outputs[0].hash == f"blake3:{blake3(content).hexdigest()}"
    assert began <= job._model.started_at <= job._model.completed_at < job._model.expires_at

    assert (await sdk(output.to_file, tmp_path / "whole.png")).read_bytes() == content
    await sdk(output.to_file, tmp_path / "head", range=(0, 4))
    assert (tmp_path / "head").read_bytes() == content[:5]
    assert await sdk(output.to_bytes, range=(4, 10**9)) == content[4:]
    stream = io.BytesIO()
    assert await sdk(output.to_stream, stream) == len(content)
    assert stream.getvalue() == content
    link = await sdk(output.get_download_url)
    assert link.url.endswith(f"/api/v2/assets/{output.id}/content") and link.expires_at is None
    made = await sdk(sdk.client.assets.get, output.id)
    assert (made.job_id, made.hash) == (job.id, job._model.outputs[0].hash)


async def test_assets_from_everywhere(sdk: Sdk, tmp_path: Path) -> None:
    """From a file, bytes, a stream and an address; each is uploaded once, whoever has it."""
    content = picture(int(uuid.uuid4()) % 65536, 9)
    (tmp_path / "photo.png").write_bytes(content)
    assets = sdk.client.assets
    first = assets.from_file(tmp_path / "photo.png")
    assert first.id is None
    assert await sdk(first.commit) == first.id
    assert first.created_new and first.job_id is None
    assert first.hash == f"blake3:{blake3(content).hexdigest()}"
    assert first.expires_at > datetime.now(timezone.utc)

    again = assets.from_bytes(content, filename="other name.png", content_type="image/png")
    streamed = assets.from_stream(io.BytesIO(content), filename="streamed.png")
    async with _one_file(content) as address:
        fetched = await (
            assets.from_url(address)
            if sdk.is_async
            else asyncio.to_thread(assets.from_url, address)
        )
    for each in (again, streamed, fetched):
        await sdk(each.commit)
        assert each.created_new is False and each.hash == first.hash
    assert (await sdk(again.as_reference))["info"]["hash"] == first.hash
    link = await sdk(first.get_download_url)
    assert link.url.endswith(f"{first.id}/content")
    assert (await sdk(assets.get, first.id)).file_path == "photo.png"

    await sdk(assets.delete, first.id)
    with pytest.raises(NotFound):
        await sdk(assets.delete, first.id)
    with pytest.raises(NotFound):
        await sdk(assets.get, first.id)
    still = await sdk(assets.get, again.id)  # a record of its own over the same bytes
    assert still.hash == first.hash
    for each in {again.id: again, streamed.id: streamed, fetched.id: fetched}.values():
        await sdk(each.delete)
    once_more = assets.from_bytes(content)
    await sdk(once_more.commit)
    assert once_more.created_new  # nobody had the bytes any more
    await sdk(once_more.delete)


async def test_an_asset_in_a_workflow(sdk: Sdk) -> None:
    photo = sdk.client.assets.from_bytes(picture(0x2211), filename="photo.png")
    workflow = sdk.client.workflows.from_json(inverting("nothing yet"))
    workflow.set_input("10", "image", photo)
    job = await sdk(sdk.client.run, workflow, timeout=60)
    content = await sdk(job.get_outputs("9")[0].to_bytes)
    pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))
    assert pixel == (255 - 0x11, 255 - 0x22, 255 - 7)
    # An output is an asset, and may be the input of the next job.
    made = await sdk(sdk.client.assets.get, job.outputs[0].id)
    workflow.set_input("10", "image", made)
    next_job = await sdk(sdk.client.run, workflow, timeout=60)
    content = await sdk(next_job.get_outputs("9")[0].to_bytes)
    pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))
    assert pixel == pytest.approx((0x11, 0x22, 7), abs=1)  # ComfyUI rounds down, twice


async def test_events_tell_all_until_the_end(sdk: Sdk, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    await sdk(sdk.client.submit, sdk.client.workflows.from_file(gate.path))
    job = await sdk(sdk.client.submit, sdk.client.workflows.from_json(with_previews()))
    events = []
    async for event in sdk.each(job.events()):
        gate.open()  # the job begins once somebody listens
        events.append(event)
    states = [each.status for each in events if isinstance(each, StatusChange)]
    assert states[0] == "queued" and "running" in states
    assert events[-1] == StatusChange("succeeded")
    values = [each.value for each in events if isinstance(each, Progress)]
    assert values and values == sorted(values) and all(0 <= each <= 1 for each in values)
    assert {each.nodes_total for each in events if isinstance(each, Progress)} <= {0, 3}
    previews = [each for each in events if isinstance(each, Preview)]
    assert previews and all(each.content_type == "image/jpeg" for each in previews)
    assert previews[-1].to_pil().format == "JPEG" and previews[-1].node_id == "3"
    (ready,) = [each for each in events if isinstance(each, OutputReady)]
    finished = await sdk(job.result)
    assert [each.id for each in finished.outputs] == [ready.output.id]
    assert await sdk(ready.output.to_bytes) == await sdk(finished.outputs[0].to_bytes)
    # Who comes afterwards gets the end at once.
    late = [event async for event in sdk.each(job.events())]
    assert late[-1] == StatusChange("succeeded")


async def test_cancel(sdk: Sdk, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    job = await sdk(sdk.client.submit, sdk.client.workflows.from_file(gate.path))
    async for event in sdk.each(job.events()):
        if isinstance(event, Progress) and event.current_node == "2":
            break
    with pytest.raises(TimeoutError):
        await sdk(job.wait, timeout=0)
    assert job.status == "running"
    assert (await sdk(job.cancel)).status in ("canceling", "canceled")
    await sdk(job.wait, timeout=60)
    assert job.status == "canceled" and job.outputs == []
    assert (await sdk(job.cancel)).status == "canceled"
    with pytest.raises(JobFailed):
        await sdk(job.result)
    done = await sdk(sdk.client.run, sdk.client.workflows.from_json(drawing(0)), timeout=60)
    assert (await sdk(done.cancel)).status == "succeeded"


async def test_a_job_by_its_id_and_its_workflow(sdk: Sdk) -> None:
    prompt = drawing(0x334455)
    workflow = sdk.client.workflows.from_json(prompt)
    with pytest.raises(Forbidden):  # a key for partner nodes goes on only where its owner says so
        await sdk(sdk.client.submit, workflow, api_key="comfyui-of-partner-nodes")
    job = await sdk(sdk.client.run, workflow, timeout=60)
    found = await sdk(sdk.client.jobs.get, job.id)
    assert (found.status, [each.id for each in found.outputs]) == (
        "succeeded",
        [each.id for each in job.outputs],
    )
    ran = await sdk(found.get_workflow)
    assert (ran.format, ran.graph) == ("api", prompt)
    assert (await sdk(found.refresh)).status == "succeeded"


async def test_labels_and_the_list(sdk: Sdk) -> None:
    mine = uuid.uuid4().hex
    sent = []
    for number in range(5):
        workflow = sdk.client.workflows.from_json(drawing(number))
        labels = {"run": mine, "half": str(number % 2)}
        job = await sdk(sdk.client.submit, workflow, metadata=labels)
        assert job.metadata == labels
        sent.append(job.id)
    for job_id in sent:
        await sdk((await sdk(sdk.client.jobs.get, job_id)).result)

    listed = [each async for each in sdk.each(sdk.client.list_jobs(metadata={"run": mine}))]
    assert [each.id for each in listed] == sent[::-1]  # the newest first
    assert {each.status for each in listed} == {"succeeded"}
    assert all(each.create_time <= each.update_time for each in listed)
    odd = sdk.client.list_jobs(metadata={"run": mine, "half": 1}, limit=1)
    assert [each.id async for each in sdk.each(odd)] == [sent[3], sent[1]]  # page by page
    every = [each.id async for each in sdk.each(sdk.client.list_jobs(limit=2))]
    assert every[:5] == sent[::-1] and len(every) == len(set(every))
    nothing = sdk.client.list_jobs(metadata={"run": "another"})
    assert [each async for each in sdk.each(nothing)] == []

    workflow = sdk.client.workflows.from_json(drawing(1))
    for bad in ({"a key": "x"}, {"key": "x" * 257}, {str(n): "x" for n in range(17)}):
        with pytest.raises(ComfyError) as refused:
            await sdk(sdk.client.submit, workflow, metadata=bad)
        assert (refused.value.code, refused.value.http_status) == ("metadata_invalid", 422)
    with pytest.raises(ComfyError) as refused:
        many = dict.fromkeys("abcd", "x")
        _ = [each async for each in sdk.each(sdk.client.list_jobs(metadata=many))]
    assert refused.value.code == "invalid_metadata_filter"


async def test_a_key_is_used_once(sdk: Sdk) -> None:
    key = str(uuid.uuid4())
    workflow = sdk.client.workflows.from_json(drawing(5))
    refused = sdk.client.workflows.from_json({"1": {"class_type": "NoSuchNode", "inputs": {}}})
    with pytest.raises(InvalidWorkflow):
        await sdk(sdk.client.submit, refused, idempotency_key=key)
    # A definite refusal sets the key free.
    job = await sdk(sdk.client.submit, workflow, idempotency_key=key)
    with pytest.raises(IdempotencyKeyReuse) as reuse:
        await sdk(sdk.client.submit, workflow, idempotency_key=key)
    assert reuse.value.idempotency_key == key and reuse.value.http_status == 422
    assert (await sdk(job.result)).status == "succeeded"
    with pytest.raises(IdempotencyKeyReuse):
        await sdk(sdk.client.submit, workflow, idempotency_key=key)


async def test_a_job_that_fails(sdk: Sdk) -> None:
    failing = {
        **drawing(0),
        "5": {
            "class_type": "SandboxFail",
            "inputs": {"image": ["1", 0], "mode": "error", "message": "on purpose"},
        },
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }
    job = await sdk(sdk.client.submit, sdk.client.workflows.from_json(failing))
    with pytest.raises(JobFailed) as failed:
        await sdk(job.result)
    assert job.status == "failed"
    error = failed.value.error
    assert (error.node_id, error.class_type) == ("5", "SandboxFail")
    assert "on purpose" in error.message


@pytest.mark.parametrize("way", ["Comfy", "AsyncComfy"])
async def test_a_full_queue_is_waited_for_and_a_cap_is_not(
    way: str, gated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, gate = tmp_path / "home", Gate(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    costs = f'target = "{gated_url}"\nprice_per_hour = 3.6\n'
    configure(home, f"[targets.free]\n{costs}[targets.capped]\n{costs}cap_per_day = 0.0001\n")
    async with served("free", tmp_path / "front", most_at_a_time=1) as front:
        monkeypatch.setenv("COMFY_BASE_URL", front.url)
        sdk = Sdk(way)
        workflow = sdk.client.workflows.from_json(drawing(0x55))
        first = await sdk(sdk.client.submit, sdk.client.workflows.from_file(gate.path))
        with monkeypatch.context() as impatient:
            impatient.setattr("comfy_sdk.client._QUEUE_RETRY_BUDGET", 0.0)
            with pytest.raises(QueueFull) as full:
                await sdk(sdk.client.submit, workflow)
        assert full.value.retry_after >= 1 and full.value.http_status == 429
        waiting = asyncio.create_task(sdk(sdk.client.submit, workflow))
        gate.open()
        await sdk(first.result)
        assert (await sdk((await waiting).result)).status == "succeeded"
        await sdk.close()
    async with served("capped", tmp_path / "capped") as front:
        monkeypatch.setenv("COMFY_BASE_URL", front.url)
        sdk = Sdk(way)
        with pytest.raises(InsufficientCredits) as over:
            await sdk(sdk.client.submit, sdk.client.workflows.from_json(drawing(0x56)))
        assert over.value.http_status == 402
        await sdk.close()


async def test_refusals_have_the_sdks_own_classes(sdk: Sdk) -> None:
    workflows, low = sdk.client.workflows, sdk.client._low
    nobody = str(uuid.uuid4())
    with pytest.raises(NotFound):
        await sdk(sdk.client.jobs.get, nobody)
    with pytest.raises(NotFound):
        await sdk(sdk.client.jobs.get, "not-an-id")
    with pytest.raises(NotFound):
        await sdk(sdk.client.assets.get, nobody)
    reference = {"__type": "core/ASSET", "info": {"id": nobody}}
    with pytest.raises(MissingAsset) as missing:
        await sdk(sdk.client.submit, workflows.from_json(inverting(reference)))
    assert nobody in str(missing.value)
    with pytest.raises(MissingAsset):
        await sdk(sdk.client.submit, workflows.from_json(inverting({"__type": "core/ASSET"})))
    with pytest.raises(InvalidWorkflow) as invalid:
        unknown = {"7": {"class_type": "NoSuchNode", "inputs": {}}}
        await sdk(sdk.client.submit, workflows.from_json(unknown))
    assert "NoSuchNode" in str(invalid.value)
    ui = {"nodes": [], "links": [], "last_node_id": 0, "version": 0.4}
    with pytest.raises(WorkflowFormatUi):
        await sdk(sdk.client.submit, workflows.from_json(ui))
    # What the SDK itself refuses is sent by its lower layer.
    from comfy_low import ApiError

    async def code(function: object, *arguments: object, **named: object) -> tuple[str, int]:
        with pytest.raises(ApiError) as refused:
            await sdk(function, *arguments, **named)
        return refused.value.code, refused.value.http_status

    assert await code(low.post_jobs, ui) == ("workflow_format_ui", 422)
    wrong = {"expected_hash": "blake3:" + "0" * 64}
    file = io.BytesIO(b"some bytes")
    assert await code(low.post_assets, file, "text/plain", "a.txt", **wrong) == (
        "hash_mismatch",
        409,
    )
    absent = "blake3:" + "1" * 64
    assert await code(low.asset_from_hash, absent) == ("blob_not_found", 404)
    assert await sdk(low.head_asset_by_hash, absent) is False
    assert await code(low.list_jobs, cursor="not ours") == ("invalid_cursor", 400)
    assert issubclass(HashMismatch, ComfyError) and issubclass(BlobNotFound, ComfyError)


@pytest.mark.parametrize("way", ["Comfy", "AsyncComfy"])
async def test_a_wrong_key(
    way: str, gated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(gated_url, tmp_path / "front", token=SecretStr(KEY)) as front:
        monkeypatch.setenv("COMFY_BASE_URL", front.url)
        wrong = Sdk(way, api_key="wrong")
        with pytest.raises(Unauthorized):
            await wrong(wrong.client.jobs.get, str(uuid.uuid4()))
        await wrong.close()
        right = Sdk(way, api_key=KEY)
        workflow = right.client.workflows.from_json(drawing(1))
        job = await right(right.client.run, workflow, timeout=60)
        assert await right(job.outputs[0].to_bytes)
        await right.close()


class _one_file:  # noqa: N801  as a context manager
    """A server of one file, for as long as the context lasts; gives its address."""

    def __init__(self, content: bytes) -> None:
        async def fetched(_: web.Request) -> web.Response:
            return web.Response(body=content, content_type="image/png")

        app = web.Application()
        app.router.add_get("/fetched.png", fetched)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/fetched.png"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@pytest.mark.parametrize("way", ["ComfyLow", "AsyncComfyLow"])
async def test_every_operation_of_the_lower_layer(way: str, gated_url: str, tmp_path: Path) -> None:
    async with served(gated_url, tmp_path / "front") as front:
        low = getattr(comfy_low, way)(front.url)
        used: set[str] = set()

        async def ask(name: str, *arguments: Any, **named: Any) -> Any:
            used.add(name)
            function = getattr(low, name)
            if way == "AsyncComfyLow":
                return await function(*arguments, **named)
            return await asyncio.to_thread(function, *arguments, **named)

        content = picture(0x7788)
        file = io.BytesIO(content)
        photo = await ask("post_assets", file, "image/png", "photo.png", tags=["input", "face"])
        assert photo.size_bytes == len(content) and photo.created_new
        assert await ask("head_asset_by_hash", photo.hash) is True
        copy = await ask("asset_from_hash", photo.hash, file_path="copy.png", tags=["input"])
        assert (await ask("get_asset", copy.id)).file_path == "copy.png"
        await ask("delete_asset", copy.id)
        reference = {"__type": "core/ASSET", "info": {"id": photo.id}}
        job = await ask("post_jobs", inverting(reference), metadata={"of": "low"})
        used.add("get_job_events")
        events = low.get_job_events(job.urls.events)
        if way == "AsyncComfyLow":
            names = [event.event async for event in events]
        else:
            names = [event.event for event in await asyncio.to_thread(list, events)]
        assert names[-1] == "status" and "output" in names
        done = await ask("get_job", job.id)
        assert done.status.value == "succeeded" and done.metadata == {"of": "low"}
        assert (await ask("get_job", done.urls.self)).id == job.id
        assert (await ask("cancel_job", job.id)).status == done.status
        assert (await ask("get_job_workflow", job.id)).workflow == inverting(reference)
        assert (await ask("list_jobs"))["jobs"][0]["id"] == job.id
        used.add("get_asset_content")
        begin = {"range": (0, 7)}
        if way == "AsyncComfyLow":
            async with low.get_asset_content(done.outputs[0].id, **begin) as answer:
                first = await answer.aread()
            await low.aclose()
        else:

            def read() -> bytes:
                with low.get_asset_content(done.outputs[0].id, **begin) as answer:
                    return answer.read()

            first = await asyncio.to_thread(read)
            low.close()
        assert first == b"\x89PNG\r\n\x1a\n"
        assert used == {*comfy_low.OPERATION_METHODS.values(), "list_jobs"}
