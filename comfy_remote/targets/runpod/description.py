"""What an endpoint's workers have installed, remembered on this machine.

Only a job can ask a worker, and a job on an endpoint that sleeps starts a GPU and costs money.
So an answer is stored, and asked for again only while a worker is awake anyway.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    EngineCrashed,
    JobCancelled,
    JobExpired,
    JobTimedOut,
    OutOfMemory,
    TargetError,
)
from ...media.files import write_whole
from ...wire.actions import DescribeAnswer, unpack_nodes
from ...wire.installed import RanOn
from ..base import Capabilities

__all__ = ["Description", "DescriptionCache", "Descriptions"]

# Milliseconds. A client that ends meanwhile leaves no job that a GPU would be started for later;
# and a worker whose image has to be fetched first still gets to answer.
_DESCRIBE_TTL = 600_000
_WAKE_TTL = 900_000
# How a job ends whose worker did not get to answer. What is known may still be so.
_UNANSWERED = (EngineCrashed, OutOfMemory, JobCancelled, JobExpired, JobTimedOut)

# A job that was cancelled longer ago has certainly ended.
_LONGEST_BUSY = 3600.0

_log = logging.getLogger(__name__)


class _Worker(BaseModel):
    """What the last answers showed of an endpoint's worker.

    Attributes:
        ours: Whether it is Comfy Remote's; ``None`` if no answer has shown it.
        busy_since: When a job was cancelled that it may still run, in seconds since the epoch.
    """

    ours: bool | None = None
    busy_since: float | None = None


class Description(BaseModel):
    """An answer, and when it came.

    Attributes:
        asked: Seconds since the epoch.
        confirmed: When a worker last said so, likewise; 0 if none has.
        answer: With its node schemas; ``None`` when the workers are not ours and cannot say.
    """

    model_config = ConfigDict(extra="ignore")

    asked: float
    confirmed: float = 0.0
    answer: DescribeAnswer | None = None

    def fresh(self, seconds: float) -> bool:
        """Whether it came within the last ``seconds``."""
        return 0 <= time.time() - self.asked < seconds


class Act(Protocol):
    """`RunPodTarget.act`."""

    async def __call__(self, payload: Mapping[str, JsonValue], *, ttl: int) -> JsonValue: ...


@dataclass
class Descriptions:
    """What an endpoint's workers have, as far as it is known.

    A worker that has to be started first may take longer than one should wait: what is not known by
    then is known to a later call.

    Args:
        is_awake: Whether a worker is up, so that asking it starts none.
        patience: Seconds that a call waits.
        fresh: Seconds before it asks again; ``recent`` where the answer is doubted.
    """

    cache: DescriptionCache
    name: str
    act: Act
    is_awake: Callable[[], Awaitable[bool]]
    patience: float
    fresh: float
    recent: float
    _asking: asyncio.Task[DescribeAnswer | None] | None = field(default=None, init=False)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def describe(self, *, again: bool = False) -> Capabilities:
        """What is remembered, if that is fresh or nobody is awake; else what a worker says.

        Args:
            again: Whether only a recent answer is fresh. Workers that are not ours are not asked
                again.
        """
        known = self.cache.read()
        _log.debug(
            "What %s has installed is %s.", self.name, "remembered" if known else "not known yet"
        )
        again = again and known is not None and known.answer is not None
        fresh = self.recent if again else self.fresh
        if known is not None and (known.fresh(fresh) or not await self.is_awake()):
            return _capabilities(known.answer)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(known))
        await asyncio.wait({self._asking}, timeout=self.patience)
        if self._asking.done():
            return _capabilities(self._asking.result())
        return _capabilities(known.answer if known else None)

    def remembered(self) -> Capabilities:
        """What a worker said the last time. Blocking."""
        known = self.cache.read()
        return _capabilities(known.answer if known else None)

    async def wake(self) -> None:
        """Ask, however long a worker takes to start. One that is not ours refuses, and is awake.

        Raises:
            ComfyRemoteError: No worker has answered.
        """
        known = self.cache.read()
        before = known.answer if known else None
        payload: dict[str, JsonValue] = {"action": "describe"}
        if before is not None:
            payload["known"] = before.nodes_hash
        try:
            await self.act(payload, ttl=_WAKE_TTL)
        except (TargetError, AuthenticationError, *_UNANSWERED):
            raise
        except ComfyRemoteError as error:
            _log.info("%s is awake: it answered %s", self.name, error)

    def doubt(self) -> None:
        """What is remembered is out of date: its models were changed. Blocking."""
        known = self.cache.read()
        if known is not None:
            self.cache.write(known.answer, asked=0.0)

    def lately(self, seconds: float) -> Capabilities | None:
        """What a worker said within so many seconds; ``None`` if none did. Blocking."""
        known = self.cache.read()
        if known is None or not 0 <= time.time() - known.confirmed < seconds:
            return None
        return _capabilities(known.answer)

    async def now(self) -> Capabilities | None:
        """What a worker says now; ``None`` if it does not.

        Those who ask at once share a question that has begun after they asked.
        """
        wanted = time.time()
        async with self._one_at_a_time:
            known = await asyncio.to_thread(self.cache.read)
            if known is None or known.confirmed < wanted:
                if self.cache.worker_is_ours is False:
                    return None  # it knows no such question
                await self._ask(known)
                known = await asyncio.to_thread(self.cache.read)
            if known is None or known.confirmed < wanted:
                return None
            return _capabilities(known.answer)

    async def that_ran(self, ran: RanOn) -> Capabilities | None:
        """What was described by a worker that has just run a job with it.

        What was remembered is renewed by it. If it was something else, it is forgotten, and the
        worker is asked, as long as it is awake.
        """
        known = await asyncio.to_thread(self.cache.read)
        answer = known.answer if known is not None else None
        if _digest(answer) != ran.digest:
            if known is not None:
                await asyncio.to_thread(self.cache.write, answer, asked=0.0, confirmed=0.0)
            if not await self.is_awake():
                return None
            answer = await self._ask(known)
            if _digest(answer) != ran.digest:
                return None
        return _capabilities(await asyncio.to_thread(self._confirmed, answer, ran))

    def _confirmed(self, answer: DescribeAnswer | None, ran: RanOn) -> DescribeAnswer | None:
        """The answer with the models that the job has read, remembered."""
        if answer is None or answer.installed is None:
            return None
        models = dict(answer.installed.models)
        for folder, files in ran.models.items():
            newer = {one.name: one for one in files}
            older = [one for one in models.get(folder, []) if one.name not in newer]
            models[folder] = [*older, *files]
        installed = answer.installed.model_copy(update={"models": models})
        answer = answer.model_copy(update={"installed": installed})
        self.cache.write(answer, confirmed=time.time())
        # What the job named and did not confirm is not there for this one.
        confirmed = installed.model_copy(update={"models": ran.models})
        return answer.model_copy(update={"installed": confirmed})

    async def stop(self, patience: float) -> None:
        """Cancel a question that nobody waits for any more, within ``patience`` seconds."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking}, timeout=patience)
            self._asking.cancel()  # the endpoint does not answer
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, known: Description | None) -> DescribeAnswer | None:
        before = known.answer if known else None
        payload: dict[str, JsonValue] = {"action": "describe"}
        if before is not None:
            payload["known"] = before.nodes_hash
        began = time.time()
        try:
            answer = DescribeAnswer.model_validate(await self.act(payload, ttl=_DESCRIBE_TTL))
        except (TargetError, AuthenticationError) as error:
            _log.warning("%s could not be asked what it has: %s", self.name, error)
            return before
        except (ComfyRemoteError, ValidationError) as error:
            _log.info("%s does not say what it has: %s", self.name, error)
            # Else a worker of somebody else's: it knows no such job.
            remembered = before if isinstance(error, _UNANSWERED) else None
            if not isinstance(error, _UNANSWERED):
                self.cache.saw_worker(ours=False)
            confirmed = known.confirmed if known is not None and remembered is not None else 0.0
            return self.cache.write(remembered, confirmed=confirmed).answer
        if answer.nodes is None and before is not None:
            answer = answer.model_copy(update={"nodes": before.nodes})
        self.cache.saw_worker(ours=True)
        return self.cache.write(answer, confirmed=began).answer


