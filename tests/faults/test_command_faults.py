"""The command under faults: exit statuses, words, and going on after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bodies import damaged, without_files, without_output
from helpers import until
from lanes import (
    PAGE,
    TOKEN,
    Lane,
    command,
    failing,
    file,
    files_in,
    new_mark,
    picture,
    slow_picture,
    start_command,
)
from proxy import Answer, Delay, Fault, Rewrite

from comfy_remote import Record
from comfy_remote.events import JobState

pytestmark = pytest.mark.usefixtures("home")

BROKEN: dict[str, tuple[int, str, Callable[[str], Any], dict[str, Fault]]] = {
    # what: (exit status, words of the error, workflow, faults by path)
    "not JSON": (4, "is cut off", lambda mark: "{", {}),
    "UI format, empty": (4, "empty", lambda mark: {"nodes": [], "links": []}, {}),
    "UI format, unknown node": (
        4,
        "NoSuchNode",
        lambda mark: {"nodes": [{"id": 1, "type": "NoSuchNode"}], "links": []},
        {},
    ),
    "empty": (4, "empty", lambda mark: {}, {}),
    "a list": (4, "a list", lambda mark: [], {}),
    "unknown node": (
        4,
        "NoSuchNode",
        lambda mark: {"1": {"class_type": "NoSuchNode", "inputs": {}}},
        {},
    ),
    "missing file": (
        4,
        "missing.png",
        lambda mark: {"1": {"class_type": "LoadImage", "inputs": {"image": "missing.png"}}},
        {},
    ),
    "wrong key": (3, "refused the key|wants a login", picture, {"": Answer(401)}),
    "no such endpoint": (3, "404|no endpoint", picture, {"": Answer(404, PAGE)}),
    "asked too often": (3, "429", picture, {"SUBMIT": Answer(429, headers={"Retry-After": "0"})}),
    "a page": (3, "not JSON|not known", picture, {"": Answer(200, PAGE)}),
    "a node fails": (5, "the reason", lambda mark: failing(mark, "error"), {}),
    "out of memory": (5, "ran out of memory", lambda mark: failing(mark, "out_of_memory"), {}),
    "damaged": (7, "damaged|SHA-256", lambda mark: file(mark, 5000), {"DAMAGE": Delay(0)}),
    "nothing came": (7, "no output|no result", picture, {"EMPTY": Delay(0)}),
    "no space": (7, "could not be written", picture, {}),
}


async def test_the_command_fails(lane: Lane, tmp_path: Path, out: Path) -> None:
    """Exit status, advice, no traceback, nothing half-written: for each kind of error."""

    async def fails(name: str, json_lines: bool) -> None:
        status, words, workflow, _ = BROKEN[name]
        mark = new_mark()
        document = workflow(mark)
        path, folder = tmp_path / f"{mark}.json", out / mark
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        if name == "no space":
            folder.write_text("in the way")
        flags = ["--json"] if json_lines else []
        ended = await command(
            lane, "run", path, "--on", lane.address, "-o", folder, *flags, cwd=tmp_path
        )
        assert ended.status == status, (name, ended)
        assert "Traceback" not in ended.stdout + ended.stderr, (name, ended)
        assert TOKEN not in ended.stdout + ended.stderr
        told = ended.stdout if json_lines else ended.stderr
        assert re.search(words, told), (name, ended)
        if json_lines:
            assert all(isinstance(json.loads(line), dict) for line in ended.stdout.splitlines())
            assert ended.result["event"] == "error"
            assert ended.result["advice"], (name, ended.result)
        else:
            assert ended.stdout == ""
            assert len(ended.stderr.strip().splitlines()) >= 2, (name, ended.stderr)
        if name == "no space":
            assert folder.read_text() == "in the way"
        else:
            assert not folder.exists() or files_in(folder) == [], name
        runs = 1 if status in (5, 7) else 0
        if name == "no space":  # noticed before anything is sent
            runs = 0
        elif name == "out of memory" and lane.name == "gateway":
            runs = 2  # our worker frees the memory and tries once more
        assert lane.engine.runs(mark) == runs, name

    # Left out: looks for the job for ten seconds; ComfyUI announces no hash.
    without = {"a page", "damaged"} if lane.name == "comfyui" else set()
    json_first = lane.name == "gateway"
    names = [(name, (n % 2 == 0) == json_first) for n, name in enumerate(BROKEN)]
    faulty = {name for name, (*_, faults) in BROKEN.items() if faults}
    await asyncio.gather(*(fails(name, form) for name, form in names if name not in faulty))
    for name, form in names:
        if name in faulty - without:
            lane.proxy.heal()
            for where, fault in BROKEN[name][3].items():
                _plan(lane, where, fault)
            await fails(name, form)


async def test_the_command_is_out_of_time_and_resumes(
    lane: Lane, tmp_path: Path, out: Path
) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=25)))
    ended = await command(
        *(lane, "run", "workflow.json", "--on", lane.address, "-o", out, "--timeout", 1),
        cwd=tmp_path,
    )
    assert ended.status == 6
    assert "Traceback" not in ended.stderr
    found = re.search(r"comfy-remote jobs resume ([0-9a-f-]{36})", ended.stderr)
    assert found is not None, ended.stderr
    assert files_in(out) == []
    ended = await command(lane, "jobs", "resume", found[1], "--json", cwd=tmp_path)
    assert ended.status == 0, ended
    assert [Path(o["path"]).parent for o in ended.result["outputs"]] == [out]
    assert len(files_in(out)) == 1
    assert lane.engine.runs(mark) == 1


async def test_the_command_is_killed_and_resumes(lane: Lane, tmp_path: Path, out: Path) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=40)))
    process = await start_command(
        lane, "run", "workflow.json", "--on", lane.address, "-o", out, "--json", cwd=tmp_path
    )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        event = json.loads(line)
        if event.get("event") == "progress" and (event["step"] or 0) > 2:
            break
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        await until(lambda: record.newest()[0].state is JobState.RUNNING)
    process.kill()
    await process.communicate()
    assert files_in(out) == []
    listed = await command(lane, "jobs", "list", "--json", "--offline", cwd=tmp_path)
    (entry,) = map(json.loads, listed.stdout.splitlines())
    assert entry["state"] == "running"
    ended = await command(lane, "jobs", "resume", entry["job_id"], cwd=tmp_path)
    assert ended.status == 0, ended
    assert len(files_in(out)) == 1
    assert lane.engine.runs(mark) == 1
    again = await command(lane, "jobs", "resume", entry["job_id"], cwd=tmp_path)
    assert again.status == 0
    assert len(files_in(out)) == 1, "what is here is not fetched twice"


async def test_the_command_is_cancelled_elsewhere(lane: Lane, tmp_path: Path, out: Path) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=300)))
    process = await start_command(
        lane, "run", "workflow.json", "--on", lane.address, "-o", out, cwd=tmp_path
    )
    await until(lambda: lane.engine.runs(mark) == 1)
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        await until(lambda: record.newest()[0].ref is not None)
        entry = record.newest()[0]
    ended = await command(lane, "jobs", "cancel", entry.id, cwd=tmp_path)
    assert ended.status == 0, ended
    _, words = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 130
    assert b"Traceback" not in words
    assert files_in(out) == []
    assert lane.engine.busy() == 0


def _plan(lane: Lane, where: str, fault: Fault) -> None:
    """A fault of `BROKEN`, whose places have names."""
    if where == "SUBMIT":
        lane.proxy.plan(lane.submit, fault, times=None)
    elif where == "DAMAGE":
        lane.proxy.plan(lane.poll, Rewrite(damaged), times=None)
    elif where == "EMPTY":
        change = without_files if lane.name == "comfyui" else without_output
        lane.proxy.plan("/history/|/status(-sync)?/", Rewrite(change), times=None)
    else:
        lane.proxy.plan(where, fault, times=None)
