"""``comfy-remote models``: lists the models on a target, and has a worker fetch and prune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..units import size_text
from .console import print_json, printable_line, say
from .on_target import on_target
from .options import json_option, target_option
from .progress_line import progress_shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..wire.models import ModelFile

__all__ = ["models"]

_on_option = target_option("The target. Default: the configured one; see `targets`.")
_list_argument = click.argument("wanted", metavar="[FILE|LINE]...", nargs=-1)


@click.group(no_args_is_help=True)
def models() -> None:
    """List, fetch and prune the models on a target.

    \b
    Models are named in lines, `[KIND] URL [name=FILE] [sha256=HEX]`:
      ckpt     https://huggingface.co/org/repo/blob/main/model.safetensors
      lora     https://civitai.com/models/58390?modelVersionId=62833
      upscale  r2:4x-UltraSharp.pth

    Each argument is such a line in quotes, a file of lines, `-` for standard input, or a workflow
    (JSON) that says where to fetch its models.
    """


@models.command("list")
@_on_option
@json_option
def list_models(on: str | None, json_lines: bool) -> None:
    """List the models on a target, by folder.

    \b
    Example:
      comfy-remote models list --on http://192.168.1.20:8188
    """
    from ..targets.models import list_models as ask

    answer = on_target(on, ask)
    if json_lines:
        _print_json(answer)
        return
    rows = [_row(folder, model) for folder, found in answer.models.items() for model in found]
    if not rows:
        say("There are no models.")
        return
    from rich.table import Column

    from .console import print_table

    columns = ("Folder", "Model", Column("Size", justify="right"), "Fetched from", "Pinned")
    print_table(columns, rows)


@models.command()
@_on_option
@_list_argument
@click.option(
    "--prune",
    "prunes",
    is_flag=True,
    help="Also remove other models that the worker fetched, unless another list asked for them "
    "in the last 7 days.",
)
@json_option
def ensure(on: str | None, wanted: tuple[str, ...], prunes: bool, json_lines: bool) -> None:
    """Have a worker fetch the models that it lacks.

    Ctrl-C stops it; what was fetched stays, and the next time continues from there.

    \b
    Examples:
      comfy-remote models ensure --on gpu models.txt
      comfy-remote models ensure --on gpu "lora https://civitai.com/models/58390"
    """
    from ..targets.models import ensure_models

    repo_list = _repo_list(wanted, needed=True)
    with progress_shown(json_lines) as show:
        answer = on_target(
            on,
            lambda target: ensure_models(
                target, repo_list, show, prune=True if prunes else None, list_name=_name_of(wanted)
            ),
        )
    if json_lines:
        _print_json(answer)
        return
    for path in answer.ensured:
        print(printable_line(path), "(fetched)" if path in answer.fetched else "(already there)")
    _print_pruned(answer.pruned, answer.notes)


@models.command()
@_on_option
@_list_argument
@json_option
def check(on: str | None, wanted: tuple[str, ...], json_lines: bool) -> None:
    """Show what `ensure --prune` would fetch, keep and remove. Changes nothing.

    Exit status: 5 if a model cannot be fetched, else 0.
    """
    from ..targets.models import check_models

    repo_list = _repo_list(wanted, needed=True)
    answer = on_target(
        on, lambda target: check_models(target, repo_list, list_name=_name_of(wanted))
    )
    if json_lines:
        _print_json(answer)
    else:
        for word, paths in (
            ("keep", answer.would_keep),
            ("fetch", answer.would_fetch),
            ("remove", answer.would_remove),
        ):
            for path in paths:
                print(f"{word:<8}{printable_line(path)}")
        if answer.would_fetch:
            free = f" of {size_text(answer.free_bytes)} free" if answer.free_bytes else ""
            say(f"To fetch: {size_text(answer.fetch_bytes)}{free}.")
        for note in [*answer.problems, *answer.notes]:
            say(note)
    if answer.problems:
        raise click.exceptions.Exit(5)


@models.command(short_help="Have a worker remove models that are not listed.")
@_on_option
@_list_argument
@click.option("--all", "everything", is_flag=True, help="Keep none of what it fetched.")
@json_option
def prune(on: str | None, wanted: tuple[str, ...], everything: bool, json_lines: bool) -> None:
    """Have a worker remove the models that it fetched and that are not listed.

    Never a file that somebody else put there, one that was changed since, one that another
    list asked for in the last 7 days, or one that `comfy-remote.pins` in the models folder
    names. `check` shows what would be removed.
    """
    from ..targets.models import prune_models

    if everything and wanted:
        raise click.UsageError("--all keeps none: omit the list.")
    if not everything and not wanted:
        raise click.UsageError("Name the models to keep, or give --all to keep none.")
    repo_list = _repo_list(wanted, needed=not everything)
    with progress_shown(json_lines) as show:
        answer = on_target(
            on,
            lambda target: prune_models(
                target, repo_list, show, everything=everything, list_name=_name_of(wanted)
            ),
        )
    if json_lines:
        _print_json(answer)
        return
    if not answer.pruned:
        say("Nothing was removed.")
    _print_pruned(answer.pruned, answer.notes)


def _repo_list(wanted: tuple[str, ...], *, needed: bool) -> str:
    """The lines that the arguments give, checked. No lines are an error if some are needed."""
    from ..errors import ConfigurationError
    from ..wire.repo_list import parse_repo_list

    text = "\n".join(_lines_of(argument) for argument in wanted)
    if not parse_repo_list(text) and needed:
        raise ConfigurationError(
            "No models are named.",
            advice="Give lines (`[KIND] URL`), a file of them, or a workflow that says where to "
            "fetch its models.",
        )
    return text


def _name_of(wanted: tuple[str, ...]) -> str:
    """Identifies a list that is a file, so that an edited one is still the same list.

    A hash: the worker need not know where a file is on whose machine.
    """
    import hashlib
    import platform

    from ..config.folders import home

    files = [str(Path(one).absolute()) for one in wanted if one != "-" and _is_file(one)]
    if not files:
        return ""
    text = "\n".join([platform.node(), str(home()), *files])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # a line need not be a valid file name
        return False


def _lines_of(argument: str) -> str:
    if argument == "-":
        return sys.stdin.read()
    path = Path(argument)
    try:
        if not path.is_file():
            return _line(argument)
        if path.suffix.lower() == ".json":
            return _lines_in_workflow(path)
        content = path.read_bytes()
    except (OSError, ValueError):  # a line need not be a valid file name
        return argument
    return _text_in(path, content)


def _text_in(path: Path, content: bytes) -> str:
    from ..errors import ConfigurationError
    from ..text_file import SAVE_AS_UTF8, NotText, text_of

    try:
        return text_of(content)
    except NotText as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", advice=SAVE_AS_UTF8) from error


def _line(argument: str) -> str:
    """The same; a line has a link, so a single word without one can only be meant as a file."""
    from ..errors import ConfigurationError
    from ..wire.repo_list import is_link

    if (
        argument.strip()
        and len(argument.split()) == 1
        and not argument.startswith("#")
        and not (is_link(argument))
    ):
        raise ConfigurationError(
            f"{argument} is neither a file nor a model line.",
            advice="Check the path, or write the line in quotes: '[KIND] URL'.",
        )
    return argument


def _lines_in_workflow(path: Path) -> str:
    from ..workflow.load import load_workflow
    from ..workflow.models import model_sources
    from ..workflow.repo_list import find_repo_list

    loaded = load_workflow(path)
    lines = [find_repo_list(loaded.prompt or {}, loaded.workflow)]
    for source in model_sources(loaded.workflow or {}):
        known = source.hash if (source.hash_type or "").upper() == "SHA256" else None
        sha256 = f" sha256={known}" if known else ""
        lines.append(f'{source.folder} {source.url} name="{source.name}"{sha256}')
    return "\n".join(lines)


def _print_pruned(pruned: list[str], notes: list[str]) -> None:
    for path in pruned:
        print(printable_line(path), "(removed)")
    for note in notes:
        say(note)


def _print_json(answer: BaseModel) -> None:
    print_json(answer.model_dump(mode="json"))


def _row(folder: str, model: ModelFile) -> tuple[str, ...]:
    size = size_text(model.size) if model.size is not None else ""
    return folder, model.name, size, model.fetched_from or "", "yes" if model.pinned else ""
