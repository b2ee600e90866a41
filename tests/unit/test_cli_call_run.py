"""``comfy-remote call`` of a service that is stopped half way: the call shall not run on there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from scripted_server import Answer, ScriptedServer
from test_node_pack_node_run import PROMPT, Cancellable

from comfy_remote.calls.rest import RestClient
from comfy_remote.calls.service import ServiceCall
from comfy_remote.calls.target import TargetCall
from comfy_remote.calls.workflow import CallableWorkflow
from comfy_remote.cli.call_run import follow_service, start_job
from comfy_remote.cli.reporter import JsonReporter
from comfy_remote.errors import JobCancelled
from comfy_remote.events import JobState, Started
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.interruption import Patience
from comfy_remote.jobs.record import Record
from comfy_remote.workflow.prompt import Node


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("DELETE /7", Answer({"status": "failed"}))
        yield server


@pytest.mark.parametrize("taken", [True, False])
async def test_one_that_was_not_answered_yet_is_cancelled(
    server: ScriptedServer, taken: bool, tmp_path: Path
) -> None:
    async def answered_late(_request: web.Request) -> web.StreamResponse:
        await (interrupted if taken else asyncio.Event()).wait()
        return Answer({"status": "running", "poll_url": "/7"}).response()

    interrupted = asyncio.Event()
    server.on("POST /", answered_late)
    patience = Patience(submit=60.0 if taken else 0.5)
    async with RestClient(server.url) as client:
        call = ServiceCall(client, {"prompt": "a cat"}, patience=patience)
        following = follow_service(call, server.url, JsonReporter(), tmp_path)
        task = asyncio.create_task(following)
        while not server.asked:
            await asyncio.sleep(0.02)
        task.cancel()
        interrupted.set()
        with pytest.raises(JobCancelled, match="was cancelled" if taken else "may have it"):
            await task
    assert server.count("DELETE /7") == taken


async def test_a_workflow_that_is_interrupted_while_it_is_submitted_is_cancelled(
    tmp_path: Path,
) -> None:
    target = Cancellable([Started()])
    target.slow_submit = 0.5
    node: Node = {"class_type": "ComfyRemoteOutput", "inputs": {"value": ["1", 0], "key": "x"}}
    workflow = CallableWorkflow.of_prompt({"1": PROMPT["1"], "2": node})
    with Record(tmp_path) as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            call = TargetCall(client, workflow, {})
            task = asyncio.create_task(start_job(call))
            await target.submitting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert record.get(call.job.id).state is JobState.CANCELLED
    assert target.log.count("submit") == target.log.count("cancel") == 1
