"""`run`: one workflow in one call, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..events import EventOf
from ..jobs.interruption import OnInterrupt
from ..jobs.output import Output
from ..jobs.submission import Workflow
from ..targets.base import Target
from ..workflow.change.prepare import Changes, ChangeWords
from ..workflow.schema import Schemas
from .notebook import Display
from .sync import SyncClient, SyncJobOutput

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..config.cache_settings import CacheMode

__all__ = ["run"]


def run(
    workflow: Workflow,
    target: str | Target | None = None,
    *,
    inputs: Sequence[Path | str] | Path | str = (),
    timeout: float | None = None,
    on_event: Callable[[EventOf[SyncJobOutput]], object] | None = None,
    config: Path | str | None = None,
    schemas: Schemas | Path | str | None = None,
    on_interrupt: OnInterrupt = "cancel",
    retry_lost: bool = True,
    cache: CacheMode | None = None,
    cap: float | None = None,
    over_cap: bool = False,
    changes: Changes | None = None,
    **words: Unpack[ChangeWords],
) -> list[Output]:
    """Run a workflow on a target and return what it produced.

    >>> outputs = run("workflow.json", "runpod:abc123", seed=5)  # doctest: +SKIP
    >>> outputs[0].image().size  # doctest: +SKIP
    (1024, 1024)

    May be called where an event loop runs already; a notebook shows the progress.
    Interrupted (Ctrl-C, a notebook's stop button, an exception in ``on_event``), it cancels the job
    on the target, and the log says so.

    Args:
        workflow: As for `Client.submit`, like ``inputs`` and ``changes``.
        target: As for `Client`, like ``config`` and ``schemas``.
        timeout: Seconds within which the job must end and its outputs must be here. After that,
            `JobTimedOut` is raised and the job goes on: its id is in ``details["job_id"]``.
        on_event: Called with each event.
        on_interrupt: ``"leave"`` has the target go on with the job instead; the log says how to
            fetch it.
        retry_lost: As for `Client.submit`, like ``cache``, ``cap`` and ``over_cap``.
        words: As for `Client.submit`: ``seed=``, ``prompt=``, ``set=`` and so on.

    Raises:
        ComfyRemoteError: Whatever went wrong. What a job that failed had saved before is fetched
            by ``Job.outputs(even_if_failed=True)``; see `Client` and `resume`.
    """
    with (
        SyncClient(target, config=config, schemas=schemas, on_interrupt=on_interrupt) as client,
        Display() as display,
    ):
        job = client.submit(
            workflow,
            inputs=inputs,
            timeout=timeout,
            retry_lost=retry_lost,
            cache=cache,
            cap=cap,
            over_cap=over_cap,
            changes=changes,
            **words,
        )
        for event in job:
            display.show(event)
            if on_event is not None:
                on_event(event)
        return job.outputs()
