"""The jobs of the served Comfy API on a target in memory: what is posted, how they end, keys."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import re
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from api_kit import PROMPT, QUICK, Front, front
from asset_kit import receive
from blake3 import blake3
from fake_target import FakeTarget, output
from helpers import until
from hypothesis import given, settings
from hypothesis import strategies as st
from owner import configure
from PIL import Image
from route_kit import Server, route_of
from yarl import URL

from comfy_remote.api.errors import ApiRefusal
from comfy_remote.api.posted import posted_job
from comfy_remote.api.references import Reference, with_files
from comfy_remote.api.stored import StoredAsset
from comfy_remote.config.settings import Configuration
from comfy_remote.errors import (
    ExecutionFailed,
    OutputLost,
    SpendingCap,
    SubmissionUnknown,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    OutputReady,
    Progress,
    Queued,
    Started,
)
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.base import Capabilities, RemoteRef, RunRequest
from comfy_remote.targets.input_names import by_content
from comfy_remote.workflow.models import find_models
from comfy_remote.workflow.prompt import Prompt

NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
_words = st.sampled_from(
    [
        "workflow",
        "inputs",
        "class_type",
        "__type",
        "info",
        "id",
        "metadata",
        "extra_data",
        "core/ASSET",
    ]
)


def png(colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(written, "PNG")
    return written.getvalue()


class Found(FakeTarget):
    """One that a restart finds where it was."""

    server = {"where": "there"}  # noqa: RUF012 - as a property


class Gated(Found):
    """Its jobs end when they may, with one picture; cancelled ones end as that."""

    def __init__(self, *events: Event) -> None:
        super().__init__(
            [Started(), *events, Finished(JobState.SUCCEEDED, outputs=(output("a.png"),))],
            {"a.png": png()},
        )
        self.stays_silent = False
        self.may_end = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.has: dict[str, RemoteRef] = {}

    async def submit(self, request: RunRequest) -> RemoteRef:
        ref = await super().submit(request)
        self.has[request.job_id] = ref
        await self.may_answer.wait()
        return ref

    async def find(self, job_id: str) -> RemoteRef | None:
        self.log.append("find")
        return self.has.get(job_id)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        for event in self.events:
            if isinstance(event, Finished):
                await until(lambda: self.may_end.is_set() or ref.remote_id in self.cancelled)
                if ref.remote_id in self.cancelled:
                    yield Finished(JobState.CANCELLED, did_it_run=DidItRun.STOPPED)
                    return
            assert not isinstance(event, (float, Exception))
            yield event


def making(*names: str, **more: bytes) -> FakeTarget:
    files = {**dict.fromkeys(names, png()), **more}
    finished = Finished(JobState.SUCCEEDED, outputs=tuple(map(output, files)))
    target = Found([Queued(3), Started(), finished], files)
    target.stays_silent = False
    return target


def reference(asset_id: str, **info: str) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": asset_id, **info}}


async def upload(here: Front, content: bytes, file_path: str = "photo.png") -> str:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield content

    asset, _ = await receive(here.assets, chunks(), content_type="image/png", file_path=file_path)
    return asset.id


# What is posted


async def test_a_job_has_honest_times_and_its_outputs_whole(tmp_path: Path) -> None:
    async with front(tmp_path, making("a.png", "b.png")) as here:
        posted = await here.post(metadata={"client": "acme"})
        assert posted.status == 201
        job = await here.ended(posted.body["id"])
        assert job["status"] == "succeeded"
        assert job["error"] is None
        times = [job[f"{name}_at"] for name in ("created", "started", "completed", "expires")]
        assert times == sorted(times)
        assert job["metrics"].keys() == {"queue_ms", "execution_ms"}
        assert job["metadata"] == {"client": "acme"}
        assert [one["name"] for one in job["outputs"]] == ["a.png", "b.png"]
        for one in job["outputs"]:
            content = await here.content(one)
            assert content == png()
            assert one["size_bytes"] == len(content)
            assert one["hash"] == f"blake3:{blake3(content).hexdigest()}"
            assert (one["type"], one["job_id"]) == ("image", job["id"])
        entry = here.record.get(job["id"])
        assert (entry.source, entry.state) == ("api test", JobState.SUCCEEDED)
        assert [saved.filename for saved in entry.outputs] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"workflow": {"nodes": [], "links": []}}, "workflow_format_ui"),
        ({"workflow": {}}, "invalid_workflow"),
        ({"workflow": {"1": {"inputs": {}}}}, "invalid_workflow"),
        ({"workflow": {"1": {"class_type": "A", "inputs": {"b": ["9", 0]}}}}, "invalid_workflow"),
        ({"workflow": [1]}, "invalid_workflow"),
        ({}, "invalid_workflow"),
        ({"workflow": PROMPT, "webhook_url": "https://x.test"}, "invalid_workflow"),
        ({"workflow": PROMPT, "inputs": {}}, "invalid_workflow"),
        ({"workflow": PROMPT, "priority": 1}, "invalid_request"),
        ({"workflow": PROMPT, "extra_data": {"auth_token_comfy_org": "x"}}, "invalid_request"),
        ({"workflow": PROMPT, "extra_data": {"api_key_comfy_org": 1}}, "invalid_request"),
        ({"workflow": PROMPT, "extra_data": {"api_key_comfy_org": "word"}}, "invalid_request"),
        ({"workflow": PROMPT, "metadata": {"a": 1}}, "metadata_invalid"),
        ({"workflow": PROMPT, "metadata": {"a b": "1"}}, "metadata_invalid"),
        ({"workflow": PROMPT, "metadata": {f"k{n}": "" for n in range(17)}}, "metadata_invalid"),
        (
            {"workflow": {"1": {"class_type": "A", "inputs": {"b": {"__type": "core/ASSET"}}}}},
            "missing_asset",
        ),
        (
            {"workflow": {"1": {"class_type": "A", "inputs": {"b": [[reference("nowhere")]]}}}},
            "missing_asset",
        ),
    ],
)
async def test_what_is_no_job_is_refused_and_nothing_is_left_of_it(
    tmp_path: Path, body: dict[str, Any], code: str
) -> None:
    target = making("a.png")
    async with front(tmp_path, target) as here:
        answer = await here.ask("POST", "/jobs", json=body, headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.code) == (422, code), answer.body
        assert not target.requests
        assert not here.record.newest()
        assert (await here.ask("GET", "/jobs")).body["jobs"] == []
        assert (await here.post(key="k")).status == 201  # the key is free


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"workflow":' + b"[" * 5000])
async def test_what_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    async with front(tmp_path, making("a.png")) as here:
        headers = {"Content-Type": "application/json"}
        answer = await here.ask("POST", "/jobs", data=body, headers=headers)
        assert (answer.status, answer.code) == (422, "invalid_request")


async def test_what_the_target_refuses_is_said_by_node_and_the_key_is_free(tmp_path: Path) -> None:
    target = making("a.png")
    target.refuses = WorkflowInvalid(
        "No.",
        details={
            "did_it_run": "never_accepted",
            "node_errors": {"2": {"class_type": "SaveImage", "errors": [{"message": "bad"}]}},
        },
    )
    async with front(tmp_path, target) as here:
        for _ in range(2):
            answer = await here.post(key="k")
            assert (answer.status, answer.code) == (422, "invalid_workflow")
            assert answer.body["error"]["details"]["node_errors"].keys() == {"2"}
        assert (await here.ask("GET", "/jobs")).body["jobs"] == []
        target.refuses = None
        assert (await here.post(key="k")).status == 201
        assert len({request.job_id for request in target.requests}) == 3


async def test_classes_that_an_endpoint_lacks_are_refused_at_once(tmp_path: Path) -> None:
    class Endpoint(Found):
        known: Any = None
        installed: Any = None

        async def described_before(self) -> Capabilities:
            return Capabilities(self.known, None, None)

        async def describe_again(self) -> Capabilities:
            return Capabilities(self.installed, None, None)

    target = Endpoint([Finished(JobState.SUCCEEDED, outputs=(output("a.png"),))], {"a.png": png()})
    async with front(tmp_path, target) as here:
        assert (await here.post()).status == 201  # its workers have said nothing yet
        target.known = target.installed = {"EmptyImage": {}}
        refused = await here.post(key="k")
        assert (refused.status, refused.code) == (422, "invalid_workflow")
        assert refused.body["error"]["details"]["node_errors"].keys() == {"2"}
        target.installed = {"EmptyImage": {}, "SaveImage": {}}  # a pack was installed
        assert (await here.post(key="k")).status == 201
        target.known = target.installed = {}
        assert (await here.post()).status == 201  # seen a moment ago


async def test_references_become_input_files_wherever_they_are(tmp_path: Path) -> None:
    target = making("a.png")
    async with front(tmp_path, target) as here:
        first = await upload(here, png("red"), "in/photo.png")
        second = await upload(here, png("blue"), "in/photo.png")
        workflow = {
            **PROMPT,
            "5": {
                "class_type": "LoadImage",
                "inputs": {"image": reference(first, hash="blake3:0")},
            },
            "6": {"class_type": "LoadImage", "inputs": {"image": reference(second)}},
            "7": {"class_type": "Pack", "inputs": {"all": {"list": [reference(first), "x"]}}},
        }
        posted = await here.post(workflow)
        assert posted.status == 201, posted.body
        (request,) = target.requests
        contents = {file.name: file.path.read_bytes() for file in request.files}
        inputs = {name: node["inputs"] for name, node in request.prompt.items()}
        one, other = str(inputs["5"]["image"]), str(inputs["6"]["image"])
        assert one != other
        assert contents == {one: png("red"), other: png("blue")}
        assert inputs["7"]["all"] == {"list": [one, "x"]}
        said = await here.ask("GET", f"/jobs/{posted.body['id']}/workflow")
        assert said.body == {"workflow": workflow, "format": "api"}
        # What a job needs stays.
        assert (await here.ask("DELETE", f"/assets/{first}")).code == "asset_in_use"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_words, _json, max_size=3), _json)
def test_whatever_is_posted_is_a_job_or_refused(body: dict[str, Any], value: Any) -> None:
    asset = StoredAsset(
        *("a", "0" * 64, "0" * 64, 1, "image/png", "x [output]", NOW, NOW, None, None, None),
        path=Path("x"),
    )
    node = {"class_type": "A", "inputs": {"x": value, "y": [reference("a"), body]}}
    for said in (body, {**body, "workflow": value}, {"workflow": {"1": node}}):
        try:
            posted = posted_job(said)
        except (ApiRefusal, WorkflowInvalid):
            continue
        before = copy.deepcopy(posted.prompt)
        if posted.asset_ids == ["a"]:
            prompt, (file,) = with_files(posted.prompt, posted.references, {"a": asset})
            assert file.name == "x (output)"
            assert '"__type": "core/ASSET"' not in json.dumps(prompt)
        assert posted.prompt == before


class Counted(str):
    """A node's id that counts how often it is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Counted.looked_up += 1
        return super().__hash__()


