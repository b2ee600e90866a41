"""Official templates that need no model run from their UI files, and give what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from official_templates import templates
from PIL import Image


@pytest.fixture(scope="module")
def official() -> dict[str, dict[str, Any]]:
    found = templates("0.33.0")
    if not found:
        pytest.skip("comfyui-workflow-templates-json is not installed")
    return found


def run(
    folder: Path, workflow: dict[str, Any], url: str, **pictures: Image.Image
) -> list[dict[str, Any]]:
    """Run a workflow with the pictures it loads beside it; its outputs, as ``--json`` says."""
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        missing = {node["type"] for node in workflow["nodes"]} - {
            *json.load(answer),
            *(graph["id"] for graph in workflow.get("definitions", {}).get("subgraphs", [])),
            *("MarkdownNote", "Note", "Reroute", "PrimitiveNode"),
        }
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(missing))}")
    (folder / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "run", "workflow.json", "--on", url, "--json"],
        cwd=folder,
        env={**os.environ, "COMFY_REMOTE_HOME": str(folder / "home")},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.decode().splitlines()]
    outputs = [event["output"] for event in events if event["event"] == "output"]
    paths = {made["filename"]: made["path"] for made in events[-1]["outputs"]}
    return [{**made, "path": folder / paths[made["filename"]]} for made in outputs]


def opened(outputs: list[dict[str, Any]]) -> dict[str, Image.Image]:
    """Pictures by the node that made them: the last of each."""
    return {made["node_id"]: Image.open(made["path"]).convert("RGB") for made in outputs}


@pytest.mark.comfyui
def test_conversions_of_values(
    tmp_path: Path, comfyui_url: str, official: dict[str, dict[str, Any]]
) -> None:
    outputs = run(tmp_path, official["basic_datatype_conversion.json"], comfyui_url)
    assert {made["node_id"]: made["text"] for made in outputs} == {
        "5": "1.0",
        "6": "1",
        "9": "0",
        "11": "1.5",
        "12": "0",
        "13": "1.5",
        "15": "False",
        "16": "0.0",
        "17": "0",
        "20": "1.5",
        "21": "1",
        "22": "True",
        "24": "True",
    }


@pytest.mark.comfyui
def test_four_pictures_are_stitched(
    tmp_path: Path, comfyui_url: str, official: dict[str, dict[str, Any]]
) -> None:
    colours = ["red", "lime", "blue", "white"]
    angles = {f"angle_{i}": Image.new("RGB", (64, 64), c) for i, c in enumerate(colours, 1)}
    workflow = official["utility_image_stitch.json"]
    (made,) = opened(run(tmp_path, workflow, comfyui_url, **angles)).values()
    assert made.size == (2048, 2048)
    quarters = [made.getpixel((x, y)) for y in (512, 1536) for x in (512, 1536)]
    assert quarters == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.comfyui
def test_a_picture_is_scaled(
    tmp_path: Path, comfyui_url: str, official: dict[str, dict[str, Any]]
) -> None:
    workflow = official["utility_interpolation_image_upscale.json"]
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    outputs = opened(run(tmp_path, workflow, comfyui_url, pray=picture))
    assert outputs.keys() == {"5", "7"}
    assert outputs["5"].size == (128, 96)
    assert all(abs(outputs["5"].getpixel((64, y))[0] - y * 255 // 95) < 8 for y in (10, 48, 90))


@pytest.mark.comfyui
def test_masks_and_what_is_composed_with_them(
    tmp_path: Path, comfyui_url: str, official: dict[str, dict[str, Any]]
) -> None:
    workflow = official["basic_mask_operations_and_compositing.json"]
    picture = Image.new("RGB", (1024, 1024), "teal")
    outputs = opened(run(tmp_path, workflow, comfyui_url, example=picture))
    assert len(outputs) == 18
    assert all(made.size in {(1024, 1024), (512, 512)} for made in outputs.values())
    assert outputs["2"].getpixel((5, 5)) == (0, 0, 0)
    assert outputs["328"].getpixel((5, 5)) == (255, 255, 255)
    assert outputs["367"].getpixel((5, 5)) == (255, 0, 0)
    assert outputs["369"].getpixel((5, 5)) == (127, 127, 127)
    # Fully red where the two masks add up to 1, half red elsewhere, faded at the edge.
    assert outputs["368"].getpixel((384, 384)) == (255, 0, 0)
    assert outputs["368"].getpixel((800, 800)) == (127, 0, 0)
    assert outputs["368"].getpixel((0, 800))[0] < 10


def test_what_the_sandbox_has_of_a_template(
    tmp_path: Path, sandbox_url: str, official: dict[str, dict[str, Any]]
) -> None:
    """The sandbox does not compare pictures: that node is taken out, as in the editor."""
    workflow = official["utility_interpolation_image_upscale.json"]
    compare = {node["id"] for node in workflow["nodes"] if node["type"] == "ImageCompare"}
    links = [link for link in workflow["links"] if link[3] not in compare]
    nodes = [node for node in workflow["nodes"] if node["id"] not in compare]
    picture = Image.new("RGB", (20, 10), (1, 2, 3))
    document = {**workflow, "nodes": nodes, "links": links}
    (made,) = opened(run(tmp_path, document, sandbox_url, pray=picture)).values()
    assert made.size == (40, 20)
    assert made.getcolors() == [(800, (1, 2, 3))]
