"""The node schemas that a command reads a workflow by, and a note on where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say

if TYPE_CHECKING:
    from ..schemas.finding import Found
    from ..workflow.load import LoadedWorkflow
    from ..workflow.prompt import Prompt
    from ..workflow.schema import Schemas

__all__ = ["api_prompt", "completed", "found_schemas", "schemas_of", "schemas_option"]


def _file_or_address(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> Path | str | None:
    if value is None or value.startswith(("http://", "https://")):
        return value
    if not Path(value).is_file():
        raise click.BadParameter(f"there is no file {value}, and it is no http:// address.")
    return Path(value)


schemas_option = click.option(
    "--schemas",
    "schemas_source",
    metavar="FILE|URL",
    callback=_file_or_address,
    help="Node schemas to read the workflow by: a ComfyUI that has its nodes "
    "(http://127.0.0.1:8188), or a file saved from its /object_info.",
)


def schemas_of(on: str | None, prompt: Prompt | None = None) -> Schemas:
    """As `found_schemas`, with its notes printed."""
    found = found_schemas(None, on, prompt)
    _show_notes(found)
    return found.schemas


def found_schemas(given: Path | str | None, on: str | None, prompt: Prompt | None = None) -> Found:
    """The schemas that are given, else those of the target, else the bundled ones.

    A target that cannot be reached is represented by what it last reported.

    Args:
        given: What ``--schemas`` named.
        on: What ``--on`` named.
        prompt: Asks for the schemas of its nodes only, which is much quicker.

    Raises:
        ConfigurationError: What is given has none; the target is unknown, or its key is missing.
        TargetError: The target cannot be reached, and nothing is remembered of it.
    """
    from ..schemas.finding import Found, given_schemas
    from ..workflow.schema import Schemas
    from .interrupt import run_interruptible

    if given is not None:
        return Found(run_interruptible(given_schemas(given)))
    return Found(Schemas.bundled()) if on is None else _of_target(on, prompt)


def completed(found: Found, loaded: LoadedWorkflow) -> Schemas:
    """The same with what the Comfy Registry knows of classes needed. Prints the notes."""
    from ..schemas.finding import from_registry
    from .interrupt import run_interruptible

    whole = run_interruptible(from_registry(found, loaded))
    _show_notes(whole)
    return whole.schemas


def api_prompt(loaded: LoadedWorkflow, schemas: Schemas) -> Prompt:
    """The prompt of a workflow, converted if it has to be. Prints what was doubtful about that."""
    from ..workflow.convert import convert

    if loaded.prompt is not None:
        return loaded.prompt
    converted = convert(loaded.workflow or {}, schemas, keep_unknown=True)
    for doubt in converted.doubts:
        say(doubt.sentence)
    return converted.prompt


def _of_target(on: str, prompt: Prompt | None) -> Found:
    from ..config.settings import Configuration
    from ..errors import TargetError
    from ..schemas.finding import remembered_schemas, target_schemas
    from ..targets.opening import open_target
    from .interrupt import run_interruptible

    configuration = Configuration.load()
    chosen = configuration.choose(on)
    target = open_target(chosen, configuration)
    address = configuration.address_of(chosen)
    classes = None if prompt is None else {node["class_type"] for node in prompt.values()}

    async def ask() -> Found:
        async with target as opened:
            return await target_schemas(opened, address, classes)

    try:
        return run_interruptible(ask())
    except TargetError as error:
        remembered = remembered_schemas(address, target.name, error.message.rstrip("."))
        if remembered is None:
            raise
        return remembered


def _show_notes(found: Found) -> None:
    for note in found.notes:
        say(note)