def test_the_work_for_a_file_grows_with_the_inputs_that_name_it_and_no_faster() -> None:
    asset = StoredAsset(
        *("a", "0" * 64, "0" * 64, 1, "image/png", "x.png", NOW, NOW, None, None, None),
        path=Path("x"),
    )
    inputs = {"image": reference("a"), "vae_name": "one.safetensors"}
    loads = {
        Counted(number): {"class_type": "LoadImage", "inputs": inputs} for number in range(300)
    }
    references = [Reference(one, "image", (), "a") for one in loads]
    Counted.looked_up = 0
    prompt, files = with_files(cast("Prompt", loads), references, {"a": asset})
    request = by_content(RunRequest("1", prompt, files))
    (model,) = find_models(request.prompt)
    assert len(model.places) == len(request.files[0].places) == len(loads)
    assert {node["inputs"]["image"] for node in request.prompt.values()} == {"x_000000000000.png"}
    assert Counted.looked_up < 50 * len(loads)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../x.png", "C:\\x.png", "private.png", "~/x.png"]
)
async def test_a_prompt_may_name_no_file_of_this_machine(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    target = making("a.png")
    load = {"5": {"class_type": "LoadImage", "inputs": {"image": name}}}
    async with front(tmp_path, target) as here:
        answer = await here.post({**PROMPT, **load})
        assert (answer.status, answer.code) == (422, "missing_asset")
        assert str(tmp_path) not in answer.body["error"]["message"]
        target.inputs.add("private.png")  # the target's own is another thing
        if name == "private.png":
            assert (await here.post({**PROMPT, **load})).status == 201
            assert not target.requests[0].files


async def test_a_target_is_asked_once_for_a_file_that_many_inputs_name(tmp_path: Path) -> None:
    target, asked = making("a.png"), list[str]()

    async def has_input(name: str) -> bool:
        asked.append(name)
        return True

    target.has_input = has_input  # type: ignore[method-assign]
    load = {"class_type": "LoadImage", "inputs": {"image": "there.png"}}
    async with front(tmp_path, target) as here:
        answer = await here.post({**PROMPT, **{f"load{number}": load for number in range(20)}})
        assert (answer.status, asked) == (201, ["there.png"])


async def test_a_partner_key_goes_to_a_target_that_takes_it_and_nowhere_else(
    tmp_path: Path,
) -> None:
    secret = "comfyui-0123456789abcdef"
    extra = {"api_key_comfy_org": secret}
    target = making("a.png")
    async with front(tmp_path, target, partner_keys=True) as here:
        assert (await here.post(extra_data=extra)).code == "forbidden"
        target.takes_partner_key = True  # type: ignore[attr-defined]
        posted = await here.post(extra_data=extra)
        assert target.requests[0].extra_data == extra
        await here.ended(posted.body["id"])
        workflow = await here.ask("GET", f"/jobs/{posted.body['id']}/workflow")
        assert workflow.body["workflow"] == PROMPT
    async with front(tmp_path, target) as here:
        assert (await here.post(extra_data=extra)).code == "forbidden"
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(secret.encode() in content for content in written)


# Keys


async def test_of_two_with_one_key_at_the_same_moment_one_runs(tmp_path: Path) -> None:
    target = making("a.png")
    async with front(tmp_path, target) as here:
        answers = await asyncio.gather(*(here.post(key="k") for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [201, 422, 422, 422, 422]
        assert {one.code for one in answers if one.status == 422} == {"idempotency_key_reuse"}
        assert (await here.post(key="k", metadata={"a": "b"})).code == "idempotency_key_reuse"
        other = {"Authorization": "Bearer another"}
        body = {"workflow": PROMPT}
        answer = await here.ask(
            "POST", "/jobs", json=body, headers={"Idempotency-Key": "k", **other}
        )
        assert answer.status == 201
        assert len(target.requests) == 2


async def test_a_key_is_used_while_a_job_is_not_recorded_yet_whose_sender_hung_up(
    tmp_path: Path,
) -> None:
    target = making("a.png")
    reading, may_read = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly() -> Configuration:
        loop.call_soon_threadsafe(reading.set)
        assert may_read.wait(10)
        return Configuration.load()

    async with front(tmp_path, target) as here:
        here.jobs._client.configured = slowly
        posting = asyncio.create_task(here.post(key="k"))
        await reading.wait()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        await until(lambda: not here.jobs._keys._claimed)
        again = await here.post(key="k")
        may_read.set()
        assert (again.status, again.code) == (422, "idempotency_key_reuse")
        (run,) = here.jobs._jobs.under_way
        assert (await here.ended(run.id))["status"] == "succeeded"
    assert len(target.requests) == 1


async def test_a_key_is_free_after_its_time_and_a_restart_keeps_it(tmp_path: Path) -> None:
    target = making("a.png")
    async with front(tmp_path, target) as here:
        first = (await here.post(key="k")).body["id"]
    async with front(tmp_path, target) as here:
        assert (await here.post(key="k")).code == "idempotency_key_reuse"
    async with front(tmp_path, target, times=replace(QUICK, key=0.0)) as here:
        second = (await here.post(key="k")).body["id"]
        assert first != second


async def test_a_key_is_kept_where_the_outcome_is_unknown(tmp_path: Path) -> None:
    target = making("a.png")
    target.refuses = SubmissionUnknown("The answer was lost.")
    target.known = SubmissionUnknown("Nobody knows.")
    async with front(tmp_path, target) as here:
        answer = await here.post(key="k")
        assert answer.status == 500
        assert (await here.post(key="k")).code == "idempotency_key_reuse"
        (listed,) = (await here.ask("GET", "/jobs")).body["jobs"]
        job = (await here.ask("GET", f"/jobs/{listed['id']}")).body
        assert (job["status"], job["error"]["code"]) == ("failed", "submission_unknown")
        assert len(target.requests) == 1


async def test_a_lost_answer_is_looked_for(tmp_path: Path) -> None:
    target = Gated()
    target.refuses = SubmissionUnknown("The answer was lost.")
    target.may_end.set()
    target.on_submit = lambda request: target.has.update(
        {request.job_id: RemoteRef(request.job_id, "there", {})}
    )
    async with front(tmp_path, target) as here:
        posted = await here.post()
        assert posted.status == 201
        assert (await here.ended(posted.body["id"]))["status"] == "succeeded"
        assert len(target.requests) == 1


async def test_what_may_arrive_yet_is_not_sent_again(tmp_path: Path) -> None:
    target = making("a.png")
    target.refuses = SubmissionUnknown("The answer was lost.")
    may_say = asyncio.Event()

    async def find(job_id: str) -> None:
        target.log.append("find")
        await may_say.wait()

    target.find = find  # type: ignore[method-assign]
    async with front(tmp_path, target, times=replace(QUICK, answered=0.05)) as here:
        posted = await here.post(key="k")
        assert (posted.status, posted.body["status"]) == (201, "queued")
        may_say.set()
        job = await here.ended(posted.body["id"])
        assert (job["status"], job["error"]["code"]) == ("failed", "submission_unknown")
        assert target.log.count("find") > 1
        assert (await here.post(key="k")).code == "idempotency_key_reuse"
        assert len(target.requests) == 1


# How it goes


async def test_a_job_has_succeeded_once_its_outputs_are_here(tmp_path: Path) -> None:
    target = Gated(OutputReady(output("early.png")), Progress(1, 2, "2", "SaveImage"))
    target.files["early.png"] = png()
    arriving = asyncio.Event()

    async def read(output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if output.filename == "a.png":
            await arriving.wait()
        yield png()[offset:]

    target.read = read  # type: ignore[method-assign]
    target.events[-1] = Finished(JobState.SUCCEEDED, outputs=(output("early.png"), output("a.png")))
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        other = URL(here.url).with_host("localhost")
        events = await here.http.get(
            here.url + f"/jobs/{job_id}/events", headers={"Host": other.authority}
        )

        async def now() -> dict[str, Any]:
            return (await here.ask("GET", f"/jobs/{job_id}")).body  # type: ignore[no-any-return]

        while not (job := await now())["outputs"]:
            await asyncio.sleep(0.01)
        assert [one["name"] for one in job["outputs"]] == ["early.png"]
        assert job["progress"]["current_node_class"] == "SaveImage"
        target.may_end.set()
        await until(lambda: here.record.get(job_id).state is JobState.SUCCEEDED)
        assert (await now())["status"] == "running"
        arriving.set()
        job = await here.ended(job_id)
        assert job["status"] == "succeeded"
        assert [one["name"] for one in job["outputs"]] == ["early.png", "a.png"]
        # Each listener gets the address that it reaches, whatever that was for whoever posted it.
        said = (await events.read()).decode()
        assert re.findall(r'"url":"([^"]*)"', said) == [
            one["url"].replace("127.0.0.1", "localhost") for one in job["outputs"]
        ]


async def test_large_outputs_leave_room_for_the_others(tmp_path: Path) -> None:
    slow = [f"slow{number}.png" for number in range(6)]
    target = making(*slow, "quick.png")
    target.events[-1] = Finished(
        JobState.SUCCEEDED,
        outputs=(*(output(name, size=2**30) for name in slow), output("quick.png", "9")),
    )
    begun: list[str] = []

    async def read(output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        begun.append(output.filename)
        if output.filename in slow:
            await asyncio.Event().wait()
        yield png()[offset:]

    target.read = read  # type: ignore[method-assign]
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: "quick.png" in begun)
        while not (job := (await here.ask("GET", f"/jobs/{job_id}")).body)["outputs"]:
            await asyncio.sleep(0.01)
        assert [one["name"] for one in job["outputs"]] == ["quick.png"]
        assert len(begun) == 5


async def test_outputs_that_are_gone_fail_a_job_or_are_said(tmp_path: Path) -> None:
    target = making("a.png", "b.png")
    target.files["b.png"] = OutputLost("It is gone.")
    async with front(tmp_path, target) as here:
        job = await here.ended((await here.post()).body["id"])
        assert job["status"] == "succeeded"
        assert [one["name"] for one in job["outputs"]] == ["a.png"]
        assert job["error"]["code"] == "output_lost"
        assert "b.png" in job["error"]["message"]
        target.files["a.png"] = OutputLost("It is gone.")
        failed = await here.ended((await here.post()).body["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "output_lost")
    async with front(tmp_path, target) as here:  # a restart says the same
        for before in (job, failed):
            after = (await here.ask("GET", f"/jobs/{before['id']}")).body
            for key in ("status", "error", "created_at", "completed_at", "expires_at"):
                assert after[key] == before[key]


async def test_a_file_that_two_nodes_name_is_an_output_of_both(tmp_path: Path) -> None:
    target = making("a.png")
    both = tuple(output("a.png", node_id) for node_id in ("1", "2"))
    target.events[-1] = Finished(JobState.SUCCEEDED, outputs=both)
    target.files["a.png"] = png() + bytes(200_000)
    async with front(tmp_path, target) as here:
        job = await here.ended((await here.post()).body["id"])
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert [one["node_id"] for one in job["outputs"]] == ["1", "2"]
        for one in job["outputs"]:
            assert await here.content(one) == target.files["a.png"]


async def test_a_file_for_which_there_is_never_room_is_not_waited_for(tmp_path: Path) -> None:
    target = making("a.png")
    target.events[-1] = Finished(
        JobState.SUCCEEDED, outputs=(output("a.png"), output("b.png", size=10**15))
    )
    async with front(tmp_path, target) as here:
        job = await here.ended((await here.post()).body["id"])
        assert (job["status"], [one["name"] for one in job["outputs"]]) == ("succeeded", ["a.png"])
        assert "b.png has" in job["error"]["message"]


async def test_a_target_that_is_away_is_asked_again(tmp_path: Path) -> None:
    target = making("a.png")
    target.events = [Started(), TargetUnreachable("away")]
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: target.log.count("follow") >= 3)
        assert (await here.ask("GET", f"/jobs/{job_id}")).body["status"] == "running"
        target.events = [Finished(JobState.SUCCEEDED, outputs=(output("a.png"),))]
        assert (await here.ended(job_id))["status"] == "succeeded"


async def test_how_a_node_failed_is_said(tmp_path: Path) -> None:
    error = ExecutionFailed(
        "It broke.", details={"node_id": "2", "node_class": "SaveImage", "traceback": ["a", "b"]}
    )
    target = FakeTarget([Started(), Finished(JobState.FAILED, error, (output("a.png"),))])
    target.files, target.stays_silent = {"a.png": png()}, False
    async with front(tmp_path, target) as here:
        job = await here.ended((await here.post()).body["id"])
        assert job["status"] == "failed"
        assert job["error"] == {
            "code": "node_execution_error",
            "message": "It broke.",
            "node_id": "2",
            "class_type": "SaveImage",
            "traceback": "ab",
        }
        assert [one["name"] for one in job["outputs"]] == ["a.png"]  # what it had saved


async def test_a_cap_is_a_402_in_its_words(tmp_path: Path) -> None:
    target = making("a.png")
    target.refuses = SpendingCap("This run may cost $2, which is over the cap of $1.")
    async with front(tmp_path, target) as here:
        answer = await here.post()
        assert (answer.status, answer.code) == (402, "insufficient_credits")
        assert "cap of $1" in answer.body["error"]["message"]


async def test_too_many_jobs_are_refused_for_now(tmp_path: Path) -> None:
    target = Gated()
    async with front(tmp_path, target, most_at_a_time=2) as here:
        ids = [(await here.post()).body["id"] for _ in range(2)]
        full = await here.post(key="k")
        assert (full.status, full.code) == (429, "queue_full")
        assert int(full.headers["Retry-After"]) >= 1
        target.may_end.set()
        for job_id in ids:
            await here.ended(job_id)
        await until(lambda: len(here.jobs) == 0)
        assert (await here.post(key="k")).status == 201


async def test_workflows_that_take_too_much_memory_together_are_refused_for_now(
    tmp_path: Path,
) -> None:
    target, note = Gated(), {"_meta": {"title": "x" * 4000}}
    workflow = {**PROMPT, "1": {**PROMPT["1"], **note}}
    async with front(tmp_path, target, most_bytes=10_000) as here:
        ids = [(await here.post(workflow)).body["id"] for _ in range(2)]
        full = await here.post(workflow, key="k")
        assert (full.status, full.code) == (429, "queue_full")
        ids.append((await here.post()).body["id"])
        target.may_end.set()
        for job_id in ids:
            await here.ended(job_id)
        await until(lambda: len(here.jobs) == 0)
        assert (await here.post(workflow, key="k")).status == 201


async def test_a_job_that_takes_long_to_send_is_answered_meanwhile(tmp_path: Path) -> None:
    target = Gated()
    target.may_answer.clear()
    async with front(tmp_path, target, times=replace(QUICK, answered=0.05)) as here:
        posted = await here.post()
        assert (posted.status, posted.body["status"]) == (201, "queued")
        target.may_answer.set()
        target.may_end.set()
        assert (await here.ended(posted.body["id"]))["status"] == "succeeded"


# Cancelling


@pytest.mark.parametrize("sent", [True, False])
async def test_a_cancel_reaches_a_job_also_while_it_is_sent(tmp_path: Path, sent: bool) -> None:
    target = Gated()
    if not sent:
        target.may_answer.clear()
    async with front(tmp_path, target, times=replace(QUICK, answered=0.05)) as here:
        job_id = (await here.post()).body["id"]
        for _ in range(2):
            said = await here.ask("POST", f"/jobs/{job_id}/cancel")
            assert (said.status, said.body["status"]) in [(200, "canceling"), (200, "canceled")]
        target.may_answer.set()
        job = await here.ended(job_id)
        assert (job["status"], job["error"]) == ("canceled", None)
        assert target.cancelled == [f"remote-{job_id}"]
        again = await here.ask("POST", f"/jobs/{job_id}/cancel")
        assert (again.status, again.body["status"]) == (200, "canceled")
        assert (await here.ask("POST", "/jobs/nothing/cancel")).code == "not_found"


async def test_a_cancel_outlives_the_front(tmp_path: Path) -> None:
    target = Gated()
    away = TargetUnreachable("away")

    async def cancel(ref: RemoteRef) -> None:
        raise away

    target.cancel = cancel  # type: ignore[method-assign]
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        assert (await here.ask("POST", f"/jobs/{job_id}/cancel")).body["status"] == "canceling"
    del target.cancel  # type: ignore[attr-defined]
    async with front(tmp_path, target) as here:
        assert (await here.ended(job_id))["status"] == "canceled"


# Lists


async def test_jobs_are_listed_by_labels_and_status_page_by_page(tmp_path: Path) -> None:
    target = making("a.png")
    async with front(tmp_path, target) as here:
        ids = []
        for number in range(5):
            posted = await here.post(metadata={"client": "acme", "odd": str(number % 2)})
            ids.append(posted.body["id"])
            await here.ended(ids[-1])

        async def listed(query: str) -> tuple[list[str], str | None]:
            page = (await here.ask("GET", f"/jobs?{query}")).body
            return [one["id"] for one in page["jobs"]], page["next_cursor"]

        assert await listed("") == (ids[::-1], None)
        assert await listed("metadata[odd]=1&metadata[client]=acme") == ([ids[3], ids[1]], None)
        assert await listed("status=failed,canceled") == ([], None)
        first, cursor = await listed("limit=2&status=succeeded")
        second, cursor = await listed(f"limit=2&cursor={cursor}")
        third, cursor = await listed(f"limit=2&cursor={cursor}")
        assert (first + second + third, cursor) == (ids[::-1], None)
        for query, code in [
            ("cursor=x", "invalid_cursor"),
            ("cursor=00000000-0000-4000-8000-000000000000", "invalid_cursor"),
            ("status=done", "invalid_request"),
            ("limit=0", "invalid_request"),
            ("metadata[a b]=1", "invalid_metadata_filter"),
        ]:
            assert (await here.ask("GET", f"/jobs?{query}")).code == code


# Retention and restarts


async def test_a_job_is_gone_when_it_has_expired(tmp_path: Path) -> None:
    later = 0.0
    async with front(tmp_path, making("a.png"), now=lambda: time.time() + later) as here:
        job = await here.ended((await here.post()).body["id"])
        completed, expires = (
            datetime.fromisoformat(job[f"{name}_at"].replace("Z", "+00:00"))
            for name in ("completed", "expires")
        )
        assert timedelta(days=1) <= expires - completed <= timedelta(days=1, minutes=10)
        content = job["outputs"][0]["url"].partition("/v2")[2]
        for seconds, status in ((86_300.0, 200), (87_100.0, 404)):
            later = seconds
            for path in ("", "/workflow", "/events"):
                assert (await here.ask("GET", f"/jobs/{job['id']}{path}")).status == status
            assert (await here.ask("GET", content)).status == status
        assert (await here.ask("GET", "/jobs")).body["jobs"] == []


async def test_a_job_that_ends_before_the_next_sweep_is_noted_in_the_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(tmp_path, making("a.png")) as here:
        monkeypatch.setattr(here.assets, "extend_job", None)  # calling it would fail the job
        job = await here.ended((await here.post()).body["id"])
        assert (job["status"], len(job["outputs"])) == ("succeeded", 1)


async def test_a_front_of_days_extends_and_forgets(tmp_path: Path) -> None:
    later = 0.0
    target, left_over = Gated(), tmp_path / "assets" / "outputs" / f"{uuid.uuid4()}.of-another"
    times = replace(QUICK, sweep=0.02)
    async with front(tmp_path, target, times=times, now=lambda: time.time() + later) as here:
        running = (await here.post()).body["id"]
        for later in (80_000.0, 160_000.0):  # noqa: B007 - the clock reads it
            left_over.touch()
            await until(lambda: not left_over.exists())
        target.may_end.set()
        assert (await here.ended(running))["status"] == "succeeded"  # what it needs has stayed
        later = 400_000.0
        await until(lambda: here.record.get(running).page is None)


@pytest.mark.parametrize("swept", [False, True])
async def test_a_machine_that_sleeps_for_longer_than_jobs_stay_loses_none(
    tmp_path: Path, swept: bool
) -> None:
    later = 0.0
    target = Gated(OutputReady(output("early.png")))
    target.files["early.png"] = png()
    target.events[-1] = Finished(JobState.SUCCEEDED, outputs=(output("early.png"), output("a.png")))
    async with front(tmp_path, target, now=lambda: time.time() + later) as here:
        job_id = (await here.post()).body["id"]
        while not (await here.ask("GET", f"/jobs/{job_id}")).body["outputs"]:
            await asyncio.sleep(0.01)
        later = 200_000.0
        if swept:
            await here.assets.sweep()
        target.may_end.set()
        job = await here.ended(job_id)
        assert job["status"] == "succeeded"
        assert [await here.content(one) for one in job["outputs"]] == [png(), png()]


async def test_a_restart_finds_sends_and_fetches_what_is_missing_once(tmp_path: Path) -> None:
    target = Gated()
    async with front(tmp_path, target, times=replace(QUICK, answered=0.05)) as here:
        running = (await here.post()).body["id"]
        target.may_answer.clear()
        unanswered = (await here.post()).body["id"]
        unsent = (await here.post()).body["id"]
        await until(lambda: {running, unanswered, unsent} <= target.has.keys())
    del target.has[unsent]
    target.may_answer.set()
    target.may_end.set()
    target.requests.clear()
    async with front(tmp_path, target) as here:
        for job_id in (unanswered, unsent, running):
            assert (await here.ended(job_id))["status"] == "succeeded"
    assert [request.job_id for request in target.requests] == [unsent]


async def test_a_job_of_a_target_that_has_no_name_any_more_is_waited_for(tmp_path: Path) -> None:
    target = Gated()
    target.name = "desk"
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: here.record.get(job_id).state is JobState.RUNNING)
    async with front(tmp_path, making("a.png")) as here:
        assert (await here.ask("GET", f"/jobs/{job_id}")).body["status"] == "running"
        assert (await here.ended((await here.post()).body["id"]))["status"] == "succeeded"
        assert here.record.get(job_id).state is JobState.RUNNING
    target.may_end.set()
    async with front(tmp_path, target) as here:
        assert (await here.ended(job_id))["status"] == "succeeded"


async def test_what_was_sent_twice_in_vain_is_not_sent_a_third_time(tmp_path: Path) -> None:
    target = Gated()
    target.may_answer.clear()
    quick = replace(QUICK, answered=0.05)
    async with front(tmp_path, target, times=quick) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: len(target.requests) == 1)
    for _ in range(2):
        target.has.clear()
        async with front(tmp_path, target, times=quick) as here:
            await until(lambda: len(target.requests) == 2)
            if not target.has:
                job = await here.ended(job_id)
    assert len(target.requests) == 2
    assert (job["status"], job["error"]["code"]) == ("failed", "output_lost")


async def test_outputs_of_an_ended_job_are_fetched_after_a_restart(tmp_path: Path) -> None:
    target = making("a.png", "b.png")
    whole = dict(target.files)
    target.files = {"a.png": png(), "b.png": TargetUnreachable("away")}
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: here.record.get(job_id).state is JobState.SUCCEEDED)
        await until(lambda: "b.png" in target.files_read)
        while len((await here.ask("GET", f"/jobs/{job_id}")).body["outputs"]) < 1:
            await asyncio.sleep(0.01)
    async with front(tmp_path, target) as here:  # it shows what is here, before it has the rest
        shown = (await here.ask("GET", f"/jobs/{job_id}")).body
        assert (shown["status"], [one["name"] for one in shown["outputs"]]) == (
            "running",
            ["a.png"],
        )
    target.files, target.files_read = whole, []
    async with front(tmp_path, target) as here:
        job = await here.ended(job_id)
        assert job["status"] == "succeeded"
        assert sorted(one["name"] for one in job["outputs"]) == ["a.png", "b.png"]
        assert target.files_read == ["b.png"]
    assert not list((tmp_path / "assets" / "outputs").glob("*-*"))


async def test_a_text_is_an_output_of_that_type(tmp_path: Path) -> None:
    target = making("a.png")
    texts = [
        RemoteOutput("2", "text", f"2_text_{number}.txt", text=text, key="text")
        for number, text in enumerate(["héllo", ""])
    ]
    target.events[-1] = Finished(JobState.SUCCEEDED, outputs=(output("a.png"), *texts))
    async with front(tmp_path, target) as here:
        job = await here.ended((await here.post()).body["id"])
        assert [one["type"] for one in job["outputs"]] == ["image", "text", "text"]
        contents = [await here.content(one) for one in job["outputs"][1:]]
        assert contents == ["héllo".encode(), b""]


async def test_what_a_terminal_has_fetched_is_fetched_for_the_client_too(tmp_path: Path) -> None:
    target = Gated()
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
    target.may_end.set()
    with Record(tmp_path / "home") as record:
        async with Client(target, record=record) as client:
            job = await client.resume(job_id)
            assert len(await job.save_outputs(tmp_path / "elsewhere")) == 1
    async with front(tmp_path, target) as here:
        ended = await here.ended(job_id)
        assert ended["status"] == "succeeded"
        assert await here.content(ended["outputs"][0]) == png()


async def test_a_route_sends_a_job_where_it_is_taken(tmp_path: Path) -> None:
    first, second = Server("first"), Server("second")
    first.fault = "unreachable"
    async with front(tmp_path, route_of([first, second])) as here:
        job_id = (await here.post()).body["id"]
        await until(lambda: job_id in second.jobs)
        second.put(job_id, "done")
        job = await here.ended(job_id)
        assert await here.content(job["outputs"][0]) == f"second:{job_id}".encode()
        entry = here.record.get(job_id)
        assert (entry.member, first.sent, second.sent) == ("second", [], [job_id])


async def test_a_stored_result_is_taken_instead_of_a_run(
    tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    configure(tmp_path / "home", 'cache = "use"\n')
    workflow = {**PROMPT, "1": {**PROMPT["1"], "inputs": {"width": 9, "height": 7}}}
    workflow["1"]["inputs"].update(batch_size=1, color=5)
    async with front(tmp_path, sandbox_url) as here:
        jobs = []
        for _ in range(2):
            jobs.append(await here.ended((await here.post(workflow)).body["id"]))
            await until(lambda: not len(here.jobs))  # its result is stored after its end is said
        assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
        first, second = (here.record.get(job["id"]).cached for job in jobs)
        assert first is None
        assert second is not None
        assert second["job"] == jobs[0]["id"]
        assert jobs[0]["outputs"][0]["hash"] == jobs[1]["outputs"][0]["hash"]


async def test_a_prompt_that_breaks_its_run_stops_no_other_on_the_sandbox(
    tmp_path: Path, sandbox_url: str
) -> None:
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    saved = {**PROMPT, "1": {"class_type": "EmptyImage", "inputs": size}}
    broken = {"class_type": "PreviewImage", "inputs": {"images": {"__value__": ["9999", 0]}}}
    async with front(tmp_path, sandbox_url) as here:
        ids = [(await here.post(one)).body["id"] for one in ({**saved, "3": broken}, saved)]
        jobs = [await here.ended(job_id) for job_id in ids]
        assert [job["status"] for job in jobs] == ["failed", "succeeded"]


async def test_two_fronts_have_two_names(tmp_path: Path) -> None:
    target = making("a.png")
    async with front(tmp_path, target):
        with pytest.raises(Exception, match="Another process serves"):
            async with front(tmp_path, target):
                pass


async def test_polls_of_a_job_ask_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Gated()
    async with front(tmp_path, target) as here:
        job_id = (await here.post()).body["id"]
        asked: list[str] = []
        for store in (here.record, here.assets._records):
            read = type(store)._read if hasattr(store, "_read") else type(store)._reading
            name = read.__name__

            def counted(self: Any, *args: Any, _read: Any = read, **more: Any) -> Any:
                asked.append(str(args))
                return _read(self, *args, **more)

            monkeypatch.setattr(type(store), name, counted)
        for _ in range(2):
            answers = await asyncio.gather(*(here.ask("GET", f"/jobs/{job_id}") for _ in range(50)))
            assert {answer.status for answer in answers} == {200}
            assert not asked
            target.may_end.set()
            await here.ended(job_id)
            asked.clear()
