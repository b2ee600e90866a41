"""A run that nobody waits for, and one that says no more than it has to."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from json_lines import check_lines

SLOW = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0x336699},
    },
    "2": {
        "class_type": "SandboxSlow",
        "inputs": {
            "image": ["1", 0],
            "steps": 10,
            "seconds_per_step": 0.1,
            "preview": False,
            "seed": 1,
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "later"}},
}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(SLOW))
    return path


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return check_lines(done.stdout.splitlines())


@pytest.mark.parametrize("target", ["", "sandbox"], ids=["a ComfyUI", "the sandbox"])
def test_its_id_is_all_it_prints_and_nothing_is_lost(
    cli: Cli, slow: Path, sandbox_url: str, target: str
) -> None:
    begun = time.monotonic()
    sent = cli("run", slow, "--on", target or sandbox_url, "--no-wait", "-o", "out")
    assert sent.returncode == 0, sent.stderr
    job_id = sent.stdout.rstrip("\n")
    assert str(uuid.UUID(job_id)) == job_id
    assert f"comfy-remote jobs resume {job_id}" in sent.stderr
    assert ("its restart loses the job", "It ends with the machine")[bool(target)] in sent.stderr
    waited = cli("jobs", "wait", job_id)
    assert waited.returncode == 0, waited.stderr
    assert time.monotonic() - begun > 1.0
    assert waited.stdout.split()[:2] == [job_id, "succeeded"]
    fetched = cli("jobs", "resume", job_id, "--quiet")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    [made] = fetched.stdout.splitlines()
    assert (cli.folder / made).is_file() and Path(made).parent == Path("out")
    again = cli("jobs", "retry", job_id, "--no-wait", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    second = again.stdout.strip()
    assert second != job_id
    assert lines_of(cli("jobs", "list", "--json", "--offline"))[0]["attempt"] == 2
    watched = cli("jobs", "watch")
    assert watched.stdout.splitlines()[-1].split()[:2] == [second, "succeeded"]
    assert cli("jobs", "resume", second, "--no-preview").returncode == 0


def test_json_says_where_it_went_and_no_more(cli: Cli, slow: Path, sandbox_url: str) -> None:
    sent = cli("run", slow, "--on", sandbox_url, "--no-wait", "--json", "--quiet")
    [line] = lines_of(sent)
    assert line["event"] == "submitted" and line["target"] == sandbox_url
    resumed = cli("jobs", "resume", line["job_id"], "--json", "--quiet")
    assert [one["event"] for one in lines_of(resumed)] == ["submitted", "result"]


def test_pictures_that_are_only_sent_would_be_lost(cli: Cli, sandbox_url: str) -> None:
    sender = {**SLOW, "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    path = cli.folder / "sent.json"
    path.write_text(json.dumps(sender))
    sent = cli("run", path, "--on", sandbox_url, "--no-wait", "-q")
    assert "Warning: The pictures of 3 (SaveImageWebsocket) are only sent" in sent.stderr
    job_id = sent.stdout.strip()
    assert cli("jobs", "wait", job_id).returncode == 0
    fetched = cli("jobs", "resume", job_id, "-q")
    assert fetched.returncode == 8
    assert "its pictures are only sent while it runs" in fetched.stderr


@pytest.mark.parametrize("arguments", [("run", "x.json"), ("jobs", "retry", "abcd")])
def test_there_is_nothing_to_open_yet(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--no-wait", "--open")
    assert done.returncode == 2
    assert "--no-wait does not wait for" in done.stderr


def test_a_quiet_run_prints_the_places_of_its_outputs(
    cli: Cli, slow: Path, sandbox_url: str
) -> None:
    done = cli("run", slow, "--on", sandbox_url, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert (cli.folder / done.stdout.rstrip("\n")).is_file()
    listed = cli("run", slow, "--on", sandbox_url, "-q", "--no-download")
    assert listed.stdout.startswith(f"{sandbox_url}/view?") and not listed.stderr


def test_a_quiet_run_says_what_is_wrong(cli: Cli, slow: Path) -> None:
    done = cli("run", slow, "--on", "http://127.0.0.1:9", "-q")
    assert done.returncode == 3
    assert done.stdout == "" and "Error: " in done.stderr


@pytest.mark.comfyui
def test_on_a_real_comfyui(cli: Cli, comfyui_url: str) -> None:
    prompt = {
        "1": {**SLOW["1"], "inputs": {**SLOW["1"]["inputs"], "color": time.time_ns() % 2**24}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "left"}},
    }
    path = cli.folder / "left.json"
    path.write_text(json.dumps(prompt))
    dry = cli("run", path, "--on", comfyui_url, "--dry-run", "-q")
    assert (dry.returncode, json.loads(dry.stdout)) == (0, prompt), dry.stderr
    sent = cli("run", path, "--on", comfyui_url, "--no-wait", "-q")
    assert (sent.returncode, sent.stderr) == (0, "")
    job_id = sent.stdout.strip()
    assert cli("jobs", "wait", job_id).stdout.split()[:2] == [job_id, "succeeded"]
    fetched = cli("jobs", "resume", job_id, "-q")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert Path(fetched.stdout.strip()).name.startswith("left_")
    again = cli("jobs", "retry", job_id, "-q")
    assert (again.returncode, again.stderr) == (0, "")
