"""The words of ``comfy-remote batch``: which command is meant, names, lists, completion."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from comfy_remote.cli.main import cli
from comfy_remote.jobs.record import BatchEntry, BatchState, Record, RunState, Wanted

runner = CliRunner()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Record() as record:
        yield record


def batch(record: Record, name: str, state: BatchState = BatchState.ENDED, ended: int = 3) -> str:
    """A batch of three runs, of which some have ended, and each has a job."""
    entry = BatchEntry(
        *(str(uuid.uuid4()), name, time.time(), time.time(), "gpu", "portrait.json"),
        *(Path("outputs") / name, 3, state, None, Wanted.RUN),
    )
    record.batches.add(entry)
    for row in range(ended):
        record.batches.run(entry.id, row, 1, RunState.SUCCEEDED if row else RunState.FAILED)
        prompt = {"1": {"class_type": "Slow", "inputs": {"seed": row}}}
        record.add(
            str(uuid.uuid4()),
            target="gpu",
            source="portrait.json",
            folder=None,
            prompt=prompt,
            batch=entry.id,
        )
    return entry.id


def invoked(*words: str) -> Result:
    return runner.invoke(cli, ["batch", *words], prog_name="comfy-remote")


def completed(*words: str, incomplete: str = "") -> list[str]:
    items = ShellComplete(cli, {}, "comfy-remote", "X").get_completions(
        ["batch", *words], incomplete
    )
    return [f"<{item.type}>" if item.type != "plain" else item.value for item in items]


def test_the_first_word_decides(record: Record, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("{}")
    (tmp_path / "more.toml").write_text("")
    assert "No batches yet" in invoked("list").stderr, "a command counts more than a file"
    assert "No batches yet" in invoked("-v", "--config", "more.toml", "list").stderr
    for words in (["./list"], ["run", "list"], ["--seed", "1", "list"], ["list.json"]):
        refused = invoked(*words)
        assert refused.exit_code == 2
        assert "Nothing varies" in refused.output, words
    unknown = invoked("example:nothing", "--vary", "seed=1..2")
    assert unknown.exit_code == 2 and "There are: example:collage" in unknown.output


def test_a_misspelt_command_is_not_taken_for_a_workflow(record: Record, tmp_path: Path) -> None:
    refused = invoked("resum", "portrait")
    assert refused.exit_code == 2 and "Did you mean 'resume'?" in refused.stderr
    (tmp_path / "resum").write_text("{}")
    assert "Nothing varies" in invoked("resum").stderr, "a file may be called so"


def test_help_shows_both_ways() -> None:
    for words in ([], ["--help"]):
        shown = invoked(*words).output
        assert "Usage: comfy-remote batch WORKFLOW [OPTIONS] | COMMAND BATCH" in shown
        assert "--vary NAME=VALUES|@FILE" in shown and "--prompt TEXT" in shown
        assert "retry " in shown and "--no-wait" in shown
    assert "Usage: comfy-remote batch run [OPTIONS] WORKFLOW" in invoked("w.json", "--help").output
    assert "Usage: comfy-remote batch list" in invoked("list", "--help").output


def test_commands_files_options_and_names_are_completed(record: Record) -> None:
    portrait = batch(record, "portrait")
    batch(record, "landscape")
    assert completed(incomplete="re") == ["<file>", "resume", "retry"]
    assert completed(incomplete="--va") == ["--vary", "--var"]
    assert completed("w.json", incomplete="--at") == ["--at-most"]
    assert completed("--vary", "seed=1..2", incomplete="") == ["<file>"]
    assert completed("resume", incomplete="port") == ["portrait"]
    assert completed("show", incomplete=portrait[:6]) == [portrait]


@pytest.mark.parametrize("name", ["", " ", "-x", "x" * 81, "a\nb"])
def test_a_name_is_one_that_can_be_typed(name: str) -> None:
    refused = invoked("example:slow", "--vary", "SandboxSlow.steps=1,2", f"--name={name}")
    assert refused.exit_code == 2 and "Invalid value for '--name'" in refused.output


def test_a_batch_is_found_by_its_name_or_the_beginning_of_its_id(record: Record) -> None:
    portrait = batch(record, "portrait")
    for word in ("portrait", portrait, portrait[:4]):
        ended = invoked("pause", word)
        assert ended.exit_code == 0 and "portrait is over: 3 of 3, 1 failed" in ended.stderr
    for word in ("nothing", portrait[:3]):
        missing = runner.invoke(cli, ["batch", "pause", word], standalone_mode=False)
        assert f"There is no batch '{word}'" in str(missing.exception)


def test_without_a_driver_a_pause_or_a_cancel_is_noted_at_once(record: Record) -> None:
    night = batch(record, "night", BatchState.RUNNING, ended=1)
    [line] = invoked("list", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert (listed["state"], listed["last_state"], listed["left"]) == ("stopped", "running", 2)
    assert "night is paused: 1 of 3, 1 failed" in invoked("pause", "night").stderr
    assert record.batches.get(night).state is BatchState.PAUSED
    assert "night was cancelled: 1 of 3" in invoked("cancel", "night").stderr
    assert record.batches.get(night).state is BatchState.CANCELLED
    assert "night is over" in invoked("cancel", "night").stderr


def test_jobs_list_has_one_line_for_a_batch(record: Record) -> None:
    night = batch(record, "night")
    alone = str(uuid.uuid4())
    record.add(alone, target="gpu", source="one.json", folder=None, prompt={})

    def listed(*words: str) -> str:
        done = runner.invoke(cli, ["jobs", "list", "--offline", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    folded = listed()
    assert folded.count("portrait.json") == 0 and "batch night" in folded
    assert "3 of 3 runs, 1 failed" in folded and alone[:8] in folded and night[:8] in folded
    assert folded.index(alone[:8]) < folded.index(night[:8]), "the newest first"
    assert listed("--limit", "1").count("gpu") == 1
    assert listed("--batch", "night").count("portrait.json (of a batch)") == 3
    assert listed("--text", "portrait").count("(of a batch)") == 3
    lines = [json.loads(line) for line in listed("--json").splitlines()]
    assert [line["batch"] for line in lines] == [None, night, night, night]
    assert listed("--on", "elsewhere") == ""


def test_every_command_of_a_batch_has_its_help() -> None:
    group = cli.get_command(click.Context(cli), "batch")
    assert isinstance(group, click.Group)
    names = ["run", "list", "show", "watch", "pause", "resume", "retry", "cancel", "sheet", "rm"]
    assert sorted(group.commands) == sorted(names)
    assert all(command.help for command in group.commands.values())
