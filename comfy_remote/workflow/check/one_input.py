"""Whether one input of a prompt may have other values, by the rules of the whole check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...types import JsonValue
from ..live_inputs import live_inputs
from ..prompt import Place, Prompt, is_link, with_inputs
from ..schema import DYNAMIC_COMBO, Schemas, input_schema
from ..spelling import listed_as
from .literals import check_literal, type_and_options
from .report import Problem
from .rules import rules_of
from .values import chosen_inputs, input_problem

__all__ = ["InputCheck"]


class InputCheck:
    """The check of one input. What the schemas do not know counts as right."""

    def __init__(self, prompt: Prompt, place: Place, schemas: Schemas) -> None:
        self._node_id, self._name = place
        self._prompt = prompt
        self._schemas = schemas
        node = prompt[self._node_id]
        found = [rules_of(schemas, strict=strict)(node["class_type"]) for strict in (False, True)]
        # The second is for warnings: where only the node could tell.
        self._rules = [rules for rules in found if rules is not None]
        specs = live_inputs(self._rules[0].inputs, node["inputs"]).all() if self._rules else {}
        self._spec = specs.get(self._name)
        self._kind, self._options = type_and_options(self._spec)
        self._choices = input_schema(self._name, self._spec).selectable if self._spec else ()

    @property
    def takes_anything(self) -> bool:
        """Whether no text or number is wrong for it."""
        return self._spec is None or (self._kind == "STRING" and not self._choices)

    @property
    def takes_numbers(self) -> bool:
        """Whether it takes all numbers of a range, as far as is known."""
        return not self._choices and self._kind in ("INT", "FLOAT", "*")

    def problem(self, value: JsonValue) -> Problem | None:
        """What is wrong with a value: its type, range, or choice; a link counts as right."""
        return None if self._spec is None or is_link(value) else next(self._problems(value), None)

    def _problems(self, value: JsonValue) -> Iterator[Problem]:
        value = listed_as(value, self._choices) or value
        place = self._node_id, self._name
        if self._kind == DYNAMIC_COMBO:
            changed = with_inputs(self._prompt, {place: value})
            found = chosen_inputs(changed, self._schemas, [self._node_id])
            yield from (problem for problem in found if problem.input == self._name)
        for strict, rules in zip((False, True), self._rules, strict=True):
            try:
                error, _ = check_literal(rules, self._name, self._kind, self._options, value)
            except TypeError:  # a text where a range is declared: ComfyUI fails, too
                kind = self._prompt[self._node_id]["class_type"]
                message = f"{value!r} is not of type {self._kind}."
                yield Problem("invalid_input_type", message, self._node_id, kind, self._name)
                return
            if error is not None:
                changed = with_inputs(self._prompt, {place: value})
                problem = input_problem(changed, self._node_id, error, self._schemas)
                yield replace(problem, severity="warning") if strict else problem
