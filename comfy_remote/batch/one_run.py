"""One run of a batch: sent, or followed again, to its end and its outputs. Never sent twice.

Its job's id follows from batch, row and attempt, and the record has a job before that is sent. So
whoever drives a batch after a crash finds each run that was begun, and how far it came.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..aio import in_thread
from ..errors import (
    ComfyRemoteError,
    JobCancelled,
    JobNotFound,
    JobTimedOut,
    OutputLost,
    SubmissionUnknown,
)
from ..events import DidItRun, Progress
from ..jobs.client import Client
from ..jobs.job import Job
from ..jobs.record import JobEntry, SavedOutput
from ..media.file_changes import discard
from ..media.files import place_below, safe_relative_path, storage_errors, subfolder_of
from ..outputs import media_type_of
from ..targets.base import ChoosesAmong, located, server_of
from ..targets.opening import reopen
from ..types import mapping
from ..workflow.paid_nodes import any_paid_known
from .manifest import ManifestOutput, RunLine
from .run_names import flat_name, run_name

if TYPE_CHECKING:
    from ..schedule.money import Price
    from ..types import JsonValue
    from .frozen import Frozen
    from .rows import Rows

__all__ = ["OneRun", "RunKind", "job_id_of"]


def job_id_of(batch_id: str, row: int, attempt: int) -> str:
    """The id of a run's job: the same for everybody who asks."""
    return str(uuid.uuid5(uuid.UUID(batch_id), f"{row}/{attempt}"))


@dataclass(frozen=True, slots=True)
class RunKind:
    """What the runs of a batch have in common.

    Attributes:
        folder: Of the batch's outputs.
        price: What an hour costs there; ``None`` where that is not known.
    """

    client: Client
    batch_id: str
    frozen: Frozen
    rows: Rows
    folder: Path
    price: Price | None


