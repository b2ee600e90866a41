"""``comfy-remote run`` with workflows as people have them, on real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SAVED = Path(__file__).parents[1] / "data/saved"
TEMPLATE = """
{
  "1": {"class_type": "EmptyImage",
        "inputs": {"width": ${WIDTH}, "height": 16, "batch_size": 1, "color": ${COLOUR}}},
  "2": {"class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "${PROMPT}"}}
}
"""
# As the editor saves it: a primitive for the width, a bypassed node, a note.
UI = {
    "version": 0.4,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "mode": 0,
            "inputs": [{"name": "width", "type": "INT", "link": 4, "widget": {"name": "width"}}],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "widgets_values": [32, 16, 1, 255],
        },
        {
            "id": 2,
            "type": "ImageInvert",
            "mode": 4,
            "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}],
        },
        {
            "id": 3,
            "type": "SaveImage",
            "mode": 0,
            "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
            "outputs": [],
            "widgets_values": ["ui"],
        },
        {
            "id": 4,
            "type": "PrimitiveNode",
            "mode": 0,
            "outputs": [{"name": "INT", "type": "INT", "links": [4], "widget": {"name": "width"}}],
            "widgets_values": [48, "fixed"],
        },
        {"id": 5, "type": "Note", "mode": 0, "widgets_values": ["blue"]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [4, 4, 0, 1, 0, "INT"]],
}


def run(
    folder: Path, *arguments: object, given: str | bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "run", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COMFY_REMOTE_HOME": str(folder / "home"), **environment},
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        timeout=90,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(arguments, done.returncode, out, err)


def outputs(done: subprocess.CompletedProcess[str], folder: Path) -> list[Path]:
    assert done.returncode == 0, done.stderr
    return [folder / line for line in done.stdout.splitlines()]


def pixels(path: Path) -> tuple[tuple[int, int], bytes]:
    with Image.open(path) as image:
        return image.size, image.tobytes()


def test_a_picture_is_made_again_from_itself(tmp_path: Path, sandbox_url: str) -> None:
    (tmp_path / "ui.json").write_text(json.dumps(UI))
    done = run(tmp_path, "ui.json", "--on", sandbox_url)
    (first,) = outputs(done, tmp_path)
    assert "ui.json is a workflow in UI format." in done.stderr
    assert f"Converted to API format with the node schemas of {sandbox_url}." in done.stderr
    assert pixels(first) == ((48, 16), b"\x00\x00\xff" * 48 * 16)
    with Image.open(first) as image:
        assert json.loads(image.info["workflow"]) == UI

    done = run(tmp_path, first, "--on", sandbox_url, "-o", "again")
    (again,) = outputs(done, tmp_path)
    assert "PNG picture with the prompt that made it, and its workflow." in done.stderr
    assert pixels(again) == pixels(first)

    done = run(tmp_path, first, "--on", sandbox_url, "-o", "other", "--width", 8, "--height", 9)
    (other,) = outputs(done, tmp_path)
    assert pixels(other)[0] == (8, 9)


def test_a_template_on_standard_input(tmp_path: Path, sandbox_url: str) -> None:
    done = run(
        tmp_path,
        *("-", "--on", sandbox_url, "--prompt", "a red picture", "--width", 24),
        *("--var", f"COLOUR={0xFF0000}"),
        given=TEMPLATE,
    )
    (picture,) = outputs(done, tmp_path)
    assert picture.name.startswith("a red picture")
    assert pixels(picture) == ((24, 16), b"\xff\x00\x00" * 24 * 16)
    assert "standard input is a workflow in API format." in done.stderr


def test_a_picture_on_standard_input(tmp_path: Path, sandbox_url: str) -> None:
    done = run(tmp_path, "-", "--on", sandbox_url, given=(SAVED / "0.33.0.png").read_bytes())
    assert len(outputs(done, tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (("-",), {"WIDTH": "8"}, 4, "${WIDTH}, which was not given"),
        (("-", "--width", 8), {"COLOUR": "1"}, 4, "--var COLOUR=VALUE, or --var COLOUR "),
        (("-", "--width", 8, "--var", "COLOUR"), {"COLOUR": "1"}, 4, "or --prompt TEXT"),
        (
            ("-", "--width", 8, "--prompt", "x", "--seed", 3, "--var", "COLOUR=1"),
            *({}, 4, "has a seed"),
        ),
        (
            ("-", "--width", 8, "--prompt", "x", "--var", "COLOUR"),
            *({"COLOUR": "99999999"}, 4, "bigger than max"),
        ),
        (("-", "--var", "COLOUR"), {}, 2, "no environment variable COLOUR"),
        (("-", "--var", "2=x"), {}, 2, "'2' is not a name"),
        (("-", "--seed", "x"), {}, 2, "is not a seed"),
        (("-", "--width", "0"), {}, 2, "--width"),
        (("-", "--prompt-node", "6"), {}, 2, "give --prompt TEXT, too"),
        ((SAVED / "0.33.0.png", "--width", 99999999), {}, 4, "takes 1 to"),
        ((SAVED / "0.33.0.flac",), {}, 4, "EmptyAudio"),
        ((SAVED / "0.33.0.png", "--set", "EmptyImage.widht=8"), {}, 4, "Did you mean 'width'"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    sandbox_url: str,
    arguments: tuple[object, ...],
    environment: dict[str, str],
    status: int,
    words: str,
) -> None:
    done = run(tmp_path, *arguments, "--on", sandbox_url, given=TEMPLATE, **environment)
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    assert words in done.stderr.replace("\n", " ")


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["0.3.64.webm", "0.3.64.flac", "0.33.0.webp", "0.33.0.mp3"])
def test_what_comfyui_saved_is_run_again_there(tmp_path: Path, comfyui_url: str, name: str) -> None:
    (made,) = outputs(run(tmp_path, SAVED / name, "--on", comfyui_url), tmp_path)
    assert made.suffix == Path(name).suffix
    (again,) = outputs(run(tmp_path, made, "--on", comfyui_url, "-o", "again"), tmp_path)
    assert again.stat().st_size > 100


@pytest.mark.comfyui
def test_a_ui_workflow_on_comfyui(tmp_path: Path, comfyui_url: str) -> None:
    (made,) = outputs(run(tmp_path, "-", "--on", comfyui_url, given=json.dumps(UI)), tmp_path)
    assert pixels(made) == ((48, 16), b"\x00\x00\xff" * 48 * 16)
