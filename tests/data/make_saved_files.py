"""Make ``saved/``: small files of every kind, saved by real ComfyUIs with their metadata.

Needs two running ComfyUIs, an older and a newer one, and their folders (for the 3D file, which
no model-free node makes; there ComfyUI's own writer is called)::

    python tests/data/make_saved_files.py 0.3.64=http://127.0.0.1:8364=DIR=PYTHON \
        0.33.0=http://127.0.0.1:8330=DIR=PYTHON

Each file holds the prompt that made it and the workflow ``WORKFLOW``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).parent / "saved"
WORKFLOW = {
    "version": 0.4,
    "last_node_id": 1,
    "last_link_id": 0,
    "nodes": [{"id": 1, "type": "Note", "title": "Übung 猫", "widgets_values": ["it's {here}"]}],
    "links": [],
    "groups": [],
    "config": {},
    "extra": {},
}
IMAGE = {
    "class_type": "EmptyImage",
    "inputs": {"width": 32, "height": 32, "batch_size": 2, "color": 0x336699},
    "_meta": {"title": "Übung 猫"},
}
AUDIO = {
    "class_type": "EmptyAudio",
    "inputs": {"duration": 0.05, "sample_rate": 44100, "channels": 1},
}
VIDEO = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 4.0}}
ANIMATION = {"images": ["1", 0], "fps": 4.0, "filename_prefix": "made"}
SAVERS = {
    "png": ("SaveImage", {"images": ["1", 0], "filename_prefix": "made"}),
    "apng": ("SaveAnimatedPNG", {**ANIMATION, "compress_level": 4}),
    "webp": (
        "SaveAnimatedWEBP",
        {**ANIMATION, "lossless": True, "quality": 80, "method": "fastest"},
    ),
    "webm": ("SaveWEBM", {**ANIMATION, "codec": "vp9", "crf": 40.0}),
    "mp4": (
        "SaveVideo",
        {"video": ["3", 0], "filename_prefix": "made", "format": "mp4", "codec": "h264"},
    ),
    "flac": ("SaveAudio", {"audio": ["2", 0], "filename_prefix": "made"}),
    "mp3": ("SaveAudioMP3", {"audio": ["2", 0], "filename_prefix": "made", "quality": "128k"}),
    "opus": ("SaveAudioOpus", {"audio": ["2", 0], "filename_prefix": "made", "quality": "64k"}),
}
GLB = """
import json, sys
sys.path.insert(0, ".")
sys.argv = ["main.py", "--cpu"]
target, metadata = {target!r}, json.loads({metadata!r})
import comfy.options
comfy.options.enable_args_parsing()
import torch
try:
    from comfy_extras.nodes_save_3d import save_glb
except ImportError:
    from comfy_extras.nodes_hunyuan3d import save_glb
save_glb(torch.eye(3), torch.tensor([[0, 1, 2]]), target, metadata)
"""


def make(version: str, url: str, directory: str, python: str) -> None:
    """All kinds from one ComfyUI."""
    for suffix, (class_type, inputs) in SAVERS.items():
        first = {"audio": ("2", AUDIO)}.get(next(iter(inputs)), ("1", IMAGE))
        prompt = {first[0]: first[1], "9": {"class_type": class_type, "inputs": inputs}}
        if "video" in inputs:
            prompt["3"] = VIDEO
        (FOLDER / f"{version}.{suffix}").write_bytes(run(url, prompt))
    mesh = {"9": {"class_type": "SaveGLB", "inputs": {"filename_prefix": "made"}}}
    metadata = {"prompt": json.dumps(mesh), "workflow": json.dumps(WORKFLOW)}
    target = str((FOLDER / f"{version}.glb").absolute())
    code = GLB.format(target=target, metadata=json.dumps(metadata))
    subprocess.run([python, "-c", code], cwd=directory, check=True)


def run(url: str, prompt: dict[str, object]) -> bytes:
    """The first file a prompt gives."""
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
    request = urllib.request.Request(f"{url}/prompt", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    while True:
        with urllib.request.urlopen(f"{url}/history/{prompt_id}") as answer:
            history = json.load(answer).get(prompt_id)
        if history:
            break
        time.sleep(0.2)
    files = [file for kinds in history["outputs"]["9"].values() for file in kinds]
    query = urllib.parse.urlencode(next(file for file in files if isinstance(file, dict)))
    with urllib.request.urlopen(f"{url}/view?{query}") as answer:
        return answer.read()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for argument in sys.argv[1:]:
        make(*argument.split("="))
