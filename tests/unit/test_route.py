"""A route: who gets a job, what is written down before, and when it is sent on.

That no job runs twice is tested by `test_route_machine`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import until
from owner import configure
from route_kit import PROMPT, Server, ServerTarget, request_of, route_of

from comfy_remote import Client
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import (
    ConfigurationError,
    JobCancelled,
    LocalStorageError,
    NotTrusted,
    RateLimited,
    SpendingCap,
    SubmissionUnknown,
    TargetError,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import DidItRun, Finished, JobState, Log
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import JobFilter, Record
from comfy_remote.jobs.route_journal import RouteJournal
from comfy_remote.node_pack.trusted_targets import refuse_own_address, unconfirmed_address
from comfy_remote.schedule.money import Price
from comfy_remote.targets.base import Health, RemoteRef, if_unfollowed
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.kinds import MEMBER_KEY, kind_of, typed_target
from comfy_remote.targets.opening import open_target, reopen
from comfy_remote.targets.route.journal import Journal, MemoryJournal, Step, StepState, cooled_for
from comfy_remote.targets.route.member import RouteTimes
from comfy_remote.targets.route.target import RouteTarget
from comfy_remote.targets.runpod.kind import RunPodKind
from comfy_remote.workflow.schema import Schemas

LAN = '[targets.lan]\ntarget = "http://192.168.1.20:8188"\n'
GPU = '[targets.gpu]\ntarget = "runpod:abc"\n'
ANY = '[targets.any]\nroute = ["lan", "gpu"]\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def record(home: Path) -> Iterator[Record]:
    with Record(home) as made:
        yield made


@pytest.fixture
def servers() -> list[Server]:
    return [Server("lan"), Server("gpu"), Server("box")]


@pytest.fixture
async def client(servers: list[Server], record: Record) -> AsyncIterator[Client]:
    async with Client(route_of(servers), record=record, on_interrupt=None) as made:
        yield made


async def end_of(job: Job) -> tuple[Finished, list[str]]:
    """How it ended, and what was said on the way."""
    said = []
    async for event in job:
        if isinstance(event, Log):
            said.append(event.message)
    assert job.finished is not None
    return job.finished, said


# --- Sending, and going on ----------------------------------------------------------------


async def test_a_job_goes_to_the_first_that_can(
    client: Client, servers: list[Server], record: Record
) -> None:
    job = await client.submit({**PROMPT})
    lan = servers[0]
    entry = record.get(job.id)
    assert (entry.target, entry.member) == ("any", "lan")
    assert entry.ref is not None and entry.ref.details[MEMBER_KEY] == "lan"
    lan.put(job.id, "runs")
    lan.put(job.id, "done")
    end, said = await end_of(job)
    assert (end.state, said) == (JobState.SUCCEEDED, ["Sent to lan."])
    [output] = await job.outputs()
    assert output.text() == f"lan:{job.id}"
    assert [one.sent for one in servers] == [[job.id], [], []]
    assert [step.state for step in record.routes.steps(job.id)] == [StepState.ENDED]
    assert [one.id for one in record.newest(wanted=JobFilter(target="lan"))] == [job.id]


async def test_a_refusal_sends_it_on_and_is_said(
    client: Client, servers: list[Server], record: Record
) -> None:
    lan, gpu, _ = servers
    lan.fault = "refused"
    job = await client.submit({**PROMPT})
    gpu.put(job.id, "runs")
    gpu.put(job.id, "done")
    end, said = await end_of(job)
    assert end.details["member"] == "gpu"
    assert said == ["Sent to gpu: lan cannot be reached."]
    steps = record.routes.steps(job.id)
    assert [(s.member, s.state) for s in steps] == [
        ("lan", StepState.NEVER_ACCEPTED),
        ("gpu", StepState.ENDED),
    ]
    assert steps[1].decision[0] == {
        "member": "gpu",
        "able": True,
        "chosen": True,
        "why": [],
        "cost": 0.0,
        "seconds": None,
    }


@pytest.mark.parametrize("fault", ["lost", "vanished", "late"])
async def test_a_lost_answer_sends_it_nowhere_else(
    client: Client, servers: list[Server], record: Record, fault: str
) -> None:
    lan, gpu, _ = servers
    lan.fault = fault
    with pytest.raises(SubmissionUnknown) as caught:
        await client.submit({**PROMPT}, job_id="job-1")
    assert DidItRun.of(caught.value) is DidItRun.UNKNOWN
    assert gpu.sent == []
    assert record.get("job-1").state is JobState.QUEUED
    if fault == "lost":
        resumed = await client.resume("job-1")
        assert resumed.ref.details[MEMBER_KEY] == "lan"
    assert gpu.sent == []


async def test_a_job_that_is_given_up_goes_on_in_the_same_stream(
    client: Client, servers: list[Server], record: Record
) -> None:
    lan, gpu, _ = servers
    job = await client.submit({**PROMPT})
    gpu.while_sending = []
    lan.put(job.id, "withdrawn")

    async def finish() -> None:
        gpu.put(job.id, "runs")
        gpu.put(job.id, "done")

    gpu.while_sending.append(finish)  # as soon as it is there

    said = []
    async for event in job:
        if isinstance(event, Log):
            said.append(event.message)
            if len(said) == 2:
                await finish()
    assert said == ["Sent to lan.", "Sent to gpu: lan gave it up before it began."]
    assert job.finished is not None and job.finished.state is JobState.SUCCEEDED
    entry = record.get(job.id)
    assert entry.member == "gpu"
    assert entry.ref is not None and entry.ref.details[MEMBER_KEY] == "gpu"
    assert (lan.runs[job.id], gpu.runs[job.id]) == (0, 2)


@pytest.mark.parametrize(("state", "grade"), [("failed", "stopped"), ("stopped", "stopped")])
async def test_a_job_that_began_stays(
    client: Client, servers: list[Server], state: str, grade: str
) -> None:
    job = await client.submit({**PROMPT})
    servers[0].put(job.id, "runs")
    servers[0].put(job.id, state)
    end, _ = await end_of(job)
    assert end.did_it_run is DidItRun(grade)
    assert [one.sent for one in servers] == [[job.id], [], []]


async def test_nobody_takes_it(client: Client, servers: list[Server]) -> None:
    for server in servers:
        server.fault = "unreachable"
    servers[2].key = False
    with pytest.raises(TargetError) as caught:
        await client.submit({**PROMPT})
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert caught.value.message == (
        "No target of the route any can take the job: lan cannot be reached; "
        "gpu cannot be reached; box does not accept the key."
    )


async def test_what_all_refuse_for_one_reason_keeps_its_error(
    client: Client, servers: list[Server]
) -> None:
    for server in servers:
        server.fault = "unreachable"
    with pytest.raises(TargetUnreachable, match="lan unreachable"):
        await client.submit({**PROMPT})


async def test_a_workflow_that_is_refused_where_it_could_run_keeps_its_error(
    client: Client, servers: list[Server]
) -> None:
    servers[0].down = servers[1].down = True
    servers[2].fault = "invalid"
    with pytest.raises(WorkflowInvalid, match="box refused the workflow"):
        await client.submit({**PROMPT})


async def test_the_one_that_lacks_a_node_or_model_is_passed_over(
    client: Client, servers: list[Server]
) -> None:
    bundled = Schemas.bundled()
    all_of = {name: dict(bundled.document(name) or {}) for name in ("EmptyImage", "SaveImage")}
    servers[0].nodes = {"SaveImage": all_of["SaveImage"]}
    servers[1].nodes = {**all_of}
    job = await client.submit({**PROMPT})
    assert servers[1].sent == [job.id]
    servers[1].put(job.id, "failed")
    _, said = await end_of(job)
    assert said == ["Sent to gpu: lan does not have the node EmptyImage."]


async def test_a_member_that_failed_cools_down_and_comes_back(record: Record) -> None:
    now = 0.0
    servers = [Server("lan", down=True), Server("gpu")]
    journal = MemoryJournal(now=lambda: now)
    async with route_of(servers, journal) as target:
        await target.submit(request_of("1"))
        servers[0].down = False
        await target.submit(request_of("2"))
        assert servers[1].sent == ["1", "2"]  # lan cools down
        [step] = await journal.steps("2")
        cools = "lan could not be used before, and is tried last for another 15 s"
        assert step.why == f"Sent to gpu: {cools}."
        now = cooled_for(1) + 1
        await target.submit(request_of("3"))
        assert servers[0].sent == ["3"]
    assert [cooled_for(n) for n in (1, 2, 3, 9, 1000)] == [15, 30, 60, 600, 600]


async def test_one_that_cools_down_is_asked_where_no_other_can() -> None:
    servers = [Server("lan", fault="unreachable"), Server("gpu", down=True)]
    journal = MemoryJournal(now=lambda: 0.0)
    async with route_of(servers, journal) as target:
        with pytest.raises(TargetError):
            await target.submit(request_of("1"))
        await target.submit(request_of("2"))
    assert servers[0].sent == ["2"]


# --- Cancelling ---------------------------------------------------------------------------


async def test_a_cancelled_job_is_sent_nowhere(
    client: Client, servers: list[Server], record: Record
) -> None:
    job = await client.submit({**PROMPT})
    await job.cancel()
    end, _ = await end_of(job)
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.WITHDRAWN)
    assert [one.sent for one in servers] == [[job.id], [], []]
    assert record.get(job.id).state is JobState.CANCELLED


async def test_a_cancel_reaches_the_job_that_is_being_sent_on(
    client: Client, servers: list[Server], record: Record
) -> None:
    lan, gpu, _ = servers
    job = await client.submit({**PROMPT})
    lan.put(job.id, "withdrawn")
    other = route_of(servers, RouteJournal(record, Configuration.load))
    gpu.while_sending.append(lambda: other.cancel(job.ref))
    end, _ = await end_of(job)
    assert end.state is JobState.CANCELLED
    assert gpu.jobs[job.id] == "withdrawn"
    assert servers[2].sent == []


async def test_a_job_cancelled_before_it_is_sent_is_not_sent(servers: list[Server]) -> None:
    journal = MemoryJournal()
    await journal.cancel("job-1")
    async with route_of(servers, journal) as target:
        with pytest.raises(JobCancelled) as caught:
            await target.submit(request_of("job-1"))
    assert [one.sent for one in servers] == [[], [], []]
    assert DidItRun.of(caught.value) in (None, DidItRun.NEVER_ACCEPTED)


# --- Waiting ------------------------------------------------------------------------------


async def test_a_job_that_waits_too_long_is_taken_back_and_sent_on(record: Record) -> None:
    lan, gpu = Server("lan"), Server("gpu", down=True)
    route = route_of([lan, gpu], patience=0.01)
    async with Client(route, record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        gpu.down = False
        said = []
        async for event in job:
            if isinstance(event, Log):
                said.append(event.message)
                if event.message.startswith("Sent to gpu"):
                    gpu.put(job.id, "runs")
                    gpu.put(job.id, "done")
    assert (lan.jobs[job.id], gpu.runs[job.id], lan.runs[job.id]) == ("withdrawn", 1, 0)
    assert re.fullmatch("It has waited for .* at lan, and another could take it.", said[1])
    assert re.fullmatch("Sent to gpu: lan had it waiting for .*", said[2])


@pytest.mark.parametrize("other", [Health(0, 1, 0), None])
async def test_it_waits_where_no_other_could_begin_it(record: Record, other: Health | None) -> None:
    lan, gpu = Server("lan"), Server("gpu", down=other is None, health=other or Health(0, 0, 0))
    route = route_of([lan, gpu], patience=0.001)
    async with Client(route, record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        waiting = asyncio.ensure_future(job.wait())
        asked = gpu.asked
        await until(lambda: gpu.asked > asked + 1 or other is None)
        assert lan.jobs[job.id] == "waits"
        lan.put(job.id, "runs")
        lan.put(job.id, "done")
        assert (await waiting).state is JobState.SUCCEEDED
    assert gpu.sent == []


async def test_one_that_begins_as_it_is_taken_back_stays(record: Record) -> None:
    lan, gpu = Server("lan", obeys=False), Server("gpu")
    route = route_of([lan, gpu], patience=0.001)
    async with Client(route, record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        async for event in job:
            if isinstance(event, Log) and event.message.startswith("It has waited"):
                lan.put(job.id, "runs")
                lan.put(job.id, "done")
    assert job.state is JobState.SUCCEEDED
    assert (lan.runs[job.id], gpu.sent) == (1, [])


# --- Clients that end, and others that look -----------------------------------------------


async def test_another_program_only_looks(
    client: Client, servers: list[Server], record: Record
) -> None:
    lan, gpu, _ = servers
    job = await client.submit({**PROMPT})
    lan.put(job.id, "withdrawn")
    target = route_of(servers, look=True, times=RouteTimes())
    async with Client(target, record=record, on_interrupt=None) as looking:
        seen = await looking.resume(job.id)
        assert await seen.look() is JobState.QUEUED
    assert gpu.sent == []
    assert record.get(job.id).state is JobState.QUEUED


async def test_who_resumes_it_sends_it_on(servers: list[Server], record: Record) -> None:
    lan, gpu, _ = servers
    async with Client(route_of(servers), record=record, on_interrupt=None) as first:
        job = await first.submit({**PROMPT})
    lan.put(job.id, "withdrawn")
    async with Client(route_of(servers), record=record, on_interrupt=None) as second:
        resumed = await second.resume(job.id)
        async for event in resumed:
            if isinstance(event, Log):
                gpu.put(job.id, "runs")
                gpu.put(job.id, "done")
        assert [one.filename for one in await resumed.outputs()] == ["gpu.txt"]
    assert (lan.runs[job.id], gpu.runs[job.id]) == (0, 1)


async def test_a_job_outlives_its_member_s_place_in_the_route(
    servers: list[Server], record: Record
) -> None:
    lan, gpu, _ = servers
    async with Client(route_of(servers), record=record, on_interrupt=None) as first:
        job = await first.submit({**PROMPT})
    lan.put(job.id, "runs")
    lan.put(job.id, "done")
    async with Client(route_of([gpu]), record=record, on_interrupt=None) as second:
        resumed = await second.resume(job.id)
        with pytest.raises(SubmissionUnknown, match="does not name any more"):
            await resumed.wait()
    assert gpu.sent == []


# --- The journal -----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "record"])
def journal(request: pytest.FixtureRequest, record: Record) -> Journal:
    if request.param == "memory":
        memory = MemoryJournal()
        memory.keep(request_of("job-1"))
        return memory
    record.add("job-1", target="any", source="x.json", folder=None, prompt=PROMPT)
    return RouteJournal(record, Configuration.load)


async def begin(journal: Journal, step: Step) -> str:
    return await journal.begin(step, request_of(step.job_id), ServerTarget(Server(step.member)))


async def test_a_step_begins_once_and_only_behind_one_that_surely_did_not_run(
    journal: Journal,
) -> None:
    first = Step("job-1", 1, "lan", why="Sent to lan.", at=5.0, decision=[{"member": "lan"}])
    assert await begin(journal, replace(first, number=2)) == "taken"
    assert await begin(journal, first) == "begun"
    assert await begin(journal, first) == "taken"
    for state in (StepState.SENDING, StepState.ACCEPTED, StepState.UNKNOWN, StepState.ENDED):
        await journal.note(replace(first, state=state))
        assert await begin(journal, replace(first, number=2, member="gpu")) == "taken"
    ref = RemoteRef("job-1", "abc", {MEMBER_KEY: "lan"})
    withdrawn = replace(first, state=StepState.WITHDRAWN, ref=ref)
    await journal.note(withdrawn)
    second = replace(first, number=2, member="gpu")
    assert await begin(journal, second) == "begun"
    assert list(await journal.steps("job-1")) == [withdrawn, second]
    assert list(await journal.steps("job-2")) == []
    await journal.note(replace(second, state=StepState.NEVER_ACCEPTED))
    assert not await journal.cancelled("job-1")
    await journal.cancel("job-1")
    assert await journal.cancelled("job-1")
    assert await begin(journal, replace(first, number=3)) == "cancelled"
    request = await journal.request("job-1")
    assert request is not None and request.prompt == PROMPT


async def test_a_member_has_no_more_jobs_than_it_may(servers: list[Server], record: Record) -> None:
    route = route_of(servers[:2], at_most={"lan": 2})
    async with Client(route, record=record, on_interrupt=None) as client:
        await asyncio.gather(*(client.submit({**PROMPT}) for _ in range(5)))
    assert [len(server.sent) for server in servers] == [2, 3, 0]


async def test_members_that_are_full_refuse_for_now(servers: list[Server], record: Record) -> None:
    route = route_of(servers[:2], at_most={"lan": 1, "gpu": 1})
    async with Client(route, record=record, on_interrupt=None) as client:
        first = await client.submit({**PROMPT})
        await client.submit({**PROMPT})
        with pytest.raises(RateLimited, match="lan has 1 job of yours") as caught:
            await client.submit({**PROMPT})
        assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
        servers[0].put(first.id, "runs")
        servers[0].put(first.id, "done")
        await first.wait()
        await client.submit({**PROMPT})
    assert [len(server.sent) for server in servers] == [2, 1, 0]


async def test_members_cool_down(journal: Journal) -> None:
    await journal.failed("gpu")
    await journal.failed("gpu")
    past = await journal.past(["lan", "gpu"], PROMPT, learned=True)
    assert past["lan"].cooling == 0
    assert 25 < past["gpu"].cooling <= 30
    await journal.worked("gpu")
    assert (await journal.past(["gpu"], PROMPT, learned=False))["gpu"].cooling == 0


async def test_learned_times_belong_to_the_member(record: Record) -> None:
    journal = RouteJournal(record, Configuration.load)
    for number, (member, seconds) in enumerate([("lan", 9.0), ("gpu", 3.0), ("gpu", 3.0)]):
        job = f"job-{number}"
        record.add(job, target="any", source="x", folder=None, prompt=PROMPT)
        await begin(journal, Step(job, 1, member, at=1.0))
        record.state(job, JobState.SUCCEEDED, run_seconds=seconds)
    record.add("job-9", target="gpu", source="x", folder=None, prompt=PROMPT)
    past = await journal.past(["lan", "gpu", "box"], PROMPT, learned=True)
    assert [past[name].seconds for name in ("lan", "gpu", "box")] == [9.0, 3.0, None]
    assert [past[name].ours for name in ("lan", "gpu", "box")] == [0, 1, 0]
    assert past["gpu"].had_models and not past["lan"].had_models
    record.remove(["job-0"])
    assert record.routes.steps("job-0") == []


async def test_what_a_member_costs_is_asked_of_its_provider(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cheapest is known at the first run, and not only once each of them was used."""

    async def price(self: object, *_: object) -> Price:
        return Price(0.5, "RunPod", 1.0)

    monkeypatch.setattr(RunPodKind, "price", price)
    configuration = Configuration(None, {"gpu": TargetSettings("runpod:abc123xyz")})
    journal = RouteJournal(record, lambda: configuration)
    past = await journal.past(["gpu", "sandbox"], PROMPT, learned=True)
    assert past["gpu"].price == Price(0.5, "RunPod", 1.0)
    assert past["sandbox"].price is None


