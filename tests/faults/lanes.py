"""The ways from a client to an engine, each with a fault proxy in it, and prompts to send there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import start_sandbox
from PIL import Image
from proxy import FaultProxy
from pydantic import SecretStr

from comfy_remote import Client, Record, resume
from comfy_remote.errors import ComfyRemoteError, JobTimedOut, TargetUnreachable
from comfy_remote.events import Event
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.sdk_worker import worker_command
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Polling
from comfy_remote.targets.base import Target
from comfy_remote.targets.comfyui.follow import FollowTimes
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

TOKEN = "planted-9f3c51d7e08b42aa"
COLOUR = 0x3366CC
PAGE = b"<!DOCTYPE html><html><title>502 Bad Gateway</title></html>"
"""What a proxy in front of an engine answers."""


class EngineCounter:
    """How often an engine was given a prompt, by a mark in it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def runs(self, mark: str) -> int:
        """Prompts with that mark that ran, run or wait."""
        history, queue = self._get("history"), self._get("queue")
        entries = [entry["prompt"] for entry in history.values()]
        entries += queue["queue_running"] + queue["queue_pending"]
        return sum(mark in json.dumps(entry) for entry in entries)

    def busy(self) -> int:
        """Prompts that run or wait."""
        queue = self._get("queue")
        return len(queue["queue_running"]) + len(queue["queue_pending"])

    def forget(self, mark: str) -> None:
        """Drop what ran with that mark from the history, as a user may."""
        ids = [i for i, entry in self._get("history").items() if mark in json.dumps(entry)]
        self._post("history", {"delete": ids})

    def interrupt(self) -> None:
        """Stop what runs, as somebody in its page does."""
        self._post("interrupt", {})

    def _get(self, path: str) -> Any:
        import urllib.request

        with urllib.request.urlopen(f"{self.url}/{path}", timeout=60) as response:
            return json.load(response)

    def _post(self, path: str, body: Any) -> None:
        import urllib.request

        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).close()


@dataclass
class Lane:
    """A client's way to an engine.

    Attributes:
        name: ``comfyui`` (the client talks to the engine), or ``gateway`` (the client talks
            to the gateway as if it were RunPod, a worker to the engine).
        proxy: Between the client and what it talks to.
        engine: At the far end.
        submit: Matches the path of a submission.
        poll: Matches the path of a question how the job stands.
        address: As after ``--on``.
        gateway: If there is one.
    """

    name: str
    proxy: FaultProxy
    engine: EngineCounter
    submit: str
    poll: str
    address: str
    gateway: GatewayServer | None = None

    def target(
        self,
        patience: float = 20.0,
        key: str | None = TOKEN,
        requests: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    ) -> Target:
        """A new target."""
        if self.gateway is None:
            times = FollowTimes(requests, Polling(patience=patience), search=1.5)
            return ComfyUITarget(self.proxy.url, times=times)
        return RunPodTarget(
            self.gateway.endpoint_id,
            SecretStr(key) if key else None,
            base_url=f"{self.proxy.url}/v2",
            times=EndpointTimes(requests, Polling(first=0.26, patience=patience)),
        )


@contextlib.asynccontextmanager
async def comfyui_lane(engine_url: str) -> AsyncIterator[Lane]:
    """Client → engine."""
    async with FaultProxy(engine_url) as proxy:
        yield Lane(
            "comfyui",
            proxy,
            EngineCounter(engine_url),
            submit=r"^/prompt$",
            poll=r"^/(history/|queue)",
            address=proxy.url,
        )


