"""A stand-in for the public worker-comfyui, for the real RunPod SDK: its documented answers.

From its README (5.0 to 5.8), https://github.com/runpod-workers/worker-comfyui: the request has
``workflow`` and ``images``; the answer has ``images: [{filename, type, data}]`` of what nodes list
as ``images``, without temporary files, and ``errors``, lines. An ``error`` instead fails the job.

With ``WORKER_COMFYUI_DIR`` in its environment, the real handler of that checkout runs instead.
``TEST_ENGINE`` is the address of the ComfyUI that either drives.
"""

import asyncio
import base64
import importlib.util
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runpod

ENGINE = os.environ["TEST_ENGINE"]


def ask(path: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{ENGINE}{path}", data, {"Content-Type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def upload(image: dict[str, str]) -> None:
    """Under the name it comes with, in place of what has that name."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [
        f'{head}"overwrite"\r\n\r\ntrue\r\n',
        f'{head}"image"; filename="{image["name"]}"\r\nContent-Type: image/png\r\n\r\n',
    ]
    body = "".join(parts).encode() + base64.b64decode(image["image"])
    body += f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{ENGINE}/upload/image", body, kind)
    urllib.request.urlopen(request, timeout=60).close()


def as_text(refusal: str) -> str:
    answer = json.loads(refusal)
    kind, message = answer["error"]["type"], answer["error"]["message"]
    if kind == "prompt_outputs_failed_validation":
        message = "Workflow validation failed"
    lines = [
        f"• Node {node_id} ({key}): {value}"
        for node_id, node in answer["node_errors"].items()
        for key, value in node.items()
    ]
    return (
        ":\n".join([message, "\n".join(lines)]) if lines else f"{message}. Raw response: {refusal}"
    )


async def stand_in(job: dict[str, Any]) -> dict[str, object]:
    workflow = job["input"].get("workflow")
    if workflow is None:
        return {"error": "Missing 'workflow' parameter"}
    for image in job["input"].get("images") or []:
        upload(image)
    try:
        prompt_id = json.loads(ask("/prompt", {"prompt": workflow}))["prompt_id"]
    except urllib.error.HTTPError as refused:
        return {"error": as_text(refused.read().decode())}
    while not (history := json.loads(ask(f"/history/{prompt_id}"))):
        await asyncio.sleep(0.05)
    entry = history[prompt_id]
    errors = [
        f"Workflow execution error: Node Type: {data['node_type']}, Node ID: {data['node_id']}, "
        f"Message: {data['exception_message']}"
        for kind, data in entry["status"]["messages"]
        if kind == "execution_error"
    ]
    images = []
    for made in entry["outputs"].values():
        for file in made.get("images", []):
            if file["type"] != "temp":
                data = ask(f"/view?{urllib.parse.urlencode(file)}")
                encoded = base64.b64encode(data).decode()
                images.append({"filename": file["filename"], "type": "base64", "data": encoded})
    if not images and errors:
        return {"error": "Job processing failed", "details": errors}
    if not images:
        return {"status": "success_no_images", "images": []}
    return {"images": images, **({"errors": errors} if errors else {})}


def real_handler(checkout: Path) -> Callable[[dict[str, Any]], object]:
    sys.path[:0] = [str(checkout), str(checkout / "src")]
    spec = importlib.util.spec_from_file_location("real_handler", checkout / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.COMFY_HOST = ENGINE.removeprefix("http://")
    handler: Callable[[dict[str, Any]], object] = module.handler
    return handler


if __name__ == "__main__":
    checkout = os.environ.get("WORKER_COMFYUI_DIR")
    handler = real_handler(Path(checkout)) if checkout else stand_in
    runpod.serverless.start({"handler": handler})
