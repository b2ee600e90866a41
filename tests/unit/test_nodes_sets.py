"""Node packs that jobs bring to a worker: built beside the last good set, and tried before use."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes_kit import (
    PackServer,
    environ,
    needs_uv,
    pack,
    pack_server,
    small_comfyui,
    small_python,
    wheels,
)

from comfy_remote.errors import (
    ComfyRemoteError,
    ConfigurationError,
    EngineCrashed,
    LocalStorageError,
    NodesUnavailable,
)
from comfy_remote.wire.nodes import PackWanted
from comfy_remote.worker.nodes.program import ComfyUIProgram
from comfy_remote.worker.nodes.sets import Built, NodeSets
from comfy_remote.worker.nodes.settings import Patience
from comfy_remote.worker.nodes.steps import said_again


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_uv()
    return str(small_python(tmp_path_factory.mktemp("python") / "venv"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackServer]:
    with pack_server(tmp_path / "origin") as packs:
        yield packs


class Worker:
    """One worker, and what it says."""

    def __init__(self, server: PackServer, folder: Path, python: str, name: str = "w") -> None:
        self.program = ComfyUIProgram(small_comfyui(folder / f"ComfyUI-{name}"), python)
        links = wheels(folder / "wheels", ("tiny", "1.0"), ("deep", "2.0", ("tiny", "numpy")))
        self.links = links
        settings = server.settings(folder / "volume" / "nodes")
        self.sets = NodeSets(settings, worker=name, environ=environ(links))
        self.said: list[str] = []
        self.starts = 0

    async def install(self, *packs: PackWanted) -> Built:
        return await self.sets.build(packs, self.program, self.said.append, self.start)

    async def start(self) -> None:
        self.starts += 1

    def files(self) -> set[str]:
        current = self.sets.for_engine()
        assert current is not None
        return {one.name for one in self.sets.folder.custom_nodes(current.id).iterdir()}


@pytest.fixture
def worker(server: PackServer, tmp_path: Path, python: str) -> Worker:
    return Worker(server, tmp_path, python)


def by_commit(server: PackServer, name: str, commit: str, *classes: str) -> PackWanted:
    return PackWanted(source=server.address(name), version=commit, classes=classes)


async def test_a_pack_of_a_repository_and_one_of_the_registry_become_one_set(
    server: PackServer, worker: Worker
) -> None:
    old, new = server.repository("Things", pack("Old"), pack("New"))
    server.publish("words", "1.2.0", pack("Word", "import deep", "deep>=1"))
    built = await worker.install(
        by_commit(server, "Things", new, "New"),
        PackWanted(source="words", version="1.2.0", classes=("Word",)),
    )
    assert built.installed == ["Things", "words"]
    assert built.current is not None
    assert built.current.requirements == {"deep": "2.0", "tiny": "1.0"}
    assert worker.starts == 1
    assert worker.files() == {"Things", "words"}
    assert [one.installed.commit for one in built.current.packs] == [new, None]
    assert [one.installed.version for one in built.current.packs] == [None, "1.2.0"]
    # The same again changes nothing; an older commit replaces it, and the other pack stays.
    again = await worker.install(by_commit(server, "Things", new))
    assert (again.installed, again.there) == ([], ["Things"])
    assert again.current == built.current
    older = await worker.install(by_commit(server, "Things", old, "Old"))
    assert older.current is not None
    assert older.current.before == built.current.id
    assert [one.version for one in older.current.packs] == [old, "1.2.0"]


async def refused(worker: Worker, *packs: PackWanted) -> ComfyRemoteError:
    """The error of an installation, after which everything is as it was before."""
    before, files, starts = worker.sets.folder.current(), _sets(worker), worker.starts
    with pytest.raises(ComfyRemoteError) as raised:
        await worker.install(*packs)
    assert worker.sets.folder.current() == before
    assert _sets(worker) == files, "something was left"
    assert worker.starts == starts, "the engine was started with it"
    return raised.value


def _sets(worker: Worker) -> set[str]:
    folder = worker.sets.folder.root / "sets"
    return {one.name for one in folder.iterdir()} if folder.is_dir() else set()


@pytest.fixture(scope="module")
def good_set(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A volume that has a good set."""
    folder = tmp_path_factory.mktemp("good")

    async def install(server: PackServer) -> None:
        (commit,) = server.repository("Good", pack("Good", "import tiny", "tiny"))
        worker = Worker(server, folder, python)
        await worker.install(by_commit(server, "Good", commit, "Good"))

    with pack_server(folder / "origin") as server:
        asyncio.run(install(server))
    return folder / "volume"


