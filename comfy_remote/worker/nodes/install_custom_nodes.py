"""Installs custom nodes from a list, each at one commit or one version of the Comfy Registry.

    install_custom_nodes.py LIST FOLDER          LIST is a file, or - for standard input

A line is ``URL@COMMIT``, ``NAME@VERSION`` or ``NAME@COMMIT``. COMMIT is all 40 digits: a branch or
a tag can be moved to other code by whoever owns it, and a build of tomorrow would not be the one of
today. NAME is a pack's id in the Comfy Registry, whose versions never change. Lines that start
with ``#`` are comments. Each pack is put into FOLDER (ComfyUI's ``custom_nodes``), its
``requirements.txt`` is installed into the Python that runs this, and its ``install.py`` is run.

Runs in images before anything of ours is installed: standard library only.

Facts about the registry (docs.comfy.org/registry/api-reference, and by trying):
``GET /nodes/NAME/install?version=VERSION`` answers ``{version, status, downloadUrl}``, with another
version than the one asked for if that does not exist; ``GET /nodes/NAME`` has ``repository``.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

__all__ = [
    "LARGEST_ARCHIVE",
    "REGISTRY",
    "CustomNode",
    "ListError",
    "RegistryError",
    "address_of_archive",
    "newest_version",
    "parse_list",
    "repository_of",
    "unpack",
    "version_question",
]

REGISTRY = "https://api.comfy.org"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(r"\d+(\.\d+){1,3}([-+.][0-9A-Za-z.+-]{1,60})?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_URL = re.compile(r"(https://[A-Za-z0-9]|file:///)[A-Za-z0-9._~/:%-]*")
LARGEST_ARCHIVE = 512 * 1024**2
"""Bytes of a version that is fetched from the registry."""

_LARGEST_PACK = 4 * 1024**3  # bytes, unpacked
_PATIENCE = 60.0  # seconds without an answer
_REFUSED = ("Banned", "Deleted", "Flagged")
_log = logging.getLogger("install_custom_nodes")


class ListError(ValueError):
    """Lines of the list cannot be used; the message names each, and why."""


class RegistryError(Exception):
    """The registry does not have it, or cannot be asked."""


@dataclass(frozen=True)
class CustomNode:
    """One line of the list.

    Attributes:
        source: A repository's address, or a pack's id in the registry.
        version: A commit, or a version of the registry.
    """

    source: str
    version: str

    @property
    def in_registry(self) -> bool:
        """Whether the source is an id."""
        return ":" not in self.source

    @property
    def by_commit(self) -> bool:
        """Whether it is fetched by git."""
        return _COMMIT.fullmatch(self.version) is not None

    @property
    def name(self) -> str:
        """The folder's name: the id, or the last part of the address."""
        return self.source.rstrip("/").rpartition("/")[2].removesuffix(".git")


def parse_list(text: str) -> list[CustomNode]:
    """Read a list.

    Raises:
        ListError: A line cannot be used, or two have one folder.
    """
    nodes: list[CustomNode] = []
    problems = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        source, _, version = line.rpartition("@")
        node = CustomNode(source, version)
        if problem := _problem(node, nodes):
            problems.append(f"line {number}: {line}: {problem}")
        nodes.append(node)
    if problems:
        raise ListError("\n".join(problems))
    return nodes


def _problem(node: CustomNode, before: Sequence[CustomNode]) -> str | None:
    if not (_NAME if node.in_registry else _URL).fullmatch(node.source):
        return "give https://HOST/OWNER/NAME@COMMIT, or NAME@VERSION of the Comfy Registry"
    if not _NAME.fullmatch(node.name):
        return f"{node.name!r} cannot be the name of a folder"
    if not node.by_commit:
        if not node.in_registry:
            where = f"git ls-remote {node.source}"
            return f"{node.version!r} is not a commit: give all 40 digits ({where})"
        if not _VERSION.fullmatch(node.version):
            return f"{node.version!r} is neither a version nor a commit (all 40 digits)"
    if any(node.name.lower() == other.name.lower() for other in before):
        return f"there is a {node.name} in the list already"
    return None


def install(node: CustomNode, folder: Path, registry: str = REGISTRY) -> None:
    """Put a pack into a folder, and install what it needs.

    Raises:
        subprocess.CalledProcessError: git, the package installer or its ``install.py`` failed.
        RegistryError: The registry does not have it, or cannot be asked.
        FileExistsError: The folder has a pack of that name.
    """
    target = folder / node.name
    _log.info("%s at %s", node.name, node.version)
    if node.by_commit:
        url = repository_of(node.source, registry) if node.in_registry else node.source
        target.mkdir(parents=True)
        _clone(url, node.version, target)
    else:
        archive = _download(node, registry)
        target.mkdir(parents=True)
        unpack(io.BytesIO(archive), target)
    if (target / "requirements.txt").is_file():
        _run(*_installer(), "-r", "requirements.txt", cwd=target)
    if (target / "install.py").is_file():
        _run(sys.executable, "install.py", cwd=target)


