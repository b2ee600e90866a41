"""What a gateway counts, read as Prometheus reads it."""

from __future__ import annotations

import math

import pytest
from seen_kit import a_job, a_state, a_worker, that_ran

from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.queue_events import (
    JobAccepted,
    JobEnded,
    JobPutBack,
    JobRepeated,
    JobStarted,
)
from comfy_remote.gateway.seen.exposition import Counter, Histogram, exposition, gauge
from comfy_remote.gateway.seen.metrics import Metrics
from comfy_remote.wire.runpod import RunPodState


def samples(scrape: bytes) -> dict[str, float]:
    """Each line's value by what stands before it."""
    lines = scrape.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_a_jobs_life_is_counted() -> None:
    metrics = Metrics()
    metrics(JobAccepted(a_job()))
    metrics(JobStarted(a_job(queued=1.0, started=4.0)))
    metrics(JobEnded(that_ran("gpu-0", 7.5, RunPodState.COMPLETED)))
    found = samples(metrics.scrape(a_state()))
    assert found["comfy_remote_jobs_accepted_total"] == 1
    assert found["comfy_remote_jobs_started_total"] == 1
    assert found['comfy_remote_jobs_finished_total{state="completed",code=""}'] == 1
    assert found['comfy_remote_job_wait_seconds_bucket{le="1"}'] == 0
    assert found['comfy_remote_job_wait_seconds_bucket{le="5"}'] == 1
    assert found["comfy_remote_job_wait_seconds_sum"] == 3
    assert found['comfy_remote_job_run_seconds_bucket{le="5"}'] == 0
    assert found['comfy_remote_job_run_seconds_bucket{le="10"}'] == 1
    assert found['comfy_remote_job_run_seconds_bucket{le="+Inf"}'] == 1
    assert found["comfy_remote_job_run_seconds_count"] == 1
    assert found['comfy_remote_gpu_seconds_total{worker="gpu-0"}'] == 7.5


def test_failures_are_counted_by_code_and_a_strangers_code_is_other() -> None:
    metrics = Metrics()
    metrics(JobEnded(that_ran("w", 1, RunPodState.FAILED, "out_of_memory")))
    metrics(JobEnded(that_ran("w", 1, RunPodState.FAILED, 'evil"} 1\ncomfy_remote_jobs_waiting 9')))
    metrics(JobEnded(a_job(state=RunPodState.CANCELLED, finished=3.0)))
    found = samples(metrics.scrape(a_state()))
    assert found['comfy_remote_jobs_finished_total{state="failed",code="out_of_memory"}'] == 1
    assert found['comfy_remote_jobs_finished_total{state="failed",code="other"}'] == 1
    assert found['comfy_remote_jobs_finished_total{state="cancelled",code=""}'] == 1
    assert found["comfy_remote_jobs_waiting"] == 0
    assert found["comfy_remote_job_run_seconds_count"] == 2, "one was cancelled before it ran"


def test_what_a_job_has_used_so_far_counts_and_a_start_that_is_lost_stays_counted() -> None:
    metrics = Metrics()
    metrics(JobRepeated(a_job(), "gpu-0", 20.0, "It has died."))
    metrics(JobPutBack(a_job(), "gpu-1", 2.0, "It gave it back."))
    running = [a_job(worker_id="gpu-0", started=90.0), a_job(worker_id="gpu-2", started=95.0)]
    found = samples(metrics.scrape(a_state(running=running)))
    assert found["comfy_remote_jobs_repeated_total"] == 1
    assert found["comfy_remote_jobs_put_back_total"] == 1
    assert found['comfy_remote_gpu_seconds_total{worker="gpu-0"}'] == 30
    assert found['comfy_remote_gpu_seconds_total{worker="gpu-1"}'] == 2
    assert found['comfy_remote_gpu_seconds_total{worker="gpu-2"}'] == 5


def test_the_state_of_the_moment() -> None:
    workers = [
        a_worker("a", running={"a": a_job()}),
        a_worker("b", running={"b": a_job()}),
        a_worker("c", silent=True),
    ]
    waiting = [a_job(queued=40.0), a_job(queued=70.0)]
    limits = GatewayLimits(store_bytes=1000)
    found = samples(
        Metrics().scrape(
            a_state(waiting=waiting, workers=workers, limits=limits, store_bytes=12, disk_free=34)
        )
    )
    assert found["comfy_remote_jobs_waiting"] == 2
    assert found["comfy_remote_oldest_waiting_seconds"] == 60
    assert found['comfy_remote_workers{state="running"}'] == 2
    assert found['comfy_remote_workers{state="silent"}'] == 1
    assert found['comfy_remote_workers{state="idle"}'] == 0
    assert found["comfy_remote_store_bytes"] == 12
    assert found["comfy_remote_store_limit_bytes"] == 1000
    assert found["comfy_remote_disk_free_bytes"] == 34


def test_workers_that_come_and_go_make_no_end_of_series() -> None:
    metrics = Metrics()
    for number in range(5000):
        metrics(JobEnded(that_ran(f"sdk-{number}", 1, RunPodState.COMPLETED)))
    running = [a_job(worker_id=f"new-{number}", started=99.0) for number in range(50)]
    found = samples(metrics.scrape(a_state(running=running)))
    of_workers = [name for name in found if "gpu_seconds_total" in name]
    assert len(of_workers) < 300
    assert sum(found[name] for name in of_workers) == 5050, "nothing is lost: the rest is other's"


def test_labels_and_help_are_escaped() -> None:
    text = exposition([gauge("x", "a \\ b\nc", {(("name", 'q"\\\n'),): 1.5})])
    assert text == b'# HELP x a \\\\ b\\nc\n# TYPE x gauge\nx{name="q\\"\\\\\\n"} 1.5\n'


def test_a_value_on_a_bound_is_below_it() -> None:
    histogram = Histogram("h", "", (1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 7.0):
        histogram.add(value)
    counts = {labels: value for suffix, labels, value in histogram.family().samples if labels}
    assert counts == {(("le", "1"),): 1, (("le", "2"),): 3, (("le", "+Inf"),): 4}


def test_a_counter_without_labels_is_there_before_it_counts() -> None:
    assert samples(exposition([Counter("c_total", "").family()])) == {"c_total": 0}


def test_prometheus_own_parser_reads_it() -> None:
    parser = pytest.importorskip(
        "prometheus_client.parser",
        reason="skipped: no prometheus-client (pip install -e '.[dev]')",
    )
    metrics = Metrics()
    metrics(JobStarted(a_job(queued=1.0, started=4.0)))
    metrics(JobEnded(that_ran('a "name" \\ with\nall', 7.25, RunPodState.FAILED, "engine_crashed")))
    scrape = metrics.scrape(a_state(workers=[a_worker("a")]))
    families = {one.name: one for one in parser.text_string_to_metric_families(scrape.decode())}
    assert all(one.documentation for one in families.values())
    assert families["comfy_remote_jobs_finished"].type == "counter"
    assert families["comfy_remote_workers"].type == "gauge"
    waits = families["comfy_remote_job_wait_seconds"]
    assert waits.type == "histogram"
    bounds = [float(one.labels["le"]) for one in waits.samples if one.name.endswith("_bucket")]
    assert bounds == sorted(bounds)
    assert math.isinf(bounds[-1])
    (seconds,) = families["comfy_remote_gpu_seconds"].samples
    assert seconds.labels == {"worker": 'a "name" \\ with\nall'}
    assert seconds.value == 7.25
    (ended,) = families["comfy_remote_jobs_finished"].samples
    assert ended.labels == {"state": "failed", "code": "engine_crashed"}
