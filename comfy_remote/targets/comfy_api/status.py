"""What a server says of a job, as events: answers and live events in, ours out. No I/O."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import PurePosixPath

from pydantic import JsonValue, ValidationError

from ...errors import ComfyRemoteError, JobCancelled, JobExpired, TargetError
from ...events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Started,
)
from ...media.remote_values import VALUES_KEY, sha256_in_name
from ...outputs import (
    TEXT_KEYS,
    OutputKind,
    OutputProblem,
    OutputSource,
    RemoteOutput,
    in_prompt_order,
    kind_of,
    media_type_of,
)
from ...types import mappings
from ...wire.comfy_api import (
    ApiJob,
    ApiOutput,
    ApiProgress,
    ApiStatus,
    OutputType,
    PreviewEvent,
    StatusEvent,
    blake3_digits,
)
from ...workflow.interface import REMOTE_OUTPUT
from ...workflow.output_nodes import OUTPUT_NODES
from ...workflow.prompt import Prompt
from .links import Links
from .live import LiveEvent
from .refusals import failure

__all__ = ["JobReader", "forgotten", "read_job"]

_PREVIEWS = ("image/jpeg", "image/png", "image/webp")
_MINUTES_LEFT = 60
_LARGEST_SIZE = 2**53  # bytes; what is larger has not been measured
_KINDS: Mapping[OutputType, OutputKind] = {
    OutputType.IMAGE: "image",
    OutputType.VIDEO: "video",
    OutputType.AUDIO: "audio",
    OutputType.TEXT: "text",
}


def read_job(answer: JsonValue) -> ApiJob:
    """The job in an answer.

    What does not matter for its end is read leniently: an unknown type of output, a progress out of
    bounds, labels of another form.

    Raises:
        TargetError: It is none.
    """
    if isinstance(answer, dict):
        outputs: list[JsonValue] = [_known_output(one) for one in mappings(answer.get("outputs"))]
        answer = {**answer, "outputs": outputs}
    try:
        return ApiJob.model_validate(answer)
    except ValidationError as error:
        problem = error
    if isinstance(answer, dict):
        spare = {"progress": None, "queue_position": None, "metrics": None, "metadata": None}
        try:
            return ApiJob.model_validate({**answer, **spare})
        except ValidationError as error:
            problem = error
    first = problem.errors()[0]
    where = ".".join(map(str, first["loc"]))
    raise TargetError(
        f"The server's answer about the job is not Comfy API v2's: {where}: {first['msg']}.",
        advice="Check the address: another program may be there.",
    ) from problem


def _known_output(one: dict[str, JsonValue]) -> JsonValue:
    known, size = one.get("type") in [each.value for each in OutputType], one.get("size_bytes")
    return {
        **one,
        "type": one.get("type") if known else "file",
        "size_bytes": size if isinstance(size, int) and 0 < size <= _LARGEST_SIZE else 0,
    }


class JobReader:
    """Turns one answer after another into events, each reported once.

    Args:
        name: Of the target.
        links: Where its outputs may be read with its key.
    """

    def __init__(self, prompt: Prompt, name: str, links: Links) -> None:
        self.cancelled: bool | None = None
        """Whether the job waited when this client cancelled it; ``None`` if it did not cancel."""
        self.ended = False
        """Whether a live event says that the job has ended: then it is worth asking."""
        self._prompt, self._name, self._links = prompt, name, links
        self._state: ApiStatus | None = None
        self._position: int | None = None
        self._began = self._started = False
        self._last = Progress(nodes_total=len(prompt))
        self._outputs: dict[tuple[str, str], RemoteOutput] = {}
        self._names: Counter[tuple[str, str]] = Counter()
        self._announced: set[tuple[str, str]] = set()

    def live(self, event: LiveEvent) -> Iterator[Event]:
        """What is new in a live event; never the end."""
        match event:
            case StatusEvent(status=status, queue_position=position):
                self.ended = self.ended or status.final
                if not status.final:
                    yield from self._stands(status, position)
            case ApiProgress():
                yield from self._progress(event)
            case PreviewEvent():
                yield from self._preview(event)
            case ApiOutput():
                yield from self._output(event)

    def job(self, job: ApiJob) -> Iterator[Event]:
        """What is new in an answer; `Finished` last, once the job has ended."""
        self._began = self._began or _has_begun(job)
        if not job.status.final:
            yield from self._stands(job.status, job.queue_position)
        if job.status in (ApiStatus.SUCCEEDED, ApiStatus.FAILED) and self._began:
            yield from self._start()
        if job.progress is not None and not job.status.final:
            yield from self._progress(job.progress)
        for output in job.outputs:
            yield from self._output(output)
        if job.status.final:
            yield from self._end(job)

    def _stands(self, status: ApiStatus, position: int | None) -> Iterator[Event]:
        if status is ApiStatus.QUEUED and not self._began:
            if self._state is not status or position != self._position:
                yield Queued(position)
            self._position = position
        elif status is ApiStatus.RUNNING:
            yield from self._start()
        self._state = status

    def _start(self) -> Iterator[Event]:
        self._began = True
        if not self._started:
            self._started = True
            yield Started()

    def _progress(self, said: ApiProgress) -> Iterator[Event]:
        counts = said.nodes_total > 0
        if not counts and said.current_node is None and said.step is None and not said.message:
            return  # the server does not know more than that it runs
        if said.value or said.current_node is not None or said.nodes_done > 0:
            yield from self._start()
        node = self._prompt.get(said.current_node or "")
        progress = Progress(
            nodes_done=said.nodes_done if counts else self._last.nodes_done,
            # comfy-api-proxy counts the nodes that have begun.
            nodes_total=max(said.nodes_total, len(self._prompt)),
            node_id=said.current_node,
            node_class=said.current_node_class or (node["class_type"] if node else None),
            step=said.step,
            steps=said.steps,
            message=_message(said),
        )
        if progress != self._last:
            self._last = progress
            yield progress

    def _preview(self, said: PreviewEvent) -> Iterator[Event]:
        if said.content_type not in _PREVIEWS:
            return
        try:
            data = base64.b64decode(said.data_base64, validate=True)
        except ValueError:
            return
        yield from self._start()
        yield Preview(said.node_id or self._last.node_id, said.content_type, data)

    def _output(self, said: ApiOutput) -> Iterator[Event]:
        key = (said.id, said.node_id)
        known = self._outputs.get(key)
        output = self._described(said, known)
        self._outputs[key] = output
        if key not in self._announced:
            self._announced.add(key)
            yield OutputReady(output)

    def _described(self, said: ApiOutput, known: RemoteOutput | None) -> RemoteOutput:
        path = PurePosixPath(said.name.replace("\\", "/"))
        name = path.name or f"{said.node_id}_output"
        folder = "" if str(path.parent) == "." else str(path.parent)
        if known is not None:
            number = known.number
        else:
            # The API gives no folders, so two may have one name.
            number = self._names[folder, name] or None
            self._names[folder, name] += 1
        kind = kind_of(name)
        if kind == "file":
            kind = _KINDS.get(said.type, kind)
        media_type = said.content_type.partition(";")[0].strip().lower()
        # The API has no names for what a node gives: that of a Remote Output is one value file.
        node = self._prompt.get(said.node_id)
        value = node is not None and node["class_type"] == REMOTE_OUTPUT
        value = value and name.endswith(".safetensors")
        shown = next((key for key in TEXT_KEYS if name.startswith(f"{said.node_id}_{key}_")), None)
        return RemoteOutput(
            node_id=said.node_id or None,
            kind=kind,
            filename=name,
            subfolder=folder,
            media_type=media_type or media_type_of(name),
            # A server that has not looked yet says 0.
            size=said.size_bytes or None,
            sha256=sha256_in_name(name) if value else None,
            blake3=blake3_digits(said.hash or ""),
            source=self._source(said),
            key=VALUES_KEY if value else shown if said.type is OutputType.TEXT else None,
            number=number,
        )

    def _source(self, said: ApiOutput) -> OutputSource:
        """By its id, since a link of its own may have expired when it is read."""
        return OutputSource(path=self._links.path("assets", said.id, "content").lstrip("/"))

    def _end(self, job: ApiJob) -> Iterator[Event]:
        # Hints of live events that turned out otherwise are not outputs.
        here = {(one.id, one.node_id) for one in job.outputs}
        outputs = in_prompt_order(
            (output for key, output in self._outputs.items() if key in here), self._prompt
        )
        details = _details(job)
        if job.status is ApiStatus.SUCCEEDED:
            total = self._last.nodes_total
            yield Progress(nodes_done=total, nodes_total=total)
            if notice := self._kept(job):
                yield Log(notice)
            missing = self._not_returned(outputs)
            only_shown = [one for one in missing if OUTPUT_NODES[one.node_class or ""].preview]
            for one in only_shown:
                yield Log(f"{one}.", "warning")
            if only_shown:
                details["warnings"] = [f"{one}." for one in only_shown]
            problems = tuple(one for one in missing if one not in only_shown)
            yield Finished(JobState.SUCCEEDED, None, outputs, details, problems)
            return
        error: ComfyRemoteError
        match job.status:
            case ApiStatus.CANCELED:
                state, error = JobState.CANCELLED, JobCancelled("The job was cancelled.")
            case ApiStatus.EXPIRED if self.cancelled is not None and not self._began:
                # comfy-api-proxy forgets a job that it has taken out of ComfyUI's queue; one that
                # had begun, it calls canceled.
                state, error = JobState.CANCELLED, JobCancelled("The job was cancelled.")
            case ApiStatus.EXPIRED:
                state, error = JobState.EXPIRED, self._expired(job)
            case _:
                state, error = JobState.FAILED, failure(job.error)
        yield Finished(state, error, outputs, details, did_it_run=self._did_it_run(job))

    def _did_it_run(self, job: ApiJob) -> DidItRun:
        at_a_node = job.error is not None and job.error.node_id is not None
        if self._began or (job.status is ApiStatus.FAILED and at_a_node):
            return DidItRun.STOPPED
        # A server that does not note when a job ended does not note when it began, either.
        never_began = job.status is ApiStatus.CANCELED and job.completed_at is not None
        forgotten_by_cancel = job.status is ApiStatus.EXPIRED and self.cancelled is True
        return DidItRun.WITHDRAWN if never_began or forgotten_by_cancel else DidItRun.UNKNOWN

    def _expired(self, job: ApiJob) -> JobExpired:
        if job.expires_at <= datetime.now(timezone.utc):
            return JobExpired(
                f"{self._name} had the job until {_moment(job.expires_at)}, and has deleted it.",
                advice="Run it again.",
            )
        return JobExpired(
            f"{self._name} no longer has the job.",
            advice="It may have been restarted, or have dropped the job before it ran. Run it "
            "again.",
        )

    def _kept(self, job: ApiJob) -> str:
        """Said if the outputs will soon be gone."""
        left = (job.expires_at - datetime.now(timezone.utc)).total_seconds() / 60
        if left > _MINUTES_LEFT or not job.outputs:
            return ""
        return f"{self._name} has the outputs until {_moment(job.expires_at)}."

    def _not_returned(self, outputs: tuple[RemoteOutput, ...]) -> tuple[OutputProblem, ...]:
        """The nodes that save or show something of which the server returned nothing."""
        returned = {output.drawn_node for output in outputs}
        return tuple(
            OutputProblem(
                node_id, node["class_type"], None, f"{self._name} returned no output of it"
            )
            for node_id, node in self._prompt.items()
            if node_id not in returned
            and (known := OUTPUT_NODES.get(node["class_type"])) is not None
            and (not known.preview or known.kind == "text")
        )


def forgotten(name: str) -> Finished:
    """The end of a job that the server answers 404 for."""
    return Finished(
        JobState.EXPIRED,
        JobExpired(
            f"{name} no longer knows the job.",
            advice="Its jobs and their outputs are deleted after a while, and a self-hosted server "
            "may forget them when it is restarted. Run it again.",
        ),
        did_it_run=DidItRun.UNKNOWN,
    )


def _has_begun(job: ApiJob) -> bool:
    ran = (job.metrics or {}).get("execution_ms")
    if job.started_at is not None or ran or job.outputs:
        return True
    return job.status in (ApiStatus.RUNNING, ApiStatus.SUCCEEDED)


def _message(said: ApiProgress) -> str:
    """Its message, unless that is what we say ourselves: class and steps."""
    message = (said.message or "").strip()
    own = f"{said.current_node_class} {said.step}/{said.steps}"
    return "" if message in (own, said.current_node_class) else message


def _details(job: ApiJob) -> dict[str, JsonValue]:
    metrics = job.metrics or {}
    queued, ran = metrics.get("queue_ms"), metrics.get("execution_ms")
    if queued is None and job.started_at is not None:
        queued = _milliseconds(job.created_at, job.started_at)
    if ran is None and job.started_at is not None and job.completed_at is not None:
        ran = _milliseconds(job.started_at, job.completed_at)
    details: dict[str, JsonValue] = {"expires_at": job.expires_at.isoformat()}
    if queued is not None:
        details["queue_seconds"] = queued / 1000
    if ran is not None:
        details["run_seconds"] = ran / 1000
    return details


def _milliseconds(since: datetime, until: datetime) -> int:
    return max(0, round((until - since).total_seconds() * 1000))


def _moment(at: datetime) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
