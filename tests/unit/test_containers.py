"""Dockerfile, docker/ and .runpod/: what can be held to without a Docker daemon."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import threading
import venv
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import git, real_comfyui

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
INSTALLER = ROOT / "comfy_remote" / "worker" / "nodes" / "install_custom_nodes.py"
DOCKERFILES = [ROOT / "Dockerfile", DOCKER / "Dockerfile.cpu"]


# ---- Model folders ----------------------------------------------------------------------------


def kinds_of_comfyui(directory: Path) -> dict[str, set[str]]:
    """Each kind of folder and the paths it is read from, from ComfyUI's own source."""
    found: dict[str, set[str]] = {}
    for line in (directory / "folder_paths.py").read_text(encoding="utf-8").splitlines():
        kind = re.match(r'folder_names_and_paths\["(\w+)"\] = ', line)
        if kind is None:
            continue
        paths = re.findall(r'os\.path\.join\((\w+), "(\w+)"\)', line)
        found[kind[1]] = {
            f"{'models/' if top == 'models_dir' else ''}{name}/" for top, name in paths
        }
    return found


def kinds_of_ours() -> dict[str, set[str]]:
    """Each kind in extra_model_paths.yaml. A small reader: YAML is no dependency of ours."""
    text = (DOCKER / "extra_model_paths.yaml").read_text()
    section = text[text.index("&kinds") : text.index("volume_with_models:")]
    kinds: dict[str, set[str]] = {}
    for line in section.splitlines()[2:]:
        if named := re.fullmatch(r"  (\w+): (.+)", line):
            kinds[named[1]] = set() if named[2] == "|" else {named[2]}
            last = named[1]
        elif line.strip():
            kinds[last].add(line.strip())
    return kinds


@pytest.mark.comfyui
def test_every_kind_of_model_folder_of_comfyui_is_on_the_volume() -> None:
    directory = real_comfyui()
    theirs = kinds_of_comfyui(directory)
    assert len(theirs) > 15, "folder_paths.py is not written as it was"
    # ComfyUI ends when that folder is missing; start.sh looks first.
    theirs.pop("custom_nodes")
    ours = kinds_of_ours()
    assert {kind: ours.get(kind) for kind in theirs} == theirs


def test_both_layouts_have_the_same_folders() -> None:
    text = (DOCKER / "extra_model_paths.yaml").read_text()
    second = text[text.index("volume_with_models:") :].split("\n", 1)[1]
    assert second == "  <<: *kinds\n  base_path: ${COMFY_REMOTE_VOLUME}\n"
    assert "base_path: ${COMFY_REMOTE_VOLUME}/ComfyUI\n" in text


# ---- Custom nodes -----------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits; the first prints "one", and needs a package."""
    folder = tmp_path / "origin" / "ComfyUI-Thing.git"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "requirements.txt").write_text(wheel(tmp_path).as_uri() + "\n")
    # As the Impact Pack's: it puts a model into ComfyUI's folder, and looks where it came from.
    (folder / "install.py").write_text(
        "import a_thing, os, subprocess\n"
        "open('was_run', 'w').write(a_thing.SAYS)\n"
        "os.makedirs('../../models/sams', exist_ok=True)\n"
        "open('../../models/sams/sam.pth', 'w').write('weights')\n"
        "if os.path.exists('.git'):\n"
        "    subprocess.run(['git', 'remote', 'get-url', 'origin'], check=True)\n"
    )
    for number in ("one", "two"):
        (folder / "__init__.py").write_text(f"print({number!r})\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", number)
    return folder


def wheel(folder: Path) -> Path:
    files = {
        "a_thing.py": "SAYS = 'needed and there'\n",
        "a_thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: a-thing\nVersion: 1.0\n",
        "a_thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256="
        f"{urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text)}\n"
        for name, text in files.items()
    )
    path = folder / "a_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(
            "a_thing-1.0.dist-info/RECORD", record + "a_thing-1.0.dist-info/RECORD,,\n"
        )
    return path


