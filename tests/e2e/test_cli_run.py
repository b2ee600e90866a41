"""The command in processes of its own, against real engines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import Cli
from helpers import wait_until
from json_lines import check_lines

from comfy_remote.events import JobState
from comfy_remote.version import __version__

EXAMPLES = Path(__file__).parents[2] / "comfy_remote" / "examples"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with contextlib.closing(Cli(tmp_path)) as commands:
        yield commands


def lines_of(text: str) -> list[dict]:
    return check_lines(text.splitlines())


def read_until(process: subprocess.Popen[str], wanted: Callable[[dict], bool]) -> list[dict]:
    """JSON lines as they come, up to the first that is wanted."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if wanted(seen[-1]):
            return seen
    raise AssertionError(f"it ended after {seen}: {process.stderr.read()}")


def a_step(line: dict) -> bool:
    return line["event"] == "progress" and (line["step"] or 0) >= 2


def history(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/history", timeout=60) as answer:
        return json.load(answer)


def slow(folder: Path, seconds: float = 0.1, steps: int = 30) -> Path:
    prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x336699},
        },
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": steps,
                "seconds_per_step": seconds,
                "preview": True,
                "seed": time.time_ns(),
            },
        },
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "sub/slow"},
        },
    }
    path = folder / "slow.json"
    path.write_text(json.dumps(prompt))
    return path


def test_the_examples_are_named_where_there_is_no_such_one(cli: Cli) -> None:
    for name in ("example:nope", "example:", "example:../examples/collage"):
        done = cli("check", name)
        assert done.returncode == 2
        assert "There are: example:collage, example:portrait, example:slow." in done.stderr


def test_an_example_on_the_default_target(cli: Cli) -> None:
    done = cli("run", "example:collage")  # as --help has it, wherever this package is installed
    assert done.returncode == 0, done.stderr
    assert "No target is configured: using the sandbox." in done.stderr
    assert "example:collage is a workflow in API format." in done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert paths == [
        Path("output/collage_00001_.png"),
        Path("output/moods/lighthouse_00001_.webp"),
    ]
    for path in paths:
        assert (cli.folder / path).stat().st_size > 1000
        if os.name == "posix":
            assert (cli.folder / path).stat().st_mode & 0o777 == 0o600
    assert not list((cli.folder / "output").glob(".comfy-remote-*"))


