"""The pack in a real ComfyUI, as a clone in ``custom_nodes`` of any name: it loads, quietly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_client import EngineClient
from pack import ROOT, PackServer, comfyui_with_pack

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(180)]

# A pack of its own that tells which modules are loaded.
PROBE = """
import sys
{first}
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {{}}


@PromptServer.instance.routes.get("/probe")
async def modules(request):
    return web.json_response(sorted(sys.modules))
"""


@contextmanager
def started(
    base: Path, folder_name: str, *, first: str = "", hidden: str | None = None
) -> Iterator[PackServer]:
    """A ComfyUI with the pack, and with a probe that begins with ``first``."""
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "probe.py").write_text(PROBE.format(first=first))
    (base / "packages").mkdir()
    environment = {"PYTHONPATH": str(base / "packages")}
    if hidden is not None:
        hide = f"import sys; sys.modules[{hidden!r}] = None"
        (base / "packages" / "sitecustomize.py").write_text(hide)
    if first:
        environment["PYTHONPATH"] += f":{ROOT}"
    with comfyui_with_pack(base, environment=environment, folder_name=folder_name) as server:
        yield server


def log_of(server: PackServer) -> str:
    assert server.log is not None
    return re.sub(r"\x1b\[\d+m", "", server.log.read_text(errors="replace"))


@pytest.mark.parametrize("name", ["comfy-remote", "Comfy Remote-1.2.x (copy) ü"])
def test_it_loads_under_any_name(tmp_path: Path, name: str) -> None:
    # The package is there as an installed one, too, and is another module.
    with started(tmp_path, name, first="import comfy_remote.jobs.client") as server:
        engine = EngineClient(server.url)
        log = log_of(server)
        assert f"custom_nodes/{name}" in log
        assert "IMPORT FAILED" not in log
        assert "Comfy Remote" not in log.replace(name, "")
        assert "Traceback" not in log
        info = engine.json("/object_info/RunPodRemoteExecute")["RunPodRemoteExecute"]
        assert info["python_module"] == f"custom_nodes.{name}"
        status, body = engine.request("/remote/status?client_id=x")
        assert status == 200, body
        scripts = [one for one in engine.json("/extensions") if "comfy_remote.js" in one]
        assert len(scripts) == 1, scripts
        assert engine.request(scripts[0])[0] == 200
        folder = scripts[0].rpartition("/")[0]
        assert b"# RunPod" in engine.request(f"{folder}/docs/RunPodRemoteExecute/zh.md")[1]
        templates = engine.json("/workflow_templates")
        assert "RunPod - pasted workflow" in templates[name]
        translations = engine.json("/i18n")
        assert "RunPodRemoteExecute" in translations["zh"]["nodeDefs"]
        loaded = set(engine.json("/probe"))
    assert "comfy_remote" in loaded
    ours = [one for one in loaded if one.endswith(".comfy_remote.node_pack.pack")]
    assert len(ours) == 1, ours
    assert not any(one.startswith("comfy_remote.node_pack") for one in loaded)


def test_it_brings_in_no_terminal_and_no_sdk(tmp_path: Path) -> None:
    modules = []
    for name in ("comfy-remote", "comfy-remote.disabled"):
        base = tmp_path / name
        with started(base, name) as server:
            modules.append(set(EngineClient(server.url).json("/probe")))
    added = {one.partition(".")[0] for one in modules[0] - modules[1]}
    assert added.isdisjoint({"rich", "click", "runpod", "typer", "IPython"})


def test_a_missing_requirement_is_one_clear_line_and_comfyui_starts(
    tmp_path: Path,
) -> None:
    with started(tmp_path, "comfy-remote", hidden="platformdirs") as server:
        log = log_of(server)
        told = [line for line in log.splitlines() if "Comfy Remote" in line]
        assert len(told) == 1, told
        assert "platformdirs is missing" in told[0]
        assert "pip install -r" in told[0]
        assert "Traceback" not in log
        assert EngineClient(server.url).json("/object_info/RunPodRemoteExecute") == {}
