"""All limits of the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..net.serving import ConnectionLimits
from ..wire.runpod import RUN_BODY_LIMIT, RUNSYNC_BODY_LIMIT

__all__ = ["MINIMUM_TOKEN_LENGTH", "GatewayLimits"]

MINIMUM_TOKEN_LENGTH = 16
"""Characters that a client's token must have at least."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Limits of one gateway. Sizes are bytes, times are seconds.

    The defaults are RunPod's (docs.runpod.io/serverless/endpoints/send-requests), except where
    an attribute says otherwise.

    Attributes:
        run_bytes: Body of a ``/run`` request, and result of such a job.
        runsync_bytes: The same for ``/runsync``.
        run_retention: How long a result is stored after ``/run``.
        runsync_retention: How long a result is stored after ``/runsync``.
        key_retention: How long an ``Idempotency-Key`` is good for after its job's result has
            gone. Ours.
        runsync_wait: How long ``/runsync`` waits unless ``?wait=`` says otherwise.
        runsync_longest_wait: The longest ``?wait=`` that is honoured.
        execution_timeout: How long a job may run unless its policy says otherwise. RunPod's
            default is 10 minutes, which protects from costs that one's own machine does not have.
        shortest_execution_timeout: The least ``policy.executionTimeout`` that is accepted.
        time_to_live: How long a job may exist in all, unless its policy says otherwise.
        shortest_time_to_live: The least ``policy.ttl`` that is accepted.
        longest_time_to_live: The largest ``policy.ttl`` or ``policy.executionTimeout`` that is
            accepted.
        queued_jobs: Jobs that may wait; above it, 429.
        json_values: Values (and containers) in one request or result: each takes some 100 bytes
            while it is read, however few it takes as text. Ours.
        memory_bytes: What the queue itself may take in memory: a record for each job and key
            that it knows, and what waits in streams. Above it, 429. Ours.
        requests_per_10s: Client requests within 10 s; above it, 429. ``None``: not limited.
        body_bytes: All bodies that are being received at a time; above it, 429. Ours.
        body_pause: How long a body may bring nothing. Ours.
        stream_bytes: Chunks of one job that wait for ``/stream``, counted as JSON. Ours.
        file_bytes: One file in the store. Ours.
        output_files: Large outputs that a job may have. Ours.
        files_at_a_time: Files that are received at the same time, three quarters of them from
            clients; the others wait. Each takes some 2 MB of memory. Ours.
        upload_retention: How long a file is stored that no job has named yet. Ours.
        store_bytes: All files in the store: inputs, results, outputs. Above it, 429. Ours.
        free_bytes: What the store leaves free on its disk. Above it, 429. Ours.
        poll_wait: How long a worker's poll is held open; the SDK gives up at 90.
        stop_settle: A stop signal follows the job at this distance at least: the SDK looks
            for new jobs every 0.1 s and drops a signal for one it has not begun.
        worker_silence: A worker that sends nothing for so long gets no jobs until it is back; a
            process with the SDK is ended.
        worker_ping_interval: How often a worker reports that it is alive.
        warm_patience: How long a job may be left to a worker that has its models loaded; see
            `placing.Line`. Ours.
        patience: How long the job whose turn it is may be passed over for that. Ours.
        return_patience: How long, after the gateway was started again, jobs wait for a worker that
            has their nodes and models and may not be back yet. Ours.
        webhook_retry_delay: Between the attempts to deliver a webhook.
        webhook_hosts: ``HOST`` or ``HOST:PORT`` in a private network, or on this machine, that
            webhooks may go to. All others have to be public and https. Ours.
    """

    run_bytes: int = RUN_BODY_LIMIT
    runsync_bytes: int = RUNSYNC_BODY_LIMIT
    run_retention: float = 30 * 60.0
    runsync_retention: float = 60.0
    key_retention: float = 24 * 3600.0
    runsync_wait: float = 90.0
    runsync_longest_wait: float = 300.0
    execution_timeout: float = 24 * 3600.0
    shortest_execution_timeout: float = 5.0
    time_to_live: float = 24 * 3600.0
    shortest_time_to_live: float = 10.0
    longest_time_to_live: float = 7 * 24 * 3600.0
    queued_jobs: int = 500
    json_values: int = 500_000
    memory_bytes: int = 256 * 1024**2
    requests_per_10s: int | None = None
    body_bytes: int = 256 * 1024**2
    body_pause: float = 30.0
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    stream_bytes: int = RUNSYNC_BODY_LIMIT
    file_bytes: int = 8 * 1024**3
    output_files: int = 10_000
    files_at_a_time: int = 16
    upload_retention: float = 3600.0
    store_bytes: int = 64 * 1024**3
    free_bytes: int = 512 * 1024**2
    poll_wait: float = 50.0
    stop_settle: float = 0.5
    worker_silence: float = 120.0
    worker_ping_interval: float = 10.0
    warm_patience: float = 10.0
    patience: float = 60.0
    return_patience: float = 30.0
    webhook_retry_delay: float = 10.0
    webhook_hosts: frozenset[str] = frozenset()
