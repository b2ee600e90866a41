"""``--schemas``, remembered descriptions and the registry, as a person meets them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import start_sandbox, stop

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from registry_double import RegistryDouble, entry
from saved_workflow import saved, workflow

import comfy_remote

# EmptyImage under another name: a sandbox does not have it, and refuses it by that name.
RED = {"required": {"size": ["INT", {"default": 8}], "kind": [["a", "b"]]}}
OBJECT_INFO: dict[str, Any] = {"Red": {"input": RED, "output": ["IMAGE"], "output_node": True}}
DOCUMENT = workflow(saved(1, "Red", [16, "b"], properties={"cnr_id": "reds", "ver": "1.0.0"}))
CORE = workflow(
    saved(1, "EmptyImage", [16, 8, 1, 255], outputs={"IMAGE": [1]}),
    saved(2, "SaveImage", ["x"], inputs={"images": ("IMAGE", 1)}),
    links=[[1, 1, 0, 2, 0, "IMAGE"]],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "red.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "core.json").write_text(json.dumps(CORE))
    (tmp_path / "schemas.json").write_text(json.dumps(OBJECT_INFO))
    return tmp_path


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"COMFY_REMOTE_HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "config")}
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **own, **environment},
        timeout=120,
        check=False,
    )


@contextmanager
def registry() -> Iterator[str]:
    """The double, in a thread of its own."""
    double = RegistryDouble({"reds": {"1.0.0": [entry("Red", RED, ["IMAGE"])]}})
    ready, done = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with double.serving() as url:
            address.append(url)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield address[0]
    finally:
        done.set()
        thread.join()


def test_check_and_show_read_a_workflow_by_schemas_that_are_given(folder: Path) -> None:
    checked = command(folder, "check", "red.json", "--schemas", "schemas.json")
    assert checked.returncode == 0, checked.stderr
    assert "Checked against the nodes of schemas.json." in checked.stderr
    shown = command(folder, "show", "red.json", "--schemas", "schemas.json", "--json")
    inputs = json.loads(shown.stdout)["inputs"]
    assert {one["input"]: one["value"] for one in inputs} == {"size": 16, "kind": "b"}


def test_run_converts_by_schemas_that_are_given(folder: Path) -> None:
    ran = command(folder, "run", "red.json", "--on", "sandbox", "--schemas", "schemas.json")
    assert "node schemas of schemas.json" in ran.stderr
    assert ran.returncode == 4  # it is sent, and this sandbox has no such class
    assert "Red" in ran.stderr
    without = command(folder, "run", "core.json", "--on", "sandbox")
    assert without.returncode == 0, without.stderr


def test_a_running_comfyui_gives_its_schemas(folder: Path, sandbox_url: str) -> None:
    made = command(folder, "convert", "core.json", "--schemas", sandbox_url)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["1"]["inputs"]["width"] == 16
    assert f"node schemas of {sandbox_url}" in made.stderr


def test_what_is_neither_file_nor_address_is_refused(folder: Path) -> None:
    refused = command(folder, "check", "red.json", "--schemas", "nothing.json")
    assert refused.returncode == 2
    assert "no file nothing.json" in refused.stderr


def test_a_target_that_is_gone_is_read_by_what_it_said(folder: Path) -> None:
    url, sandbox = start_sandbox()
    try:
        assert command(folder, "convert", "core.json", "--on", url).returncode == 0
    finally:
        stop(sandbox)
    again = command(folder, "convert", "core.json", "--on", url)
    assert again.returncode == 0, again.stderr
    assert "its schemas of 20" in again.stderr
    assert json.loads(again.stdout)["1"]["inputs"]["width"] == 16


def test_the_registry_is_asked_for_what_no_one_knows_and_that_is_said(folder: Path) -> None:
    refused = command(folder, "convert", "red.json")
    assert refused.returncode == 4
    assert "--schemas" in refused.stderr
    with registry() as address:
        made = command(folder, "convert", "red.json", COMFY_REMOTE_REGISTRY=address)
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["1"]["inputs"] == {"size": 16, "kind": "b"}
        assert "From the Comfy Registry" in made.stderr
        assert "the schemas of Red." in made.stderr
        checked = command(folder, "check", "red.json", COMFY_REMOTE_REGISTRY=address)
        assert checked.returncode == 0, checked.stdout
    kept = command(folder, "convert", "red.json", COMFY_REMOTE_REGISTRY=address)
    assert kept.returncode == 0, "what it said is kept"


def test_the_library_takes_schemas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(folder / "home"))
    [output] = comfy_remote.run(folder / "core.json", "sandbox")
    assert output.image().size == (16, 8)
    with pytest.raises(comfy_remote.ComfyRemoteError, match="Red"):
        comfy_remote.run(folder / "red.json", "sandbox", schemas=folder / "schemas.json")
