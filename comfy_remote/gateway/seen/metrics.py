"""What is counted of one gateway, for Prometheus.

Counters begin at 0 with each start of the gateway, which Prometheus expects of them. All labels
have a bounded number of values, whatever clients and workers call themselves.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable

from ...errors import error_codes
from ...version import __version__
from ..queue_events import (
    JobAccepted,
    JobEnded,
    JobPutBack,
    JobRepeated,
    JobStarted,
    QueueEvent,
)
from ..workers import WorkerState
from .exposition import OTHER, Counter, Family, Histogram, exposition, gauge
from .state import GatewayState

__all__ = ["Metrics"]

_WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_RUNS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)


class Metrics:
    """The counters of one gateway. A watch of its queue (`queue_events`)."""

    def __init__(self) -> None:
        self._began = time.time()
        self._codes = error_codes()
        self._accepted = Counter(
            "comfy_remote_jobs_accepted_total", "Jobs put into the line, retries by clients too."
        )
        self._started = Counter(
            "comfy_remote_jobs_started_total", "Starts of jobs, repeated ones too."
        )
        self._finished = Counter(
            "comfy_remote_jobs_finished_total",
            "Jobs that have ended, by state and by the error's code.",
            ("state", "code"),
        )
        self._repeated = Counter(
            "comfy_remote_jobs_repeated_total",
            "Jobs that wait again because their attempt is proven dead.",
        )
        self._put_back = Counter(
            "comfy_remote_jobs_put_back_total",
            "Jobs that wait again because they did not reach their worker, or it gave them back.",
        )
        self._gpu_seconds = Counter(
            "comfy_remote_gpu_seconds_total", "Seconds that a worker had a job.", ("worker",)
        )
        self._waits = Histogram(
            "comfy_remote_job_wait_seconds", "Seconds that a job waited for its start.", _WAITS
        )
        self._runs = Histogram(
            "comfy_remote_job_run_seconds", "Seconds that a job ran until it ended.", _RUNS
        )

    def __call__(self, event: QueueEvent) -> None:
        """Count what happens."""
        if isinstance(event, JobAccepted):
            self._accepted.add()
        elif isinstance(event, JobStarted):
            job = event.job
            self._started.add()
            self._waits.add(max(0.0, (job.started or job.queued) - job.queued))
        elif isinstance(event, JobEnded):
            job = event.job
            self._finished.add(job.state.value.lower(), self._bounded(job.ending.code))
            if job.started is not None and job.finished is not None:
                ran = max(0.0, job.finished - job.started)
                self._runs.add(ran)
                self._gpu_seconds.add(job.worker_id or OTHER, amount=ran)
        elif isinstance(event, (JobPutBack, JobRepeated)):
            (self._put_back if isinstance(event, JobPutBack) else self._repeated).add()
            self._gpu_seconds.add(event.worker_id, amount=max(0.0, event.ran))

    def scrape(self, state: GatewayState) -> bytes:
        """All metrics, in Prometheus' text format."""
        return exposition(self._families(state))

    def _families(self, state: GatewayState) -> Iterable[Family]:
        now, waiting, running = state.now, state.waiting, state.running
        workers = Tally(worker.state for worker in state.workers)
        yield gauge(
            "comfy_remote_info",
            "The gateway's version, and the id of its endpoint.",
            {(("version", __version__), ("endpoint", state.endpoint)): 1},
        )
        yield gauge(
            "comfy_remote_start_time_seconds", "When the gateway began, in Unix time.", self._began
        )
        yield gauge("comfy_remote_jobs_waiting", "Jobs that wait.", len(waiting))
        yield gauge(
            "comfy_remote_jobs_waiting_limit", "How many may wait.", state.limits.queued_jobs
        )
        yield gauge("comfy_remote_jobs_running", "Jobs that run.", len(running))
        yield gauge(
            "comfy_remote_oldest_waiting_seconds",
            "How long the job that has waited longest has waited.",
            max((now - job.queued for job in waiting), default=0.0),
        )
        yield gauge(
            "comfy_remote_workers",
            "Workers, by what they do.",
            {(("state", each.value),): workers[each] for each in WorkerState},
        )
        yield self._accepted.family()
        yield self._started.family()
        yield self._finished.family()
        yield self._repeated.family()
        yield self._put_back.family()
        yield self._waits.family()
        yield self._runs.family()
        so_far: dict[tuple[str, ...], float] = {}
        for job in running:
            worker = (job.worker_id or OTHER,)
            so_far[worker] = so_far.get(worker, 0.0) + max(0.0, now - (job.started or now))
        yield self._gpu_seconds.family(so_far)
        yield gauge(
            "comfy_remote_store_bytes",
            "Bytes of inputs, results and outputs on the disk.",
            state.store_bytes,
        )
        yield gauge(
            "comfy_remote_store_limit_bytes", "How many there may be.", state.limits.store_bytes
        )
        yield gauge(
            "comfy_remote_disk_free_bytes", "Bytes free on the gateway's disk.", state.disk_free
        )

    def _bounded(self, code: str) -> str:
        return code if not code or code in self._codes else OTHER
