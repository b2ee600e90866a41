"""``comfy-remote jobs`` in processes of its own: waiting, watching, running again, stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
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


def slow(folder: Path, steps: int, name: str = "slow") -> Path:
    """Steps of a tenth of a second."""
    empty = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
    inputs = {
        "image": ["1", 0],
        "steps": steps,
        "seconds_per_step": 0.1,
        "preview": False,
        "seed": time.time_ns(),
    }
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SandboxSlow", "inputs": inputs},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": name}},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(prompt))
    return path


def left_running(cli: Cli, path: Path, target: str, at: str = "progress") -> str:
    """The id of a job whose client was killed while it ran, at an event of it."""
    process = cli.start("main", "run", path, "--on", target, "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == at:
            process.kill()
            process.wait()
            with Record(cli.folder / "home") as record:
                return record.newest(1)[0].id
    raise AssertionError("it never ran")


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


def test_a_job_that_runs_is_waited_for_and_not_run_again(cli: Cli, sandbox_url: str) -> None:
    job_id = left_running(cli, slow(cli.folder, 25), sandbox_url)
    refused = cli("jobs", "retry", job_id)
    assert refused.returncode == 2 and "has not ended" in refused.stderr
    late = cli("jobs", "wait", job_id, "--timeout", "0.3")
    assert late.returncode == 6 and "They continue." in late.stderr
    waited = cli("jobs", "wait", job_id[:8])
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout.split()[:2] == [job_id, "succeeded"]
    assert not (cli.folder / "output").exists() or not list((cli.folder / "output").glob("*.png"))
    fetched = cli("jobs", "resume", job_id)
    assert fetched.returncode == 0, fetched.stderr


def test_the_first_bad_end_is_the_exit_status_of_wait(cli: Cli, sandbox_url: str) -> None:
    good = cli("run", inverted(cli.folder), "--on", sandbox_url, "--json")
    bad = cli("run", slow(cli.folder, 1), "--on", "http://127.0.0.1:9", "--json")
    ids = [lines_of(one)[-1]["job_id"] for one in (good, bad)]
    waited = cli("jobs", "wait", *ids, "--json")
    assert waited.returncode == bad.returncode != 0
    assert {one["job_id"]: one["state"] for one in lines_of(waited)} == {
        ids[0]: "succeeded",
        ids[1]: "failed",
    }


def test_all_that_runs_is_stopped_at_once(cli: Cli, sandbox_url: str) -> None:
    ids = {left_running(cli, slow(cli.folder, 300, "runs"), sandbox_url)}
    ids.add(left_running(cli, slow(cli.folder, 300, "waits"), sandbox_url, at="queued"))
    for words in ((), ("--all", "3f2a"), ("3f2a", "--on", "gpu")):
        assert cli("jobs", "cancel", *words).returncode == 2
    none = cli("jobs", "cancel", "--all", "--on", "another")
    assert (none.returncode, "No job is waiting or running." in none.stderr) == (0, True)
    stopped = cli("jobs", "cancel", "--all")
    assert stopped.returncode == 0, stopped.stderr
    with Record(cli.folder / "home") as record:
        assert {one.id for one in record.newest() if one.state is JobState.CANCELLED} == ids


def test_a_pipe_gets_a_line_for_each_change(cli: Cli, sandbox_url: str) -> None:
    job_id = left_running(cli, slow(cli.folder, 30), sandbox_url)
    watched = cli("jobs", "watch")
    assert watched.returncode == 0, watched.stderr
    # A target that is slow to answer, as on a busy machine, is "unknown" in between.
    states = dict.fromkeys(line.split()[1] for line in watched.stdout.splitlines())
    assert [state for state in states if state != "unknown"] == ["running", "succeeded"]
    assert {line.split()[0] for line in watched.stdout.splitlines()} == {job_id}


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
@pytest.mark.parametrize("command", ["wait", "watch"])
def test_sigterm_ends_it_and_stops_no_job(cli: Cli, sandbox_url: str, command: str) -> None:
    job_id = left_running(cli, slow(cli.folder, 60), sandbox_url)
    words = (job_id,) if command == "wait" else ()
    process = cli.start("main", "jobs", command, *words)
    time.sleep(2.0)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 130
    with Record(cli.folder / "home") as record:
        assert not record.get(job_id).state.final
    assert cli("jobs", "cancel", job_id).returncode == 0


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_a_job_that_is_forgotten_meanwhile_ends_nothing(
    cli: Cli, sandbox_url: str, command: str
) -> None:
    stays = left_running(cli, slow(cli.folder, 40, "stays"), sandbox_url)
    goes = left_running(cli, slow(cli.folder, 1, "goes"), sandbox_url, at="queued")
    words = (goes, stays) if command == "wait" else ()
    process = cli.start("main", "jobs", command, *words)
    time.sleep(1.5)
    assert cli("jobs", "rm", goes, "--force").returncode == 0
    said, _ = process.communicate(timeout=60)
    last = [line.split()[:2] for line in said.splitlines() if stays in line][-1]
    assert last == [stays, "succeeded"], said


def test_what_is_owed_is_not_forgotten(cli: Cli, sandbox_url: str) -> None:
    cli("run", inverted(cli.folder), "--on", sandbox_url, "-o", "out")
    owed = left_running(cli, slow(cli.folder, 5), sandbox_url)
    assert cli("jobs", "wait", owed).returncode == 0
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
    cli("run", slow(cli.folder, 1), "--on", "http://127.0.0.1:9")

    def listed(*words: str) -> list[str]:
        found = lines_of(cli("jobs", "list", "--json", "--offline", *words))
        return [Path(one["source"]).name for one in found]

    assert listed() == ["slow.json", "inverted.json"]
    assert listed("--state", "failed") == ["slow.json"]
    assert listed("--state", "failed", "--state", "succeeded", "--limit", "1") == ["slow.json"]
    assert listed("--on", sandbox_url) == ["inverted.json"]
    assert listed("--on", f"{sandbox_url}/?a=b#c") == ["inverted.json"]
    assert listed("--text", "INVERTED") == ["inverted.json"]
    assert listed("--text", "Could Not Be Reached") == ["slow.json"]
    assert listed("--since", "1h") == ["slow.json", "inverted.json"]
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


def test_a_cancelled_job_has_nothing_to_open(cli: Cli, sandbox_url: str) -> None:
    job_id = left_running(cli, slow(cli.folder, 300), sandbox_url)
    assert cli("jobs", "cancel", job_id).returncode == 0
    done = cli("jobs", "open", job_id)
    assert done.returncode == 7 and "was cancelled: it has no outputs." in done.stderr
    assert f"jobs retry {job_id}" in done.stderr and "resume" not in done.stderr
