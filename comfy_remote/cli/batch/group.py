"""``comfy-remote batch``, whose first word decides: a command, or else a workflow to run."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

__all__ = ["BatchGroup"]

_VALUE_OPTIONS = ("--config",)
"""Options that every command has, with a value: they may stand before the first word."""
_RUN = "run"


class BatchGroup(click.Group):
    """A group that takes ``batch WORKFLOW …`` for ``batch run WORKFLOW …``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command`."""
        index = self._first_word(args)
        if index is not None and args[index] not in self.commands:
            self._check_spelling(args[index], ctx)
            args = [*args[:index], _RUN, *args[index:]]
        return super().parse_args(ctx, args)

    def _check_spelling(self, word: str, ctx: click.Context) -> None:
        """Refuse what is no file and reads like a command: ``resum``."""
        if not word.isalpha() or Path(word).exists():
            return
        from difflib import get_close_matches

        if close := get_close_matches(word, self.commands, n=1, cutoff=0.75):
            raise click.UsageError(
                f"There is neither a command nor a file '{word}'. Did you mean '{close[0]}'?", ctx
            )

    def _first_word(self, args: list[str]) -> int | None:
        """Where the command, or the workflow and its options, begin; ``None`` for help alone."""
        index = 0
        while index < len(args):
            word = args[index]
            if word in ("-h", "--help"):
                return None
            if word in _VALUE_OPTIONS:
                index += 2
            elif word in ("-v", "--verbose") or word.startswith(
                tuple(f"{o}=" for o in _VALUE_OPTIONS)
            ):
                index += 1
            else:
                return index
        return None

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """See `click.Command`."""
        return ["WORKFLOW [OPTIONS]", "|", "COMMAND BATCH"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of ``run``, then the commands."""
        run = self.commands[_RUN]
        inner = click.Context(run, info_name=_RUN, parent=ctx)
        click.Command.format_options(run, inner, formatter)
        self.format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, the options of ``run``, and files."""
        if incomplete.startswith("-"):
            run = self.commands[_RUN]
            return run.shell_complete(click.Context(run, info_name=_RUN, parent=ctx), incomplete)
        # The file first: in bash, it would take away what came before.
        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, incomplete)]
