"""The Dockerfile of a lock: what is in it, and its steps, run in a shell as Docker would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import git

from comfy_remote.deploy.dockerfile import dockerfile_for, write_dockerfile
from comfy_remote.deploy.locked import COMFYUI_COMMIT, COMFYUI_VERSION
from comfy_remote.errors import ConfigurationError
from comfy_remote.ready.lock import Lock, LockedComfyUI, LockedPack
from comfy_remote.worker.nodes import install_custom_nodes

ROOT = Path(__file__).parents[2]
COMMIT = "ab" * 20
URL = "https://git.example/o/Thing"


def test_the_comfyui_that_counts_as_ours_is_the_images() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"# ComfyUI {COMFYUI_VERSION}, by its commit" in text
    assert f"ARG COMFYUI_COMMIT={COMFYUI_COMMIT}\n" in text


def test_the_list_is_one_that_our_script_reads() -> None:
    lock = Lock(
        comfyui=LockedComfyUI(version=COMFYUI_VERSION),
        packs=(
            LockedPack(id="thing", version="1.2.0"),
            LockedPack(url=URL, commit=COMMIT),
            LockedPack(id="comfy-remote", version="0.1.0"),
            LockedPack(classes=("ComfyRemoteInput",)),
        ),
    )
    made = dockerfile_for(lock, ["my.lock"])
    assert made.notes == (
        "git.example/o/Thing is not in it: another pack of the lock gets its folder.",
    )
    assert "ARG WORKER=ghcr.io/comfy-remote/comfy-remote-worker:" in made.text
    assert "git -C /comfyui" not in made.text
    listed = re.findall(r"^        '(.*)' \\$", made.text, re.MULTILINE)
    assert listed == ["thing@1.2.0"]
    assert len(install_custom_nodes.parse_list("\n".join(listed))) == 1


@pytest.mark.parametrize(
    ("comfyui", "words"),
    [
        (LockedComfyUI(version="0.34.1"), "ComfyUI.git refs/tags/v0.34.1 "),
        (LockedComfyUI(version="0.34.1", commit=COMMIT), f"ComfyUI.git {COMMIT} "),
        (LockedComfyUI(commit=COMMIT), f"ComfyUI.git {COMMIT} "),
        (LockedComfyUI(version="nightly"), "# The lock names no release of ComfyUI"),
    ],
)
def test_another_comfyui_is_fetched(comfyui: LockedComfyUI, words: str) -> None:
    assert words in dockerfile_for(Lock(comfyui=comfyui)).text


def test_a_hostile_lock_adds_no_instruction() -> None:
    lock = Lock(
        workflows=("a.json",),
        comfyui=LockedComfyUI(version="0.34.1\nRUN id"),
        packs=(
            LockedPack(id="x' && id '", version="1.0.0"),
            LockedPack(id="y", version="1.0.0\nRUN id"),
            LockedPack(classes=("A\nRUN id",), unknown="b\nRUN id"),
            LockedPack(url="https://x.example/o/n%0aRUN", commit=COMMIT),
        ),
    )
    made = dockerfile_for(lock, ["a\nRUN id.lock"])
    assert len(made.notes) == 5
    steps = [line for line in made.text.splitlines() if line and not line.startswith("#")]
    assert [line.partition(" ")[0] for line in steps] == ["ARG", "FROM"]


def test_somebody_elses_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    write_dockerfile(path, dockerfile_for(Lock()))
    made = dockerfile_for(Lock(packs=(LockedPack(id="thing", version="1.2.0"),)))
    write_dockerfile(path, made)
    assert path.read_text() == made.text
    path.write_text("FROM scratch\n")
    with pytest.raises(ConfigurationError, match="has not made it"):
        write_dockerfile(path, made)
    assert path.read_text() == "FROM scratch\n"


def repository(folder: Path, files: dict[str, str]) -> tuple[Path, str]:
    """A git repository with one commit, and that."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder, git(folder, "rev-parse", "HEAD")


@pytest.mark.skipif(sys.platform == "win32", reason="Docker's steps are for a POSIX shell")
def test_its_steps_bring_the_comfyui_and_the_packs(tmp_path: Path) -> None:
    upstream, _ = repository(tmp_path / "upstream", {"requirements.txt": "torch\n", "new.py": ""})
    git(upstream, "tag", "v0.34.1")
    pack, commit = repository(
        tmp_path / "pack", {"requirements.txt": "a-thing\n", "__init__.py": "print('one')\n"}
    )
    comfyui, _ = repository(tmp_path / "comfyui", {"old.py": ""})
    (comfyui / "custom_nodes").mkdir()
    opt = tmp_path / "opt/custom_nodes"
    opt.mkdir(parents=True)
    (opt / "install_custom_nodes.py").write_bytes(Path(install_custom_nodes.__file__).read_bytes())
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "uv").write_text(f'#!/bin/sh\necho "$PWD: $*" >> {tmp_path}/installed\n')
    (commands / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for one in commands.iterdir():
        one.chmod(0o755)
    lock = Lock(
        comfyui=LockedComfyUI(version="0.34.1"), packs=(LockedPack(url=URL, commit=commit),)
    )
    text = dockerfile_for(lock).text
    for old, new in (("/comfyui", comfyui), ("/opt", tmp_path / "opt")):
        text = re.sub(rf"(?<=[ \n]){old}\b", str(new), text)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{upstream.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/Comfy-Org/ComfyUI.git",
        "GIT_CONFIG_KEY_1": f"url.{pack.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_1": URL,
    }
    for step in re.findall(r"^RUN ((?:.*\\\n)*.*)$", text, re.MULTILINE):
        done = subprocess.run(
            ["sh", "-c", step], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, step + done.stdout + done.stderr
    assert (comfyui / "new.py").is_file() and not (comfyui / "old.py").exists()
    there = comfyui / "custom_nodes/Thing"
    assert (there / "__init__.py").read_text() == "print('one')\n"
    assert git(there, "remote", "get-url", "origin") == URL
    first, second = (tmp_path / "installed").read_text().splitlines()
    assert f"--requirement {comfyui}/requirements.txt --override" in first
    assert second.startswith(f"{there}: pip install --python")