async def test_what_cannot_be_written_down_is_not_sent(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object, *_: object) -> None:
        raise LocalStorageError("The disk is full.")

    monkeypatch.setattr(MemoryJournal, "begin", full)
    async with route_of(servers) as target:
        with pytest.raises(LocalStorageError) as caught:
            await target.submit(request_of("job-1"))
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert [one.sent for one in servers] == [[], [], []]


# --- What it has --------------------------------------------------------------------------


async def test_what_its_members_have_together() -> None:
    choices: list[list[str]] = [["a.safetensors"], ["b.safetensors"]]
    servers = [
        Server(
            f"s{number}",
            nodes={
                "Load": {"input": {"required": {"model": [models]}}},
                f"Only{number}": {"input": {}},
            },
            health=Health(1, 2, 3, 4, 5),
        )
        for number, models in enumerate(choices)
    ]
    servers.append(Server("down", down=True))
    async with route_of(servers, at_most={"s0": 1}) as target:
        assert await target.health() == Health(2, 3, 6, 8, 10)
        nodes = (await target.describe()).nodes
        assert nodes is not None
        assert sorted(nodes) == ["Load", "Only0", "Only1"]
        loader = Schemas(nodes, "").get("Load")
        assert loader is not None
        assert loader.inputs[0].choices == ["a.safetensors", "b.safetensors"]
        assert not await target.has_input("on-s0.png")
        assert await target.models() == {}
        lost = if_unfollowed(target, PROMPT)
        assert lost is not None and "not sent on" in lost.message
    async with route_of(servers[2:]) as target:
        with pytest.raises(TargetUnreachable, match="down cannot be reached"):
            await target.health()


