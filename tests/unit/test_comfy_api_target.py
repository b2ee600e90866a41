"""A target that speaks Comfy API v2, against a server that answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_comfy_api import (
    ASSETS,
    CANCEL,
    CONTENT,
    CREATED,
    EVENTS,
    FROM_HASH,
    JOB,
    JOBS,
    LATER,
    LIST,
    NO_JOB,
    PROMPT,
    FakeComfyApi,
    asset,
    frame,
    job,
    job_json,
    output,
    refusal,
)
from helpers import settled, until
from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer, drop

from comfy_remote import Client
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    JobExpired,
    OutOfMemory,
    OutputCorrupt,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    WorkflowInvalid,
    node_problems,
)
from comfy_remote.events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Started,
)
from comfy_remote.jobs.record import Record
from comfy_remote.net.answers import Response
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff, Polling, retries_said
from comfy_remote.targets.base import InputFile, RemoteRef, RunRequest
from comfy_remote.targets.comfy_api.refusals import refused
from comfy_remote.targets.comfy_api.target import ComfyApiTarget, ComfyApiTimes
from comfy_remote.workflow.prompt import Prompt

KEY = SecretStr("Bearer planted-key-0123456789")
ID = "11111111-2222-4333-8444-555555555555"
QUICK = Backoff(attempts=2, first=0.005, longest=0.01, jitter=0.0)
POLLING = Polling(first=0.01, longest=0.02, patience=0.3, backoff=QUICK)
SOON = ComfyApiTimes(
    requests=HttpLimits(backoff=QUICK),
    polling=POLLING,
    limited=POLLING,
    reconnect=QUICK,
    full=QUICK,
    search=0.02,
    between=0.005,
)
PNG = b"\x89PNG some picture"


@pytest.fixture
async def server() -> AsyncIterator[FakeComfyApi]:
    async with FakeComfyApi() as server:
        yield server


@pytest.fixture
async def target(server: FakeComfyApi) -> AsyncIterator[ComfyApiTarget]:
    headers = {"Authorization": KEY}
    async with ComfyApiTarget(server.url, name="lab", headers=headers, times=SOON) as target:
        yield target


def loading(folder: Path, data: bytes = PNG, name: str = "in.png") -> RunRequest:
    """A request with one input file."""
    path = folder / name
    path.write_bytes(data)
    file = InputFile(name, path, len(data), hashlib.sha256(data).hexdigest(), (("1", "image"),))
    prompt: Prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": name}}, **PROMPT_2}
    return RunRequest(ID, prompt, [file])


PROMPT_2: Prompt = {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}
REF = RemoteRef(ID, "j1")


async def events(target: ComfyApiTarget, ref: RemoteRef = REF) -> list[Event]:
    async with aclosing(target.follow(ref, PROMPT)) as following:
        return [event async for event in following]


# --- Sending --------------------------------------------------------------------------------


async def test_a_job_is_sent_once_with_its_id_as_the_key(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    ref = await target.submit(RunRequest(ID, PROMPT))
    assert ref == RemoteRef(ID, "j1", {"comfy_api": server.url})
    asked = server.asked[-1]
    assert asked.headers["Idempotency-Key"] == ID
    assert asked.headers["Authorization"] == KEY.get_secret_value()
    assert server.sent() == {"workflow": PROMPT, "metadata": {"comfy_remote_job": ID}}


async def test_a_partner_key_is_sent_with_the_job_and_is_in_nothing_that_is_recorded(
    server: FakeComfyApi,
) -> None:
    key = SecretStr("partner-0123456789")
    async with ComfyApiTarget(server.url, partner_key=key, times=SOON) as target:
        ref = await target.submit(RunRequest(ID, PROMPT))
        server.on(JOBS, refusal(402, "insufficient_credits", "partner-0123456789 is empty"))
        with pytest.raises(TargetError, match=r"credits: \*\*\* is empty\."):
            await target.submit(RunRequest(ID, PROMPT))
        server.on(JOBS, Answer(job_json(), 201))
        assert server.sent(0)["extra_data"] == {"api_key_comfy_org": "partner-0123456789"}
        # A front of ours hands on the key of its own caller, where nobody can read it on the way.
        request = RunRequest(ID, PROMPT, extra_data={"api_key_comfy_org": "callers-0123456789"})
        await target.submit(request)
    assert server.sent()["extra_data"] == {"api_key_comfy_org": "callers-0123456789"}
    assert target.takes_partner_key
    assert not ComfyApiTarget("http://192.168.1.5:8189").takes_partner_key
    assert "partner" not in repr(ref)
    assert "partner" not in repr(target)


def test_a_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigurationError):
        ComfyApiTarget("http://192.168.1.5:8189", headers={"Authorization": KEY})
    with pytest.raises(ConfigurationError):
        ComfyApiTarget("http://192.168.1.5:8189", partner_key=KEY)


async def test_a_server_below_a_path_and_the_links_that_it_gives(server: FakeComfyApi) -> None:
    links = {"self": "/deep/state", "events": "/deep/live?a=b", "cancel": "https://evil.test/x"}
    server.on("POST /deployment/d/api/v2/jobs", Answer(job_json(urls=links), 201))
    server.on("GET /deep/state", job("succeeded", outputs=[output()]))
    server.on("POST /deployment/d/api/v2/jobs/j1/cancel", job("canceling"))
    async with ComfyApiTarget(f"{server.url}/deployment/d/", times=SOON) as target:
        ref = await target.submit(RunRequest(ID, PROMPT))
        assert ref.details == {
            "comfy_api": f"{server.url}/deployment/d",
            "self": "/deep/state",
            "events": "/deep/live?a=b",
        }
        await target.cancel(ref)
        assert isinstance((await events(target, ref))[-1], Finished)
    assert server.count("GET /deep/state") == 2


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.test/x",
        "//evil.test/x",
        "http://127.0.0.1:1/x",
        "javascript:x",
        "/a HTTP/1.1\r\nX: y",
        "/\n",
        "http://[",
        "",
    ],
)
async def test_a_link_that_leads_elsewhere_is_not_followed(
    server: FakeComfyApi, target: ComfyApiTarget, link: str
) -> None:
    server.on(JOBS, Answer(job_json(urls={"self": link, "events": link, "cancel": link}), 201))
    server.on(JOB, job("succeeded", outputs=[output()]))
    ref = await target.submit(RunRequest(ID, PROMPT))
    assert ref.details == target.server
    assert isinstance((await events(target, ref))[-1], Finished)


@pytest.mark.parametrize(
    ("refused", "then"),
    [
        (refusal(422, "invalid_request", "'metadata' must be a string (opaque label)."), "text"),
        (refusal(422, "metadata_not_supported"), None),
    ],
)
async def test_a_label_that_the_server_does_not_take_is_left_out(
    server: FakeComfyApi, target: ComfyApiTarget, refused: Answer, then: str | None
) -> None:
    server.on(JOBS, refused, Answer(job_json(), 201))
    await target.submit(RunRequest(ID, PROMPT))
    await target.submit(RunRequest(ID, PROMPT))
    expected = None if then is None else f"comfy_remote_job={ID}"
    assert [server.sent(n).get("metadata") for n in (1, 2)] == [expected, expected]
    assert server.count(JOBS) == 3


async def test_a_full_queue_and_a_deployment_that_starts_are_waited_for(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOBS, refusal(429, "deployment_not_ready"), Answer(job_json(), 201))
    said: list[str] = []
    with retries_said(said.append):
        assert (await target.submit(RunRequest(ID, PROMPT))).remote_id == "j1"
    assert said == [
        "lab takes nothing for now: the deployment is still starting. Try 2 of 2 in 0.0 s."
    ]
    server.on(JOBS, refusal(429, "queue_full"))
    with pytest.raises(RateLimited, match=r"lab takes nothing for now: its queue is full\.") as e:
        await target.submit(RunRequest(ID, PROMPT))
    assert DidItRun.of(e.value) is DidItRun.NEVER_ACCEPTED


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(422, "workflow_format_ui"), WorkflowInvalid, "API format"),
        (refusal(422, "deployment_stopped"), TargetError, "lab is stopped"),
        (refusal(402, "insufficient_credits"), TargetError, "enough credits"),
        (refusal(401, "unauthorized", "bad key"), AuthenticationError, "refused the key: bad key"),
        (refusal(403, "forbidden"), AuthenticationError, "does not allow that"),
        (refusal(404, "not_found"), TargetError, "does not have that"),
        (refusal(400, "invalid_request", "odd"), TargetError, r"HTTP 400\): odd\."),
        (Answer(b"<html>sign in</html>", 403), AuthenticationError, "refused the key"),
        # A ComfyUI is there: it has pages at all addresses.
        (Answer(b"405: Method Not Allowed", 405), TargetNotFound, "has no Comfy API below"),
    ],
)
async def test_a_refusal_says_what_to_do(
    server: FakeComfyApi,
    target: ComfyApiTarget,
    answer: Answer,
    kind: type[ComfyRemoteError],
    words: str,
) -> None:
    server.on(JOBS, answer)
    with pytest.raises(kind, match=words) as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert caught.value.advice
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert server.count(JOBS) == 1


@pytest.mark.parametrize("keyed", [True, False])
def test_a_key_is_asked_of_the_one_who_gives_it(keyed: bool) -> None:
    answer = Response(401, {}, b'{"error": {"code": "unauthorized", "message": "no"}}')
    of_comfys = refused(answer, "lab", "lab", keyed=keyed)
    of_a_colleague = refused(answer, "lab", "lab", keyed=keyed, comfys=False)
    assert "platform.comfy.org" in of_comfys.advice
    assert "platform.comfy.org" not in of_a_colleague.advice
    assert "the token that the server was started with" in of_a_colleague.advice


@pytest.mark.parametrize(
    ("node_errors", "said"),
    [
        ({"2": [{"field": "images", "reason": "missing_input"}]}, "missing input: images"),
        (
            {
                "2": {
                    "class_type": "SaveImage",
                    "errors": [{"type": "t", "message": "Bad value", "details": "images"}],
                }
            },
            "Bad value: images",
        ),
        (  # as `comfy-remote api` says it
            {
                "2": [
                    {
                        "field": "images",
                        "reason": "value_not_in_list",
                        "message": "Value not in list: images: 'x.png' not in []",
                    }
                ]
            },
            "Value not in list: images: 'x.png' not in []",
        ),
    ],
)
async def test_a_refused_workflow_has_its_nodes_marked(
    server: FakeComfyApi, target: ComfyApiTarget, node_errors: Any, said: str
) -> None:
    server.on(JOBS, refusal(422, "invalid_workflow", "no", node_errors=node_errors))
    with pytest.raises(WorkflowInvalid, match="SaveImage") as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert list(node_problems(caught.value)) == [("2", "SaveImage", said)]


async def test_a_node_that_the_server_does_not_have_is_no_wrong_input(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    node_errors = {"2": [{"field": None, "reason": "missing_node_type", "message": "Not found"}]}
    server.on(JOBS, refusal(422, "invalid_workflow", "no", node_errors=node_errors))
    with pytest.raises(WorkflowInvalid, match=r"no node class SaveImage \(node 2\)") as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert "install the node pack that has it" in caught.value.advice


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "c" * 2_000_000, "m" * 2_000_000),
        refusal(422, "invalid_workflow", "m" * 2_000_000),
        refusal(
            422,
            "invalid_workflow",
            node_errors={str(n): [{"field": "f", "reason": "r"}] for n in range(20_000)},
        ),
    ],
)
async def test_of_a_refusal_of_megabytes_only_the_beginning_is_recorded(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Answer
) -> None:
    server.on(JOBS, answer)
    with pytest.raises(ComfyRemoteError) as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert len(caught.value.message) < 10_000
    assert len(json.dumps(caught.value.to_json())) < 250_000


# --- A lost answer --------------------------------------------------------------------------


async def test_the_same_key_again_is_the_only_run_when_it_is_accepted(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOBS, drop, Answer(job_json(), 201))
    assert (await target.submit(RunRequest(ID, PROMPT))).remote_id == "j1"
    posted = [one for one in server.asked if f"{one.method} {one.path}" == JOBS]
    assert [one.headers["Idempotency-Key"] for one in posted] == [ID, ID]


async def test_nothing_is_sent_again_to_a_server_that_went_away_since_it_may_have_lost_its_keys(
    target: ComfyApiTarget, server: FakeComfyApi
) -> None:
    async def going(request: web.Request) -> web.StreamResponse:
        await server.stop_listening()
        return await drop(request)

    server.on(JOBS, going)
    with pytest.raises(SubmissionUnknown, match="nothing more was sent") as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert DidItRun.of(caught.value) is DidItRun.UNKNOWN
    assert caught.value.advice.startswith(f"Resume job {ID}")
    assert server.count(JOBS) == 1


@pytest.mark.parametrize("behind_proxy", [JOBS, LIST])
async def test_nor_to_one_that_a_proxy_cannot_reach_meanwhile(
    target: ComfyApiTarget, server: FakeComfyApi, behind_proxy: str
) -> None:
    """comfy-api-proxy behind nginx: started again, it took the job a second time."""
    server.on(LIST, Answer({"jobs": []}))
    server.on(JOBS, drop, Answer(job_json(), 201))
    server.on(behind_proxy, *([drop] if behind_proxy == JOBS else []), Answer(None, 502))
    with pytest.raises(SubmissionUnknown, match="nothing more was sent"):
        await target.submit(RunRequest(ID, PROMPT))
    assert server.count(JOBS) == (2 if behind_proxy == JOBS else 1)


@pytest.mark.parametrize("label", [{"comfy_remote_job": ID}, f"comfy_remote_job={ID}"])
@pytest.mark.parametrize("answer", [drop, Answer(b"<html>", 201), Answer(None, 502)])
async def test_a_job_whose_answer_was_lost_is_found_in_the_list(
    server: FakeComfyApi, target: ComfyApiTarget, label: Any, answer: Any
) -> None:
    other = {"id": "j0", "status": "queued", "metadata": {"comfy_remote_job": "another"}}
    ours = {"id": "j1", "status": "queued", "metadata": label}
    server.on(JOBS, answer)
    server.on(LIST, Answer({"jobs": [other], "next_cursor": "c"}), Answer({"jobs": [ours]}))
    assert (await target.submit(RunRequest(ID, PROMPT))).remote_id == "j1"
    assert server.count(JOBS) == 1
    assert await target.find(ID) == RemoteRef(ID, "j1", target.server)


async def test_a_key_that_was_used_says_that_it_may_run(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOBS, drop, refusal(422, "idempotency_key_reuse"))
    server.on(LIST, refusal(501, "not_implemented"))
    with pytest.raises(SubmissionUnknown, match="has had the job, or may have") as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert DidItRun.of(caught.value) is DidItRun.UNKNOWN
    assert server.count(JOBS) == 2


async def test_a_label_that_is_refused_after_a_lost_answer_was_refused_before(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOBS, drop, refusal(422, "metadata_not_supported"), Answer(job_json(), 201))
    assert (await target.submit(RunRequest(ID, PROMPT))).remote_id == "j1"
    assert "metadata" not in server.sent()


async def test_a_refusal_after_a_lost_answer_says_nothing_of_the_first_request(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOBS, drop, refusal(402, "insufficient_credits"))
    with pytest.raises(SubmissionUnknown) as caught:
        await target.submit(RunRequest(ID, PROMPT))
    assert DidItRun.of(caught.value) is DidItRun.UNKNOWN


@pytest.mark.parametrize("answer", [Answer({"jobs": []}), refusal(501, "not_implemented")])
async def test_a_job_that_is_in_no_list_may_be_there_all_the_same(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Answer
) -> None:
    server.on(LIST, answer)
    with pytest.raises(SubmissionUnknown, match="is not known"):
        await target.find(ID)


# --- Input files ----------------------------------------------------------------------------


async def test_a_file_is_uploaded_and_the_prompt_refers_to_it(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    sent: list[tuple[int, int]] = []
    request = loading(tmp_path)
    request = RunRequest(
        ID, request.prompt, request.files, on_sent=lambda a, b: sent.append((a, b))
    )
    await target.submit(request)
    name = f"in_{hashlib.sha256(PNG).hexdigest()[:12]}.png"
    blake3 = asset(PNG)["hash"]
    (upload,) = server.uploads
    assert upload == {
        "content_type": b"image/png",
        "file_path": name.encode(),
        "expected_hash": blake3.encode(),
        "tags": b"input",
        "file": PNG,
    }
    info = {"id": "in1", "hash": blake3, "file_path": name}
    reference = {"__type": "core/ASSET", "info": info}
    assert server.sent()["workflow"]["1"]["inputs"]["image"] == reference
    assert sent[-1] == (len(PNG), len(PNG))


async def test_bytes_that_the_server_has_are_not_sent(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    server.on(FROM_HASH, Answer(asset(PNG, id="there"), 201))
    await target.submit(loading(tmp_path))
    await target.submit(loading(tmp_path))
    assert server.uploads == []
    assert server.count(FROM_HASH) == 1  # the second job knows it
    assert server.sent()["workflow"]["1"]["inputs"]["image"]["info"]["id"] == "there"


async def test_an_asset_of_other_bytes_is_not_used(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    """The job would run with another picture, and nobody would notice."""
    other = Answer(asset(b"other", id="other"), 201)
    server.on(FROM_HASH, other)
    await target.submit(loading(tmp_path))
    assert len(server.uploads) == 1
    assert server.sent()["workflow"]["1"]["inputs"]["image"]["info"]["id"] == "in1"
    server.on(ASSETS, other)
    with pytest.raises(TargetError, match="has other bytes of more") as caught:
        await target.submit(loading(tmp_path, PNG + b"more", "more.png"))
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert server.count(JOBS) == 1


async def test_an_asset_that_expired_meanwhile_is_sent_again_once(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    await target.submit(loading(tmp_path))
    server.on(JOBS, refusal(422, "missing_asset"), Answer(job_json(), 201))
    await target.submit(loading(tmp_path))
    assert len(server.uploads) == 2
    assert server.sent()["workflow"]["1"]["inputs"]["image"]["info"]["id"] == "in2"
    server.on(JOBS, refusal(422, "missing_asset", "Unresolvable: in2"))
    with pytest.raises(WorkflowInvalid, match="Unresolvable: in2"):
        await target.submit(loading(tmp_path))
    assert len(server.uploads) == 3


async def test_one_that_expires_soon_is_not_relied_on(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    server.on(FROM_HASH, Answer(asset(PNG, expires_at="2026-01-01T00:00:00Z"), 201))
    await target.submit(loading(tmp_path))
    await target.submit(loading(tmp_path))
    assert server.count(FROM_HASH) == 2


async def test_a_file_damaged_on_its_way_is_sent_once_more(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    server.on(ASSETS, refusal(409, "hash_mismatch"), server._upload)
    await target.submit(loading(tmp_path))
    server.on(ASSETS, refusal(409, "hash_mismatch"))
    with pytest.raises(TargetError, match="other bytes") as caught:
        await target.submit(loading(tmp_path, b"another picture"))
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED


async def test_a_file_that_is_too_large_is_named(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    server.on(ASSETS, refusal(413, "payload_too_large", "Upload exceeds 10 bytes."))
    with pytest.raises(RequestTooLarge, match=r"does not take the file in\.png") as caught:
        await target.submit(loading(tmp_path))
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED


# --- Following ------------------------------------------------------------------------------


async def test_states_progress_and_outputs_are_each_said_once(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    step = {"value": 0.3, "nodes_done": 1, "nodes_total": 2, "current_node": "2", "step": 3}
    running = job("running", started_at=LATER, progress={**step, "steps": 10})
    metrics = {"queue_ms": 9000, "execution_ms": 42000}
    done = job("succeeded", outputs=[output(PNG)], started_at=LATER, metrics=metrics)
    server.on(JOB, job(queue_position=2), job(queue_position=2), running, running, done)
    seen = await events(target)
    assert [one for one in seen if not isinstance(one, Log)][:4] == [
        Queued(2),
        Started(),
        Progress(1, 2, "2", "SaveImage", 3, 10),
        *[OutputReady(one) for one in seen[-1].outputs],  # type: ignore[union-attr]
    ]
    end = seen[-1]
    assert isinstance(end, Finished)
    assert end.state is JobState.SUCCEEDED
    assert (end.details["queue_seconds"], end.details["run_seconds"]) == (9.0, 42.0)
    (made,) = end.outputs
    assert (made.node_id, made.kind, made.size) == ("2", "image", len(PNG))


async def test_what_a_server_does_not_know_yet_is_not_taken_for_a_fact(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    unknown = {"value": 0.0, "nodes_done": 0, "nodes_total": 0}
    odd = output(type="hologram", name="a\\b/x.glb", content_type="")
    server.on(
        JOB,
        job("running", progress=unknown),
        job("running", progress={"value": 7}, metadata="a text"),
        job("succeeded", outputs=[odd, output(id="a2", name="a/b/x.glb")], metadata="a text"),
    )
    seen = await events(target)
    assert [one for one in seen if isinstance(one, Progress)] == [Progress(2, 2)]
    first, second = seen[-1].outputs  # type: ignore[union-attr]
    assert (first.kind, first.subfolder, first.size, first.blake3) == ("3d", "a/b", None, None)
    assert (first.number, second.number) == (None, 1)


async def test_a_job_that_goes_from_one_list_to_another_is_asked_for_again(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    done = job("succeeded", outputs=[output()])
    server.on(JOB, job("expired"), refusal(404, "not_found"), job("running"), done)
    assert (await events(target))[-1].state is JobState.SUCCEEDED  # type: ignore[union-attr]


@pytest.mark.parametrize("answer", [job("expired"), refusal(404, "not_found")])
async def test_a_job_that_is_gone(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Answer
) -> None:
    server.on(JOB, answer)
    end = (await events(target))[-1]
    assert isinstance(end, Finished)
    assert (end.state, end.did_it_run) == (JobState.EXPIRED, DidItRun.UNKNOWN)
    assert isinstance(end.error, JobExpired)
    assert server.count(JOB) == 3


async def test_a_job_that_failed_names_its_node(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    error = {"code": "node_execution_error", "message": "CUDA out of memory", "node_id": "1"}
    server.on(JOB, job("failed", error={**error, "class_type": "EmptyImage", "traceback": "T"}))
    end = (await events(target))[-1]
    assert isinstance(end, Finished)
    assert isinstance(end.error, OutOfMemory)
    assert end.error.details["node_id"] == "1"
    server.on(JOB, job("failed", error={"code": "worker_lost", "message": "it went away."}))
    end = (await events(target))[-1]
    assert isinstance(end, Finished)
    assert isinstance(end.error, ExecutionFailed)
    assert end.error.message == "The job failed (worker_lost): it went away."


async def test_nodes_of_which_nothing_came_are_named(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOB, job("succeeded"))
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    async with aclosing(target.follow(REF, {**PROMPT, "3": shown})) as following:  # type: ignore[dict-item]
        seen = [event async for event in following]
    end = seen[-1]
    assert isinstance(end, Finished)
    assert [str(one) for one in end.problems] == [
        "Node 2 (SaveImage): lab returned no output of it"
    ]
    warning = "Node 3 (PreviewAny): lab returned no output of it."
    assert Log(warning, "warning") in seen
    assert end.details["warnings"] == [warning]


async def test_a_server_that_fails_now_and_then_is_asked_on(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOB, Answer(None, 502), refusal(429, "rate_limited"), job("succeeded"))
    seen = await events(target)
    assert isinstance(seen[-1], Finished)
    assert sum(isinstance(one, Log) and one.level == "warning" for one in seen) == 2


async def test_a_server_that_stays_away_may_still_run_the_job(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(JOB, drop)
    with pytest.raises(TargetError, match="may still be running there"):
        await events(target)


# --- Live events ----------------------------------------------------------------------------

JPEG = "/9j/AAAA"


def streaming(*frames: bytes, then: asyncio.Event | None = None) -> Any:
    """Frames, then nothing until the event is set."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in frames:
            await response.write(one)
        if then is not None:
            await then.wait()
        return response

    return answer


