"""What the worker reads from its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from pydantic import SecretStr
from yarl import URL

from ..errors import ConfigurationError
from ..net.address import host_list, is_loopback
from ..net.bucket import BucketSettings
from ..wire.request import FORMATS
from ..wire.runpod import RUN_RESULT_LIMIT
from .models.settings import ModelSettings
from .nodes.settings import NodeSettings

__all__ = ["KEEP_OUTPUTS", "WorkerSettings", "default_result_limit", "is_true"]

KEEP_OUTPUTS = "COMFY_REMOTE_KEEP_OUTPUTS"
"""``true``: a job's files stay in the engine's folders."""

# No job waits endlessly, whatever the queue's own limit is.
_LONGEST_JOB = 24 * 3600.0
_RUNSYNC_RESULT_LIMIT = 20_000_000


def default_result_limit(job_id: str) -> int:
    """Bytes of JSON that RunPod accepts as a job's result.

    10 MB after ``/run`` and 20 MB after ``/runsync``, whose jobs' ids begin with ``sync-``
    (docs.runpod.io, handler functions, "Payload limits"). What is above is rejected, and the
    SDK only logs that: the client never learns.
    """
    return _RUNSYNC_RESULT_LIMIT if job_id.startswith("sync-") else RUN_RESULT_LIMIT


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker treats its jobs.

    Attributes:
        result_limit: Bytes that a result may have, serialised; ``None`` for RunPod's own.
        job_timeout: Seconds a job may take in all; ``None`` for no limit.
        store_url: Where outputs are put that do not fit the result; ``None`` for nowhere.
        store_key: Sent to the store, as it is, in ``Authorization``.
        bucket: Where such outputs are put before all else; ``None`` for nowhere.
        folder: Where the worker keeps outputs that were too large, and inputs that may come
            again: on the volume, if there is one.
        kept_limit: Bytes of such outputs together.
        input_limit: Bytes of such inputs together; 0 to keep none.
        input_size: Bytes that an input fetched by its address may have.
        input_hosts: ``HOST`` or ``HOST:PORT`` in a private network, or on this machine, that
            inputs may be fetched from nevertheless. The bucket's is added to it.
        bucket_hosts: ``HOST`` or ``HOST:PORT`` in a private network, or on this machine, that a
            request's ``s3Config`` may name nevertheless. The bucket's is added to it.
        cancel_grace: Seconds after a cancel that the engine has to stop a prompt, before its
            process is ended and started again.
        engine_patience: Seconds that the engine may take to answer what is not the job itself: a
            cancel, a question.
        keep_outputs: Whether a job's files stay in the engine's folders.
        worker: The worker's id, for the answer.
        refresh: Whether the worker is to be replaced after each job.
        answer_format: The shape of answers to jobs that do not show which they expect.
        nodes: The node packs that jobs may bring; ``None`` for none.
    """

    result_limit: int | None = None
    job_timeout: float | None = None
    store_url: str | None = None
    store_key: SecretStr = field(default_factory=lambda: SecretStr(""))
    bucket: BucketSettings | None = None
    folder: Path = field(default_factory=lambda: _folder(os.environ, Path("/runpod-volume")))
    kept_limit: int = 8 * 10**9
    input_limit: int = 2 * 10**9
    input_size: int = 4 * 10**9
    input_hosts: frozenset[str] = frozenset()
    bucket_hosts: frozenset[str] = frozenset()
    cancel_grace: float = 30.0
    engine_patience: float = 10.0
    keep_outputs: bool = False
    worker: str | None = None
    refresh: bool = False
    answer_format: str = "worker-comfyui"
    models: ModelSettings = field(default_factory=ModelSettings)
    nodes: NodeSettings | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> WorkerSettings:
        """Read ``COMFY_REMOTE_RESULT_LIMIT`` (bytes), ``COMFY_REMOTE_JOB_TIMEOUT`` and
        ``COMFY_REMOTE_CANCEL_GRACE`` (seconds),
        ``COMFY_REMOTE_STORE_URL``, ``COMFY_REMOTE_WORKER_DIR``, ``COMFY_REMOTE_KEPT_LIMIT``,
        ``COMFY_REMOTE_INPUT_CACHE_LIMIT`` and ``COMFY_REMOTE_INPUT_SIZE_LIMIT`` (bytes),
        ``COMFY_REMOTE_INPUT_HOSTS``, ``COMFY_REMOTE_BUCKET_HOSTS``, ``RUNPOD_AI_API_KEY``,
        ``RUNPOD_POD_ID``, ``REFRESH_WORKER`` and ``COMFY_REMOTE_KEEP_OUTPUTS`` (``true``),
        ``COMFY_REMOTE_FORMAT``, and what `BucketSettings`, `ModelSettings` and `NodeSettings`
        read.

        Raises:
            ConfigurationError: One of them is not what it should be.
        """
        limit = _positive(environ, "COMFY_REMOTE_RESULT_LIMIT")
        store_url = environ.get("COMFY_REMOTE_STORE_URL") or None
        if store_url is not None:
            address = URL(store_url)
            # The key goes there.
            if address.scheme != "https" and not is_loopback(address.host):
                raise ConfigurationError(
                    "COMFY_REMOTE_STORE_URL is not an https address.",
                    advice="Only a store on this machine may be plain http.",
                )
        models = ModelSettings.from_environ(environ)
        folder = _folder(environ, models.volume)
        bucket = BucketSettings.from_environ(environ)
        own = {bucket.host_and_port} if bucket is not None else set[str]()
        return cls(
            result_limit=int(limit) if limit is not None else None,
            job_timeout=_positive(environ, "COMFY_REMOTE_JOB_TIMEOUT") or _LONGEST_JOB,
            store_url=store_url,
            store_key=SecretStr(environ.get("RUNPOD_AI_API_KEY", "")),
            bucket=bucket,
            input_size=int(_positive(environ, "COMFY_REMOTE_INPUT_SIZE_LIMIT") or 4e9),
            input_hosts=host_list(environ, "COMFY_REMOTE_INPUT_HOSTS") | own,
            bucket_hosts=host_list(environ, "COMFY_REMOTE_BUCKET_HOSTS") | own,
            folder=folder,
            kept_limit=int(_positive(environ, "COMFY_REMOTE_KEPT_LIMIT") or 8e9),
            input_limit=int(_positive(environ, "COMFY_REMOTE_INPUT_CACHE_LIMIT") or 2e9),
            worker=environ.get("RUNPOD_POD_ID") or None,
            cancel_grace=_positive(environ, "COMFY_REMOTE_CANCEL_GRACE") or 30.0,
            keep_outputs=is_true(environ, KEEP_OUTPUTS),
            refresh=is_true(environ, "REFRESH_WORKER"),
            answer_format=_format(environ),
            models=models,
            nodes=NodeSettings.from_environ(folder, environ),
        )


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """Whether a variable is ``true``, in any case."""
    return environ.get(name, "").strip().lower() == "true"


def _format(environ: Mapping[str, str]) -> str:
    name = environ.get("COMFY_REMOTE_FORMAT", "").strip() or "worker-comfyui"
    if name not in FORMATS:
        raise ConfigurationError(
            f"COMFY_REMOTE_FORMAT is {name!r}, which is not the name of a form of answers.",
            advice=f"Use one of: {', '.join(FORMATS)}.",
        )
    return name


def _folder(environ: Mapping[str, str], volume: Path) -> Path:
    if chosen := environ.get("COMFY_REMOTE_WORKER_DIR", "").strip():
        return Path(chosen).expanduser().absolute()
    if volume.is_dir():
        return volume / ".comfy-remote"
    return platformdirs.user_cache_path("comfy-remote", appauthor=False) / "worker"


def _positive(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} is not a number above 0: {text!r}.")
    return value
