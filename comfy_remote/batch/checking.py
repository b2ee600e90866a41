"""What a target would refuse of a batch: every value is checked once, before anything is sent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..jobs.client import Client
from ..jobs.forecast import ask_target, report_on
from ..types import JsonValue
from ..workflow.change.prepare import Changes
from ..workflow.check import InputCheck, Problem
from ..workflow.files import FileSearch
from ..workflow.files.uses import file_use
from ..workflow.load import parse_workflow
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .names import VariedInput
from .plan import Plan
from .values import Stepped, Stored, Values

__all__ = ["ValueProblem", "check_plan", "check_values"]

_MOST_COMPUTED = 10_000
_MOST_ASKED = 200
"""Names of files that a target is asked about; after that, its own refusal says so."""


@dataclass(frozen=True, slots=True)
class ValueProblem:
    """A value that keeps its runs from running, or may.

    Attributes:
        name: What varies, as typed; empty if the problem does not depend on it.
        value: The value; of a range, the end that is wrong.
        runs: How many runs have it; of a range, how many have a value that is wrong like it.
        problem: What is wrong: ``message``, ``advice``, ``severity`` ("error" or "warning").
    """

    name: str
    value: JsonValue
    runs: int
    problem: Problem

    @property
    def message(self) -> str:
        """A sentence or two, with what varies and its value; else with the node."""
        if not self.name:
            problem = self.problem
            places = (problem.node_class, problem.node_id and f"(node {problem.node_id})")
            where = " ".join(filter(None, (*places, problem.input)))
            return f"{where}: {problem.message}" if where else problem.message
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
    """What the client's target would refuse: of the first run as a whole, then each value.

    Combinations are not checked.

    Args:
        client: Open.
        plan: Of this prompt.
        prompt: As it was frozen.
        search: Where the files are that do not vary, and those that values name by names of the
            target's; by default below the current folder.
        schemas: To check against, instead of the target's.

    Raises:
        TargetError: The target cannot be asked.
    """
    if search is None:
        search = await asyncio.to_thread(lambda: FileSearch.beside(None))
    here = FileSearch((*plan.files(0), *search.given), search.roots, search.on_target)
    first = parse_workflow(cast("JsonValue", plan.prompt(0, prompt)), "The prompt")
    given = schemas or await client.given_schemas()
    folder = client.record.path.parent
    known = await ask_target(client.target, client.address, first, Changes(), here, given, folder)
    report = await asyncio.to_thread(report_on, known, here)
    varied = {place for one in plan.inputs for place in one.places}
    whole = [
        ValueProblem("", None, plan.count, problem)
        for problem in report.problems
        if (problem.node_id, problem.input) not in varied
    ]
    values = await asyncio.to_thread(check_values, plan, prompt, known.schemas, search)
    there: dict[str, bool] = {}
    for name in dict.fromkeys(filter(None, (_perhaps_there(one.problem) for one in values))):
        # What is not asked counts as there.
        there[name] = len(there) >= _MOST_ASKED or await client.target.has_input(name)
    return whole + [one for one in values if not there.get(_perhaps_there(one.problem), False)]


def check_values(
    plan: Plan, prompt: Prompt, schemas: Schemas, search: FileSearch
) -> list[ValueProblem]:
    """The values that would be refused, by axis. Blocking; asks nobody, not even for files."""
    return list(_Check(plan, prompt, schemas, search).problems())


@dataclass(frozen=True, slots=True)
class _Runs:
    """How many runs have the values of an axis.

    Attributes:
        each: With each value, if all combinations run.
        sampled: With the value of each number, if some were chosen.
    """

    each: int
    sampled: Counter[int] | None = None

    def between(self, first: int, last: int) -> int:
        """With the values from one number to another, both included."""
        if self.sampled is None:
            return self.each * (last - first + 1)
        if first == last:
            return self.sampled[first]
        return sum(runs for number, runs in self.sampled.items() if first <= number <= last)


@dataclass(frozen=True, slots=True)
class _Check:
    plan: Plan
    prompt: Prompt
    schemas: Schemas
    search: FileSearch

    def problems(self) -> Iterator[ValueProblem]:
        for axis, runs in zip(self.plan.axes, self._runs(), strict=True):
            for part in axis.parts:
                for column, varied in enumerate(part.inputs):
                    yield from self._of(part.values, column, varied, runs)

    def _runs(self) -> list[_Runs]:
        plan = self.plan
        if plan.sample_seed is None:
            return [_Runs(plan.count // axis.count) for axis in plan.axes]
        counted: list[Counter[int]] = [Counter() for _ in plan.axes]
        for combination in plan.chosen:
            for counter, number in zip(counted, plan.numbers(combination), strict=True):
                counter[number] += plan.repeat
        return [_Runs(0, counter) for counter in counted]

    def _of(
        self, values: Values, column: int, varied: VariedInput, runs: _Runs
    ) -> Iterator[ValueProblem]:
        checks = [InputCheck(self.prompt, place, self.schemas) for place in varied.places]
        if not varied.file and all(check.takes_anything for check in checks):
            return
        if isinstance(values, Stepped) and all(check.takes_numbers for check in checks):
            yield from _of_range(values, varied, checks, runs)
            return
        for cell, count in _distinct(values, column, runs):
            if varied.file:
                shown, problem = self._file(varied, cell)
            else:
                shown, problem = cell, _first(checks, cell)
            if problem is not None:
                yield ValueProblem(varied.name, shown, count, problem)

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


def _of_range(
    values: Stepped, varied: VariedInput, checks: Sequence[InputCheck], runs: _Runs
) -> Iterator[ValueProblem]:
    """A range is wrong from an end of it on, up to the first value that is right."""
    last = values.count - 1
    for at, inwards in ((0, 1), (last, -1)):
        value = values.at(at)[0]
        problem = _first(checks, value)
        if problem is None:
            continue
        wrong, right = 0, values.count  # so many steps from the end, at least and at most
        while right - wrong > 1:
            middle = (wrong + right) // 2
            found = _first(checks, values.at(at + inwards * middle)[0])
            if found is not None and found.code == problem.code:
                wrong = middle
            else:
                right = middle
        first, final = sorted((at, at + inwards * wrong))
        yield ValueProblem(varied.name, value, runs.between(first, final), problem)
        if wrong == last:
            return


def _distinct(values: Values, column: int, runs: _Runs) -> Iterator[tuple[JsonValue, int]]:
    """The distinct values of an input that run, and how many runs have each."""
    distinct: dict[tuple[type, object], tuple[JsonValue, int]] = {}
    for number, cells in enumerate(_rows_of(values)):
        count = runs.between(number, number)
        if count and column < len(cells) and cells[column] is not None:
            cell = cells[column]
            key = type(cell), json.dumps(cell) if isinstance(cell, list | dict) else cell
            before = distinct[key][1] if key in distinct else 0
            distinct[key] = cell, before + count
    yield from distinct.values()


def _rows_of(values: Values) -> Iterator[list[JsonValue]]:
    if isinstance(values, Stored):
        return values.rows.some(values.first, values.count)
    # Seeds are drawn within what their input takes; no list of choices is as long as this.
    return map(values.at, range(min(values.count, _MOST_COMPUTED)))


def _first(checks: Sequence[InputCheck], value: JsonValue) -> Problem | None:
    """The first problem that a value has in any of the inputs that it sets."""
    return next((one for check in checks if (one := check.problem(value)) is not None), None)