@contextlib.asynccontextmanager
async def gateway_lane(
    engine_url: str,
    *,
    engine: Engine | None = None,
    result_limit: int | None = None,
    store: bool = True,
    sdk: Sequence[str] | None = None,
) -> AsyncIterator[Lane]:
    """Client → gateway → worker → engine.

    Args:
        engine: That the worker drives; by default it finds one at ``engine_url``.
        result_limit: Bytes that a result may have.
        store: Whether the worker may put large outputs into the gateway's store.
        sdk: Arguments of the real SDK's worker; by default one in this process is used.
    """
    limits = GatewayLimits(poll_wait=2.0, stop_settle=0.1)
    async with GatewayServer(endpoint_id="desk", token=SecretStr(TOKEN), limits=limits) as gateway:
        engine = engine or Engine.named(engine_url)
        if sdk is not None:
            gateway.add_sdk_worker(worker_command(*sdk))
            assert await gateway.wait_until_ready(60), "the SDK's worker did not start"
        else:
            settings = WorkerSettings(
                result_limit=result_limit,
                store_url=f"{gateway.worker_endpoint_url}/files" if store else None,
                store_key=gateway.worker_token,
                worker="faults",
            )
            gateway.add_local_worker(JobHandler(engine, settings))
        try:
            async with FaultProxy(gateway.url.removesuffix("/v2")) as proxy:
                yield Lane(
                    "gateway",
                    proxy,
                    EngineCounter(engine_url),
                    submit=r"/desk/run$",
                    poll=r"/desk/status(-sync)?/",
                    address="runpod:desk",
                    gateway=gateway,
                )
        finally:
            await gateway.stop()
            engine.stop()


@contextlib.contextmanager
def sandbox(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A sandbox that may be broken: URL and process."""
    url, process = start_sandbox(*arguments)
    try:
        yield url, process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def new_mark() -> str:
    """A word that no other prompt has."""
    return f"mark-{uuid.uuid4().hex[:12]}"


def picture(mark: str) -> dict[str, Any]:
    """One picture of 64 x 48 pixels, saved."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": COLOUR},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": mark}},
    }


def slow_picture(mark: str, *, steps: int = 10, pause: float = 0.1) -> dict[str, Any]:
    """The same, after some steps. (Sandbox only.)"""
    slow = {
        "image": ["1", 0],
        "steps": steps,
        "seconds_per_step": pause,
        "preview": True,
        "seed": random.getrandbits(60),
    }
    prompt = picture(mark)
    prompt["2"]["inputs"]["images"] = ["3", 0]
    return {**prompt, "3": {"class_type": "SandboxSlow", "inputs": slow}}


def failing(mark: str, mode: str, message: str = "the reason") -> dict[str, Any]:
    """A prompt whose node 4 fails, a moment after its start. (Sandbox only.)"""
    prompt = slow_picture(mark, steps=3)
    prompt["2"]["inputs"]["images"] = ["4", 0]
    inputs = {"image": ["3", 0], "mode": mode, "message": message}
    return {**prompt, "4": {"class_type": "SandboxFail", "inputs": inputs}}


def file(mark: str, size: int, **listed: str) -> dict[str, Any]:
    """A file of that size. (Sandbox only.)"""
    inputs = {
        "filename": f"{mark}.bin",
        "subfolder": "",
        "size": size,
        "list_under": "files",
        "listed_filename": "",
        "listed_subfolder": "",
        **listed,
    }
    return {"1": {"class_type": "SandboxFile", "inputs": inputs}}


