"""A gateway of ours as a target: large inputs go by themselves, and more of a policy is sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from helpers import until
from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.installation import installation_id
from comfy_remote.errors import (
    ComfyRemoteError,
    InputFileMissing,
    RateLimited,
    RequestTooLarge,
    TargetError,
    TargetUnreachable,
)
from comfy_remote.events import DidItRun, Event, Finished, JobState, Log, Progress
from comfy_remote.jobs.forecast import limits_of
from comfy_remote.net.http import HttpClient, HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.targets.base import InputFile, RunRequest
from comfy_remote.targets.runpod.gateway import SMALLEST_SENT_ALONE, OwnGateway
from comfy_remote.targets.runpod.kind import EndpointOptions
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.wire.runpod import FILES_HEADER, IDEMPOTENCY_HEADER, JobStatus
from comfy_remote.workflow.check import Limits
from comfy_remote.workflow.paid_nodes import any_paid, is_paid, known_paid
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

KEY = "planted-key-0123456789"
JOB = "11111111-2222-4333-8444-555555555555"
PROMPT: Prompt = {"1": {"class_type": "EmptyImage", "inputs": {}}}
QUICK = Backoff(attempts=4, first=0.005, longest=0.005, longest_asked=0.005, jitter=0.0)
TIMES = EndpointTimes(
    requests=HttpLimits(backoff=QUICK),
    polling=Polling(first=0.005, longest=0.01, patience=0.1, backoff=QUICK),
)
HEADERS = {"Authorization": SecretStr(f"Bearer {KEY}")}
LARGE = SMALLEST_SENT_ALONE + 1
TRIES = QUICK.attempts + 3


@dataclass
class Gateway:
    """Takes files, and refuses as it is told."""

    url: str = ""
    file_bytes: int = 8 * 2**20
    has: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    puts: list[int] = field(default_factory=list)
    """What the next uploads are answered with: 0 cuts the connection."""
    heads: list[int] = field(default_factory=list)
    slow: float = 0.02
    """Seconds that an upload takes."""
    together: int = 0
    """So many uploads wait for each other first."""
    forgets: str = ""
    """This file goes when the second one has come."""
    at_once: int = 0
    most_at_once: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        what = request.path.removeprefix("/v2/ep/")
        self.asked.append(f"{request.method} {what[:14]}")
        if what == "health":
            return web.json_response({}, headers={FILES_HEADER: str(self.file_bytes)})
        if what == "run":
            self.runs.append(await request.json())
            self.keys.append(request.headers[IDEMPOTENCY_HEADER])
            return web.json_response({"id": "abc-e1", "status": "IN_QUEUE"})
        sha256 = what.removeprefix("files/")
        if request.method == "HEAD":
            status = self.heads.pop(0) if self.heads else 200 if sha256 in self.has else 404
            return web.Response(status=status)
        return await self._put(request, sha256)

    async def _put(self, request: web.Request, sha256: str) -> web.StreamResponse:
        status = self.puts.pop(0) if self.puts else 201
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if status == 0:
                await request.content.readany()
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if status != 201:
                return web.Response(status=status)
            content = await request.read()
            if self.together:
                await until(lambda: self.most_at_once >= self.together)
            await asyncio.sleep(self.slow)
        finally:
            self.at_once -= 1
        if hashlib.sha256(content).hexdigest() != sha256:
            return web.Response(status=400)
        self.has[sha256] = content
        if self.forgets and len(self.has) == 2:
            del self.has[self.forgets]
            self.forgets, self.slow = "", 0.0
        return web.json_response({"size": len(content)}, status=201)

    def count(self, what: str) -> int:
        return sum(asked.startswith(what) for asked in self.asked)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/v2"))
        yield made


def target_at(gateway: Gateway, **options: Any) -> RunPodTarget:
    return RunPodTarget(
        "ep", SecretStr(KEY), base_url=gateway.url, times=TIMES, options=EndpointOptions(**options)
    )


def a_file(folder: Path, name: str, size: int) -> InputFile:
    path = folder / name
    path.write_bytes(name.encode() * (size // len(name)) + b"." * (size % len(name)))
    return InputFile(name, path, size, hashlib.sha256(path.read_bytes()).hexdigest())


# --- files --------------------------------------------------------------------------------


async def test_large_files_go_by_themselves_and_small_ones_in_the_request(
    gateway: Gateway, tmp_path: Path
) -> None:
    large = a_file(tmp_path, "large.bin", 3 * 2**20)
    small = a_file(tmp_path, "small.bin", LARGE - 1)
    told: list[tuple[int, int]] = []
    async with target_at(gateway) as target:
        request = RunRequest(JOB, PROMPT, [large, small], on_sent=lambda *n: told.append(n))
        assert (await target.submit(request)).remote_id == "abc-e1"
    assert gateway.has == {large.sha256: large.path.read_bytes()}
    [run] = gateway.runs
    assert run["input"]["files"] == [{"name": "large.bin", "sha256": large.sha256}]
    [inline] = run["input"]["images"]
    assert (inline["name"], inline["sha256"]) == ("small.bin", small.sha256)
    assert gateway.keys == [JOB]
    assert told[-1] == (large.size, large.size)
    assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)
    assert {total for _, total in told} == {large.size}


async def test_what_the_gateway_has_is_not_sent(gateway: Gateway, tmp_path: Path) -> None:
    file = a_file(tmp_path, "large.bin", LARGE)
    twin = replace(file, name="twin.bin")
    async with target_at(gateway) as target:
        for _ in range(2):
            await target.submit(RunRequest(JOB, PROMPT, [file, twin]))
    assert gateway.count("PUT") == 1
    assert gateway.count("HEAD") == 2
    assert gateway.count("GET health") == 1
    names = [[one["name"] for one in run["input"]["files"]] for run in gateway.runs]
    assert names == [["large.bin", "twin.bin"]] * 2


async def test_four_files_go_side_by_side(gateway: Gateway, tmp_path: Path) -> None:
    files = [a_file(tmp_path, f"{number}.bin", LARGE + number) for number in range(9)]
    gateway.together = 4
    async with target_at(gateway) as target:
        await target.submit(RunRequest(JOB, PROMPT, files))
    assert len(gateway.has) == 9
    assert gateway.most_at_once == 4


async def test_many_small_files_that_do_not_fit_one_request_go_by_themselves_the_largest_first(
    gateway: Gateway, tmp_path: Path
) -> None:
    files = [a_file(tmp_path, f"{n:03}.bin", 200_000 + n) for n in range(50)]
    async with target_at(gateway) as target:
        await target.submit(RunRequest(JOB, PROMPT, files))
    [run] = gateway.runs
    assert len(json.dumps(run)) <= 10 * 2**20
    alone = [one["name"] for one in run["input"]["files"]]
    assert 0 < len(alone) < 25
    assert set(alone) == {file.name for file in files[-len(alone) :]}
    assert len(run["input"]["images"]) == 50 - len(alone)


async def test_after_a_long_upload_the_gateway_is_asked_for_all_files_again(
    gateway: Gateway, tmp_path: Path
) -> None:
    first, second = (a_file(tmp_path, f"{n}.bin", LARGE + n) for n in range(2))
    gateway.slow, gateway.forgets = 0.4, first.sha256
    async with HttpClient(f"{gateway.url}/ep", name="It", headers=HEADERS) as http:
        own = OwnGateway("It", 2**30, http, QUICK, fresh=0.3)
        there = await own.send([first, second])
    assert there == {first.sha256, second.sha256} == set(gateway.has)
    assert gateway.count("PUT") == 3


@pytest.mark.parametrize(
    ("heads", "puts", "kind", "says"),
    [
        ([429] * TRIES, [], RateLimited, "takes no more for now: its store has no room"),
        ([], [429] * TRIES, RateLimited, "takes no more for now"),
        ([413], [], RequestTooLarge, r"large\.bin is 3\.1 MB, and runpod:ep takes 8\.4 MB a file"),
        ([], [507] * TRIES, TargetUnreachable, "its disk is full, or cannot be written"),
        ([], [0] * TRIES, TargetUnreachable, "could not be reached"),
        ([], [400], InputFileMissing, "has changed while it was sent"),
    ],
)
async def test_what_the_gateway_refuses_is_said_in_clear_words_and_nothing_runs(
    gateway: Gateway,
    tmp_path: Path,
    heads: list[int],
    puts: list[int],
    kind: type[ComfyRemoteError],
    says: str,
) -> None:
    gateway.heads, gateway.puts = heads, puts
    file = a_file(tmp_path, "large.bin", 3 * 2**20)
    async with target_at(gateway) as target:
        with pytest.raises(kind, match=says) as caught:
            await target.submit(RunRequest(JOB, PROMPT, [file]))
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert gateway.runs == []
    assert not gateway.heads
    assert not gateway.puts


async def test_a_file_over_the_gateways_limit_is_refused_before_anything_is_sent(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.file_bytes = LARGE + 10
    files = [a_file(tmp_path, "fits.bin", LARGE), a_file(tmp_path, "large.bin", LARGE + 11)]
    async with target_at(gateway) as target:
        with pytest.raises(RequestTooLarge, match=r"large\.bin"):
            await target.submit(RunRequest(JOB, PROMPT, files))
    assert gateway.asked == ["GET health"]


@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
async def test_a_file_that_changes_while_it_is_sent_is_named(
    gateway: Gateway, tmp_path: Path, change: str
) -> None:
    file = a_file(tmp_path, "large.bin", 3 * 2**20)
    content = {"shorter": b"x" * 2**20, "longer": b"x" * 2**22}
    if change == "gone":
        file.path.unlink()
    else:
        file.path.write_bytes(content[change])
    async with target_at(gateway) as target:
        with pytest.raises(InputFileMissing, match=r"large\.bin"):
            await target.submit(RunRequest(JOB, PROMPT, [file]))
    assert gateway.count("PUT") <= 1  # and is not tried again
    assert gateway.runs == []


async def test_the_workflow_itself_may_be_as_large_as_a_request(gateway: Gateway) -> None:
    prompt: Prompt = {"1": {"class_type": "A", "inputs": {"text": "x" * (11 * 2**20)}}}
    async with target_at(gateway) as target:
        with pytest.raises(RequestTooLarge, match="The workflow itself is 11"):
            await target.submit(RunRequest(JOB, prompt))
        assert limits_of(target) == Limits()  # its files are not counted


async def test_a_gateway_that_was_out_of_reach_when_it_was_asked_is_asked_again(
    tmp_path: Path,
) -> None:
    file = a_file(tmp_path, "large.bin", 9 * 2**20)
    async with ScriptedServer() as server:
        server.on("GET /v2/ep/health", Answer(None, 503))
        async with RunPodTarget("ep", base_url=f"{server.url}/v2", times=TIMES) as target:
            for _ in range(2):
                # Not that the file is too large, which is not known.
                with pytest.raises(TargetError, match="is failing") as caught:
                    await target.submit(RunRequest(JOB, PROMPT, [file]))
                assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
        assert server.count("GET /v2/ep/health") == 2
        assert server.count("POST /v2/ep/run") == 0


@pytest.mark.parametrize("said", ["", "no", "-1", "9" * 30])
async def test_another_server_gets_all_in_one_request(tmp_path: Path, said: str) -> None:
    file = a_file(tmp_path, "large.bin", LARGE)
    async with ScriptedServer() as server:
        server.on("GET /v2/ep/health", Answer({}, headers={FILES_HEADER: said} if said else {}))
        server.on("POST /v2/ep/run", Answer({"id": "abc-e1", "status": "IN_QUEUE"}))
        options = EndpointOptions(home=tmp_path, policy={"priority": 5, "ttl": 60_000})
        url = f"{server.url}/v2"
        async with RunPodTarget("ep", base_url=url, times=TIMES, options=options) as target:
            await target.submit(RunRequest(JOB, PROMPT, [file], retry_lost=False))
        [run] = [asked.json() for asked in server.asked if asked.path == "/v2/ep/run"]
    assert [one["name"] for one in run["input"]["images"]] == ["large.bin"]
    assert "files" not in run["input"]
    assert run["policy"] == {"ttl": 60_000}


# --- policy -------------------------------------------------------------------------------


async def test_a_gateway_of_ours_gets_the_whole_policy(gateway: Gateway, tmp_path: Path) -> None:
    async with target_at(gateway, home=tmp_path, policy={"priority": 5, "lowPriority": True}) as it:
        ref = await it.submit(RunRequest(JOB, PROMPT, front=True, retry_lost=False))
        assert ref.remote_id == "abc-e1"
    [run] = gateway.runs
    client = installation_id(tmp_path)
    assert client is not None
    assert run["policy"] == {
        "priority": 5,
        "lowPriority": True,
        "front": True,
        "retryLost": False,
        "client": client,
    }


async def test_what_costs_money_elsewhere_is_not_started_a_second_time(gateway: Gateway) -> None:
    paid: Prompt = {"1": {"class_type": "OpenAIDalle3", "inputs": {}}}
    async with target_at(gateway, policy={"client": "studio"}) as target:
        await target.submit(RunRequest(JOB, paid))
        await target.submit(RunRequest(JOB, PROMPT))
    assert [run["policy"] for run in gateway.runs] == [
        {"client": "studio", "retryLost": False},
        {"client": "studio"},
    ]


def test_the_list_of_paid_nodes_is_that_of_the_bundled_schemas() -> None:
    schemas = Schemas.bundled()
    assert known_paid() == {name for name in schemas if is_paid(schemas, name)}
    assert {"KlingTextToVideoNode", "OpenAIDalle3"} <= known_paid()
    assert not {"KSampler", "OpenAIChatConfig"} & known_paid()


def test_a_node_that_the_engine_says_is_paid_is_paid() -> None:
    schemas = Schemas({"Mine": {"api_node": True}, "Other": {"api_node": False}}, "a test")

    def paid(name: str) -> bool:
        return any_paid({"1": {"class_type": name, "inputs": {}}}, schemas)

    assert [paid(name) for name in ("Mine", "Other", "Unknown")] == [True, False, False]


def test_an_installation_keeps_its_name_and_each_has_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    named = installation_id(first)
    assert named is not None
    assert len(named) == 12
    assert installation_id(first) == named
    assert installation_id(second) not in (None, named)
    (first / "installation").write_bytes(b"\xff")
    assert installation_id(first) is None


# --- started again ------------------------------------------------------------------------


def test_that_a_job_was_started_again_is_said_once_and_its_progress_counts_from_the_beginning() -> (
    None
):
    reader = StatusReader(PROMPT)

    def seen(attempt: int, sequence: int, done: int) -> list[object]:
        output = {"sequence": sequence, "nodes_done": done, "nodes_total": 3}
        status = {"id": "a", "status": "IN_PROGRESS", "attempt": attempt, "output": output}
        return list(reader.events(JobStatus.model_validate(status)))

    seen(1, 7, 2)
    again, progress = seen(2, 0, 0)
    assert isinstance(again, Log)
    assert again.level == "warning"
    assert "started again (attempt 2)" in again.message
    assert progress == Progress(nodes_done=0, nodes_total=3)
    assert [type(one) for one in seen(2, 1, 1)] == [Progress]


def test_a_job_that_is_followed_from_its_second_start_on_says_so() -> None:
    done = {"format": "comfy-remote/1", "status": "success", "outputs": []}
    status = {"id": "a", "status": "COMPLETED", "attempt": 2, "output": done}
    events = list(StatusReader(PROMPT).events(JobStatus.model_validate(status)))
    assert sum(isinstance(one, Log) for one in events) == 1
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.SUCCEEDED


# --- how a job stands ---------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as made:
        made.on("GET /v2/ep/health", Answer({}, 200, {FILES_HEADER: "1000"}))
        made.on("POST /v2/ep/run", Answer({"id": "abc-e1", "status": "IN_QUEUE"}))
        yield made


def status(state: str) -> dict[str, str]:
    return {"id": "abc-e1", "status": state}


async def test_a_gateway_holds_the_question_until_the_job_has_ended(
    server: ScriptedServer,
) -> None:
    ended = asyncio.Event()
    waits: list[int] = []

    async def held(request: web.Request) -> web.StreamResponse:
        waits.append(int(request.query["wait"]))
        await asyncio.wait_for(ended.wait(), 60)
        return web.json_response(status("COMPLETED"))

    server.on("GET /v2/ep/status-sync/abc-e1", Answer(status("IN_PROGRESS")), held)
    times = replace(TIMES, polling=replace(TIMES.polling, first=0.25, longest=0.25))
    async with RunPodTarget("ep", None, base_url=f"{server.url}/v2", times=times) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        following = asyncio.ensure_future(_last(target.follow(ref, PROMPT)))
        while not waits:
            await asyncio.sleep(0.01)
        assert not following.done()
        ended.set()
        finished = await asyncio.wait_for(following, 60)
    assert isinstance(finished, Finished)
    assert waits == [250]
    assert server.count("GET /v2/ep/status/abc-e1") == 0


async def test_a_gateway_that_cannot_hold_a_question_is_asked_as_runpod_is(
    server: ScriptedServer,
) -> None:
    server.on("GET /v2/ep/status/abc-e1", Answer(status("IN_PROGRESS")), Answer(status("FAILED")))
    async with RunPodTarget("ep", None, base_url=f"{server.url}/v2", times=TIMES) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        assert isinstance(await _last(target.follow(ref, PROMPT)), Finished)
    assert server.count("GET /v2/ep/status-sync/abc-e1") == 1
    assert server.count("GET /v2/ep/status/abc-e1") == 2


async def test_only_some_questions_are_held_so_that_there_is_a_connection_for_a_cancel(
    server: ScriptedServer,
) -> None:
    ended = asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        await asyncio.wait_for(ended.wait(), 60)
        return web.json_response(status("CANCELLED"))

    server.on("GET /v2/ep/status-sync/abc-e1", held)
    server.on("GET /v2/ep/status/abc-e1", Answer(status("IN_PROGRESS")))
    server.on("POST /v2/ep/cancel/abc-e1", Answer(status("CANCELLED")))
    async with RunPodTarget("ep", None, base_url=f"{server.url}/v2", times=TIMES) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        jobs = [asyncio.ensure_future(_last(target.follow(ref, PROMPT))) for _ in range(40)]
        while not server.count("GET /v2/ep/status/abc-e1"):
            await asyncio.sleep(0.01)
        await asyncio.wait_for(target.cancel(ref), 60)
        await until(lambda: server.count("GET /v2/ep/status-sync/abc-e1") == 8)
        server.on("GET /v2/ep/status/abc-e1", Answer(status("CANCELLED")))
        ended.set()
        await asyncio.wait_for(asyncio.gather(*jobs), 60)


async def _last(events: AsyncIterator[Event]) -> Event:
    return [event async for event in events][-1]
