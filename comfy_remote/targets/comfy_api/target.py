"""A server that speaks Comfy API v2.

Its answers about a job decide; its live events make that quicker, and bring previews.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
    WorkflowInvalid,
)
from ...events import Event, Finished, Log
from ...net.address import base_address, check_key_is_safe, is_loopback
from ...net.answers import REFUSALS
from ...net.http import HttpClient
from ...outputs import RemoteOutput
from ...types import JsonValue, as_list, mapping
from ...workflow.load import parse_prompt
from ...workflow.prompt import Prompt
from ..base import (
    Capabilities,
    Health,
    RemoteRef,
    RunRequest,
    answer_graded,
    before_sending,
)
from ..input_names import UsersNames, by_content
from .answers import read_job
from .assets import InputAssets
from .content import OutputContent
from .follow import ComfyApiTimes, JobFollower
from .kind import SERVER_DETAIL
from .links import Links
from .live import LiveStreams
from .refusals import api_code, api_error, no_api
from .remote_jobs import RemoteJobs
from .server import ApiServer
from .status import JobReader
from .submission import Submissions

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = ["ComfyApiTarget", "ComfyApiTimes"]

# Asking for it shows whether the server and its key work.
_NO_JOB = "00000000-0000-0000-0000-000000000000"

_log = logging.getLogger(__name__)


class ComfyApiTarget:
    """The `Target` of one server that speaks Comfy API v2.

    Args:
        url: Of the server, and of the folder below which its API is mounted, without
            ``/api/v2``: ``https://cloud.comfy.org``, ``http://127.0.0.1:8189``.
        name: What to call it in errors; the URL by default.
        headers: Sent with every request to that server, and nowhere else; with any, the URL is
            ``https``, or on this machine.
        partner_key: The key that nodes which run at a provider (partner nodes) log in with. Sent
            with each job, recorded nowhere; ``None`` to send none.
        object_info: The path of ComfyUI's list of nodes, below the URL, on a server that has that,
            too. Comfy API v2 itself has none.
        storage_hosts: ``HOST`` or ``HOST:PORT`` in a private network from which outputs may come;
            see `net.guard`.
        times: How long it waits for what.
        tls: Which certificates are trusted; those that the system trusts when ``None``.

    Raises:
        ConfigurationError: The URL is invalid, or the headers would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        headers: Mapping[str, SecretStr] | None = None,
        partner_key: SecretStr | None = None,
        object_info: str | None = None,
        storage_hosts: Collection[str] = (),
        times: ComfyApiTimes = ComfyApiTimes(),  # noqa: B008 - frozen
        tls: ssl.SSLContext | None = None,
    ) -> None:
        address = base_address(url)
        self.url = url.rstrip("/")
        if headers or partner_key is not None:
            check_key_is_safe(address)
        self._name = name or self.url
        self._partner_key = partner_key
        self._object_info = object_info
        self._nodes: Mapping[str, JsonValue] | None = None
        self._times = times
        links = Links.of(self.url)
        # An address that is its own name is said once.
        called = "The server" if self._name.endswith(self.url) else self._name
        self._http = HttpClient(
            str(links.origin),
            name=called,
            headers=headers,
            elsewhere=storage_hosts,
            limits=times.requests,
            tls=tls,
        )
        where = f"{called} at {links.origin}"
        self._server = ApiServer(self._http, links, self._name, where, keyed=bool(headers))
        self._assets = InputAssets(self._server)
        self._submissions = Submissions(
            self._server, times.full, search=times.search, between=times.between
        )
        self._jobs = RemoteJobs(self._server, self.server, between=times.between)
        self._content = OutputContent(self._http, self._name)
        self._notes: dict[str, list[Log]] = {}
        self._streams = LiveStreams(self._http, times.reconnect)

    @property
    def name(self) -> str:
        """The URL, or the name given."""
        return self._name

    @property
    def takes_partner_key(self) -> bool:
        """Where nobody on the way can read it. The API forbids the server to store it."""
        address = base_address(self.url)
        return address.scheme == "https" or is_loopback(address.host)

    @property
    def server(self) -> dict[str, str]:
        """Its URL."""
        return {SERVER_DETAIL: self.url}

    async def __aenter__(self) -> ComfyApiTarget:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__()

    async def has_input(self, name: str) -> bool:
        """Never: files are there by their content, and under no name."""
        return False

    def if_unfollowed(self, prompt: Prompt) -> Log:
        """For how long a result is there."""
        return Log(
            f"{self._name} has a job and its outputs for a limited time, which each server decides "
            "for itself: a day, as a rule. Fetch them before that."
        )

    async def submit(self, request: RunRequest) -> RemoteRef:
        """Put the files there, then ``POST /jobs``, with our id as the key."""
        named = by_content(request)
        with UsersNames(request.prompt).in_errors():
            try:
                ref = await self._submitted(named)
            except WorkflowInvalid as error:
                if api_code(error) != "missing_asset":
                    raise
                # One that was there before has expired meanwhile.
                self._assets.forget()
                ref = await self._submitted(named)
        if notes := self._not_done(request):
            self._notes[request.job_id] = notes
        return ref

    async def _submitted(self, request: RunRequest) -> RemoteRef:
        with before_sending():
            prompt = await self._assets.in_prompt(request)
        with answer_graded(REFUSALS):  # a used key is an error of its own
            key = self._key_for_partners(request)
            sent = await self._submissions.send(request.job_id, prompt, key)
        if isinstance(sent, str):
            return self._jobs.ref(request.job_id, sent)
        return self._jobs.ref(request.job_id, sent.id, sent)

    def _key_for_partners(self, request: RunRequest) -> SecretStr | None:
        """That of whoever has sent the job, else the owner's."""
        from pydantic import SecretStr  # here: not on the way to `open_target`

        given = request.extra_data.get("api_key_comfy_org")
        if isinstance(given, str) and given and self.takes_partner_key:
            return SecretStr(given)
        return self._partner_key

    def _not_done(self, request: RunRequest) -> list[Log]:
        """What the request asks for, and this API has no words for."""
        notes = []
        if request.front:
            notes.append(
                f"{self._name} runs jobs in the order in which they arrive: this one waits behind "
                "the others, though it was queued in front."
            )
        if request.repo_list:
            notes.append(
                f"The models of repo_list are not fetched: {self._name} has the models that its "
                "owner has put there."
            )
        return [Log(note, "warning") for note in notes]

    async def find(self, job_id: str) -> RemoteRef | None:
        """Look for the job in the server's list, if it has one, by the label that it was sent with.

        That it is not in there proves nothing: not all servers have such labels.
        """
        try:
            found = await self._submissions.find(job_id)
        except ComfyRemoteError as error:
            raise self._not_known(f"and its jobs cannot be listed: {error.message}") from error
        if found is None:
            raise self._not_known("and none of the jobs that it lists is known to be this one.")
        return self._jobs.ref(job_id, found)

    def _not_known(self, why: str) -> SubmissionUnknown:
        return SubmissionUnknown(
            f"Whether {self._name} accepted the job is not known, {why}",
            advice="Look at its jobs where you manage it; if it is not there, run the workflow "
            "again.",
        )

    async def recall(self, remote_id: str) -> tuple[RemoteRef, Prompt] | None:
        """Any job, by its id, also one that others sent there.

        The prompt is empty where the server has none any more, or gives the workflow as it was
        drawn.
        """
        path = self._server.links.path("jobs", remote_id)
        try:
            job = read_job((await self._server.get(path)).json())
        except TargetNotFound:
            return None
        try:
            prompt = await self._prompt_at(f"{path}/workflow")
        except (TargetError, WorkflowInvalid) as error:
            _log.info("The prompt of job %s cannot be had: %s", remote_id, error.message)
            prompt = {}
        return self._jobs.ref(remote_id, job.id, job), prompt

    async def _prompt_at(self, path: str) -> Prompt:
        answer = mapping((await self._server.get(path)).json())
        if answer.get("format") != "api":
            return {}
        said = mapping(answer.get("workflow"))
        return parse_prompt(said, "The prompt on the target", check_links=False)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Ask for the job again and again; sooner when a live event says that it has ended."""
        notes = self._notes.pop(ref.job_id, [])
        for note in notes:
            yield note
        reader, names = JobReader(prompt, self._name, self._server.links), UsersNames(prompt)
        follower = JobFollower(
            lambda: self._jobs.get(ref),
            lambda: self._streams.opened(self._jobs.path(ref, "events")),
            reader,
            name=self._name,
            times=self._times,
            cancelled=lambda: self._jobs.cancelled(ref),
        )
        async with aclosing(follower.events()) as events:
            async for event in events:
                if isinstance(event, Finished):
                    self._jobs.forget(ref)
                    said = [note.message for note in notes]
                    if warnings := [*said, *as_list(event.details.get("warnings"))]:
                        event.details["warnings"] = warnings
                yield names.event(event)

    async def cancel(self, ref: RemoteRef) -> None:
        """``POST /jobs/{id}/cancel``; a job that has ended stays as it is."""
        await self._jobs.cancel(ref, waited=await self._jobs.waits(ref))

    async def withdraw(self, ref: RemoteRef) -> None:
        """Cancel it if it waits. See `Withdraws`.

        The API knows no such condition: a job that begins between the two requests is stopped.
        """
        if await self._jobs.waits(ref):
            await self._jobs.cancel(ref, waited=True)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Its content, from the server, or from the storage to which that leads."""
        async with aclosing(self._content.read(output, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    def version_of(self, output: RemoteOutput) -> str | None:
        """The ``ETag`` that came with it; without one, its address, as an asset never changes."""
        return self._content.version_of(output)

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """Its nodes, where it has ComfyUI's list of them; nothing else, since the API has no words.

        The list is asked for once: it is large, and there are no parts of it.
        """
        if self._nodes is None and self._object_info is not None:
            try:
                below = f"{self._server.links.mount}/{self._object_info}"
                listed = mapping(await self._http.get_json(below))
            except TargetUnreachable:
                raise
            except (TargetError, AuthenticationError) as error:
                _log.info("%s does not list its nodes: %s", self._name, error.message)
            else:
                self._nodes = listed or None
        nodes = self._nodes
        if nodes is not None and classes is not None:
            nodes = {name: nodes[name] for name in classes if name in nodes}
        return Capabilities(nodes=nodes, device=None, engine="Comfy API v2")

    async def health(self) -> Health:
        """Whether it answers, and takes the key. How busy it is, the API does not say.

        Raises:
            ComfyRemoteError: It does not.
        """
        answer = await self._http.get_once(
            self._server.links.path("jobs", _NO_JOB), tuple(REFUSALS)
        )
        if answer.status == 404 and api_error(answer) is None:
            raise no_api(self._name, self.url, answer.status)
        if answer.status >= 400 and answer.status != 404:
            raise self._server.refused(answer)
        if answer.status < 400:
            read_job(answer.json())  # it would be odd, but anything else is no Comfy API
        return Health(ready=1, running=0, queued=0, counted=False)