class OneRun:
    """A run of one row.

    Attributes:
        job_id: Of its job.
        job: The job itself, while it is followed.
    """

    def __init__(self, kind: RunKind, row: int, attempt: int, values: dict[str, JsonValue]) -> None:
        self._kind = kind
        self.row = row
        self.attempt = attempt
        self.values = values
        self.name = run_name(row, values)
        self.job_id = job_id_of(kind.batch_id, row, attempt)
        self.job: Job | None = None
        self._cancelled = self._target_knows = False
        self._started: datetime | None = None

    @property
    def folder(self) -> Path:
        """Where its outputs go first: with a pattern, a hidden folder that is emptied again."""
        if self._kind.frozen.pattern is None:
            return self._kind.folder / self.name
        return self._kind.folder / f".comfy-remote-{self.name}"

    async def known(self) -> JobEntry | None:
        """Its job, if the record has that."""
        record = self._kind.client.record
        with suppress(JobNotFound):
            return await record.read(record.get, self.job_id)
        return None

    async def follow(
        self,
        on_progress: Callable[[Progress], None],
        on_sent: Callable[[int, int], None] | None = None,
        on_received: Callable[[int], None] | None = None,
        *,
        new: bool = False,
    ) -> RunLine:
        """Run it to its end, however far it came before; a run that fails is a line as well.

        Args:
            new: Whether nobody has begun it, so the record is not asked. If somebody has, it does
                not take the job a second time.
            on_sent: Called with how many bytes of its input files are there, and of how many.
            on_received: Called with how many more bytes of its outputs are here.

        Raises:
            ComfyRemoteError: It could not be sent, asked or saved; what has come so far is kept,
                and it can be followed again.
        """
        self._started = self._started or datetime.now(timezone.utc)
        async with AsyncExitStack() as stack:
            job = None
            entry = None if new else await self.known()
            if entry is not None and entry.owed:
                try:
                    job = await self._found(entry, stack)
                except OutputLost:
                    if entry.ref is not None:
                        raise
                    entry = await self.known()  # the target never had it, which is recorded
            if job is None:
                if entry is not None and not surely_not_run(entry):
                    return await self._line_of(entry)
                if entry is not None:
                    record = self._kind.client.record
                    await record.write(record.remove, [self.job_id])
                if self._cancelled:
                    return self.failed(JobCancelled("It was cancelled before it was sent."))
                job = await self._sent(on_sent)
            self.job = job
            try:
                return await self._followed(job, on_progress, on_received)
            finally:
                self.job = None

    async def cancel(self) -> None:
        """Cancel its job, or see that it is cancelled once the target has it.

        Called again, it only asks a target that could not be asked before.
        """
        self._cancelled = True
        if self.job is not None and not self._target_knows:
            with suppress(ComfyRemoteError):  # it runs on there
                await self.job.cancel()
                self._target_knows = True

    async def _sent(self, on_sent: Callable[[int, int], None] | None) -> Job:
        submission = await self._kind.rows.submission(self.row)
        frozen, record = self._kind.frozen, self._kind.client.record
        allowance = await record.read(record.batches.allowance, self._kind.batch_id)
        return await self._kind.client.submit(
            submission,
            job_id=self.job_id,
            of_batch=self._kind.batch_id,
            folder=self.folder,
            repo_list=frozen.repo_list,
            cache=frozen.cache,
            retry_lost=frozen.retry_lost,
            timeout=frozen.timeout,
            on_sent=on_sent,
            cap=allowance.cap,
            over_cap=allowance.over_cap,
            ends_after=frozen.timeout,
        )

    async def _found(self, entry: JobEntry, stack: AsyncExitStack) -> Job:
        """The job where it was sent, which may be elsewhere than where jobs are sent now.

        Raises:
            SubmissionUnknown: Its target's name means another one now, and where it was sent, it
                may run.
        """
        client, frozen = self._kind.client, self._kind.frozen
        if entry.cached is not None:
            return await client.resume(entry, timeout=frozen.timeout)
        here = server_of(client.target)
        if entry.ref is None:
            if frozen.server and here and here != frozen.server:
                raise SubmissionUnknown(
                    f"Run {self.row} was being sent when its program ended, and "
                    f"{client.target.name} means another target now, so it cannot be asked "
                    "whether it has it.",
                    advice="If it has not run there, retry the failed runs.",
                )
            return await client.resume(entry, timeout=frozen.timeout)
        is_here = here.items() <= entry.ref.details.items()
        if frozen.target is None or (here and is_here):
            return await client.resume(entry, timeout=frozen.timeout)
        # By what names mean where the batch was made, wherever it is resumed.
        target = reopen(entry.target, entry.ref, config=frozen.config, folder=frozen.folder)
        there = Client(target, record=client.record, on_interrupt=None)
        return await (await stack.enter_async_context(there)).resume(entry, timeout=frozen.timeout)

    async def _followed(
        self,
        job: Job,
        on_progress: Callable[[Progress], None],
        on_received: Callable[[int], None] | None,
    ) -> RunLine:
        if self._cancelled:
            await self.cancel()
        try:
            async for event in job:
                if isinstance(event, Progress):
                    on_progress(event)
            with storage_errors(self.folder):  # it is removed while files are written into it
                saved = await job.save_outputs(self.folder, on_received, even_if_failed=True)
        except JobTimedOut as error:
            await self.cancel()
            return self.failed(error)
        except ComfyRemoteError as error:
            if job.finished is None:
                raise
            if error is not job.finished.error and not isinstance(error, OutputLost):
                raise
            return self.failed(error, job)
        finished = job.finished
        assert finished is not None  # noqa: S101  outputs were given
        problems = [str(problem) for problem in job.problems]
        cached = mapping(finished.details.get("cache"))
        line = await self._line(finished.error, saved, problems, job.run_seconds, cached)
        _, there = located(job.target, job.ref)
        return line if there is job.target else replace(line, target=there.name)

    async def _line_of(self, entry: JobEntry) -> RunLine:
        """Of a job that had ended, its outputs here, when its driver was killed."""
        if not entry.outputs:
            lost = OutputLost("The job has ended, and its outputs are not known any more.")
            return self.failed(entry.error or lost)
        outputs, seconds = list(entry.outputs), entry.run_seconds
        return await self._line(entry.error, outputs, [], seconds, entry.cached or {})

    async def _line(
        self,
        error: ComfyRemoteError | None,
        saved: list[SavedOutput],
        problems: list[str],
        seconds: float | None,
        cached: Mapping[str, JsonValue],
    ) -> RunLine:
        if self._kind.frozen.pattern is None:
            outputs = self._placed(saved)
        else:
            outputs = await in_thread(self._placed, saved)
        line = self.failed(error) if error is not None else self._as("succeeded")
        price = self._kind.price
        line.outputs.extend(outputs)
        line.problems.extend(problems)
        if cached:
            saved_dollars = cached.get("saved")
            dollars = float(saved_dollars) if isinstance(saved_dollars, int | float) else None
            cost = None if price is None else 0.0
            return replace(line, cost=cost, cached=str(cached.get("job")), saved=dollars)
        return replace(line, seconds=seconds, cost=await self._cost(seconds))

    async def _cost(self, seconds: float | None) -> float | None:
        """US dollars for a run that has ended: what the ledger says, so that both agree."""
        price, client = self._kind.price, self._kind.client
        if price is None and not isinstance(client.target, ChoosesAmong):
            return None
        booking = await client.record.read(client.record.ledger.of, self.job_id)
        if booking is not None:
            return None if booking.amount is None else round(booking.amount, 6)
        return None if price is None or seconds is None else round(price.of(seconds), 6)

    def _placed(self, saved: list[SavedOutput]) -> list[ManifestOutput]:
        """What was saved, where it belongs, as the manifest has it. With a pattern, it blocks."""
        outputs = []
        pattern, folder = self._kind.frozen.pattern, self._kind.folder
        for number, output in enumerate(saved):
            path = output.path
            if pattern is not None:
                name = flat_name(pattern, self.row, self.values, path.name, number)
                relative = safe_relative_path(name, subfolder_of(Path(name)))
                wanted = folder / relative
                # The source is gone where a driver was killed right behind this.
                if path.is_file():
                    wanted = place_below(path, folder, relative, output.sha256)
                path = wanted
            outputs.append(
                ManifestOutput(
                    file=path.relative_to(folder).as_posix(),
                    node=output.node_id,
                    kind=output.kind,
                    media_type=media_type_of(output.filename),
                    size=output.size,
                    sha256=output.sha256,
                )
            )
        if pattern is not None:
            with storage_errors(self.folder):
                discard(self.folder)
        return outputs

    def failed(self, error: ComfyRemoteError, job: Job | None = None) -> RunLine:
        """The line of a run that has failed, or was cancelled."""
        cancelled = isinstance(error, JobCancelled)
        said = error.to_json()
        line = self._as("cancelled" if cancelled else "failed")
        shown = {name: said[name] for name in ("code", "message", "advice") if said.get(name)}
        return replace(line, error=shown, seconds=None if job is None else job.run_seconds)

    def _as(self, state: str) -> RunLine:
        seed = self.values.get("seed")
        return RunLine(
            row=self.row,
            run=self.name,
            state=state,
            attempt=self.attempt,
            values=self.values,
            seed=seed if isinstance(seed, int) else None,
            target=self._kind.client.target.name,
            job=self.job_id,
            started=_utc(self._started),
            ended=_utc(datetime.now(timezone.utc)),
        )


def surely_not_run(entry: JobEntry) -> bool:
    """Whether a recorded job ran nowhere, so that it may be sent under the same id."""
    if entry.did_it_run is DidItRun.NEVER_ACCEPTED:
        return True
    if isinstance(entry.error, JobCancelled):
        return False  # somebody did not want it
    if entry.did_it_run is DidItRun.WITHDRAWN:
        return True
    # The target has said, when it was asked, that it never had the job. A ComfyUI that was started
    # again since says so of every job, so what costs money elsewhere is not sent on its word.
    never = entry.ref is None and isinstance(entry.error, OutputLost)
    return never and not any_paid_known(entry.prompt)


def _utc(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
