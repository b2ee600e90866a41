"""What tests of node packs at a worker share: a small ComfyUI, and servers of packs on loopback."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import git

from comfy_remote.worker.nodes.requirements import find_uv
from comfy_remote.worker.nodes.settings import NodeSettings, Patience

MAIN = Path(__file__).parent / "data" / "fake_comfyui_main.py"
PATIENCE = Patience(fetch=60.0, requirements=120.0, script=60.0, trial=60.0)


def needs_uv() -> None:
    """Skips a test where uv is not installed; the extra ``worker`` has it."""
    if find_uv() is None:
        pytest.skip("skipped: no uv")


def small_comfyui(folder: Path) -> Path:
    """A folder like ComfyUI's, whose ``main.py`` starts in milliseconds."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    (folder / "models").mkdir()
    (folder / "comfy" / "cli_args.py").write_text('"--user-directory" "--database-url"')
    shutil.copy(MAIN, folder / "main.py")
    return folder


def small_python(folder: Path) -> Path:
    """A Python of its own, without pip, that has a ``torch`` 2.9.1 and a ``numpy`` 2.0."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("[lL]ib/**/site-packages"))
    for name, version in (("torch", "2.9.1"), ("numpy", "2.0")):
        _unpacked(wheel(name, version), site)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wheel(name: str, version: str, requires: tuple[str, ...] = ()) -> bytes:
    """A package with one module that says its version."""
    info = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel_file = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel_file)
        archive.writestr(f"{info}/RECORD", "")
    return content.getvalue()


def wheels(folder: Path, *packages: tuple[str, str] | tuple[str, str, tuple[str, ...]]) -> Path:
    """A folder for uv's ``--find-links``."""
    folder.mkdir(exist_ok=True)
    for name, version, *requires in packages:
        content = wheel(name, version, *requires)
        (folder / f"{name}-{version}-py3-none-any.whl").write_bytes(content)
    return folder


def environ(find_links: Path | None = None, **more: str) -> dict[str, str]:
    """A worker's environment, in which uv asks no index."""
    basic = {
        name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ
    }
    links = {"UV_FIND_LINKS": str(find_links)} if find_links is not None else {}
    return {**basic, **links, "UV_NO_CACHE": "1", "UV_OFFLINE": "1", "UV_NO_CONFIG": "1", **more}


def pack(classes: str = "Node", top: str = "", requirements: str = "") -> dict[str, str]:
    """The files of a pack.

    Args:
        classes: Names of its classes, with spaces between.
        top: Its first lines.
    """
    mapping = dict.fromkeys(classes.split())
    files = {"__init__.py": f"{top}\nNODE_CLASS_MAPPINGS = {mapping!r}\n"}
    return {**files, "requirements.txt": requirements} if requirements else files


class PackServer:
    """Git repositories and a registry, on loopback.

    Attributes:
        url: Of the registry; repositories are at ``URL/git/NAME.git``.
        cut: Whether a repository's content is cut off in the middle.
    """

    def __init__(self, folder: Path, server: ThreadingHTTPServer) -> None:
        self._folder = folder
        self._versions: dict[str, dict[str, bytes]] = {}
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.host = f"127.0.0.1:{server.server_port}"
        self.cut = False
        self.asked: list[str] = []

    def repository(self, name: str, *commits: Mapping[str, str]) -> list[str]:
        """Make a repository, or add commits to it; the commits of its files, oldest first."""
        folder = self._folder / f"{name}.git"
        if not folder.exists():
            folder.mkdir(parents=True)
            git(folder, "init", "--quiet")
            git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
            git(folder, "config", "http.receivepack", "false")
        made = []
        for files in commits:
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            git(folder, "add", ".")
            git(folder, "commit", "--quiet", "--allow-empty", "-m", "one more")
            made.append(git(folder, "rev-parse", "HEAD"))
        return made

    def link(self, name: str, path: str, commit: str) -> None:
        """Have a submodule's commit at a path of a repository; the next commit has it."""
        (self._folder / f"{name}.git" / path).mkdir(exist_ok=True)
        entry = f"160000,{commit},{path}"
        git(self._folder / f"{name}.git", "update-index", "--add", "--cacheinfo", entry)

    def address(self, name: str) -> str:
        """Of a repository."""
        return f"{self.url}/git/{name}.git"

    def publish(self, name: str, version: str, files: Mapping[str, str]) -> None:
        """Have a version of a pack in the registry."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        self._versions.setdefault(name, {})[version] = content.getvalue()

    def settings(self, folder: Path, **more: Any) -> NodeSettings:
        """Of a worker whose owner has allowed this server."""
        given = {"allow": True, "registry": self.url, "hosts": frozenset({self.host})}
        return NodeSettings(folder, **{**given, "patience": PATIENCE, **more})

    def answer(self, path: str) -> tuple[int, bytes]:
        """What the registry answers: shapes of api.comfy.org."""
        path, _, version = path.partition("?version=")
        parts = path.strip("/").split("/")
        if parts[0] == "archives":
            return 200, self._versions[parts[1]][parts[2]]
        if parts[0] != "nodes" or parts[1] not in self._versions:
            return 404, b'{"message": "Node not found"}'
        known = self._versions[parts[1]]
        if len(parts) == 2:
            said: dict[str, str] = {"id": parts[1], "repository": self.address(parts[1])}
        else:
            found = version if version in known else [*known][-1]
            status = "NodeVersionStatusActive"
            link = f"{self.url}/archives/{parts[1]}/{found}"
            said = {"version": found, "status": status, "downloadUrl": link}
        return 200, json.dumps(said).encode()

    def run_git(self, request: BaseHTTPRequestHandler, body: bytes) -> bytes:
        """The answer of git's own server, with its headers."""
        path, _, query = request.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self._folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env={**os.environ, **variables},
            capture_output=True,
            check=False,  # of a commit that is not there
        )
        return done.stdout


@contextmanager
def pack_server(folder: Path) -> Iterator[PackServer]:
    """A `PackServer` that runs."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            packs.asked.append(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._chunks()
            if not self.path.startswith("/git/"):
                status, content = packs.answer(self.path)
                self.send_response(status)
            else:
                head, _, content = packs.run_git(self, body).partition(b"\r\n\r\n")
                fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
                self.send_response(int(fields.pop("Status", "200").split()[0]))
                for name, value in fields.items():
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if packs.cut and self.command == "POST":
                self.wfile.write(content[: len(content) // 2])
                self.connection.close()
                return
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def _chunks(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        packs = PackServer(folder, server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield packs
        finally:
            server.shutdown()


def _unpacked(content: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
