"""Whether a person can be asked, and the question before something is changed."""

from __future__ import annotations

import sys

import click

from .console import is_interactive, say

__all__ = ["can_ask", "may_go_on"]


def can_ask() -> bool:
    """Whether a person can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and is_interactive(sys.stderr)


def may_go_on(yes: bool, *, look: str = "--plan to look") -> bool:
    """Whether the user says yes to a plan. Without a terminal to ask in, only ``--yes`` does.

    Args:
        look: What else to say on the command line, to see it first.

    Raises:
        click.UsageError: Nobody can be asked, and ``--yes`` was not given.
    """
    if yes:
        return True
    if not can_ask():
        raise click.UsageError(f"Nothing was changed: say --yes to have it done, or {look}.")
    if click.confirm("Do that?", default=False, err=True):
        return True
    say("Nothing was changed.")
    return False
