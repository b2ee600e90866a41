"""The real RunPod SDK as a worker: a process in production mode, pointed at this gateway."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

from ..aio import first_of
from ..errors import ConfigurationError, EngineCrashed
from ..net.retry import Backoff
from ..targets.launch import own_module
from ..worker.choice import is_url
from ..worker.process import ChildProcess
from .earlier_process import start_of
from .moves import may_go_on
from .queue import JobQueue
from .workers import WorkerKind

__all__ = ["SdkWorker", "worker_command"]

_log = logging.getLogger(__name__)
# A worker that lived longer did not die young.
_LIVED = 60.0


def worker_command(*arguments: str) -> list[str]:
    """The command of our own worker, which ends when this process does.

    Args:
        arguments: For `worker.runpod_entry`, for example ``--engine sandbox``.
    """
    module = own_module("worker.runpod_entry")
    return [sys.executable, *module, "--parent-pid", str(os.getpid()), *arguments]


class SdkWorker:
    """Keeps one worker process running.

    The process gets this one's environment without its ``RUNPOD_*`` variables (they may hold
    the account's key), those that the SDK reads, and ``COMFY_REMOTE_STORE_URL``, below which it
    may ``PUT {job id}/{sha256}`` with the key of ``RUNPOD_AI_API_KEY``. Its output goes to the
    logger of this module, a line a record.

    Args:
        queue: Learns when the process dies.
        endpoint_url: ``http://127.0.0.1:PORT/v2/ENDPOINT``, as the process reaches it.
        command: What to start; see `worker_command`.
        grace: Seconds between asking it to end and ending it.
        backoff: How long it waits before a restart, by how often the process died young.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        endpoint_url: str,
        endpoint_id: str,
        token: SecretStr,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        grace: float = 10.0,
        backoff: Backoff = Backoff(first=0.5, longest=30.0),  # noqa: B008 - frozen
    ) -> None:
        self._queue = queue
        self._endpoint_url = endpoint_url
        self._endpoint_id = endpoint_id
        self._token = token
        self._command = list(command)
        # What its ComfyUI may go on with when it has ended is never given to another.
        self._attached = any(map(is_url, command))
        self._environment = dict(environment or {})
        self._grace = grace
        self._backoff = backoff
        self._was_ready = False
        self._last_words = "it said nothing."

    async def run(self) -> None:
        """Run the process, and run it again when it dies, until cancelled.

        Raises:
            ConfigurationError: It cannot be started, or says by its exit status that a setting
                is wrong: it would be no better the next time.
            EngineCrashed: The first one ended with an error before it asked for jobs.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            status, asked = await self._run_once()
            if status == ConfigurationError.exit_status:
                raise ConfigurationError(
                    f"The worker could not start: {self._last_words}",
                    advice="Its log, above, may say more.",
                )
            if status > 0 and not self._was_ready:
                raise EngineCrashed(
                    f"The worker ended (status {status}) before it asked for jobs: "
                    f"{self._last_words}",
                    advice="Its log, above, may say more. No job was taken.",
                    details={"status": status},
                )
            if status == 0 and asked:
                # It has ended by itself, to make room for a fresh one (`REFRESH_WORKER`).
                failures = 0
                continue
            failures = 1 if loop.time() - began > _LIVED else failures + 1
            await asyncio.sleep(self._backoff.seconds(failures))

    async def _run_once(self) -> tuple[int, bool]:
        """Its exit status, and whether it had asked for a job."""
        # A new id each time: what a dead worker's leftovers still send is not taken as its
        # successor's.
        worker_id = uuid.uuid4().hex[:16]
        process = ChildProcess(
            "worker", self._command, environ=self._environment_of(worker_id), on_line=self._on_line
        )
        _log.info("Worker %s started (process %d).", worker_id, process.pid)
        start = await asyncio.to_thread(start_of, process.pid)
        kind = WorkerKind.URL if self._attached else WorkerKind.SDK
        boot = f"{kind.value}:{process.pid}:{start}"
        self._queue.workers.register(worker_id, kind, boot)
        try:
            status = await self._end_of(process, worker_id)
            worker = self._queue.workers.get(worker_id)
            asked = worker is not None and worker.ready
            self._was_ready = self._was_ready or asked
            _log.warning("Worker %s ended with status %d.", worker_id, status)
            died = EngineCrashed(
                f"The worker process ended (status {status}) while the job ran.",
                advice="The gateway's log says more. A worker may run out of memory, for example.",
                details={"status": status},
            )
            if self._attached:
                died.message += " The ComfyUI that it used may still be running the job."
                self._queue.fail_jobs_of(worker_id, died)
            else:
                self._queue.worker_is_gone(worker_id, died)
            return status, asked
        finally:
            # In a thread, since it waits; shielded, so that a second Ctrl-C leaves no process.
            await asyncio.shield(asyncio.to_thread(process.stop, self._grace))
            if self._attached:
                self._queue.fail_jobs_of(worker_id, may_go_on("The gateway was stopped"))
            else:
                self._queue.worker_has_stopped(worker_id, "The gateway was stopped.")

    async def _end_of(self, process: ChildProcess, worker_id: str) -> int:
        """Its exit status. One that has long been silent is ended: it hangs."""
        silence = self._queue.workers.wait_until_silent(worker_id)
        async with first_of(process.wait(), silence) as (ended, _):
            if not ended.done():
                _log.error("Worker %s says nothing any more, and is ended.", worker_id)
                await asyncio.to_thread(process.stop, self._grace)
            return int(await ended)

    def _on_line(self, line: str) -> None:
        said = line.replace(self._token.get_secret_value(), "***")
        if said.strip():
            self._last_words = said.strip()
        _log.info("worker: %s", said)

    def _environment_of(self, worker_id: str) -> dict[str, str]:
        # A worker that serves its own API would take no job of ours.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("RUNPOD_") and name != "SERVE_API_LOCALLY"
        }
        base, limits = self._endpoint_url, self._queue.limits
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            **self._environment,
            "COMFY_REMOTE_STORE_URL": f"{base}/files",
            "RUNPOD_AI_API_KEY": self._token.get_secret_value(),
            "RUNPOD_ENDPOINT_ID": self._endpoint_id,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_PING_INTERVAL": str(round(limits.worker_ping_interval * 1000)),
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            # The SDK appends "&…" to these: without a "?" the path would be wrong.
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=local",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        }