@pytest.fixture
def with_a_set(worker: Worker, good_set: Path, tmp_path: Path) -> Worker:
    """A worker that has a good set already."""
    shutil.copytree(good_set, tmp_path / "volume")
    assert worker.sets.for_engine() is not None
    return worker


def at(error: ComfyRemoteError) -> tuple[object, object]:
    """Pack and step of an error."""
    assert isinstance(error, NodesUnavailable)
    return error.details.get("pack"), error.details.get("step")


async def test_a_repository_that_goes_away_in_the_middle(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack())
    server.cut = True
    error = await refused(with_a_set, by_commit(server, "Things", commit))
    assert at(error) == ("Things", "git")
    assert "git fetch failed" in error.message
    server.cut = False
    assert (await with_a_set.install(by_commit(server, "Things", commit))).installed == ["Things"]


async def test_a_commit_that_does_not_exist(server: PackServer, with_a_set: Worker) -> None:
    server.repository("Things", pack())
    error = await refused(with_a_set, by_commit(server, "Things", "a" * 40))
    assert at(error) == ("Things", "git")
    assert "not our ref" in error.message


async def test_a_repository_that_does_not_exist(server: PackServer, with_a_set: Worker) -> None:
    error = await refused(with_a_set, by_commit(server, "Nothing", "a" * 40))
    assert at(error) == ("Nothing", "git")
    assert "There is no public repository" in error.message


async def test_a_pack_and_a_version_that_the_registry_does_not_have(
    server: PackServer, with_a_set: Worker
) -> None:
    error = await refused(with_a_set, PackWanted(source="nothing", version="1.0.0"))
    assert at(error) == ("nothing", "registry")
    assert "the registry has no pack nothing" in error.message
    server.publish("words", "1.2.0", pack("Word"))
    error = await refused(with_a_set, PackWanted(source="words", version="9.9.9"))
    assert "the registry has no words 9.9.9; it offers 1.2.0" in error.message


async def test_a_commit_of_a_pack_of_the_registry(server: PackServer, worker: Worker) -> None:
    old, _ = server.repository("words", pack("Old"), pack("New"))
    server.publish("words", "1.2.0", pack("Word"))
    built = await worker.install(PackWanted(source="words", version=old, classes=("Old",)))
    assert built.current is not None
    (one,) = built.current.packs
    assert (one.installed.registry_id, one.installed.commit) == ("words", old)


async def test_a_package_that_cannot_be_had(server: PackServer, with_a_set: Worker) -> None:
    (commit,) = server.repository("Things", pack(requirements="does-not-exist==1"))
    error = await refused(with_a_set, by_commit(server, "Things", commit))
    assert at(error) == ("Things", "requirements")
    assert "does-not-exist" in error.message


async def test_a_uv_that_fails_or_is_not_there(
    server: PackServer, with_a_set: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (commit,) = server.repository("Things", pack(requirements="tiny"))
    broken = tmp_path / "uv"
    broken.write_text("#!/bin/sh\necho 'uv: out of order' >&2\nexit 7\n")
    broken.chmod(0o755)
    for found, words in ((str(broken), "uv: out of order"), (None, "uv, which installs")):
        monkeypatch.setattr("comfy_remote.worker.nodes.requirements.find_uv", lambda f=found: f)
        error = await refused(with_a_set, by_commit(server, "Things", commit))
        assert at(error)[1] == "requirements"
        assert words in error.message


async def test_what_takes_long_is_said_again() -> None:
    lines, twice = list[str](), asyncio.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) > 2:
            twice.set()

    async with said_again(say, every=0.01) as say_now:
        say_now("Trying it")
        await twice.wait()
    assert lines[0] == "Trying it"
    assert set(lines[1:]) == {"Trying it (0 s)"}


async def test_an_installation_that_is_cancelled(server: PackServer, with_a_set: Worker) -> None:
    before, sets = with_a_set.sets.folder.current(), _sets(with_a_set)
    (commit,) = server.repository("Things", pack("Thing", "import time; time.sleep(600)"))
    trying = asyncio.Event()

    def say(line: str) -> None:
        if line.startswith("Trying"):
            trying.set()

    wanted = [by_commit(server, "Things", commit)]
    building = asyncio.create_task(
        with_a_set.sets.build(wanted, with_a_set.program, say, with_a_set.start)
    )
    await trying.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert with_a_set.sets.folder.current() == before
    assert _sets(with_a_set) == sets
    # The lease was given back.
    (commit,) = server.repository("Things", pack("Thing"))
    assert (await with_a_set.install(by_commit(server, "Things", commit))).installed == ["Things"]


