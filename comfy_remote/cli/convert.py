"""``comfy-remote convert``: workflows in UI format to API format, without running them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say
from .options import WORKFLOW, load_typed, target_option, var_option
from .schemas import schemas_option

if TYPE_CHECKING:
    from ..errors import WorkflowInvalid
    from ..workflow.load import LoadedWorkflow
    from ..workflow.prompt import Prompt
    from ..workflow.schema import Schemas

__all__ = ["convert", "matching"]

_STDIN = Path("-")


def matching(paths: Sequence[Path], *, windows: bool = os.name == "nt") -> tuple[Path, ...]:
    """On Windows, the files that patterns such as ``*.json`` match: its shells leave that to us.

    No file there has such a letter in its name, so a pattern is never meant as one.
    """
    if not windows:
        return tuple(paths)
    found: list[Path] = []
    for path in paths:
        there: list[Path] = []
        if set("*?").intersection(str(path)):
            there = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        found += there or [path]
    return tuple(found)


@click.command()
@click.argument(
    "workflows",
    metavar="WORKFLOW...",
    nargs=-1,
    required=True,
    type=WORKFLOW,
    callback=lambda _context, _argument, paths: matching(paths),
)
@schemas_option
@target_option(
    "Take the node schemas of this target. Without it or --schemas, the snapshot that comes "
    "with Comfy Remote is used, which has ComfyUI's own nodes."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR",
    help="Where the result goes: a file, or a folder (one that exists, or a name that ends in /), "
    "which several workflows need. Default: standard output.",
)
@var_option
def convert(
    workflows: tuple[Path, ...],
    schemas_source: Path | str | None,
    on: str | None,
    output: str | None,
    variables: dict[str, str],
) -> None:
    """Convert workflows from UI format to API format.

    WORKFLOW is whatever `run` takes: a JSON file, a picture, video, sound or model that ComfyUI
    saved, or - for standard input. The result is what ComfyUI's own Workflow > Export (API)
    gives. What is in API format already is passed through. ${NAME} in a JSON file is filled in
    with --var.

    A file that -o names is replaced, but never one that is being converted. Of several
    workflows, each that fails is reported, the others are converted, and the exit status is 4.

    \b
    Examples:
      comfy-remote convert workflow.json > api.json
      comfy-remote convert workflow.json --on http://192.168.1.20:8188 -o api.json
      comfy-remote convert *.json ComfyUI_00042_.png -o converted/
    """
    from ..errors import WorkflowInvalid
    from .errors import show_error
    from .schemas import completed, found_schemas

    if schemas_source is not None and on is not None:
        raise click.UsageError("--schemas and --on both say where the schemas come from.")
    places = _places(workflows, output)
    failures: list[WorkflowInvalid] = []
    loaded: dict[Path, LoadedWorkflow] = {}
    for path in dict.fromkeys(workflows):
        try:
            loaded[path] = load_typed(path, variables)
        except WorkflowInvalid as error:
            failures.append(error)
    found = None
    if any(one.prompt is None for one in loaded.values()):
        found = found_schemas(schemas_source, on)
    for path, one in loaded.items():
        try:
            schemas = completed(found, one) if found is not None else None
            prompt = _converted(one, schemas)
        except WorkflowInvalid as error:
            failures.append(_naming(one.source, error))
            continue
        if place := places.get(path):
            _write(prompt, place)
            say(f"Wrote {place}.")
        else:
            print(_pretty(prompt, sys.stdout.encoding or "utf-8"), end="")
    for failure in failures[:-1]:
        show_error(failure)
    if failures:
        raise failures[-1]


def _places(workflows: Sequence[Path], output: str | None) -> dict[Path, Path]:
    """Where each result goes; empty for standard output.

    Refuses two results at one place, and one that would replace a workflow to be converted.
    """
    several = len(set(workflows)) > 1
    if output is None or output == "-":
        if several:
            raise click.UsageError("Several workflows need a folder for the results: -o DIR.")
        return {}
    folder = Path(output)
    if not folder.is_dir() and not output.endswith(("/", os.sep)):
        if several:
            raise click.UsageError(
                f"Several workflows need a folder, and {output} is not one: create it, or write "
                f"-o {output}/."
            )
        places = {workflows[0]: folder}
    else:
        places = {path: folder / f"{_name(path)}.json" for path in dict.fromkeys(workflows)}
    taken: dict[str, Path] = {}
    for path, place in places.items():
        other = taken.setdefault(place.name.casefold(), path)
        if other != path:
            raise click.UsageError(
                f"{other} and {path} would both become {place}. Convert them into two folders."
            )
        for source in workflows:
            if source != _STDIN and _is_same(source, place):
                raise click.UsageError(
                    f"{place} is a workflow to be converted, which its conversion would replace. "
                    "Choose another name or folder with -o."
                )
    return places


def _name(path: Path) -> str:
    return "workflow" if path == _STDIN else path.stem


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them isn't there
        return False


def _converted(loaded: LoadedWorkflow, schemas: Schemas | None) -> Prompt:
    """The prompt of a workflow, and notes on standard error about what was done."""
    from ..workflow.change.prepare import Changes, prepare
    from ..workflow.packs import find_packs, pack_for_people

    prepared = prepare(loaded, Changes(), schemas)
    for sentence in prepared.notes:
        say(sentence)
    if loaded.prompt is not None or schemas is None:
        say("It is in API format already, and is passed through.")
        return prepared.prompt
    unknown: dict[str, list[str]] = {}
    for node_id, node in prepared.prompt.items():
        if node["class_type"] not in schemas:
            unknown.setdefault(node["class_type"], []).append(node_id)
    for pack in find_packs(prepared.prompt, schemas=schemas, workflow=loaded.workflow):
        of_pack = f", of {pack_for_people(pack.name)}," if pack.name else ""
        for class_type in pack.classes:
            if class_type in unknown:
                say(
                    f"Warning: {class_type} (node {', '.join(unknown[class_type])}){of_pack} is "
                    "not among these schemas. Its inputs are those that the file itself names."
                )
    return prepared.prompt


def _pretty(prompt: Prompt, encoding: str) -> str:
    """JSON for people; escaped where the encoding cannot write a character."""
    import json

    from ..clean import escaped_json

    text = escaped_json(json.dumps(prompt, indent=2, ensure_ascii=False))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = json.dumps(prompt, indent=2)
    return text + "\n"


def _write(prompt: Prompt, place: Path) -> None:
    from ..media.files import storage_errors, write_whole

    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, _pretty(prompt, "utf-8").encode())


def _naming(source: str, error: WorkflowInvalid) -> WorkflowInvalid:
    """The same error, with the file in it."""
    if error.message.startswith(source):
        return error
    return type(error)(f"{source}: {error.message}", advice=error.advice, details=error.details)
