"""A batch before it is made: its workflow and what varies, read and checked against each other."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..jobs.submission import Workflow, opened, read
from ..media.files import storage_errors
from ..text_file import text_of
from ..workflow.change.prepare import Changes, prepare
from ..workflow.load import filled_workflow
from .frozen import Frozen, frozen_changes, schemas_of
from .hours import Hours
from .plan import Plan, Variation, plan_of
from .run_names import check_pattern

if TYPE_CHECKING:
    from ..config.cache_settings import CacheMode
    from ..jobs.client import Client
    from ..types import JsonValue
    from ..workflow.load import LoadedWorkflow
    from ..workflow.prompt import Place
    from ..workflow.schema import Schemas

__all__ = ["BatchOptions", "Draft", "draft"]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is run, besides what varies in it.

    Attributes:
        name: By default the workflow's, with a number if that is taken.
        folder: For its outputs; by default one of its name ``below`` another, which is ``outputs``
            in the current folder by default.
        at_most, stop_after, pattern, timeout, embed: See `Frozen`.
        start, until: Times of day; see `Hours`.
        repo_list, retry_lost, over_cap: As for `Client.submit`.
        cache: As for `Client.submit`, but that batches use the cache by default.
        cap: US dollars that all of it may cost, beside the caps that are configured.
    """

    name: str | None = None
    folder: Path | None = None
    below: Path | None = None
    at_most: int | None = None
    stop_after: int | None = None
    pattern: str | None = None
    timeout: float | None = None
    start: str | None = None
    until: str | None = None
    repo_list: str | None = None
    retry_lost: bool = True
    embed: bool = False
    cache: CacheMode = "use"
    cap: float | None = None
    over_cap: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """All that is known of a batch before anything is sent or written.

    Attributes:
        plan: Its rows.
        frozen: As it will be kept, but for its files.
        options: As they were given.
        inputs: Files that the user named.
        base: The workflow's folder, if it is a file.
        notes: What was found when the workflow was read, a sentence each.
    """

    plan: Plan
    frozen: Frozen
    options: BatchOptions
    inputs: tuple[Path, ...]
    base: Path | None
    notes: tuple[str, ...] = ()


async def draft(
    client: Client,
    workflow: Workflow,
    variation: Variation,
    *,
    target: str | None,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    inputs: Sequence[Path | str] | Path | str = (),
    options: BatchOptions = BatchOptions(),
    config: Path | None = None,
    folder: Path | None = None,
    source: str | None = None,
    rng: random.Random | None = None,
) -> Draft:
    """Read a workflow and what varies in it. Nothing runs, and nothing is written.

    Args:
        client: Open, for the target.
        target: What the user calls it; ``None`` for a `Target` without a name.
        workflow, changes, inputs: As for `Client.prepare`.
        config: A ``comfy-remote.toml`` that the user named.
        folder: What relative paths start from, and where the workflow's files are looked for if it
            is no file; the current folder by default.
        source: What the user typed for the workflow; its path by default.

    Raises:
        WorkflowInvalid: It cannot be read or converted, or something does not fit it.
        ConfigurationError: What varies, or an option, cannot be read.
    """
    hours = Hours.of(options.start, options.until, time.time())
    workflow = await asyncio.to_thread(opened, workflow)
    loaded = await asyncio.to_thread(read, workflow, _filled(changes))
    if source is not None:
        loaded = replace(loaded, source=source)
    is_file = isinstance(workflow, str | Path)
    text = None
    if loaded.variables and is_file:
        path = Path(workflow)  # type: ignore[arg-type]
        if str(path) == "-":
            raise ConfigurationError(
                "A batch reads a workflow with variables (${NAME}) once more for each run, which "
                "standard input does not allow.",
                advice="Save it to a file, and give that.",
            )
        with storage_errors(path):
            text = text_of(await asyncio.to_thread(path.read_bytes))
    base = Path(workflow).absolute().parent if is_file else folder  # type: ignore[arg-type]
    given = tuple(map(Path, [inputs] if isinstance(inputs, str | Path) else inputs))
    found = await client.schemas_for(loaded)
    ready = prepare(loaded, changes, found.schemas, fill_names=False)
    filled = {}
    if text is not None:
        filled = await asyncio.to_thread(_filled_places, text, loaded, changes, found.schemas)
    plan = await asyncio.to_thread(
        plan_of,
        variation,
        ready.prompt,
        folder=folder or Path.cwd(),
        schemas=found.schemas,
        base=changes,
        given=given,
        beside=base,
        filled=filled,
        random=rng,
    )
    if options.pattern is not None:
        check_pattern(options.pattern, [one.name for one in plan.inputs])
    classes = [node["class_type"] for node in ready.prompt.values()]
    # Without variables in the file, what changes in all runs is in the prompt already.
    rest = changes if text is not None else Changes(prompt_nodes=changes.prompt_nodes)
    frozen = Frozen(
        source=loaded.source,
        target=target,
        config=config,
        folder=Path.cwd(),
        text=text,
        prompt=json.loads(json.dumps(ready.prompt)),
        workflow=ready.workflow,
        changes=frozen_changes(rest),
        schemas=schemas_of(classes, found.schemas),
        repo_list=options.repo_list,
        retry_lost=options.retry_lost,
        at_most=options.at_most,
        stop_after=options.stop_after,
        pattern=options.pattern,
        timeout=options.timeout,
        start=hours.start,
        until=hours.until,
        embed=options.embed,
        cache=options.cache,
    )
    frozen.loaded(plan.changes(0, frozen.base()))  # each variable of the file has a value
    notes = (*found.notes, *ready.notes)
    return Draft(plan, frozen, options, given, base, notes)


def _filled(changes: Changes) -> Changes:
    """With something for each variable that may vary: what does is known only once it is read."""
    return replace(
        changes,
        prompt=changes.prompt if changes.prompt is not None else "one",
        negative=changes.negative if changes.negative is not None else "one",
        seed=changes.seed if changes.seed is not None else 1,
        width=changes.width or 1,
        height=changes.height or 1,
        batch=changes.batch or 1,
    )


def _filled_places(
    text: str, loaded: LoadedWorkflow, changes: Changes, schemas: Schemas
) -> dict[str, list[Place]]:
    """The inputs that each variable of a workflow's file reaches, by what it is called as a change.

    Found by reading the file twice, with one of them changed.
    """

    def inputs(changes: Changes) -> dict[Place, JsonValue]:
        filled = filled_workflow(text, changes.variables(), loaded.source)
        ready = prepare(filled, Changes(), schemas)
        return {
            (node_id, name): value
            for node_id, node in ready.prompt.items()
            for name, value in node["inputs"].items()
        }

    base = _filled(changes)
    others: dict[str, str | int] = {
        **dict.fromkeys(("prompt", "negative"), "another"),
        **dict.fromkeys(("seed", "width", "height", "batch"), 7),
    }
    before = inputs(base)
    places = {}
    for word, other in others.items():
        if word.upper() in loaded.variables:
            after = inputs(replace(base, **{word: other}))  # type: ignore[arg-type]
            places[word] = [place for place in after if after[place] != before.get(place)]
    return places
