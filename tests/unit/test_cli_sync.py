"""``comfy-remote sync`` in this process: the plan, the yes, the lines of ``--json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_lines import check_lines
from model_server import sha256
from sync_kit import AskedWorker, lock_of, locked
from test_cli_lock import PROMPT, Run, opens, run
from test_ready_local import make_comfyui
from test_ready_making import Plain

from comfy_remote.config.folders import home
from comfy_remote.config.trust import TrustStore
from comfy_remote.ready.lock import Lock, LockedPack
from comfy_remote.ready.sync.brought import BroughtRecord
from comfy_remote.targets.base import Capabilities, InputFile
from comfy_remote.types import JsonValue
from comfy_remote.wire.installed import Installed, InstalledPack, ModelFile
from comfy_remote.workflow.packed import write_packed

__all__ = ["run"]

A, B = b"a" * 1000, b"b" * 2000
ON = ("--on", "http://127.0.0.1:1")


class Worker(AskedWorker):
    """As a worker of ours with a gateway answers: it takes what it is sent."""

    takes: frozenset[str] = frozenset({"fetch", "link", "receive"})

    def __init__(self) -> None:
        super().__init__()
        self.has: dict[str, list[ModelFile]] = {}
        self.stored: list[str] = []

    async def describe(self, classes: object = None) -> Capabilities:
        packs = [InstalledPack(name=f"p{n}", registry_id=f"p{n}", version="1") for n in range(40)]
        installed = Installed(packs=packs, models=self.has)
        return Capabilities(
            {}, "gpu", "ComfyUI 0.33.0", takes_models=self.takes, installed=installed
        )

    def answer(self, payload: dict[str, Any]) -> JsonValue:
        if payload["action"] == "ensure":
            return {"ensured": ["loras/a"], "fetched": ["loras/a"]}
        return {"path": "x", "how": "received" if payload["files"] else "linked"}

    async def stores_files(self) -> bool:
        return True

    async def store_files(
        self, files: list[InputFile], on_sent: Callable[[int, int], None] | None = None
    ) -> None:
        self.stored += [one.sha256 for one in files]
        if on_sent is not None:
            on_sent(1, 1)


def write(lock: Lock) -> None:
    Path("l.lock").write_text(lock.to_toml())


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    made = make_comfyui(tmp_path / "somewhere" / "ComfyUI")
    (made / "models/loras").mkdir(parents=True, exist_ok=True)
    (made / "models/loras/b.safetensors").write_bytes(B)
    return made


HF = {"by": "huggingface", "url": "hf:org/repo/a.safetensors@main"}
LOCK = lock_of(locked("loras/a.safetensors", A, HF), locked("loras/b.safetensors", B))


def test_a_plain_comfyui_gets_a_plan_that_says_what_cannot_be_brought(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(monkeypatch, Plain())
    packs = (LockedPack(id="other-pack", version="2.0.0", url="https://github.com/x/other-pack"),)
    write(LOCK.model_copy(update={"packs": packs}))
    status, out, err = run("sync", "--lock", "l.lock", "--comfyui", comfyui, *ON, "--plan")
    assert status == 0
    lines = [line.split() for line in out.splitlines() if "safetensors" in line or "pack" in line]
    assert [line[:6] for line in lines] == [
        ["pack", "other-pack", "missing", "by", "hand", "only"],
        ["model", "loras/a.safetensors", "1.0", "kB", "missing", "cannot"],
        ["model", "loras/b.safetensors", "2.0", "kB", "missing", "cannot"],
    ]
    assert "only a worker of Comfy Remote can do that" in out
    assert "Install version 2.0.0 of it there, from the Comfy Registry." in out
    assert "Put it into models/loras/a.safetensors there (1.0 kB): hf:org/repo/a.safeten" in out
    assert "Copy it to models/loras/b.safetensors there (2.0 kB)" in out
    assert "2 models cannot be brought" in err
    status, out, _ = run("sync", "--lock", "l.lock", "--comfyui", comfyui, *ON, "--models", "--all")
    assert status == 5
    assert "pack" not in out
    assert "checkpoints/a/sd.safetensors" in out  # only there


def test_nothing_is_done_without_a_yes(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Worker()
    opens(monkeypatch, target)
    write(LOCK)
    status, out, err = run("sync", "--lock", "l.lock", "--comfyui", comfyui, *ON)
    assert status == 2
    assert "Nothing was changed: say --yes" in err
    assert "missing fetch there from hf:org/repo/a.safetensors@main" in " ".join(out.split())
    assert "2 models can be brought to gpu: 2.0 kB are sent from here, the target fetches" in err
    assert target.acted == target.stored == []


def test_a_packed_workflow_says_what_it_needs(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock counts, not what this machine's ComfyUI has; what it names is a stranger's."""
    target = Worker()
    opens(monkeypatch, target)
    signed = {"by": "me", "url": "https://models.example/a.safetensors?token=planted"}
    mine = locked("loras/b.safetensors", B)
    for name, address in (("p.zip", HF), ("signed.zip", signed)):
        lock = lock_of(locked("loras/theirs.safetensors", A, address), mine)
        write_packed(Path(name), json.dumps(PROMPT).encode(), lock.to_toml(), {})
    command = ("sync", "p.zip", "--comfyui", comfyui, *ON)
    status, out, err = run(*command, "--plan")
    assert status == 0
    rows = [line.split()[1] for line in out.splitlines() if line.split()[:1] == ["model"]]
    assert rows == ["loras/b.safetensors", "loras/theirs.safetensors"], out + err
    status, _, err = run(*command, "--yes")
    assert status == 2
    assert "What would be brought to gpu is named by p.zip" in err
    assert target.acted == target.stored == []
    TrustStore(home()).trust(Path("p.zip"), lock_named(HF))
    status, _, _ = run(*command, "--yes")
    assert status == 0
    assert [one["action"] for one in target.acted] == ["ensure", "place"]
    # Seen in a plan, but not whole.
    monkeypatch.setattr("comfy_remote.cli.sync.may_go_on", lambda _yes: True)
    assert run("sync", "signed.zip", "--comfyui", comfyui, *ON)[0] == 0
    assert TrustStore(home()).missing(Path("signed.zip"), lock_named(signed)) != []