# --- Addresses, configuration and trust ---------------------------------------------------


def test_how_a_route_is_written(home: Path) -> None:
    configure(home, LAN + GPU + ANY + 'prefer = "price"\npatience = 60\nat_most = {lan = 2}\n')
    configuration = Configuration.load()
    environment = {"RUNPOD_API_KEY": "planted-key-0123456789"}
    assert configuration.targets["any"].target == "route:lan,gpu"
    for name in ("any", "route:lan,gpu", "route:lan , gpu"):
        target = open_target(name, configuration, environment)
        assert isinstance(target, RouteTarget)
    configured = open_target("any", configuration, environment)
    assert isinstance(configured, RouteTarget)
    assert (configured.options.prefer, configured.options.patience) == ("price", 60)
    assert configured.options.at_most == {"lan": 2}
    assert typed_target("route:lan,https://api.runpod.ai/v2/abc/run") == "route:lan,runpod:abc"
    assert configuration.billing_of("any") == "by run"
    assert configuration.billing_of("route:lan") is None
    kind = kind_of("route:8188")
    assert kind is not None and kind.name == "comfyui"  # a host of that name


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ('["lan", "gqu"]', "'any' in .*comfy-remote.toml names 'gqu', which is not a target.*gpu"),
        ('["lan", "other"]', "names 'other', which is a route itself"),
        ('["route:lan"]', "a route itself"),
    ],
)
def test_a_route_names_targets_and_no_routes(home: Path, route: str, words: str) -> None:
    configure(home, f'{LAN}{GPU}[targets.other]\nroute = ["lan"]\n[targets.any]\nroute = {route}')
    with pytest.raises(ConfigurationError, match=words):
        open_target("any", Configuration.load(), {})