def slow_polling(seconds: float = 30.0) -> ComfyApiTimes:
    """Only a live event can be the reason for a second question."""
    polling = Polling(first=seconds, longest=seconds, backoff=QUICK)
    return ComfyApiTimes(
        requests=HttpLimits(backoff=QUICK), polling=polling, reconnect=QUICK, full=QUICK
    )


async def test_live_events_bring_previews_and_the_end(server: FakeComfyApi) -> None:
    progress = {"value": 0.5, "nodes_done": 1, "nodes_total": 2, "current_node": "2"}
    preview = {"node_id": "2", "content_type": "image/jpeg", "data_base64": JPEG}
    over = asyncio.Event()

    async def live(request: web.Request) -> web.StreamResponse:
        await until(lambda: server.count(JOB))
        server.on(JOB, job("succeeded", outputs=[output(PNG)]))
        frames = [
            b": keepalive\n\n",
            frame("status", {"status": "running"}),
            frame("progress", progress),
            frame("preview", preview),
            frame("output", output(PNG)),
            frame("log", {"level": "info", "message": "m"}),
            frame("progress", {"value": "no"}),
            frame("status", {"status": "succeeded"}),
        ]
        answer: web.StreamResponse = await streaming(*frames, then=over)(request)
        return answer

    server.on(EVENTS, live)
    async with ComfyApiTarget(server.url, name="lab", times=slow_polling()) as target:
        seen = await events(target)
    over.set()
    made = seen[-1].outputs  # type: ignore[union-attr]
    assert seen[0] == Queued()
    assert Started() in seen
    assert [one for one in seen if isinstance(one, Preview)] == [
        Preview("2", "image/jpeg", b"\xff\xd8\xff\x00\x00\x00")
    ]
    assert [one for one in seen if isinstance(one, OutputReady)] == [OutputReady(made[0])]
    assert server.count(JOB) == 2


