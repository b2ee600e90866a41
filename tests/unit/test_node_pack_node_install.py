"""The checkout as a ComfyUI pack: what can be seen of it without ComfyUI."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_remote.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_requirements_are_the_dependencies() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == PYPROJECT["project"][
        "dependencies"
    ]


def test_the_registry_finds_what_it_needs() -> None:
    comfy = PYPROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z0-9-]+", comfy["PublisherId"])
    assert comfy["DisplayName"] == "Comfy Remote"
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert (ROOT / comfy["version"]["path"]).is_file()
    assert "web" not in comfy, "WEB_DIRECTORY serves it: with both, it is served twice"
    assert (ROOT / comfy["Icon"].partition("/main/")[2]).is_file()
    assert PYPROJECT["project"]["urls"]["Repository"].startswith("https://")


def test_the_entry_is_importable_without_comfyui() -> None:
    """By tools that look at every Python file; under any name, as ComfyUI does it."""
    spec = importlib.util.spec_from_file_location("/some where/a pack-1_x_0", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / module.WEB_DIRECTORY).is_dir()
    assert inspect.iscoroutinefunction(module.comfy_entrypoint)


def test_the_pack_loads_nothing_of_the_command() -> None:
    """Rich, click and the rest of the terminal cost a third of a second."""
    code = (
        "import sys, comfy_remote.node_pack.pack, comfy_remote.node_pack.comfyui_host, "
        "comfy_remote.node_pack.nodes.remote_run; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    unwanted = {"rich", "click", "numpy", "PIL", "torch", "runpod", "comfy_remote.cli"}
    assert unwanted.isdisjoint(loaded)


def locales() -> list[Path]:
    return sorted((ROOT / "locales").iterdir())


def test_every_locale_names_the_same_things() -> None:
    assert [path.name for path in locales()] == ["en", "ja", "zh"]
    english = shape(ROOT / "locales" / "en" / "nodeDefs.json")
    for locale in locales():
        assert shape(locale / "nodeDefs.json") == english, locale.name


def shape(path: Path) -> set[str]:
    def walk(value: Any, at: str) -> set[str]:
        if isinstance(value, dict):
            return {name for key, one in value.items() for name in walk(one, f"{at}/{key}")}
        assert isinstance(value, str), at
        assert value.strip(), at
        return {at}

    return walk(json.loads(path.read_text(encoding="utf-8")), "")


@pytest.mark.parametrize("locale", ["ja", "zh"])
def test_help_pages_of_the_node(locale: str) -> None:
    docs = ROOT / "comfy_remote" / "node_pack" / "web" / "docs"
    english = (docs / "RunPodRemoteExecute.md").read_text(encoding="utf-8")
    translated = (docs / "RunPodRemoteExecute" / f"{locale}.md").read_text(encoding="utf-8")
    for name in inputs_named():
        assert f"`{name}`" in english
        assert f"`{name}`" in translated


def inputs_named() -> set[str]:
    names = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    return set(names["RunPodRemoteExecute"]["inputs"])


def test_example_workflows_have_a_picture_and_use_the_node() -> None:
    examples = sorted((ROOT / "example_workflows").glob("*.json"))
    assert examples
    for path in examples:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        assert any(node["type"] == "RunPodRemoteExecute" for node in workflow["nodes"]), path
        with Image.open(path.with_suffix(".jpg")) as picture:  # the ending that ComfyUI asks for
            assert picture.format == "JPEG"
            assert picture.width >= 300
    # ComfyUI's template browser takes these folders' JSON files for UI workflows, too.
    for name in ("example", "examples", "workflow", "workflows"):
        assert not list((ROOT / name).glob("*.json"))
