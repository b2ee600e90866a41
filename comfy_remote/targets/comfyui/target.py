"""A ComfyUI that listens somewhere: this machine, the LAN, a pod's proxy.

Drives it over its own HTTP and WebSocket API. Polling decides; the socket only makes it
quicker, so a refused or dropped one costs time and nothing else. The worker drives its
engine through this same class.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...advice import Hint
from ...aio import concurrent_map, within
from ...clean import cleaned_error
from ...config.folders import shared_values
from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    OutputLost,
    OutputTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
)
from ...events import DidItRun, Event, Finished, JobState, Log
from ...media.files import CHUNK_SIZE
from ...net.address import base_address, check_key_is_safe, is_loopback
from ...net.answers import REFUSALS, Response
from ...net.http import TOO_LARGE, HttpClient, version_in
from ...outputs import RemoteOutput
from ...types import JsonValue
from ...workflow.files import rename_files
from ...workflow.prompt import Prompt
from ...workflow.schema import Schemas
from ...workflow.spelling import as_listed, classes_with_paths
from ..base import (
    CHOICE_KEY,
    Capabilities,
    Health,
    RemoteRef,
    RunRequest,
    Takes,
    answer_graded,
    before_sending,
)
from ..engine_facts import listed_models
from ..input_names import UsersNames, by_content
from ..upload_progress import UploadProgress
from .connection import ComfyUIConnection
from .follow import FollowTimes, PromptFollower, cancelled
from .frames import FrameSpool, SentFrames, senders
from .queue import (
    prompt_in,
    queue_items,
    refusal,
    skipped_in,
    skipped_nodes,
    skipped_note,
)
from .queue_looks import Queue, QueueLooks
from .socket import ComfyUISocket, SpareSockets
from .uploads import Uploads, has_input

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

    from ...media.values import EncodedValue
    from ..base import InputFile
    from .pack_there import PackThere
    from .sharing import Sharing

__all__ = ["ComfyUITarget", "device_of", "engine_of"]

# Above that, one answer with all of them is quicker.
_CLASSES_ONE_BY_ONE = 24
_LISTS_WITHIN = 10.0
# Bytes. These are asked for again and again; a queue has the workflow of every prompt in it.
_LARGEST_ENTRY = 32 * 1024 * 1024
_LARGEST_QUEUE = 64 * 1024 * 1024
_QUEUES = ("queue_running", "queue_pending")
# Listed by ComfyUI beside the folders that hold models.
_NO_MODELS = {"custom_nodes", "datasets"}


class ComfyUITarget:
    """The `Target` of one ComfyUI URL.

    Args:
        name: What to call it in errors; the URL by default.
        headers: Sent with every request, for a ComfyUI behind a login; with any, the URL is
            ``https``, or on this machine.
        times: How long it waits for what. A job that is given up may still be running.
        find: Looks for the ComfyUI when the target is opened: its name and its URL.
        sync_token: By which its owner lets models and node packs be brought to it, where our node
            pack is installed.
        connection: An open one to that URL, which stays open; one of its own when ``None``.

    Raises:
        ConfigurationError: The URL is invalid, or the headers would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        headers: Mapping[str, SecretStr] | None = None,
        times: FollowTimes = FollowTimes(),  # noqa: B008 - frozen
        find: Callable[[], Awaitable[tuple[str, str]]] | None = None,
        connection: ComfyUIConnection | None = None,
        tls: ssl.SSLContext | None = None,
        sync_token: SecretStr | None = None,
    ) -> None:
        self._tls = tls
        self._sync_token = sync_token
        self._name = name or url.rstrip("/")
        self._headers = headers
        self._times = times
        self._find = find
        self._connection = connection
        self._frames = FrameSpool()
        self._use(url)
        self._sockets: dict[str, ComfyUISocket] = {}
        self._spare = SpareSockets()
        self._cancelled: dict[str, DidItRun] = {}
        self._notes: dict[str, list[Log]] = {}
        self._uploads = Uploads(self._name)
        self._versions: dict[str, str | None] = {}
        self._looks = QueueLooks(self.queue, fresh=times.polling.longest / 2)

    @property
    def name(self) -> str:
        """The URL, or the name given."""
        return self._name

    def _use(self, url: str) -> None:
        """Talk to this address."""
        self.url = url.rstrip("/")
        if self._headers:
            check_key_is_safe(base_address(self.url))
        # An address that is its own name is said once: "ComfyUI at http://…".
        named = "" if self._name.rstrip("/") == self.url else f" ({self._name})"
        self._http = (
            self._connection.http
            if self._connection is not None
            else HttpClient(
                self.url,
                name=f"ComfyUI{named}",
                headers=self._headers,
                limits=self._times.requests,
                tls=self._tls,
            )
        )

    async def __aenter__(self) -> ComfyUITarget:
        if self._find is not None:
            self._name, url = await self._find()
            self._use(url)
        self._spare = SpareSockets()
        if self._connection is None:
            await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for socket in list(self._sockets.values()):
            await self._let_go(socket)
        self._sockets.clear()
        await self._looks.stop()
        await self._spare.close()
        self._frames.close()
        if self._connection is None:
            await self._http.__aexit__()

    async def has_input(self, name: str) -> bool:
        """Whether ComfyUI's ``input`` folder has that file."""
        return await has_input(self._http, name)

    def if_unfollowed(self, prompt: Prompt) -> Log:
        """Pictures that are only sent, and otherwise what is in ComfyUI's memory alone."""
        if sending := senders(prompt):
            nodes = ", ".join(f"{one} ({prompt[one]['class_type']})" for one in sending)
            return Log(
                f"The pictures of {nodes} are only sent while the job runs, and will be lost. Save "
                "Image instead keeps them.",
                "warning",
            )
        return Log("ComfyUI has its queue and its history in memory: its restart loses the job.")

    async def put_value(self, value: EncodedValue) -> str | None:
        """See `TakesValues`. Only on this machine: elsewhere, a value may be there already."""
        if not self.local:
            return None
        shared = await self._sharing.send(value)
        return shared or await self._uploads.send_value(self._http, value)

    async def value_here(self, output: RemoteOutput) -> memoryview | None:
        """See `GivesValues`."""
        return await self._sharing.take(output.filename) if self.local else None

    @cached_property
    def _sharing(self) -> Sharing:
        from ...media.shared_values import SharedValues  # here: only parts of workflows need it
        from .sharing import Sharing

        return Sharing(self._http, SharedValues(shared_values()))

    async def submit(self, request: RunRequest) -> RemoteRef:
        """Upload the files, open the socket, post the prompt under our own id."""
        socket = self._spare.take() or self._socket_of(request.job_id)
        self._sockets[request.job_id] = socket
        try:
            with UsersNames(request.prompt).in_errors():
                with before_sending():
                    prompt, schemas, _ = await asyncio.gather(
                        self._with_uploads(request), self._lists(request.prompt), socket.start()
                    )
                    prompt, respelled = as_listed(prompt, schemas)
                with answer_graded(REFUSALS):
                    ref = await self._post(request, prompt, socket.client_id)
        except BaseException:
            self._sockets.pop(request.job_id, None)  # none, if the target was closed meanwhile
            await self._let_go(socket)
            raise
        self._notes[request.job_id] = [Log(str(one)) for one in respelled]
        if request.repo_list:
            self._notes[request.job_id].append(
                Log(
                    f"The models of repo_list are not fetched: {self._name} is a ComfyUI, and only "
                    "a worker fetches models. Put those that are missing into its models folder.",
                    "warning",
                )
            )
        return ref

    def _socket_of(self, client_id: str) -> ComfyUISocket:
        """The connection's, with an id of its own, or a new one."""
        if self._connection is not None:
            return self._connection.socket
        return ComfyUISocket(self._http, client_id, self._times.reconnect)

    async def _let_go(self, socket: ComfyUISocket) -> None:
        """Close a socket, unless it is the connection's."""
        if self._connection is None:
            await socket.stop()

    async def _post(self, request: RunRequest, prompt: Prompt, client_id: str) -> RemoteRef:
        # The workflow may come with marks: they are for the page's ComfyUI, not for this one.
        extra: dict[str, JsonValue] = {**request.extra_data, CHOICE_KEY: {"target": None}}
        if request.workflow is not None:
            extra["extra_pnginfo"] = {"workflow": dict(request.workflow)}
        body = {
            "prompt": prompt,
            "prompt_id": request.job_id,
            "client_id": client_id,
            "extra_data": extra,
            **({"front": True} if request.front else {}),
        }
        try:
            response = await self._http.submit("prompt", json.dumps(body).encode(), accept=(400,))
            if response.status == 400:
                raise cleaned_error(refusal(response.body, response.status))
            accepted = self._ref(request.job_id, self._accepted(response), client_id)
            return _with_skipped(accepted, response, prompt)
        except SubmissionUnknown as error:
            if ref := await self._search(request.job_id):
                return self._ref(ref.job_id, ref.remote_id, client_id)
            raise SubmissionUnknown(
                f"{error.message} It was found neither in its queue nor in its history.",
                advice=Hint.NOT_SENT_AGAIN(job_id=request.job_id),
                details=error.details,
            ) from error

    async def find(self, job_id: str) -> RemoteRef | None:
        """Look in the queue and the history for a prompt with our id."""
        ref = self._ref(job_id, job_id, job_id)
        running, pending = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        if any(item.prompt_id == job_id for item in [*running, *pending]):
            return ref
        # After the queue, not before: it may just have left it.
        return ref if await self._entry(job_id, self._http.get) is not None else None

    async def recall(self, remote_id: str) -> tuple[RemoteRef, Prompt] | None:
        """Look in the queue and the history for any prompt, also one that others sent."""
        queue = (await self._http.get("queue", limit=_LARGEST_QUEUE)).json()
        listed = [queue.get(key) for key in _QUEUES] if isinstance(queue, dict) else []
        items = [item for items in listed if isinstance(items, list) for item in items]
        # After the queue, not before: it may just have left it.
        entry = await self._entry(remote_id, self._http.get)
        if entry is not None:
            items.append(entry.get("prompt"))
        for item in items:
            if (prompt := prompt_in(item, remote_id)) is not None:
                # A client id of our own: with the sender's, ComfyUI would take its socket away.
                return (
                    RemoteRef(remote_id, remote_id, {"url": self.url, "client_id": _new_id()}),
                    prompt,
                )
        return None

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Events from the socket where there is one; the end always from the history."""
        notes = self._notes.pop(ref.job_id, ())
        warnings = [note.message for note in notes if note.level == "warning"]
        for note in notes:
            yield note
        socket = self._sockets.pop(ref.job_id, None)
        just_sent = socket is not None
        if socket is None:
            socket = self._socket_of(ref.details.get("client_id", ref.job_id))
            await socket.start()
        skipped, names = skipped_in(ref.details), UsersNames(prompt)
        for problem in skipped:
            yield names.event(Log(f"{problem}.", "warning"))
        follower = PromptFollower(
            self,
            socket,
            ref.remote_id,
            prompt,
            frames=SentFrames(self._frames, prompt),
            times=self._times,
            from_start=just_sent,
        )
        try:
            async with aclosing(follower.events()) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        removed = self._cancelled.get(ref.remote_id)
                        # A prompt that we took out of the queue gets no history.
                        if event.state is JobState.EXPIRED and removed is not None:
                            event = cancelled(removed)
                        problems = (*skipped, *event.problems)
                        noted: dict[str, JsonValue] = {"warnings": [*warnings]} if warnings else {}
                        details = {**event.details, **noted}
                        event = replace(event, problems=problems, details=details)
                    yield names.event(event)
        finally:
            # Another program that follows the job as the same client takes the socket's messages.
            if follower.heard_end and self._connection is None:
                await self._spare.give(socket)
            else:
                await self._let_go(socket)

    async def cancel(self, ref: RemoteRef) -> None:
        """Take it out of the queue, or interrupt it if it runs; never another's prompt."""
        self._cancelled.setdefault(ref.remote_id, DidItRun.UNKNOWN)
        _, pending = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        await self._http.post_idempotent("queue", {"delete": [ref.remote_id]})
        running, _ = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        # Old ComfyUIs ignore the id and interrupt whatever runs, so ask first.
        if any(item.prompt_id == ref.remote_id for item in running):
            await self._http.post_idempotent("interrupt", {"prompt_id": ref.remote_id})
        elif any(item.prompt_id == ref.remote_id for item in pending):
            # So it never ran, unless the history says that it began in between.
            self._cancelled[ref.remote_id] = DidItRun.WITHDRAWN

    async def withdraw(self, ref: RemoteRef) -> None:
        """Take it out of the queue; one that runs goes on. See `Withdraws`."""
        _, pending = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        if not any(item.prompt_id == ref.remote_id for item in pending):
            return
        await self._http.post_idempotent("queue", {"delete": [ref.remote_id]})
        running, pending = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        if not any(item.prompt_id == ref.remote_id for item in [*running, *pending]):
            # So it never ran, unless the history says that it began in between.
            self._cancelled[ref.remote_id] = DidItRun.WITHDRAWN

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Stream a file from ``/view``."""
        if output.text is not None:
            yield output.text.encode("utf-8", "replace")[offset:]
            return
        if output.source is not None and output.source.file is not None:
            async for chunk in _read_file(output.source.file, output.filename, offset):
                yield chunk
            return
        if output.source is None or output.source.path is None:
            raise OutputLost(f"ComfyUI did not say where {output.filename} is.")
        path = output.source.path

        def note(headers: Mapping[str, str]) -> None:
            self._versions[path] = version_in(headers)

        try:
            async with aclosing(self._http.stream(path, offset, note)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except TargetNotFound as error:
            raise OutputLost(
                f"{self._name} does not have {output.filename}.",
                advice="The node never wrote it, or it was moved or deleted after the run.",
                details=error.details,
            ) from error
        except (AuthenticationError, TargetError) as error:
            # ComfyUI's own answers for a file outside of its folders. With a login of ours,
            # a 403 may be the login's.
            status = error.details.get("http_status")
            if status != 400 and (status != 403 or self._headers):
                raise
            raise OutputLost(
                f"{self._name} does not give out {output.filename} (HTTP {status}).",
                advice="The node named a file outside of ComfyUI's folders.",
                details=error.details,
            ) from error

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        """Delete the pictures among these that arrived on the socket."""
        self._frames.release(outputs)

    @property
    def local(self) -> bool:
        """Whether it is on this machine: no connection can damage what it gives."""
        return is_loopback(base_address(self.url).host)

    def version_of(self, output: RemoteOutput) -> str | None:
        """The ``ETag`` (else the ``Last-Modified``) that came with a file when it was read."""
        path = output.source.path if output.source is not None else None
        return self._versions.get(path) if path is not None else None

    async def models(self) -> dict[str, list[str]]:
        """The models that ComfyUI lists, by folder; ``/`` between the parts of a name."""
        folders = listed_models(await self._http.get_json("models"))

        async def listed(folder: str) -> list[str]:
            names = listed_models(await self._http.get_json(f"models/{quote(folder, safe='')}"))
            return [name.replace("\\", "/") for name in names]

        wanted = [folder for folder in folders if folder not in _NO_MODELS]
        return dict(zip(wanted, await concurrent_map(listed, wanted), strict=True))

    async def act(
        self, payload: Mapping[str, JsonValue], on_message: Callable[[str], None] | None = None
    ) -> JsonValue:
        """See `Acts`: by our node pack in that ComfyUI, where its owner allows it."""
        return await self._pack.act(payload, on_message)

    async def takes(self) -> Takes:
        """See `MayTake`."""
        return await self._pack.takes()

    async def send_model(
        self,
        payload: Mapping[str, JsonValue],
        parts: Sequence[InputFile],
        on_message: Callable[[str], None] | None = None,
        on_sent: Callable[[int, int], None] | None = None,
    ) -> JsonValue:
        """See `MayTake`."""
        return await self._pack.act(payload, on_message, parts, on_sent)

    async def with_installed(self, said: Capabilities) -> Capabilities:
        """See `MayTake`. Nothing is asked where no token is set."""
        return said if self._sync_token is None else await self._pack.with_installed(said)

    @cached_property
    def _pack(self) -> PackThere:
        from .pack_there import PackThere  # here: runs need none of it

        times = self._times
        return PackThere(
            *(self._http, self._name, self._sync_token),
            *(times.requests.backoff, times.installed),
        )

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """``/object_info`` and ``/system_stats``."""
        return (await self._described(classes))[0]

    async def _described(
        self, classes: Collection[str] | None
    ) -> tuple[Capabilities, dict[str, JsonValue]]:
        """What it has, and its ``/system_stats``."""
        if classes is None or len(classes) > _CLASSES_ONE_BY_ONE:
            paths = ["object_info"]
        else:
            paths = [f"object_info/{quote(name, safe='')}" for name in sorted(classes)]
        *found, stats = await concurrent_map(self._http.get_json, [*paths, "system_stats"])
        nodes: dict[str, JsonValue] = {}
        for part in found:
            if isinstance(part, dict):
                nodes.update(part)
        if not isinstance(stats, dict) or not all(isinstance(part, dict) for part in found):
            raise self._not_comfyui()
        described = Capabilities(
            nodes=nodes,
            device=device_of(stats),
            engine=engine_of(stats),
            memory_total=_memory_of(stats, "vram_total"),
            memory_free=_memory_of(stats, "vram_free"),
        )
        return described, stats

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        """See `base.TellsWhatRuns`."""
        from .what_runs import with_what_runs

        return await with_what_runs(self._http, self._described(classes), folders)

    async def still_runs(self, job_id: str) -> bool:
        """Its history is in its memory, so a job that is in there was run by this process."""
        return await self._entry(job_id, self._http.get) is not None

    async def health(self) -> Health:
        """The queue's length; a ComfyUI runs one prompt at a time."""
        running, pending = self._items(await self._http.get("queue", limit=_LARGEST_QUEUE))
        return Health(ready=0 if running else 1, running=len(running), queued=len(pending))

    async def socket_opens(self) -> bool:
        """Whether a WebSocket gets through: a proxy may refuse it, and then polling has to do."""
        socket = self._socket_of(_new_id())
        await socket.start()
        opened = socket.connected
        await socket.stop()
        return opened

    async def free_memory(self) -> None:
        """Ask ComfyUI to unload its models and empty its caches."""
        await self._http.post_idempotent("free", {"unload_models": True, "free_memory": True})

    async def forget(self, prompt_id: str) -> None:
        """Take a prompt that has ended out of the history."""
        await self._http.post_idempotent("history", {"delete": [prompt_id]})

    def place_inputs_in(self, folder: Path) -> None:
        """Have large input files written into ComfyUI's input folder, which is on this machine."""
        self._uploads.folder = folder

    @property
    def uploaded(self) -> Mapping[tuple[str, str], str]:
        """The names that ComfyUI gave to the files sent to it: by name and SHA-256."""
        return self._uploads.names

    async def system(self) -> dict[str, JsonValue]:
        """``/system_stats``: versions, memory, devices."""
        stats = await self._http.get_json("system_stats")
        if not isinstance(stats, dict):
            raise self._not_comfyui()
        return stats

    async def history_entry(self, prompt_id: str) -> dict[str, JsonValue] | None:
        """The history of one prompt, asked once; ``None`` until it has ended."""
        return await self._entry(prompt_id, self._http.get_once)

    async def holds(self, prompt_id: str) -> bool:
        """Whether a prompt runs or waits there, asked once."""
        running, pending = await self.queue()
        return any(item.prompt_id == prompt_id for item in [*running, *pending])

    async def queue_for(self, prompt_id: str) -> Queue:
        """A look at the queue that has a prompt, or began after this was called."""
        return await self._looks.for_prompt(prompt_id)

    async def queue(self) -> Queue:
        """What runs and what waits, asked once."""
        return self._items(await self._http.get_once("queue", limit=_LARGEST_QUEUE))

    def _accepted(self, response: Response) -> str:
        """The id in the answer to a prompt.

        Raises:
            SubmissionUnknown: It has no id. By its status, the job was accepted: something in
                between has replaced the answer, or this is not a ComfyUI.
        """
        page = ""
        try:
            answer = response.json()
        except TargetError as error:
            answer, page = None, f" {error.message}"
        if not isinstance(answer, dict) or not isinstance(answer.get("prompt_id"), str):
            raise SubmissionUnknown(
                f"{self._name} did not answer like a ComfyUI: there is no prompt_id.{page} It is "
                "not known whether it accepted the job."
            )
        return str(answer["prompt_id"])

    async def _entry(
        self, prompt_id: str, get: Callable[..., Awaitable[Response]]
    ) -> dict[str, JsonValue] | None:
        """The history of one prompt; ``None`` until it has ended.

        Raises:
            OutputTooLarge: It will not get smaller, so asking again is no use.
        """
        try:
            path = f"history/{quote(prompt_id, safe='')}"
            history = (await get(path, limit=_LARGEST_ENTRY)).json()
        except TargetError as error:
            if not error.details.get(TOO_LARGE):
                raise
            raise OutputTooLarge(
                f"{self._name}'s answer about the job cannot be used. {error.message}",
                advice="A node may write whole files into its texts: have it save them instead. "
                "If the workflow has no such node, check the address.",
                details=error.details,
            ) from error
        entry = history.get(prompt_id) if isinstance(history, dict) else None
        return entry if isinstance(entry, dict) else None

    def _items(self, response: Response) -> Queue:
        queue = response.json()
        if not isinstance(queue, dict):
            raise self._not_comfyui()
        return queue_items(queue.get("queue_running")), queue_items(queue.get("queue_pending"))

    def _not_comfyui(self) -> TargetError:
        return TargetError(
            f"{self._name} did not answer like a ComfyUI.", advice="Check the address."
        )

    def _ref(self, job_id: str, remote_id: str, client_id: str) -> RemoteRef:
        return RemoteRef(job_id, remote_id, {**self.server, "client_id": client_id})

    @property
    def server(self) -> dict[str, str]:
        """Its URL."""
        return {"url": self.url}

    @property
    def takes_partner_key(self) -> bool:
        """Where nobody on the way can read it. ComfyUI hands it to the API nodes of a prompt, and
        leaves it out of its queue and history (since 0.3.67; ``SENSITIVE_EXTRA_DATA_KEYS`` in its
        ``execution.py``).
        """
        address = base_address(self.url)
        return address.scheme == "https" or is_loopback(address.host)

    async def _search(self, job_id: str) -> RemoteRef | None:
        """Wait for a prompt whose answer was lost: ComfyUI may still be validating it."""
        deadline = time.monotonic() + self._times.search
        while (left := deadline - time.monotonic()) > 0:
            try:
                # It may accept connections and say nothing.
                if ref := await within(self.find(job_id), left):
                    return ref
            except (ComfyRemoteError, asyncio.TimeoutError):
                pass  # whatever it says now, the job may be there
            await asyncio.sleep(min(0.5, self._times.search / 10))
        return None

    async def _lists(self, prompt: Prompt) -> Schemas:
        """The schemas of the nodes with a value that might be a path in one of ComfyUI's lists.

        Only to spell such values as ComfyUI does: where it does not answer, they stay.
        """
        classes = sorted(classes_with_paths(prompt))

        async def described(name: str) -> dict[str, JsonValue]:
            try:
                found = await self._http.get_json(f"object_info/{quote(name, safe='')}")
            except ComfyRemoteError:
                return {}
            node = found.get(name) if isinstance(found, dict) else None
            return {name: node} if isinstance(node, dict) else {}

        nodes: dict[str, JsonValue] = {}
        with contextlib.suppress(asyncio.TimeoutError):
            for one in await within(concurrent_map(described, classes), _LISTS_WITHIN):
                nodes.update(one)
        return Schemas(nodes, self._name)

    async def _with_uploads(self, request: RunRequest) -> Prompt:
        """Send the files by content names; the prompt with the names that ComfyUI gave them."""
        request = by_content(request)
        progress = UploadProgress(request.files, request.on_sent)
        uploaded = await concurrent_map(
            lambda file: self._uploads.send(self._http, file, progress), request.files
        )
        names = zip((file.name for file in request.files), uploaded, strict=True)
        renamed = {old: new for old, new in names if old != new}
        return rename_files(request.prompt, renamed) if renamed else request.prompt


