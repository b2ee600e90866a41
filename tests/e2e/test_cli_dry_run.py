"""``run --dry-run``: what would be sent, whether it would run, and what it would cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commands import Cli
from json_lines import check_lines
from PIL import Image


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path)) as commands:
        yield commands


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), 7).save(tmp_path / "beside.png")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "beside.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    path = tmp_path / "w.json"
    path.write_text(json.dumps(prompt))
    return path


def nothing_happened(cli: Cli) -> None:
    assert not (cli.folder / "output").exists()
    assert cli("jobs", "list", "--json", "--offline").stdout == ""


def test_the_prompt_is_printed_as_it_would_be_sent(
    cli: Cli, workflow: Path, sandbox_url: str
) -> None:
    dry = cli("run", workflow, "--on", sandbox_url, "--dry-run", "--set", "2.filename_prefix=café")
    assert dry.returncode == 0, dry.stderr
    prompt = json.loads(dry.stdout)
    assert prompt["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "café"}
    assert f"Would go to {sandbox_url}: 2 nodes." in dry.stderr
    assert "beside.png (" in dry.stderr
    assert "no problem was found" in dry.stderr
    assert "has not run on" in dry.stderr
    assert dry.stderr.endswith("Nothing was sent.\n")
    nothing_happened(cli)
    (cli.folder / "again.json").write_text(dry.stdout)
    again = cli("run", "again.json", "--on", sandbox_url, "--dry-run", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["2"] == prompt["2"]


def test_time_and_cost_are_those_of_past_runs(cli: Cli, workflow: Path, sandbox_url: str) -> None:
    config = cli.folder / "own.toml"
    config.write_text(f'[targets.lan]\ntarget = "{sandbox_url}"\nprice_per_hour = 3.6\n')
    on = ("--config", config, "--on", "lan")
    assert cli("run", workflow, *on, "-q").returncode == 0
    dry = cli("run", workflow, *on, "--dry-run", "--json", "--log", "logs")
    assert dry.returncode == 0, dry.stderr
    line = check_lines(dry.stdout.splitlines())[-1]
    assert (line["event"], line["target"], line["address"]) == ("dry_run", "lan", sandbox_url)
    [file] = line["files"]
    content = (cli.folder / "beside.png").read_bytes()
    assert (file["path"], file["size"]) == (str(cli.folder / "beside.png"), len(content))
    assert file["known"] is False
    estimate = line["estimate"]
    assert estimate["runs"] == 1
    assert estimate["price"] == pytest.approx(estimate["seconds"] / 1000, abs=2e-5)
    assert line["check"]["ok"] and not line["paid"]
    assert not (cli.folder / "logs").exists()
    assert len(cli("jobs", "list", "--json", "--offline").stdout.splitlines()) == 1


def test_what_would_fail_is_said_and_ends_with_4(
    cli: Cli, workflow: Path, sandbox_url: str
) -> None:
    prompt = json.loads(workflow.read_text())
    prompt["3"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "by magic", "scale_by": 2.0},
    }
    prompt["2"]["inputs"]["images"] = ["3", 0]
    workflow.write_text(json.dumps(prompt))
    dry = cli("run", workflow, "--on", sandbox_url, "--dry-run", "--json")
    assert dry.returncode == 4
    *logs, line = check_lines(dry.stdout.splitlines())
    assert any("by magic" in one["message"] for one in logs if one["event"] == "log")
    [problem] = line["check"]["problems"]
    assert (problem["code"], problem["node_id"]) == ("value_not_in_list", "3")
    plain = cli("run", workflow, "--on", sandbox_url, "--dry-run")
    assert plain.returncode == 4 and "1 error, see above" in plain.stderr
    (cli.folder / "beside.png").unlink()
    gone = cli("run", workflow, "--on", sandbox_url, "--dry-run")
    assert gone.returncode == 4 and gone.stdout == ""
    assert "beside.png" in gone.stderr
    nothing_happened(cli)


def test_an_endpoint_gets_no_job_that_asks_it(cli: Cli, workflow: Path) -> None:
    """A job starts a worker, which costs money."""
    asked: list[str] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._refuse()

        def do_POST(self) -> None:
            self._refuse()

        def _refuse(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base_url = f"http://127.0.0.1:{server.server_address[1]}/v2"
    try:
        dry = cli(
            *("run", workflow, "--on", "runpod:ep", "--dry-run", "--set", "2.filename_prefix=y"),
            RUNPOD_ENDPOINT_BASE_URL=base_url,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert dry.returncode == 0, dry.stderr
    assert "only a job can ask it" in dry.stderr
    assert set(asked) <= {"GET /v2/ep/health"}
    nothing_happened(cli)