async def test_a_pack_that_wants_another_torch(server: PackServer, with_a_set: Worker) -> None:
    (good,) = server.repository("Fine", pack("Fine", "import torch", "torch>=2\nnumpy"))
    (bad,) = server.repository("Things", pack(requirements="torch==2.1.0"))
    fine = by_commit(server, "Fine", good, "Fine")
    error = await refused(with_a_set, fine, by_commit(server, "Things", bad))
    assert at(error) == ("Things", "requirements")
    assert "torch==2.1.0 and torch==2.9.1" in error.message
    assert "torch among them, are never changed" in error.advice
    built = await with_a_set.install(fine)
    assert built.current is not None
    assert built.current.requirements == {"tiny": "1.0"}, "torch is ComfyUI's own"


async def test_packages_that_only_python_itself_finds_are_never_changed(
    server: PackServer, worker: Worker, tmp_path: Path
) -> None:
    """As of a virtual environment with the packages of another one, or of the system."""
    python = small_python(tmp_path / "other-python")
    site = next((tmp_path / "other-python").glob("[lL]ib/**/site-packages"))
    (tmp_path / "elsewhere").mkdir()
    for torch in site.glob("torch*"):
        torch.rename(tmp_path / "elsewhere" / torch.name)
    (site / "more.pth").write_text(f"{tmp_path / 'elsewhere'}\n")
    worker.program = dataclasses.replace(worker.program, python=str(python))
    (good,) = server.repository("Fine", pack("Fine", "import torch", "torch[extra]>=2"))
    (bad,) = server.repository("Things", pack(requirements="torch==2.1.0"))
    error = await refused(worker, by_commit(server, "Things", bad))
    assert "torch==2.1.0 and torch==2.9.1" in error.message
    built = await worker.install(by_commit(server, "Fine", good, "Fine"))
    assert built.current is not None
    assert built.current.requirements == {}


async def test_two_packs_whose_requirements_do_not_go_together(
    server: PackServer, with_a_set: Worker
) -> None:
    wheels(with_a_set.links, ("tiny", "2.0"))
    (one,) = server.repository("One", pack("One", requirements="tiny==2.0"))
    (other,) = server.repository("Other", pack("Other", requirements="tiny<2"))
    wanted = by_commit(server, "One", one), by_commit(server, "Other", other)
    error = await refused(with_a_set, *wanted)
    assert at(error) == (None, "requirements")
    assert "What Good, One, Other require together does not go" in error.message


async def test_a_pack_that_raises_when_it_is_imported(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack("Thing", "raise OSError('no such card')"))
    error = await refused(with_a_set, by_commit(server, "Things", commit))
    assert at(error) == ("Things", "import")
    assert "no such card" in error.message
    assert "Traceback" in str(error.details["log"])


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("import os; print('I end this.', flush=True); os._exit(3)", "exit status 3"),
        ("import time; time.sleep(600)", "did not answer within"),
    ],
)
async def test_a_pack_that_breaks_the_start(
    server: PackServer, with_a_set: Worker, top: str, words: str
) -> None:
    patience = Patience(fetch=60, requirements=60, script=60, trial=60 if "exit" in words else 2)
    with_a_set.sets.settings = server.settings(with_a_set.sets.settings.folder, patience=patience)
    (commit,) = server.repository("Things", pack("Thing", top))
    error = await refused(with_a_set, by_commit(server, "Things", commit))
    assert at(error)[1] == "start"
    assert words in error.message
    if "exit" in words:
        assert error.message.endswith("I end this.")


async def test_a_pack_with_which_comfyui_does_not_list_its_nodes(
    server: PackServer, with_a_set: Worker
) -> None:
    top = """
import json
dumps = json.dumps
json.dumps = lambda value: dumps([] if "Thing" in value else value)
"""
    (commit,) = server.repository("Things", pack("Thing", top))
    error = await refused(with_a_set, by_commit(server, "Things", commit, "Thing"))
    assert error.details["step"] == "start"
    assert "started with the new packs, but said no nodes" in error.message