def install(
    tmp_path: Path,
    text: str,
    python: Path | str = sys.executable,
    registry: str = "https://0.0.0.0",
) -> subprocess.CompletedProcess[str]:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text(text)
    command = [str(python), str(INSTALLER), str(nodes), str(tmp_path / "custom_nodes")]
    command += ["--registry", registry]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_custom_node_is_installed_at_its_commit_with_what_it_needs(
    tmp_path: Path, repository: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    first = git(repository, "rev-parse", "HEAD~1")
    done = install(
        tmp_path,
        f"# a comment\n\n{repository.as_uri()}@{first} # why we have it\n",
        tmp_path / "venv" / folder / "python",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    node = tmp_path / "custom_nodes" / "ComfyUI-Thing"
    assert (node / "__init__.py").read_text() == "print('one')\n"
    assert (node / "was_run").read_text() == "needed and there"
    assert git(node, "remote", "get-url", "origin") == repository.as_uri()
    assert git(node, "rev-parse", "HEAD") == first


def encrypted(archive: bytes) -> bytes:
    """Said to need a password: bit 0 of the flags, in both headers of the first entry."""
    changed = bytearray(archive)
    changed[archive.index(b"PK\x03\x04") + 6] |= 1
    changed[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def two_in_one_place() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("nodes", "a file")
        archive.writestr("nodes/a.py", "and a folder of that name")
    return content.getvalue()


@pytest.fixture
def registry(repository: Path) -> Iterator[str]:
    """The Comfy Registry, with ``thing`` in version 1.2.0; a flagged 1.3.0; and broken ones."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__init__.py", "print('from the registry')\n")
        archive.writestr("../outside.py", "")
    good = content.getvalue()
    archives = {"1.2.0": good, "1.3.0": good, "1.4.0": b"not a zip", "1.5.0": encrypted(good)}
    archives["1.6.0"] = two_in_one_place()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            path, _, query = self.path.partition("?version=")
            version = query if query in archives else "1.2.0"
            status = f"NodeVersionStatus{'Flagged' if version == '1.3.0' else 'Active'}"
            answers = {
                "/nodes/thing": {"id": "thing", "repository": repository.as_uri()},
                "/nodes/thing/install": {
                    "version": version,
                    "status": status,
                    "downloadUrl": f"{here}/{version}.zip",
                },
            }
            known = json.dumps(answers[path]).encode() if path in answers else None
            if path.startswith("/nodes/deep"):
                known = b"[" * 100_000
            if path.startswith("/nodes/rude"):
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
            content = archives.get(path[1:].removesuffix(".zip"), known)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_custom_node_is_installed_at_its_version_of_the_registry(
    tmp_path: Path, registry: str
) -> None:
    done = install(tmp_path, "thing@1.2.0\n", registry=registry)
    assert done.returncode == 0, done.stderr
    node = tmp_path / "custom_nodes" / "thing"
    assert (node / "__init__.py").read_text() == "print('from the registry')\n"
    assert (node / "outside.py").exists() and not (node.parent / "outside.py").exists()


def test_a_custom_node_of_the_registry_is_installed_at_a_commit(
    tmp_path: Path, registry: str, repository: Path
) -> None:
    (repository / "requirements.txt").unlink()
    (repository / "install.py").unlink()
    git(repository, "commit", "--quiet", "-am", "three")
    done = install(tmp_path, f"thing@{git(repository, 'rev-parse', 'HEAD')}\n", registry=registry)
    assert done.returncode == 0, done.stderr
    node = tmp_path / "custom_nodes" / "thing"
    assert git(node, "remote", "get-url", "origin") == repository.as_uri()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("thing@9.9.9", "the registry has no thing 9.9.9; it offers 1.2.0"),
        ("thing@1.3.0", "the registry says of thing 1.3.0: NodeVersionStatusFlagged"),
        ("thing@1.4.0", "cannot be unpacked"),
        ("thing@1.5.0", "archive of thing cannot be unpacked: File"),
        ("thing@1.6.0", "cannot be unpacked"),
        ("deep@1.0.0", "the registry's answer about deep cannot be read"),
        ("rude@1.0.0", "could not be fetched"),
        ("nothing@1.0.0", "the registry has no pack nothing"),
    ],
)
def test_what_the_registry_does_not_have_stops_the_build(
    tmp_path: Path, registry: str, line: str, words: str
) -> None:
    done = install(tmp_path, f"{line}\n", registry=registry)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


def test_the_registry_names_no_repository_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from comfy_remote.worker.nodes import install_custom_nodes as installer

    said = {"repository": "file:///home/ann/private"}
    monkeypatch.setattr(installer, "_answer", lambda url, name: said)
    with pytest.raises(installer.RegistryError, match="no repository of thing"):
        installer.repository_of("thing")
    said["repository"] = "https://github.com/o/thing"
    assert installer.repository_of("thing") == "https://github.com/o/thing"


def test_a_commit_that_is_not_there_stops_the_build(tmp_path: Path, repository: Path) -> None:
    done = install(tmp_path, f"{repository.as_uri()}@{'0' * 40}\n")
    assert done.returncode == 1
    assert "ComfyUI-Thing: git fetch" in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("https://example.org/o/n@main", "'main' is not a commit"),
        ("https://example.org/o/n@v1.2.3", "'v1.2.3' is not a commit"),
        ("https://example.org/o/n@abcdef1", "'abcdef1' is not a commit"),
        ("https://example.org/o/n", "give https://"),
        ("n@main", "'main' is neither a version nor a commit"),
        ("n@latest", "'latest' is neither"),
        ("n", "or NAME@VERSION of the Comfy Registry"),
        ("../n@1.2.3", "give https://"),
        ("git@example.org:o/n@" + "a" * 40, "give https://"),
        ("http://example.org/o/n@" + "a" * 40, "give https://"),
        ("--upload-pack=sh@" + "a" * 40, "give https://"),
        ("https://example.org/o/..@" + "a" * 40, "cannot be the name"),
    ],
)
def test_what_is_no_pinned_custom_node_is_refused(tmp_path: Path, line: str, words: str) -> None:
    done = install(tmp_path, f"# one\n{line}\n")
    assert done.returncode == 2
    assert "line 2: " in done.stderr
    assert words in done.stderr
    assert not (tmp_path / "custom_nodes").exists()


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    good = "https://example.org/o/n@" + "a" * 40
    done = install(
        tmp_path, f"{good}\nhttps://example.org/o/m@main\n{good.replace('/o/', '/p/')}\n"
    )
    assert "line 2: " in done.stderr
    assert "line 3: " in done.stderr
    assert "there is a n in the list already" in done.stderr


def test_the_list_that_comes_with_us_can_be_used(tmp_path: Path) -> None:
    done = install(tmp_path, (DOCKER / "custom_nodes.txt").read_text())
    assert done.returncode == 0, done.stderr


# ---- Dockerfiles ------------------------------------------------------------------------------


def copied(dockerfile: Path) -> list[str]:
    text = dockerfile.read_text().replace("\\\n", " ")
    lines = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(dockerfile: Path) -> None:
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and r[0] != "#"]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = copied(dockerfile)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_no_secret_can_get_into_an_image() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for name in (".env", ".git", "comfy-remote.toml", "token.txt", "output"):
        assert not any(fnmatch(name, pattern) for pattern in allowed), name


def requirements(path: Path) -> dict[str, str]:
    pins = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "# ":
            name, _, version = line.removesuffix(" \\").partition("==")
            assert re.fullmatch(r"[0-9][0-9a-z.+]*", version.split(" ")[0]), line
            pins[name] = version
    return pins


@pytest.mark.parametrize("name", ["worker", "comfyui", "uv"])
def test_every_package_is_installed_by_the_hash_of_its_files(name: str) -> None:
    file = f"requirements-{name}.txt"
    text = (DOCKER / file).read_text()
    packages = re.split(r"\n(?=[a-z])", text)[1:]
    assert len(packages) == len(requirements(DOCKER / file))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", one) for one in packages)
    builds = [path.read_text() for path in DOCKERFILES]
    used = [text.replace("\\\n", " ") for text in builds if file in text]
    assert used
    for text in used:
        (line,) = re.findall(rf"(?m)^.*pip install.*{file}", text)
        commands = [one for one in line.split("&&") if file in one]
        assert all("--require-hashes" in one for one in commands)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_built_upon_cannot_be_moved(dockerfile: Path) -> None:
    """An image by its digest, ComfyUI by its commit: a tag may become other code tomorrow."""
    text = dockerfile.read_text()
    arguments = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", text))
    stages = re.findall(r"(?m)^FROM \S+ AS (\w+)", text)
    for image in re.findall(r"(?m)^FROM (\S+)", text):
        if image not in stages:
            name = re.fullmatch(r"\$\{(\w+)\}", image)
            assert re.search(r"@sha256:[0-9a-f]{64}$", arguments[name[1]] if name else image)
    if "COMFYUI_COMMIT" in arguments:
        assert re.fullmatch(r"[0-9a-f]{40}", arguments["COMFYUI_COMMIT"])
    assert "git clone" not in text


def test_everything_the_worker_needs_is_pinned() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["worker"]]
    pins = requirements(DOCKER / "requirements-worker.txt")
    packaging = pytest.importorskip("packaging.requirements")
    for need in map(packaging.Requirement, needs):
        if need.marker is None or need.marker.evaluate({"python_version": "3.12"}):
            assert need.name in pins, f"make requirements-worker.txt anew: {need.name} is new"
            assert pins[need.name] in need.specifier, f"make requirements-worker.txt anew: {need}"


def test_torch_is_pinned_in_one_place_only() -> None:
    torch = requirements(DOCKER / "requirements-torch.txt")
    assert set(torch) == {"torch", "torchvision", "torchaudio"}
    assert not set(torch) & set(requirements(DOCKER / "requirements-comfyui.txt"))


# ---- RunPod Hub -------------------------------------------------------------------------------


def test_the_hubs_manifest_has_what_the_hub_requires() -> None:
    """docs.runpod.io, Hub publishing guide, "hub.json reference"."""
    hub = json.loads((ROOT / ".runpod/hub.json").read_text())
    assert {"title", "description", "type", "category", "config"} <= set(hub)
    assert hub["type"] == "serverless"
    assert hub["category"] in ("audio", "embedding", "language", "video", "image")
    assert hub["config"]["runsOn"] == "GPU"
    for variable in hub["config"]["env"]:
        given = variable["input"]
        assert given["type"] in ("string", "number", "boolean"), variable
        default = {"string": str, "number": (int, float), "boolean": bool}[given["type"]]
        assert isinstance(given["default"], default), variable
        documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
        assert f"`{variable['key']}`" in documents, variable
        if given["type"] == "boolean":
            # What the Hub would write by itself is not documented.
            assert (given["trueValue"], given["falseValue"]) == ("true", "false")
        if options := given.get("options"):
            assert given["default"] in [option["value"] for option in options]
    keys = {variable["key"]: variable["input"] for variable in hub["config"]["env"]}
    assert {"HF_TOKEN", "CIVITAI_TOKEN", "DOWNLOAD_MODELS", "REFRESH_WORKER"} <= set(keys)
    assert {"BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"} <= set(keys)
    for preset in hub["config"]["presets"]:
        for key, value in preset["defaults"].items():
            assert isinstance(value, type(keys[key]["default"])), (preset["name"], key)
    icon = hub["iconUrl"].partition("/main/")[2]
    assert (ROOT / icon).is_file()
    # A secret's default would be everybody's.
    for variable in hub["config"]["env"]:
        if re.search("KEY|TOKEN|SECRET", variable["key"]):
            assert variable["input"]["default"] == ""


def test_the_hub_starts_the_image_where_its_cuda_runs() -> None:
    """From its own version on: RunPod takes a host only if its version is listed."""
    listed = json.loads((ROOT / ".runpod/hub.json").read_text())["config"]["allowedCudaVersions"]
    text = (ROOT / "Dockerfile").read_text()
    base = re.search(r"(?m)^ARG BASE_IMAGE=nvidia/cuda:([0-9]+)\.([0-9]+)\.", text)
    build = re.search(r"(?m)^ARG CUDA=cu([0-9]{2})([0-9])$", text)
    assert base is not None
    assert build is not None
    assert base.groups() == build.groups()
    assert listed == [f"{base[1]}.{minor}" for minor in range(int(base[2]), 10)]


def test_every_variant_of_the_image_is_built_by_the_workflow() -> None:
    workflow = (ROOT / ".github/workflows/images.yml").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    named = re.findall(r"--build-arg (\w+)=(\S+)", workflow)
    assert {name for name, _ in named} <= set(re.findall(r"(?m)^ARG (\w+)", dockerfile))
    assert ("CUDA", "cu128") in named
    assert ("COMPILER", "true") in named
    older = re.search(r"# For CUDA=cu128: (\S+)", dockerfile)
    assert older is not None
    assert ("BASE_IMAGE", older[1]) in named


def test_the_hubs_test_needs_no_model() -> None:
    tests = json.loads((ROOT / ".runpod/tests.json").read_text())
    (test,) = tests["tests"]
    assert {node["class_type"] for node in test["input"]["workflow"].values()} == {
        "EmptyImage",
        "ImageInvert",
        "SaveImage",
    }
    cuda = json.loads((ROOT / ".runpod/hub.json").read_text())["config"]["allowedCudaVersions"]
    assert tests["config"]["allowedCudaVersions"] == cuda


# ---- Documentation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["docker/start.sh", "comfy_remote/worker/choice.py", "comfy_remote/worker/settings.py"],
)
def test_every_variable_is_in_the_documents(source: str) -> None:
    text = (ROOT / source).read_text()
    documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    quote = '"' if source.endswith(".py") else r"\b"
    name = r"(?:COMFY|NETWORK|SERVE|REFRESH)[A-Z]*_[A-Z_]+"
    variables = set(re.findall(f"{quote}({name}){quote}", text))
    assert variables
    assert not sorted(name for name in variables if f"`{name}`" not in documents)
