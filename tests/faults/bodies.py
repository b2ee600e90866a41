"""Answers changed on their way: what a proxy passes on in place of what was said."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

from PIL import Image


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def without_output(body: bytes) -> bytes:
    return with_output(body, None)


def with_output(body: bytes, output: Any) -> bytes:
    status = json.loads(body)
    if status.get("status") == "COMPLETED":
        status["output"] = output
    return json.dumps(status).encode()


def without_files(body: bytes) -> bytes:
    history = json.loads(body)
    for entry in history.values():
        entry["outputs"] = {}
    return json.dumps(history).encode()


def listed_files(document: Any) -> Iterator[dict[str, Any]]:
    """Every description of a file in a JSON document."""
    if isinstance(document, dict):
        if ("filename" in document and "subfolder" in document) or "sha256" in document:
            yield document
        for value in document.values():
            yield from listed_files(value)
    elif isinstance(document, list):
        for value in document:
            yield from listed_files(value)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def damaged(body: bytes) -> bytes:
    status = json.loads(body)
    output = status.get("output")
    for one in output.get("outputs", []) if isinstance(output, dict) else []:
        if "data" in one:
            one["data"] = base64.b64encode(flipped(base64.b64decode(one["data"]))).decode()
    return json.dumps(status).encode()