@pytest.mark.parametrize(
    "endless",
    [b"x" * 2**20, b"data: y\n" * 2**17],
    ids=["one line without an end", "one event without an end"],
)
async def test_an_endless_event_ends_the_stream_and_asking_goes_on(
    server: FakeComfyApi, target: ComfyApiTarget, endless: bytes
) -> None:
    written = 0

    async def live(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(endless)
                written += len(endless)
        return response

    server.on(EVENTS, live)
    said = []
    async for event in target.follow(REF, PROMPT):
        if isinstance(event, Log):
            said.append(event.message)
            server.on(JOB, job("succeeded", outputs=[output()]))
    assert said == [
        "lab sends no live events (it sent an event of more than 8 MiB): asking instead."
    ]
    assert written < 64 * 2**20
    assert server.count(EVENTS) == 1


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (refusal(501, "not_implemented"), 1),
        (refusal(404, "not_found"), 1),
        (Answer(b"<html>"), 1),
        (refusal(429, "too_many_streams"), 3),
        (Answer(None, 502), 3),
        (drop, 3),
        (streaming(b"event: status\n"), 3),
    ],
)
async def test_without_live_events_the_job_is_followed_all_the_same(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Any, tries: int
) -> None:
    async def running(request: web.Request) -> web.StreamResponse:
        if server.count(EVENTS) >= tries:
            return job("succeeded", outputs=[output()]).response()
        return job("running").response()

    server.on(EVENTS, answer)
    server.on(JOB, running)
    assert (await events(target))[-1].state is JobState.SUCCEEDED  # type: ignore[union-attr]


