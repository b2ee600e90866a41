"""Node packs brought to a ComfyUI with our node pack; and what has it import them at its start."""

from __future__ import annotations

import sys
import sysconfig
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
from receiving_kit import comfyui
from sync_kit import sources

from comfy_remote.errors import ComfyRemoteError, NodesUnavailable
from comfy_remote.node_pack.receiving.settings import ReceivingSettings
from comfy_remote.ready.lock import Lock, LockedPack
from comfy_remote.ready.sync.planning import plan_sync
from comfy_remote.ready.sync.steps import Way
from comfy_remote.targets.nodes import install_packs, list_packs, roll_back_packs
from comfy_remote.wire.installed import InstalledPack
from comfy_remote.wire.nodes import PackWanted
from comfy_remote.worker.nodes.at_start import RUNNING_SET, add_packs, sites, started
from comfy_remote.worker.nodes.folder import NodeSet, SetPack, SetsFolder
from comfy_remote.worker.nodes.settings import NodeSettings

ABI = sysconfig.get_config_var("SOABI") or sysconfig.get_platform()
LOCK = Lock(packs=(LockedPack(id="fine", version="1.0.0", classes=("Fine",)),))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_uv()
    return str(small_python(tmp_path_factory.mktemp("python") / "venv"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackServer]:
    # ComfyUI's environment, in which uv asks no index.
    for name, value in environ(wheels(tmp_path / "wheels", ("tiny", "1.0"))).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(RUNNING_SET, raising=False)
    with pack_server(tmp_path / "origin") as packs:
        yield packs


async def test_a_pack_comes_is_there_after_a_restart_and_goes_again(
    server: PackServer, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish("fine", "1.0.0", pack("Fine", requirements="tiny"))
    server.publish("bad", "1.0.0", pack("Bad", "raise RuntimeError('no')"))
    program = (small_comfyui(tmp_path / "ComfyUI"), python, ())
    base = tmp_path / "box"
    nodes = server.settings(base / ".comfy-remote/nodes")
    box = comfyui(base, nodes=nodes, program=program)
    said: list[str] = []
    async with box as there, there.target() as target:
        plan = await plan_sync(LOCK, target, sources(tmp_path))
        assert [(one.way, one.wanted) for one in plan.packs] == [
            (Way.INSTALL, PackWanted(source="fine", version="1.0.0", classes=("Fine",)))
        ]
        wanted = [one.wanted for one in plan.packs if one.wanted is not None]
        answer = await install_packs(target, wanted, said.append)
        assert (answer.installed, answer.requirements) == (["fine"], {"tiny": "1.0"})
        assert answer.can_go_back
        assert "has to be restarted" in " ".join(answer.notes)
        assert any("Trying it" in one for one in said)
        with pytest.raises(NodesUnavailable, match="bad"):
            await install_packs(target, [PackWanted(source="bad", version="1.0.0")], said.append)
        listed = await list_packs(target)
        assert [one.name for one in listed.packs] == ["fine"]
    folders: list[str] = []
    monkeypatch.setattr(sys, "path", [*sys.path])
    started_with = add_packs(base, folders.append)
    assert started_with == answer.set
    monkeypatch.setenv(RUNNING_SET, started_with or "")
    assert [Path(one, "fine").is_dir() for one in folders] == [True]
    async with comfyui(base, nodes=nodes, program=program) as there, there.target() as target:
        listed = await list_packs(target)
        assert (listed.set, listed.notes) == (answer.set, [])
        back = await roll_back_packs(target, said.append)
        assert (back.set, back.packs) == (None, [])
        assert "has to be restarted" in " ".join(back.notes)
        # It still runs with it.
        assert (nodes.folder / "sets" / str(answer.set) / "custom_nodes/fine").is_dir()
    assert add_packs(base, folders.append) is None


async def test_nothing_is_installed_unless_its_owner_allows_that_very_thing(
    server: PackServer, python: str, tmp_path: Path
) -> None:
    server.publish("fine", "1.0.0", pack("Fine"))
    async with comfyui(tmp_path / "box") as there, there.target() as target:
        (step,) = (await plan_sync(LOCK, target, sources(tmp_path))).packs
        assert step.way is Way.IMPOSSIBLE
        assert "ALLOW_NODE_INSTALL=true" in step.why
        wanted = [PackWanted(source="fine", version="1.0.0")]
        with pytest.raises(ComfyRemoteError, match="does not do 'install_nodes'"):
            await install_packs(target, wanted, lambda _: None)
    off = comfyui(
        tmp_path / "other",
        token=None,
        nodes=server.settings(tmp_path / "nodes"),
        program=(small_comfyui(tmp_path / "ComfyUI"), python, ()),
    )
    async with off as there, there.target() as target:
        with pytest.raises(ComfyRemoteError, match="COMFY_REMOTE_SYNC_TOKEN"):
            await install_packs(target, wanted, lambda _: None)
    assert not (tmp_path / "nodes").exists()


async def test_models_need_not_be_allowed_for_packs(
    server: PackServer, python: str, tmp_path: Path
) -> None:
    box = comfyui(
        tmp_path / "box",
        accept=False,
        nodes=server.settings(tmp_path / "nodes"),
        program=(small_comfyui(tmp_path / "ComfyUI"), python, ()),
    )
    async with box as there, there.target() as target:
        takes = await target.takes()
        assert (takes.models, takes.nodes >= {"registry"}) == (frozenset(), True)


def test_a_comfyui_whose_owner_allows_packs_only(tmp_path: Path) -> None:
    token = {"COMFY_REMOTE_SYNC_TOKEN": "a-token-that-is-long-enough"}
    found = ReceivingSettings.from_environ(
        tmp_path / "models", tmp_path, {"ALLOW_NODE_INSTALL": "true", **token}
    )
    assert found.models is None
    assert found.nodes is not None
    assert found.nodes.folder == tmp_path / ".comfy-remote/nodes"
    without = ReceivingSettings.from_environ(tmp_path, tmp_path, {"ALLOW_NODE_INSTALL": "true"})
    assert without == ReceivingSettings()


# At its start


class Sets:
    """The folder of sets of a ComfyUI, filled by hand."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = SetsFolder(base / ".comfy-remote/nodes", "the test")
        self.environ: dict[str, str] = {}
        self.added: list[str] = []

    def make(self, name: str, script: str = "", python: str = ABI) -> str:
        current = self.folder.current()
        set_id = self.folder.new()
        folder = self.folder.custom_nodes(set_id) / name
        folder.mkdir()
        if script:
            (folder / "prestartup_script.py").write_text(script)
        (self.folder.site(set_id) / f"{name}_site.py").write_text("")
        packs = [SetPack(source=name, version="1.0.0", installed=InstalledPack(name=name))]
        made = NodeSet(
            id=set_id,
            packs=packs,
            requirements={"x": "1"},
            python=python,
            made=float(len([*self.folder.path("").iterdir()])),
            made_by="the test",
            before=current.id if current is not None else "",
        )
        self.folder.finish(made)
        self.folder.switch(made)
        return set_id

    def start(self) -> str | None:
        """One start of ComfyUI; the set that it gets."""
        self.environ = {RUNNING_SET: "left by a ComfyUI that has started itself again"}
        self.added = []
        return add_packs(self.base, self.added.append, self.environ)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sets:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["main.py"])
    return Sets(tmp_path)


def test_it_imports_the_packs_and_what_they_require(sets: Sets) -> None:
    assert sets.start() is None
    ran = sets.base / "ran"
    set_id = sets.make("one", f"open({str(ran)!r}, 'w').close()")
    assert sets.start() == set_id
    assert sets.added == [str(sets.folder.custom_nodes(set_id))]
    assert ran.exists()
    assert str(sets.folder.site(set_id)) in sys.path
    assert sites(sets.folder.path(set_id)) == sets.folder.sites(set_id)
    assert sets.folder.sites(set_id)[0] == sets.folder.site(set_id)


def test_a_script_that_fails_stops_nothing(sets: Sets, caplog: pytest.LogCaptureFixture) -> None:
    set_id = sets.make("one", "raise RuntimeError('no')")
    assert sets.start() == set_id
    assert "no" in caplog.text


def test_a_trial_or_a_workers_engine_gets_only_its_own_set(sets: Sets) -> None:
    sets.make("one")
    environ = {"COMFY_REMOTE_NODE_SITE": "/somewhere"}
    assert add_packs(sets.base, sets.added.append, environ) is None
    assert sets.added == []


def test_a_set_for_another_python_is_passed_over(
    sets: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    first = sets.make("one")
    sets.make("two", python="cpython-39-other")
    assert sets.start() == first
    assert "another Python" in caplog.text


def test_a_set_with_which_comfyui_does_not_start_is_left(
    sets: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    first = sets.make("one")
    assert sets.start() == first
    started(sets.environ)
    second = sets.make("two")
    assert [sets.start() for _ in range(4)] == [second, second, second, first]
    assert "did not start" in caplog.text
    started(sets.environ)  # with the first
    assert sets.start() == first
    third = sets.make("three")
    for _ in range(5):
        assert sets.start() == third
        started(sets.environ)


def test_a_damaged_pointer_leads_to_the_newest_set_that_is_whole(sets: Sets) -> None:
    sets.make("one")
    newest = sets.make("two")
    (sets.folder.path("99999999-half") / "custom_nodes").mkdir(parents=True)
    pointer = sets.base / ".comfy-remote/nodes/current.json"
    for content in ('{"set": "../../evil"}', "[]", "{", '{"set": 5}', ""):
        pointer.write_text(content)
        assert sets.start() == newest
        started(sets.environ)
        found = sets.folder.current()
        assert found is not None
        assert found.id == newest
    pointer.unlink()
    assert sets.start() is None
    assert RUNNING_SET not in sets.environ
    assert sets.folder.current() is None


def test_the_settings_name_the_same_folder(sets: Sets) -> None:
    elsewhere = sets.base / "elsewhere"
    environ = {"COMFY_REMOTE_NODES_DIR": str(elsewhere)}
    assert add_packs(sets.base, sets.added.append, environ) is None
    assert NodeSettings.from_environ(sets.base, environ).folder == elsewhere
