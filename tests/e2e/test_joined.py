"""Workers that join a gateway, all as processes: what happens when what dies."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import COMFYUI_PYTHON, real_comfyui, start_sandbox, stop
from joined_kit import Cluster, cluster
from serve_kit import alive, children_of, picture, slow, wait_for

__all__ = ["cluster"]

EXAMPLES = Path(__file__).parents[2] / "comfy_remote" / "examples"
not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="uses ps")


def test_the_command_runs_a_workflow_on_a_joined_worker(cluster: Cluster) -> None:
    cluster.serve()
    worker = cluster.worker("attic", "--label", "fast")
    worker.says("Connected to the gateway as attic.")
    base = f"http://127.0.0.1:{cluster.port}/v2"
    out = cluster.folder / "out"
    text = cluster.command(
        *("run", str(EXAMPLES / "collage.json"), "--on", "runpod:local", "-o", str(out)),
        RUNPOD_ENDPOINT_BASE_URL=base,
    )
    assert text.ended(90) == 0, text.text
    assert [path.suffix for path in out.iterdir() if path.is_file()] == [".png"]
    wait_for(lambda: cluster.workers()["attic"]["state"] == "idle", 60)
    about = cluster.workers()["attic"]["about"]
    assert "sandbox" in about
    assert "fast" in about
    spool = cluster.folder / "box-attic" / "worker" / "local" / "attic"
    assert not list(spool.rglob("result.json"))
    token = cluster.token("attic").read_text().strip()
    for path in cluster.folder.rglob("*"):
        if path.is_file() and path.suffix != ".token":
            assert token.encode() not in path.read_bytes(), path
    assert token not in worker.text


def test_a_job_goes_on_while_the_gateway_is_killed_and_started_again(cluster: Cluster) -> None:
    head = cluster.serve()
    worker, job = cluster.begin(slow(4))
    head.kill()
    time.sleep(1.0)
    cluster.serve()
    found = cluster.ends(job)
    assert (found["status"], found.get("attempt")) == ("COMPLETED", None)
    assert worker.text.count(f"Job {job} begins") == 1


def test_a_result_waits_for_a_gateway_that_is_down(cluster: Cluster) -> None:
    head = cluster.serve()
    worker, job = cluster.begin(slow(2))
    head.kill()
    worker.says(f"Job {job} has ended")
    worker.kill()
    cluster.serve()
    cluster.worker("attic")
    found = cluster.ends(job)
    assert (found["status"], found.get("attempt")) == ("COMPLETED", None)


@not_on_windows
def test_the_job_of_a_worker_that_is_killed_runs_once_more_and_its_engine_is_gone(
    cluster: Cluster,
) -> None:
    cluster.serve()
    worker, job = cluster.begin(slow(3))
    engines = children_of(worker.process.pid)
    assert engines
    worker.kill()
    time.sleep(1.0)
    assert cluster.status(job)["status"] == "IN_PROGRESS"  # silence proves nothing
    again = cluster.worker("attic")
    again.says(f"Job {job} begins")
    found = cluster.ends(job)
    assert (found["status"], found["attempt"]) == ("COMPLETED", 2)
    assert not alive(engines)


def test_the_job_of_a_killed_worker_is_not_repeated_where_its_engine_goes_on(
    cluster: Cluster,
) -> None:
    cluster.serve()
    url, engine = start_sandbox()
    try:
        worker, job = cluster.begin(slow(300), "--engine", url)
        worker.kill()
        cluster.worker("attic", "--engine", url)
        found = cluster.ends(job)
    finally:
        stop(engine)
    assert (found["status"], found.get("attempt")) == ("FAILED", None)
    assert "may still be running it" in str(found["error"])


def test_both_are_killed_and_started_again(cluster: Cluster) -> None:
    head = cluster.serve()
    worker = cluster.worker("attic")
    jobs = [cluster.submit(slow(2, color=number)) for number in range(3)]
    worker.says(f"Job {jobs[0]} begins")
    head.kill()
    worker.kill()
    cluster.serve()
    cluster.worker("attic")
    found = [cluster.ends(job) for job in jobs]
    assert [one["status"] for one in found] == ["COMPLETED"] * 3
    assert [one.get("attempt") for one in found] == [2, None, None]


def test_a_cancel_reaches_the_worker_at_once(cluster: Cluster) -> None:
    cluster.serve()
    worker, job = cluster.begin(slow(600))
    cluster.ask(f"cancel/{job}", {})
    worker.says(f"Job {job} is stopped")
    after = cluster.submit(picture())
    assert cluster.ends(after)["status"] == "COMPLETED"
    assert cluster.status(job)["status"] == "CANCELLED"


def test_ctrl_c_lets_the_job_end_and_a_second_one_gives_it_back(cluster: Cluster) -> None:
    cluster.serve()
    first = cluster.worker("attic")
    job = cluster.submit(slow(3))
    next_job = cluster.submit(slow(600, color=1))
    first.says(f"Job {job} begins")
    first.interrupt()
    assert first.ended() == 0, first.text
    assert cluster.status(job)["status"] == "COMPLETED"
    assert cluster.status(next_job)["status"] == "IN_QUEUE"
    second = cluster.worker("attic")
    second.says(f"Job {next_job} begins")
    second.interrupt()
    second.says("It stops when the job that runs has ended")
    second.interrupt()
    assert second.ended() == 0, second.text
    assert f"Job {next_job} is given back" in second.text
    found = cluster.status(next_job)
    assert (found["status"], found.get("attempt")) == ("IN_QUEUE", None)


def test_two_processes_of_one_machine_cannot_have_one_name(cluster: Cluster) -> None:
    cluster.serve()
    cluster.worker("attic").says("Connected")
    second = cluster.worker("attic")
    assert second.ended() == 2, second.text
    assert "Another worker of this name runs on this machine" in second.text


def test_one_on_another_machine_is_refused_while_the_first_has_a_job(cluster: Cluster) -> None:
    cluster.serve()
    worker, job = cluster.begin(slow(10))
    second = cluster.worker("attic", COMFY_REMOTE_HOME=str(cluster.folder / "elsewhere"))
    second.says("Another process is connected as attic")
    worker.kill()
    second.says("The gateway cannot be used now")
    assert cluster.status(job)["status"] == "IN_PROGRESS"
    cluster.run("workers", "gone", "attic")
    found = cluster.ends(job)
    assert (found["status"], found["attempt"], found["workerId"]) == ("COMPLETED", 2, "attic")


def test_drain_and_remove(cluster: Cluster) -> None:
    cluster.serve()
    # Clients have that address.
    worker = cluster.worker("attic", join=f"http://127.0.0.1:{cluster.port}/v2")
    other = cluster.worker("cellar")
    worker.says("Connected")
    other.says("Connected")
    cluster.run("workers", "drain", "cellar")
    other.says("The gateway gives this worker no more jobs")
    job = cluster.submit(slow(600))
    cluster.runs(job)
    assert cluster.status(job)["workerId"] == "attic"
    wait_for(lambda: cluster.workers()["attic"]["state"] == "running", 60)
    cluster.run("workers", "drain", "cellar", "--undo")
    cluster.run("workers", "remove", "attic")
    assert worker.ended() == 3, worker.text
    assert "refused the token of attic" in worker.text
    wait_for(lambda: cluster.status(job).get("workerId") == "cellar", 60)
    assert cluster.status(job)["attempt"] == 2
    other.kill()
    wait_for(lambda: cluster.workers()["cellar"]["state"] == "not connected", 60)
    assert cluster.workers()["cellar"]["jobs"] == [job]


def test_http_is_refused_beyond_this_machine(cluster: Cluster) -> None:
    worker = cluster.worker("attic", join="http://192.0.2.1:8000")
    assert worker.ended() == 2
    assert "is not https" in worker.text
    assert "ssh -L" in worker.text


def test_a_token_in_the_wrong_place_is_an_error_that_helps(cluster: Cluster) -> None:
    worker = cluster.command("worker", "--join", "http://127.0.0.1:1", "--engine", "sandbox")
    assert worker.ended() == 2
    assert "comfy-remote workers add" in worker.text
    file = cluster.folder / "wrong.token"
    file.write_text(base64.b64encode(b"x" * 32).decode())
    worker = cluster.command(
        "worker", "--join", "http://127.0.0.1:1", "--token-file", str(file), "--engine", "sandbox"
    )
    assert worker.ended() == 2
    assert "is not a worker's token" in worker.text
    worker = cluster.command(
        "worker", "--join", "http://127.0.0.1:1", "--token-file", "nix", "--engine", "sandbox"
    )
    assert worker.ended() == 2
    assert "comfy-remote workers add" in worker.text


def test_several_engines_of_one_box_are_a_worker_each(cluster: Cluster) -> None:
    cluster.serve()
    box = cluster.worker("attic", "--engine", "sandbox", "--engine", "sandbox")
    box.says("Connected to the gateway as attic.engine1")
    box.says("Connected to the gateway as attic.engine2")
    jobs = [cluster.submit(slow(2, color=number)) for number in range(2)]
    found = [cluster.ends(job) for job in jobs]
    assert [one["status"] for one in found] == ["COMPLETED"] * 2
    assert {one["workerId"] for one in found} == {"attic.engine1", "attic.engine2"}
    cluster.run("workers", "drain", "attic")
    box.says("The gateway gives this worker no more jobs")
    wait_for(lambda: [one["state"] for one in cluster.workers().values()] == ["drained"] * 2, 60)


@pytest.mark.comfyui
@pytest.mark.timeout(300)
def test_a_real_comfyui_joins_runs_a_job_with_a_picture_and_is_stopped(cluster: Cluster) -> None:
    folder = real_comfyui()
    cluster.serve()
    worker = cluster.worker(
        "attic",
        *("--comfyui", str(folder)),
        COMFYUI_PYTHON=COMFYUI_PYTHON,
        COMFYUI_ARGS="--cpu",
        COMFY_REMOTE_WORKER_DIR=str(cluster.folder / "cache"),
    )
    wait_for(lambda: "ComfyUI" in cluster.workers()["attic"]["about"], 110)
    content = base64.b64encode((EXAMPLES / "input" / "lighthouse.png").read_bytes()).decode()
    prompt: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "lighthouse.png"}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {
                "image": ["1", 0],
                "upscale_method": "nearest-exact",
                "width": 384,
                "height": 384,
                "crop": "disabled",
            },
        },
        "99": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}},
    }
    last = "2"
    for number in range(3, 10):
        inputs = {"image": [last, 0], "blur_radius": 31, "sigma": 5.0 + number / 100}
        last = str(number)
        prompt[last] = {"class_type": "ImageBlur", "inputs": inputs}
    prompt["99"]["inputs"]["images"] = [last, 0]

    def submit() -> str:
        prompt["99"]["inputs"]["filename_prefix"] += "b"
        prompt["3"]["inputs"]["sigma"] += 0.001
        files = [{"name": "lighthouse.png", "data": content}]
        body = {"input": {"workflow": prompt, "files": files, "format": "comfy-remote/1"}}
        return str(cluster.ask("run", body)["id"])

    job, seen = submit(), set[int]()
    final = ("COMPLETED", "FAILED")
    while (found := cluster.status(job))["status"] not in final:
        if isinstance(found.get("output"), dict):
            seen.add(found["output"].get("nodes_done", 0))
        time.sleep(0.1)
    assert found["status"] == "COMPLETED", found
    assert found["output"]["outputs"][0]["filename"].endswith(".png")
    assert len(seen) >= 3
    stopped = submit()
    worker.says(f"Job {stopped} begins")
    time.sleep(0.5)
    cluster.ask(f"cancel/{stopped}", {})
    worker.says(f"Job {stopped} is stopped")
    assert cluster.ends(submit(), 110)["status"] == "COMPLETED"
