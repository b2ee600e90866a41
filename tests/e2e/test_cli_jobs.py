"""``comfy-remote jobs`` in processes of its own: waiting, watching, running again, stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, line_with
from gated_sandbox import Gate
from PIL import Image

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def inverted(folder: Path, color: int = 0x336699) -> Path:
    """A workflow that loads a picture beside it."""
    Image.new("RGB", (8, 8), color).save(folder / "beside.png")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "beside.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "again"},
        },
    }
    path = folder / "inverted.json"
    path.write_text(json.dumps(prompt))
    return path


def left_running(cli: Cli, gate: Gate, target: str, state: JobState = JobState.RUNNING) -> str:
    """The id of a job whose client was killed once it was recorded in that state."""
    process = cli.start("main", "run", gate.path, "--on", target, "--json")
    job_id: str = json.loads(line_with(process.stdout, '"submitted"'))["job_id"]
    cli.until_recorded(job_id, state)
    process.kill()
    process.wait()
    return job_id


def left_owed(cli: Cli, target: str) -> str:
    """The id of a job that has succeeded there, whose outputs nobody has fetched."""
    gate = Gate(cli.folder, "owed")
    owed = left_running(cli, gate, target)
    gate.open()
    waited = cli("jobs", "wait", owed)
    assert waited.returncode == 0, waited.stderr
    return owed


def test_a_job_is_run_again_with_its_files_and_numbered(cli: Cli, sandbox_url: str) -> None:
    workflow = inverted(cli.folder)
    first = cli("run", workflow, "--on", sandbox_url, "-o", "out", "--json")
    assert first.returncode == 0, first.stderr
    job_id = lines_of(first)[-1]["job_id"]
    workflow.unlink()  # the prompt is in the record
    again = cli("jobs", "retry", job_id[:8], "--no-preview")
    assert again.returncode == 0, again.stderr
    assert f"Attempt 2 of {job_id}." in again.stderr
    third = cli("jobs", "retry", job_id, "-o", "elsewhere", "--json")
    assert third.returncode == 0, third.stderr
    listed = lines_of(cli("jobs", "list", "--json"))
    assert [one["attempt"] for one in listed] == [3, 2, 1]
    assert {one["first_attempt"] for one in listed} == {job_id}
    assert len({one["job_id"] for one in listed}) == 3
    made = [Path(one["outputs"][0]["path"]) for one in listed]
    assert [path.parent.name for path in made] == ["elsewhere", "out", "out"]
    assert len({Image.open(path).getpixel((0, 0)) for path in made}) == 1
    said = cli("jobs", "logs", job_id).stdout
    assert said.count("Attempt ") == 3 and "succeeded" in said
    assert "(attempt 3)" in cli("jobs", "list").stdout


def test_a_job_whose_file_has_changed_is_not_run_again(cli: Cli, sandbox_url: str) -> None:
    done = cli("run", inverted(cli.folder), "--on", sandbox_url, "-o", "out", "--json")
    job_id = lines_of(done)[-1]["job_id"]
    inverted(cli.folder, color=0)
    again = cli("jobs", "retry", job_id)
    assert again.returncode == 4
    assert "beside.png, which the job needs again, has changed" in again.stderr
    assert len(lines_of(cli("jobs", "list", "--json"))) == 1


def test_a_job_that_runs_is_waited_for_and_not_run_again(cli: Cli, gated_url: str) -> None:
    gate = Gate(cli.folder)
    job_id = left_running(cli, gate, gated_url)
    refused = cli("jobs", "retry", job_id)
    assert refused.returncode == 2 and "has not ended" in refused.stderr
    late = cli("jobs", "wait", job_id, "--timeout", "0.3")
    assert late.returncode == 6 and "They continue." in late.stderr
    gate.open()
    waited = cli("jobs", "wait", job_id[:8])
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout.split()[:2] == [job_id, "succeeded"]
    assert not (cli.folder / "output").exists() or not list((cli.folder / "output").glob("*.png"))
    fetched = cli("jobs", "resume", job_id)
    assert fetched.returncode == 0, fetched.stderr


def test_the_first_bad_end_is_the_exit_status_of_wait(cli: Cli, sandbox_url: str) -> None:
    good = cli("run", inverted(cli.folder), "--on", sandbox_url, "--json")
    bad = cli("run", Gate(cli.folder).path, "--on", "http://127.0.0.1:9", "--json")
    ids = [lines_of(one)[-1]["job_id"] for one in (good, bad)]
    waited = cli("jobs", "wait", *ids, "--json")
    assert waited.returncode == bad.returncode != 0
    assert {one["job_id"]: one["state"] for one in lines_of(waited)} == {
        ids[0]: "succeeded",
        ids[1]: "failed",
    }


def test_all_that_runs_is_stopped_at_once(cli: Cli, gated_url: str) -> None:
    ids = {left_running(cli, Gate(cli.folder, "runs"), gated_url)}
    ids.add(left_running(cli, Gate(cli.folder, "waits"), gated_url, JobState.QUEUED))
    for words in ((), ("--all", "3f2a"), ("3f2a", "--on", "gpu")):
        assert cli("jobs", "cancel", *words).returncode == 2
    none = cli("jobs", "cancel", "--all", "--on", "another")
    assert (none.returncode, "No job is waiting or running." in none.stderr) == (0, True)
    stopped = cli("jobs", "cancel", "--all")
    assert stopped.returncode == 0, stopped.stderr
    with Record(cli.folder / "home") as record:
        assert {one.id for one in record.newest() if one.state is JobState.CANCELLED} == ids


def test_a_pipe_gets_a_line_for_each_change(cli: Cli, gated_url: str) -> None:
    gate = Gate(cli.folder)
    job_id = left_running(cli, gate, gated_url)
    process = cli.start("main", "jobs", "watch")
    first = line_with(process.stdout, " running ")
    gate.open()
    rest, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    # A target that is slow to answer, as on a busy machine, is "unknown" in between.
    words = [line.split() for line in (first + rest).splitlines()]
    states = dict.fromkeys(state for _, state, *_ in words)
    assert [state for state in states if state != "unknown"] == ["running", "succeeded"]
    assert {word[0] for word in words} == {job_id}


def begun(cli: Cli, command: str, *job_ids: str) -> subprocess.Popen[str]:
    """``jobs wait`` or ``jobs watch`` in a process of its own, which is following its jobs."""
    process = cli.start("main", "-v", "jobs", command, *job_ids)
    if command == "wait":
        # It prints nothing before a job has ended; by then, it has asked the target.
        for job_id in job_ids:
            line_with(process.stderr, f"/history/{job_id}: 200")
    else:
        line_with(process.stdout, " running ")
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
@pytest.mark.parametrize("command", ["wait", "watch"])
def test_sigterm_ends_it_and_stops_no_job(cli: Cli, gated_url: str, command: str) -> None:
    job_id = left_running(cli, Gate(cli.folder), gated_url)
    process = begun(cli, command, *([job_id] if command == "wait" else []))
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    with Record(cli.folder / "home") as record:
        assert not record.get(job_id).state.final
    assert cli("jobs", "cancel", job_id).returncode == 0


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_a_job_that_is_forgotten_meanwhile_ends_nothing(
    cli: Cli, gated_url: str, command: str
) -> None:
    gate = Gate(cli.folder, "stays")
    stays = left_running(cli, gate, gated_url)
    goes = left_running(cli, Gate(cli.folder, "goes"), gated_url, JobState.QUEUED)
    process = begun(cli, command, *([goes, stays] if command == "wait" else []))
    assert cli("jobs", "rm", goes, "--force").returncode == 0
    gate.open()
    Gate(cli.folder, "goes").open()
    said, _ = process.communicate(timeout=180)
    last = [line.split()[:2] for line in said.splitlines() if stays in line][-1]
    assert last == [stays, "succeeded"], said


def test_what_is_owed_is_not_forgotten(cli: Cli, gated_url: str) -> None:
    cli("run", inverted(cli.folder), "--on", gated_url, "-o", "out")
    owed = left_owed(cli, gated_url)
    kept = cli("jobs", "rm", owed)
    assert kept.returncode == 2 and "has outputs to be fetched" in kept.stderr
    assert "1 job would be removed" in cli("jobs", "prune", "--keep", "0", "--dry-run").stderr
    assert "Removed 1 job" in cli("jobs", "prune", "--older-than", "0s").stderr
    assert [one["job_id"] for one in lines_of(cli("jobs", "list", "--json"))] == [owed]
    assert "Removed 0 jobs" in cli("jobs", "prune", "--keep", "9" * 30).stderr
    assert "Removed 1 job " in cli("jobs", "rm", owed, owed[:8], "--force").stderr
    assert lines_of(cli("jobs", "list", "--json")) == []
    assert list((cli.folder / "out").glob("*.png")), "files stay"


def test_only_some_are_listed(cli: Cli, sandbox_url: str) -> None:
    cli("run", inverted(cli.folder), "--on", sandbox_url)
    cli("run", Gate(cli.folder).path, "--on", "http://127.0.0.1:9")

    def listed(*words: str) -> list[str]:
        found = lines_of(cli("jobs", "list", "--json", "--offline", *words))
        return [Path(one["source"]).name for one in found]

    assert listed() == ["gated.json", "inverted.json"]
    assert listed("--state", "failed") == ["gated.json"]
    assert listed("--state", "failed", "--state", "succeeded", "--limit", "1") == ["gated.json"]
    assert listed("--on", sandbox_url) == ["inverted.json"]
    assert listed("--on", f"{sandbox_url}/?a=b#c") == ["inverted.json"]
    assert listed("--text", "INVERTED") == ["inverted.json"]
    assert listed("--text", "Could Not Be Reached") == ["gated.json"]
    assert listed("--since", "1h") == ["gated.json", "inverted.json"]
    assert listed("--since", "today", "--text", "%") == []
    for wrong in ("yesterday", "3x", "2026-13-01"):
        done = cli("jobs", "list", "--since", wrong)
        assert done.returncode == 2 and "neither a length of time" in done.stderr


def test_outputs_that_are_gone_are_not_opened(cli: Cli, sandbox_url: str) -> None:
    done = cli("run", inverted(cli.folder), "--on", sandbox_url, "-o", "out", "--json")
    job_id = lines_of(done)[-1]["job_id"]
    opened = cli("jobs", "open", job_id, PATH="")
    assert opened.returncode == 1 and "There is no" in opened.stderr.replace("there", "There")
    for path in (cli.folder / "out").glob("*.png"):
        path.unlink()
    gone = cli("jobs", "open", job_id)
    assert gone.returncode == 7 and "no longer where they were saved" in gone.stderr


def test_a_cancelled_job_has_nothing_to_open(cli: Cli, gated_url: str) -> None:
    job_id = left_running(cli, Gate(cli.folder), gated_url)
    assert cli("jobs", "cancel", job_id).returncode == 0
    done = cli("jobs", "open", job_id)
    assert done.returncode == 7 and "was cancelled: it has no outputs." in done.stderr
    assert f"jobs retry {job_id}" in done.stderr and "resume" not in done.stderr
