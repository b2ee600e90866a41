"""Writes the manual pages from what ``--help`` says: ``python tools/man_page.py man``.

One page for each command, with the sections of ``man-pages(7)``; a test compares those in ``man/``
with the program. click-man 0.6 was tried instead: its 25 pages cut the first sentence off after 45
characters, hold raw backspaces where help has a verbatim paragraph, do not escape text that roff
reads as a request, and have no arguments, exit statuses or environment.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from comfy_remote.cli.help_json import EXIT_STATUSES
from comfy_remote.cli.main import cli
from comfy_remote.cli.run_remote import run_remote
from comfy_remote.version import __version__

__all__ = ["man_page", "pages"]

_ENVIRONMENT = (
    ("RUNPOD_API_KEY", "RunPod's key, for endpoints and to find pods."),
    ("RUNPOD_ENDPOINT_ID", "The endpoint that runpod: alone means."),
    ("MODAL_PROXY_TOKEN_ID", "What modal: targets take, with MODAL_PROXY_TOKEN_SECRET."),
    ("RUNPOD_POD_URL", "The pod of comfy-run-remote, where --pod-url is not given."),
    ("COMFY_REMOTE_CONFIG", "As --config."),
    ("COMFY_REMOTE_HOME", "Where the record of jobs is, and the list of what you trust."),
    ("COMFY_REMOTE_GRAPHICS", "How to show pictures: kitty, iterm2, sixel, blocks or none."),
    ("NO_COLOR", "Neither colours nor pictures."),
    ("DEBUG", "1 logs what goes on."),
)
_FILES = (
    ("comfy-remote.toml", "Names for targets: the user's, or in this folder or above it."),
    (".env", "Keys, likewise. What a folder's files name has to be trusted: comfy-remote trust."),
)


def man_page(command: click.Command, name: str) -> str:
    """One manual page, in roff with the ``man`` macros.

    Args:
        command: With its subcommands, if it is a group.
        name: What it is called by.
    """
    context = click.Context(command, info_name=name)
    lines = [
        f'.TH "{name.upper()}" "1" "" "Comfy Remote {__version__}" "Comfy Remote"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_first_sentence(command))}",
        ".SH SYNOPSIS",
        *_synopsis(command, context),
        ".SH DESCRIPTION",
        *_paragraphs(command),
        *_options(command, context, ".SH OPTIONS"),
    ]
    for title, (sub, sub_context) in _subcommands(command, context, name):
        lines += [f'.SH "{_escaped(title.upper())}"', *_synopsis(sub, sub_context)]
        lines += [".PP", *_paragraphs(sub), *_options(sub, sub_context, ".PP")]
    lines += _section(
        "EXIT STATUS", [(str(status), words) for status, words in EXIT_STATUSES.items()]
    )
    lines += _section("ENVIRONMENT", _ENVIRONMENT)
    lines += _section("FILES", _FILES)
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Both pages by the name of their file."""
    return {
        "comfy-remote.1": man_page(cli, "comfy-remote"),
        "comfy-run-remote.1": man_page(run_remote, "comfy-run-remote"),
    }


def _subcommands(
    command: click.Command, context: click.Context, name: str
) -> Iterator[tuple[str, tuple[click.Command, click.Context]]]:
    if not isinstance(command, click.Group):
        return
    for sub_name in command.list_commands(context):
        sub = command.get_command(context, sub_name)
        if sub is None or sub.hidden:
            continue
        inner = click.Context(sub, info_name=sub_name, parent=context)
        title = f"{name} {sub_name}"
        yield title, (sub, inner)
        yield from _subcommands(sub, inner, title)


def _synopsis(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context))
    return [f".B {_escaped(context.command_path)}", _escaped(words)]


def _paragraphs(command: click.Command) -> Iterator[str]:
    """The text of the help; what ``\\b`` keeps unwrapped stays as it is."""
    # Before 3.13, Python keeps a docstring's indentation, and click passes it on.
    text = inspect.cleandoc(command.help or "").replace("\r", "")
    for index, paragraph in enumerate(text.split("\n\n")):
        lines = [line.strip() for line in paragraph.splitlines()]
        verbatim = "\b" in lines
        if index:
            yield ".PP"
        if verbatim:
            kept = [line.rstrip() for line in paragraph.splitlines() if line.strip() != "\b"]
            yield from [".nf", *map(_escaped, kept), ".fi"]
        else:
            yield _escaped(" ".join(line for line in lines if line))


def _options(command: click.Command, context: click.Context, heading: str) -> list[str]:
    records = [param.get_help_record(context) for param in command.get_params(context)]
    known = [record for record in records if record is not None]
    return _entries(heading, known) if known else []


def _section(title: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    return _entries(f'.SH "{title}"', list(entries))


def _entries(heading: str, entries: list[tuple[str, str]]) -> list[str]:
    lines = [heading]
    for name, text in entries:
        lines += [".TP", f"\\fB{_escaped(name)}\\fR", _escaped(" ".join(text.split()))]
    return lines


def _first_sentence(command: click.Command) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def _escaped(text: str) -> str:
    """What roff would read as a command, as text."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write the pages into the folder that is named."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/man_page.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
