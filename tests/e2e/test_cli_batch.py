"""``comfy-remote batch`` in processes of its own: killed, resumed, retried, paused, cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from helpers import start_sandbox, stop
from json_lines import check_lines
from PIL import Image

from comfy_remote.batch.manifest import read_manifest
from comfy_remote.cli.interrupt import LIKE_CTRL_C


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


@pytest.fixture
def engine() -> Iterator[str]:
    """A sandbox of this test alone, whose runs are counted."""
    url, process = start_sandbox()
    yield url
    stop(process)


def runs_on(engine: str) -> int:
    """How many runs an engine has had."""
    with urllib.request.urlopen(f"{engine}/history", timeout=60) as answer:
        return len(json.load(answer))


def workflow(folder: Path, seconds: float = 0.05) -> Path:
    """Loads a picture, takes its time (so long for each step), saves."""
    for name, color in (("a", 0x336699), ("b", 0x993366)):
        Image.new("RGB", (8, 8), color).save(folder / f"{name}.png")
    slow = {"image": ["1", 0], "steps": 2, "seconds_per_step": seconds, "preview": False, "seed": 1}
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "SandboxSlow", "inputs": slow},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    path = folder / "portrait.json"
    path.write_text(json.dumps(prompt))
    return path


def until_ended(process: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """The lines of a batch's ``--json``, up to that many ended runs."""
    lines = []
    assert process.stdout is not None
    for text in process.stdout:
        lines.append(json.loads(text))
        count -= lines[-1]["event"] == "run_ended"
        if not count:
            return lines
    raise AssertionError(process.communicate()[1])


def states(folder: Path) -> list[str]:
    lines = read_manifest(folder / "manifest.jsonl")
    return [lines[row].state for row in sorted(lines)]


THREE_AXES = (
    *("--vary", "LoadImage.image=*.png"),
    *("--vary", "SandboxSlow.steps=2,3"),
    *("--vary", "seed=1..3"),
)