async def test_a_stream_that_falls_silent_holds_up_nothing(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    over = asyncio.Event()

    async def running(request: web.Request) -> web.StreamResponse:
        done = server.count(EVENTS) and server.count(JOB) > 3
        return job("succeeded" if done else "running", outputs=[output()]).response()

    server.on(EVENTS, streaming(frame("status", {"status": "running"}), then=over))
    server.on(JOB, running)
    assert isinstance((await events(target))[-1], Finished)
    over.set()


async def test_a_flood_of_previews_leaves_the_newest(server: FakeComfyApi) -> None:
    flooded, over = asyncio.Event(), asyncio.Event()

    async def live(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(200):
            data = {"node_id": str(number), "content_type": "image/jpeg", "data_base64": JPEG}
            await response.write(frame("preview", data))
        await until(lambda: server.count(JOB))
        server.on(JOB, job("succeeded", outputs=[output()]))
        await response.write(frame("status", {"status": "succeeded"}))
        flooded.set()
        await over.wait()
        return response

    server.on(EVENTS, live)
    target = ComfyApiTarget(server.url, times=slow_polling())
    async with target, aclosing(target.follow(REF, PROMPT)) as following:
        seen = [await anext(following)]
        await flooded.wait()
        seen += [event async for event in following]
    over.set()
    previews = [one.node_id for one in seen if isinstance(one, Preview)]
    assert previews[-1] == "199"


async def test_a_stream_that_says_the_end_again_and_again_is_not_believed_for_ever(
    server: FakeComfyApi,
) -> None:
    over = asyncio.Event()

    async def live(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(1, 20):
            await until(lambda number=number: server.count(JOB) >= min(number, 6))
            await response.write(frame("status", {"status": "succeeded"}))
        over.set()
        await asyncio.Event().wait()
        return response

    server.on(JOB, job("running"))
    server.on(EVENTS, live)
    target = ComfyApiTarget(server.url, times=slow_polling())
    async with target, aclosing(target.follow(REF, PROMPT)) as following:
        assert await anext(following) == Started()
        waiting = asyncio.ensure_future(anext(following))
        await over.wait()
        await settled()
        assert server.count(JOB) == 6
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_many_jobs_do_not_take_all_connections_for_their_events(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    over, streams = asyncio.Event(), []

    async def running(request: web.Request) -> web.StreamResponse:
        done = server.count(JOB) > 60  # some were asked for three times by then
        if not done:
            streams.append(server.count(EVENTS))
        return job("succeeded" if done else "running", outputs=[output()]).response()

    server.on(EVENTS, streaming(frame("status", {"status": "running"}), then=over))
    server.on(JOB, running)
    ends = await asyncio.gather(*(events(target) for _ in range(20)))
    assert all(isinstance(one[-1], Finished) for one in ends)
    assert max(streams) <= 6
    over.set()


async def test_a_job_gets_live_events_once_another_has_ended(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    over, done = asyncio.Event(), job("succeeded", outputs=[output()])

    async def of_the_last(request: web.Request) -> web.StreamResponse:
        server.on("GET /api/v2/jobs/j7", done)
        answer: web.StreamResponse = await streaming(then=over)(request)
        return answer

    server.on(EVENTS, streaming(frame("status", {"status": "running"}), then=over))
    server.on(JOB, job("running"))
    server.on("GET /api/v2/jobs/j7", job("queued"))
    server.on("GET /api/v2/jobs/j7/events", of_the_last)
    first = [asyncio.ensure_future(events(target)) for _ in range(6)]
    await until(lambda: server.count(EVENTS) == 6)
    last = asyncio.ensure_future(events(target, RemoteRef(ID, "j7")))
    await until(lambda: server.count("GET /api/v2/jobs/j7") > 1)
    assert server.count("GET /api/v2/jobs/j7/events") == 0
    server.on(JOB, done)
    ends = await asyncio.gather(*first, last)
    assert all(isinstance(one[-1], Finished) for one in ends)
    over.set()


# --- Reading and the rest -------------------------------------------------------------------


async def fetched(target: ComfyApiTarget, server: FakeComfyApi, folder: Path) -> bytes:
    with Record(folder / "home") as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            made = await client.submit({**PROMPT}, job_id=ID)
            (saved,) = await made.save_outputs(folder)
            return saved.path.read_bytes()


async def test_an_output_is_checked_by_size_and_hash(server: FakeComfyApi, tmp_path: Path) -> None:
    server.on(JOB, job("succeeded", outputs=[output(PNG)]))
    server.on(CONTENT, Answer(PNG))
    target = ComfyApiTarget(server.url, times=SOON)
    assert await fetched(target, server, tmp_path / "a") == PNG
    server.on(CONTENT, Answer(PNG[:-1] + b"!"))
    with pytest.raises(OutputCorrupt, match="BLAKE3"):
        await fetched(ComfyApiTarget(server.url, times=SOON), server, tmp_path / "b")


async def test_a_redirect_to_storage_is_followed_without_the_key(
    server: FakeComfyApi, tmp_path: Path
) -> None:
    async with ScriptedServer() as storage:
        storage.on("GET /signed", Answer(PNG))
        link = f"{storage.url}/signed?sig=a%2Fb"
        server.on(CONTENT, Answer(None, 302, {"Location": link}))
        server.on(JOB, job("succeeded", outputs=[output(PNG)]))
        target = ComfyApiTarget(
            server.url,
            headers={"Authorization": KEY},
            storage_hosts={f"127.0.0.1:{storage.port}"},
            times=SOON,
        )
        assert await fetched(target, server, tmp_path) == PNG
        (asked,) = storage.asked
        assert "Authorization" not in asked.headers
        target = ComfyApiTarget(server.url, times=SOON)
        with pytest.raises(TargetError, match="is not https"):
            await fetched(target, server, tmp_path / "b")
        assert len(storage.asked) == 1


async def test_a_redirect_below_the_same_origin_has_the_key(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(CONTENT, Answer(None, 302, {"Location": "/blobs/1"}))
    server.on("GET /blobs/1", Answer(PNG, headers={"ETag": '"v1"'}))
    server.on(JOB, job("succeeded", outputs=[output(PNG)]))
    (made,) = (await events(target))[-1].outputs  # type: ignore[union-attr]
    async with aclosing(target.read(made)) as chunks:
        assert b"".join([one async for one in chunks]) == PNG
    assert server.asked[-1].headers["Authorization"] == KEY.get_secret_value()
    assert target.version_of(made) == '"v1"'
    server.on(CONTENT, Answer(None, 302, {"Location": "/api/v2/assets/a1/content"}))
    with pytest.raises(TargetError):
        async with aclosing(target.read(made)) as chunks:
            [one async for one in chunks]


async def test_a_part_is_continued_by_range(server: FakeComfyApi, target: ComfyApiTarget) -> None:
    async def ranged(request: web.Request) -> web.StreamResponse:
        assert request.headers["Range"] == "bytes=4-"
        return web.Response(body=PNG[4:], status=206)

    server.on(CONTENT, ranged)
    server.on(JOB, job("succeeded", outputs=[output()]))
    (made,) = (await events(target))[-1].outputs  # type: ignore[union-attr]
    async with aclosing(target.read(made, 4)) as chunks:
        assert b"".join([one async for one in chunks]) == PNG[4:]
    assert target.version_of(made) is not None  # so what has arrived is not fetched again


async def test_a_download_that_breaks_continues_where_it_broke(
    server: FakeComfyApi, tmp_path: Path
) -> None:
    async def breaking(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(PNG))})
        await response.prepare(request)
        await response.write(PNG[:4])
        assert request.transport is not None
        request.transport.close()
        return response

    async def rest(request: web.Request) -> web.StreamResponse:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        return web.Response(body=PNG[start:], status=206)

    server.on(JOB, job("succeeded", outputs=[output(PNG)]))
    server.on(CONTENT, breaking, rest)
    assert await fetched(ComfyApiTarget(server.url, times=SOON), server, tmp_path) == PNG
    assert server.count(CONTENT) == 2


@pytest.mark.parametrize("status", [404, 410])
async def test_an_output_that_has_expired_is_lost(
    server: FakeComfyApi, tmp_path: Path, status: int
) -> None:
    server.on(JOB, job("succeeded", outputs=[output(PNG)]))
    server.on(CONTENT, refusal(status, "output_unavailable"))
    with pytest.raises(OutputLost, match=r"no longer has x\.png"):
        await fetched(ComfyApiTarget(server.url, name="lab", times=SOON), server, tmp_path)


async def test_a_cancel_and_a_job_that_the_server_forgets_by_it(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    server.on(CANCEL, job("expired"))
    server.on(JOB, job("queued"), job("expired"))
    await target.cancel(REF)
    end = (await events(target))[-1]
    assert isinstance(end, Finished)
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.WITHDRAWN)
    server.on(CANCEL, refusal(404, "not_found"))
    await target.cancel(REF)


@pytest.mark.parametrize(
    "answer", [job("queued"), Answer(b"<html>Sign in</html>"), Answer(b"Not Found", 404)]
)
async def test_a_cancel_that_the_server_does_not_carry_out_is_said(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Answer
) -> None:
    """It was reported as done, while the job went on and cost money."""
    server.on(CANCEL, answer)
    server.on(JOB, job("running"))
    with pytest.raises(TargetError, match="still has it: running"):
        await target.cancel(REF)
    server.on(JOB, job("running"), job("canceling"))
    await target.cancel(REF)


async def test_a_cancel_that_fails_explains_no_end(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    """Nobody saw the job begin; its server was restarted, and has forgotten it: it may have run."""
    server.on(CANCEL, refusal(503, "upstream_unreachable"))
    server.on(JOB, job("queued"), job("expired"))
    with pytest.raises(TargetError):
        await target.withdraw(REF)
    end = (await events(target))[-1]
    assert isinstance(end, Finished)
    assert (end.state, end.did_it_run) == (JobState.EXPIRED, DidItRun.UNKNOWN)


async def test_any_job_is_recalled_by_its_id(server: FakeComfyApi, target: ComfyApiTarget) -> None:
    server.on("GET /api/v2/jobs/j1/workflow", Answer({"workflow": PROMPT, "format": "api"}))
    assert await target.recall("j1") == (RemoteRef("j1", "j1", target.server), PROMPT)
    assert await target.recall("j9") is None


@pytest.mark.parametrize(
    "answer",
    [
        refusal(404, "not_found", "No recoverable workflow for job j1."),
        refusal(501, "not_implemented"),
        Answer({"workflow": {"1": 5}, "format": "api"}),
        Answer(b"<html>"),
    ],
)
async def test_a_job_whose_workflow_the_server_does_not_have_is_recalled_all_the_same(
    server: FakeComfyApi, target: ComfyApiTarget, answer: Answer
) -> None:
    """comfy-api-proxy forgets it when it is restarted, and has the job."""
    server.on("GET /api/v2/jobs/j1/workflow", answer)
    assert await target.recall("j1") == (RemoteRef("j1", "j1", target.server), {})


async def test_health_shows_whether_the_key_is_taken(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    health = await target.health()
    assert (health.ready, health.counted) == (1, False)
    server.on(NO_JOB, refusal(401, "unauthorized"))
    with pytest.raises(AuthenticationError):
        await target.health()
    server.on(NO_JOB, Answer(b"404: Not Found", 404))
    with pytest.raises(TargetNotFound, match="has no Comfy API below") as missing:
        await target.health()
    assert "without comfy:" in missing.value.advice
    assert json.dumps((await target.describe()).engine)


@pytest.mark.parametrize("body", [b"<html><title>Sign in</title>", b'{"ok": true}', b""])
async def test_a_page_that_is_there_for_any_address_is_no_healthy_server(
    server: FakeComfyApi, target: ComfyApiTarget, body: bytes
) -> None:
    server.on(NO_JOB, Answer(body))
    with pytest.raises(TargetError, match=r"web page|not JSON|not Comfy API v2"):
        await target.health()


async def test_nodes_are_known_where_the_server_lists_them_besides(server: FakeComfyApi) -> None:
    """Comfy's cloud does. One that lists them no more runs jobs all the same."""
    nodes = {"SaveImage": {"input": {}}, "EmptyImage": {"input": {}}}
    server.on("GET /api/object_info", Answer(nodes))
    async with ComfyApiTarget(server.url, object_info="api/object_info", times=SOON) as target:
        assert (await target.describe(())).nodes == {}
        assert (await target.describe(["SaveImage", "Other"])).nodes == {"SaveImage": {"input": {}}}
        assert (await target.describe()).nodes == nodes
    assert server.count("GET /api/object_info") == 1
    server.on("GET /api/object_info", Answer({"message": "no"}, 401))
    async with ComfyApiTarget(server.url, object_info="api/object_info", times=SOON) as target:
        assert (await target.describe()).nodes is None


async def test_a_file_in_a_folder_is_placed_below_input(
    server: FakeComfyApi, target: ComfyApiTarget, tmp_path: Path
) -> None:
    """Comfy's proxy knows no other folder than ``input`` and those of models."""
    request = loading(tmp_path)
    file = replace(request.files[0], name="masks/in.png", places=())
    prompt: Prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "masks/in.png"}}}
    server.on(FROM_HASH, refusal(404, "blob_not_found"))
    await target.submit(replace(request, prompt=prompt, files=(file,)))
    [sent] = server.uploads
    assert sent["file_path"].startswith(b"input/masks/in_")
    reference = server.sent()["workflow"]["1"]["inputs"]["image"]["info"]
    assert reference["file_path"] == sent["file_path"].decode()


# --- Answers that no server should give -----------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"expires_at": "2099-01-01T00:00:00"},  # no zone
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"started_at": "2026-11-30T12:00:00", "completed_at": CREATED},
        {"metrics": {"queue_ms": 10**400, "execution_ms": -(10**400)}},
        {"metrics": {"queue_ms": 10**30, "execution_ms": 10**30}},
        {"queue_position": 10**400},
        {"outputs": [output(size_bytes=10**400)]},
        {"outputs": [output(size_bytes=10**30)]},
        {"outputs": [output(size_bytes=-1)]},
        {"outputs": [output(size_bytes="much")]},
    ],
)
async def test_a_date_or_number_that_makes_no_sense_loses_no_job(
    server: FakeComfyApi, target: ComfyApiTarget, more: dict[str, Any]
) -> None:
    server.on(JOB, job("succeeded", **{"outputs": [output()], **more}))
    end = (await events(target))[-1]
    assert isinstance(end, Finished) and end.state is JobState.SUCCEEDED
    assert [(made.filename, made.size) for made in end.outputs] == [("x.png", None)]


