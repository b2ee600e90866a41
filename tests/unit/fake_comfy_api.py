"""A server of Comfy API v2 that runs nothing: the test says how its job stands."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from blake3 import blake3
from scripted_server import Answer, ScriptedServer

from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
NO_JOB = "GET /api/v2/jobs/00000000-0000-0000-0000-000000000000"
JOBS, JOB = "POST /api/v2/jobs", "GET /api/v2/jobs/j1"
LIST, CANCEL = "GET /api/v2/jobs", "POST /api/v2/jobs/j1/cancel"
EVENTS, CONTENT = "GET /api/v2/jobs/j1/events", "GET /api/v2/assets/a1/content"
ASSETS, FROM_HASH = "POST /api/v2/assets", "POST /api/v2/assets/from-hash"
CREATED, LATER = "2026-11-30T12:00:00Z", "2099-01-01T00:00:00Z"


def job_json(status: str = "queued", **more: Any) -> dict[str, Any]:
    """A job, as the document has it."""
    return {
        "id": "j1",
        "status": status,
        "created_at": CREATED,
        "started_at": None,
        "completed_at": None,
        "expires_at": LATER,
        "queue_position": None,
        "progress": None,
        "outputs": [],
        "error": None,
        "urls": {
            "self": "/api/v2/jobs/j1",
            "events": "/api/v2/jobs/j1/events",
            "cancel": "/api/v2/jobs/j1/cancel",
        },
        **more,
    }


def job(status: str = "queued", **more: Any) -> Answer:
    """An answer about a job."""
    return Answer(job_json(status, **more))


def output(data: bytes = b"", **more: Any) -> dict[str, Any]:
    """An output with that content."""
    return {
        "node_id": "2",
        "name": "x.png",
        "type": "image",
        "content_type": "image/png",
        "size_bytes": len(data),
        "id": "a1",
        "hash": f"blake3:{blake3(data).hexdigest()}" if data else None,
        "url": "/api/v2/assets/a1/content",
        "url_expires_at": LATER,
        **more,
    }


def asset(data: bytes, **more: Any) -> dict[str, Any]:
    """An asset with that content."""
    return {
        "id": "in1",
        "hash": f"blake3:{blake3(data).hexdigest()}",
        "size_bytes": len(data),
        "content_type": "image/png",
        "created_at": CREATED,
        "url": "/api/v2/assets/in1/content",
        "url_expires_at": LATER,
        **more,
    }


def refusal(status: int, code: str, message: str = "no", **details: Any) -> Answer:
    """An answer in the form of the API's errors."""
    error = {"code": code, "message": message, "details": details or None}
    headers = {"Retry-After": "0"} if status == 429 else {}
    return Answer({"error": error}, status, headers)


def frame(event: str, data: Any) -> bytes:
    """One server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


class FakeComfyApi(ScriptedServer):
    """Accepts jobs, which then are ``queued``; has no live events unless it is told.

    Attributes:
        uploads: The fields of the files that were sent, the file's bytes among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[dict[str, bytes]] = []
        self.on(JOBS, Answer(job_json(), 201))
        self.on(JOB, job())
        self.on(EVENTS, refusal(501, "not_implemented"))
        self.on(ASSETS, self._upload)
        self.on(NO_JOB, refusal(404, "not_found"))

    async def stop_listening(self) -> None:
        """Take no more connections, as a server that has ended."""
        for site in list(self._runner.sites):
            await site.stop()

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        fields = {}
        async for part in await request.multipart():
            fields[part.name] = bytes(await part.read())  # type: ignore[union-attr]
        self.uploads.append(fields)  # type: ignore[arg-type]
        number = len(self.uploads)
        return web.json_response(asset(fields["file"], id=f"in{number}"), status=201)

    def sent(self, number: int = -1) -> Any:
        """What was posted as a job."""
        posted = [one for one in self.asked if f"{one.method} {one.path}" == JOBS]
        return posted[number].json()
