"""A worker for the gateway's tests: the real RunPod SDK around a handler that obeys orders."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import runpod
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result


async def handler(job: dict[str, Any]) -> dict[str, object]:
    orders = job["input"]
    match orders["do"]:
        case "echo":
            return {"echo": orders["value"], "pid": os.getpid()}
        case "fail":
            return {"error": "asked to fail"}
        case "raise":
            raise ValueError("asked to raise")
        case "large":
            return {"data": "x" * orders["bytes"]}
        case "sleep":
            notes = Path(orders["notes"])
            async with AsyncClientSession() as session:
                progress = {"status": "IN_PROGRESS", "output": {"pid": os.getpid()}}
                await send_result(session, progress, job)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                notes.write_text("cancelled", encoding="utf-8")
                raise
            return {}
        case "die":
            with Path(orders["notes"]).open("a", encoding="utf-8") as file:
                file.write("ran\n")
            os._exit(7)
    return {"error": f"unknown order {orders['do']}"}


async def chunks(job: dict[str, Any]) -> AsyncIterator[dict[str, int]]:
    for n in range(job["input"]["count"]):
        yield {"chunk": n}


if __name__ == "__main__":
    kind = os.environ.get("TEST_HANDLER", "plain")
    runpod.serverless.start(
        {"handler": chunks if kind == "chunks" else handler, "return_aggregate_stream": True}
    )
