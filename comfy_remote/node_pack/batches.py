"""Batches that are started in the page: planned, made, handed to processes of their own, listed.

A batch of the page is driven by a process of its own, as `batch --no-wait` starts it, so it goes on
while ComfyUI is started again. What a page gives are values, never files to read: who may use a
ComfyUI's page need not be who owns its machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from ..batch.checking import check_plan
from ..batch.draft import BatchOptions, Draft, draft
from ..batch.forecast import forecast
from ..batch.manifest import MANIFEST, read_manifest
from ..batch.plan import Variation
from ..batch.sheet import SheetRoutes
from ..batch.sheet.reading import read_batch
from ..batch.sheet.thumbnails import FOLDER as THUMBNAILS
from ..batch.sheet.thumbnails import Thumbnails
from ..batch.store import batch_page, is_driven, make, remove, retry_failed, start_background
from ..clean import cleaned_text
from ..config.settings import Configuration
from ..errors import ConfigurationError, InputFileMissing, JobNotFound
from ..jobs.client import Client
from ..jobs.record import BatchEntry, BatchState, Wanted
from ..media.files import leads_out
from ..targets.kinds import typed_target
from ..workflow.files import FileSearch
from ..workflow.load import LoadedWorkflow, parse_prompt
from .host import Host
from .refusals import LACKING
from .target_pool import TargetPool

__all__ = ["PageBatches", "VaryRequest"]

_log = logging.getLogger(__name__)

_MOST_RUNS = 10_000
"""That are started from a page at once."""
_MOST_SHOWN = 100
_FIRST_VALUES = 12
_MOST_PICTURES = 8
_MOST_SHEETS = 4
"""That are held in memory."""
_MADE_BY = "page"

_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Target = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(typed_target)]


class VaryRequest(BaseModel):
    """What a page asks for.

    Attributes:
        prompt, workflow: As the page posts them to ``/prompt``.
        target: ``None`` for this very ComfyUI.
        vary: What varies, by ``NODE_ID.input``: a range or list as it is typed, or values.
        zipped: Names that vary together, ``"3.seed,6.text"``.
        name: What it is called; the workflow's name by default.
    """

    model_config = ConfigDict(extra="ignore")

    prompt: dict[str, JsonValue]
    workflow: dict[str, JsonValue] | None = None
    target: _Target | None = None
    vary: dict[_Text, str | list[JsonValue]] = Field(default={}, max_length=50)
    zipped: list[_Text] = Field(default=[], max_length=50)
    repeat: Annotated[int, Field(ge=1, le=_MOST_RUNS)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    source: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    at_most: Annotated[int, Field(ge=1, le=100)] | None = None


@dataclass(frozen=True, slots=True)
class _OpenTarget:
    """Where a batch runs: a client of its target, and what that is called."""

    client: Client
    name: str


class PageBatches:
    """What the page asks about batches."""

    def __init__(self, host: Host, pool: TargetPool) -> None:
        self._host = host
        self._pool = pool
        self._record = pool.record
        self._own: dict[str, Client] = {}
        self._sheets: dict[str, SheetRoutes] = {}
        self._opening = asyncio.Lock()
        pool.before_close.append(self.close)

    async def close(self) -> None:
        """Close what it has opened."""
        for client in self._own.values():
            await client.__aexit__(None, None, None)
        self._own = {}

    async def plan(self, wanted: VaryRequest, own_url: str) -> JsonValue:
        """How many runs, in which order, about how long and how much; what would be refused.

        Args:
            own_url: Of this server, for a batch that runs here.

        Raises:
            ComfyRemoteError: What varies cannot be read, or the target cannot be used.
        """
        opened, drafted = await self._draft(wanted, own_url)
        try:
            prompt = parse_prompt(drafted.frozen.prompt, "The prompt")
            schemas = drafted.frozen.known_schemas()
            search = FileSearch.beside(self._input_root)
            problems = await check_plan(
                drafted.plan, prompt, opened.client, search=search, schemas=schemas
            )
            configuration = await asyncio.to_thread(Configuration.load)
            known = await forecast(drafted, opened.client, configuration)
            return {
                "count": drafted.plan.count,
                "axes": [
                    {
                        "names": [*axis.names],
                        "count": axis.count,
                        "first": [
                            axis.at(index) for index in range(min(axis.count, _FIRST_VALUES))
                        ],
                    }
                    for axis in drafted.plan.axes
                ],
                "seconds": known.seconds,
                "price": known.price,
                "problems": [
                    {
                        **one.to_json(),
                        "message": cleaned_text(one.message),
                        "lacks": one.problem.code in LACKING,
                    }
                    for one in problems
                ],
            }
        finally:
            drafted.plan.close()

    async def start(self, wanted: VaryRequest, own_url: str) -> JsonValue:
        """Make a batch, and have a process of its own run it.

        Raises:
            ComfyRemoteError: As `plan`, or it cannot be written.
        """
        opened, drafted = await self._draft(wanted, own_url)
        try:
            entry = await make(drafted, opened.client, made_by=f"{_MADE_BY} {self._host.identity}")
        finally:
            drafted.plan.close()
        await asyncio.to_thread(start_background, entry, self._record.path.parent)
        return await self._one(entry, own_url)

    async def take_up(self) -> None:
        """Have the batches of this server's page go on that nobody drives: it was started again."""
        for entry in await self._record.read(self._record.batches.all):
            mine = entry.made_by == f"{_MADE_BY} {self._host.identity}"
            if mine and entry.wanted is Wanted.RUN and not entry.state.final:
                await self._drive(entry)

    async def list(self, own_url: str) -> JsonValue:
        """The newest batches, with how far each is."""
        entries = await self._record.read_at_once(self._record.batches.all, _MOST_SHOWN)
        return {"batches": [*await self._described(entries, own_url)]}

    async def change(self, batch: str, action: str, own_url: str) -> JsonValue:
        """Pause, resume, cancel, retry or remove a batch.

        Raises:
            JobNotFound: There is none.
            ConfigurationError: It is to be removed, and runs.
        """
        batches = self._record.batches
        entry = await self._record.read(batches.get, batch)
        match action:
            case "pause":
                await self._record.write(batches.want, entry.id, Wanted.PAUSE)
            case "cancel":
                await self._record.write(batches.want, entry.id, Wanted.CANCEL)
                await self._drive(entry)  # to cancel what an earlier one has begun
            case "remove":
                await remove(entry, self._record)
                return {"removed": entry.id}
            case _:
                if action == "retry":
                    await retry_failed(entry, self._record)
                await self._record.write(batches.want, entry.id, Wanted.RUN)
                await self._drive(entry)
        return await self._one(await self._record.read(batches.get, entry.id), own_url)

    async def values(self, batch: str, row: int) -> JsonValue:
        """The inputs that a run was made with: ``{"inputs": [[node, input, value], …]}``.

        Raises:
            JobNotFound: There is no such batch.
        """
        entry = await self._shown(batch)
        lines = await asyncio.to_thread(read_manifest, entry.folder / MANIFEST)
        described = await asyncio.to_thread(batch_page, entry.folder)
        line = lines.get(row)
        if line is None:
            raise ConfigurationError(f"Run {row} of {entry.name} has not ended.")
        sets = cast("Mapping[str, Sequence[Sequence[str]]]", described.get("sets") or {})
        inputs: list[JsonValue] = [
            [node, name, value]
            for varied, value in line.values.items()
            for node, name in sets.get(varied, ())
        ]
        return {"inputs": inputs, "values": line.values}

    async def runs(self, batch: str) -> JsonValue:
        """The newest runs of a batch that have ended, with a small picture of each that made one.

        Raises:
            JobNotFound: There is no such batch.
        """
        entry = await self._shown(batch)

        def newest() -> list[JsonValue]:
            runs = [*read_batch(entry.folder).runs]
            runs = sorted(runs, key=lambda run: run.ended or "")[-_MOST_PICTURES:]
            pictures = {
                run.row: next((one for one in run.outputs if one.kind == "image"), None)
                for run in runs
            }
            thumbnails = Thumbnails(entry.folder)
            thumbnails.make([one for one in pictures.values() if one is not None])
            found: list[JsonValue] = []
            for run in reversed(runs):
                picture = pictures[run.row]
                made = None if picture is None else thumbnails.of(picture)
                address = f"/remote/batches/{entry.id}/sheet/{THUMBNAILS}/"
                found.append(
                    {
                        "row": run.row,
                        "state": run.state,
                        "values": run.values,
                        "thumbnail": None if made is None else f"{address}{made.name}",
                    }
                )
            return found

        return {"runs": await asyncio.to_thread(newest)}

    async def sheet(self, batch: str) -> SheetRoutes:
        """The sheet of a batch, as it is now. Raises `JobNotFound`."""
        entry = await self._shown(batch)
        if entry.id not in self._sheets:
            while len(self._sheets) >= _MOST_SHEETS:
                del self._sheets[next(iter(self._sheets))]
            self._sheets[entry.id] = SheetRoutes(entry.folder, in_comfyui=True)
        return self._sheets[entry.id]

    async def _shown(self, batch: str) -> BatchEntry:
        if self._host.several_users:
            raise JobNotFound("Where several people share a ComfyUI, its batches are not shown.")
        return await self._record.read(self._record.batches.get, batch)

    @property
    def _input_root(self) -> Path:
        return self._host.folder("input").parent

    async def _drive(self, entry: BatchEntry) -> None:
        home = self._record.path.parent
        # The process of one that is over may not have ended yet: the new one waits for that.
        going_on = entry.state in (BatchState.RUNNING, BatchState.WAITING)
        if not (going_on and await asyncio.to_thread(is_driven, home, entry.id)):
            await asyncio.to_thread(start_background, entry, home)

    async def _draft(self, wanted: VaryRequest, own_url: str) -> tuple[_OpenTarget, Draft]:
        for varied, values in wanted.vary.items():
            if varied.startswith("@") or "=" in varied:  # with its values, it would name a file
                raise ConfigurationError(f"{varied!r} is not the name of an input.")
            if isinstance(values, str) and values.lstrip().startswith("@"):
                raise ConfigurationError(
                    f"{varied}: values are not read from a file here.",
                    advice="Paste them, a value a line; or use comfy-remote batch in a terminal.",
                )
        opened = await self._open(wanted.target, own_url)
        prompt = parse_prompt(wanted.prompt, "The prompt")
        loaded = LoadedWorkflow(
            cleaned_text(wanted.source or "workflow"),
            "workflow in API format",
            prompt,
            wanted.workflow,
        )
        name = None if wanted.name is None else cleaned_text(wanted.name)
        folder = self._host.folder("output") / "batches"
        drafted = await draft(
            opened.client,
            loaded,
            Variation(vary=wanted.vary, zipped=wanted.zipped, repeat=wanted.repeat),
            target=opened.name,
            options=BatchOptions(name=name, below=folder, at_most=wanted.at_most),
            folder=self._host.folder("input"),
        )
        try:
            self._check(drafted)
        except BaseException:
            drafted.plan.close()
            raise
        return opened, drafted

    def _check(self, drafted: Draft) -> None:
        if drafted.plan.count > _MOST_RUNS:
            raise ConfigurationError(
                f"These are {drafted.plan.count:,} runs, and {_MOST_RUNS:,} are started from the "
                "page at most.",
                advice="Vary less, or use comfy-remote batch in a terminal.",
            )
        inputs = self._host.folder("input")
        for path in drafted.plan.all_files():
            if not path.is_relative_to(inputs) or leads_out(path, inputs):
                raise InputFileMissing(
                    f"{path.name} is not in ComfyUI's input folder.",
                    advice="Upload it with a Load node, and vary that node's list.",
                )

    async def _open(self, target: str | None, own_url: str) -> _OpenTarget:
        if target is not None:
            return _OpenTarget(await self._pool.client(target), target)
        async with self._opening:
            if own_url not in self._own:
                client = Client(own_url, record=self._record, on_interrupt=None)
                await client.__aenter__()
                self._own[own_url] = client
            return _OpenTarget(self._own[own_url], own_url)

    async def _one(self, entry: BatchEntry, own_url: str) -> JsonValue:
        [described] = await self._described([entry], own_url)
        return described

    async def _described(self, entries: Sequence[BatchEntry], own_url: str) -> Sequence[JsonValue]:
        """Batches as the page gets them; whether each is driven is looked up in one thread."""
        home = self._record.path.parent

        def described() -> Sequence[JsonValue]:
            return [_description(one, own_url, is_driven(home, one.id)) for one in entries]

        return await asyncio.to_thread(described)


def _description(entry: BatchEntry, own_url: str, driven: bool) -> JsonValue:
    state: str = entry.state.value
    if entry.state is BatchState.RUNNING and not driven:
        state = "interrupted"  # its process was killed: it can be resumed
    return {
        "id": entry.id,
        "name": entry.name,
        "target": None if entry.target == own_url else entry.target,
        "state": state,
        "why": None if entry.why is None else cleaned_text(entry.why),
        "wanted": entry.wanted.value,
        "driven": driven,
        "count": entry.count,
        "begun": entry.begun,
        "succeeded": entry.succeeded,
        "failed": entry.failed,
        "cancelled": entry.cancelled,
        "created": entry.created,
        "updated": entry.updated,
        "folder": str(entry.folder),
    }
