"""Jobs and gateways as those who watch a gateway see them."""

from __future__ import annotations

from comfy_remote.gateway.job import Ending, Job
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.seen.state import GatewayState
from comfy_remote.gateway.workers import Worker, WorkerKind
from comfy_remote.wire.runpod import RunPodState

__all__ = ["a_job", "a_state", "a_worker", "that_ran"]


def a_job(job_id: str = "a", **more: object) -> Job:
    times = {"created": 0.0, "expires": 1e9, "execution_timeout": 1e9, "retention": 60.0}
    return Job(**{"id": job_id, "result_limit": 10, **times, **more})


def that_ran(worker: str, seconds: float, state: RunPodState, code: str = "") -> Job:
    return a_job(
        worker_id=worker, started=10.0, finished=10.0 + seconds, state=state, ending=Ending(code)
    )


def a_worker(worker_id: str = "w", **more: object) -> Worker:
    facts = {"kind": WorkerKind.JOINED, "boot": "", "seen": 990.0, "idle_since": 995.0}
    return Worker(**{"id": worker_id, "ready": True, **facts, **more})


def a_state(**more: object) -> GatewayState:
    facts = {
        "endpoint": "desk",
        "now": 100.0,
        "limits": GatewayLimits(),
        "waiting": [],
        "running": [],
        "workers": [],
        "why": lambda _job: "",
        "completed": 0,
        "failed": 0,
        "retried": 0,
        "store_bytes": 0,
        "disk_free": 0,
    }
    return GatewayState(**{**facts, **more})
