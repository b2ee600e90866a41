"""What a client asks of a gateway besides the job itself: not twice, in front, whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import until
from joined_kit import Cluster, cluster
from serve_kit import picture, slow

from comfy_remote.config.installation import installation_id
from comfy_remote.errors import EngineCrashed
from comfy_remote.events import Log
from comfy_remote.gateway import GatewayServer
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.runpod.kind import EndpointOptions
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.wire.runpod import RunPodState

__all__ = ["cluster"]


@pytest.mark.parametrize(
    ("flags", "status"), [((), 0), (("--no-retry-lost",), EngineCrashed.exit_status)]
)
def test_a_run_says_that_its_job_was_started_again_or_has_it_fail(
    cluster: Cluster, tmp_path: Path, flags: tuple[str, ...], status: int
) -> None:
    cluster.serve()
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(slow(3)))
    worker = cluster.worker("attic")
    run = cluster.command(
        *("run", str(workflow), "--on", "runpod:local", "-o", str(tmp_path / "out"), *flags),
        RUNPOD_ENDPOINT_BASE_URL=f"http://127.0.0.1:{cluster.port}/v2",
    )
    run.says("Running.")
    worker.kill()
    cluster.worker("attic")
    assert run.ended(90) == status, run.text
    assert run.text.count("The job was started again (attempt 2)") == (0 if flags else 1), run.text


async def test_a_job_in_front_is_taken_before_the_clients_others(tmp_path: Path) -> None:
    taken: list[str] = []

    async def handler(job_id: str, payload: object, report: object) -> dict[str, object]:
        taken.append(job_id)
        return {"format": "comfy-remote/1", "status": "success", "outputs": []}

    ids = [f"{number}1111111-2222-4333-8444-555555555555" for number in range(3)]
    options = EndpointOptions(home=tmp_path)
    async with (
        GatewayServer(endpoint_id="ep") as gateway,
        RunPodTarget("ep", base_url=gateway.url, options=options) as target,
    ):
        refs = [
            await target.submit(RunRequest(job_id, picture(), front=number == 2))
            for number, job_id in enumerate(ids)
        ]
        jobs = [await gateway.queue.get(ref.remote_id) for ref in refs]
        assert {job.client for job in jobs} == {installation_id(tmp_path)}
        gateway.add_local_worker(handler)  # type: ignore[arg-type]
        await until(lambda: all(job.state is RunPodState.COMPLETED for job in jobs))
        said = [event async for event in target.follow(refs[2], picture())]
    assert taken == [refs[2].remote_id, refs[0].remote_id, refs[1].remote_id]
    assert not [event for event in said if isinstance(event, Log)]