@pytest.mark.parametrize("kind", ["PrimitiveStringMultiline", "Text of a pack"])
@pytest.mark.parametrize("ui", [False, True], ids=["api", "ui"])
def test_the_node_of_a_repo_list_costs_no_job(
    cli: Cli, sandbox_url: str, kind: str, ui: bool
) -> None:
    """The sandbox has neither class."""
    text = "lora https://x.example/a.safetensors"
    workflow: dict = json.loads(slow(cli.folder, 0.0, 1).read_text())
    workflow["99"] = {
        "class_type": kind,
        "inputs": {"value": text},
        "_meta": {"title": "repo_list"},
    }
    if ui:
        nodes = [
            {"id": 1, "type": "EmptyImage", "widgets_values": [8, 8, 1, 255]},
            {"id": 2, "type": "SaveImage", "widgets_values": ["listed"]},
            {"id": 3, "type": kind, "title": "repo_list", "widgets_values": [text]},
        ]
        nodes[0]["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]
        nodes[1]["inputs"] = [{"name": "images", "type": "IMAGE", "link": 1}]
        workflow = {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4}
    path = cli.folder / "listed.json"
    path.write_text(json.dumps(workflow))
    done = cli("run", path, "--on", sandbox_url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The models of repo_list are not fetched") == 1
    skipped = cli("run", path, "--on", sandbox_url, "--no-repo-list")
    assert skipped.returncode == 0, skipped.stderr
    assert "models of repo_list" not in skipped.stderr
    checked = cli("check", path, "--on", sandbox_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_json_lines(cli: Cli, sandbox_url: str) -> None:
    done = cli(
        *("run", EXAMPLES / "collage.json", "--on", sandbox_url, "-o", "here", "--json"),
        *("--set", "Save collage.filename_prefix=other/collage"),
    )
    assert done.returncode == 0, done.stderr
    # On a busy machine, the file that it loads takes a second to be sent.
    lines = [line for line in lines_of(done.stdout) if line["event"] != "sending"]
    assert lines[0] == {
        "event": "submitted",
        "target": sandbox_url,
        "job_id": lines[0]["job_id"],
        "version": 1,
    }
    assert {line["job_id"] for line in lines} == {lines[0]["job_id"]}
    assert lines[-2]["event"] == "finished"
    result = lines[-1]
    assert (result["event"], result["state"]) == ("result", "succeeded")
    assert [
        Path(o["path"]).relative_to(cli.folder / "here").parts[0] for o in result["outputs"]
    ] == [
        "other",
        "moods",
    ]
    for output in result["outputs"]:
        content = Path(output["path"]).read_bytes()
        assert len(content) == output["size"]
        assert hashlib.sha256(content).hexdigest() == output["sha256"]
    shown = cli("jobs", "show", lines[0]["job_id"][:8], "--json")
    assert lines_of(shown.stdout)[0]["outputs"] == result["outputs"]


def test_previews_are_told_unless_unwanted(cli: Cli, sandbox_url: str) -> None:
    workflow = slow(cli.folder, seconds=0.02, steps=5)
    seen = cli("run", workflow, "--on", sandbox_url, "--json").stdout
    assert '"event": "preview"' in seen
    workflow = slow(cli.folder, seconds=0.02, steps=5)
    seen = cli("run", workflow, "--on", sandbox_url, "--json", "--no-preview").stdout
    assert '"event": "result"' in seen
    assert '"event": "preview"' not in seen


def test_a_killed_client_resumes_and_the_target_ran_it_once(cli: Cli, sandbox_url: str) -> None:
    before = set(history(sandbox_url))
    process = cli.start(
        "main", "run", slow(cli.folder), "--on", sandbox_url, "-o", "kept", "--json", "--no-preview"
    )
    job_id = read_until(process, a_step)[0]["job_id"]
    process.kill()
    process.wait()
    assert not (cli.folder / "kept").exists() or not any((cli.folder / "kept").rglob("*.png"))

    done = cli("jobs", "resume", job_id[:8], "--json", "--no-preview")
    assert done.returncode == 0, done.stdout + done.stderr
    (output,) = lines_of(done.stdout)[-1]["outputs"]
    assert Path(output["path"]).parent == cli.folder / "kept" / "sub"
    assert set(history(sandbox_url)) - before == {job_id}

    again = cli("jobs", "resume", job_id[:8])
    assert again.returncode == 0
    assert "here already" in again.stderr
    assert again.stdout.splitlines() == [str(Path(output["path"]).relative_to(cli.folder))]

    Path(output["path"]).write_bytes(b"somebody changed it")
    third = cli("jobs", "resume", job_id[:8])
    assert third.returncode == 0
    fetched = cli.folder / third.stdout.strip()
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == output["sha256"]
    assert set(history(sandbox_url)) - before == {job_id}


def test_a_killed_client_on_the_default_sandbox_resumes(cli: Cli) -> None:
    process = cli.start("main", "run", slow(cli.folder), "--json", "--no-preview")
    job_id = read_until(process, a_step)[0]["job_id"]
    process.kill()
    process.wait()
    done = cli("jobs", "resume", job_id)
    assert done.returncode == 0, done.stderr
    assert (cli.folder / done.stdout.strip()).is_file()


@pytest.mark.parametrize("how", ["before", "after", "DEBUG"])
def test_more_words(cli: Cli, sandbox_url: str, how: str) -> None:
    arguments = ["run", slow(cli.folder, 0.01, 3), "--on", sandbox_url, "--json"]
    if how == "DEBUG":
        done = cli(*arguments, DEBUG="1")
    else:
        done = cli("-v", *arguments) if how == "before" else cli(*arguments, "-v")
    assert done.returncode == 0, done.stderr
    assert [line["event"] for line in lines_of(done.stdout)][-1] == "result"
    host = sandbox_url.removeprefix("http://")
    assert f"Comfy Remote {__version__}, Python 3." in done.stderr
    assert f"Target: {sandbox_url} (named)." in done.stderr
    assert re.search(rf"POST {host}/prompt: 200 in \d+ ms", done.stderr)
    assert re.search(rf"GET {host}/view: 200 in \d+ ms", done.stderr)
    assert re.search(r"has job \S+ as \S+, \d+\.\d\d s after", done.stderr)
    assert re.search(r"succeeded after \d+\.\d\d s, 1 outputs", done.stderr)
    assert "filename=" not in done.stderr
    assert "Using selector" not in done.stderr


def test_more_words_of_a_failure(cli: Cli, sandbox_url: str) -> None:
    prompt = json.loads(slow(cli.folder).read_text())
    inputs = {"image": ["1", 0], "mode": "error", "message": "Not today."}
    prompt["2"] = {"class_type": "SandboxFail", "inputs": inputs}
    path = cli.folder / "fails.json"
    path.write_text(json.dumps(prompt))
    plain, wordy = (cli(*v, "run", path, "--on", sandbox_url) for v in ((), ("-v",)))
    assert (plain.returncode, wordy.returncode) == (5, 5)
    frame = "raise RuntimeError(message)"
    assert frame not in plain.stderr
    assert frame in wordy.stderr
    (entry, _) = lines_of(cli("jobs", "list", "--json").stdout)
    assert frame in cli("jobs", "show", entry["job_id"]).stdout
    refused = cli("-v", "doctor", "--on", "http://127.0.0.1:9")
    assert re.search(r"Try 1 failed: .*could not be reached.* Next in \d\.\d s\.", refused.stderr)


def test_a_list_says_how_the_jobs_of_a_killed_client_ended(cli: Cli, sandbox_url: str) -> None:
    process = cli.start(
        "main", "run", slow(cli.folder), "--on", sandbox_url, "--json", "--no-preview"
    )
    job_id = read_until(process, a_step)[0]["job_id"]
    cli.until_recorded(job_id, JobState.RUNNING)
    process.kill()
    process.wait()
    wait_until(lambda: job_id in history(sandbox_url))
    (before,) = lines_of(cli("jobs", "list", "--json", "--offline").stdout)
    assert before["state"] == "running"
    (entry,) = lines_of(cli("jobs", "list", "--json").stdout)
    assert (entry["state"], entry["unknown"], entry["outputs"]) == ("succeeded", None, [])


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_job(cli: Cli, sandbox_url: str, number: signal.Signals) -> None:
    process = cli.start("main", "run", slow(cli.folder, 0.1, 3000), "--on", sandbox_url, "--json")
    job_id = read_until(process, a_step)[0]["job_id"]
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    error = lines_of(out)[-1]
    assert (error["event"], error["code"]) == ("error", "cancelled")
    assert error["message"] == "The job was cancelled."
    assert f"comfy-remote jobs resume {job_id}" in error["advice"]
    assert history(sandbox_url)[job_id]["status"]["status_str"] == "error"
    assert "Traceback" not in err
    assert lines_of(cli("jobs", "show", job_id, "--json").stdout)[0]["state"] == "cancelled"
    resumed = cli("jobs", "resume", job_id)
    assert resumed.returncode == 130
    assert "interrupted" in resumed.stderr


@POSIX
def test_a_second_ctrl_c_leaves_at_once(cli: Cli, deaf_target: DeafTarget) -> None:
    process = cli.start("main", "run", slow(cli.folder), "--on", deaf_target.url, "--json")
    read_until(process, lambda line: line["event"] in ("queued", "started"))
    process.send_signal(signal.SIGINT)
    assert deaf_target.asked_to_cancel.wait(180)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    # Politely, it would wait for the deaf target for ten seconds. (A busy machine is slow.)
    assert time.monotonic() - began < 8.0
    assert process.returncode == 130
    error = lines_of(out)[-1]
    assert "may still be running" in error["message"]
    assert error["resume"].startswith("comfy-remote jobs resume ")
    assert "Traceback" not in err


class DeafTarget(NamedTuple):
    url: str
    asked_to_cancel: threading.Event


@pytest.fixture
def deaf_target() -> Iterator[DeafTarget]:
    """A ComfyUI that takes a prompt, runs it for ever, and never answers a cancel."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    taken: list[dict] = []
    over, asked_to_cancel = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.path.startswith("/ws"):
                self.send_error(404)
            elif self.path.startswith("/queue"):
                running = [[1, body["prompt_id"], {}, {}, []] for body in taken]
                self.answer({"queue_running": running, "queue_pending": []})
            else:
                self.answer({})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/prompt":
                taken.append(body)
                self.answer({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})
            else:
                asked_to_cancel.set()
                over.wait(180)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield DeafTarget(f"http://127.0.0.1:{server.server_port}", asked_to_cancel)
    over.set()
    server.shutdown()
    server.server_close()


def timed_out(cli: Cli, *target: str, steps: int = 20) -> dict:
    """The error of a run whose time was over while the job ran.

    A machine on which a second and a half is over before that gets more.

    Args:
        steps: How many tenths of a second the job takes, for each second of the timeout.
    """
    for seconds in (1.5, 6.0, 24.0):
        long = slow(cli.folder, steps=int(steps * seconds))
        done = cli("run", long, *target, "--timeout", seconds, "--json")
        assert done.returncode == 6
        error = lines_of(done.stdout)[-1]
        assert error["code"] == "timed_out"
        if "was not cancelled" in error["message"]:
            return error
        cli("jobs", "rm", "--force", error["job_id"])
    raise AssertionError(error)


def test_a_timeout_leaves_the_job_running(cli: Cli, sandbox_url: str) -> None:
    error = timed_out(cli, "--on", sandbox_url, steps=400)
    assert error["resume"] == f"comfy-remote jobs resume {error['job_id']}"
    cancelled = cli("jobs", "cancel", error["job_id"])
    assert cancelled.returncode == 0, cancelled.stderr
    assert "was cancelled" in cancelled.stderr
    (entry,) = lines_of(cli("jobs", "list", "--json").stdout)
    assert entry["state"] == "cancelled"
    again = cli("jobs", "cancel", error["job_id"])
    assert (again.returncode, "had ended already" in again.stderr) == (0, True)


def test_a_timeout_on_the_default_sandbox_leaves_it_running(cli: Cli) -> None:
    error = timed_out(cli)
    (entry,) = lines_of(cli("jobs", "list", "--json").stdout)
    assert entry["job_id"] == error["job_id"]
    resumed = cli("jobs", "resume", entry["job_id"])
    assert resumed.returncode == 0, resumed.stderr
    assert (cli.folder / resumed.stdout.strip()).is_file()


def test_outputs_that_cannot_be_written_wait_in_the_default_sandbox(cli: Cli) -> None:
    (cli.folder / "here").mkdir()
    (cli.folder / "here" / "deep").write_text("a file where the subfolder should be")
    prefix = "SaveImage.filename_prefix=deep/collage"
    done = cli("run", EXAMPLES / "collage.json", "-o", "here", "--set", prefix)
    assert done.returncode == 7
    assert "comfy-remote jobs resume" in done.stderr
    (entry,) = lines_of(cli("jobs", "list", "--json").stdout)
    assert (entry["state"], entry["outputs"]) == ("succeeded", [])
    resumed = cli("jobs", "resume", entry["job_id"], "-o", "free")
    assert resumed.returncode == 0, resumed.stderr
    assert (cli.folder / "free" / "deep" / "collage_00001_.png").is_file()


def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_run(cli: Cli) -> None:
    (cli.folder / "taken").write_text("a file where the folder should be")
    done = cli("run", EXAMPLES / "collage.json", "-o", "taken")
    assert done.returncode == 7
    assert "Choose another folder with -o" in done.stderr
    assert cli("jobs", "list", "--json").stdout == ""


@POSIX
@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("check",),
        ("show",),
        ("models", "list"),
        ("jobs", "resume", "0000", "--json"),
        ("call", "--json", "-i", "a=1"),
    ],
    ids=" ".join,
)
def test_a_sigterm_ends_every_command_that_waits(cli: Cli, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        first, *rest = arguments
        file = [] if first in ("doctor", "models", "jobs") else [slow(cli.folder)]
        process = cli.start("main", first, *file, *rest, "--on", url)
        accepted, _ = mute.accept()
        with accepted:
            assert accepted.recv(1 << 16)  # it has asked, and waits for the answer
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=180)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    if "--json" in arguments:
        error = lines_of(out)[-1]
        assert (error["event"], error["code"]) == ("error", "cancelled")


@POSIX
def test_ctrl_c_before_the_target_has_answered(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = cli.start("main", "run", slow(cli.folder), "--on", url)
        with contextlib.ExitStack() as connections:
            while True:
                asks = connections.enter_context(mute.accept()[0])
                if b"POST /prompt" in asks.recv(1 << 16):
                    break
                asks.sendall(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")  # the socket
                asks.close()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=180)
    assert (process.returncode, out) == (130, "")
    assert "The job may have been sent." in err
    assert "comfy-remote jobs resume" in err
    assert "Traceback" not in err


def test_a_failed_job(cli: Cli, sandbox_url: str) -> None:
    prompt = json.loads(slow(cli.folder).read_text())
    prompt["2"] = {
        "class_type": "SandboxFail",
        "inputs": {"image": ["1", 0], "mode": "error", "message": "Not \x1b[31mtoday."},
    }
    path = cli.folder / "fails.json"
    path.write_text(json.dumps(prompt))
    done = cli("run", path, "--on", sandbox_url)
    assert (done.returncode, done.stdout) == (5, "")
    assert "today." in done.stderr
    assert "SandboxFail" in done.stderr
    assert "\x1b" not in done.stderr
    (entry,) = lines_of(cli("jobs", "list", "--json").stdout)
    resumed = cli("jobs", "resume", entry["job_id"])
    assert resumed.returncode == 5
    assert "today." in resumed.stderr


def test_what_the_target_refuses(cli: Cli, sandbox_url: str) -> None:
    prompt = json.loads(slow(cli.folder).read_text())
    prompt["2"]["inputs"]["steps"] = -5
    path = cli.folder / "bad.json"
    path.write_text(json.dumps(prompt))
    done = cli("run", path, "--on", sandbox_url)
    assert done.returncode == 4
    assert "node 2 (SandboxSlow)" in done.stderr


def test_nobody_there(cli: Cli) -> None:
    done = cli("run", slow(cli.folder), "--on", "http://127.0.0.1:9", "--json")
    assert done.returncode == 3
    error = lines_of(done.stdout)[-1]
    assert error["code"] == "target_unreachable"
    assert error["resume"] is None


def test_a_console_that_cannot_show_everything(cli: Cli, sandbox_url: str) -> None:
    path = cli.folder / "猫.json"
    path.write_bytes(slow(cli.folder, 0.01, 2).read_bytes())
    for arguments in (("run", path, "--on", sandbox_url), ("jobs", "list"), ("run", "--help")):
        done = cli(*arguments, PYTHONIOENCODING="cp1252")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.comfyui
def test_on_a_real_comfyui(cli: Cli, comfyui_url: str) -> None:
    done = cli("run", EXAMPLES / "collage.json", "--on", comfyui_url)
    assert done.returncode == 0, done.stderr
    sizes = [(cli.folder / line).stat().st_size for line in done.stdout.splitlines()]
    assert len(sizes) == 2
    assert min(sizes) > 1000
    assert (cli.folder / done.stdout.splitlines()[0]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_failed_run_leaves_what_it_had_saved_and_says_so(cli: Cli) -> None:
    inputs = {"image": ["1", 0], "mode": "error", "message": "Out of paint."}
    prompt = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=1),
        "2": node("SaveImage", images=["1", 0], filename_prefix="first"),
        "3": node("SandboxFail", **inputs),
        "4": node("SaveImage", images=["3", 0], filename_prefix="second"),
    }
    (cli.folder / "w.json").write_text(json.dumps(prompt))
    ended = cli("run", "w.json", "--on", "sandbox", "--json", "-o", "out")
    assert ended.returncode == 5, ended.stderr
    *_, partial, error = lines_of(ended.stdout)
    assert partial["event"] == "partial"
    [saved] = partial["outputs"]
    assert (saved["node_id"], Path(saved["path"]).is_file()) == ("2", True)
    assert (error["event"], error["code"]) == ("error", "execution_failed")
    again = cli("jobs", "resume", error["job_id"])
    assert again.returncode == 5
    assert "Out of paint." in again.stderr
    assert again.stdout.strip().endswith("first_00001_.png")


def test_a_run_that_lacks_an_output_says_so_and_ends_with_8(cli: Cli) -> None:
    prompt = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=2),
        "2": node("SaveImage", images=["1", 0], filename_prefix="good"),
        "3": node("SaveImage", filename_prefix="nothing to save"),
    }
    (cli.folder / "w.json").write_text(json.dumps(prompt))
    ended = cli("run", "w.json", "--on", "sandbox", "--json", "-o", "out")
    assert ended.returncode == 8, ended.stderr
    result = lines_of(ended.stdout)[-1]
    assert (result["event"], len(result["outputs"])) == ("result", 1)
    [problem] = result["problems"]
    assert (problem["node_id"], problem["node_class"]) == ("3", "SaveImage")
    assert "images" in problem["reason"]
    plain = cli("run", "w.json", "--on", "sandbox", "-o", "out")
    assert plain.returncode == 8
    assert "Warning: Node 3 (SaveImage): it does not run" in plain.stderr
    assert "Incomplete: 1 problem" in plain.stderr


def node(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}


def test_one_workflow_has_one_verdict_on_the_sandbox_too(cli: Cli) -> None:
    """Pictures that are sent arrive, and so do files that no node tells of."""
    picture = node("EmptyImage", width=8, height=8, batch_size=2, color=3)
    sends = {"1": picture, "2": node("SaveImageWebsocket", images=["1", 0])}
    (cli.folder / "sends.json").write_text(json.dumps(sends))
    ended = cli("run", "sends.json", "--on", "sandbox", "--json", "-o", "out")
    assert ended.returncode == 0, ended.stderr
    outputs = lines_of(ended.stdout)[-1]["outputs"]
    assert [one["filename"] for one in outputs] == [
        "websocket_2_00001_.png",
        "websocket_2_00002_.png",
    ]
    assert all(Path(one["path"]).stat().st_size == one["size"] for one in outputs)
    more = {"folder_name": "set", "filename_prefix": "image", "mode": "overwrite"}
    silent = {"1": picture, "2": node("SaveImageDataSetToFolder", images=["1", 0], **more)}
    (cli.folder / "silent.json").write_text(json.dumps(silent))
    ended = cli("run", "silent.json", "--on", "sandbox", "--json", "-o", "out")
    assert ended.returncode == 0, ended.stderr
    outputs = lines_of(ended.stdout)[-1]["outputs"]
    assert [(one["node_id"], one["filename"]) for one in outputs] == [
        ("2", "image_00000.png"),
        ("2", "image_00001.png"),
    ]
