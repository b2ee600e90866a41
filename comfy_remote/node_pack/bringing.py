"""*Bring it to NAME*: what a workflow lacks on a target, planned, shown, and brought after a yes.

What is brought goes on when the page is closed. What ComfyUI's end has interrupted is noted, so
that the next start can say so: planned again from its lock, it goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from ..aio import Background, in_thread
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, ConfigurationError, JobNotFound, TargetError
from ..jobs.client import Client
from ..ready.needs import Needs
from ..ready.sync.carrying import carry_out
from ..ready.sync.lacking import OnStage, Planned, Stage, plan_lacking
from ..ready.sync.planning import Sources, plan_sync, sources_of
from ..ready.sync.steps import SyncPlan
from ..targets.base import ChoosesAmong
from ..targets.kinds import typed_target
from ..types import mapping
from ..workflow.load import parse_prompt
from ..workflow.models import ends_like_a_model
from ..workflow.prompt import Prompt
from ..workflow.repo_list import without_repo_list
from .bring_notes import BringNotes
from .bring_plan import ShownPlan
from .bring_state import Bring
from .host import Host
from .target_pool import TargetPool

__all__ = ["BRING_EVENT", "Bringing", "PlanRequest"]

_log = logging.getLogger(__name__)

BRING_EVENT = "comfy_remote.bring"
"""The message to all pages that something of it has begun or ended."""

_PLANS = 30
_MOST_VALUES = 300
_LOOK = 0.2  # seconds between two looks at how far a plan is


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


class Bringing:
    """What one server brings to its targets: one thing at a time to each."""

    def __init__(self, host: Host, pool: TargetPool) -> None:
        self._host = host
        self._pool = pool
        self._plans: dict[str, ShownPlan] = {}
        self._of: dict[str, Bring] = {}
        self._background = Background()
        self._notes = BringNotes(pool.record.path.parent / "bringing", host)
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

        work = asyncio.ensure_future(self._planned(wanted, client, on_stage))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_LOOK)
                if said and not work.done():
                    yield said.pop()
            shown = work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        yield {"plan": shown.to_json()}

    async def start(self, plan: str, steps: Sequence[int]) -> JsonValue:
        """Bring what was shown, after a yes. The same yes again changes nothing.

        Args:
            plan: Its id.
            steps: The numbers of the steps that are wanted.

        Raises:
            ConfigurationError: The plan is old, or its name means another address by now; or
                something else is on its way to that target.
        """
        shown = self._plans.get(plan)
        if shown is None or shown.is_old:
            raise ConfigurationError(
                "That plan is too old.", advice="Look again at what is missing."
            )
        # Also sees that its address is still trusted.
        client = await self._pool.client(shown.target)
        if client.address != shown.client.address:
            raise ConfigurationError(
                f"{shown.target} is another address than when this was planned.",
                advice="Look again at what is missing.",
            )
        chosen = shown.chosen(steps)
        # From here on, nothing waits: two windows cannot both begin.
        if shown.brings is not None:
            return shown.brings.to_json()
        running = self._of.get(shown.target)
        if running is not None and running.state == "running":
            on_its_way = {(row.kind, row.name) for row in running.rows}
            if on_its_way >= {(one.item.kind, one.item.name) for one in chosen}:
                shown.brings = running
                return running.to_json()
            raise ConfigurationError(
                f"Something else is on its way to {shown.target}.",
                advice="Wait for it, or stop it in the panel; then look again at what is missing.",
            )
        if not chosen:
            raise ConfigurationError("Nothing was chosen.", advice="Choose what to bring.")
        brings = shown.brings = shown.begun(chosen)
        self._put(brings)
        brings.task = asyncio.create_task(
            self._carry_out(brings, client, shown.only(chosen), shown.sources)
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
        await asyncio.to_thread(self._notes.remove, brings)
        if self._of.get(brings.target) is brings:  # and no later one, of another window
            del self._of[brings.target]

    async def take_up(self) -> None:
        """Show what the last end of this server has interrupted: of each target, the newest."""
        found = await asyncio.to_thread(self._notes.interrupted)
        for brings in {one.target: one for one in found}.values():
            if brings.target not in self._of:
                self._put(brings)

    async def close(self) -> None:
        """Stop all, as the server ends: it is noted, and said at the next start."""
        tasks = [one.task for one in self._of.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._background.finish()

    # A plan

    async def _planned(self, wanted: PlanRequest, client: Client, on_stage: OnStage) -> ShownPlan:
        configuration = await asyncio.to_thread(Configuration.load)
        comfyui = await asyncio.to_thread(self._host.comfyui)
        sources = await asyncio.to_thread(sources_of, configuration, wanted.target, comfyui)
        core, agreed = list[str](), frozenset[str]()
        if wanted.again is not None:
            before = self._by_id(wanted.again)
            lock, agreed = before.lock, before.agreed
            on_stage(Stage.TARGET, 0, 0)
            made = Planned(lock, await plan_sync(lock, client.target, sources))
        else:
            needs, core = await self._needs(wanted)
            made = await plan_lacking(needs, client.target, sources, on_stage)
        shown = ShownPlan(wanted.target, client, sources, made, core, agreed)
        while len(self._plans) >= _PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[shown.id] = shown
        return shown

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
        self, brings: Bring, client: Client, plan: SyncPlan, sources: Sources
    ) -> None:
        try:
            await in_thread(self._notes.write, brings)  # else it could come behind its removal
            ended = await carry_out(plan, client.target, sources, brings.moved, brings.one_ended)
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
                self._background.start(asyncio.to_thread(self._notes.remove, brings))

    def _put(self, brings: Bring) -> None:
        before = self._of.pop(brings.target, None)  # the newest comes last
        if before is not None:
            self._background.start(asyncio.to_thread(self._notes.remove, before))
        self._of[brings.target] = brings
        self._say(brings)

    def _say(self, brings: Bring) -> None:
        if not self._host.several_users:
            said = {"id": brings.id, "target": brings.target, "state": brings.state}
            self._host.send(BRING_EVENT, cast("dict[str, JsonValue]", said), None)

    def _by_id(self, one: str) -> Bring:
        for brings in self._of.values():
            if brings.id == one:
                return brings
        raise JobNotFound("That is no longer listed.", advice="Look again at what is missing.")


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
