"""``comfy-remote show``: describes a workflow without running it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..types import JsonValue
from .options import json_option, load_typed, target_option, var_option, workflow_argument
from .schemas import schemas_option

if TYPE_CHECKING:
    from rich.table import Column

    from ..workflow.change.settable import SettableInput
    from ..workflow.load import LoadedWorkflow
    from ..workflow.models import Model
    from ..workflow.packs import NodePack
    from ..workflow.prompt import Prompt
    from ..workflow.schema import Schemas
    from ..workflow.summary import LoadedFile, LocalFile, MadeOutput, Summary

__all__ = ["show"]

_OPTIONS = {
    "positive": "--prompt",
    "negative": "--negative",
    "seed": "--seed",
    "width": "--width",
    "height": "--height",
    "batch_size": "--batch",
}
_LONGEST_VALUE = 60


@click.command()
@workflow_argument
@target_option(
    "Ask this target about its nodes. Without it, nothing is asked over the network, and only "
    "ComfyUI's own nodes are known."
)
@schemas_option
@var_option
@json_option
def show(
    workflow: Path,
    on: str | None,
    schemas_source: Path | str | None,
    variables: dict[str, str],
    json_lines: bool,
) -> None:
    """Describe a workflow: what can be set, what it needs, what it makes.

    WORKFLOW is whatever `run` takes. The inputs are named as --set takes them; those that have
    an option of their own (--prompt, --seed, --width) say so. Models and files are those of the
    nodes that run. The fingerprint is the same for two workflows that mean the same.

    \b
    Examples:
      comfy-remote show workflow.json
      comfy-remote show ComfyUI_00042_.png --on http://192.168.1.20:8188
      comfy-remote show workflow.json --json | jq -r '.models[].url'
    """
    from ..workflow.summary import summarize
    from .console import print_json, say
    from .schemas import completed, found_schemas

    loaded = load_typed(workflow, variables)
    found = found_schemas(schemas_source, on, loaded.prompt)
    asked = on is not None or schemas_source is not None
    schemas = completed(found, loaded) if asked else found.schemas  # else there is no network
    prompt = _prompt(loaded, schemas)
    base = workflow.absolute().parent
    summary = summarize(
        prompt, schemas=schemas, workflow=loaded.workflow, files=_local_files(prompt, schemas, base)
    )
    if json_lines:
        head: dict[str, JsonValue] = {
            "source": loaded.source,
            "found": loaded.found,
            "schemas": schemas.source,
        }
        print_json({**head, **summary.to_json()})
        return
    say(loaded.describe())
    _print(summary)


def _prompt(loaded: LoadedWorkflow, schemas: Schemas) -> Prompt:
    from .console import say
    from .schemas import api_prompt

    prompt = api_prompt(loaded, schemas)
    if loaded.prompt is not None:
        return prompt
    unknown = sorted({n["class_type"] for n in prompt.values() if n["class_type"] not in schemas})
    if unknown:
        say(
            f"Not among the nodes of {schemas.source}: {', '.join(unknown)}. Their inputs are "
            "those that the file itself names."
            + (" --on TARGET asks a ComfyUI that has them." if schemas.is_snapshot else "")
        )
    return prompt


def _local_files(prompt: Prompt, schemas: Schemas, base: Path) -> dict[str, LocalFile]:
    """The files that the prompt loads and that are here, as `run` would find them."""
    from ..media.files import sha256_of
    from ..targets.base import input_errors
    from ..workflow.files import FileSearch, file_uses
    from ..workflow.summary import LocalFile
    from .console import say

    found: dict[str, LocalFile] = {}
    search = FileSearch.beside(base)
    for name in dict.fromkeys(use.name for use in file_uses(prompt, schemas)):
        path = search.find(name)
        if path is None and (why := search.refusal(name)):
            say(f"{name}, {why}, is not sent unless --input FILE names it.")
        if path is not None:
            with input_errors(path):
                found[name] = LocalFile(path, path.stat().st_size, sha256_of(path))
    return found


def _print(summary: Summary) -> None:
    from rich.table import Column

    from ..units import size_text
    from .console import print_table, printable_line

    idle = f", of which {len(summary.idle)} feed no output" if summary.idle else ""
    facts = [
        ("Nodes", f"{summary.nodes}{idle}"),
        *(("From", _pack(pack)) for pack in summary.packs),
        ("To send", size_text(summary.payload)),
        ("Fingerprint", summary.fingerprint or "none"),
        *(("Problem", problem) for problem in summary.problems),
    ]
    for name, value in facts:
        print(f"{name:<13}{printable_line(value)}")
    print()
    if summary.inputs:
        columns = [
            _folding("Input"),
            Column("Option", no_wrap=True),
            _folding("Node"),
            Column("Type", overflow="ellipsis", max_width=16, no_wrap=True),
            _folding("Value"),
            _folding("Range"),
        ]
        print_table(columns, map(_input_row, summary.inputs))
    if summary.models:
        columns = [_folding(heading) for heading in ("Model", "Folder", "Used by", "From")]
        print_table(columns, map(_model_row, summary.models))
    if summary.files:
        print_table(["File", "Used by", "Size"], map(_file_row, summary.files))
    if summary.outputs:
        print_table(["Output", "Kind", "Kept", "Name begins"], map(_output_row, summary.outputs))


def _folding(heading: str) -> Column:
    from rich.table import Column

    return Column(heading, overflow="fold")


def _pack(pack: NodePack) -> str:
    from ..workflow.packs import CORE

    if pack.name == CORE:
        return "ComfyUI itself"
    name = pack.name or "an unknown node pack"
    return f"{name}{f' {pack.version}' if pack.version else ''}: {', '.join(pack.classes)}"


def _input_row(one: SettableInput) -> tuple[str, ...]:
    named = one.title if one.title == one.class_type else f"{one.title} ({one.class_type})"
    option = _OPTIONS[one.role] if one.role else ""
    return one.setting, option, named, one.type, _value(one), _range(one)


def _value(one: SettableInput) -> str:
    from ..workflow.prompt import is_link

    if is_link(one.value):
        return f"(from node {one.value[0]})"
    return _short(one.value if isinstance(one.value, str) else json.dumps(one.value))


def _range(one: SettableInput) -> str:
    if one.choices is not None:
        return f"{one.choices} choices" if one.choices > 1 else "1 choice"
    low, high = one.minimum, one.maximum
    if low == -sys.maxsize and high == sys.maxsize:  # how ComfyUI writes that any will do
        return ""
    if low is None or high is None:
        return "" if low is high else f"{low} at least" if high is None else f"{high} at most"
    return f"{low} to {high}"


def _model_row(model: Model) -> tuple[str, ...]:
    nodes = dict.fromkeys(node_id for node_id, _ in model.places)
    return (
        model.name,
        model.folder or "?",
        ", ".join(nodes),
        model.source.url if model.source else "",
    )


def _file_row(loaded: LoadedFile) -> tuple[str, ...]:
    from ..units import size_text

    size = size_text(loaded.file.size) if loaded.file else "missing"
    return _short(loaded.name), loaded.node_id, size


def _output_row(one: MadeOutput) -> tuple[str, ...]:
    return f"{one.node_id} {one.title}", one.kind, one.kept, _short(one.prefix or "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 1]}…"
