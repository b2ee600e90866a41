"""A ComfyUI URL as a target: submitted once, followed to its end, cancelled without harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from fake_comfyui import PROMPT, FakeComfyUI
from helpers import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import Answer, drop

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    EngineCrashed,
    InputFileMissing,
    JobCancelled,
    JobExpired,
    OutOfMemory,
    OutputLost,
    OutputTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetStalled,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import (
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Shown,
    Started,
)
from comfy_remote.media.files import sha256_of
from comfy_remote.net.http import HttpClient, HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.targets.base import Health, InputFile, RemoteRef, RunRequest
from comfy_remote.targets.comfyui.follow import FollowTimes, PromptFollower
from comfy_remote.targets.comfyui.frames import FrameSpool, SentFrames
from comfy_remote.targets.comfyui.queue import QueueItem
from comfy_remote.targets.comfyui.queue_looks import Queue
from comfy_remote.targets.comfyui.socket import ComfyUISocket, SpareSockets
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.types import JsonValue

JOB = "11111111-2222-4333-8444-555555555555"
REF = RemoteRef(JOB, JOB, {"client_id": JOB})


QUICK = Backoff(first=0.01, longest=0.02, jitter=0.0)
TIMES = FollowTimes(
    requests=HttpLimits(backoff=QUICK),
    polling=Polling(first=0.01, longest=0.05, patience=2.0, backoff=QUICK),
    reconnect=QUICK,
    search=1.0,
)


@pytest.fixture
async def server() -> AsyncIterator[FakeComfyUI]:
    async with FakeComfyUI() as made:
        yield made


@pytest.fixture
async def target(server: FakeComfyUI) -> AsyncIterator[ComfyUITarget]:
    async with ComfyUITarget(server.url, times=TIMES) as made:
        yield made


async def _events(
    target: ComfyUITarget, steps: dict[type[Event], Callable[[], object]] | None = None
) -> list[Event]:
    """All events of the job; after the first of a type, its step is done."""
    steps = dict(steps or {})
    events: list[Event] = []
    async for event in target.follow(REF, PROMPT):
        events.append(event)
        if step := steps.pop(type(event), None):
            done = step()
            if asyncio.iscoroutine(done):
                await done
    return events


def _kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# --- submitting ---------------------------------------------------------------------------


async def test_sockets_take_no_connection_from_requests(server: FakeComfyUI) -> None:
    """Forty prompts that run each had one of sixteen: the next submission waited for their end."""
    async with HttpClient(server.url, name="ComfyUI") as http:
        sockets = [ComfyUISocket(http, str(number), QUICK) for number in range(40)]
        await asyncio.gather(*(socket.start() for socket in sockets))
        assert sum(socket.connected for socket in sockets) == 32  # the others poll
        assert (await http.get("queue")).status == 200
        for socket in sockets[:20]:
            await socket.stop()
        await until(lambda: all(socket.connected for socket in sockets[20:]))
        await asyncio.gather(*(socket.stop() for socket in sockets))


def test_a_key_for_partner_nodes_goes_where_nobody_on_the_way_can_read_it() -> None:
    assert ComfyUITarget("http://127.0.0.1:8188").takes_partner_key
    assert ComfyUITarget("https://comfy.example.org").takes_partner_key
    assert not ComfyUITarget("http://192.168.1.5:8188").takes_partner_key


async def test_a_prompt_is_posted_under_our_own_id(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    ref = await target.submit(RunRequest(JOB, PROMPT, workflow={"nodes": []}))
    assert ref == RemoteRef(JOB, JOB, {"url": server.url, "client_id": JOB})
    posted = next(asked for asked in server.asked if asked.path == "/prompt").json()
    assert posted == {
        "prompt": PROMPT,
        "prompt_id": JOB,
        "client_id": JOB,
        "extra_data": {
            "extra_pnginfo": {"workflow": {"nodes": []}},
            "comfy_remote": {"target": None},
        },
    }


@pytest.mark.parametrize(
    ("there", "here"), [("sub/up.pth", "sub\\up.pth"), ("a\\b.pth", "a/b.pth")]
)
async def test_a_value_is_posted_as_the_target_spells_it(
    server: FakeComfyUI, target: ComfyUITarget, there: str, here: str
) -> None:
    node = {"input": {"required": {"model_name": [[there]]}}}
    server.on("GET /object_info/UpscaleModelLoader", Answer({"UpscaleModelLoader": node}))
    load = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": here}}
    save = {"class_type": "SaveImage", "inputs": {"filename_prefix": "video/a"}}
    prompt = {"1": load, "2": save}
    await target.submit(RunRequest(JOB, prompt))  # type: ignore[arg-type]
    posted = next(asked for asked in server.asked if asked.path == "/prompt").json()
    assert posted["prompt"] == {"1": {**load, "inputs": {"model_name": there}}, "2": save}
    async with aclosing(target.follow(REF, PROMPT)) as events:
        note = await anext(events)
    assert isinstance(note, Log)
    assert f"{here!r} is sent as the target spells it, {there!r}" in note.message


async def test_files_are_sent_first_and_their_new_names_stand_in_the_prompt(
    server: FakeComfyUI, target: ComfyUITarget, tmp_path: Path
) -> None:
    async def numbered(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert form["type"] == "input"
        uploaded = form["image"]
        assert isinstance(uploaded, web.FileField)
        assert uploaded.file.read() == b"png"
        return web.json_response(
            {"name": f"1 {uploaded.filename}", "subfolder": form.get("subfolder", "")}
        )

    server.on("POST /upload/image", drop, Answer(None, 503), numbered)
    path = tmp_path / "x.png"
    path.write_bytes(b"png")
    file = InputFile("masks/ä b.png", path, 3, sha256_of(path))
    load = {"class_type": "LoadImage", "inputs": {"image": "masks/ä b.png"}}
    await target.submit(RunRequest(JOB, {"1": load}, [file]))  # type: ignore[dict-item]
    posted = server.asked[-1].json()
    assert posted["prompt"]["1"]["inputs"]["image"] == "masks/1 ä b_8f8cbb7dcf46.png"
    assert server.count("POST /prompt") == 1


async def test_a_file_that_went_away_is_named_and_nothing_is_posted(
    server: FakeComfyUI, target: ComfyUITarget, tmp_path: Path
) -> None:
    file = InputFile("x.png", tmp_path / "x.png", 3, "0" * 64)
    with pytest.raises(InputFileMissing, match=r"x\.png cannot be read"):
        await target.submit(RunRequest(JOB, PROMPT, [file]))
    assert server.count("POST /prompt") == 0
    await asyncio.sleep(0.05)
    assert server.sockets == []


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("name", "called"),
    [(None, "ComfyUI at {url}"), ("{url}/", "ComfyUI at {url}"), ("gpu", "ComfyUI (gpu) at {url}")],
)
async def test_its_address_is_told_once(server: FakeComfyUI, name: str | None, called: str) -> None:
    server.on("GET /queue", Answer("no", 503))
    named = None if name is None else name.format(url=server.url)
    async with ComfyUITarget(server.url, name=named) as target:
        with pytest.raises(TargetUnreachable) as caught:
            await target.health()
    assert caught.value.message.startswith(f"{called.format(url=server.url)} is failing")


async def test_a_refusal_names_the_nodes(server: FakeComfyUI, target: ComfyUITarget) -> None:
    errors = [{"type": "t", "message": "Required input is missing", "details": "images"}]
    body = {"error": {}, "node_errors": {"2": {"class_type": "SaveImage", "errors": errors}}}
    server.on("POST /prompt", Answer(body, 400))
    with pytest.raises(WorkflowInvalid, match=r"node 2 \(SaveImage\): Required input is missing"):
        await target.submit(RunRequest(JOB, PROMPT))
    assert server.count("POST /prompt") == 1


@pytest.mark.parametrize("arrived", ["queue", "history"])
async def test_a_submission_whose_answer_was_lost_is_looked_for_and_found(
    server: FakeComfyUI, target: ComfyUITarget, arrived: str
) -> None:
    async def taken_then_dropped(request: web.Request) -> web.StreamResponse:
        if arrived == "queue":
            server.wait_in_queue(JOB)
        else:
            server.finish(JOB)
        return await drop(request)

    server.on("POST /prompt", taken_then_dropped)
    assert (await target.submit(RunRequest(JOB, PROMPT))).remote_id == JOB
    assert server.count("POST /prompt") == 1


@pytest.mark.parametrize("queue", [None, Answer(None, 401), Answer(b"<html>"), Answer(None, 502)])
async def test_a_submission_that_is_not_found_is_unknown_and_not_sent_again(
    server: FakeComfyUI, target: ComfyUITarget, queue: Answer | None
) -> None:
    server.on("POST /prompt", drop)
    if queue is not None:
        server.on("GET /queue", queue)
    with pytest.raises(SubmissionUnknown, match="found neither") as caught:
        await target.submit(RunRequest(JOB, PROMPT))
    assert f"comfy-remote jobs resume {JOB}" in for_terminal(caught.value.advice)
    assert server.count("POST /prompt") == 1


async def test_find_asks_queue_and_history(server: FakeComfyUI, target: ComfyUITarget) -> None:
    assert await target.find(JOB) is None
    server.finish(JOB)
    assert await target.find(JOB) is not None


async def test_any_prompt_is_recalled(server: FakeComfyUI, target: ComfyUITarget) -> None:
    assert await target.recall("sent-by-a-page") is None
    server.wait_in_queue("sent-by-a-page")
    waiting = await target.recall("sent-by-a-page")
    server.pending = []
    server.finish("sent-by-a-page")
    server.history["sent-by-a-page"]["prompt"] = [5, "sent-by-a-page", PROMPT, {}, ["2"]]
    server.history["broken"] = {"prompt": "?"}
    ended = await target.recall("sent-by-a-page")
    assert waiting is not None
    assert ended is not None
    assert waiting[1] == ended[1] == PROMPT
    assert ended[0].remote_id == "sent-by-a-page"
    assert ended[0].details["url"] == server.url
    assert ended[0].details["client_id"] != "sent-by-a-page"
    assert await target.recall("broken") is None


async def test_a_long_silence_is_told_once(server: FakeComfyUI) -> None:
    server.start("job")
    told: list[Log] = []

    async def follow() -> None:
        async with ComfyUITarget(server.url, times=replace(TIMES, quiet=0.2)) as target:
            async for event in target.follow(RemoteRef("job", "job", {}), PROMPT):
                if isinstance(event, Log):
                    told.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: told)
    await asyncio.sleep(0.5)
    assert ["No message has arrived" in log.message for log in told] == [True]
    server.finish("job")
    await asyncio.wait_for(following, 60)


@pytest.mark.parametrize(
    "answer", [Answer({}), Answer([]), Answer(b"<html>"), Answer({"prompt_id": 3})]
)
async def test_what_is_no_comfyui_is_told_so(
    server: FakeComfyUI, target: ComfyUITarget, answer: Answer
) -> None:
    server.on("POST /prompt", answer)
    with pytest.raises(TargetError, match=r"like a ComfyUI|not JSON"):
        await target.submit(RunRequest(JOB, PROMPT))


# --- following ----------------------------------------------------------------------------


async def test_a_whole_run_by_socket(server: FakeComfyUI, target: ComfyUITarget) -> None:
    ref = await target.submit(RunRequest(JOB, PROMPT))
    metadata = json.dumps({"node_id": "1", "prompt_id": JOB, "image_type": "image/png"}).encode()

    async def play() -> None:
        server.start(JOB)
        await server.say("execution_start", prompt_id=JOB)
        await server.say("execution_cached", nodes=[], prompt_id=JOB)
        await server.say("executing", node="1", display_node="1", prompt_id=JOB)
        await server.say("progress", node="1", value=1, max=2, prompt_id=JOB)
        await server.say("progress", node="1", value=9, max=9, prompt_id="another's")
        await server.say_bytes(struct.pack(">II", 1, 1) + b"old")
        await server.say_bytes(struct.pack(">II", 4, len(metadata)) + metadata + b"new")
        await server.say("executing", node="2", display_node="2", prompt_id=JOB)
        output = {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}
        await server.say("executed", node="2", display_node="2", output=output, prompt_id=JOB)
        server.finish(JOB)
        await server.say("executing", node=None, prompt_id=JOB)

    events = []
    async for event in target.follow(ref, PROMPT):
        events.append(event)
        if isinstance(event, Queued):
            await play()
    assert events[:2] == [Queued(0), Started()]
    assert [e for e in events if isinstance(e, Preview)] == [
        Preview("1", "image/jpeg", b"old"),
        Preview("1", "image/png", b"new"),
    ]
    assert Progress(0, 2, "1", "EmptyImage", 1.0, 2.0) in events
    assert Progress(1, 2, "2", "SaveImage") in events
    assert [e.output.filename for e in events if isinstance(e, OutputReady)] == ["x.png"]
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.SUCCEEDED
    assert not [e for e in events if isinstance(e, Log)]


async def _run_by_socket(server: FakeComfyUI, target: ComfyUITarget, job: str, *, say: bool) -> str:
    """A whole run; the id by which ComfyUI knows its client."""
    ref = await target.submit(RunRequest(job, PROMPT))
    async for event in target.follow(ref, PROMPT):
        if isinstance(event, Queued):
            server.start(job)
            server.finish(job)
            if say:
                await server.say("executing", node=None, prompt_id=job)
    return ref.details["client_id"]


async def test_a_socket_serves_the_next_prompt(server: FakeComfyUI) -> None:
    async with ComfyUITarget(server.url, times=replace(TIMES, last_words=60)) as target:
        assert await _run_by_socket(server, target, JOB, say=True) == JOB
        assert await _run_by_socket(server, target, f"2{JOB[1:]}", say=True) == JOB
    assert sum(asked.path == "/ws" for asked in server.asked) == 1


async def test_a_socket_that_did_not_say_the_end_serves_no_other_prompt(
    server: FakeComfyUI,
) -> None:
    """Another program that follows the job as the same client takes the messages to itself."""
    async with ComfyUITarget(server.url, times=replace(TIMES, last_words=0.01)) as target:
        for number in "12":
            job = f"{number}{JOB[1:]}"
            assert await _run_by_socket(server, target, job, say=False) == job


async def test_two_prompts_at_a_time_have_a_socket_each(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    refs = [await target.submit(RunRequest(f"{n}{JOB[1:]}", PROMPT)) for n in "23"]
    assert [ref.details["client_id"] for ref in refs] == [ref.job_id for ref in refs]


async def test_sockets_that_no_prompt_takes_are_closed(server: FakeComfyUI) -> None:
    async def opened(name: str) -> ComfyUISocket:
        socket = ComfyUISocket(http, name, QUICK)
        await socket.start()
        return socket

    async with HttpClient(server.url, name="it") as http:
        spare = SpareSockets(most=2, seconds=3600)
        sockets = [await opened(name) for name in "abc"]
        for socket in sockets:
            await spare.give(socket)
        assert [socket.connected for socket in sockets] == [True, True, False]
        taken = spare.take()
        assert taken in sockets
        await spare.close()
        assert [socket.connected for socket in sockets if socket is not taken] == [False, False]
        assert taken is not None
        assert taken.connected

        brief = SpareSockets(seconds=0)
        await brief.give(taken)
        while server.sockets:
            await asyncio.sleep(0.01)
        assert brief.take() is None


async def test_without_a_socket_polling_is_enough(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.on("GET /ws", Answer(None, 403))
    server.wait_in_queue(JOB)
    events = await _events(
        target,
        {Queued: lambda: server.start(JOB), Started: lambda: server.finish(JOB)},
    )
    kinds = _kinds(events)
    assert kinds[0] == "Log"
    assert kinds[1:3] == ["Queued", "Started"]
    assert kinds[-2:] == ["OutputReady", "Finished"]


async def test_a_socket_that_drops_is_opened_again(server: FakeComfyUI) -> None:
    slowly = replace(TIMES, reconnect=Backoff(first=0.2, longest=0.2, jitter=0.0))

    async def drop_then_go_on() -> None:
        await server.cut_sockets()
        while not server.sockets:
            await asyncio.sleep(0.01)
        await server.say("progress", node="1", value=3, max=4, prompt_id=JOB)
        await asyncio.sleep(0.05)
        server.finish(JOB)

    server.start(JOB)
    events: list[Event] = []
    async with ComfyUITarget(server.url, times=slowly) as target:
        async for event in target.follow(REF, PROMPT):
            events.append(event)
            if isinstance(event, Started):
                playing = asyncio.create_task(drop_then_go_on())
    await playing
    assert [e.level for e in events if isinstance(e, Log)] == ["warning"]
    assert Progress(0, 2, "1", "EmptyImage", 3.0, 4.0) in events
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.SUCCEEDED


async def test_the_place_in_the_queue_is_told_when_it_changes(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.running = [[1, "other", {}, {}, []]]
    server.wait_in_queue("after", 9)
    server.wait_in_queue("before", 3)
    server.wait_in_queue(JOB, 5)
    places = []
    async for event in target.follow(REF, PROMPT):
        if isinstance(event, Queued):
            places.append(event.position)
            if len(places) == 1:
                server.running = []
            elif len(places) == 2:
                server.pending = [item for item in server.pending if item[1] != "before"]
            else:
                server.finish(JOB)
    assert places == [2, 1, 0]


async def test_who_waits_asks_for_the_queue_alone_which_all_share(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    jobs = [f"{number:08}-2222-4333-8444-555555555555" for number in range(12)]
    for job in jobs:
        server.wait_in_queue(job)
    queued = asyncio.Semaphore(0)

    async def follow(job: str) -> Event:
        async for event in target.follow(RemoteRef(job, job, {"client_id": job}), PROMPT):
            if isinstance(event, Queued):
                queued.release()
            last = event
        return last

    def asked(what: str) -> int:
        return sum(one.path.startswith(what) for one in server.asked)

    following = [asyncio.ensure_future(follow(job)) for job in jobs]
    for _ in jobs:
        await queued.acquire()
    histories, queues = asked("/history"), asked("/queue")
    await until(lambda: asked("/queue") >= queues + 5)
    assert asked("/history") == histories, "nothing has ended"
    for job in jobs:
        server.finish(job)  # no message says so
    ends = await asyncio.gather(*following)
    assert [end.state for end in ends if isinstance(end, Finished)] == [JobState.SUCCEEDED] * 12


class _InQueue:
    """A `PromptSource` whose prompt is in the queue for five looks, and then has ended."""

    def __init__(self) -> None:
        self.looks = 0
        self.histories = 0

    async def queue_for(self, prompt_id: str) -> Queue:
        self.looks += 1
        return [], [QueueItem(1.0, prompt_id, ())] if self.looks <= 5 else []

    async def history_entry(self, prompt_id: str) -> dict[str, JsonValue] | None:
        self.histories += 1
        ended: dict[str, JsonValue] = {"outputs": {}, "status": {"status_str": "success"}}
        return None if self.looks < 5 else ended


async def test_the_same_without_a_socket(server: FakeComfyUI) -> None:
    source, polling = _InQueue(), Polling(first=0.01, longest=0.01)
    async with HttpClient(server.url, name="ComfyUI") as http:
        follower = PromptFollower(
            source,
            ComfyUISocket(http, JOB, QUICK),  # never opened
            JOB,
            PROMPT,
            frames=SentFrames(FrameSpool(), PROMPT),
            times=FollowTimes(polling=polling),
        )
        events = [event async for event in follower.events()]
    assert isinstance(events[-1], Finished)
    assert source.looks == 6
    assert source.histories == 2, "at its beginning and at its end"


async def test_a_prompt_wholly_from_cache_still_has_its_outputs(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.finish(JOB)
    events = await _events(target)
    assert _kinds(events) == ["Started", "Progress", "Shown", "OutputReady", "Finished"]
    assert events[1] == Progress(2, 2)


async def test_what_nodes_show_is_told_once_and_before_their_outputs(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    ui = {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}], "count": [3]}
    late = {"value": [True]}
    text = b"working"

    async def run() -> None:
        await server.say_bytes(struct.pack(">II", 3, 1) + b"2" + text)
        await server.say("executed", node="2", output=ui, prompt_id=JOB)
        server.finish(JOB, {"2": ui, "1": late})

    server.start(JOB)
    events = await _events(target, {Started: run})
    told = [e for e in events if isinstance(e, (Shown, OutputReady, NodeText))]
    assert [type(e).__name__ for e in told] == ["NodeText", "Shown", "OutputReady", "Shown"]
    assert told[0] == NodeText("2", "working")
    assert told[1] == Shown("2", {"images": None, "count": [3]})
    assert told[3] == Shown("1", late)
    assert isinstance(events[-1], Finished)
    assert events[-1].shown == {"1": late, "2": {"images": None, "count": [3]}}


async def test_an_output_is_announced_once(server: FakeComfyUI, target: ComfyUITarget) -> None:
    ui = {
        "images": [{"filename": "x.png", "type": "output"}, {"filename": "x.png", "type": "temp"}]
    }

    async def run() -> None:
        await server.say("executed", node="2", output=ui, prompt_id=JOB)
        await server.say("executed", node="2", output=ui, prompt_id=JOB)
        server.finish(JOB, {"2": ui})

    server.start(JOB)
    events = await _events(target, {Started: run})
    assert [e.output.folder for e in events if isinstance(e, OutputReady)] == ["output", "temp"]


async def test_a_failed_prompt_is_an_event_not_an_exception(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    data = {"node_id": "1", "node_type": "EmptyImage", "exception_type": "torch.OutOfMemoryError"}
    server.finish(JOB, {}, [["execution_error", data]])
    events = await _events(target)
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.FAILED
    assert isinstance(events[-1].error, OutOfMemory)
    assert events[-1].outputs == ()


async def test_a_running_prompt_that_vanishes_is_a_crash(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.start(JOB)
    events = await _events(target, {Started: lambda: server.running.clear()})
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.FAILED
    assert isinstance(events[-1].error, EngineCrashed)


async def test_a_waiting_prompt_that_vanishes_has_expired(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.wait_in_queue(JOB)
    events = await _events(target, {Queued: lambda: server.pending.clear()})
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.EXPIRED
    assert isinstance(events[-1].error, JobExpired)


async def test_a_target_that_comes_back_in_time_is_followed_on(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.finish(JOB)
    page = Answer(b"<html>Bad gateway</html>", 502)
    server.on(f"GET /history/{JOB}", page, page, Answer(server.history))
    events = await _events(target)
    assert [e.level for e in events if isinstance(e, Log)] == ["warning"]
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.SUCCEEDED


@pytest.mark.parametrize("answer", [Answer(None, 502), Answer(b"<html>"), Answer(None, 404), drop])
async def test_a_target_that_stays_away_is_lost(
    server: FakeComfyUI, target: ComfyUITarget, answer: Answer
) -> None:
    server.on(f"GET /history/{JOB}", answer)
    with pytest.raises(TargetUnreachable, match="out of reach") as caught:
        await _events(target)
    assert "resume" in caught.value.advice


async def test_a_key_that_is_refused_in_between_is_no_matter_of_patience(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.on(f"GET /history/{JOB}", Answer(None, 401))
    with pytest.raises(AuthenticationError):
        await _events(target)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_history_that_is_too_large_is_asked_for_once(
    server: FakeComfyUI, target: ComfyUITarget, announced: bool
) -> None:
    server.finish(JOB)
    body = json.dumps({**server.history, "more": "x" * 33 * 2**20}).encode()

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await response.write(body)
        return response

    server.on(f"GET /history/{JOB}", Answer(body) if announced else chunked)
    size = "32 MiB: 33 MiB" if announced else "32 MiB"
    with pytest.raises(OutputTooLarge, match=f"larger than {size}\\."):
        await _events(target)
    assert server.count(f"GET /history/{JOB}") == 1


async def test_a_queue_that_is_too_large_is_no_answer(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.on("GET /queue", Answer(b" " * 65 * 2**20 + b"{}"))
    with pytest.raises(TargetUnreachable, match="larger than 64 MiB: 65 MiB"):
        await _events(target)


# --- cancelling ---------------------------------------------------------------------------


async def test_cancel_takes_a_waiting_prompt_out_and_interrupts_nobody(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.running = [[1, "another's", {}, {}, []]]
    server.wait_in_queue(JOB)
    events = await _events(target, {Queued: lambda: target.cancel(REF)})
    assert server.count("POST /interrupt") == 0
    assert server.running
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.CANCELLED
    assert isinstance(events[-1].error, JobCancelled)


async def test_cancel_interrupts_its_own_running_prompt_by_id(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.start(JOB)
    await target.cancel(REF)
    interrupts = [asked.json() for asked in server.asked if asked.path == "/interrupt"]
    assert interrupts == [{"prompt_id": JOB}]
    server.finish(JOB, {}, [["execution_interrupted", {"node_id": "1"}]])
    events = await _events(target)
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.CANCELLED


async def test_cancel_after_the_end_does_nothing(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    server.finish(JOB)
    await target.cancel(REF)
    assert server.count("POST /interrupt") == 0


# --- everything else ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "there"),
    [("x.png", True), ("sub/x.png", True), ("y.png", False), ("../x", False), ("/etc/x", False)],
)
async def test_whether_a_file_is_there(
    server: FakeComfyUI, target: ComfyUITarget, name: str, there: bool
) -> None:
    async def view(request: web.Request) -> web.StreamResponse:
        if request.query["subfolder"] not in ("", "sub"):
            return web.Response(status=403)
        return web.Response(status=200 if request.query["filename"] == "x.png" else 404)

    server.on("GET /view", view)
    assert await target.has_input(name) is there


async def test_a_file_that_was_deleted_there_is_lost(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    output = RemoteOutput("2", "image", "x.png", source=OutputSource(path="view?filename=x.png"))
    with pytest.raises(OutputLost, match=r"does not have x\.png"):
        async for _ in target.read(output):
            pass


async def test_a_text_is_read_without_asking(server: FakeComfyUI, target: ComfyUITarget) -> None:
    output = RemoteOutput("2", "text", "2_text_0.txt", text="Größe")
    assert b"".join([c async for c in target.read(output, 2)]) == "Größe".encode()[2:]
    assert server.asked == []


async def test_health_and_description(server: FakeComfyUI, target: ComfyUITarget) -> None:
    server.wait_in_queue("a")
    assert await target.health() == Health(ready=1, running=0, queued=1)
    server.start("a")
    assert await target.health() == Health(ready=0, running=1, queued=0)
    stats = {"system": {"comfyui_version": "0.33.0"}, "devices": [{"name": "cpu"}]}
    server.on("GET /object_info", Answer({"EmptyImage": {}}))
    server.on("GET /system_stats", Answer(stats), Answer({"system": 3, "devices": {}}))
    found = await target.describe()
    assert (found.nodes, found.device, found.engine) == (
        {"EmptyImage": {}},
        "cpu",
        "ComfyUI 0.33.0",
    )
    assert (await target.describe(())).engine is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(JOB),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                ["queue_running", "queue_pending", JOB, "status", "outputs", "messages", "2"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=JSON, queue=JSON)
async def test_a_lying_server_ends_in_an_end_or_an_error_of_ours(
    server: FakeComfyUI, history: object, queue: object
) -> None:
    server.on("GET /ws", Answer(None, 404))
    server.on(f"GET /history/{JOB}", Answer(json.dumps(history).encode()))
    server.on("GET /queue", Answer(json.dumps(queue).encode()))
    times = replace(TIMES, polling=replace(TIMES.polling, patience=0.03))
    try:
        async with ComfyUITarget(server.url, times=times) as target:
            events = await asyncio.wait_for(_events(target), 0.15)
    except (ComfyRemoteError, asyncio.TimeoutError):
        return  # the last: it says that the prompt is still in its queue
    assert isinstance(events[-1], Finished)


# --- a job that gives less than it was asked for ---------------------------------------------

SKIPPED_NODE = {
    "9": {
        "class_type": "SaveImage",
        "errors": [
            {"type": "required_input_missing", "message": "Required input is missing",
             "details": "images", "extra_info": {}}
        ],
        "dependent_outputs": ["9"],
    }
}  # fmt: skip


async def test_an_output_that_comfyui_skips_is_told_and_counts(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    body = {"prompt_id": JOB, "number": 5, "node_errors": SKIPPED_NODE}
    server.on("POST /prompt", Answer(body))
    ref = await target.submit(RunRequest(JOB, PROMPT))
    server.finish(JOB)
    # Also in another process, which knows what the record has.
    async with ComfyUITarget(server.url) as later:
        events = [event async for event in later.follow(ref, PROMPT)]
    assert isinstance(events[0], Log)
    words = "Node 9 (SaveImage): it does not run: Required input is missing: images"
    assert (events[0].message, events[0].level) == (f"{words}.", "warning")
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.SUCCEEDED
    assert [str(problem) for problem in events[-1].problems] == [words]


async def test_what_was_saved_before_a_node_failed_is_listed(
    server: FakeComfyUI, target: ComfyUITarget
) -> None:
    failed = {"node_id": "1", "node_type": "EmptyImage", "exception_message": "no"}
    server.finish(JOB, messages=[["execution_error", failed]])
    events = await _events(target)
    assert [event.output.filename for event in events if isinstance(event, OutputReady)] == [
        "x.png"
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].state is JobState.FAILED
    assert [output.filename for output in events[-1].outputs] == ["x.png"]


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_file_that_comfyui_does_not_give_out_is_lost(
    server: FakeComfyUI, target: ComfyUITarget, status: int
) -> None:
    server.on("GET /view", Answer(None, status=status))
    output = RemoteOutput("2", "image", "x.png", source=OutputSource(path="view?filename=x.png"))
    with pytest.raises(OutputLost):
        _ = [chunk async for chunk in target.read(output)]


def sent(count: int, media_type: str = "image/jpeg") -> dict[str, JsonValue]:
    """What nodes of external tooling show for pictures that they have sent on the socket."""
    one = {"source": "websocket", "content-type": media_type, "type": "output"}
    return {"2": {"images": [one] * count}}


@pytest.mark.parametrize(
    ("frames", "ui", "names", "said"),
    [
        # Two previews of its own work, then the two pictures that it says it has sent.
        (
            [b"\xff\xd8p1", b"\xff\xd8p2", b"\xff\xd8a", b"RIFF\0\0\0\0WEBPb"],
            sent(2),
            ["websocket_2_00001_.jpg", "websocket_2_00002_.webp"],
            [],
        ),
        ([b"\xff\xd8p1"], {}, [], []),
        ([b"\xff\xd8p1"] * 300, {}, [], []),
        (
            [b"\xff\xd8a"],
            sent(3),
            ["websocket_2_00001_.jpg"],
            ["its pictures are only sent while it runs, and 1 of 3 arrived here"],
        ),
        ([], sent(1), [], ["its pictures are only sent while it runs, and none arrived here"]),
        ([b"\x89PNGa"], sent(1, "image/png"), ["websocket_2_00001_.png"], []),
        ([b"\x89PNGa"], {}, ["websocket_2_00001_.png"], []),
    ],
)
async def test_pictures_that_a_node_sends_in_any_format_are_outputs(
    server: FakeComfyUI,
    target: ComfyUITarget,
    frames: list[bytes],
    ui: dict[str, JsonValue],
    names: list[str],
    said: list[str],
) -> None:
    async def run() -> None:
        await server.say("executing", node="2", prompt_id=JOB)
        for content in frames:
            await server.say_bytes(struct.pack(">II", 1, 1) + content)
        server.finish(JOB, ui)
        await server.say("executing", node=None, prompt_id=JOB)

    server.start(JOB)
    events = await _events(target, {Started: run})
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [output.filename for output in finished.outputs] == names
    assert [problem.reason for problem in finished.problems] == said
    arrived = []
    for output in finished.outputs:
        arrived.append(b"".join([chunk async for chunk in target.read(output)]))
    assert arrived == frames[len(frames) - len(names) :]
    assert [e.output.filename for e in events if isinstance(e, OutputReady)] == names


# --- a ComfyUI that answers and runs nothing -------------------------------------------------


async def test_a_job_that_waits_behind_nothing_is_told_and_given_up(server: FakeComfyUI) -> None:
    async with ComfyUITarget(server.url, times=replace(TIMES, stall=0.4)) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        events: list[Event] = []
        with pytest.raises(TargetStalled, match="runs nothing"):
            async for event in target.follow(ref, PROMPT):
                events.append(event)
    told = [event.message for event in events if isinstance(event, Log)]
    assert len(told) == 1
    assert "prompt_worker" in told[0]


async def test_a_job_that_begins_no_node_is_told_and_given_up(server: FakeComfyUI) -> None:
    async with ComfyUITarget(server.url, times=replace(TIMES, stall=0.4)) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        server.start(JOB)
        await server.say("execution_start", prompt_id=JOB)
        with pytest.raises(TargetStalled):
            _ = [event async for event in target.follow(ref, PROMPT)]


async def test_a_node_that_takes_long_is_no_reason_to_give_up(server: FakeComfyUI) -> None:
    async with ComfyUITarget(server.url, times=replace(TIMES, stall=0.2)) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        server.start(JOB)
        asyncio.get_running_loop().call_later(0.8, server.finish, JOB)
        await server.say("executing", prompt_id=JOB, node="1")
        events = [event async for event in target.follow(ref, PROMPT)]
    assert isinstance(events[-1], Finished)


async def test_a_job_behind_one_that_runs_for_long_is_told_which(server: FakeComfyUI) -> None:
    times = replace(TIMES, stall=0.2, busy=0.1)
    async with ComfyUITarget(server.url, times=times) as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        server.running = [[1, "somebody's", PROMPT, {}, ["2"]]]
        asyncio.get_running_loop().call_later(0.6, server.finish, JOB)
        events = [event async for event in target.follow(ref, PROMPT)]
    told = [event.message for event in events if isinstance(event, Log)]
    assert len(told) == 1
    assert "for prompt somebody's" in told[0]
