"""A kind of target that another package adds: listed, shown and run like one of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_remote.targets.plugins import GROUP

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "data" / "plugin_target"
COLLAGE = ROOT / "comfy_remote" / "examples" / "collage.json"
Run = Callable[..., subprocess.CompletedProcess[str]]


def install(source: Path, site: Path) -> None:
    """What pip would do with a package of one module, without a network."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    site.mkdir(exist_ok=True)
    for module in source.glob("*.py"):
        (site / module.name).write_bytes(module.read_bytes())
    name, version = project["name"], project["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    entries = project["entry-points"][GROUP].items()
    lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in entries)]
    info.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")


def configure(folder: Path) -> None:
    """The owner calls an echo ``studio``."""
    (folder / "config" / "comfy-remote").mkdir(parents=True)
    (folder / "config" / "comfy-remote" / "comfy-remote.toml").write_text(
        '[targets.studio]\ntarget = "echo:studio"\n'
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python with the packages in ``site``, and a record of its own."""
    (tmp_path / "site").mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "MODAL_"))},
        "COMFY_REMOTE_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)]),
    }

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    return run


def python(run: Run, script: str, **environment: str) -> Any:
    """What a script printed, as JSON."""
    done = run("-c", script, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_workflow_runs_on_it(run: Run, tmp_path: Path) -> None:
    install(PLUGIN, tmp_path / "site")
    done = run("-m", "comfy_remote", "run", COLLAGE, "--on", "echo:studio", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("collage_*.png"))) == 1
    listed = run("-m", "comfy_remote", "jobs", "list", "--json").stdout.splitlines()
    assert [json.loads(line)["target"] for line in listed] == ["echo:studio"]


@pytest.mark.parametrize("wanted", ["echo:studio", "studio"])
def test_the_library_runs_on_it_and_takes_a_job_up_again(
    run: Run, tmp_path: Path, wanted: str
) -> None:
    install(PLUGIN, tmp_path / "site")
    configure(tmp_path)
    script = (
        f"WANTED = {wanted!r}"
        + """
import asyncio, json
from comfy_remote import Client, resume

PROMPT = {
    "1": {"class_type": "EmptyImage",
          "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7}},
    "2": {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], "steps": 10,
          "seconds_per_step": 0.1, "preview": False, "seed": 1}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}

async def main():
    async with Client(WANTED) as client:
        job = await client.submit(PROMPT)
    async with resume(job.id) as again:
        outputs = await again.outputs()
    return [client.target.name, job.ref.details["kind"], len(outputs)]

print(json.dumps(asyncio.run(main())))
"""
    )
    assert python(run, script) == [wanted, "echo", 1]


def test_it_is_listed(run: Run, tmp_path: Path) -> None:
    install(PLUGIN, tmp_path / "site")
    configure(tmp_path)
    listed = run("-m", "comfy_remote", "targets")
    assert "echo:studio" in listed.stdout
    assert "echo:NAME" in listed.stderr
    script = """
import json
from comfy_remote.cli.options import complete_target
print(json.dumps(complete_target(None, None, "")))
"""
    assert {"studio", "echo:here", "sandbox", "pod:auto"} <= set(python(run, script))
    unknown = run("-m", "comfy_remote", "run", COLLAGE, "--on", "ecko")
    assert "echo:NAME" in unknown.stderr


def test_the_page_shows_it(run: Run, tmp_path: Path) -> None:
    install(PLUGIN, tmp_path / "site")
    configure(tmp_path)
    script = f"""
import json, sys, urllib.request
from pathlib import Path
sys.path += [{str(ROOT / "tests" / "e2e")!r}, {str(ROOT / "tools")!r}]
from pack import sandbox_with_pack
with sandbox_with_pack(Path({str(tmp_path / "page")!r})) as server:
    def get(path):
        return json.load(urllib.request.urlopen(server.url + path, timeout=60))
    print(json.dumps([get("/remote/status"), get("/remote/targets/studio")]))
"""
    status, state = python(run, script)
    [shown] = [target for target in status["targets"] if target["name"] == "studio"]
    assert (shown["type"], shown["title"]) == ("echo", "an echo")
    assert (shown["billing"], shown["can"]) == ("by hour", ["describe", "front"])
    assert state["health"]["ready"] == 1


def test_doctor_examines_it(run: Run, tmp_path: Path) -> None:
    install(PLUGIN, tmp_path / "site")
    done = run("-m", "comfy_remote", "doctor", "--on", "echo:studio")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "echo:studio answers" in done.stdout


@pytest.mark.parametrize(
    ("entry", "code", "why"),
    [
        ("EchoKind", "raise RuntimeError('half installed')", "RuntimeError: half installed"),
        ("EchoKind", "raise SystemExit('no licence')", "SystemExit: no licence"),
        ("Missing", "", "AttributeError"),
        ("EchoKind", "class EchoKind: pass", "is not a Kind"),
        (
            "EchoKind",
            "from comfy_remote.targets.kinds import Kind\\nclass EchoKind(Kind): name = 'runpod'",
            "another kind of target called 'runpod'",
        ),
        (
            "EchoKind",
            "from comfy_remote.targets.kinds import Kind\\nclass EchoKind(Kind): name = 'ecko'",
            "has no attribute 'title'",
        ),
    ],
)
def test_a_broken_one_is_one_warning_and_breaks_nothing(
    run: Run, tmp_path: Path, entry: str, code: str, why: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    broken.joinpath("broken_echo.py").write_text(code.replace("\\n", "\n"))
    broken.joinpath("pyproject.toml").write_text(
        '[project]\nname = "broken-echo"\nversion = "1"\n'
        f'[project.entry-points."{GROUP}"]\necho = "broken_echo:{entry}"\n'
    )
    install(broken, tmp_path / "site")
    install(PLUGIN, tmp_path / "site")
    listed = run("-m", "comfy_remote", "targets")
    assert listed.returncode == 0, listed.stderr
    assert "echo:NAME" in listed.stderr, "the other package's kind works"
    [warning] = [line for line in listed.stderr.splitlines() if "is not used" in line]
    assert "package broken-echo" in warning
    assert why in warning


def test_one_in_the_current_folder_is_not_loaded(run: Run, tmp_path: Path) -> None:
    """``python -m`` looks there for packages, and the folder may be somebody's workflows."""
    install(PLUGIN, tmp_path)
    [module] = PLUGIN.glob("*.py")
    (tmp_path / module.name).write_text("open('loaded', 'w').close()\n" + module.read_text())
    listed = run("-m", "comfy_remote", "targets")
    assert listed.returncode == 0, listed.stderr
    assert "it is in the current folder, and not installed" in listed.stderr
    assert not (tmp_path / "loaded").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="makes a symbolic link")
def test_it_works_inside_comfyui_where_our_package_has_another_name(
    run: Run, tmp_path: Path
) -> None:
    install(PLUGIN, tmp_path / "site")
    pack = tmp_path / "pack"
    pack.mkdir()
    pack.joinpath("comfy_remote").symlink_to(ROOT / "comfy_remote", target_is_directory=True)
    script = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
import pack.comfy_remote as ours
from pack.comfy_remote.targets.kinds import kind_of
kind = kind_of("echo:studio")
import comfy_remote.targets.kinds, comfy_remote.events
from pack.comfy_remote import events, targets
outputs = ours.run({str(COLLAGE)!r}, "echo:studio")
print(json.dumps([kind.name, events is comfy_remote.events, events.__spec__.name, len(outputs)]))
"""
    assert python(run, script) == ["echo", True, "pack.comfy_remote.events", 2]
