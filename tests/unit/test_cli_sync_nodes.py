"""``comfy-remote sync`` and node packs, in this process: the plan, whose yes counts, the lines."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from json_lines import check_lines
from sync_kit import AskedWorker
from test_cli_lock import Run, opens, run
from test_ready_making import Plain

from comfy_remote.cli import asking, trust
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import NodesUnavailable
from comfy_remote.ready.lock import Lock, LockedComfyUI, LockedModel, LockedPack
from comfy_remote.ready.sync.brought import BroughtRecord
from comfy_remote.targets.base import Capabilities
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.types import JsonValue
from comfy_remote.wire.installed import Installed, InstalledPack

__all__ = ["run"]

ON = ("--on", "http://127.0.0.1:1")
COMMIT = "ab" * 20
URL = "https://github.com/o/thing"
LOCK = Lock(
    comfyui=LockedComfyUI(version="0.33.0"),
    packs=(
        LockedPack(url=URL, commit=COMMIT, classes=("Thing",)),
        LockedPack(id="other", version="1.0.0"),
        LockedPack(id="there", version="1.0.0"),
    ),
)
COMMAND = ("sync", "--lock", "l.lock", *ON)


class Worker(AskedWorker):
    """As a worker of ours answers whose owner allows it."""

    says = "trying them"

    def __init__(self, takes: frozenset[str] | None = frozenset({"registry", "git"})) -> None:
        super().__init__()
        self.takes = takes
        self.fails: NodesUnavailable | None = None

    async def describe(self, classes: object = None) -> Capabilities:
        there = InstalledPack(name="there", registry_id="there", version="1.0.0")
        installed = Installed(packs=[there], models={})
        return Capabilities(
            {}, "gpu", "ComfyUI 0.33.0", takes_nodes=self.takes, installed=installed
        )

    def answer(self, payload: dict[str, Any]) -> JsonValue:
        if self.fails is not None:
            raise self.fails
        if payload["action"] != "install_nodes":
            there = {"name": "thing", "url": URL, "commit": COMMIT}
            return {"set": "s1", "packs": [there], "made": 1.0, "made_by": "w", "can_go_back": True}
        return {"set": "s1", "installed": ["thing"], "there": ["other"]}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, run: Run) -> Worker:
    target = Worker()
    opens(monkeypatch, target)
    Path("l.lock").write_text(LOCK.to_toml())
    return target


async def entered(target: RunPodTarget) -> RunPodTarget:
    return target


def answers(monkeypatch: pytest.MonkeyPatch, yes: bool) -> list[str]:
    """Have a person at the terminal who says that; the questions."""
    asked: list[str] = []
    for module in (asking, trust):
        monkeypatch.setattr(module, "can_ask", lambda: True)

    def confirm(words: str, **_: object) -> bool:
        asked.append(words)
        return yes

    monkeypatch.setattr("click.confirm", confirm)
    return asked


def test_what_would_run_there_is_named_whole_before_a_yes(worker: Worker, run: Run) -> None:
    status, out, err = run(*COMMAND, "--plan")
    assert status == 0
    rows = [line.split()[:5] for line in out.splitlines() if line.split()[:1] == ["pack"]]
    assert rows == [
        ["pack", "github.com/o/thing", "missing", "install", "there"],
        ["pack", "other", "missing", "install", "there"],
        ["pack", "there", "there"],
    ]
    assert "2 node packs can be brought to gpu." in err
    assert "A node pack is code. This would run on gpu:" in err
    assert f"  {URL}@{COMMIT}\n  other@1.0.0\n" in err
    assert worker.acted == []


def test_nothing_is_installed_by_yes_alone(worker: Worker, run: Run) -> None:
    status, _, err = run(*COMMAND, "--yes")
    assert status == 2
    assert "What would be brought to gpu is named by l.lock" in err
    assert "name each pack yourself: --pack NAME@VERSION" in err
    assert worker.acted == []


def test_one_yes_at_the_terminal_is_enough_and_holds(
    worker: Worker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, True)
    status, out, _ = run(*COMMAND)
    assert (status, asked) == (0, ["Do that?"])
    first, second = out.splitlines()[-2:]
    assert first.startswith("github.com/o/thing  installed and tried, ")
    assert second == "other  was there already"
    (payload,) = worker.acted
    assert payload == {
        "action": "install_nodes",
        "packs": [
            {"source": URL, "version": COMMIT, "classes": ["Thing"]},
            {"source": "other", "version": "1.0.0", "classes": []},
        ],
    }
    (noted,) = BroughtRecord(Path("home")).all("gpu")
    assert (noted.model, noted.way, noted.size) == (f"pack {URL}@{COMMIT}", "install", None)
    assert run(*COMMAND, "--yes")[0] == 0
    # Another version is other code.
    newer = LOCK.packs[1].model_copy(update={"version": "1.0.1"})
    Path("l.lock").write_text(LOCK.model_copy(update={"packs": (newer,)}).to_toml())
    answers(monkeypatch, False)
    status, _, err = run(*COMMAND, "--yes")
    assert status == 2
    assert "  pack other@1.0.1" in err
    assert len(worker.acted) == 2


def test_a_lock_is_trusted_by_its_own_command(
    worker: Worker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "takes a person at a terminal" in run("trust", "l.lock")[2]
    answers(monkeypatch, True)
    status, _, err = run("trust", "l.lock")
    assert status == 0
    assert f"pack {URL}@{COMMIT}" in err
    assert TrustStore(Path("home")).files()


def test_packs_that_are_named_on_the_command_line_are_the_owners_word(
    worker: Worker, run: Run
) -> None:
    packs = ("--pack", f"{URL}@{COMMIT}", "--pack", "other@1.0.0")
    assert run(*COMMAND, *packs, "--yes")[0] == 0
    assert len(worker.acted) == 1
    status, out, _ = run("sync", *packs, *ON, "--plan", "--json")
    assert status == 0
    assert [one["install"] for one in json.loads(out)["packs"]] == [
        f"{URL}@{COMMIT}",
        "other@1.0.0",
    ]
    assert run("sync", "--pack", "other@main", *ON)[0] == 2
    assert run("sync", *ON)[0] == 2


def test_each_line_of_json_is_in_the_schema(worker: Worker, run: Run) -> None:
    packs = ("--pack", f"{URL}@{COMMIT}", "--pack", "other@1.0.0")
    status, out, _ = run(*COMMAND, *packs, "--yes", "--json")
    assert status == 0
    lines = check_lines(out.splitlines())
    assert [(one["event"], one.get("how")) for one in lines] == [
        ("sync_plan", None),
        ("sync_moved", None),
        ("sync_pack", "installed"),
        ("sync_pack", "there"),
        ("sync_ended", None),
    ]


def test_all_packs_stay_out_if_one_cannot_be_installed(worker: Worker, run: Run) -> None:
    worker.fails = NodesUnavailable(
        "other did not start.",
        details={"pack": "other", "step": "start", "log": "Starting\nOSError: no such card"},
    )
    packs = ("--pack", f"{URL}@{COMMIT}", "--pack", "other@1.0.0")
    status, out, err = run(*COMMAND, *packs, "--yes")
    assert status == 5
    assert "  | Starting\n  | OSError: no such card\n" in err
    assert out.splitlines()[-2:] == [
        "other  failed: other did not start.",
        "github.com/o/thing  failed: It was not installed, since other could not be: packs are "
        "installed together, or none of them.",
    ]
    assert BroughtRecord(Path("home")).all() == []


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (frozenset(), "the target's owner has not allowed it (ALLOW_NODE_INSTALL=true there)"),
        (None, "its worker is older than this Comfy Remote, or has not been asked yet"),
    ],
)
def test_an_owner_who_has_not_allowed_it_gets_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, takes: frozenset[str] | None, words: str
) -> None:
    target = Worker(takes)
    opens(monkeypatch, target)
    Path("l.lock").write_text(LOCK.to_toml())
    status, out, err = run(*COMMAND, "--yes")
    assert status == 5
    assert words in out
    assert "2 node packs cannot be brought." in err
    assert f"github.com/o/thing, other: {words}" in err, "the table may have cut it off"
    assert target.acted == []


def test_a_plain_comfyui_gets_the_exact_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "socket_opens", lambda _: None, raising=False)
    monkeypatch.setattr(Plain, "url", "http://127.0.0.1:1", raising=False)
    opens(monkeypatch, Plain())
    lock = LOCK.model_copy(update={"comfyui": LockedComfyUI(version="0.34.1")})
    Path("l.lock").write_text(lock.to_toml())
    _, _, err = run(*COMMAND, "--plan")
    lines = [line.strip() for line in err.splitlines() if line.startswith("  ")]
    assert lines == [
        "git fetch --tags",
        "git checkout v0.34.1",
        "python -m pip install -r requirements.txt",
        f"git clone {URL} custom_nodes/thing",
        f"git -C custom_nodes/thing checkout {COMMIT}",
        "python -m pip install -r custom_nodes/thing/requirements.txt",
        "comfy node install other@1.0.0",
        "comfy node install there@1.0.0",
    ]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("sandbox", "The sandbox has its own nodes"),
        ("runpod:abc123", "comfy-remote sync --lock l.lock --dockerfile writes the"),
        ("modal:app", "comfy-remote deploy modal WORKFLOW --app NAME --lock LOCK"),
    ],
)
def test_each_kind_of_target_has_its_own_advice(
    run: Run, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    for name in ("RUNPOD_API_KEY", "MODAL_PROXY_TOKEN_ID", "MODAL_PROXY_TOKEN_SECRET"):
        monkeypatch.setenv(name, "a-key-for-this-test")
    monkeypatch.setattr(RunPodTarget, "__aenter__", entered)
    monkeypatch.setattr(RunPodTarget, "describe_again", Worker(frozenset()).describe_again)
    Path("l.lock").write_text(LOCK.to_toml())
    Path("comfy-remote.toml").write_text(
        '[targets.app]\ntarget = "modal:app"\nbase_url = "https://a--app-front.modal.run"\n'
    )
    on = "app" if target == "modal:app" else target
    config = ("--config", "comfy-remote.toml")
    status, _, err = run("sync", *config, "--lock", "l.lock", "--on", on, "--plan")
    assert status == 0, err
    assert words in err


def test_a_worker_that_does_not_say_what_it_has_may_need_another_image(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def says_nothing(_target: RunPodTarget) -> Capabilities:
        return Capabilities(None, None, None)

    monkeypatch.setenv("RUNPOD_API_KEY", "a-key-for-this-test")
    monkeypatch.setattr(RunPodTarget, "__aenter__", entered)
    monkeypatch.setattr(RunPodTarget, "describe_again", says_nothing)
    Path("l.lock").write_text(LOCK.to_toml())
    status, out, err = run("sync", "--lock", "l.lock", "--on", "runpod:abc123", "--plan")
    assert status == 0
    assert "it does not say which packs it has" in out
    assert "comfy-remote sync --lock l.lock --dockerfile writes the" in err


def test_nodes_and_models_alone(worker: Worker, run: Run) -> None:
    status, out, _ = run(*COMMAND, "--models", "--plan", "--json")
    assert (status, json.loads(out)["packs"]) == (0, [])
    status, out, _ = run(*COMMAND, "--nodes", "--models", "--plan", "--json")
    assert len(json.loads(out)["packs"]) == 3
    assert "ComfyUI 0.33.0" in run(*COMMAND, "--nodes", "--plan")[1]
    assert "ComfyUI 0.33.0" not in run(*COMMAND, "--models", "--plan")[1]


def test_node_packs_need_no_keys_of_a_volume(worker: Worker, run: Run) -> None:
    Path("comfy-remote.toml").write_text(
        '[targets.gpu]\ntarget = "runpod:abc"\nvolume = "vol1@EU-RO-1"\n'
    )
    command = ("--config", "comfy-remote.toml", "sync", "--lock", "l.lock", "--on", "gpu", "--plan")
    assert run(*command)[0] == 0, "it names no models"
    model = LockedModel(folder="loras", name="a.safetensors", size=1, sha256="ab" * 32)
    Path("l.lock").write_text(LOCK.model_copy(update={"models": (model,)}).to_toml())
    status, _, err = run(*command)
    assert status == 2
    assert "The S3 keys for the volume vol1 in EU-RO-1 are not set." in err
    assert run(*command, "--nodes")[0] == 0


def test_a_class_with_control_characters_cannot_write_to_the_terminal(
    worker: Worker, run: Run
) -> None:
    text = LOCK.to_toml().replace('"Thing"', '"\\u001b[2JThing"')
    Path("l.lock").write_text(text)
    _, out, err = run(*COMMAND, "--plan")
    assert "\x1b" not in out + err


def test_what_sync_has_installed_is_listed_and_taken_back(worker: Worker, run: Run) -> None:
    status, out, err = run("nodes", "list", *ON)
    assert status == 0
    assert ["thing", COMMIT, URL] in [line.split() for line in out.splitlines()]
    assert "To go back to those before: comfy-remote nodes rollback --on " in err
    status, _, err = run("nodes", "rollback", *ON)
    assert status == 2
    assert "say --yes to have it done, or `comfy-remote nodes list --on " in err
    status, out, _ = run("nodes", "rollback", *ON, "--yes", "--json")
    assert (status, json.loads(out.splitlines()[-1])["set"]) == (0, "s1")
    assert [one["action"] for one in worker.acted] == ["nodes", "rollback_nodes"]


def test_a_way_back_is_shown_before_it_is_gone(
    worker: Worker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.cli.nodes.can_ask", lambda: True)
    asked = answers(monkeypatch, False)
    status, out, err = run("nodes", "rollback", *ON)
    assert (status, asked) == (0, ["Do that?"])
    assert ["thing", COMMIT, URL] in [line.split() for line in out.splitlines()]
    assert "ComfyUI there would start without them" in err
    assert "Nothing was changed." in err
    assert [one["action"] for one in worker.acted] == ["nodes"]


def test_a_pack_that_is_named_has_the_nodes_of_which_none_was_known(
    worker: Worker, run: Run
) -> None:
    unknown = LockedPack(classes=("Some Node (some)",), unknown="it is not known which pack has it")
    Path("l.lock").write_text(LOCK.model_copy(update={"packs": (unknown,)}).to_toml())
    status, _, err = run(*COMMAND, "--plan")
    assert "Or name it here, exactly: --pack NAME@VERSION, or --pack URL@COMMIT." in err
    status, _, _ = run(*COMMAND, "--pack", "some-pack@1.0.0", "--yes")
    assert status == 0
    (payload,) = worker.acted
    assert payload["packs"] == [
        {"source": "some-pack", "version": "1.0.0", "classes": ["Some Node (some)"]}
    ]


def test_a_dockerfile_asks_no_target(run: Run) -> None:
    Path("l.lock").write_text(LOCK.to_toml())
    status, out, err = run("sync", "--lock", "l.lock", "--dockerfile")
    assert (status, err) == (0, "")
    assert f"'{URL}@{COMMIT}'" in out
    status, _, err = run("sync", "--lock", "l.lock", "--dockerfile", "worker/Dockerfile")
    assert (status, "docker build" in err) == (0, True)
    assert Path("worker/Dockerfile").read_text() == out
    Path("Dockerfile").write_text("FROM scratch")
    assert run("sync", "--lock", "l.lock", "--dockerfile", "Dockerfile")[0] == 2
    assert run("sync", "--pack", "thing@1.0.0", "--dockerfile")[0] == 0
    assert run("sync", "--lock", "l.lock", "--dockerfile", "d", *ON)[0] == 2
    unpinned = LOCK.model_copy(update={"packs": (LockedPack(id="thing"),)})
    Path("l.lock").write_text(unpinned.to_toml())
    status, out, err = run("sync", "--lock", "l.lock", "--dockerfile")
    assert status == 5
    assert "warning: thing is not in it: the lock does not say its version" in err
    assert "# thing is not in it" in out


def test_what_the_lock_does_not_pin_is_said_whole(worker: Worker, run: Run) -> None:
    lock = LOCK.model_copy(update={"packs": (LockedPack(id="nowhere"), LOCK.packs[1])})
    Path("l.lock").write_text(lock.to_toml())
    _, _, err = run(*COMMAND, "--plan")
    assert "nowhere: the lock does not say its version: write it into the lock" in err
    assert "ALLOW_NODE_INSTALL" not in err


def test_a_worker_whose_owner_allows_it_since_is_asked_again(worker: Worker, run: Run) -> None:
    said: list[str] = []
    older, now = Worker(frozenset()).describe, worker.describe

    async def asked_again() -> Capabilities:
        said.append("again")
        return await now()

    worker.describe, worker.describe_again = older, asked_again  # type: ignore[method-assign]
    _, out, _ = run(*COMMAND, "--plan")
    assert "install there" in out
    assert said == ["again"]


def test_packs_of_a_packed_workflow_are_a_strangers(
    worker: Worker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile("theirs.zip", "w") as packed:
        packed.write("wf.json", "workflow.json")
        packed.write("l.lock", "comfy-remote.lock")
    status, _, err = run("sync", "theirs.zip", *ON, "--yes")
    assert (status, worker.acted) == (2, [])
    assert "is named by theirs.zip" in err
    answers(monkeypatch, True)
    status, _, err = run("trust", "theirs.zip")
    assert status == 0
    assert f"pack {URL}@{COMMIT}" in err
    assert run("sync", "theirs.zip", *ON, "--yes")[0] == 0
    assert [one["action"] for one in worker.acted] == ["install_nodes"]
