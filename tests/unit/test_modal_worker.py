"""A container of an app on Modal, where something is wrong with it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("modal")

from comfy_remote.deploy.modal import front as front_module
from comfy_remote.deploy.modal import worker as worker_module
from comfy_remote.deploy.modal.config import ModalConfig
from comfy_remote.deploy.modal.front import serve_front
from comfy_remote.deploy.modal.worker import ModalWorker
from comfy_remote.worker.engine import Engine

PROMPT = {"1": {"class_type": "SaveImage", "inputs": {}}}


class Method:
    """One of Modal's methods, which does nothing."""

    async def aio(self, *_arguments: object, **_more: object) -> None:
        """Nothing."""


class Anything:
    """A Dict or a Volume."""

    def __init__(self) -> None:
        self.get = self.put = self.commit = self.reload = Method()


def worker(tmp_path: Any, **environ: str) -> ModalWorker:
    thing: Any = Anything()
    return ModalWorker(
        ModalConfig(),
        notes=thing,
        outputs=thing,
        outputs_folder=tmp_path,
        models=thing,
        environ={"COMFY_REMOTE_WORKER_DIR": str(tmp_path / "worker"), **environ},
    )


async def test_an_engine_that_does_not_start_is_the_jobs_error_and_ends_no_container(
    tmp_path: Path,
) -> None:
    one = worker(tmp_path, COMFY_REMOTE_ENGINE=str(tmp_path / "nowhere"))
    await one.ready()
    answer = json.loads(await one.run("fc-1", json.dumps({"workflow": PROMPT})))
    assert "is not a ComfyUI" in json.dumps(answer["error"])


async def test_an_action_that_is_no_text_is_the_jobs_error(tmp_path: Path) -> None:
    one = worker(tmp_path, COMFY_REMOTE_ENGINE="sandbox")
    answer = json.loads(await one.run("fc-1", json.dumps({"action": ["ensure"]})))
    assert "action: it is not a string" in json.dumps(answer["error"])


async def test_a_job_has_its_answer_whatever_the_engine_does_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, Modal would take the job for lost, and start it again."""

    async def broken(_handler: object) -> None:
        raise BlockingIOError("no process can be started")

    monkeypatch.setattr(worker_module.JobHandler, "ready", broken)
    one = worker(tmp_path, COMFY_REMOTE_ENGINE=str(tmp_path / "nowhere"))
    answer = json.loads(await one.run("fc-1", json.dumps({"workflow": PROMPT})))
    assert "is not a ComfyUI" in json.dumps(answer["error"])


async def test_outputs_of_days_before_go_when_a_container_starts(tmp_path: Path) -> None:
    for name, age in (("fc-old", 25 * 3600), ("fc-new", 3600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("0" * 64)).write_bytes(b"x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    await worker(tmp_path, COMFY_REMOTE_ENGINE=str(tmp_path / "nowhere")).ready()
    assert not (tmp_path / "fc-old").exists() and (tmp_path / "fc-new").exists()


def test_comfyui_does_not_look_for_its_packages_among_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    named = Engine.named

    def noted(choice: str, environ: Any) -> Engine:
        given.append(dict(environ))
        return named(choice, environ)

    monkeypatch.setattr(worker_module.Engine, "named", noted)
    worker(tmp_path, PYTHONPATH="/root", HOME="/root")
    assert "PYTHONPATH" not in given[0] and given[0]["HOME"] == "/root"


def test_a_front_that_cannot_start_says_why_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(front_module, "service_routes", broken)
    thing: Any = Anything()
    (tmp_path / "modal_config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="no disk"):
        serve_front(1, "app", None, project=tmp_path, notes=thing, outputs=thing)
