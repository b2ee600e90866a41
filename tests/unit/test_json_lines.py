"""The lines of ``--json`` are those of the published schema."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from json_lines import SCHEMA, check_lines, events_of_schema
from jsonschema import Draft202012Validator

from comfy_remote.advice import Hint
from comfy_remote.cli.reporter import JsonReporter, ListedOutput
from comfy_remote.errors import ExecutionFailed, TargetUnreachable
from comfy_remote.events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Phase,
    Preview,
    Progress,
    Queued,
    Shown,
    Started,
)
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.outputs import OutputProblem, RemoteOutput

REMOTE = RemoteOutput("3", "image", "a.png", media_type="image/png", size=7, sha256="0" * 64)
TEXT = RemoteOutput("4", "text", "4_text_0.txt", text="words", key="text")
SAVED = SavedOutput(Path("/out/a.png"), "3", "image", "a.png", "0" * 64, 7)
PROBLEM = OutputProblem("3", "SaveImage", None, "it does not run")
EVENTS: list[Event] = [
    Queued(),
    Queued(2),
    Phase("starting", 92.4),
    Phase("loading"),
    Started(),
    Progress(),
    Progress(1, 4, "2", "KSampler", 3.0, 20.0, "loading", estimated=True),
    Preview(None, "image/jpeg", b"jpeg"),
    Shown("4", {"images": None, "animated": [False]}),
    NodeText("2", "loading"),
    OutputReady(REMOTE),
    OutputReady(TEXT),
    Log("words", "warning"),
    Finished(JobState.SUCCEEDED, outputs=(REMOTE,), problems=(PROBLEM,), shown={"4": {"a": 1}}),
    Finished(
        JobState.FAILED,
        ExecutionFailed("It failed.", advice=Hint.RESUME_OR_CANCEL(job_id="1")),
        did_it_run=DidItRun.STOPPED,
    ),
]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    names = {one["$ref"].rpartition("/")[2] for one in SCHEMA["oneOf"]}
    assert names < set(SCHEMA["$defs"])
    assert len(names) == len(events_of_schema())


def test_every_line_is_in_it_and_all_that_is_in_it_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    reporter = JsonReporter(lambda: now)
    for kind in typing.get_args(typing.get_args(Event)[0]) or typing.get_args(Event):
        origin = typing.get_origin(kind) or kind
        assert any(isinstance(event, origin) for event in EVENTS), kind
    reporter._sending._last -= 100  # a second has passed
    reporter.sending(1, 2)
    reporter.following("1", "gpu", {})
    for event in EVENTS:
        reporter.event(event)
    now = 30.0
    reporter.waiting()
    reporter.done([SAVED], 1.0, [PROBLEM])
    reporter.done([ListedOutput(REMOTE, None), ListedOutput(TEXT, "http://x/view")], 1.0)
    reporter.done([], 1.0)
    reporter.partial([SAVED])
    reporter.failed(TargetUnreachable("gone"), None, resumable=False)
    hinted = ExecutionFailed(
        "It failed.", advice=Hint.RESUME_OR_CANCEL(job_id="1"), details={"a": 1}
    )
    reporter.failed(hinted, "1", resumable=True)
    lines = check_lines(capsys.readouterr().out.splitlines())
    assert all(line["version"] == 1 for line in lines)
    # Of call, in e2e/test_cli_dry_run.py, in test_batch_reporting.py, test_cli_spend.py,
    # test_cli_lock.py and test_cli_sync.py.
    beginnings = ("batch", "run_", "spent", "lock", "packed", "sync")
    others = {name for name in events_of_schema() if name.startswith(beginnings)}
    assert {line["event"] for line in lines} == events_of_schema() - {"value", "dry_run"} - others


def test_the_command_prints_it(tmp_path: Path) -> None:
    code = "from comfy_remote.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--json-schema"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert json.loads(done.stdout) == SCHEMA
    assert not done.stderr
