"""What a target would refuse of a batch: every value is checked once, before anything is sent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..jobs.client import Client
from ..types import JsonValue
from ..workflow.check import InputCheck, Problem
from ..workflow.files import FileSearch
from ..workflow.files.uses import file_use
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .axes import Part
from .names import VariedInput
from .plan import Plan
from .values import Stored

__all__ = ["ValueProblem", "check_plan"]

_MOST_ASKED = 200
"""Names of files that a target is asked about; after that, its own refusal says so."""


@dataclass(frozen=True, slots=True)
class ValueProblem:
    """A value that keeps its runs from running, or may.

    Attributes:
        name: What varies, as typed.
        value: The first such value; of a range, one of its ends.
        runs: How many runs have it; of a range, all of them.
        problem: What is wrong: ``message``, ``advice``, ``severity`` ("error" or "warning").
    """

    name: str
    value: JsonValue
    runs: int
    problem: Problem

    @property
    def message(self) -> str:
        """A sentence or two, with what varies and its value."""
        shown = json.dumps(self.value, ensure_ascii=False)
        if len(shown) > 80:
            shown = f"{shown[:80]}…"
        return f"{self.name}={shown}: {self.problem.message}"

    def to_json(self) -> dict[str, JsonValue]:
        """The problem's fields, with ``name``, ``value`` and ``runs``."""
        return {
            "name": self.name,
            "value": self.value,
            "runs": self.runs,
            **self.problem.to_json(),
        }


async def check_plan(
    plan: Plan,
    prompt: Prompt,
    client: Client,
    *,
    search: FileSearch | None = None,
    schemas: Schemas | None = None,
) -> list[ValueProblem]:
    """What the client's target would refuse, by axis and value, in their order.

    The prompt as a whole is not checked, nor are combinations: check a row for that.

    Args:
        plan: Of this prompt.
        prompt: As it was frozen.
        search: Where the files are that values name by names of the target's, or of files beside
            the workflow; by default below the current folder.
        schemas: To check against, instead of the target's.

    Raises:
        TargetError: The target cannot be asked.
    """
    places = [place for one in plan.inputs for place in one.places]
    if schemas is None:
        nodes: Prompt = {node_id: prompt[node_id] for node_id, _ in places if node_id in prompt}
        schemas = await client.schemas(nodes)
    if search is None:
        search = await asyncio.to_thread(lambda: FileSearch.beside(None))
    check = _Check(plan, prompt, schemas, search)
    found = await asyncio.to_thread(lambda: list(check.problems()))
    there: dict[str, bool] = {}
    for name in dict.fromkeys(filter(None, (_perhaps_there(one.problem) for one in found))):
        # What is not asked counts as there.
        there[name] = len(there) >= _MOST_ASKED or await client.target.has_input(name)
    return [one for one in found if not there.get(_perhaps_there(one.problem), False)]


@dataclass(frozen=True, slots=True)
class _Check:
    plan: Plan
    prompt: Prompt
    schemas: Schemas
    search: FileSearch

    def problems(self) -> Iterator[ValueProblem]:
        for axis, runs_with in zip(self.plan.axes, self._runs(), strict=True):
            for part in axis.parts:
                for column, varied in enumerate(part.inputs):
                    checks = [InputCheck(self.prompt, p, self.schemas) for p in varied.places]
                    if varied.file or not all(check.takes_anything for check in checks):
                        values = self._values(part, column, runs_with)
                        yield from self._of(varied, values, checks)

    def _runs(self) -> list[Callable[[int], int]]:
        """Of each axis, how many runs have the value of some number."""
        plan = self.plan
        if plan.sample_seed is None:
            return [_always(plan.count // axis.count) for axis in plan.axes]
        counted: list[Counter[int]] = [Counter() for _ in plan.axes]
        for combination in plan.chosen:
            for counter, number in zip(counted, plan.numbers(combination), strict=True):
                counter[number] += plan.repeat
        return [counter.__getitem__ for counter in counted]

    def _values(
        self, part: Part, column: int, runs_with: Callable[[int], int]
    ) -> Iterator[tuple[JsonValue, int]]:
        """The distinct values of an input, and how many runs have each."""
        values = part.values
        if not isinstance(values, Stored):
            # A range is wrong at its ends; or, if it should be whole, at its second value.
            tried = dict.fromkeys((0, min(1, values.count - 1), values.count - 1))
            yield from ((values.at(number)[0], self.plan.count) for number in tried)
            return
        distinct: dict[tuple[type, object], tuple[JsonValue, int]] = {}
        for number, cells in enumerate(values.rows.some(values.first, values.count)):
            runs = runs_with(number)
            if runs and column < len(cells) and cells[column] is not None:
                cell = cells[column]
                key = type(cell), json.dumps(cell) if isinstance(cell, list | dict) else cell
                before = distinct[key][1] if key in distinct else 0
                distinct[key] = cell, before + runs
        yield from distinct.values()

    def _of(
        self,
        varied: VariedInput,
        values: Iterator[tuple[JsonValue, int]],
        checks: Sequence[InputCheck],
    ) -> Iterator[ValueProblem]:
        for cell, runs in values:
            if varied.file:
                shown, problem = self._file(varied, cell)
            else:
                found = (check.problem(cell) for check in checks)
                shown, problem = cell, next((one for one in found if one is not None), None)
            if problem is not None:
                yield ValueProblem(varied.name, shown, runs, problem)

    def _file(self, varied: VariedInput, cell: JsonValue) -> tuple[JsonValue, Problem | None]:
        node_id, key = varied.places[0]
        node_class = self.prompt[node_id]["class_type"]
        if isinstance(cell, list):
            shown, path = cell[0], Path(str(cell[1]))
            if path.is_file():
                return shown, None
            message, asks = f"The file {path} is not there.", False
        else:
            shown = cell
            use = file_use(node_id, key, str(cell))
            here = self.search.find(use.name, use.folder)
            if use.folder != "input" or here is not None or self._listed(varied, use.name):
                return shown, None
            folders = self.search.folders()
            message = f"The file {use.name[:200]!r} is not here. Looked in: {folders}."
            asks = self.search.refusal(use.name) is None
        return shown, Problem(
            "missing_file",
            message,
            node_id,
            node_class,
            key,
            self.search.advice(str(shown)),
            details={"name": str(shown), "here_only": not asks},
        )

    def _listed(self, varied: VariedInput, name: str) -> bool:
        """Whether the target lists a file among its own."""
        node_id, key = varied.places[0]
        schema = self.schemas.get(self.prompt[node_id]["class_type"])
        inputs = schema.inputs if schema is not None and not self.schemas.is_snapshot else ()
        return any(name in one.choices for one in inputs if one.name == key)


def _perhaps_there(problem: Problem) -> str:
    """The name of a file that the target may have; empty if it is not about one."""
    asks = problem.code == "missing_file" and not problem.details.get("here_only")
    return str(problem.details.get("name")) if asks else ""


def _always(runs: int) -> Callable[[int], int]:
    return lambda _number: runs
