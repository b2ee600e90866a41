"""Every route of the served Comfy API, asked well and badly: each answer is one of the document's.

Needs a copy of the document: see ``comfy_document``.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blake3 import blake3
from comfy_api_kit import KEY, Front, served
from comfy_document import Document
from comfy_sdk_kit import drawing, inverting, picture, with_previews
from gated_sandbox import Gate
from helpers import free_port
from pydantic import SecretStr
from yarl import URL

API = "/api/v2"
JSON = "application/json"

NOT_OURS = {
    ("GET", f"{API}/assets/{{id}}/content", 302): "we have the bytes and give them",
    ("GET", f"{API}/jobs/{{id}}/events", 501): "we serve events",
    ("GET", f"{API}/jobs/{{id}}", 429): "a question is cheap: nobody is limited",
    ("GET", f"{API}/jobs/{{id}}/workflow", 429): "the same",
    ("POST", f"{API}/jobs/{{id}}/cancel", 429): "the same",
}
"""Documented answers that this server never gives, and why."""

ELSEWHERE = {
    ("POST", f"{API}/jobs", 402): "a cap of spending (tests/unit/test_api_errors.py)",
    ("POST", f"{API}/jobs", 429): "below",
    ("GET", f"{API}/jobs/{{id}}/events", 429): "below",
}
"""Answers that other tests bring about. 500 is what any route may come to."""


class Asked:
    """Asks a server, and holds each answer to the document.

    Attributes:
        seen: Method, path (as the document writes it) and status of all answers so far.
    """

    def __init__(self, document: Document, session: aiohttp.ClientSession) -> None:
        self._document = document
        self._session = session
        self.seen: set[tuple[str, str, int]] = set()

    async def __call__(
        self, method: str, path: str, status: int, code: str | None = None, **request: Any
    ) -> Any:
        """The body of an answer: parsed if it is JSON.

        Args:
            path: Below ``/api/v2``.
            status: What the answer must have, with ``code`` if it is a refusal.
        """
        async with self._session.request(method, f"{API}{path}", **request) as answer:
            raw = await answer.read()
            body = json.loads(raw) if answer.content_type == JSON and raw else raw
            assert answer.status == status, f"{method} {path}: {answer.status} {body!r}"
            plain = path.partition("?")[0]
            self._document.check_answer(method, f"{API}{plain}", status, answer.headers, body)
            self.seen.add((method, self._document.operation(method, f"{API}{plain}")[0], status))
        if code is not None:
            assert body["error"]["code"] == code
        return body

    async def undocumented(
        self, method: str, path: str, status: int, code: str, **request: Any
    ) -> Any:
        """The body of a refusal for which the document has no status, or a route it lacks."""
        async with self._session.request(method, path, **request) as answer:
            body = await answer.json()
            assert answer.status == status, f"{method} {path}: {answer.status} {body!r}"
        self._document.check_value("ErrorEnvelope", body)
        assert body["error"]["code"] == code
        return body

    async def frames(self, url: str, gate: Gate | None = None) -> list[tuple[str, Any]]:
        """All events of a stream, each checked.

        Args:
            gate: Opened once it listens.
        """
        path = URL(url).path
        schemas = dict(self._document.event_schemas())
        found = []
        async with self._session.get(path) as answer:
            assert answer.status == 200
            self._document.check_answer("GET", path, 200, answer.headers, b"")
            self.seen.add(("GET", f"{API}/jobs/{{id}}/events", 200))
            if gate is not None:
                gate.open()
            whole = (await answer.read()).decode()
        for frame in whole.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in frame.splitlines() if line[:1] != ":")
            if lines:
                assert set(lines) == {"event", "data"}, frame  # no ids, no retry
                data = json.loads(lines["data"])
                self._document.check_value(schemas[lines["event"]], data)
                found.append((lines["event"], data))
        return found


@asynccontextmanager
async def asking(document: Document, front: Front, key: str | None = None) -> AsyncIterator[Asked]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(front.url, headers=headers) as session:
        yield Asked(document, session)


def form(content: bytes, **fields: object) -> aiohttp.FormData:
    """An upload."""
    sent = aiohttp.FormData()
    wanted = {"content_type": "image/png", "file_path": "photo.png", **fields}
    for name, value in wanted.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                sent.add_field(name, str(each))
    sent.add_field("file", content, filename="photo.png", content_type="image/png")
    return sent


async def test_every_answer_is_one_of_the_documents(gated_url: str, tmp_path: Path) -> None:
    document = Document()
    async with served(gated_url, tmp_path) as front, asking(document, front) as ask:
        await _assets(ask)
        await _jobs(ask, tmp_path)
        seen = set(ask.seen)
    async with served(gated_url, tmp_path / "b", token=SecretStr(KEY)) as front:
        for key, status in ((None, 401), ("wrong", 401), (KEY, 403)):
            async with asking(document, front, key) as ask:
                seen |= await _everything_is_refused(document, ask, status)
    expected = {
        (method, path, int(status))
        for (method, path), operation in document.operations.items()
        for status in operation["responses"]
        if status != "500"
    }
    assert expected - seen == {*NOT_OURS, *ELSEWHERE}


async def _assets(ask: Asked) -> None:
    content = picture(0x1234, 12)
    digest = f"blake3:{blake3(content).hexdigest()}"
    await ask("HEAD", f"/assets/by-hash/{digest}", 404)
    await ask("POST", "/assets/from-hash", 404, "blob_not_found", json={"hash": digest})
    wrong = form(content, expected_hash="blake3:" + "0" * 64)
    await ask("POST", "/assets", 409, "hash_mismatch", data=wrong)
    await ask("HEAD", f"/assets/by-hash/{digest}", 404)  # nothing of it is left

    new = await ask(
        "POST", "/assets", 201, data=form(content, expected_hash=digest, tags=["a", "b"])
    )
    assert (new["hash"], new["size_bytes"], new["created_new"]) == (digest, len(content), True)
    assert (new["content_type"], new["file_path"]) == ("image/png", "photo.png")
    again = await ask("POST", "/assets", 200, data=form(content, expires_in=60))
    assert again["created_new"] is False and again["hash"] == digest
    await ask("HEAD", f"/assets/by-hash/{digest}", 200)
    minted = await ask(
        "POST", "/assets/from-hash", 201, json={"hash": digest, "file_path": "b.png", "tags": ["x"]}
    )
    assert (minted["file_path"], minted["size_bytes"]) == ("b.png", len(content))
    same = {"hash": digest, "file_path": "b.png"}
    assert (await ask("POST", "/assets/from-hash", 200, json=same))["id"] == minted["id"]

    for bad in (
        {"file_path": None},
        {"file_path": "models/loras/one.safetensors"},
        {"content_type": None},
        {"expires_in": 59},
        {"expires_in": 604801},
        {"expires_in": "soon"},
        {"expected_hash": "md5:0"},
    ):
        problem = form(content, **bad)
        assert await ask("POST", "/assets", 422, "invalid_request", data=problem), bad
    await ask("POST", "/assets", 422, "invalid_request", json={"file": "x"})

    outside = form(content, file_path="../../photo.png")
    assert (await ask("POST", "/assets", 200, data=outside))["file_path"] == "photo.png"

    got = await ask("GET", f"/assets/{new['id']}", 200)
    assert got["hash"] == digest and "created_new" not in got
    assert await ask("GET", f"/assets/{new['id']}/content", 200) == content
    part = {"Range": "bytes=3-9"}
    assert await ask("GET", f"/assets/{new['id']}/content", 206, headers=part) == content[3:10]
    beyond = {"Range": "bytes=100000-"}
    await ask("GET", f"/assets/{new['id']}/content", 416, headers=beyond)
    nobody = str(uuid.uuid4())
    for path in (f"/assets/{nobody}", f"/assets/{nobody}/content", "/assets/..%2F..%2Fetc"):
        await ask("GET", path, 404, "not_found")
    await ask("DELETE", f"/assets/{minted['id']}", 204)
    await ask("DELETE", f"/assets/{minted['id']}", 404, "not_found")


async def _jobs(ask: Asked, folder: Path) -> None:
    photo = await ask("POST", "/assets", 201, data=form(picture(0x998877, 6)))
    reference = {"__type": "core/ASSET", "info": {"id": photo["id"]}}
    gate = Gate(folder)
    body = {"workflow": gate.prompt, "metadata": {"client": "acme"}}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    job = await ask("POST", "/jobs", 201, json=body, headers=key)
    await ask("POST", "/jobs", 422, "idempotency_key_reuse", json=body, headers=key)
    assert job["metadata"] == {"client": "acme"}
    running = await ask("GET", f"/jobs/{job['id']}", 200)
    assert running["status"] in ("queued", "running") and running["completed_at"] is None
    workflow = await ask("GET", f"/jobs/{job['id']}/workflow", 200)
    assert workflow == {"workflow": gate.prompt, "format": "api"}
    following = asyncio.create_task(ask.frames(job["urls"]["events"]))
    await ask("POST", f"/jobs/{job['id']}/cancel", 200)
    assert (await following)[-1][1]["status"] == "canceled"
    gone = await ask("GET", f"/jobs/{job['id']}", 200)
    assert gone["status"] == "canceled" and gone["outputs"] == []

    using = await ask("POST", "/jobs", 201, json={"workflow": inverting(reference)})
    await ask("DELETE", f"/assets/{photo['id']}", 409, "asset_in_use")
    await ask.frames(using["urls"]["events"])
    used = await ask("GET", f"/jobs/{using['id']}", 200)
    (output,) = used["outputs"]
    assert used["status"] == "succeeded" and output["size_bytes"] > 0 and output["hash"]
    assert used["started_at"] and used["completed_at"] and used["metrics"]["execution_ms"] >= 0
    await ask("GET", f"/assets/{output['id']}", 200)
    await ask("DELETE", f"/assets/{output['id']}", 409, "asset_in_use")

    ahead = Gate(folder, "ahead")
    await ask("POST", "/jobs", 201, json={"workflow": ahead.prompt})
    seen = await ask("POST", "/jobs", 201, json={"workflow": with_previews()})
    named = [name for name, _ in await ask.frames(seen["urls"]["events"], ahead)]
    assert {*named} == {"status", "progress", "preview", "output"} and named[-1] == "status"

    failing = {"image": ["1", 0], "mode": "error", "message": "on purpose"}
    prompt = drawing(1) | {"5": {"class_type": "SandboxFail", "inputs": failing}}
    prompt["2"]["inputs"]["images"] = ["5", 0]
    failed = await ask("POST", "/jobs", 201, json={"workflow": prompt})
    await ask.frames(failed["urls"]["events"])
    failed = await ask("GET", f"/jobs/{failed['id']}", 200)
    assert (failed["status"], failed["error"]["node_id"]) == ("failed", "5")

    good = drawing(3)
    for code, bad in (
        ("invalid_workflow", {"workflow": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}),
        ("invalid_workflow", {"workflow": {}}),
        ("invalid_workflow", {"workflow": "a name"}),
        ("invalid_workflow", {}),
        ("invalid_workflow", {"workflow": good, "webhook_url": "https://example.org"}),
        ("invalid_workflow", {"workflow": good, "inputs": {}}),
        ("workflow_format_ui", {"workflow": {"nodes": [], "links": []}}),
        ("missing_asset", {"workflow": inverting({"__type": "core/ASSET", "info": {"id": "x"}})}),
        ("missing_asset", {"workflow": inverting({"__type": "core/ASSET"})}),
    ):
        await ask("POST", "/jobs", 422, code, json=bad)
    for code, bad in (
        ("invalid_request", {"workflow": good, "extra_data": {"auth_token_comfy_org": "x"}}),
        ("metadata_invalid", {"workflow": good, "metadata": {"a key": "x"}}),
        ("metadata_invalid", {"workflow": good, "metadata": "a text"}),
    ):
        await ask.undocumented("POST", f"{API}/jobs", 422, code, json=bad)

    nobody = str(uuid.uuid4())
    for path in (f"/jobs/{nobody}", f"/jobs/{nobody}/workflow", f"/jobs/{nobody}/events"):
        await ask("GET", path, 404, "not_found")
    await ask("POST", f"/jobs/{nobody}/cancel", 404, "not_found")
    await ask.undocumented("GET", f"{API}/nothing", 404, "not_found")
    await ask.undocumented("PUT", f"{API}/jobs/{nobody}", 405, "method_not_allowed")
    await ask.undocumented("GET", f"{API}/jobs?cursor=not-ours", 400, "invalid_cursor")
    await ask.undocumented("GET", f"{API}/jobs?limit=0", 422, "invalid_request")
    many = "&".join(f"metadata[{key}]=x" for key in "abcd")
    await ask.undocumented("GET", f"{API}/jobs?{many}", 400, "invalid_metadata_filter")


async def _everything_is_refused(
    document: Document, ask: Asked, status: int
) -> set[tuple[str, str, int]]:
    """Without the right key, or from another site's page, nothing says whether it is there."""
    page = {} if status == 401 else {"Origin": "https://example.org"}
    code = {401: "unauthorized", 403: "forbidden"}[status]
    for method, path in document.operations:
        plain = path.replace("{id}", str(uuid.uuid4())).replace("{hash}", "blake3:" + "0" * 64)
        if str(status) in document.operations[method, path]["responses"]:
            refused = None if method == "HEAD" else code
            await ask(method, plain.removeprefix(API), status, refused, headers=page)
    return ask.seen


