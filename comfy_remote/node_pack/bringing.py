"""*Bring it to NAME*: what a workflow lacks on a target, planned, shown, and brought after a yes.

What is brought goes on when the page is closed. What ComfyUI's end has interrupted is noted, so
that the next start can say so: planned again from its lock, it goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..aio import Background
from ..clean import cleaned_json
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, ConfigurationError, JobNotFound, TargetError
from ..jobs.client import Client
from ..media.file_changes import discard
from ..media.files import OWN_DATA, storage_errors, write_whole
from ..ready.holding import what_to_do
from ..ready.lock import Lock, LockedModel, LockedPack
from ..ready.needs import Needs
from ..ready.plan import Standing
from ..ready.sync.carrying import Ended, Moved, carry_out
from ..ready.sync.lacking import OnStage, Planned, Stage, plan_lacking
from ..ready.sync.packs import PackStep
from ..ready.sync.planning import Sources, plan_sync, sources_of
from ..ready.sync.steps import Step, SyncPlan, Way
from ..targets.base import ChoosesAmong
from ..targets.kinds import typed_target
from ..types import mapping
from ..workflow.load import parse_prompt
from ..workflow.models import ends_like_a_model
from ..workflow.prompt import Prompt
from ..workflow.repo_list import without_repo_list
from .advice import error_json
from .host import Host
from .target_pool import TargetPool

__all__ = ["BRING_EVENT", "Bringing", "PlanRequest"]

_log = logging.getLogger(__name__)

BRING_EVENT = "comfy_remote.bring"
"""The message to all pages that something of it has begun or ended."""

_PLANS, _PLAN_AGE = 30, 3600.0
_MOST_VALUES = 300
_LOOK = 0.2  # seconds between two looks at how far a plan is
_LARGEST_NOTE = 16 * 1024 * 1024
_FROM_WORKFLOW = "workflow"

_State: TypeAlias = Literal["running", "ended", "failed", "stopped", "interrupted"]


class PlanRequest(BaseModel):
    """What is to be planned: the open graph, a job of the record, or what had begun once.

    Attributes:
        target: The name or address to bring it to.
        prompt: The graph in API format.
        workflow: The same in UI format.
        values: Further values of its inputs that are needed, by ``NODE.input``: what varies.
        job: The id of a job: what it needed.
        again: The id of what was brought, or was to be.
    """

    model_config = ConfigDict(extra="forbid")

    target: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(typed_target)]
    prompt: dict[str, JsonValue] | None = None
    workflow: dict[str, JsonValue] | None = None
    values: dict[str, list[JsonValue]] = Field(default_factory=dict)
    job: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    again: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class _Note(BaseModel):
    """What is on the disk while something is brought."""

    model_config = ConfigDict(extra="ignore")

    id: str
    server: str
    target: str
    began: float
    lock: Lock


@dataclass
class _Offer:
    """A plan that was shown, and waits for a yes."""

    id: str
    target: str
    client: Client
    sources: Sources
    made: Planned
    core: list[str]  # classes of ComfyUI's own that are not there
    agreed: bool  # what it names has had its yes before
    at: float = field(default_factory=time.monotonic)
    brings: _Bring | None = None


@dataclass
class _Row:
    """How far one step is."""

    kind: str
    name: str
    size: int | None = None
    way: str = ""
    state: str = "waiting"
    done: int | None = None
    total: int | None = None
    message: str = ""
    began: float | None = None
    error: ComfyRemoteError | None = None

    def to_json(self) -> dict[str, JsonValue]:
        running = self.state == "running"
        return {
            "kind": self.kind,
            "name": self.name,
            "size": self.size,
            "way": self.way,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "message": self.message,
            "seconds": round(time.monotonic() - self.began, 1) if running and self.began else None,
            "error": None if self.error is None else error_json(self.error),
        }


@dataclass
class _Bring:
    """What is brought to one target, or was."""

    id: str
    target: str
    lock: Lock
    rows: list[_Row]
    state: _State = "running"
    began: float = field(default_factory=time.time)
    ended: float | None = None
    error: ComfyRemoteError | None = None
    task: asyncio.Task[None] | None = None

    def moved(self, one: Moved) -> None:
        # Packs are installed together, and said of the first.
        packs = isinstance(one.step, PackStep)
        rows = [r for r in self.rows if r.kind == "pack"] if packs else [self._row(one.step)]
        for row in rows:
            if row.began is None:
                row.began = time.monotonic()
            row.state, row.message = "running", one.message
            row.done, row.total = one.done, one.total

    def one_ended(self, one: Ended) -> None:
        row = self._row(one.step)
        row.state, row.error, row.message = one.how or "failed", one.error, " ".join(one.notes)

    def end(self, state: _State) -> None:
        self.state, self.ended = state, time.time()
        for row in self.rows:
            if row.state in ("waiting", "running"):
                row.state = "stopped"

    def _row(self, step: Step | PackStep) -> _Row:
        kind, name = step.item.kind, step.item.name
        return next(row for row in self.rows if (row.kind, row.name) == (kind, name))

    def to_json(self) -> dict[str, JsonValue]:
        return cleaned_json(
            {
                "id": self.id,
                "target": self.target,
                "state": self.state,
                "began": self.began,
                "ended": self.ended,
                "error": None if self.error is None else error_json(self.error),
                "steps": [row.to_json() for row in self.rows],
            }
        )


class Bringing:
    """What one server brings to its targets: one thing at a time to each."""

    def __init__(self, host: Host, pool: TargetPool) -> None:
        self._host = host
        self._pool = pool
        self._offers: dict[str, _Offer] = {}
        self._of: dict[str, _Bring] = {}
        self._background = Background()
        self._folder = pool.record.path.parent / "bringing"
        pool.before_close.append(self.close)

    def to_json(self) -> JsonValue:
        """What is brought, and what the last of each target was, the oldest first."""
        return {"bringing": [one.to_json() for one in self._of.values()]}

    async def plan(self, wanted: PlanRequest) -> AsyncIterator[JsonValue]:
        """Lines that say what is being done; the last one is the plan (``plan``), or the targets
        of a route (``members``): each has models of its own.

        Raises:
            ComfyRemoteError: There is nothing to plan, or somebody could not be asked.
        """
        client = await self._pool.client(wanted.target)
        if isinstance(client.target, ChoosesAmong):
            yield {"members": [one.name for one in client.target.among]}
            return
        said: list[JsonValue] = []

        def on_stage(stage: Stage, done: int, total: int) -> None:
            said[:] = [{"doing": stage.value, "done": done, "total": total}]

        work = asyncio.ensure_future(self._offer(wanted, client, on_stage))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_LOOK)
                if said and not work.done():
                    yield said.pop()
            offer = work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        yield {"plan": _plan_json(offer)}

    async def start(self, plan: str, steps: Sequence[int]) -> JsonValue:
        """Bring what was shown, after a yes. The same yes again changes nothing.

        Args:
            plan: Its id.
            steps: The numbers of the steps that are wanted.

        Raises:
            ConfigurationError: The plan is old, or its name means another address by now; or
                something else is on its way to that target.
        """
        offer = self._offers.get(plan)
        if offer is None or time.monotonic() - offer.at > _PLAN_AGE:
            raise ConfigurationError("That plan is too old.", advice="Look again what is missing.")
        # Also sees that its address is still trusted.
        client = await self._pool.client(offer.target)
        if client.address != offer.client.address:
            raise ConfigurationError(
                f"{offer.target} is another address than when this was planned.",
                advice="Look again what is missing.",
            )
        chosen = [
            one
            for number, one in enumerate(offer.made.plan.all_steps)
            if number in steps and _changes_something(one)
        ]
        # From here on, nothing waits: two windows cannot both begin.
        if offer.brings is not None:
            return offer.brings.to_json()
        running = self._of.get(offer.target)
        if running is not None and running.state == "running":
            on_its_way = {(row.kind, row.name) for row in running.rows}
            if on_its_way >= {(one.item.kind, one.item.name) for one in chosen}:
                offer.brings = running
                return running.to_json()
            raise ConfigurationError(
                f"Something else is on its way to {offer.target}.",
                advice="Wait for it, or stop it in the panel; then look again what is missing.",
            )
        if not chosen:
            raise ConfigurationError("Nothing was chosen.", advice="Choose what is to be brought.")
        rows = [_Row(one.item.kind, one.item.name, one.size, one.way.value) for one in chosen]
        brings = _Bring(uuid.uuid4().hex, offer.target, _lock_of(chosen, offer), rows)
        offer.brings = brings
        self._put(brings)
        brings.task = asyncio.create_task(
            self._carry_out(brings, client, _of_plan(offer.made.plan, chosen), offer)
        )
        return brings.to_json()

    async def stop(self, one: str) -> JsonValue:
        """Stop it. What has come stays; planned again, it goes on from there."""
        brings = self._by_id(one)
        if brings.task is not None and brings.state == "running":
            brings.end("stopped")
            brings.task.cancel()
            await asyncio.gather(brings.task, return_exceptions=True)
        return brings.to_json()

    async def forget(self, one: str) -> None:
        """Show it no more. What is under way is stopped."""
        brings = self._by_id(one)
        await self.stop(one)
        await asyncio.to_thread(discard, self._path(brings))
        if self._of.get(brings.target) is brings:  # and no later one, of another window
            del self._of[brings.target]

    async def take_up(self) -> None:
        """Show what the last end of this server has interrupted: of each target, the newest."""
        notes = await asyncio.to_thread(self._notes)
        for note in {one.target: one for one in notes}.values():
            if note.target not in self._of:
                rows = [_Row("pack", one.name) for one in note.lock.packs]
                rows += [_Row("model", one.path) for one in note.lock.models]
                brings = _Bring(
                    note.id, note.target, note.lock, rows, "interrupted", note.began, note.began
                )
                self._put(brings)

    async def close(self) -> None:
        """Stop all, as the server ends: it is noted, and said at the next start."""
        tasks = [one.task for one in self._of.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._background.finish()

    # A plan

    async def _offer(self, wanted: PlanRequest, client: Client, on_stage: OnStage) -> _Offer:
        configuration = await asyncio.to_thread(Configuration.load)
        comfyui = await asyncio.to_thread(self._host.comfyui)
        sources = await asyncio.to_thread(sources_of, configuration, wanted.target, comfyui)
        core: list[str] = []
        if wanted.again is not None:
            lock = self._by_id(wanted.again).lock
            on_stage(Stage.TARGET, 0, 0)
            made = Planned(lock, await plan_sync(lock, client.target, sources))
        else:
            needs, core = await self._needs(wanted)
            made = await plan_lacking(needs, client.target, sources, on_stage)
        offer = _Offer(
            uuid.uuid4().hex, wanted.target, client, sources, made, core, wanted.again is not None
        )
        while len(self._offers) >= _PLANS:
            self._offers.pop(next(iter(self._offers)))
        self._offers[offer.id] = offer
        return offer

    async def _needs(self, wanted: PlanRequest) -> tuple[Needs, list[str]]:
        """What it needs; and those of ComfyUI's own nodes that the target does not have."""
        if wanted.job is not None:
            if self._host.several_users:
                raise JobNotFound("Where several people share a ComfyUI, its record is not shown.")
            entry = await self._pool.record.read(self._pool.record.get, wanted.job)
            prompt, workflow = entry.prompt, None
        elif wanted.prompt is not None:
            posted = cast("JsonValue", wanted.prompt)
            prompt = parse_prompt(posted, "The workflow", check_links=False)
            workflow = wanted.workflow
        else:
            raise ConfigurationError("No workflow was given.", advice="Open one.")
        prompt = without_repo_list(prompt)
        classes = {node["class_type"] for node in prompt.values()}
        here = await asyncio.to_thread(self._host.schemas, classes)
        try:
            there = (await self._pool.capabilities(wanted.target)).nodes
        except ComfyRemoteError:
            there = None  # planning says more
        more = {name: node for name, node in (there or {}).items() if name in classes}
        schemas = here.with_classes(mapping(cast("JsonValue", more)), here.source)
        needs = Needs()
        for one in (prompt, *_varied(prompt, wanted.values)):
            await asyncio.to_thread(needs.add, "", one, workflow, schemas)
        lacking = classes - more.keys() - needs.classes.keys() if there is not None else ()
        return needs, sorted(one for one in lacking if one in here)

    # Carried out

    async def _carry_out(
        self, brings: _Bring, client: Client, plan: SyncPlan, offer: _Offer
    ) -> None:
        try:
            await asyncio.to_thread(self._write_note, brings)
            ended = await carry_out(
                plan, client.target, offer.sources, brings.moved, brings.one_ended
            )
            brings.end("failed" if any(one.error for one in ended) else "ended")
        except ComfyRemoteError as error:
            brings.error = error
            brings.end("failed")
        except asyncio.CancelledError:
            # Stopped by its user; or the server ends, and the note stays.
            if brings.state == "running":
                brings.state = "interrupted"
            raise
        except Exception as error:  # noqa: BLE001 - or the page would show it as under way for ever
            _log.exception("What was to be brought to %s", brings.target)
            brings.error = TargetError(f"Comfy Remote failed: {error!r}.")
            brings.end("failed")
        finally:
            if brings.state != "interrupted":
                self._pool.ask_again(brings.target)
                self._say(brings)
                self._background.start(asyncio.to_thread(discard, self._path(brings)))

    def _put(self, brings: _Bring) -> None:
        before = self._of.pop(brings.target, None)  # the newest comes last
        if before is not None:
            self._background.start(asyncio.to_thread(discard, self._path(before)))
        self._of[brings.target] = brings
        self._say(brings)

    def _say(self, brings: _Bring) -> None:
        if not self._host.several_users:
            said = {"id": brings.id, "target": brings.target, "state": brings.state}
            self._host.send(BRING_EVENT, cast("dict[str, JsonValue]", said), None)

    def _by_id(self, one: str) -> _Bring:
        for brings in self._of.values():
            if brings.id == one:
                return brings
        raise JobNotFound("That is no longer listed.", advice="Look again what is missing.")

    # Notes

    def _path(self, brings: _Bring) -> Path:
        return self._folder / f"{brings.id}.json"

    def _write_note(self, brings: _Bring) -> None:
        note = _Note(
            id=brings.id,
            server=self._host.identity,
            target=brings.target,
            began=brings.began,
            lock=brings.lock,
        )
        path = self._path(brings)
        with storage_errors(path, denied=OWN_DATA):
            write_whole(path, note.model_dump_json(exclude_none=True).encode())

    def _notes(self) -> list[_Note]:
        """Of this server, the oldest first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                if path.stat().st_size <= _LARGEST_NOTE:
                    found.append(_Note.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                discard(path)
        return sorted(
            (one for one in found if one.server == self._host.identity), key=lambda one: one.began
        )


def _varied(prompt: Prompt, values: Mapping[str, Sequence[JsonValue]]) -> Iterator[Prompt]:
    """The prompt with each further value that may be a model."""
    left = _MOST_VALUES
    for place, some in values.items():
        node_id, _, name = place.rpartition(".")
        if node_id not in prompt:
            continue
        node = prompt[node_id]
        for value in some:
            if isinstance(value, str) and ends_like_a_model(value) and left > 0:
                left -= 1
                yield {**prompt, node_id: {**node, "inputs": {**node["inputs"], name: value}}}


def _changes_something(step: Step | PackStep) -> bool:
    return step.way not in (Way.NONE, Way.IMPOSSIBLE)


def _of_plan(plan: SyncPlan, chosen: Sequence[Step | PackStep]) -> SyncPlan:
    """Of a plan, what was chosen."""
    return replace(
        plan,
        steps=tuple(one for one in chosen if isinstance(one, Step)),
        packs=tuple(one for one in chosen if isinstance(one, PackStep)),
    )


def _lock_of(chosen: Sequence[Step | PackStep], offer: _Offer) -> Lock:
    """What is needed of what was chosen: all that is left, should it be interrupted."""
    needed = [one.item.needed for one in chosen]
    return offer.made.lock.model_copy(
        update={
            "models": tuple(one for one in needed if isinstance(one, LockedModel)),
            "packs": tuple(one for one in needed if isinstance(one, LockedPack)),
            "workflows": (),
        }
    )


def _plan_json(offer: _Offer) -> JsonValue:
    plan = offer.made.plan
    return cleaned_json(
        {
            "id": offer.id,
            "target": offer.target,
            "steps": [
                _step_json(number, one, offer)
                for number, one in enumerate(plan.all_steps)
                if one.way is not Way.NONE
            ],
            "core": list(offer.core),
            "speeds": {"sent": plan.speeds.sent, "fetched": plan.speeds.fetched},
            "notes": list(plan.notes),
        }
    )


def _step_json(number: int, step: Step | PackStep, offer: _Offer) -> JsonValue:
    """One that would change something, or cannot.

    Chosen by itself is only what comes from the owner, or was agreed to before: a stranger's
    workflow may name any address, the hash of any file, and any code.
    """
    item, by_hand = step.item, ""
    if step.way is Way.IMPOSSIBLE and item.standing is Standing.MISSING:
        by_hand = what_to_do(item)
    described: dict[str, JsonValue] = {
        "number": number,
        "kind": item.kind,
        "name": item.name,
        "standing": item.standing.value,
        "way": step.way.value,
        "why": step.why or item.why,
        "what_to_do": by_hand,
        "chosen": _changes_something(step) and (offer.agreed or _is_own(step, offer)),
    }
    if isinstance(step, PackStep):
        pin = None if step.wanted is None else str(step.wanted)
        source: dict[str, JsonValue] = {"size": None, "address": pin, "by": None}
        return {**described, **source, "commands": list(step.commands)}
    shown = step.to_json()
    by = None if step.address is None else step.address.by
    return {
        **described,
        "size": shown["size"],
        "address": shown["address"],
        "by": by,
        "commands": [],
    }


def _is_own(step: Step | PackStep, offer: _Offer) -> bool:
    """Whether what a step brings is the owner's, and nothing that only a workflow names."""
    if isinstance(step, PackStep):
        return False
    if step.address is None and step.way is not Way.LINK:
        return True  # a file of this machine
    named = step.address is not None and step.address.by == _FROM_WORKFLOW
    return not named and step.model.path in offer.made.own
