"""Following one prompt on a ComfyUI: messages make it quick, polling decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from itertools import chain
from typing import Protocol

from ...advice import Hint
from ...data_class import dataclass
from ...errors import (
    EngineCrashed,
    JobCancelled,
    JobExpired,
    TargetError,
    TargetStalled,
    TargetUnreachable,
)
from ...events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Shown,
    ShownValues,
    Started,
)
from ...net.http import HttpLimits
from ...net.retry import Backoff, Outage, Polling
from ...outputs import RemoteOutput, in_prompt_order
from ...types import JsonValue
from ...workflow.prompt import Prompt
from .frames import SentFrames
from .history import finished_from_history, outputs_of_node, shown_by_node, silent_savers
from .messages import Message, NodeTextMessage, PreviewMessage, TextMessage
from .progress import ProgressTracker
from .queue_looks import Queue
from .socket import ComfyUISocket

__all__ = ["FollowTimes", "PromptFollower", "PromptSource"]

_MISSES_BEFORE_GONE = 3


@dataclass(frozen=True, slots=True)
class FollowTimes:
    """How long a client waits for what, in seconds.

    Attributes:
        requests: Those of each request.
        polling: How often it asks how a prompt stands; with a socket, every ``longest`` seconds.
        reconnect: The waits before a socket is opened again.
        search: For a prompt whose submission was not answered to turn up in one of the lists.
        stall: That ComfyUI may have a prompt and run nothing at all before it is given up.
        idle: Of that, before it is reported.
        quiet: Without a message before it is said that the prompt still runs.
        busy: For another prompt that runs before that is reported.
        last_words: For messages on their way when a prompt has ended.
        installed: For our pack there to say what it has: it may read all of it for that.
    """

    requests: HttpLimits = HttpLimits()
    polling: Polling = Polling()
    reconnect: Backoff = Backoff(first=0.5, longest=10.0)
    search: float = 10.0
    stall: float = 300.0
    idle: float = 30.0  # ComfyUI begins with a prompt at once if nothing else runs
    quiet: float = 90.0
    busy: float = 600.0
    last_words: float = 0.5
    installed: float = 300.0


class PromptSource(Protocol):
    """What polling asks a ComfyUI. Each request is sent once: the follower repeats it."""

    async def history_entry(self, prompt_id: str) -> dict[str, JsonValue] | None:
        """The entry of an ended prompt, ``None`` before that."""

    async def queue_for(self, prompt_id: str) -> Queue:
        """What runs and what waits, now or, if it has that prompt, a moment ago."""


class PromptFollower:
    """The events of one prompt, from now to its end.

    Args:
        socket: Started; whoever made it stops it.
        frames: Keeps the pictures that nodes send instead of saving them.
        from_start: Whether the prompt has just been submitted, so that no message was missed.
    """

    def __init__(
        self,
        source: PromptSource,
        socket: ComfyUISocket,
        prompt_id: str,
        prompt: Prompt,
        *,
        frames: SentFrames,
        times: FollowTimes,
        from_start: bool = False,
    ) -> None:
        self._source, self._socket = source, socket
        self._prompt_id, self._prompt = prompt_id, prompt
        self._times, self._frames = times, frames
        self._tracker = ProgressTracker(prompt)
        self._last = Progress()
        self._started = False
        self._position: int | None = -1  # differs from every answer, so the first is reported
        self._ended = False
        self._misses = 0
        self._asks_seldom = False
        self._announced: set[tuple[str | None, str, str, str]] = set()
        self._shown: set[str] = set()
        self._last_message_at = time.monotonic()
        self._quiet_reported = False
        self._end_received = False
        # Without its messages, nobody can tell whether a prompt that runs has begun a node.
        self._saw_all = from_start and socket.connected
        self._began_a_node = False
        self._idle_since: float | None = None
        self._idle_reported = False
        self._ahead: tuple[str, float] | None = None
        self._ahead_reported: set[str] = set()

    @property
    def heard_end(self) -> bool:
        """Whether ComfyUI said on the socket that the prompt has ended: it is this client's."""
        return self._end_received

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield events; the last is `Finished`."""
        polling, outage = self._times.polling, Outage(self._times.polling)
        began = time.monotonic()
        next_poll = began + polling.first
        was_connected = self._socket.connected
        if not was_connected:
            yield Log("The target's WebSocket is not available: polling instead.", "warning")
        while True:
            message = await self._socket.next(max(0.0, next_poll - time.monotonic()))
            if message is not None:
                async for event in self._received(message):
                    yield event
                if not self._ended and time.monotonic() < next_poll:
                    continue
            if was_connected and not self._socket.connected:
                yield Log("The target's WebSocket dropped: polling until it is back.", "warning")
                began = time.monotonic()
            was_connected = self._socket.connected
            self._saw_all = self._saw_all and was_connected
            try:
                async for event in self._poll():
                    yield event
                    if isinstance(event, Finished):
                        return
                outage.answered()
                wait = polling.longest
                if self._misses > 0 or self._ended:
                    wait = polling.first
                elif not self._socket.connected:
                    wait = polling.interval(time.monotonic() - began)
            except TargetStalled:
                raise
            except TargetError as error:
                # Whatever a proxy in between says (404, 502, a page), the prompt may go on.
                again = outage.failed(error)
                if again is None:
                    raise _lost(error, polling.patience) from error
                wait = again
                if said := outage.said_of(error.message, wait):
                    yield Log(said, "warning")
            self._asks_seldom = wait >= polling.longest
            next_poll = time.monotonic() + wait
            self._ended = False

    async def _received(self, message: Message) -> AsyncGenerator[Event, None]:
        """The events of a message; a picture that is an output is saved first."""
        if isinstance(message, PreviewMessage) and message.prompt_id in (None, self._prompt_id):
            node_id = message.node_id or self._tracker.current
            if node_id is not None and self._frames.may_be_output(node_id):
                output = await asyncio.to_thread(self._frames.keep, message, node_id)
                if output is not None:
                    for event in self._announce(output):
                        yield event
        for event in self._events_of(message):
            yield event

    def _events_of(self, message: Message) -> Iterator[Event]:
        if isinstance(message, PreviewMessage):
            ours = message.prompt_id in (None, self._prompt_id)
            if ours and self._started:
                node = message.node_id or self._tracker.current
                yield Preview(node, message.media_type, message.data)
            return
        if isinstance(message, NodeTextMessage):
            if self._started:
                yield NodeText(message.node_id, message.text)
            return
        if message.text("prompt_id") != self._prompt_id:
            return
        self._last_message_at = time.monotonic()
        self._quiet_reported = False
        if message.type.startswith(("execut", "progress")):
            yield from self._begin()
        tracker = self._tracker
        if message.type not in ("execution_start", "execution_cached"):
            self._began_a_node = True
        match message.type:
            case "execution_cached":
                tracker.cached(message.data.get("nodes"))
            case "executing":
                node = message.text("display_node") or message.text("node")
                tracker.executing(node if node in self._prompt else tracker.current)
                # ComfyUI says "no node" after it has written the history.
                self._ended = message.data.get("node") is None
                self._end_received = self._end_received or self._ended
            case "progress":
                node = message.text("display_node") or message.text("node")
                tracker.progress(node, message.data.get("value"), message.data.get("max"))
            case "progress_state":
                tracker.state(message.data.get("nodes"))
            case "executed":
                yield from self._executed(message)
        yield from self._progress()

    def _executed(self, message: TextMessage) -> Iterator[Event]:
        node = message.text("display_node") or message.text("node")
        if node is None:
            return
        self._tracker.executed(node)
        own = message.text("node") or node
        yield from self._show(own, shown_by_node(message.data.get("output")))
        for output in outputs_of_node(own, message.data.get("output")):
            yield from self._announce(output)

    def _show(self, node_id: str, values: ShownValues) -> Iterator[Event]:
        if node_id not in self._shown:
            self._shown.add(node_id)
            yield Shown(node_id, values)

    def _announce(self, output: RemoteOutput) -> Iterator[Event]:
        identity = (output.node_id, output.folder, output.subfolder, output.filename)
        if identity not in self._announced:
            self._announced.add(identity)
            yield OutputReady(output)

    def _begin(self) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started()

    def _progress(self) -> Iterator[Event]:
        snapshot = self._tracker.snapshot()
        if snapshot != self._last:
            self._last = snapshot
            yield snapshot

    async def _poll(self) -> AsyncGenerator[Event, None]:
        entry = None
        # Asked seldom, the queue comes first: one answer says to all who wait that theirs is there.
        # It may be a moment old, so while it is asked often, or the end is near, the history does.
        if not self._asks_seldom or self._ended or self._misses > 0:
            entry = await self._source.history_entry(self._prompt_id)
        if entry is None and self._ended:
            # The message that it has ended may be ahead of the history: ask again soon.
            self._misses += 1
            if self._misses < _MISSES_BEFORE_GONE:
                return
        if entry is None:
            running, pending = await self._source.queue_for(self._prompt_id)
            here = [item for item in running if item.prompt_id == self._prompt_id]
            waiting = [item for item in pending if item.prompt_id == self._prompt_id]
            if here:
                self._misses = 0
                self._tracker.wanted(here[0].outputs)
                idle = self._saw_all and not self._began_a_node
                waiting_for = self._idle() if idle else self._quiet()
                for event in chain(self._begin(), waiting_for, self._progress()):
                    yield event
                return
            if waiting:
                self._misses = 0
                for event in self._behind(running[0].prompt_id) if running else self._idle():
                    yield event
                ahead = sum(item.number < waiting[0].number for item in pending) + len(running)
                if ahead != self._position and not self._started:
                    self._position = ahead
                    yield Queued(ahead)
                return
            # Between the two answers it may have ended.
            entry = await self._source.history_entry(self._prompt_id)
        if entry is None:
            self._misses += 1
            if self._misses >= _MISSES_BEFORE_GONE:
                yield self._gone()
            return
        async for event in self._finish(entry):
            yield event

    def _quiet(self) -> Iterator[Event]:
        """Say once that no message has arrived for long, while the socket is open."""
        silence = time.monotonic() - self._last_message_at
        if self._quiet_reported or not self._socket.connected or silence < self._times.quiet:
            return
        self._quiet_reported = True
        node = self._last.node_class
        yield Log(
            f"No message has arrived for {silence:.0f} s, but the target says that the job is "
            f"still running{f', at {node}' if node else ''}. Loading a large model, or a node that "
            "reports no steps, can take long.",
        )

    def _idle(self) -> Iterator[Event]:
        """ComfyUI has the prompt, runs nothing else, and does nothing of it.

        Raises:
            TargetStalled: For too long.
        """
        self._idle_since = self._idle_since or time.monotonic()
        waited = time.monotonic() - self._idle_since
        why = (
            f"ComfyUI has had the job for {waited:.0f} s and runs nothing: it answers, but the "
            "part of it that runs prompts may have ended."
        )
        advice = "Look at ComfyUI's log for an exception in prompt_worker, and restart ComfyUI."
        if waited > self._times.stall:
            raise TargetStalled(why, advice=f"{advice} Then run the workflow again.")
        if waited > min(self._times.idle, self._times.stall / 2) and not self._idle_reported:
            self._idle_reported = True
            yield Log(f"{why} {advice}", "warning")

    def _behind(self, prompt_id: str) -> Iterator[Event]:
        """Say once of each prompt that it has been running for long, and holds up this one."""
        self._idle_since = None
        now = time.monotonic()
        if self._ahead is None or self._ahead[0] != prompt_id:
            self._ahead = (prompt_id, now)
        waited = now - self._ahead[1]
        if waited > self._times.busy and prompt_id not in self._ahead_reported:
            self._ahead_reported.add(prompt_id)
            yield Log(
                f"The job has waited {waited / 60:.0f} minutes for prompt {prompt_id}, which runs "
                "there. If that one hangs, restart ComfyUI and run the workflow again.",
                "warning",
            )

    async def _finish(self, entry: dict[str, JsonValue]) -> AsyncGenerator[Event, None]:
        finished = finished_from_history(entry, self._prompt)
        if finished.state is not JobState.SUCCEEDED:
            # Only what ran gets into the history.
            finished = replace(finished, did_it_run=DidItRun.STOPPED)
        # Pictures on their way come before ComfyUI says that it has ended.
        deadline = time.monotonic() + self._times.last_words
        while self._socket.connected and not self._end_received:
            message = await self._socket.next(max(0.0, deadline - time.monotonic()))
            if message is None:
                break
            async for event in self._received(message):
                yield event
        if self._frames.undecided:
            finished = await asyncio.to_thread(self._with_frames, finished)
        else:
            finished = self._with_frames(finished)
        if finished.state is JobState.SUCCEEDED:
            self._tracker.finished()
            for event in chain(self._begin(), self._progress()):
                yield event
        nodes = dict.fromkeys(one.node_id for one in finished.outputs if one.node_id)
        for node_id in {**nodes, **finished.shown}:
            for event in self._show(node_id, finished.shown.get(node_id, {})):
                yield event
        for output in finished.outputs:
            for event in self._announce(output):
                yield event
        yield finished

    def _with_frames(self, finished: Finished) -> Finished:
        outputs, problems = finished.outputs, finished.problems
        self._frames.settle(finished.shown)
        if self._frames.outputs:
            outputs = in_prompt_order((*outputs, *self._frames.outputs), self._prompt)
        if finished.state is JobState.SUCCEEDED:
            silent = silent_savers(self._prompt, outputs)
            problems = (*problems, *self._frames.problems(), *silent)
        return replace(finished, outputs=outputs, problems=problems)

    def _gone(self) -> Finished:
        """Neither in the queue nor in the history."""
        if self._started:
            return Finished(
                JobState.FAILED,
                EngineCrashed(
                    "ComfyUI no longer knows the job, which was running: it was restarted, or "
                    "its history was cleared.",
                    advice="Look at ComfyUI's log for the reason, then run the workflow again.",
                ),
                did_it_run=DidItRun.STOPPED,
            )
        return Finished(
            JobState.EXPIRED,
            JobExpired(
                "ComfyUI no longer knows the job: it was taken out of the queue, or ComfyUI was "
                "restarted.",
                advice="Run the workflow again.",
            ),
            did_it_run=DidItRun.UNKNOWN,
        )


def cancelled(did_it_run: DidItRun) -> Finished:
    """The end of a prompt that we took out of the queue: it never gets a history entry."""
    return Finished(
        JobState.CANCELLED,
        JobCancelled("The job was cancelled before it ran."),
        did_it_run=did_it_run,
    )


def _lost(error: TargetError, patience: float) -> TargetUnreachable:
    return TargetUnreachable(
        f"The target has been out of reach for {patience:.0f} s. {error.message} The job may "
        "still be running there.",
        advice=Hint.RESUME_WHEN_BACK(),
        details=error.details,
    )
