"""A bare client for any engine that speaks ComfyUI's API. Blocking, and good enough for tests."""

from __future__ import annotations

import hashlib
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

import numpy as np
from PIL import Image


class EngineClient:
    """One engine."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """GET, or POST with a JSON body. Returns status and body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, body: Any = None) -> Any:
        """Like `request`, for an answer that is JSON."""
        return json.loads(self.request(path, body)[1])

    def upload(self, name: str, content: bytes, **fields: str) -> Any:
        """Send a file into the input folder."""
        boundary = uuid.uuid4().hex
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{part}"{k}"\r\n\r\n{value}\r\n'.encode() for k, value in fields.items()]
        parts.append(
            f'{part}"image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        body = b"".join(parts) + content + f"\r\n--{boundary}--\r\n".encode()
        request = urllib.request.Request(
            self.url + "/upload/image",
            body,
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def submit(self, prompt: Any, **fields: Any) -> str:
        """Queue a prompt. Returns its id."""
        status, body = self.request("/prompt", {"prompt": prompt, **fields})
        assert status == 200, body
        return str(json.loads(body)["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 60) -> Any:
        """The prompt's entry in the history, once it has one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if entry := self.json(f"/history/{prompt_id}").get(prompt_id):
                return entry
            time.sleep(0.01)
        raise TimeoutError(prompt_id)

    def run(self, prompt: Any, **fields: Any) -> Any:
        """Run a prompt to its end."""
        return self.wait(self.submit(prompt, **fields))

    def file(self, listed: Any) -> bytes:
        """The bytes of a file that an output lists."""
        status, body = self.request("/view?" + urllib.parse.urlencode(listed))
        assert status == 200, (listed, status)
        return body

    def pictures(self, entry: Any) -> list[Image.Image]:
        """All images of all outputs, in order of node id."""
        assert entry["status"]["completed"], entry["status"]["messages"]
        return [
            Image.open(io.BytesIO(self.file(listed)))
            for _, output in sorted(entry["outputs"].items())
            for listed in output["images"]
        ]


def pixel_digest(pictures: list[Image.Image]) -> str:
    """SHA-256 of mode, size and pixels, in order."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.mode} {picture.size}".encode())
        digest.update(np.asarray(picture).tobytes())
    return digest.hexdigest()
