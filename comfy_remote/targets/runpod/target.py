"""A RunPod Serverless endpoint, or a gateway of ours that speaks its API.

Polling is all there is, and all that is needed: our worker's progress is a snapshot that
``/status`` carries. Understands our worker's answers and the public worker-comfyui's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, JsonValue, SecretStr, ValidationError

from ...advice import Hint
from ...aio import Deadline
from ...config.installation import installation_id
from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    OutputError,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
)
from ...events import Event, Finished, Log, Phase, Progress, Started
from ...media.files import CHUNK_SIZE
from ...net.address import base_address, check_key_is_safe
from ...net.answers import Response
from ...net.bucket import Bucket
from ...net.http import HttpClient, HttpLimits
from ...net.retry import Backoff, Outage, Polling
from ...outputs import RemoteOutput
from ...units import seconds_text
from ...wire.actions import FetchAnswer
from ...wire.installed import RanOn
from ...wire.models import CHANGES_MODELS
from ...wire.nodes import CHANGES_NODES
from ...wire.request import COMFY_REMOTE_1
from ...wire.runpod import (
    IDEMPOTENCY_HEADER,
    EndpointHealth,
    JobStatus,
    RunPodState,
)
from ...workflow.prompt import Prompt
from ..base import (
    Capabilities,
    Health,
    InputFile,
    RemoteRef,
    RunRequest,
    answer_graded,
    before_sending,
)
from ..input_names import UsersNames, by_content
from ..upload_progress import UploadProgress
from .account import idle_timeout, set_idle_timeout
from .description import DescriptionCache, Descriptions
from .gateway import SMALLEST_SENT_ALONE, OwnGateway, own_gateway, policy_of
from .kind import DEFAULT_BASE_URL, EndpointKind, EndpointOptions, RunPodKind
from .request import StoredInput, request_body, store_input, too_many_bytes
from .result import error_in
from .status import StatusReader, forgotten
from .worker_comfyui import not_returned_before

__all__ = ["EndpointTimes", "RunPodTarget"]

_log = logging.getLogger(__name__)

_FETCH_MISSES = 6
_MOST_HELD = 8
"""Questions that a gateway holds at once: half of the connections, for more than questions."""
# HTTP statuses of a submission that RunPod has certainly not accepted.
_REFUSALS = frozenset({400, 401, 403, 404, 413, 429})


@dataclass(frozen=True, slots=True)
class EndpointTimes:
    """How long a client waits for what, in seconds.

    Attributes:
        requests: Those of each request.
        polling: How often it asks how a job stands: under four times a second, as quick as that
            allows, since the result waits half of it on average.
        describe: For a worker to say what it has; an answer to ComfyUI's page must begin in 60 s.
        leave: For an endpoint to take back a question that nobody waits for any more.
        fresh: Before it asks again what its workers have.
        recent: The same, where a workflow does not fit what they had.
        trusted: For which it counts as what they still have, where nobody is awake to be asked and
            a stored result might be taken.
        trusted_busy: The same, where all that are awake are busy: then each result renews it.
        wait_noted: For a worker to take the job, before it is said why that may take longer.
    """

    requests: HttpLimits = HttpLimits()  # noqa: RUF009 - frozen
    polling: Polling = Polling(  # noqa: RUF009 - frozen
        first=0.26,
        quick_for=120.0,
        share=0.005,
        backoff=Backoff(first=0.5, longest=5.0, longest_asked=30.0),
    )
    describe: float = 45.0
    leave: float = 3.0
    fresh: float = 3600.0
    recent: float = 30.0
    trusted: float = 36 * 3600.0
    trusted_busy: float = 600.0
    wait_noted: float = 5.0


class RunPodTarget:
    """The `Target` of one endpoint.

    Args:
        key: RunPod's API key, or the gateway's token.
        base_url: ``https``, or ``http`` on loopback.
        name: What to call it; ``runpod:ENDPOINT`` by default.
        headers: What another server that speaks RunPod's API takes instead of a key.
        find: Looks for the base URL when the target is opened.

    Raises:
        ConfigurationError: That is no endpoint's id, or the URL would send the key in the clear.
    """

    def __init__(
        self,
        endpoint: str,
        key: SecretStr | None = None,
        *,
        kind: EndpointKind = RunPodKind(),  # noqa: B008 - has no state
        base_url: str = DEFAULT_BASE_URL,
        name: str | None = None,
        headers: Mapping[str, SecretStr] | None = None,
        options: EndpointOptions = EndpointOptions(),  # noqa: B008 - frozen
        times: EndpointTimes = EndpointTimes(),
        find: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        check_key_is_safe(base_address(base_url))
        kind.check(endpoint)
        self.kind = kind
        self._endpoint = endpoint
        self._name = name or f"{kind.prefix}{endpoint}"
        self.options = options
        self._times = times
        self._find = find
        bucket = options.bucket
        self._bucket = Bucket(bucket) if bucket is not None else None
        self._storage_hosts = {*options.storage_hosts, *([bucket.host_and_port] if bucket else [])}
        self._not_in_front: set[str] = set()
        self._gateway: OwnGateway | None = None
        self._gateway_asked = False
        self._held = 0
        self._gateway_silent: ComfyRemoteError | None = None
        self._client: str | None = None
        self._headers = dict(headers or {})
        if key is not None:
            self._headers["Authorization"] = _bearer(key)
        self._use(base_url)

    def _use(self, base_url: str) -> None:
        """Have the endpoint at this address, checked before."""
        self._base_url = base_url.rstrip("/")
        address = f"{self._base_url}/{self._endpoint}"
        self._descriptions = Descriptions(
            DescriptionCache(self.options.memory, address),
            self._name,
            self.act,
            self._is_awake,
            patience=self._times.describe,
            fresh=self._times.fresh,
            recent=self._times.recent,
        )
        self._http = HttpClient(
            address,
            name=f"Endpoint {self._endpoint}",
            headers=self._headers,
            elsewhere=self._storage_hosts,
            limits=self._times.requests,
            tls=self.options.tls,
        )

    @property
    def name(self) -> str:
        """``runpod:ENDPOINT``, or the name given."""
        return self._name

    @property
    def inputs_kept_by(self) -> str:
        """The endpoint's address."""
        return f"{self._base_url}/{self._endpoint}"

    @property
    def server(self) -> dict[str, str]:
        """The endpoint, the server that has it, and its kind, unless it is RunPod's."""
        server = {"endpoint": self._endpoint, "base_url": self._base_url}
        if self.kind.name != "runpod":  # which the records of earlier versions do not say
            server["kind"] = self.kind.name
        return server

    @property
    def is_the_providers(self) -> bool:
        """Whether it is at the provider, and no gateway of somebody's own."""
        return not self.kind.may_be_own_gateway(self._base_url)

    @property
    def no_worker(self) -> str:
        """Why no worker may come, and what to do."""
        return self.kind.no_worker_at(self._base_url)

    @property
    def time_limit(self) -> float | None:
        """What ``executionTimeout`` of its policy says; an endpoint's own limit is not known."""
        timeout = (self.options.policy or {}).get("executionTimeout")
        return timeout / 1000 if isinstance(timeout, int) else None

    @property
    def body_limit(self) -> int | None:
        """Bytes that a request may have, its files included; ``None`` if they go by themselves."""
        return self.kind.body_limit if self._gateway is None else None

    @property
    def result_limit(self) -> int | None:
        """Bytes that a result may have; ``None`` if large outputs are stored elsewhere."""
        return self.kind.result_limit(self._base_url)

    async def __aenter__(self) -> RunPodTarget:
        if self._find is not None:
            self._use(await self._find())
            self._find = None
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._descriptions.stop(self._times.leave)
        await self._http.__aexit__()

    async def has_input(self, name: str) -> bool:
        """Never: a worker starts with an empty input folder."""
        return False

    async def submit(self, request: RunRequest) -> RemoteRef:
        """``POST /run``, the files inside; those that do not fit by way of the bucket.

        A gateway of ours gets larger files by themselves before.
        """
        stored: dict[str, StoredInput] = {}
        try:
            with before_sending():
                gateway = await self._own_gateway()
                body = await self._request_body(request, gateway, stored)
            # A request that names files by hash is another one than that which has them.
            key = f"{request.job_id}:by-hash" if request.known_inputs else request.job_id
            with answer_graded(_REFUSALS):
                remote_id = await self._post_run(key, body)
        except BaseException as error:
            # If it is not known whether it arrived, a worker may need them yet.
            if not isinstance(error, SubmissionUnknown):
                await self._unstore(stored)
            if isinstance(error, TargetNotFound):
                raise self._missing(error) from error
            raise
        if request.front and gateway is None:
            self._not_in_front.add(request.job_id)
        return self._ref(request.job_id, remote_id)

    async def stores_files(self) -> bool:
        """Whether a gateway of ours is there, which has a store."""
        gateway = await self._own_gateway()
        if gateway is None and self._gateway_silent is not None:
            raise self._gateway_silent
        return gateway is not None

    async def store_files(
        self, files: Sequence[InputFile], on_sent: Callable[[int, int], None] | None = None
    ) -> None:
        """Put files into the gateway's store, four at a time."""
        gateway = await self._own_gateway()
        if gateway is None:
            raise ConfigurationError(f"{self._name} has no store for files.")
        await gateway.send(files, on_sent)

    async def _own_gateway(self) -> OwnGateway | None:
        """The gateway, if it is one of ours that takes files; ``None`` also if it is not known.

        It is asked once, and RunPod never.
        """
        if not self._gateway_asked and self.kind.may_be_own_gateway(self._base_url):
            try:
                response = await self._http.get_once("health")
            except (TargetUnreachable, RateLimited) as error:
                self._gateway_silent = error
                return None
            except ComfyRemoteError:
                return None  # the submission will say what is wrong
            self._gateway_asked, self._gateway_silent = True, None
            self._gateway = own_gateway(
                response, self._http, self._name, self._times.requests.backoff
            )
            if self._gateway is not None and self.options.home is not None:
                self._client = await asyncio.to_thread(installation_id, self.options.home)
        return self._gateway

    async def _request_body(
        self, request: RunRequest, gateway: OwnGateway | None, stored: dict[str, StoredInput]
    ) -> bytes:
        """The JSON of a request, small enough. What is put into the bucket is noted."""
        named = by_content(request, in_one_folder=True)
        ours = gateway is not None or self.kind.only_ours
        policy = policy_of(self.options.policy or {}, request, ours=ours, client=self._client)
        inside = [file for file in request.files if file.sha256 not in request.known_inputs]
        there: frozenset[str] = frozenset()

        async def body_now() -> bytes:
            return await asyncio.to_thread(request_body, named, stored, policy, there)

        if gateway is not None:
            alone = [file for file in inside if file.size > SMALLEST_SENT_ALONE]
            there = await gateway.send(alone, request.on_sent)
            inside = [file for file in inside if file.sha256 not in there]
        body = await body_now()
        limit = self.kind.body_limit
        if len(body) > limit and gateway is not None:
            there |= await gateway.send(too_many_bytes(inside, len(body) - limit))
            body = await body_now()
        elif len(body) > limit and self._bucket is not None:
            whole = [file for file in named.files if file.sha256 not in request.known_inputs]
            by_bucket = too_many_bytes(whole, len(body) - limit)
            progress = UploadProgress(by_bucket, request.on_sent)
            for file in by_bucket:
                stored[file.name] = await store_input(self._bucket, request.job_id, file, progress)
            body = await body_now()
        if len(body) > limit:
            raise self._gateway_silent or self._too_large(request, len(body), gateway)
        return body

    def _too_large(
        self, request: RunRequest, size: int, gateway: OwnGateway | None
    ) -> RequestTooLarge:
        limit = self.kind.body_limit
        details: dict[str, JsonValue] = {"size": size, "limit": limit}
        if gateway is not None:
            return RequestTooLarge(
                f"The workflow itself is {size / 2**20:.1f} MiB as a request, without its larger "
                f"input files, and {self._name} takes {limit / 2**20:.0f} MiB.",
                advice="Make the workflow smaller: a node may have a picture or a long text in a "
                "value of its own.",
                details=details,
            )
        sizes = ", ".join(f"{f.name} {f.size / 2**20:.1f} MiB" for f in request.files)
        return RequestTooLarge(
            f"The request is {size / 2**20:.1f} MiB, and {self.kind.provider} takes "
            f"{limit / 2**20:.0f} MiB. Input files: {sizes or 'none'}.",
            advice="Make the input files smaller (base64 adds a third), set a bucket for them "
            "(BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY), or use a "
            "pod or another ComfyUI URL, which has no such limit.",
            details=details,
        )

    async def _unstore(self, stored: Mapping[str, StoredInput]) -> None:
        bucket = self._bucket
        if bucket is None:
            return
        for one in stored.values():
            try:
                await bucket.delete(one.key)
            except OutputError as error:
                _log.warning("an input stays in storage: %s", error)

    async def find(self, job_id: str) -> RemoteRef | None:
        """RunPod has no way to look for a job by anything but its own id."""
        raise SubmissionUnknown(
            f"Whether {self._name} accepted the job is not known, and {self.kind.provider} cannot "
            "be asked.",
            advice=f"Look at the endpoint's requests in {self.kind.provider}'s console; if it is "
            "not there, run the workflow again.",
        )

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Poll ``/status``: about four times a second at first, less for long jobs.

        A gateway of ours holds each question until the next is due, or the job has ended.
        """
        if ref.job_id in self._not_in_front:
            self._not_in_front.discard(ref.job_id)
            yield Log(
                f"{self._name} runs jobs in the order in which they arrive: this one waits behind "
                "the others, though it was queued in front.",
                "warning",
            )
        reader = StatusReader(
            prompt,
            delay_means_begun=self.kind.delay_means_begun,
            answered_before=self.kind.only_ours or self._descriptions.cache.worker_is_ours,
        )
        names, waits = UsersNames(prompt), Deadline(self._times.wait_noted)
        phase, phase_due = None, Deadline(self._times.wait_noted)
        async with aclosing(self._statuses(ref)) as statuses:
            async for status in statuses:
                if waits.left == 0 and isinstance(status, JobStatus):
                    waits = Deadline(None)
                    if status.status is RunPodState.IN_QUEUE and (why := self._why_it_waits()):
                        yield Log(why, "warning")
                if isinstance(status, JobStatus) and phase_due.left == 0:
                    phase_due = Deadline(self._times.wait_noted)
                    if status.status is not RunPodState.IN_QUEUE:
                        phase_due = Deadline(None)
                    elif (now := await self._phase()) not in (None, phase):
                        phase = now
                        yield Phase(now)
                if status is None:
                    yield forgotten(self._name, self.kind.results_kept_at(self._base_url))
                    return
                for event in reader.events(status) if isinstance(status, JobStatus) else [status]:
                    self._note(event, reader)
                    yield names.event(event)
                    if isinstance(event, Finished):
                        return

    def _note(self, event: Event, reader: StatusReader) -> None:
        """Remember what an event shows of the endpoint's worker."""
        cache = self._descriptions.cache
        if isinstance(event, Started) or (isinstance(event, Finished) and reader.may_run_on):
            cache.worker_is_busy(busy=reader.may_run_on)
        if isinstance(event, Finished) and reader.worker_is_ours is not None:
            cache.saw_worker(ours=reader.worker_is_ours)

    async def _phase(self) -> Literal["starting", "throttled"] | None:
        """What a job that waits is waiting for, if the endpoint tells."""
        if self._gateway is not None:
            return None  # its workers are there, or are not
        try:
            health = _health(await self._http.get_once("health"))
        except ComfyRemoteError:
            return None  # whoever polls finds out for how long
        if health.ready + health.running > 0:
            return None
        if health.starting > 0:
            return "starting"
        return "throttled" if health.throttled > 0 else None

    def _why_it_waits(self) -> str:
        seconds = self._descriptions.cache.busy_for
        if seconds is None:
            return ""
        return (
            f"The job that was cancelled at {self._name} {seconds_text(seconds)} ago may still run "
            "there: this one waits until the worker is free."
        )

    def not_returned(self, prompt: Prompt) -> str:
        """What the public worker-comfyui cannot return, unless the worker is known to be ours."""
        ours = self.kind.only_ours or self._descriptions.cache.worker_is_ours
        return "" if ours else not_returned_before(prompt, known=ours is not None)

    def if_unfollowed(self, prompt: Prompt) -> Log:
        """For how long a result is there."""
        return Log(self.kind.results_kept_at(self._base_url))

    async def act(
        self,
        payload: Mapping[str, JsonValue],
        on_message: Callable[[str], None] | None = None,
        *,
        ttl: int | None = None,
    ) -> JsonValue:
        """Have a worker of ours do something that is no workflow, and wait for its answer.

        Cancelled, it cancels the job.

        Args:
            ttl: Milliseconds after which the endpoint is to drop the job; at least 10 000.

        Raises:
            ComfyRemoteError: The worker's own error, or the endpoint could not be asked.
        """
        job_id = str(uuid.uuid4())
        job: dict[str, JsonValue] = {"input": {**payload, "format": COMFY_REMOTE_1}}
        if ttl is not None:
            job["policy"] = {"ttl": ttl}
        body = json.dumps(job).encode()
        try:
            ref = self._ref(job_id, await self._post_run(job_id, body))
        except TargetNotFound as error:
            raise self._missing(error) from error
        try:
            async with aclosing(self._statuses(ref)) as statuses:
                return await _answer_of(statuses, self._name, on_message)
        except asyncio.CancelledError:
            await self.cancel(ref)
            raise
        finally:
            if payload.get("action") in CHANGES_MODELS | CHANGES_NODES:
                await asyncio.to_thread(self._descriptions.doubt)

    async def _statuses(self, ref: RemoteRef) -> AsyncGenerator[JobStatus | Log | None, None]:
        """One ``/status`` after another; a `Log` for what went wrong on the way.

        ``None``, the last of all, when the endpoint does not know the job.
        """
        polling, outage = self._times.polling, Outage(self._times.polling)
        began = time.monotonic()
        holds = self._gateway is not None
        if not holds:
            # The submission was a request as well: with it, four a second is the most.
            await asyncio.sleep(polling.first)
        while True:
            asked = time.monotonic()
            interval = polling.interval(asked - began)
            held = holds and self._held < _MOST_HELD
            path = _path("status", ref)
            if held:
                path = f"{_path('status-sync', ref)}?wait={interval * 1000:.0f}"
            try:
                self._held += held
                try:
                    response = await self._http.get_once(path)
                finally:
                    self._held -= held
                status = _parse(JobStatus, response, "status")
                outage.answered()
            except AuthenticationError:
                raise
            except TargetNotFound:
                if held:  # an older gateway
                    holds = False
                    continue
                yield None
                return
            except TargetError as error:
                delay = outage.failed(error)
                if delay is None:
                    raise TargetUnreachable(
                        f"The endpoint has been out of reach for {polling.patience:.0f} s. "
                        f"{error.message} The job may still be running there.",
                        advice=Hint.RESUME_IN_TIME(kept=self.kind.results_kept_at(self._base_url)),
                        details=error.details,
                    ) from error
                if said := outage.said_of(error.message, delay):
                    yield Log(said, "warning")
                await asyncio.sleep(delay)
                continue
            yield status
            await asyncio.sleep(max(0.0, interval - (time.monotonic() - asked)))

    async def cancel(self, ref: RemoteRef) -> None:
        """``POST /cancel/{id}``; a job that has ended stays as it is."""
        try:
            await self._http.post_idempotent(_path("cancel", ref))
        except TargetNotFound:
            return  # it is gone, so it does not run

    async def withdraw(self, ref: RemoteRef) -> None:
        """Cancel it if it waits. See `Withdraws`.

        RunPod knows no such condition: a job that begins between the two requests is stopped.
        """
        status = _parse(JobStatus, await self._http.get_once(_path("status", ref)), "status")
        if status.status is RunPodState.IN_QUEUE:
            await self.cancel(ref)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes that came with the result, or a stream from where they were stored."""
        source = output.source
        if output.text is not None:
            yield output.text.encode("utf-8", "replace")[offset:]
        elif source is None:
            raise OutputLost(
                f"The worker sent nothing for {output.filename}.",
                advice="Update the worker, then run the workflow again.",
            )
        elif source.kept is not None:
            async for chunk in self._read_kept(output, source.kept, offset):
                yield chunk
        elif source.data is not None:
            data = _decoded(output.filename, source.data)
            for start in range(offset, len(data), CHUNK_SIZE):
                yield data[start : start + CHUNK_SIZE]
        else:
            stored_elsewhere = source.url is not None
            stream = (
                self._http.stream_elsewhere(source.url, offset)
                if source.url is not None
                else self._http.stream(source.path or "", offset)
            )
            try:
                async with aclosing(stream) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (TargetNotFound, AuthenticationError) as error:
                # Storage answers 403 once the signature in the address has expired.
                if isinstance(error, AuthenticationError) and not stored_elsewhere:
                    raise
                raise OutputLost(
                    f"{output.filename} is no longer stored.",
                    advice="Stored outputs are deleted after a while. Run the workflow again.",
                    details=error.details,
                ) from error

    async def _read_kept(
        self, output: RemoteOutput, kept: str, offset: int
    ) -> AsyncGenerator[bytes, None]:
        """Take an output from the worker in parts, a job each."""
        misses = 0
        size: int | None = output.size
        while size is None or offset < size:
            payload: dict[str, JsonValue] = {"action": "fetch", "kept": kept, "offset": offset}
            try:
                part = FetchAnswer.model_validate(await self.act(payload))
            except ValidationError as error:
                raise TargetError(
                    f"The worker's part of {output.filename} cannot be read.",
                    advice="Update the worker.",
                ) from error
            except OutputLost:
                # Without a volume only the worker that made it has it, and another was asked.
                misses += 1
                if misses >= _FETCH_MISSES:
                    raise
                continue
            data = _decoded(output.filename, part.data)
            if not data:
                return
            size = part.size
            for start in range(0, len(data), CHUNK_SIZE):
                yield data[start : start + CHUNK_SIZE]
            offset += len(data)

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        """DELETE what was stored for these, unless the options say that it stays."""
        for output in outputs if not self.options.keep_stored else ():
            if output.source is not None and output.source.delete_url is not None:
                try:
                    await self._http.delete_elsewhere(output.source.delete_url)
                except TargetError as error:
                    _log.warning("%s stays in storage: %s", output.filename, error)

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """What its workers have, as far as it is known; see `Descriptions`."""
        await self._own_gateway()  # for `body_limit`
        return await self._descriptions.describe()

    async def described_before(self) -> Capabilities:
        """What its workers said the last time; see `DescribesByJob`."""
        await self._own_gateway()  # for `body_limit`
        return await asyncio.to_thread(self._descriptions.remembered)

    async def describe_again(self) -> Capabilities:
        """See `DescribesByJob`."""
        await self._own_gateway()  # for `body_limit`
        return await self._descriptions.describe(again=True)

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        """See `ConfirmsWhatRan`: asked of a worker that is idle, else what was said lately.

        All is unknown if nothing was.
        """
        del classes, folders
        health = await self.health()
        if health.ready:
            known = await self._descriptions.now()
        else:
            lately = self._times.trusted_busy if health.running else self._times.trusted
            known = await asyncio.to_thread(self._descriptions.lately, lately)
        return known or Capabilities(nodes=None, device=None, engine=None)

    async def still_runs(self, job_id: str) -> bool:
        """Not known: a worker's process says what it is, and not which."""
        del job_id
        return False

    async def what_ran(self, details: Mapping[str, JsonValue]) -> Capabilities | None:
        """See `ConfirmsWhatRan`."""
        try:
            ran = RanOn.model_validate(details.get("ran_on"))
        except ValidationError:
            return None
        return await self._descriptions.that_ran(ran)

    async def wake(self) -> None:
        """See `base.WakesWorkers`: any worker answers a job that asks what it has."""
        await self._descriptions.wake()

    @property
    def can_hold(self) -> bool:
        """At RunPod, where it can be changed, and on Modal."""
        account = self.options.account_url is not None and "Authorization" in self._headers
        return account or self.kind.idle_time is not None

    async def idle_time(self) -> float:
        """See `base.HoldsWorkers`."""
        if (url := self.options.account_url) is not None:
            return await idle_timeout(self._account_key(), url, self._endpoint)
        response = await self._http.get("health")
        said = _parse(EndpointHealth, response, "health").idle_timeout or self.kind.idle_time
        if said is None:
            raise ConfigurationError(f"How long idle workers of {self._name} wait is not known.")
        return said

    async def set_idle_time(self, seconds: float) -> None:
        """See `base.HoldsWorkers`."""
        if (url := self.options.account_url) is None:
            raise ConfigurationError(
                f"How long idle workers of {self._name} wait is set where it is deployed.",
                advice="Raise scaledown_window in its modal_config.json, and deploy it again.",
            )
        await set_idle_timeout(self._account_key(), url, self._endpoint, round(seconds))

    def _account_key(self) -> SecretStr:
        return SecretStr(self._headers["Authorization"].get_secret_value().removeprefix("Bearer "))

    async def _is_awake(self) -> bool:
        """Whether a worker is up, so that asking it starts none."""
        try:
            response = await self._http.get_once("health")
            workers = _parse(EndpointHealth, response, "health").workers
        except TargetError:
            return False
        return workers.idle + workers.running > 0

    async def health(self) -> Health:
        """``GET /health``."""
        try:
            response = await self._http.get("health")
        except TargetNotFound as error:
            raise self._missing(error) from error
        return _health(response)

    async def _post_run(self, job_id: str, body: bytes, tries: int = 3) -> str:
        """Its id on the endpoint."""
        try:
            return await self._post_run_once(job_id, body)
        except SubmissionUnknown as error:
            # A gateway of ours knows a repeated key; RunPod would run the job twice.
            if tries > 1 and await self._knows_keys():
                return await self._post_run(job_id, body, tries - 1)
            raise SubmissionUnknown(
                error.message,
                advice="Nothing was sent again, since it might run twice. Look at the "
                f"endpoint's requests in {self.kind.provider}'s console; if it is not there, run "
                "the workflow again.",
                details=error.details,
            ) from error

    async def _post_run_once(self, job_id: str, body: bytes) -> str:
        response = await self._http.submit("run", body, {IDEMPOTENCY_HEADER: job_id})
        try:
            return _parse(JobStatus, response, "run").id
        except TargetError as error:
            # Accepted, by its status: somebody in between has replaced the answer.
            raise SubmissionUnknown(
                f"{error.message} It is not known whether the job was accepted.",
                details=error.details,
            ) from error

    async def _knows_keys(self) -> bool:
        try:
            response = await self._http.get("health")
        except ComfyRemoteError:
            return False
        return response.headers.get(IDEMPOTENCY_HEADER) == "supported"

    def _missing(self, error: TargetNotFound) -> TargetNotFound:
        missing = self.kind.missing(self._endpoint, self._base_url)
        missing.details.update(error.details)
        return missing

    def _ref(self, job_id: str, remote_id: str) -> RemoteRef:
        return RemoteRef(job_id, remote_id, self.server)


