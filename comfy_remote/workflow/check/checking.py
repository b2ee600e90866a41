"""The whole check: ComfyUI's rules first, then what ComfyUI only finds while running."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ...advice import Hint
from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..change.file_names import left_over
from ..files import FileSearch
from ..graph import execution_order, needed_nodes, output_nodes
from ..load import parse_prompt
from ..packs import find_packs
from ..prompt import Prompt
from ..schema import Schemas
from .advice import advise
from .limits import Limits, file_problems, request_size, result_size
from .report import Problem, Report
from .rules import REPLACED_CLASSES, NodeRules, Rules, permissive, rules_of
from .sizes import SAVERS, Pictures, picture_sizes
from .structure import broken_links, dependency_cycles, is_replaced, missing_classes, no_output
from .validation import Validated, validate_prompt
from .values import EXCEPTIONS, chosen_inputs, each_error, input_problem, node_error_problems

if TYPE_CHECKING:
    from pathlib import Path

    from ..convert import Doubt

__all__ = ["check_prompt", "validate_for"]


def validate_for(
    prompt: Mapping[str, JsonValue] | Prompt,
    schemas: Schemas,
    only_outputs: Collection[str] | None = None,
) -> Validated:
    """Validate a prompt as the ComfyUI that these schemas are of would.

    ``Validated.to_json()`` is the body of its 400. What the schemas cannot tell counts as valid:
    files that Load nodes name, values that a custom node may check by itself, and for the bundled
    snapshot any class.
    """
    rules = _with_replaced(rules_of(schemas), schemas)
    if schemas.is_snapshot:
        rules = permissive(rules, prompt)
    return validate_prompt(prompt, rules, only_outputs)


def check_prompt(
    prompt: Prompt | JsonValue,
    schemas: Schemas,
    *,
    workflow: Mapping[str, JsonValue] | None = None,
    files: FileSearch | None = None,
    limits: Limits | None = None,
    doubts: Iterable[Doubt] = (),
) -> Report:
    """Check a prompt against the schemas of a target.

    Args:
        schemas: The target's, or the bundled snapshot, for which unknown nodes and models are no
            errors.
        workflow: The same in UI format, which may name the packs of nodes.
        files: Where to look for the files of Load nodes; ``None`` to skip that.
        limits: Of the target's queue; none by default.
        doubts: Those of its conversion.

    Raises:
        WorkflowInvalid: It is not a prompt at all.
    """
    prompt = parse_prompt(cast("JsonValue", prompt), check_links=False)
    limits = limits or Limits()
    validated = validate_for(prompt, schemas)
    roots = output_nodes(prompt, schemas)
    live = needed_nodes(prompt, roots)
    packs = find_packs(prompt, schemas=schemas, workflow=workflow)
    missing = list(missing_classes(prompt, schemas, packs))
    broken = [*broken_links(prompt, schemas, live), *dependency_cycles(prompt, live)]
    problems = [*missing, *broken]
    known_outputs = any(
        (found := schemas.get(prompt[n]["class_type"])) and found.output_node for n in roots
    )
    if not known_outputs:
        undeclared = any(
            (found := schemas.get(prompt[n]["class_type"])) and found.output_node is None
            for n in roots
        )
        problems.append(no_output(schemas, unsure=bool(missing) or undeclared))
    problems += _input_problems(prompt, schemas, bool(broken))
    problems += chosen_inputs(prompt, schemas, live)
    found_files: dict[str, Path] = {}
    if files is not None:
        file_errors, found_files = file_problems(prompt, files, live, schemas)
        problems += file_errors
    sizes = _sizes(prompt, roots, schemas)
    problems += request_size(prompt, workflow, found_files, limits)
    problems += result_size(prompt, live, sizes, limits)
    problems += _doubtful_values(prompt, doubts)
    return Report(
        problems=tuple(_in_order(prompt, problems)),
        advice=tuple(advise(prompt, live, roots, sizes)),
        schemas=schemas.source,
        error=validated.error,
        node_errors=validated.node_errors,
    )


def _input_problems(prompt: Prompt, schemas: Schemas, broken: bool) -> Iterator[Problem]:
    """What ComfyUI says about the nodes; as warnings what only a custom node could tell."""
    seen: set[tuple[str, str, str | None]] = set()
    for strict in (False, True):
        rules = permissive(_with_replaced(rules_of(schemas, strict=strict), schemas), prompt)
        found = validate_prompt(prompt, rules).node_errors
        for problem in node_error_problems(prompt, found, schemas):
            key = (str(problem.node_id), problem.code, problem.input)
            if key not in seen:
                seen.add(key)
                yield replace(problem, severity="warning") if strict else problem
        if not broken and not strict:
            for node_id, error in each_error(found):
                if error.get("type") in EXCEPTIONS:
                    yield input_problem(prompt, node_id, error, schemas)


def _with_replaced(rules: Rules, schemas: Schemas) -> Rules:
    """Classes that ComfyUI replaces by itself are not missing; what they take is not known."""

    def replaced(class_type: str) -> NodeRules | None:
        known = rules(class_type)
        if known is not None or not is_replaced(class_type, schemas):
            return known
        new = schemas.get(REPLACED_CLASSES[class_type])
        return NodeRules({}, None, output_node=new is not None and new.output_node is True)

    return replaced


def _sizes(prompt: Prompt, roots: list[str], schemas: Schemas) -> dict[str, Pictures]:
    try:
        ordered = execution_order(prompt, roots)
    except WorkflowInvalid:
        return {}  # Links are broken, and reported as such.
    sizes = picture_sizes(prompt, ordered, schemas)
    for node_id in roots:  # Of a node that saves: what it takes.
        kind = SAVERS.get(prompt[node_id]["class_type"])
        link = prompt[node_id]["inputs"].get(kind.input) if kind is not None else None
        if isinstance(link, list) and link and isinstance(link[0], str) and link[0] in sizes:
            sizes[node_id] = sizes[link[0]]
    return sizes


def _in_order(prompt: Prompt, problems: Iterable[Problem]) -> list[Problem]:
    """By node, in the prompt's order; what concerns no node comes first."""
    position = {node_id: number for number, node_id in enumerate(prompt)}
    return sorted(problems, key=lambda problem: position.get(problem.node_id or "", -1))


def _doubtful_values(prompt: Prompt, doubts: Iterable[Doubt]) -> Iterator[Problem]:
    """Warnings: saved values that do not fit, and placeholders that nothing fills in."""
    for doubt in doubts:
        message = f"{doubt.message[0].upper()}{doubt.message[1:]}"
        yield Problem(
            "value_doubtful",
            message,
            doubt.node_id,
            doubt.class_type,
            doubt.input,
            severity="warning",
        )
    for node_id, key, placeholder in left_over(prompt):
        yield Problem(
            "placeholder_left",
            f"{placeholder} stays as it is: nothing fills it in for this input.",
            node_id,
            prompt[node_id]["class_type"],
            key,
            advice=Hint.SET_PLACEHOLDER(input=f"{node_id}.{key}"),
            severity="warning",
            details={"placeholder": placeholder},
        )