async def _read_file(path: Path, filename: str, offset: int) -> AsyncGenerator[bytes, None]:
    def read(at: int) -> bytes:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(CHUNK_SIZE)

    try:
        while chunk := await asyncio.to_thread(read, offset):
            yield chunk
            offset += len(chunk)
    except OSError as error:
        raise OutputLost(
            f"{filename} was sent on the socket, and is no longer stored.",
            advice="Run the workflow again.",
        ) from error


def _with_skipped(ref: RemoteRef, response: Response, prompt: Prompt) -> RemoteRef:
    """The reference, with the nodes that ComfyUI does not run: nothing tells of them later."""
    answer = response.json()
    errors = answer.get("node_errors") if isinstance(answer, dict) else None
    skipped = skipped_nodes(errors, prompt)
    return replace(ref, details={**ref.details, **skipped_note(skipped)})


def _new_id() -> str:
    return str(uuid.uuid4())


def engine_of(stats: Mapping[str, JsonValue]) -> str | None:
    """Name and version of the engine in ``/system_stats``."""
    system = stats.get("system")
    match system:
        # It answers with the version it is modelled on, for programs that look at that.
        case {"sandbox": str(version)}:
            return f"sandbox {version}"
        case {"comfyui_version": str(version)}:
            return f"ComfyUI {version}"
        case _:
            return None


def device_of(stats: Mapping[str, JsonValue]) -> str | None:
    """Name of the first device in ``/system_stats``."""
    match stats.get("devices"):
        case [{"name": str(name)}, *_]:
            return name
        case _:
            return None


def _memory_of(stats: Mapping[str, JsonValue], which: str) -> int | None:
    """Bytes of the first device's memory in ``/system_stats``: ``vram_total``, ``vram_free``."""
    match stats.get("devices"):
        case [dict(device), *_] if isinstance(number := device.get(which), int):
            return number
        case _:
            return None