async def test_a_full_queue_says_when_to_come_again(gated_url: str, tmp_path: Path) -> None:
    document, gate = Document(), Gate(tmp_path)
    async with (
        served(gated_url, tmp_path, most_at_a_time=1) as front,
        asking(document, front) as ask,
    ):
        first = await ask("POST", "/jobs", 201, json={"workflow": gate.prompt})
        key = {"Idempotency-Key": str(uuid.uuid4())}
        other = {"workflow": drawing(9)}
        await ask("POST", "/jobs", 429, "queue_full", json=other, headers=key)
        gate.open()
        await ask.frames(first["urls"]["events"])
        await ask("POST", "/jobs", 201, json=other, headers=key)  # the key was set free


async def test_too_many_streams(gated_url: str, tmp_path: Path) -> None:
    document, gate = Document(), Gate(tmp_path)
    async with served(gated_url, tmp_path, streams=1) as front, asking(document, front) as ask:
        job = await ask("POST", "/jobs", 201, json={"workflow": gate.prompt})
        path = f"/jobs/{job['id']}"
        async with (
            aiohttp.ClientSession(front.url) as session,
            session.get(f"{API}{path}/events") as open_one,
        ):
            assert open_one.status == 200
            await ask("GET", f"{path}/events", 429, "too_many_streams")
            assert (await ask("GET", path, 200))["id"] == job["id"]
        gate.open()


@pytest.mark.usefixtures("quick_retries")
async def test_a_target_that_is_gone_is_an_upstream_error_and_uses_up_no_key(
    tmp_path: Path,
) -> None:
    document, key = Document(), {"Idempotency-Key": str(uuid.uuid4())}
    nobody = f"http://127.0.0.1:{free_port()}"
    async with served(nobody, tmp_path) as front, asking(document, front) as ask:
        for _ in range(2):
            sent = {"workflow": drawing(1)}
            refused = await ask("POST", "/jobs", 500, "upstream_error", json=sent, headers=key)
        assert nobody not in refused["error"]["message"]  # that is for the server's log
