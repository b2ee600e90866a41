"""``comfy-remote --help-json``: all commands, arguments and options, for programs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from ..types import JsonValue
from ..version import __version__

__all__ = ["EXIT_STATUSES", "VERSION", "help_document"]

VERSION = 1
"""Of the document. New keys may come in a version; what is there stays as it is."""

EXIT_STATUSES = {
    0: "It worked.",
    2: "Wrong use, or wrong settings.",
    3: "Connection: no answer, no such address, or the key was refused.",
    4: "The workflow cannot run as it is.",
    5: "The run failed on the target.",
    6: "It took longer than --timeout.",
    7: "The outputs could not be brought here whole, or could not be written.",
    8: "Incomplete: an output is missing or damaged.",
    130: "Stopped, or cancelled.",
}


def help_document() -> dict[str, JsonValue]:
    """Both programs: ``{"version", "comfy_remote", "exit_statuses", "commands"}``.

    A command has ``name`` (all words that call it), ``group``, ``usage``, ``help``, ``arguments``
    and ``options``. An option has its ``flags``, those that switch it off (``off_flags``), whether
    it ``takes_value``, ``type``, ``metavar``, ``choices``, ``min``, ``max``, ``default``,
    ``required``, ``repeatable``, ``hidden`` and ``help``; an argument has those that it can have.
    """
    from .main import cli
    from .run_remote import run_remote

    programs = {"comfy-remote": cli, "comfy-run-remote": run_remote}
    return {
        "version": VERSION,
        "comfy_remote": __version__,
        "exit_statuses": {str(status): words for status, words in EXIT_STATUSES.items()},
        "commands": [
            described
            for name, program in programs.items()
            for described in _commands(
                program, click.Context(program, info_name=name, **program.context_settings)
            )
        ],
    }


def _commands(command: click.Command, context: click.Context) -> Iterator[dict[str, JsonValue]]:
    """A command, and all below it."""
    yield _command(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _commands(below, click.Context(below, parent=context, info_name=name))


def _command(command: click.Command, context: click.Context) -> dict[str, JsonValue]:
    params = command.get_params(context)
    return {
        "name": context.command_path,
        "group": isinstance(command, click.Group),
        "usage": " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        "help": inspect.cleandoc(command.help or "").replace("\b\n", ""),
        "arguments": [_argument(one) for one in params if isinstance(one, click.Argument)],
        "options": [_option(one, context) for one in params if isinstance(one, click.Option)],
    }


def _argument(argument: click.Argument) -> dict[str, JsonValue]:
    return {
        "name": argument.name,
        "metavar": argument.metavar,
        **_type(argument.type),
        "required": argument.required,
        "repeatable": argument.nargs == -1,
    }


def _option(option: click.Option, context: click.Context) -> dict[str, JsonValue]:
    flag = option.is_flag or option.count
    default = _plain(option.get_default(context))
    if flag:  # of one that only switches something off, whether it is given
        default = bool(default) if option.secondary_opts else False
    return {
        "name": max(option.opts, key=len).lstrip("-"),
        "flags": list(option.opts),
        "off_flags": list(option.secondary_opts),
        "takes_value": not flag,
        "metavar": None if flag else option.metavar,
        **(_type(click.BOOL) if flag else _type(option.type)),
        "default": default,
        "required": option.required,
        "repeatable": option.multiple,
        "hidden": option.hidden,
        "help": option.help or "",
    }


def _type(kind: object) -> dict[str, JsonValue]:
    """``type``: text, integer, number, boolean, choice or path; with what limits it."""
    name = "text"
    choices: JsonValue = None
    if isinstance(kind, click.Choice):
        name, choices = "choice", [str(one) for one in kind.choices]
    elif isinstance(kind, click.Path | click.File):
        name = "path"
    elif isinstance(kind, click.types.BoolParamType):
        name = "boolean"
    elif isinstance(kind, click.types.IntParamType):
        name = "integer"
    elif isinstance(kind, click.types.FloatParamType):
        name = "number"
    least, most = None, None
    if isinstance(kind, click.IntRange | click.FloatRange):
        least, most = kind.min, kind.max
    return {"type": name, "choices": choices, "min": least, "max": most}


def _plain(value: object) -> JsonValue:
    """A default as JSON; ``None`` for one that is not set, or is found out at run time."""
    if isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Path) else None