def content(size: int) -> bytes:
    """What `file` writes."""
    block = random.Random(0).randbytes(min(size, 1 << 20))
    return (block * (size // (1 << 20) + 1))[:size] if size else b""


async def fetch(
    target: Target,
    prompt: dict[str, Any],
    folder: Path,
    *,
    timeout: float = 40.0,
    events: list[Event] | None = None,
) -> list[SavedOutput]:
    """The whole job: submitted, followed, its outputs saved below ``folder``."""
    async with Client(target) as client:
        job = await client.submit(prompt, folder=folder, timeout=timeout)
        async for event in job:
            if events is not None:
                events.append(event)
        return await job.save_outputs(folder)


@dataclass
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Any:
        """The last object that ``--json`` printed."""
        return json.loads(self.stdout.splitlines()[-1])


async def command(lane: Lane | None, *arguments: object, cwd: Path) -> Ended:
    """Run ``comfy-remote`` in a process of its own, to its end.

    The environment is this one's, so it must hold the key and the record's place.
    """
    process = await start_command(lane, *arguments, cwd=cwd)
    try:
        out, err = await asyncio.wait_for(process.communicate(), 180)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def start_command(
    lane: Lane | None, *arguments: object, cwd: Path
) -> asyncio.subprocess.Process:
    """The same, and not wait for it."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if lane is not None and lane.gateway is not None:
        environ["RUNPOD_ENDPOINT_BASE_URL"] = f"{lane.proxy.url}/v2"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_remote", *map(str, arguments)),
        cwd=cwd,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def files_in(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def finished_files(folder: Path) -> list[str]:
    """The same without what the next try goes on with, which is in a hidden folder."""
    return [name for name in files_in(folder) if not name.startswith(".comfy-remote-")]


def assert_picture(saved: Sequence[SavedOutput], folder: Path) -> None:
    """The one picture of `picture` is there, and nothing else."""
    assert len(saved) == 1
    assert files_in(folder) == [str(saved[0].path.relative_to(folder))]
    with Image.open(saved[0].path) as image:
        image.load()
        assert image.size == (64, 48)
        red, green, blue = COLOUR >> 16, COLOUR >> 8 & 255, COLOUR & 255
        assert image.convert("RGB").getpixel((5, 7)) == (red, green, blue)
    if sys.platform != "win32":
        assert saved[0].path.stat().st_mode & 0o777 == 0o600


async def refused(
    kind: type[ComfyRemoteError], lane: Lane, prompt: Any, out: Path, **how: Any
) -> ComfyRemoteError:
    """Run it, and get the error it must end in: of that very kind, with advice, no files."""
    patience = how.pop("patience", 20.0)
    with pytest.raises(ComfyRemoteError) as caught:
        await fetch(lane.target(patience), prompt, out, **how)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.advice, error
    assert TOKEN not in f"{error} {error.details}"
    # Only where it may go on is something kept for that.
    assert (finished_files if kind is TargetUnreachable else files_in)(out) == []
    return error


async def out_of_time(
    words: str, lane: Lane, prompt_of: Callable[[str, float], Any], out: Path
) -> tuple[JobTimedOut, str]:
    """Run a prompt with a timeout of a second, and get the error, which says these words; its mark.

    A machine on which that second is over before the job is where it is wanted gets more.

    Args:
        prompt_of: Gives the prompt, from its mark and the timeout in seconds.
    """
    for seconds in (1.0, 4.0, 16.0):
        mark = new_mark()
        with pytest.raises(JobTimedOut) as caught:
            await fetch(lane.target(), prompt_of(mark, seconds), out, timeout=seconds)
        assert finished_files(out) == []
        if re.search(words, caught.value.message):
            return caught.value, mark
    raise caught.value


async def resume_newest(out: Path, contents: list[bytes] | None = None) -> None:
    """Take up the newest job of the record, and check what it brings."""
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        entry = record.newest()[0]
    async with resume(entry.id, timeout=120) as job:
        saved = await job.save_outputs(out)
    if contents is None:
        assert_picture(saved, out)
    else:
        assert [s.path.read_bytes() for s in saved] == contents


def post_as_worker(lane: Lane, job_id: str, body: Any) -> None:
    assert lane.gateway is not None
    request = urllib.request.Request(
        f"{lane.gateway.worker_endpoint_url}/job-done/local/{job_id}",
        json.dumps(body).encode(),
        {"Authorization": lane.gateway.worker_token.get_secret_value()},
    )
    urllib.request.urlopen(request, timeout=60).close()


def processes_with(words: str) -> list[int]:
    """Ids of our children that were started with these words (POSIX)."""
    # Without "ww", COLUMNS cuts the lines off, even in a pipe.
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return [int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and words in args]
