"""The log of a run: what is in it, when it is there, and what is never in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from comfy_remote.cli.reporter import PlainReporter
from comfy_remote.cli.run_log import LoggedReporter, RunLog
from comfy_remote.errors import JobTimedOut, LocalStorageError
from comfy_remote.events import Finished, JobState, Log, Progress, Queued, Started
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.targets.base import Capabilities

PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
JOB = "0b8f1c7e-0000-4000-8000-000000000000"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def document(log: RunLog) -> dict:
    return json.loads(log.path.with_suffix(".json").read_text(encoding="utf-8"))


def started(folder: Path, clock: Clock) -> tuple[LoggedReporter, RunLog]:
    log = RunLog(folder, "take-3", clock)
    reporter = LoggedReporter(PlainReporter(), log)
    clock.now += 1
    reporter.connecting("https://user:planted-in-the-url@pod.test/x?sig=planted-signature")
    log.target("pod", Capabilities({}, "RTX 4090", "ComfyUI 0.33.0"))
    clock.now += 2
    reporter.following(JOB, "pod", PROMPT)
    return reporter, log


def test_a_whole_run(tmp_path: Path) -> None:
    clock = Clock()
    reporter, log = started(tmp_path / "logs", clock)
    with reporter:
        reporter.event(Queued(2))
        clock.now += 4
        reporter.event(Started())
        reporter.event(Progress(0, 2, "1", "KSampler", 0, 20))
        clock.now += 10
        reporter.event(Progress(0, 2, "1", "KSampler", 20, 20))
        reporter.event(Progress(1, 2, "2", "SaveImage"))
        clock.now += 0.5
        reporter.event(Finished(JobState.SUCCEEDED))
        clock.now += 3
        reporter.done([SavedOutput(tmp_path / "a.png", "2", "image", "a.png", "ab" * 32, 9)], 20)
    found = document(log)
    assert found["state"] == "succeeded"
    assert found["seconds"] == 20.5
    assert found["phases"] == {"prepare": 1, "submit": 2, "queue": 4, "run": 10.5, "download": 3}
    assert found["nodes"] == [
        {"node_id": "1", "class_type": "KSampler", "seconds": 10},
        {"node_id": "2", "class_type": "SaveImage", "seconds": 0.5},
    ]
    assert found["target"] == {"name": "pod", "engine": "ComfyUI 0.33.0", "device": "RTX 4090"}
    assert found["prompt"] == PROMPT
    assert found["outputs"][0]["path"] == str(tmp_path / "a.png")
    words = log.path.read_text(encoding="utf-8")
    for word in ("Queued, 2 ahead", "Node KSampler (1)", "Finished: succeeded", "run 10.5 s"):
        assert word in words
    assert "planted" not in words + json.dumps(found)
    assert log.path.name.endswith("_take-3.log")
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in log.path.parent.iterdir()} == {0o600}


def test_what_a_killed_run_leaves(tmp_path: Path) -> None:
    _, log = started(tmp_path, Clock())
    found = document(log)
    assert found["state"] == "submitted"
    assert found["resume"] == f"comfy-remote jobs resume {JOB}"
    assert found["prompt"] == PROMPT
    assert JOB in log.path.read_text()


def test_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter, log = started(tmp_path, Clock())
    reporter.event(Started())
    reporter.failed(JobTimedOut("It took too long.", advice="Wait."), JOB, resumable=True)
    assert f"Log: {log.path}\nError: It took too long.\n" in capsys.readouterr().err
    found = document(log)
    assert found["state"] == "failed"
    assert found["error"]["code"] == "timed_out"
    assert f"comfy-remote jobs resume {JOB}" in log.path.read_text()


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "planted-key-9f3c51")
    reporter, log = started(tmp_path, Clock())
    reporter.event(Log("the server said planted-key-9f3c51", "warning"))
    log.facts["workflow"] = "planted-key-9f3c51.json"
    log.save()
    assert "[RUNPOD_API_KEY]" in log.path.read_text()
    for path in tmp_path.iterdir():
        assert "planted" not in path.read_text(), path


def test_two_runs_in_one_second_and_hostile_names(tmp_path: Path) -> None:
    logs = [RunLog(tmp_path, image_id) for image_id in ("a", "a", "../../up", "con", "x" * 400)]
    assert len({log.path for log in logs}) == 5
    assert all(log.path.parent == tmp_path and log.path.exists() for log in logs)
    for log in logs:
        log.save()
    assert len(list(tmp_path.iterdir())) == 10


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStorageError):
        RunLog(tmp_path / "file" / "logs", "a")


def test_a_log_that_vanishes_does_not_stop_the_run(tmp_path: Path) -> None:
    reporter, log = started(tmp_path / "logs", Clock())
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").touch()
    reporter.event(Started())
    reporter.done([], 1.0)
    assert log.facts["state"] == "succeeded"
