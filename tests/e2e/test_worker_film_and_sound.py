"""A film and a sound, from a real ComfyUI through the worker; see unit/test_worker_complaints.py.

The sandbox makes neither.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import wave
from pathlib import Path
from typing import Any

import pytest
from helpers import real_comfyui
from pydantic import JsonValue

from comfy_remote.media.verify import check_whole
from comfy_remote.wire.answer import Answer
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

FILM_AND_SOUND: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 12, "color": 0x336699},
    },
    "2": {"class_type": "LoadAudio", "inputs": {"audio": "tone.wav"}},
    "3": {
        "class_type": "CreateVideo",
        "inputs": {"images": ["1", 0], "fps": 12.0, "audio": ["2", 0]},
    },
    "4": {
        "class_type": "SaveVideo",
        "inputs": {
            "video": ["3", 0],
            "filename_prefix": "video/film",
            "format": "mp4",
            "codec": "h264",
        },
    },
    "5": {
        "class_type": "SaveAudio",
        "inputs": {"audio": ["2", 0], "filename_prefix": "audio/tone"},
    },
}


def tone() -> bytes:
    """A second of silence, as WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))
    return buffer.getvalue()


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


@pytest.mark.comfyui
async def test_a_film_and_a_sound_come_back_as_comfyui_wrote_them(tmp_path: Path) -> None:
    folder = real_comfyui()
    arguments = f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path}'"
    engine = Engine.named(str(folder), {**os.environ, "COMFYUI_ARGS": arguments})
    settings = WorkerSettings(folder=tmp_path / "worker", keep_outputs=True)
    handler = JobHandler(engine, settings)
    sent = {"name": "tone.wav", "image": base64.b64encode(tone()).decode()}
    payload: dict[str, JsonValue] = {"workflow": FILM_AND_SOUND, "images": [sent]}
    try:
        result = await handler("j", {**payload, "format": "comfy-remote/1"}, silent)
        assert "error" not in result, result
        theirs = await handler("k", payload, silent)
    finally:
        engine.stop()
    film, sound = Answer.model_validate(result).outputs
    assert [(one.node_id, one.kind, one.subfolder) for one in (film, sound)] == [
        ("4", "video", "video"),
        ("5", "audio", "audio"),
    ]
    for one in (film, sound):
        written = tmp_path / "output" / one.subfolder / one.filename
        content = base64.b64decode(one.data or "")
        assert content == written.read_bytes()
        assert one.sha256 == hashlib.sha256(content).hexdigest()
        check_whole(written, one.filename)
    assert [Path(one["filename"]).suffix for one in theirs["images"]] == [".mp4", ".flac"]