@pytest.mark.parametrize("until", ["2001-01-01T00:00:00", "0001-01-01T00:00:00+12:00"])
async def test_until_when_a_job_was_there_is_said_of_any_date(
    server: FakeComfyApi, target: ComfyApiTarget, until: str
) -> None:
    server.on(JOB, job("expired", expires_at=until))
    end = (await events(target))[-1]
    assert isinstance(end, Finished) and isinstance(end.error, JobExpired)
    assert "1-01-01 00:00 UTC, and has deleted it" in end.error.message


async def test_numbers_of_any_size_in_progress_are_none(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    silly = {"value": 1, "nodes_done": 10**400, "nodes_total": 10**400, "current_node": "1"}
    over = asyncio.Event()
    server.on(EVENTS, streaming(frame("progress", silly), then=over))
    done = job("succeeded", outputs=[output()])
    server.on(JOB, job("running", progress=silly), job("running", progress=silly), done)
    found = await events(target)
    over.set()
    assert all(0 <= one.fraction <= 1 for one in found if isinstance(one, Progress))


async def test_very_many_outputs_are_named_apart_without_comparing_each_with_all(
    server: FakeComfyApi, target: ComfyApiTarget
) -> None:
    """32 MiB of them held the event loop for an hour."""
    made = [output(id=f"a{number}") for number in range(20_000)]
    server.on(JOB, job("succeeded", outputs=made))
    end = await events(target)
    assert isinstance(end[-1], Finished)
    assert [one.number for one in end[-1].outputs[:3]] == [None, 1, 2]
    assert end[-1].outputs[-1].number == 19_999
