"""``comfy-remote lock``, ``check --lock`` and ``run --locked`` in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget
from json_lines import check_lines
from test_ready_local import MANAGERS, make_comfyui, make_pack
from test_ready_making import Older, Plain

from comfy_remote.cli import run_workflow
from comfy_remote.cli.batch import starting
from comfy_remote.cli.main import main
from comfy_remote.ready import locking
from comfy_remote.ready.lock import Lock, LockedModel, LockedPack, read_lock
from comfy_remote.targets import opening
from comfy_remote.workflow.packed import write_packed

PROMPT: Any = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a/sd.safetensors"}},
    "2": {"class_type": "Theirs", "inputs": {"model": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
EMPTY: Any = {"1": {"class_type": "EmptyImage", "inputs": {}}}
VAE = Lock(models=(LockedModel(folder="vae", name="v.safetensors", size=9),))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    Path("wf.json").write_text(json.dumps(PROMPT))

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    made = make_comfyui(tmp_path / "somewhere" / "ComfyUI")
    project = '[project]\nname = "their-pack"\nversion = "1.2.0"\n'
    make_pack(made, "p", 'NODE_CLASS_MAPPINGS = {"Theirs": T}\n', project)
    model = made / "models" / "checkpoints" / "a" / "sd.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"x" * 7)
    return made


def opens(monkeypatch: pytest.MonkeyPatch, target: FakeTarget) -> None:
    """Have every target be this one."""
    # All are imported by now: one imported later would keep the stand-in.
    for module in (opening, run_workflow, locking):
        monkeypatch.setattr(module, "open_target", lambda *_, **__: target)


def test_a_lock_of_a_comfyui_here(run: Run, comfyui: Path) -> None:
    status, out, err = run("lock", "wf.json", "--comfyui", comfyui, "--offline")
    assert status == 0
    assert out.splitlines() == [
        "ComfyUI  0.33.0",
        "pack     their-pack  1.2.0",
        "model    checkpoints/a/sd.safetensors  7 B, only here",
        "         1 pack, 1 model, 7 B",
    ]
    assert "warning" not in err
    assert "Written: comfy-remote.lock" in err
    lock = read_lock(Path("comfy-remote.lock"))
    assert lock.workflows == ("wf.json",)
    assert lock.packs[0].folder == "p"
    before = Path("comfy-remote.lock").read_text()
    assert run("lock", "wf.json", "--comfyui", comfyui, "--offline")[0] == 0
    assert Path("comfy-remote.lock").read_text() == before
    assert str(comfyui) not in before


def test_json_lines(run: Run, comfyui: Path) -> None:
    status, out, _ = run("lock", "wf.json", "--comfyui", comfyui, "--offline", "--json", "-o", "a")
    lines = check_lines(out.splitlines())
    assert status == 0
    assert [line["event"] for line in lines] == ["lock_reads", "lock"]
    assert (lines[0]["done"], lines[0]["total"]) == (7, 7)
    assert lines[1]["file"] == "a"
    assert lines[1]["lock"]["models"][0]["size"] == 7


def test_without_a_comfyui_all_is_unknown_and_that_is_no_error(run: Run) -> None:
    status, out, err = run("lock", "wf.json", "--offline", "-o", "-")
    assert status == 0
    lock = Lock.parse(out, "it")
    assert len(lock.unknown) == 3
    assert lock.models[0].path == "checkpoints/a/sd.safetensors"
    assert "warning: checkpoints/a/sd.safetensors: no ComfyUI was found that has it" in err
    assert "name its folder with --comfyui DIR" in err


def test_models_may_be_left_unread(run: Run, comfyui: Path) -> None:
    status, _, err = run("lock", "wf.json", "--comfyui", comfyui, "--offline", "--no-hash")
    assert status == 0
    assert read_lock(Path("comfy-remote.lock")).models[0].sha256 is None
    assert "its SHA-256 in the ComfyUI on this machine is not known" in err


def test_a_snapshot_says_which_packs_there_are(run: Run, comfyui: Path) -> None:
    snapshot = {**MANAGERS, "cnr_custom_nodes": {"their-pack": "9.0.0"}}
    Path("snapshot.json").write_text(json.dumps(snapshot))
    workflow: Any = {
        "nodes": [{"id": 2, "type": "Theirs", "properties": {"cnr_id": "their-pack", "ver": "1"}}],
        "links": [],
    }
    posted = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    Path("wf.json").write_text(json.dumps(posted))
    arguments = ("--snapshot", "snapshot.json", "--comfyui", comfyui, "--offline", "-o", "-")
    lock = Lock.parse(run("lock", "wf.json", *arguments)[1], "it")
    assert [(one.id, one.version) for one in lock.packs] == [("their-pack", "9.0.0")]
    assert lock.comfyui.commit == MANAGERS["comfyui"]


def test_what_does_not_go_together(run: Run) -> None:
    status, _, err = run("lock", "wf.json", "--on", "sandbox", "--comfyui", ".")
    assert (status, "--on locks what a target has" in err) == (2, True)
    status, _, err = run("lock", "wf.json", "--json", "-o", "-")
    assert (status, "both print" in err) == (2, True)
    status, _, err = run("lock", "wf.json", "--comfyui", "home")
    assert (status, "is not a ComfyUI" in err) == (2, True)


def test_a_lock_of_what_a_target_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Plain()
    opens(monkeypatch, target)
    Path("schemas.json").write_text(json.dumps({"Theirs": {"input": {}, "output": []}}))
    status, out, err = run(
        "lock", "wf.json", "--on", "lan", "--offline", "-o", "-", "--schemas", "schemas.json"
    )
    assert status == 0, err
    lock = Lock.parse(out, "it")
    assert lock.comfyui.version == "0.33.0"
    assert [(one.folder, one.unknown) for one in lock.packs] == [
        ("p", "fake does not say which version it has")
    ]
    assert [(one.path, one.size, one.sha256) for one in lock.models] == [
        ("checkpoints/a/sd.safetensors", 7, None)
    ]


def test_check_says_item_by_item_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Lock(
        packs=(LockedPack(id="their-pack", version="2.0.0"),),
        models=(LockedModel(folder="vae", name="v.safetensors", size=9),),
    ).write(Path("my.lock"))
    opens(monkeypatch, Older())
    Path("wf.json").write_text(json.dumps({"1": {"class_type": "EmptyImage", "inputs": {}}}))
    status, out, err = run("check", "wf.json", "--on", "old", "--lock", "my.lock")
    assert status == 4
    assert [line for line in out.splitlines() if line.startswith("my.lock")] == [
        "my.lock: their-pack is different: version 1.0.0 is there. Install version 2.0.0 of it "
        "there, from the Comfy Registry.",
        "my.lock: vae/v.safetensors is missing. Copy it to models/vae/v.safetensors there (9 B); "
        "no address of it is known.",
        "my.lock: warning: old is not held to ComfyUI: the lock does not say which version.",
    ]
    assert "2 things are not what my.lock says." in err
    status, out, _ = run("check", "wf.json", "--on", "old", "--lock", "my.lock", "--json")
    document = json.loads(out)["lock"]
    assert status == 4
    assert document["fits"] is False
    assert document["plans"][0]["counts"]["missing"] == 1


def test_a_packed_workflow_is_held_to_its_own_lock(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(monkeypatch, Older())
    Path("wf.json").write_text(json.dumps(EMPTY))
    for name, text in (("with.zip", VAE.to_toml()), ("without.zip", None)):
        write_packed(Path(name), json.dumps(EMPTY).encode(), text, {})
    for command in (
        ("check", "with.zip", "--on", "old", "--lock"),
        ("check", "with.zip", "--lock", "--on", "old"),
        ("run", "with.zip", "--on", "old", "--locked"),
    ):
        status, out, err = run(*command)
        assert status == 4
        assert "with.zip" in out + err
        assert "is missing" in out + err
    status, _, err = run("check", "without.zip", "--on", "old", "--lock")
    assert (status, "it is a packed workflow without one" in err) == (2, True)
    status, _, err = run("check", "wf.json", "--on", "old", "--lock")
    assert (status, "wf.json has no lock of its own" in err) == (2, True)
    Path("comfy-remote.lock").write_text(VAE.to_toml())
    status, out, _ = run("check", "wf.json", "--on", "old", "--lock")
    assert (status, "is missing" in out) == (4, True)


def test_check_needs_a_target_and_a_lock(run: Run) -> None:
    Lock().write(Path("my.lock"))
    status, _, err = run("check", "wf.json", "--lock", "my.lock")
    assert (status, "name it with --on" in err) == (2, True)
    status, _, err = run("check", "wf.json", "--on", "sandbox", "--lock", "none.lock")
    assert (status, "There is no lock none.lock" in err) == (2, True)


def test_run_refuses_before_anything_is_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Lock(packs=(LockedPack(id="their-pack", version="2.0.0"),)).write(Path("my.lock"))
    target = Older()
    opens(monkeypatch, target)
    status, _, err = run("run", "wf.json", "--on", "old", "--locked", "my.lock")
    assert status == 4
    assert "old is not what my.lock says, so nothing was sent:" in err
    assert "their-pack is different: version 1.0.0 is there." in err
    assert target.requests == []
    assert "submit" not in target.log


def test_run_goes_on_where_the_target_cannot_tell(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lock(packs=(LockedPack(id="p", version="2.0.0"),)).write(Path("my.lock"))
    target = Plain()
    target.events = FakeTarget.making(a_png=b"x").events
    target.files = {"a.png": b"x"}
    target.stays_silent = False
    opens(monkeypatch, target)
    status, out, err = run("run", "wf.json", "--on", "lan", "--locked", "my.lock", "--json")
    lines = check_lines(out.splitlines())
    warnings = [line["message"] for line in lines if line["event"] == "log"]
    assert "fake is not held to p: it is there, but its version is not known." in warnings
    assert (
        "The lock does not name what the workflow uses: Theirs, checkpoints/a/sd.safetensors."
        in warnings
    )
    assert len(target.requests) == 1, err
    assert status in (0, 7), err


def test_a_batch_is_refused_likewise(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Lock(packs=(LockedPack(id="their-pack", version="2.0.0"),)).write(Path("my.lock"))
    target = Older()
    opens(monkeypatch, target)
    monkeypatch.setattr(starting, "open_target", lambda *_, **__: target)
    status, _, err = run(
        "batch", "wf.json", "--repeat", "2", "--on", "old", "--locked", "my.lock", "--yes"
    )
    assert status == 4
    assert "old is not what my.lock says, so nothing was sent:" in err
    assert target.requests == []
    assert not Path("outputs").exists()