async def test_a_member_without_its_key_is_skipped(home: Path, record: Record) -> None:
    configure(home, GPU + "[targets.any]\nroute = ['gpu']\n")
    target = open_target("any", Configuration.load(), {})
    assert isinstance(target, RouteTarget)
    async with Client(target, record=record, on_interrupt=None) as client:
        with pytest.raises(TargetError, match="gpu cannot be used: There is no RunPod API key"):
            await client.submit({**PROMPT})


def _folder(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "comfy-remote.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_s_route_chooses_among_the_owner_s_targets(home: Path, tmp_path: Path) -> None:
    configure(home, LAN + GPU)
    folder = _folder(tmp_path, 'default = "any"\n' + ANY)
    configuration = Configuration.load(folder)
    assert configuration.untrusted is None
    assert configuration.chosen_default() == "any"


@pytest.mark.parametrize(
    "text",
    [
        '[targets.any]\nroute = ["lan", "http://thief.example:8188"]',  # an address
        '[targets.any]\nroute = ["runpod:thief"]',  # somebody's account
        '[targets.any]\nroute = ["lan", "theirs"]\n[targets.theirs]\ntarget = "http://thief:8188"',
        '[targets.gpu]\nroute = ["lan"]',  # what --on gpu means
    ],
)
def test_a_folder_s_route_to_elsewhere_needs_a_yes(home: Path, tmp_path: Path, text: str) -> None:
    configure(home, LAN + GPU)
    folder = _folder(tmp_path, text)
    configuration = Configuration.load(folder)
    untrusted = configuration.untrusted
    assert untrusted is not None
    environment = {"RUNPOD_API_KEY": "planted-key-0123456789"}
    if "targets.gpu" in text:
        assert configuration.targets["gpu"].target == "runpod:abc"
    else:
        with pytest.raises(NotTrusted):
            open_target("any", configuration, environment)
    if "runpod:thief" in text:
        assert untrusted.named == (
            '[targets.any] target = "route:runpod:thief" (sends RUNPOD_API_KEY)',
        )
    TrustStore(home).trust(folder / "comfy-remote.toml", untrusted.named)
    assert Configuration.load(folder).untrusted is None


def test_a_page_names_no_address_by_a_route(home: Path) -> None:
    configure(home, LAN)
    configuration = Configuration.load()
    assert unconfirmed_address("route:lan", configuration) is None
    thief = "http://thief.example:8188"
    assert unconfirmed_address(f"route:lan,{thief}", configuration) == thief


def test_no_node_waits_for_its_own_comfyui_by_a_route(home: Path) -> None:
    own = "http://127.0.0.1:8188"
    configure(home, LAN)
    for address, port in ((f"route:lan,{own}", 8188), (own, 8188)):
        with pytest.raises(ConfigurationError, match="is this ComfyUI"):
            refuse_own_address(open_target(address, Configuration.load(), {}), port)
    refuse_own_address(open_target(f"route:lan,{own}", Configuration.load(), {}), 8189)


# --- Found again --------------------------------------------------------------------------

REF = RemoteRef("1", "1", {"url": "http://192.168.1.20:8188", MEMBER_KEY: "lan"})


def test_a_job_is_found_by_the_route_while_there_is_one(home: Path) -> None:
    configure(home, LAN + ANY.replace('"gpu"', '"http://box:8188"'))
    assert isinstance(reopen("any", REF, {}), RouteTarget)
    assert isinstance(reopen("any", None, {}), RouteTarget)
    assert isinstance(reopen("route:lan", REF, {}), RouteTarget)


@pytest.mark.parametrize("text", ["", LAN, '[targets.any]\ntarget = "http://box:8188"\n'])
def test_a_job_is_found_where_it_is_when_the_route_is_gone(home: Path, text: str) -> None:
    configure(home, text)
    target = reopen("any", REF, {})
    assert isinstance(target, ComfyUITarget)
    assert target.url == "http://192.168.1.20:8188"


def test_a_member_that_means_another_server_now_is_asked_where_the_job_is(home: Path) -> None:
    configure(home, '[targets.lan]\ntarget = "http://new:8188"\n[targets.any]\nroute = ["lan"]\n')
    target = reopen("any", REF, {})
    assert isinstance(target, RouteTarget)
    _, there = target.located(REF)
    assert isinstance(there, ComfyUITarget)
    assert there.url == "http://192.168.1.20:8188"


# --- What it costs ------------------------------------------------------------------------

PRICED = """
[targets.lan]
target = "runpod:abc"
price_per_hour = 3600.0
cap_per_job = {lan}

[targets.gpu]
target = "runpod:xyz"
price_per_hour = 0.36
cap_per_job = {gpu}
"""


async def test_a_member_whose_cap_is_met_is_passed_over(
    home: Path, servers: list[Server], record: Record
) -> None:
    configure(home, PRICED.format(lan=1, gpu=5))
    lan, gpu, _ = servers
    async with Client(route_of(servers), record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        booking = record.ledger.of(job.id)
        assert booking is not None
        assert (booking.target, booking.reserved) == ("gpu", pytest.approx(0.06))
        gpu.put(job.id, "runs")
        gpu.put(job.id, "done")
        _, said = await end_of(job)
    assert lan.sent == []
    [sentence] = said
    assert sentence.startswith("Sent to gpu: lan is over a cap (This run may cost $600.00 on lan")


async def test_what_is_reserved_follows_the_job(
    home: Path, servers: list[Server], record: Record
) -> None:
    configure(home, PRICED.format(lan=1000, gpu=5))
    lan, gpu, _ = servers
    async with Client(route_of(servers), record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        booking = record.ledger.of(job.id)
        assert booking is not None and booking.target == "lan"
        lan.put(job.id, "withdrawn")
        async for event in job:
            if isinstance(event, Log) and event.message.startswith("Sent to gpu"):
                gpu.put(job.id, "runs")
                gpu.put(job.id, "done")
        await record.written()
        [spent] = record.ledger.spent(0.0)
        assert (spent.runs, spent.amount < 0.1) == (1, True)


async def test_a_run_that_went_on_to_one_s_own_machine_costs_nothing(
    home: Path, servers: list[Server], record: Record
) -> None:
    configure(home, PRICED.format(lan=1000, gpu=5))
    lan, _, box = servers
    async with Client(route_of([lan, box]), record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        lan.put(job.id, "withdrawn")
        async for event in job:
            if isinstance(event, Log) and event.message.startswith("Sent to box"):
                box.put(job.id, "runs")
                box.put(job.id, "done")
        await record.written()
    assert record.get(job.id).state is JobState.SUCCEEDED
    assert record.ledger.spent(0.0) == []


async def test_one_that_falls_silent_cools_down(servers: list[Server], record: Record) -> None:
    lan, gpu, _ = servers
    async with Client(route_of(servers), record=record, on_interrupt=None) as client:
        job = await client.submit({**PROMPT})
        lan.down = True
        with pytest.raises(TargetUnreachable):
            await job.wait()
        lan.down = False
        await client.submit({**PROMPT})
    assert [len(lan.sent), len(gpu.sent)] == [1, 1]


async def test_no_member_within_its_cap(home: Path, servers: list[Server], record: Record) -> None:
    configure(home, PRICED.format(lan=1, gpu=0.01))
    async with Client(route_of(servers[:2]), record=record, on_interrupt=None) as client:
        with pytest.raises(SpendingCap) as caught:
            await client.submit({**PROMPT}, job_id="job-1")
        assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
        job = await client.submit({**PROMPT}, over_cap=True)
        assert servers[0].sent == [job.id]
