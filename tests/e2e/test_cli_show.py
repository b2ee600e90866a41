"""``comfy-remote show``: what people and programs are told about a workflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from official_templates import templates

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests/data/saved"


def show(
    folder: Path, *arguments: object, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", "show", *map(str, arguments)],
        cwd=folder,
        env={
            **os.environ,
            "COMFY_REMOTE_HOME": str(folder / "home"),
            "PYTHONIOENCODING": "utf-8",
            **environment,
        },
        input=given,
        capture_output=True,
        encoding="utf-8",
        timeout=180,
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(out: str, heading: str) -> list[list[str]]:
    """The rows of the table that begins with a heading, split at gaps."""
    lines = iter(out.splitlines())
    next(line for line in lines if line.split()[:1] == [heading])
    next(lines)
    found = []
    for line in lines:
        if not line.strip():
            break
        found.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return found


def test_an_example_for_people_and_for_programs(tmp_path: Path) -> None:
    path = ROOT / "comfy_remote/examples/collage.json"
    told = document(show(tmp_path, path, "--json"))
    prompt = json.loads(path.read_text(encoding="utf-8"))
    assert told["source"] == "example:collage"
    assert told["found"] == "workflow in API format"
    assert told["nodes"] == len(prompt)
    assert told["problems"] == []
    literals = {
        f"{node_id}.{key}": value
        for node_id, node in prompt.items()
        for key, value in node["inputs"].items()
        if not isinstance(value, list)
    }
    assert {one["set"]: one["value"] for one in told["inputs"]} == literals
    for one in told["files"]:
        assert Path(one["path"]).stat().st_size == one["size"]
    assert told["outputs"]

    done = show(tmp_path, path)
    assert done.returncode == 0
    assert "example:collage is a workflow in API format." in done.stderr
    assert told["fingerprint"] in done.stdout
    assert [row[0] for row in rows(done.stdout, "Input")] == list(literals)
    assert len(rows(done.stdout, "Output")) == len(told["outputs"])


def test_every_setting_it_names_can_be_set(tmp_path: Path, sandbox_url: str) -> None:
    told = document(show(tmp_path, SAVED / "0.33.0.png", "--on", sandbox_url, "--json"))
    assert told["schemas"] == sandbox_url
    options = [f"{one['set']}={one['value']}" for one in told["inputs"]]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "comfy_remote", "run", str(SAVED / "0.33.0.png")),
            *("--on", sandbox_url),
            *(part for option in options for part in ("--set", option)),
        ],
        cwd=tmp_path,
        env={**os.environ, "COMFY_REMOTE_HOME": str(tmp_path / "home")},
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert len(options) >= 5


def test_a_template_names_its_models_and_where_they_are(tmp_path: Path) -> None:
    workflows = templates("0.33.0")
    if not workflows:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    workflow = workflows["sd3.5_simple_example.json"]
    (tmp_path / "sd3.5.json").write_text(json.dumps(workflow), encoding="utf-8")
    told = document(show(tmp_path, "sd3.5.json", "--json"))
    (said,) = (m for n in workflow["nodes"] for m in n["properties"].get("models", []))
    (model,) = told["models"]
    assert (model["name"], model["folder"]) == (said["name"], said["directory"])
    assert model["url"] == said["url"]
    assert told["packs"][0]["name"] == "comfy-core"
    roles = {one["role"] for one in told["inputs"]}
    assert roles >= {"positive", "negative", "seed", "width", "height"}
    out = show(tmp_path, "sd3.5.json").stdout
    assert said["url"] in out
    assert "ComfyUI itself" in out
    assert {row[1] for row in rows(out, "Input") if row[1].startswith("--")} >= {
        *("--prompt", "--negative", "--seed", "--width", "--height", "--batch"),
    }


def test_files_that_are_here_and_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "here.bin.png").write_bytes(bytes(2500))
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "here.bin.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}},
        "3": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "a"}},
    }
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    first = document(show(tmp_path, "w.json", "--json"))
    assert [one["size"] for one in first["files"]] == [2500, None]
    assert 3400 < first["payload"] < 4500
    table = rows(show(tmp_path, "w.json").stdout, "File")
    assert table == [["here.bin.png", "1", "2.5 kB"], ["gone.png", "2", "missing"]]

    (tmp_path / "input" / "here.bin.png").write_bytes(bytes(2499) + b"x")
    changed = document(show(tmp_path, "w.json", "--json"))
    assert changed["fingerprint"] != first["fingerprint"]


def test_classes_of_a_pack(tmp_path: Path) -> None:
    node = {"id": 1, "type": "Grain", "mode": 0, "inputs": [], "outputs": []}
    pack = {"aux_id": "somebody/grain", "ver": "a1b2c3"}
    lora = ["styles/ink.safetensors", 0.5]
    ui = {"nodes": [{**node, "properties": pack, "widgets_values": lora}], "links": []}
    done = show(tmp_path, "-", "--json", given=json.dumps(ui))
    told = document(done)
    assert "Grain" in done.stderr
    assert told["packs"] == [{"name": "somebody/grain", "version": "a1b2c3", "classes": ["Grain"]}]
    assert [(m["name"], m["folder"]) for m in told["models"]] == [("styles/ink.safetensors", None)]
    assert told["inputs"] == []  # which value belongs to which input, the file does not say


def test_nothing_that_steers_the_terminal_comes_through(tmp_path: Path) -> None:
    prompt = {
        "1": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "a\x1b[2Jb", "images": ["2", 0]},
            "_meta": {"title": "x\x1b]0;y\x07"},
        },
        "2": {"class_type": "Pack\x1b[1m", "inputs": {"file": "m\x1b.ckpt"}},
    }
    done = show(tmp_path, "-", given=json.dumps(prompt))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "status", "words"),
    [
        (("-",), "[1]", 4, "not a workflow"),
        (("gone.json",), "", 4, "There is no file"),
        (("-",), '{"1": {"class_type": "A", "inputs": {"x": "${NO_SUCH_NAME}"}}}', 4, "NO_SUCH"),
        (("-", "--on", "nobody knows"), '{"1": {"class_type": "A", "inputs": {}}}', 2, "nobody"),
        ((), "", 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, arguments: tuple[str, ...], given: str, status: int, words: str
) -> None:
    done = show(tmp_path, *arguments, given=given)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.comfyui
def test_comfyui_s_own_nodes(tmp_path: Path, comfyui_url: str) -> None:
    told = document(show(tmp_path, SAVED / "0.33.0.png", "--on", comfyui_url, "--json"))
    assert [pack["name"] for pack in told["packs"]] == ["comfy-core"]
    assert told["outputs"][0]["kind"] == "image"
