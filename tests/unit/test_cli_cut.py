"""``comfy-remote cut``: the cut as people and programs see it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_remote.cli.main import main

PROMPT: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1}},
    "2": {
        "class_type": "ImageInvert",
        "inputs": {"image": ["1", 0]},
        "_meta": {"title": "Turn \x1b[31mred"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    Path("workflow.json").write_text(json.dumps(PROMPT))

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", "cut", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def test_what_runs_where_and_what_crosses(run: Run) -> None:
    status, out, _ = run("workflow.json", "--remote", "ImageInvert", "--on", "sandbox")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["here", "1", "EmptyImage"] in rows
    assert any(row[:2] == ["sandbox", "2"] and row[-1] == "ImageInvert" for row in rows)
    # 64 x 32 pixels of three floats, and what a file has around them.
    assert ["there", "IMAGE", "1,", "output", "0", "2.image", "25.1", "kB"] in rows
    assert "To cross: about 50.2 kB." in out
    assert "\x1b[31m" not in out


def test_as_json(run: Run) -> None:
    status, out, _ = run("workflow.json", "-r", "2", "-r", "3", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["here"] == ["1"]
    assert [(p["name"], p["nodes"], p["saves"]) for p in document["parts"]] == [
        ("", ["2", "3"], ["3"])
    ]
    assert document["parts"][0]["inputs"][0]["to"] == [{"node_id": "2", "input": "image"}]


def test_marks_of_the_file_are_taken_where_none_are_named(run: Run) -> None:
    status, _, err = run("workflow.json")
    assert status == 2 and "marked" in err
    mark = {"comfy_remote": {"part": "gpu"}}
    workflow = {"nodes": [{"id": 2, "type": "ImageInvert", "properties": mark}]}
    posted = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    Path("posted.json").write_text(json.dumps(posted))
    _, out, _ = run("posted.json", "--json")
    assert [(p["name"], p["nodes"]) for p in json.loads(out)["parts"]] == [("gpu", ["2"])]


def test_what_the_target_lacks_is_an_error_with_its_status(run: Run) -> None:
    prompt = {**PROMPT, "2": {"class_type": "ImageSharpenOnlyHere", "inputs": {"image": ["1", 0]}}}
    Path("workflow.json").write_text(json.dumps(prompt))
    status, out, err = run("workflow.json", "--remote", "2", "--on", "sandbox")
    assert status == 4 and not out
    assert "sandbox does not have" in err and "2 (ImageSharpenOnlyHere)" in err


def test_nothing_to_do_is_said(run: Run) -> None:
    prompt = {**PROMPT, "9": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}}
    Path("workflow.json").write_text(json.dumps(prompt))
    status, _, err = run("workflow.json", "--remote", "9")
    assert status == 0 and "no output needs what is marked" in err


def test_the_size_of_a_picture_that_is_loaded_is_known_where_it_is_here(run: Run) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (40, 20)).save("photo.jpg", exif=exif)
    load = {"class_type": "LoadImage", "inputs": {"image": "photo.jpg"}}
    scale = {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 0, "height": 8}}
    prompt = {**PROMPT, "1": load, "2": scale}
    Path("workflow.json").write_text(json.dumps(prompt))
    _, out, _ = run("workflow.json", "--remote", "2", "--json")
    (part,) = json.loads(out)["parts"]
    assert part["inputs"][0]["size"] == 500 + 20 * 40 * 12
    assert part["outputs"][0]["size"] == 500 + 4 * 8 * 12  # as high as wide was 2 to 1
    Path("photo.jpg").write_bytes(b"no picture")
    _, out, _ = run("workflow.json", "--remote", "2", "--json")
    assert json.loads(out)["parts"][0]["inputs"][0]["size"] is None
