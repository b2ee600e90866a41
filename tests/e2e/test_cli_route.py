"""Routes as a terminal has them: explained, followed to the next target, resumed, in batches."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, line_with
from gated_sandbox import Gate
from json_lines import check_lines
from owner import configure

from comfy_remote.events import JobState

DEAD = '[targets.dead]\ntarget = "http://127.0.0.1:9"\n'
SLOW = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}},
}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_route_is_explained_run_and_used_by_a_batch(cli: Cli, sandbox_url: str) -> None:
    configure(
        cli.folder / "home",
        f'default = "any"\n{DEAD}[targets.lan]\ntarget = "{sandbox_url}"\n'
        '[targets.any]\nroute = ["dead", "lan"]\nprefer = "soonest"\n',
    )
    path = cli.folder / "made.json"
    path.write_text(json.dumps(SLOW))
    plain = cli("route", path)
    assert plain.returncode == 0, plain.stderr
    assert "CHOSEN" in plain.stdout and "cannot be reached" in plain.stdout
    assert "It would be sent to lan: dead cannot be reached." in plain.stderr
    [said] = lines_of(cli("route", path, "--on", "route:dead,lan", "--json"))
    assert (said["chosen"], said["prefer"]) == ("lan", "order")
    assert {one["member"]: one["able"] for one in said["route"]} == {"lan": True, "dead": False}
    nobody = cli("route", path, "--on", "route:dead")
    assert nobody.returncode == 3 and "No target of route:dead can take it." in nobody.stderr
    assert cli("route", path, "--on", "lan").returncode == 2
    assert lines_of(cli("jobs", "list", "--json")) == []  # nothing was sent

    done = cli("run", path, "-o", "out", "--json")
    assert done.returncode == 0, done.stdout
    lines = lines_of(done)
    assert any("Sent to lan" in line.get("message", "") for line in lines)
    check_lines(done.stdout.splitlines())
    assert lines[-1]["member"] == "lan"
    job_id = lines[-1]["job_id"]
    [shown] = lines_of(cli("jobs", "show", job_id, "--json"))
    assert (shown["target"], shown["member"]) == ("any", "lan")
    assert [(step["member"], step["state"]) for step in shown["route"]] == [("lan", "ended")]
    assert "any (lan)" in cli("jobs", "show", job_id).stdout
    again = cli("jobs", "retry", job_id, "--json")
    assert again.returncode == 0, again.stderr
    batch = cli("batch", path, "--vary", "EmptyImage.width=8,16,24", "-o", "many")
    assert batch.returncode == 0, batch.stderr
    listed = lines_of(cli("jobs", "list", "--on", "lan", "--json"))
    assert [one["member"] for one in listed] == ["lan"] * 5
    manifest = (cli.folder / "many" / "manifest.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["target"] for line in manifest.splitlines()] == ["lan"] * 3
    doctor = cli("doctor", "--on", "any")
    assert "dead cannot be reached." in doctor.stdout and "lan can be used." in doctor.stdout


def test_a_job_is_resumed_by_its_route_and_without_it(cli: Cli, gated_url: str) -> None:
    lan = f'[targets.lan]\ntarget = "{gated_url}"\n'
    route = '[targets.any]\nroute = ["lan", "dead"]\n'
    for number, later in enumerate([DEAD + lan + route, lan, ""]):
        configure(cli.folder / "home", DEAD + lan + route)
        gate = Gate(cli.folder, f"gate{number}")
        process = cli.start("main", "run", gate.path, "--on", "any", "-o", "out", "--json")
        job_id: str = json.loads(line_with(process.stdout, '"submitted"'))["job_id"]
        cli.until_recorded(job_id, JobState.RUNNING)
        process.kill()
        process.wait()
        configure(cli.folder / "home", later)
        gate.open()
        resumed = cli("jobs", "resume", job_id, "--no-preview")
        assert resumed.returncode == 0, resumed.stderr
        assert "out" in resumed.stdout
