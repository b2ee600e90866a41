"""Modal Deployment in a real ComfyUI: what it writes, what it shows, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_client import EngineClient
from pack import comfyui_with_pack

pytestmark = pytest.mark.comfyui


@dataclass
class Setting:
    """A ComfyUI with the pack, and a saved workflow in UI format."""

    engine: EngineClient
    base: Path


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    base = tmp_path_factory.mktemp("modal")
    workflows = base / "user" / "default" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "saved.json").write_text(json.dumps(SAVED))
    environment = {
        "MODAL_CONFIG_PATH": str(base / "none.toml"),
        "COMFY_REMOTE_HOME": str(base / "home"),
    }
    (base / "home").mkdir()
    (base / "home" / "comfy-remote.toml").write_text(f"allowed_folders = ['{base / 'built'}']\n")
    with comfyui_with_pack(base, environment=environment) as server:
        yield Setting(EngineClient(server.url), base)


SAVED: Any = {
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "widgets_values": [64, 32, 1, 0],
        },
        {
            "id": 2,
            "type": "PreviewImage",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}


def graph(**inputs: Any) -> dict[str, Any]:
    """The node alone, as a page sends it."""
    given = {"workflow_path": "saved.json", "app_name": "portraits", "deploy": True, **inputs}
    return {"7": {"class_type": "ComfyRemoteModalDeployment", "inputs": given}}


def test_a_dry_run_writes_the_project_and_gives_no_address(setting: Setting) -> None:
    built = setting.base / "built"
    entry = setting.engine.run(graph(dry_run=True, working_directory=str(built)))
    assert entry["status"]["completed"], entry["status"]["messages"]
    (text,) = entry["outputs"]["7"]["text"]
    assert text.startswith("Not deployed.") and str(built / "portraits") in text
    assert "https://" not in text
    prompt = json.loads((built / "portraits" / "prompt.json").read_text())
    assert prompt["1"]["inputs"]["width"] == 64
    config = json.loads((built / "portraits" / "modal_config.json").read_text())
    assert (config["app_name"], config["gpu_type"]) == ("portraits", "H100")


def test_deploying_without_an_account_is_an_error_that_says_what_to_do(setting: Setting) -> None:
    entry = setting.engine.run(graph(working_directory=str(setting.base / "output")))
    assert not entry["status"]["completed"]
    ((_, error),) = [m for m in entry["status"]["messages"] if m[0] == "execution_error"]
    assert error["node_id"] == "7"
    # Whether Modal's SDK is installed beside that ComfyUI or not.
    assert "modal setup" in error["exception_message"]


def test_a_workflow_names_no_place_outside_of_comfyuis_folders(setting: Setting) -> None:
    hosts = setting.base / "hosts.json"
    hosts.write_text(json.dumps(SAVED))
    elsewhere = setting.base / "elsewhere"
    for inputs in ({"workflow_path": str(hosts)}, {"working_directory": str(elsewhere)}):
        entry = setting.engine.run(graph(dry_run=True, clean_build=True, **inputs))
        ((_, error),) = [m for m in entry["status"]["messages"] if m[0] == "execution_error"]
        assert "allowed_folders" in error["exception_message"]
    assert not elsewhere.exists()


def test_a_file_that_is_not_there(setting: Setting) -> None:
    entry = setting.engine.run(graph(workflow_path="missing.json"))
    ((_, error),) = [m for m in entry["status"]["messages"] if m[0] == "execution_error"]
    assert "no workflow file missing.json" in error["exception_message"]