def _clone(url: str, commit: str, target: Path) -> None:
    """The one commit, and not the history. Its origin stays: packs, and ComfyUI-Manager, look."""
    _git(target, "init", "--quiet")
    _git(target, "remote", "add", "origin", url)
    _git(target, "fetch", "--quiet", "--depth", "1", "origin", commit)
    _git(target, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    if (target / ".gitmodules").is_file():
        _git(target, "submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1")


def repository_of(name: str, registry: str = REGISTRY) -> str:
    """The address of a pack's repository.

    Raises:
        RegistryError: The registry does not have it, or cannot be asked.
    """
    url = _answer(f"{registry}/nodes/{quote(name)}", name).get("repository")
    # What is on this machine is for whoever wrote the list to name.
    ours = isinstance(url, str) and (url.startswith("https:") or not _is_public(registry))
    if not isinstance(url, str) or not ours or not _URL.fullmatch(url):
        raise RegistryError(f"the registry has no repository of {name}: give its address@COMMIT")
    return url


def newest_version(name: str, registry: str = REGISTRY) -> str:
    """The version of a pack that the registry installs where none is asked for.

    Raises:
        RegistryError: The registry does not have it, or cannot be asked.
    """
    version = _answer(f"{registry}/nodes/{quote(name)}/install", name).get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise RegistryError(f"the registry has no version of {name}")
    return version


def _download(node: CustomNode, registry: str) -> bytes:
    """The archive of a version."""
    answer = _answer(version_question(node.source, node.version, registry), node.source)
    there = address_of_archive(answer, node, registry)
    return _get(there, node.source, LARGEST_ARCHIVE)


def version_question(name: str, version: str, registry: str = REGISTRY) -> str:
    """The address that says where a version of a pack is."""
    return f"{registry}/nodes/{quote(name)}/install?version={quote(version)}"


def address_of_archive(answer: Mapping[str, object], node: CustomNode, registry: str) -> str:
    """Where the archive of a version is, from what `version_question` is answered with.

    Raises:
        RegistryError: The registry does not have that version, or has withdrawn it.
    """
    if answer.get("version") != node.version:
        raise RegistryError(
            f"the registry has no {node.source} {node.version}; it offers {answer.get('version')}"
        )
    if str(answer.get("status", "")).endswith(_REFUSED):
        raise RegistryError(
            f"the registry says of {node.source} {node.version}: {answer['status']}"
        )
    there = answer.get("downloadUrl")
    if not isinstance(there, str) or not there.startswith(("https:", f"{registry}/")):
        raise RegistryError(f"the registry does not say where {node.source} {node.version} is")
    return there


def _is_public(registry: str) -> bool:
    """Whether it is the registry, and not a stand-in for it on this machine."""
    return registry.startswith("https:")


def _answer(url: str, name: str) -> dict[str, object]:
    try:
        answer = json.loads(_get(url, name, 16 * 1024**2))
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise RegistryError(f"the registry's answer about {name} cannot be read")
    return answer


def _get(url: str, name: str, limit: int) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as response:  # noqa: S310 - see callers
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise RegistryError(f"{url} leads to {response.url}, which anybody could change")
            content: bytes = response.read(limit + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise RegistryError(f"the registry has no pack {name}") from error
        raise RegistryError(f"{url} answered with HTTP {error.code}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RegistryError(f"{url} could not be fetched: {error}") from error
    if len(content) > limit:
        raise RegistryError(f"{url} is larger than {limit} bytes")
    return content


def unpack(content: BinaryIO, target: Path) -> None:
    """Unpack an archive into a folder.

    Raises:
        RegistryError: It cannot be unpacked, or is too large.
    """
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size <= _LARGEST_PACK:
                archive.extractall(target)  # names that lead out are made harmless
    except Exception as error:
        # Encrypted, cut, compressed in a way that Python does not know, two entries in one place:
        # each raises its own kind of error.
        raise RegistryError(
            f"the registry's archive of {target.name} cannot be unpacked: {error}"
        ) from error
    if size > _LARGEST_PACK:
        raise RegistryError(f"{target.name} is larger than {_LARGEST_PACK} bytes")


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
    parser = argparse.ArgumentParser(description="Installs custom nodes, each at one version.")
    parser.add_argument("list", help="a file with URL@COMMIT or NAME@VERSION a line; - for input")
    parser.add_argument("folder", type=Path, help="ComfyUI's custom_nodes")
    parser.add_argument("--registry", default=REGISTRY, help="[default: %(default)s]")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        stdin = given.list == "-"
        text = sys.stdin.read() if stdin else Path(given.list).read_text(encoding="utf-8")
        nodes = parse_list(text)
        for node in nodes:
            install(node, given.folder, given.registry)
    except ListError as error:
        parser.exit(2, f"{given.list} cannot be used:\n{error}\n")
    except FileExistsError as error:
        parser.exit(1, f"{error.filename} is there already.\n")
    except RegistryError as error:
        parser.exit(1, f"{node.name}: {error}.\n")
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"{node.name}: {' '.join(error.cmd)} failed ({error.returncode}).\n")
    _log.info("%d custom nodes installed", len(nodes))


if __name__ == "__main__":
    main()