class DescriptionCache:
    """One file an endpoint, readable by you alone.

    Args:
        folder: Where; ``None`` to remember nothing.
    """

    def __init__(self, folder: Path | None, endpoint: str) -> None:
        name = hashlib.sha256(endpoint.encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"{name}.json"
        self._worker_path = None if folder is None else folder / f"{name}.worker.json"

    def read(self) -> Description | None:
        """What is remembered; ``None`` if there is no answer yet, or it cannot be read."""
        if self._path is None:
            return None
        try:
            return Description.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(
        self, answer: DescribeAnswer | None, *, asked: float | None = None, confirmed: float = 0.0
    ) -> Description:
        """Remember an answer, if it can be written.

        Args:
            asked: When it came, in seconds since the epoch; now by default.
            confirmed: See `Description`.
        """
        now = time.time() if asked is None else asked
        description = Description(asked=now, confirmed=confirmed, answer=answer)
        _write(self._path, description)
        return description

    @property
    def worker_is_ours(self) -> bool | None:
        """Whether the worker that answered last was Comfy Remote's; ``None`` if none has yet."""
        if (known := self._worker().ours) is not None:
            return known
        description = self.read()
        return True if description is not None and description.answer is not None else None

    def saw_worker(self, *, ours: bool) -> None:
        """Remember whose worker has just answered."""
        if ours is not self.worker_is_ours:
            _write(self._worker_path, _Worker(ours=ours))

    @property
    def busy_for(self) -> float | None:
        """Seconds since a job was cancelled that the worker may still run; ``None`` if none may."""
        since = self._worker().busy_since
        seconds = None if since is None else time.time() - since
        return seconds if seconds is not None and 0 <= seconds < _LONGEST_BUSY else None

    def worker_is_busy(self, *, busy: bool) -> None:
        """Remember that the worker may still run a job that was cancelled, or no longer does."""
        worker = self._worker()
        if busy or worker.busy_since is not None:
            since = time.time() if busy else None
            _write(self._worker_path, worker.model_copy(update={"busy_since": since}))

    def _worker(self) -> _Worker:
        if self._worker_path is None:
            return _Worker()
        try:
            return _Worker.model_validate_json(self._worker_path.read_bytes())
        except (OSError, ValidationError):
            return _Worker()


def _write(path: Path | None, content: BaseModel) -> None:
    if path is None:
        return
    try:
        write_whole(path, content.model_dump_json().encode())
    except OSError as error:
        _log.warning("what the endpoint has could not be stored: %s", error)


def _digest(answer: DescribeAnswer | None) -> str | None:
    if answer is None or answer.installed is None:
        return None
    return answer.installed.digest(answer.engine, answer.device)


def _capabilities(answer: DescribeAnswer | None) -> Capabilities:
    if answer is None or answer.nodes is None:
        return Capabilities(nodes=None, device=None, engine=None)
    return Capabilities(
        nodes=unpack_nodes(answer.nodes),
        device=answer.device,
        engine=answer.engine,
        memory_total=answer.vram_total,
        memory_free=answer.vram_free,
        fetches_models=answer.fetches_models,
        takes_models=None if answer.takes_models is None else frozenset(answer.takes_models),
        takes_nodes=answer.takes_nodes,
        no_nodes=answer.no_nodes,
        installed=answer.installed,
    )