def lock_named(address: dict[str, str]) -> list[str]:
    return [f"model loras/theirs.safetensors: {address['url']}"]


def test_each_line_of_json_is_in_the_schema(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = Worker()
    opens(monkeypatch, target)
    write(LOCK)
    command = ("sync", "--lock", "l.lock", "--comfyui", comfyui, *ON)
    status, out, _ = run(*command, "--yes", "--json")
    assert status == 0
    lines = check_lines(out.splitlines())
    assert [line["event"] for line in lines if line["event"] != "sync_moved"] == [
        *("sync_plan", "sync_model", "sync_model", "sync_ended"),
    ]
    assert lines[0]["bytes_to_send"] == len(B)
    assert [line.get("how") for line in lines[-3:-1] if line["event"] == "sync_model"][-1] == "sent"
    counts = {"brought": 2, "failed": 0, "impossible": 0}
    assert lines[-1] == {"version": 1, "event": "sync_ended", **counts}
    ensured, placed = target.acted
    assert ensured["repo_list"] == (f'loras {HF["url"]} name="a.safetensors" sha256={sha256(A)}')
    assert ensured["prune"] is False
    assert (placed["folder"], placed["name"], placed["sha256"]) == (
        *("loras", "b.safetensors", sha256(B)),
    )
    assert target.stored == [one["sha256"] for one in placed["files"]] == [sha256(B)]
    noted = BroughtRecord(tmp_path / "home").all("gpu")
    assert {one.model for one in noted} == {"loras/a.safetensors", "loras/b.safetensors"}
    status, out, _ = run("sync", "--on", "gpu", "--brought")
    assert status == 0
    assert out.count("safetensors") == 2


@pytest.mark.parametrize(
    "wrong", [(), ("wf.json", "--lock", "l.lock"), ("--lock", "l.lock", "--plan", "--yes")]
)
def test_what_makes_no_sense_is_a_usage_error(run: Run, wrong: tuple[str, ...]) -> None:
    write(LOCK)
    assert run("sync", *wrong, *ON)[0] == 2


def test_a_plan_of_200_models_and_40_packs_is_whole(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Worker()
    target.has = {
        "loras": [ModelFile(name=f"{n}.safetensors", size=9, sha256=f"{n:064x}") for n in range(99)]
    }
    opens(monkeypatch, target)
    models = [locked(f"loras/{n}.safetensors", b"%d" % n) for n in range(200)]
    packs = tuple(LockedPack(id=f"p{n}", version="1") for n in range(40))
    write(lock_of(*models).model_copy(update={"packs": packs}))
    status, out, _ = run("sync", "--lock", "l.lock", "--comfyui", comfyui, *ON, "--plan", "--json")
    assert status == 0
    assert len(json.loads(out)["models"]) == 200
