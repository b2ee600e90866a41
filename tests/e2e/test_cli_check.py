"""``comfy-remote check`` as a person or a script uses it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from owner import configure

GOOD: dict[str, Any] = {
    "1": {"class_type": "EmptyImage",
          "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}  # fmt: skip
BAD: dict[str, Any] = {**GOOD, "1": {"class_type": "EmptyImage", "inputs": {"width": 0}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    (tmp_path / "bad.json").write_text(json.dumps(BAD))
    return tmp_path


def check(
    folder: Path, *args: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return comfy_remote(folder, "check", *args, stdin=stdin, **environment)


def comfy_remote(
    folder: Path, *args: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "COMFY_REMOTE_"))}
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", *args],
        cwd=folder,
        env={**clean, "COMFY_REMOTE_HOME": str(folder / "home"), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_good_workflow(folder: Path) -> None:
    done = check(folder, "good.json")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Checked against the nodes of the bundled snapshot." in done.stderr


def test_problems_are_lines_with_their_place(folder: Path) -> None:
    done = check(folder, "bad.json")
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert lines[0].startswith("bad.json:1:width: 0 is out of range")
    assert lines[1].startswith("bad.json:1:height: ")


def test_a_file_of_input_that_is_not_there_is_wrong_use_as_it_is_for_run(folder: Path) -> None:
    done = check(folder, "good.json", "--input", "gone.png")
    assert done.returncode == 2
    assert "--input gone.png: there is no such file." in done.stderr


def test_the_file_is_named_once(folder: Path) -> None:
    (folder / "list.json").write_text("[]")
    assert check(folder, "list.json").stdout.startswith("list.json: is JSON, but not a workflow")


def test_a_workflow_without_nodes_says_what_to_look_for(folder: Path) -> None:
    (folder / "muted.json").write_text('{"nodes": [], "links": []}')
    done = check(folder, "muted.json")
    assert done.returncode == 4
    assert done.stdout.startswith("muted.json: is empty: it has no node that runs. Open it in")


def test_changes_are_checked(folder: Path) -> None:
    done = check(folder, "bad.json", "--set", "1.height=64", "--set", "1.batch_size=1",
                 "--set", "1.width=64", "--set", "1.color=0")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = check(folder, "good.json", "--set", "1.width=0")
    assert done.returncode == 4
    assert done.stdout.startswith("good.json:1:width: ")


def test_json_is_one_document_of_comfyuis_shape(folder: Path) -> None:
    done = check(folder, "bad.json", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 4
    assert document["ok"] is False
    assert document["error"]["type"] == "prompt_outputs_failed_validation"
    assert document["node_errors"]["1"]["dependent_outputs"] == ["2"]
    assert {p["input"] for p in document["problems"]} == {"width", "height", "batch_size", "color"}


def test_what_is_no_workflow(folder: Path) -> None:
    dangling = {**GOOD, "1": {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}}
    done = check(folder, "-", stdin=json.dumps(dangling))
    assert done.returncode == 4
    assert done.stdout.startswith("standard input:1:image: ")
    done = check(folder, "-", "--json", stdin="[1, 2]")
    assert done.returncode == 4
    assert json.loads(done.stdout)["problems"][0]["code"] == "workflow_invalid"


def test_a_configured_target_that_is_away_and_a_named_one(folder: Path) -> None:
    configure(folder / "home", 'default = "http://127.0.0.1:9"\n')
    done = check(folder, "good.json")
    assert done.returncode == 0
    assert "cannot be asked" in done.stderr
    assert "the bundled snapshot" in done.stderr
    assert check(folder, "good.json", "--on", "http://127.0.0.1:9").returncode == 3


def test_advice_alone_is_no_failure(folder: Path) -> None:
    idle = {**GOOD, "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}}
    (folder / "idle.json").write_text(json.dumps(idle))
    done = check(folder, "idle.json")
    assert done.returncode == 0
    assert done.stdout.startswith("idle.json:3: advice: ")


def test_against_a_target(folder: Path, sandbox_url: str) -> None:
    assert check(folder, "good.json", "--on", sandbox_url).returncode == 0
    sampler = {**GOOD, "3": {"class_type": "KSampler", "inputs": {}}}
    (folder / "sampler.json").write_text(json.dumps(sampler))
    done = check(folder, "sampler.json", "--on", sandbox_url)
    assert done.returncode == 4
    assert f"sampler.json:3: {sandbox_url} has no node class KSampler" in done.stdout


def test_a_repo_list_that_cannot_be_read_is_said_before_a_worker_refuses_it(folder: Path) -> None:
    texts = {"class_type": "AnyPacksText", "inputs": {"text": "some words"}}
    listed = {**GOOD, "8": {**texts, "_meta": {"title": "repo_list"}}}
    (folder / "listed.json").write_text(json.dumps(listed))
    done = check(folder, "listed.json")
    assert done.returncode == 0
    assert done.stdout.startswith("listed.json: warning: The repo_list cannot be read: line 1: ")
    assert "A worker refuses a job with it." in done.stdout


def test_an_example_is_called_as_it_was_typed(folder: Path) -> None:
    for command in ("check", "show"):
        done = comfy_remote(folder, command, "example:collage")
        assert done.returncode == 0, done.stderr
        assert "example:collage is a workflow in API format." in done.stderr.splitlines()
        data = json.loads(comfy_remote(folder, command, "example:collage", "--json").stdout)
        assert data["source"] == "example:collage"


def test_files_here_and_there(folder: Path, sandbox_url: str) -> None:
    loads = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    (folder / "loads.json").write_text(json.dumps(loads))
    done = check(folder, "loads.json", "--on", sandbox_url)
    assert done.returncode == 4
    assert done.stdout.startswith("loads.json:1:image: The file 'picture.png' is not here.")
    (folder / "input").mkdir()
    (folder / "input" / "picture.png").write_bytes(base64.b64decode("iVBORw0KGgo="))
    assert check(folder, "loads.json", "--on", sandbox_url).returncode == 0


def test_a_runpod_endpoint_has_limits(folder: Path) -> None:
    loads = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "big.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    (folder / "loads.json").write_text(json.dumps(loads))
    (folder / "big.png").write_bytes(b"x" * 9_000_000)
    done = check(folder, "loads.json", "--on", "runpod:abc", RUNPOD_API_KEY="planted-key")
    assert done.returncode == 4
    assert "loads.json: The request would be 12.0 MB" in done.stdout
    assert "planted-key" not in done.stdout + done.stderr
