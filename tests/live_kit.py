"""One round of ``deploy runpod`` and ``sync`` in a RunPod account, which leaves nothing there.

``tests/live`` makes it with a real account. ``tests/e2e/test_live_round.py`` runs that very test
with the double of RunPod's REST API, a gateway of ours as its endpoint and SeaweedFS as its volume,
so that what a person runs once a release does not rot in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_server import safetensors, sha256

__all__ = ["Commands", "Round", "removed_at_the_end"]

_REMOVER = Path(__file__).with_name("live_remover.py")
_MODEL = "loras/live.safetensors"
# More than one part of an upload.
_CONTENT = safetensors(20 * 1024 * 1024, fill=b"live test of comfy-remote")


class Commands:
    """``comfy-remote`` in processes, with a data folder and a configuration of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        own = dict.fromkeys(("XDG_CONFIG_HOME", "APPDATA"), str(folder / "config"))
        home = str(folder / "home")
        self.environment = {**os.environ, **own, "COMFY_REMOTE_HOME": home, **environment}

    def __call__(self, *arguments: str) -> str:
        """Its standard output; what it says besides goes where the test's does."""
        print(f"$ comfy-remote {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "comfy_remote", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"{done.stdout}({time.monotonic() - began:.0f} s)", flush=True)
        assert done.returncode == 0, f"exit status {done.returncode}: {arguments}"
        return done.stdout

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """What it prints with ``--json``."""
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]


@contextlib.contextmanager
def removed_at_the_end(commands: Commands, name: str, seconds: float = 30.0) -> Iterator[None]:
    """Whatever becomes of this process, what is made as ``name`` is removed.

    Args:
        seconds: Between two tries.
    """
    log = commands.folder / "removed.log"
    with log.open("wb") as written:
        remover = subprocess.Popen(
            [sys.executable, str(_REMOVER), name, str(seconds)],
            cwd=commands.folder,
            env=commands.environment,
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal is not for it.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    try:
        yield
    finally:
        remover.communicate(b"ended")
        print(log.read_text(errors="replace"))
    assert remover.returncode == 0, f"see {log}"


@dataclass
class Round:
    """One round.

    Attributes:
        gpu: For ``--gpu``.
        image: For ``--image``; ``None`` for the published one.
        center: The data centre of a volume; ``None`` for a round without one.
        same_disk: Whether the endpoint's worker has that volume.
        patience: Seconds that the picture may take, with the start of a worker.
        seconds: That each part took.
    """

    commands: Commands
    name: str
    gpu: str
    image: str | None = None
    center: str | None = None
    same_disk: bool = True
    patience: int = 1200
    seconds: dict[str, float] = field(default_factory=dict)

    def all(self) -> None:
        """Make it, bring a model, run a picture, change it. Nothing is removed here."""
        with self._timed("make"):
            self._make()
        if self.center is not None:
            with self._timed("bring"):
                self._bring()
        with self._timed("picture"):
            self._picture()
        if self.center is not None and self.same_disk:
            self._look_from_the_worker()
        with self._timed("change"):
            self._change()
        print({part: round(seconds) for part, seconds in self.seconds.items()}, flush=True)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - began

    def _deploy(self, *arguments: str) -> Mapping[str, Any]:
        (answer,) = self.commands.lines("deploy", "runpod", "--name", self.name, *arguments)
        return answer

    def _make(self) -> None:
        wanted = ["--gpu", self.gpu, "--max-workers", "1"]
        wanted += ["--image", self.image] if self.image else []
        wanted += ["--volume", f"10@{self.center}"] if self.center else []
        plan = self._deploy(*wanted, "--plan")["plan"]
        kinds = ["volume", "endpoint"] if self.center else ["endpoint"]
        assert [(one["does"], one["kind"]) for one in plan["steps"]] == [
            ("make", kind) for kind in kinds
        ]
        made = self._deploy(*wanted, "--yes")
        assert made["target"] == self.name
        assert made["notes"] == []  # RunPod has set everything as it was asked to
        again = self._deploy(*wanted, "--plan")["plan"]
        assert [one["does"] for one in again["steps"]] == ["leave" for _ in kinds]

    def _bring(self) -> None:
        here = self.commands.folder / "ComfyUI"
        (here / "comfy").mkdir(parents=True)
        (here / "main.py").touch()
        path = here / "models" / _MODEL
        path.parent.mkdir(parents=True)
        path.write_bytes(_CONTENT)
        folder, _, name = _MODEL.partition("/")
        (self.commands.folder / "live.lock").write_text(
            f'version = 1\n\n[[models]]\nfolder = "{folder}"\nname = "{name}"\n'
            f'size = {len(_CONTENT)}\nsha256 = "{sha256(_CONTENT)}"\n'
        )
        lines = self._sync("--yes")
        (plan,) = [line for line in lines if line["event"] == "sync_plan"]
        assert [one["way"] for one in plan["models"]] == ["volume"]
        (sent,) = [line for line in lines if line["event"] == "sync_model"]
        assert (sent["how"], sent["error"]) == ("sent", None)
        assert self._standing() == "there"
        assert self.commands("sync", "--give-up", "--plan") == ""  # nothing is left over

    def _sync(self, *arguments: str) -> list[dict[str, Any]]:
        here = ("--comfyui", "ComfyUI", "--lock", "live.lock")
        return self.commands.lines("sync", "--on", self.name, *here, *arguments)

    def _standing(self) -> str:
        (plan,) = self._sync("--plan")
        (model,) = plan["models"]
        return str(model["standing"])

    def _picture(self) -> None:
        run = ("run", "example:collage", "--on", self.name, "--output", "out")
        self.commands(*run, "--timeout", str(self.patience))
        assert list((self.commands.folder / "out").rglob("*.png"))

    def _look_from_the_worker(self) -> None:
        """What was sent to the volume lies where its workers look."""
        assert _MODEL.rpartition("/")[2] in self.commands("models", "list", "--on", self.name)

    def _change(self) -> None:
        changed = self._deploy("--idle", "20", "--yes")
        assert [one["does"] for one in changed["plan"]["steps"]][-1] == "change"
        again = self._deploy("--idle", "20", "--plan")["plan"]
        assert [one["does"] for one in again["steps"]][-1] == "leave"