def test_a_batch_is_killed_resumed_and_retried_and_no_run_happens_twice(
    cli: Cli, engine: str
) -> None:
    path = workflow(cli.folder, seconds=0.2)
    one_by_one = (*THREE_AXES, "--at-most", "1")
    process = cli.start("main", "batch", path, "--on", engine, *one_by_one, "--json")
    lines = until_ended(process, 1)  # long before those of the other picture
    process.kill()
    process.wait()
    planned, begun = (
        next(one for one in lines if one["event"] == event) for event in ("batch_planned", "batch")
    )
    assert planned["count"] == 12
    assert planned["axes"][0]["names"] == ["LoadImage.image"], "the dearest is the outermost"
    assert (begun["name"], begun["state"]) == ("portrait", "waiting")
    assert "stopped" in cli("batch", "list").stdout

    # What has changed here since changes nothing but the runs that need it.
    path.write_text("{}")
    before = (cli.folder / "b.png").read_bytes()
    (cli.folder / "b.png").write_bytes(b"another")
    resumed = cli("batch", "resume", begun["batch_id"][:8])
    assert resumed.returncode == 5, resumed.stderr
    assert "6 of 12 runs succeeded, 6 failed" in resumed.stderr
    assert "b.png has changed since the batch was made" in resumed.stderr
    assert resumed.stderr.splitlines()[-1].endswith("batch retry portrait")
    assert cli("batch", "resume", "portrait").returncode == 5, "nothing is left but what failed"

    (cli.folder / "b.png").write_bytes(before)
    told = cli.folder / "told.py"
    told.write_text("import sys; open('told.json', 'w').write(sys.stdin.read())")
    notify = ("--notify", f"{Path(sys.executable).as_posix()} told.py")
    retried = cli("batch", "retry", "portrait", "--json", *notify)
    assert retried.returncode == 0, retried.stderr
    said = check_lines(retried.stdout.splitlines())
    assert sum(one["event"] == "run_ended" for one in said) == 6
    assert said[-1]["event"] == "batch_ended" and said[-1]["succeeded"] == 12

    [ending] = check_lines((cli.folder / "told.json").read_text().splitlines())
    assert (ending["event"], ending["state"], ending["succeeded"]) == ("batch_ended", "ended", 12)

    assert runs_on(engine) == 12
    folder = cli.folder / "outputs" / "portrait"
    assert states(folder) == ["succeeded"] * 12
    made = [
        output
        for one in read_manifest(folder / "manifest.jsonl").values()
        for output in one.outputs
    ]
    assert len(made) == 12 and all((folder / one["file"]).is_file() for one in made)
    again = cli("batch", "resume", "portrait")
    assert again.returncode == 0 and "12 of 12 runs succeeded" in again.stderr
    assert "nothing to run again" in cli("batch", "retry", "portrait").stderr
    sheet = folder / "sheet.html"
    assert said[-1]["sheet"] == str(sheet) and sheet.is_file(), "made by itself at the end"
    sheet.unlink()
    made_again = cli("batch", "sheet", "portrait")
    assert made_again.returncode == 0, made_again.stderr
    assert made_again.stdout == f"{Path('outputs/portrait/sheet.html')}\n" and sheet.is_file()
    shown = cli("batch", "show", "portrait", "--runs").stdout
    assert "12 of 12" in shown and shown.count("succeeded") == 12
    assert runs_on(engine) == 12


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_ctrl_c_leaves_it_to_be_resumed_and_a_cancel_reaches_what_was_left(
    cli: Cli, engine: str
) -> None:
    path = workflow(cli.folder)
    slow = ("--vary", "seed=1..40", "--set", "SandboxSlow.steps=10", "--at-most", "2")
    command = ("batch", path, "--on", engine, *slow, "--json")
    ends = []
    for number in (signal.SIGINT, *LIKE_CTRL_C):
        process = cli.start("main", *command, "--name", number.name)
        until_ended(process, 1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        ends.append((process.returncode, check_lines(out.splitlines())[-1]))
        assert not err
    for status, last in ends:
        assert status == 130
        assert (last["event"], last["code"]) == ("error", "cancelled")
        assert "No more runs of SIG" in last["message"] and "batch resume SIG" in last["advice"]
    before = runs_on(engine)
    assert before < 60, "it does not run on by itself"
    done = cli("batch", "cancel", "SIGINT")
    assert done.returncode == 0 and "was cancelled" in done.stderr, done.stderr
    shown = json.loads(cli("batch", "show", "SIGINT", "--json").stdout)
    assert (shown["state"], shown["begun"]) == ("cancelled", 0)
    refused = cli("batch", "resume", "SIGINT")
    assert refused.returncode == 2 and "batch retry SIGINT" in refused.stderr


def test_in_the_background_it_is_watched_joined_and_paused(cli: Cli, engine: str) -> None:
    path = workflow(cli.folder)
    long = ("--vary", "seed=1..100", "--set", "SandboxSlow.steps=20")
    started = cli("batch", path, "--on", engine, *long, "--no-wait", "--name", "night")
    assert started.returncode == 0, started.stderr
    [batch_id] = started.stdout.split()
    assert cli("batch", "rm", "night").returncode == 2, "it runs"
    watching = cli.start("main", "batch", "watch", batch_id[:8], "--json")
    joined = cli.start("main", "batch", "resume", "night", "--json")
    seen = until_ended(watching, 2)
    until_ended(joined, 1)  # another process runs it: this one watches
    assert {one["event"] for one in seen} >= {"batch", "run_began", "run_ended"}
    paused = cli("batch", "pause", "night")
    assert paused.returncode == 0 and "night is paused" in paused.stderr, paused.stderr
    for process in (watching, joined):
        out, err = process.communicate(timeout=120)
        last = check_lines(out.splitlines())[-1]
        assert (last["event"], last["state"], process.returncode) == ("batch_ended", "paused", 8)
        assert not err
    ran = runs_on(engine)
    assert 3 <= ran < 100
    # What the manifest names is removed, and nothing else.
    folder = cli.folder / "outputs" / "night"
    (folder / "mine.txt").write_text("mine")
    (folder.parent / "other.txt").write_text("another's")
    assert len(states(folder)) == ran
    with (folder / "manifest.jsonl").open("r+", encoding="utf-8") as manifest:
        first = json.loads(manifest.readline())
        first["outputs"] += [{**first["outputs"][0], "file": "../other.txt"}]
        manifest.seek(0, os.SEEK_END)
        manifest.write(json.dumps(first) + "\n")
    assert cli("batch", "rm", "night", "--files").returncode == 2, "nobody can be asked"
    removed = cli("batch", "rm", "night", "--files", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert [one.name for one in folder.iterdir()] == ["mine.txt"]
    assert (folder.parent / "other.txt").is_file()
    assert "No batches yet" in cli("batch", "list").stderr
    assert runs_on(engine) == ran


def test_what_is_too_large_or_refused_is_not_begun(cli: Cli, engine: str) -> None:
    path = workflow(cli.folder)
    many = ("batch", path, "--on", engine, "--vary", "seed=1..201")
    asked = cli(*many)
    assert asked.returncode == 2
    assert "These are 201 runs. Nobody can be asked" in asked.stderr and "--yes" in asked.stderr
    dry = cli(*many, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    [planned] = [one for one in check_lines(dry.stdout.splitlines()) if one["event"] != "log"]
    assert (planned["event"], planned["count"], planned["problems"]) == ("batch_planned", 201, [])
    refused = cli("batch", path, "--on", engine, "--vary", "SandboxSlow.steps=1,2,0", "--dry-run")
    assert refused.returncode == 4
    assert "SandboxSlow.steps=0" in refused.stderr and "Nothing was sent." in refused.stderr
    nothing = cli("batch", path, "--on", engine)
    assert nothing.returncode == 2 and "Nothing varies" in nothing.stderr
    assert cli("batch", "list", "--json").stdout == ""
    assert runs_on(engine) == 0
