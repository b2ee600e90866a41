"""Installs custom nodes from a list, each at one commit.

    install_custom_nodes.py LIST FOLDER

LIST has ``URL@COMMIT`` a line, COMMIT being all 40 digits: a branch or a tag can be moved to other
code by whoever owns it, and a build of tomorrow would not be the one of today. Lines that start
with ``#`` are comments. Each is cloned into FOLDER (ComfyUI's ``custom_nodes``), its
``requirements.txt`` is installed into the Python that runs this, and its ``install.py`` is run.

Runs before anything of ours is installed: standard library only.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_log = logging.getLogger("install_custom_nodes")


class ListError(ValueError):
    """A line of the list cannot be used; the message has all of them."""


@dataclass(frozen=True)
class CustomNode:
    """One line of the list."""

    url: str
    commit: str

    @property
    def name(self) -> str:
        """The folder's name: the last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2].removesuffix(".git")


def parse_list(text: str) -> list[CustomNode]:
    """Read a list.

    Raises:
        ListError: A line is not ``URL@COMMIT``, or two have one folder.
    """
    nodes: list[CustomNode] = []
    problems = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        url, _, commit = line.rpartition("@")
        node = CustomNode(url, commit)
        if problem := _problem(node, nodes):
            problems.append(f"line {number}: {line}: {problem}")
        nodes.append(node)
    if problems:
        raise ListError("\n".join(problems))
    return nodes


def _problem(node: CustomNode, before: Sequence[CustomNode]) -> str | None:
    if not node.url.startswith(("https://", "file://")):
        return "give https://HOST/OWNER/NAME@COMMIT"
    if not _COMMIT.fullmatch(node.commit):
        return f"{node.commit!r} is no commit: give all 40 digits (git ls-remote {node.url})"
    if not _NAME.fullmatch(node.name):
        return f"{node.name!r} cannot be the name of a folder"
    if any(node.name.lower() == other.name.lower() for other in before):
        return f"there is a {node.name} in the list already"
    return None


def install(node: CustomNode, folder: Path) -> None:
    """Clone a custom node and install what it needs.

    Raises:
        subprocess.CalledProcessError: git, the package installer or its ``install.py`` failed.
    """
    target = folder / node.name
    _log.info("%s at %s", node.name, node.commit)
    target.mkdir(parents=True)
    _git(target, "init", "--quiet")
    # The one commit, and not the history.
    _git(target, "fetch", "--quiet", "--depth", "1", node.url, node.commit)
    _git(target, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    if (target / ".gitmodules").is_file():
        _git(target, "submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1")
    shutil.rmtree(target / ".git")
    if (target / "requirements.txt").is_file():
        _run(*_installer(), "-r", "requirements.txt", cwd=target)
    if (target / "install.py").is_file():
        _run(sys.executable, "install.py", cwd=target)


def _installer() -> tuple[str, ...]:
    if uv := shutil.which("uv"):
        return uv, "pip", "install", "--python", sys.executable
    return sys.executable, "-m", "pip", "install", "--disable-pip-version-check"


def _git(target: Path, *arguments: str) -> None:
    _run("git", *arguments, cwd=target)


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True)


def main() -> None:
    """Install the whole list, or nothing if a line of it is wrong."""
    parser = argparse.ArgumentParser(description="Installs custom nodes, each at one commit.")
    parser.add_argument("list", type=Path, help="a file with URL@COMMIT a line")
    parser.add_argument("folder", type=Path, help="ComfyUI's custom_nodes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        nodes = parse_list(arguments.list.read_text(encoding="utf-8"))
        for node in nodes:
            install(node, arguments.folder)
    except ListError as error:
        parser.exit(2, f"{arguments.list} cannot be used:\n{error}\n")
    except FileExistsError as error:
        parser.exit(1, f"{error.filename} is there already.\n")
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"{node.name}: {' '.join(error.cmd)} failed ({error.returncode}).\n")
    _log.info("%d custom nodes installed", len(nodes))


if __name__ == "__main__":
    main()
