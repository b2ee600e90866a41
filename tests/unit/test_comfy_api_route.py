"""Servers with Comfy's API as members of a route: a job moves on by what is certain, only."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fake_comfy_api import JOBS, LIST, PROMPT, FakeComfyApi, refusal
from route_kit import QUICK
from scripted_server import Answer, drop

from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import SubmissionUnknown
from comfy_remote.net.retry import Backoff
from comfy_remote.targets.base import RunRequest, Target, TellsWhatRuns, located
from comfy_remote.targets.comfy_api.target import ComfyApiTarget, ComfyApiTimes
from comfy_remote.targets.kinds import Member, kind_of
from comfy_remote.targets.route.member import OpenMember
from comfy_remote.targets.route.members import RouteOptions
from comfy_remote.targets.route.target import RouteTarget

ID = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
async def first() -> AsyncIterator[FakeComfyApi]:
    async with FakeComfyApi() as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[FakeComfyApi]:
    async with FakeComfyApi() as server:
        yield server


def member(server: FakeComfyApi) -> OpenMember:
    settings = TargetSettings(f"comfy:{server.url}")
    kind = kind_of(settings.target)
    assert kind is not None
    times = ComfyApiTimes(search=0.05, between=0.01, full=Backoff(attempts=2, first=0.0))
    target = ComfyApiTarget(server.url, name=settings.target, times=times)
    made = Member(settings.target, settings, kind, False, lambda: target)
    return OpenMember(made, target, "", QUICK)


@pytest.fixture
async def route(first: FakeComfyApi, second: FakeComfyApi) -> AsyncIterator[Target]:
    members = [member(first), member(second)]
    async with RouteTarget("any", members, RouteOptions("order"), times=QUICK) as target:
        yield target


async def test_a_job_that_is_refused_goes_to_the_next(
    first: FakeComfyApi, second: FakeComfyApi, route: Target
) -> None:
    first.on(JOBS, refusal(422, "deployment_stopped"))
    ref = await route.submit(RunRequest(ID, PROMPT))
    assert located(route, ref)[1].name == f"comfy:{second.url}"
    assert (first.count(JOBS), second.count(JOBS)) == (1, 1)


async def test_a_job_whose_answer_is_lost_goes_nowhere_else(
    first: FakeComfyApi, second: FakeComfyApi, route: Target
) -> None:
    """Its key is used, and the server lists no jobs: nobody knows whether it runs."""
    first.on(JOBS, drop, refusal(422, "idempotency_key_reuse"))
    first.on(LIST, refusal(501, "not_implemented"))
    with pytest.raises(SubmissionUnknown):
        await route.submit(RunRequest(ID, PROMPT))
    assert second.count(JOBS) == 0


@pytest.mark.parametrize(
    "error",
    [
        {"code": "idempotency_key_reuse", "message": "used", "details": ["x"]},
        {"code": "idempotency_key_reuse", "message": None},
        {"code": "idempotency_key_reuse", "message": "x" * 5_000_000},
        "idempotency_key_reuse",
    ],
)
async def test_a_used_key_is_known_in_any_form(
    first: FakeComfyApi, second: FakeComfyApi, route: Target, error: object
) -> None:
    """It counted as a refusal, and the job ran at the next as well."""
    first.on(JOBS, Answer({"error": error}, 422))
    first.on(LIST, refusal(501, "not_implemented"))
    with pytest.raises(SubmissionUnknown):
        await route.submit(RunRequest(ID, PROMPT))
    assert second.count(JOBS) == 0


async def test_its_results_are_not_cached(route: Target) -> None:
    """It does not say what computes them."""
    assert not isinstance(
        located(route, await route.submit(RunRequest(ID, PROMPT)))[1], TellsWhatRuns
    )
