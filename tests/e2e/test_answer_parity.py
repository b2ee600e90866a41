"""What an engine answers besides prompts: the sandbox, and a real ComfyUI where there is one."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from engine_client import EngineClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
def engine(request: pytest.FixtureRequest) -> EngineClient:
    return EngineClient(request.getfixturevalue(f"{request.param}_url"))


def picture(alpha: int, note: str = "") -> bytes:
    texts, buffer = PngInfo(), io.BytesIO()
    if note:
        texts.add_text("note", note)
    Image.new("RGBA", (4, 4), (10, 20, 30, alpha)).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def upload(engine: EngineClient, path: str, **fields: str | tuple[str, bytes]) -> tuple[int, Any]:
    """The status of a form posted there, and its answer."""
    boundary, body = uuid.uuid4().hex, b""
    for name, value in fields.items():
        file = f'; filename="{value[0]}"' if isinstance(value, tuple) else ""
        content = value[1] if isinstance(value, tuple) else value.encode()
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(
        f"{engine.url}{path}", body + f"--{boundary}--\r\n".encode(), kind
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def new_name() -> str:
    """Tests share an engine."""
    return f"{uuid.uuid4().hex}.png"


def test_models_and_scripts(engine: EngineClient) -> None:
    assert isinstance(engine.json("/embeddings"), list)
    assert isinstance(engine.json("/extensions"), list)
    kinds = engine.json("/models")
    assert {"checkpoints", "loras", "vae", "custom_nodes"} <= set(kinds)
    assert isinstance(engine.json("/models/checkpoints"), list)
    assert engine.request("/models/no_such_kind")[0] == 404
    assert isinstance(engine.json("/api/models/loras"), list)


def test_the_user_and_the_settings(engine: EngineClient) -> None:
    users = engine.json("/users")
    assert users["storage"] == "server"
    assert isinstance(users["migrated"], bool)
    one, other = (f"Test.{uuid.uuid4().hex}" for _ in range(2))
    assert engine.json(f"/settings/{one}") is None
    assert engine.request("/settings", {one: [1], other: None}) == (200, b"")
    assert engine.request(f"/settings/{other}", {"a": 1}) == (200, b"")
    assert engine.json("/settings").items() >= {one: [1], other: {"a": 1}}.items()
    assert engine.json(f"/settings/{one}") == [1]
    assert engine.json("/users")["migrated"] is True


TROUBLE = b"500 Internal Server Error\n\nServer got itself in trouble"


def post(engine: EngineClient, path: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{engine.url}{path}", body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, b"{no JSON") for path in ("/prompt", "/queue", "/history", "/free", "/settings")),
        *((path, b"5") for path in ("/prompt", "/queue", "/history", "/interrupt", "/settings")),
        ("/queue", b'{"delete": 5}'),
        ("/free", b"[]"),
        ("/interrupt", b"[]"),
        ("/settings/a", b""),
        ("/prompt", b'{"prompt": {"1": 5}}'),
        ("/prompt", b'{"prompt": {"1": {"class_type": ["x"]}}}'),
        ("/prompt", b'{"prompt": {}, "number": "first"}'),
    ],
)
def test_where_comfyuis_code_raises_the_answer_is_500(
    engine: EngineClient, path: str, body: bytes
) -> None:
    assert post(engine, path, body) == (500, TROUBLE)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": []}',
        b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": []}}}',
        b'{"prompt": {}, "extra_data": 5}',
    ],
)
def test_where_the_code_of_the_modelled_comfyui_raises(engine: EngineClient, body: bytes) -> None:
    version = engine.json("/system_stats")["system"]["comfyui_version"]
    if [int(part) for part in version.split(".")[:2]] < [0, 33]:
        pytest.skip("an older ComfyUI refuses these")
    assert post(engine, "/prompt", body) == (500, TROUBLE)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/prompt", b"[]", 400),
        ("/queue", b"[]", 200),
        ("/queue", b'{"delete": ["nobody"]}', 200),
        ("/interrupt", b"{no JSON", 200),
        ("/interrupt", b"", 200),
    ],
)
def test_what_comfyui_puts_up_with(
    engine: EngineClient, path: str, body: bytes, status: int
) -> None:
    assert post(engine, path, body)[0] == status


@pytest.mark.parametrize("path", ["/upload/image", "/upload/mask"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"image": "a text"}, 500),
        ({"image": ("../a.png", picture(9))}, 400),
        ({"image": ("a.png", picture(9)), "subfolder": "../.."}, 400),
        ({"image": ("a.png", picture(9)), "type": "elsewhere"}, 500),
        # ComfyUI makes the folder of `subfolder`, and none that is in the name.
        ({"image": (f"{uuid.uuid4().hex}/a.png", picture(9))}, 500),
    ],
)
def test_uploads_that_cannot_be_saved(
    engine: EngineClient, path: str, fields: Mapping[str, Any], status: int
) -> None:
    assert upload(engine, path, **fields)[0] == status


def test_a_mask_is_the_picture_with_another_alpha(engine: EngineClient) -> None:
    original, masked = new_name(), new_name()
    engine.upload(original, picture(255, "as it was"))
    reference = json.dumps({"filename": original, "type": "input"})
    status, answer = upload(
        engine,
        "/upload/mask",
        image=(masked, picture(100)),
        original_ref=reference,
        subfolder="clipspace",
    )
    assert (status, answer) == (200, {"name": masked, "subfolder": "clipspace", "type": "input"})
    saved = engine.file({"filename": masked, "subfolder": "clipspace", "type": "input"})
    image = Image.open(io.BytesIO(saved))
    assert np.all(np.asarray(image) == (10, 20, 30, 100))
    assert image.info["note"] == "as it was"

    again = upload(engine, "/upload/mask", image=(original, picture(3)), original_ref=reference)
    assert again[1]["name"] == original.replace(".png", " (1).png")


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ('{"filename": "no-such-file.png"}', 200),  # and nothing is saved
        ('{"filename": "../a.png"}', 200),
        ("{}", 500),
        ("no JSON", 500),
    ],
)
def test_masks_of_what_is_not_there(engine: EngineClient, reference: str, status: int) -> None:
    name = new_name()
    form = upload(engine, "/upload/mask", image=(name, picture(3)), original_ref=reference)
    assert form[0] == status
    assert engine.request(f"/view?filename={name}&type=input")[0] == 404
