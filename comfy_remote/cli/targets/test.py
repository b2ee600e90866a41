"""``comfy-remote targets test``."""

from __future__ import annotations

import click

from ..options import complete_target, json_option

__all__ = ["test"]


@click.command()
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_target)
@json_option
@click.pass_context
def test(context: click.Context, name: str | None, json_lines: bool) -> None:
    """Check a target, or the default one, as `doctor` does."""
    from ..doctor import doctor

    context.invoke(doctor, workflow=None, on=name, json_lines=json_lines)
