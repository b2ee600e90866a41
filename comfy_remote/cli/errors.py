"""Errors for people: what happened, at which node, what to do next."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..clean import one_line
from ..errors import ComfyRemoteError, ConfigurationError, node_problems
from .advice import for_terminal
from .console import is_interactive, printable, resume_command, say_lines, wrapped

__all__ = [
    "check_named_files",
    "explain",
    "show_error",
    "show_unforeseen",
    "traceback_of",
]

_log = logging.getLogger(__name__)


def show_error(error: ComfyRemoteError, *, resumable: str | None = None) -> None:
    """Print an error to standard error, in colour if possible; ``resumable`` is a job to resume."""
    headline, *rest = explain(error, resumable=resumable)
    if _log.isEnabledFor(logging.DEBUG):
        rest += traceback_of(error)
    if not is_interactive(sys.stderr):
        print(f"Error: {headline}", *rest, sep="\n", file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    broken = wrapped(f"Error: {headline}", columns=console.width)
    console.print(Text.assemble(("Error: ", "bold red"), broken.removeprefix("Error: ")))
    for line in rest:
        # What is indented is a log, or a list.
        console.print(Text(line if line[:1] == " " else wrapped(line, columns=console.width)))


def traceback_of(error: ComfyRemoteError) -> list[str]:
    """The lines of the node's own traceback, where the target gave one."""
    lines = str(error.details.get("traceback") or "").rstrip().splitlines()
    return [printable(f"  | {line}") for line in lines]


def show_unforeseen(error: BaseException) -> None:
    """Print the traceback of a bug of ours, which may contain text from elsewhere."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    say_lines("".join(lines).rstrip())


def explain(error: ComfyRemoteError, *, resumable: str | None = None) -> list[str]:
    """The lines to print: message, details, advice, how to resume.

    Further lines of a message are indented: a target may have written them, and none may look
    like one of ours.
    """
    lines = [_hanging(error.message)]
    for where, problem_class, words in node_problems(error):
        node = one_line(f"node {where} ({problem_class})")
        if node not in error.message:
            lines.append(f"  {node}: {_hanging(words)}")
    node_id, node_class = error.details.get("node_id"), error.details.get("node_class")
    if node_id is not None and str(node_class) not in error.message and node_class is not None:
        lines.append(one_line(f"  at node {node_id} ({node_class})"))
    if log := error.details.get("engine_log"):
        lines += [f"  | {line}" for line in str(log).splitlines()[-8:]]
    advice = for_terminal(error.advice)
    if advice:
        lines.append(advice)
    if resumable is not None and resumable not in advice:
        lines.append(f"To resume it: {resume_command(resumable)}")
    return [printable(line) for line in lines]


def _hanging(text: str) -> str:
    return text.replace("\n", "\n    ")


def check_named_files(option: str, files: Iterable[Path]) -> None:
    """Refuse files that were named with an option and do not exist."""
    for path in files:
        if not path.is_file():
            raise ConfigurationError(
                f"{option} {path}: there is no such file.", advice="Check the path."
            )
