"""``comfy-remote cut``: shows what would run where, and what would cross the boundary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_option, target_option, var_option, workflow_argument

if TYPE_CHECKING:
    from ..workflow.cut import Crossing, Cut
    from ..workflow.prompt import Prompt

__all__ = ["cut"]


@click.command()
@workflow_argument
@click.option(
    "-r",
    "--remote",
    "nodes",
    metavar="NODE",
    multiple=True,
    help="Run this node elsewhere: its id, its title, or its class where only one has it. May be "
    "given more than once. Default: the nodes and groups that are marked in the page.",
)
@target_option("Check that this target has the nodes.")
@target_option(
    "The ComfyUI that runs the rest. Default: one that has all the nodes.",
    "--here",
)
@var_option
@json_option
def cut(
    workflow: Path,
    nodes: tuple[str, ...],
    on: str | None,
    here: str | None,
    variables: dict[str, str],
    json_lines: bool,
) -> None:
    """Show what would run where, if some nodes of a workflow ran elsewhere. Runs nothing.

    Pictures, latents, conditionings, sound, numbers and texts cross the boundary; models are
    loaded on each side that uses them. What cannot be cut is refused with the reason.

    \b
    Examples:
      comfy-remote cut workflow.json --remote KSampler
      comfy-remote cut workflow.json --remote 3 --remote "VAE Decode" --on runpod:ENDPOINT
      comfy-remote cut workflow.json --json | jq '.parts[].inputs'
    """
    from ..errors import ConfigurationError
    from ..jobs.forecast import cut_for, every_class
    from ..workflow.files import FileSearch
    from ..workflow.load import load_workflow
    from .console import print_json
    from .schemas import api_prompt, schemas_of

    loaded = load_workflow(workflow, variables=variables)
    bundled = schemas_of(None)
    prompt = api_prompt(loaded, schemas_of(on) if on and loaded.prompt is None else bundled)
    there = schemas_of(on, prompt) if on else bundled
    local = schemas_of(here, prompt) if here else every_class(prompt, there, bundled)
    search = FileSearch.beside(workflow.absolute().parent)
    result = cut_for(loaded, prompt, there, search, nodes=nodes, target=on, here=local)
    if result is None:
        raise ConfigurationError(
            "No node of the workflow is marked to run elsewhere.",
            advice="Name some with --remote NODE, or mark them in ComfyUI's page.",
        )
    if json_lines:
        print_json(result.to_json())
    else:
        _print(prompt, result)


def _print(prompt: Prompt, result: Cut) -> None:
    from ..units import size_text
    from ..workflow.interface import REMOTE_PART, REMOTE_SHOWN
    from .console import print_table, printable_line, say

    here = [
        n
        for n, node in result.local.items()
        if node["class_type"] not in (REMOTE_PART, REMOTE_SHOWN)
    ]
    copies = {n for part in result.parts for n in part.copies}
    rows = [
        ("here", *_described(prompt, n), "made there, too" if n in copies else "") for n in here
    ]
    for number, part in enumerate(result.parts, 1):
        name = part.name or f"part {number}"
        rows += [(name, *_described(prompt, n), "") for n in part.nodes]
        rows += [
            (name, *_described(prompt, n), "made here, too" if n in here else "")
            for n in part.copies
        ]
    print_table(["Where", "Node", "Class", ""], rows)
    crossings = [
        (way, one)
        for part in result.parts
        for way, several in (("there", part.inputs), ("back", part.outputs))
        for one in several
    ]
    if crossings:
        print_table(
            ["Crosses", "Type", "From", "To", "Size"],
            [(way, *_crossing(one), _size(one)) for way, one in crossings],
        )
        known = sum(one.size or 0 for _, one in crossings)
        unknown = sum(one.size is None for _, one in crossings)
        more = f", and {unknown} of unknown size" if unknown else ""
        print(f"To cross: about {size_text(known)}{more}.")
    for note in result.notes:
        print(printable_line(f"Note: {note}"))
    if not result.parts:
        say("Nothing would run elsewhere: no output needs what is marked.")


def _described(prompt: Prompt, node_id: str) -> tuple[str, str]:
    node = prompt[node_id]
    title = node.get("_meta", {}).get("title")
    return f"{node_id} {title or ''}".strip(), node["class_type"]


def _crossing(one: Crossing) -> tuple[str, str, str]:
    taken = ", ".join(f"{node_id}.{name}" for node_id, name in one.to)
    return one.type, f"{one.node_id}, output {one.output}", taken


def _size(one: Crossing) -> str:
    from ..units import size_text

    return "?" if one.size is None else size_text(one.size)