async def test_a_pack_without_the_class_that_was_asked_for(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack("Thing"))
    error = await refused(with_a_set, by_commit(server, "Things", commit, "Thing", "Other"))
    assert at(error) == ("Things", "classes")
    assert "does not know Other" in error.message


async def test_a_class_that_comfyui_has_from_another_pack(
    server: PackServer, with_a_set: Worker
) -> None:
    own = with_a_set.program.folder / "custom_nodes" / "Own"
    own.mkdir()
    (own / "__init__.py").write_text(pack("Mine")["__init__.py"])
    lacks, replaces = server.repository("Things", pack("Thing"), pack("Thing Good"))
    error = await refused(with_a_set, by_commit(server, "Things", lacks, "Mine"))
    assert at(error) == ("Things", "classes")
    assert error.message == "ComfyUI has Mine from Own, not from Things."
    error = await refused(with_a_set, by_commit(server, "Things", replaces, "Thing"))
    assert error.message == "ComfyUI has Good from Things, not from Good."


async def test_one_pack_by_its_id_and_by_its_address(
    server: PackServer, with_a_set: Worker
) -> None:
    about = '[project]\nname = "words"\nversion = "1.2.0"\n'
    server.publish("words", "1.2.0", {**pack("Word"), "pyproject.toml": about})
    (commit,) = server.repository("Many-Words", {**pack("Word"), "pyproject.toml": about})
    by_address = by_commit(server, "Many-Words", commit, "Word")
    await with_a_set.install(by_address)
    again = by_address.model_copy(update={"source": by_address.source.removesuffix(".git") + "/"})
    assert (await with_a_set.install(again)).there == ["Many-Words"]
    await with_a_set.install(PackWanted(source="words", version="1.2.0", classes=("Word",)))
    assert with_a_set.files() == {"Good", "words"}


async def test_what_a_script_writes_of_its_environment_has_no_secrets(
    server: PackServer, worker: Worker
) -> None:
    token, index = "hf_0123456789abcdef", "https://bob:hunter2@packages.example/simple"
    environment = environ(worker.links, HF_TOKEN=token, UV_EXTRA_INDEX_URL=index)
    worker.sets = NodeSets(worker.sets.settings, environ=environment)
    shown = "import os\nfor one in os.environ.items():\n    print(*one)\n"
    shown += "print('-' * 985 + os.environ['HF_TOKEN'])\nraise SystemExit(1)"
    script, start = server.repository(
        "Things", {**pack(), "install.py": shown}, {**pack(top=shown), "install.py": ""}
    )
    for commit, step in ((script, "install.py"), (start, "start")):
        error = await refused(worker, by_commit(server, "Things", commit))
        assert error.details["step"] == step
        said = f"{error} {error.details}"
        assert "UV_EXTRA_INDEX_URL https://bob:[UV_EXTRA_INDEX_URL]@packages" in said
        assert not [one for one in ("hunter2", token[:15]) if one in said]


async def test_a_pack_whose_script_fails(server: PackServer, with_a_set: Worker) -> None:
    files = {**pack("Thing"), "install.py": "print('no compiler here'); raise SystemExit(4)"}
    (commit,) = server.repository("Things", files)
    error = await refused(with_a_set, by_commit(server, "Things", commit))
    assert at(error) == ("Things", "install.py")
    assert "no compiler here" in error.message


async def test_a_script_has_what_its_pack_requires_and_no_secrets(
    server: PackServer, worker: Worker
) -> None:
    script = "import json, os, sys, tiny\n"
    script += "assert os.path.isabs(__file__) and sys.path[0] == os.getcwd()\n"
    script += "open('seen.json', 'w').write(json.dumps(dict(os.environ)))"
    files = {**pack("Thing", requirements="tiny"), "install.py": script}
    (commit,) = server.repository("Things", files)
    secret = {"RUNPOD_API_KEY": "not for packs"}
    worker.sets = NodeSets(
        worker.sets.settings, environ={**worker.sets.programs_environ(), **secret}
    )
    built = await worker.install(by_commit(server, "Things", commit))
    assert built.current is not None
    folder = worker.sets.folder.path(built.current.id)
    seen = json.loads((folder / "custom_nodes" / "Things" / "seen.json").read_text())
    assert "RUNPOD_API_KEY" not in seen
    assert seen["PIP_PREFIX"] == str(folder / "scripts")


