"""``comfy-remote convert``, as a person calls it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SAVED = Path(__file__).parents[1] / "data/saved"
UI: dict[str, Any] = {
    "version": 0.4,
    "nodes": [
        {
            "id": 10,
            "type": "EmptyImage",
            "title": "Weiß",
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "widgets_values": [32, 16, 1, 255],
        },
        {
            "id": 2,
            "type": "SaveImage",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "widgets_values": ["ui"],
        },
    ],
    "links": [[1, 10, 0, 2, 0, "IMAGE"]],
}
API = {
    "2": {
        "inputs": {"filename_prefix": "ui", "images": ["10", 0]},
        "class_type": "SaveImage",
        "_meta": {"title": "Save Image"},
    },
    "10": {
        "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 255},
        "class_type": "EmptyImage",
        "_meta": {"title": "Weiß"},
    },
}
FOREIGN = {
    "nodes": [
        {
            "id": 5,
            "type": "BlurHarder",
            "widgets_values": [3, 4],
            "properties": {"cnr_id": "comfyui-blur"},
        }
    ],
    "links": [],
}


def convert(
    folder: Path, *arguments: object, given: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "convert", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COMFY_REMOTE_HOME": str(folder / "home"), **environment},
        input=given,
        capture_output=True,
        timeout=90,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(arguments, done.returncode, out, err)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ui.json").write_text(json.dumps(UI))
    return tmp_path


def test_one_file_goes_to_standard_output_as_the_editor_exports_it(folder: Path) -> None:
    done = convert(folder, "ui.json", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == API
    assert list(json.loads(done.stdout)) == ["2", "10"]
    assert '\n  "2": {' in done.stdout
    assert '"Weiß"' in done.stdout
    assert "UI format" in done.stderr
    assert "bundled snapshot" in done.stderr


def test_a_character_that_the_console_lacks_is_escaped(folder: Path) -> None:
    done = convert(folder, "ui.json", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout) == API
    assert "\\u00df" in done.stdout


def test_a_named_file_is_replaced_and_private(folder: Path) -> None:
    (folder / "api.json").write_text("old")
    done = convert(folder, "ui.json", "-o", "api.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert json.loads((folder / "api.json").read_text(encoding="utf-8")) == API
    assert sorted(p.name for p in folder.iterdir()) == ["api.json", "ui.json"]
    if os.name == "posix":
        assert stat.S_IMODE((folder / "api.json").stat().st_mode) == 0o600


def test_a_workflow_is_never_replaced_by_its_own_conversion(folder: Path) -> None:
    before = (folder / "ui.json").read_bytes()
    for output in ("ui.json", ".", "./"):
        done = convert(folder, "ui.json", "-o", output)
        assert done.returncode == 2
        assert "would replace" in done.stderr
    assert (folder / "ui.json").read_bytes() == before


def test_several_files_into_a_folder_and_the_bad_ones_are_named(folder: Path) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "foreign.json").write_text(json.dumps(FOREIGN))
    picture = SAVED / "0.33.0.png"
    done = convert(folder, "ui.json", "broken.json", picture, "foreign.json", "-o", "api/")
    assert done.returncode == 4
    assert sorted(p.name for p in (folder / "api").iterdir()) == ["0.33.0.json", "ui.json"]
    assert json.loads((folder / "api/ui.json").read_text(encoding="utf-8")) == API
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 2
    assert "broken.json" in errors[0]
    assert "foreign.json: " in errors[1]
    assert "node 5 (BlurHarder)" in errors[1]
    assert "the node pack comfyui-blur" in errors[1]


def test_several_files_need_a_folder_and_names_of_their_own(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "b/UI.json").write_text(json.dumps(UI))
    assert "-o DIR" in convert(folder, "ui.json", "b/UI.json").stderr
    done = convert(folder, "ui.json", "b/UI.json", "-o", "api/")
    assert done.returncode == 2
    assert "would both become" in done.stderr
    assert not (folder / "api").exists()


def test_standard_input_and_what_is_in_api_format_already(folder: Path) -> None:
    done = convert(folder, "-", given=json.dumps(API).encode(), PYTHONIOENCODING="utf-8")
    assert json.loads(done.stdout) == API
    assert "passed through" in done.stderr


def test_schemas_from_a_file(folder: Path) -> None:
    info = {
        "BlurHarder": {
            "input": {"required": {"x": ["INT", {}], "y": ["INT", {}]}},
            "output": [],
        }
    }
    (folder / "foreign.json").write_text(json.dumps(FOREIGN))
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8-sig")
    done = convert(folder, "foreign.json", "--schemas", "info.json")
    assert json.loads(done.stdout)["5"]["inputs"] == {"x": 3, "y": 4}
    assert "info.json" in done.stderr
    (folder / "info.json").write_text("[")
    done = convert(folder, "foreign.json", "--schemas", "info.json")
    assert done.returncode == 2
    assert "/object_info" in done.stderr
    done = convert(folder, "foreign.json", "--schemas", "foreign.json")
    assert done.returncode == 2, "a workflow is no node schemas"
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-16")
    assert convert(folder, "foreign.json", "--schemas", "info.json").returncode == 0


def test_a_node_that_the_snapshot_lacks_is_named_though_its_file_says_enough(
    folder: Path,
) -> None:
    node = {**FOREIGN["nodes"][0], "widgets_values": {"x": 3}}
    (folder / "foreign.json").write_text(json.dumps({"nodes": [node], "links": []}))
    done = convert(folder, "foreign.json")
    assert json.loads(done.stdout)["5"]["inputs"] == {"x": 3}
    assert "Warning: BlurHarder (node 5), of the node pack comfyui-blur," in done.stderr


def test_schemas_of_a_target(folder: Path, sandbox_url: str) -> None:
    done = convert(folder, "ui.json", "--on", sandbox_url, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["10"]["inputs"] == API["10"]["inputs"]
    assert f"schemas of {sandbox_url}" in done.stderr
    assert convert(folder, "ui.json", "--on", "http://127.0.0.1:9").returncode == 3
    assert convert(folder, "ui.json", "--on", sandbox_url, "--schemas", "ui.json").returncode == 2