async def _answer_of(
    statuses: AsyncGenerator[JobStatus | Log | None, None],
    name: str,
    on_message: Callable[[str], None] | None,
) -> JsonValue:
    reader = StatusReader({})
    async for status in statuses:
        events: Iterable[Event]
        if not isinstance(status, JobStatus):
            events = [status or forgotten(name)]
        elif status.status is RunPodState.COMPLETED and error_in(status.output) is None:
            return status.output
        else:
            events = reader.events(status)
        for event in events:
            if isinstance(event, Finished) and event.error is not None:
                raise event.error
            if on_message and isinstance(event, Progress | Log) and event.message:
                on_message(event.message)
    raise TargetError("The endpoint's statuses ended without an answer.")


def _health(response: Response) -> Health:
    health = _parse(EndpointHealth, response, "health")
    workers, jobs = health.workers, health.jobs
    return Health(
        ready=workers.idle,
        running=jobs.in_progress,
        queued=jobs.in_queue,
        starting=workers.initializing,
        throttled=workers.throttled,
    )


def _path(action: str, ref: RemoteRef) -> str:
    return f"{action}/{quote(ref.remote_id, safe='')}"


def _decoded(filename: str, data: str) -> bytes:
    # worker-comfyui's clients are used to data URIs in both directions.
    tail = data.partition(",")[2] if data.startswith("data:") else data
    try:
        return base64.b64decode(tail, validate=True)
    except ValueError as error:
        raise OutputLost(
            f"{filename} arrived damaged: it is not base64.", advice="Run the workflow again."
        ) from error


def _bearer(key: SecretStr) -> SecretStr:
    return SecretStr(f"Bearer {key.get_secret_value()}")


_Model = TypeVar("_Model", bound=BaseModel)


def _parse(model: type[_Model], response: Response, what: str) -> _Model:
    try:
        return model.model_validate(response.json())
    except ValidationError as error:
        raise TargetError(
            f"The endpoint's answer to /{what} is not RunPod's: {error.errors()[0]['msg']}.",
            advice="Check RUNPOD_ENDPOINT_BASE_URL: another program may be there.",
        ) from error