async def test_an_engine_that_does_not_start_with_it_has_the_last_one_again(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack("Thing"))
    before = with_a_set.sets.folder.current()

    async def fails() -> None:
        raise EngineCrashed("There is no GPU.", details={"engine_log": "one\ntwo"})

    wanted = [by_commit(server, "Things", commit)]
    with pytest.raises(NodesUnavailable, match="There is no GPU") as raised:
        await with_a_set.sets.build(wanted, with_a_set.program, print, fails)
    assert raised.value.details["step"] == "start"
    assert raised.value.details["log"] == "one\ntwo"
    assert with_a_set.sets.folder.current() == before


async def test_a_full_disk_is_said_and_leaves_nothing(
    server: PackServer, with_a_set: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "print('[Errno 28] No space left on device'); raise SystemExit(1)"
    (commit,) = server.repository("Things", {**pack(), "install.py": script})
    wanted = by_commit(server, "Things", commit)
    error = await refused(with_a_set, wanted)
    assert isinstance(error, LocalStorageError)
    assert error.details["pack"] == "Things"
    monkeypatch.setattr("comfy_remote.worker.nodes.sets.free_bytes", lambda _folder: 1000)
    error = await refused(with_a_set, wanted)
    assert isinstance(error, LocalStorageError)
    assert "which has 1.0 kB" in error.message


async def test_a_pack_of_the_machine_is_never_replaced(
    server: PackServer, with_a_set: Worker
) -> None:
    there = with_a_set.program.folder / "custom_nodes" / "words"
    there.mkdir()
    (there / "__init__.py").write_text(pack("Word")["__init__.py"])
    (there / "pyproject.toml").write_text('[project]\nname = "Words"\nversion = "1.2.0"\n')
    server.publish("words", "1.2.0", pack("Word"))
    server.publish("words", "1.3.0", pack("Word"))
    error = await refused(with_a_set, PackWanted(source="words", version="1.3.0"))
    assert at(error) == ("words", "request")
    assert "has its own words there already, at 1.2.0" in error.message
    built = await with_a_set.install(PackWanted(source="words", version="1.2.0"))
    assert (built.installed, built.there) == ([], ["words"])


async def test_a_comfyui_that_was_started_in_another_folder(
    server: PackServer, with_a_set: Worker, tmp_path: Path
) -> None:
    own = tmp_path / "own" / "Mine"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text(pack("Mine")["__init__.py"])
    (tmp_path / "paths.yaml").write_text('{"mine": {"custom_nodes": "own"}}')
    with_a_set.program = dataclasses.replace(
        with_a_set.program,
        arguments=("--extra-model-paths-config", "paths.yaml"),
        cwd=tmp_path,
    )
    (commit,) = server.repository("Things", pack("Thing"))
    await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    error = await refused(with_a_set, PackWanted(source="mine", version="1.0.0"))
    assert "ComfyUI has its own Mine there already" in error.message


async def test_going_back(server: PackServer, with_a_set: Worker) -> None:
    first = with_a_set.sets.folder.current()
    old, new = server.repository("Things", pack("Old"), pack("New"))
    second = (await with_a_set.install(by_commit(server, "Things", old))).current
    third = (await with_a_set.install(by_commit(server, "Things", new))).current
    assert second is not None
    assert third is not None
    assert first is not None
    assert _sets(with_a_set) == {second.id, third.id}, "what is older than the last good one goes"
    back = await with_a_set.sets.roll_back(print, with_a_set.start)
    assert back.current == second
    assert back.removed == [third.id]
    assert with_a_set.sets.answer().can_go_back is False
    with pytest.raises(NodesUnavailable, match="no earlier set"):
        await with_a_set.sets.roll_back(print, with_a_set.start)
    assert with_a_set.sets.folder.current() == second


async def test_going_back_from_the_first_set_leaves_comfyui_as_it_was(
    with_a_set: Worker,
) -> None:
    assert with_a_set.sets.answer().can_go_back
    assert (await with_a_set.sets.roll_back(print, with_a_set.start)).current is None
    assert with_a_set.sets.for_engine() is None
    assert _sets(with_a_set) == set()
    with pytest.raises(NodesUnavailable, match="no earlier set"):
        await with_a_set.sets.roll_back(print, with_a_set.start)


async def test_going_back_to_what_does_not_start_any_more(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack("Thing"))
    current = (await with_a_set.install(by_commit(server, "Things", commit))).current

    async def fails() -> None:
        raise EngineCrashed("It ended.", details={"engine_log": "one\ntwo"})

    with pytest.raises(NodesUnavailable, match=r"earlier packs any more: It ended\.") as raised:
        await with_a_set.sets.roll_back(print, fails)
    assert raised.value.details["log"] == "one\ntwo"
    assert with_a_set.sets.folder.current() == current
    assert (await with_a_set.sets.roll_back(print, with_a_set.start)).current is not None


async def test_a_worker_that_stood_still_changes_nothing_that_another_has_taken_over(
    server: PackServer, with_a_set: Worker
) -> None:
    (commit,) = server.repository("Things", pack("Thing"))
    sets, before = with_a_set.sets, with_a_set.sets.folder.current()
    assert before is not None

    def say(line: str) -> None:
        if line.startswith("Trying"):
            (lock,) = sets.folder.root.rglob("locks/build")
            lock.write_text("of another")

    wanted = by_commit(server, "Things", commit, "Thing")
    with pytest.raises(NodesUnavailable, match="stood still"):
        await sets.build([wanted], with_a_set.program, say, with_a_set.start)
    assert sets.folder.current() == before
    assert _sets(with_a_set) == {before.id}
    await with_a_set.install(wanted)
    assert with_a_set.files() == {"Good", "Things"}


async def test_what_packs_write_into_their_folders_is_no_obstacle(
    server: PackServer, with_a_set: Worker
) -> None:
    folder, before = with_a_set.sets.folder, with_a_set.sets.folder.current()
    assert before is not None
    there = folder.custom_nodes(before.id) / "Good"
    (there / "cache").mkdir()
    (there / "cache" / "a.json").write_text("{}")
    (there / "latest").symlink_to("cache", target_is_directory=True)
    (there / "gone").symlink_to("nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(there / "pipe")
    (commit,) = server.repository("Things", pack("Thing"))
    built = await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert built.current is not None
    copied = folder.custom_nodes(built.current.id) / "Good"
    assert (copied / "latest" / "a.json").read_text() == "{}"
    assert (copied / "gone").is_symlink()
    assert not (copied / "pipe").exists()


async def test_a_set_whose_python_packages_were_removed_by_hand(
    server: PackServer, with_a_set: Worker
) -> None:
    first = with_a_set.sets.folder.current()
    (commit,) = server.repository("Things", pack("Thing", requirements="deep"))
    second = (await with_a_set.install(by_commit(server, "Things", commit))).current
    assert second is not None
    shutil.rmtree(with_a_set.sets.folder.site(second.id))
    assert with_a_set.sets.for_engine() == first
    await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert with_a_set.files() == {"Good", "Things"}


async def test_two_jobs_of_one_worker_install_one_after_the_other(
    server: PackServer, with_a_set: Worker
) -> None:
    first, second = server.repository("A", pack("A"))[0], server.repository("B", pack("B"))[0]
    await asyncio.gather(
        with_a_set.install(by_commit(server, "A", first, "A")),
        with_a_set.install(by_commit(server, "B", second, "B")),
    )
    assert with_a_set.files() == {"A", "B", "Good"}
    assert "Waiting for another job, which installs" in with_a_set.said


async def test_a_set_that_was_removed_by_hand(server: PackServer, with_a_set: Worker) -> None:
    first = with_a_set.sets.folder.current()
    (commit,) = server.repository("Things", pack("Thing"))
    second = (await with_a_set.install(by_commit(server, "Things", commit))).current
    assert second is not None
    shutil.rmtree(with_a_set.sets.folder.path(second.id))
    assert with_a_set.sets.for_engine() == first
    built = await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert with_a_set.files() == {"Good", "Things"}
    assert built.current is not None
    assert first is not None
    shutil.rmtree(with_a_set.sets.folder.path(first.id))
    shutil.rmtree(with_a_set.sets.folder.path(built.current.id))
    assert with_a_set.sets.for_engine() is None
    built = await with_a_set.install(by_commit(server, "Things", commit))
    assert with_a_set.files() == {"Things"}


async def test_a_damaged_pointer_costs_no_pack(server: PackServer, with_a_set: Worker) -> None:
    sets, before = with_a_set.sets, with_a_set.sets.folder.current()
    (sets.folder.root / "current.json").write_text("")
    assert sets.for_engine() == before
    (commit,) = server.repository("Things", pack("Thing"))
    await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert with_a_set.files() == {"Good", "Things"}


async def test_a_volume_that_cannot_be_read_for_a_moment_costs_no_pack(
    server: PackServer, with_a_set: Worker
) -> None:
    sets, before = with_a_set.sets, with_a_set.sets.folder.current()
    assert before is not None
    pointer, aside = sets.folder.root / "current.json", sets.folder.root / "aside"
    note = sets.folder.path(before.id) / "set.json"
    (commit,) = server.repository("Things", pack("Thing"))
    for path in (pointer, note):
        path.rename(aside)
        path.mkdir()  # reading it is an error, and it is there
        with pytest.raises(LocalStorageError, match="cannot be read"):
            await with_a_set.install(by_commit(server, "Things", commit))
        path.rmdir()
        aside.rename(path)
    assert sets.for_engine() == before
    assert _sets(with_a_set) == {before.id}


async def test_two_workers_of_a_volume_build_one_after_the_other(
    server: PackServer, tmp_path: Path, python: str
) -> None:
    one = Worker(server, tmp_path, python, "one")
    other = Worker(server, tmp_path, python, "other")
    first, second = server.repository("A", pack("A"))[0], server.repository("B", pack("B"))[0]
    await asyncio.gather(
        one.install(by_commit(server, "A", first, "A")),
        other.install(by_commit(server, "B", second, "B")),
    )
    assert one.files() == other.files() == {"A", "B"}
    waited = [line for line in (*one.said, *other.said) if line.startswith("Waiting for")]
    assert set(waited) <= {
        "Waiting for one, which installs",
        "Waiting for other, which installs",
        "Waiting for another worker, which installs",
    }


async def test_a_set_in_which_an_engine_runs_stays(
    server: PackServer, with_a_set: Worker, tmp_path: Path, python: str
) -> None:
    other = NodeSets(with_a_set.sets.settings, worker="other")
    first = with_a_set.sets.folder.current()
    assert first is not None
    other.folder.in_use.use(first.id)
    commits = server.repository("Things", pack("Old"), pack("New"), pack("Newest"))
    for commit in commits:
        await with_a_set.install(by_commit(server, "Things", commit))
    assert first.id in _sets(with_a_set)
    assert len(_sets(with_a_set)) == 3
    other.folder.in_use.use(None)
    assert with_a_set.sets.folder.remove_old() == [first.id]


async def test_an_owner_who_has_not_allowed_it(server: PackServer, with_a_set: Worker) -> None:
    current = with_a_set.sets.folder.current()
    settings = server.settings(with_a_set.sets.settings.folder, allow=False)
    with_a_set.sets = NodeSets(settings)
    with pytest.raises(ConfigurationError, match="has not allowed"):
        await with_a_set.install(PackWanted(source="words", version="1.0.0"))
    with pytest.raises(ConfigurationError, match="has not allowed"):
        await with_a_set.sets.roll_back(print, with_a_set.start)
    assert with_a_set.sets.for_engine() == current, "what is there is used"


async def test_an_address_in_a_private_network_is_refused(
    server: PackServer, worker: Worker
) -> None:
    (commit,) = server.repository("Things", pack())
    settings = server.settings(worker.sets.settings.folder, registry="https://api.comfy.org")
    worker.sets = NodeSets(dataclasses.replace(settings, hosts=frozenset()), environ=environ())
    error = await refused(worker, by_commit(server, "Things", commit))
    assert at(error) == ("Things", "git")
    assert "is not https" in error.message or "private network" in error.message
    hidden = f"https://{server.host}/git/Things.git"
    error = await refused(worker, PackWanted(source=hidden, version=commit))
    assert "private network" in error.message
    assert "COMFY_REMOTE_NODE_HOSTS" in error.advice
    assert server.asked == []


async def test_a_submodule_is_fetched_at_its_commit_and_from_allowed_addresses(
    server: PackServer, worker: Worker
) -> None:
    inner, _ = server.repository("Inner", {"inner.py": "X = 1\n"}, {"inner.py": "X = 2\n"})
    (outer,) = server.repository(
        "Outer",
        {
            **pack("Outer", "from .lib.inner import X\nassert X == 1"),
            ".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = ../Inner.git\n',
        },
    )
    server.link("Outer", "lib", inner)
    (whole,) = server.repository("Outer", {})
    await worker.install(by_commit(server, "Outer", whole, "Outer"))
    assert outer != whole
    (without,) = server.repository("Without", {**pack(), ".gitmodules": ""})
    await worker.install(by_commit(server, "Without", without))
    server.repository(
        "Outer", {".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = file:///etc\n'}
    )
    server.link("Outer", "lib", inner)
    (elsewhere,) = server.repository("Outer", {})
    error = await refused(worker, by_commit(server, "Outer", elsewhere))
    assert at(error) == ("Outer", "git")
    assert "not an http or https address" in error.message


KILLED = """
import asyncio, os, sys
from pathlib import Path
from comfy_remote.wire.nodes import PackWanted
from comfy_remote.worker.nodes.program import ComfyUIProgram
from comfy_remote.worker.nodes.sets import NodeSets
from comfy_remote.worker.nodes.settings import NodeSettings

comfyui, python, folder, url, host, source, commit, at = sys.argv[1:]

def say(line):
    if line.startswith(at):
        os.kill(os.getpid(), 9)

async def start():
    say("started")

settings = NodeSettings(Path(folder), allow=True, registry=url, hosts=frozenset({host}))
sets = NodeSets(settings, worker="killed")
wanted = [PackWanted(source=source, version=commit)]
asyncio.run(sets.build(wanted, ComfyUIProgram(Path(comfyui), python), say, start))
"""


@pytest.mark.parametrize("at_line", ["Fetching", "Installing", "Trying", "started"])
async def test_a_worker_that_is_killed_at_any_step(
    server: PackServer, with_a_set: Worker, at_line: str
) -> None:
    before = with_a_set.sets.folder.current()
    assert before is not None
    files = {**pack("Thing", requirements="tiny"), "install.py": ""}
    (commit,) = server.repository("Things", files)
    folder, program = with_a_set.sets.settings.folder, with_a_set.program
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(program.folder), program.python, str(folder)),
        *(server.url, server.host, server.address("Things"), commit, at_line),
        env={**with_a_set.sets.programs_environ(), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert await killed.wait() == -signal.SIGKILL
    after = with_a_set.sets.folder.current()
    assert after is not None
    if at_line == "started":  # it was tried, and is current
        assert {one.name for one in after.packs} == {"Good", "Things"}
    else:
        assert after == before
    # Nobody waits for the lease of a process that is gone, and what it has left goes.
    await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert not any("killed" in line for line in with_a_set.said)
    assert with_a_set.files() == {"Good", "Things"}
    assert _sets(with_a_set) == {before.id, with_a_set.sets.for_engine().id}


async def test_a_worker_that_is_killed_in_a_trial_takes_it_along(
    server: PackServer, with_a_set: Worker
) -> None:
    before = with_a_set.sets.folder.current()
    top = "import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text("
    top += "str(os.getpid()) + '\\n')\ntime.sleep(600)"
    (commit,) = server.repository("Things", pack("Thing", top))
    folder, program = with_a_set.sets.settings.folder, with_a_set.program
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(program.folder), program.python, str(folder)),
        *(server.url, server.host, server.address("Things"), commit, "never said"),
        env={**with_a_set.sets.programs_environ(), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    pid = 0
    while not pid:
        assert killed.returncode is None
        written = [one.read_text() for one in folder.glob("sets/*/custom_nodes/Things/pid")]
        pid = int(written[0]) if written and written[0].endswith("\n") else 0
        await asyncio.sleep(0.05)
    killed.kill()
    await killed.wait()
    while _is_alive(pid):
        await asyncio.sleep(0.05)
    assert with_a_set.sets.folder.current() == before
    (commit,) = server.repository("Things", pack("Thing"))
    await with_a_set.install(by_commit(server, "Things", commit, "Thing"))
    assert with_a_set.files() == {"Good", "Things"}


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_script_ends_with_the_worker_that_has_started_it(
    server: PackServer, worker: Worker
) -> None:
    connected, ended = asyncio.Event(), asyncio.Event()

    async def from_script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        connected.set()
        await reader.read()  # until the script is gone
        ended.set()
        writer.close()

    async with await asyncio.start_server(from_script, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        script = f"""
import socket, time
connection = socket.create_connection(("127.0.0.1", {port}))
connection.sendall(b"x")
time.sleep(600)
"""
        (commit,) = server.repository("Things", {**pack("Thing"), "install.py": script})
        folder, program = worker.sets.settings.folder, worker.program
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, str(program.folder), program.python, str(folder)),
            *(server.url, server.host, server.address("Things"), commit, "never"),
            env={**worker.sets.programs_environ(), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            await asyncio.wait_for(connected.wait(), 60)
        finally:
            killed.kill()
        await killed.wait()
        await asyncio.wait_for(ended.wait(), 60)
